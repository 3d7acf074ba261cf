"""The loss by the kernel in use.

A module of its own, because MindSpore's automatic mixed precision copies the code of the functions that a Cell calls,
but of what else is in their modules it knows only what was imported.
"""

from mindspore import ops
from mindspore.ops.function import nn_func

from mindspore_mlml import _hybrid, _ops
from mindspore_mlml._backends import kernel_in_use
from mindspore_mlml._checks import check_arguments

_mindspore_loss = nn_func.multilabel_margin_loss  # which patch() may replace where it is


def loss(names, input, labels, reduction):
    """The loss by the kernel in use; its gradient by that of the operators in it."""
    check_arguments(names, input.shape, labels.shape, (input.dtype, labels.dtype), reduction)
    kernel = kernel_in_use()
    if kernel == "mindspore":
        return _mindspore_loss(input, _pad(labels, input.shape[-1]), reduction)
    if kernel == "hybrid":
        return _hybrid.loss(input, labels, reduction)
    if _ops.in_graph() and (ops.is_sequence_value_unknown(input.shape) or ops.is_sequence_value_unknown(labels.shape)):
        scalar_or_rows = _ops.dynamic_loss[kernel][names[0]][reduction](input, labels)
        if reduction == "none" and len(input.shape) == 2:
            return scalar_or_rows
        return scalar_or_rows.reshape(())
    return _ops.loss[kernel][names[0]][reduction](input, labels)


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
