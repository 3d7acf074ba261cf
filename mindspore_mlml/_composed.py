"""The loss by MindSpore's own operators alone: for where none of this package's kernels can run.

The algorithm is theirs (custom_ops/cpu/): the thresholds of a row are sorted, and a score's rank among them says what
its class adds. With K labels in each row it takes O((C + K)·log K) for a row, and memory for some matrices of N·C
numbers.

Loss and gradient are Cells with a ``bprop``. MindSpore could differentiate the operators themselves, but not twice in
PyNative, and not with a gradient that is rounded once. What a graph needs again for a ``bprop`` must have no branch in
it ("The func graph is empty"): hence primitives, where MindSpore's functions have branches, and tables of functions.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore._c_expression import MixedPrecisionType

from mindspore_mlml import _rows
from mindspore_mlml._rows import INFINITY, zeros_like

_FEW_PAIRS = 1024  # as HasFewPairs in custom_ops/definition.h
_PAIRS = Tensor(np.arange(_FEW_PAIRS), ms.int64)
_NAN = Tensor(np.nan, ms.float64)
_ZERO = Tensor(np.zeros(1), ms.float64)
_cumulative_sum = ops.CumSum()
_gather = ops.Gather()
_join = ops.Concat()
_least = ops.ReduceMin()
_ones_like = ops.OnesLike()
_range = ops.Range()
_relu = ops.ReLU()
_search = ops.SearchSorted()
_sort = ops.Sort()


# ----------------------------------------------------------------------------------------------------------------------
# Rows


def _read(input, labels):
    """Scores (in float32) and labels as matrices, which labels are listed, and how many, which are targets, and their
    classes.

    The matrices have a row without labels more, so that they are never empty.
    """
    scores = ops.cast(input.reshape((-1, input.shape[-1])), ms.float32)
    scores = _rows.with_another(scores, 0)
    labels = _rows.with_another(labels.reshape((-1, labels.shape[-1])), -1)
    is_listed, lengths = _rows.listed(labels)
    return scores, labels, is_listed, lengths, *_rows.targets(labels, is_listed, scores.shape[-1])


def _rank(scores, target_scores, is_target, is_other):
    """The thresholds, sorted as well, and the rank of each class: the number of thresholds less than its score.

    The threshold of a label that is no target is +inf, and the score of a class that is a target -inf: neither is
    active with anything. That of NaN is +inf too, so that it can be sorted.
    """
    thresholds = target_scores - 1
    has_threshold = ops.logical_and(is_target, thresholds < INFINITY)
    thresholds = ops.select(has_threshold, thresholds, INFINITY)
    others = ops.select(is_other, scores, -INFINITY)
    ordered, _ = _sort(thresholds)
    return others, thresholds, ordered, _search(ordered, others)


# ----------------------------------------------------------------------------------------------------------------------
# Loss


def _first_hinges(others, thresholds):
    """The first 1024 hinges of each row, target by target, each rounded to float32."""
    classes = others.shape[-1]
    label = _PAIRS // classes
    scores = _gather(others, _PAIRS - label * classes, 1)
    return _relu(scores - _gather(thresholds, ops.minimum(label, thresholds.shape[-1] - 1), 1))


def _sum_of_few(others, thresholds, pairs):
    """The sums of the rows' hinges one by one, as documented, where there are few pairs of a target and a class."""
    hinges = ops.cast(_first_hinges(others, thresholds), ms.float64)
    return ops.select(pairs > _PAIRS, hinges, zeros_like(hinges)).sum(-1)


def _sum_by_rank(others, ordered, ranks):
    """The sums of the rows' hinges, where they are not inf - inf."""
    # Of the k thresholds below a score, the base is the greatest: k * (x - base) + rest, in which nothing cancels.
    rank = _range(0, ordered.shape[-1] + 1, 1)
    base = ops.cast(_gather(ordered, ops.maximum(rank - 1, 0), 1), ms.float64)
    steps = base - ops.cast(_gather(ordered, ops.maximum(rank - 2, 0), 1), ms.float64)
    rest = _cumulative_sum(steps * ops.cast(ops.maximum(rank - 1, 0), ms.float64), 1)
    above = ops.cast(others, ms.float64) - ops.gather_elements(base, 1, ranks)
    hinges = ops.cast(ranks, ms.float64) * above + ops.gather_elements(rest, 1, ranks)
    sums = ops.select(ranks > 0, hinges, zeros_like(hinges)).sum(-1)
    # With a target of -inf it came to inf - inf on the way.
    is_infinite = ops.logical_and(_least(ordered, 1) == -INFINITY, sums != 0)
    return ops.select(is_infinite, ops.cast(INFINITY, ms.float64), sums)


def _row_sums(input, labels):
    """The sum of each row's hinges, in float64."""
    scores, labels, is_listed, lengths, is_target, index = _read(input, labels)
    is_other = ops.logical_not(_rows.is_among(is_target, index, scores.shape[-1]))
    target_scores = ops.gather_elements(scores, 1, index)
    others, thresholds, ordered, ranks = _rank(scores, target_scores, is_target, is_other)
    pairs = lengths * scores.shape[-1]
    few = _sum_of_few(others, thresholds, pairs)
    # What is not finite, or not in float32, is right in the other sum.
    is_few = ops.logical_and(pairs.reshape((-1,)) <= _FEW_PAIRS, few < INFINITY)
    sums = ops.select(is_few, few, _sum_by_rank(others, ordered, ranks))
    is_undefined = _rows.has_infinite_difference(scores, is_other, target_scores, is_target)
    is_undefined = ops.logical_or(is_undefined, _rows.has_nan(scores, labels, is_listed))
    return _rows.without_last(ops.select(is_undefined, _NAN, sums))


# ----------------------------------------------------------------------------------------------------------------------
# Gradient


def _active_classes(thresholds, ordered, ranks):
    """For each label, the number of classes that it is active with: those whose rank is greater than its own."""
    of_rank = _rows.sums_by_place(_ones_like(ranks), ranks, ordered.shape[-1] + 1)
    up_to = ops.gather_elements(_cumulative_sum(of_rank, 1), 1, _search(ordered, thresholds))
    return ranks.shape[-1] - up_to


def _row_gradients(input, labels, scale):
    """The gradient of each row, in float64, if that of a pair is ``scale``."""
    scores, labels, is_listed, lengths, is_target, index = _read(input, labels)
    is_other = ops.logical_not(_rows.is_among(is_target, index, scores.shape[-1]))
    target_scores = ops.gather_elements(scores, 1, index)
    _, thresholds, ordered, ranks = _rank(scores, target_scores, is_target, is_other)
    # In float64: a class that is listed often may be active more often than int32 can count.
    active = ops.cast(_active_classes(thresholds, ordered, ranks), ms.float64)
    place = ops.select(is_target, index, -_ones_like(index))
    counts = ops.cast(ranks, ms.float64) - _rows.sums_by_place(active, place, ranks.shape[-1])
    counts = ops.select(_rows.has_nan(scores, labels, is_listed).reshape((-1, 1)), _NAN, counts)
    counts, lengths = _rows.without_last(counts), _rows.without_last(lengths)
    return ops.select(lengths > 0, counts * scale, zeros_like(counts))


# ----------------------------------------------------------------------------------------------------------------------
# What depends on the reduction or on the dtype


def _classes(input):
    return input.shape[-1]


def _classes_of_all_rows(input):
    """That of one row if there is none."""
    rows, classes = input.reshape((-1, input.shape[-1])).shape
    return ops.maximum(ops.cast(rows * classes, ms.float64), classes)


def _of_each(values, input):
    return values.reshape(input.shape[:-1])


def _of_all(values, input):
    """With a zero among them, for of no values MindSpore's sum is whatever lay in its memory."""
    return _join((values.reshape((-1,)), _ZERO)).sum()


# reduction -> what sums of hinges are divided by, how they are put together
_REDUCTIONS = {"none": (_classes, _of_each), "mean": (_classes_of_all_rows, _of_all), "sum": (_classes, _of_all)}


def _to_float32(values):
    return ops.cast(values, ms.float32)


def _to_float16(values):
    """Rounds float64 values once: a cast would round to float32 first, and from there to float16."""
    single = ops.cast(values, ms.float32)
    half = ops.cast(ops.cast(single, ms.float16), ms.float32)
    across = 2 * single - half  # the other float16 beside it, if it is in the middle of two
    is_middle = ops.logical_and(ops.cast(ops.cast(across, ms.float16), ms.float32) == across, across != half)
    error = values - ops.cast(single, ms.float64)
    up = ops.logical_and(error > 0, across > half)
    down = ops.logical_and(error < 0, across < half)
    return ops.cast(ops.select(ops.logical_and(is_middle, ops.logical_or(up, down)), across, half), ms.float16)


# ----------------------------------------------------------------------------------------------------------------------
# Cells


class _Operator(nn.Cell):
    """What loss and gradient have in common, for a reduction and a rounding to the dtype of the input."""

    def __init__(self, reduction, rounded):
        super().__init__()
        self.divisor, self.reduce = _REDUCTIONS[reduction]
        self.rounded = rounded
        # In PyNative, MindSpore would make all numbers within a network of the levels O2 and O3 float16.
        self.mixed_precision_type = MixedPrecisionType.NOTSET


class _Gradient(_Operator):
    """(input, labels, dout) -> gradient of input. It is linear in dout and piecewise constant in input."""

    def construct(self, input, labels, dout):
        scale = ops.cast(dout, ms.float64).reshape((-1, 1)) / self.divisor(input)
        return self.rounded(_row_gradients(input, labels, scale)).reshape(input.shape)

    def bprop(self, input, labels, dout, output, doutput):
        slope = self.construct(input, labels, _ones_like(dout))
        product = ops.cast(slope, ms.float64) * ops.cast(doutput, ms.float64)
        of_dout = self.reduce(product.sum(-1), input)
        return zeros_like(input), zeros_like(labels), ops.cast(of_dout, dout.dtype)


class _Loss(_Operator):
    """(input, labels) -> loss."""

    def __init__(self, reduction, rounded):
        super().__init__(reduction, rounded)
        self.gradient = _Gradient(reduction, rounded)

    def construct(self, input, labels):
        return self.rounded(self.reduce(_row_sums(input, labels) / self.divisor(input), input))

    def bprop(self, input, labels, output, doutput):
        return self.gradient(input, labels, doutput), zeros_like(labels)


# For arguments that have been checked, by the reduction.
float16_losses = {reduction: _Loss(reduction, _to_float16) for reduction in _REDUCTIONS}
float32_losses = {reduction: _Loss(reduction, _to_float32) for reduction in _REDUCTIONS}
