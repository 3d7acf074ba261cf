"""Compiles the kernels of custom_ops/ into the package. Everything else about the build stands in pyproject.toml."""

import platform
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCE = Path("custom_ops/cpu")

NO_COMPILER = """
mindspore_mlml compiles its CPU kernels and needs a C++17 compiler, but '{compiler}' was not found.
Install one and try again:
    Debian, Ubuntu      apt-get install g++
    Fedora, openEuler   dnf install gcc-c++
    conda               conda install -c conda-forge gxx
or name yours in the environment variable CXX.
"""


# row.cpp is compiled once for each instruction set. The first is what every processor of the architecture has; which
# one runs is decided when the library is loaded.
LEVELS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    LEVELS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    LEVELS["avx512"] = [*LEVELS["avx2"], "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
    LEVELS["avx512"] += ["-mprefer-vector-width=512"]

FLAGS = ["-std=c++17", "-O3", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
# GCC 12 warns about its own AVX-512 header (GCC bug 105593).
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]


class BuildKernels(build_ext):
    """Builds one library without a Python ABI, so that one wheel serves every Python and every MindSpore."""

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext):
        return []  # the linker script names them; there is no PyInit function

    def build_extension(self, ext):
        compiler = self.compiler.compiler_cxx[0]
        if shutil.which(compiler) is None:
            raise SystemExit(NO_COMPILER.format(compiler=compiler))
        rows = str(SOURCE / "row.cpp")
        objects = self._compile(ext, [source for source in ext.sources if source != rows], self.build_temp, [])
        # In this order: where the linker finds a function of the standard library in several of the objects, it takes
        # the first, which every processor must be able to run.
        for level, flags in LEVELS.items():
            objects += self._compile(ext, [rows], Path(self.build_temp, level), [f"-DMLML_LEVEL={level}", *flags])
        library = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(
            objects,
            library,
            extra_postargs=["-pthread", f"-Wl,--version-script={SOURCE / 'exports.map'}"],
            target_lang="c++",
        )
        # `python -m mindspore_mlml` in a checkout imports the package from there, not the installed one.
        if not self.inplace:
            shutil.copy(library, self.get_ext_filename(ext.name))

    def _compile(self, ext, sources, output_dir, flags):
        return self.compiler.compile(
            sources, output_dir=str(output_dir), extra_postargs=[*FLAGS, *flags], depends=ext.depends
        )


class Wheel(bdist_wheel):
    """Tags the wheel with the platform alone."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[
        Extension(
            "mindspore_mlml._cpu",
            sources=sorted(str(path) for path in SOURCE.glob("*.cpp")),
            depends=[str(path) for path in SOURCE.iterdir()],
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
