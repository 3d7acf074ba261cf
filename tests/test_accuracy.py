"""The accuracy that the README promises, over part of the grid of tools/accuracy.py."""

import numpy as np
import pytest

from mindspore_mlml._backends import LIBRARIES
from tools import accuracy

SMALL = [case for case in accuracy.grid() if case[0] * case[1] <= 100_000]
OURS = accuracy.kernels(LIBRARIES["cpu"])


@pytest.mark.parametrize("dtype", accuracy.PROMISED)
def test_no_error_is_larger_than_promised(dtype):
    worst = accuracy.measure(OURS, dtype, SMALL)
    assert len(SMALL) > 200
    assert worst["loss, ulp"] > 0
    assert worst["gradient, ulp"] > 0
    assert accuracy.is_as_promised(worst, dtype), worst


def test_the_measure_sees_an_error_of_one_unit():
    def off_by_one(x, target):
        loss, gradient = OURS(x, target)
        return np.nextafter(loss, x.dtype.type(np.inf)), np.nextafter(gradient, x.dtype.type(np.inf))

    for dtype in accuracy.PROMISED:
        worst = accuracy.measure(off_by_one, dtype, SMALL[:20])
        assert worst["loss, ulp"] >= 0.9
        assert worst["gradient, ulp"] >= 0.9
        assert not accuracy.is_as_promised(worst, dtype)
