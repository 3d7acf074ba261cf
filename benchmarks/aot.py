"""Calls a kernel library through the AOT signature, without MindSpore: the time of the kernel alone."""

import ctypes

import numpy as np


class Kernel:
    """One symbol of a kernel library; ``prepare`` builds the arguments once, calling the result runs the kernel."""

    def __init__(self, library, symbol):
        self._function = getattr(ctypes.CDLL(str(library)), symbol)

    def prepare(self, *arrays):
        """Returns a function that runs the kernel on ``arrays``: inputs first, then the output."""
        shapes = [np.array(array.shape or (0,), np.int64) for array in arrays]
        arguments = (
            len(arrays),
            (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays]),
            (ctypes.c_int * len(arrays))(*[array.ndim for array in arrays]),
            (ctypes.c_void_p * len(arrays))(*[shape.ctypes.data for shape in shapes]),
            (ctypes.c_char_p * len(arrays))(*[array.dtype.name.encode() for array in arrays]),
            None,
            None,
        )

        def run(keep_alive=(arrays, shapes)):
            if self._function(*arguments) != 0:
                raise RuntimeError("the kernel failed")

        return run
