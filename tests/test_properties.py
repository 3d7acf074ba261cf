"""Random and adversarial batches, found by hypothesis."""

import math

import mindspore as ms
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.cases import DTYPES, REDUCTIONS
from tests.support.compare import check_against_reference
from tests.support.nets import run_gradient, run_loss

FINITE = st.floats(-100, 100, width=16)
ANY = st.floats(width=16) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 65504.0, -65504.0, 2.0**-24])


@st.composite
def batches(draw, scores=FINITE, dtypes=DTYPES):
    """A batch with lists of any length, with repeats, and with junk after the terminator."""
    shape = draw(st.tuples(st.integers(0, 6), st.integers(1, 24)) | st.tuples(st.integers(1, 40)))
    input = draw(hnp.arrays(draw(st.sampled_from(dtypes)), shape, elements=scores))
    classes = shape[-1]
    target = draw(hnp.arrays(np.int32, shape, elements=st.integers(-(2**31), 2**31 - 1)))
    for row in np.atleast_2d(target):
        listed = draw(st.lists(st.integers(0, classes - 1), max_size=classes))
        row[: len(listed)] = listed
        if len(listed) < classes:
            row[len(listed)] = draw(st.integers(-(2**31), -1))
    return input, target


def examples(share):
    """So many times the examples that the profile in use has."""
    return settings(max_examples=math.ceil(share * settings().max_examples))


@given(batches(), st.sampled_from(REDUCTIONS))
@examples(3)
def test_loss_and_gradient_equal_the_reference(batch, reduction):
    check_against_reference(*batch, reduction)


@given(batches(scores=ANY), st.sampled_from(REDUCTIONS))
@examples(3)
def test_loss_and_gradient_equal_the_reference_for_any_float(batch, reduction):
    check_against_reference(*batch, reduction)


@given(batches(), st.sampled_from(REDUCTIONS))
@examples(0.15)
def test_graph_mode_equals_the_reference(batch, reduction):
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        check_against_reference(*batch, reduction)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


@given(batches(), st.integers(-50, 50))
@examples(0.5)
def test_the_loss_depends_on_differences_of_scores_only(batch, shift):
    """Shifting by whole numbers is exact for scores that are multiples of 1/8."""
    input, target = np.round(batch[0].astype(np.float32) * 8) / 8, batch[1]
    shifted = input + np.float32(shift)
    np.testing.assert_array_equal(run_loss(input, target).asnumpy(), run_loss(shifted, target).asnumpy())


@given(batches(dtypes=[np.float32]))
@examples(0.5)
def test_the_gradient_of_a_row_sums_to_zero(batch):
    input, target = batch
    gradient = run_gradient(input, target, np.float32(1), "sum") * input.shape[-1]
    np.testing.assert_allclose(np.atleast_2d(gradient).sum(axis=-1), 0, atol=1e-3)
