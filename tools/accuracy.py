#!/usr/bin/env python3
"""Measures the largest error of the CPU kernels, in units in the last place, over a wide grid; beside it PyTorch's.

usage: python -m tools.accuracy [--library FILE] [--quick]

The exact loss of a row is the formula in long double; an exact gradient is a whole number over C: a pair is active,
in float32, if (1 - p) + x > 0. An error is counted in units in the last place of the exact result in the output's
dtype. The loss is also given relative to what its terms are made of: 1 + twice the largest score, times T, times 2^-24,
for with scores far from zero the rounding of 1 - p alone decides. Exits non-zero if an error is larger than promised.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from tests.support.aot import Kernel

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "mindspore_mlml" / "_cpu.so"
CLASSES = (4, 17, 100, 1000, 10_000, 100_000)
TARGETS = (1, 2, 5, 9, 32, 76, 255, 256, 500, 5000)
PROMISED = {np.float32: {"loss, ulp": 2.0}, np.float16: {"loss, ulp": 0.51}}
PROMISED_FOR_ALL = {"loss, of its terms' rounding": 1.0, "gradient, ulp": 0.5 + 1e-6}
SPREADS = (0.1, 1.0, 10.0)  # standard deviation of the scores
OFFSETS = (0.0, 100.0)


def normal(rng, classes, targets, spread, offset):
    """Scores, and that many targets among them."""
    return rng.standard_normal(classes) * spread + offset, rng.permutation(classes)[:targets]


# Where roundings are not independent, or few terms make the loss.
def few_active(rng, classes, targets):
    x, labels = normal(rng, classes, targets, 1, 0)
    x[rng.permutation(classes)[:20]] = rng.uniform(1, 4, min(20, classes))
    x[labels] = np.abs(x[labels]) + 3
    return x, labels


def equal_targets(rng, classes, targets):
    x, labels = normal(rng, classes, targets, 1, 0)
    x[labels] = 0.123
    return x, labels


def outlier(rng, classes, targets):
    x, labels = normal(rng, classes, targets, 1, 0)
    x[labels] = rng.normal(0.7, 0.01, targets)
    x[labels[0]] = -5
    return x, labels


def clusters(rng, classes, targets):
    x, labels = normal(rng, classes, targets, 1, 0)
    x[labels] = rng.normal(0.7, 0.01, targets)
    x[labels[::4]] = rng.normal(-6, 0.1, len(labels[::4]))
    return x, labels


def grid():
    """(C, T, how scores are made, its further arguments, seed)."""
    ways = [(normal, (spread, offset)) for spread in SPREADS for offset in OFFSETS]
    ways += [(way, ()) for way in (few_active, equal_targets, outlier, clusters)]
    for c in CLASSES:
        for t in TARGETS:
            if t < c and t * c <= 2_000_000:
                for way, arguments in ways:
                    for seed in range(2):
                        yield c, t, way, arguments, seed


def exact(x, targets):
    """Loss in long double, and the whole numbers whose quotients by C are the gradient."""
    wide = x.astype(np.longdouble)
    others = np.setdiff1d(np.arange(x.size), targets)
    loss = np.longdouble(0)
    counts = np.zeros(x.size, np.int64)
    single = x.astype(np.float32)
    for target in targets:
        loss += np.maximum(0, 1 - wide[target] + wide[others]).sum()
        active = (np.float32(1) - single[target]) + single[others] > 0
        counts[others] += active
        counts[target] -= active.sum()
    return loss / x.size, counts


def units(actual, expected, dtype):
    """The largest difference in units in the last place of the exact result."""
    expected = np.asarray(expected, np.longdouble)
    place = np.spacing(np.abs(expected).astype(dtype).astype(np.float64).astype(dtype)).astype(np.longdouble)
    return float((np.abs(np.asarray(actual, np.longdouble) - expected) / place).max())


def kernels(library):
    """A function that gives loss and gradient by the kernels of a library."""
    forward = Kernel(library, "MultilabelMarginLossFromLabelsNone")
    backward = Kernel(library, "MultilabelMarginLossFromLabelsGradNone")

    def run(x, target):
        loss, gradient = np.zeros(1, x.dtype), np.zeros((1, x.size), x.dtype)
        forward.prepare(x[None], target[None], loss)()
        backward.prepare(x[None], target[None], np.ones(1, x.dtype), gradient)()
        return loss[0], gradient[0]

    return run


def pytorch(x, target):
    """Loss and gradient by PyTorch, which has no float16 on a CPU."""
    import torch  # noqa: PLC0415

    leaf = torch.tensor(x, requires_grad=True)
    loss = torch.nn.functional.multilabel_margin_loss(leaf, torch.tensor(target).long())
    loss.backward()
    return loss.item(), leaf.grad.numpy()


def measure(implementation, dtype, cases):
    """The largest errors over the cases, and the case of each."""
    worst = {"loss, ulp": 0.0, "loss, of its terms' rounding": 0.0, "gradient, ulp": 0.0}
    for c, t, way, arguments, seed in cases:
        rng = np.random.default_rng([c, t, *way.__name__.encode(), *(int(10 * value) for value in arguments), seed])
        x, labels = way(rng, c, t, *arguments)
        x = x.astype(dtype)
        target = np.full(c, -1, np.int32)
        target[:t] = labels
        loss, counts = exact(x, labels)
        actual_loss, actual_gradient = implementation(x, target)
        if 100.0 not in arguments and loss > 0:
            worst["loss, ulp"] = max(worst["loss, ulp"], units(actual_loss, loss, dtype))
        if dtype == np.float32:
            terms = (1 + 2 * float(np.abs(x).max())) * t * 2.0**-24
            error = float(abs(np.longdouble(actual_loss) - loss)) / terms
            worst["loss, of its terms' rounding"] = max(worst["loss, of its terms' rounding"], error)
        share = counts.astype(np.longdouble) / c
        worst["gradient, ulp"] = max(worst["gradient, ulp"], units(actual_gradient, share, dtype))
    return worst


def is_as_promised(worst, dtype):
    return all(worst[name] <= most for name, most in {**PROMISED[dtype], **PROMISED_FOR_ALL}.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", metavar="FILE", default=LIBRARY)
    parser.add_argument("--quick", action="store_true", help="the smaller cases, without PyTorch")
    arguments = parser.parse_args()
    few = [case for case in grid() if case[0] * case[1] <= 200_000]
    cases = few if arguments.quick else list(grid())
    ours = {dtype: measure(kernels(arguments.library), dtype, cases) for dtype in PROMISED}
    results = {f"ours, {np.dtype(dtype).name}": worst for dtype, worst in ours.items()}
    if not arguments.quick:
        try:
            results["PyTorch, float32, the smaller cases"] = measure(pytorch, np.float32, few)
        except ImportError:
            print("PyTorch is not installed.")
    print(f"{len(cases)} cases")
    print(json.dumps(results, indent=1))
    return 0 if all(is_as_promised(worst, dtype) for dtype, worst in ours.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
