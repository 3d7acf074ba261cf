"""Copies of Cells and of networks that contain them, such as moving averages of weights."""

import copy

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindspore_mlml import (
    ClassParallelMultilabelMarginLoss,
    LinearMultilabelMarginLoss,
    MultilabelMarginLoss,
    MultilabelMarginLossFromLabels,
    _composed,
    _ops,
)
from tests.support.nets import PYNATIVE_AND_SLOWLY_GRAPH

LABELS = np.array([[1, 4, -1, 0, 0], [3, -1, 0, 0, 0], [-1, 2, 0, 0, 0], [0, 1, 2, 4, -1]], np.int32)


class Model(nn.Cell):
    """A layer and a Cell that makes a loss of its output."""

    def __init__(self, loss):
        super().__init__()
        self.body = nn.Dense(5, 5)
        self.loss = loss

    def construct(self, x, labels):
        return self.loss(self.body(x), labels)


CELLS = {
    "linear layer": lambda: LinearMultilabelMarginLoss(5, 9),
    "linear layer without bias": lambda: LinearMultilabelMarginLoss(5, 9, "sum", has_bias=False),
    "class parallel": lambda: ClassParallelMultilabelMarginLoss(5),
    "loss": MultilabelMarginLoss,
    "loss from labels": MultilabelMarginLossFromLabels,
    "model with a linear layer": lambda: Model(LinearMultilabelMarginLoss(5, 9)),
    "model with a loss": lambda: Model(MultilabelMarginLoss()),
    "model with a class parallel loss": lambda: Model(ClassParallelMultilabelMarginLoss(5)),
}


def differentiate(cell, x):
    """Loss and gradients by the input and the parameters."""
    parameters = cell.trainable_params()
    loss, gradients = ms.value_and_grad(cell, 0, parameters or None)(Tensor(x), Tensor(LABELS))
    of_input, of_parameters = gradients if parameters else (gradients, ())
    return [result.asnumpy().tolist() for result in (loss, of_input, *of_parameters)]


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", CELLS)
def test_copied_cells_have_the_same_loss_and_gradients(mode, rng, name, make_copy):
    x = rng.standard_normal((4, 5)).astype(np.float32)
    original = CELLS[name]()
    before = make_copy(original)
    expected = differentiate(original, x)
    assert differentiate(before, x) == expected
    assert differentiate(make_copy(original), x) == expected  # of one that has been called


def test_deep_copies_have_parameters_of_their_own(rng):
    x = rng.standard_normal((4, 5)).astype(np.float32)
    original = Model(LinearMultilabelMarginLoss(5, 9))
    copied = copy.deepcopy(original)
    expected = differentiate(original, x)
    for parameter in original.trainable_params():
        parameter.set_data(parameter + 1)
    assert differentiate(original, x) != expected
    assert differentiate(copied, x) == expected


@pytest.mark.parametrize("kernel", ["host", "composed"])
@pytest.mark.parametrize("name", ["linear layer", "model with a loss"])
def test_copies_with_other_kernels(force_kernel, rng, kernel, name):
    force_kernel(kernel)
    x = rng.standard_normal((4, 5)).astype(np.float32)
    original = CELLS[name]()
    assert differentiate(copy.deepcopy(original), x) == differentiate(original, x)


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy])
def test_tables_of_operators_can_be_copied(make_copy):
    for operators in (_ops.losses, _ops.dynamic_losses, _composed.losses):
        assert type(make_copy(operators)) is type(operators)


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_training_beside_a_moving_average_of_the_weights(mode, rng):
    x = rng.standard_normal((4, 5)).astype(np.float32)
    network = Model(LinearMultilabelMarginLoss(5, 9))
    average = copy.deepcopy(network)
    optimizer = nn.Adam(network.trainable_params(), 0.05)
    step = ms.value_and_grad(network, None, optimizer.parameters)
    expected = [parameter.asnumpy().copy() for parameter in network.trainable_params()]
    losses = []
    for _ in range(5):
        loss, gradients = step(Tensor(x), Tensor(LABELS))
        optimizer(gradients)
        losses.append(float(loss.asnumpy()))
        for index, (mean, parameter) in enumerate(zip(average.trainable_params(), network.trainable_params())):
            mean.set_data(mean * 0.75 + parameter * 0.25)
            expected[index] = expected[index] * np.float32(0.75) + parameter.asnumpy() * np.float32(0.25)
    assert losses[-1] < losses[0]
    for mean, wanted in zip(average.trainable_params(), expected):
        np.testing.assert_allclose(mean.asnumpy(), wanted, rtol=1e-5, atol=1e-6)
    of_average, of_network = (float(net(Tensor(x), Tensor(LABELS)).asnumpy()) for net in (average, network))
    assert of_network < of_average < losses[0]
