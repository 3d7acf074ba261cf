"""Compares kernels with the reference through the AOT signature, over a grid of sizes.

usage: python kernel_grid.py [LIBRARIES["cpu"]]

The sizes stand around every vector width and every place where the kernels change their method. Prints a digest of all
results, for comparing runs with other numbers of threads bit by bit. MLML_SIMD and OMP_NUM_THREADS choose what the CPU
library runs.
"""

import hashlib
import sys

import numpy as np

from aot import Kernel
from helpers import DTYPES, REDUCTIONS, TOLERANCE
from mindspore_mlml._backends import LIBRARIES
from reference import loss_and_gradient

CLASSES = (1, 3, 4, 5, 15, 16, 17, 31, 63, 64, 65, 129, 257, 1023, 1024, 1025, 2113, 33000)
TARGETS = (0, 1, 2, 3, 5, 7, 8, 9, 13, 14, 16, 17, 20, 21, 31, 40, 41, 45, 46, 63, 64, 96, 97, 127, 128, 130, 131, 801)
GUARD = 64
POISON = 0x5A


def guarded(shape, dtype):
    """An uninitialised array with guard bytes on both sides, and the buffer that has both."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.full(size + 2 * GUARD, POISON, np.uint8)
    return buffer[GUARD : GUARD + size].view(dtype).reshape(shape), buffer


def run(kernel, *inputs, shape):
    """Runs the kernel; checks that it changed nothing but its output."""
    copies = [array.copy() for array in inputs]
    output, buffer = guarded(shape, inputs[0].dtype)
    kernel.prepare(*inputs, output)()
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(inputs, copies)), "an input was changed"
    guards = np.concatenate([buffer[:GUARD], buffer[-GUARD:]])
    assert (guards == POISON).all(), "something was written beside the output"
    return output


def case(rng, classes, targets, dtype):
    """Three rows: distinct targets, targets with repeats, scores with ties; now and then one that is not finite, or one
    in which most margins are met."""
    input = rng.standard_normal((3, classes)).astype(dtype)
    input[2] = np.round(input[2] * 4) / 4
    target = rng.integers(-9, classes, (3, classes)).astype(np.int32)
    for row, labels in enumerate(
        (rng.permutation(classes), rng.integers(0, classes, classes), rng.permutation(classes))
    ):
        target[row, :targets] = labels[:targets]
        if targets < classes:
            target[row, targets] = -1
    if rng.integers(4) == 0:  # late in training: few margins are not met
        input[1, target[1, :targets]] = 4
    special = (np.nan, np.inf, -np.inf, None, None, None, None, None)[rng.integers(8)]
    if special is not None:
        input[rng.integers(3), rng.integers(classes)] = special
    if rng.integers(8) == 0:  # masked classes
        input[0, rng.random(classes) < 0.3] = -np.inf
    return input, target


def main(library, seed=0, kernel=Kernel):
    rng = np.random.default_rng(seed)
    forward = {r: kernel(library, f"MultilabelMarginLoss{r.capitalize()}") for r in REDUCTIONS}
    backward = {r: kernel(library, f"MultilabelMarginLossGrad{r.capitalize()}") for r in REDUCTIONS}
    digest, count = hashlib.sha256(), 0
    for classes in CLASSES:
        for targets in sorted(
            {min(t, classes) for t in TARGETS if classes < 30000 or t < 1000} | {min(classes, 2113), min(classes, 800)}
        ):
            for dtype in DTYPES:
                input, target = case(rng, classes, targets, dtype)
                reduction = REDUCTIONS[rng.integers(3)]
                dout = np.asarray(rng.standard_normal(3 if reduction == "none" else ()), dtype)
                loss = run(forward[reduction], input, target, shape=dout.shape)
                gradient = run(backward[reduction], input, target, dout, shape=input.shape)
                with np.errstate(over="ignore"):
                    expected = [value.astype(dtype) for value in loss_and_gradient(input, target, reduction, dout)]
                tolerance = {"rtol": 2 * TOLERANCE[dtype], "atol": float(np.finfo(dtype).smallest_subnormal)}
                name = f"C={classes} T={targets} {dtype.__name__} {reduction} seed={seed}"
                np.testing.assert_allclose(loss, expected[0], err_msg=name, **tolerance)
                np.testing.assert_allclose(gradient, expected[1], err_msg=name, **tolerance)
                digest.update(loss.tobytes() + gradient.tobytes())
                count += 1
    print(count, digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:] or [LIBRARIES["cpu"]])
