"""The kernels in MindSpore's hybrid DSL: as NumPy functions, through AKG on the CPU, and compiled for a GPU.

Nothing here runs on a GPU: tools/gpu_check.py does.
"""

import os
import shutil
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindspore_mlml import _hybrid_kernels
from tests.support.cases import DTYPES, EXAMPLE_INPUT, EXAMPLE_TARGET, REDUCTIONS, SEMANTICS, batch_of, random_batch
from tests.support.compare import check_against_reference, check_second_derivatives, close
from tests.support.nets import FORMS, run_loss
from tests.support.reference import loss_and_gradient
from tools import akg_ptx, gpu_check


@pytest.fixture
def hybrid(force_kernel, monkeypatch, tmp_path):
    """Lets AKG's kernels run on the CPU."""
    force_kernel("hybrid")
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path))


def scores_and_margins(input, target):
    """What the kernels take, made from the definition."""
    scores, margins = input.copy(), np.full(target.shape, -np.inf, np.float32)
    for row, labels in enumerate(target):
        for j, label in enumerate(labels):
            if label < 0:
                break
            scores[row, label] = -np.inf
            margins[row, j] = np.float32(1) - np.float32(input[row, label])
    return scores, margins


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_numpy_functions_they_equal_the_reference(rng, dtype):
    input, target = random_batch(rng, 4, 17, 17, dtype)
    scores, margins = scores_and_margins(input, target)
    losses, gradient = loss_and_gradient(input, target, "none", np.ones(4))
    sums = _hybrid_kernels.hinge_sums(scores.reshape(-1), margins).reshape(scores.shape)
    np.testing.assert_allclose(sums.sum(axis=1) / 17, losses, rtol=1e-6)
    ones = np.ones_like(margins)
    actual = _hybrid_kernels.active_weights(scores.reshape(-1), margins, ones).reshape(scores.shape)
    of_targets = _hybrid_kernels.active_weights(margins.reshape(-1), scores, ones).reshape(margins.shape)
    for row, labels in enumerate(target):
        for j in np.flatnonzero(margins[row] > -np.inf):
            actual[row, labels[j]] -= of_targets[row, j]
    np.testing.assert_allclose(actual / 17, gradient, rtol=1e-12)


def test_through_akg_the_documented_example_prints_0_325(mode, hybrid):
    assert str(run_loss(EXAMPLE_INPUT, EXAMPLE_TARGET)) == "0.325"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_through_akg_they_equal_the_reference(mode, hybrid, rng, dtype, reduction):
    check_against_reference(*random_batch(rng, 5, 33, 33, dtype), reduction)


@pytest.mark.parametrize("dtype", DTYPES)
def test_through_akg_each_row_of_the_semantics_table(mode, hybrid, dtype):
    input = np.array([scores for scores, _ in SEMANTICS.values()], dtype)
    target = np.array([labels for _, labels in SEMANTICS.values()], np.int32)
    check_against_reference(input, target, "none")


def test_through_akg_one_row_and_no_row(mode, hybrid, rng):
    input, target = random_batch(rng, 1, 9, 9)
    check_against_reference(input[0], target[0], "none")
    check_against_reference(input[:0], target[:0], "mean")


def test_through_akg_a_target_out_of_range_makes_its_row_nan(mode, hybrid):
    target = EXAMPLE_TARGET.copy()
    target[1, 1] = 4
    loss = run_loss(EXAMPLE_INPUT, target, "none").asnumpy()
    assert loss[0] == 0
    assert np.isnan(loss[1])


@pytest.mark.parametrize("mode", ["graph"], indirect=True)
def test_with_unknown_shapes_mindspores_own_operators_take_over(mode, hybrid, rng):
    net = FORMS["function"]("mean")
    net.set_inputs(Tensor(shape=[None, None], dtype=ms.float32), Tensor(shape=[None, None], dtype=ms.int32))
    for shape in ((2, 4), (3, 50)):
        input, target = batch_of(rng, shape)
        close(net(Tensor(input), Tensor(target)), loss_and_gradient(input, target)[0])


@pytest.mark.parametrize("mode", ["graph"], indirect=True)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_through_akg_second_derivatives_in_graph_mode(mode, hybrid, rng, reduction):
    check_second_derivatives(rng, np.float32, reduction, 3)


def test_the_gpu_check_expects_what_they_compute_as_numpy_functions(rng):
    for kernel in akg_ptx.kernels([(3, 30)]):
        inputs = gpu_check.hybrid_inputs(kernel, rng)
        expected = gpu_check.expected_of_hybrid(kernel["function"], *inputs)
        actual = getattr(_hybrid_kernels, kernel["function"])(*inputs)
        np.testing.assert_allclose(expected, actual, rtol=1e-12)
        assert (actual != 0).any()


nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="AKG compiles for a GPU with nvcc, which is not installed"
)


SHAPES = [(2, 4), (64, 1000), (64, 3993), (256, 983), (32, 30938), (16, 205443)]


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptx")
    command = [sys.executable, akg_ptx.__file__, "--out", str(folder), "--shapes"]
    command += [f"{rows}x{classes}" for rows, classes in SHAPES]
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    return folder, akg_ptx.kernels(SHAPES)


@nvcc
@pytest.mark.slow
def test_most_threads_of_each_launch_write_an_output(launches):
    folder, expected = launches
    names = [kernel["name"] for kernel in expected]
    assert sorted(path.name for path in folder.iterdir()) == sorted(n + e for n in names for e in (".ptx", ".json"))
    for name in names:
        launch = akg_ptx.json.loads((folder / f"{name}.json").read_text())
        ptx = (folder / f"{name}.ptx").read_text()
        assert f".entry {launch['kernel']}" in ptx
        assert np.prod(launch["grid"]) >= np.prod(launch["output"][1]) / 1024
        assert akg_ptx.share_of_writers(launch, ptx) >= 0.5


@pytest.mark.parametrize(("code", "share"), [("$a:\nst.global.f64 [%rd1], %fd1;", 0.5), ("st.global.v2.f64", 0.25)])
def test_share_of_writers_follows_from_stores_outside_loops(code, share):
    launch = {"output": ["float64", [8]], "grid": [2, 1, 1], "block": [8, 1, 1]}
    assert akg_ptx.share_of_writers(launch, code) == share
    assert akg_ptx.share_of_writers(launch, f"$b:\n{code}\n@%p1 bra $b;") == 0


@nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.slow
def test_ptxas_assembles_them(launches, architecture, tmp_path):
    for path in launches[0].glob("*.ptx"):
        subprocess.run(["ptxas", f"-arch={architecture}", "-o", tmp_path / "kernel.cubin", path], check=True)


def test_the_tool_names_a_wrong_shape():
    command = [sys.executable, akg_ptx.__file__, "--out", "unused", "--shapes", "64"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "a shape looks like 64x1000, but got '64'" in result.stderr
