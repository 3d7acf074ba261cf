"""Classes divided over ranks: the kernels of each rank in one process, and processes that exchange what these write."""

import os
import re
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindspore_mlml import ClassParallelMultilabelMarginLoss, MultilabelMarginLossFromLabels
from tests.support import slices
from tests.support.cases import DTYPES, EXAMPLE_INPUT, EXAMPLE_TARGET, INF, NAN, REDUCTIONS
from tests.support.linear import call, check_losses, random_labels, random_layer
from tests.support.nets import PYNATIVE_AND_SLOWLY_GRAPH
from tests.support.processes import ROOT, free_port, run_program, run_python
from tests.support.slices import SIZES, check_class_parallel, check_sharded, random_cuts, run_grid

# ----------------------------------------------------------------------------------------------------------------------
# The kernels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_slices_have_the_loss_and_gradient_of_the_whole(rng, dtype, size):
    classes, num_labels = size
    input = rng.standard_normal((5, classes)).astype(dtype)
    input[4] = np.round(input[4] * 4) / 4  # ties
    labels = random_labels(rng, 5, classes, num_labels)
    for number, reduction in zip((1, 2, 4), REDUCTIONS):
        check_class_parallel(rng, input, labels, number, reduction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("cuts", [(), (1,), (3,), (1, 2, 3)])
def test_slices_of_the_documented_example(rng, dtype, reduction, cuts):
    input = EXAMPLE_INPUT.astype(dtype)
    check_class_parallel(rng, input, EXAMPLE_TARGET, None, reduction, cuts)
    losses, _ = slices.class_parallel(input, EXAMPLE_TARGET, cuts, "mean", np.ones((), dtype))
    assert {str(loss) for loss in losses} == {"0.325"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("at_label", [False, True])
def test_non_finite_scores_of_one_slice_count_in_all(rng, dtype, value, at_label):
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


@pytest.mark.parametrize("slices_of_layer", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_layer_in_slices_equals_dense(rng, dtype, slices_of_layer):
    """The classes of some slices begin within a block."""
    layer, labels = random_layer(rng, 260, 6, 5000, dtype), random_labels(rng, 260, 5000, 3)
    check_sharded(rng, layer, labels, "mean", random_cuts(rng, 5000, slices_of_layer))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", [1501, 1502], ids=["target", "negative"])
def test_non_finite_bias_of_one_slice_counts_in_all(rng, dtype, value, place):
    layer = random_layer(rng, 5, 4, 2100, dtype)
    labels = random_labels(rng, 5, 2100, 3)
    labels[:2] = [[7, 1500, -1], [1501, -1, 7]]
    layer[2][place] = value
    for reduction in ("none", "mean"):
        check_sharded(rng, layer, labels, reduction, (1024,))


def test_same_bits_for_any_number_of_threads(set_threads):
    results = set()
    for threads in (1, 3):
        set_threads(threads)
        results.add(run_grid())
    assert len(results) == 1
    assert results.pop()[0] == 60


@pytest.mark.slow
def test_same_bits_for_any_number_of_threads_on_each_instruction_set(isa):
    environments = [{"OMP_NUM_THREADS": threads, "MLML_SIMD": isa} for threads in ("1", "2", "5")]
    assert len({run_python("-m", "tests.support.slices", **environment) for environment in environments}) == 1


# ----------------------------------------------------------------------------------------------------------------------
# The errors of the kernels, which each rank raises


def exchange_headers(firsts, num_classes, symbol="ClassParallel"):
    """The header of ranks that have such inputs, and a function that takes the next step on one of them. The number of
    all classes may be one for each."""
    numbers = np.broadcast_to(num_classes, len(firsts))
    places = [slices.place(number, rank, len(firsts)) for rank, number in enumerate(numbers)]
    empty = np.zeros(len(firsts) + 16, np.float32)
    total = sum(call(f"{symbol}Header", *first, at, empty.copy()) for first, at in zip(firsts, places))

    def step(rank):
        return call(f"{symbol}TargetScores", *firsts[rank], places[rank], total, np.zeros((2, 3), np.float32))

    return step


def error_of(call, *arguments):
    with pytest.raises(RuntimeError) as error:
        call(*arguments)
    return str(error.value)


SCORES, LABELS = np.zeros((2, 4), np.float32), np.array([[0, 1, -1], [1, -1, 99]], np.int32)


def test_wrong_number_of_classes_is_an_error_on_each_rank():
    step = exchange_headers([(SCORES, LABELS), (np.zeros((2, 5), np.float32), LABELS), (SCORES[:, :1], LABELS)], 11)
    message = (
        "For 'ClassParallelMultilabelMarginLoss', the ranks must have 'num_classes' = 11 classes together, but have "
        "4 + 5 + 1."
    )
    assert [error_of(step, rank) for rank in range(3)] == [message] * 3


def test_different_num_classes_are_an_error_on_each_rank():
    step = exchange_headers([(SCORES, LABELS), (SCORES, LABELS)], (8, 9))
    assert "must be the same on all ranks" in error_of(step, 0)
    assert "'num_classes' = 9 classes together, but have 4 + 4" in error_of(step, 1)


@pytest.mark.parametrize("ranks", [2, 3, 256])
@pytest.mark.parametrize("other", [LABELS + np.eye(2, 3), LABELS.T.reshape(2, 3), LABELS[:, ::-1]])
def test_different_labels_are_an_error_on_each_rank(ranks, other):
    other = np.ascontiguousarray(other, np.int32)
    scores = np.zeros((2, 1), np.float32)
    exchange_headers([(scores, LABELS)] * ranks, ranks)(ranks - 1)  # the same: no error
    step = exchange_headers([(scores, LABELS)] * (ranks - 1) + [(scores, other)], ranks)
    message = (
        "For 'ClassParallelMultilabelMarginLoss', 'labels', and what else all ranks share, must be the same on all "
        "ranks, but they differ."
    )
    assert {error_of(step, rank) for rank in (0, 1, ranks - 1)} == {message}


def test_different_dtypes_are_an_error_on_each_rank():
    step = exchange_headers([(SCORES, LABELS), (SCORES.astype(np.float16), LABELS)], 8)
    assert all("must be the same on all ranks" in error_of(step, rank) for rank in range(2))


def test_different_features_are_an_error_on_each_rank():
    features, weight, bias = (np.ones(shape, np.float32) for shape in ((2, 3), (4, 3), 4))
    other = features.copy()
    other[1, 2] = np.nextafter(np.float32(1), np.float32(2))
    step = exchange_headers([(features, LABELS, weight, bias), (other, LABELS, weight, bias)], 8, slices.LINEAR)
    for rank in range(2):
        assert re.match(
            "For 'LinearMultilabelMarginLoss', .*must be the same on all ranks, but they differ", error_of(step, rank)
        )


def test_label_out_of_range_is_an_error_on_each_rank():
    labels = LABELS.copy()
    labels[1, 1] = 9
    step = exchange_headers([(SCORES, labels), (np.zeros((2, 5), np.float32), labels)], 9)
    message = (
        "For 'ClassParallelMultilabelMarginLoss', a value of 'labels' must be less than the number of classes, 9, but "
        "got labels[1][1] = 9."
    )
    assert [error_of(step, rank) for rank in range(2)] == [message] * 2


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ([0, 0, 2], "'num_classes' must be from 1 to 16777216, but got 0"),
        ([-1, 0, 1], "'num_classes' must be from 1 to 16777216, but got -1"),
        ([2**24 + 1, 0, 1], "'num_classes' must be from 1 to 16777216, but got 16777217"),
        ([4, 0, 257], "there must be from 1 to 256 ranks, but got number 0 of 257"),
        ([4, 0, 0], "there must be from 1 to 256 ranks, but got number 0 of 0"),
        ([4, 2, 2], "there must be from 1 to 256 ranks, but got number 2 of 2"),
        ([4, -1, 2], "there must be from 1 to 256 ranks, but got number -1 of 2"),
    ],
)
def test_impossible_place_is_an_error(place, message):
    output = np.zeros(place[2] + 16, np.float32)
    known = SCORES, LABELS, np.array([*place, *[0] * max(place[2], 1)], np.int64)
    with pytest.raises(RuntimeError, match=f"^For 'ClassParallelMultilabelMarginLoss', {re.escape(message)}"):
        call("ClassParallelHeader", *known, output)


def test_later_steps_report_no_error_again():
    """In PyNative their errors would be raised in later calls."""
    labels = np.full((2, 3), 4, np.int32)
    known = [SCORES, labels, slices.place(4)]
    known.append(call("ClassParallelHeader", *known, np.zeros(17, np.float32)))
    known.append(np.zeros((2, 3), np.float32))
    assert "got labels[0][0] = 4" in error_of(call, "ClassParallelTargetScores", *known)
    for step, size in (("Partial", 2 * 5), ("Mean", 1), ("GradMean", 8)):
        dout = [np.ones(1, np.float32)] if step == "GradMean" else []
        output = call(f"ClassParallel{step}", *known, *dout, np.zeros(size, np.float32))
        assert np.isnan(output).all()
        if step == "Partial":
            known.append(output)


@pytest.mark.parametrize("place", [[4, 0, 1, 0, 0], [4, 0, 2, 0], [4, 0, 1]])
def test_place_has_a_zero_for_each_rank(place):
    with pytest.raises(RuntimeError, match=r"'place' must have . elements, but got shape"):
        call("ClassParallelHeader", SCORES, LABELS, np.array(place, np.int64), np.zeros(17, np.float32))


# ----------------------------------------------------------------------------------------------------------------------
# Classes divided over processes


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_one_process_has_the_loss_of_all_classes(mode, reduction):
    loss = ClassParallelMultilabelMarginLoss(4, reduction)
    scores, labels = Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET)
    whole = MultilabelMarginLossFromLabels(reduction)

    def total(scores):
        return loss(scores, labels).sum()

    def total_of_whole(scores):
        return whole(scores, labels).sum()

    value, gradient = ms.value_and_grad(total)(scores)
    expected, of_whole = ms.value_and_grad(total_of_whole)(scores)
    check_losses([value.asnumpy()], expected.asnumpy(), 2)
    np.testing.assert_array_equal(gradient.asnumpy(), of_whole.asnumpy())


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_class_parallel_loss_needs_the_kernel_cpu_or_cuda(force_kernel, mode):
    force_kernel("composed")
    loss = ClassParallelMultilabelMarginLoss(4)
    message = "For 'ClassParallelMultilabelMarginLoss', the kernel in use must be cpu or cuda, but it is composed"
    with pytest.raises(RuntimeError, match=message):
        loss(Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET))


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_errors_of_the_class_parallel_loss(mode):
    scores, labels = Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET)
    loss = ClassParallelMultilabelMarginLoss(4)
    for arguments, error, message in (
        ((scores.astype(ms.float64), labels), TypeError, "the dtype of 'x' must be float16 or float32"),
        ((scores, labels.astype(ms.int64)), TypeError, "the dtype of 'labels' must be int32, but got Int64"),
        ((scores[0], labels[0]), ValueError, r"\(N, c\) and \(N, K\) with N of at least 1, but got \(4,\) and \(4,\)"),
        ((scores, labels[:1]), ValueError, "'labels' must have as many dimensions and rows as 'x'"),
        ((scores, Tensor(np.zeros((2, 0)), ms.int32)), ValueError, "each row of 'labels' must have a label"),
    ):
        with pytest.raises(error, match=f"For 'ClassParallelMultilabelMarginLoss', .*{message}"):
            loss(*arguments)
    for num_classes, error, message in (
        (2.0, TypeError, "must be an int, but got 2.0"),
        (0, ValueError, "must be positive, but got 0"),
    ):
        with pytest.raises(error, match=f"the 'num_classes' {message}"):
            ClassParallelMultilabelMarginLoss(num_classes)
    if mode == "pynative":
        for num_classes, message in (
            (5, "= 5 classes together, but have 4."),
            (2**24 + 1, "must be from 1 to 16777216"),
        ):
            with pytest.raises(RuntimeError, match=message):
                ClassParallelMultilabelMarginLoss(num_classes)(scores, labels).asnumpy()


@pytest.mark.parametrize(
    ("processes", "arguments"),
    [
        (2, ["classes"]),
        pytest.param(2, ["head, labels", "all"], marks=pytest.mark.slow),
        pytest.param(4, ["labels", "all"], marks=pytest.mark.slow),
        pytest.param(3, ["head, features"], marks=pytest.mark.slow),
    ],
)
def test_several_processes_equal_one_process(tmp_path, processes, arguments):
    script = ROOT / "tests" / "support" / "class_parallel.py"
    number = [f"--worker_num={processes}", f"--local_worker_num={processes}"]
    port = f"--master_port={free_port()}"
    msrun = Path(sys.executable).with_name("msrun")
    path = os.pathsep.join([str(msrun.parent), os.environ["PATH"]])  # msrun calls "python"
    result = run_program(
        msrun, *number, port, "--join=True", "--log_dir=log", script, *arguments, cwd=tmp_path, timeout=300, PATH=path
    )
    logs = [Path("log", f"worker_{rank}.log").read_text() for rank in range(processes)]
    assert result.returncode == 0, "".join([result.stdout, result.stderr, *logs])
    for rank, log in enumerate(logs):
        assert f"rank {rank} of {processes}: all as in one process" in log
