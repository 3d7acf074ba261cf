"""The multi-label margin loss for MindSpore."""

from mindspore_mlml.functional import multilabel_margin_loss
from mindspore_mlml.loss import MultilabelMarginLoss

__all__ = ["MultilabelMarginLoss", "multilabel_margin_loss"]
