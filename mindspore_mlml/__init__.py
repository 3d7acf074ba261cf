"""The multi-label margin loss for MindSpore."""

from mindspore_mlml import _folder  # noqa: F401  before all else of the package: it may import that under another name

# isort: split
from importlib.metadata import PackageNotFoundError, version

from mindspore_mlml._patch import patch
from mindspore_mlml.functional import multilabel_margin_loss, multilabel_margin_loss_from_labels
from mindspore_mlml.labels import check_target, multi_hot_from_targets, targets_from_lists, targets_from_multi_hot
from mindspore_mlml.losses import MultilabelMarginLoss, MultilabelMarginLossFromLabels
from mindspore_mlml.many_classes import (
    ClassParallelMultilabelMarginLoss,
    LinearMultilabelMarginLoss,
    linear_multilabel_margin_loss,
)
from mindspore_mlml.metrics import PrecisionAtK

__all__ = [
    "ClassParallelMultilabelMarginLoss",
    "LinearMultilabelMarginLoss",
    "MultilabelMarginLoss",
    "MultilabelMarginLossFromLabels",
    "PrecisionAtK",
    "check_target",
    "linear_multilabel_margin_loss",
    "multi_hot_from_targets",
    "multilabel_margin_loss",
    "multilabel_margin_loss_from_labels",
    "patch",
    "targets_from_lists",
    "targets_from_multi_hot",
]

try:
    __version__ = version("mindspore-mlml")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "unknown"
