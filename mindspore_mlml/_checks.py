"""The documented errors of dtypes, of the reduction, and of shapes that are known.

In a graph, each check is evaluated when the graph is compiled, and nothing of it is left. Shapes that the graph does
not know are not checked here, because a graph with a ``raise`` cannot be exported, cached, or compiled strictly: the
kernel raises the same errors when it runs (ReadBatch in custom_ops/operator.h). ``call`` is what the caller called: the
function, the names of its first two arguments, and whether these must have the same shape.
"""

from mindspore import Tensor
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


def check_tensor(op, name, value):
    """Raises the documented error if the value is not a Tensor, in graph code too."""
    if not isinstance(value, Tensor):
        raise TypeError(f"For '{op}', the '{name}' must be a Tensor, but got {type(value).__name__}.")


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
        advice = (
            "It has class indices, ended by -1, not a 0 or 1 for each class: mindspore_mlml.targets_from_multi_hot "
            "converts those."
        )
        if dtype in mstype.int_type + mstype.uint_type:
            advice = (
                "Convert class indices with .astype(mindspore.int32), a 0 or 1 for each class with "
                "mindspore_mlml.targets_from_multi_hot."
            )
        raise TypeError(f"For '{op}', the dtype of '{name}' must be int32, but got {dtype}. {advice}")


@_primexpr
def check_types(call, dtypes, reduction):
    """Raises the documented error if dtypes or reduction are not as documented."""
    op, input_name, labels_name, _ = call
    input_dtype, labels_dtype = dtypes
    if input_dtype not in (mstype.float32, mstype.float16):
        raise TypeError(f"For '{op}', the dtype of '{input_name}' must be float16 or float32, but got {input_dtype}.")
    check_labels_dtype(op, labels_name, labels_dtype)
    check_reduction(op, reduction)


@_primexpr
def check_shapes(call, input_shape, labels_shape):
    """Raises the documented error if the shapes, which are known, are not as documented."""
    op, input_name, name, needs_same_shape = call
    if len(input_shape) not in (1, 2):
        raise ValueError(f"For '{op}', the rank of '{input_name}' must be 1 or 2, but got shape {input_shape}.")
    if needs_same_shape and input_shape != labels_shape:
        raise ValueError(
            f"For '{op}', the shape of '{name}' must be the same as that of '{input_name}', {input_shape}, "
            f"but got {labels_shape}."
        )
    if input_shape[:-1] != labels_shape[:-1] or len(input_shape) != len(labels_shape):
        raise ValueError(
            f"For '{op}', '{name}' must have as many dimensions and rows as '{input_name}', whose shape is "
            f"{input_shape}, but got shape {labels_shape}."
        )
    if input_shape[-1] == 0:
        raise ValueError(f"For '{op}', the number of classes must be positive, but got shape {input_shape}.")
    if labels_shape[-1] == 0:
        raise ValueError(
            f"For '{op}', each row of '{name}' must have a label or a negative value, but got shape {labels_shape}."
        )


@_primexpr
def check_kernel(op, kernel, those_that_can):
    """Raises if the kernel in use is not one of those that can."""
    if kernel not in those_that_can:
        raise RuntimeError(f"For '{op}', the kernel in use must be {' or '.join(those_that_can)}, but it is {kernel}.")


@_primexpr
def check_matrices(call, input_shape, labels_shape):
    """Raises if scores and labels, whose shapes are known, are not matrices of as many rows, one at least."""
    op, input_name, name, _ = call
    check_shapes(call, input_shape, labels_shape)
    if len(input_shape) != 2 or input_shape[0] == 0:
        raise ValueError(
            f"For '{op}', the shapes of '{input_name}' and '{name}' must be (N, c) and (N, K) with N of at least 1, "
            f"but got {input_shape} and {labels_shape}."
        )


@_primexpr
def check_linear_types(op, dtypes, labels_dtype, reduction):
    """Raises the documented error if the dtypes of a linear layer are not as documented."""
    for name, dtype in zip(("features", "weight", "bias"), dtypes):
        if dtype not in (mstype.float32, mstype.float16):
            raise TypeError(f"For '{op}', the dtype of '{name}' must be float16 or float32, but got {dtype}.")
    check_labels_dtype(op, "labels", labels_dtype)
    check_reduction(op, reduction)


@_primexpr
def check_linear_shapes(op, features, weight, bias, labels):
    """Raises the documented error if the shapes of a linear layer, which are known, are not as documented."""
    if len(features) != 2 or len(weight) != 2 or features[1] != weight[1] or 0 in weight:
        raise ValueError(
            f"For '{op}', the shapes of 'features' and 'weight' must be (N, D) and (C, D), but got {features} and "
            f"{weight}."
        )
    if bias != weight[:1]:
        raise ValueError(f"For '{op}', the shape of 'bias' must be {weight[:1]}, but got {bias}.")
    if len(labels) != 2 or labels[0] != features[0] or labels[1] == 0:
        raise ValueError(
            f"For '{op}', the shape of 'labels' must be ({features[0]}, K) with K of at least 1, as that of 'features' "
            f"is {features}, but got {labels}."
        )
