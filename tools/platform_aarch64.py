"""The aarch64 part of tools/test_platforms.py: a Python for Linux on aarch64 with MindSpore's wheel, run by qemu.

Debian has the Python and the libraries, PyPI the rest. Nothing is installed on this machine, and nothing needs root:
the emulated programs see the files of this machine, but those of Debian first.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tools.check_wheels import MINDSPORE, fetch_mindspore
from tools.wheel_tests import passes

EMULATOR = "qemu-aarch64-static"
DEBIAN = "bookworm"  # Python 3.11
SYSTEM = "python3,libgomp1,libstdc++6"
PACKAGES = (f"mindspore=={MINDSPORE}", "decorator", "hypothesis", "pytest", "pytest-xdist")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
FOR_AARCH64 = (
    *(f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28, 31, 34)),
    "--platform=manylinux2014_aarch64",
    "--python-version=3.11",
    "--only-binary=:all:",
)
TESTS = ("tests/test_semantics.py", "tests/test_errors.py")
LEFT_OUT = {"the rest of the tests": "an emulated graph takes ten times as long to compile"}
# Instead of a Python: it finds its way to itself by the name that it was called by, as tests call it.
LAUNCHER = f"""#!/bin/sh
exec {EMULATOR} -L "{{root}}" -0 "$0" -E PYTHONHOME=/usr "{{root}}/usr/bin/python3.11" "$@"
"""


def prepare(folder):
    """Makes the environment in a folder, or leaves it as it is."""
    for program, package in ((EMULATOR, "qemu-user-static"), ("mmdebstrap", "mmdebstrap")):
        if shutil.which(program) is None:
            sys.exit(f"There is no {program}: apt-get install {package}")
    folder = Path(folder).resolve()
    if (folder / "ready").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root, packages = folder / "root", folder / "packages"
    command = ["mmdebstrap", "--quiet", "--variant=extract", "--arch=arm64", f"--include={SYSTEM}", DEBIAN, root]
    subprocess.run(command, check=True)
    there = fetch_mindspore("linux-aarch64", folder.parent).parent
    # By this machine's pip, which is quicker than the emulated one.
    command = [
        *PIP,
        "install",
        "--no-compile",
        *FOR_AARCH64,
        f"--find-links={there}",
        f"--target={packages}",
        *PACKAGES,
    ]
    subprocess.run(command, check=True)
    own = root / "usr" / "local" / "lib" / "python3.11" / "dist-packages"
    own.mkdir(parents=True, exist_ok=True)
    (own / "packages.pth").write_text(f"{packages}\n")
    python = folder / "python"
    python.write_text(LAUNCHER.format(root=root))
    python.chmod(0o755)
    (folder / "ready").touch()


def run(folder, wheel, pytest_arguments=()):
    """Installs a wheel in the environment, runs the smoke test and tests; whether all passed."""
    folder = Path(folder).resolve()
    packages = folder / "packages"
    for installed in packages.glob("mindspore_mlml*"):
        shutil.rmtree(installed)
    command = [*PIP, "install", "--no-deps", *FOR_AARCH64, f"--target={packages}", "--upgrade", wheel]
    subprocess.run(command, check=True)
    # The gradient's numbers are mostly denormal, which importing MindSpore makes the processor flush to zero there. The
    # losses of the grid depend on the length of a vector.
    return passes("aarch64", [folder / "python"], {}, pytest_arguments or TESTS, same_bits=("a float16 gradient",))
