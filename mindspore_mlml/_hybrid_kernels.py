"""The pairs of the multi-label margin loss in MindSpore's hybrid DSL, which AKG compiles for a GPU.

``scores`` has all rows' scores, one row after the other, with -inf in place of those of the targets. ``margins`` has,
for each row, 1 minus the score of each target, in float32, and -inf where there is no target. A pair is active if its
score + margin > 0, in float32, so that nothing is active with -inf.

Each kernel writes one number per score in a serial loop over the margins, and reads in the loop's body something that
depends on the loop: so AKG's scheduler makes many blocks. Of one loop over all rows' scores it makes blocks of 1024
threads that all write; of a loop over the rows and one over a row's scores, blocks of which up to 15 in 16 threads are
idle. float64, because the documented 0.325 is a sum of float32 hinges in float64.
"""
# ruff: noqa: F821 (output_tensor, float32 and float64 are words of the DSL)

from mindspore.ops import kernel


@kernel
def hinge_sums(scores, margins):
    """For each score, the sum of the hinges of its pairs."""
    sums = output_tensor(scores.shape, "float64")
    for i in range(scores.shape[0]):
        sums[i] = float64(0.0)
        for j in range(margins.shape[1]):
            if float32(scores[i]) + float32(margins[i // (scores.shape[0] // margins.shape[0]), j]) > float32(0.0):
                sums[i] = sums[i] + float64(
                    float32(scores[i]) + float32(margins[i // (scores.shape[0] // margins.shape[0]), j])
                )
    return sums


@kernel
def active_weights(scores, margins, weights):
    """For each score, the sum of the weights of the margins that it is active with. With scores and margins exchanged,
    for each target the sum of those of the classes."""
    sums = output_tensor(scores.shape, "float64")
    for i in range(scores.shape[0]):
        sums[i] = float64(0.0)
        for j in range(margins.shape[1]):
            if float32(scores[i]) + float32(margins[i // (scores.shape[0] // margins.shape[0]), j]) > float32(0.0):
                sums[i] = sums[i] + float64(weights[i // (scores.shape[0] // margins.shape[0]), j])
    return sums
