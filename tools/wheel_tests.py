"""What is run of a wheel that is installed on another platform, whatever starts the programs of that platform."""

import os
import subprocess
import sys
import tempfile

from tests.test_floating_point import GRADIENT
from tools.checkout import ROOT, copy_without_package

# What fails, or prints a digest of the results.
PROGRAMS = {
    "a float16 gradient": ("-W", "ignore", "-c", GRADIENT, "default"),
    "the grid of kernels": ("-m", "tests.support.kernel_grid"),
}


def passes(platform, command, environment, tests, same_bits):
    """Whether the smoke test, the programs and tests pass.

    command: what starts the platform's Python
    tests: arguments of pytest
    same_bits: the programs whose digest must be that of this machine
    """
    environment = {**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)  # this machine's
    pytest = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    results = []

    def run(name, arguments, cwd):
        print(f"{platform}, {name}:", flush=True)
        # Neither reads nor writes a terminal: with one, Wine would run it as a window of its own.
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        line = ""
        with process:
            for line in process.stdout:
                print(line, end="", flush=True)
        results.append(process.returncode == 0)
        return line.strip()

    with tempfile.TemporaryDirectory() as checkout:
        copy_without_package(checkout)
        run("the smoke test", ["-m", "mindspore_mlml"], checkout)
        for name, arguments in PROGRAMS.items():
            there = run(name, arguments, checkout)
            if name in same_bits:
                here = _last_line(arguments)
                print(f"  here: {here}", flush=True)
                results.append(there == here)
        run("tests", pytest, checkout)
    return all(results)


def _last_line(arguments):
    """What this machine's Python prints last."""
    printed = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return printed.stdout.splitlines()[-1]
