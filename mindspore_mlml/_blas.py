"""Gives the CPU kernels the product of matrices of SciPy, which MindSpore brings."""

import ctypes
from pathlib import Path


def _function(cython_blas, name):
    """The address of a function of SciPy's interface to BLAS for Cython."""
    capsule = cython_blas.__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return pointer_of(capsule, name_of(capsule))


def _set_threads(cython_blas):
    """The address of the function that sets how many threads OpenBLAS uses for the thread that calls it, or None: for
    another BLAS, or an older one, which then works with its own threads."""
    for path in sorted(Path(cython_blas.__file__).parents[2].glob("scipy.libs/*openblas*.so*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "openblas_set_num_threads_local"):
            return ctypes.cast(library.openblas_set_num_threads_local, ctypes.c_void_p).value
    return None


def set_blas(path):
    """To be called once, before the first kernel of the library at ``path`` that multiplies matrices. Whether there is
    a BLAS."""
    try:
        from scipy.linalg import cython_blas  # noqa: PLC0415  the rest of the package does without SciPy
    except ImportError:
        return False
    library = ctypes.CDLL(str(path))
    library.MultilabelMarginLossSetBlas.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.MultilabelMarginLossSetBlas(_function(cython_blas, "sgemm"), _set_threads(cython_blas))
    return True
