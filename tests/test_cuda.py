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
from tests.support.cases import DTYPES, REDUCTIONS
from tests.support.host import Host
from tests.support.processes import run_python
from tests.support.reference import TOLERANCE, expectation, loss_and_gradient
from tools import fuzz_kernels, fuzz_slices, gpu_check

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "custom_ops" / "cuda").glob("*.cu"))
FUNCTIONS = {"MultilabelMarginLoss": "target", "MultilabelMarginLossFromLabels": "labels"}
SYMBOLS = [f"{name}{grad}{r}" for name in FUNCTIONS for grad in ("", "Grad") for r in ("None", "Mean", "Sum")]
STEPS = [*fuzz_slices.STEPS, *[grad + r for grad in ("", "Grad") for r in ("None", "Mean", "Sum")]]
STEP_SYMBOLS = [fuzz_slices.CLASS_PARALLEL + step for step in STEPS]


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
    assert "MISMATCH MultilabelMarginLoss" in capsys.readouterr().out


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("position", [0, 2, 3])
@pytest.mark.parametrize("value", [4, 5, 2**31 - 1])
def test_check_targets_raises_with_row_position_value_and_number_of_classes(emulated, function, position, value):
    code = f"""
import numpy as np
from tests.support.aot import Kernel
target = np.full((3, 4), 1, np.int32)
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


# Classes, and the number of targets of each row. The kernels change their method at these sizes: a short row has blocks
# of 32 threads, whose trees have 127 targets, others have blocks of 256 and trees of 1023. A tree is sorted in another
# way if it has no more targets than threads, as the last of several trees may. Long rows are cut into pieces.
CASES = {
    "short": (128, (0, 1, 5, 20, 33, 100, 127, 128, 140, 300)),
    "short, of unaligned rows": (127, (0, 3, 50, 127, 130)),
    "few pairs": (140, (0, 1, 7, 100)),
    "one piece": (1500, (0, 3, 40, 1101)),
    "long": (2100, (0, 3, 300, 1000, 1102, 1300)),
    "in pieces": (12300, (0, 2, 30, 1000)),
    "in pieces, several trees": (4200, (1103, 3, 1)),
}
SPECIAL = ("none", "nan", "infinite", "large")
# In float32, sums of float16 scores do not overflow.
KINDS = [(dtype, special) for dtype in DTYPES for special in SPECIAL if (dtype, special) != (np.float16, "large")]


def make_case(rng, dtype, classes, counts, special):
    input = rng.standard_normal((len(counts), classes)).astype(dtype)
    target = np.full((len(counts), max(counts)), -1, np.int32)
    for row, count in enumerate(counts):
        target[row, :count] = rng.integers(0, classes, count)
    if special == "nan":
        input[:, classes // 2] = np.nan
        target[2, 0] = classes
    elif special == "infinite":
        input[:, 1], input[::2, classes - 2], input[1::3, 5] = -np.inf, np.inf, np.inf
    elif special == "large":  # differences overflow in the dtype
        input = np.where(rng.integers(0, 2, input.shape), 0.9, -0.9).astype(dtype) * np.finfo(dtype).max
    return input, target


def check_whole(library, input, target, reduction, dout):
    dtype = input.dtype.type
    with np.errstate(over="ignore", invalid="ignore"):
        expected = [value.astype(dtype) for value in loss_and_gradient(input, target, reduction, dout)]
    for actual, value in zip(run_whole(library, input, target, reduction, dout), expected):
        np.testing.assert_allclose(actual, value, 2 * TOLERANCE[dtype], np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "special"), KINDS)
def test_emulated_kernels_equal_the_reference_by_each_method(emulated, rng, case, dtype, special):
    classes, counts = CASES[case]
    reduction = REDUCTIONS[SPECIAL.index(special) % 3]
    input, target = make_case(rng, dtype, classes, counts, special)
    dout = make_dout(rng, len(counts), reduction, dtype)
    check_whole(emulated, input, target, reduction, dout)
    check_slices(emulated, input, target, reduction, dout, 5 if special == "infinite" else 1)


def run_slices(library, input, target, reduction, dout, slices):
    """The loss on each rank, the gradient put together, and each row's loss as the ranks tell each other, when the
    classes are cut into slices."""

    def call(step, inputs, outputs):
        Kernel(library, fuzz_slices.CLASS_PARALLEL + step).prepare(*inputs, *outputs)()
        return None, outputs

    cuts = [number / slices for number in range(1, slices)]
    case = {"input": input, "target": target, "reduction": reduction, "dout": dout, "cuts": cuts}
    results = fuzz_slices.run({**case, "offset": 0, "malformed": None}, call, None)
    return results.losses, results.gradients[0], results.row_losses


def run_whole(library, input, target, reduction, dout):
    loss, gradient, name = np.empty_like(dout), np.empty_like(input), reduction.capitalize()
    Kernel(library, f"MultilabelMarginLossFromLabels{name}").prepare(input, target, loss)()
    Kernel(library, f"MultilabelMarginLossFromLabelsGrad{name}").prepare(input, target, dout, gradient)()
    return loss, gradient


def make_dout(rng, rows, reduction, dtype):
    return rng.standard_normal(rows if reduction == "none" else ()).astype(dtype)


def check_slices(library, input, target, reduction, dout, slices):
    """The slices' losses are within 2 units in the last place of the whole's, and their gradient is the same."""
    loss, gradient = run_whole(library, input, target, reduction, dout)
    losses, of_slices, _ = run_slices(library, input, target, reduction, dout, slices)
    for of_rank in losses:
        np.testing.assert_array_equal(of_rank, losses[0])
        np.testing.assert_array_equal(np.isfinite(of_rank), np.isfinite(loss))
        finite = np.isfinite(loss)
        np.testing.assert_array_equal(of_rank[~finite], loss[~finite])
        if finite.any():
            np.testing.assert_array_max_ulp(of_rank[finite], loss[finite], 2)
    np.testing.assert_array_equal(of_slices, gradient)


# Classes, labels, rows. A slice of the largest is cut into pieces; of 1024 labels and more there are several trees.
SLICED_SIZES = [(4, 3, 5), (300, 3, 5), (2000, 100, 4), (10000, 5, 2), (3000, 1500, 2)]


@pytest.mark.parametrize("slices", [1, 2, 4])
@pytest.mark.parametrize("size", SLICED_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_slices_of_the_classes_make_what_the_whole_makes(emulated, rng, size, dtype, slices):
    classes, labels, rows = size
    reduction = REDUCTIONS[(slices + labels) % 3]
    input = rng.standard_normal((rows, classes)).astype(dtype)
    target = rng.integers(0, classes, (rows, labels)).astype(np.int32)  # some twice
    target[0, labels // 2 :] = -1
    target[1, 0] = classes - 1
    check_slices(emulated, input, target, reduction, make_dout(rng, rows, reduction, dtype), slices)


@pytest.mark.parametrize(("classes", "slices"), [(40, 1), (40, 2), (40, 4), (9000, 2), (9000, 4)])
def test_slices_make_of_what_is_not_finite_what_the_whole_makes(emulated, rng, classes, slices):
    input = rng.standard_normal((9, classes)).astype(np.float32)
    target = np.tile(np.array([3, classes - 1, 3, -1, classes], np.int32), (9, 1))
    for row, (label, value) in enumerate([(3, np.nan), (7, np.nan), (3, np.inf), (7, np.inf), (3, -np.inf)]):
        input[row, label] = value
    input[5, [3, 8]] = input[6, [3, classes - 2]] = np.inf  # inf - inf, of one slice and of two
    input[7] = np.where(np.arange(classes) % 2, 3e38, -3e38)
    target[8, 0] = -1
    check_slices(emulated, input, target, "none", make_dout(rng, 9, "none", np.float32), slices)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_longer_than_a_tile_of_marked_targets(emulated, rng, dtype):
    """So many rows are not cut into pieces, and those that do not begin at an aligned address need a second tile."""
    input, target = np.zeros((257, 32767), dtype), np.full((257, 3), -1, np.int32)
    input[1:4] = rng.standard_normal((3, 32767))
    target[1:4] = [[0, 32766, 1], [32766, 40, -1], [32765, 32766, -1]]
    input[2, 9], input[3] = np.inf, np.finfo(dtype).max * 0.9
    input[3, 32764:] *= -1
    dout = make_dout(rng, 257, "none", dtype)
    check_whole(emulated, input, target, "none", dout)
    check_slices(emulated, input, target, "none", dout, 1)


def test_more_rows_than_blocks(emulated, rng, monkeypatch):
    monkeypatch.setenv("MLML_CHECK_TARGETS", "1")
    input = (rng.integers(-8, 8, (4100, 3)) / 4).astype(np.float32)  # so that hinges are exact
    target = rng.integers(-1, 3, (4100, 2)).astype(np.int32)
    losses, scores = np.empty(4100, np.float32), np.empty((4100, 2), np.float32)
    place, header = np.array([3, 0, 1, 0], np.int64), np.empty(17, np.float32)
    Kernel(emulated, fuzz_slices.CLASS_PARALLEL + "Header").prepare(input, target, place, header)()
    of_losses = Kernel(emulated, "MultilabelMarginLossFromLabelsNone").prepare(input, target, losses)
    of_scores = Kernel(emulated, fuzz_slices.CLASS_PARALLEL + "TargetScores").prepare(
        input, target, place, header, scores
    )
    of_losses()
    np.testing.assert_array_equal(losses, loss_and_gradient(input, target, "none")[0].astype(np.float32))
    of_scores()
    is_target = np.logical_and.accumulate(target >= 0, axis=1)
    np.testing.assert_array_equal(scores, np.where(is_target, np.take_along_axis(input, np.maximum(target, 0), 1), 0))
    target[4099] = [1, 3]
    for run in (of_losses, of_scores):
        with pytest.raises(RuntimeError, match=r"got (target|labels)\[4099\]\[1\] = 3"):
            run()


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_threads_of_a_block(emulated, rng, dtype):
    input = (rng.integers(-8, 8, (260, 9)) / 4).astype(dtype)
    target = np.full((260, 3), -1, np.int32)
    target[::32] = rng.integers(-1, 9, (9, 3))
    for reduction in ("none", "sum"):
        dout = make_dout(rng, 260, reduction, dtype)
        check_whole(emulated, input, target, reduction, dout)
        check_slices(emulated, input, target, reduction, dout, 7)


def test_checksum_of_many_labels(emulated, rng):
    """More labels than threads: each thread reads several."""
    place, target = np.array([9, 0, 1, 0], np.int64), rng.integers(-1, 9, (6000, 100)).astype(np.int32)

    def checksum():
        header = np.zeros(17, np.float32)
        input = np.zeros((6000, 9), np.float32)
        Kernel(emulated, fuzz_slices.CLASS_PARALLEL + "Header").prepare(input, target, place, header)()
        return header[1:].tolist()

    before = checksum()
    assert checksum() == before
    target[5999, 99] += 1
    assert checksum() != before


@pytest.mark.parametrize("slices", [1, 2, 4])
@pytest.mark.parametrize("labels", [2, 1500])
def test_a_target_out_of_range_makes_its_row_nan_on_all_ranks(emulated, rng, labels, slices):
    input = rng.standard_normal((3, 2000)).astype(np.float32)
    target = rng.integers(0, 2000, (3, labels)).astype(np.int32)
    target[1, -1], target[2, 0] = 2000, 2**31 - 1
    losses, gradient, _ = run_slices(emulated, input, target, "none", np.ones(3, np.float32), slices)
    for loss in losses:
        np.testing.assert_array_equal(np.isnan(loss), [False, True, True])
    np.testing.assert_array_equal(np.isnan(gradient).any(axis=1), [False, True, True])
    np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), [False, True, True])


@pytest.mark.parametrize("classes", [300, 9000])
def test_ranks_tell_each_other_losses_in_float64(emulated, rng, classes):
    input = (rng.integers(-20, 20, (3, classes)) / 4).astype(np.float32)  # so that hinges are exact
    target = rng.integers(0, classes, (3, 20)).astype(np.int32)
    *_, row_losses = run_slices(emulated, input, target, "none", np.ones(3, np.float32), 4)
    np.testing.assert_allclose(row_losses, loss_and_gradient(input, target, "none")[0], rtol=2.0**-45)


def disagree(library, change):
    """The losses and gradients of two ranks of three classes each, of which ``change(target, place)`` changes the
    second's."""
    input, exchanged = np.zeros((2, 3), np.float32), []
    own = [(np.array([[1], [-1]], np.int32), np.array([6, rank, 2, 0, 0], np.int64)) for rank in range(2)]
    change(*own[1])

    def call(step, *shapes):
        results = []
        for arrays in own:
            outputs = [np.full(shape, 7, np.float32) for shape in shapes]
            dout = [np.ones((), np.float32)] if step.startswith("Grad") else []
            Kernel(library, fuzz_slices.CLASS_PARALLEL + step).prepare(input, *arrays, *exchanged, *dout, *outputs)()
            results.append(outputs[0])
        return results

    for step, shape in (("Header", (18,)), ("TargetScores", (2, 1)), ("Partial", (10,))):
        exchanged.append(np.sum(call(step, shape), axis=0, dtype=np.float32))
    return call("Mean", ()), call("GradMean", (2, 3))


@pytest.mark.parametrize(
    ("index", "value"), [(None, 2), (0, 5), (0, 0), (0, 2**40), (1, 0), (1, 2), (1, -1), (2, 3), (2, 257)]
)
def test_ranks_that_do_not_agree_make_nan(emulated, monkeypatch, index, value):
    def change(target, place):
        array, at = (target, (0, 0)) if index is None else (place, index)
        array[at] = value

    losses, gradients = disagree(emulated, change)
    assert np.isnan(losses).all()
    for gradient in gradients:
        assert np.isnan(gradient[0]).all()
    monkeypatch.setenv("MLML_CHECK_TARGETS", "1")
    with pytest.raises(RuntimeError, match=r"'ClassParallelMultilabelMarginLoss', .*(ranks|header|num_classes|place)"):
        disagree(emulated, change)


def test_both_libraries_export_the_same_kernels(emulated):
    def exported(library):
        output = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
        return {line.split()[-1] for line in output.stdout.splitlines()}

    for library in (LIBRARIES["cpu"], emulated):
        assert {name + end for name in SYMBOLS for end in ("", "InferShape", "InferType")} <= exported(library)
        assert set(STEP_SYMBOLS) <= exported(library)


nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


@nvcc
def test_the_package_has_the_cuda_library_and_it_exports_nothing_else():
    output = subprocess.run(
        ["nm", "-D", "--defined-only", LIBRARIES["cuda"]], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in output.stdout.splitlines()}
    assert {name + end for name in SYMBOLS for end in ("", "Init", "InferShape", "InferType")} <= names
    assert {name + end for name in STEP_SYMBOLS for end in ("", "Init")} <= names
    assert all(name.startswith("MultilabelMarginLoss") for name in names)
    dynamic = subprocess.run(["readelf", "-Wd", LIBRARIES["cuda"]], capture_output=True, text=True, check=True).stdout
    assert all(flag in dynamic for flag in ("BIND_NOW", "NODELETE"))


@nvcc
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.slow
def test_ptxas_assembles_the_cuda_kernels_without_leaving_the_resources_of_a_multiprocessor(
    source, architecture, tmp_path
):
    command = ["nvcc", "-std=c++17", "-O3", f"-arch={architecture}", "-cubin", "-Xptxas=-v"]
    result = subprocess.run(
        [*command, "-o", tmp_path / "kernels.cubin", source], capture_output=True, text=True, check=True
    )
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", result.stderr)]
    shared = [int(count) for count in re.findall(r"(\d+) bytes smem", result.stderr)]
    # Of the whole: loss, its end, gradient, its end, for two dtypes and two sizes of a block, and a check. Of a slice:
    # scores of targets, parts, counts, loss, gradient, for two dtypes, and what is of none.
    assert len(registers) >= 13
    assert max(registers) <= 64  # 1024 threads
    assert 4 * max(shared) <= 160 * 1024  # as many blocks


def test_a_table_has_a_line_for_each_row():
    text = gpu_check.table([{"shape": "a", "ms": 1.0}, {"shape": "bb", "ms": 20.0}])
    assert text.splitlines() == ["shape  ms", "a      1.000", "bb     20.000"]
    assert gpu_check.geometric_mean([1, 4]) == pytest.approx(2)
