"""Cases for the linear layer, and for the kernels whose classes are divided over ranks (custom_ops/ranks.h), for
fuzz_kernels.py: all ranks in one process, step by step, or with one malformed call on the way."""

from typing import NamedTuple

import numpy as np

CLASS_PARALLEL = "MultilabelMarginLossClassParallel"
LINEAR, SHARDED = "MultilabelMarginLossLinear", "MultilabelMarginLossLinearSharded"
STEPS = ("Header", "TargetScores", "Partial")  # and then the loss and its gradient
# What the gradient operators of the linear layer write, by what their symbols have before the reduction.
GRADIENTS = {
    "Grad": ("features", "weight", "bias"),
    "GradFeatures": ("features",),
    "GradParameters": ("weight", "bias"),
}
CHECKSUMS = 16  # numbers in the header
HOW = ("dtype", "size", "rank", "value", "value")  # a parameter can be malformed
NUMBERS = (np.nan, np.inf, -np.inf, -0.5, 0.5, 1e12, 1e30, -1e30)
LABELS = (-1, -2, -(2**31), 2**31 - 1, 0, 1, 1024, 65535, 2**16)
# Elements of place and what they cannot be.
PLACES = [(0, value) for value in (-1, 2**24 + 1, 2**40, -(2**63))] + [(1, value) for value in (-1, 4, 2**62)]
PLACES += [(2, value) for value in (0, -1, 5, 257, 2**40)]


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


def make_layer(rng, sizes, dtype, target):
    """A layer and its features, whose scores are exact, and have many ties; also the scores."""
    rows, classes, number = sizes
    features = rng.integers(-3, 4, (rows, number)).astype(dtype)
    weight = (rng.integers(-3, 4, (classes, number)) / 2 ** rng.integers(4)).astype(other_dtype(rng, dtype))
    bias = (rng.integers(-20, 20, classes) / 4).astype(other_dtype(rng, dtype))
    if rng.integers(2) == 0:  # late in training: few pairs are active
        bias[rng.random(classes) < rng.choice((0.9, 0.95, 0.99))] = -60
        bias[target[(target >= 0) & (target < classes)]] = 20
    if rng.integers(6) == 0:
        bias[rng.random(bias.shape) < 0.3] = -np.inf  # masked classes
    if rng.integers(3) == 0 and features.size:
        array = (features, weight, bias)[rng.integers(3)]
        array.reshape(-1)[rng.integers(array.size)] = rng.choice((np.nan, np.inf, -np.inf))
    with np.errstate(invalid="ignore"):
        scores = features.astype(np.float32) @ weight.astype(np.float32).T + bias.astype(np.float32)
    return {"input": scores, "features": features, "weight": weight, "bias": bias}


def other_dtype(rng, dtype):
    """Mostly the same."""
    return rng.choice((np.float16, np.float32)) if rng.integers(4) == 0 else dtype


def make_division(rng):
    """How the classes of a case are divided, and what is malformed."""
    how = HOW[rng.integers(len(HOW))]
    return {
        "cuts": sorted(rng.random(rng.integers(4)).tolist()),  # where slices end, as parts of the whole
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
            own = (case["features"], target, case["weight"][begin:end], case["bias"][begin:end])
        else:
            own = (np.ascontiguousarray(case["input"][..., begin:end]), target)
        named = 0 if ranks == 1 and case["offset"] else classes  # one rank need not say it
        result.append(Rank(own, np.array([named, rank, ranks, *[0] * ranks], np.int64)))
    return result


# ----------------------------------------------------------------------------------------------------------------------
# Running a case


class Results(NamedTuple):
    """What the kernels make of a case."""

    losses: list  # of each rank
    gradients: list  # of what the loss is a function of, put together
    row_losses: np.ndarray = None  # as the ranks tell each other, in float64


def check_error(step, said, wanted):
    if (said is None) != (wanted is None) or (wanted and wanted not in said):
        raise KernelError(f"{step}: the error is {said!r}, not {wanted!r}")


def run(case, call, error, is_cpu=True, values_are_checked=True, saved_size=None):  # noqa: PLR0913, PLR0917
    """The results, or None if there is an error, or a malformed call.

    ``call(step, inputs, outputs)`` returns what the kernel said, or None, and its outputs. ``error`` is what must be
    said; unless ``values_are_checked``, nothing of what stands in place and header, which only the device reads.
    ``saved_size`` returns the size of what the forward pass of a linear layer saves."""
    ranks = ranks_of(case)
    dout, (rows, labels) = case["dout"], np.atleast_2d(case["target"]).shape
    shapes = ((len(ranks) + CHECKSUMS,), (rows, labels), (rows * (2 * len(ranks) + labels),))
    exchanged, saved = [], [[] for _ in ranks]
    # Header does not look at the labels; and what TargetScores has reported, the steps behind it do not report again:
    # what they write is NaN, of a GPU's at least where the label stands.
    is_reported_once = error is not None and "but got labels" in error and values_are_checked
    for number, step in enumerate((*STEPS, case["reduction"].capitalize(), "Grad" + case["reduction"].capitalize())):
        last = [dout] if number == 4 else []
        inputs = [(*rank.own, rank.place, *exchanged, *own, *last) for rank, own in zip(ranks, saved)]
        outputs = [outputs_of(rank, number, shapes, dout) for rank in ranks]
        if number == 2 and saved_size:
            for rank, of_rank in zip(ranks, outputs):
                of_rank.append(np.full(saved_size(rows, *rank.own[2].shape, labels), 7, np.int32))
        if case["malformed"] and case["malformed"][0] == number:
            check_malformed(case, call, step, (inputs, outputs), values_are_checked)
            return None
        results = [call(step, *arrays) for arrays in zip(inputs, outputs)]
        wanted = error if not is_reported_once or number == 1 else None
        for said, _ in results:
            check_error(step, said, wanted)
        written = [array for _, arrays in results for array in arrays]
        is_nan = all(map(is_refused, written)) if is_cpu else any(np.isnan(array).any() for array in written)
        if is_reported_once and number in (2, 3) and not is_nan:
            raise KernelError(f"{step}: the results of labels that are no classes are not NaN")
        if wanted and not is_reported_once:
            return None
        if number < 3:
            with np.errstate(invalid="ignore", over="ignore"):
                exchanged.append(np.sum([arrays[0] for _, arrays in results], axis=0, dtype=np.float32))
            saved = [arrays[1:] for _, arrays in results]
        elif number == 3:
            losses = [arrays[0] for _, arrays in results]
    if error:
        return None
    return put_together(case, losses, [arrays for _, arrays in results], exchanged[2])


def outputs_of(rank, number, shapes, dout):
    """What a step writes on one rank."""
    if number < 3:
        return [np.full(shapes[number], 7, np.float32)]
    if number == 3:
        return [np.full(dout.shape, 7, dout.dtype)]
    return [np.full_like(array, 7) for array in (rank.own[0], *rank.own[2:])]


def put_together(case, losses, gradients, partial):
    ranks, rows = len(losses), len(np.atleast_2d(case["target"]))
    with np.errstate(invalid="ignore"):
        row_losses = partial[: 2 * ranks * rows].astype(np.float64).reshape(ranks, rows, 2).sum((0, 2))
        if "weight" not in case:
            together = [np.concatenate([of_rank[0] for of_rank in gradients], axis=-1)]
        else:
            together = [np.sum([of_rank[0] for of_rank in gradients], axis=0)]
            together += [np.concatenate(parts) for parts in list(zip(*gradients))[1:]]
    return Results(losses, together, row_losses)


def is_refused(array):
    return bool((array == -1).all() if array.dtype == np.int32 else np.isnan(array).all())


def run_layer(case, call, error, saved_size):
    """The same for the linear layer of one process."""
    layer, labels, dout = [case[name] for name in ("features", "weight", "bias")], case["target"], case["dout"]
    own = (layer[0], labels, *layer[1:])
    scores = np.full(labels.shape, 7, np.float32)
    state = [scores, scores.copy(), np.full(saved_size(len(labels), *layer[1].shape, labels.shape[1]), 7, np.int32)]
    results, loss = {}, np.full(dout.shape, 7, dout.dtype)
    for number, kind in enumerate(("", *GRADIENTS)):
        step = kind + case["reduction"].capitalize()
        inputs = (*own, *state, dout) if kind else own
        outputs = [np.full_like(case[name], 7) for name in GRADIENTS[kind]] if kind else [loss, *state]
        if case["malformed"] and case["malformed"][0] == number:
            check_malformed(case, call, step, ([inputs], [outputs]), True)
            return None
        said, results[kind] = call(step, inputs, outputs)
        # The forward pass has reported labels that are no classes.
        check_error(step, said, error if number == 0 or "but got labels" not in (error or "but got labels") else None)
        if error and number > 0 and "but got labels" in error and not all(map(is_refused, results[kind])):
            raise KernelError(f"{step}: the gradients of labels that are no classes are not NaN")
        if number == 0:
            loss, *state = results[kind]
    if error:
        return None
    together = results["Grad"]
    for one, other in zip(together, (*results["GradFeatures"], *results["GradParameters"])):
        if one.tobytes() != other.tobytes():
            raise KernelError("the gradients of one operator are not those of two")
    return Results([loss], together)


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
    factors = [(of_scores, weight), (of_scores.T, features), (of_scores.T, np.ones(len(features)))]
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
    places = [at for at, array in enumerate(arrays) if array.dtype == np.int64]
    first = places[0] if places else 4  # of what the inputs are not
    before = arrays[index]
    arrays[index] = malformed(rng, before, how, index < count)
    said, _ = call(step, arrays[:count], arrays[count:])
    if how == "dtype":
        must = True
    elif how == "size":
        # The first step does not know how many there are to be of the inputs.
        must = arrays[index].size != before.size and (index >= first or step != STEPS[0])
        if index == 0 and "weight" not in case:  # other classes than in the header, which this step reports alone
            must = must and step == STEPS[1]
    elif how == "rank":
        must = index < first  # of the others only the elements count
    else:
        # Place and header, where a step before has not reported it.
        must = (index in places and step == STEPS[0]) or (places and index == first + 1 and step == STEPS[1])
    if not values_are_checked:
        must = must and how != "value" and (how != "size" or index not in (0, first + 1))  # ranks, or classes of each
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
