"""The macOS part of tools/test_platforms.py. Nothing of macOS runs: the wheel's library is checked, and the package is
tested where Python says that the system is macOS."""

import subprocess
import sys
from pathlib import Path

from tools.check_wheels import check_all, fetch_mindspore
from tools.checkout import ROOT

TESTS = ("tests/test_environment.py", "-k", "macos")
LEFT_OUT = {"all that runs the library": "that takes a Mac"}


def prepare(folder):
    """Downloads the wheel that the library is compared with."""
    fetch_mindspore("macosx-11.0-arm64", Path(folder).parent)


def run(folder, wheel, pytest_arguments=()):
    """Checks a wheel, and runs tests of the package that is installed; whether all passed."""
    print("macOS, the library's symbols:", flush=True)
    is_good = check_all([wheel], Path(folder).parent)
    print("macOS, tests on this machine:", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *(pytest_arguments or TESTS)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0 and is_good
