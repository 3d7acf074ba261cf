"""Which backends are usable on this machine, and why not where they are not."""

import ctypes
import os
from typing import NamedTuple

from mindspore_mlml._ops import LIBRARY


class Backend(NamedTuple):
    """One row of the table that ``python -m mindspore_mlml`` prints."""

    target: str
    kernel: str
    usable: bool
    reason: str


def backends() -> list[Backend]:
    """The backends that MindSpore knows, in the order in which a user meets them."""
    return [
        _cpu(),
        Backend("GPU", "none", False, "this version has a CPU kernel only"),
        Backend("Ascend", "none", False, "use mindspore.ops.multilabel_margin_loss, which MindSpore has for Ascend"),
    ]


def _cpu():
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return Backend("CPU", "C++ (AOT)", False, str(error))
    library.MultilabelMarginLossSimd.restype = ctypes.c_char_p
    simd = library.MultilabelMarginLossSimd()
    if simd is None:
        return Backend("CPU", "C++ (AOT)", False, f"MLML_SIMD={os.environ['MLML_SIMD']} is not one of this processor's")
    return Backend("CPU", "C++ (AOT)", True, f"instruction set {simd.decode()}, {threads()} threads")


def threads() -> int:
    """How many threads the CPU kernel uses."""
    return ctypes.CDLL(str(LIBRARY)).MultilabelMarginLossThreads()
