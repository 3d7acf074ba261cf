"""The pairs of the multi-label margin loss in MindSpore's hybrid DSL, which AKG compiles for a GPU.

``scores`` has a row's scores, with -inf in place of those of its targets; ``margins`` has 1 minus the score of each
target, in float32, and -inf where there is no target. A pair is active if its score + margin > 0, in float32, so that
nothing is active with -inf.

Each kernel writes one number per element in a serial loop over the others, and reads in the loop's body something that
depends on the loop: so AKG's scheduler makes many blocks. float64, because the documented 0.325 is a sum of float32
hinges in float64.
"""
# ruff: noqa: F821 (output_tensor, float32 and float64 are words of the DSL)

from mindspore.ops import kernel


@kernel
def hinge_sums(scores, margins):
    """For each class, the sum of the hinges of its pairs."""
    sums = output_tensor(scores.shape, "float64")
    for row in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            sums[row, i] = float64(0.0)
            for j in range(margins.shape[1]):
                if float32(scores[row, i]) + float32(margins[row, j]) > float32(0.0):
                    sums[row, i] = sums[row, i] + float64(float32(scores[row, i]) + float32(margins[row, j]))
    return sums


@kernel
def active_weights(scores, margins, weights):
    """For each class, the weights of the targets that it is active with. With scores and margins exchanged, for each
    target those of the classes."""
    sums = output_tensor(scores.shape, "float64")
    for row in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            sums[row, i] = float64(0.0)
            for j in range(margins.shape[1]):
                if float32(scores[row, i]) + float32(margins[row, j]) > float32(0.0):
                    sums[row, i] = sums[row, i] + float64(weights[row, j])
    return sums
