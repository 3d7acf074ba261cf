"""The folder of the package, whose path may have bytes that are not UTF-8, as MindSpore takes all paths to be."""

import os
import sys
from pathlib import Path

_package = sys.modules[__package__]
PACKAGE = Path(_package.__file__).parent


def is_utf8(path) -> bool:
    """Whether a path names the same file for MindSpore as for Python."""
    try:
        return str(path).encode() == os.fsencode(path)
    except UnicodeEncodeError:  # a byte that is part of no character
        return False


# MindSpore reads the file name of each bprop and of each function in a graph. On Linux the folder has another name as
# well: the modules after this one are imported from there.
if sys.platform == "linux" and not is_utf8(PACKAGE):
    _package.__path__[:] = [f"/proc/self/fd/{os.open(PACKAGE, os.O_RDONLY)}"]
