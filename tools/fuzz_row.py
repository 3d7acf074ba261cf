#!/usr/bin/env python3
"""Searches for a row that the CPU kernels get wrong, guided by the coverage of their code.

usage: python -m tools.fuzz_row [--seconds 60] [--corpus DIR] [--isa avx2]

Builds the kernels and tests/native/fuzz_row.cpp with clang's libFuzzer, AddressSanitizer and
UndefinedBehaviorSanitizer (Debian: apt-get install clang), and starts from the cases in tests/native/corpus. What it
finds is kept in DIR, by default a temporary folder; to keep cases for good, merge them:

    python -m tools.fuzz_row --seconds 600 --corpus /tmp/found && python -m tools.fuzz_row --merge /tmp/found
"""

import argparse
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "tests" / "native"
CORPUS = NATIVE / "corpus"
KERNELS = ROOT / "custom_ops" / "cpu"
ISA_FLAGS = runpy.run_path(str(KERNELS / "isa_flags.py"))["ISA_FLAGS"]


def build(folder, fuzzed):
    """Builds the fuzzer, which looks at the instruction set ``fuzzed``; returns its path."""
    common = ["-std=c++17", "-g1", "-pthread", "-Wno-uninitialized", "-Wno-return-type-c-linkage"]
    sanitized = ["-O1", "-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=all"]
    jobs = [(source, sanitized, source.stem) for source in sorted(KERNELS.glob("*.cpp")) if source.stem != "row"]
    jobs.append((NATIVE / "fuzz_row.cpp", sanitized, "fuzz_row"))
    for isa, flags in ISA_FLAGS.items():
        extra = sanitized if isa == fuzzed else ["-O0"]
        jobs.append((KERNELS / "row.cpp", [f"-DMLML_ISA={isa}", *flags, *extra], f"row_{isa}"))
    objects = [Path(folder, name + ".o") for _, _, name in jobs]
    running = [
        subprocess.Popen(["clang++", *common, *extra, "-c", source, "-o", target])
        for (source, extra, _), target in zip(jobs, objects)
    ]
    if any([process.wait() != 0 for process in running]):
        sys.exit("clang++ failed.")
    program = Path(folder, "fuzz_row")
    link = ["clang++", "-pthread", "-fsanitize=fuzzer,address,undefined", *objects, "-o", program]
    subprocess.run(link, check=True)
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", metavar="DIR")
    default = "avx2" if "avx2" in ISA_FLAGS else next(iter(ISA_FLAGS))
    parser.add_argument("--isa", choices=ISA_FLAGS, default=default, help=f"the instruction set; default: {default}")
    parser.add_argument("--merge", metavar="DIR", help="adds what is new in DIR to the repository's corpus")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder, arguments.isa)
        environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1", "MLML_SIMD": arguments.isa}
        if arguments.merge:
            command = [program, "-merge=1", CORPUS, arguments.merge]
        else:
            found = Path(arguments.corpus or Path(folder, "found"))
            found.mkdir(exist_ok=True)
            limits = [f"-max_total_time={arguments.seconds}", "-max_len=12000", "-print_final_stats=1"]
            command = [program, *limits, f"-artifact_prefix={os.getcwd()}/", found, CORPUS]
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
