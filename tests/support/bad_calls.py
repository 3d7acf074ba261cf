"""Calls of each operator with a mistake in the values, and the same calls without one: in PyNative, where an error of a
call that has already failed would be raised in a later, valid call."""

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindspore_mlml import (
    ClassParallelMultilabelMarginLoss,
    LinearMultilabelMarginLoss,
    linear_multilabel_margin_loss,
    multilabel_margin_loss,
    multilabel_margin_loss_from_labels,
)
from mindspore_mlml._backends import kernel_in_use

CLASSES = 9
X = Tensor(np.random.default_rng(0).standard_normal((4, CLASSES)).astype(np.float32))
# Labels as arrays, and a Tensor of them for each call, as a data set gives them: after an error in a gradient,
# MindSpore 2.7 lets two Tensors share memory (and its own nll_loss corrupts the heap).
GOOD, BAD = np.zeros((4, 2), np.int32), np.full((4, 2), CLASSES, np.int32)
GOOD_TARGET, BAD_TARGET = (np.full((4, CLASSES), value, np.int32) for value in (0, CLASSES))


def _calls(function, good, bad, parameters=None):
    """The loss and the gradient by the first input and the parameters."""
    gradient = ms.grad(lambda x, labels: function(x, labels).sum(), 0, parameters)

    def differentiate(labels):
        grad_x = gradient(X, Tensor(labels))
        return (grad_x[0] if parameters else grad_x).asnumpy()

    yield "loss", lambda: function(X, Tensor(good)).asnumpy(), lambda: function(X, Tensor(bad)).asnumpy()
    yield "gradient", lambda: differentiate(good), lambda: differentiate(bad)


def all_calls(reductions):
    """By name, a call and the same call with a mistake."""
    result = {}
    has_class_parallel = kernel_in_use() in {"cpu", "cuda"}

    def add(name, calls):
        for what, good, bad in calls:
            result[f"{name}, {what}"] = good, bad

    for reduction in reductions:
        for function, pair in (
            (multilabel_margin_loss, (GOOD_TARGET, BAD_TARGET)),
            (multilabel_margin_loss_from_labels, (GOOD, BAD)),
        ):
            add(
                f"{function.__name__}, {reduction}",
                _calls(lambda x, y, f=function, r=reduction: f(x, y, r), *pair),
            )
        if has_class_parallel:
            loss = ClassParallelMultilabelMarginLoss(CLASSES, reduction)
            add(f"class parallel, {reduction}", _calls(loss, GOOD, BAD))
        # With other kernels the layer has operators of MindSpore after the one that fails, which may fail too.
        if kernel_in_use() == "cpu":
            head = LinearMultilabelMarginLoss(CLASSES, CLASSES, reduction)
            add(f"linear layer, {reduction}", _calls(head, GOOD, BAD, head.trainable_params()))
            add(
                f"linear function, {reduction}",
                _calls(
                    lambda x, y, r=reduction, w=head.weight: linear_multilabel_margin_loss(x, w, None, y, r), GOOD, BAD
                ),
            )
    if has_class_parallel:
        right, wrong = (ClassParallelMultilabelMarginLoss(classes) for classes in (CLASSES, CLASSES - 1))
        result["class parallel, number of classes"] = (
            lambda: right(X, Tensor(GOOD)).asnumpy(),
            lambda: wrong(X, Tensor(GOOD)).asnumpy(),
        )
    return result


def count_errors(good, bad, rounds):
    """How many bad calls raise no error, and the errors of good calls."""
    missing, errors = 0, []
    for _ in range(rounds):
        try:
            bad()
            missing += 1
        except RuntimeError:
            pass
        try:
            good()
        except RuntimeError as error:
            errors.append(str(error)[:200])
    return missing, errors
