"""Runs the kernels of custom_ops/cpu/slice.h through the AOT signature, all ranks in one process.

usage: python -m tests.support.slices

Compares them with the operator that has all classes, and with the reference, over a grid of sizes. Prints a digest of
all results, for comparing runs with other numbers of threads bit by bit. MLML_SIMD and OMP_NUM_THREADS choose what the
library runs.
"""

import hashlib

import numpy as np

from mindspore_mlml._backends import LIBRARIES
from tests.support.aot import Kernel
from tests.support.cases import DTYPES, REDUCTIONS
from tests.support.reference import loss_and_gradient

_CHECKSUMS = 16  # numbers in the header
# Numbers of classes and of labels for each way of counting, and for few pairs; the last tile is not full.
SIZES = ((7, 3), (300, 3), (1500, 20), (3001, 100), (5000, 600), (70001, 5))
# Of rows, features, classes and labels: rows are worked on 256 at a time, classes 1024.
LINEAR_SIZES = ((3, 1, 1, 1), (5, 3, 7, 3), (1, 33, 1500, 1), (300, 5, 1025, 4), (3, 16, 5000, 100), (2, 4, 40000, 5))


def place(num_classes, rank=0, ranks=1, block=0):
    return np.array([num_classes, rank, ranks, block], np.int64)


def call(symbol, *arrays, outputs=1):
    """Runs a kernel, whose last arrays are what it writes; returns these."""
    Kernel(LIBRARIES["cpu"], f"MultilabelMarginLoss{symbol}").prepare(*arrays)()
    return arrays[-1] if outputs == 1 else arrays[-outputs:]


def exchange(symbol, firsts, places):
    """What the ranks know before the last step: header, target scores, partial. ``firsts`` are each one's inputs."""
    ranks, (rows, num_labels) = len(firsts), firsts[0][1].shape
    exchanged = []
    for step, size in (
        ("Header", ranks + _CHECKSUMS),
        ("TargetScores", (rows, num_labels)),
        ("Partial", rows * (2 * ranks + num_labels)),
    ):
        outputs = [
            call(f"{symbol}{step}", *first, of_rank, *exchanged, np.full(size, 7, np.float32))
            for first, of_rank in zip(firsts, places)
        ]
        with np.errstate(invalid="ignore"):
            exchanged.append(np.sum(outputs, axis=0, dtype=np.float32))
    return exchanged


def whole(input, labels, reduction, dout):
    """Loss and gradient by the operator that has all classes."""
    name = reduction.capitalize()
    loss = call(f"FromLabels{name}", input, labels, np.zeros_like(dout))
    return loss, call(f"FromLabelsGrad{name}", input, labels, dout, np.zeros_like(input))


def class_parallel(input, labels, cuts, reduction, dout):
    """The loss on each rank, and the whole gradient put together, when the scores are cut into slices at ``cuts``."""
    name = reduction.capitalize()
    slices = [np.ascontiguousarray(part) for part in np.split(input, cuts, axis=1)]
    places = [place(input.shape[1], rank, len(slices)) for rank in range(len(slices))]
    exchanged = exchange("ClassParallel", [(part, labels) for part in slices], places)
    losses, gradients = [], []
    for part, of_rank in zip(slices, places):
        known = (part, labels, of_rank, *exchanged)
        losses.append(call(f"ClassParallel{name}", *known, np.full_like(dout, 7)))
        gradients.append(call(f"ClassParallelGrad{name}", *known, dout, np.full_like(part, 7)))
    return losses, np.concatenate(gradients, axis=1)


def linear(features, weight, bias, labels, reduction, dout, block=0, cuts=()):
    """The loss on each rank, and the gradients of features, weight, and bias, if there is one, put together."""
    symbol, name = "Linear" if bias is None else "LinearWithBias", reduction.capitalize()
    weights = np.split(weight, cuts)
    biases = [()] * len(weights) if bias is None else [(part,) for part in np.split(bias, cuts)]
    firsts = [(features, labels, part, *of_bias) for part, of_bias in zip(weights, biases)]
    places = [place(len(weight), rank, len(weights), block) for rank in range(len(weights))]
    exchanged = exchange(symbol, firsts, places)
    losses, gradients = [], []
    for first, of_rank in zip(firsts, places):
        known, differentiated = (*first, of_rank, *exchanged), (first[0], *first[2:])
        losses.append(call(f"{symbol}{name}", *known, np.full_like(dout, 7)))
        outputs = [np.full_like(array, 7) for array in differentiated]
        gradients.append(call(f"{symbol}Grad{name}", *known, dout, *outputs, outputs=len(outputs)))
    of_features = np.sum([of_rank[0] for of_rank in gradients], axis=0)
    rest = [np.concatenate(parts) for parts in list(zip(*gradients))[1:]]
    return losses, (of_features, *rest)


def linear_reference(features, weight, bias, labels, reduction, dout):
    """Loss and gradients of the same in float64: Dense followed by the loss. Exact, if the scores are."""
    features, weight = (array.astype(np.float64) for array in (features, weight))
    with np.errstate(invalid="ignore"):
        scores = features @ weight.T + (0 if bias is None else bias.astype(np.float64))
        loss, of_scores = loss_and_gradient(scores, labels, reduction, dout)
        gradients = (of_scores @ weight, of_scores.T @ features)
    return loss, gradients if bias is None else (*gradients, of_scores.sum(axis=0))


def random_labels(rng, rows, classes, num_labels):
    """Rows with all labels, some of them repeated, with a few, with none, and so on."""
    labels = rng.integers(0, classes, (rows, num_labels)).astype(np.int32)
    for row in range(1, rows):
        count = 0 if row % 4 == 2 else rng.integers(0, num_labels + 1)
        if count < num_labels:
            labels[row, count] = -1
    if num_labels > 2:
        labels[0, 2] = labels[0, 0]
    return labels


def random_layer(rng, rows, features, classes, dtype=np.float32, weight_dtype=None):
    """Features, weight and bias that give exact scores, also in float16: no pair is active or not by rounding. Many of
    the pairs are just not active."""
    return (
        rng.integers(-2, 3, (rows, features)).astype(dtype),
        (rng.integers(-4, 5, (classes, features)) / 8).astype(weight_dtype or dtype),
        (rng.integers(-8, 9, classes) / 8).astype(weight_dtype or dtype),
    )


def random_dout(rng, rows, reduction, dtype):
    return np.asarray(rng.standard_normal(rows if reduction == "none" else ()), dtype)


def random_cuts(rng, classes, slices):
    """Where uneven slices end."""
    return sorted(rng.choice(np.arange(1, classes), slices - 1, replace=False)) if slices > 1 else []


def check_losses(losses, expected, ulps, message=""):
    """Those of all ranks are the same, and as near as said to what is expected."""
    for loss in losses:
        assert loss.tobytes() == losses[0].tobytes(), message
    with np.errstate(over="ignore"):
        np.testing.assert_array_max_ulp(losses[0], np.asarray(expected, losses[0].dtype), ulps)


def check_class_parallel(rng, input, labels, slices, reduction, cuts=None):
    """Compares slices with the whole operator; returns what is to be the same for any number of threads."""
    dout = random_dout(rng, len(input), reduction, input.dtype)
    loss, gradient = whole(input, labels, reduction, dout)
    cuts = random_cuts(rng, input.shape[1], slices) if cuts is None else cuts
    losses, of_slices = class_parallel(input, labels, cuts, reduction, dout)
    check_losses(losses, loss, 2)
    np.testing.assert_array_equal(of_slices, gradient)
    return losses[0].tobytes() + of_slices.tobytes()


def check_gradients(gradients, expected, slices=1):
    """How far one may be from float64 is relative to the largest: float32 is added, which shows with many rows, and
    rounded. Of slices, the gradient of the features is the sum, each part of which is rounded."""
    rows = len(gradients[0])
    for index, (gradient, wanted) in enumerate(zip(gradients, expected)):
        assert gradient.shape == wanted.shape
        largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
        tolerance = 1e-6 if rows < 100 else 4e-6
        if gradient.dtype == np.float16:
            tolerance += 2.0**-11 * (slices + 1 if index == 0 and slices > 1 else 1)
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=tolerance * largest)


def check_linear(rng, layer, labels, reduction, block=0, cuts=()):
    """Compares a linear layer's loss with the reference; returns what is to be the same for any number of threads."""
    dout = random_dout(rng, len(labels), reduction, layer[0].dtype)
    loss, expected = linear_reference(*layer, labels, reduction, dout)
    losses, gradients = linear(*layer, labels, reduction, dout, block, cuts)
    check_losses(losses, loss, 4 if layer[0].dtype == np.float32 else 1)
    check_gradients(gradients, expected, len(cuts) + 1)
    return losses[0].tobytes() + b"".join(gradient.tobytes() for gradient in gradients)


def run_grid(seed=0):
    """Checks all sizes; returns how many checks there were, and a digest of the results."""
    rng = np.random.default_rng(seed)
    digest, count = hashlib.sha256(), 0
    for classes, num_labels in SIZES:
        for dtype in DTYPES:
            reduction = REDUCTIONS[count % 3]
            input = rng.standard_normal((5, classes)).astype(dtype)
            labels = random_labels(rng, 5, classes, num_labels)
            for slices in (1, 2, 4):
                digest.update(check_class_parallel(rng, input, labels, slices, reduction))
                count += 1
    for rows, features, classes, num_labels in LINEAR_SIZES:
        for dtype in DTYPES:
            layer = random_layer(rng, rows, features, classes, dtype)
            labels = random_labels(rng, rows, classes, num_labels)
            cuts = random_cuts(rng, classes, min(classes, 1 + count % 3))
            digest.update(check_linear(rng, layer, labels, REDUCTIONS[count % 3], cuts=cuts))
            count += 1
    return count, digest.hexdigest()


if __name__ == "__main__":
    print(*run_grid())
