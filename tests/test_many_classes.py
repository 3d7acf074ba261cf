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


# ----------------------------------------------------------------------------------------------------------------------
# The linear layer in MindSpore


class FunctionNet(nn.Cell):
    """The function as a Cell with the parameters of the layer."""

    def __init__(self, weight, bias, reduction):
        super().__init__()
        self.weight = ms.Parameter(Tensor(weight))
        self.bias = None if bias is None else ms.Parameter(Tensor(bias))
        self.reduction = reduction

    def construct(self, features, labels):
        return linear_multilabel_margin_loss(features, self.weight, self.bias, labels, self.reduction)


def make_head(weight, bias, reduction, **options):
    """The Cell with such parameters."""
    classes, features = weight.shape
    initial = {"weight_init": Tensor(weight), "bias_init": None if bias is None else Tensor(bias)}
    dtype = ms.float16 if weight.dtype == np.float16 else ms.float32
    return LinearMultilabelMarginLoss(
        features, classes, reduction, has_bias=bias is not None, dtype=dtype, **initial, **options
    )


LAYERS = {"function": FunctionNet, "cell": make_head}


def check_layer(net, layer, labels, reduction, ulps=4):
    """Loss and gradients of a Cell by features and parameters, compared with Dense and the loss in float64."""
    loss, expected = linear_reference(*layer, labels, reduction, np.ones(len(labels) if reduction == "none" else ()))
    features, labels = Tensor(layer[0]), Tensor(labels)

    def total(features):
        loss = net(features, labels)
        return loss.sum(), loss

    (_, output), (of_features, of_parameters) = ms.value_and_grad(total, 0, net.trainable_params(), has_aux=True)(
        features
    )
    assert (output.dtype, output.shape) == (features.dtype, loss.shape)
    check_losses([output.asnumpy()], loss, ulps)
    gradients = [of_features, *of_parameters]
    assert [gradient.dtype for gradient in gradients] == [features.dtype] + [net.weight.dtype] * len(of_parameters)
    check_gradients([gradient.asnumpy() for gradient in gradients], expected)


@pytest.mark.parametrize("form", LAYERS)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_layer_in_mindspore(mode, rng, form, has_bias, reduction):
    features, weight, bias = random_layer(rng, 6, 5, 1500)
    layer = (features, weight, bias if has_bias else None)
    check_layer(LAYERS[form](*layer[1:], reduction), layer, random_labels(rng, 6, 1500, 4), reduction)


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("form", LAYERS)
@pytest.mark.parametrize("dtypes", [(np.float16, np.float16), (np.float16, np.float32), (np.float32, np.float16)])
def test_the_layer_of_float16_in_mindspore(mode, rng, form, dtypes):
    layer = random_layer(rng, 6, 5, 1500, *dtypes)
    check_layer(LAYERS[form](*layer[1:], "mean"), layer, random_labels(rng, 6, 1500, 4), "mean")


def test_the_block_size_of_the_cell(rng):
    layer, labels = random_layer(rng, 3, 5, 5000), random_labels(rng, 3, 5000, 4)
    for block_size in (1, 2000, 10000):
        head = make_head(*layer[1:], "mean", block_size=block_size)
        assert head._loss[0]._place.asnumpy().tolist() == [5000, 0, 1, block_size]
        check_layer(head, layer, labels, "mean")


@pytest.mark.parametrize("form", LAYERS)
def test_an_empty_batch(mode, form):
    for reduction, shape in (("none", (0,)), ("mean", ()), ("sum", ())):
        layer = np.zeros((0, 3), np.float32), np.ones((5, 3), np.float32), np.ones(5, np.float32)
        check_layer(LAYERS[form](*layer[1:], reduction), layer, np.zeros((0, 2), np.int32), reduction)
        assert LAYERS[form](*layer[1:], reduction)(Tensor(layer[0]), Tensor(np.zeros((0, 2)), ms.int32)).shape == shape


@pytest.mark.parametrize("kernel", ["composed", "host"])
@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("form", LAYERS)
@pytest.mark.parametrize("has_bias", [True, False])
def test_where_another_kernel_is_in_use_the_loss_is_the_same(force_kernel, mode, rng, kernel, form, has_bias):
    features, weight, bias = random_layer(rng, 6, 5, 1500)
    layer, labels = (features, weight, bias if has_bias else None), random_labels(rng, 6, 1500, 4)
    force_kernel(kernel)
    check_layer(LAYERS[form](*layer[1:], "mean"), layer, labels, "mean")


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_the_class_parallel_loss_needs_the_kernel_cpu(force_kernel, mode):
    force_kernel("composed")
    loss = ClassParallelMultilabelMarginLoss(4)
    message = "For 'ClassParallelMultilabelMarginLoss', the kernel in use must be cpu, but it is composed"
    with pytest.raises(RuntimeError, match=message):
        loss(Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET))


def test_a_jitted_step_of_a_model(rng):
    layer, labels = random_layer(rng, 6, 5, 1500), Tensor(random_labels(rng, 6, 1500, 4))
    head = make_head(*layer[1:], "mean")
    features = Tensor(layer[0])

    def forward(features, labels):
        return head(features * 2, labels)

    step = ms.value_and_grad(forward, None, head.trainable_params())
    (loss, gradients), (jitted, of_jitted) = step(features, labels), ms.jit(step)(features, labels)
    expected, (_, *of_parameters) = linear_reference(layer[0] * 2, *layer[1:], labels.asnumpy(), "mean", 1)
    check_losses([loss.asnumpy(), jitted.asnumpy()], expected, 4)
    for results in (gradients, of_jitted):
        check_gradients([gradient.asnumpy() for gradient in results], of_parameters)


class Model(nn.Cell):
    """A body and the head."""

    def __init__(self, features, classes):
        super().__init__()
        self.body = nn.Dense(features, 16)
        self.head = LinearMultilabelMarginLoss(16, classes)

    def construct(self, features, labels):
        return self.head(self.body(features), labels)


@pytest.mark.parametrize("amp_level", ["O0", "O3", "auto"])
def test_model_train_with_the_head(mode, rng, amp_level):
    """Each sample has the sum of the directions of its two labels."""
    labels = np.stack([rng.permutation(8)[:2] for _ in range(64)]).astype(np.int32)
    features = np.eye(8, dtype=np.float32)[labels].sum(axis=1)
    ms.set_seed(1)
    network = Model(8, 1500)
    model = ms.train.Model(network, optimizer=nn.Adam(network.trainable_params(), 0.05), amp_level=amp_level)
    losses = []

    class Record(ms.train.Callback):
        def step_end(self, run_context):
            losses.append(float(run_context.original_args().net_outputs.asnumpy()))

    dataset = NumpySlicesDataset((features, labels), ["features", "labels"], shuffle=False).batch(32)
    model.train(30, dataset, callbacks=[Record()], dataset_sink_mode=False)
    assert len(losses) == 60
    assert losses[-1] < losses[0] / 4
    scores, classes = network.head.top_k(network.body(Tensor(features, network.body.weight.dtype)), 2)
    assert (np.sort(classes.asnumpy(), axis=1) == np.sort(labels, axis=1)).mean() > 0.9
    assert scores.shape == (64, 2)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_checkpoint_of_a_dense_layer_is_that_of_the_head(has_bias, rng):
    dense = nn.Dense(5, 1500, has_bias=has_bias)
    ms.save_checkpoint(dense, "dense.ckpt")
    head = LinearMultilabelMarginLoss(5, 1500, has_bias=has_bias)
    assert ms.load_param_into_net(head, ms.load_checkpoint("dense.ckpt"), strict_load=True) == ([], [])
    assert [p.name for p in head.trainable_params()] == [p.name for p in dense.trainable_params()]
    features = Tensor(rng.standard_normal((6, 5)), ms.float32)
    np.testing.assert_array_equal(head.weight.asnumpy(), dense.weight.asnumpy())
    np.testing.assert_allclose(head.predict(features).asnumpy(), dense(features).asnumpy(), rtol=1e-6, atol=1e-6)
    ms.save_checkpoint(head, "head.ckpt")
    assert ms.load_param_into_net(dense, ms.load_checkpoint("head.ckpt"), strict_load=True) == ([], [])


@pytest.mark.parametrize("initial", ["ones", "normal", 0.25, None])
def test_the_initialisers_are_those_of_a_dense_layer(initial):
    parameters = []
    for layer in (nn.Dense, LinearMultilabelMarginLoss):
        ms.set_seed(3)
        made = layer(4, 7, weight_init=initial, bias_init=initial if initial != "normal" else "zeros")
        parameters.append([(p.name, p.dtype, p.asnumpy().tolist()) for p in made.trainable_params()])
    assert parameters[0] == parameters[1]
    assert LinearMultilabelMarginLoss(4, 7, dtype=ms.float16).weight.dtype == ms.float16


@pytest.mark.parametrize("classes", [9, 16384, 16385, 50001])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_predict_and_top_k(rng, classes, dtype, has_bias):
    features = rng.standard_normal((5, 8)).astype(dtype)
    weight, bias = rng.standard_normal((classes, 8)).astype(dtype), 10 * rng.standard_normal(classes).astype(dtype)
    weight[-1] = 5 * features[0]  # the last one is the best of the first row
    bias[-1] = 100
    head = make_head(weight, bias if has_bias else None, "mean")
    dense = nn.Dense(8, classes, Tensor(weight), Tensor(bias), has_bias, dtype=head.weight.dtype)
    predicted = head.predict(Tensor(features))
    scores = predicted.asnumpy().astype(np.float32)
    assert (predicted.dtype, predicted.shape) == (head.weight.dtype, (5, classes))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 4e-3, "atol": 4e-2}
    np.testing.assert_allclose(scores, dense(Tensor(features)).asnumpy(), **tolerance)
    for k in (1, 7, 9):
        best, places = (result.asnumpy() for result in head.top_k(Tensor(features), k))
        assert (best.dtype, places.dtype, places.shape) == (dtype, np.int32, (5, k))
        np.testing.assert_allclose(best, -np.sort(-scores, axis=1)[:, :k], **tolerance)
        np.testing.assert_allclose(np.take_along_axis(scores, places, 1), best, **tolerance)
        assert all(len(set(row)) == k for row in places.tolist())
        assert places[0, 0] == classes - 1
        if dtype == np.float32:  # which has no ties
            np.testing.assert_array_equal(places, np.argsort(-scores, axis=1)[:, :k])
