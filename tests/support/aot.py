"""Calls a kernel library through the AOT signature, without MindSpore: the kernel alone."""

import ctypes

import numpy as np


def _describe(array):
    """Address, shape and dtype name of a NumPy array or of a PyTorch tensor."""
    if isinstance(array, np.ndarray):
        return array.ctypes.data, array.shape, array.dtype.name
    return array.data_ptr(), tuple(array.shape), str(array.dtype).rpartition(".")[2]


class Kernel:
    """One symbol of a kernel library; ``prepare`` builds the arguments once, calling the result runs the kernel, whose
    exceptions become RuntimeErrors."""

    def __init__(self, library, symbol):
        self._library = ctypes.CDLL(str(library))
        self._function = getattr(self._library, symbol)
        self._symbol = symbol

    def workspace(self):
        """The bytes that the kernel wants to be lent, as it tells MindSpore."""
        function = "ClassParallel" if "ClassParallel" in self._symbol else "Grad" if "Grad" in self._symbol else ""
        name = f"MultilabelMarginLoss{function}Workspace"
        if not hasattr(self._library, name):
            return 0
        function = getattr(self._library, name)
        function.restype = ctypes.c_int64
        return function()

    def prepare(self, *arrays, workspace=None, stream=None):
        """Returns a function that runs the kernel on ``arrays``: inputs first, then the output."""
        if workspace is None and self.workspace():
            workspace = np.full(self.workspace(), 0x5A, np.uint8)
        described = [_describe(array) for array in arrays]
        shapes = [np.array(shape or (0,), np.int64) for _, shape, _ in described]
        pointers = [pointer for pointer, _, _ in described]
        if workspace is not None:
            pointers.append(_describe(workspace)[0])
        arguments = (
            len(pointers),
            (ctypes.c_void_p * len(pointers))(*pointers),
            (ctypes.c_int * len(arrays))(*[len(shape) for _, shape, _ in described]),
            (ctypes.c_void_p * len(arrays))(*[shape.ctypes.data for shape in shapes]),
            (ctypes.c_char_p * len(arrays))(*[dtype.encode() for _, _, dtype in described]),
        )

        def run(keep_alive=(arrays, shapes, workspace)):
            self.call(*arguments, stream=stream)

        return run

    def call(self, *arguments, stream=None):
        """Calls the kernel with raw arguments: nparam, params, ndims, shapes, dtypes."""
        message = ctypes.create_string_buffer(1000)
        call = self._library.MultilabelMarginLossCall
        if call(self._function, *arguments, ctypes.c_void_p(stream), message, ctypes.c_size_t(len(message))) != 0:
            raise RuntimeError(message.value.decode())


class RemoteKernel:
    """What Kernel is for a library, for a process that runs tests/native/serve.cpp."""

    def __init__(self, process, symbol):
        self._process = process
        self._symbol = symbol

    def prepare(self, *arrays):
        def run():
            request = self._process.stdin
            request.write(f"{self._symbol} {len(arrays)}\n".encode())
            for array in arrays:
                dims = array.shape or (1,)
                request.write(f"{array.dtype.name} {len(dims)} {' '.join(map(str, dims))}\n".encode())
                request.write(array.tobytes())
            request.flush()
            output = arrays[-1]
            output.reshape(-1).view("u1")[:] = bytearray(self._process.stdout.read(output.nbytes))

        return run
