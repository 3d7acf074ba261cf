"""The aarch64 part of tools/test_platforms.py: a Python for Linux on aarch64 with MindSpore's wheel, run by qemu.

Debian has the Python and the libraries, PyPI the rest. Nothing is installed on this machine, and nothing needs root:
the emulated programs see the files of this machine, but those of Debian first.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.test_floating_point import GRADIENT
from tools.check_wheels import MINDSPORE, fetch_mindspore
from tools.checkout import copy_without_package

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
    with tempfile.TemporaryDirectory() as checkout:
        copy_without_package(checkout)
        pytest = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *(pytest_arguments or TESTS)]
        return all(
            [
                _passes("the smoke test", folder, checkout, "-m", "mindspore_mlml"),
                _has_the_gradient_of_this_machine(folder, checkout),
                _passes("the grid of kernels", folder, checkout, "-m", "tests.support.kernel_grid"),
                _passes("tests", folder, checkout, *pytest),
            ]
        )


def _python(folder, checkout, *arguments, **options):
    """Runs the emulated Python in a checkout without the package."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)  # this machine's
    return subprocess.run([folder / "python", *arguments], cwd=checkout, env=environment, check=False, **options)


def _passes(name, folder, checkout, *arguments):
    print(f"aarch64, {name}:", flush=True)
    return _python(folder, checkout, *arguments).returncode == 0


def _has_the_gradient_of_this_machine(folder, checkout):
    """Whether a float16 gradient, most of which is denormal, is the same, bit for bit. There, importing MindSpore makes
    the processor flush denormals to zero."""
    command = ["-W", "ignore", "-c", GRADIENT, "default"]
    there = _python(folder, checkout, *command, stdout=subprocess.PIPE, text=True).stdout
    here = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True).stdout
    print(f"aarch64, a float16 gradient: {there.strip()}\n  here: {here.strip()}", flush=True)
    return there == here
