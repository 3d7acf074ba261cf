"""Measures a linear layer with the loss, time and memory: LinearMultilabelMarginLoss against nn.Dense followed by the
loss, whose N x C scores it makes.

usage: python -m benchmarks.many_classes [--classes 670091 ...]

Prints, for each number of classes, what the memory of the process grows by at most in a step (forward and backward,
ms.jit of value_and_grad by the features and all parameters) above the parameters and their gradients, and the medians
of forward and step; and the ratio of these to those of Dense + loss. Each is measured in a process of its own, in
turns.
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


def measure(kind, classes):
    """Prints the figures of one kind, for ``compare``."""
    network = (LinearMultilabelMarginLoss if kind == "head" else DenseAndLoss)(FEATURES, classes)
    rng = np.random.default_rng(0)
    features = Tensor(rng.standard_normal((SAMPLES, FEATURES), np.float32))
    labels = Tensor(rng.integers(0, classes, (SAMPLES, LABELS)).astype(np.int32))
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


def compare(classes):
    """The medians of each kind, and ratios."""
    turns = {kind: [] for kind in KINDS}
    for _ in range(TURNS):
        for kind, found in turns.items():
            output = run_python("-m", "benchmarks.many_classes", "--kind", kind, "--classes", str(classes))
            found.append(json.loads(output.splitlines()[-1]))
    figures = Medians(
        {f"{kind}, {name}": [turn[name] for turn in turns[kind]] for kind in KINDS for name in ("forward", "step")}
    )
    for kind in KINDS:
        figures[f"{kind}, memory"] = max(turn["memory"] for turn in turns[kind])
    for name in ("forward", "step", "memory"):
        figures[f"{name}, head / Dense + loss"] = figures[f"head, {name}"] / figures[f"Dense + loss, {name}"]
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)  # run in a process of its own
    arguments = parser.parse_args()
    if arguments.kind:
        measure(arguments.kind, arguments.classes[0])
        return
    print(f"N = {SAMPLES}, D = {FEATURES}, K = {LABELS}, {THREADS} threads")
    for classes in arguments.classes:
        figures = compare(classes)
        print(f"C = {classes}, parameters {classes * (FEATURES + 1) * 4 / 1e6:.0f} MB")
        for name, value in figures.items():
            shown = f"{value:.2f}" if "/" in name else f"{value / 1e6:.0f} MB" if "memory" in name else f"{value:.3f} s"
            print(f"  {name:<32}{shown}")


if __name__ == "__main__":
    main()
