"""The loss by MindSpore's own operators alone: for where none of this package's kernels can run.

The algorithm is theirs (custom_ops/cpu/): the thresholds of a row are sorted, and a score's rank among them determines
what its class adds. With K labels in each row it takes O((C + K)·log K) for a row, and memory for some matrices of N·C
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
_FIRST = Tensor(np.zeros(1), ms.int64)
_MATRIX = Tensor(np.zeros((1, 1)), ms.float32)
_add = ops.AddN()
_cumulative_sum = ops.CumSum()
_depend = ops.Depend()
_gather = ops.Gather()
_join = ops.Concat()
_least = ops.ReduceMin()
_ones_like = ops.OnesLike()
_range = ops.Range()
_relu = ops.ReLU()
_search = ops.SearchSorted()
_sort = ops.Sort()
_tile = ops.Tile()


# ----------------------------------------------------------------------------------------------------------------------
# Rows


def _as_they_are(scores, labels):
    return scores, labels


def _with_another(scores, labels):
    """With a row without labels more, so that the matrices are not empty."""
    return _rows.with_another(scores, 0, scores.shape[-1]), _rows.with_another(labels, -1, labels.shape[-1])


def _with_another_of_targets(scores, targets):
    """The same for a target, which must have as many columns as there are classes."""
    return _rows.with_another(scores, 0, scores.shape[-1]), _rows.with_another(targets, -1, scores.shape[-1])


def _unchecked(input, labels):
    return labels


def _checked(input, labels):
    """The labels. Before, MindSpore's operators raise an error if a size is 0 (Gather), if input and labels have not as
    many dimensions and rows (AddN), or more than two dimensions (Concat)."""
    first_score = ops.cast(_gather(input, _FIRST, -1), ms.float32)
    first = _add((first_score, ops.cast(_gather(labels, _FIRST, -1), ms.float32)))
    return _depend(labels, _join((_tile(first, (1, 1)), _MATRIX)))


def _all(rows):
    return rows


def _read(input, labels, prepared):
    """Scores (in float32) and labels as matrices, which labels are listed, and how many, which are targets, and their
    classes."""
    scores = ops.cast(_rows.as_matrix(input), ms.float32)
    scores, labels = prepared(scores, _rows.as_matrix(labels))
    is_listed, lengths = _rows.listed(labels)
    return scores, labels, is_listed, lengths, *_rows.targets(labels, is_listed, scores.shape[-1])


def _rank(scores, is_target, index):
    """The scores of the targets, which classes are others, and of each row

    - the scores of the others, with -inf for the rest,
    - the thresholds of the labels, with +inf for those that are no targets: neither is active with anything,
    - these sorted, and
    - the ranks of the classes: of how many thresholds the score is greater.
    """
    target_scores = ops.gather_elements(scores, 1, index)
    is_other = ops.logical_not(_rows.is_among(is_target, _mapped_with(index, target_scores), scores.shape[-1]))
    others = ops.select(is_other, scores, -INFINITY)
    thresholds = target_scores - 1
    has_threshold = ops.logical_and(is_target, thresholds < INFINITY)  # NaN, which has none, could not be sorted
    thresholds = ops.select(has_threshold, thresholds, INFINITY)
    ordered, _ = _sort(thresholds)
    return target_scores, is_other, others, thresholds, ordered, _search(ordered, others)


def _mapped_with(integers, values):
    """The integers, for vmap mapped as the values are: it is wrong about an UnsortedSegmentSum that it need not map."""
    return integers + ops.cast(zeros_like(values), integers.dtype)


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


def _row_sums(input, labels, prepared):
    """The sum of each row's hinges, in float64, and the number of classes."""
    scores, labels, is_listed, lengths, is_target, index = _read(input, labels, prepared)
    target_scores, is_other, others, thresholds, ordered, ranks = _rank(scores, is_target, index)
    pairs = lengths * scores.shape[-1]
    few = _sum_of_few(others, thresholds, pairs)
    # What is not finite, or not in float32, is right in the other sum.
    is_few = ops.logical_and(pairs.reshape((-1,)) <= _FEW_PAIRS, few < INFINITY)
    sums = ops.select(is_few, few, _sum_by_rank(others, ordered, ranks))
    is_undefined = _rows.has_infinite_difference(scores, is_other, target_scores, is_target)
    is_undefined = ops.logical_or(is_undefined, _rows.has_nan(scores, labels, is_listed))
    return ops.select(is_undefined, _NAN, sums), scores.shape[-1]


# ----------------------------------------------------------------------------------------------------------------------
# Gradient


def _active_classes(thresholds, ordered, ranks):
    """For each label, the number of classes that it is active with: those whose rank is greater than its own."""
    of_rank = _rows.sums_by_place(_ones_like(ranks), ranks, ordered.shape[-1] + 1)
    up_to = ops.gather_elements(_cumulative_sum(of_rank, 1), 1, _search(ordered, thresholds))
    return ranks.shape[-1] - up_to


def _row_counts(input, labels, prepared):
    """By how many active pairs the sum of a row's hinges grows with the score of each class, and how many labels are
    listed in the row."""
    scores, labels, is_listed, lengths, is_target, index = _read(input, labels, prepared)
    _, _, _, thresholds, ordered, ranks = _rank(scores, is_target, index)
    # In float64: a class that is listed often may be active more often than int32 can count.
    active = ops.cast(_active_classes(thresholds, ordered, ranks), ms.float64)
    place = ops.select(is_target, index, -_ones_like(index))
    counts = ops.cast(ranks, ms.float64) - _rows.sums_by_place(active, place, ranks.shape[-1])
    return ops.select(_rows.has_nan(scores, labels, is_listed).reshape((-1, 1)), _NAN, counts), lengths


# ----------------------------------------------------------------------------------------------------------------------
# What depends on the reduction or on the dtype


def _classes(rows, classes):
    return classes


def _classes_of_all(rows, classes):
    """Those of one row if there is none."""
    return ops.maximum(ops.cast(rows * classes, ms.float64), classes)


def _of_each(values, shape):
    return values.reshape(shape[:-1])


def _of_all(values, shape):
    """With a zero among them, for of no values MindSpore's sum is whatever lay in its memory."""
    return _join((values.reshape((-1,)), _ZERO)).sum()


# reduction -> what sums of hinges are divided by, how they are put together
_REDUCTIONS = {"none": (_classes, _of_each), "mean": (_classes_of_all, _of_all), "sum": (_classes, _of_all)}


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


_ROUNDINGS = (_to_float32, _to_float16)

# Whether shapes are known at run time only -> whether the labels must have the shape of the input -> how the arguments
# are checked, the rows prepared, and their results finished. What is known when a graph is compiled is not empty.
_STATIC = (_unchecked, _as_they_are, _all)
_WAYS = (
    (_STATIC, _STATIC),
    ((_checked, _with_another, _rows.without_last), (_checked, _with_another_of_targets, _rows.without_last)),
)


# ----------------------------------------------------------------------------------------------------------------------
# Cells


class _Operator(nn.Cell):
    """What loss and gradient have in common, for a reduction and a rounding to the dtype of the input."""

    def __init__(self, reduction, rounded, way):
        super().__init__()
        self.divisor, self.reduce = _REDUCTIONS[reduction]
        self.rounded = rounded
        self.checked, self.prepared, self.finished = way
        # In PyNative, MindSpore would make all numbers within a network of the levels O2 and O3 float16.
        self.mixed_precision_type = MixedPrecisionType.NOTSET


class _Gradient(_Operator):
    """(input, labels, dout) -> gradient of input. It is linear in dout and piecewise constant in input."""

    def construct(self, input, labels, dout):
        labels = self.checked(input, labels)
        dout = ops.cast(dout, ms.float64).reshape((-1, 1))
        counts, lengths = _row_counts(input, _mapped_with(labels, dout), self.prepared)
        counts, lengths = self.finished(counts), self.finished(lengths)
        scale = dout / self.divisor(*counts.shape)
        gradients = ops.select(lengths > 0, counts * scale, zeros_like(counts))
        return self.rounded(gradients).reshape(input.shape)

    def bprop(self, input, labels, dout, output, doutput):
        slope = self.construct(input, labels, _ones_like(dout))
        product = ops.cast(slope, ms.float64) * ops.cast(doutput, ms.float64)
        of_dout = self.reduce(product.sum(-1), input.shape)
        return zeros_like(input), zeros_like(labels), ops.cast(of_dout, dout.dtype)


class _Loss(_Operator):
    """(input, labels) -> loss."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.gradient = _Gradient(*arguments)

    def construct(self, input, labels):
        sums, classes = _row_sums(input, self.checked(input, labels), self.prepared)
        sums = self.finished(sums)
        return self.rounded(self.reduce(sums / self.divisor(sums.shape[0], classes), input.shape))

    def bprop(self, input, labels, output, doutput):
        return self.gradient(input, labels, doutput), zeros_like(labels)


# Whether shapes are known at run time only -> whether the labels must have the shape of the input -> whether the input
# is float16 -> reduction -> (input, labels) -> loss
losses = [
    [
        [{reduction: _Loss(reduction, rounded, way) for reduction in _REDUCTIONS} for rounded in _ROUNDINGS]
        for way in ways
    ]
    for ways in _WAYS
]
