"""The loss inside models."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.dataset import NumpySlicesDataset

from mindspore_mlml import MultilabelMarginLoss, multilabel_margin_loss


class Network(nn.Cell):
    """A linear model whose construct ends in the loss."""

    def __init__(self, features, classes):
        super().__init__()
        self.dense = nn.Dense(features, classes)
        self.loss = MultilabelMarginLoss()

    def construct(self, x, target):
        return self.loss(self.dense(x), target)


@pytest.fixture
def data(rng):
    """Separable: each class has a direction, and a sample is the sum of those of its two classes."""
    classes = 6
    target = np.full((96, classes), -1, np.int32)
    for row in target:
        row[:2] = rng.permutation(classes)[:2]
    directions = np.eye(classes, dtype=np.float32)
    return directions[target[:, 0]] + directions[target[:, 1]], target


def test_model_train(mode, data):
    x, target = data
    ms.set_seed(1)
    network = nn.Dense(x.shape[1], x.shape[1])
    loss = MultilabelMarginLoss()
    model = ms.train.Model(network, loss_fn=loss, optimizer=nn.Adam(network.trainable_params(), 0.05))
    before = float(loss(network(Tensor(x)), Tensor(target)).asnumpy())
    dataset = NumpySlicesDataset((x, target), ["x", "target"], shuffle=False).batch(32)
    model.train(30, dataset, dataset_sink_mode=False)
    after = float(loss(network(Tensor(x)), Tensor(target)).asnumpy())
    assert after < before / 10


def test_value_and_grad_of_the_weights(mode, data):
    x, target = map(Tensor, data)
    ms.set_seed(1)
    network = Network(x.shape[1], x.shape[1])
    optimizer = nn.SGD(network.trainable_params(), 0.5)
    step = ms.value_and_grad(network, None, network.trainable_params())
    losses = []
    for _ in range(20):
        loss, gradients = step(x, target)
        optimizer(gradients)
        losses.append(float(loss.asnumpy()))
    assert losses[-1] < losses[0] / 2


def test_jit_inside_pynative(data):
    x, target = map(Tensor, data)
    network = nn.Dense(x.shape[1], x.shape[1])

    @ms.jit
    def forward(x, target):
        return multilabel_margin_loss(network(x), target, "sum").sum()

    expected = multilabel_margin_loss(network(x), target, "sum")
    np.testing.assert_allclose(forward(x, target).asnumpy(), expected.asnumpy(), rtol=1e-6)
