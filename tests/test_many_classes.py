"""Classes in slices: the kernels, the linear layer whose scores are never all there, and classes divided over
processes."""

import ctypes
import os
import re
import sys
import textwrap
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.dataset import NumpySlicesDataset

from mindspore_mlml import (
    ClassParallelMultilabelMarginLoss,
    LinearMultilabelMarginLoss,
    linear_multilabel_margin_loss,
    _ops,
    multilabel_margin_loss_from_labels,
)
from mindspore_mlml._backends import LIBRARIES
from tests.support import slices
from tests.support.builds import ROOT
from tests.support.cases import DTYPES, EXAMPLE_INPUT, EXAMPLE_TARGET, INF, NAN, REDUCTIONS
from tests.support.nets import GRAPH_AND_SLOWLY_PYNATIVE, PYNATIVE_AND_SLOWLY_GRAPH
from tests.support.processes import run_program, run_python, run_script
from tests.support.slices import (
    SIZES,
    check_class_parallel,
    check_gradients,
    check_linear,
    check_losses,
    linear_reference,
    random_cuts,
    random_dout,
    random_labels,
    random_layer,
    run_grid,
)

# ----------------------------------------------------------------------------------------------------------------------
# The kernels, for slices


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_slices_together_have_the_loss_and_the_gradient_of_the_whole(rng, dtype, reduction, size):
    classes, num_labels = size
    input = rng.standard_normal((5, classes)).astype(dtype)
    input[4] = np.round(input[4] * 4) / 4  # ties
    labels = random_labels(rng, 5, classes, num_labels)
    for number in (1, 2, 4):
        check_class_parallel(rng, input, labels, number, reduction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("cuts", [(), (1,), (3,), (1, 2, 3)])
def test_slices_of_the_documented_example_have_its_loss(rng, dtype, reduction, cuts):
    input = EXAMPLE_INPUT.astype(dtype)
    check_class_parallel(rng, input, EXAMPLE_TARGET, None, reduction, cuts)
    losses, _ = slices.class_parallel(input, EXAMPLE_TARGET, cuts, "mean", np.ones((), dtype))
    assert {str(loss) for loss in losses} == {"0.325"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("at_label", [False, True])
def test_what_is_not_finite_in_one_slice_counts_in_all(rng, dtype, value, at_label):
    """In the third of the slices, for one row."""
    for classes, num_labels in ((40, 3), (3001, 20), (5000, 600)):
        input = rng.standard_normal((4, classes)).astype(dtype)
        labels = random_labels(rng, 4, classes, num_labels)
        labels[1] = labels[0]
        cuts = [classes // 8, classes // 4, classes // 2]
        place = 3 * classes // 8
        labels[labels == place] = place + 1
        if at_label:
            labels[1, 1] = place
        input[1:3, place] = value  # row 2 has no labels
        for reduction in REDUCTIONS:
            check_class_parallel(rng, input, labels, None, reduction, cuts)
        dout = np.ones(4, dtype)
        losses, gradient = slices.class_parallel(input, labels, cuts, "none", dout)
        assert (losses[0][2], gradient[2].any()) == (0, False)
        assert np.isfinite(gradient[1]).all() == (not np.isnan(value))
        assert np.isfinite(losses[0][1]) == (value == (INF if at_label else -INF))


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_classes_in_several_slices(rng, dtype):
    input = rng.standard_normal((4, 3001)).astype(dtype)
    input[:, rng.random(3001) < 0.3] = -INF
    input[3, [5, 2999]] = INF
    labels = random_labels(rng, 4, 3001, 6)
    labels[3, :3] = [5, 2999, 17]
    check_class_parallel(rng, input, labels, None, "none", (1, 1500, 2900))


@pytest.fixture
def set_threads():
    yield ctypes.CDLL(str(LIBRARIES["cpu"])).MultilabelMarginLossSetThreads
    _ops._set_threads()


def test_the_kernels_have_the_same_bits_for_any_number_of_threads(set_threads):
    results = set()
    for threads in (1, 3):
        set_threads(threads)
        results.add(run_grid())
    assert len(results) == 1
    assert results.pop()[0] == 48


@pytest.mark.slow
def test_every_instruction_set_has_the_same_bits_for_any_number_of_threads(isa):
    environments = [{"OMP_NUM_THREADS": threads, "MLML_SIMD": isa} for threads in ("1", "2", "5")]
    assert len({run_python("-m", "tests.support.slices", **environment) for environment in environments}) == 1


# ----------------------------------------------------------------------------------------------------------------------
# The errors of the kernels, on every rank


def header(firsts, num_classes, symbol="ClassParallel"):
    """The header of ranks that have such inputs, and a function that takes the next step on one of them."""
    places = [slices.place(num_classes, rank, len(firsts)) for rank in range(len(firsts))]
    empty = np.zeros(len(firsts) + 16, np.float32)
    total = sum(slices.call(f"{symbol}Header", *first, at, empty.copy()) for first, at in zip(firsts, places))

    def step(rank):
        return slices.call(f"{symbol}TargetScores", *firsts[rank], places[rank], total, np.zeros((2, 3), np.float32))

    return step


def error_of(call, *arguments):
    with pytest.raises(RuntimeError) as error:
        call(*arguments)
    return str(error.value)


SCORES, LABELS = np.zeros((2, 4), np.float32), np.array([[0, 1, -1], [1, -1, 99]], np.int32)


def test_ranks_without_all_classes_together_are_an_error_on_each():
    step = header([(SCORES, LABELS), (np.zeros((2, 5), np.float32), LABELS), (SCORES[:, :1], LABELS)], 11)
    message = (
        "For 'ClassParallelMultilabelMarginLoss', the ranks must have 'num_classes' = 11 classes together, but have "
        "4 + 5 + 1."
    )
    assert [error_of(step, rank) for rank in range(3)] == [message] * 3


@pytest.mark.parametrize("ranks", [2, 3, 256])
@pytest.mark.parametrize("other", [LABELS + [[0, 0, 0], [0, 0, 1]], LABELS.T.copy().reshape(2, 3), LABELS[:, ::-1]])
def test_labels_that_differ_are_an_error_on_each_rank(ranks, other):
    other = np.ascontiguousarray(other, np.int32)
    scores = np.zeros((2, 1), np.float32)
    header([(scores, LABELS)] * ranks, ranks)(ranks - 1)  # the same: no error
    step = header([(scores, LABELS)] * (ranks - 1) + [(scores, other)], ranks)
    message = (
        "For 'ClassParallelMultilabelMarginLoss', 'labels', and what else all ranks share, must be the same on all "
        "ranks, but they differ."
    )
    assert {error_of(step, rank) for rank in (0, 1, ranks - 1)} == {message}


def test_scores_of_two_dtypes_are_an_error_on_each_rank():
    step = header([(SCORES, LABELS), (SCORES.astype(np.float16), LABELS)], 8)
    assert all("must be the same on all ranks" in error_of(step, rank) for rank in range(2))


def test_features_that_differ_are_an_error_on_each_rank():
    features, weight = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    other = features.copy()
    other[1, 2] = np.nextafter(np.float32(1), np.float32(2))
    step = header([(features, LABELS, weight), (other, LABELS, weight)], 8, "Linear")
    for rank in range(2):
        assert re.match("For 'linear_.*must be the same on all ranks, but they differ", error_of(step, rank))


def test_a_label_beyond_all_classes_is_an_error_on_each_rank():
    labels = LABELS.copy()
    labels[1, 1] = 9
    step = header([(SCORES, labels), (np.zeros((2, 5), np.float32), labels)], 9)
    message = (
        "For 'ClassParallelMultilabelMarginLoss', a value of 'labels' must be less than the number of classes, 9, but "
        "got labels[1][1] = 9."
    )
    assert [error_of(step, rank) for rank in range(2)] == [message] * 2


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ([0, 0, 2, 0], "'num_classes' must be from 1 to 16777216, but got 0"),
        ([-1, 0, 1, 0], "'num_classes' must be from 1 to 16777216, but got -1"),
        ([2**24 + 1, 0, 1, 0], "'num_classes' must be from 1 to 16777216, but got 16777217"),
        ([4, 0, 257, 0], "there must be from 1 to 256 ranks, but got number 0 of 257"),
        ([4, 0, 0, 0], "there must be from 1 to 256 ranks, but got number 0 of 0"),
        ([4, 2, 2, 0], "there must be from 1 to 256 ranks, but got number 2 of 2"),
        ([4, -1, 2, 0], "there must be from 1 to 256 ranks, but got number -1 of 2"),
        ([4, 0, 1, -1], "there must be from 1 to 256 ranks"),
    ],
)
def test_a_place_that_cannot_be_is_an_error(place, message):
    output = np.zeros(place[2] + 16, np.float32)
    with pytest.raises(RuntimeError, match=f"^For 'ClassParallelMultilabelMarginLoss', {re.escape(message)}"):
        slices.call("ClassParallelHeader", SCORES, LABELS, np.array(place, np.int64), output)


WITHOUT_BLAS = """
    import sys
    import numpy as np
    from tests.support.aot import Kernel
    features, labels, weight = np.ones((2, 3), np.float32), np.zeros((2, 1), np.int32), np.ones((2, 3), np.float32)
    known = [features, labels, weight, np.array([2, 0, 1, 0])]
    for step, size in (("Header", 17), ("TargetScores", (2, 1)), ("Partial", 6)):
        output = np.zeros(size, np.float32)
        try:
            Kernel(sys.argv[1], f"MultilabelMarginLossLinear{step}").prepare(*known, output)()
        except RuntimeError as error:
            print(step, error)
        known.append(output)
"""


def test_a_layer_without_blas_is_an_error():
    """In a process that has not imported the package."""
    output = run_python("-c", textwrap.dedent(WITHOUT_BLAS), str(LIBRARIES["cpu"]))
    assert output == "Partial For 'linear_multilabel_margin_loss', no BLAS was set.\n"


# ----------------------------------------------------------------------------------------------------------------------
# The linear layer's kernels


@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.float16, np.float16), (np.float16, np.float32)])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "features", "classes", "num_labels"),
    [
        (1, 1, 1, 1),
        (3, 4, 2, 2),
        (5, 7, 1023, 3),
        (5, 8, 1024, 1),
        (4, 33, 1025, 20),
        (3, 16, 3001, 100),
        (3, 5, 3001, 600),
        (256, 3, 1100, 3),
        (257, 3, 2049, 1),
        (513, 5, 300, 4),
        (2, 4, 70001, 5),  # more blocks than ranges
    ],
)
def test_the_layer_equals_dense_and_the_loss_in_float64(rng, dtypes, has_bias, rows, features, classes, num_labels):
    layer = list(random_layer(rng, rows, features, classes, *dtypes))
    if not has_bias:
        layer[2] = None
    labels = random_labels(rng, rows, classes, num_labels)
    for reduction in REDUCTIONS if rows < 100 else ("mean",):
        check_linear(rng, layer, labels, reduction)


@pytest.mark.parametrize("block", [1, 1024, 1500, 2048, 10**6])
@pytest.mark.parametrize("number", [1, 3])
def test_the_layer_equals_dense_and_the_loss_for_any_block_and_slices(rng, block, number):
    layer, labels = random_layer(rng, 260, 6, 5000), random_labels(rng, 260, 5000, 3)
    check_linear(rng, layer, labels, "mean", block, random_cuts(rng, 5000, number))


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_layer_with_normal_numbers(rng, has_bias):
    """Scores are rounded, but no pair is so near the margin that this matters."""
    features = rng.standard_normal((20, 64)).astype(np.float32)
    weight = (rng.standard_normal((2000, 64)) / 8).astype(np.float32)
    bias = rng.standard_normal(2000).astype(np.float32) if has_bias else None
    labels = random_labels(rng, 20, 2000, 3)
    scores = features.astype(np.float64) @ weight.T.astype(np.float64) + (0 if bias is None else bias)
    listed = np.cumsum(labels < 0, axis=1) == 0
    margins = 1 - np.take_along_axis(scores, np.where(listed, labels, 0), 1)[:, :, None] + scores[:, None, :]
    labels[(np.abs(margins).min(axis=2) < 1e-5) & listed] = -1
    assert (np.cumsum(labels < 0, axis=1) == 0).sum() > 10
    check_linear(rng, (features, weight, bias), labels, "none")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("at", ["a bias", "a feature", "a label's bias"])
@pytest.mark.parametrize("number", [1, 2])
def test_what_is_not_finite_in_the_layer_counts_as_in_dense(rng, dtype, value, at, number):
    features, weight, bias = random_layer(rng, 5, 4, 2100, dtype)
    labels = random_labels(rng, 5, 2100, 3)
    labels[:2] = [[7, 1500, -1], [1501, -1, 7]]
    weight[:, 2] = np.where(weight[:, 2] == 0, 0.5, weight[:, 2])  # no NaN from 0 times infinity
    if at == "a feature":
        features[1, 2] = value
    else:
        bias[1501 if at == "a label's bias" else 1502] = value
    for reduction in ("none", "mean"):
        check_linear(rng, (features, weight, bias), labels, reduction, cuts=(1024,)[: number - 1])
