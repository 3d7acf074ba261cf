"""The accuracy that the README promises, over part of the grid of tools/accuracy.py."""

import numpy as np
import pytest

import accuracy

SMALL = [case for case in accuracy.grid() if case[0] * case[1] <= 100_000]


@pytest.mark.parametrize(("dtype", "loss"), [(np.float32, 2), (np.float16, 0.51)])
def test_no_error_is_larger_than_promised(dtype, loss):
    worst = accuracy.measure(accuracy.ours, dtype, SMALL)
    assert len(SMALL) > 200
    assert 0 < worst["loss, ulp"] <= loss
    assert worst["loss, of its terms' rounding"] <= 1
    assert 0 < worst["gradient, ulp"] <= 0.5 + 1e-6


def test_the_measure_sees_an_error_of_one_unit():
    def off_by_one(x, target):
        value, gradient = accuracy.ours(x, target)
        return np.nextafter(value, np.float32(np.inf)), np.nextafter(gradient, np.float32(np.inf))

    worst = accuracy.measure(off_by_one, np.float32, SMALL[:20])
    assert worst["loss, ulp"] >= 0.9
    assert worst["gradient, ulp"] >= 0.9
