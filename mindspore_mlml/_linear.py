"""The loss of a linear layer's scores: its operators, and the choice of those in use.

A module of its own for the reason that _dispatch is one: automatic mixed precision, at its level O1, knows of what is
beside a Cell only what was imported.
"""

import ctypes
import functools

import mindspore as ms
from mindspore import ops

from mindspore_mlml import _checks, _custom, _ops
from mindspore_mlml._backends import LIBRARIES, kernel_in_use, problem_of
from mindspore_mlml.functional import multilabel_margin_loss_from_labels

CLASSES_OF_TOP_K = 16384  # that it looks at at a time
LAYER = ("features", "labels", "weight", "bias")
_STATE = ("target_scores", "active_classes", "saved")
# What the symbols begin with: the same kernels, whose errors name what was called.
_SYMBOLS = {"linear_multilabel_margin_loss": "Linear", "LinearMultilabelMarginLoss": "LinearLayer"}


# ----------------------------------------------------------------------------------------------------------------------
# Operators


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
    """In PyNative; the library knows them too, but its shape of a scalar is (1,)."""

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


_operators = _make_operators()


# ----------------------------------------------------------------------------------------------------------------------
# The loss


_multiply = ops.MatMul(transpose_b=True)  # of matrices; the function knows no MindIR of unknown rank


def scores(features, weight, bias):
    """Those of a linear layer, of one sample too."""
    product = ops.matmul(features, ops.cast(weight, features.dtype).T)
    if bias is None:
        return product
    return product + ops.cast(bias, features.dtype)


def top_k(features, weight, bias, k):
    """The k greatest scores of each row and their classes."""
    classes = weight.shape[0]
    if classes <= CLASSES_OF_TOP_K:
        values, indices = ops.topk(scores(features, weight, bias), k)
        return values, ops.cast(indices, ms.int32)
    best, places = [], []
    for begin in range(0, classes, CLASSES_OF_TOP_K):
        end = min(begin + CLASSES_OF_TOP_K, classes)
        own_bias = None if bias is None else bias[begin:end]
        values, indices = ops.topk(scores(features, weight[begin:end], own_bias), min(k, end - begin))
        best.append(values)
        places.append(indices + begin)
    values, indices = ops.topk(ops.cat(best, -1), k)
    return values, ops.cast(ops.gather_elements(ops.cat(places, -1), -1, indices), ms.int32)


def as_loss(output, reduction):
    """The output of an operator whose shapes the library infers, in its documented shape."""
    if _ops.in_graph() and reduction != "none":
        return output.reshape(())
    return output


def check(called, features, weight, bias, labels, reduction):
    """Raises the documented errors, those of shapes where these are known. The bias is not None."""
    dtypes = (features.dtype, weight.dtype, bias.dtype)
    _checks.check_linear_types(called, dtypes, labels.dtype, reduction)
    is_known = not (_ops.is_unknown(features) or _ops.is_unknown(weight) or _ops.is_unknown(labels))
    if is_known:
        _checks.check_linear_shapes(called, features.shape, weight.shape, bias.shape, labels.shape)
    return is_known


def loss(called, features, weight, bias, labels, reduction):
    """The loss of arguments of which the dtypes and shapes are not checked yet."""
    if bias is None:
        bias = ops.zeros(weight.shape[:1], weight.dtype)
    is_known = check(called, features, weight, bias, labels, reduction)
    if is_known and 0 in features.shape:
        return multilabel_margin_loss_from_labels(scores(features, weight, bias), labels, reduction)
    if kernel_in_use() != "cpu" or not _ops.has_gemm:
        all_scores = _multiply(features, ops.cast(weight, features.dtype)) + ops.cast(bias, features.dtype)
        return multilabel_margin_loss_from_labels(all_scores, labels, reduction)
    output = _operators[called][reduction][_ops.in_graph()](features, labels, weight, bias)
    return as_loss(output[0], reduction)
