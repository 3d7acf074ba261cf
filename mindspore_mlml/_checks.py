"""The documented errors.

Each check is evaluated at compile time in graph mode where the shapes are known, and at run time where they are not.
``call`` says what the caller called: the function, the name of its second argument, and whether the two must have the
same shape.
"""

from mindspore import dtype as mstype

# The public constexpr cannot handle a dynamic shape; this one compiles the function into the graph instead.
from mindspore.ops.primitive import _primexpr

from mindspore_mlml._ops import REDUCTIONS


def shorten(value):
    """The value as a message shows it, in graph code too."""
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
def check_types(call, dtypes, reduction):
    """Raises the documented error if dtypes or reduction are not as documented."""
    op, name, _ = call
    input_dtype, target_dtype = dtypes
    if input_dtype not in (mstype.float32, mstype.float16):
        raise TypeError(f"For '{op}', the dtype of 'input' must be float16 or float32, but got {input_dtype}.")
    if target_dtype != mstype.int32:
        raise TypeError(
            f"For '{op}', the dtype of '{name}' must be int32, but got {target_dtype}. It has class indices, ended by "
            "-1, not a 0 or 1 for each class: mindspore_mlml.targets_from_multi_hot converts those."
        )
    check_reduction(op, reduction)


def check_shapes(call, input_shape, target_shape):
    """Raises the documented error if the shapes are not as documented.

    One function for each ``raise``, and a single comparison before it: where a shape is known at run time only,
    MindSpore cannot differentiate a function with two of them ("The node adjoint is null"), and a graph with ``and`` or
    ``or`` before it fails once in some hundred times ("Cannot find device context for funcgraph"). Nor is it sure to
    raise the first error before it looks at what the second needs: hence slices where there may be no such element.
    """
    _, _, needs_same_shape = call
    _check_rank(call, input_shape)
    if needs_same_shape:
        _check_same_shape(call, input_shape, target_shape)
    else:
        _check_rows(call, input_shape, target_shape)
    _check_classes(call, input_shape)
    _check_labels(call, target_shape)


@_primexpr
def _check_rank(call, input_shape):
    if len(input_shape) not in (1, 2):
        raise ValueError(f"For '{call[0]}', the rank of 'input' must be 1 or 2, but got shape {input_shape}.")


@_primexpr
def _check_same_shape(call, input_shape, target_shape):
    if input_shape != target_shape:
        raise ValueError(
            f"For '{call[0]}', the shape of 'target' must be the same as that of 'input', {input_shape}, "
            f"but got {target_shape}."
        )


@_primexpr
def _check_rows(call, input_shape, labels_shape):
    if input_shape[:-1] != labels_shape[:-1]:
        raise ValueError(
            f"For '{call[0]}', '{call[1]}' must have as many dimensions and rows as 'input', whose shape is "
            f"{input_shape}, but got shape {labels_shape}."
        )


@_primexpr
def _check_classes(call, input_shape):
    if input_shape[-1:] == (0,):
        raise ValueError(f"For '{call[0]}', the number of classes must be positive, but got shape {input_shape}.")


@_primexpr
def _check_labels(call, labels_shape):
    if labels_shape[-1:] == (0,):
        raise ValueError(
            f"For '{call[0]}', each row of '{call[1]}' must have a label or a negative value, but got shape "
            f"{labels_shape}."
        )
