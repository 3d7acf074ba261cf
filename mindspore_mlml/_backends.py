"""The choice of the kernel, and the properties of the machine that it depends on."""

import ctypes
import functools
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple, Optional

import mindspore as ms
from mindspore._c_expression import MSContext

from mindspore_mlml import _folder

PACKAGE = Path(__file__).parent
LIBRARIES = {"cpu": PACKAGE / ("_cpu.dll" if sys.platform == "win32" else "_cpu.so"), "cuda": PACKAGE / "_cuda.so"}

# The device targets that each kernel runs on.
TARGETS = {
    "cpu": ("CPU",),
    "host": ("CPU",),
    "cuda": ("GPU",),
    "hybrid": ("GPU", "CPU"),
    "composed": ("CPU", "GPU"),
    "mindspore": ("GPU", "Ascend"),
}
# The kernels of each device target, the best one first.
PREFERENCE = {"CPU": ("cpu", "host", "composed"), "GPU": ("cuda", "hybrid", "composed"), "Ascend": ("mindspore",)}

HOW_TO_BUILD = {
    "cpu": (
        "The CPU kernels are not built, there is no {library}: with a C++17 compiler, and without MLML_WITH_CPU=0, run "
        "`pip install .` in the checkout, or `pip install -e .` to use it where it is."
    ),
    "cuda": "The CUDA kernels are not built: install with nvcc, and MLML_WITH_CUDA=1.",
}


def problem_of(kernel: str) -> Optional[str]:
    """Why MindSpore cannot use a kernel, or None."""
    if kernel == "hybrid":
        return _problem_of_akg()
    problem = _problem_of_library("cpu" if kernel == "host" else kernel) if kernel in (*LIBRARIES, "host") else None
    if problem is None and kernel in LIBRARIES:
        problem = _problem_of_aot(kernel)
    return problem and problem.replace(str(PACKAGE), _folder.NAME)


def _problem_of_library(kernel):
    library = LIBRARIES[kernel]
    if not library.exists():
        return HOW_TO_BUILD[kernel].format(library=library)
    return _problem_of_loading(library) if kernel == "cpu" else None


def _problem_of_aot(kernel):
    """Why MindSpore cannot load a library that can be loaded."""
    if sys.platform == "win32":
        return "On Windows, MindSpore does not load libraries of operators."
    library = LIBRARIES[kernel]
    if ":" in str(library):
        fault = "has a ':' in it"
    elif not _folder.IS_UTF8:
        fault = "is not UTF-8 (nor compile graphs while that path is in sys.path)"
    else:
        return None
    return f"MindSpore cannot load a library whose path {fault}, install mindspore_mlml elsewhere: {library}"


def _problem_of_loading(library):
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        advice = "install mindspore_mlml again on this machine"
        if "failed to map segment" in str(error):
            cause = "this file system is mounted noexec, or SELinux forbids to run its files"
            advice = f"{cause}; install mindspore_mlml elsewhere"
        return f"The CPU kernels cannot be loaded, {advice}: {error}."
    return None


def _problem_of_akg():
    if importlib.util.find_spec("mindspore._akg") is None:
        return "The hybrid kernel is compiled by AKG, which this MindSpore does not have."
    if importlib.util.find_spec("decorator") is None:
        return "The hybrid kernel is compiled by AKG: pip install 'mindspore-mlml[hybrid]'."
    return None


def choose(target: str, wanted: str, problems: dict[str, str]) -> str:
    """The kernel for a device target: the one that is ``wanted``, or the best that has no problem."""
    if wanted and wanted not in TARGETS:
        raise ValueError(
            f"The environment variable MLML_KERNEL must be one of {', '.join(TARGETS)}, but got {wanted!r}."
        )
    if wanted and target not in TARGETS[wanted]:
        raise RuntimeError(
            f"MLML_KERNEL={wanted} needs the device target {' or '.join(TARGETS[wanted])}, but it is {target}."
        )
    if wanted in problems:
        raise RuntimeError(f"MLML_KERNEL={wanted}, but it cannot be used. {problems[wanted]}")
    return wanted or next(kernel for kernel in PREFERENCE[target] if kernel not in problems)


def _choose_here():
    target, wanted = ms.get_context("device_target"), os.environ.get("MLML_KERNEL", "")
    problems = {kernel: problem for kernel in TARGETS if (problem := problem_of(kernel))}
    kernel = choose(target, wanted, problems)
    if kernel == "composed" and not wanted:
        _warn(problems[PREFERENCE[target][0]])
    return kernel


@functools.cache
def _warn(problem):
    """Once: each graph that is compiled asks for the kernel again."""
    warnings.warn(
        "mindspore_mlml composes the loss of MindSpore's own operators, which is slow (MLML_KERNEL=composed, to do so "
        f"without this warning). {problem}",
        RuntimeWarning,
        stacklevel=2,
    )


@ms.constexpr(get_instance=False)
def _kernel_of_graph():
    """What the graph compiler sees: it evaluates this function."""
    return _choose_here()


class _Kernel(_kernel_of_graph):
    """The name of the kernel to run; in PyNative found once, for asking MindSpore takes as long as a small call."""

    name = None

    def __call__(self):
        if _Kernel.name is None:
            _Kernel.name = _choose_here()
        return _Kernel.name


kernel_in_use = _Kernel()


class Backend(NamedTuple):
    """One row of the table that ``python -m mindspore_mlml`` prints."""

    target: str
    kernel: str
    usable: bool
    reason: str


def backends() -> list[Backend]:
    """The backends of MindSpore's device targets, in the order in which they are listed to a user."""
    return [_cpu(), _host(), _cuda(), _hybrid(), _composed(), _ascend()]


def _cpu():
    return Backend("CPU", "cpu", *_state_of_library("cpu"))


def _host():
    usable, reason = _state_of_library("host")
    return Backend("CPU", "host", usable, f"called through Python; {reason}" if usable else reason)


def _state_of_library(kernel):
    """Whether a kernel that is in the CPU library is usable, and why."""
    if problem := problem_of(kernel):
        return False, problem
    library = ctypes.CDLL(str(LIBRARIES["cpu"]))
    library.MultilabelMarginLossIsa.restype = ctypes.c_char_p
    isa = library.MultilabelMarginLossIsa()
    if isa is None:
        return False, f"MLML_SIMD={os.environ['MLML_SIMD']} is not one of this processor's"
    return True, f"instruction set {isa.decode()}, {threads()} threads"


def threads() -> int:
    """How many threads the CPU kernel uses."""
    return ctypes.CDLL(str(LIBRARIES["cpu"])).MultilabelMarginLossThreads()


def _supports(target):
    return MSContext.get_instance().is_pkg_support_device(target)


def _cuda():
    if not LIBRARIES["cuda"].exists():
        return Backend("GPU", "cuda", False, "not built: it takes nvcc when the package is installed")
    if not _supports("GPU"):
        return Backend("GPU", "cuda", False, "built, but this MindSpore sees no GPU")
    return Backend("GPU", "cuda", True, "built")


def _hybrid():
    if problem := problem_of("hybrid"):
        return Backend("GPU", "hybrid", False, problem)
    if not _supports("GPU"):
        return Backend("GPU", "hybrid", False, "this MindSpore sees no GPU; MLML_KERNEL=hybrid tries it on the CPU")
    return Backend("GPU", "hybrid", True, "compiled by AKG when it is first called")


def _composed():
    return Backend("CPU, GPU", "composed", True, "MindSpore's own operators: slow, for where no kernel above can run")


def _ascend():
    if not _supports("Ascend"):
        return Backend("Ascend", "mindspore", False, "this MindSpore sees no Ascend")
    return Backend("Ascend", "mindspore", True, "MindSpore's own operator")
