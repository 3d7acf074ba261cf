"""The operators of a linear layer's loss, whose kernels are custom_ops/cpu/linear.cpp.

Apart from the loss itself: automatic mixed precision at its level O1 copies the source of what a Cell calls, and the
copy knows only the names that were imported.
"""

import ctypes
import functools

import mindspore as ms
from mindspore import ops

from mindspore_mlml import _custom, _ops
from mindspore_mlml._backends import LIBRARIES, problem_of

LAYER = ("features", "labels", "weight", "bias")
_STATE = ("target_scores", "active_classes", "saved")
# What the symbols begin with: the same kernels, whose errors name what was called.
_SYMBOLS = {"linear_multilabel_margin_loss": "Linear", "LinearMultilabelMarginLoss": "LinearLayer"}


def _sizes(features, labels, weight):
    """N, C, D and K for the library."""
    return [ctypes.c_int64(size) for size in (features[0], weight[0], features[1], labels[1])]


@ms.constexpr(get_instance=False)
def _saves_all_in_graph(features, labels, weight):
    """What the graph compiler evaluates."""
    return _saves_all_of(features, labels, weight)


@functools.cache
def _library():
    library = ctypes.CDLL(str(LIBRARIES["cpu"]))
    library.MultilabelMarginLossLinearSavedSize.restype = ctypes.c_int64
    return library


def _saves_all_of(features, labels, weight):
    return _library().MultilabelMarginLossLinearSavesAll(*_sizes(features, labels, weight)) != 0


class _SavesAll(_saves_all_in_graph):
    """Whether the backward pass computes no scores, so that its two halves have no work in common."""

    def __call__(self, features, labels, weight):
        return _saves_all_of(features, labels, weight)


_saves_all = _SavesAll()


def _operator(symbol, inputs, outputs, out_shape=None, out_dtype=None, bprop=None):
    return _custom.aot(
        f"{LIBRARIES['cpu']}:MultilabelMarginLoss{symbol}", "CPU", inputs, outputs, out_shape, out_dtype, bprop
    )


def _forward_dtypes(features, *_):
    return features, ms.float32, ms.float32, ms.int32


def _forward_shapes(reduction):
    """In PyNative. The library infers shapes too, but its shape of a scalar is (1,)."""

    def shapes(features, labels, weight, bias):
        saved = _library().MultilabelMarginLossLinearSavedSize(*_sizes(features, labels, weight))
        return (features[:1] if reduction == "none" else ()), labels, labels, (saved,)

    return shapes


def _make_bprop(reduction):
    inputs, name = (*LAYER, *_STATE, "dout"), reduction.capitalize()
    all_outputs = ("grad_features", "grad_weight", "grad_bias")
    both = _operator(f"LinearGrad{name}", inputs, all_outputs)
    of_features = _operator(f"LinearGradFeatures{name}", inputs, all_outputs[:1])
    of_parameters = _operator(f"LinearGradParameters{name}", inputs, all_outputs[1:])

    def bprop(features, labels, weight, bias, output, doutput):
        _, target_scores, active_classes, saved = output
        known = (features, labels, weight, bias, target_scores, active_classes, saved, doutput[0])
        is_unknown = _ops.is_unknown(features) or _ops.is_unknown(labels) or _ops.is_unknown(weight)
        # Two operators, of which a graph drops the one whose gradient nobody asks for; or one, where they would both
        # compute scores again.
        if is_unknown or _saves_all(features.shape, labels.shape, weight.shape):
            grad_features = of_features(*known)
            grad_weight, grad_bias = of_parameters(*known)
        else:
            grad_features, grad_weight, grad_bias = both(*known)
        return grad_features, _ops.no_gradient(labels), grad_weight, grad_bias

    return bprop


def _make_operators():
    """By what was called, reduction, and whether it is for a graph: (features, labels, weight, bias) -> loss, state."""
    if problem_of("cpu") is not None:
        return {}
    bprops = {reduction: _make_bprop(reduction) for reduction in _ops.REDUCTIONS}
    outputs = ("loss", *_STATE)
    return {
        called: {
            reduction: {
                in_graph: _operator(
                    f"{symbol}{reduction.capitalize()}",
                    LAYER,
                    outputs,
                    None if in_graph else _forward_shapes(reduction),
                    None if in_graph else _forward_dtypes,
                    bprops[reduction],
                )
                for in_graph in (False, True)
            }
            for reduction in _ops.REDUCTIONS
        }
        for called, symbol in _SYMBOLS.items()
    }


operators = _make_operators()

# Of matrices, the second one transposed; ops.matmul cannot be exported to MindIR with an unknown rank.
multiply = ops.MatMul(transpose_b=True)
