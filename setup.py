"""Compiles the kernels of custom_ops/ into the package. Everything else about the build stands in pyproject.toml."""

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
        objects = self.compiler.compile(
            ext.sources,
            output_dir=self.build_temp,
            extra_postargs=["-std=c++17", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"],
            depends=ext.depends,
        )
        library = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(
            objects,
            library,
            extra_postargs=[f"-Wl,--version-script={SOURCE / 'exports.map'}"],
            target_lang="c++",
        )
        # `python -m mindspore_mlml` in a checkout imports the package from there, not the installed one.
        if not self.inplace:
            shutil.copy(library, self.get_ext_filename(ext.name))


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
