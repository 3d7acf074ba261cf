"""Registration of the kernels as MindSpore operators, and their gradients.

Each kernel is registered twice. Where the shapes are known, Python functions infer the output: a scalar loss is then a
0-D Tensor at once. In a graph with dynamic shapes MindSpore cannot call them, so the kernel library's own
``InferShape`` and ``InferType`` answer, and a scalar loss has shape (1,) until it is reshaped.
"""

import ctypes
import os
import threading

import mindspore as ms
from mindspore import ops
from mindspore.ops import CustomRegOp, DataType

from mindspore_mlml._backends import LIBRARIES, TARGETS, problem_of


def _set_threads():
    """Importing MindSpore sets OMP_NUM_THREADS to 1 behind Python's back: only what Python knows is the user's wish."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    # Of a number that is too large, the library makes the most that it takes: a few digits do.
    threads = int(first.lstrip("0")[:5] or 0) if first.isdecimal() else 0
    try:
        library = ctypes.CDLL(str(LIBRARIES["cpu"]))
    except OSError:
        return  # the first call of an operator says what is wrong with the library
    library.MultilabelMarginLossSetThreads(threads or _processors())


def _processors():
    """How many processors this process may use, as far as the platform says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


_set_threads()
REDUCTIONS = ("none", "mean", "sum")
# What the kernels' symbols begin with: the same kernels, whose errors name the function that was called.
SYMBOLS = {
    "multilabel_margin_loss": "MultilabelMarginLoss",
    "multilabel_margin_loss_from_labels": "MultilabelMarginLossFromLabels",
}


@ms.constexpr(get_instance=False)
def _compiled():
    """What the graph compiler sees: it evaluates this function."""
    return True


class _InGraph(_compiled):
    """Tells graph code from PyNative, which calls the object itself."""

    def __call__(self):
        return False


in_graph = _InGraph()


_turn = threading.RLock()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_turn.acquire, after_in_parent=_turn.release, after_in_child=_turn.release)


class in_turn:  # noqa: N801  (a function for those who call it; automatic mixed precision copies the code of functions)
    """Calls a function in PyNative. When several Python threads call at once, MindSpore confuses their arguments: seen
    with ``ops.multi_margin_loss`` as well, on 2.7 and 2.10."""

    def __new__(cls, function, *arguments):
        with _turn:
            return function(*arguments)


def _loss_shape_none(input_shape, _):
    return input_shape[:-1]


def _loss_shape_scalar(_, __):
    return ()


def _gradient_shape(input_shape, _, __):
    return input_shape


def _input_dtype(input_dtype, *_):
    return input_dtype


class Custom(ops.Custom):
    """MindSpore's class refuses to make an operator where the system is not Linux, also where its runtime has what runs
    one."""

    def _check_platform(self):
        pass


def _custom(kernel, symbol, inputs, out_shape, bprop):
    """Registers one symbol of a kernel library; ``out_shape=None`` for dynamic shapes."""
    reg_info = CustomRegOp()
    for index, name in enumerate(inputs):
        reg_info = reg_info.input(index, name)
    reg_info = (
        reg_info.output(0, "output").dtype_format(*[DataType.None_None] * (len(inputs) + 1)).target(TARGETS[kernel][0])
    )
    return Custom(
        f"{LIBRARIES[kernel]}:{symbol}",
        out_shape,
        None if out_shape is None else _input_dtype,
        "aot",
        bprop=bprop,
        reg_info=reg_info.get_op_info(),
    )


def _make_gradient(kernel, function, reduction, is_dynamic):
    """The operator (input, target, dout) -> gradient of input. It is linear in dout and piecewise constant in input."""

    def bprop(input, target, dout, output, doutput):
        slope = operator(input, target, ops.ones_like(dout))
        product = ops.cast(slope, ms.float32) * ops.cast(doutput, ms.float32)
        ddout = product.sum(-1) if reduction == "none" else product.sum()
        return ops.zeros_like(input), _no_gradient(target), ops.cast(ddout.reshape(dout.shape), dout.dtype)

    symbol = f"{SYMBOLS[function]}Grad{reduction.capitalize()}"
    shape = None if is_dynamic else _gradient_shape
    operator = _custom(kernel, symbol, ("input", "target", "dout"), shape, bprop)
    return operator


def _make_loss(kernel, function, reduction, is_dynamic):
    """The operator (input, target) -> loss."""
    gradient = _make_gradient(kernel, function, reduction, is_dynamic)

    def bprop(input, target, output, doutput):
        return gradient(input, target, doutput), _no_gradient(target)

    symbol = f"{SYMBOLS[function]}{reduction.capitalize()}"
    shape = _loss_shape_none if reduction == "none" else _loss_shape_scalar
    return _custom(kernel, symbol, ("input", "target"), None if is_dynamic else shape, bprop)


def _no_gradient(target):
    """The gradient of the labels: PyNative makes zeros of None when asked, a graph drops zeros nobody asks for."""
    if in_graph():
        return ops.zeros_like(target)
    return None


def _make_losses(is_dynamic):
    """The operators by kernel, function and reduction. On Ascend, where MindSpore's own runs, "aot" means something
    else."""
    built = [kernel for kernel in LIBRARIES if problem_of(kernel) is None]
    if ms.get_context("device_target") == "Ascend":
        built = []
    return {
        kernel: {
            function: {reduction: _make_loss(kernel, function, reduction, is_dynamic) for reduction in REDUCTIONS}
            for function in SYMBOLS
        }
        for kernel in built
    }


# For known shapes, and for those that are known when the graph runs.
losses = _make_losses(is_dynamic=False)
dynamic_losses = _make_losses(is_dynamic=True)
