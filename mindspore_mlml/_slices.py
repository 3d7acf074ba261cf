"""The loss by the steps of custom_ops/ranks.h, each of which is an operator.

What the loss is a function of are the inputs of class_parallel.cpp, class_parallel.cu or linear.cpp. What the ranks
exchange between the steps is made of inputs that no gradient flows through: the operator of the last step has all of
it.
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
from mindspore_mlml._ops import REDUCTIONS, in_graph

_CHECKSUMS = 16  # numbers in the header
_EXCHANGED = ("place", "header", "target_scores", "partial")


def _identity(tensor):
    return tensor


class Group(NamedTuple):
    """The processes that the classes are divided over, as one of them sees them."""

    rank: int = 0
    ranks: int = 1
    all_reduce: Callable = _identity  # the sum over the ranks


ALONE = Group()


class Slice(NamedTuple):
    """The classes of this process."""

    group: Group = ALONE
    num_classes: int = 0  # of all processes; 0: of this one, which is alone
    block: int = 0  # how many are worked on at a time; 0: as the kernels choose

    def place(self):
        """What the kernels must know that no shape says."""
        return Tensor(np.array([self.num_classes, self.group.rank, self.group.ranks, self.block]), ms.int64)


WHOLE = Slice()


def _float32(*_):
    return ms.float32


def _no_gradient(tensor):
    """Zeros, or None where MindSpore makes them when asked."""
    if in_graph():
        return ops.zeros_like(tensor)
    return None


class Loss(nn.Cell):
    """The loss by the steps, as a function of ``first``, of which those at ``differentiated`` have gradients.

    It must not be a part of another Cell, but an element of a tuple that is: otherwise automatic mixed precision would
    find it, and make float16 of what is exchanged.
    """

    def __init__(self, symbol, first, differentiated, reduction, own_slice, kernel="cpu"):
        super().__init__()
        self._symbol, self._first, self._differentiated = f"{LIBRARIES[kernel]}:{symbol}", first, differentiated
        self._target = TARGETS[kernel][0]
        self._reduction, self._ranks = reduction, own_slice.group.ranks
        self._place, self._all_reduce = own_slice.place(), own_slice.group.all_reduce
        self._header = self._register_step("Header", 1, self._header_shape)
        self._target_scores = self._register_step("TargetScores", 2, self._labels_shape)
        self._partial = self._register_step("Partial", 3, self._partial_shape)
        names = tuple([f"gradient_of_{first[i]}" for i in differentiated])
        inputs, of_differentiated = (*first, *_EXCHANGED), self._of_differentiated
        name = reduction.capitalize()
        gradient = self._register(f"Grad{name}", (*inputs, "dout"), names, of_differentiated, of_differentiated)
        bprop = self.make_bprop(gradient, self._all_reduce)
        self._loss = self._register(name, inputs, ("loss",), self._loss_shape, input_dtype, bprop)
        self.mixed_precision_type = MixedPrecisionType.NOTSET

    def construct(self, *inputs):
        still = tuple([ops.stop_gradient(tensor) for tensor in inputs])
        header = self._all_reduce(self._header(*still, self._place))
        target_scores = self._all_reduce(self._wait(self._target_scores(*still, self._place, header)))
        partial = self._all_reduce(self._partial(*still, self._place, header, target_scores))
        return self._loss(*inputs, self._place, header, target_scores, partial)

    def _wait(self, tensor):
        """The tensor, which is there: what is wrong with the ranks has been raised. Otherwise PyNative has sometimes
        begun the next exchange when the error comes, on one rank and not on another, and they are out of step."""
        if not in_graph() and self._ranks > 1 and self._target == "CPU":
            tensor.asnumpy()
        return tensor

    def _register_step(self, name, known, shape):
        return self._register(name, (*self._first, *_EXCHANGED[:known]), ("output",), shape, _float32)

    def _register(self, name, inputs, outputs, shape, dtype, bprop=None):
        return _custom.aot(self._symbol + name, self._target, inputs, outputs, shape, dtype, bprop)

    def _header_shape(self, *_):
        return (self._ranks + _CHECKSUMS,)

    def _labels_shape(self, _, labels, *__):
        return labels

    def _partial_shape(self, _, labels, *__):
        return (labels[0] * (2 * self._ranks + labels[1]),)

    def _loss_shape(self, input, *_):
        return input[:1] if self._reduction == "none" else ()

    def _of_differentiated(self, *values):
        values = tuple([values[i] for i in self._differentiated])
        return values if len(values) > 1 else values[0]


class ClassParallelLoss(Loss):
    """Of scores."""

    def __init__(self, reduction, own_slice, kernel):
        symbol = "MultilabelMarginLossClassParallel"
        super().__init__(symbol, ("input", "labels"), (0,), reduction, own_slice, kernel)

    @staticmethod
    def make_bprop(gradient, _):
        def bprop(input, labels, place, header, target_scores, partial, loss, dout):
            of_input = gradient(input, labels, place, header, target_scores, partial, dout)
            rest = (labels, place, header, target_scores, partial)
            return (of_input, *[_no_gradient(tensor) for tensor in rest])

        return bprop


class LinearLoss(Loss):
    """Of a linear layer without a bias, whose features are the same on all ranks."""

    def __init__(self, reduction, own_slice=WHOLE):
        super().__init__("MultilabelMarginLossLinear", ("features", "labels", "weight"), (0, 2), reduction, own_slice)

    @staticmethod
    def make_bprop(gradient, all_reduce):
        def bprop(features, labels, weight, place, header, target_scores, partial, loss, dout):
            of_features, of_weight = gradient(features, labels, weight, place, header, target_scores, partial, dout)
            rest = (place, header, target_scores, partial)
            first = (all_reduce(of_features), _no_gradient(labels), of_weight)
            return (*first, *[_no_gradient(tensor) for tensor in rest])

        return bprop


class LinearWithBiasLoss(Loss):
    """The same with a bias."""

    def __init__(self, reduction, own_slice=WHOLE):
        inputs = ("features", "labels", "weight", "bias")
        super().__init__("MultilabelMarginLossLinearWithBias", inputs, (0, 2, 3), reduction, own_slice)

    @staticmethod
    def make_bprop(gradient, all_reduce):
        def bprop(features, labels, weight, bias, place, header, target_scores, partial, loss, dout):
            of_features, of_weight, of_bias = gradient(
                features, labels, weight, bias, place, header, target_scores, partial, dout
            )
            rest = (place, header, target_scores, partial)
            first = (all_reduce(of_features), _no_gradient(labels), of_weight, of_bias)
            return (*first, *[_no_gradient(tensor) for tensor in rest])

        return bprop


CAN_SLICE = problem_of("cpu") is None
# By reduction.
linear_losses = {reduction: LinearLoss(reduction) for reduction in REDUCTIONS if CAN_SLICE}
linear_losses_with_bias = {reduction: LinearWithBiasLoss(reduction) for reduction in REDUCTIONS if CAN_SLICE}
