"""The loss under MindSpore's own names."""

import doctest

import mindspore as ms
import pytest
from mindspore import Tensor, nn, ops

import mindspore_mlml
from helpers import EXAMPLE_INPUT, EXAMPLE_TARGET

# As it stands in MindSpore's documentation of mindspore.ops.multilabel_margin_loss.
DOCUMENTED_EXAMPLE = """\
>>> import mindspore
>>> import numpy as np
>>> from mindspore import Tensor, ops
>>> inputs = Tensor(np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]]), mindspore.float32)
>>> target = Tensor(np.array([[1, 2, 0, 3], [2, 3, -1, 1]]), mindspore.int32)
>>> output = ops.multilabel_margin_loss(inputs, target)
>>> print(output)
0.325
"""
ORIGINALS = ops.multilabel_margin_loss, nn.MultilabelMarginLoss
OURS = mindspore_mlml.multilabel_margin_loss, mindspore_mlml.MultilabelMarginLoss


def names():
    return ops.multilabel_margin_loss, nn.MultilabelMarginLoss


def test_the_documented_example_runs_verbatim(mode):
    test = doctest.DocTestParser().get_doctest(DOCUMENTED_EXAMPLE, {}, "documentation", None, 0)
    runner = doctest.DocTestRunner()
    with mindspore_mlml.patch():
        runner.run(test)
    assert (runner.failures, runner.tries) == (0, 7)


def test_without_it_mindspore_has_no_such_operator_on_a_cpu():
    with pytest.raises(RuntimeError, match="MultilabelMarginLoss"):
        ops.multilabel_margin_loss(Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET)).asnumpy()


def test_it_replaces_the_names_wherever_mindspore_has_them_and_restores_them():
    places = [ms.ops, ms.ops.function, ms.ops.functional, ms.ops.function.nn_func, ms.nn, ms.nn.loss, ms.nn.loss.loss]
    before = [vars(place).copy() for place in places]
    with mindspore_mlml.patch():
        assert names() == OURS
        for place in places:
            assert ORIGINALS[0] not in vars(place).values()
            assert ORIGINALS[1] not in vars(place).values()
    assert [vars(place) for place in places] == before


def test_it_nests_and_is_idempotent():
    with mindspore_mlml.patch():
        with mindspore_mlml.patch():
            assert names() == OURS
        assert names() == OURS
    assert names() == ORIGINALS


def test_it_restores_after_an_error():
    with pytest.raises(KeyError), mindspore_mlml.patch():
        raise KeyError
    assert names() == ORIGINALS


def test_a_plain_call_replaces_until_something_restores():
    patched = mindspore_mlml.patch()
    mindspore_mlml.patch()
    assert names() == OURS
    with patched:
        assert names() == OURS
    assert names() == ORIGINALS


def test_networks_use_it_in_both_modes(mode):
    class Net(nn.Cell):
        def __init__(self):
            super().__init__()
            self.loss = nn.MultilabelMarginLoss(reduction="sum")

        def construct(self, input, target):
            return self.loss(input, target) + ops.multilabel_margin_loss(input, target, "none").sum()

    with mindspore_mlml.patch():
        assert str(Net()(Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET))) == "1.3"
