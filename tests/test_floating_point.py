"""Results do not depend on the floating-point mode that a library has left the processor in, nor change it."""

import platform
import subprocess

import pytest

from mindspore_mlml._backends import LIBRARIES
from tests.support.builds import ISA_FLAGS, NATIVE, compile_program
from tests.support.processes import run_program, run_python

MODES = ["flush", "toward zero", "upward", "flush, upward, traps"]
CONVERTS = f"-DMLML_ISA={next(iter(ISA_FLAGS))}"  # the test converts float16 itself, too

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
