"""The documented errors.

Each check is evaluated at compile time in graph mode where the shapes are known, and at run time where they are not.
"""

from mindspore import dtype as mstype

# The public constexpr cannot handle a dynamic shape; this one compiles the function into the graph instead.
from mindspore.ops.primitive import _primexpr

from mindspore_mlml._ops import REDUCTIONS


@_primexpr
def check_arguments(input_shape, target_shape, input_dtype, target_dtype, reduction):
    """Raises the documented error if shapes, dtypes or reduction are not as documented."""
    if input_dtype not in (mstype.float16, mstype.float32):
        raise TypeError(
            f"For 'multilabel_margin_loss', the dtype of 'input' must be float16 or float32, but got {input_dtype}."
        )
    if target_dtype != mstype.int32:
        raise TypeError(f"For 'multilabel_margin_loss', the dtype of 'target' must be int32, but got {target_dtype}.")
    if len(input_shape) not in (1, 2):
        raise ValueError(
            f"For 'multilabel_margin_loss', the rank of 'input' must be 1 or 2, but got shape {input_shape}."
        )
    if input_shape != target_shape:
        raise ValueError(
            "For 'multilabel_margin_loss', the shape of 'target' must be the same as that of 'input', "
            f"{input_shape}, but got {target_shape}."
        )
    if input_shape[-1] == 0:
        raise ValueError(
            f"For 'multilabel_margin_loss', the number of classes must be positive, but got shape {input_shape}."
        )
    check_reduction(reduction)


@_primexpr
def check_reduction(reduction):
    """Raises ValueError if ``reduction`` is not one of the documented names."""
    if reduction not in REDUCTIONS:
        raise ValueError(
            "For 'multilabel_margin_loss', the 'reduction' must be one of 'none', 'mean', 'sum', "
            f"but got {reduction!r}."
        )
