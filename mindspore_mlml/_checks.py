"""The documented errors.

Each check is evaluated at compile time in graph mode where the shapes are known, and at run time where they are not.
"""

from mindspore import dtype as mstype

# The public constexpr cannot handle a dynamic shape; this one compiles the function into the graph instead.
from mindspore.ops.primitive import _primexpr

from mindspore_mlml._ops import REDUCTIONS


def shorten(value):
    """The value as a message shows it."""
    text = f"{value}"
    if len(text) <= 200:
        return text
    return f"{text[:200]}..."


@_primexpr
def check_reduction(op, reduction):
    """Raises the documented error for an unknown reduction."""
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"For '{op}', the 'reduction' must be one of 'none', 'mean', 'sum', but got {shorten(repr(reduction))}."
        )


@_primexpr
def check_types(names, dtypes, reduction):
    """Raises the documented error if dtypes or reduction are not as documented.

    ``names`` has the name of the function and that of its second argument: a 'target' has the shape of the input,
    'labels' may have any number of columns.
    """
    op, name = names
    input_dtype, target_dtype = dtypes
    if input_dtype not in (mstype.float16, mstype.float32):
        raise TypeError(f"For '{op}', the dtype of 'input' must be float16 or float32, but got {input_dtype}.")
    if target_dtype != mstype.int32:
        raise TypeError(
            f"For '{op}', the dtype of '{name}' must be int32, but got {target_dtype}. It has class indices, ended by "
            "-1, not a 0 or 1 for each class: mindspore_mlml.targets_from_multi_hot converts those."
        )
    check_reduction(op, reduction)


@_primexpr
def check_shapes(names, input_shape, target_shape):
    """Raises the documented error if the shapes, which are known, are not as documented."""
    op, name = names
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


@_primexpr
def check_unknown_shapes(names, input_shape, target_shape):
    """The same for shapes that are known at run time only.

    With a single ``raise``, for MindSpore cannot differentiate a function that has two of them one after the other
    ("The node adjoint is null"), and without adding strings, for which it has no kernel in a loop.
    """
    op, name = names
    fits = len(input_shape) in (1, 2) and len(target_shape) == len(input_shape) and input_shape[-1] > 0
    if name == "target":
        fits = fits and target_shape == input_shape
        wanted = "the same as that of 'input'"
    else:
        fits = fits and target_shape[:-1] == input_shape[:-1] and target_shape[-1] > 0
        wanted = "(K,) or (N, K) with as many rows and K > 0"
    if not fits:
        raise ValueError(
            f"For '{op}', the shape of 'input' must be (C,) or (N, C) with C > 0, and the shape of '{name}' must be "
            f"{wanted}, but got {input_shape} and {target_shape}."
        )
