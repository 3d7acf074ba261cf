"""Trains a linear layer, or a layer under it, on a file of multi-label data.

    pip install '.[examples]'
    python examples/train_file.py bibtex-train.arff bibtex-test.arff --labels bibtex.xml

Reads the ARFF files of Mulan (https://github.com/tsoumakas/mulan, in data/multi-label), dense and sparse, whose labels
an XML file names, and the LIBSVM files of the extreme classification repository
(http://manikvarma.org/downloads/XC/XMLRepository.html) and of others, with or without a first line "samples features
labels". The second file has the held-out samples; without one, they are a quarter of the first.

Prints precision@1, @3 and @5 and micro-F1 on held-out samples, each beside that of always predicting the most frequent
labels, and draws precision and the share of active pairs over the epochs into train_file.png. A pair of a label and
another class is active if its margin is not met.
"""

import argparse
import csv
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from scipy import sparse
from sklearn.datasets import load_svmlight_files
from sklearn.preprocessing import StandardScaler, normalize
from tqdm import tqdm

from mindspore_mlml import (
    LinearMultilabelMarginLoss,
    PrecisionAtK,
    multi_hot_from_targets,
    targets_from_lists,
    targets_from_multi_hot,
)

BATCH = 64
PRECISIONS = 1, 3, 5
CANDIDATES = 256  # the best classes of a sample, among which the threshold chooses
SAMPLED_ROWS = 64  # for the share of active pairs
ATTRIBUTE = re.compile(r"@attribute\s+('(?:[^'\\]|\\.)*'|\"[^\"]*\"|\S+)\s+(.*)", re.IGNORECASE)


def plain(name):
    """A name without quotes and backslashes, of which an ARFF file and its XML file may have different ones."""
    return name.strip("'\"").replace("\\", "")


def arff_value(text, values):
    """A number, or the place of a nominal value; 0 where it is missing."""
    text = text.strip().strip("'\"")
    return 0.0 if text == "?" else float(values.index(text) if values else text)


def read_arff(path):
    """Returns the names of the attributes, and their values as a sparse matrix."""
    names, kinds, entries, rows = [], [], [], 0
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = (line.strip() for line in file if line.strip() and not line.startswith("%"))
        for line in lines:
            if line.lower().startswith("@data"):
                break
            if match := ATTRIBUTE.match(line):
                name, kind = match.groups()
                names.append(plain(name))
                kinds.append([value.strip().strip("'\"") for value in kind.strip("{} ").split(",")] * ("{" in kind))
        for line in lines:
            if line.startswith("{"):
                pairs = (entry.split(None, 1) for entry in line.strip("{} ").split(",") if entry.strip())
            else:
                pairs = enumerate(next(csv.reader([line], quotechar="'")))
            entries += [(rows, int(column), arff_value(text, kinds[int(column)])) for column, text in pairs]
            rows += 1
    row, column, value = np.array(entries).reshape(-1, 3).T
    return names, sparse.csr_matrix((value, (row.astype(int), column.astype(int))), shape=(rows, len(names)))


def read_mulan(paths, labels):
    """Returns the features and the targets of each file; `labels` is an XML file or a number of attributes."""
    samples = []
    for path in paths:
        names, values = read_arff(path)
        if re.fullmatch(r"-?[1-9]\d*", labels):
            first = labels.startswith("-")
            columns = np.arange(len(names))[: -int(labels)] if first else np.arange(len(names))[-int(labels) :]
        else:
            columns = [names.index(plain(label.get("name"))) for label in ET.parse(labels).iter() if label.get("name")]
        others = np.setdiff1d(np.arange(len(names)), columns)
        samples.append((values[:, others], targets_from_multi_hot(values[:, columns])))
    return samples, len(columns)


def read_libsvm(paths):
    """Returns the features and the targets of each file, which may have a first line of three numbers."""
    files = [path.open("rb") for path in paths]
    headers = [re.fullmatch(rb"(\d+) (\d+) (\d+)\s*", file.readline()) for file in files]
    for file, header in zip(files, headers):
        file.seek(header.end() if header else 0)
    features, labels = int(headers[0][2]) if headers[0] else None, int(headers[0][3]) if headers[0] else 0
    read = load_svmlight_files(files, n_features=features, multilabel=True, zero_based=True if headers[0] else "auto")
    classes = max(labels, *(int(max(row)) + 1 for lists in read[1::2] for row in lists if row))
    return [(x, targets_from_lists(lists, classes)) for x, lists in zip(read[::2], read[1::2])], classes


def read(arguments):
    """Returns training samples, held-out samples, and the number of classes."""
    paths = [Path(path) for path in (arguments.file, arguments.test_file) if path]
    if paths[0].suffix == ".arff":
        samples, classes = read_mulan(paths, arguments.labels or str(paths[0].with_suffix(".xml")))
    else:
        samples, classes = read_libsvm(paths)
    if len(samples) == 1:
        (features, targets), rows = samples[0], np.random.default_rng(0).permutation(samples[0][0].shape[0])
        test, train = np.split(rows, [len(rows) // 4])
        samples = [(features[rows], targets[rows]) for rows in (train, test)]
    (x, train_targets), (test_x, test_targets) = samples
    if arguments.scale == "columns":
        scaler = StandardScaler().fit(x.toarray())
        x, test_x = (sparse.csr_matrix(scaler.transform(each.toarray())) for each in (x, test_x))
    if arguments.scale != "none":
        x, test_x = normalize(x), normalize(test_x)
    return (x.astype(np.float32), train_targets), (test_x.astype(np.float32), test_targets), classes


def labels_of_a_sample(targets):
    return (targets >= 0).sum() / len(targets)


def default_rate(features, targets, classes, arguments):
    """A rate for Momentum that fits the gradient's size, see docs/training.md."""
    if arguments.optimizer == "adam":
        return 0.01
    if arguments.loss == "bce":
        return 3.0
    squared_length = features.power(2).sum() / len(targets)
    return float(2 * np.sqrt(classes) / (labels_of_a_sample(targets) * squared_length))


class Network(nn.Cell):
    """A linear layer, or one hidden layer under it, and a loss."""

    def __init__(self, features, hidden, targets, classes, loss):
        super().__init__()
        self.body = nn.SequentialCell(nn.Dense(features, hidden), nn.ReLU()) if hidden else nn.Identity()
        counts = np.bincount(targets[targets >= 0], minlength=classes)
        bias = Tensor(np.log((counts + 1) / len(targets)), ms.float32)
        self.head = LinearMultilabelMarginLoss(hidden or features, classes, weight_init="zeros", bias_init=bias)
        self.is_margin = loss == "margin"

    def construct(self, features, labels):
        """The loss; for binary cross-entropy, the labels are multi-hot. It is a sum over the classes, and a mean over
        the samples."""
        features = self.body(features)
        if self.is_margin:
            return self.head(features, labels)
        losses = ops.binary_cross_entropy_with_logits(self.head.predict(features), labels, reduction="sum")
        return losses / features.shape[0]

    def best(self, features):
        """The best scores of each sample and their classes, in descending order."""
        batches = (features[start : start + BATCH] for start in range(0, features.shape[0], BATCH))
        k = min(CANDIDATES, self.head.weight.shape[0])
        results = [self.head.top_k(self.body(Tensor(batch.toarray())), k) for batch in batches]
        return tuple(np.concatenate([each.asnumpy() for each in part]) for part in zip(*results))

    def share_of_active_pairs(self, features, targets):
        """Of the pairs of a label and another class of a sample, those whose margin of 1 is not met."""
        active = pairs = 0
        for row, target in zip(features, targets):
            scores = self.head.predict(self.body(Tensor(row.toarray()))).asnumpy()[0]
            labels = target[target >= 0]
            others = np.sort(np.delete(scores, labels))
            active += (len(others) - np.searchsorted(others, scores[labels] - 1, side="right")).sum()
            pairs += len(labels) * len(others)
        return active / max(pairs, 1)


def precisions(classes, targets):
    """Precision at 1, 3 and 5."""
    result = []
    for k in PRECISIONS:
        metric = PrecisionAtK(min(k, classes.shape[1]))
        metric.update(classes, targets)
        result.append(metric.eval())
    return result


def micro_f1(scores, classes, targets, threshold):
    right = (classes[:, :, None] == targets[:, None, :]).any(axis=2)
    return 2 * (right & (scores > threshold)).sum() / ((scores > threshold).sum() + (targets >= 0).sum())


def best_threshold(scores, classes, targets):
    """The threshold of the greatest micro-F1: half-way between two scores."""
    right = (classes[:, :, None] == targets[:, None, :]).any(axis=2).ravel()
    order = np.argsort(-scores, axis=None)
    scores = scores.ravel()[order]
    place = np.argmax(2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + (targets >= 0).sum()))
    return scores[place : place + 2].mean()


def results(tuning, test, predict):
    """Precision at 1, 3 and 5 and micro-F1 of the held-out samples; the threshold is that of other samples."""
    threshold = best_threshold(*predict(tuning[0]), tuning[1])
    scores, classes = predict(test[0])
    return [*precisions(classes, test[1]), micro_f1(scores, classes, test[1], threshold)]


def most_frequent(targets, classes):
    """Predicts the most frequent labels for every sample, with their frequencies for scores."""
    counts = np.bincount(targets[targets >= 0], minlength=classes)
    best = np.argsort(-counts, kind="stable")[:CANDIDATES]
    return lambda features: tuple(np.tile(each, (features.shape[0], 1)) for each in (counts[best] / len(targets), best))


def train(network, samples, test, classes, arguments):
    """Trains the network. Returns the precisions of the held-out samples and the share of active pairs, after each
    epoch, and before the first."""
    features, targets = samples
    rng = np.random.default_rng(arguments.seed)
    batch = min(BATCH, len(targets))
    steps = len(targets) // batch
    rate = nn.cosine_decay_lr(0.0, arguments.rate, steps * arguments.epochs, steps, arguments.epochs)
    parameters = network.trainable_params()
    optimizer = nn.Adam(parameters, rate) if arguments.optimizer == "adam" else nn.Momentum(parameters, rate, 0.9)
    step = nn.TrainOneStepCell(network, optimizer)
    history = []

    def record():
        sample = (features[:SAMPLED_ROWS], targets[:SAMPLED_ROWS])
        history.append([*precisions(network.best(test[0])[1], test[1]), network.share_of_active_pairs(*sample)])

    record()
    with tqdm(total=steps * arguments.epochs, unit="step") as bar:
        for _ in range(arguments.epochs):
            for rows in np.split(rng.permutation(len(targets))[: steps * batch], steps):
                labels = targets[rows]
                if arguments.loss == "bce":
                    labels = multi_hot_from_targets(labels, classes).astype(np.float32)
                loss = step(Tensor(features[rows].toarray()), Tensor(labels))
                bar.update()
            record()
            bar.set_postfix({"loss": f"{float(loss.asnumpy()):.4f}", "precision@1": f"{history[-1][0]:.3f}"})
    return history


def draw(history, baseline, path):
    """Draws the precisions, those of the most frequent labels dotted, and the share of active pairs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    *curves, active = np.transpose(history)
    for color, (k, curve, constant) in enumerate(zip(PRECISIONS, curves, baseline)):
        left.plot(curve, color=f"C{color}", marker="o", markersize=3, label=f"precision@{k}")
        left.axhline(constant, color=f"C{color}", linestyle=":")
    left.set(title="Held-out samples (dotted: most frequent labels)", xlabel="epoch", ylim=(0, None))
    left.title.set_fontsize("medium")
    left.legend()
    right.plot(active, marker="o", markersize=3)
    right.set(title="Share of active pairs", xlabel="epoch", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("file", help="samples to train on: .arff, or else LIBSVM")
    add("test_file", nargs="?", help="held-out samples; otherwise a quarter of the first file")
    labels = "of ARFF: an XML file (otherwise that beside FILE), or how many attributes, the last (N) or the first (-N)"
    add("--labels", help=labels)
    scale = "each row to length 1; before that, each column to mean 0 and variance 1; or nothing"
    add("--scale", choices=["rows", "columns", "none"], default="rows", help=scale)
    add("--hidden", type=int, default=0, help="the size of a hidden layer; 0: a linear model")
    add("--loss", choices=["margin", "bce"], default="margin", help="bce: binary cross-entropy")
    add("--optimizer", choices=["momentum", "adam"], default="momentum")
    rate = "the first learning rate, which falls to 0 along a cosine; default: as in docs/training.md"
    add("--rate", type=float, help=rate)
    add("--epochs", type=int, default=10)
    add("--seed", type=int, default=1)
    add("--output", default="train_file.png", help="where to draw")
    arguments = parser.parse_args()

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(arguments.seed)
    (features, targets), test, classes = read(arguments)
    rows = np.random.default_rng(arguments.seed).permutation(len(targets))
    tuning, rows = np.split(rows, [len(rows) // 10])  # a tenth of the training samples is for the threshold
    tuning, samples = (features[tuning], targets[tuning]), (features[rows], targets[rows])
    labels = f"{labels_of_a_sample(targets):.1f}"
    print(f"{len(rows)} samples, {features.shape[1]} features, {classes} classes, {labels} labels a sample")
    if arguments.rate is None:
        arguments.rate = default_rate(features, targets, classes, arguments)
    print(f"learning rate {arguments.rate:.3g}")

    network = Network(features.shape[1], arguments.hidden, samples[1], classes, arguments.loss)
    history = train(network, samples, test, classes, arguments)
    learnt = results(tuning, test, network.best)
    frequent = results(tuning, test, most_frequent(samples[1], classes))
    for name, one, other in zip([f"precision@{k}" for k in PRECISIONS] + ["micro-F1"], learnt, frequent):
        print(f"held-out {name} {one:.2%}, of the most frequent labels {other:.2%}")
    print(f"active pairs {history[0][-1]:.2%} before training, {history[-1][-1]:.2%} after")
    draw(history, frequent, arguments.output)
    print(f"drawn into {arguments.output}")


if __name__ == "__main__":
    main()
