"""Batches that several tests use, and the numbers that go through all of them."""

import numpy as np

REDUCTIONS = ("none", "mean", "sum")
DTYPES = (np.float16, np.float32)

EXAMPLE_INPUT = np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]], np.float32)
EXAMPLE_TARGET = np.array([[1, 2, 0, 3], [2, 3, -1, 1]], np.int32)

NAN, INF = np.nan, np.inf

# The semantics, row by row: (scores, labels).
SEMANTICS = {
    "one target": ([0.5, -1, 2, 0.25], [1, -1, 0, 2]),
    "no terminator: every label counts": ([0.5, -1, 2, 0.25], [1, 0, 1, 2]),
    "what stands after the terminator is not looked at": ([0.5, -1, 2, 0.25], [1, -1, 1000, -7]),
    "any negative value ends the list": ([0.5, -1, 2, 0.25], [1, -5, 2, -1]),
    "the smallest int32 ends the list": ([0.5, -1, 2, 0.25], [1, -(2**31), 2, -1]),
    "a repeated class counts once per occurrence": ([0.5, -1, 2, 0.25], [1, 1, 1, -1]),
    "no target": ([0.5, -1, 2, 0.25], [-1, 0, 1, 2]),
    "no target, NaN": ([0.5, NAN, 2, 0.25], [-1, 0, 1, 2]),
    "all classes are targets": ([0.5, -1, 2, 0.25], [3, 2, 1, 0]),
    "all margins met": ([9, -1, -2, -3], [0, -1, 0, 0]),
    "ties are inactive": ([2, 1, 1, 1], [0, -1, 0, 0]),
    "NaN at another class": ([0.5, NAN, 2, 0.25], [0, -1, 0, 0]),
    "NaN at a target": ([NAN, 0.5, 2, 0.25], [0, -1, 0, 0]),
    "NaN, all classes are targets": ([NAN, 0.5, 2, 0.25], [0, 1, 2, 3]),
    "+inf at another class": ([0.5, INF, 2, 0.25], [0, -1, 0, 0]),
    "-inf at another class": ([0.5, -INF, 2, 0.25], [0, -1, 0, 0]),
    "+inf at a target": ([INF, 0.5, 2, 0.25], [0, -1, 0, 0]),
    "-inf at a target": ([-INF, 0.5, 2, 0.25], [0, -1, 0, 0]),
    "+inf at a target and another class": ([INF, INF, 2, 0.25], [0, -1, 0, 0]),
    "-inf at a target and another class": ([-INF, -INF, 2, 0.25], [0, -1, 0, 0]),
    "-inf at a target, +inf at another class": ([-INF, INF, 2, 0.25], [0, -1, 0, 0]),
    "+inf at a target, -inf at another class": ([INF, -INF, 2, 0.25], [0, -1, 0, 0]),
    "infinities at targets only": ([INF, -INF, 2, 0.25], [0, 1, 2, 3]),
    "+inf at one of two targets": ([INF, 1, 2, 0.25], [0, 1, -1, 0]),
    "-inf at one of two targets, masked classes": ([0.5, -INF, -INF, 0.25], [0, 1, -1, 0]),
    "masked classes": ([0.5, 1, -INF, -INF], [0, 1, -1, 0]),
}


def random_batch(rng, rows, classes, max_targets, dtype=np.float32):
    """Normal scores; each row has up to ``max_targets`` distinct targets, and junk after the terminator."""
    input = rng.standard_normal((rows, classes)).astype(dtype)
    target = rng.integers(-3, classes, (rows, classes)).astype(np.int32)
    for row in target:
        count = rng.integers(0, min(max_targets, classes) + 1)
        row[:count] = rng.permutation(classes)[:count]
        if count < classes:
            row[count] = -1
    return input, target


def batch_of(rng, shape, most=5):
    """A random batch of shape (N, C), or a row of shape (C,)."""
    input, target = random_batch(rng, shape[0] if len(shape) == 2 else 1, shape[-1], most)
    return input.reshape(shape), target.reshape(shape)
