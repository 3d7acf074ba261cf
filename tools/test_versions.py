#!/usr/bin/env python3
"""Runs the tests on every supported pair of Python and MindSpore whose Python is installed on this machine.

usage: python -m tools.test_versions [--python 3.9] [--mindspore 2.7.0] [--list] [arguments of pytest]

Each pair gets a virtual environment of its own. Prints a line for each pair, and exits non-zero if the tests of one
fail or none was run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The oldest and the newest MindSpore that has wheels for each Python.
PAIRS = [
    ("3.9", "2.7.0"),
    ("3.10", "2.7.0"),
    ("3.10", "2.10.0"),
    ("3.11", "2.7.0"),
    ("3.11", "2.10.0"),
    ("3.12", "2.10.0"),
]


def find_python(version):
    """A Python of this version that starts, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))):
        if candidate is None:
            continue
        code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        result = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if result.stdout.strip() == version:
            return str(candidate)
    return None


def run_tests(python, mindspore, pytest_arguments):
    """Whether the tests pass."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        binaries = Path(folder, "bin")
        subprocess.run([binaries / "pip", "install", "-q", f"mindspore=={mindspore}", ".[test]"], cwd=ROOT, check=True)
        environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
        command = [binaries / "pytest", "-q", *pytest_arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", choices=sorted({python for python, _ in PAIRS}))
    parser.add_argument("--mindspore", choices=sorted({mindspore for _, mindspore in PAIRS}))
    parser.add_argument("--list", action="store_true", help="list the Pythons that are installed, and run nothing")
    arguments, pytest_arguments = parser.parse_known_args()
    if arguments.list:
        for version in sorted({python for python, _ in PAIRS}):
            if find_python(version):
                print(version, find_python(version))
        return 0
    results = {}
    for version, mindspore in PAIRS:
        if arguments.python not in (None, version) or arguments.mindspore not in (None, mindspore):
            continue
        python = find_python(version)
        passed = run_tests(python, mindspore, pytest_arguments) if python else None
        results[version, mindspore] = {True: "passed", False: "FAILED", None: "not installed"}[passed]
    for (version, mindspore), result in results.items():
        print(f"Python {version:<6}MindSpore {mindspore:<8}{result}")
    return 0 if "passed" in results.values() and "FAILED" not in results.values() else 1


if __name__ == "__main__":
    sys.exit(main())
