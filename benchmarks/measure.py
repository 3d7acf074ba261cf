"""What the benchmarks share: shapes, data, clocks."""

import ctypes
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.support.builds import KERNELS

# Shapes (N, C, T) of public extreme-classification data sets, T being the usual number of labels of a sample.
SHAPES = {
    "EURLex-4K": (64, 3993, 5),
    "Wiki10-31K": (32, 30938, 19),
    "Delicious": (256, 983, 19),
    "Delicious-200K": (16, 205443, 76),
    "dense": (64, 1000, 500),
}


def batch(rows, classes, targets, dtype=np.float32, seed=0):
    """Normal scores and distinct random targets."""
    rng = np.random.default_rng(seed)
    input = rng.standard_normal((rows, classes), np.float32).astype(dtype)
    target = np.full((rows, classes), -1, np.int32)
    for row in target:
        row[:targets] = rng.choice(classes, targets, replace=False)
    return input, target


class Medians(dict):
    """The median time of each function, in seconds; ``percentiles`` has the 20th and the 80th of each."""

    def __init__(self, times=()):
        super().__init__({name: float(np.median(values)) for name, values in dict(times).items()})
        self.percentiles = {name: np.percentile(values, (20, 80)).tolist() for name, values in dict(times).items()}

    def update(self, other):
        super().update(other)
        self.percentiles.update(getattr(other, "percentiles", {}))


def interleaved_medians(functions, seconds=1.0, turns=5):
    """The median time of each of several functions, as ``Medians``.

    They take turns, so that a noisy machine is noisy to all of them; the first calls of a turn do not count, for they
    pay for what the others left behind: caches, and threads that still spin.
    """
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(turns):
        for name, function in functions.items():
            end = time.perf_counter() + seconds / turns / len(functions)
            mine = []
            while time.perf_counter() < end or len(mine) < 3:
                start = time.perf_counter()
                function()
                mine.append(time.perf_counter() - start)
            times[name] += mine[len(mine) // 4 :]
    return Medians(times)


def as_json(results):
    """The same for ``json.dump``: every dictionary of medians gets an entry with the percentiles."""
    if isinstance(results, dict):
        values = {str(name): as_json(value) for name, value in results.items()}
        if isinstance(results, Medians):
            values["20th and 80th percentiles"] = results.percentiles
        return values
    return [as_json(value) for value in results] if isinstance(results, list) else results


def memory(field):
    """A figure of this process in bytes: VmRSS, what it has now, or VmHWM, the most that it had."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024


def extra_memory(function):
    """By how much the memory of the process grows at most while ``function`` runs, in bytes."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # forgets the most that it had
    before = memory("VmRSS")
    function()
    return memory("VmHWM") - before


class Limits:
    """What no kernel can go below on this machine, as limits.cpp measures it."""

    def __init__(self, threads):
        self._threads = threads
        self._folder = tempfile.TemporaryDirectory()
        self.library = Path(self._folder.name, "limits.so")
        sources = [Path(__file__).with_name("limits.cpp"), KERNELS / "cpu" / "parallel.cpp"]
        flags = ["-std=c++17", "-O3", "-march=native", "-pthread", "-shared", "-fPIC"]
        subprocess.run(["g++", *flags, "-o", self.library, *sources], check=True)
        self._functions = ctypes.CDLL(str(self.library))

    def read(self, array):
        """A function that reads ``array``."""
        count = array.nbytes // 4
        return lambda: self._functions.StreamRead(
            self._threads, ctypes.c_void_p(array.ctypes.data), ctypes.c_int64(count)
        )

    def copy(self, array, to):
        """A function that reads ``array`` and writes ``to``."""
        count = array.nbytes // 4
        return lambda: self._functions.StreamCopy(  # which keeps the arrays
            self._threads, *(ctypes.c_void_p(a.ctypes.data) for a in (array, to)), ctypes.c_int64(count)
        )
