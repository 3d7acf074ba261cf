"""What each process of msrun does in the tests of classes divided over processes.

usage: msrun ... class_parallel.py ERROR [all]

Compares the divided loss, the divided head and models that end in them with the same in one process; in graph mode,
where each takes seconds, the models alone, unless it is to do all. Then it checks the errors: all in PyNative, and in
graph mode, which goes on after none, the one that is named. Prints a line when all of it was right.
"""

import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.communication import GlobalComm, get_group_size, get_rank, init

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mindspore_mlml import (
    ClassParallelMultilabelMarginLoss,
    LinearMultilabelMarginLoss,
    MultilabelMarginLossFromLabels,
)
from tests.support.cases import DTYPES, REDUCTIONS
from tests.support.linear import check_losses, random_labels, random_layer
from tests.support.slices import random_cuts

ROWS, FEATURES, CLASSES, NUM_LABELS = 6, 12, 3001, 4


class Processes:
    """This one among all of them."""

    def __init__(self):
        self.rank, self.ranks = get_rank(), get_group_size()

    def own(self, cuts, classes=CLASSES):
        """The classes of this one, when they are cut there."""
        ends = [0, *cuts, classes]
        return slice(ends[self.rank], ends[self.rank + 1])

    def even_cuts(self):
        """As the head has them."""
        return [CLASSES * rank // self.ranks for rank in range(1, self.ranks)]


def differentiate(net, input, labels, weights):
    """The losses of a Cell, and the gradients of their weighted sum by the input and the parameters."""

    def total(input):
        loss = net(input, labels)
        return (loss * weights).sum(), loss

    parameters = net.trainable_params()
    (_, loss), gradients = ms.value_and_grad(total, 0, parameters or None, has_aux=True)(input)
    of_input, of_parameters = gradients if parameters else (gradients, ())
    return loss.asnumpy(), [gradient.asnumpy() for gradient in (of_input, *of_parameters)]


def weights_of(reduction, dtype):
    return Tensor((1 + np.arange(ROWS)).astype(dtype) if reduction == "none" else np.ones((), dtype))


def check_loss(rng, processes):
    """The loss of uneven slices, and its gradient."""
    for dtype in DTYPES:
        for reduction in REDUCTIONS:
            scores = rng.standard_normal((ROWS, CLASSES)).astype(dtype)
            scores[4, 2000] = {"none": np.nan, "mean": np.inf, "sum": -np.inf}[reduction]
            labels = Tensor(random_labels(rng, ROWS, CLASSES, NUM_LABELS))
            own, weights = processes.own(random_cuts(rng, CLASSES, processes.ranks)), weights_of(reduction, dtype)
            whole = MultilabelMarginLossFromLabels(reduction)
            expected, (gradient,) = differentiate(whole, Tensor(scores), labels, weights)
            loss = ClassParallelMultilabelMarginLoss(CLASSES, reduction)
            value, (of_slice,) = differentiate(loss, Tensor(scores[:, own].copy()), labels, weights)
            assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
            check_losses([value], expected, 2)
            np.testing.assert_array_equal(of_slice, gradient[:, own])


def check_head(rng, processes):
    """The head divided as it divides itself, and its gradients."""
    own = processes.own(processes.even_cuts())
    for dtype in DTYPES:
        for reduction, has_bias in (("mean", True), ("none", False)):
            features, weight, bias = random_layer(rng, ROWS, FEATURES, CLASSES, dtype)
            labels = Tensor(random_labels(rng, ROWS, CLASSES, NUM_LABELS))
            results = []
            for group, classes in ((None, slice(0, CLASSES)), (GlobalComm.WORLD_COMM_GROUP, own)):
                head = LinearMultilabelMarginLoss(FEATURES, CLASSES, reduction, has_bias, group=group)
                head.weight.set_data(Tensor(weight[classes]), slice_shape=True)
                if has_bias:
                    head.bias.set_data(Tensor(bias[classes]), slice_shape=True)
                assert head.predict(Tensor(features)).shape == (ROWS, classes.stop - classes.start)
                results.append(differentiate(head, Tensor(features), labels, weights_of(reduction, dtype)))
            (expected, (of_features, *of_rest)), (value, (all_of_features, *of_slice)) = results
            check_losses([value], expected, 2 if dtype == np.float32 else 1)
            for gradient, wanted in zip(of_slice, of_rest):
                np.testing.assert_array_equal(gradient, wanted[own])
            tolerance = 1e-6 if dtype == np.float32 else (processes.ranks + 2) * 2.0**-11
            tolerance *= np.abs(of_features.astype(np.float64)).max()
            np.testing.assert_allclose(all_of_features, of_features, rtol=0, atol=tolerance)


class Share(nn.Cell):
    """Hands on what all processes have: its gradient is the sum of theirs."""

    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x):
        return x * 1

    def bprop(self, x, out, dout):
        return (self.all_reduce(dout),)


class HeadModel(nn.Cell):
    """A body and the head."""

    def __init__(self, group=None):
        super().__init__()
        self.body = nn.Dense(FEATURES, FEATURES)
        self.last = LinearMultilabelMarginLoss(FEATURES, CLASSES, group=group)

    def construct(self, x, labels):
        return self.last(ops.relu(self.body(x)), labels)


class DenseModel(nn.Cell):
    """A body, a Dense layer with this process's classes, and the loss of all."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Dense(FEATURES, FEATURES)
        self.share = Share()
        self.last = nn.Dense(FEATURES, classes)
        self.loss = ClassParallelMultilabelMarginLoss(CLASSES)

    def construct(self, x, labels):
        return self.loss(self.last(self.share(ops.relu(self.body(x)))), labels)


def train(network, initial, x, labels):
    """Some steps from such parameters; returns what these have become, and the losses."""
    for parameter in network.trainable_params():
        parameter.set_data(Tensor(initial[parameter.name]))
    optimizer = nn.SGD(network.trainable_params(), 0.5)
    step = ms.value_and_grad(network, None, network.trainable_params())
    losses = []
    for _ in range(5):
        loss, gradients = step(x, labels)
        optimizer(gradients)
        losses.append(float(loss.asnumpy()))
    return {parameter.name: parameter.asnumpy() for parameter in network.trainable_params()}, losses


def check_training(rng, processes):
    """Models whose last layer is divided train to the weights of the one that is whole."""
    x = Tensor(rng.standard_normal((ROWS, FEATURES)), ms.float32)
    labels = Tensor(random_labels(rng, ROWS, CLASSES, NUM_LABELS))
    shapes = {"body.weight": (FEATURES, FEATURES), "body.bias": (FEATURES,)}
    shapes.update({"last.weight": (CLASSES, FEATURES), "last.bias": (CLASSES,)})
    initial = {name: rng.standard_normal(shape).astype(np.float32) / 4 for name, shape in shapes.items()}
    expected, expected_losses = train(HeadModel(), initial, x, labels)
    assert expected_losses[-1] < 0.9 * expected_losses[0]
    assert np.abs(expected["body.weight"] - initial["body.weight"]).max() > 0.01
    own = processes.own(processes.even_cuts())

    def slice_of(parameters):
        return {name: value[own] if name.startswith("last") else value for name, value in parameters.items()}

    for network in (HeadModel(GlobalComm.WORLD_COMM_GROUP), DenseModel(own.stop - own.start)):
        trained, losses = train(network, slice_of(initial), x, labels)
        np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
        for name, value in slice_of(expected).items():
            np.testing.assert_allclose(trained[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


CHECKS = (check_loss, check_head, check_training)


def calls_that_fail(processes):
    """By name, a call that fails, and its message."""
    scores = Tensor(np.zeros((2, 3)), ms.float32)
    labels = np.zeros((2, 2), np.int32)
    classes, last = 3 * processes.ranks, processes.rank == processes.ranks - 1
    others = labels + (1 if last else 0)
    differ = "and what else all ranks share, must be the same on all ranks, but they differ"
    head = LinearMultilabelMarginLoss(4, classes, group=GlobalComm.WORLD_COMM_GROUP)
    features = np.ones((2, 4), np.float32)
    return {
        "classes": (
            lambda: ClassParallelMultilabelMarginLoss(classes + 1)(scores, Tensor(labels)),
            f"the ranks must have 'num_classes' = {classes + 1} classes together, but have "
            + " + ".join(["3"] * processes.ranks),
        ),
        "labels": (lambda: ClassParallelMultilabelMarginLoss(classes)(scores, Tensor(others)), differ),
        "range": (
            lambda: ClassParallelMultilabelMarginLoss(classes)(scores, Tensor(labels + classes)),
            f"a value of 'labels' must be less than the number of classes, {classes}, but got labels[0][0] = {classes}",
        ),
        "head, labels": (lambda: head(Tensor(features), Tensor(others)), differ),
        "head, features": (lambda: head(Tensor(features + 2 * last), Tensor(labels)), differ),
    }


def check_error(call, message):
    try:
        call().asnumpy()
    except RuntimeError as error:
        assert message in str(error), str(error)
        return
    raise AssertionError(f"no error: {message}")


def wait_for_others(processes):
    """What a process has sent may be lost when it ends."""
    Path(f"done_{processes.rank}").touch()
    end = time.monotonic() + 60
    while len(list(Path().glob("done_*"))) < processes.ranks and time.monotonic() < end:
        time.sleep(0.1)


def main(last_error, amount="quick"):
    init()
    processes = Processes()
    for mode in (ms.PYNATIVE_MODE, ms.GRAPH_MODE):
        ms.set_context(mode=mode)
        rng = np.random.default_rng(processes.ranks)
        for check in CHECKS if mode == ms.PYNATIVE_MODE or amount == "all" else (check_training,):
            check(rng, processes)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    calls = calls_that_fail(processes)
    for call, message in 10 * list(calls.values()):  # now and then a rank that has begun too much would be out of step
        check_error(call, message)
    ms.set_context(mode=ms.GRAPH_MODE)
    check_error(*calls[last_error])
    print(f"rank {processes.rank} of {processes.ranks}: all as in one process", flush=True)
    wait_for_others(processes)


if __name__ == "__main__":
    main(*sys.argv[1:])
