"""Measures a linear layer with the loss, time and memory: LinearMultilabelMarginLoss against nn.Dense followed by the
loss, whose N x C scores it makes.

usage: python -m benchmarks.many_classes [--shape N D C ...] [--shares 0.01 ...]

Prints, for each shape and each share of (row, class) pairs that are active, the median times in milliseconds of Dense +
loss and of the layer: forward; step, which is forward and backward, ms.jit of value_and_grad by all parameters; the
same with the gradient of the features too. Then ratios of these, and what the memory of the process grows by at most in
a step above the parameters and their gradients, which is measured in a process of its own.
"""

import argparse
import json
import os

THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0)))))

import mindspore as ms  # noqa: E402  OMP_NUM_THREADS first: importing MindSpore sets it
import numpy as np  # noqa: E402
from mindspore import Tensor, nn, ops  # noqa: E402

from benchmarks.measure import extra_memory, interleaved_medians  # noqa: E402
from mindspore_mlml import LinearMultilabelMarginLoss, MultilabelMarginLossFromLabels  # noqa: E402
from tests.support.processes import run_python  # noqa: E402

LABELS = 5
# Delicious, seq_GO; sizes between; LF-AmazonTitles-131K, Amazon-670K; the features of a transformer.
SHAPES = (
    (128, 500, 983),
    (128, 529, 4130),
    (256, 128, 16000),
    (256, 128, 65536),
    (256, 128, 131073),
    (256, 128, 200000),
    (256, 128, 670091),
    (64, 768, 131073),
)
SHARES = (0.01, 0.05, 0.15, 0.6, 1.0)


class DenseAndLoss(nn.Cell):
    """What the layer is compared with."""

    def __init__(self, features, classes):
        super().__init__()
        self.dense = nn.Dense(features, classes)
        self.loss = MultilabelMarginLossFromLabels()

    def construct(self, features, labels):
        return self.loss(self.dense(features), labels)


KINDS = {"Dense + loss": DenseAndLoss, "layer": LinearMultilabelMarginLoss}


def layer_and_labels(shape, share):
    """Weight, bias, features and labels such that this share of the pairs is active: the biases of the classes that are
    labels are shifted."""
    samples, size, classes = shape
    rng = np.random.default_rng(0)
    features = rng.standard_normal((samples, size), np.float32)
    weight = rng.standard_normal((classes, size), np.float32) / np.float32(size**0.5)
    used = rng.choice(classes, max(LABELS, min(classes // 20, 200)), replace=False)
    labels = used[rng.integers(0, len(used), (samples, LABELS))].astype(np.int32)
    scores = features @ weight[rng.choice(classes, min(classes, 4000), replace=False)].T
    least = np.einsum("nd,nkd->nk", features, weight[labels]).min(1, keepdims=True) - 1
    bias = np.zeros(classes, np.float32)
    bias[used] = np.quantile(scores - least, 1 - share) if share < 1 else -30  # which is added to each threshold
    return weight, bias, features, labels


def set_layer(network, weight, bias):
    """In place: a compiled graph does not see the data of ``Parameter.set_data``."""
    for parameter in network.trainable_params():
        ops.assign(parameter, Tensor(weight if parameter.ndim == 2 else bias))


def measure_times(shape, shares):
    """Prints the medians of each share, for ``compare``."""
    networks = {kind: cell(*shape[1:]) for kind, cell in KINDS.items()}
    functions = {}
    for kind, network in networks.items():
        functions[kind, "forward"] = ms.jit(network)
        for name, position in (("step", None), ("with features", 0)):
            functions[kind, name] = ms.jit(ms.value_and_grad(network, position, network.trainable_params()))
    for share in shares:
        weight, bias, features, labels = layer_and_labels(shape, share)
        for network in networks.values():
            set_layer(network, weight, bias)
        inputs = Tensor(features), Tensor(labels)

        def timed(function, inputs=inputs):
            def run():
                output = function(*inputs)
                (output[0] if isinstance(output, tuple) else output).asnumpy()

            return run

        seconds = max(2.0, 4e-11 * np.prod(shape, dtype=float) * len(functions))
        medians = interleaved_medians({name: timed(function) for name, function in functions.items()}, seconds, 3)
        print(json.dumps([[kind, name, 1e3 * median] for (kind, name), median in medians.items()]), flush=True)


def measure_memory(shape, share, kind):
    network = KINDS[kind](*shape[1:])
    weight, bias, features, labels = layer_and_labels(shape, share)
    set_layer(network, weight, bias)
    features, labels = Tensor(features), Tensor(labels)
    step = ms.jit(ms.value_and_grad(network, 0, network.trainable_params()))

    def run(rows=shape[0]):
        loss, (grad_features, _) = step(features[:rows], labels[:rows])
        return loss.asnumpy(), grad_features.asnumpy()

    for rows in (1, 2):  # what does not depend on the number of samples: the parameters' gradients, the compiler
        run(rows)
    print(extra_memory(run))


def compare(shape, shares):
    """Prints the lines of a shape."""

    def run(*arguments):
        return run_python("-m", "benchmarks.many_classes", "--shape", *map(str, shape), *arguments).splitlines()

    times = run("--measure", "times", "--shares", *map(str, shares))[-len(shares) :]
    for share, line in zip(shares, times):
        memory = [float(run("--measure", kind, "--shares", str(share))[-1]) / 1e6 for kind in KINDS]
        medians = {(kind, name): median for kind, name, median in json.loads(line)}
        pairs = [[medians[kind, name] for kind in KINDS] for name in ("forward", "step", "with features")]
        columns = [f"{dense:7.1f} /{layer:7.1f}" for dense, layer in pairs]
        columns += [f"{dense / layer:8.2f}" for dense, layer in pairs[1:]]
        columns += [f"{pairs[2][1] / pairs[0][1]:9.2f}", "{:5.0f} /{:4.0f}".format(*memory)]
        print(f"{'{} x {} x {}'.format(*shape):18} {share:6.0%} ", *columns, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, action="append", metavar=("N", "D", "C"))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--measure", choices=("times", *KINDS), help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    shapes = arguments.shape or SHAPES
    if arguments.measure == "times":
        measure_times(shapes[0], arguments.shares)
    elif arguments.measure:
        measure_memory(shapes[0], arguments.shares[0], arguments.measure)
    else:
        print(f"K = {LABELS}, {THREADS} threads; Dense + loss / layer: times in ms, memory in MB; ratios of steps")
        steps = [f"{name:>16}" for name in ("forward", "step", "with features")]
        print(f"{'N x D x C':18} active ", *steps, "   ratio", "    with", " /forward", "     memory")
        for shape in shapes:
            compare(shape, arguments.shares)


if __name__ == "__main__":
    main()
