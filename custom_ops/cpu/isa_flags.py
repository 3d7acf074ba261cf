"""The instruction sets (isas) that row.cpp is compiled for, and the compiler's flags for each.

setup.py, the tools and the tests read this file with ``runpy``: it is not part of the package. isa.cpp determines which
of them a processor has.
"""

import platform


def isa_flags(machine):
    """The flags for each instruction set, by name. The first is what every processor of the architecture has; which one
    runs is decided when the library is loaded."""
    if machine in ("aarch64", "arm64"):
        return {"neon": []}
    flags = {"baseline": []}
    if machine in ("x86_64", "AMD64", "amd64"):
        flags["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
        flags["avx512"] = [*flags["avx2"], "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
        flags["avx512"] += ["-mprefer-vector-width=512"]
    return flags


ISA_FLAGS = isa_flags(platform.machine())
