"""The loss of a linear layer's scores, and the choice of its kernel.

Apart from the Cells: automatic mixed precision at its level O1 copies the source of what a Cell calls, and the
copy knows only the names that were imported.
"""

import mindspore as ms
from mindspore import ops

from mindspore_mlml import _checks, _ops
from mindspore_mlml._backends import kernel_in_use
from mindspore_mlml._linear_operators import multiply, operators
from mindspore_mlml.functional import multilabel_margin_loss_from_labels

CLASSES_OF_TOP_K = 16384  # that it looks at at a time


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
        all_scores = multiply(features, ops.cast(weight, features.dtype)) + ops.cast(bias, features.dtype)
        return multilabel_margin_loss_from_labels(all_scores, labels, reduction)
    output = operators[called][reduction][_ops.in_graph()](features, labels, weight, bias)
    return as_loss(output[0], reduction)
