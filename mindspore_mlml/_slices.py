"""The losses of classes that are divided over processes, by the steps of custom_ops/ranks.h, each of which is an
operator.

The processes exchange what the steps before the last write; the last step has all of it as inputs, through which no
gradient flows.
"""

from collections.abc import Callable
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore._c_expression import MixedPrecisionType

from mindspore_mlml import _custom
from mindspore_mlml._backends import LIBRARIES, TARGETS, problem_of
from mindspore_mlml._custom import input_dtype
from mindspore_mlml._linear import as_loss
from mindspore_mlml._linear_operators import LAYER
from mindspore_mlml._ops import in_graph, no_gradient

_EXCHANGED = ("place", "header", "target_scores", "partial")


def _identity(tensor):
    return tensor


class Group(NamedTuple):
    """The processes that the classes are divided over, as one of them sees them."""

    rank: int = 0
    ranks: int = 1
    all_reduce: Callable = _identity  # the sum over the ranks


ALONE = Group()


class _Steps(nn.Cell):
    """What the two losses have in common.

    It must not be a part of another Cell, but an element of a tuple that is: otherwise automatic mixed precision would
    find it, and make float16 of what is exchanged.
    """

    def __init__(self, symbol, first, reduction, group, num_classes, kernel):
        super().__init__()
        self._symbol, self._first = f"{LIBRARIES[kernel]}:MultilabelMarginLoss{symbol}", first
        self._target = TARGETS[kernel][0]
        self._reduction, self._ranks, self._all_reduce = reduction, group.ranks, group.all_reduce
        self._place = Tensor(np.array([num_classes, group.rank, group.ranks] + [0] * group.ranks), ms.int64)
        self._header = self._register("Header", (*first, *_EXCHANGED[:1]), ("header",))
        self._target_scores = self._register("TargetScores", (*first, *_EXCHANGED[:2]), ("target_scores",))
        self.mixed_precision_type = MixedPrecisionType.NOTSET

    def _register(self, name, inputs, outputs, bprop=None, shape=None):
        dtype = None if shape is None else input_dtype
        return _custom.aot(self._symbol + name, self._target, inputs, outputs, shape, dtype, bprop)

    def _register_loss(self, inputs, bprop):
        """For PyNative, where a scalar has no dimension, and for graphs."""
        shape = _row_shape if self._reduction == "none" else _scalar_shape
        name = self._reduction.capitalize()
        return [self._register(name, inputs, ("loss",), bprop, known) for known in (shape, None)]

    def _exchange(self, *still):
        """Header and target scores of all processes."""
        header = self._all_reduce(self._wait(self._header(*still, self._place)))
        return header, self._all_reduce(self._wait(self._target_scores(*still, self._place, header)))

    def _wait(self, tensor):
        """The tensor, once it is computed, so that an error of its operator is raised here.

        Otherwise PyNative raises it while it queues a later operator. By then one of several processes may have begun
        the next exchange, and another one not; and when the queue is emptied, it may have operators of the next call.
        """
        if not in_graph() and self._target == "CPU":
            tensor.asnumpy()
        return tensor


def _row_shape(input, *_):
    return input[:1]


def _scalar_shape(*_):
    return ()


class ClassParallelLoss(_Steps):
    """Of scores."""

    def __init__(self, reduction, group, num_classes, kernel):
        first = ("input", "labels")
        super().__init__("ClassParallel", first, reduction, group, num_classes, kernel)
        known = (*first, *_EXCHANGED)
        self._partial = self._register("Partial", known[:-1], ("partial",))
        name = f"Grad{reduction.capitalize()}"
        gradient = self._register(name, (*known, "dout"), ("gradient",))

        def bprop(input, labels, place, header, target_scores, partial, loss, dout):
            grad_input = gradient(input, labels, place, header, target_scores, partial, dout)
            rest = (labels, place, header, target_scores, partial)
            return (grad_input, *[no_gradient(tensor) for tensor in rest])

        self._loss = self._register_loss(known, bprop)

    def construct(self, input, labels):
        still = (ops.stop_gradient(input), ops.stop_gradient(labels))
        header, target_scores = self._exchange(*still)
        partial = self._all_reduce(self._partial(*still, self._place, header, target_scores))
        loss = self._loss[in_graph()](input, labels, self._place, header, target_scores, partial)
        return as_loss(loss, self._reduction)


class LinearLoss(_Steps):
    """Of a linear layer, whose features are the same in all processes."""

    def __init__(self, reduction, group, num_classes):
        super().__init__("LinearSharded", LAYER, reduction, group, num_classes, "cpu")
        known = (*LAYER, *_EXCHANGED, "saved")
        self._partial = self._register("Partial", known[:-2], ("partial", "saved"))
        outputs = ("grad_features", "grad_weight", "grad_bias")
        gradient = self._register(f"Grad{reduction.capitalize()}", (*known, "dout"), outputs)
        all_reduce = self._all_reduce

        def bprop(features, labels, weight, bias, place, header, target_scores, partial, saved, loss, dout):
            grad_features, grad_weight, grad_bias = gradient(
                features, labels, weight, bias, place, header, target_scores, partial, saved, dout
            )
            rest = (place, header, target_scores, partial, saved)
            first = (all_reduce(grad_features), no_gradient(labels), grad_weight, grad_bias)
            return (*first, *[no_gradient(tensor) for tensor in rest])

        self._loss = self._register_loss(known, bprop)

    def construct(self, features, labels, weight, bias):
        still = tuple([ops.stop_gradient(tensor) for tensor in (features, labels, weight, bias)])
        header, target_scores = self._exchange(*still)
        partial, saved = self._partial(*still, self._place, header, target_scores)
        partial = self._all_reduce(partial)
        known = (features, labels, weight, bias, self._place, header, target_scores, partial, saved)
        return as_loss(self._loss[in_graph()](*known), self._reduction)


CAN_SLICE = problem_of("cpu") is None
CAN_SLICE_ON_GPU = problem_of("cuda") is None
