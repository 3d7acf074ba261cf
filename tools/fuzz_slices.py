"""Cases for the kernels that work on a slice of the classes (custom_ops/cpu/slice.h), for fuzz_kernels.py: all ranks in
one process, step by step, or with one malformed call on the way."""

from typing import NamedTuple

import numpy as np

CLASS_PARALLEL = "MultilabelMarginLossClassParallel"
LINEAR, LINEAR_WITH_BIAS = "MultilabelMarginLossLinear", "MultilabelMarginLossLinearWithBias"
STEPS = ("Header", "TargetScores", "Partial")  # and then the loss and its gradient
CHECKSUMS = 16  # numbers in the header
HOW = ("dtype", "size", "rank", "value", "value")  # a parameter can be malformed
NUMBERS = (np.nan, np.inf, -np.inf, -0.5, 0.5, 1e12, 1e30, -1e30)
LABELS = (-1, -(2**31), 2**31 - 1, 0, 1)
# Elements of place and what they cannot be.
PLACES = [(0, value) for value in (-1, 2**24 + 1, 2**40, -(2**63))] + [(1, value) for value in (-1, 4, 2**62)]
PLACES += [(2, value) for value in (0, -1, 5, 257, 2**40)] + [(3, value) for value in (-1, -(2**63))]


class KernelError(Exception):
    """What a kernel did wrong."""


# ----------------------------------------------------------------------------------------------------------------------
# Cases


def linear_sizes(rng, classes):
    """Rows, classes and the most targets for a linear layer: mostly few of them, otherwise around a block, which has
    1024 classes and 256 rows, or more blocks than ranges; and how many features."""
    features = int(rng.choice((1, 2, 3, 4, 7, 8, 16, 17, 33, 100)))
    kind = rng.choice(4, p=(0.74, 0.16, 0.09, 0.01))
    rows = int(rng.integers(0, 5))
    if kind == 1:
        classes = int(rng.choice((1024, 1025, 2047, 2049, 3100)))
    elif kind == 2:
        rows = int(rng.choice((256, 257, 257, 513)))
    elif kind == 3:
        rows, classes, features = int(rng.integers(1, 3)), int(rng.choice((33000, 35000))), 2
    return rows, classes, min(classes, 20 if kind > 1 else 200), features


def make_layer(rng, sizes, dtype, has_bias):
    """A layer and its features, whose scores are exact, and have many ties; also the scores."""
    rows, classes, number = sizes
    features = rng.integers(-3, 4, (rows, number)).astype(dtype)
    weight = (rng.integers(-3, 4, (classes, number)) / 2 ** rng.integers(4)).astype(other_dtype(rng, dtype))
    bias = (rng.integers(-20, 20, classes if has_bias else 0) / 4).astype(other_dtype(rng, dtype))
    if rng.integers(6) == 0:
        bias[rng.random(bias.shape) < 0.3] = -np.inf  # masked classes
    if rng.integers(3) == 0 and features.size:
        array = features if rng.integers(3) == 0 else weight
        array.reshape(-1)[rng.integers(array.size)] = rng.choice((np.nan, np.inf, -np.inf))
    with np.errstate(invalid="ignore"):
        scores = features.astype(np.float32) @ weight.astype(np.float32).T
        scores += bias if has_bias else 0
    return {"input": scores, "features": features, "weight": weight, **({"bias": bias} if has_bias else {})}


def other_dtype(rng, dtype):
    """Mostly the same."""
    return rng.choice((np.float16, np.float32)) if rng.integers(4) == 0 else dtype


def make_division(rng):
    """How the classes of a case are divided, and what is malformed."""
    how = HOW[rng.integers(len(HOW))]
    return {
        "cuts": sorted(rng.random(rng.integers(4)).tolist()),  # where slices end, as parts of the whole
        "block": int(rng.choice((0, 0, 1, 1024, 1025, 2048, 1 << 40, 2**63 - 1))),
        # A step, what tells the parameter and all else, and what is wrong with it.
        "malformed": [int(rng.integers(5)), int(rng.integers(2**20)), how] if rng.integers(4) == 0 else None,
    }


def bounds(case):
    """Where each slice begins, and the last one ends."""
    classes = case["input"].shape[-1]
    cuts = {1 + int(cut * (classes - 1)) for cut in case["cuts"] if classes > 1}
    return [0, *sorted(cuts), classes]


class Rank(NamedTuple):
    """The inputs that a rank has without the others."""

    own: tuple  # what the loss is a function of, and at 1 the labels
    place: np.ndarray


def ranks_of(case):
    """All ranks of a case."""
    ends, target = bounds(case), case["target"]
    classes, ranks = ends[-1], len(ends) - 1
    result = []
    for rank, (begin, end) in enumerate(zip(ends, ends[1:])):
        if "weight" in case:
            layer = [case[name][begin:end] for name in ("weight", "bias") if name in case]
            own = (case["features"], target, *layer)
        else:
            own = (np.ascontiguousarray(case["input"][..., begin:end]), target)
        named = 0 if ranks == 1 and case["offset"] else classes  # one rank need not say it
        result.append(Rank(own, np.array([named, rank, ranks, case["block"]], np.int64)))
    return result


# ----------------------------------------------------------------------------------------------------------------------
# Running a case


class Results(NamedTuple):
    """What the kernels make of a case."""

    losses: list  # of each rank
    gradients: list  # of what the loss is a function of, put together
    row_losses: np.ndarray  # as the ranks tell each other, in float64


def run(case, call, error, values_are_checked=True):
    """The results, or None if there is an error, or a malformed call.

    ``call(step, inputs, outputs)`` returns what the kernel said, or None, and its outputs. ``error`` is what must be
    said; unless ``values_are_checked``, nothing of what stands in place and header, which only the device reads."""
    ranks = ranks_of(case)
    dout, (rows, labels) = case["dout"], np.atleast_2d(case["target"]).shape
    shapes = ((len(ranks) + CHECKSUMS,), (rows, labels), (rows * (2 * len(ranks) + labels),))
    exchanged = []
    first_error = 1 if error and "but got labels" in error else 0  # Header does not look at them
    for number, step in enumerate((*STEPS, case["reduction"].capitalize(), "Grad" + case["reduction"].capitalize())):
        inputs = [(*rank.own, rank.place, *exchanged, *([dout] if number == 4 else ())) for rank in ranks]
        if number < 3:
            outputs = [[np.full(shapes[number], 7, np.float32)] for _ in ranks]
        elif number == 3:
            outputs = [[np.full(dout.shape, 7, dout.dtype)] for _ in ranks]
        else:
            outputs = [[np.full_like(array, 7) for array in (rank.own[0], *rank.own[2:])] for rank in ranks]
        if case["malformed"] and case["malformed"][0] == number:
            check_malformed(case, call, step, (inputs, outputs), values_are_checked)
            return None
        results = [call(step, *arrays) for arrays in zip(inputs, outputs)]
        wanted = error if number >= first_error else None
        for said, _ in results:
            if (said is None) != (wanted is None) or (wanted and wanted not in said):
                raise KernelError(f"{step}: the error is {said!r}, not {wanted!r}")
        if wanted:
            return None
        if number < 3:
            with np.errstate(invalid="ignore", over="ignore"):
                exchanged.append(np.sum([arrays[0] for _, arrays in results], axis=0, dtype=np.float32))
        elif number == 3:
            losses = [arrays[0] for _, arrays in results]
    gradients = [arrays for _, arrays in results]
    with np.errstate(invalid="ignore"):
        row_losses = exchanged[2][: 2 * len(ranks) * rows].astype(np.float64).reshape(len(ranks), rows, 2).sum((0, 2))
        if "weight" not in case:
            together = [np.concatenate([of_rank[0] for of_rank in gradients], axis=-1)]
        else:
            together = [np.sum([of_rank[0] for of_rank in gradients], axis=0)]
            together += [np.concatenate(parts) for parts in list(zip(*gradients))[1:]]
    return Results(losses, together, row_losses)


def has_exact_losses(case):
    """Whether the sums of hinges are exact in float32, whatever their order: multiples of 1/8 that are not large."""
    if "weight" not in case or not np.isfinite(case["input"]).all():
        return False
    lanes = 16 * 8  # hinges that are added in float32
    return case["target"].shape[-1] * (1 + 2 * np.abs(case["input"]).max(initial=0)) * lanes < 2.0**24 / 8


def expected_gradients(case, of_scores):
    """The gradients that the gradient of the scores makes, and how far rounding on the way may take each."""
    if "weight" not in case:
        return [(of_scores, 0)]
    features, weight = (case[name].astype(np.float64) for name in ("features", "weight"))
    factors = [(of_scores, weight), (of_scores.T, features)]
    factors += [(of_scores.T, np.ones(len(features)))] if "bias" in case else []
    result = []
    for a, b in factors:
        with np.errstate(invalid="ignore"):
            gradient, terms = a @ b, np.nan_to_num(np.abs(a) @ np.abs(b))
        # Terms are added in float32; what the ranks add up has been rounded.
        rounded = 2.0**-11 if not result and case["features"].dtype == np.float16 else 0
        result.append((gradient, (2.0**-20 + rounded) * terms))
    return result


# ----------------------------------------------------------------------------------------------------------------------
# Malformed calls


def check_malformed(case, call, step, arrays_of_ranks, values_are_checked):
    """Makes one of the step's calls with something wrong: an error, or results of any value, but nothing else."""
    inputs, outputs = arrays_of_ranks
    _, number, how = case["malformed"]
    rng = np.random.default_rng(number)
    rank = rng.integers(len(inputs))
    arrays = [*inputs[rank], *outputs[rank]]
    count, index = len(inputs[rank]), int(rng.integers(len(arrays)))
    place = [array.dtype for array in arrays].index(np.int64)
    before = arrays[index]
    arrays[index] = malformed(rng, before, how, index < count)
    said, _ = call(step, arrays[:count], arrays[count:])
    if how == "dtype":
        must = True
    elif how == "size":
        # The first step does not know how many there are to be of the inputs.
        must = arrays[index].size != before.size and (index >= place or step != STEPS[0])
    elif how == "rank":
        must = index < place and index != 3  # of the others, and of a bias, only the elements count
    else:
        must = place <= index <= place + (step != STEPS[0]) and index < count  # place and header
    if not values_are_checked:
        must = must and how != "value" and (how != "size" or index not in (0, place + 1))  # ranks, or classes of each
    if must and said is None:
        raise KernelError(f"{step}: no error for a malformed {how} of parameter {index}")


def malformed(rng, array, how, is_input):
    """The array with something wrong. What an output holds never is."""
    if how == "dtype":
        return array.astype(np.float64)
    if how == "size":
        shape = list(array.shape) or [1]
        shape[-1] = max(shape[-1] + int(rng.choice((-1, 1))), 0) if array.ndim else 2
        return np.resize(array, shape)
    if how == "rank":
        return array[None]
    array = array.copy()
    if array.size and is_input:
        at = rng.integers(array.size)
        if array.dtype == np.int64:
            element, value = PLACES[rng.integers(len(PLACES))]
            array[element] = value
        elif array.dtype == np.int32:
            array.reshape(-1)[at] = rng.choice(LABELS)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                number = array.reshape(-1)[at] + 1 if rng.integers(2) else np.float64(rng.choice(NUMBERS))
                array.reshape(-1)[at] = number.astype(array.dtype)
    return array
