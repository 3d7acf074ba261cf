"""The sizes at which the kernels change their method, read from the constants in their source."""

import re

from tests.support.builds import KERNELS

_CONSTANT = re.compile(r"constexpr (?:int|int64_t) (k\w+) = (\d+)(?: << (\d+))?;")


def values_of(*names):
    """All values that constants of these names have, for a CPU and for a GPU, for one instruction set or another."""
    found = {name: set() for name in names}
    for path in (*KERNELS.rglob("*.h"), *KERNELS.rglob("*.cuh"), *KERNELS.rglob("*.cu")):
        for name, value, shift in _CONSTANT.findall(path.read_text()):
            if name in found:
                found[name].add(int(value) << int(shift or 0))
    missing = [name for name, values in found.items() if not values]
    assert not missing, f"no constant of the kernels is called {missing}"
    return set.union(*found.values())


def crossovers():
    """The numbers of targets up to which a method of the CPU kernels serves, on one instruction set or another."""
    method = (KERNELS / "cpu" / "row_method.h").read_text()
    tables = re.findall(r"kOf\w+ = \{(\d+), (\d+), (\d+), \d+\}", method)
    found = [int(number) for table in tables for number in table]
    assert found, "row_method.h has no crossovers"
    return set(found) - {0}


def around(sizes):
    """The sizes, and those that are one less and one more."""
    return {size + step for size in sizes for step in (-1, 0, 1)}


_LANES = values_of("kLanes")
# Of classes: vectors, groups of vectors, tiles; of a few labels each, 1024 classes are also where there are few pairs.
CLASSES = sorted(around(_LANES) | around({4 * lanes for lanes in _LANES}) | around(values_of("kTile", "kShortRow")))
# Of targets: none, vectors, what is sorted in registers, the ways to search and to count.
TARGETS = sorted(
    {0, 1, 2}
    | around(_LANES | {8 * lanes for lanes in _LANES} | values_of("kFewThreads", "kThreads"))
    | crossovers()
    | {n + 1 for n in crossovers()}
)
