#!/usr/bin/env python3
"""Tests the wheels for other platforms on Linux on x86-64: Windows by Wine, aarch64 by qemu, and macOS as far as one
can without a Mac.

usage: python tools/test_platforms.py [--only aarch64] [--wheels dist] [--work build/wheels] [arguments of pytest]

needs the wheels of `python tools/build_wheels.py --out dist`, and
    apt-get install mmdebstrap qemu-user-static wine64 && pip install '.[release,test]'

Makes an environment for each platform, and keeps it; installs the wheel in it, and runs the smoke test and some of the
tests. Prints a line for each platform, with what is left out there, and exits non-zero if one fails or none was run.
"""

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for who runs this file by its path

# What the name of a platform's wheel ends with. tools/platform_NAME.py says how to run one there.
WHEELS = {"windows": "win_amd64", "aarch64": "aarch64", "macos": "arm64"}


def find_wheel(folder, tag):
    """The newest wheel for a platform."""
    wheels = folder.glob(f"mindspore_mlml-*{tag}.whl")
    wheel = max(wheels, key=lambda path: path.stat().st_mtime, default=None)
    if wheel is None:
        sys.exit(f"no wheel in {folder}: python tools/build_wheels.py --out {folder}")
    return wheel.resolve()


def test(platform, arguments, pytest_arguments):
    """The result for one platform, in words."""
    try:
        wheel = find_wheel(arguments.wheels, WHEELS[platform])
        module = importlib.import_module(f"tools.platform_{platform}")
        module.prepare(arguments.work / platform)
    except SystemExit as reason:
        return f"not run: {reason}"
    passed = module.run(arguments.work / platform, wheel, pytest_arguments)
    left_out = "".join(f"\n          left out: {what}, for {why}" for what, why in module.LEFT_OUT.items())
    return ("passed" if passed else "FAILED") + left_out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WHEELS, action="append", help="test this platform")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="the folder with the wheels")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "wheels", help="the folder with what is kept")
    arguments, pytest_arguments = parser.parse_known_args()
    arguments.work = arguments.work.resolve()
    results = {platform: test(platform, arguments, pytest_arguments) for platform in arguments.only or WHEELS}
    for platform, result in results.items():
        print(f"{platform:<10}{result}")
    texts = results.values()
    return 0 if any(text.startswith("passed") for text in texts) and not any("FAILED" in text for text in texts) else 1


if __name__ == "__main__":
    sys.exit(main())
