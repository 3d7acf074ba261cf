"""The functional form of the loss."""

from typing import Literal

from mindspore import Tensor

from mindspore_mlml import _dispatch, _ops
from mindspore_mlml._checks import shorten


def multilabel_margin_loss(input: Tensor, target: Tensor, reduction: Literal["none", "mean", "sum"] = "mean") -> Tensor:
    r"""
    Hinge loss for optimizing a multi-label classification.

    Creates a criterion that optimizes a multi-label multi-classification hinge loss (margin-based loss) between
    input :math:`x` (a 2D mini-batch `Tensor`) and output :math:`y` (which is a 2D `Tensor` of target class indices).
    For each sample in the mini-batch:

    .. math::
        \text{loss}(x, y) = \sum_{ij}\frac{\max(0, 1 - (x[y[j]] - x[i]))}{\text{x.size}(0)}

    where :math:`0 \leq y[j] \leq \text{x.size}(0)-1`, and :math:`i \neq y[j]` for all :math:`i` and :math:`j`.

    The criterion only considers a contiguous block of non-negative targets that starts at the front: the first negative
    value ends the list, and the values after it are ignored. This allows for different samples to have variable
    amounts of target classes. A class that is listed twice counts twice as :math:`j`.

    Note:
        - float16 is computed in float32. The gradient is an exact count over C, rounded once.
        - A NaN in a sample that has targets makes its loss and its gradient NaN.
        - A sample without targets has loss 0 and gradient 0, and so has an empty batch.

    Args:
        input (Tensor): Predicted data, :math:`x` in the formula above. Tensor of shape :math:`(C)` or :math:`(N, C)`,
            where :math:`N` is the batch size and :math:`C` is the number of classes. Data type must be float16 or
            float32.
        target (Tensor): Ground truth data, :math:`y` in the formula above, with the same shape as `input`, data type
            must be int32 and label targets padded by -1: class indices, not multi-hot. Of zeros and ones,
            :func:`mindspore_mlml.targets_from_multi_hot` makes class indices.
        reduction (str, optional): Apply specific reduction method to the output: ``'none'`` , ``'mean'`` ,
            ``'sum'`` . Default: ``'mean'`` .

            - ``'none'``: no reduction will be applied.
            - ``'mean'``: compute and return the mean of elements in the output.
            - ``'sum'``: the output elements will be summed.

    Returns:
        Tensor of the dtype of `input`. If `reduction` is ``'none'``, its shape is :math:`(N)`, or :math:`()` for an
        `input` of shape :math:`(C)`. Otherwise, its shape is :math:`()`.

    Raises:
        TypeError: If `input` or `target` is not a Tensor.
        TypeError: If dtype of `input` is neither float16 nor float32.
        TypeError: If dtype of `target` is not int32.
        ValueError: If length of shape of `input` is neither 1 nor 2.
        ValueError: If shape of `input` is not the same as `target`.
        ValueError: If the number of classes is 0.
        ValueError: If `reduction` is not one of ``'none'``, ``'mean'``, ``'sum'``.
        RuntimeError: If a target is not less than the number of classes. Raised when the kernel runs. On a GPU, and
            where MindSpore's own operators compose the loss, the sample's loss and gradient are NaN instead.
        RuntimeError: If shapes that are unknown when a graph is compiled are not as above. Raised when the kernel runs;
            where MindSpore's own operators compose the loss, one of them raises an error instead.

    See also:
        - :class:`mindspore_mlml.MultilabelMarginLoss`, the same as a Cell.
        - :func:`mindspore_mlml.multilabel_margin_loss_from_labels`, for short rows of labels.
        - :func:`mindspore_mlml.targets_from_multi_hot`, :func:`mindspore_mlml.targets_from_lists`, which make `target`;
          :func:`mindspore_mlml.check_target`, which checks it.

    Supported Platforms:
        ``Ascend`` ``GPU`` ``CPU``

    Examples:
        >>> import mindspore
        >>> import numpy as np
        >>> from mindspore import Tensor
        >>> from mindspore_mlml import multilabel_margin_loss
        >>> inputs = Tensor(np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]]), mindspore.float32)
        >>> target = Tensor(np.array([[1, 2, 0, 3], [2, 3, -1, 1]]), mindspore.int32)
        >>> output = multilabel_margin_loss(inputs, target)
        >>> print(output)
        0.325
    """
    return _checked_loss(("multilabel_margin_loss", "input", "target", True), input, target, reduction)


def multilabel_margin_loss_from_labels(
    input: Tensor, labels: Tensor, reduction: Literal["none", "mean", "sum"] = "mean"
) -> Tensor:
    r"""
    The loss of :func:`mindspore_mlml.multilabel_margin_loss` from short rows of labels.

    `labels` has as many columns as the sample with the most labels needs, rather than one for each class: with many
    classes, a `target` as large as `input` is most of what a batch takes. Loss, gradient and errors are those of
    :func:`mindspore_mlml.multilabel_margin_loss` for `labels` padded by -1, bit for bit.

    Args:
        input (Tensor): Predicted data. Tensor of shape :math:`(C)` or :math:`(N, C)`, where :math:`N` is the batch size
            and :math:`C` is the number of classes. Data type must be float16 or float32.
        labels (Tensor): Class indices, not multi-hot. Tensor of shape :math:`(K)` or :math:`(N, K)`, for any
            :math:`K \geq 1`. In each row, the first negative value ends the list. Data type must be int32.
        reduction (str, optional): Apply specific reduction method to the output: ``'none'`` , ``'mean'`` ,
            ``'sum'`` . Default: ``'mean'`` .

    Returns:
        Tensor of the dtype of `input`. If `reduction` is ``'none'``, its shape is :math:`(N)`, or :math:`()` for an
        `input` of shape :math:`(C)`. Otherwise, its shape is :math:`()`.

    Raises:
        TypeError: If `input` or `labels` is not a Tensor.
        TypeError: If dtype of `input` is neither float16 nor float32.
        TypeError: If dtype of `labels` is not int32.
        ValueError: If length of shape of `input` is neither 1 nor 2.
        ValueError: If `labels` has not as many dimensions and rows as `input`.
        ValueError: If the number of classes or of columns of `labels` is 0.
        ValueError: If `reduction` is not one of ``'none'``, ``'mean'``, ``'sum'``.
        RuntimeError: If a label is not less than the number of classes. Raised when the kernel runs.
        RuntimeError: If shapes that are unknown when a graph is compiled are not as above. Raised when the kernel runs;
            where MindSpore's own operators compose the loss, one of them raises an error instead.

    See also:
        - :class:`mindspore_mlml.MultilabelMarginLossFromLabels`, the same as a Cell.
        - :func:`mindspore_mlml.multilabel_margin_loss`, for targets of the shape of `input`.
        - :func:`mindspore_mlml.targets_from_multi_hot`, :func:`mindspore_mlml.targets_from_lists`, which make `labels`
          with their argument `num_labels`; :func:`mindspore_mlml.check_target`, which checks them.

    Supported Platforms:
        ``Ascend`` ``GPU`` ``CPU``

    Examples:
        >>> import mindspore
        >>> import numpy as np
        >>> from mindspore import Tensor
        >>> from mindspore_mlml import multilabel_margin_loss_from_labels
        >>> inputs = Tensor(np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]]), mindspore.float32)
        >>> labels = Tensor(np.array([[0, 3], [2, -1]]), mindspore.int32)
        >>> output = multilabel_margin_loss_from_labels(inputs, labels)
        >>> print(output)
        0.7625
    """
    return _checked_loss(("multilabel_margin_loss_from_labels", "input", "labels", False), input, labels, reduction)


def _checked_loss(call, input, target, reduction):
    """The loss, or an error that names what was called; ``call`` as in _checks."""
    op, _, name, _ = call
    if not isinstance(input, Tensor):
        raise TypeError(f"For '{op}', the 'input' must be a Tensor, but got {shorten(input)}.")
    if not isinstance(target, Tensor):
        raise TypeError(f"For '{op}', the '{name}' must be a Tensor, but got {shorten(target)}.")
    if _ops.in_graph():
        return _dispatch.loss(call, input, target, reduction)
    return _ops.in_turn(_dispatch.loss, call, input, target, reduction)
