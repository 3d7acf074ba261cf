"""Labels as people hold them, and as the loss wants them: on the host, in NumPy."""

from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
from mindspore import Tensor


def targets_from_multi_hot(multi_hot: np.ndarray) -> np.ndarray:
    """
    Converts rows of zeros and ones, one number for each class, into class indices padded by -1.

    Also a map operation for :class:`mindspore.dataset`, on a column of multi-hot labels.

    Args:
        multi_hot (numpy.ndarray): Zeros and ones, of any numeric or bool dtype. Shape :math:`(C)` or :math:`(N, C)`.

    Returns:
        numpy.ndarray of dtype int32 and the same shape: in each row the indices of the ones, then -1.

    Raises:
        ValueError: If the rank of `multi_hot` is neither 1 nor 2.
        ValueError: If a value is neither 0 nor 1.

    Examples:
        >>> import numpy as np
        >>> from mindspore_mlml import targets_from_multi_hot
        >>> print(targets_from_multi_hot(np.array([[0, 1, 0, 1], [0, 0, 1, 0]])))
        [[ 1  3 -1 -1]
         [ 2 -1 -1 -1]]
    """
    multi_hot = np.asarray(multi_hot)
    if multi_hot.ndim not in (1, 2):
        raise ValueError(
            f"For 'targets_from_multi_hot', the rank of 'multi_hot' must be 1 or 2, but got shape {multi_hot.shape}."
        )
    is_target = multi_hot == 1
    wrong = np.argwhere(~(is_target | (multi_hot == 0)))
    if len(wrong):
        position = "".join(f"[{index}]" for index in wrong[0])
        raise ValueError(
            "For 'targets_from_multi_hot', each value of 'multi_hot' must be 0 or 1, but got "
            f"multi_hot{position} = {multi_hot[tuple(wrong[0])]}."
        )
    # A stable sort by "is not a target" puts the targets first, in their order.
    order = np.argsort(~is_target, axis=-1, kind="stable").astype(np.int32)
    count = is_target.sum(axis=-1, keepdims=True)
    return np.where(np.arange(multi_hot.shape[-1]) < count, order, np.int32(-1))


def targets_from_lists(
    class_lists: Union[Sequence[Sequence[int]], Sequence[int], np.ndarray],
    num_classes: int,
    num_labels: Optional[int] = None,
) -> np.ndarray:
    """
    Converts lists of classes, one for each sample, into class indices padded by -1.

    Also a map operation for :class:`mindspore.dataset`, on a column of class lists: a single list, or a one-dimensional
    array, becomes a single row.

    Args:
        class_lists (Sequence): A list of classes for each sample, or a single list or one-dimensional array of classes.
        num_classes (int): The number of classes, :math:`C`.
        num_labels (int, optional): The length of a row. Default: ``None`` , `num_classes`, as
            :func:`mindspore_mlml.multilabel_margin_loss` wants it;
            :func:`mindspore_mlml.multilabel_margin_loss_from_labels` takes any length.

    Returns:
        numpy.ndarray of dtype int32, of shape (number of lists, `num_labels`), or (`num_labels`,) for a single list.

    Raises:
        ValueError: If a class is not an integer from 0 to `num_classes` - 1.
        ValueError: If a class stands in a list twice.
        ValueError: If a list is longer than `num_labels`.

    Examples:
        >>> from mindspore_mlml import targets_from_lists
        >>> print(targets_from_lists([[3, 1], [], [2]], num_classes=4))
        [[ 3  1 -1 -1]
         [-1 -1 -1 -1]
         [ 2 -1 -1 -1]]
        >>> print(targets_from_lists([[3, 1], [], [2]], num_classes=4, num_labels=2))
        [[ 3  1]
         [-1 -1]
         [ 2 -1]]
    """
    width = num_classes if num_labels is None else num_labels
    is_single = isinstance(class_lists, np.ndarray) and class_lists.ndim == 1 and class_lists.dtype != object
    is_single = is_single or (len(class_lists) > 0 and np.ndim(class_lists[0]) == 0)
    rows = [class_lists] if is_single else class_lists
    targets = np.full((len(rows), width), -1, np.int32)
    for row, classes in enumerate(rows):
        name = "class_lists" if is_single else f"class_lists[{row}]"
        targets[row, : len(classes)] = _checked_classes(classes, name, num_classes, width)
    return targets[0] if is_single else targets


def _checked_classes(classes, name, num_classes, num_labels):
    """The classes as an array, if they are what ``targets_from_lists`` takes."""
    values = np.asarray(classes)
    if values.size == 0:
        return np.zeros(0, np.int32)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"For 'targets_from_lists', {name} must be a list of integers, but got {classes!r}.")
    if values.size > num_labels:
        raise ValueError(
            f"For 'targets_from_lists', {name} must not be longer than {num_labels}, but got {values.size} classes."
        )
    for position in np.flatnonzero((values < 0) | (values >= num_classes))[:1]:
        raise ValueError(
            f"For 'targets_from_lists', each class must be from 0 to {num_classes - 1}, but got "
            f"{name}[{position}] = {values[position]}."
        )
    unique, first = np.unique(values, return_index=True)
    if unique.size < values.size:
        position = np.setdiff1d(np.arange(values.size), first)[0]
        raise ValueError(
            f"For 'targets_from_lists', no class may stand in a list twice, but got {name}[{position}] = "
            f"{values[position]} again."
        )
    return values


def check_target(target: Union[np.ndarray, Tensor], num_classes: int) -> Union[np.ndarray, Tensor]:
    """
    Checks on the host that no target is out of range, for example in a data pipeline.

    The kernel checks it too. But on a GPU it cannot raise an error, and after an error in graph mode MindSpore refuses
    to run further graphs in the process.

    Args:
        target (Union[numpy.ndarray, Tensor]): Class indices, as the loss takes them. Shape :math:`(K)` or
            :math:`(N, K)`: what stands behind the first negative value of a row is not looked at.
        num_classes (int): The number of classes.

    Returns:
        `target`, as it is.

    Raises:
        TypeError: If dtype of `target` is not int32.
        ValueError: If the rank of `target` is neither 1 nor 2.
        ValueError: If a target is not less than `num_classes`. The message has the first one of each row.

    Examples:
        >>> import numpy as np
        >>> from mindspore_mlml import check_target
        >>> check_target(np.array([[1, 3, -1, 7], [2, 5, 0, -1], [4, -1, -1, -1]], np.int32), num_classes=4)
        Traceback (most recent call last):
        ValueError: For 'check_target', a value of 'target' must be less than the number of classes, 4, but got 2 bad \
rows: target[1][1] = 5, target[2][0] = 4.
    """
    values = target.asnumpy() if isinstance(target, Tensor) else np.asarray(target)
    if values.dtype != np.int32:
        raise TypeError(f"For 'check_target', the dtype of 'target' must be int32, but got {values.dtype}.")
    if values.ndim not in (1, 2):
        raise ValueError(f"For 'check_target', the rank of 'target' must be 1 or 2, but got shape {values.shape}.")
    rows = np.atleast_2d(values)
    is_listed = np.logical_and.accumulate(rows >= 0, axis=1)
    is_bad = is_listed & (rows >= num_classes)
    bad_rows = np.flatnonzero(is_bad.any(axis=1))
    if bad_rows.size:
        found = []
        for row in bad_rows:
            position = is_bad[row].argmax()
            where = f"[{row}][{position}]" if values.ndim == 2 else f"[{position}]"
            found.append(f"target{where} = {rows[row, position]}")
        raise ValueError(
            f"For 'check_target', a value of 'target' must be less than the number of classes, {num_classes}, but got "
            f"{len(found)} bad {'row' if len(found) == 1 else 'rows'}: {', '.join(found)}."
        )
    return target
