"""The loss of a linear layer's scores by the kernel in use.

A module of its own for the reason that _dispatch is one: automatic mixed precision, at its level O1, knows of what is
beside a Cell only what was imported.
"""

from mindspore import ops

from mindspore_mlml import _ops, _slices
from mindspore_mlml._backends import kernel_in_use
from mindspore_mlml.functional import multilabel_margin_loss_from_labels

CLASSES_OF_TOP_K = 16384  # that it looks at at a time


def scores(features, weight, bias):
    """Those of a linear layer."""
    product = ops.matmul(features, ops.cast(weight, features.dtype).T)
    if bias is None:
        return product
    return product + ops.cast(bias, features.dtype)


def makes_scores(features):
    """Whether the loss is that of all scores, for want of what does without them."""
    return 0 in features.shape or kernel_in_use() != "cpu" or not _ops.has_gemm


def loss(features, weight, bias, labels, reduction):
    """The loss; checks have passed."""
    if makes_scores(features):
        return multilabel_margin_loss_from_labels(scores(features, weight, bias), labels, reduction)
    if bias is None:
        return _slices.linear_losses[reduction](features, labels, weight)
    return _slices.linear_losses_with_bias[reduction](features, labels, weight, bias)
