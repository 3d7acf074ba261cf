"""The loss as a Cell."""

from typing import Literal

from mindspore import Tensor, nn

from mindspore_mlml._checks import check_reduction
from mindspore_mlml.functional import multilabel_margin_loss, multilabel_margin_loss_from_labels


class MultilabelMarginLoss(nn.LossBase):
    r"""
    Creates a loss criterion that minimizes the hinge loss for multi-label classification tasks.
    It takes a 2D mini-batch Tensor :math:`x` as input and a 2D Tensor :math:`y` containing target class indices as
    output.

    For each sample in the mini-batch, the loss is computed as follows:

    .. math::
        \text{loss}(x, y) = \sum_{ij}\frac{\max(0, 1 - (x[y[j]] - x[i]))}{\text{x.size}(0)}

    where :math:`0 \leq y[j] \leq \text{x.size}(0)-1`, and for all :math:`i` and :math:`j`, :math:`i` does not equal to
    :math:`y[j]`.

    See :func:`mindspore_mlml.multilabel_margin_loss` for how targets are read and for the numerics.

    Args:
        reduction (str, optional): Apply specific reduction method to the output: ``'none'`` , ``'mean'`` ,
            ``'sum'`` . Default: ``'mean'`` .

            - ``'none'``: no reduction will be applied.
            - ``'mean'``: compute and return the mean of elements in the output.
            - ``'sum'``: the output elements will be summed.

    Inputs:
        - **x** (Tensor) - Predict data. Tensor of shape :math:`(C)` or :math:`(N, C)`, where :math:`N` is the batch
          size and :math:`C` is the number of classes. Data type must be float16 or float32.
        - **target** (Tensor) - Ground truth data, with the same shape as `x`, data type must be int32 and label
          targets padded by -1: class indices, not multi-hot. Of zeros and ones,
          :func:`mindspore_mlml.targets_from_multi_hot` makes class indices.

    Outputs:
        Tensor of the dtype of `x`. If `reduction` is ``'none'``, its shape is :math:`(N)`, or :math:`()` for an `x` of
        shape :math:`(C)`. Otherwise, its shape is :math:`()`.

    Raises:
        TypeError: If `x` or `target` is not a Tensor.
        TypeError: If dtype of `x` is neither float16 nor float32.
        TypeError: If dtype of `target` is not int32.
        ValueError: If length of shape of `x` is neither 1 nor 2.
        ValueError: If shape of `x` is not the same as `target`.
        ValueError: If the number of classes is 0.
        ValueError: If `reduction` is not one of ``'none'``, ``'mean'``, ``'sum'``.
        RuntimeError: If a target is not less than the number of classes. Raised when the kernel runs. On a GPU, and
            where MindSpore's own operators compose the loss, the sample's loss and gradient are NaN instead.
        RuntimeError: If shapes that are unknown when a graph is compiled are not as above. Raised when the kernel runs;
            where MindSpore's own operators compose the loss, one of them raises an error instead.

    See also:
        - :func:`mindspore_mlml.multilabel_margin_loss`, the same as a function.
        - :class:`mindspore_mlml.MultilabelMarginLossFromLabels`, for short rows of labels.
        - :func:`mindspore_mlml.targets_from_multi_hot`, :func:`mindspore_mlml.targets_from_lists`, which make `target`;
          :func:`mindspore_mlml.check_target`, which checks it.

    Supported Platforms:
        ``Ascend`` ``GPU`` ``CPU``

    Examples:
        >>> import mindspore as ms
        >>> import numpy as np
        >>> from mindspore_mlml import MultilabelMarginLoss
        >>> loss = MultilabelMarginLoss()
        >>> x = ms.Tensor(np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]]), ms.float32)
        >>> target = ms.Tensor(np.array([[1, 2, 0, 3], [2, 3, -1, 1]]), ms.int32)
        >>> output = loss(x, target)
        >>> print(output)
        0.325
    """

    def __init__(self, reduction: Literal["none", "mean", "sum"] = "mean") -> None:
        check_reduction(type(self).__name__, reduction)
        super().__init__(reduction)
        self.reduction = reduction

    def construct(self, x: Tensor, target: Tensor) -> Tensor:
        return multilabel_margin_loss(x, target, self.reduction)


class MultilabelMarginLossFromLabels(nn.LossBase):
    r"""
    The loss of :class:`mindspore_mlml.MultilabelMarginLoss` from short rows of labels.

    See :func:`mindspore_mlml.multilabel_margin_loss_from_labels`.

    Args:
        reduction (str, optional): Apply specific reduction method to the output: ``'none'`` , ``'mean'`` ,
            ``'sum'`` . Default: ``'mean'`` .

    Inputs:
        - **x** (Tensor) - Predict data. Tensor of shape :math:`(C)` or :math:`(N, C)`, where :math:`N` is the batch
          size and :math:`C` is the number of classes. Data type must be float16 or float32.
        - **labels** (Tensor) - Class indices, not multi-hot. Tensor of shape :math:`(K)` or :math:`(N, K)`, for any
          :math:`K \geq 1`.
          In each row, the first negative value ends the list. Data type must be int32.

    Outputs:
        Tensor of the dtype of `x`. If `reduction` is ``'none'``, its shape is :math:`(N)`, or :math:`()` for an `x` of
        shape :math:`(C)`. Otherwise, its shape is :math:`()`.

    Raises:
        TypeError: If `x` or `labels` is not a Tensor.
        TypeError: If dtype of `x` is neither float16 nor float32.
        TypeError: If dtype of `labels` is not int32.
        ValueError: If length of shape of `x` is neither 1 nor 2.
        ValueError: If `labels` has not as many dimensions and rows as `x`.
        ValueError: If the number of classes or of columns of `labels` is 0.
        ValueError: If `reduction` is not one of ``'none'``, ``'mean'``, ``'sum'``.
        RuntimeError: If a label is not less than the number of classes. Raised when the kernel runs.
        RuntimeError: If shapes that are unknown when a graph is compiled are not as above. Raised when the kernel runs;
            where MindSpore's own operators compose the loss, one of them raises an error instead.

    See also:
        - :func:`mindspore_mlml.multilabel_margin_loss_from_labels`, the same as a function.
        - :class:`mindspore_mlml.MultilabelMarginLoss`, for targets of the shape of `x`.
        - :func:`mindspore_mlml.targets_from_multi_hot`, :func:`mindspore_mlml.targets_from_lists`, which make `labels`
          with their argument `num_labels`; :func:`mindspore_mlml.check_target`, which checks them.

    Supported Platforms:
        ``Ascend`` ``GPU`` ``CPU``

    Examples:
        >>> import mindspore as ms
        >>> import numpy as np
        >>> from mindspore_mlml import MultilabelMarginLossFromLabels
        >>> loss = MultilabelMarginLossFromLabels()
        >>> x = ms.Tensor(np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]]), ms.float32)
        >>> labels = ms.Tensor(np.array([[0, 3], [2, -1]]), ms.int32)
        >>> output = loss(x, labels)
        >>> print(output)
        0.7625
    """

    def __init__(self, reduction: Literal["none", "mean", "sum"] = "mean") -> None:
        check_reduction(type(self).__name__, reduction)
        super().__init__(reduction)
        self.reduction = reduction

    def construct(self, x: Tensor, labels: Tensor) -> Tensor:
        return multilabel_margin_loss_from_labels(x, labels, self.reduction)
