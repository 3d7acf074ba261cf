"""Compiles the kernels of custom_ops/ into the package. Everything else about the build is in pyproject.toml.

Environment variables: CXX, CXXFLAGS and LDFLAGS as everywhere; CUDA_HOME or CUDA_PATH, the folder of the CUDA toolkit;
MLML_WITH_CPU and MLML_WITH_CUDA, 0 to do without these kernels and 1 to insist on them; _PYTHON_HOST_PLATFORM, with a
CXX for it, builds for another platform (tools/build_wheels.py).
"""

import functools
import hashlib
import logging
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools
from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

NEEDED = int(re.search(r"setuptools>=(\d+)", Path("pyproject.toml").read_text(encoding="utf-8"))[1])
if int(setuptools.__version__.split(".")[0]) < NEEDED:
    raise SystemExit(
        f"mindspore_mlml needs setuptools {NEEDED} or later to be built, but this is setuptools "
        f"{setuptools.__version__}: pip install 'setuptools>={NEEDED}', or install without --no-build-isolation."
    )
from setuptools.command.bdist_wheel import bdist_wheel  # noqa: E402, an older setuptools does not have it

# What is built for: linux-x86_64, macosx-11.0-arm64, win-amd64, …
SYSTEM, _, MACHINE = sysconfig.get_platform().replace("universal2", platform.machine()).partition("-")
MACHINE = MACHINE.rpartition("-")[2]

KERNELS = Path("custom_ops")
EXPORTS = KERNELS / "exports.map"
ROWS = str(KERNELS / "cpu" / "row.cpp")  # compiled once for each instruction set
ISA_FLAGS = runpy.run_path(str(KERNELS / "cpu" / "isa_flags.py"))["isa_flags"](MACHINE)

NO_COMPILER = """
mindspore_mlml compiles its CPU kernels and needs a C++17 compiler, but '{compiler}' {problem}.
Install one and try again:
    Debian, Ubuntu      apt-get install g++
    Fedora, openEuler   dnf install gcc-c++
    conda               conda install -c conda-forge gxx
    macOS               xcode-select --install
or name yours in the environment variable CXX, or do without: with MLML_WITH_CPU=0 the loss is composed of MindSpore's
own operators, and much slower.
"""

# Microsoft's compiler has not the vectors that the kernels are written with.
NO_COMPILER_ON_WINDOWS = """
mindspore_mlml is installed without its CPU kernels: the loss is composed of MindSpore's own operators, and much slower.
A wheel has the kernels. To build them, name a clang++ or g++ in the environment variable CXX.
"""

# The user's flags follow these and so override them. Debug information, which Python's own flags ask for, is most of a
# library's size; CXXFLAGS=-g brings it back.
FLAGS = ["-O3", "-g0", "-Wall", "-Wextra"]
# GCC 12 warns about its own AVX-512 header (GCC bug 105593).
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"]
# Clang warns that C has no such type as that of the shapes which MindSpore requires.
FLAGS += ["-Wno-return-type-c-linkage"]
# These follow the user's flags: the kernels depend on them. The flags that end in "math", and -fsigned-zeros, undo
# -ffast-math and all that it consists of; for the linker, too: GCC would link code that makes denormal numbers 0.
NEEDED_FLAGS = ["-fno-fast-math", "-fno-unsafe-math-optimizations", "-fno-finite-math-only", "-fno-associative-math"]
NEEDED_FLAGS += ["-fno-reciprocal-math", "-fsigned-zeros", "-std=c++17", "-fvisibility=hidden"]
if SYSTEM != "win":
    FLAGS += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"]  # hardened as distributors do
    NEEDED_FLAGS += ["-fPIC", "-pthread"]
# It stays when MindSpore has freed its last kernel and closes it: helper threads wait in its code.
LINKER_FLAGS = f"-z,relro,-z,now,-z,noexecstack,-z,nodelete,--version-script={EXPORTS}"

# Machine code is made for those of these that the toolkit knows, and PTX, which later GPUs can use, for the newest.
CUDA_ARCHITECTURES = (60, 70, 75, 80, 86, 89, 90, 100, 120)


class BuildKernels(build_ext):
    """Builds libraries without a Python ABI, so that one wheel serves every Python and every MindSpore."""

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split("."))) + (".dll" if SYSTEM == "win" else ".so")

    def run(self):
        self.in_checkout = bool(self.inplace) or Path(self.build_lib).parts[0] == "build"
        for name in {"mindspore_mlml._cpu", "mindspore_mlml._cuda"} - {ext.name for ext in self.extensions or ()}:
            self._remove(name)
        super().run()

    def _remove(self, name):
        """Removes the library that an earlier build left."""
        for folder in (".", self.build_lib) if self.in_checkout else ():
            Path(folder, self.get_ext_filename(name)).unlink(missing_ok=True)

    def build_extension(self, ext):
        library = Path(self.get_ext_fullpath(ext.name))
        # Beside the library, some linkers write what does not belong into a wheel.
        built = Path(self.build_temp, library.name)
        for folder in (library.parent, built.parent):
            folder.mkdir(parents=True, exist_ok=True)
        commands, build = (cuda_commands, run_nvcc) if ext.name.endswith("_cuda") else (cpu_commands, run_compiler)
        try:
            self._build(library, built, ext.depends, commands(ext, built), build)
        except NvccError as error:
            if not ext.optional:
                raise SystemExit(
                    f"MLML_WITH_CUDA=1, but the CUDA kernels cannot be built: {error} MLML_WITH_CUDA=0 leaves them out."
                ) from None
            print(f"The CUDA kernels are left out: {error} MLML_WITH_CUDA=0 leaves them out without a try.")
            self._remove(ext.name)
        else:
            self._install(library, Path(self.get_ext_filename(ext.name)))

    def _build(self, library, built, sources, commands, build):
        """Builds a library, unless the same commands built it from the same sources. The last command links."""
        versions = [version_of(compiler, built.parent) for compiler in (compiler_command(), commands[-1][:1])]
        contents = [Path(source).read_bytes() for source in sources if Path(source).is_file()]
        fingerprint = hashlib.sha256(repr((commands, versions, contents)).encode()).hexdigest()
        stamp = built.with_suffix(".stamp")
        if not self.force and library.exists() and stamp.exists() and stamp.read_text() == fingerprint:
            print(f"{library} is up to date.")
            return
        stamp.unlink(missing_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(build, commands[:-1]))
        build(commands[-1])
        shutil.move(built, library)
        stamp.write_text(fingerprint)

    def _install(self, source, to):
        """Puts a library into the package, and into that of the checkout, which is what `python -m mindspore_mlml`
        imports there. A build with a folder of its own, of a test or a tool, leaves the checkout alone."""
        folders = {Path("." if self.inplace else self.build_lib)}
        if Path(self.build_lib).parts[0] == "build":
            folders.add(Path("."))
        for folder in folders:
            if Path(folder, to).resolve() != Path(source).resolve():
                Path(folder, to).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / to)


@functools.cache
def wanted(kernels):
    """Whether the environment wants these kernels, CPU or CUDA: "0", "1", or "" if it says nothing."""
    name = f"MLML_WITH_{kernels}"
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{name} must be 0 or 1, but got '{value}'.")
    if value == "0":
        print(f"{name}=0: the {kernels} kernels are not built.")
    return value


@functools.cache
def find_compiler():
    """The command of the C++ compiler, which may be missing, or None to do without the CPU kernels."""
    want = wanted("CPU")
    if want == "0":
        return None
    if SYSTEM == "win" and want == "" and "CXX" not in os.environ:
        print(NO_COMPILER_ON_WINDOWS)
        return None
    return compiler_command()


def words_of(command):
    """The words of a command or of flags. -Ofast, which -fno-fast-math does not undo for the linker, becomes -O3."""
    return ["-O3" if word == "-Ofast" else word for word in shlex.split(command)]


def compiler_command():
    return words_of(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")


def version_of(compiler, folder):
    """What a compiler prints about itself, in a folder for what it leaves: Zig writes an empty a.o."""
    try:
        return subprocess.run([*compiler, "--version"], cwd=folder, capture_output=True, check=False).stdout
    except OSError as error:
        return error.strerror


def run_compiler(command):
    logging.info("%s", shlex.join(command))
    try:
        if subprocess.run(command, check=False).returncode == 0:
            return
        problem = "failed: its messages are above"
        if "-c" not in command:
            problem += "; gcc and clang, as C compilers, cannot link C++: name g++ or clang++"
    except OSError as error:
        problem = f"cannot be run: {error.strerror}"
    raise SystemExit(NO_COMPILER.format(compiler=shlex.join(compiler_command()), problem=problem))


def cpu_commands(ext, library):
    """The commands that build the CPU kernels, with object files beside the library. The last one links."""
    compiler = find_compiler()
    if shutil.which(compiler[0]) is None:
        raise SystemExit(NO_COMPILER.format(compiler=compiler[0], problem="was not found"))
    # In this order: where the linker finds a function of the standard library in several of the objects, it takes the
    # first, which every processor must be able to run.
    # All but the inner loops: at -O3 it would be twice as large, and no faster.
    small = ["-Os"]
    jobs = [(source, Path(source).stem, small, []) for source in ext.sources if source != ROWS]
    jobs += [(ROWS, f"row_{isa}", [], [f"-DMLML_ISA={isa}", *flags]) for isa, flags in ISA_FLAGS.items()]
    objects = [str(library.with_name(f"{name}.o")) for _, name, _, _ in jobs]
    own, linker = (words_of(os.environ.get(name, "")) for name in ("CXXFLAGS", "LDFLAGS"))
    linking = []
    if SYSTEM == "linux":
        linking += [f"-Wl,{LINKER_FLAGS}"]
        # Nothing may be missing, but for a sanitizer's functions: they may be the program's.
        if not any("-fsanitize" in word for word in [*compiler, *own, *linker]):
            linking += ["-Wl,-z,defs"]
    return [
        *(
            [*compiler, *FLAGS, *before, *own, *after, *NEEDED_FLAGS, "-c", source, "-o", to]
            for (source, _, before, after), to in zip(jobs, objects)
        ),
        [*compiler, *own, *linking, *linker, *objects, *NEEDED_FLAGS, "-shared", "-o", str(library)],
    ]


@functools.cache
def find_nvcc():
    """The CUDA compiler, or None."""
    want = wanted("CUDA")
    if want == "0" or SYSTEM != "linux":
        return None
    home = next((name for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)), None)
    if home:
        paths, problem = [Path(os.environ[home], "bin", "nvcc")], f"there is no bin/nvcc in {home}={os.environ[home]}"
    else:
        paths, problem = [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"], "nvcc was not found"
    nvcc = next((str(path) for path in paths if path and Path(path).exists()), None)
    if nvcc is None and want == "1":
        raise SystemExit(
            f"MLML_WITH_CUDA=1, but {problem}: install the CUDA toolkit, and put nvcc on the PATH or name the "
            "toolkit's folder in the environment variable CUDA_HOME."
        )
    if nvcc is None:
        print(f"The CUDA kernels are not built: {problem}.")
    return nvcc


class NvccError(Exception):
    """What nvcc said when it failed, in one line."""


def run_nvcc(command):
    """Runs nvcc; returns what it printed."""
    logging.info("%s", shlex.join(command))
    try:
        environment = {**os.environ, "LC_ALL": "C"}
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except OSError as error:
        raise NvccError(f"{command[0]} cannot be run: {error.strerror}.") from None
    output = result.stdout.decode("ascii", "backslashreplace")
    if result.returncode == 0:
        return output
    print(output)
    lines = [line.strip() for line in output.splitlines() if line.strip()] or [f"exit status {result.returncode}"]
    said = next((line for line in lines if re.search("error|fatal", line, re.IGNORECASE)), lines[-1])
    raise NvccError(f"{command[0]} failed and said '{said}'.")


def cuda_commands(ext, library):
    """The command that builds the CUDA kernels."""
    nvcc = find_nvcc()
    known = run_nvcc([nvcc, "--list-gpu-arch"]).split()
    architectures = [number for number in CUDA_ARCHITECTURES if f"compute_{number}" in known]
    if not architectures:
        raise NvccError(f"{nvcc} knows none of the architectures {CUDA_ARCHITECTURES}.")
    generate = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures]
    generate += [f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}"]
    # Of "ccache g++" or "env NAME=value g++ -m64" the last program is the compiler.
    host = next(word for word in reversed(compiler_command()) if shutil.which(word) or word == compiler_command()[0])
    command = [nvcc, "-std=c++17", "-O3", "-shared", "--threads=0", f"-ccbin={host}", *generate]
    command += ["-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra", f"-Xlinker={LINKER_FLAGS}"]
    return [[*command, "-o", str(library), *ext.sources]]


class Wheel(bdist_wheel):
    """Tags the wheel with the platform alone."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


class Kernels(Distribution):
    """Runs build_ext also if there is nothing to build, for what an earlier build left."""

    def has_ext_modules(self):
        return True


def kernels(folder, pattern):
    """The library that is built from the sources in a folder of custom_ops/."""
    return Extension(
        f"mindspore_mlml._{folder}",
        sources=sorted(str(path) for path in (KERNELS / folder).glob(pattern)),
        depends=["setup.py", *(str(path) for path in [*KERNELS.glob("*.*"), *(KERNELS / folder).iterdir()])],
        language="c++",
        optional=folder == "cuda" and wanted("CUDA") != "1",
    )


setup(
    ext_modules=[
        *([kernels("cpu", "*.cpp")] if find_compiler() else []),
        *([kernels("cuda", "*.cu")] if find_nvcc() else []),
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
    distclass=Kernels,
    options={"build_py": {"force": True}},  # an older release may have left newer files in build/
)
