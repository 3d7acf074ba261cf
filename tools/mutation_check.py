#!/usr/bin/env python3
"""Changes the sources in small ways, one at a time, and shows which changes the tests do not notice.

usage: python -m tools.mutation_check [--seed 0] [--count 20] [--files 'custom_ops/cpu/*' ...]

A mutant is a copy of the sources with one change: an operator is replaced by a similar one, a constant by its
neighbour, or a statement is dropped. The seed chooses them; the same seed chooses the same ones while the files do not
change. A mutant of a kernel for the CPU, built for one instruction set, must fail the cases of fuzz_kernels.py, the
bounds of accuracy.py, or the grid of sizes of tests/support/kernel_grid.py, whose bits must not depend on the number of
threads either. One of a CUDA kernel, emulated, must fail the cases or the grid; one of the vector operations their unit
test, for NEON on an emulator where there is one (apt-get install g++-aarch64-linux-gnu qemu-user-static); one of the
package, its tests. A mutant that survives either computes the same, or shows a missing test. Exits non-zero if more
than a tenth survive.
"""

import argparse
import ctypes
import fnmatch
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.support.builds import EMULATED_ISA_FLAGS, ISA_FLAGS, build_emulated, build_vector_operations, can_emulate

ROOT = Path(__file__).resolve().parent.parent
FILES = ["custom_ops/*.h", "custom_ops/cpu/*", "custom_ops/cuda/*", "mindspore_mlml/*.py"]
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-pthread", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
BASE = next(iter(ISA_FLAGS))  # the instruction set that every processor of the architecture has
# The instruction set whose unit test shows a mutant of the vector operations.
VECTOR_OPERATIONS = {
    "simd.h": BASE,
    "row_sort.h": BASE,
    "simd_avx512.h": "avx512",
    "simd_avx2.h": "avx2",
    "simd_neon.h": "neon",
    "simd_generic.h": "baseline",
    "simd_plain.h": "baseline",
}
# What shows a mutant of a module of the package: these tests, or else those of the operator.
PACKAGE_TESTS = {
    "labels.py": ("labels", "label_formats"),
    "_label_formats.py": ("labels", "label_formats"),
    "_linear.py": ("linear",),
    "_linear_operators.py": ("linear", "dynamic_shapes"),
    "_slices.py": ("class_parallel",),
    "many_classes.py": ("linear", "class_parallel", "copies"),
    "_composed.py": ("composed",),
    "_patch.py": ("patch",),
    "_host.py": ("host",),
    "__main__.py": ("command_line",),
}
OPERATOR_TESTS = ("semantics", "errors", "gradients", "mindspore", "backends", "environment")
CASES, CUDA_CASES = 4000, 600

# What is replaced, and by what. Operators have spaces around them; < and > of templates have not.
REPLACEMENTS = {
    " < ": " <= ",
    " <= ": " < ",
    " > ": " >= ",
    " >= ": " > ",
    " == ": " != ",
    " != ": " == ",
    " + ": " - ",
    " - ": " + ",
    " * ": " + ",
    " && ": " || ",
    " || ": " && ",
    " and ": " or ",
    " or ": " and ",
    " += ": " -= ",
    "++": "--",
    "std::min(": "std::max(",
    "std::max(": "std::min(",
}
CONSTANT = re.compile(r"(?<![\w.<\"])(\d+)(?![\w.>\"])")
STATEMENT = re.compile(r"^ {4,}[a-z_][\w.\[\]*>-]*( [-+*|&]?= |\().*;$")  # an assignment or a call, in a function


class Mutant(NamedTuple):
    """A change of one line of a file."""

    file: str
    line: int
    instead: str

    def apply(self, root):
        path = root / self.file
        lines = path.read_text().split("\n")
        lines[self.line] = self.instead
        path.write_text("\n".join(lines))

    def __str__(self):
        return f"{self.file}:{self.line + 1}: {self.instead.strip()}"


# ----------------------------------------------------------------------------------------------------------------------
# Mutants


def code_lines(text):
    """The numbers and texts of the lines that are neither comments, strings over several lines nor preprocessor's."""
    in_string = False
    for number, line in enumerate(text.split("\n")):
        quotes = line.count('"""')
        if not in_string and not quotes and not line.lstrip().startswith(("//", "#", "*", "import ", "from ")):
            yield number, line.split("  //")[0].split("  # ")[0]
        in_string ^= quotes % 2 == 1


def changes_of(line):
    """The line with one change, for each change that there is."""
    quoted = [match.span() for match in re.finditer(r'"[^"]*"', line)]
    for text, instead in REPLACEMENTS.items():
        for match in re.finditer(re.escape(text), line):
            if not any(begin < match.start() < end for begin, end in quoted):
                yield line[: match.start()] + instead + line[match.end() :]
    for match in CONSTANT.finditer(line):
        if not any(begin < match.start() < end for begin, end in quoted):
            yield line[: match.start()] + str(int(match[1]) + 1) + line[match.end() :]
    if STATEMENT.match(line):
        yield line[: len(line) - len(line.lstrip())] + ";"


def choose(patterns, count, seed):
    """As many mutants, of all that the files have."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [file for file in listed if any(fnmatch.fnmatch(file, pattern) for pattern in patterns)]
    mutants = [
        Mutant(file, number, instead)
        for file in files
        if file.endswith((".h", ".cpp", ".cu", ".cuh", ".py"))
        for number, line in code_lines((ROOT / file).read_text())
        for instead in changes_of(line)
    ]
    return random.Random(seed).sample(mutants, min(count, len(mutants)))


# ----------------------------------------------------------------------------------------------------------------------
# Building and testing


def compile_objects(sources, folder, isas_of_rows, file=""):
    """Compiles the library's sources, row.cpp for each of the isas; only those that ``file`` is a part of. Returns the
    objects by name."""
    jobs = {path.stem: [path, []] for path in sorted((sources / "cpu").glob("*.cpp")) if path.stem != "row"}
    for isa in isas_of_rows:
        jobs[f"row_{isa}"] = [sources / "cpu" / "row.cpp", [f"-DMLML_ISA={isa}", *ISA_FLAGS[isa]]]
    objects = {}
    for name, (path, extra) in jobs.items():
        parts = subprocess.run(["g++", *FLAGS, *extra, "-MM", path], capture_output=True, text=True, check=True).stdout
        if Path(file).name not in parts:
            continue
        objects[name] = folder / f"{name}.o"
        subprocess.run(["g++", *FLAGS, *extra, "-c", path, "-o", objects[name]], check=True)
    return objects


def link(objects, library):
    subprocess.run(["g++", "-shared", "-pthread", "-o", library, *objects.values()], check=True)


def first_failure(commands):
    """The name of the first of the commands that fails, or None; and what the others printed."""
    environment = {**os.environ, "MLML_SIMD": BASE, "PYTHONPATH": str(ROOT)}
    outputs = []
    for name, command, extra in commands:
        try:
            result = subprocess.run(
                [sys.executable, *map(str, command)],
                env={**environment, **extra},
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{name} (hangs)", outputs
        if result.returncode != 0:
            return name, outputs
        outputs.append(result.stdout)
    return None, outputs


def cpu_failure(library):
    """What the CPU library fails, or None."""
    fuzz = ["-m", "tools.fuzz_kernels", "--library", library, "--seed", "1"]
    grid = ["-m", "tests.support.kernel_grid", library]
    name, outputs = first_failure(
        [
            ("cases of the fuzzer", [*fuzz, "--cases", CASES], {}),
            ("measure of accuracy", ["-m", "tools.accuracy", "--library", library, "--quick"], {}),
            ("grid of sizes", grid, {"OMP_NUM_THREADS": "1"}),
            ("grid of sizes, 3 threads", grid, {"OMP_NUM_THREADS": "3"}),
        ]
    )
    return name or (None if outputs[-1] == outputs[-2] else "same bits for any number of threads")


def cuda_failure(library):
    """What the emulated CUDA library fails, or None."""
    fuzz = ["-m", "tools.fuzz_kernels", "--library", library, "--seed", "1"]
    grid = ["-m", "tests.support.kernel_grid", library]
    name, outputs = first_failure(
        [
            ("cases of the fuzzer, targets checked", [*fuzz, "--cases", CUDA_CASES], {"MLML_CHECK_TARGETS": "1"}),
            ("cases of the fuzzer", [*fuzz, "--cases", CUDA_CASES], {}),
            ("grid of sizes", grid, {}),
            ("grid of sizes, once more", grid, {}),
        ]
    )
    return name or (None if outputs[-1] == outputs[-2] else "same bits for any order of threads")


def vector_operations_failure(folder, isa, kernels):
    """The unit test if it fails, or None."""
    command = build_vector_operations(folder, isa, kernels)
    passes = subprocess.run(command, capture_output=True, check=False).returncode == 0
    return None if passes else "test of vector operations"


def package_failure(folder, name):
    """The tests of a copy of the project that fail, or None."""
    tests = [f"tests/test_{test}.py" for test in PACKAGE_TESTS.get(name, OPERATOR_TESTS)]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return None if result.returncode == 0 else "tests of the package"


def failure(mutant, folder, originals):
    """What a copy of the project fails, of all that shows a mistake in the mutant's file, or None."""
    name, kernels = Path(mutant.file).name, folder / "custom_ops"
    if mutant.file.startswith("mindspore_mlml/"):
        return package_failure(folder, name)
    if name in VECTOR_OPERATIONS:
        return vector_operations_failure(folder, VECTOR_OPERATIONS[name], kernels)
    if "/cuda/" in mutant.file:
        return cuda_failure(build_emulated(folder, "-O1", kernels))
    link({**originals, **compile_objects(kernels, folder, [BASE], name)}, folder / "_cpu.so")
    return cpu_failure(folder / "_cpu.so")


def isas(library):
    """The instruction sets that the processor has."""
    names = ctypes.CDLL(str(library)).MultilabelMarginLossIsas
    names.restype = ctypes.c_char_p
    return names().decode().split()


def copy_of_project(folder, mutant):
    ignored = shutil.ignore_patterns(".git", "build", "dist", "docs", "*.o", ".*cache", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=ignored)
    mutant.apply(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20, help="how many mutants")
    parser.add_argument("--files", nargs="+", default=FILES, metavar="PATTERN")
    arguments = parser.parse_args()
    mutants = choose(arguments.files, arguments.count, arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "original")
        base.mkdir()
        originals = compile_objects(ROOT / "custom_ops", base, ISA_FLAGS)
        link(originals, base / "_cpu.so")
        if reason := cpu_failure(base / "_cpu.so"):
            sys.exit(f"The kernels fail as they are: {reason}")
        here = [*isas(base / "_cpu.so"), *(EMULATED_ISA_FLAGS if can_emulate() else ())]

        def run(numbered):
            number, mutant = numbered
            if VECTOR_OPERATIONS.get(Path(mutant.file).name, BASE) not in here:
                outcome = "NOT RUN: no such instruction set"
            else:
                folder = Path(temporary, str(number))
                copy_of_project(folder, mutant)
                try:
                    reason = failure(mutant, folder, originals)
                    outcome = f"killed by the {reason}" if reason else "SURVIVES"
                except subprocess.CalledProcessError:
                    outcome = "does not compile"
                shutil.rmtree(folder)
            print(f"{outcome:<55}{mutant}", flush=True)
            return outcome

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = list(pool.map(run, enumerate(mutants)))
    killed = sum(outcome.startswith("killed") for outcome in outcomes)
    survivors = outcomes.count("SURVIVES")
    print(f"seed {arguments.seed}: {len(mutants)} mutants, {killed} killed, {survivors} survive")
    return 1 if survivors > (killed + survivors) / 10 else 0


if __name__ == "__main__":
    sys.exit(main())
