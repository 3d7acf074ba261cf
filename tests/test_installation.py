"""What `pip install .` does where there is no compiler: with the environment's leave, it does without one."""

import os
import shutil
import sys
import venv
from pathlib import Path

import mindspore
import numpy as np
import pytest
import setuptools

from tests.support.processes import ROOT, run_program

SOURCES = ("LICENSE", "README.md", "custom_ops", "mindspore_mlml", "pyproject.toml", "setup.py")
PYTHON = Path("Scripts", "python.exe") if os.name == "nt" else Path("bin", "python")


@pytest.fixture
def checkout(tmp_path):
    """As it is cloned: an installation from this one would take away the library that is tested."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "*.dll", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def fresh_venv(tmp_path):
    """A virtual environment that has what the package depends on, from where it is installed already."""
    folder = tmp_path / "venv"
    venv.create(folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run_program(folder / PYTHON, "-c", code).stdout.strip())
    others = {str(Path(module.__file__).parent.parent) for module in (mindspore, np, setuptools)}
    (packages / "others.pth").write_text("\n".join(others))
    return folder


def install(checkout, fresh_venv, **environment):
    """The finished process of an installation without a compiler."""
    command = [sys.executable, "-m", "pip", "--python", fresh_venv / PYTHON, "install", "--no-index", "--no-deps"]
    environment = {"CXX": "/nonexistent/c++", "MLML_WITH_CUDA": "0", **environment}
    return run_program(*command, "--no-build-isolation", checkout, PYTHONPATH="", **environment)


@pytest.mark.slow
def test_without_a_compiler_the_installation_stops_and_says_what_to_do(checkout, fresh_venv):
    result = install(checkout, fresh_venv)
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert "compiles its CPU kernels and needs a C++17 compiler, but '/nonexistent/c++' was not found" in output
    assert "or do without: with MLML_WITH_CPU=0" in output


@pytest.mark.slow
def test_without_the_cpu_kernels_the_installed_package_works_and_says_why_it_is_slow(checkout, fresh_venv, tmp_path):
    result = install(checkout, fresh_venv, MLML_WITH_CPU="0")
    assert result.returncode == 0, result.stdout + result.stderr
    smoke_test = run_program(fresh_venv / PYTHON, "-m", "mindspore_mlml", cwd=tmp_path, PYTHONPATH="")
    assert smoke_test.returncode == 0, smoke_test.stdout + smoke_test.stderr
    assert smoke_test.stdout.count("0.325\n") == 4
    rows = {tuple(line[:22].split()): line[22:] for line in smoke_test.stdout.splitlines()}
    assert rows["CPU", "cpu"].startswith(f"no      The CPU kernels are not built, there is no {fresh_venv}")
    assert "with a C++17 compiler, and without MLML_WITH_CPU=0, run `pip install .`" in rows["CPU", "cpu"]
    assert rows["CPU,", "GPU", "composed"].startswith("yes     MindSpore's own operators: slow")
    assert "In use here, with device target CPU: composed\n" in smoke_test.stdout
    assert "composes the loss of MindSpore's own operators, which is slow" in smoke_test.stderr
