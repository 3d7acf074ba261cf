"""Gives the CPU kernels the matrix product (GEMM) of oneDNN, which is a part of MindSpore."""

import ctypes
from pathlib import Path

import mindspore as ms

_PATTERNS = ("lib/libdnnl.so*", "lib/libdnnl*.dylib", "dnnl.dll")  # Linux, macOS, Windows


def set_gemm(path):
    """Sets the product for the library at ``path``; to be called before the first kernel that multiplies matrices.
    Returns whether there is one."""
    package = Path(ms.__file__).parent
    for found in sorted(file for pattern in _PATTERNS for file in package.glob(pattern)):
        try:
            sgemm = ctypes.CDLL(str(found)).dnnl_threadpool_interop_sgemm
        except (OSError, AttributeError):
            continue
        ctypes.CDLL(str(path)).MultilabelMarginLossSetGemm(ctypes.cast(sgemm, ctypes.c_void_p))
        return True
    return False
