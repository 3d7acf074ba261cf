"""Trains a linear layer to name the labels of a sample among 100 000, without ever making the matrix of their scores.

    pip install '.[examples]'
    python examples/many_labels.py

The data are made on the spot, in the shape of public sets for extreme classification: few labels for each sample, of
power-law frequencies; each label has some tokens of its own, of which a sample has most, among others; and the tokens
are hashed into a few features. Prints precision@1, @3 and @5 on held-out samples beside that of always predicting the
most frequent labels. Beside it trains nn.Dense followed by the loss in the same way, and compares the time of a step
and (on Linux) the peak memory of a process. Draws all of it into many_labels.png, with the share of active pairs: those
of a sample and a class whose margin is not met, and whose gradient is not 0.
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
    """The same as LinearMultilabelMarginLoss, by way of the matrix of scores."""

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
    """Shows the progress, and keeps losses, seconds and shares of active pairs."""

    def __init__(self, name, steps, share):
        super().__init__()
        self.bar = tqdm(total=steps, desc=name, unit="step")
        self.share = share
        self.losses, self.seconds, self.shares = [], [], {}

    def on_train_step_begin(self, run_context):
        step = len(self.losses)
        if step % 4 == 0:
            self.shares[step] = self.share()
        self.start = time.perf_counter()

    def on_train_step_end(self, run_context):
        self.losses.append(float(run_context.original_args().net_outputs.asnumpy()))
        self.seconds.append(time.perf_counter() - self.start)
        self.bar.set_postfix(loss=f"{self.losses[-1]:.4f}", refresh=False)
        self.bar.update()

    def on_train_end(self, run_context):
        self.bar.close()


def share_of_active_pairs(scores, labels):
    """The share of (sample, class) pairs with a score that exceeds the least threshold of the sample's labels."""
    label_scores = np.where(labels >= 0, np.take_along_axis(scores, np.maximum(labels, 0), axis=1), np.inf)
    return float((scores > label_scores.min(axis=1, keepdims=True) - 1).mean())


def train(name, network, scores_of, samples, epochs):
    """Trains a network; returns its Progress."""
    dataset = NumpySlicesDataset(samples, ["features", "labels"], shuffle=True).batch(BATCH, drop_remainder=True)
    some = [array[:16] for array in samples]
    progress = Progress(
        name,
        epochs * dataset.get_dataset_size(),
        lambda: share_of_active_pairs(scores_of(Tensor(some[0])).asnumpy(), some[1]),
    )
    model = ms.train.Model(network, optimizer=optimizer(network))
    model.train(epochs, dataset, callbacks=[progress], dataset_sink_mode=False)
    return progress


def draw(progresses, precisions, peaks, path):
    """Draws loss, time, active pairs, precision and memory."""
    figure, axes = plt.subplots(1, 3 + bool(peaks), figsize=(13, 3.2), layout="constrained")
    shares = next(iter(progresses.values())).shares
    share_axis = axes[1].twinx()
    share_axis.plot(list(shares), [100 * share for share in shares.values()], "C2:", label="active pairs, %")
    share_axis.set(ylim=(0, 105))
    share_axis.legend(loc="upper right", fontsize="small")
    for color, (name, progress) in zip(("C0", "C7"), progresses.items()):
        axes[0].plot(progress.losses, color, linewidth=0.8, label=name)
        axes[1].plot(1000 * np.array(progress.seconds), color, linewidth=0.8, label=name)
    slowest = max(np.median(progress.seconds) for progress in progresses.values())
    axes[0].set(title="Training loss", xlabel="step", yscale="log")
    axes[1].set(title="Time of a step, ms", xlabel="step", ylim=(0, 2500 * slowest))
    for shift, color, (name, values) in zip((-0.2, 0.2), ("C0", "C7"), precisions.items()):
        axes[2].bar(np.arange(len(PRECISIONS)) + shift, values, width=0.4, color=color, label=name)
    axes[2].set(title="Held-out samples", xticks=range(len(PRECISIONS)))
    axes[2].set_xticklabels([f"precision@{k}" for k in PRECISIONS], fontsize="small")
    if peaks:
        axes[3].bar(list(peaks), list(peaks.values()), width=0.5, color=["C0", "C7"])
        axes[3].set(title="Peak memory, MB")
    for each in axes[:3]:
        each.legend(fontsize="small", loc="upper left" if each is axes[1] else "upper right")
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
    samples, test = data.draw(arguments.samples), data.draw(TEST_SAMPLES)

    head, dense = linear_loss(arguments.classes), DenseAndLoss(FEATURES, arguments.classes)
    progresses = {}
    for name, network, scores_of in (("linear loss", head, head.predict), ("Dense + loss", dense, dense.dense)):
        progress = progresses[name] = train(name, network, scores_of, samples, arguments.epochs)
        half = progress.seconds[len(progress.seconds) // 2 :]
        print(
            f"{name}: {len(progress.losses)} steps of {BATCH} samples among {arguments.classes} classes in "
            f"{sum(progress.seconds):.1f} s, {1000 * np.median(half):.0f} ms a step in the second half"
        )

    precisions = {
        "linear loss": precision_of_head(head, *test),
        "most frequent labels": precision_of_most_frequent(samples[1], test[1]),
    }
    for k, learnt, frequent in zip(PRECISIONS, *precisions.values()):
        print(f"held-out precision@{k} {learnt:.2%}, of the most frequent labels {frequent:.2%}")
    peaks = peak_memories(arguments.classes)
    for name, peak in peaks.items():
        print(f"peak memory with {name} {peak:.0f} MB")
    draw(progresses, precisions, peaks, arguments.output)
    print(f"drawn into {arguments.output}")


if __name__ == "__main__":
    main()
