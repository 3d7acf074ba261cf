"""Registration of the kernels as MindSpore operators, and their gradients.

Each library is registered twice. Where the shapes are known, Python functions infer the output: a scalar loss is then a
0-D Tensor at once. In a graph with dynamic shapes MindSpore cannot call them, so the kernel library's own
``InferShape`` and ``InferType`` answer, and a scalar loss has shape (1,) until it is reshaped. Where MindSpore loads no
libraries, operators for known shapes call one through Python (_host.py).
"""

import ctypes
import os
import threading

import mindspore as ms
from mindspore import ops

from mindspore_mlml import _custom, _gemm, _host
from mindspore_mlml._backends import LIBRARIES, TARGETS, problem_of
from mindspore_mlml._custom import input_dtype


def _set_threads():
    """Importing MindSpore sets OMP_NUM_THREADS to 1 in C; os.environ still has the value that the user set."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    # Of a number that is too large, the library makes the most that it takes: a few digits do.
    threads = int(first.lstrip("0")[:5] or 0) if first.isdecimal() else 0
    try:
        library = ctypes.CDLL(str(LIBRARIES["cpu"]))
    except OSError:
        return  # _backends reports the fault, and chooses another kernel
    library.MultilabelMarginLossSetThreads(threads or _processors())


def _processors():
    """How many processors this process may use, where the platform provides the number."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


_set_threads()
has_gemm = problem_of("cpu") is None and _gemm.set_gemm(LIBRARIES["cpu"])
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


class _NeedsZeros(_compiled):
    """Whether a gradient that nobody asks for must be there: in a graph, and where MindSpore checks gradients."""

    def __call__(self):
        return ms.get_context("check_bprop")


_needs_zeros = _NeedsZeros()


def is_unknown(tensor):
    """Whether this is a graph in which the shape of a tensor is unknown."""
    if in_graph():
        return ops.is_sequence_value_unknown(tensor.shape)
    return False


_turn = threading.RLock()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_turn.acquire, after_in_parent=_turn.release, after_in_child=_turn.release)


class in_turn:  # noqa: N801  (a function for those who call it; automatic mixed precision copies the code of functions)
    """Calls a function in PyNative. When several Python threads call at once, MindSpore confuses their arguments: seen
    with ``ops.multi_margin_loss`` as well, on 2.7 and 2.10."""

    def __new__(cls, function, *arguments):
        with _turn:
            return function(*arguments)


def no_gradient(labels):
    """The gradient of labels: PyNative makes zeros of None when asked, a graph drops zeros nobody asks for."""
    if _needs_zeros():
        return ops.zeros_like(labels)
    return None


def _loss_shape_none(input_shape, _):
    return input_shape[:-1]


def _loss_shape_scalar(_, __):
    return ()


def _gradient_shape(input_shape, _, __):
    return input_shape


def aot(library, target, is_dynamic):
    """The function that registers symbols of a library for a device target; with ``is_dynamic`` the library infers the
    shapes."""

    def register(symbol, inputs, out_shape, bprop):
        shape, dtype = (None, None) if is_dynamic else (out_shape, input_dtype)
        return _custom.aot(f"{library}:{symbol}", target, inputs, ("output",), shape, dtype, bprop)

    return register


def _make_gradient(register, symbol, reduction):
    """The operator (input, target, dout) -> gradient of input. It is linear in dout and piecewise constant in input."""

    def bprop(input, target, dout, output, doutput):
        slope = operator(input, target, ops.ones_like(dout))
        product = ops.cast(slope, ms.float32) * ops.cast(doutput, ms.float32)
        ddout = product.sum(-1) if reduction == "none" else product.sum()
        return ops.zeros_like(input), no_gradient(target), ops.cast(ddout.reshape(dout.shape), dout.dtype)

    operator = register(symbol, ("input", "target", "dout"), _gradient_shape, bprop)
    return operator


def _make_loss(register, function, reduction):
    """The operator (input, target) -> loss."""
    symbol, name = SYMBOLS[function], reduction.capitalize()
    gradient = _make_gradient(register, f"{symbol}Grad{name}", reduction)
    # In PyNative the loss has reported a target that is no class, and a second error would be raised in a later call. A
    # graph may have dropped the loss, and stops at the first error.
    gradient_after_report = _make_gradient(register, f"{symbol}GradAfterReport{name}", reduction)

    def bprop(input, target, output, doutput):
        if in_graph():
            return gradient(input, target, doutput), no_gradient(target)
        return gradient_after_report(input, target, doutput), no_gradient(target)

    shape = _loss_shape_none if reduction == "none" else _loss_shape_scalar
    return register(f"{symbol}{name}", ("input", "target"), shape, bprop)


def _make_losses(register):
    """The operators by function and reduction. ``register`` makes one of a symbol, the names of its inputs, a function
    from their shapes to the output's, and its bprop."""
    return {
        function: {reduction: _make_loss(register, function, reduction) for reduction in REDUCTIONS}
        for function in SYMBOLS
    }


def _make_aot_losses(is_dynamic):
    """The operators by kernel. On Ascend, where MindSpore's own runs, "aot" means something else."""
    built = [kernel for kernel in LIBRARIES if problem_of(kernel) is None]
    if ms.get_context("device_target") == "Ascend":
        built = []
    return {kernel: _make_losses(aot(LIBRARIES[kernel], TARGETS[kernel][0], is_dynamic)) for kernel in built}


# For known shapes, and for those that are known when the graph runs.
losses = _make_aot_losses(is_dynamic=False)
dynamic_losses = _make_aot_losses(is_dynamic=True)
if problem_of("host") is None:  # also where another kernel is in use: a MindIR may have these
    losses["host"] = _make_losses(_host.register)


def dynamic_loss(operator, input, labels, reduction):
    """The loss by one of the dynamic operators, in its documented shape."""
    return operator(input, labels).reshape(input.shape[:-1] if reduction == "none" else ())
