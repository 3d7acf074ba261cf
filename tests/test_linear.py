"""The linear layer whose scores never exist as a whole: its kernels, and the layer and the function in MindSpore."""

import re
import textwrap
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import scipy.sparse
from mindspore import Tensor, nn
from mindspore.dataset import NumpySlicesDataset

from mindspore_mlml import (
    ClassParallelMultilabelMarginLoss,
    LinearMultilabelMarginLoss,
    linear_multilabel_margin_loss,
)
from mindspore_mlml._backends import LIBRARIES
from tests.conftest import MODES
from tests.support.cases import DTYPES, EXAMPLE_TARGET, INF, NAN, REDUCTIONS
from tests.support.linear import (
    GRADIENTS,
    bits,
    check_gradients,
    check_linear,
    check_losses,
    empty_state,
    fast_reference,
    forward,
    gradient,
    gradients,
    paths,
    random_labels,
    random_layer,
    reference,
)
from tests.support.nets import GRAPH_AND_SLOWLY_PYNATIVE, PYNATIVE_AND_SLOWLY_GRAPH
from tests.support.processes import run_python

# ----------------------------------------------------------------------------------------------------------------------
# The kernels


@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.float16, np.float16), (np.float16, np.float32)])
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
def test_layer_equals_dense_and_the_loss_in_float64(rng, dtypes, rows, features, classes, num_labels):
    layer = random_layer(rng, rows, features, classes, *dtypes)
    labels = random_labels(rng, rows, classes, num_labels)
    for reduction in REDUCTIONS if rows < 100 else ("mean",):
        check_linear(rng, layer, labels, reduction)


def test_layer_with_normal_numbers(rng):
    """Scores are rounded, but no pair is so near the margin that this matters."""
    features = rng.standard_normal((20, 64)).astype(np.float32)
    weight = (rng.standard_normal((2000, 64)) / 8).astype(np.float32)
    bias = rng.standard_normal(2000).astype(np.float32)
    labels = random_labels(rng, 20, 2000, 3)
    scores = features.astype(np.float64) @ weight.T.astype(np.float64) + bias
    listed = np.cumsum(labels < 0, axis=1) == 0
    margins = 1 - np.take_along_axis(scores, np.where(listed, labels, 0), 1)[:, :, None] + scores[:, None, :]
    labels[(np.abs(margins).min(axis=2) < 1e-5) & listed] = -1
    assert (np.cumsum(labels < 0, axis=1) == 0).sum() > 10
    check_linear(rng, (features, weight, bias), labels, "none")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("at", ["feature", "weight", "bias", "bias of a target"])
def test_non_finite_values_count_as_in_dense(rng, dtype, value, at):
    features, weight, bias = random_layer(rng, 5, 4, 2100, dtype)
    labels = random_labels(rng, 5, 2100, 3)
    labels[:2] = [[7, 1500, -1], [1501, -1, 7]]
    weight[:, 2] = np.where(weight[:, 2] == 0, 0.5, weight[:, 2])  # no NaN from 0 times infinity
    if at == "feature":
        features[1, 2] = value
    elif at == "weight":
        weight[1502, 2] = value
        features[:, 2] = [1, 2, -1, 0.5, -2]
    else:
        bias[1502 if at == "bias" else 1501] = value
    for reduction in ("none", "mean"):
        check_linear(rng, (features, weight, bias), labels, reduction)


@pytest.mark.parametrize("place", [0, 1500, 2999])
def test_nan_in_one_block_is_a_nan_of_the_row(rng, set_threads, place):
    set_threads(1)
    features, weight, bias = random_layer(rng, 3, 4, 3000)
    features[:, 0] = [1, 0, 1]
    weight[place, 0] = INF
    labels = np.array([[7, 1501], [2001, -1], [-1, 3]], np.int32)
    layer = features, weight, bias
    state = forward(layer, labels, "none")
    of_features, *_ = gradients(layer, labels, state, np.ones(3, np.float32), "none")
    assert np.isnan(state.loss[1])  # 0 times infinity
    assert np.isnan(of_features[1]).all()
    assert state.loss[2] == 0


def test_class_may_be_target_of_one_row_and_active_in_another(rng):
    features = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    weight, bias = np.array([[0.5, 0], [0, 0.5], [0.25, 0.25]], np.float32), np.zeros(3, np.float32)
    labels = np.array([[0, 0, -1], [1, 2, 1], [2, -1, 0]], np.int32)
    check_linear(rng, (features, weight, bias), labels, "none")


@pytest.mark.parametrize("saves", [1, 3, 15, 255, 256, 65535, 65536])
def test_each_width_of_numbers(rng, saves):
    """Numbers of active targets up to the number of labels; beyond 65535 labels, none is saved."""
    layer = random_layer(rng, 2, 3, 5)
    labels = rng.integers(0, 2, (2, saves)).astype(np.int32)
    labels[1, saves // 2 :] = -1
    layer[2][:2] = [-20, -30]  # of the targets: all others are active
    state, _ = check_linear(rng, layer, labels, "mean")
    assert state.active_classes[0, -1] == 3
    assert paths(layer, labels, state) == ({"packed"} if saves < 65536 else {"dense"})


def shares_layer(rng, rows, features, blocks, shares, dtype):
    """A layer of which each block of classes has one of these shares of active pairs, in turns, where the first
    classes may be targets."""
    classes = 1024 * blocks
    of_class = np.resize(shares, blocks).repeat(1024)
    x = np.zeros((rows, features))
    x[np.arange(rows), np.arange(rows) % features] = 1
    is_active = rng.random((classes, features)) < of_class[:, None]
    weight = np.where(is_active, rng.integers(1, 5, (classes, features)) / 4, 0)
    bias = np.full(classes, -0.125)
    weight[:6], bias[:6] = 0, 1  # the targets: another class is active where its weight is not 0
    return x.astype(dtype), weight.astype(dtype), bias.astype(dtype)


# Bits that a number takes, and labels of which there are so many; and classes of 256 rows that do not fit the room for
# these.
MANY = {"8 bits": (20, 107), "16 bits": (300, 54)}


@pytest.mark.parametrize("width", MANY)
@pytest.mark.parametrize(
    ("shares", "dtype", "expected"),
    [
        ((0, 0.01), np.float32, {"list"}),
        ((0.09,), np.float16, {"list", "sparse"}),
        ((0.5, 1), np.float32, {"dense"}),
        ((0.05, 0.095, 0.095, 0.6), np.float32, {"list", "sparse", "dense"}),
    ],
)
def test_each_path_of_large_layers(rng, width, shares, dtype, expected):
    num_labels, blocks = MANY[width]
    layer = shares_layer(rng, 256, 4, blocks, shares, dtype)
    labels = np.full((256, num_labels), -1, np.int32)
    labels[:, 0] = 0
    labels[3:9, 1:4] = [0, 3, 5]
    labels[10] = -1
    state, (of_features, of_weight, of_bias) = check_linear(rng, layer, labels, "none", by=fast_reference)
    assert paths(layer, labels, state) == expected
    is_met = ~layer[1].any(axis=1)
    is_met[:6] = False
    assert is_met.sum() > 100 or 1 in shares
    for zeros in (of_weight[is_met], of_bias[is_met], of_features[10]):
        assert not zeros.any()


@pytest.mark.parametrize("share", [0.095, 0.6], ids=["sparse", "dense"])
def test_nan_in_a_row_of_scores_that_are_computed_again(rng, share):
    num_labels, blocks = MANY["16 bits"]
    layer = shares_layer(rng, 300, 4, blocks, (share,), np.float32)
    labels = np.full((300, num_labels), -1, np.int32)
    labels[:, 0] = 0
    layer[0][[3, 280], 0] = NAN  # among the first 256 rows and among the others
    state, (of_features, *_) = check_linear(rng, layer, labels, "none", by=fast_reference)
    assert paths(layer, labels, state) & {"sparse", "dense"}
    assert np.flatnonzero(np.isnan(of_features).any(axis=1)).tolist() == [3, 280]


def list_pool(cells, size):
    """The room for lists of a part of the work, in 16-bit units, and how many cells a part has. The list of the first
    cell of each part has offset 0."""
    firsts = np.flatnonzero(cells[:, 1] == 0)
    return (size - cells.size - 1) * 2 // len(firsts), firsts[1]


@pytest.mark.parametrize("block", [0, -1], ids=["first block", "last block"])
def test_room_for_exactly_the_number_of_pairs_and_one_less(block):
    """Of the first part of the work: the others have no pairs."""
    num_labels, blocks = MANY["8 bits"]
    features, weight = np.zeros((256, 1), np.float32), np.zeros((1024 * blocks, 1), np.float32)
    labels, bias = np.full((256, num_labels), -1, np.int32), np.full(len(weight), -0.5, np.float32)
    labels[:, 0], bias[-1] = len(weight) - 1, 1
    layer = features, weight, bias
    state = forward(layer, labels, "none")
    cells = state.saved[: 2 * blocks].reshape(-1, 2)
    pool, cells_of_part = list_pool(cells, len(state.saved))
    pairs = pool - 256 * cells_of_part
    first = block % cells_of_part * 1024
    bias[first : first + pairs // 256] = 0.5  # active in all rows
    weight[first + pairs // 256] = 1
    for more in (0, 1):
        features[: pairs % 256 + more] = 1
        state, _ = check_linear(np.random.default_rng(0), layer, labels, "none", by=fast_reference)
        cells = state.saved[: 2 * blocks].reshape(-1, 2)
        assert cells[:, 0].sum() == pairs + more
        assert (cells[:, 1] < 0).sum() == more


def test_more_rows_than_65535(rng):
    layer, labels = random_layer(rng, 65800, 2, 7), random_labels(rng, 65800, 7, 2)
    check_linear(rng, layer, labels, "none", by=fast_reference)


def test_without_active_pairs_the_gradients_are_zero(rng):
    features, weight, bias = random_layer(rng, 300, 5, 1500)
    weight[:], bias[:] = 0, -1
    bias[1499] = 1
    labels = np.full((300, 1), 1499, np.int32)
    features[:, 0], weight[1, 0] = 0, 1
    features[7, 0] = 3  # one pair
    layer = features, weight, bias
    state = forward(layer, labels, "sum")
    of_features, of_weight, of_bias = gradients(layer, labels, state, np.ones(1, np.float32), "sum")
    assert np.flatnonzero(of_bias).tolist() == [1, 1499]
    assert np.flatnonzero(of_weight.any(axis=1)).tolist() == [1, 1499]
    assert np.flatnonzero(of_features.any(axis=1)).tolist() == [7]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_kernels_of_an_empty_batch(rng, reduction):
    layer, labels = random_layer(rng, 0, 3, 1030), np.zeros((0, 2), np.int32)
    _, (_, of_weight, of_bias) = check_linear(rng, layer, labels, reduction)
    assert not (of_weight.any() or of_bias.any())


def test_large_layers_have_the_same_bits_for_any_number_of_threads(rng, set_threads):
    num_labels, blocks = MANY["16 bits"]
    layer = shares_layer(rng, 300, 3, blocks, (0.05, 0.095, 0.095, 0.6), np.float32)
    labels = np.full((300, num_labels), -1, np.int32)
    labels[:, 0] = rng.integers(0, 2, 300)
    results = set()
    for threads in (1, 3):
        set_threads(threads)
        state = forward(layer, labels, "sum")
        results.add(bits(state, gradients(layer, labels, state, np.ones(1, np.float32), "sum")))
    assert len(results) == 1


def test_corrupted_lists_are_an_error(rng):
    num_labels, blocks = MANY["8 bits"]
    layer = shares_layer(rng, 256, 2, blocks, (0.01,), np.float32)
    labels = np.zeros((256, num_labels), np.int32)
    labels[:, 1] = -1
    state = forward(layer, labels, "mean")
    assert paths(layer, labels, state) == {"list"}
    lists = state.saved[2 * blocks :].view(np.uint16)
    message = (
        "^For 'linear_multilabel_margin_loss', 'saved' is not what the forward pass of the same arguments has saved"
    )
    for array, index, value in (
        (state.saved, 3, 2**31 - 1),
        (lists, 0, 1025),
        (lists, 0, 65535),
    ):
        before, array[index] = array[index], value
        with pytest.raises(RuntimeError, match=message):
            gradient(layer, labels, state, np.ones(1, np.float32), "mean")
        array[index] = before
    expected = gradient(layer, labels, state, np.ones(1, np.float32), "mean")
    state.saved[1], state.saved[3] = -2, -(2**31)  # not in a list: the scores of these cells are computed again
    for result, wanted in zip(gradient(layer, labels, state, np.ones(1, np.float32), "mean"), expected):
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradients_do_not_report_a_label_again(rng, kind):
    """In PyNative their error would be raised in a later call. The forward pass has written nothing."""
    layer, labels = random_layer(rng, 2, 3, 50), np.array([[1, 50], [2, -1]], np.int32)
    state = empty_state(layer, labels, ())
    outputs = gradient(layer, labels, state, np.ones(1, np.float32), "mean", kind)
    assert all(np.isnan(output).all() for output in outputs)


def test_corrupted_numbers_of_no_class_are_not_read(rng):
    """Packed numbers are padded. Here all of them are 1; behind the weight there are NaN."""
    features, weight, bias = random_layer(rng, 3, 4, 200)
    weight[65:] = NAN
    layer, labels = (features, weight[:65], bias[:65]), np.full((3, 1), -1, np.int32)
    state = forward(layer, labels, "sum")
    state.saved[2:] = -1
    state.saved[:2] = 1, -2  # few are active, so the gradients are sums over pairs; they are packed, not in a list
    of_features, _, of_bias = gradients(layer, labels, state, np.full(1, 65, np.float32), "sum")
    np.testing.assert_array_equal(of_features, np.tile(weight[:65].sum(axis=0), (3, 1)))
    np.testing.assert_array_equal(of_bias, np.full(65, 3))


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1, 0.5, 1e30])
def test_corrupted_numbers_of_active_classes_make_any_number(rng, value):
    layer, labels = random_layer(rng, 3, 4, 50), random_labels(rng, 3, 50, 3)
    state = forward(layer, labels, "mean")
    state.active_classes[0, 0] = value
    of_features, *_ = gradients(layer, labels, state, np.ones(1, np.float32), "mean")
    assert np.isnan(of_features[0]).all() == np.isnan(value)
    assert np.isfinite(of_features[1:]).all()


WITHOUT_GEMM = """
    import sys
    import numpy as np
    from tests.support.aot import Kernel
    features, labels, weight = np.ones((2, 3), np.float32), np.zeros((2, 1), np.int32), np.ones((2, 3), np.float32)
    scores = np.zeros((2, 1), np.float32)
    outputs = np.zeros(1, np.float32), scores, scores, np.zeros(100, np.int32)
    try:
        kernel = Kernel(sys.argv[1], "MultilabelMarginLossLinearMean")
        kernel.prepare(features, labels, weight, np.zeros(2, np.float32), *outputs)()
    except RuntimeError as error:
        print(error)
"""


def test_layer_without_gemm_is_an_error():
    """In a process that has not imported the package."""
    output = run_python("-c", textwrap.dedent(WITHOUT_GEMM), str(LIBRARIES["cpu"]))
    assert output == "For 'linear_multilabel_margin_loss', no matrix product was set.\n"


def test_without_onednn_the_scores_are_made():
    code = """
        import mindspore as ms
        from mindspore_mlml import _ops
        _ops.has_gemm = False
        from mindspore_mlml import LinearMultilabelMarginLoss, linear_multilabel_margin_loss
        head = LinearMultilabelMarginLoss(2, 4, weight_init="ones", bias_init="zeros")
        features, labels = ms.Tensor([[1, 0], [0, 1]], ms.float32), ms.Tensor([[0, 3], [2, -1]], ms.int32)
        print(head(features, labels), linear_multilabel_margin_loss(features, head.weight, None, labels))
    """
    assert run_python("-c", textwrap.dedent(code)) == "0.875 0.875\n"


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
CALLED = {"function": "linear_multilabel_margin_loss", "cell": "LinearMultilabelMarginLoss"}  # by errors


def check_layer(net, layer, labels, reduction, ulps=4):
    """Loss and gradients of a Cell by features and parameters, compared with Dense and the loss in float64."""
    features, weight, bias = layer
    bias = np.zeros(len(weight)) if bias is None else bias
    dout = np.ones(len(labels) if reduction == "none" else ())
    loss, expected = reference(features, weight, bias, labels, reduction, dout)
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
def test_layer_in_mindspore(mode, rng, form, has_bias, reduction):
    features, weight, bias = random_layer(rng, 6, 5, 1500)
    layer = (features, weight, bias if has_bias else None)
    check_layer(LAYERS[form](*layer[1:], reduction), layer, random_labels(rng, 6, 1500, 4), reduction)


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("form", LAYERS)
@pytest.mark.parametrize("dtypes", [(np.float16, np.float16), (np.float16, np.float32), (np.float32, np.float16)])
def test_layer_of_float16_in_mindspore(mode, rng, form, dtypes):
    layer = random_layer(rng, 6, 5, 1500, *dtypes)
    check_layer(LAYERS[form](*layer[1:], "mean"), layer, random_labels(rng, 6, 1500, 4), "mean")


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("form", LAYERS)
def test_empty_batch(mode, form):
    for reduction, shape in (("none", (0,)), ("mean", ()), ("sum", ())):
        layer = np.zeros((0, 3), np.float32), np.ones((5, 3), np.float32), np.ones(5, np.float32)
        check_layer(LAYERS[form](*layer[1:], reduction), layer, np.zeros((0, 2), np.int32), reduction)
        assert LAYERS[form](*layer[1:], reduction)(Tensor(layer[0]), Tensor(np.zeros((0, 2)), ms.int32)).shape == shape


@pytest.mark.parametrize("kernel", ["composed", "host"])
@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("form", LAYERS)
@pytest.mark.parametrize("has_bias", [True, False])
def test_other_kernels_have_the_same_loss(force_kernel, mode, rng, kernel, form, has_bias):
    features, weight, bias = random_layer(rng, 6, 5, 1500)
    layer, labels = (features, weight, bias if has_bias else None), random_labels(rng, 6, 1500, 4)
    force_kernel(kernel)
    check_layer(LAYERS[form](*layer[1:], "mean"), layer, labels, "mean")


def test_jitted_step_of_a_model(rng):
    layer, labels = random_layer(rng, 6, 5, 1500), Tensor(random_labels(rng, 6, 1500, 4))
    head = make_head(*layer[1:], "mean")
    features = Tensor(layer[0])

    def forward(features, labels):
        return head(features * 2, labels)

    step = ms.value_and_grad(forward, None, head.trainable_params())
    (loss, gradients), (jitted, of_jitted) = step(features, labels), ms.jit(step)(features, labels)
    expected, (_, *of_parameters) = reference(layer[0] * 2, *layer[1:], labels.asnumpy(), "mean", 1)
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


@pytest.mark.parametrize("mode", GRAPH_AND_SLOWLY_PYNATIVE, indirect=True)
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
def test_to_float_is_that_of_dense_and_the_loss(mode, rng):
    """What is exchanged has numbers that float16 cannot hold."""
    features, weight, bias = random_layer(rng, 6, 5, 3001)
    labels = random_labels(rng, 6, 3001, 4)
    loss, (of_features, *_) = reference(features, weight, bias, labels, "sum", 1)
    head = make_head(weight, bias, "sum").to_float(ms.float16)
    value, gradient = ms.value_and_grad(head)(Tensor(features), Tensor(labels))
    np.testing.assert_allclose(value.asnumpy(), loss, rtol=2.0**-10)
    check_gradients([gradient.asnumpy().astype(np.float16)], [of_features])


@pytest.mark.parametrize("has_bias", [True, False])
def test_checkpoints_are_those_of_a_dense_layer(has_bias, rng):
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
def test_initialisers_are_those_of_a_dense_layer(initial):
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


class TopK(nn.Cell):
    """The best classes of a head."""

    def __init__(self, head, k):
        super().__init__()
        self.head, self.k = head, k

    def construct(self, features):
        return self.head.top_k(features, self.k)


@pytest.mark.parametrize("classes", [9, 16385])
def test_top_k_of_one_sample(mode, rng, classes):
    features, weight = rng.standard_normal(8).astype(np.float32), rng.standard_normal((classes, 8)).astype(np.float32)
    head = make_head(weight, None, "mean")
    scores, indices = (result.asnumpy() for result in TopK(head, 5)(Tensor(features)))
    np.testing.assert_array_equal(indices, np.argsort(-(weight @ features))[:5])
    np.testing.assert_allclose(scores, (weight @ features)[indices], rtol=1e-5)
    assert head.predict(Tensor(features)).shape == (classes,)


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
def test_memory_of_the_scores_is_not_needed(mode):
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
        ({"features": None}, TypeError, "the 'features' must be a Tensor, but got NoneType."),
        ({"features": [[1.0] * 3] * 2}, TypeError, "the 'features' must be a Tensor, but got list."),
        ({"weight": 2.5}, TypeError, "the 'weight' must be a Tensor, but got float."),
        ({"bias": "zeros"}, TypeError, "the 'bias' must be a Tensor, but got str."),
        ({"labels": [[1], [2]]}, TypeError, "the 'labels' must be a Tensor, but got list."),
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
            "must be (2, K) with K of at least 1, as that of 'features' is (2, 3), but got (3, 4).",
        ),
        (
            shaped("labels", 2),
            ValueError,
            "must be (2, K) with K of at least 1, as that of 'features' is (2, 3), but got (2,).",
        ),
        (
            shaped("labels", 2, 0),
            ValueError,
            "must be (2, K) with K of at least 1, as that of 'features' is (2, 3), but got (2, 0).",
        ),
    ],
)
def test_errors_of_the_function(mode, changed, error, message):
    with pytest.raises(error, match=f"For 'linear_multilabel_margin_loss', .*{re.escape(message)}"):
        linear_multilabel_margin_loss(**{**OF_LAYER, **changed})


@pytest.fixture
def synchronous():
    """Without it, MindSpore 2.7 raises what the operators behind the failed one make of it wherever it waits next."""
    ms.set_context(pynative_synchronize=True)
    yield
    ms.set_context(pynative_synchronize=False)


@pytest.mark.parametrize("form", LAYERS)
def test_label_out_of_range_is_an_error_of_the_kernel(synchronous, form):
    net = LAYERS[form](WEIGHT.asnumpy(), BIAS.asnumpy(), "mean")
    labels = Tensor(np.array([[1, -1, 9], [0, 3, 4]]), ms.int32)
    message = f"For '{CALLED[form]}', a value of 'labels' must be less than the number of classes, 4, but got labels[1]"
    with pytest.raises(RuntimeError, match=re.escape(message)):
        net(FEATURES, labels).asnumpy()


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_errors_of_calling_the_head(mode):
    head = LinearMultilabelMarginLoss(3, 4)
    for arguments, error, message in (
        ((FEATURES.astype(ms.float64), EXAMPLE_TARGET), TypeError, "dtype of 'features' must be float16 or float32"),
        ((FEATURES, EXAMPLE_TARGET.astype(np.int64)), TypeError, "the dtype of 'labels' must be int32, but got Int64"),
        (
            (FEATURES[:, :2], EXAMPLE_TARGET),
            ValueError,
            r"must be \(N, D\) and \(C, D\), but got \(2, 2\) and \(4, 3\)",
        ),
        (
            (FEATURES, EXAMPLE_TARGET[:1]),
            ValueError,
            r"with K of at least 1, as that of 'features' is \(2, 3\), but got \(1, 4\)",
        ),
    ):
        with pytest.raises(error, match=f"For 'LinearMultilabelMarginLoss', .*{message}"):
            head(arguments[0], Tensor(arguments[1]))


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")  # MindSpore compares them
@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_matrix, np.ndarray.tolist])
def test_features_and_labels_of_the_cells_must_be_tensors(mode, make):
    """The message has the type, not the value, which may be large."""
    head, class_parallel = LinearMultilabelMarginLoss(3, 4), ClassParallelMultilabelMarginLoss(4)
    features, labels, layer = make(FEATURES.asnumpy()), Tensor(EXAMPLE_TARGET), "LinearMultilabelMarginLoss"
    for call, op, name in (
        (lambda: head(features, labels), layer, "features"),
        (lambda: head(FEATURES, make(EXAMPLE_TARGET)), layer, "labels"),
        (lambda: head.predict(features), layer, "features"),
        (lambda: head.top_k(features, 2), layer, "features"),
        (lambda: class_parallel(features, labels), "ClassParallelMultilabelMarginLoss", "x"),
        (lambda: class_parallel(FEATURES, make(EXAMPLE_TARGET)), "ClassParallelMultilabelMarginLoss", "labels"),
    ):
        message = f"For '{op}', the '{name}' must be a Tensor, but got {type(features).__name__}."
        with pytest.raises(TypeError, match=re.escape(message)):
            call()


@pytest.mark.parametrize("name", ["in_channels", "num_classes"])
def test_sizes_of_the_head_must_be_positive_integers(name):
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
def test_reduction_and_group_are_checked_when_a_cell_is_made(make):
    sizes = {"num_classes": 4} if make is ClassParallelMultilabelMarginLoss else {}
    with pytest.raises(ValueError, match="the 'reduction' must be one of 'none', 'mean', 'sum', but got 'avg'"):
        make(**sizes, reduction="avg")
    with pytest.raises(RuntimeError, match=r"a 'group' needs mindspore.communication.init\(\), which was not called"):
        make(**sizes, group="hccl_world_group")


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "the 'k' must be positive, but got 0"),
        (-1, ValueError, "the 'k' must be positive, but got -1"),
        (5, ValueError, "'k' must be an int from 1 to 4, but got 5"),
        (2.0, TypeError, "the 'k' must be an int, but got 2.0"),
        (None, TypeError, "the 'k' must be an int, but got None"),
    ],
)
def test_top_k_is_from_one_to_all_classes(k, error, message):
    with pytest.raises(error, match=f"For 'top_k', {message}"):
        LinearMultilabelMarginLoss(3, 4).top_k(FEATURES, k)
