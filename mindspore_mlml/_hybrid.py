"""The loss by AKG's kernels: MindSpore's own operators prepare what they take, and finish what they give.

Each pair of a target and a class is looked at, O(C·T), with memory for some matrices of N·C numbers: for GPUs where the
CUDA kernels are not built. Shapes must be static. Second derivatives are right in graph mode only: in PyNative,
MindSpore's derivative of a sum's gradient is 0 (seen on 2.10).
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindspore_mlml import _hybrid_kernels, _rows
from mindspore_mlml._custom import Custom

_NAN = Tensor(np.nan, ms.float64)


def _weights_of_targets(scores, margins, weights):
    """For each margin, the sum of the weights of the scores that it is active with; they are as flat as the scores."""
    shape = (margins.shape[0], -1)
    return _active_weights(margins.reshape(-1), scores.reshape(shape), weights.reshape(shape)).reshape(margins.shape)


def _hinge_sums_bprop(scores, margins, output, doutput):
    of_scores = _active_weights(scores, margins, ops.ones_like(margins)) * doutput
    of_margins = _weights_of_targets(scores, margins, doutput)
    return ops.cast(of_scores, scores.dtype), ops.cast(of_margins, margins.dtype)


def _active_weights_bprop(scores, margins, weights, output, doutput):
    # The sum is linear in the weights, and piecewise constant in the rest.
    of_weights = _weights_of_targets(scores, margins, doutput)
    return ops.zeros_like(scores), ops.zeros_like(margins), ops.cast(of_weights, weights.dtype)


_hinge_sums = Custom(_hybrid_kernels.hinge_sums, func_type="hybrid", bprop=_hinge_sums_bprop)
_active_weights = Custom(_hybrid_kernels.active_weights, func_type="hybrid", bprop=_active_weights_bprop)


def _row_losses(input, target):
    """The losses of a matrix's rows, in float64. Gradients are float64 too, up to the kernels."""
    classes = input.shape[1]
    wide = ops.cast(input, ms.float64)
    is_listed, _ = _rows.listed(target)
    is_target, index = _rows.targets(target, is_listed, classes)
    # By position in the whole matrix: MindSpore has no second derivative of gather_elements.
    first = ops.arange(0, input.shape[0] * classes, classes, dtype=ms.int64).reshape((-1, 1))
    target_scores = ops.cast(ops.gather(wide.reshape(-1), first + index, 0), ms.float32)
    is_other = ops.logical_not(_rows.is_among(is_target, index, classes))
    others = ops.select(is_other, input, ops.cast(-_rows.INFINITY, input.dtype))
    margins = ops.select(is_target, 1 - target_scores, -_rows.INFINITY)
    losses = _hinge_sums(others.reshape(-1), margins).reshape(others.shape).sum(1) / classes

    # What the kernels' comparisons do not show: inf - inf, and what makes the gradient NaN as well.
    is_undefined = _rows.has_infinite_difference(wide, is_other, target_scores, is_target)
    undefined = ops.select(is_undefined, _NAN, ops.zeros_like(losses))
    is_bad = _rows.has_nan(wide, target, is_listed).reshape((-1, 1))
    poison = ops.select(is_bad, _NAN, ops.zeros_like(wide))
    poisoned = ops.select(is_bad, wide, ops.zeros_like(wide)) * poison
    return losses + undefined + poisoned.sum(1)


def loss(input, target, reduction):
    """The loss, for arguments that have been checked."""
    losses = _row_losses(input.reshape((-1, input.shape[-1])), target.reshape((-1, target.shape[-1])))
    if reduction == "none":
        losses = losses.reshape(input.shape[:-1])
    elif reduction == "sum":
        losses = losses.sum()
    else:
        losses = losses.sum() / losses.shape[0]
    return ops.cast(losses, input.dtype)
