"""The CUDA kernels without a GPU: built for every architecture, and their logic run on the CPU.

Nothing here runs on a GPU: tools/gpu_check.py does.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindspore_mlml._backends import LIBRARIES
from tests.support.aot import Kernel
from tests.support.builds import build_emulated
from tests.support.host import Host
from tests.support.processes import run_python
from tests.support.reference import expectation
from tools import fuzz_kernels, gpu_check

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "custom_ops" / "cuda" / "multilabel_margin_loss.cu"
FUNCTIONS = {"MultilabelMarginLoss": "target", "MultilabelMarginLossFromLabels": "labels"}
SYMBOLS = [f"{name}{grad}{r}" for name in FUNCTIONS for grad in ("", "Grad") for r in ("None", "Mean", "Sum")]


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """The CUDA kernels' source, compiled for the CPU: see cuda_emulation/emulation.h."""
    return build_emulated(tmp_path_factory.mktemp("cuda"))


@pytest.mark.slow
def test_emulated_kernels_equal_the_reference_over_the_grid_of_sizes(emulated):
    output = run_python("-m", "tests.support.kernel_grid", str(emulated))
    assert int(output.split()[0]) > 400


@pytest.mark.slow
def test_emulated_kernels_pass_the_fuzzer(emulated, monkeypatch):
    for checked in ("0", "1"):
        monkeypatch.setenv("MLML_CHECK_TARGETS", checked)
        runner = fuzz_kernels.Runner(emulated)
        problems = [runner.problem(fuzz_kernels.make_case(6, index, runner.functions)) for index in range(150)]
        assert problems == [None] * 150


def test_emulated_kernels_print_0_325(emulated):
    mismatches = gpu_check.Mismatches()
    gpu_check.check_documented_example(Host(), emulated, mismatches)
    assert (mismatches.checked, mismatches.count) == (1, 0)


SIZES = [(3, c, t) for c in (1, 31, 128, 129, 2049, 5001) for t in (0, 1, 33, 127, 128, 257, 1024) if t <= c]
SIZES += [(1, 40000, 7), (513, 300, 5), (513, 4500, 5), (4100, 10, 3), (40, 5000, 20)]


@pytest.mark.slow
def test_emulated_kernels_pass_the_gpu_check(emulated, rng):
    mismatches = gpu_check.Mismatches()
    gpu_check.check_against_reference(Host(), emulated, mismatches, rng, SIZES)
    assert mismatches.checked > 300
    assert mismatches.count == 0


def test_the_gpu_check_sees_wrong_results_and_stray_writes(emulated, monkeypatch, capsys):
    class Careless(Host):
        def guarded(self, array):
            view, buffer = super().guarded(array)
            buffer[0] = 0
            return view, buffer

    mismatches = gpu_check.Mismatches()
    gpu_check.check_against_reference(Careless(), emulated, mismatches, np.random.default_rng(0), [(3, 100, 5)])
    assert mismatches.count == 4
    assert "something was written beside the output" in capsys.readouterr().out
    monkeypatch.setattr(gpu_check, "expectation", lambda *a: [value + 3 for value in expectation(*a)])
    gpu_check.check_against_reference(Host(), emulated, mismatches, np.random.default_rng(0), [(3, 100, 5)])
    assert mismatches.count > 4
    assert "MISMATCH MultilabelMarginLossGrad" in capsys.readouterr().out


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("value", [4, 5, 2**31 - 1])
def test_check_targets_raises_with_row_position_value_and_number_of_classes(emulated, function, position, value):
    code = f"""
import numpy as np
from tests.support.aot import Kernel
target = np.full((3, 6), 1, np.int32)
target[2, {position}] = {value}
input, loss = np.zeros((3, 4), np.float32), np.zeros((), np.float32)
Kernel({str(emulated)!r}, {function + "Mean"!r}).prepare(input, target, loss)()
"""
    environment = {**os.environ, "MLML_CHECK_TARGETS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    name = FUNCTIONS[function]
    assert f"must be less than the number of classes, 4, but got {name}[2][{position}] = {value}." in result.stderr


def test_check_targets_lets_good_targets_pass(emulated, monkeypatch):
    monkeypatch.setenv("MLML_CHECK_TARGETS", "1")
    loss = np.zeros((), np.float32)
    target = np.array([[1, -1, 9, 9]], np.int32)  # what stands after the end is not looked at
    Kernel(emulated, "MultilabelMarginLossMean").prepare(np.zeros((1, 4), np.float32), target, loss)()
    assert loss == np.float32(0.75)


def test_both_libraries_export_the_same_kernels(emulated):
    def exported(library):
        output = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
        return {line.split()[-1] for line in output.stdout.splitlines()}

    for library in (LIBRARIES["cpu"], emulated):
        assert {name + end for name in SYMBOLS for end in ("", "InferShape", "InferType")} <= exported(library)


nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


@nvcc
def test_the_package_has_the_cuda_library_and_it_exports_nothing_else():
    output = subprocess.run(
        ["nm", "-D", "--defined-only", LIBRARIES["cuda"]], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in output.stdout.splitlines()}
    assert {name + end for name in SYMBOLS for end in ("", "Init", "InferShape", "InferType")} <= names
    assert all(name.startswith("MultilabelMarginLoss") for name in names)
    dynamic = subprocess.run(["readelf", "-Wd", LIBRARIES["cuda"]], capture_output=True, text=True, check=True).stdout
    assert all(flag in dynamic for flag in ("BIND_NOW", "NODELETE"))


@nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.slow
def test_ptxas_assembles_the_cuda_kernels_without_leaving_the_resources_of_a_multiprocessor(architecture, tmp_path):
    command = ["nvcc", "-std=c++17", "-O3", f"-arch={architecture}", "-cubin", "-Xptxas=-v"]
    result = subprocess.run(
        [*command, "-o", tmp_path / "kernels.cubin", SOURCE], capture_output=True, text=True, check=True
    )
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", result.stderr)]
    shared = [int(count) for count in re.findall(r"(\d+) bytes smem", result.stderr)]
    assert (
        len(registers) >= 13
    )  # loss, its end, gradient, its end, for two dtypes and two sizes of a block, and a check
    assert max(registers) <= 64  # 1024 threads
    assert 4 * max(shared) <= 160 * 1024  # as many blocks


def test_a_table_has_a_line_for_each_row():
    text = gpu_check.table([{"shape": "a", "ms": 1.0}, {"shape": "bb", "ms": 20.0}])
    assert text.splitlines() == ["shape  ms", "a      1.000", "bb     20.000"]
    assert gpu_check.geometric_mean([1, 4]) == pytest.approx(2)
