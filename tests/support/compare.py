"""Comparing the loss and its derivatives with the reference."""

from concurrent.futures import ThreadPoolExecutor

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_mlml import MultilabelMarginLoss, multilabel_margin_loss
from tests.support.cases import random_batch
from tests.support.nets import GradientNet, run_gradient, run_loss
from tests.support.reference import TOLERANCE, loss_and_gradient


def check_against_reference(input, target, reduction="mean", form="function"):
    """Compares loss and gradient with the reference, in whatever mode is set."""
    dtype = input.dtype.type
    rows = np.atleast_2d(input).shape[0]
    dout = np.asarray(1 + np.arange(rows) % 3, dtype).reshape(input.shape[:-1]) if reduction == "none" else dtype(2)
    expected_loss, expected_gradient = loss_and_gradient(input, target, reduction, dout)
    loss = run_loss(input, target, reduction, form)
    assert isinstance(loss, Tensor)
    assert loss.dtype == (ms.float16 if dtype == np.float16 else ms.float32)
    assert loss.shape == expected_loss.shape
    # Half the smallest denormal is the rounding error of a tiny number.
    tolerance = {"rtol": TOLERANCE[dtype], "atol": np.finfo(dtype).smallest_subnormal}
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(loss.asnumpy(), expected_loss.astype(dtype), **tolerance)
        gradient = run_gradient(input, target, dout, reduction, form)
        np.testing.assert_allclose(gradient, expected_gradient.astype(dtype), **tolerance)
    assert gradient.dtype == dtype


def close(actual, expected):
    np.testing.assert_allclose(actual.asnumpy(), expected, rtol=2e-6, atol=1e-7)
    assert actual.shape == np.shape(expected)


class SecondOrder(nn.Cell):
    """The gradients of <gradient(input, dout), weight> with respect to input and dout."""

    def __init__(self, reduction):
        super().__init__()
        self.gradient = GradientNet(MultilabelMarginLoss(reduction))
        self.grad = ops.GradOperation(get_all=True, sens_param=True)

    def construct(self, input, target, dout, weight):
        gradients = self.grad(self.gradient)(input, target, dout, weight)
        return gradients[0], gradients[2]


def check_second_derivatives(rng, dtype, reduction, rows):
    """The gradient is piecewise constant in the input and linear in the output's gradient."""
    input, target = random_batch(rng, 3, 20, 5, dtype)
    weight = rng.standard_normal(input.shape).astype(dtype)
    if rows is None:
        input, target, weight = input[0], target[0], weight[0]
    dout = np.ones(input.shape[:-1] if reduction == "none" else (), dtype)
    of_input, of_dout = SecondOrder(reduction)(*map(Tensor, (input, target, dout, weight)))
    np.testing.assert_array_equal(of_input.asnumpy(), np.zeros_like(input))
    slope = loss_and_gradient(input, target, reduction, dout)[1]
    expected = (slope * weight).sum(axis=-1 if reduction == "none" else None)
    assert of_dout.shape == dout.shape
    np.testing.assert_allclose(of_dout.asnumpy(), expected, rtol=2e-3 if dtype == np.float16 else 1e-4, atol=2e-3)


def check_threads(rng):
    """Several Python threads that call at once each get their own loss, the same each time."""
    batches = [random_batch(rng, 4, 300, 20) for _ in range(4)]

    def work(pair):
        x, y = Tensor(pair[0]), Tensor(pair[1])
        return {float(multilabel_margin_loss(x, y).asnumpy()) for _ in range(30)}

    with ThreadPoolExecutor(4) as pool:
        for pair, losses in zip(batches, pool.map(work, batches)):
            assert len(losses) == 1
            np.testing.assert_allclose(losses.pop(), loss_and_gradient(*pair)[0], rtol=2e-6)
