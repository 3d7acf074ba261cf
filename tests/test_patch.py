"""The loss under MindSpore's own names."""

import doctest

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

import mindspore_mlml
from mindspore_mlml import _primitive, multilabel_margin_loss
from tests.support.cases import DTYPES, EXAMPLE_INPUT, EXAMPLE_TARGET, REDUCTIONS, batch_of
from tests.support.compare import close
from tests.support.reference import loss_and_gradient

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
# As it stands in that of mindspore.ops.MultilabelMarginLoss.
DOCUMENTED_EXAMPLE_OF_THE_PRIMITIVE = """\
>>> import mindspore
>>> import numpy as np
>>> from mindspore import Tensor, ops
>>> loss = ops.MultilabelMarginLoss()
>>> x = Tensor(np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]]), mindspore.float32)
>>> target = Tensor(np.array([[1, 2, 0, 3], [2, 3, -1, 1]]), mindspore.int32)
>>> output = loss(x, target)
>>> print(output)
(Tensor(shape=[], dtype=Float32, value= 0.325), Tensor(shape=[2, 4], dtype=Int32, value=
[[1, 1, 1, 1],
 [0, 0, 1, 1]]))
"""


def names():
    return ops.multilabel_margin_loss, ops.MultilabelMarginLoss, nn.MultilabelMarginLoss


ORIGINALS = names()
OURS = (
    mindspore_mlml.multilabel_margin_loss,
    _primitive.MultilabelMarginLoss,
    mindspore_mlml.MultilabelMarginLoss,
)


@pytest.mark.parametrize(
    ("example", "lines"), [(DOCUMENTED_EXAMPLE, 7), (DOCUMENTED_EXAMPLE_OF_THE_PRIMITIVE, 8)], ids=["ops", "primitive"]
)
def test_the_documented_example_runs_verbatim(mode, example, lines):
    test = doctest.DocTestParser().get_doctest(example, {}, "documentation", None, 0)
    runner = doctest.DocTestRunner()
    with mindspore_mlml.patch():
        runner.run(test)
    assert (runner.failures, runner.tries) == (0, lines)


def test_without_it_mindspore_has_no_such_operator_on_a_cpu():
    with pytest.raises(RuntimeError, match="MultilabelMarginLoss"):
        ops.multilabel_margin_loss(Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET)).asnumpy()


def test_it_replaces_the_names_wherever_mindspore_has_them_and_restores_them():
    places = [ms.ops, ms.ops.function, ms.ops.functional, ms.ops.function.nn_func, ms.nn, ms.nn.loss, ms.nn.loss.loss]
    places += [ms.ops.operations, ms.ops.operations.nn_ops]
    before = [vars(place).copy() for place in places]
    with mindspore_mlml.patch():
        assert names() == OURS
        for place in places:
            assert not any(value is original for value in vars(place).values() for original in ORIGINALS)
    assert [vars(place) for place in places] == before


def test_it_nests_and_is_idempotent():
    with mindspore_mlml.patch():
        with mindspore_mlml.patch():
            assert names() == OURS
        assert names() == OURS
    assert names() == ORIGINALS


@pytest.mark.parametrize("first", [0, 1])
def test_two_threads_may_leave_it_in_any_order(first):
    contexts = [mindspore_mlml.patch(), mindspore_mlml.patch()]
    for context in contexts:
        context.__enter__()
    contexts[first].__exit__(None, None, None)
    assert names() == OURS
    contexts[1 - first].__exit__(None, None, None)
    assert names() == ORIGINALS


def test_it_may_be_entered_after_another_thread_has_left():
    first, second = mindspore_mlml.patch(), mindspore_mlml.patch()
    with first:
        pass
    with second:
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


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5, 9), (9,)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_primitive_gives_the_loss_its_gradient_and_is_target(mode, rng, reduction, shape, dtype):
    with mindspore_mlml.patch():
        operator = ops.operations.MultilabelMarginLoss(reduction)
    input, target = batch_of(rng, shape)
    target[..., :4] = [3, 3, 1, -2]  # a class that is listed twice, and some behind the end
    x, y = Tensor(input.astype(dtype)), Tensor(target)
    loss, is_target = operator(x, y)
    assert loss.asnumpy().tobytes() == multilabel_margin_loss(x, y, reduction).asnumpy().tobytes()
    assert is_target.dtype == ms.int32
    expected = np.zeros(shape, np.int32)
    expected[..., [1, 3]] = 1
    np.testing.assert_array_equal(is_target.asnumpy(), expected)

    def total(x, y):
        loss, _ = operator(x, y)
        return loss.sum()

    gradient = ms.grad(total)(Tensor(input), y)
    close(gradient, loss_and_gradient(input, target, reduction, np.ones(shape[:-1]) if reduction == "none" else 1)[1])


def test_the_primitive_takes_dynamic_shapes(mode, rng):
    net = _primitive.MultilabelMarginLoss()
    net.construct = ms.jit(net.construct)
    net.set_inputs(Tensor(shape=[None, None], dtype=ms.float32), Tensor(shape=[None, None], dtype=ms.int32))
    for shape in ((2, 4), (3, 9)):
        input, target = batch_of(rng, shape)
        loss, is_target = net(Tensor(input), Tensor(target))
        close(loss, loss_and_gradient(input, target)[0])
        rows = [np.isin(np.arange(shape[1]), row[: np.argmax(np.append(row, -1) < 0)]) for row in target]
        np.testing.assert_array_equal(is_target.asnumpy(), np.array(rows, np.int32))


def test_errors_of_the_primitive():
    with pytest.raises(ValueError, match="'reduction' must be one of 'none', 'mean', 'sum', but got 'avg'"):
        _primitive.MultilabelMarginLoss("avg")
    x = Tensor(EXAMPLE_INPUT)
    with pytest.raises(RuntimeError, match=r"less than the number of classes, 4, but got target\[1\]\[0\] = 4"):
        _primitive.MultilabelMarginLoss()(x, Tensor(np.array([[0, -1, 0, 0], [4, -1, 0, 0]], np.int32)))[0].asnumpy()
