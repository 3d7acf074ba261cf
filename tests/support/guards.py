"""Guard bytes around arrays, which show what was written beside them."""

import numpy as np

GUARD, POISON = 4096, 0x5A


def put_guards(array, offset=0):
    """The array's bytes between guards, as a flat array; ``offset`` shifts them by so many elements."""
    start = GUARD + offset * array.itemsize
    buffer = np.full(start + array.nbytes + GUARD, POISON, np.uint8)
    buffer[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return buffer


def inside(buffer, array, offset=0):
    """What lies between the guards, as an array like the one that was put there."""
    start = GUARD + offset * array.itemsize
    return buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)


def are_intact(buffer, array, offset=0):
    start = GUARD + offset * array.itemsize
    return bool((buffer[:start] == POISON).all() and (buffer[start + array.nbytes :] == POISON).all())
