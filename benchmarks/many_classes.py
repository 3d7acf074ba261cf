"""Measures a linear layer with the loss, time and memory: LinearMultilabelMarginLoss against nn.Dense followed by the
loss, whose N x C scores it makes.

usage: python -m benchmarks.many_classes [--classes 670091 ...] [--shares 0.01 ...]

Prints, for each number of classes and each share of (row, class) pairs that are active, the medians of forward and step
(forward and backward, ms.jit of value_and_grad by the features and all parameters), and what the memory of the process
grows by at most in a step above the parameters and their gradients. Each is measured in a process of its own, in turns.
"""

import argparse
import json
import os

THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0)))))

import mindspore as ms  # noqa: E402  OMP_NUM_THREADS first: importing MindSpore sets it
import numpy as np  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402

from benchmarks.measure import Medians, extra_memory, interleaved_medians  # noqa: E402
from mindspore_mlml import LinearMultilabelMarginLoss, MultilabelMarginLossFromLabels  # noqa: E402
from tests.support.processes import run_python  # noqa: E402

SAMPLES, FEATURES, LABELS = 256, 128, 5
CLASSES = (30938, 131073, 670091)  # Wiki10-31K, LF-AmazonTitles-131K, Amazon-670K
SHARES = (0.01, 0.05, 0.15, 1.0)
KINDS = ("head", "Dense + loss")
TURNS = 3


class DenseAndLoss(nn.Cell):
    """What the head stands for."""

    def __init__(self, features, classes):
        super().__init__()
        self.dense = nn.Dense(features, classes)
        self.loss = MultilabelMarginLossFromLabels()

    def construct(self, features, labels):
        return self.loss(self.dense(features), labels)


def layer_and_labels(classes, share):
    """Weight, bias, features and labels such that this share of the pairs is active: the biases of the classes that are
    labels are shifted."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((SAMPLES, FEATURES), np.float32)
    weight = rng.standard_normal((classes, FEATURES), np.float32) / np.float32(FEATURES**0.5)
    used = rng.choice(classes, max(LABELS, min(classes // 20, 200)), replace=False)
    labels = used[rng.integers(0, len(used), (SAMPLES, LABELS))].astype(np.int32)
    scores = features @ weight[rng.choice(classes, min(classes, 4000), replace=False)].T
    least = np.einsum("nd,nkd->nk", features, weight[labels]).min(1, keepdims=True) - 1
    bias = np.zeros(classes, np.float32)
    bias[used] = np.quantile(scores - least, 1 - share) if share < 1 else -30  # which is added to each threshold
    return weight, bias, features, labels


def measure(kind, classes, share):
    """Prints the figures of one kind, for ``compare``."""
    network = (LinearMultilabelMarginLoss if kind == "head" else DenseAndLoss)(FEATURES, classes)
    weight, bias, features, labels = layer_and_labels(classes, share)
    for parameter in network.trainable_params():
        parameter.set_data(Tensor(weight if parameter.ndim == 2 else bias))
    features, labels = Tensor(features), Tensor(labels)
    forward = ms.jit(network)
    step = ms.jit(ms.value_and_grad(network, 0, network.trainable_params()))

    def run_forward(rows=SAMPLES):
        forward(features[:rows], labels[:rows]).asnumpy()

    def run_step(rows=SAMPLES):
        loss, (of_features, _) = step(features[:rows], labels[:rows])
        return loss.asnumpy(), of_features.asnumpy()

    run_step(1)  # what does not depend on the number of samples: the parameters' gradients
    figures = {"memory": extra_memory(run_step)}
    for name, function in {"forward": run_forward, "step": run_step}.items():
        figures[name] = interleaved_medians({name: function}, 4.0, 1)[name]
    print(json.dumps(figures))


def compare(classes, share):
    """The medians of each kind, and ratios."""
    turns = {kind: [] for kind in KINDS}
    for _ in range(TURNS):
        for kind, found in turns.items():
            arguments = ("--kind", kind, "--classes", str(classes), "--shares", str(share))
            found.append(json.loads(run_python("-m", "benchmarks.many_classes", *arguments).splitlines()[-1]))
    figures = Medians(
        {f"{kind}, {name}": [turn[name] for turn in turns[kind]] for kind in KINDS for name in ("forward", "step")}
    )
    for kind in KINDS:
        figures[f"{kind}, memory"] = max(turn["memory"] for turn in turns[kind])
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)  # run in a process of its own
    arguments = parser.parse_args()
    if arguments.kind:
        measure(arguments.kind, arguments.classes[0], arguments.shares[0])
        return
    print(
        f"N = {SAMPLES}, D = {FEATURES}, K = {LABELS}, {THREADS} threads; times in s, memory in MB; Dense + loss / head"
    )
    ratios = f"{'step / forward':>15} {'Dense / head':>13}"
    print(f"{'C':>8} {'active':>7} {'forward':>16} {'step':>16} {ratios} {'memory':>11}")
    for classes in arguments.classes:
        for share in arguments.shares:
            of = compare(classes, share)
            pair = {name: [of[f"{kind}, {name}"] for kind in reversed(KINDS)] for name in ("forward", "step", "memory")}
            times = [f"{dense:7.3f} /{head:7.3f}" for dense, head in (pair["forward"], pair["step"])]
            memory = f"{pair['memory'][0] / 1e6:5.0f} /{pair['memory'][1] / 1e6:4.0f}"
            ratio = pair["step"][1] / pair["forward"][1]
            gain = pair["step"][0] / pair["step"][1]
            print(f"{classes:8} {share:7.0%} {times[0]} {times[1]} {ratio:15.2f} {gain:13.2f} {memory}", flush=True)


if __name__ == "__main__":
    main()
