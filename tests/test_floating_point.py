"""Results do not depend on the floating-point mode that a library has left the processor in, nor change it."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from mindspore_mlml._backends import LIBRARIES
from tests.support import kernel_grid
from tests.support.builds import NATIVE, compile_program
from tests.support.processes import run_program, run_python

ROOT = Path(__file__).parent.parent
MODES = ["flush", "toward zero", "upward", "flush, upward, traps"]
CONVERTS = "-DMLML_ISA=baseline"  # the test converts float16 itself, too
CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"

has_modes = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="how to set the mode is known on x86-64 and aarch64"
)


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("floating_point") / "floating_point"
    return compile_program("floating_point.cpp", LIBRARIES["cpu"], path, CONVERTS)


@has_modes
@pytest.mark.parametrize("floating_point_mode", MODES)
def test_every_mode_gives_the_bits_of_the_default_one_and_is_left_as_it_was(program, isa, floating_point_mode):
    result = run_program(program, floating_point_mode, MLML_SIMD=isa)
    assert result.stdout.endswith(" calls, 0 wrong\n"), result.stdout[-2000:] + result.stderr
    assert int(result.stdout.split()[-4]) > 900


GRADIENT = """
import ctypes, hashlib, sys
if sys.argv[1] != "default":
    ctypes.CDLL(sys.argv[2]).SetCallersMode(sys.argv[1].encode())
import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore_mlml import multilabel_margin_loss
rng = np.random.default_rng(0)
input = rng.standard_normal((64, 3993), np.float32).astype(np.float16)
target = np.full((64, 3993), -1, np.int32)
target[:, :5] = [rng.permutation(3993)[:5] for _ in target]
gradient = ms.grad(multilabel_margin_loss)(Tensor(input), Tensor(target)).asnumpy()
print(np.count_nonzero(gradient.view(np.uint16) & 0x7fff), hashlib.sha256(gradient.tobytes()).hexdigest())
"""


@has_modes
def test_float16_gradients_survive_in_a_process_that_flushes_denormals_to_zero(isa, tmp_path):
    setter = tmp_path / "set_mode.so"
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", setter, NATIVE / "set_mode.cpp"], check=True)
    outputs = {mode: run_python("-c", GRADIENT, mode, str(setter), MLML_SIMD=isa) for mode in ("default", "flush")}
    assert outputs["flush"] == outputs["default"]
    assert int(outputs["flush"].split()[0]) > 240_000  # of 255 552: nearly each is active, and most are denormal


# ----------------------------------------------------------------------------------------------------------------------
# aarch64, emulated: MindSpore's library for it flushes denormals to zero

emulated = pytest.mark.skipif(
    not (shutil.which(CROSS) and shutil.which(EMULATOR)),
    reason="apt-get install g++-aarch64-linux-gnu qemu-user-static",
)


@pytest.fixture(scope="session")
def aarch64(tmp_path_factory):
    """Compiles a program of tests/native/ for aarch64 with the kernels in it; returns the command that runs it."""
    folder = tmp_path_factory.mktemp("aarch64")
    kernels = [f"{source.stem}.o" for source in (ROOT / "custom_ops" / "cpu").glob("*.cpp")]
    flags = ["-std=c++17", "-O3", "-pthread", CONVERTS]
    sources = sorted((ROOT / "custom_ops" / "cpu").glob("*.cpp"))
    subprocess.run([CROSS, *flags, "-c", *sources], cwd=folder, check=True)

    def build(source):
        command = [CROSS, *flags, "-Wno-psabi", "-rdynamic", "-o", source + ".out", NATIVE / source, *kernels, "-ldl"]
        subprocess.run(command, cwd=folder, check=True)
        return EMULATOR, "-L", "/usr/aarch64-linux-gnu", folder / (source + ".out")

    return build


@emulated
@pytest.mark.slow
def test_on_aarch64_every_mode_gives_the_bits_of_the_default_one_and_is_left_as_it_was(aarch64):
    command = aarch64("floating_point.cpp")
    for mode in MODES:
        result = run_program(*command, mode)
        assert result.stdout.endswith(" calls, 0 wrong\n"), mode + result.stdout[-2000:] + result.stderr


class RemoteKernel:
    """What aot.Kernel is for a library, for a process that runs tests/native/serve.cpp."""

    def __init__(self, process, symbol):
        self._process = process
        self._symbol = symbol

    def prepare(self, *arrays):
        def run():
            request = self._process.stdin
            request.write(f"{self._symbol} {len(arrays)}\n".encode())
            for array in arrays:
                dims = array.shape or (1,)
                request.write(f"{array.dtype.name} {len(dims)} {' '.join(map(str, dims))}\n".encode())
                request.write(array.tobytes())
            request.flush()
            output = arrays[-1]
            output.reshape(-1).view("u1")[:] = bytearray(self._process.stdout.read(output.nbytes))

        return run


@emulated
@pytest.mark.slow
def test_on_aarch64_the_kernels_equal_the_reference_where_denormals_are_flushed_to_zero(aarch64, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    command = [*aarch64("serve.cpp"), "flush"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        kernel_grid.main(process, kernel=RemoteKernel)
        process.stdin.close()
    assert int(capsys.readouterr().out.split()[0]) > 400
