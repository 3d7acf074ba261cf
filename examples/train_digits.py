"""Trains a small network to name the two handwritten digits in an image: a multi-label task with ten classes.

    pip install '.[examples]'
    python examples/train_digits.py

Each image is two of scikit-learn's 8x8 digits side by side; its labels are the digits present, so one or two of the ten
classes. Prints the accuracy on held-out digits, and draws the curves of loss and accuracy into train_digits.png.
"""

import argparse

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.dataset import NumpySlicesDataset
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from mindspore_mlml import MultilabelMarginLoss

CLASSES = 10
BATCH = 64
TRAIN_PAIRS, TEST_PAIRS = 40000, 2000
SMOOTHING = 25  # steps, for the drawn curve


def pairs_of_digits(images, digits, count, rng):
    """Returns images of shape (count, 1, 8, 16) and targets of shape (count, 10), padded by -1."""
    left, right = rng.integers(0, len(images), (2, count))
    pairs = np.concatenate([images[left], images[right]], axis=2)[:, None] / np.float32(16)
    target = np.full((count, CLASSES), -1, np.int32)
    target[:, 0] = digits[left]
    target[:, 1] = np.where(digits[left] == digits[right], -1, digits[right])
    return pairs.astype(np.float32), target


def network():
    """A perceptron with two hidden layers."""
    return nn.SequentialCell(
        nn.Flatten(),
        nn.Dense(8 * 16, 512),
        nn.ReLU(),
        nn.Dense(512, 256),
        nn.ReLU(),
        nn.Dense(256, CLASSES),
    )


def predicted_labels(scores):
    """The best class, and the second if it stands more than half of the loss's margin of 1 above the third."""
    order = np.argsort(-scores, axis=1)
    _, second, third = np.take_along_axis(scores, order[:, :3], axis=1).T
    labels = np.zeros(scores.shape, bool)
    rows = np.arange(len(scores))
    labels[rows, order[:, 0]] = True
    labels[rows, order[:, 1]] = second - third > 0.5
    return labels


def accuracy(model, images, target):
    """Exact match (all labels of an image right) and the share of single labels that are right."""
    expected = np.zeros((len(target), CLASSES), bool)
    rows, columns = np.nonzero(target >= 0)
    expected[rows, target[rows, columns]] = True
    predicted = predicted_labels(model.predict(Tensor(images)).asnumpy())
    return (predicted == expected).all(axis=1).mean(), (predicted == expected).mean()


class Progress(ms.train.Callback):
    """Shows the progress, and keeps the curves."""

    def __init__(self, model, test, epochs, steps):
        super().__init__()
        self.model, self.test = model, test
        self.bar = tqdm(total=epochs * steps, unit="step")
        self.losses, self.accuracies = [], []

    def on_train_step_end(self, run_context):
        self.losses.append(float(run_context.original_args().net_outputs.asnumpy()))
        self.bar.update()

    def on_train_epoch_end(self, run_context):
        self.accuracies.append(accuracy(self.model, *self.test))
        self.bar.set_postfix(loss=f"{np.mean(self.losses[-50:]):.4f}", exact=f"{self.accuracies[-1][0]:.3f}")

    def on_train_end(self, run_context):
        self.bar.close()


def draw(progress, steps, path):
    """Draws loss and accuracy against the epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    smoothed = np.array(progress.losses[: len(progress.losses) // SMOOTHING * SMOOTHING]).reshape(-1, SMOOTHING).mean(1)
    left.plot(np.arange(1, len(smoothed) + 1) * SMOOTHING / steps, smoothed, linewidth=0.8)
    left.set(title=f"Training loss, mean of {SMOOTHING} steps", xlabel="epoch", yscale="log")
    epochs = np.arange(1, len(progress.accuracies) + 1)
    for values, name in zip(np.transpose(progress.accuracies), ("exact match", "per label")):
        right.plot(epochs, values, marker="o", markersize=3, label=name)
    right.set(title="Accuracy on held-out digits", xlabel="epoch", ylim=(None, 1))
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", default="train_digits.png", help="where to draw the curves")
    arguments = parser.parse_args()

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(1)
    rng = np.random.default_rng(1)
    digits = load_digits()
    split = train_test_split(digits.images, digits.target, test_size=0.25, random_state=1, stratify=digits.target)
    train_images, test_images, train_digits, test_digits = split
    train = pairs_of_digits(train_images, train_digits, TRAIN_PAIRS, rng)
    test = pairs_of_digits(test_images, test_digits, TEST_PAIRS, rng)

    net = network()
    model = ms.train.Model(net, loss_fn=MultilabelMarginLoss(), optimizer=nn.Adam(net.trainable_params(), 1e-3))
    dataset = NumpySlicesDataset(train, ["image", "target"], shuffle=True).batch(BATCH, drop_remainder=True)
    progress = Progress(model, test, arguments.epochs, dataset.get_dataset_size())
    model.train(arguments.epochs, dataset, callbacks=[progress], dataset_sink_mode=False)

    exact, per_label = accuracy(model, *test)
    print(f"held-out exact match {exact:.2%}, per-label accuracy {per_label:.2%}")
    draw(progress, dataset.get_dataset_size(), arguments.output)
    print(f"curves in {arguments.output}")


if __name__ == "__main__":
    main()
