"""The instruction sets (isas) that row.cpp is compiled for, and the compiler's flags for each.

setup.py, the tools and the tests read this file with ``runpy``: it is not part of the package. isa.cpp knows which of
them a processor has.
"""

import platform

# The first is what every processor of the architecture has; which one runs is decided when the library is loaded.
ISA_FLAGS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = [*ISA_FLAGS["avx2"], "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
    ISA_FLAGS["avx512"] += ["-mprefer-vector-width=512"]
