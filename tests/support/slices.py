"""Runs the kernels of classes divided over ranks (custom_ops/ranks.h) through the AOT signature, all ranks in one
process.

usage: python -m tests.support.slices

Compares them, and the linear layer of one process, with the operator that has all classes, and with the reference, over
a grid of sizes. Prints a digest of all results, for comparing runs with other numbers of threads bit by bit. MLML_SIMD
and OMP_NUM_THREADS choose what the library runs.
"""

import hashlib

import numpy as np

from tests.support.cases import DTYPES, REDUCTIONS
from tests.support.linear import (
    bits,
    call,
    check_gradients,
    check_linear,
    check_losses,
    random_dout,
    random_labels,
    random_layer,
    reference,
    saved_size,
)

LINEAR = "LinearSharded"
_CHECKSUMS = 16  # numbers in the header
# Numbers of classes and of labels for each way of counting, and for few pairs; the last tile is not full.
SIZES = ((7, 3), (300, 3), (1500, 20), (3001, 100), (5000, 600), (70001, 5))
# Of rows, features, classes and labels: rows are worked on 256 at a time, classes 1024.
LINEAR_SIZES = ((3, 1, 1, 1), (5, 3, 7, 3), (1, 33, 1500, 1), (300, 5, 1025, 4), (3, 16, 5000, 100), (2, 4, 40000, 5))


def place(num_classes, rank=0, ranks=1):
    return np.array([num_classes, rank, ranks, *[0] * ranks], np.int64)


def exchange(symbol, firsts, places):
    """What each rank knows before the last step: header, target scores, partial, and, of a linear layer, what it has
    saved. ``firsts`` are each one's inputs."""
    ranks, (rows, num_labels) = len(firsts), firsts[0][1].shape
    exchanged, saved = [], [()] * ranks
    if symbol == LINEAR:
        sizes = [saved_size(rows, *weight.shape, num_labels) for _, _, weight, _ in firsts]
        saved = [(np.full(size, 7, np.int32),) for size in sizes]
    for step, size in (
        ("Header", ranks + _CHECKSUMS),
        ("TargetScores", (rows, num_labels)),
        ("Partial", rows * (2 * ranks + num_labels)),
    ):
        outputs = [np.full(size, 7, np.float32) for _ in firsts]
        for first, of_rank, output, own in zip(firsts, places, outputs, saved):
            call(f"{symbol}{step}", *first, of_rank, *exchanged, output, *(own if step == "Partial" else ()))
        with np.errstate(invalid="ignore"):
            exchanged.append(np.sum(outputs, axis=0, dtype=np.float32))
    return [(*exchanged, *own) for own in saved]


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
    for part, of_rank, others in zip(slices, places, exchanged):
        known = (part, labels, of_rank, *others)
        losses.append(call(f"ClassParallel{name}", *known, np.full_like(dout, 7)))
        gradients.append(call(f"ClassParallelGrad{name}", *known, dout, np.full_like(part, 7)))
    return losses, np.concatenate(gradients, axis=1)


def linear(features, weight, bias, labels, reduction, dout, cuts=()):
    """The loss on each rank, and the gradients of features, weight and bias put together."""
    name = reduction.capitalize()
    firsts = [(features, labels, *parts) for parts in zip(np.split(weight, cuts), np.split(bias, cuts))]
    places = [place(len(weight), rank, len(firsts)) for rank in range(len(firsts))]
    exchanged = exchange(LINEAR, firsts, places)
    losses, gradients = [], []
    for first, of_rank, others in zip(firsts, places, exchanged):
        known = (*first, of_rank, *others)
        losses.append(call(f"{LINEAR}{name}", *known, np.full_like(dout, 7)))
        outputs = [np.full_like(array, 7) for array in (first[0], *first[2:])]
        gradients.append(call(f"{LINEAR}Grad{name}", *known, dout, *outputs, outputs=3))
    of_features = np.sum([of_rank[0] for of_rank in gradients], axis=0)
    rest = [np.concatenate(parts) for parts in list(zip(*gradients))[1:]]
    return losses, (of_features, *rest)


def random_cuts(rng, classes, slices):
    """Where uneven slices end."""
    return sorted(rng.choice(np.arange(1, classes), slices - 1, replace=False)) if slices > 1 else []


def check_class_parallel(rng, input, labels, slices, reduction, cuts=None):
    """Compares slices with the whole operator; returns what is to be the same for any number of threads."""
    dout = random_dout(rng, len(input), reduction, input.dtype)
    loss, gradient = whole(input, labels, reduction, dout)
    cuts = random_cuts(rng, input.shape[1], slices) if cuts is None else cuts
    losses, of_slices = class_parallel(input, labels, cuts, reduction, dout)
    check_losses(losses, loss, 2)
    np.testing.assert_array_equal(of_slices, gradient)
    return losses[0].tobytes() + of_slices.tobytes()


def check_sharded(rng, layer, labels, reduction, cuts=()):
    """Compares a linear layer in slices with the reference, and with the one that has all classes; returns what is to
    be the same for any number of threads."""
    dout = random_dout(rng, len(labels), reduction, layer[0].dtype)
    loss, expected = reference(*layer, labels, reduction, dout)
    losses, gradients = linear(*layer, labels, reduction, dout, cuts)
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
            reduction = REDUCTIONS[count % 3]
            digest.update(check_sharded(rng, layer, labels, reduction, cuts))
            digest.update(bits(*check_linear(rng, layer, labels, reduction)))
            count += 2
    return count, digest.hexdigest()


if __name__ == "__main__":
    print(*run_grid())
