#!/usr/bin/env python3
"""Drives the kernels, built with AddressSanitizer and UndefinedBehaviorSanitizer, with adversarial cases.

usage: python -m tools.fuzz_kernels [--cuda] [--seed S] [--cases N]

Each case calls the forward and the backward kernel of a reduction through the AOT signature, without MindSpore, with
guard bytes around every buffer: sizes around each vector width and wherever the kernels change their method, targets
anywhere in int32, NaN, infinities, denormals, large offsets, no rows, no classes, 1 to 8 threads, every instruction set
that the processor has. The results are compared with the reference, and a target out of range must be named. So are
those of the linear layer and of the kernels whose classes are divided over ranks, whose calls may also be malformed
(fuzz_slices.py). The linear layer is built with little room for active pairs, so that small ones take every path. On a
failure it prints the seed and a smaller case that fails too, and exits non-zero. Needs g++ with its sanitizers, NumPy,
and MindSpore, whose matrix product (GEMM) the linear layer uses.

With --cuda the kernels are those for a GPU, on an emulation of it (tests/cuda_emulation): a row with a target out of
range must be NaN, or, with MLML_CHECK_TARGETS=1, be named.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tests.support import sizes
from tests.support.aot import Kernel
from tests.support.builds import build_cpu, build_emulated
from tests.support.cases import REDUCTIONS
from tests.support.guards import are_intact, inside, put_guards
from tests.support.reference import expectation, loss_and_gradient
from tools import fuzz_slices
from tools.fuzz_slices import CLASS_PARALLEL, GRADIENTS, LINEAR, SHARDED, KernelError

ROOT = Path(__file__).resolve().parent.parent
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
# Room for the numbers of all pairs, and for lists of active pairs, of a linear layer; in bytes.
LITTLE_ROOM = "-DMLML_MOST_PACKED=1000 -DMLML_MOST_LISTED=40000"
# What each function's symbols begin with, and how its errors begin and name its second argument.
FUNCTIONS = {
    "MultilabelMarginLoss": ("For 'multilabel_margin_loss', ", "target"),
    "MultilabelMarginLossFromLabels": ("For 'multilabel_margin_loss_from_labels', ", "labels"),
    CLASS_PARALLEL: ("For 'ClassParallelMultilabelMarginLoss', ", "labels"),
    LINEAR: ("For 'linear_multilabel_margin_loss', ", "labels"),
    SHARDED: ("For 'LinearMultilabelMarginLoss', ", "labels"),
}
# Those that have all classes.
WHOLE = ("MultilabelMarginLoss", "MultilabelMarginLossFromLabels")
# How often each is called.
SHARES = {**dict.fromkeys(WHOLE, 0.45), CLASS_PARALLEL: 0.06, LINEAR: 0.03, SHARDED: 0.02}

SMALL = (1, 2, 80, *[classes for classes in sizes.CLASSES if classes < 100])
MEDIUM = (300, 513, 1500, 2049, *[classes for classes in sizes.CLASSES if 100 < classes < 2000])
LARGE = (4100, 33000, 70001)
TARGETS = (*sizes.TARGETS, 63, 64, 127, 128, 300, 511, 513, 1100)


# ----------------------------------------------------------------------------------------------------------------------
# Cases


def make_case(seed, index, functions=tuple(FUNCTIONS)):
    """A case as a dictionary of what can be saved and made smaller."""
    rng = np.random.default_rng([seed, index])
    shares = np.array([SHARES[function] for function in functions])
    function = functions[rng.choice(len(functions), p=shares / shares.sum())]
    kind = rng.choice(4, p=(0.05, 0.84, 0.1, 0.01))
    classes = int(rng.choice(((0, 1), SMALL, MEDIUM, LARGE)[kind]))
    rows = int(rng.integers(0, 5)) if kind < 2 else int(rng.integers(1, 3))
    most = classes
    if function in (LINEAR, SHARDED):
        rows, classes, most, features = fuzz_slices.linear_sizes(rng, int(rng.choice(SMALL)))
    targets = rng.choice(TARGETS[:12] if kind == 3 else TARGETS)
    if function not in WHOLE and rng.integers(3) == 0:
        targets = rng.integers(1, 4)  # as there are where the classes are many
    targets = min(int(targets), most)
    labels = max(most, 1) if rng.integers(2) else max(1, targets + int(rng.integers(3)))
    if function == "MultilabelMarginLoss":
        labels = classes + int(rng.integers(100) == 0)  # otherwise an error
    labels = 0 if rng.integers(100) == 0 else labels
    dtype = rng.choice((np.float16, np.float32))
    target = rng.integers(-(2**31), 2**31, (rows, labels)).astype(np.int32)
    if rng.integers(10) > 0:  # otherwise whatever stands there
        for row in target:
            count = min(targets, labels)
            row[:count] = (
                rng.integers(0, max(classes, 1), count) if rng.integers(2) else rng.permutation(classes)[:count]
            )
            if count < labels:
                row[count] = -rng.integers(1, 2**31)
            if count and rng.integers(max(10 * rows, 40)) == 0:
                row[rng.integers(count)] = rng.choice((classes, classes + 1, 2**31 - 1))
    if function in (LINEAR, SHARDED):
        scores = fuzz_slices.make_layer(rng, (rows, classes, features), dtype, target)
    else:
        input = make_scores(rng, rows, classes, dtype)
        if rng.integers(6) == 0:  # late in training: few margins are not met
            meet_margins(input, target[:, :targets])
        is_row = rows == 1 and rng.integers(2) and (function in WHOLE or rng.integers(20) == 0)
        scores = {"input": input[0] if is_row else input}
    reduction = REDUCTIONS[rng.integers(3)]
    dout = np.asarray(rng.standard_normal(rows if reduction == "none" else ()), dtype)
    return {
        **scores,
        "target": target,
        "dout": dout,
        "reduction": reduction,
        "threads": int(rng.integers(1, 9)),
        "offset": int(rng.integers(0, 4)),  # of the buffers, in elements: any alignment that the dtype has
        "surplus": int(function in WHOLE and rng.integers(100) == 0),  # of the output, in elements: an error
        "function": function,
        **({} if function in WHOLE else fuzz_slices.make_division(rng)),
    }


def make_scores(rng, rows, classes, dtype):
    """Scores of one of many kinds."""
    scores = rng.standard_normal((rows, classes))
    kind = rng.integers(10)
    largest = float(np.finfo(dtype).max)
    if kind == 1:
        scores = np.round(scores * 4) / 4  # ties
    elif kind == 2:
        scores = scores * 0.1 + rng.choice((-1, 1)) * 10.0 ** rng.integers(1, 9 if dtype == np.float32 else 4)
    elif kind == 3:
        scores *= float(np.finfo(dtype).smallest_normal)  # denormals, and scores whose threshold is 0
        scores[rng.random(scores.shape) < 0.2] = 1
    elif kind == 4:
        scores = rng.uniform(-largest, largest, (rows, classes))
    elif kind == 5:
        scores = rng.choice((0.0, -0.0, 1.0, -1.0, largest, -largest), (rows, classes))
    elif kind == 6:
        scores[rng.random(scores.shape) < 0.3] = -np.inf  # masked classes
    elif kind == 7:
        scores = np.round(scores * 2) / 2 + scores * 1e-5  # dense clusters
    elif kind == 8:
        scores = np.exp(rng.choice((4, 20)) * scores)  # outliers
    elif kind == 9:
        scores = rng.uniform(-largest / 3, largest / 3, (rows, classes))  # sums overflow on the way
    scores = np.clip(scores, -largest, largest, where=np.isfinite(scores), out=scores.copy()).astype(dtype)
    if rng.integers(6) == 0 and scores.size:
        for _ in range(rng.integers(1, 5)):  # infinities meet
            scores[rng.integers(rows), rng.integers(classes)] = rng.choice((np.nan, np.inf, np.inf, -np.inf))
    return scores


def meet_margins(input, targets):
    """Makes the scores of the targets large."""
    for scores, row in zip(input, targets):
        own = row[(row >= 0) & (row < len(scores))]
        scores[own] = np.abs(scores[own]) + scores.dtype.type(3)


def expected_error(case, targets_are_checked=True):
    """What the kernel must say, or None."""
    return error_of_shapes(case) or (expected_target_error(case) if targets_are_checked else None)


def expected_target_error(case):
    """What the kernel must say of the first target that is not a class, or None."""
    classes = case["input"].shape[-1]
    for row, labels in enumerate(case["target"]):
        for position, label in enumerate(labels):
            if label < 0:
                break
            if label >= classes:
                name = f"[{row}]" if case["input"].ndim == 2 else ""
                target = FUNCTIONS[case["function"]][1]
                return f"number of classes, {classes}, but got {target}{name}[{position}] = {label}."
    return None


def error_of_shapes(case):
    function, classes, labels = case["function"], case["input"].shape[-1], case["target"].shape[-1]
    is_matrix = case["input"].ndim == 2 and len(case["input"]) > 0
    for is_wrong, error in (
        (function == "MultilabelMarginLoss" and labels != classes, "of 'target' must be the same as that of 'input'"),
        (classes == 0, "the number of classes must be positive"),
        (labels == 0 and function in (LINEAR, SHARDED), "with K of at least 1"),
        (labels == 0, "must have a label or a negative value"),
        (function == CLASS_PARALLEL and not is_matrix, "must be (N, c) and (N, K) with N of at least 1"),
        (case["surplus"], "elements, but got shape"),
    ):
        if is_wrong:
            return error
    return None


# ----------------------------------------------------------------------------------------------------------------------
# Running a case


class Buffer:
    """An array between guard bytes, at any alignment that its dtype has."""

    def __init__(self, array, offset):
        self._like, self._offset = array, offset
        self._buffer = put_guards(array, offset)
        self.array = inside(self._buffer, array, offset)

    def is_intact(self):
        return are_intact(self._buffer, self._like, self._offset)


class Runner:
    """Runs cases with a library."""

    def __init__(self, library):
        self.library = ctypes.CDLL(str(library))
        self.is_cpu = hasattr(self.library, "MultilabelMarginLossSetThreads")
        self.targets_are_checked = self.is_cpu or os.environ.get("MLML_CHECK_TARGETS") == "1"
        self.functions = functions_of(self.is_cpu)
        steps = [grad + reduction.capitalize() for grad in ("", "Grad") for reduction in REDUCTIONS]
        more = {CLASS_PARALLEL: fuzz_slices.STEPS, SHARDED: fuzz_slices.STEPS}
        more[LINEAR] = [kind + reduction.capitalize() for kind in GRADIENTS for reduction in REDUCTIONS]
        self.kernels = {
            function + step: Kernel(library, function + step)
            for function in self.functions
            for step in (*steps, *more.get(function, ()))
        }
        if self.is_cpu:
            set_gemm(self.library)

    def variants(self):
        """The environment of each way in which the library runs here."""
        if not self.is_cpu:
            return [{"MLML_CHECK_TARGETS": "0"}, {"MLML_CHECK_TARGETS": "1"}]
        function = self.library.MultilabelMarginLossIsas
        function.restype = ctypes.c_char_p
        return [{"MLML_SIMD": isa} for isa in function().decode().split()]

    def problem(self, case):
        """What is wrong with the results of a case, or None."""
        if self.is_cpu:
            self.library.MultilabelMarginLossSetThreads(case["threads"])
        input = case["input"]
        target = case["target"] if input.ndim == 2 else case["target"][0]
        dout = case["dout"] if input.ndim == 2 or case["reduction"] != "none" else case["dout"].reshape(())
        message = expected_error(case, self.targets_are_checked)
        expected = (None, None) if message else expectation(input, target, case["reduction"], dout)
        check = self.check_whole if case["function"] in WHOLE else self.check_slices
        try:
            check({**case, "target": target, "dout": dout}, message, expected)
        except KernelError as error:
            return str(error)
        return None

    def check_whole(self, case, error, expected):
        """Raises what is wrong with a function that has all classes."""
        input, target, dout, reduction = case["input"], case["target"], case["dout"], case["reduction"]
        for grad, inputs, regular, wanted in (
            ("", (input, target), dout.shape, expected[0]),
            ("Grad", (input, target, dout), input.shape, expected[1]),
        ):
            shape = (int(np.prod(regular)) + 1,) if case["surplus"] else regular
            name = "backward" if grad else "forward"
            said, (actual,) = self.call(case, grad + reduction.capitalize(), inputs, [np.full(shape, 7, input.dtype)])
            if (said is None) != (error is None) or (error and error not in said):
                raise KernelError(f"{name}: the error is {said!r}, not {error!r}")
            if error is None:
                check_result(name, actual, wanted, 0 if grad else rounding_of_hinges(case))

    def saved_size(self, *shapes):
        function = self.library.MultilabelMarginLossLinearSavedSize
        function.restype = ctypes.c_int64
        return max(function(*map(ctypes.c_int64, shapes)), 1)

    def check_slices(self, case, error, expected):
        """Raises what is wrong with a linear layer, or a function whose classes are divided."""

        def call(*arguments):
            return self.call(case, *arguments)

        if case["function"] == LINEAR:
            results = fuzz_slices.run_layer(case, call, error, self.saved_size)
        else:
            saved_size = self.saved_size if case["function"] == SHARDED else None
            results = fuzz_slices.run(case, call, error, self.is_cpu, self.targets_are_checked, saved_size)
        if results is None:
            return
        losses = results.losses
        if any(loss.tobytes() != losses[0].tobytes() for loss in losses):
            raise KernelError(f"the ranks have different losses: {losses}")
        if not is_overflow(case, losses[0], expected[0]):
            # Each rank's part of each row is rounded.
            least = float(np.finfo(np.float32).smallest_subnormal) * case["target"].size * len(losses)
            check_result("loss", losses[0], expected[0], rounding_of_hinges(case) + least)
        if results.row_losses is not None and fuzz_slices.has_exact_losses(case):
            of_rows = loss_and_gradient(case["input"], case["target"], "none")[0]
            if not np.allclose(results.row_losses, of_rows, rtol=2.0**-45, atol=0):
                raise KernelError(f"the ranks tell each other losses of {results.row_losses}, not {of_rows}")
        wanted = fuzz_slices.expected_gradients(case, expected[1])
        for index, (actual, (gradient, absolute)) in enumerate(zip(results.gradients, wanted)):
            check_result(f"gradient {index}", actual, gradient, absolute)

    def call(self, case, step, inputs, outputs):
        """Calls a kernel between guards; returns what it said, or None, and the outputs."""
        buffers = [Buffer(array, case["offset"]) for array in (*inputs, *outputs)]
        said = None
        try:
            self.kernels[case["function"] + step].prepare(*[buffer.array for buffer in buffers])()
        except RuntimeError as exception:
            said = str(exception)
            if not said.startswith(FUNCTIONS[case["function"]][0]):
                raise KernelError(f"{step}: the error is {said!r}") from None
        if not all(buffer.is_intact() for buffer in buffers):
            raise KernelError(f"{step}: something was written beside a buffer")
        if not all(buffer.array.tobytes() == array.tobytes() for buffer, array in zip(buffers, inputs)):
            raise KernelError(f"{step}: an input was changed")
        return said, [buffer.array for buffer in buffers[len(inputs) :]]


def set_gemm(library):
    """Gives the library MindSpore's matrix product without importing MindSpore."""
    package = Path(importlib.util.find_spec("mindspore").origin).parent
    (path, *_) = sorted(package.glob("lib/libdnnl.so*"))
    sgemm = ctypes.CDLL(str(path)).dnnl_threadpool_interop_sgemm
    library.MultilabelMarginLossSetGemm(ctypes.cast(sgemm, ctypes.c_void_p))


def functions_of(is_cpu):
    """What a library has."""
    return tuple(FUNCTIONS) if is_cpu else (*WHOLE, CLASS_PARALLEL)


def rounding_of_hinges(case):
    """1 - p and each hinge are rounded to float32, which tells by the size of the scores, once a target."""
    finite = np.abs(case["input"][np.isfinite(case["input"])].astype(np.float64))
    return case["target"].size * 2.0**-23 * (finite.max() if finite.size else 0)


def is_overflow(case, actual, expected):
    """Whether a loss is infinite because a row's is, in float32."""
    if case["reduction"] == "none" or not np.isposinf(actual) or not np.isfinite(expected):
        return False
    of_rows = loss_and_gradient(case["input"], case["target"], "none")[0]
    return bool((of_rows > np.finfo(np.float32).max / 2).any())


def check_result(name, actual, expected, absolute):
    """Raises where the result is not the expected one, ``absolute`` beyond what the dtype's rounding does."""
    tolerance = 2.0**-10 if actual.dtype == np.float16 else 2.0**-21
    absolute = absolute + float(np.finfo(actual.dtype).smallest_subnormal)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.asarray(expected).astype(actual.dtype)
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        distance = np.abs(np.subtract(actual, expected, dtype=np.float64))
        near = np.isfinite(expected) & (distance <= absolute + tolerance * np.abs(expected, dtype=np.float64))
    wrong = ~(same | near)
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        raise KernelError(f"{name}: {actual[where]} at {where}, not {expected[where]}")


def work(arguments):
    """Runs the cases ``first``, ``first + step``, … up to ``cases``; says which one it is at, as a crash ends it."""
    runner = Runner(arguments.library)
    if arguments.variants:
        print(json.dumps(runner.variants()))
        return 0
    if arguments.replay:
        problem = runner.problem(load(arguments.replay))
        print(problem or "passes")
        return 1 if problem else 0
    for index in range(arguments.first, arguments.cases, arguments.step):
        print(f"case {index}", flush=True)
        problem = runner.problem(make_case(arguments.seed, index, runner.functions))
        if problem:
            print(problem)
            return 1
    return 0


# ----------------------------------------------------------------------------------------------------------------------
# Making a failing case smaller


def save(case, path):
    arrays = {name: value for name, value in case.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in case.items() if name not in arrays}
    np.savez(path, plain=json.dumps(plain), **arrays)


def load(path):
    with np.load(path) as file:
        case = {name: file[name] for name in file.files if name != "plain"}
        return {**case, **json.loads(str(file["plain"]))}


def smaller(case):
    """Cases that are a little smaller."""
    input, target = case["input"], case["target"]
    if case["threads"] > 1:
        yield {**case, "threads": 1}
    if input.ndim == 2 and len(input) > 1:
        yield rows_of(case, slice(0, len(input) // 2))
        yield rows_of(case, slice(len(input) // 2, None))
    for name, least in (("offset", 0), ("cuts", [])):
        if case.get(name, least) != least:
            yield {**case, name: least}
    for share in (2, 8):
        keep = target.shape[-1] - max(target.shape[-1] // share, 1)
        if keep >= 1:
            yield {**case, "target": target[:, :keep]}
        keep = input.shape[-1] - max(input.shape[-1] // share, 1)
        if keep >= 1:
            yield classes_of(case, keep)
    if "weight" not in case and (np.nan_to_num(input) != 0).any():
        yield {**case, "input": np.where(np.isfinite(input), np.round(input), input).astype(input.dtype)}


def rows_of(case, rows):
    """A case with some of its rows."""
    names = [name for name in ("input", "target", "features") if name in case]
    names += ["dout"] if case["dout"].ndim else []
    return {**case, **{name: case[name][rows] for name in names}}


def classes_of(case, keep):
    """A case with its first classes."""
    layer = {name: case[name][:keep] for name in ("weight", "bias") if name in case}
    target = np.where(case["target"] >= keep, -1, case["target"]).astype(np.int32)
    return {**case, **layer, "input": case["input"][..., :keep], "target": target}


def weight(case):
    """How much there is to read in a case."""
    fractions = np.count_nonzero(np.nan_to_num(case["input"]) % 1)
    settings = case["threads"] + case["offset"] + len(case.get("cuts", ()))
    return case["input"].size + case["target"].size + fractions + settings


def minimize(case, fails):
    """A case from which nothing more can be taken without its passing."""
    while True:
        for candidate in smaller(case):
            if weight(candidate) < weight(case) and fails(candidate):
                case = candidate
                break
        else:
            return case


def save_text(case):
    """A case as a person reads it."""
    with np.printoptions(threshold=200, linewidth=120):
        return "\n".join(f"  {name} = {value!r}" for name, value in case.items())


# ----------------------------------------------------------------------------------------------------------------------
# The whole run


def environment_of(variant):
    """What a worker needs: the sanitizer's runtime first of all libraries, then that whose functions it replaces."""
    files = ("libasan.so", "libstdc++.so")
    commands = (["g++", f"-print-file-name={file}"] for file in files)
    paths = [subprocess.run(c, capture_output=True, text=True, check=True).stdout.strip() for c in commands]
    return {
        **os.environ,
        **variant,
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # Python leaks
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def run_worker(variant, *options):
    """Runs this program as a worker; returns its exit status and its output."""
    command = [sys.executable, "-m", "tools.fuzz_kernels", *map(str, options)]
    environment = environment_of(variant)
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout, result.stderr


def report(seed, variant, output, libraries, folder):
    """Prints the failing case, made smaller."""
    said = [line for line in output[1].splitlines() if not line.startswith("case ")]
    index = int([line for line in output[1].splitlines() if line.startswith("case ")][-1].split()[1])
    print(f"FAILED: seed {seed}, case {index}, {variant}", *said, output[2][-3000:], sep="\n")
    path = Path(folder, "case.npz")

    def fails(case):
        save(case, path)
        return run_worker(variant, *libraries, "--replay", path)[0] != 0

    case = make_case(seed, index, functions_of("--cuda" not in libraries))
    print(
        "a smaller case that fails:" if fails(case) else "alone it passes:", save_text(minimize(case, fails)), sep="\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=None, help="default: random, and printed")
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--cuda", action="store_true", help="the CUDA kernels, emulated")
    for hidden in ("--library", "--replay"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--variants", action="store_true", help=argparse.SUPPRESS)
    for hidden, default in (("--first", 0), ("--step", 1)):
        parser.add_argument(hidden, type=int, default=default, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.library:
        return work(arguments)

    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, {arguments.cases} cases", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        build = build_emulated if arguments.cuda else build_cpu
        library = build(folder, f"-O1 -g1 {SANITIZERS} {'' if arguments.cuda else LITTLE_ROOM}")
        libraries = ["--library", library, *(["--cuda"] if arguments.cuda else [])]
        status, output, errors = run_worker({}, *libraries, "--variants")
        if status != 0:
            sys.exit(output + errors)
        variants = json.loads(output)
        print(*(f"{name}={value}" for variant in variants for name, value in variant.items()), sep=", ", flush=True)
        shares = [(variants[i % len(variants)], i) for i in range(2 * len(variants))]

        def run_share(share):
            variant, first = share
            options = ["--seed", seed, "--cases", arguments.cases, "--first", first, "--step", len(shares)]
            return variant, run_worker(variant, *libraries, *options)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            results = list(pool.map(run_share, shares))
        failures = [(variant, output) for variant, output in results if output[0] != 0]
        for variant, output in failures:
            report(seed, variant, output, libraries, folder)
        if not failures:
            print(f"{arguments.cases} cases passed, forward and backward")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
