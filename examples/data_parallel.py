"""Trains one model in several processes, each on its share of every batch.

    python examples/data_parallel.py
    msrun --worker_num=2 --local_worker_num=2 --join=True examples/data_parallel.py

end with the same weights: the loss is a mean over samples, and the gradients are averaged over processes whose shares
are of one size. On several machines, start `msrun` on each, with --worker_num for all processes, --local_worker_num for
those of this machine, --node_rank, and --master_addr with the address of the first machine.
"""

import argparse

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.communication import get_group_size, get_rank, init

from mindspore_mlml import MultilabelMarginLossFromLabels, targets_from_lists

FEATURES, CLASSES, SAMPLES, BATCH, MOST_LABELS = 20, 50, 512, 64, 3


def make_data(rng):
    """Samples whose labels are the classes that a random linear map gives the highest scores."""
    features = rng.standard_normal((SAMPLES, FEATURES)).astype(np.float32)
    scores = features @ rng.standard_normal((FEATURES, CLASSES))
    counts = rng.integers(1, MOST_LABELS + 1, SAMPLES)
    lists = [np.argsort(-row)[:count] for row, count in zip(scores, counts)]
    return features, targets_from_lists(lists, CLASSES, num_labels=MOST_LABELS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--save", metavar="FILE", help="where the first process writes its weights, as .npz")
    arguments = parser.parse_args()

    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        init()  # what msrun put into the environment
        rank, processes = get_rank(), get_group_size()
        mode = ms.ParallelMode.DATA_PARALLEL
        ms.set_auto_parallel_context(parallel_mode=mode, gradients_mean=True, device_num=processes)
    except RuntimeError:
        rank, processes = 0, 1
    if BATCH % processes:
        raise SystemExit(f"A batch of {BATCH} samples cannot be shared by {processes} processes.")

    rng = np.random.default_rng(0)  # the same in every process
    features, labels = make_data(rng)
    network = nn.Dense(FEATURES, CLASSES)
    network.weight.set_data(Tensor(rng.standard_normal((CLASSES, FEATURES)) * 0.1, ms.float32))
    network.bias.set_data(Tensor(np.zeros(CLASSES), ms.float32))
    loss = nn.WithLossCell(network, MultilabelMarginLossFromLabels())
    step = nn.TrainOneStepCell(loss, nn.Momentum(network.trainable_params(), 0.5, 0.9))

    for epoch in range(arguments.epochs):
        order = rng.permutation(SAMPLES)
        losses = []
        for start in range(0, SAMPLES, BATCH):
            mine = order[start : start + BATCH][rank::processes]
            losses.append(float(step(Tensor(features[mine]), Tensor(labels[mine])).asnumpy()))
        print(f"process {rank} of {processes}, epoch {epoch + 1}: loss {np.mean(losses):.6f}", flush=True)
    if arguments.save and rank == 0:
        np.savez(arguments.save, weight=network.weight.asnumpy(), bias=network.bias.asnumpy())


if __name__ == "__main__":
    main()
