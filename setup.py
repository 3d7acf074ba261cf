"""Compiles the kernels of custom_ops/ into the package. Everything else about the build stands in pyproject.toml.

Environment variables: CXX, CXXFLAGS and LDFLAGS as everywhere; MLML_WITH_CPU and MLML_WITH_CUDA, 0 to do without these
kernels and 1 to insist on them; _PYTHON_HOST_PLATFORM, with a CXX for it, builds for another platform
(tools/build_wheels.py).
"""

import functools
import logging
import os
import platform
import runpy
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

# What is built for: linux-x86_64, macosx-11.0-arm64, win-amd64, …
SYSTEM, _, MACHINE = sysconfig.get_platform().replace("universal2", platform.machine()).partition("-")
MACHINE = MACHINE.rpartition("-")[2]

KERNELS = Path("custom_ops")
EXPORTS = KERNELS / "exports.map"
ROWS = str(KERNELS / "cpu" / "row.cpp")  # compiled once for each instruction set
ISA_FLAGS = runpy.run_path(str(KERNELS / "cpu" / "isa_flags.py"))["isa_flags"](MACHINE)

NO_COMPILER = """
mindspore_mlml compiles its CPU kernels and needs a C++17 compiler, but '{compiler}' was not found.
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

# Python's own flags ask for debug information, most of a library's size; CXXFLAGS=-g brings it back.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
# GCC 12 warns about its own AVX-512 header (GCC bug 105593).
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"]
# Clang warns that C has no such type as MindSpore wants a shape in.
FLAGS += ["-Wno-return-type-c-linkage"]
LINK_FLAGS = ["-shared"]
if SYSTEM != "win":
    FLAGS += ["-fPIC", "-pthread"]
    # Hardened as distributors do.
    FLAGS += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"]
    LINK_FLAGS += ["-pthread"]
# It stays when MindSpore has freed its last kernel and closes it: helper threads wait in its code.
LINKER_FLAGS = f"-z,relro,-z,now,-z,noexecstack,-z,nodelete,--version-script={EXPORTS}"
if SYSTEM == "linux":
    LINK_FLAGS += [f"-Wl,{LINKER_FLAGS}"]

# Machine code is made for those of these that the toolkit knows, and PTX, which later GPUs can use, for the newest.
CUDA_ARCHITECTURES = (60, 70, 75, 80, 86, 89, 90, 100, 120)


class BuildKernels(build_ext):
    """Builds libraries without a Python ABI, so that one wheel serves every Python and every MindSpore."""

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split("."))) + (".dll" if SYSTEM == "win" else ".so")

    def run(self):
        built = {ext.name for ext in self.extensions or ()}
        for name in {"mindspore_mlml._cpu", "mindspore_mlml._cuda"} - built:  # that an earlier build left
            for folder in (".", self.build_lib) if Path(self.build_lib).parts[0] == "build" else ():
                Path(folder, self.get_ext_filename(name)).unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext):
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        if not self.force and not newer_group(ext.depends, str(library)):
            print(f"{library} is up to date.")
        else:
            # Beside the library, some linkers write what does not belong into a wheel.
            built = Path(self.build_temp, library.name)
            built.parent.mkdir(parents=True, exist_ok=True)
            build_cuda(ext, built) if ext.name.endswith("_cuda") else build_cpu(ext, built)
            shutil.move(built, library)
        self._install(library, Path(self.get_ext_filename(ext.name)))

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


def compiler_command():
    return shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")


def run(command):
    logging.info("%s", shlex.join(command))
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"{command[0]} failed: see above.")


def build_cpu(ext, library):
    """Builds the CPU kernels, with object files beside the library."""
    compiler = find_compiler()
    if shutil.which(compiler[0]) is None:
        raise SystemExit(NO_COMPILER.format(compiler=compiler[0]))
    # In this order: where the linker finds a function of the standard library in several of the objects, it takes the
    # first, which every processor must be able to run.
    # All but the inner loops: at -O3 it would be twice as large, and no faster.
    small = ["-Os"]
    jobs = [(source, library.with_name(Path(source).stem + ".o"), small) for source in ext.sources if source != ROWS]
    jobs += [
        (ROWS, library.with_name(f"row_{isa}.o"), [f"-DMLML_ISA={isa}", *flags]) for isa, flags in ISA_FLAGS.items()
    ]
    own = shlex.split(os.environ.get("CXXFLAGS", ""))  # the user's last, so that they win

    def build(source, to, flags):
        run([*compiler, *FLAGS, *flags, *own, "-c", source, "-o", str(to)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: build(*job), jobs))
    objects = [str(to) for _, to, _ in jobs]
    run([*compiler, *LINK_FLAGS, *shlex.split(os.environ.get("LDFLAGS", "")), *objects, "-o", str(library)])


@functools.cache
def find_nvcc():
    """The CUDA compiler, or None."""
    want = wanted("CUDA")
    if want == "0" or SYSTEM != "linux":
        return None
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    paths = [shutil.which("nvcc"), *(Path(home, "bin", "nvcc") for home in [*homes, "/usr/local/cuda"])]
    nvcc = next((str(path) for path in paths if path and Path(path).exists()), None)
    if nvcc is None and want == "1":
        raise SystemExit(
            "MLML_WITH_CUDA=1, but nvcc was not found: install the CUDA toolkit, and put nvcc on the PATH or name the "
            "toolkit's folder in the environment variable CUDA_HOME."
        )
    if nvcc is None:
        print("nvcc was not found: the CUDA kernels are not built.")
    return nvcc


def cuda_flags(known):
    """What to generate code for, given the output of ``nvcc --list-gpu-arch``."""
    architectures = [number for number in CUDA_ARCHITECTURES if f"compute_{number}" in known.split()]
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures]
    return [*flags, f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}"]


def build_cuda(ext, library):
    """Builds the CUDA kernels."""
    nvcc = find_nvcc()
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    host = compiler_command()[0]
    command = [nvcc, "-std=c++17", "-O3", "-shared", "--threads=0", f"-ccbin={host}", *cuda_flags(known)]
    command += [
        "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
        f"-Xlinker={LINKER_FLAGS}",
    ]
    run([*command, "-o", str(library), *ext.sources])


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
    )


setup(
    ext_modules=[
        *([kernels("cpu", "*.cpp")] if find_compiler() else []),
        *([kernels("cuda", "*.cu")] if find_nvcc() else []),
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
    distclass=Kernels,
)
