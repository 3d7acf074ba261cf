"""The loss by MindSpore's own operators alone: for where none of this package's kernels can run.

The algorithm is theirs (custom_ops/cpu/): the thresholds of a row are sorted, and a score's rank among them says what its
class adds. With K labels it takes O((C + K)·log K) for each row, and memory for some matrices of N·C numbers.

MindSpore could differentiate this itself, but in PyNative not twice. So loss and gradient are Cells with a ``bprop``, as
the kernels have one each.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_mlml import _ops, _rows
from mindspore_mlml._rows import zeros_like

_FEW_PAIRS = 1024  # as HasFewPairs in custom_ops/definition.h
_PAIRS = Tensor(np.arange(_FEW_PAIRS), ms.int64)
_NAN = Tensor(np.nan, ms.float64)
# Primitives, for functions that have branches have "The func graph is empty" when they are differentiated in a graph.
_sort = ops.Sort()
_search = ops.SearchSorted()
_range = ops.Range()
_relu = ops.ReLU()
_ones_like = ops.OnesLike()
_cumulative_sum = ops.CumSum()
_cumulative_sum_from_the_end = ops.CumSum(reverse=True)


# ----------------------------------------------------------------------------------------------------------------------
# Rows


def _read(input, labels):
    """Scores (in float32) and labels as matrices, and which labels are listed."""
    scores = ops.cast(input.reshape((-1, input.shape[-1])), ms.float32)
    labels = labels.reshape((-1, labels.shape[-1]))
    return scores, labels, _rows.listed(labels)


def _rank(scores, is_target, index):
    """What loss and gradient need of the rows.

    The scores of the classes, with -inf for those that are targets; the thresholds of the labels, with +inf for those
    that are not: neither is active with anything. The sorted thresholds, and of each score its rank, the number of
    thresholds that are less.
    """
    target_scores = ops.gather_elements(scores, 1, index)
    thresholds = target_scores - 1
    is_number = ops.logical_and(is_target, thresholds == thresholds)
    thresholds = ops.select(is_number, thresholds, _rows.INFINITY)
    is_other = _rows.times(zeros_like(ops.cast(scores, ms.int32)), is_target, index) == 0
    others = ops.select(is_other, scores, -_rows.INFINITY)
    ordered, _ = _sort(thresholds)
    return target_scores, is_other, others, thresholds, ordered, _search(ordered, others)


def _rounded(values, dtype):
    """float64 values in another dtype, rounded once: a cast to float16 would round to float32 first."""
    single = ops.cast(values, ms.float32)
    if dtype == ms.float32:
        return single
    half = ops.cast(ops.cast(single, dtype), ms.float32)
    across = 2 * single - half  # the other float16 beside it, if it was in the middle of two
    is_middle = ops.logical_and(ops.cast(ops.cast(across, dtype), ms.float32) == across, across != half)
    error = values - ops.cast(single, ms.float64)
    up = ops.logical_and(error > 0, across > half)
    down = ops.logical_and(error < 0, across < half)
    return ops.cast(ops.select(ops.logical_and(is_middle, ops.logical_or(up, down)), across, half), dtype)


# ----------------------------------------------------------------------------------------------------------------------
# Loss


def _sum_of_terms(others, thresholds):
    """The sum of a row's first 1024 hinges, target by target: each rounded to float32, and added in float64."""
    classes = others.shape[-1]
    label = _PAIRS // classes
    scores = ops.gather(others, _PAIRS - label * classes, 1)
    thresholds = ops.gather(thresholds, ops.minimum(label, thresholds.shape[-1] - 1), 1)
    return ops.cast(_relu(scores - thresholds), ms.float64)


def _row_sums(others, thresholds, ordered, ranks, num_targets):
    """The sums of the rows' hinges, where they are not inf - inf."""
    # Of the k thresholds below a score, the base is the greatest: k * (x - base) + rest, in which nothing cancels.
    wide = ops.cast(ordered, ms.float64)
    position = _range(0, wide.shape[-1], 1)
    step = wide - ops.gather(wide, ops.maximum(position - 1, 0), 1)
    rest = _cumulative_sum(step * ops.cast(position, ms.float64), 1)
    place = ops.maximum(ranks - 1, 0)
    above = ops.cast(others, ms.float64) - ops.gather_elements(wide, 1, place)
    hinges = ops.cast(ranks, ms.float64) * above + ops.gather_elements(rest, 1, place)
    ranked = ops.select(ranks > 0, hinges, zeros_like(hinges)).sum(-1)
    # A target of -inf makes all of them infinite, or inf - inf on the way.
    is_infinite = ops.logical_and(ordered[:, 0] == -_rows.INFINITY, ranked != 0)
    ranked = ops.select(is_infinite, ops.cast(_rows.INFINITY, ms.float64), ranked)

    pairs = num_targets * others.shape[-1]
    terms = _sum_of_terms(others, thresholds)
    is_pair = _PAIRS < pairs.reshape((-1, 1))
    few = ops.select(is_pair, terms, zeros_like(terms)).sum(-1)
    return ops.select(ops.logical_and(pairs <= _FEW_PAIRS, few < _rows.INFINITY), few, ranked)


def _loss(input, labels, reduction):
    scores, labels, is_listed = _read(input, labels)
    is_target, index = _rows.targets(labels, is_listed, scores.shape[-1])
    target_scores, is_other, others, thresholds, ordered, ranks = _rank(scores, is_target, index)
    num_targets = ops.cast(is_target, ms.int64).sum(-1)
    sums = _row_sums(others, thresholds, ordered, ranks, num_targets)
    is_undefined = ops.logical_or(
        _rows.has_nan(scores, labels, is_listed),
        _rows.has_infinite_difference(scores, is_other, target_scores, is_target),
    )
    losses = ops.select(is_undefined, _NAN, sums) / _divisor(scores, reduction)
    if reduction == "none":
        return _rounded(losses, input.dtype).reshape(input.shape[:-1])
    return _rounded(losses.sum(), input.dtype)


def _divisor(scores, reduction):
    """What a row's sum is divided by, and a dout to get the gradient of a pair."""
    rows, classes = scores.shape
    return classes * rows if reduction == "mean" else classes


# ----------------------------------------------------------------------------------------------------------------------
# Gradient


def _active_classes(thresholds, ordered, ranks):
    """For each label, the number of classes that it is active with: those whose rank is greater than its own."""
    zeros = zeros_like(ops.cast(ordered, ms.int32))
    of_rank = ops.tensor_scatter_elements(zeros, ops.maximum(ranks - 1, 0), ops.cast(ranks > 0, ms.int32), 1, "add")
    return ops.gather_elements(_cumulative_sum_from_the_end(of_rank, 1), 1, _search(ordered, thresholds))


def _gradient(input, labels, dout, reduction):
    scores, labels, is_listed = _read(input, labels)
    is_target, index = _rows.targets(labels, is_listed, scores.shape[-1])
    _, _, _, thresholds, ordered, ranks = _rank(scores, is_target, index)
    # In float64: a class that is listed often is active with more than fit an int32.
    active = ops.cast(_active_classes(thresholds, ordered, ranks), ms.float64)
    counts = ops.tensor_scatter_elements(
        ops.cast(ranks, ms.float64), index, ops.select(is_target, -active, zeros_like(active)), 1, "add"
    )
    scale = ops.cast(dout, ms.float64).reshape((-1, 1)) / _divisor(scores, reduction)
    gradient = ops.select(_rows.any_in_row(is_listed).reshape((-1, 1)), counts * scale, zeros_like(counts))
    gradient = ops.select(_rows.has_nan(scores, labels, is_listed).reshape((-1, 1)), _NAN, gradient)
    return _rounded(gradient, input.dtype).reshape(input.shape)


# ----------------------------------------------------------------------------------------------------------------------
# Cells


class _Gradient(nn.Cell):
    """(input, labels, dout) -> gradient of input. It is linear in dout and piecewise constant in input."""

    def __init__(self, reduction):
        super().__init__()
        self.reduction = reduction

    def construct(self, input, labels, dout):
        return _gradient(input, labels, dout, self.reduction)

    def bprop(self, input, labels, dout, output, doutput):
        slope = _gradient(input, labels, _ones_like(dout), self.reduction)
        of_dout = _ops.gradient_of_dout(slope, dout, doutput, self.reduction)
        return zeros_like(input), zeros_like(labels), of_dout


class _Loss(nn.Cell):
    """(input, labels) -> loss."""

    def __init__(self, reduction):
        super().__init__()
        self.reduction = reduction
        self.gradient = _Gradient(reduction)

    def construct(self, input, labels):
        return _loss(input, labels, self.reduction)

    def bprop(self, input, labels, output, doutput):
        return self.gradient(input, labels, doutput), zeros_like(labels)


losses = {reduction: _Loss(reduction) for reduction in _ops.REDUCTIONS}


def loss(input, labels, reduction):
    """The loss, for arguments that have been checked."""
    return losses[reduction](input, labels)
