"""Dynamic shapes and dynamic rank: the loss, its gradient and its errors, however a shape comes to be unknown."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from tests.support.cases import REDUCTIONS, batch_of, random_batch
from tests.support.compare import close
from tests.support.nets import EACH_FORM, FORMS, FORMS_FROM_LABELS, GRAPH_AND_SLOWLY_PYNATIVE, GradientNet
from tests.support.reference import loss_and_gradient

CLASSES = 6
LABELS = 3


@pytest.fixture(params=EACH_FORM)
def form(request):
    return request.param


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("unknown", "shapes"),
    [
        ([None, None], [(2, 4), (7, 33), (1, 1), (3, 5000), (2, 4)]),
        ([None, 33], [(2, 33), (0, 33), (5, 33)]),
        ([3, None], [(3, 4), (3, 900)]),
        ([None], [(4,), (700,)]),
    ],
)
def test_dynamic_shapes(mode, rng, form, reduction, unknown, shapes):
    net = FORMS[form](reduction)
    net.set_inputs(Tensor(shape=unknown, dtype=ms.float32), Tensor(shape=unknown, dtype=ms.int32))
    for shape in shapes:
        input, target = batch_of(rng, shape)
        close(net(Tensor(input), Tensor(target)), loss_and_gradient(input, target, reduction)[0])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_with_dynamic_shapes(mode, rng, form, reduction):
    net = GradientNet(FORMS[form](reduction))
    unknown = [Tensor(shape=[None, None], dtype=dtype) for dtype in (ms.float32, ms.int32)]
    net.set_inputs(*unknown, Tensor(shape=[], dtype=ms.float32))
    for shape in ((2, 4), (7, 33), (3, 5000)):
        input, target = batch_of(rng, shape)
        gradient = net(Tensor(input), Tensor(target), Tensor(2.0, ms.float32))
        close(gradient, loss_and_gradient(input, target, reduction, 2)[1])


def test_gradient_of_row_losses_with_dynamic_shapes(mode, rng, form):
    """A dout of dynamic shape is MindSpore's limit (see below), so the row losses are weighted within the network."""

    class Weighted(nn.Cell):
        def __init__(self):
            super().__init__()
            self.loss = FORMS[form]("none")

        def construct(self, input, target, weight):
            return (self.loss(input, target) * weight).sum()

    class Gradient(nn.Cell):
        def __init__(self):
            super().__init__()
            self.net = Weighted()
            self.grad = ops.GradOperation()

        def construct(self, input, target, weight):
            return self.grad(self.net)(input, target, weight)

    net = Gradient()
    unknown = [Tensor(shape=[None, None], dtype=dtype) for dtype in (ms.float32, ms.int32)]
    net.set_inputs(*unknown, Tensor(shape=[None], dtype=ms.float32))
    for shape in ((2, 4), (7, 33)):
        input, target = batch_of(rng, shape)
        weight = rng.standard_normal(shape[0]).astype(np.float32)
        gradient = net(Tensor(input), Tensor(target), Tensor(weight))
        close(gradient, loss_and_gradient(input, target, "none", weight)[1])


def test_mindspore_refuses_an_output_gradient_of_dynamic_shape_in_graph_mode():
    net = GradientNet(FORMS["function"]("none"))
    unknown = [Tensor(shape=[None, None], dtype=dtype) for dtype in (ms.float32, ms.int32)]
    net.set_inputs(*unknown, Tensor(shape=[None], dtype=ms.float32))
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        with pytest.raises(ValueError, match="shape of sense must not be dynamic shape"):
            net(
                Tensor(np.zeros((2, 4), np.float32)), Tensor(np.zeros((2, 4), np.int32)), Tensor(np.ones(2, np.float32))
            )
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_jit_with_dynamic_shapes(rng, form):
    net = FORMS[form]("mean")

    @ms.jit(dynamic=1)
    def run(input, target):
        return net(input, target)

    for shape in ((2, 4), (7, 33), (3, 50), (4, 44)):
        input, target = batch_of(rng, shape)
        close(run(Tensor(input), Tensor(target)), loss_and_gradient(input, target)[0])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dynamic_rank(mode, rng, form, reduction):
    net = FORMS[form](reduction)
    net.set_inputs(Tensor(shape=None, dtype=ms.float32), Tensor(shape=None, dtype=ms.int32))
    for shape in ((3, 6), (6,)):
        input, target = batch_of(rng, shape)
        close(net(Tensor(input), Tensor(target)), loss_and_gradient(input, target, reduction)[0])


@pytest.mark.parametrize("shapes", [((2, 4), (2, 5)), ((2, 4), (3, 4))])
def test_shapes_that_differ_are_an_error_with_dynamic_shapes_too(mode, form, shapes):
    net = FORMS[form]("mean")
    net.set_inputs(Tensor(shape=[None, None], dtype=ms.float32), Tensor(shape=[None, None], dtype=ms.int32))
    with pytest.raises(ValueError, match="'target' must be the same as that of 'input'"):
        net(Tensor(np.zeros(shapes[0], np.float32)), Tensor(np.zeros(shapes[1], np.int32)))


# ----------------------------------------------------------------------------------------------------------------------
# Gradients: ways to an unknown shape x where the gradient is taken x functions x reductions x modes


class Total(nn.Cell):
    """The loss of ``factor * input`` as a scalar. With ``masked``, how many rows it has is known at run time only."""

    def __init__(self, loss, masked):
        super().__init__()
        self.loss = loss
        self.masked = masked

    def construct(self, factor, input, target):
        scores = factor * input
        if self.masked:
            kept = ops.nonzero(input[:, 0] > -100).reshape((-1,))
            scores, target = ops.gather(scores, kept, 0), ops.gather(target, kept, 0)
        loss = self.loss(scores, target)
        return loss.sum() if loss.ndim > 0 else loss


class ValueAndGrad(nn.Cell):
    """The value and the gradients of a Cell, within the graph."""

    def __init__(self, net):
        super().__init__()
        self.step = ms.value_and_grad(net, (0, 1))

    def construct(self, factor, input, target):
        return self.step(factor, input, target)


# What set_inputs says of input and labels; None for the other ways.
WAYS = {
    "unknown rows": lambda columns: ([None, CLASSES], [None, columns]),
    "unknown rows and classes": lambda columns: ([None, None], [None, None]),
    "unknown rank": lambda columns: (None, None),
    "jit(dynamic=1)": None,
    "rows chosen in the graph": None,
}


def value_and_grad(net, way, inside, columns, mode):
    """The function (factor, input, target) -> (value, gradients)."""
    if WAYS[way]:
        whole = ValueAndGrad(net) if inside else net
        shapes = WAYS[way](columns)
        if mode == "pynative":
            whole.construct = ms.jit(whole.construct)
        whole.set_inputs(Tensor(shape=[], dtype=ms.float32), *map(tensor_of_shape, shapes, (ms.float32, ms.int32)))
        return whole if inside else ms.value_and_grad(net, (0, 1))
    dynamic = 1 if way == "jit(dynamic=1)" else 0
    whole = ms.value_and_grad(net, (0, 1)) if inside else net

    @ms.jit(dynamic=dynamic)
    def run(factor, input, target):
        return whole(factor, input, target)

    return run if inside else ms.value_and_grad(run, (0, 1))


def tensor_of_shape(shape, dtype):
    return Tensor(shape=shape, dtype=dtype)


@pytest.mark.parametrize("inside", [True, False], ids=["gradient inside the graph", "gradient outside"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "forms", [FORMS, pytest.param(FORMS_FROM_LABELS, marks=pytest.mark.slow)], ids=["target", "labels"]
)
@pytest.mark.parametrize("way", WAYS)
def test_value_and_gradient_with_unknown_shapes(mode, rng, way, forms, reduction, inside):
    columns = CLASSES if forms is FORMS else LABELS
    net = Total(forms["cell"](reduction), way == "rows chosen in the graph")
    step = value_and_grad(net, way, inside, columns, mode)
    for rows in (2, 3, 5, 4):
        input, target = random_batch(rng, rows, CLASSES, LABELS - 1)
        target = np.ascontiguousarray(target[:, :columns])
        value, (of_factor, of_input) = step(Tensor(2.0, ms.float32), Tensor(input), Tensor(target))
        expected, gradient = loss_and_gradient(2 * input, target, "sum" if reduction == "none" else reduction)
        close(value, expected)
        close(of_input, 2 * gradient)
        np.testing.assert_allclose(of_factor.asnumpy(), (gradient * input).sum(), rtol=1e-4, atol=1e-5)


def test_gradient_of_a_model_whose_construct_is_jitted(rng):
    class Network(nn.Cell):
        def __init__(self):
            super().__init__()
            self.dense, self.loss = nn.Dense(5, CLASSES), FORMS["cell"]("mean")

        @ms.jit
        def construct(self, features, target):
            return self.loss(self.dense(features), target)

    net = Network()
    net.set_inputs(Tensor(shape=[None, 5], dtype=ms.float32), Tensor(shape=[None, CLASSES], dtype=ms.int32))
    for rows in (3, 4):
        features = rng.standard_normal((rows, 5)).astype(np.float32)
        _, target = random_batch(rng, rows, CLASSES, 3)
        loss, (weight, bias) = ms.value_and_grad(net, None, net.trainable_params())(Tensor(features), Tensor(target))
        scores = features @ net.dense.weight.asnumpy().T + net.dense.bias.asnumpy()
        expected, gradient = loss_and_gradient(scores, target)
        close(loss, expected)
        np.testing.assert_allclose(weight.asnumpy(), gradient.T @ features, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(bias.asnumpy(), gradient.sum(0), rtol=1e-4, atol=1e-6)


class TwoLosses(nn.Cell):
    """Several losses, one of them in a branch, among checks of the user's own."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def construct(self, input, target):
        if input.shape[0] > 100:
            raise ValueError("too many rows")
        total = self.loss(input, target) + self.loss(2 * input, target)
        if input.shape[0] > 3:
            total = total + self.loss(3 * input, target)
        for factor in range(4, 6):
            total = total + self.loss(factor * input, target)
        return total


@pytest.mark.parametrize("forms", [FORMS, FORMS_FROM_LABELS], ids=["target", "labels"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_of_several_losses_branches_and_loops_with_unknown_shapes(mode, rng, forms, reduction):
    net = TwoLosses(forms["function"](reduction))
    if mode == "pynative":
        net.construct = ms.jit(net.construct)
    net.set_inputs(Tensor(shape=[None, None], dtype=ms.float32), Tensor(shape=[None, None], dtype=ms.int32))
    for rows in (2, 5, 3):
        input, target = random_batch(rng, rows, CLASSES, 3)
        factors = (1, 2, 3, 4, 5) if rows > 3 else (1, 2, 4, 5)
        expected = [loss_and_gradient(factor * input, target, reduction) for factor in factors]
        loss, gradient = ms.value_and_grad(net)(Tensor(input), Tensor(target))
        close(loss, sum(loss for loss, _ in expected))
        expected_gradient = sum(factor * gradient for factor, (_, gradient) in zip(factors, expected))
        np.testing.assert_allclose(gradient.asnumpy(), expected_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("forms", [FORMS, FORMS_FROM_LABELS], ids=["target", "labels"])
def test_gradient_of_row_losses_while_the_rank_changes(mode, rng, forms):
    class Sum(nn.Cell):
        def __init__(self):
            super().__init__()
            self.loss = forms["function"]("none")

        def construct(self, input, target):
            return self.loss(input, target).sum()

    net = Sum()
    if mode == "pynative":
        net.construct = ms.jit(net.construct)
    net.set_inputs(Tensor(shape=None, dtype=ms.float32), Tensor(shape=None, dtype=ms.int32))
    for shape in ((8, CLASSES), (CLASSES,), (1, CLASSES), (3, CLASSES)):
        input, target = batch_of(rng, shape)
        loss, gradient = ms.value_and_grad(net)(Tensor(input), Tensor(target))
        expected = loss_and_gradient(input, target, "sum")
        close(loss, expected[0])
        close(gradient, expected[1])


@pytest.mark.parametrize("mode", GRAPH_AND_SLOWLY_PYNATIVE, indirect=True)
@pytest.mark.parametrize(
    "forms", [FORMS, pytest.param(FORMS_FROM_LABELS, marks=pytest.mark.slow)], ids=["target", "labels"]
)
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 4), (3, 4)), "the same as that of 'input'|as many dimensions and rows as 'input'"),
        (((2, 2, 4), (2, 2, 4)), "rank of 'input' must be 1 or 2"),
        (((), ()), "rank of 'input' must be 1 or 2"),
        (((4,), (1, 4)), "the same as that of 'input'|as many dimensions and rows as 'input'"),
        (((4,), ()), "the same as that of 'input'|as many dimensions and rows as 'input'"),
        (((2, 0), (2, 0)), "number of classes must be positive"),
        (((2, 4), (2, 0)), "the same as that of 'input'|must have a label"),
    ],
)
def test_unknown_shapes_that_do_not_fit_are_named(mode, forms, shapes, message):
    net = forms["function"]("mean")
    net.construct = ms.jit(net.construct)
    net.set_inputs(Tensor(shape=None, dtype=ms.float32), Tensor(shape=None, dtype=ms.int32))
    with pytest.raises(ValueError, match=message) as error:
        net(Tensor(np.zeros(shapes[0], np.float32)), Tensor(np.zeros(shapes[1], np.int32)))
    assert any(" ".join(map(str, shape)) in str(error.value).replace(",", "") for shape in shapes)
