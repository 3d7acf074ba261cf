"""Runs the kernels of the linear layer (custom_ops/cpu/linear.h) through the AOT signature; makes random layers."""

import ctypes
from typing import NamedTuple

import numpy as np

from mindspore_mlml._backends import LIBRARIES
from tests.support.aot import Kernel
from tests.support.reference import loss_and_gradient

TILE, ROWS = 1024, 256  # classes and rows of a block
# The gradients of each operator: of features, weight and bias.
GRADIENTS = {"Grad": (0, 1, 2), "GradFeatures": (0,), "GradParameters": (1, 2)}


class State(NamedTuple):
    """What the forward pass writes."""

    loss: np.ndarray
    target_scores: np.ndarray
    active_classes: np.ndarray
    saved: np.ndarray


def call(symbol, *arrays, outputs=1):
    """Runs a kernel, whose last arrays are its outputs; returns these."""
    Kernel(LIBRARIES["cpu"], f"MultilabelMarginLoss{symbol}").prepare(*arrays)()
    return arrays[-1] if outputs == 1 else arrays[-outputs:]


def saved_size(rows, classes, features, num_labels, library=LIBRARIES["cpu"]):
    size = ctypes.CDLL(str(library)).MultilabelMarginLossLinearSavedSize
    size.restype = ctypes.c_int64
    return size(*map(ctypes.c_int64, (rows, classes, features, num_labels)))


def empty_state(layer, labels, loss_shape):
    """Outputs of the forward pass that nothing has been written to."""
    features, weight, _ = layer
    size = saved_size(len(features), *weight.shape, labels.shape[1])
    scores = np.full(labels.shape, 7, np.float32)
    return State(np.full(loss_shape, 7, features.dtype), scores, scores.copy(), np.full(size, 7, np.int32))


def forward(layer, labels, reduction):
    state = empty_state(layer, labels, len(labels) if reduction == "none" else ())
    features, weight, bias = layer
    call(f"Linear{reduction.capitalize()}", features, labels, weight, bias, *state)
    return state


def gradient(layer, labels, state, dout, reduction, kind="Grad"):
    """The outputs of one of the gradient operators."""
    features, weight, bias = layer
    outputs = [np.full_like(layer[index], 7) for index in GRADIENTS[kind]]
    known = (features, labels, weight, bias, *state[1:], dout)
    call(f"Linear{kind}{reduction.capitalize()}", *known, *outputs)
    return outputs


def gradients(layer, labels, state, dout, reduction):
    """Those of features, weight and bias by one operator, which are those of two operators, bit for bit."""
    together = gradient(layer, labels, state, dout, reduction)
    apart = [
        result
        for kind in ("GradFeatures", "GradParameters")
        for result in gradient(layer, labels, state, dout, reduction, kind)
    ]
    for one, other in zip(together, apart):
        assert one.tobytes() == other.tobytes()
    return together


def paths(layer, labels, state):
    """How the backward pass finds the active pairs of the cells of a call: "packed", "list", "sparse" or "dense" for
    scores that are computed again."""
    (rows, _), classes, num_labels = layer[0].shape, len(layer[1]), labels.shape[1]
    bits = next(bits for bits in (1, 2, 4, 8, 16, 32) if num_labels >> bits == 0)
    padded = sum(-(-min(TILE, classes - first) // 128) * 128 for first in range(0, classes, TILE))
    blocks = -(-classes // TILE)
    is_packed = bits < 32 and rows * padded * bits // 8 <= 26 << 20
    cell_rows = 64 if is_packed and blocks < 8 else ROWS
    cells_of_block = -(-rows // cell_rows)
    cells = state.saved[: 2 * cells_of_block * blocks].reshape(-1, 2)
    found = set()
    for index, (active, offset) in enumerate(cells):
        block, number = divmod(index, cells_of_block)
        size = min(TILE, classes - block * TILE) * min(cell_rows, rows - number * cell_rows)
        computed_again = "sparse" if active <= size // 10 else "dense"
        found.add("packed" if offset == -2 else "list" if offset >= 0 else computed_again)
    return found


def reference(features, weight, bias, labels, reduction, dout):
    """Loss and gradients in float64: Dense followed by the loss. Exact, if the scores are."""
    features, weight, bias = (array.astype(np.float64) for array in (features, weight, bias))
    with np.errstate(invalid="ignore"):
        scores = features @ weight.T + bias
        loss, of_scores = loss_and_gradient(scores, labels, reduction, dout)
        return loss, (of_scores @ weight, of_scores.T @ features, of_scores.sum(axis=0))


def fast_reference(features, weight, bias, labels, reduction, dout):
    """The same for large layers, by the kernels for scores, and in float32."""
    scores = features.astype(np.float32) @ weight.astype(np.float32).T
    scores += bias
    name, dout = reduction.capitalize(), np.asarray(dout, np.float32)
    loss = call(f"FromLabels{name}", scores, labels, np.zeros_like(dout))
    of_scores = call(f"FromLabelsGrad{name}", scores, labels, dout, np.empty_like(scores))
    of_bias = of_scores.sum(axis=0, dtype=np.float64)
    return loss, (of_scores @ weight.astype(np.float32), of_scores.T @ features.astype(np.float32), of_bias)


def random_labels(rng, rows, classes, num_labels):
    """Rows with all labels, some of them repeated, with a few, with none, and so on."""
    labels = rng.integers(0, classes, (rows, num_labels)).astype(np.int32)
    for row in range(1, rows):
        count = 0 if row % 4 == 2 else rng.integers(0, num_labels + 1)
        if count < num_labels:
            labels[row, count] = -1
    if num_labels > 2 and rows > 0:
        labels[0, 2] = labels[0, 0]
    return labels


def random_layer(rng, rows, features, classes, dtype=np.float32, weight_dtype=None):
    """Features, weight and bias that give exact scores, also in float16: no pair is active or not by rounding. Many of
    the pairs are just not active."""
    return (
        rng.integers(-2, 3, (rows, features)).astype(dtype),
        (rng.integers(-4, 5, (classes, features)) / 8).astype(weight_dtype or dtype),
        (rng.integers(-8, 9, classes) / 8).astype(weight_dtype or dtype),
    )


def random_dout(rng, rows, reduction, dtype):
    return np.asarray(rng.standard_normal(rows if reduction == "none" else ()), dtype)


def check_losses(losses, expected, ulps, message=""):
    """Those of all ranks are the same, and within so many units in the last place of what is expected."""
    for loss in losses:
        assert loss.tobytes() == losses[0].tobytes(), message
    with np.errstate(over="ignore"):
        np.testing.assert_array_max_ulp(losses[0], np.asarray(expected, losses[0].dtype), ulps)


def check_gradients(gradients, expected, slices=1):
    """The tolerance is relative to the largest element: float32 is added, which shows with many rows, and rounded. Of
    slices, the gradient of the features is the sum, each part of which is rounded."""
    rows = len(gradients[0])
    for index, (gradient, wanted) in enumerate(zip(gradients, expected)):
        assert gradient.shape == wanted.shape
        largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
        tolerance = 1e-6 if rows < 100 else 4e-6
        if gradient.dtype == np.float16:
            tolerance += 2.0**-11 * (slices + 1 if index == 0 and slices > 1 else 1)
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=tolerance * largest)


def check_linear(rng, layer, labels, reduction, by=reference):
    """Compares a layer's loss and gradients with the reference; returns the state and the gradients."""
    dout = random_dout(rng, len(labels), reduction, layer[0].dtype)
    loss, expected = by(*layer, labels, reduction, dout)
    state = forward(layer, labels, reduction)
    results = gradients(layer, labels, state, dout, reduction)
    check_losses([state.loss], loss, 4 if layer[0].dtype == np.float32 else 1)
    check_gradients(results, expected)
    return state, results


def bits(state, results):
    """All that is to be the same for any number of threads."""
    return b"".join(array.tobytes() for array in (*state[:3], *results))
