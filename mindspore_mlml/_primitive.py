"""The loss in the form of MindSpore's primitive, for :class:`mindspore_mlml.patch`."""

import mindspore as ms
from mindspore import nn, ops

from mindspore_mlml._checks import check_reduction
from mindspore_mlml.functional import multilabel_margin_loss


class MultilabelMarginLoss(nn.Cell):
    """Does what ``ops.MultilabelMarginLoss(reduction)`` does: (x, target) -> (loss, is_target), of which is_target is
    int32, has the shape of target, and is 1 at the classes that are targets."""

    def __init__(self, reduction="mean"):
        check_reduction("MultilabelMarginLoss", reduction)
        super().__init__()
        self.reduction = reduction
        self.cumulative_sum = ops.CumSum()

    def construct(self, x, target):
        is_listed = self.cumulative_sum(ops.cast(target < 0, ms.float32), -1) == 0
        # Not the shape of target, which the loss checks: MindSpore 2.7 cannot use it twice.
        is_class = ops.logical_and(is_listed, target < is_listed.shape[-1])
        index = ops.select(is_class, target, ops.zeros_like(target))
        times = ops.tensor_scatter_elements(
            ops.zeros_like(target), index, ops.cast(is_class, ms.int32), x.ndim - 1, "add"
        )
        is_target = ops.cast(times > 0, ms.int32)
        # Last: a target out of range makes it fail, and MindSpore may crash in operators that come after that.
        return multilabel_margin_loss(x, target, self.reduction), is_target
