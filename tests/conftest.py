"""Fixtures and helpers that the tests share."""

import ctypes
import os
import sys

import mindspore as ms
import numpy as np
import pytest
from hypothesis import settings

from mindspore_mlml import _backends, _ops
from mindspore_mlml._backends import LIBRARIES
from tests.support.builds import ISA_FLAGS

# Compiling a graph takes longer than hypothesis expects of an example.
settings.register_profile("default", deadline=None, print_blob=True)
# `--hypothesis-profile few`, for a kernel that takes its time.
settings.register_profile("few", settings.get_profile("default"), max_examples=10)
settings.load_profile("default")

MODES = {"pynative": ms.PYNATIVE_MODE, "graph": ms.GRAPH_MODE}


@pytest.fixture(params=MODES)
def mode(request):
    """Runs the test in PyNative and in graph mode."""
    ms.set_context(mode=MODES[request.param])
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(autouse=True)
def _in_temporary_directory(tmp_path, monkeypatch):
    """MindSpore leaves files in the working directory when a graph fails to compile, and folders of its own in sys.path
    when it rewrites a network for mixed precision."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture
def rng():
    return np.random.default_rng(20261124)


@pytest.fixture
def force_kernel(monkeypatch):
    """Makes a kernel the one in use, for graphs that are compiled from then on."""

    def force(kernel):
        monkeypatch.setenv("MLML_KERNEL", kernel)
        monkeypatch.setattr(_backends._Kernel, "name", None)

    return force


@pytest.fixture
def set_threads():
    """Sets the number of threads of the CPU kernels."""
    yield ctypes.CDLL(str(LIBRARIES["cpu"])).MultilabelMarginLossSetThreads
    _ops._set_threads()


@pytest.fixture
def clean_environment():
    """The environment of a subprocess."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(params=ISA_FLAGS)
def isa(request):
    """Each instruction set that this processor has."""
    names = ctypes.CDLL(str(LIBRARIES["cpu"])).MultilabelMarginLossIsas
    names.restype = ctypes.c_char_p
    if request.param not in names().decode().split():
        pytest.skip(f"this processor has no {request.param}")
    return request.param
