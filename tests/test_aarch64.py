"""The CPU kernels for aarch64, emulated: NEON, and MindSpore's library for it, which flushes denormals to zero."""

import os
import subprocess

import numpy as np
import pytest

from tests.support import kernel_grid
from tests.support.aot import RemoteKernel
from tests.support.builds import NO_EMULATION, build_emulated_program, build_vector_operations, can_emulate
from tests.support.cases import EXAMPLE_INPUT, EXAMPLE_TARGET
from tests.support.processes import run_program
from tests.test_floating_point import MODES

pytestmark = pytest.mark.skipif(not can_emulate(), reason=NO_EMULATION)


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """The command that runs tests/native/serve.cpp."""
    return build_emulated_program(tmp_path_factory.mktemp("aarch64"), "serve.cpp")


@pytest.fixture
def connect(serve, monkeypatch):
    """Starts a process that serves the kernels in a floating-point mode, with so many threads."""
    processes = []

    def start(mode, threads):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        processes.append(subprocess.Popen([*serve, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.communicate()


def test_the_vector_operations_of_neon_equal_plain_loops(tmp_path):
    output = run_program(*build_vector_operations(tmp_path, "neon")).stdout
    assert output.endswith(" checks, 0 wrong\n"), output
    assert int(output.split()[0]) > 300_000


def test_neon_gives_the_documented_0_325(connect):
    loss, gradient = np.empty((), np.float32), np.empty_like(EXAMPLE_INPUT)
    process = connect("default", 1)
    RemoteKernel(process, "MultilabelMarginLossMean").prepare(EXAMPLE_INPUT, EXAMPLE_TARGET, loss)()
    assert str(loss) == "0.325"
    one = np.ones((), np.float32)
    RemoteKernel(process, "MultilabelMarginLossGradMean").prepare(EXAMPLE_INPUT, EXAMPLE_TARGET, one, gradient)()
    np.testing.assert_array_equal(gradient, [[0, 0, 0, 0], [0.25, 0.25, -0.25, -0.25]])


def test_neon_is_the_only_instruction_set_there(serve):
    request = "MultilabelMarginLossMean 3\n" + "".join(
        f"{name} 1 1\n\0\0\0\0" for name in ("float32", "int32", "float32")
    )

    def call(isa):
        command = [*serve, "default"]
        return subprocess.run(
            command, input=request, capture_output=True, text=True, check=False, env={**os.environ, "MLML_SIMD": isa}
        )

    assert call("neon").returncode == 0
    assert "MLML_SIMD must be one of neon on this processor, but got 'baseline'" in call("baseline").stderr


def check_grid(connect, capsys, grid):
    """Flush-to-zero mode, one thread and three: several have work to do in the largest sizes only."""
    for threads in (1, 3):
        kernel_grid.main(connect("flush", threads), kernel=RemoteKernel, grid=grid)
    one, three = capsys.readouterr().out.splitlines()
    assert one == three
    assert int(one.split()[0]) == 2 * len(grid)


def test_neon_equals_the_reference_with_the_same_bits_for_any_number_of_threads(connect, capsys):
    check_grid(connect, capsys, [size for size in kernel_grid.SIZES if size[0] in (4, 33, 1025) or size[1] in (3, 65)])


@pytest.mark.slow
def test_neon_equals_the_reference_at_all_sizes_with_the_same_bits_for_any_number_of_threads(connect, capsys):
    check_grid(connect, capsys, kernel_grid.SIZES)


@pytest.mark.slow
def test_with_neon_every_mode_gives_the_bits_of_the_default_one_and_is_left_as_it_was(tmp_path):
    command = build_emulated_program(tmp_path, "floating_point.cpp")
    for mode in MODES:
        result = run_program(*command, mode)
        assert result.stdout.endswith(" calls, 0 wrong\n"), mode + result.stdout[-2000:] + result.stderr
