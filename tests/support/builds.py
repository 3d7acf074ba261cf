"""Builds the kernels, and programs around them, in other ways than setup.py does by itself."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
KERNELS = ROOT / "custom_ops"
NATIVE = ROOT / "tests" / "native"
ISA_FLAGS = runpy.run_path(str(KERNELS / "cpu" / "isa_flags.py"))["ISA_FLAGS"]


def build_cpu(folder, flags):
    """Builds the CPU library with further flags for the compiler and the linker; returns its path."""
    environment = {**os.environ, "CXXFLAGS": flags, "LDFLAGS": flags, "MLML_WITH_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build", f"--build-base={folder}/base", f"--build-lib={folder}/lib"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(result.stdout + result.stderr)
    return Path(folder, "lib", "mindspore_mlml", "_cpu.so")


def build_catcher(folder, flags=""):
    """Builds what turns exceptions into messages, for aot.Kernel; returns its path."""
    catcher = Path(folder, "call.so")
    command = ["g++", "-O2", *flags.split(), "-shared", "-fPIC", "-o", catcher, NATIVE / "call.cpp"]
    subprocess.run(command, check=True)
    return catcher


def build_emulated(folder, flags="-O2", kernels=KERNELS):
    """Builds the source of the CUDA kernels, as it is, for an emulation on the CPU; returns the library's path."""
    library = Path(folder, "_cuda.so")
    command = ["g++", "-std=c++17", *flags.split(), "-shared", "-fPIC", f"-I{ROOT / 'tests' / 'cuda_emulation'}"]
    command += ["-o", library, "-x", "c++", kernels / "cuda" / "multilabel_margin_loss.cu"]
    subprocess.run(command, check=True)
    return library


def build_vector_operations(folder, isa, kernels=KERNELS):
    """Builds the unit test of the vector operations for an instruction set; returns the program's path."""
    program = Path(folder, f"vector_operations_{isa}")
    command = ["g++", "-std=c++17", "-O2", "-Wno-uninitialized", f"-DMLML_ISA={isa}", *ISA_FLAGS[isa], f"-I{kernels}"]
    subprocess.run([*command, "-o", program, NATIVE / "vector_operations.cpp"], check=True)
    return program


def compile_program(source, library, to, *flags):
    """Compiles a program of tests/native/ against a kernel library."""
    command = ["g++", "-std=c++17", "-O1", "-g1", "-pthread", *flags, "-o", to, NATIVE / source, library]
    subprocess.run([*command, f"-Wl,-rpath,{Path(library).parent}", "-ldl"], check=True)
    return to
