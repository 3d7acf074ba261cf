"""Compares kernels with the reference through the AOT signature, over a grid of sizes.

usage: python -m tests.support.kernel_grid [LIBRARY]

The sizes stand around every vector width and every place where the kernels change their method. Prints a digest of all
results, for comparing runs with other numbers of threads bit by bit. MLML_SIMD and OMP_NUM_THREADS choose what the CPU
library runs.
"""

import hashlib
import sys

import numpy as np

from mindspore_mlml._backends import LIBRARIES
from tests.support import sizes
from tests.support.aot import Kernel
from tests.support.cases import DTYPES, REDUCTIONS
from tests.support.guards import are_intact, inside, put_guards
from tests.support.reference import TOLERANCE, loss_and_gradient

# Of the largest sizes, which take the reference long, one: a little more than one piece of a row.
CLASSES = (1, *[classes for classes in sizes.CLASSES if classes < 2000], 2113, max(sizes.CLASSES))
# Beyond those at which the CPU kernels change their method: several trees on a GPU.
TARGETS = (*sizes.TARGETS, 300, 511, 513, 1030)
SIZES = [
    (classes, targets)
    for classes in CLASSES
    for targets in sorted({min(t, classes) for t in TARGETS if classes < 2000 or t < 1000} | {min(classes, 2113)})
]


def run(kernel, *inputs, shape):
    """Runs the kernel; checks that it changed nothing but its output."""
    copies = [array.copy() for array in inputs]
    like = np.full(shape, 7, inputs[0].dtype)
    buffer = put_guards(like)
    output = inside(buffer, like)
    kernel.prepare(*inputs, output)()
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(inputs, copies)), "an input was changed"
    assert are_intact(buffer, like), "something was written beside the output"
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


def main(library, seed=0, kernel=Kernel, grid=SIZES):
    rng = np.random.default_rng(seed)
    forward = {r: kernel(library, f"MultilabelMarginLoss{r.capitalize()}") for r in REDUCTIONS}
    backward = {r: kernel(library, f"MultilabelMarginLossGrad{r.capitalize()}") for r in REDUCTIONS}
    digest, count = hashlib.sha256(), 0
    for classes, targets in grid:
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
