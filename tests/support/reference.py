"""The loss and its gradient in NumPy, written from the formula. Every kernel is compared with it."""

import numpy as np

# How far a kernel may be from it, relatively: it rounds once to the output's dtype, and float32 hinges are rounded once
# more before they are summed.
TOLERANCE = {np.float16: 2.0**-10, np.float32: 2.0**-22}


def row_loss_and_gradient(x, y):
    """Loss (float64) and gradient (float64) of one row of scores ``x`` and labels ``y``."""
    ends = np.flatnonzero(y < 0)
    targets = y[: ends[0]] if ends.size else y
    others = np.setdiff1d(np.arange(x.size), targets)
    gradient = np.zeros(x.size)
    if targets.size == 0:
        return 0.0, gradient
    if np.isnan(x).any():
        return np.nan, np.full(x.size, np.nan)
    wide = x.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        hinge = np.maximum(0, 1 - wide[targets][:, None] + wide[others][None, :])
        # The kernels decide in float32 whether a pair is active, as MindSpore and PyTorch do.
        single = x.astype(np.float32)
        active = (np.float32(1) - single[targets][:, None]) + single[others][None, :] > 0
    gradient[others] += active.sum(axis=0)
    np.subtract.at(gradient, targets, active.sum(axis=1))
    return hinge.sum() / x.size, gradient / x.size


def loss_and_gradient(input, target, reduction="mean", dout=1.0):
    """Loss and gradient times ``dout``, both in float64, of a batch of shape (N, C) or of one row of shape (C,)."""
    rows = [row_loss_and_gradient(x, y) for x, y in zip(np.atleast_2d(input), np.atleast_2d(target))]
    losses = np.array([loss for loss, _ in rows], np.float64)
    gradients = np.array([gradient for _, gradient in rows], np.float64).reshape(np.atleast_2d(input).shape)
    if reduction == "none":
        loss = losses.reshape(input.shape[:-1])
        gradients = gradients * np.asarray(dout, np.float64).reshape(-1, 1)
    else:
        count = max(len(rows), 1) if reduction == "mean" else 1
        loss = losses.sum() / count
        gradients = gradients * float(dout) / count
    return loss, gradients.reshape(input.shape)


def expectation(input, target, reduction, dout):
    """The reference, where a row with a target out of range is NaN."""
    classes = input.shape[-1]
    listed = np.cumsum(target < 0, axis=-1) == 0
    bad = (listed & (target >= classes)).any(axis=-1)
    loss, gradient = loss_and_gradient(input, np.where(bad[..., None], -1, target), reduction, dout)
    gradient[bad] = np.nan
    if reduction == "none":
        loss = np.where(bad, np.nan, loss)
    elif bad.any():
        loss = np.float64(np.nan)
    return loss, gradient
