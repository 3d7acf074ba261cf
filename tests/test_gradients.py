"""Derivatives, in both modes and in the ways a user asks for them."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindspore_mlml import multilabel_margin_loss
from tests.support.cases import EXAMPLE_INPUT, EXAMPLE_TARGET, REDUCTIONS, random_batch
from tests.support.compare import check_second_derivatives
from tests.support.nets import EACH_FORM, FORMS
from tests.support.reference import loss_and_gradient


@pytest.mark.parametrize("form", EACH_FORM)
def test_grad_and_value_and_grad(mode, form):
    net = FORMS[form]("mean")
    loss, gradient = loss_and_gradient(EXAMPLE_INPUT, EXAMPLE_TARGET)
    input, target = Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET)
    np.testing.assert_array_equal(ms.grad(net)(input, target).asnumpy(), gradient)
    value, result = ms.value_and_grad(net)(input, target)
    assert value.shape == ()
    np.testing.assert_allclose(value.asnumpy(), loss, rtol=1e-6)
    np.testing.assert_array_equal(result.asnumpy(), gradient)


def test_jit_of_value_and_grad():
    step = ms.jit(ms.value_and_grad(multilabel_margin_loss))
    value, gradient = step(Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET))
    assert str(value) == "0.325"
    np.testing.assert_array_equal(gradient.asnumpy(), loss_and_gradient(EXAMPLE_INPUT, EXAMPLE_TARGET)[1])


def test_the_gradient_of_the_labels_is_zero(mode):
    gradients = ms.grad(FORMS["function"]("mean"), (0, 1))(Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET))
    np.testing.assert_array_equal(gradients[0].asnumpy(), loss_and_gradient(EXAMPLE_INPUT, EXAMPLE_TARGET)[1])
    np.testing.assert_array_equal(gradients[1].asnumpy(), np.zeros_like(EXAMPLE_TARGET))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", [None, 3])
def test_second_derivatives(mode, rng, dtype, reduction, rows):
    check_second_derivatives(rng, dtype, reduction, rows)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(4, 7, 3), (3, 200, 60), (2, 3000, 5)])
def test_parity_with_pytorch(rng, dtype, shape):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
    rows, classes, max_targets = shape
    input, target = random_batch(rng, rows, classes, max_targets, np.dtype(dtype).type)
    target[0, :3] = [1, 1, -1]
    # PyTorch reads what stands after the terminator to check its range, and has no float16 on the CPU.
    safe = np.where(np.cumsum(target < 0, axis=1) > 0, -1, target)
    for reduction in REDUCTIONS:
        theirs = torch.tensor(input.astype(np.float32), requires_grad=True)
        expected = torch.nn.functional.multilabel_margin_loss(theirs, torch.tensor(safe).long(), reduction=reduction)
        expected.sum().backward()
        net = FORMS["function"](reduction)
        tolerance = {"rtol": 2e-3, "atol": 1e-3} if dtype == "float16" else {"rtol": 1e-5, "atol": 1e-4}
        np.testing.assert_allclose(net(Tensor(input), Tensor(target)).asnumpy(), expected.detach().numpy(), **tolerance)
        gradient = ms.grad(net)(Tensor(input), Tensor(target)).asnumpy()
        np.testing.assert_allclose(gradient, theirs.grad.numpy(), **tolerance)
