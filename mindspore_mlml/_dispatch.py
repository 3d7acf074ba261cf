"""The loss by the kernel in use.

A module of its own, because MindSpore's automatic mixed precision copies the code of the functions that a Cell calls,
but of what else is in their modules it knows only what was imported.
"""

import mindspore as ms
from mindspore import ops

from mindspore_mlml import _checks, _composed, _hybrid, _mindspore, _ops
from mindspore_mlml._backends import kernel_in_use
from mindspore_mlml._precision import wants_float32


def loss(call, input, labels, reduction):
    """The loss by the kernel in use; its gradient by that of the operators in it. ``call`` as in _checks."""
    function, _, _, needs_same_shape = call
    if input.dtype != ms.float32 and input.dtype in (ms.float16, ms.bfloat16) and wants_float32():
        input = ops.cast(input, ms.float32)
    _checks.check_types(call, (input.dtype, labels.dtype), reduction)
    is_unknown = _ops.is_unknown(input) or _ops.is_unknown(labels)
    if not is_unknown:  # otherwise the kernel checks them
        _checks.check_shapes(call, input.shape, labels.shape)
    kernel = kernel_in_use()
    if kernel == "mindspore":
        return _mindspore.loss(input, labels, reduction)
    if kernel in ("host", "hybrid", "composed") and not is_unknown and 0 in input.shape:
        return ops.zeros(input.shape[:-1] if reduction == "none" else (), input.dtype)
    if kernel == "composed" or (kernel in ("host", "hybrid") and is_unknown):
        return _composed.losses[is_unknown][needs_same_shape][input.dtype == ms.float16][reduction](input, labels)
    if kernel == "hybrid":
        return _hybrid.loss(input, labels, reduction)
    if is_unknown:
        return _ops.dynamic_loss(_ops.dynamic_losses[kernel][function][reduction], input, labels, reduction)
    return _ops.losses[kernel][function][reduction](input, labels)
