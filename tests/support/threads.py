"""Calls what is public from several Python threads at once, each with arguments of its own, and compares the results
with those of one thread. Without gradients: in PyNative, MindSpore differentiates in one thread at a time.

usage: python -m tests.support.threads
"""

import faulthandler
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from mindspore import Tensor, ops

import mindspore_mlml
from mindspore_mlml import (
    ClassParallelMultilabelMarginLoss,
    LinearMultilabelMarginLoss,
    MultilabelMarginLossFromLabels,
    linear_multilabel_margin_loss,
    multi_hot_from_targets,
    multilabel_margin_loss,
    targets_from_lists,
    targets_from_multi_hot,
)

THREADS, ROUNDS = 4, 25
CLASSES = 40
head, wide = LinearMultilabelMarginLoss(6, CLASSES), LinearMultilabelMarginLoss(6, 40_000)
class_parallel = ClassParallelMultilabelMarginLoss(CLASSES)
from_labels = MultilabelMarginLossFromLabels("none")


def numbers(results):
    """The results as what can be compared."""
    if isinstance(results, (tuple, list)):
        return [numbers(result) for result in results]
    return results.asnumpy().tolist() if isinstance(results, Tensor) else np.asarray(results).tolist()


class Arguments:
    """Those of one thread."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.rows = 3 + seed
        self.features = Tensor(rng.standard_normal((self.rows, 6)).astype(np.float32))
        self.scores = Tensor(rng.standard_normal((self.rows, CLASSES)).astype(np.float32))
        self.labels = Tensor(rng.integers(0, CLASSES, (self.rows, 3)).astype(np.int32))
        self.target = Tensor(np.pad(self.labels.asnumpy(), ((0, 0), (0, CLASSES - 3)), constant_values=-1))
        self.lists = [sorted(set(row)) for row in self.labels.asnumpy().tolist()]


CALLS = {
    "top_k": lambda a: head.top_k(a.features, 3),
    "top_k of many classes": lambda a: wide.top_k(a.features, 3),
    "predict": lambda a: head.predict(a.features),
    "linear layer": lambda a: head(a.features, a.labels),
    "linear function": lambda a: linear_multilabel_margin_loss(a.features, head.weight, None, a.labels),
    "class parallel": lambda a: class_parallel(a.scores, a.labels),
    "loss": lambda a: multilabel_margin_loss(a.scores, a.target),
    "loss from labels": lambda a: from_labels(a.scores, a.labels),
    "multi-hot": lambda a: targets_from_multi_hot(multi_hot_from_targets(a.target, CLASSES)),
    "lists": lambda a: targets_from_lists(a.lists, CLASSES),
}
PATCHED = {name: CALLS[name] for name in ("loss", "linear layer", "multi-hot")}


def run_in_threads(call, arguments):
    """All threads begin at once."""
    barrier = threading.Barrier(len(arguments))

    def work(of_thread):
        barrier.wait()
        return [numbers(call(of_thread)) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(work, arguments))


def check_calls(arguments):
    for name, call in CALLS.items():
        expected = [numbers(call(of_thread)) for of_thread in arguments]
        for wanted, results in zip(expected, run_in_threads(call, arguments)):
            assert results == [wanted] * ROUNDS, name


def check_mixture(arguments):
    """Each thread calls something else."""
    names = list(CALLS)
    expected = {name: numbers(call(arguments[0])) for name, call in CALLS.items()}

    def work(first):
        for index in range(2 * len(names)):
            name = names[(index + first) % len(names)]
            assert numbers(CALLS[name](arguments[0])) == expected[name], name

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


def check_patch(arguments):
    """Some threads enter and leave patch(), others call."""
    original = ops.multilabel_margin_loss
    barrier = threading.Barrier(THREADS)

    def enter_and_leave(of_thread):
        barrier.wait()
        for _ in range(ROUNDS):
            with mindspore_mlml.patch():
                assert ops.multilabel_margin_loss is multilabel_margin_loss
                multilabel_margin_loss(of_thread.scores, of_thread.target).asnumpy()

    def call(of_thread):
        barrier.wait()
        for name, call in PATCHED.items():
            assert numbers(call(of_thread)) == numbers(call(of_thread)), name

    works = [enter_and_leave, enter_and_leave, enter_and_leave, call]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda work, of_thread: work(of_thread), works, arguments))
    assert ops.multilabel_margin_loss is original


if __name__ == "__main__":
    faulthandler.dump_traceback_later(180, exit=True)
    own = [Arguments(seed) for seed in range(THREADS)]
    for check in (check_calls, check_mixture, check_patch):
        check(own)
    print("all threads had their own results")
