"""The documented errors.

Each check is evaluated at compile time in graph mode where the shapes are known, and at run time where they are not.
"""

from mindspore import dtype as mstype

# The public constexpr cannot handle a dynamic shape; this one compiles the function into the graph instead.
from mindspore.ops.primitive import _primexpr

from mindspore_mlml._ops import REDUCTIONS


@_primexpr
def check_arguments(names, input_shape, target_shape, dtypes, reduction):
    """Raises the documented error if shapes, dtypes or reduction are not as documented.

    ``names`` has the name of the function and that of its second argument: a 'target' has the shape of the input,
    'labels' may have any number of columns.
    """
    op, name = names
    input_dtype, target_dtype = dtypes
    if input_dtype not in (mstype.float16, mstype.float32):
        raise TypeError(f"For '{op}', the dtype of 'input' must be float16 or float32, but got {input_dtype}.")
    if target_dtype != mstype.int32:
        raise TypeError(f"For '{op}', the dtype of '{name}' must be int32, but got {target_dtype}.")
    if len(input_shape) not in (1, 2):
        raise ValueError(f"For '{op}', the rank of 'input' must be 1 or 2, but got shape {input_shape}.")
    if name == "target" and input_shape != target_shape:
        raise ValueError(
            f"For '{op}', the shape of 'target' must be the same as that of 'input', {input_shape}, "
            f"but got {target_shape}."
        )
    if len(target_shape) != len(input_shape) or target_shape[:-1] != input_shape[:-1]:
        raise ValueError(
            f"For '{op}', '{name}' must have as many dimensions and rows as 'input', whose shape is {input_shape}, "
            f"but got shape {target_shape}."
        )
    if input_shape[-1] == 0:
        raise ValueError(f"For '{op}', the number of classes must be positive, but got shape {input_shape}.")
    if target_shape[-1] == 0:
        raise ValueError(
            f"For '{op}', each row of '{name}' must have a label or a negative value, but got shape {target_shape}."
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"For '{op}', the 'reduction' must be one of 'none', 'mean', 'sum', but got {reduction!r}.")
