"""Measures the CPU kernels alone against the time to stream their bytes, for each instruction set that there is.

usage: python -m benchmarks.kernels [--isas avx2 ...] [--targets 1 5 ...] [--dtypes float32 float16] [--shape N C]
                                    [--met] [--library FILE]

Prints, for each number of targets T, the time of the forward kernel over that of reading the scores, and the time of
the backward kernel over that of reading the scores and writing the gradient; and the time of a score and thread. With
--met, one class in a hundred exceeds the least threshold and the others none, as late in training. Each figure is a
median of one run in which all take turns.

row_method.h says up to how many targets each method is used. To compare methods, build the library with each of them
forced, for example
    CXXFLAGS=-DMLML_METHOD=kSegments MLML_WITH_CUDA=0 python setup.py build --build-base=/tmp/b --build-lib=/tmp/b
and measure /tmp/b/mindspore_mlml/_cpu.so.
"""

import argparse
import ctypes
import json
import os
from pathlib import Path

import numpy as np

from benchmarks.measure import Limits, as_json, interleaved_medians
from tests.support.aot import Kernel
from tests.support.processes import run_python

LIBRARY = Path(__file__).resolve().parent.parent / "mindspore_mlml" / "_cpu.so"
TARGETS = (1, 5, 8, 19, 32, 76, 130, 500, 5000)
SHAPE = (64, 205443)


def supported_isas():
    """The names of the instruction sets that this processor has, the best first."""
    names = ctypes.CDLL(str(LIBRARY)).MultilabelMarginLossIsas
    names.restype = ctypes.c_char_p
    return names().decode().split()


def make(shape, targets, met):
    """Normal scores and distinct random targets, as labels of T columns."""
    rows, classes = shape
    rng = np.random.default_rng(targets)
    input = rng.standard_normal(shape, np.float32)
    target = np.stack([rng.choice(classes, targets, replace=False) for _ in range(rows)]).astype(np.int32)
    if met:
        # The least threshold is that of a target at 1 - 0.5: one class in a hundred is above it.
        np.clip(input, -4, -0.75, out=input)
        np.copyto(input, np.abs(input), where=rng.random(input.shape, np.float32) < 0.01)
        own = rng.uniform(0.5, 3, target.shape).astype(np.float32)
        own[:, 0] = 0.5
        np.put_along_axis(input, target, own, axis=1)
    return input, target


def against_stream(scores, target, library, threads):
    """The times of the kernels in use and of streaming their bytes, and their ratios."""
    dtype = scores.dtype
    gradient, one = np.zeros_like(scores), np.ones((), dtype)
    limits = Limits(threads)
    forward, backward = (Kernel(library, f"MultilabelMarginLossFromLabels{end}") for end in ("Mean", "GradMean"))
    times = interleaved_medians(
        {
            "forward": forward.prepare(scores, target, np.empty((), dtype)),
            "read": limits.read(scores),
            "backward": backward.prepare(scores, target, one, gradient),
            "copy": limits.copy(scores, gradient),
        },
        1.0,
        3,
    )
    times["forward / read"] = times["forward"] / times["read"]
    times["backward / copy"] = times["backward"] / times["copy"]
    return times


def measure(arguments, threads):
    """The results of the instruction set in use, by dtype and number of targets; prints them."""
    results = {}
    rows, classes = arguments.shape
    print(f"{'T':>5} {'dtype':>8} {'forward':>8} {'backward':>8} {'ns, forward':>12} {'backward':>8} {'read GB/s':>10}")
    for targets in arguments.targets:
        input, target = make(arguments.shape, targets, arguments.met)
        for dtype in arguments.dtypes:
            times = against_stream(input.astype(dtype), target, arguments.library, threads)
            results.setdefault(dtype, {})[targets] = times
            each = 1e9 * threads / (rows * classes)
            rate = rows * classes * np.dtype(dtype).itemsize / times["read"] / 1e9
            print(
                f"{targets:>5} {dtype:>8} {times['forward / read']:>8.2f} {times['backward / copy']:>8.2f}"
                f" {times['forward'] * each:>12.3f} {times['backward'] * each:>8.3f} {rate:>10.1f}",
                flush=True,
            )
    return results


def of_each_isa(isas, *options):
    """The results of this program for each of the instruction sets, in a process of its own; prints them."""
    results = {}
    for isa in isas:
        output = run_python("-m", "benchmarks.kernels", "--isas", isa, "--json", *options, MLML_SIMD=isa)
        print(output.rsplit("\n", 2)[0], flush=True)
        results[isa] = json.loads(output.splitlines()[-1])
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", metavar="FILE", default=str(LIBRARY))
    parser.add_argument("--isas", nargs="*", default=supported_isas())
    parser.add_argument("--targets", nargs="*", type=int, default=TARGETS)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float16"])
    parser.add_argument("--shape", nargs=2, type=int, default=SHAPE)
    parser.add_argument("--met", action="store_true")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    threads = int(os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0)))))
    if os.environ.get("MLML_SIMD") in arguments.isas:
        print(f"\n{os.environ['MLML_SIMD']}, {threads} threads")
        results = measure(arguments, threads)
        if arguments.json:
            print(json.dumps(as_json(results)))
        return
    options = ["--library", arguments.library, *(["--met"] if arguments.met else [])]
    for name in ("targets", "dtypes", "shape"):
        options += [f"--{name}", *map(str, getattr(arguments, name))]
    of_each_isa(arguments.isas, *options)


if __name__ == "__main__":
    main()
