"""The loss by AKG's kernels: MindSpore's own operators prepare what they take, and finish what they give.

Each pair of a target and a class is looked at, O(C·T), with memory for some matrices of N·C numbers: for GPUs where the
CUDA kernels are not built. Shapes must be static. Second derivatives are right in graph mode only: in PyNative,
MindSpore's derivative of a sum's gradient is 0 (seen on 2.10).
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindspore_mlml import _hybrid_kernels
from mindspore_mlml._ops import Custom

_INFINITY = Tensor(np.inf, ms.float32)
_NAN = Tensor(np.nan, ms.float64)
_cumulative_sum = ops.CumSum()


def _hinge_sums_bprop(scores, margins, output, doutput):
    of_scores = _active_weights(scores, margins, ops.ones_like(margins)) * doutput
    of_margins = _active_weights(margins, scores, doutput)
    return ops.cast(of_scores, scores.dtype), ops.cast(of_margins, margins.dtype)


def _active_weights_bprop(scores, margins, weights, output, doutput):
    of_weights = _active_weights(margins, scores, doutput)  # it is linear in them, and piecewise constant in the rest
    return ops.zeros_like(scores), ops.zeros_like(margins), ops.cast(of_weights, weights.dtype)


_hinge_sums = Custom(_hybrid_kernels.hinge_sums, func_type="hybrid", bprop=_hinge_sums_bprop)
_active_weights = Custom(_hybrid_kernels.active_weights, func_type="hybrid", bprop=_active_weights_bprop)


def _any(condition):
    """Whether there is a True in each row."""
    return ops.cast(condition, ms.float32).sum(-1) > 0


def _row_losses(input, target):
    """The losses of a matrix's rows, in float64. Gradients are float64 too, up to the kernels."""
    classes = input.shape[1]
    wide = ops.cast(input, ms.float64)
    is_listed = _cumulative_sum(ops.cast(target < 0, ms.float32), 1) == 0
    is_target = ops.logical_and(is_listed, target < classes)
    index = ops.select(is_target, target, ops.zeros_like(target))
    # By position in the whole matrix: MindSpore has no second derivative of gather_elements.
    first = ops.arange(0, input.shape[0] * classes, classes, dtype=ms.int64).reshape((-1, 1))
    target_scores = ops.cast(ops.gather(wide.reshape(-1), first + index, 0), ms.float32)
    times = ops.tensor_scatter_elements(ops.zeros_like(wide), index, ops.cast(is_target, ms.float64), 1, "add")
    is_other = times == 0
    others = ops.select(is_other, input, ops.cast(ops.zeros_like(wide) - _INFINITY, input.dtype))
    margins = ops.select(is_target, 1 - target_scores, ops.zeros_like(target_scores) - _INFINITY)
    losses = _hinge_sums(others, margins).sum(1) / classes

    # What the kernels' comparisons do not show: inf - inf, and what makes the gradient NaN as well.
    undefined = ops.zeros_like(losses)
    for infinity in (_INFINITY, -_INFINITY):
        at_target = _any(ops.logical_and(is_target, target_scores == infinity))
        at_other = _any(ops.logical_and(is_other, wide == infinity))
        undefined = ops.select(ops.logical_and(at_target, at_other), _NAN, undefined)
    is_bad = ops.logical_or(
        _any(ops.logical_and(is_listed, target >= classes)),
        ops.logical_and(_any(is_listed), _any(ops.isnan(wide))),
    ).reshape((-1, 1))
    poison = ops.select(is_bad, _NAN, ops.zeros_like(wide))
    poisoned = ops.select(is_bad, wide, ops.zeros_like(wide)) * poison
    return losses + undefined + poisoned.sum(1)


def loss(input, target, reduction):
    """The loss, for arguments that have been checked."""
    if 0 in input.shape:
        return ops.zeros(input.shape[:-1] if reduction == "none" else (), input.dtype)
    losses = _row_losses(input.reshape((-1, input.shape[-1])), target.reshape((-1, target.shape[-1])))
    if reduction == "none":
        losses = losses.reshape(input.shape[:-1])
    elif reduction == "sum":
        losses = losses.sum()
    else:
        losses = losses.sum() / losses.shape[0]
    return ops.cast(losses, input.dtype)
