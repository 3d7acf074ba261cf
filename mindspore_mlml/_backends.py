"""Which backends are usable on this machine, and why not where they are not."""

import ctypes
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
        ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return Backend("CPU", "C++ (AOT)", False, str(error))
    return Backend("CPU", "C++ (AOT)", True, f"{LIBRARY.name} is in the package")
