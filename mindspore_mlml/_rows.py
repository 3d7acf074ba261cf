"""Rows of scores and labels by MindSpore's own operators: what the losses and the primitive that use them share.

A label is listed if it stands before the first negative one of its row. It is a target if it is a class as well.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

INFINITY = Tensor(np.inf, ms.float32)
_NAN = Tensor(np.nan, ms.float32)
_gather = ops.Gather()
_join = ops.Concat()
_least = ops.ReduceMin(keep_dims=True)
_range = ops.Range()
_segment_sums = ops.UnsortedSegmentSum()
_ones_like = ops.OnesLike()
# Not the function of that name: differentiated in graph mode, "The func graph is empty".
zeros_like = ops.ZerosLike()


def any_in_row(condition):
    """Whether there is a True in each row."""
    return ops.cast(condition, ms.float32).sum(-1) > 0


def as_matrix(tensor):
    """A matrix of a tensor's rows. Of an unknown rank, MindSpore takes the first size for ``shape[-1]`` in a MindIR and
    at the syntax level STRICT (2.10), but not in a slice."""
    return tensor.reshape((-1, *tensor.shape[-1:]))


def with_another(rows, value, columns):
    """A matrix with a row of ``value`` more: where there is no row, MindSpore's operators warn, fail or crash. They
    raise an error if the matrix has another number of columns."""
    another = ops.cast(_range(0, columns, 1) * 0 + value, rows.dtype)
    return _join((rows, another.reshape((1, -1))))


def without_last(rows):
    """All rows but the last. Not by a slice, which MindSpore cannot vmap."""
    return _gather(rows, _range(0, rows.shape[0] - 1, 1), 0)


def listed(labels):
    """Which labels are listed, and how many each row has."""
    is_negative = labels < 0
    position = _range(0, is_negative.shape[-1], 1)
    ends = ops.select(is_negative, position, is_negative.shape[-1])
    lengths = _least(ends, -1)
    return position < lengths, lengths


def targets(labels, is_listed, classes):
    """Which labels are targets, and the class of each: 0 where it is none."""
    is_target = ops.logical_and(is_listed, labels < classes)
    return is_target, ops.select(is_target, labels, zeros_like(labels))


def sums_by_place(values, place, size):
    """In each row, the sums of the values that have the place 0, …, size - 1; those with a place < 0 are left out.

    Not by TensorScatterElements: its threads lose some of what they add to the same element at the same time.
    """
    rows = place.shape[0]
    first = _range(0, rows, 1).reshape((-1, 1)) * size
    flat = ops.select(place < 0, ops.cast(place, ms.int64), first + place)
    flat = flat + ops.cast(zeros_like(values), ms.int64)  # vmap has to map both
    sums = _segment_sums(values.reshape((-1,)), flat.reshape((-1,)), ops.cast(rows * size, ms.int64))
    return sums.reshape((rows, size))


def is_among(is_target, index, classes):
    """Which classes of a row are targets."""
    place = ops.select(is_target, index, -_ones_like(index))
    return sums_by_place(_ones_like(index), place, classes) > 0


def has_nan(scores, labels, is_listed):
    """The rows whose loss and gradient are NaN: with a NaN and a target, or with a target that is no class."""
    is_out_of_range = ops.logical_and(is_listed, labels >= scores.shape[-1])
    is_undefined = ops.logical_and(any_in_row(is_listed), any_in_row(ops.isnan(scores)))
    return ops.logical_or(any_in_row(is_out_of_range), is_undefined)


def has_infinite_difference(scores, is_other, target_scores, is_target):
    """The rows whose loss has a hinge of inf - inf: the same infinity at a target and at another class."""
    clashes = zeros_like(is_other)
    for infinity in (INFINITY, -INFINITY):
        at_target = any_in_row(ops.logical_and(is_target, target_scores == infinity)).reshape((-1, 1))
        clashes = ops.logical_or(clashes, scores == ops.select(at_target, infinity, _NAN))
    return any_in_row(ops.logical_and(is_other, clashes))
