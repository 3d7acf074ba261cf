"""The loss by the kernel in use.

A module of its own, because MindSpore's automatic mixed precision copies the code of the functions that a Cell calls,
but of what else is in their modules it knows only what was imported.
"""

import mindspore as ms
from mindspore import ops

from mindspore_mlml import _hybrid, _ops
from mindspore_mlml._backends import kernel_in_use
from mindspore_mlml._checks import check_shapes, check_types, check_unknown_shapes
from mindspore_mlml._precision import wants_float32

# Made here, since patch() replaces the class.
_mindspore_operators = {reduction: ops.MultilabelMarginLoss(reduction) for reduction in _ops.REDUCTIONS}


def loss(names, input, labels, reduction):
    """The loss by the kernel in use; its gradient by that of the operators in it."""
    if input.dtype in (ms.float16, ms.bfloat16) and wants_float32():
        input = ops.cast(input, ms.float32)
    check_types(names, (input.dtype, labels.dtype), reduction)
    kernel = kernel_in_use()
    if _ops.in_graph() and (ops.is_sequence_value_unknown(input.shape) or ops.is_sequence_value_unknown(labels.shape)):
        check_unknown_shapes(names, input.shape, labels.shape)
        if kernel in _ops.dynamic_loss:
            output = _ops.dynamic_loss[kernel][reduction](input, labels)
            return output.reshape(input.shape[:-1] if reduction == "none" else ())
    else:
        check_shapes(names, input.shape, labels.shape)
    if kernel == "mindspore":
        return _mindspore_operators[reduction](input, _pad(labels, input.shape[-1]))[0]
    if kernel == "hybrid":
        return _hybrid.loss(input, labels, reduction)
    return _ops.loss[kernel][reduction](input, labels)


def _pad(labels, classes):
    """As many labels as classes, as MindSpore's own operator wants them."""
    missing = classes - labels.shape[-1]
    if missing < 0:
        raise ValueError(
            f"MindSpore's own operator takes no more labels than classes, {classes}, but got shape {labels.shape}."
        )
    if missing == 0:
        return labels
    return ops.cat((labels, ops.full((*labels.shape[:-1], missing), -1, dtype=labels.dtype)), -1)
