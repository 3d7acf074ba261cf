"""Running the loss on NumPy arrays, and making them."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_mlml import (
    MultilabelMarginLoss,
    MultilabelMarginLossFromLabels,
    multilabel_margin_loss,
    multilabel_margin_loss_from_labels,
)
from reference import loss_and_gradient

REDUCTIONS = ("none", "mean", "sum")
DTYPES = (np.float16, np.float32)
# The kernel rounds once to the output dtype; float32 hinges are rounded once more before they are summed.
TOLERANCE = {np.float16: 2.0**-10, np.float32: 2.0**-22}

EXAMPLE_INPUT = np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]], np.float32)
EXAMPLE_TARGET = np.array([[1, 2, 0, 3], [2, 3, -1, 1]], np.int32)


class FunctionNet(nn.Cell):
    """The function inside a Cell: compiled in graph mode, run eagerly in PyNative."""

    def __init__(self, reduction):
        super().__init__()
        self.reduction = reduction

    def construct(self, input, target):
        return multilabel_margin_loss(input, target, self.reduction)


class FunctionFromLabelsNet(FunctionNet):
    """The same for the function that takes short rows of labels."""

    def construct(self, input, labels):
        return multilabel_margin_loss_from_labels(input, labels, self.reduction)


class GradientNet(nn.Cell):
    """The gradient of the loss of ``net`` for the output gradient ``dout``."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.grad = ops.GradOperation(sens_param=True)

    def construct(self, input, target, dout):
        return self.grad(self.net)(input, target, dout)


FORMS = {"function": FunctionNet, "cell": MultilabelMarginLoss}
FORMS_FROM_LABELS = {"function": FunctionFromLabelsNet, "cell": MultilabelMarginLossFromLabels}


def run_loss(input, target, reduction="mean", form="function"):
    """The loss as a Tensor."""
    return FORMS[form](reduction)(Tensor(input), Tensor(target))


def run_gradient(input, target, dout, reduction="mean", form="function"):
    """The gradient of the loss times ``dout`` as a NumPy array."""
    net = GradientNet(FORMS[form](reduction))
    return net(Tensor(input), Tensor(target), Tensor(np.asarray(dout, input.dtype))).asnumpy()


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


def random_batch(rng, rows, classes, max_targets, dtype=np.float32):
    """Normal scores; each row has up to ``max_targets`` distinct targets, and junk after the terminator."""
    input = rng.standard_normal((rows, classes)).astype(dtype)
    target = rng.integers(-3, classes, (rows, classes)).astype(np.int32)
    for row in target:
        count = rng.integers(0, min(max_targets, classes) + 1)
        row[:count] = rng.permutation(classes)[:count]
        if count < classes:
            row[count] = -1
    return input, target


def batch_of(rng, shape, most=5):
    """A random batch of shape (N, C), or a row of shape (C,)."""
    input, target = random_batch(rng, shape[0] if len(shape) == 2 else 1, shape[-1], most)
    return input.reshape(shape), target.reshape(shape)


def close(actual, expected):
    np.testing.assert_allclose(actual.asnumpy(), expected, rtol=2e-6, atol=1e-7)
    assert actual.shape == np.shape(expected)
