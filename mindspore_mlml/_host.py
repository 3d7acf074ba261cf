"""The kernels of the CPU library as Python functions that MindSpore calls ("pyfunc"), for where it does not load the
library itself. The same code computes the same bits.
"""

import ctypes
import functools
import zlib

import numpy as np
from mindspore.ops.operations._pyfunc_registry import add_pyfunc

from mindspore_mlml._backends import LIBRARIES
from mindspore_mlml._custom import Custom, input_dtype


@functools.lru_cache
def _describe(shapes, dtypes):
    """Ranks, shapes and dtypes as a kernel takes them, and what must live as long as they do."""
    sizes = [(ctypes.c_int64 * len(shape))(*shape) for shape in shapes]
    ranks = (ctypes.c_int * len(shapes))(*map(len, shapes))
    addresses = (ctypes.c_void_p * len(shapes))(*map(ctypes.addressof, sizes))
    names = (ctypes.c_char_p * len(shapes))(*[dtype.name.encode() for dtype in dtypes])
    return (ranks, addresses, names), sizes


def _kernel(symbol, out_shape):
    """A kernel as a function of arrays."""
    library = ctypes.CDLL(str(LIBRARIES["cpu"]))
    kernel, call = getattr(library, symbol), library.MultilabelMarginLossCall

    def run(*arrays):
        output = np.empty(out_shape(*[array.shape for array in arrays]), arrays[0].dtype)
        arrays = (*arrays, output)
        described, _ = _describe(tuple(array.shape for array in arrays), tuple(array.dtype for array in arrays))
        data = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
        message = ctypes.create_string_buffer(1000)
        if call(kernel, len(arrays), data, *described, None, message, ctypes.c_size_t(len(message))) != 0:
            raise RuntimeError(message.value.decode())
        return output

    return run


class _Operator(Custom):
    """An operator that calls a Python function; with ``shapes`` it is for tensors of these shapes alone."""

    def __init__(self, symbol, function, out_shape, bprop, shapes=None):
        super().__init__(function, out_shape, input_dtype, "pyfunc", bprop)
        # By this number MindSpore finds the function. Its own is the function's address, which means nothing to another
        # process that loads a MindIR: this one is the same everywhere. It is odd, as no address is.
        number = 2 * zlib.crc32(symbol.encode()) + 1
        add_pyfunc(number, function)
        self.add_prim_attr("fn_id", number)
        if shapes is not None:
            self.add_prim_attr("shapes", str(shapes))
        make = functools.partial(_Operator, symbol, function, out_shape, bprop)
        self._of_shapes = functools.lru_cache(make)

    def __call__(self, *tensors):
        """In PyNative. After set_inputs, MindSpore runs the kernel that it made for other shapes ("memcpy failed"),
        unless an attribute differs."""
        operator = self._of_shapes(tuple([tensor.shape for tensor in tensors]))
        return super(_Operator, operator).__call__(*tensors)

    def __infer__(self, *inputs):
        """MindSpore's makes a shape () a shape (1,)."""
        shape = self.out_shape(*[input["shape"] for input in inputs])
        return {"shape": shape, "dtype": inputs[0]["dtype"], "value": None}


def register(symbol, inputs, out_shape, bprop):
    """The operator of one symbol of the library."""
    run = _kernel(symbol, out_shape)

    # MindSpore counts the parameters.
    def loss(input, target):
        return run(input, target)

    def gradient(input, target, dout):
        return run(input, target, np.asarray(dout, input.dtype))  # MindSpore makes numbers of arrays of shape ()

    return _Operator(symbol, gradient if "dout" in inputs else loss, out_shape, bprop)
