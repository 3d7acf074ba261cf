#!/usr/bin/env python3
"""Counts the instructions that the CPU kernels take for each score on aarch64: with NEON, and with the plain code.

usage: python -m tools.instruction_counts [--targets 1 5 ...] [--classes C] [--method kDirect|kSegments|kBuckets]

Needs no such processor: apt-get install g++-aarch64-linux-gnu qemu-user-static. An emulator runs the kernels one
instruction at a time and writes down those of row.cpp. A figure is the difference between a row of 2 C classes and one
of C with the same T targets, divided by C: without what prepares the row. The scores are normal. With --method, both
kernels use that method at every T; row_method.h has the numbers of targets where another one takes over.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.support.aot import RemoteKernel
from tests.support.builds import CROSS_COMPILER, NO_EMULATION, build_emulated_program, can_emulate

TARGETS = (1, 5, 8, 19, 32, 76, 130, 500, 5000)
CODES = {"plain": ["-U__ARM_NEON"], "neon": []}  # without it, simd.h takes the plain code


def range_of_rows(program):
    """The addresses of the code of row.cpp in a program, as qemu's -dfilter takes them."""
    nm = [CROSS_COMPILER.replace("g++", "nm"), "--print-size", "--numeric-sort", program]
    symbols = subprocess.run(nm, capture_output=True, text=True, check=True).stdout.splitlines()
    code = [line.split() for line in symbols if "4mlml4neon" in line and line.split()[2] in "tTwW"]
    (begin, *_), (end, size, *_) = code[0], code[-1]
    return f"{int(begin, 16):#x}..{int(end, 16) + int(size, 16):#x}"


class Counter:
    """Calls kernels in an emulated process, and counts their instructions."""

    def __init__(self, folder, flags):
        *emulator, program = build_emulated_program(folder, "serve.cpp", "-no-pie", *flags)
        options = ["-singlestep", "-d", "exec,nochain", "-dfilter", range_of_rows(program)]
        path = Path(folder, "log")
        with path.open("wb") as log:
            command = [*emulator, *options, program, "default"]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self._log = path.open("rb")

    def count(self, symbol, *arrays):
        RemoteKernel(self._process, symbol).prepare(*arrays)()
        lines = sum(chunk.count(b"\n") for chunk in iter(lambda: self._log.read(1 << 20), b""))
        return lines

    def close(self):
        self._process.communicate()
        self._log.close()


def per_score(counter, targets, classes, dtype):
    """The instructions for each score, of the forward and of the backward kernel."""
    rng = np.random.default_rng(targets)
    input = rng.standard_normal((1, 2 * classes)).astype(dtype)
    labels = rng.permutation(classes)[None, :targets].astype(np.int32)
    one, counts = np.ones((), dtype), []
    for size in (classes, 2 * classes):
        scores = np.ascontiguousarray(input[:, :size])
        forward = counter.count("MultilabelMarginLossFromLabelsMean", scores, labels, np.empty((), dtype))
        backward = counter.count("MultilabelMarginLossFromLabelsGradMean", scores, labels, one, np.empty_like(scores))
        counts.append(np.array([forward, backward]))
    return (counts[1] - counts[0]) / classes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", type=int, default=TARGETS)
    parser.add_argument("--classes", type=int, default=8192, help="at least as many as targets")
    parser.add_argument("--method", choices=["kDirect", "kSegments", "kBuckets"])
    arguments = parser.parse_args()
    if not can_emulate():
        sys.exit(NO_EMULATION)
    forced = [] if arguments.method is None else [f"-DMLML_METHOD={arguments.method}"]
    columns = [(dtype, kernel, code) for dtype in ("float32", "float16") for kernel in range(2) for code in CODES]
    print("| T |" + "".join(f" {dtype} {('forward', 'backward')[kernel]}, {code} |" for dtype, kernel, code in columns))
    print("|---" * (len(columns) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        counters = {}
        for code, flags in CODES.items():
            Path(folder, code).mkdir()
            counters[code] = Counter(Path(folder, code), [*flags, *forced])
            stack.callback(counters[code].close)
        for targets in arguments.targets:
            found = {
                (dtype, code): per_score(counters[code], targets, arguments.classes, dtype)
                for dtype in ("float32", "float16")
                for code in CODES
            }
            cells = [f" {found[dtype, code][kernel]:.1f} |" for dtype, kernel, code in columns]
            print(f"| {targets} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
