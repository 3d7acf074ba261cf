"""The folder of the package, whose path may have bytes that are not UTF-8. MindSpore takes all paths to be UTF-8."""

import os
import sys
from pathlib import Path

_package = sys.modules[__package__]
_FOLDER = Path(_package.__file__).parent
NAME = str(_FOLDER).encode(errors="backslashreplace").decode()  # for messages


def _is_utf8(path):
    """Whether a path names the same file for MindSpore as for Python."""
    try:
        return str(path).encode() == os.fsencode(path)
    except UnicodeEncodeError:  # a byte that is part of no character
        return False


IS_UTF8 = _is_utf8(_FOLDER)
# MindSpore reads the file name of each bprop and of each function in a graph. On Linux the folder has another name, as
# long as the process lives: the modules after this one are imported from there.
if sys.platform == "linux" and not IS_UTF8:
    _package.__path__[:] = [f"/proc/self/fd/{os.open(_FOLDER, os.O_RDONLY)}"]
