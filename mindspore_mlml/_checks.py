"""The documented errors of dtypes, of the reduction, and of shapes that are known.

In a graph, each check is evaluated when the graph is compiled, and nothing of it is left. Shapes that the graph does
not know are not checked here, because a graph with a ``raise`` cannot be exported, cached, or compiled strictly: the
kernel raises the same errors when it runs (ReadBatch in custom_ops/operator.h). ``call`` is what the caller called: the
function, the name of its second argument, and whether the two must have the same shape.
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
def check_labels_dtype(op, name, dtype):
    """Raises the documented error if labels are not int32."""
    if dtype != mstype.int32:
        raise TypeError(
            f"For '{op}', the dtype of '{name}' must be int32, but got {dtype}. It has class indices, ended by "
            "-1, not a 0 or 1 for each class: mindspore_mlml.targets_from_multi_hot converts those."
        )


@_primexpr
def check_types(call, dtypes, reduction):
    """Raises the documented error if dtypes or reduction are not as documented."""
    op, name, _ = call
    input_dtype, target_dtype = dtypes
    if input_dtype not in (mstype.float32, mstype.float16):
        raise TypeError(f"For '{op}', the dtype of 'input' must be float16 or float32, but got {input_dtype}.")
    check_labels_dtype(op, name, target_dtype)
    check_reduction(op, reduction)


@_primexpr
def check_shapes(call, input_shape, target_shape):
    """Raises the documented error if the shapes, which are known, are not as documented."""
    op, name, needs_same_shape = call
    if len(input_shape) not in (1, 2):
        raise ValueError(f"For '{op}', the rank of 'input' must be 1 or 2, but got shape {input_shape}.")
    if needs_same_shape and input_shape != target_shape:
        raise ValueError(
            f"For '{op}', the shape of 'target' must be the same as that of 'input', {input_shape}, "
            f"but got {target_shape}."
        )
    if input_shape[:-1] != target_shape[:-1] or len(input_shape) != len(target_shape):
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
def check_kernel(op, kernel, those_that_can):
    """Raises if the kernel in use is not one of those that can."""
    if kernel not in those_that_can:
        raise RuntimeError(f"For '{op}', the kernel in use must be {' or '.join(those_that_can)}, but it is {kernel}.")


@_primexpr
def check_matrices(op, input_shape, labels_shape):
    """Raises if scores and labels are not matrices of as many rows, with columns."""
    if len(input_shape) != 2 or len(labels_shape) != 2 or input_shape[0] != labels_shape[0]:
        raise ValueError(
            f"For '{op}', the shapes of 'x' and 'labels' must be (N, c) and (N, K), but got {input_shape} and "
            f"{labels_shape}."
        )
    if 0 in input_shape or 0 in labels_shape:
        raise ValueError(
            f"For '{op}', neither 'x' nor 'labels' may be empty, but got shapes {input_shape} and {labels_shape}."
        )


@_primexpr
def check_linear(op, dtypes, shapes, reduction):
    """Raises the documented error if a linear layer, its features and their labels are not as documented. What the
    layer lacks is None."""
    features, weight, bias, labels = shapes
    for name, dtype in zip(("features", "weight", "bias"), dtypes):
        if dtype is not None and dtype not in (mstype.float32, mstype.float16):
            raise TypeError(f"For '{op}', the dtype of '{name}' must be float16 or float32, but got {dtype}.")
    check_labels_dtype(op, "labels", dtypes[3])
    check_reduction(op, reduction)
    if len(features) != 2 or len(weight) != 2 or features[1] != weight[1] or 0 in weight:
        raise ValueError(
            f"For '{op}', the shapes of 'features' and 'weight' must be (N, D) and (C, D), but got {features} and "
            f"{weight}."
        )
    if bias is not None and bias != weight[:1]:
        raise ValueError(f"For '{op}', the shape of 'bias' must be {weight[:1]}, but got {bias}.")
    if len(labels) != 2 or labels[0] != features[0] or labels[1] == 0:
        raise ValueError(
            f"For '{op}', the shape of 'labels' must be ({features[0]}, K) with K of at least 1, but got {labels}."
        )
