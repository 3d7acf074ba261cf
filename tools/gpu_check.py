#!/usr/bin/env python3
"""Checks and measures the CUDA kernels on a machine with a GPU, without MindSpore.

usage: python -m tools.gpu_check [--ptx DIR] [--json FILE]

Builds the kernels, calls them through the AOT signature, and compares losses and gradients with the reference and with
PyTorch's CUDA operator: random and edge cases, targets out of range between guard bytes, more than 2^31 scores. With
--ptx it launches what tools/akg_ptx.py wrote by way of CuPy, and compares that too. Then it measures, against PyTorch's
operator and against the bandwidth that the GPU shows. Exits non-zero on any mismatch.

Needs NumPy, PyTorch, nvcc, a C++ compiler and setuptools >= 77. `compute-sanitizer python -m tools.gpu_check --quick`
checks every access.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import SHAPES, batch
from tests.support.aot import Kernel
from tests.support.cases import REDUCTIONS
from tests.support.guards import GUARD, POISON, put_guards
from tests.support.reference import TOLERANCE, expectation, loss_and_gradient

ROOT = Path(__file__).resolve().parent.parent

# N·C >= 64 million: here the bandwidth is what counts.
LARGE_SHAPES = {f"large, T={t}": (320, 205443, t) for t in (1, 8, 64, 500)}
REPEATS = 30


class Gpu:
    """PyTorch's current CUDA device."""

    def __init__(self):
        import torch  # noqa: PLC0415

        self.torch = torch

    def put(self, array):
        """A copy of a NumPy array on the device."""
        return self.torch.from_numpy(np.array(array)).cuda()

    def get(self, tensor):
        return tensor.cpu().numpy()

    def guarded(self, array):
        """A copy between guard bytes, and the buffer that has both."""
        buffer = self.put(put_guards(array))
        dtype = getattr(self.torch, array.dtype.name)
        return buffer[GUARD : GUARD + array.nbytes].view(dtype).reshape(array.shape), buffer

    def stream(self):
        return self.torch.cuda.current_stream().cuda_stream

    def milliseconds(self, function):
        """The median time of a call."""
        cuda = self.torch.cuda
        for _ in range(3):
            function()
        times = []
        for _ in range(REPEATS):
            start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            start.record()
            function()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return float(np.median(times))


class Mismatches:
    """What is wrong, counted and printed."""

    def __init__(self):
        self.count = self.checked = 0

    def check(self, name, actual, expected, tolerance):
        self.checked += 1
        smallest = np.finfo(actual.dtype).smallest_subnormal if actual.dtype.kind == "f" else 0
        with np.errstate(over="ignore", invalid="ignore"):
            expected = np.asarray(expected).astype(actual.dtype)
            equal = np.isclose(actual, expected, rtol=tolerance, atol=float(smallest), equal_nan=True)
        if not equal.all():
            self.count += 1
            where = tuple(np.argwhere(~equal)[0])
            print(
                f"MISMATCH {name}: {(~equal).sum()} of {equal.size}, at {where} {actual[where]}, not {expected[where]}"
            )

    def require(self, name, condition):
        self.checked += 1
        if not condition:
            self.count += 1
            print(f"MISMATCH {name}")


# ----------------------------------------------------------------------------------------------------------------------
# Cases


def random_targets(rng, rows, classes, labels, targets):
    """Rows of random classes, some repeated, ended by a negative value where there is room for one."""
    target = rng.integers(-9, classes, (rows, labels)).astype(np.int32)
    for row in target:
        row[:targets] = (
            rng.integers(0, classes, min(targets, labels))
            if rng.integers(2)
            else rng.choice(classes, min(targets, labels), replace=targets > classes)
        )
        if targets < labels:
            row[targets] = -rng.integers(1, 2**31)
    return target


def cases(rng, sizes=None):
    """(name, input, target) around every place where the kernels change their method, and around every edge."""
    if sizes is None:
        classes = (1, 2, 31, 32, 127, 128, 129, 1000, 2048, 2049, 5001, 33000, 70001)
        targets = (0, 1, 2, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1023, 1024, 2500)
        sizes = [(3, c, t) for c in classes for t in targets if t <= c and t * c < 4e7]
        sizes += [(rows, 300, 5) for rows in (1, 511, 513, 1025, 5000)] + [(20000, 10, 3), (600, 5000, 20)]
    for rows, c, t in sizes:
        for dtype in (np.float16, np.float32):
            input = rng.standard_normal((rows, c)).astype(dtype)
            labels = c if rng.integers(2) else max(1, t + int(rng.integers(2)))
            target = random_targets(rng, rows, c, labels, t)
            kind = ("plain", "ties", "NaN", "infinities", "masked", "out of range", "huge")[rng.integers(7)]
            if kind == "ties":
                input = np.round(input * 4) / dtype(4)
            elif kind == "NaN":
                input[rng.integers(rows), rng.integers(c)] = np.nan
            elif kind == "infinities":
                input[rng.integers(rows, size=2), rng.integers(c, size=2)] = (np.inf, -np.inf)
            elif kind == "masked":
                input[rng.random(input.shape) < 0.3] = -np.inf
            elif kind == "out of range" and t > 0:
                target[rng.integers(rows), rng.integers(min(t, labels))] = rng.choice((c, c + 1, 2**31 - 1))
            elif kind == "huge":
                input *= dtype(np.finfo(dtype).max / 16)
            yield f"N={rows} C={c} K={labels} T={t} {np.dtype(dtype).name} {kind}", input, target


def run_kernel(device, library, symbol, inputs, shape):
    """Runs a kernel on guarded copies; returns its output, and whether anything else was written."""
    dtype = inputs[0].dtype
    guarded = [device.guarded(array) for array in inputs]
    output, output_buffer = device.guarded(np.full(shape, 7, dtype))
    kernel = Kernel(library, symbol)
    workspace, workspace_buffer = device.guarded(np.full(kernel.workspace(), POISON, np.uint8))
    run = kernel.prepare(*[copy for copy, _ in guarded], output, workspace=workspace, stream=device.stream())
    run()
    first = device.get(output)
    run()
    same = first.tobytes() == device.get(output).tobytes()
    buffers = [device.get(buffer) for buffer in (output_buffer, workspace_buffer, *(buffer for _, buffer in guarded))]
    intact = all((part == POISON).all() for buffer in buffers for part in (buffer[:GUARD], buffer[-GUARD:]))
    intact &= all(device.get(copy).tobytes() == array.tobytes() for (copy, _), array in zip(guarded, inputs))
    return first, intact, same


def check_against_reference(device, library, mismatches, rng, sizes=None):
    """Losses and gradients of all cases; each kernel runs twice, and gives the same bits."""
    for name, input, target in cases(rng, sizes):
        reduction = REDUCTIONS[rng.integers(3)]
        dout = np.asarray(rng.standard_normal(len(input) if reduction == "none" else ()), input.dtype)
        expected = expectation(input, target, reduction, dout)
        function = "MultilabelMarginLoss" + ("" if target.shape == input.shape else "FromLabels")
        for symbol, inputs, result in (
            (function, (input, target), expected[0]),
            (f"{function}Grad", (input, target, dout), expected[1]),
        ):
            full_name = f"{symbol}{reduction.capitalize()}, {name}"
            actual, intact, same = run_kernel(device, library, symbol + reduction.capitalize(), inputs, result.shape)
            mismatches.check(full_name, actual, result, 2 * TOLERANCE[input.dtype.type])
            mismatches.require(f"{full_name}: something was written beside the output", intact)
            mismatches.require(f"{full_name}: a second run gave other bits", same)


def check_documented_example(device, library, mismatches):
    """The output in MindSpore's documentation, 0.325."""
    input = np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]], np.float32)
    target = np.array([[1, 2, 0, 3], [2, 3, -1, 1]], np.int32)
    loss, _, _ = run_kernel(device, library, "MultilabelMarginLossMean", (input, target), ())
    mismatches.require(f"the documented example is {loss!s}, not 0.325", str(loss) == "0.325")
    print(f"the documented example: {loss!s}")


def check_against_pytorch(gpu, library, mismatches, rng):
    """PyTorch's gradient adds 1/C pair by pair in float32, so that it drifts."""
    torch = gpu.torch
    for name, (rows, classes, targets) in SHAPES.items():
        input, target = batch(rows, classes, targets, seed=int(rng.integers(1000)))
        for reduction in REDUCTIONS:
            x = gpu.put(input).requires_grad_()
            loss = torch.nn.functional.multilabel_margin_loss(x, gpu.put(target).long(), reduction=reduction)
            dout = np.ones(loss.shape, np.float32)
            loss.backward(gpu.put(dout))
            ours, _, _ = run_kernel(
                gpu, library, "MultilabelMarginLoss" + reduction.capitalize(), (input, target), loss.shape
            )
            gradient, _, _ = run_kernel(
                gpu, library, "MultilabelMarginLossGrad" + reduction.capitalize(), (input, target, dout), input.shape
            )
            mismatches.check(f"PyTorch's loss, {name}, {reduction}", ours, gpu.get(loss.detach()), 1e-5)
            theirs = gpu.get(x.grad)
            worst = np.abs(gradient - theirs).max() / np.abs(gradient).max()
            mismatches.require(f"PyTorch's gradient, {name}, {reduction}: off by {worst}", worst < 1e-4)


def check_more_than_2_to_the_31_scores(gpu, library, mismatches):
    """Rows at both ends of a matrix of 2.2 billion float16 scores."""
    torch, rows, classes = gpu.torch, 2200, 1_000_003
    torch.manual_seed(1)
    input = torch.empty(rows, classes, dtype=torch.float16, device="cuda").normal_()
    target = torch.full((rows, classes), -1, dtype=torch.int32, device="cuda")
    target[:, :3] = torch.randint(0, classes, (rows, 3), device="cuda", dtype=torch.int32)
    loss = torch.empty(rows, dtype=torch.float16, device="cuda")
    dout, gradient = torch.ones_like(loss), torch.empty_like(input)
    for symbol, arrays in (
        ("MultilabelMarginLossNone", (input, target, loss)),
        ("MultilabelMarginLossGradNone", (input, target, dout, gradient)),
    ):
        kernel = Kernel(library, symbol)
        workspace = torch.empty(kernel.workspace(), dtype=torch.uint8, device="cuda")
        kernel.prepare(*arrays, workspace=workspace, stream=gpu.stream())()
    for row in (0, 1100, 2147, 2148, rows - 1):
        x, y = gpu.get(input[row : row + 1]), gpu.get(target[row : row + 1])
        expected = loss_and_gradient(x, y, "none", np.ones(1))
        mismatches.check(f"row {row} of {rows} x {classes}", gpu.get(loss[row : row + 1]), expected[0], 2.0**-10)
        mismatches.check(f"gradient of row {row}", gpu.get(gradient[row : row + 1]), expected[1], 2.0**-10)


def check_target_errors(library, mismatches):
    """MLML_CHECK_TARGETS=1 raises a C++ exception, which ends Python, with row, position, value and classes."""
    code = f"""
import torch
from benchmarks.measure import SHAPES, batch
from tests.support.aot import Kernel
input, target = torch.zeros(2, 4, device="cuda"), torch.tensor([[1, 2, 0, 3], [2, 7, -1, 1]], dtype=torch.int32).cuda()
kernel = Kernel({str(library)!r}, "MultilabelMarginLossMean")
workspace = torch.empty(kernel.workspace(), dtype=torch.uint8, device="cuda")
kernel.prepare(input, target, torch.empty((), device="cuda"), workspace=workspace)()
"""
    environment = {**os.environ, "MLML_CHECK_TARGETS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    wanted = "must be less than the number of classes, 4, but got target[1][1] = 7."
    mismatches.require(f"MLML_CHECK_TARGETS=1 said {result.stderr!r}", wanted in result.stderr)


# ----------------------------------------------------------------------------------------------------------------------
# AKG's kernels


def expected_of_hybrid(function, scores, margins, weights=None):
    """The hybrid kernels' outputs in NumPy, row by row."""
    scores = scores.reshape(len(margins), -1)
    output = np.zeros(scores.shape)
    for row in range(len(scores)):
        for j in np.flatnonzero(margins[row] > -np.inf):
            pairs = scores[row].astype(np.float32) + margins[row, j].astype(np.float32)
            active = np.where(pairs > 0, pairs if function == "hinge_sums" else weights[row, j], 0)
            output[row] += active.astype(np.float64)
    return output.reshape(-1)


def hybrid_inputs(launch, rng):
    """Few margins, so that the reference is quick, the others -inf; or, the other way round, few scores."""
    arrays = [rng.standard_normal(shape).astype(dtype) for dtype, shape in launch["inputs"]]
    absent = np.zeros(arrays[1].shape, bool)
    absent[:, rng.permutation(absent.shape[1])[20:]] = True
    arrays[1][absent] = -np.inf
    return arrays


def check_ptx(gpu, folder, mismatches, rng):
    """Launches AKG's kernels through CuPy."""
    import cupy  # noqa: PLC0415

    descriptions = sorted(Path(folder).glob("*.json"))
    mismatches.require(f"{folder} has launch descriptions", descriptions)
    for path in descriptions:
        launch = json.loads(path.read_text())
        inputs = hybrid_inputs(launch, rng)
        tensors = [gpu.put(array) for array in inputs]
        output, buffer = gpu.guarded(np.full(launch["output"][1], 7, launch["output"][0]))
        function = cupy.RawModule(path=str(path.with_suffix(".ptx"))).get_function(launch["kernel"])
        pointers = tuple(np.uint64(tensor.data_ptr()) for tensor in (*tensors, output))
        gpu.torch.cuda.synchronize()
        function(tuple(launch["grid"]), tuple(launch["block"]), pointers)
        cupy.cuda.Device().synchronize()
        mismatches.check(path.stem, gpu.get(output), expected_of_hybrid(launch["function"], *inputs), 1e-9)
        guards = gpu.get(buffer)
        mismatches.require(
            f"{path.stem}: guards", (guards[:GUARD] == POISON).all() and (guards[-GUARD:] == POISON).all()
        )


# ----------------------------------------------------------------------------------------------------------------------
# Speed


def bandwidth(gpu):
    """Bytes per second of reading, and of copying (both directions), that PyTorch's operators reach."""
    x = gpu.torch.ones(1 << 29, device="cuda")
    y = gpu.torch.empty_like(x)
    read = x.nbytes / gpu.milliseconds(lambda: gpu.torch.sum(x)) * 1e3
    copy = 2 * x.nbytes / gpu.milliseconds(lambda: y.copy_(x)) * 1e3
    return read, copy


def measure(gpu, library, size, bandwidths):
    """The times and ratios of one shape."""
    torch, (rows, classes, targets), (read, copy) = gpu.torch, size, bandwidths
    torch.manual_seed(0)
    x = torch.randn(rows, classes, device="cuda")
    target = torch.full((rows, classes), -1, dtype=torch.int32, device="cuda")
    target[:, :targets] = torch.rand(rows, classes, device="cuda").topk(targets)[1].int()
    long_target = target.long()
    loss, dout, gradient = torch.empty((), device="cuda"), torch.ones((), device="cuda"), torch.empty_like(x)
    times = {}
    for direction, symbol, arrays in (
        ("forward", "MultilabelMarginLossMean", (x, target, loss)),
        ("backward", "MultilabelMarginLossGradMean", (x, target, dout, gradient)),
    ):
        kernel = Kernel(library, symbol)
        workspace = torch.empty(kernel.workspace(), dtype=torch.uint8, device="cuda")
        times[direction] = gpu.milliseconds(kernel.prepare(*arrays, workspace=workspace, stream=gpu.stream()))
    theirs = torch.ops.aten
    _, is_target = theirs.multilabel_margin_loss_forward(x, long_target, 1)
    times["PyTorch forward"] = gpu.milliseconds(lambda: theirs.multilabel_margin_loss_forward(x, long_target, 1))
    times["PyTorch backward"] = gpu.milliseconds(
        lambda: theirs.multilabel_margin_loss_backward(dout, x, long_target, 1, is_target)
    )
    return {
        **times,
        "forward speed-up": times["PyTorch forward"] / times["forward"],
        "backward speed-up": times["PyTorch backward"] / times["backward"],
        "forward / read bandwidth": x.nbytes / times["forward"] * 1e3 / read,
        "backward / copy bandwidth": 2 * x.nbytes / times["backward"] * 1e3 / copy,
    }


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def table(rows):
    """Rows with the same keys as lines of text."""
    texts = [list(rows[0])] + [
        [value if isinstance(value, str) else f"{value:.3f}" for value in row.values()] for row in rows
    ]
    widths = [max(len(line[column]) for line in texts) for column in range(len(texts[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in texts)


def benchmark(gpu, library):
    """All rows of the table, and what the targets are about."""
    read, copy = bandwidth(gpu)
    sizes = {**SHAPES, **LARGE_SHAPES}
    rows = [{"shape": name, **measure(gpu, library, size, (read, copy))} for name, size in sizes.items()]
    known = [row for row in rows if row["shape"] in SHAPES]
    results = {
        "GPU": gpu.torch.cuda.get_device_name(),
        "read bandwidth, GB/s": read / 1e9,
        "copy bandwidth, GB/s": copy / 1e9,
        "forward speed-up, geometric mean": geometric_mean([row["forward speed-up"] for row in known]),
        "backward speed-up, geometric mean": geometric_mean([row["backward speed-up"] for row in known]),
        "times in ms": rows,
    }
    for name, value in results.items():
        if name != "times in ms":
            print(f"{name}: {value if isinstance(value, str) else round(value, 2)}")
    print(table(rows))
    return results


def build():
    """Builds the libraries into a temporary folder; returns the path of the CUDA library."""
    folder = tempfile.mkdtemp()
    command = [sys.executable, "setup.py", "-q", "build", f"--build-base={folder}/build", f"--build-lib={folder}/lib"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "MLML_WITH_CUDA": "1"}, check=True)
    return Path(folder, "lib", "mindspore_mlml", "_cuda.so")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ptx", metavar="DIR", help="what tools/akg_ptx.py wrote")
    parser.add_argument("--json", metavar="FILE", help="where to write the measurements")
    parser.add_argument("--library", metavar="FILE", help="a CUDA library that is built already")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="correctness only, and nothing large")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    library = arguments.library or build()
    gpu, mismatches = Gpu(), Mismatches()
    print(f"{gpu.torch.cuda.get_device_name()}, PyTorch {gpu.torch.__version__}")
    check_documented_example(gpu, library, mismatches)
    check_against_reference(gpu, library, mismatches, rng)
    check_against_pytorch(gpu, library, mismatches, rng)
    check_target_errors(library, mismatches)
    if arguments.ptx:
        check_ptx(gpu, arguments.ptx, mismatches, rng)
    if not arguments.quick:
        check_more_than_2_to_the_31_scores(gpu, library, mismatches)
        gpu.torch.cuda.empty_cache()
    print(f"{mismatches.checked} checks, {mismatches.count} mismatches")
    if not arguments.quick:
        results = benchmark(gpu, library)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    return 1 if mismatches.count else 0


if __name__ == "__main__":
    sys.exit(main())
