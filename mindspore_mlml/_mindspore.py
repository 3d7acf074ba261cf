"""The loss by MindSpore's own operator."""

from mindspore import ops

from mindspore_mlml._ops import REDUCTIONS

# (input, target) -> (loss, is_target). Made here, since patch() replaces the class.
operators = {reduction: ops.MultilabelMarginLoss(reduction) for reduction in REDUCTIONS}


def loss(input, labels, reduction):
    """The loss, for arguments that have been checked."""
    return operators[reduction](input, _pad(labels, input.shape[-1]))[0]


def _pad(labels, classes):
    """Pads the labels to as many as there are classes, which MindSpore's own operator requires."""
    missing = classes - labels.shape[-1]
    if missing < 0:
        raise ValueError(
            f"MindSpore's own operator takes no more labels than classes, {classes}, but got shape {labels.shape}."
        )
    if missing == 0:
        return labels
    return ops.cat((labels, ops.full((*labels.shape[:-1], missing), -1, dtype=labels.dtype)), -1)
