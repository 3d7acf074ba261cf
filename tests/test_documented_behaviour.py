"""What MindSpore's documentation of multilabel_margin_loss promises."""

import doctest
import inspect

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import mindspore_mlml
from mindspore_mlml import _patch, functional, labels, losses, many_classes, metrics
from tests.support.cases import DTYPES, EXAMPLE_INPUT, EXAMPLE_TARGET, REDUCTIONS
from tests.support.nets import FORMS, run_loss


@pytest.mark.parametrize("form", FORMS)
def test_documented_example_prints_0_325(mode, form):
    assert str(run_loss(EXAMPLE_INPUT, EXAMPLE_TARGET, form=form)) == "0.325"


def test_documented_example_prints_0_325_without_a_cell():
    inputs, target = Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET)
    assert str(mindspore_mlml.multilabel_margin_loss(inputs, target)) == "0.325"
    assert str(mindspore_mlml.multilabel_margin_loss(input=inputs, target=target, reduction="mean")) == "0.325"
    assert str(ms.jit(mindspore_mlml.multilabel_margin_loss)(inputs, target)) == "0.325"


@pytest.mark.parametrize("form", FORMS)
def test_example_values_for_every_reduction(mode, form):
    np.testing.assert_array_equal(
        run_loss(EXAMPLE_INPUT, EXAMPLE_TARGET, "none", form).asnumpy(), np.array([0, 0.65], np.float32)
    )
    assert str(run_loss(EXAMPLE_INPUT, EXAMPLE_TARGET, "sum", form)) == "0.65"
    assert str(run_loss(EXAMPLE_INPUT[1], EXAMPLE_TARGET[1], "none", form)) == "0.65"


def test_signature_is_the_documented_one():
    parameters = inspect.signature(mindspore_mlml.multilabel_margin_loss).parameters
    assert list(parameters) == ["input", "target", "reduction"]
    assert parameters["reduction"].default == "mean"
    assert inspect.signature(mindspore_mlml.MultilabelMarginLoss).parameters["reduction"].default == "mean"
    assert isinstance(mindspore_mlml.MultilabelMarginLoss(), ms.nn.LossBase)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_output_is_a_tensor_of_the_input_dtype_and_the_documented_shape(mode, form, dtype, reduction):
    input = EXAMPLE_INPUT.astype(dtype)
    for output, shape in (
        (run_loss(input, EXAMPLE_TARGET, reduction, form), (2,) if reduction == "none" else ()),
        (run_loss(input[0], EXAMPLE_TARGET[0], reduction, form), ()),
    ):
        assert isinstance(output, Tensor)
        assert output.shape == shape
        assert output.dtype == (ms.float16 if dtype == np.float16 else ms.float32)


@pytest.mark.parametrize("module", [functional, losses, labels, many_classes, metrics, _patch])
def test_docstring_examples_run(module):
    failures, tests = doctest.testmod(module)
    assert tests > 0
    assert failures == 0
