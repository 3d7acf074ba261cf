"""Compiles the kernels of custom_ops/ into the package. Everything else about the build stands in pyproject.toml."""

import os
import runpy
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

KERNELS = Path("custom_ops")
EXPORTS = KERNELS / "exports.map"

NO_COMPILER = """
mindspore_mlml compiles its CPU kernels and needs a C++17 compiler, but '{compiler}' was not found.
Install one and try again:
    Debian, Ubuntu      apt-get install g++
    Fedora, openEuler   dnf install gcc-c++
    conda               conda install -c conda-forge gxx
or name yours in the environment variable CXX.
"""

# row.cpp is compiled once for each of these.
ISA_FLAGS = runpy.run_path(str(KERNELS / "cpu" / "isa_flags.py"))["ISA_FLAGS"]

# Python's own flags ask for debug information, most of a library's size; CXXFLAGS=-g brings it back.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
# Hardened as distributors do.
FLAGS += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"]
# It stays when MindSpore has freed its last kernel and closes it: helper threads wait in its code.
LINKER_FLAGS = f"-z,relro,-z,now,-z,noexecstack,-z,nodelete,--version-script={EXPORTS}"
LINK_FLAGS = ["-pthread", f"-Wl,{LINKER_FLAGS}"]
# GCC 12 warns about its own AVX-512 header (GCC bug 105593).
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]

# Machine code is made for those of these that the toolkit knows, and PTX, which later GPUs can use, for the newest.
CUDA_ARCHITECTURES = (60, 70, 75, 80, 86, 89, 90, 100, 120)


class BuildKernels(build_ext):
    """Builds libraries without a Python ABI, so that one wheel serves every Python and every MindSpore."""

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext):
        return []  # the linker script names them; there is no PyInit function

    def run(self):
        if not any(ext.name.endswith("_cuda") for ext in self.extensions):  # that an earlier build left
            for folder in (".", self.build_lib) if Path(self.build_lib).parts[0] == "build" else ():
                Path(folder, self.get_ext_filename("mindspore_mlml._cuda")).unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext):
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        if not self.force and not newer_group(ext.depends, str(library)):
            print(f"{library} is up to date.")
        elif ext.name.endswith("_cuda"):
            build_cuda(ext, library, self.compiler.compiler_cxx[0])
        else:
            self._build_cpu(ext, library)
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

    def _build_cpu(self, ext, library):
        compiler = self.compiler.compiler_cxx[0]
        if shutil.which(compiler) is None:
            raise SystemExit(NO_COMPILER.format(compiler=compiler))
        rows = str(KERNELS / "cpu" / "row.cpp")
        others = [source for source in ext.sources if source != rows]
        # In this order: where the linker finds a function of the standard library in several of the objects, it takes
        # the first, which every processor must be able to run.
        jobs = [(others, self.build_temp, [])]
        jobs += [
            ([rows], Path(self.build_temp, isa), [f"-DMLML_ISA={isa}", *flags]) for isa, flags in ISA_FLAGS.items()
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [name for names in pool.map(lambda job: self._compile(ext, *job), jobs) for name in names]
        self.compiler.link_shared_object(
            objects,
            str(library),
            extra_postargs=LINK_FLAGS,
            target_lang="c++",
        )

    def _compile(self, ext, sources, output_dir, flags):
        flags = [*FLAGS, *flags, *shlex.split(os.environ.get("CXXFLAGS", ""))]  # the user's last, so that they win
        return self.compiler.compile(sources, output_dir=str(output_dir), extra_postargs=flags, depends=ext.depends)


def find_nvcc():
    """The CUDA compiler, or None. MLML_WITH_CUDA=0 does without, MLML_WITH_CUDA=1 insists on it."""
    wanted = os.environ.get("MLML_WITH_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"MLML_WITH_CUDA must be 0 or 1, but got '{wanted}'.")
    if wanted == "0":
        print("MLML_WITH_CUDA=0: the CUDA kernels are not built.")
        return None
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    paths = [shutil.which("nvcc"), *(Path(home, "bin", "nvcc") for home in [*homes, "/usr/local/cuda"])]
    nvcc = next((str(path) for path in paths if path and Path(path).exists()), None)
    if nvcc is None and wanted == "1":
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


def build_cuda(ext, library, host_compiler):
    """Builds the CUDA kernels."""
    nvcc = find_nvcc()
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    command = [nvcc, "-std=c++17", "-O3", "-shared", "--threads=0", f"-ccbin={host_compiler}", *cuda_flags(known)]
    command += [
        "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
        f"-Xlinker={LINKER_FLAGS}",
    ]
    command += ["-o", str(library), *ext.sources]
    print(*command)
    subprocess.run(command, check=True)


class Wheel(bdist_wheel):
    """Tags the wheel with the platform alone."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


def kernels(folder, pattern):
    """The library that is built from the sources in a folder of custom_ops/."""
    return Extension(
        f"mindspore_mlml._{folder}",
        sources=sorted(str(path) for path in (KERNELS / folder).glob(pattern)),
        depends=["setup.py", *(str(path) for path in [*KERNELS.glob("*.*"), *(KERNELS / folder).iterdir()])],
        language="c++",
    )


setup(
    ext_modules=[kernels("cpu", "*.cpp"), *([kernels("cuda", "*.cu")] if find_nvcc() else [])],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
