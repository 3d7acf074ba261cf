"""The loss in the form of MindSpore's primitive, for :class:`mindspore_mlml.patch`."""

import mindspore as ms
from mindspore import nn, ops

from mindspore_mlml import _rows
from mindspore_mlml._checks import check_reduction
from mindspore_mlml.functional import multilabel_margin_loss


class MultilabelMarginLoss(nn.Cell):
    """Does what ``ops.MultilabelMarginLoss(reduction)`` does: (x, target) -> (loss, is_target), of which is_target is
    int32, has the shape of target, and is 1 at the classes that are targets."""

    def __init__(self, reduction="mean"):
        check_reduction("MultilabelMarginLoss", reduction)
        super().__init__()
        self.reduction = reduction

    def construct(self, x, target):
        labels = _rows.as_matrix(target)
        classes = labels.shape[-1]
        labels = _rows.with_another(labels, -1, classes)
        is_listed, _ = _rows.listed(labels)
        is_class, index = _rows.targets(labels, is_listed, classes)
        is_among = ops.cast(_rows.is_among(is_class, index, classes), ms.int32)
        is_target = _rows.without_last(is_among).reshape(target.shape)
        # Last: a target out of range makes it fail, and MindSpore may crash in operators that come after that.
        return multilabel_margin_loss(x, target, self.reduction), is_target
