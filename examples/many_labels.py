"""Trains a linear layer to name the labels of a sample among 100 000, without ever making the matrix of their scores.

    pip install '.[examples]'
    python examples/many_labels.py

The data are made on the spot, in the shape of public sets for extreme classification: few labels for each sample, of
power-law frequencies; each label has some tokens of its own, of which a sample has most, among others; and the tokens
are hashed into a few features. Prints precision@1, @3 and @5 on held-out samples beside that of always predicting the
most frequent labels, and how much memory a process takes that trains with LinearMultilabelMarginLoss, or with nn.Dense
and the loss of its scores (on Linux). Draws all of it into many_labels.png.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.dataset import NumpySlicesDataset
from tqdm import tqdm

from mindspore_mlml import LinearMultilabelMarginLoss, MultilabelMarginLossFromLabels, targets_from_lists

FEATURES, BATCH, TEST_SAMPLES = 128, 256, 1024
MOST_LABELS, TOKENS, KEPT = 5, 5, 0.8  # of a sample; of a label; the share of these that a sample has
VOCABULARY, OTHER_TOKENS = 200_000, 5
PRECISIONS = 1, 3, 5
STATUS = Path("/proc/self/status")


class Data:
    """What the samples are drawn from."""

    def __init__(self, classes, rng):
        self.classes, self.rng = classes, rng
        frequencies = 1 / np.arange(10, classes + 10)
        self.frequencies = rng.permutation(frequencies / frequencies.sum())
        self.tokens = rng.integers(0, VOCABULARY, (classes, TOKENS))
        self.feature = rng.integers(0, FEATURES, VOCABULARY)
        self.sign = rng.choice(np.float32([-1, 1]), VOCABULARY)

    def draw(self, count):
        """Returns features of shape (count, FEATURES) and labels of shape (count, MOST_LABELS), padded by -1."""
        rng = self.rng
        labels = rng.choice(self.classes, (count, MOST_LABELS), p=self.frequencies)
        present = np.arange(MOST_LABELS) < rng.integers(1, MOST_LABELS + 1, (count, 1))
        sample, label, token = np.nonzero(present[:, :, None] & (rng.random((count, MOST_LABELS, TOKENS)) < KEPT))
        samples = np.concatenate([sample, np.repeat(np.arange(count), OTHER_TOKENS)])
        others = rng.integers(0, VOCABULARY, count * OTHER_TOKENS)
        tokens = np.concatenate([self.tokens[labels[sample, label], token], others])
        features = np.zeros((count, FEATURES), np.float32)
        np.add.at(features, (samples, self.feature[tokens]), self.sign[tokens])
        features /= np.maximum(np.sqrt(np.mean(features**2, axis=1, keepdims=True)), 1e-6)
        lists = [np.unique(row[chosen]) for row, chosen in zip(labels, present)]
        return features, targets_from_lists(lists, self.classes, num_labels=MOST_LABELS)


class DenseAndLoss(nn.Cell):
    """What LinearMultilabelMarginLoss stands for, by way of the scores."""

    def __init__(self, features, classes):
        super().__init__()
        self.dense = nn.Dense(features, classes, weight_init="zeros", bias_init="zeros")
        self.loss = MultilabelMarginLossFromLabels()

    def construct(self, features, labels):
        return self.loss(self.dense(features), labels)


def linear_loss(classes):
    """All classes begin alike: a frequent one must not have to undo what chance gave to 100 000 rare ones."""
    return LinearMultilabelMarginLoss(FEATURES, classes, weight_init="zeros", bias_init="zeros")


def optimizer(network):
    """The steps are long, since the loss is a mean over the classes, nearly all of which are soon out of the way."""
    return nn.Momentum(network.trainable_params(), learning_rate=0.3, momentum=0.9)


def precision(predicted, labels):
    """The share of labels among the first 1, 3 and 5 predictions."""
    right = (predicted[:, :, None] == labels[:, None, :]).any(axis=2)
    return [right[:, :k].mean() for k in PRECISIONS]


def precision_of_head(head, features, labels):
    batches = np.split(features, range(BATCH, len(features), BATCH))
    best = [head.top_k(Tensor(batch), max(PRECISIONS))[1].asnumpy() for batch in batches]
    return precision(np.concatenate(best), labels)


def precision_of_most_frequent(train_labels, labels):
    counts = np.bincount(train_labels[train_labels >= 0])
    return precision(np.tile(np.argsort(-counts)[: max(PRECISIONS)], (len(labels), 1)), labels)


def peak_memory(with_scores, classes):
    """The most memory that this process has had after some steps of training, in MB; for a process of its own."""
    ms.set_context(mode=ms.GRAPH_MODE)
    network = DenseAndLoss(FEATURES, classes) if with_scores else linear_loss(classes)
    step = nn.TrainOneStepCell(network, optimizer(network))
    features, labels = Data(classes, np.random.default_rng(0)).draw(BATCH)
    for _ in range(2):
        step(Tensor(features), Tensor(labels)).asnumpy()
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def peak_memories(classes):
    """That with the linear loss, and that with Dense and loss; empty where the system does not tell."""
    if sys.platform != "linux":
        return {}
    peaks = {}
    for name, with_scores in (("linear loss", False), ("Dense + loss", True)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[name] = pool.apply(peak_memory, (with_scores, classes))
    return peaks


class Progress(ms.train.Callback):
    """Shows the progress, and keeps the losses."""

    def __init__(self, steps):
        super().__init__()
        self.bar = tqdm(total=steps, unit="step")
        self.losses = []

    def on_train_step_end(self, run_context):
        self.losses.append(float(run_context.original_args().net_outputs.asnumpy()))
        self.bar.set_postfix(loss=f"{self.losses[-1]:.4f}", refresh=False)
        self.bar.update()

    def on_train_end(self, run_context):
        self.bar.close()


def draw(losses, epochs, precisions, peaks, path):
    """Draws loss, precision and memory."""
    figure, axes = plt.subplots(1, 2 + bool(peaks), figsize=(9, 3.2), layout="constrained")
    axes[0].plot(np.arange(1, len(losses) + 1) / len(losses) * epochs, losses, linewidth=0.8)
    axes[0].set(title="Training loss", xlabel="epoch", yscale="log")
    for shift, color, (name, values) in zip((-0.2, 0.2), ("C0", "C7"), precisions.items()):
        axes[1].bar(np.arange(len(PRECISIONS)) + shift, values, width=0.4, color=color, label=name)
    names = [f"precision@{k}" for k in PRECISIONS]
    axes[1].set(title="Held-out samples", xticks=range(len(PRECISIONS)))
    axes[1].set_xticklabels(names, fontsize="small")
    axes[1].legend()
    if peaks:
        axes[2].bar(list(peaks), list(peaks.values()), width=0.5, color=["C0", "C7"])
        axes[2].set(title="Peak memory, MB")
    for each in axes:
        each.grid(alpha=0.3)
        each.set_axisbelow(True)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=10_240, help="to train on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", default="many_labels.png", help="where to draw")
    arguments = parser.parse_args()

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(1)
    data = Data(arguments.classes, np.random.default_rng(1))
    train, test = data.draw(arguments.samples), data.draw(TEST_SAMPLES)

    head = linear_loss(arguments.classes)
    model = ms.train.Model(head, optimizer=optimizer(head))
    dataset = NumpySlicesDataset(train, ["features", "labels"], shuffle=True).batch(BATCH, drop_remainder=True)
    progress = Progress(arguments.epochs * dataset.get_dataset_size())
    start = time.perf_counter()
    model.train(arguments.epochs, dataset, callbacks=[progress], dataset_sink_mode=False)
    seconds = time.perf_counter() - start
    print(f"{len(progress.losses)} steps of {BATCH} samples among {arguments.classes} classes in {seconds:.0f} s")

    precisions = {
        "linear loss": precision_of_head(head, *test),
        "most frequent labels": precision_of_most_frequent(train[1], test[1]),
    }
    for k, learnt, frequent in zip(PRECISIONS, *precisions.values()):
        print(f"held-out precision@{k} {learnt:.2%}, of the most frequent labels {frequent:.2%}")
    peaks = peak_memories(arguments.classes)
    for name, peak in peaks.items():
        print(f"peak memory with {name} {peak:.0f} MB")
    draw(progress.losses, arguments.epochs, precisions, peaks, arguments.output)
    print(f"drawn into {arguments.output}")


if __name__ == "__main__":
    main()
