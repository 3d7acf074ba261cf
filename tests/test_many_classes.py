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
    MultilabelMarginLossFromLabels,
    _ops,
    linear_multilabel_margin_loss,
)
from mindspore_mlml._backends import LIBRARIES
from tests.conftest import MODES
from tests.support import slices
from tests.support.cases import DTYPES, EXAMPLE_INPUT, EXAMPLE_TARGET, INF, NAN, REDUCTIONS
from tests.support.nets import GRAPH_AND_SLOWLY_PYNATIVE, PYNATIVE_AND_SLOWLY_GRAPH
from tests.support.processes import ROOT, run_program, run_python
from tests.support.slices import (
    SIZES,
    check_class_parallel,
    check_gradients,
    check_linear,
    check_losses,
    linear_reference,
    random_cuts,
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


@pytest.mark.parametrize("place", [0, 1500, 2999])
def test_a_nan_in_one_block_of_a_linear_layer_is_one_of_the_row(rng, set_threads, place):
    set_threads(1)
    features, weight, bias = slices.random_layer(rng, 3, 4, 3000)
    features[:, 0] = [1, 0, 1]
    weight[place, 0] = INF
    labels = np.array([[7, 1501], [2001, -1], [-1, 3]], np.int32)
    losses, (of_features, *_) = slices.linear(features, weight, bias, labels, "none", np.ones(3, np.float32))
    assert np.isnan(losses[0][1])  # 0 times infinity
    assert np.isnan(of_features[1]).all()
    assert losses[0][2] == 0


@pytest.mark.slow
def test_every_instruction_set_has_the_same_bits_for_any_number_of_threads(isa):
    environments = [{"OMP_NUM_THREADS": threads, "MLML_SIMD": isa} for threads in ("1", "2", "5")]
    assert len({run_python("-m", "tests.support.slices", **environment) for environment in environments}) == 1


# ----------------------------------------------------------------------------------------------------------------------
# The errors of the kernels, on every rank


def header(firsts, num_classes, symbol="ClassParallel"):
    """The header of ranks that have such inputs, and a function that takes the next step on one of them. The number of
    all classes may be one for each."""
    numbers = np.broadcast_to(num_classes, len(firsts))
    places = [slices.place(number, rank, len(firsts)) for rank, number in enumerate(numbers)]
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


def test_numbers_of_classes_that_differ_are_an_error_on_each_rank():
    step = header([(SCORES, LABELS), (SCORES, LABELS)], (8, 9))
    assert "must be the same on all ranks" in error_of(step, 0)
    assert "'num_classes' = 9 classes together, but have 4 + 4" in error_of(step, 1)


@pytest.mark.parametrize("ranks", [2, 3, 256])
@pytest.mark.parametrize("other", [LABELS + np.eye(2, 3), LABELS.T.reshape(2, 3), LABELS[:, ::-1]])
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


def test_without_scipy_the_scores_are_made():
    code = """
        import sys
        import mindspore as ms  # which imports SciPy itself
        sys.modules["scipy"] = sys.modules["scipy.linalg"] = None
        from mindspore_mlml import LinearMultilabelMarginLoss, linear_multilabel_margin_loss
        head = LinearMultilabelMarginLoss(2, 4, weight_init="ones", bias_init="zeros")
        features, labels = ms.Tensor([[1, 0], [0, 1]], ms.float32), ms.Tensor([[0, 3], [2, -1]], ms.int32)
        print(head(features, labels), linear_multilabel_margin_loss(features, head.weight, None, labels))
    """
    assert run_python("-c", textwrap.dedent(code)) == "0.875 0.875\n"


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
@pytest.mark.parametrize(
    ("reduction", "has_bias"),
    [
        ("none", True),
        ("mean", False),
        pytest.param("sum", True, marks=pytest.mark.slow),
        *(pytest.param(reduction, reduction == "mean", marks=pytest.mark.slow) for reduction in REDUCTIONS),
    ],
)
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


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
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
    message = "For 'ClassParallelMultilabelMarginLoss', the kernel in use must be cpu or cuda, but it is composed"
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


@pytest.mark.parametrize("mode", GRAPH_AND_SLOWLY_PYNATIVE, indirect=True)
class Layers(nn.Cell):
    """A network that calls one of the public forms."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.body = nn.Dense(3, 50)
        self.head = LinearMultilabelMarginLoss(50, 40)
        self.loss = ClassParallelMultilabelMarginLoss(50)

    def construct(self, features, labels):
        scores = self.body(features)
        if self.form == "cell":
            return self.head(scores, labels)
        if self.form == "function":
            return linear_multilabel_margin_loss(scores, self.head.weight, self.head.bias, labels)
        return self.loss(scores, labels)


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("form", ["cell", "function", "class parallel"])
def test_automatic_mixed_precision_that_rewrites_the_network(mode, rng, form):
    """Level O1 copies code, and knows of what is beside it only what was imported."""
    network = Layers(form)
    features, labels = Tensor(rng.standard_normal((4, 3)), ms.float32), Tensor([[1, 2], [3, -1], [0, 4], [-1, 0]])
    labels = labels.astype(ms.int32)
    expected = network(features, labels).asnumpy()
    loss = ms.train.amp.auto_mixed_precision(network, "O1")(features, labels).asnumpy()
    np.testing.assert_allclose(loss, expected, rtol=1e-2)


@pytest.mark.parametrize("amp_level", ["O0", "O3", "auto"])
def test_model_train_with_the_head(mode, rng, amp_level):
    """Each sample has the sum of the directions of its two labels."""
    labels = np.stack([rng.permutation(8)[:2] for _ in range(64)]).astype(np.int32)
    features = np.eye(8, dtype=np.float32)[labels].sum(axis=1)
    ms.set_seed(1)
    network = Model(8, 3001)  # more than float16 can count
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


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_to_float_makes_float16_of_the_layer_alone(mode, rng):
    """What is exchanged has numbers that float16 cannot hold."""
    features, weight, bias = random_layer(rng, 6, 5, 3001)
    labels = random_labels(rng, 6, 3001, 4)
    loss, (of_features, *_) = linear_reference(features, weight, bias, labels, "sum", 1)
    head = make_head(weight, bias, "sum").to_float(ms.float16)
    value, gradient = ms.value_and_grad(head)(Tensor(features), Tensor(labels))
    np.testing.assert_allclose(value.asnumpy(), loss, rtol=2.0**-10)
    check_gradients([gradient.asnumpy().astype(np.float16)], [of_features])


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


MEMORY = """
    import sys
    import mindspore as ms, numpy as np
    from mindspore import Tensor, nn
    from benchmarks.measure import extra_memory
    from mindspore_mlml import LinearMultilabelMarginLoss, multilabel_margin_loss_from_labels
    ms.set_context(mode=int(sys.argv[1]))
    rows, features, classes = 64, 16, 300_000

    def step_of(classes, whole):
        head = nn.Dense(features, classes) if whole else LinearMultilabelMarginLoss(features, classes)
        x, labels = Tensor(np.ones((rows, features), np.float32)), Tensor(np.zeros((rows, 3), np.int32))

        def forward(x):
            return multilabel_margin_loss_from_labels(head(x), labels) if whole else head(x, labels)

        step = ms.value_and_grad(forward, 0, head.trainable_params())
        return lambda: [gradient.asnumpy() for gradient in step(x)[1][1]]

    gradients = 4 * (features + 1) * classes
    for whole in (False, True):
        step_of(2048, whole)()  # libraries and threads
        print((extra_memory(step_of(classes, whole)) - gradients) // 10**6)
"""


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH)
def test_the_scores_are_never_all_there(mode):
    """They would be 77 MB, and as much for their gradient. The same figure for Dense and the loss shows that such
    would be seen."""
    Path("memory.py").write_text(textwrap.dedent(MEMORY))  # MindSpore compiles what is in a file
    of_head, of_dense = map(int, run_python("memory.py", str(MODES[mode])).split())
    assert of_head < 40
    assert of_dense > 77


# ----------------------------------------------------------------------------------------------------------------------
# The errors in Python


FEATURES, WEIGHT, BIAS = (Tensor(np.ones(shape), ms.float32) for shape in ((2, 3), (4, 3), (4,)))
OF_LAYER = {"features": FEATURES, "weight": WEIGHT, "bias": BIAS, "labels": Tensor(EXAMPLE_TARGET)}


def cast(name, dtype):
    return {name: OF_LAYER[name].astype(dtype)}


def shaped(name, *shape):
    return {name: Tensor(np.zeros(shape), OF_LAYER[name].dtype)}


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"features": None}, TypeError, "the 'features' must be a Tensor, but got None."),
        ({"features": [[1.0] * 3] * 2}, TypeError, "the 'features' must be a Tensor, but got [[1.0"),
        ({"weight": 2.5}, TypeError, "the 'weight' must be a Tensor, but got 2.5."),
        ({"bias": "zeros"}, TypeError, "the 'bias' must be a Tensor or None, but got zeros."),
        ({"labels": [[1], [2]]}, TypeError, "the 'labels' must be a Tensor, but got [[1"),
        (
            cast("features", ms.float64),
            TypeError,
            "the dtype of 'features' must be float16 or float32, but got Float64.",
        ),
        (cast("weight", ms.bfloat16), TypeError, "the dtype of 'weight' must be float16 or float32, but got BFloat16."),
        (cast("bias", ms.int32), TypeError, "the dtype of 'bias' must be float16 or float32, but got Int32."),
        (cast("labels", ms.int64), TypeError, "the dtype of 'labels' must be int32, but got Int64."),
        ({"reduction": "avg"}, ValueError, "the 'reduction' must be one of 'none', 'mean', 'sum', but got 'avg'."),
        (
            shaped("features", 2, 4),
            ValueError,
            "the shapes of 'features' and 'weight' must be (N, D) and (C, D), but got (2, 4) and (4, 3).",
        ),
        (shaped("features", 3), ValueError, "must be (N, D) and (C, D), but got (3,) and (4, 3)."),
        (shaped("weight", 3), ValueError, "must be (N, D) and (C, D), but got (2, 3) and (3,)."),
        (shaped("weight", 0, 3), ValueError, "must be (N, D) and (C, D), but got (2, 3) and (0, 3)."),
        (shaped("bias", 3), ValueError, "the shape of 'bias' must be (4,), but got (3,)."),
        (shaped("bias", 4, 1), ValueError, "the shape of 'bias' must be (4,), but got (4, 1)."),
        (
            shaped("labels", 3, 4),
            ValueError,
            "the shape of 'labels' must be (2, K) with K of at least 1, but got (3, 4).",
        ),
        (shaped("labels", 2), ValueError, "the shape of 'labels' must be (2, K) with K of at least 1, but got (2,)."),
        (
            shaped("labels", 2, 0),
            ValueError,
            "the shape of 'labels' must be (2, K) with K of at least 1, but got (2, 0).",
        ),
    ],
)
def test_the_errors_of_the_function(mode, changed, error, message):
    with pytest.raises(error, match=f"For 'linear_multilabel_margin_loss', .*{re.escape(message)}"):
        linear_multilabel_margin_loss(**{**OF_LAYER, **changed})


@pytest.fixture
def synchronous():
    """Without it, MindSpore 2.7 raises what the operators behind the failed one make of it wherever it waits next."""
    ms.set_context(pynative_synchronize=True)
    yield
    ms.set_context(pynative_synchronize=False)


@pytest.mark.parametrize("form", LAYERS)
def test_a_label_that_is_no_class_is_an_error_when_the_kernel_runs(synchronous, form):
    net = LAYERS[form](WEIGHT.asnumpy(), BIAS.asnumpy(), "mean")
    labels = Tensor(np.array([[1, -1, 9], [0, 3, 4]]), ms.int32)
    message = (
        "For 'linear_multilabel_margin_loss', a value of 'labels' must be less than the number of classes, 4, but got "
        "labels[1][2] = 4."
    )
    with pytest.raises(RuntimeError, match=re.escape(message)):
        net(FEATURES, labels).asnumpy()


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_the_errors_of_calling_the_head(mode):
    head = LinearMultilabelMarginLoss(3, 4)
    for arguments, error, message in (
        ((FEATURES.astype(ms.float64), EXAMPLE_TARGET), TypeError, "dtype of 'features' must be float16 or float32"),
        ((FEATURES, EXAMPLE_TARGET.astype(np.int64)), TypeError, "the dtype of 'labels' must be int32, but got Int64"),
        (
            (FEATURES[:, :2], EXAMPLE_TARGET),
            ValueError,
            r"must be \(N, D\) and \(C, D\), but got \(2, 2\) and \(4, 3\)",
        ),
        ((FEATURES, EXAMPLE_TARGET[:1]), ValueError, r"must be \(2, K\) with K of at least 1, but got \(1, 4\)"),
    ):
        with pytest.raises(error, match=f"For 'LinearMultilabelMarginLoss', .*{message}"):
            head(arguments[0], Tensor(arguments[1]))


@pytest.mark.parametrize("name", ["in_channels", "num_classes", "block_size"])
def test_the_sizes_of_the_head_must_be_positive_integers(name):
    for value, error, message in (
        (2.0, TypeError, "must be an int, but got 2.0"),
        ("7", TypeError, "must be an int, but got '7'"),
        (True, TypeError, "must be an int, but got True"),
        (0, ValueError, "must be positive, but got 0"),
        (-5, ValueError, "must be positive, but got -5"),
    ):
        with pytest.raises(error, match=f"^For 'LinearMultilabelMarginLoss', the '{name}' {message}"):
            LinearMultilabelMarginLoss(**{"in_channels": 3, "num_classes": 4, name: value})


@pytest.mark.parametrize("make", [lambda **o: LinearMultilabelMarginLoss(3, 4, **o), ClassParallelMultilabelMarginLoss])
def test_the_reduction_and_the_group_are_checked_when_a_cell_is_made(make):
    sizes = {"num_classes": 4} if make is ClassParallelMultilabelMarginLoss else {}
    with pytest.raises(ValueError, match="the 'reduction' must be one of 'none', 'mean', 'sum', but got 'avg'"):
        make(**sizes, reduction="avg")
    with pytest.raises(RuntimeError, match=r"a 'group' needs mindspore.communication.init\(\), which was not called"):
        make(**sizes, group="hccl_world_group")


@pytest.mark.parametrize("k", [0, -1, 5, 2.0, None])
def test_top_k_has_from_one_to_all_classes(k):
    with pytest.raises(ValueError, match=f"For 'top_k', 'k' must be an int from 1 to 4, but got {k}"):
        LinearMultilabelMarginLoss(3, 4).top_k(FEATURES, k)


# ----------------------------------------------------------------------------------------------------------------------
# Classes divided over processes


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_one_process_has_all_classes(mode, reduction):
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
def test_the_errors_of_the_class_parallel_loss(mode):
    scores, labels = Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET)
    loss = ClassParallelMultilabelMarginLoss(4)
    for arguments, error, message in (
        ((scores.astype(ms.float64), labels), TypeError, "the dtype of 'input' must be float16 or float32"),
        ((scores, labels.astype(ms.int64)), TypeError, "the dtype of 'labels' must be int32, but got Int64"),
        ((scores[0], labels[0]), ValueError, r"must be \(N, c\) and \(N, K\), but got \(4,\) and \(4,\)"),
        ((scores, labels[:1]), ValueError, r"must be \(N, c\) and \(N, K\), but got \(2, 4\) and \(1, 4\)"),
        ((scores, Tensor(np.zeros((2, 0)), ms.int32)), ValueError, "neither 'x' nor 'labels' may be empty"),
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
def test_divided_classes_are_as_in_one_process(tmp_path, processes, arguments):
    script = ROOT / "tests" / "support" / "class_parallel.py"
    number = [f"--worker_num={processes}", f"--local_worker_num={processes}"]
    port = f"--master_port={20000 + (os.getpid() + processes) % 20000}"
    msrun = Path(sys.executable).with_name("msrun")
    path = os.pathsep.join([str(msrun.parent), os.environ["PATH"]])  # msrun calls "python"
    result = run_program(
        msrun, *number, port, "--join=True", "--log_dir=log", script, *arguments, cwd=tmp_path, timeout=300, PATH=path
    )
    logs = [Path("log", f"worker_{rank}.log").read_text() for rank in range(processes)]
    assert result.returncode == 0, "".join([result.stdout, result.stderr, *logs])
    for rank, log in enumerate(logs):
        assert f"rank {rank} of {processes}: all as in one process" in log
