"""Conversion of labels to the form that the loss requires, and checks of it: on the host, in NumPy."""

from typing import Any, Literal, Union

import numpy as np
from mindspore import Tensor

from mindspore_mlml import _label_formats as formats
from mindspore_mlml._messages import SHOWN_CHARACTERS, SHOWN_VALUES, few_values, shown

LOOKS_LIKE_MULTI_HOT = "Its values are only 0 and 1, which looks like multi-hot: targets_from_multi_hot converts that."
BLOCK = 2**18  # so many targets are looked at together: few enough to stay in a cache


def targets_from_multi_hot(multi_hot: Any, num_labels: Union[int, Literal["max"], None] = None) -> np.ndarray:
    """
    Converts rows of zeros and ones, one number for each class, into class indices padded by -1.

    Also a map operation for :class:`mindspore.dataset`, on a column of multi-hot labels. See also
    :func:`mindspore_mlml.multi_hot_from_targets` , the way back, and :func:`mindspore_mlml.targets_from_lists` , for
    lists of classes.

    Args:
        multi_hot (Union[numpy.ndarray, Tensor, scipy.sparse matrix or array, pandas.DataFrame, list]): Zeros and ones,
            of any numeric or bool dtype. Shape :math:`(C)` or :math:`(N, C)`. A sparse matrix may have any format, and
            is not made dense.
        num_labels (Union[int, str], optional): The length of a row. ``"max"`` : the number of ones of the row that has
            the most, at least 1. Default: ``None`` , the number of classes, :math:`C`, as
            :func:`mindspore_mlml.multilabel_margin_loss` requires;
            :func:`mindspore_mlml.multilabel_margin_loss_from_labels` takes any length.

    Returns:
        numpy.ndarray of dtype int32, of shape :math:`(N, num\\_labels)`, or :math:`(num\\_labels)` for a single row: in
        each row the indices of the ones in ascending order, then -1.

    Raises:
        TypeError: If `num_labels` is neither an integer nor ``"max"`` .
        ValueError: If `num_labels` is not positive.
        ValueError: If the rank of `multi_hot` is neither 1 nor 2.
        ValueError: If a value is neither 0 nor 1: NaN, a missing or a masked value, or a string, for example.
        ValueError: If a row has more than `num_labels` ones.
        MemoryError: If there is no memory for rows of this length.

    Examples:
        >>> import numpy as np
        >>> from mindspore_mlml import targets_from_multi_hot
        >>> print(targets_from_multi_hot(np.array([[0, 1, 0, 1], [0, 0, 1, 0]])))
        [[ 1  3 -1 -1]
         [ 2 -1 -1 -1]]
        >>> print(targets_from_multi_hot(np.array([[0, 1, 0, 1], [0, 0, 1, 0]]), num_labels="max"))
        [[ 1  3]
         [ 2 -1]]
    """
    op = "targets_from_multi_hot"
    num_labels = _checked_num_labels(op, num_labels)
    listing, classes, num_classes = formats.read_multi_hot(op, "multi_hot", multi_hot)
    width = _row_length(op, listing, num_labels, num_classes, "have more classes than")
    return _padded(op, listing, classes, width)


def targets_from_lists(
    class_lists: Any, num_classes: int, num_labels: Union[int, Literal["max"], None] = None
) -> np.ndarray:
    """
    Converts lists of classes, one for each sample, into class indices padded by -1.

    Also a map operation for :class:`mindspore.dataset`, on a column of class lists: a single list, or a one-dimensional
    array, becomes a single row. See also :func:`mindspore_mlml.targets_from_multi_hot` for zeros and ones, and
    :func:`mindspore_mlml.multi_hot_from_targets` .

    Args:
        class_lists (Iterable): A list of classes for each sample, or a single list or one-dimensional array of classes.
            The lists may be lists, tuples, sets, arrays, Tensors or Series, and so may be what holds them. Classes are
            integers, or floats without a fraction, as scikit-learn's `load_svmlight_file` gives them. A sparse matrix
            of SciPy's is taken as for :func:`mindspore_mlml.targets_from_multi_hot` : the columns of the ones in a row
            are the row's classes.
        num_classes (int): The number of classes, :math:`C`.
        num_labels (Union[int, str], optional): The length of a row. ``"max"`` : that of the longest list, at least 1.
            Default: ``None`` , `num_classes`, as :func:`mindspore_mlml.multilabel_margin_loss` requires;
            :func:`mindspore_mlml.multilabel_margin_loss_from_labels` takes any length.

    Returns:
        numpy.ndarray of dtype int32, of shape (number of lists, `num_labels`), or (`num_labels`,) for a single list.

    Raises:
        TypeError: If `num_classes` is not an integer, or `num_labels` neither an integer nor ``"max"`` .
        ValueError: If `num_classes` or `num_labels` is not positive.
        ValueError: If a class is not an integer from 0 to `num_classes` - 1: NaN, a missing or a masked value, or a
            string, for example.
        ValueError: If a class stands in a list twice.
        ValueError: If a list is longer than `num_labels`.
        ValueError: If a sparse matrix has more than `num_classes` columns, or values other than 0 and 1.
        MemoryError: If there is no memory for rows of this length.

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
    op, name = "targets_from_lists", "class_lists"
    num_classes = formats.positive_integer(op, "num_classes", num_classes)
    num_labels = _checked_num_labels(op, num_labels)
    if formats.is_sparse(class_lists):
        listing, classes, columns = formats.read_multi_hot(op, name, class_lists)
        if columns > num_classes:
            raise ValueError(
                f"For '{op}', a sparse '{name}' must not have more columns than there are classes, {num_classes}, but "
                f"got {columns}."
            )
        width = _row_length(op, listing, num_labels, num_classes, "have more classes than")
        return _padded(op, listing, classes, width)
    listing, classes = formats.read_class_lists(op, name, class_lists)
    width = _row_length(op, listing, num_labels, num_classes, "be longer than")
    _check_classes(op, listing, classes, num_classes)
    return _padded(op, listing, classes, width)


def _checked_num_labels(op, num_labels):
    if num_labels is None or (isinstance(num_labels, str) and num_labels == "max"):
        return num_labels
    return formats.positive_integer(op, "num_labels", num_labels)


def _row_length(op, listing, num_labels, num_classes, must_not):
    """The number of columns, or an error if a row has more classes."""
    if num_labels == "max":
        return int(listing.counts.max(initial=1))
    width = num_classes if num_labels is None else num_labels
    too_long = np.flatnonzero(listing.counts > width)
    if len(too_long):
        name, count = listing.row_name(too_long[0]), listing.counts[too_long[0]]
        more = f", and so for {len(too_long) - 1} more" if len(too_long) > 1 else ""
        raise ValueError(f"For '{op}', {name} must not {must_not} {width}, but got {count} classes{more}.")
    return width


def _check_classes(op, listing, classes, num_classes):
    wrong = np.flatnonzero((classes < 0) | (classes >= num_classes))
    if len(wrong):
        raise ValueError(
            f"For '{op}', each class must be from 0 to {num_classes - 1}, but got {listing.few_items(wrong)}."
        )
    row = np.repeat(np.arange(len(listing.counts)), listing.counts)
    repeated = _repeated(row, classes)
    if len(repeated):
        hint = f" {LOOKS_LIKE_MULTI_HOT}" if classes.max() <= 1 else ""
        raise ValueError(
            f"For '{op}', no class may stand in a list twice, but got {listing.few_items(repeated, ' again')}.{hint}"
        )


def _repeated(row, classes):
    """The numbers of the items whose class their row has before."""
    keys = (row << 32) + classes.astype(np.int64)
    in_order = np.sort(keys, kind="stable")  # the rows are in order already, which this kind makes use of
    if (in_order[1:] > in_order[:-1]).all():
        return np.zeros(0, np.int64)
    order = np.argsort(keys, kind="stable")
    return np.sort(order[1:][keys[order[1:]] == keys[order[:-1]]])


def _padded(op, listing, classes, width):
    """The classes of each row, then -1."""
    shape, most = (len(listing.counts), width), listing.counts.max(initial=0)
    try:
        targets = np.full(shape, -1, np.int32)
    except MemoryError as error:
        raise MemoryError(
            f"For '{op}', there is no memory for targets of shape {shape}, {shape[0] * width / 2**28:.1f} GiB. With "
            f'num_labels="max" their shape is ({shape[0]}, {max(most, 1)}).'
        ) from error
    targets[:, :most][np.arange(most) < listing.counts[:, None]] = classes
    return targets[0] if listing.is_single else targets


def multi_hot_from_targets(target: Union[np.ndarray, Tensor], num_classes: int) -> np.ndarray:
    """
    Converts class indices into rows of zeros and ones, one number for each class, as metrics require.

    Also a map operation for :class:`mindspore.dataset`, on a column of targets. See also
    :func:`mindspore_mlml.targets_from_multi_hot` , the way back.

    Args:
        target (Union[numpy.ndarray, Tensor]): Class indices of an integer dtype. Shape :math:`(K)` or :math:`(N, K)`:
            in each row, the first negative value ends the list.
        num_classes (int): The number of classes, :math:`C`.

    Returns:
        numpy.ndarray of dtype int32, of shape :math:`(C)` or :math:`(N, C)`: 1 for each class that the row lists, once
        or several times, otherwise 0.

    Raises:
        TypeError: If `target` does not have an integer dtype, or `num_classes` is not an integer.
        ValueError: If `num_classes` is not positive.
        ValueError: If the rank of `target` is neither 1 nor 2.
        ValueError: If a target is not less than `num_classes`.

    Examples:
        >>> import numpy as np
        >>> from mindspore_mlml import multi_hot_from_targets
        >>> print(multi_hot_from_targets(np.array([[1, 3, -1, 0], [2, -1, -1, -1]]), num_classes=4))
        [[0 1 0 1]
         [0 0 1 0]]
    """
    op = "multi_hot_from_targets"
    num_classes = formats.positive_integer(op, "num_classes", num_classes)
    values = _target_array(op, target)
    if values.dtype.kind not in "iu":
        _raise_wrong_dtype(op, target, values, "an integer type")
    formats.check_rank(op, "target", values.shape)
    _check_range(op, values, num_classes)
    multi_hot = np.zeros((*values.shape[:-1], num_classes), np.int32)
    rows = np.atleast_2d(multi_hot)
    for row, _, classes in _listed(values):
        rows[row, classes] = 1
    return multi_hot


def check_target(
    target: Union[np.ndarray, Tensor], num_classes: int, allow_repeats: bool = False
) -> Union[np.ndarray, Tensor]:
    """
    Checks on the host that `target` holds class indices, for example in a data pipeline.

    The kernel checks their range too. But on a GPU it cannot raise an error, and after an error in graph mode MindSpore
    refuses to run further graphs in the process. And multi-hot labels, converted to int32, are in range: as the classes
    0 and 1, over and over. The loss takes them; this check does not. See also
    :func:`mindspore_mlml.targets_from_multi_hot` .

    Args:
        target (Union[numpy.ndarray, Tensor]): Class indices, not multi-hot, as the loss takes them. Shape :math:`(K)`
            or :math:`(N, K)`: values after the first negative one of a row are ignored.
        num_classes (int): The number of classes.
        allow_repeats (bool, optional): Whether a row may list a class twice, which then counts twice. Default:
            ``False`` .

    Returns:
        `target`, as it is.

    Raises:
        TypeError: If dtype of `target` is not int32.
        TypeError: If `num_classes` is not an integer.
        ValueError: If `num_classes` is not positive.
        ValueError: If the rank of `target` is neither 1 nor 2.
        ValueError: If a target is not less than `num_classes`. The message has the first one of each of the first rows.
        ValueError: If a row lists a class twice and `allow_repeats` is ``False`` . Likewise.

    Examples:
        >>> import numpy as np
        >>> from mindspore_mlml import check_target
        >>> check_target(np.array([[1, 3, -1, 7], [2, 5, 0, -1], [4, -1, -1, -1]], np.int32), num_classes=4)
        Traceback (most recent call last):
        ValueError: For 'check_target', a value of 'target' must be less than the number of classes, 4, but got 2 bad \
rows: target[1][1] = 5, target[2][0] = 4.
        >>> check_target(np.array([[0, 1, 0, 1], [0, 0, 1, 0]], np.int32), num_classes=4)
        Traceback (most recent call last):
        ValueError: For 'check_target', no class may stand in a row of 'target' twice, but got 2 bad rows: \
target[0][2] = 0 again, target[1][1] = 0 again. Its values are only 0 and 1, which looks like multi-hot: \
targets_from_multi_hot converts that.
    """
    op = "check_target"
    num_classes = formats.positive_integer(op, "num_classes", num_classes)
    values = _target_array(op, target)
    if values.dtype != np.int32:
        _raise_wrong_dtype(op, target, values, "int32")
    formats.check_rank(op, "target", values.shape)
    _check_range(op, values, num_classes)
    if not allow_repeats:
        _check_repeats(op, values)
    return target


def _target_array(op, target):
    if formats.is_sparse(target):
        raise TypeError(
            f"For '{op}', the 'target' must be an array or a Tensor of class indices, not multi-hot, but got "
            f"{shown(target)}: targets_from_multi_hot converts sparse matrices."
        )
    return formats.to_array(op, "target", target)


def _raise_wrong_dtype(op, target, values, wanted):
    is_numeric = values.dtype.kind in "biuf"
    conversion = f".astype({'mindspore' if isinstance(target, Tensor) else 'numpy'}.int32)"
    if is_numeric and values.size and ((values == 0) | (values == 1)).all():
        advice = LOOKS_LIKE_MULTI_HOT
    elif values.dtype.kind in "iu":
        advice = f"Convert it with {conversion}."
    else:
        advice = f"Convert class indices with {conversion}, multi-hot with targets_from_multi_hot."
    raise TypeError(
        f"For '{op}', the dtype of 'target' must be {wanted}, but got {str(values.dtype)[:SHOWN_CHARACTERS]}. It holds "
        f"class indices, not multi-hot. {advice}"
    )


def _check_range(op, values, num_classes):
    """Raises an error if a class that is listed is out of range."""
    bad = _first_of_each_row(values, lambda row, classes: np.flatnonzero(classes >= num_classes))
    if len(bad):
        raise ValueError(
            f"For '{op}', a value of 'target' must be less than the number of classes, {num_classes}, but got "
            f"{_bad_rows(values, bad)}."
        )


def _check_repeats(op, values):
    """Raises an error if a class is listed twice in a row."""
    bad = _first_of_each_row(values, _repeated)
    if len(bad):
        is_binary = all((classes <= 1).all() for _, _, classes in _listed(values))
        hint = f" {LOOKS_LIKE_MULTI_HOT}" if is_binary else " To let repeats pass, set 'allow_repeats' to True."
        raise ValueError(
            f"For '{op}', no class may stand in a row of 'target' twice, but got {_bad_rows(values, bad, ' again')}."
            f"{hint}"
        )


def _first_of_each_row(values, find):
    """Row and position of the first wrong value of each row that has one; ``find`` gives the numbers of wrong ones."""
    found = [np.zeros((0, 2), np.int64)]
    for row, position, classes in _listed(values):
        wrong = find(row, classes)
        if len(wrong):
            first = wrong[np.unique(row[wrong], return_index=True)[1]]
            found.append(np.stack([row[first], position[first]], axis=1))
    return np.concatenate(found)


def _bad_rows(values, places, suffix=""):
    """How many rows are bad, and the first places with their values."""
    rows = np.atleast_2d(values)
    found = [("target", place[-values.ndim :], rows[tuple(place)]) for place in places[:SHOWN_VALUES].tolist()]
    return f"{len(places)} bad {'row' if len(places) == 1 else 'rows'}: {few_values(found, len(places), suffix)}"


def _listed(values):
    """The row, the position and the class of each target before the first negative value, some rows at a time."""
    rows = np.atleast_2d(values)
    counts = _num_targets(rows)
    ends = np.cumsum(counts)
    start = 0
    while start < len(rows):
        stop = int(np.searchsorted(ends, ends[start] - counts[start] + BLOCK, side="right"))
        stop = max(start + 1, stop)
        count = counts[start:stop]
        row = np.repeat(np.arange(start, stop), count)
        position = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        yield row, position, rows[row, position]
        start = stop


def _num_targets(rows):
    """How many values of each row come before its first negative one. Values far behind it are not read."""
    counts = np.full(len(rows), rows.shape[1])
    unfinished = np.arange(len(rows))
    start, stop = 0, 32
    while start < rows.shape[1] and len(unfinished):
        is_negative = rows[unfinished, start:stop] < 0
        is_finished = is_negative.any(axis=1)
        counts[unfinished[is_finished]] = start + is_negative[is_finished].argmax(axis=1)
        unfinished = unfinished[~is_finished]
        start, stop = stop, 2 * stop
    return counts
