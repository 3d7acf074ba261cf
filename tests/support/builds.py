"""Builds the kernels, and programs around them, in other ways than setup.py does by itself."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
KERNELS = ROOT / "custom_ops"
NATIVE = ROOT / "tests" / "native"
_ISAS = runpy.run_path(str(KERNELS / "cpu" / "isa_flags.py"))
ISA_FLAGS = _ISAS["ISA_FLAGS"]

# What builds programs for aarch64 on another machine, and runs them there.
CROSS_COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu")
EMULATED_ISA_FLAGS = _ISAS["isa_flags"]("aarch64")
NO_EMULATION = "apt-get install g++-aarch64-linux-gnu qemu-user-static"


def can_emulate():
    return shutil.which(CROSS_COMPILER) is not None and shutil.which(EMULATOR[0]) is not None


def build_cpu(folder, flags):
    """Builds the CPU library with further flags for the compiler and the linker; returns its path."""
    environment = {**os.environ, "CXXFLAGS": flags, "LDFLAGS": flags, "MLML_WITH_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build", f"--build-base={folder}/base", f"--build-lib={folder}/lib"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(result.stdout + result.stderr)
    return Path(folder, "lib", "mindspore_mlml", "_cpu.so")


# What a GPU makes of a number that the integer type does not have is not defined, NaN included: the program ends.
NO_UNDEFINED_CONVERSIONS = "-fsanitize=float-cast-overflow -fno-sanitize-recover=all"


def build_emulated(folder, flags=f"-O2 {NO_UNDEFINED_CONVERSIONS}", kernels=KERNELS):
    """Builds the source of the CUDA kernels, as it is, for an emulation on the CPU; returns the library's path."""
    library = Path(folder, "_cuda.so")
    command = ["g++", "-std=c++17", *flags.split(), "-shared", "-fPIC", f"-I{ROOT / 'tests' / 'cuda_emulation'}"]
    command += ["-o", library, "-x", "c++", *sorted((kernels / "cuda").glob("*.cu"))]
    subprocess.run(command, check=True)
    return library


def build_vector_operations(folder, isa, kernels=KERNELS):
    """Builds the unit test of the vector operations for an instruction set; returns the command that runs it."""
    program = Path(folder, f"vector_operations_{isa}")
    emulated = isa not in ISA_FLAGS
    flags = (EMULATED_ISA_FLAGS if emulated else ISA_FLAGS)[isa]
    command = [CROSS_COMPILER if emulated else "g++", "-std=c++17", "-O2", "-Wno-uninitialized", f"-DMLML_ISA={isa}"]
    command += [*flags, f"-I{kernels}", "-o", program, NATIVE / "vector_operations.cpp"]
    subprocess.run(command, check=True)
    return [*(EMULATOR if emulated else ()), program]


def build_emulated_program(folder, source, *flags):
    """Builds a program of tests/native/ for aarch64 with the kernels in it; returns the command that runs it."""
    program = Path(folder, source).with_suffix("")
    (isa, isa_flags), *_ = EMULATED_ISA_FLAGS.items()
    command = [CROSS_COMPILER, "-std=c++17", "-O3", "-pthread", f"-DMLML_ISA={isa}", *isa_flags, *flags]
    command += ["-rdynamic", "-o", program, NATIVE / source, *sorted((KERNELS / "cpu").glob("*.cpp")), "-ldl"]
    subprocess.run(command, check=True)
    return [*EMULATOR, program]


def compile_program(source, library, to, *flags):
    """Compiles a program of tests/native/ against a kernel library."""
    command = ["g++", "-std=c++17", "-O1", "-g1", "-pthread", *flags, "-o", to, NATIVE / source, library]
    subprocess.run([*command, f"-Wl,-rpath,{Path(library).parent}", "-ldl"], check=True)
    return to
