"""The semantics, row by row, against the reference: in both modes, for both dtypes and every reduction."""

import numpy as np
import pytest

from tests.support.cases import DTYPES, EXAMPLE_INPUT, EXAMPLE_TARGET, REDUCTIONS, SEMANTICS, random_batch
from tests.support.compare import check_against_reference
from tests.support.nets import EACH_FORM, PYNATIVE_AND_SLOWLY_GRAPH, run_gradient, run_loss


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)  # all rows in a graph: the next test
@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("row", SEMANTICS)
def test_each_row_of_the_semantics_table(mode, form, row):
    scores, labels = (np.array(values) for values in SEMANTICS[row])
    for dtype in DTYPES:
        check_against_reference(scores.astype(dtype), labels.astype(np.int32), "mean", form)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_rows_in_one_batch(mode, dtype, reduction):
    input = np.array([scores for scores, _ in SEMANTICS.values()], dtype)
    target = np.array([labels for _, labels in SEMANTICS.values()], np.int32)
    check_against_reference(input, target, reduction)
    finite = np.isfinite(input).all(axis=1)
    check_against_reference(input[finite], target[finite], reduction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (8, 10), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((1, 7), (5, 1), (3, 64), (2, 1000)))],
)
def test_random_batches(mode, rng, dtype, reduction, shape):
    check_against_reference(*random_batch(rng, *shape, max_targets=shape[1], dtype=dtype), reduction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_empty_batch_has_loss_zero(mode, dtype, reduction):
    input, target = np.zeros((0, 4), dtype), np.zeros((0, 4), np.int32)
    loss = run_loss(input, target, reduction).asnumpy()
    assert loss.shape == ((0,) if reduction == "none" else ())
    assert loss.dtype == dtype
    np.testing.assert_array_equal(loss, np.zeros_like(loss))
    gradient = run_gradient(input, target, np.zeros(0) if reduction == "none" else 1.0, reduction)
    assert gradient.shape == (0, 4)


def test_large_finite_scores_do_not_overflow_on_the_way(mode):
    huge = np.float32(3e38)
    input, target = np.array([-huge, huge, 0, 0], np.float32), np.array([0, -1, 0, 0], np.int32)
    assert float(run_loss(input, target).asnumpy()) == pytest.approx(6e38 / 4 + 3e38 / 2, rel=1e-6)


@pytest.mark.parametrize("targets", [4, 40])
def test_thresholds_far_apart_do_not_overflow_on_the_way(targets):
    input, target = np.full(2000, -3e38, np.float32), np.full(2000, -1, np.int32)
    target[:targets] = np.arange(targets)
    input[1:targets], input[-1] = -1.8e38, -1.79e38  # their distances add up to more than float32 has
    expected = (1.21e38 + (targets - 1) * 1e36) / 2000
    assert float(run_loss(input, target).asnumpy()) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_the_exact_count_over_c_rounded_once():
    rng = np.random.default_rng(1)
    input, target = random_batch(rng, 3, 1000, 700)
    gradient = run_gradient(input, target, np.ones(3), "none") * 1000.0
    np.testing.assert_allclose(gradient, np.round(gradient), rtol=2.0**-23)


def test_inputs_are_not_modified(mode):
    input, target = EXAMPLE_INPUT.copy(), EXAMPLE_TARGET.copy()
    check_against_reference(input, target)
    np.testing.assert_array_equal(input, EXAMPLE_INPUT)
    np.testing.assert_array_equal(target, EXAMPLE_TARGET)
