"""What `pip install .` does with the compilers, flags and versions that it finds, and where there is no compiler."""

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import mindspore
import numpy as np
import pytest
import setuptools

from mindspore_mlml._backends import LIBRARIES
from tests.support.builds import build_cpu
from tests.support.processes import ROOT, run_program, run_python

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


# ----------------------------------------------------------------------------------------------------------------------
# Compilers that are scripts: they write down how they were called, and make files of a few bytes


def program(path, script):
    """Makes an executable file of a shell script; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


VERSION = 'case "$*" in *--version) exec echo 1;; esac'


class Compiler:
    """A compiler that compiles nothing."""

    def __init__(self, path, script=""):
        self.log = path.with_suffix(".log")
        make = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo made > "$2"; shift; done; exit 0'
        note = f"printf '%s\\n' \"$*\" >> {self.log}"
        self.path = program(path, f"{VERSION}\n{note}\n{script}\n{make}")

    def __str__(self):
        return str(self.path)

    def calls(self):
        """The calls since this was asked last."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


def build(checkout, command=("build",), **environment):
    """The finished process of a build in the checkout, without the kernels that the environment does not choose."""
    names = ("CXX", "CXXFLAGS", "LDFLAGS", "CUDA_HOME", "CUDA_PATH")
    environment = {"MLML_WITH_CUDA": "0", **dict.fromkeys(names, ""), **environment}
    environment = {name: str(value) for name, value in environment.items()}
    return run_program(sys.executable, "setup.py", *command, cwd=checkout, **environment)


@pytest.fixture
def compiler(tmp_path):
    return Compiler(tmp_path / "g++")


# ----------------------------------------------------------------------------------------------------------------------
# Flags

FAST_MATH = (
    "-ffast-math",
    "-Ofast",
    "-funsafe-math-optimizations",
    "-ffinite-math-only",
    "-fassociative-math -fno-signed-zeros -fno-trapping-math",
    "-freciprocal-math",
)
NOT_STANDARD = r"__(FAST_MATH|ASSOCIATIVE_MATH|RECIPROCAL_MATH|NO_SIGNED_ZEROS)__|__FINITE_MATH_ONLY__ 1"


def printed_by(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("flags", FAST_MATH)
def test_no_fast_math_of_the_environment_reaches_the_kernels(flags, checkout, compiler):
    variables = dict.fromkeys(("CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS"), flags)
    result = build(checkout, CXX=f"{compiler} {flags}", **variables)
    assert result.returncode == 0, result.stdout + result.stderr
    *compiled, linked = compiler.calls()
    assert "-shared" in linked
    assert len(compiled) > 5
    assert re.search(NOT_STANDARD, printed_by(["g++", *shlex.split(flags), "-dM", "-E", "custom_ops/cpu/gemm.cpp"]))
    for call in compiled:
        words = call[: call.index(" -o ")].split()
        assert not re.search(NOT_STANDARD, printed_by(["g++", *words, "-dM", "-E"])), call
    assert "crtfastmath" not in run_program("g++", "-###", *linked.split()).stderr  # it makes denormal numbers 0


@pytest.mark.parametrize("flags", FAST_MATH)
@pytest.mark.parametrize("source", ["class_parallel", "isa", "linear", "multilabel_margin_loss", "row"])
def test_the_sources_refuse_fast_math(flags, source):
    command = ["g++", "-E", *flags.split(), ROOT / "custom_ops" / "cpu" / f"{source}.cpp"]
    result = run_program(*command)
    assert result.returncode != 0
    assert "#error" in result.stderr
    assert "compile without -ffast-math" in result.stderr


IN_A_PROGRAM = """
import sys
import numpy as np
from tests.support.aot import Kernel
score, target = np.float32([[0, np.nan, 1]]), np.int32([[0, -1, -1]])
loss, gradient, dout = np.zeros(1, np.float32), np.zeros((1, 3), np.float32), np.ones(1, np.float32)
Kernel(sys.argv[1], "MultilabelMarginLossNone").prepare(score, target, loss)()
Kernel(sys.argv[1], "MultilabelMarginLossGradNone").prepare(score, target, dout, gradient)()
print(np.isnan(loss).all(), np.isnan(gradient).all(), np.float32(1e-39) * np.ones(1, np.float32) > 0)
"""


@pytest.mark.slow
def test_kernels_built_with_fast_math_compute_the_same_bits(tmp_path):
    library = build_cpu(tmp_path, " ".join(FAST_MATH))
    assert run_python("-c", IN_A_PROGRAM, library) == "True True [ True]\n"
    for isa in isas(library):
        assert run_python("-c", IN_A_PROGRAM, library, MLML_SIMD=isa) == "True True [ True]\n"
        grid = [
            run_python("-m", "tests.support.kernel_grid", path, MLML_SIMD=isa) for path in (library, LIBRARIES["cpu"])
        ]
        assert grid[0] == grid[1], isa


def isas(library):
    """The instruction sets of this processor that a library has kernels for."""
    names = ctypes.CDLL(str(library)).MultilabelMarginLossIsas
    names.restype = ctypes.c_char_p
    return names().decode().split()


@pytest.mark.slow
def test_kernels_built_without_optimization_and_with_coverage_work(tmp_path, checkout):
    result = build(checkout, CXXFLAGS="-O0 -Werror --coverage")
    assert result.returncode == 0, result.stdout + result.stderr
    library = tmp_path / "_cpu.so"
    shutil.copy(checkout / "mindspore_mlml" / "_cpu.so", library)
    for isa in isas(library):
        run_python("-m", "tests.support.kernel_grid", library, MLML_SIMD=isa)  # compares with the reference
    assert list(checkout.rglob("*.gcda"))


@pytest.mark.slow
def test_a_c_compiler_is_an_error(checkout):
    result = build(checkout, CXX="gcc", CXXFLAGS="-O0")
    assert result.returncode != 0
    assert "undefined reference" in result.stderr
    assert "'gcc' failed: its messages are above; gcc and clang, as C compilers, cannot link C++" in result.stderr
    assert not (checkout / "mindspore_mlml" / "_cpu.so").exists()


def test_a_compiler_without_cpp17_is_a_clear_error(checkout, tmp_path):
    old = Compiler(tmp_path / "g++", "echo \"error: unrecognized command line option '-std=c++17'\" >&2; exit 1")
    result = build(checkout, CXX=old)
    assert result.returncode != 0
    assert "error: unrecognized command line option '-std=c++17'" in result.stderr
    assert f"needs a C++17 compiler, but '{old}' failed: its messages are above." in result.stderr
    assert "with MLML_WITH_CPU=0" in result.stderr


def test_a_compiler_that_cannot_be_run_is_an_error(checkout, tmp_path):
    program(tmp_path / "g++", "").write_bytes(b"\x7fELF")
    result = build(checkout, CXX=tmp_path / "g++")
    assert result.returncode != 0
    assert f"but '{tmp_path}/g++' cannot be run: Exec format error." in result.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Building again

BUILT_AGAIN = {
    "another compiler": {"CXX": "{compiler} -m64"},
    "CXXFLAGS": {"CXXFLAGS": "-O1"},
    "LDFLAGS": {"LDFLAGS": "-L/usr/lib"},
}


def test_a_second_build_of_the_same_compiles_nothing(checkout, compiler):
    assert build(checkout, CXX=compiler).returncode == 0
    assert len(compiler.calls()) > 5
    os.utime(checkout / "custom_ops" / "operator.h")  # newer, with the same contents
    result = build(checkout, CXX=compiler)
    assert compiler.calls() == []
    assert "_cpu.so is up to date." in result.stdout


@pytest.mark.parametrize("change", BUILT_AGAIN)
def test_another_command_builds_again(change, checkout, compiler):
    assert build(checkout, CXX=compiler).returncode == 0
    compiler.calls()
    variables = {name: value.format(compiler=compiler) for name, value in BUILT_AGAIN[change].items()}
    assert build(checkout, **{"CXX": compiler, **variables}).returncode == 0
    assert len(compiler.calls()) > 5


def test_an_update_of_the_compiler_builds_again(checkout, compiler):
    assert build(checkout, CXX=compiler).returncode == 0
    compiler.calls()
    compiler.path.write_text(compiler.path.read_text().replace("exec echo 1", "exec echo 2"))
    assert build(checkout, CXX=compiler).returncode == 0
    assert len(compiler.calls()) > 5


@pytest.mark.parametrize("source", ["custom_ops/operator.h", "custom_ops/cpu/isa.cpp", "custom_ops/cpu/isa_flags.py"])
def test_other_sources_with_older_dates_are_built(source, checkout, compiler):
    assert build(checkout, CXX=compiler).returncode == 0
    compiler.calls()
    with (checkout / source).open("a") as file:
        file.write("\n")
    os.utime(checkout / source, (0, 10**9))
    assert build(checkout, CXX=compiler).returncode == 0
    assert len(compiler.calls()) > 5


def test_python_files_with_older_dates_are_installed(checkout):
    module = checkout / "mindspore_mlml" / "losses.py"
    assert build(checkout, MLML_WITH_CPU="0").returncode == 0
    module.write_text("# of the next release\n")
    os.utime(module, (0, 10**9))
    assert build(checkout, MLML_WITH_CPU="0").returncode == 0
    (built,) = (checkout / "build").glob("lib*/mindspore_mlml/losses.py")
    assert built.read_text() == module.read_text()


def test_a_missing_compiler_is_an_error_after_a_build(checkout, compiler):
    assert build(checkout, CXX=compiler).returncode == 0
    result = build(checkout, CXX="/nonexistent/g++")
    assert result.returncode != 0
    assert "needs a C++17 compiler, but '/nonexistent/g++' was not found" in result.stderr


def test_a_build_that_failed_is_repeated(checkout, compiler):
    assert build(checkout, CXX=compiler).returncode == 0
    works = compiler.path.read_text()
    program(compiler.path, f"{VERSION}\nexit 1")
    assert build(checkout, CXX=compiler, CXXFLAGS="-O1").returncode != 0
    compiler.path.write_text(works)
    compiler.calls()
    assert build(checkout, CXX=compiler, CXXFLAGS="-O1").returncode == 0
    assert len(compiler.calls()) > 5


# ----------------------------------------------------------------------------------------------------------------------
# CUDA

LIST = '[ "$1" = --list-gpu-arch ] && exec printf "compute_80\\ncompute_90\\n"'
BROKEN = {
    "too old": ("echo \"nvcc fatal : Unknown option 'list-gpu-arch'\" >&2; exit 1", "Unknown option 'list-gpu-arch'"),
    "without a word": ("exit 3", "exit status 3"),
    "of other GPUs": ("[ $1 = --list-gpu-arch ] && exec echo compute_35", "knows none of the architectures"),
    "unable to compile": (f"{LIST}\necho 'x.cuh: note'; echo 'a.h: error: #error no GCC 99'; exit 2", "no GCC 99"),
    "not a program": (None, "cannot be run: Exec format error"),
}


@pytest.fixture
def nvcc(tmp_path):
    return Compiler(tmp_path / "cuda" / "bin" / "nvcc", LIST)


def build_cuda(checkout, nvcc, **environment):
    path = f"{nvcc.parent}:{os.environ['PATH']}"
    return build(checkout, **{"MLML_WITH_CPU": "0", "MLML_WITH_CUDA": "", "PATH": path, **environment})


def broken_nvcc(tmp_path, fault):
    script, _ = BROKEN[fault]
    path = program(tmp_path / "cuda" / "bin" / "nvcc", f"{VERSION}\n{script}")
    if script is None:
        path.write_bytes(b"\x7fELF")
    return path


@pytest.mark.parametrize("fault", BROKEN)
def test_where_nvcc_fails_the_cuda_kernels_are_left_out(fault, checkout, tmp_path):
    nvcc = broken_nvcc(tmp_path, fault)
    (checkout / "mindspore_mlml" / "_cuda.so").touch()  # of an earlier build
    result = build_cuda(checkout, nvcc)
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = (line for line in result.stdout.splitlines() if "CUDA kernels are left out" in line)
    assert all(part in line for part in (BROKEN[fault][1], str(nvcc), "MLML_WITH_CUDA=0"))
    assert "Traceback" not in result.stderr
    assert not (checkout / "mindspore_mlml" / "_cuda.so").exists()


@pytest.mark.parametrize("fault", BROKEN)
def test_where_nvcc_fails_and_cuda_is_wanted_the_build_fails(fault, checkout, tmp_path):
    nvcc = broken_nvcc(tmp_path, fault)
    result = build_cuda(checkout, nvcc, MLML_WITH_CUDA="1")
    assert result.returncode != 0
    line = result.stderr.splitlines()[-1]
    assert line.startswith("MLML_WITH_CUDA=1, but the CUDA kernels cannot be built: ")
    assert all(part in line for part in (BROKEN[fault][1], str(nvcc), "MLML_WITH_CUDA=0"))


@pytest.mark.parametrize("environment", [{}, {"MLML_WITH_CUDA": "0"}])
def test_a_build_in_place_leaves_no_older_cuda_library(environment, checkout, tmp_path):
    nvcc = broken_nvcc(tmp_path, "unable to compile")
    (checkout / "mindspore_mlml" / "_cuda.so").touch()
    result = build_cuda(checkout, nvcc, command=("build_ext", "--inplace"), **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not (checkout / "mindspore_mlml" / "_cuda.so").exists()


@pytest.mark.slow
def test_where_nvcc_fails_pip_installs_without_the_cuda_kernels(checkout, fresh_venv, tmp_path):
    nvcc = broken_nvcc(tmp_path, "unable to compile")
    path = f"{nvcc.parent}:{os.environ['PATH']}"
    result = install(checkout, fresh_venv, MLML_WITH_CPU="0", MLML_WITH_CUDA="", PATH=path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(fresh_venv.rglob("mindspore_mlml/losses.py"))
    assert not list(fresh_venv.rglob("_cuda.so"))


@pytest.mark.parametrize(
    "command", ["{}", "{} -m64", "ccache {}", "ccache distcc {} -m64", "env CCACHE_DIR=/tmp/c -u X {}", "nice -n 10 {}"]
)
def test_nvcc_is_given_the_compiler_and_no_launcher(command, checkout, compiler, nvcc):
    for name in ("ccache", "distcc"):
        program(nvcc.path.with_name(name), 'exec "$@"')
    result = build_cuda(checkout, nvcc.path, CXX=command.format(compiler))
    assert result.returncode == 0, result.stdout + result.stderr
    call = nvcc.calls()[-1].split()
    assert [word for word in call if word.startswith("-ccbin")] == [f"-ccbin={compiler}"]
    assert (checkout / "mindspore_mlml" / "_cuda.so").exists()


@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH"])
def test_a_cuda_folder_without_nvcc_is_an_error(name, checkout, nvcc, tmp_path):
    empty = tmp_path / "empty"
    for wanted in ("1", ""):
        result = build_cuda(checkout, nvcc.path, MLML_WITH_CUDA=wanted, **{name: str(empty)})
        assert (result.returncode != 0) == (wanted == "1")
        assert f"there is no bin/nvcc in {name}={empty}" in (result.stderr if wanted else result.stdout)
        assert nvcc.calls() == []
        empty.mkdir(exist_ok=True)


def test_cuda_home_comes_before_the_path(checkout, nvcc, tmp_path):
    other = Compiler(tmp_path / "other" / "bin" / "nvcc", LIST)
    assert build_cuda(checkout, nvcc.path, CUDA_HOME=str(tmp_path / "other")).returncode == 0
    assert nvcc.calls() == []
    assert len(other.calls()) == 2


# ----------------------------------------------------------------------------------------------------------------------
# Versions


@pytest.mark.parametrize("version", ["58.1.0", "76.1.0"])
def test_an_old_setuptools_is_an_error_naming_the_needed_one(version, tmp_path):
    """Of a version before 77, no more than its name is looked at."""
    command = tmp_path / "setuptools" / "command"
    command.mkdir(parents=True)
    (tmp_path / "setuptools" / "__init__.py").write_text(
        f"__version__ = '{version}'\nDistribution = Extension = setup = None\n"
    )
    (command / "build_ext.py").write_text("build_ext = object\n")
    result = run_program(sys.executable, "setup.py", "build", cwd=ROOT, PYTHONPATH=str(tmp_path))
    assert result.returncode != 0
    message = f"mindspore_mlml needs setuptools 77 or later to be built, but this is setuptools {version}: "
    assert result.stderr.startswith(f"{message}pip install 'setuptools>=77'")


def test_the_readme_names_the_versions_of_python():
    project = (ROOT / "pyproject.toml").read_text()
    first, after = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    install_section = (ROOT / "README.md").read_text().split("## Install")[1].split("\n## ")[0]
    assert f"Python 3.{first} to 3.{int(after) - 1}" in install_section
    assert "mindspore (from versions: none)" in install_section  # what pip says of another
