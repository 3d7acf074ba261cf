"""Measures the CPU kernels alone against the time to stream their bytes, for each instruction set.

usage: python benchmarks/kernels.py [--library FILE] [--isas avx2 avx512] [--targets 1 5 ...] [--dtypes float32 float16]
                                    [--shape N C] [--met] [--rounds R]

Prints, for each number of targets T, the time of the forward kernel over that of reading the scores, and the time of
the backward kernel over that of reading the scores and writing the gradient; float16 is also set against float32's
time. With --met, one class in a hundred exceeds the least threshold and the others none, as late in training. Each
figure is the median of one run in which all take turns; with --rounds, the least of R runs.

To compare methods, build the library with each of them forced, for example
    CXXFLAGS=-DMLML_METHOD=kSegments MLML_WITH_CUDA=0 python setup.py build --build-base=/tmp/b --build-lib=/tmp/b
and measure /tmp/b/mindspore_mlml/_cpu.so.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.measure import Stream, interleaved_medians
from tests.support.aot import Kernel

LIBRARY = Path(__file__).resolve().parent.parent / "mindspore_mlml" / "_cpu.so"
TARGETS = (1, 5, 8, 19, 32, 76, 130, 500, 5000)


def make(rows, classes, targets, met):
    """Normal scores and distinct random targets, as labels of T columns."""
    rng = np.random.default_rng(targets)
    input = rng.standard_normal((rows, classes), np.float32)
    target = np.stack([rng.choice(classes, targets, replace=False) for _ in range(rows)]).astype(np.int32)
    if met:
        # The least threshold is that of a target at 1 - 0.5: one class in a hundred is above it.
        np.clip(input, -4, -0.75, out=input)
        np.copyto(input, np.abs(input), where=rng.random(input.shape, np.float32) < 0.01)
        own = rng.uniform(0.5, 3, target.shape).astype(np.float32)
        own[:, 0] = 0.5
        np.put_along_axis(input, target, own, axis=1)
    return input, target


def measure(arguments):
    """The ratios of one instruction set, as lines of text."""
    rows, classes = arguments.shape
    stream = Stream(int(os.environ["OMP_NUM_THREADS"]))
    print(f"{'T':>5} {'dtype':>8} {'forward':>8} {'backward':>8} {'fwd ns':>7} {'bwd ns':>7} {'read GB/s':>9}")
    for targets in arguments.targets:
        input, target = make(rows, classes, targets, arguments.met)
        for dtype in arguments.dtypes:
            scores = input.astype(dtype)
            gradient, one = np.zeros_like(scores), np.ones((), dtype)
            forward = Kernel(arguments.library, "MultilabelMarginLossMean")
            backward = Kernel(arguments.library, "MultilabelMarginLossGradMean")
            functions = {
                "forward": forward.prepare(scores, target, np.empty((), dtype)),
                "read": stream.read(scores),
                "backward": backward.prepare(scores, target, one, gradient),
                "copy": stream.copy(scores, gradient),
            }
            runs = [interleaved_medians(functions, 0.6, 3) for _ in range(arguments.rounds)]
            least = {name: min(run[name] for run in runs) for name in functions}
            each = 1e9 * int(os.environ["OMP_NUM_THREADS"]) / scores.size
            print(
                f"{targets:>5} {dtype:>8} {least['forward'] / least['read']:>8.2f}"
                f" {least['backward'] / least['copy']:>8.2f} {least['forward'] * each:>7.2f}"
                f" {least['backward'] * each:>7.2f} {scores.nbytes / least['read'] / 1e9:>9.1f}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", metavar="FILE", default=str(LIBRARY))
    parser.add_argument("--isas", nargs="*", default=["avx2", "avx512"])
    parser.add_argument("--targets", nargs="*", type=int, default=TARGETS)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float16"])
    parser.add_argument("--shape", nargs=2, type=int, default=[64, 205443])
    parser.add_argument("--met", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    threads = os.environ.setdefault("OMP_NUM_THREADS", "2")
    if os.environ.get("MLML_SIMD") in arguments.isas:
        measure(arguments)
        return
    print(json.dumps({"threads": threads, **vars(arguments)}))
    for isa in arguments.isas:
        print(f"\n{isa}", flush=True)
        subprocess.run([sys.executable, *sys.argv], env={**os.environ, "MLML_SIMD": isa}, check=True)


if __name__ == "__main__":
    main()
