"""Measures the loss, against PyTorch and against the machine, and draws what it finds.

    pip install '.[benchmark]' torch==2.13.0
    python -m benchmarks.run --output benchmarks/results

Prints tables, writes results.json and plots. Every ratio compares medians of one run, with the same number of threads;
results.json has the 20th and the 80th percentiles too. What depends on the instruction set is measured for each that
the processor has. Without PyTorch its columns stay empty.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.aot import Kernel
from tests.support.builds import ISA_FLAGS, KERNELS
from tests.support.processes import run_python

THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0)))))

import mindspore as ms  # noqa: E402  OMP_NUM_THREADS first: importing MindSpore sets it
import numpy as np  # noqa: E402
import scipy.sparse  # noqa: E402
from mindspore import Tensor, nn, ops  # noqa: E402

from benchmarks.kernels import of_each_isa, supported_isas  # noqa: E402
from benchmarks.measure import (  # noqa: E402
    SHAPES,
    Limits,
    Medians,
    as_json,
    batch,
    extra_memory,
    interleaved_medians,
)
from mindspore_mlml import (  # noqa: E402
    _ops,
    multilabel_margin_loss,
    multilabel_margin_loss_from_labels,
    targets_from_lists,
)
from mindspore_mlml._backends import LIBRARIES, PREFERENCE, backends  # noqa: E402

try:
    import torch
except ImportError:
    torch = None

FORWARD = Kernel(LIBRARIES["cpu"], "MultilabelMarginLossMean")
BACKWARD = Kernel(LIBRARIES["cpu"], "MultilabelMarginLossGradMean")


def kernels(input, target):
    """Functions that run the forward and the backward kernel alone."""
    dtype = input.dtype
    forward = FORWARD.prepare(input, target, np.empty((), dtype))
    return forward, BACKWARD.prepare(input, target, np.ones((), dtype), np.empty_like(input))


def bare_loss(limits):
    """A function as the loss is, whose kernels do nothing."""
    register = _ops.aot(limits.library, "CPU", is_dynamic=False)
    gradient = register("DoNothingGrad", ("x", "y", "dout"), lambda x, *_: x, None)

    def bprop(x, y, output, dout):
        return gradient(x, y, dout), ops.zeros_like(y)

    loss = register("DoNothing", ("x", "y"), lambda *_: (), bprop)

    def bare(x, y):
        return loss(x, y)

    return bare


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(values))))


def end_to_end():
    """Through the public function, results fetched, against PyTorch's, and against what cannot be avoided: the same
    with kernels that do nothing, and streaming the bytes once."""
    limits = Limits(THREADS)
    rows = {}
    bare = bare_loss(limits)
    for name, (n, c, t) in SHAPES.items():
        input, target = batch(n, c, t)
        x_, y_ = Tensor(input), Tensor(target)
        step, bare_step = (ms.jit(ms.value_and_grad(loss)) for loss in (multilabel_margin_loss, bare))
        functions = {
            "forward": lambda x=x_, y=y_: multilabel_margin_loss(x, y).asnumpy(),
            "step": lambda x=x_, y=y_, step=step: [result.asnumpy() for result in step(x, y)],
            "bare forward": lambda x=x_, y=y_: bare(x, y).asnumpy(),
            "bare step": lambda x=x_, y=y_, step=bare_step: [result.asnumpy() for result in step(x, y)],
            "read": limits.read(input),
            "copy": limits.copy(input, np.empty_like(input)),
        }
        if torch is not None:
            functions |= pytorch(input, target)
        # Not in turn: MindSpore and PyTorch each keep threads spinning for a while after their calls.
        times = Medians()
        for key, function in functions.items():
            times.update(interleaved_medians({key: function}))
        times["forward / (bare forward + read)"] = times["forward"] / (times["bare forward"] + times["read"])
        times["step / (bare step + copy)"] = times["step"] / (times["bare step"] + times["copy"])
        if torch is not None:
            times["forward speed-up"] = times["PyTorch forward"] / times["forward"]
            times["step speed-up"] = times["PyTorch step"] / times["step"]
        rows[name] = times
    if torch is not None:
        for key in ("forward", "step"):
            rows[f"{key} speed-up, geometric mean"] = geometric_mean([rows[name][f"{key} speed-up"] for name in SHAPES])
    return rows


def end_to_end_with(**environment):
    """The same in a process of its own, in an environment that chooses the kernel."""
    return json.loads(run_python("-m", "benchmarks.run", "--end-to-end", **environment).splitlines()[-1])


def of_each_kernel():
    """Every kernel that a CPU can run, on labels of shape (N, T + 1), in turns so that noise is noise to all."""
    rows = {}
    for _ in range(3):
        for kernel in PREFERENCE["CPU"]:
            output = run_python("-m", "benchmarks.run", "--labels", MLML_KERNEL=kernel).splitlines()[-1]
            for name, seconds in json.loads(output).items():
                rows.setdefault(f"{kernel}, {name}", []).append(seconds)
    return {
        key: Medians({step: [turn[step] for turn in turns] for step in ("forward", "step")})
        for key, turns in rows.items()
    }


def measure_labels():
    """The medians of the loss from labels and of a step with it, by shape."""
    rows = {}
    for name in ("EURLex-4K", "Delicious-200K"):
        n, c, t = SHAPES[name]
        input, target = batch(n, c, t)
        x, labels = Tensor(input), Tensor(target[:, : t + 1].copy())
        step = ms.jit(ms.value_and_grad(multilabel_margin_loss_from_labels))
        functions = {
            "forward": lambda x=x, y=labels: multilabel_margin_loss_from_labels(x, y).asnumpy(),
            "step": lambda x=x, y=labels, step=step: [result.asnumpy() for result in step(x, y)],
        }
        rows[name] = {key: interleaved_medians({key: function})[key] for key, function in functions.items()}
    print(json.dumps(rows))


def pytorch(input, target):
    """PyTorch's forward, and forward and backward, on the same data."""
    torch.set_num_threads(THREADS)
    x, y = torch.tensor(input), torch.tensor(target).long()
    leaf = torch.tensor(input, requires_grad=True)

    def step():
        leaf.grad = None
        loss = torch.nn.functional.multilabel_margin_loss(leaf, y)
        loss.backward()
        return loss.item(), leaf.grad.numpy()

    return {
        "PyTorch forward": lambda: torch.nn.functional.multilabel_margin_loss(x, y).numpy(),
        "PyTorch step": step,
    }


class Composition(nn.Cell):
    """What a user would write with MindSpore's own operators. Even with the padding cut off, N * T * C floats."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def construct(self, x, y):
        counted = ops.cumsum((y < 0).astype(ms.int32), -1) == 0
        labels = ops.maximum(y, 0)
        zeros = ops.zeros(x.shape, ms.float32)
        is_target = ops.tensor_scatter_elements(zeros, labels, counted.astype(ms.float32), 1, "add") > 0
        targets = ops.gather_elements(x, 1, labels)
        hinge = ops.relu(1 - targets.expand_dims(2) + x.expand_dims(1))
        weight = counted.astype(ms.float32).expand_dims(2) * (1 - is_target.astype(ms.float32)).expand_dims(1)
        return (hinge * weight).sum((1, 2)).mean() / self.classes


def composition():
    """Time and memory of the composition, each in a process of its own."""
    rows = {}
    for name in SHAPES:
        command = [sys.executable, "-m", "benchmarks.run", "--composition", name]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        rows[name] = json.loads(result.stdout.splitlines()[-1]) if result.returncode == 0 else None
    return rows


def measure_composition(name):
    n, c, t = SHAPES[name]
    input, target = batch(n, c, t)
    x, short, y = Tensor(input), Tensor(target[:, : t + 1].copy()), Tensor(target)
    net = Composition(c)
    functions = {
        "ours": lambda: multilabel_margin_loss(x, y).asnumpy(),
        "composition": lambda: net(x, short).asnumpy(),
    }
    assert np.allclose(functions["ours"](), functions["composition"](), rtol=1e-3)
    figures = Medians()
    for key, function in functions.items():
        figures.update(interleaved_medians({key: function}, 0.5, 1))
    # Fresh inputs: MindSpore keeps the memory of one call for the next.
    figures["memory ours"] = extra_memory(functions["ours"])
    x, short = Tensor(np.tile(input, (2, 1))), Tensor(np.tile(target[:, : t + 1], (2, 1)))
    figures["memory composition, twice the batch"] = extra_memory(functions["composition"])
    print(json.dumps(as_json(figures)))


def share_of_preparing():
    """What share of a row's time goes into reading its labels, sorting and making tables: see preparing.cpp."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for isa in supported_isas():
            program = Path(folder, isa)
            sources = [Path(__file__).with_name("preparing.cpp"), KERNELS / "cpu" / "row.cpp"]
            flags = ["-std=c++17", "-O3", "-Wno-uninitialized", f"-DMLML_ISA={isa}", *ISA_FLAGS[isa]]
            subprocess.run(["g++", *flags, "-o", program, *sources], check=True)
            for shape in ("EURLex-4K", "Delicious", "dense"):
                output = subprocess.run([program, *map(str, SHAPES[shape])], capture_output=True, text=True, check=True)
                prepared_loss, loss, prepared_gradient, gradient = map(float, output.stdout.split())
                rows[f"{isa}, {shape}"] = {
                    "forward": loss,
                    "backward": gradient,
                    "share of preparing / forward": prepared_loss / loss,
                    "share of preparing / backward": prepared_gradient / gradient,
                }
    return rows


def against_targets():
    """Time of one row against the number of targets, and the fit a * C + b * C * log2(T + 1) + c * T * log2(T + 1)."""
    classes = 100_000
    counts = [1, 2, 4, 8, 16, 32, 64, 100, 200, 500, 1000, 3000, 10_000, 30_000, 100_000]
    times = []
    for t in counts:
        forward, _ = kernels(*batch(1, classes, t))
        times.append(interleaved_medians({"forward": forward}, 0.3)["forward"])
    work = np.array([[classes, classes * np.log2(t + 1), t * np.log2(t + 1)] for t in counts])
    # Relative errors count: the times span two orders of magnitude.
    coefficients, *_ = np.linalg.lstsq(work / np.array(times)[:, None], np.ones(len(counts)), rcond=None)
    return {"classes": classes, "targets": counts, "seconds": times, "fit": (work @ coefficients).tolist()}


def small_calls():
    """The cost of a call, next to a bare operator and to a built-in one."""
    input, target = batch(8, 10, 3)
    x, y = Tensor(input), Tensor(target)
    limits = Limits(THREADS)  # whose library the operator needs as long as it is called
    bare = bare_loss(limits)
    step, bare_step = (ms.jit(ms.value_and_grad(loss)) for loss in (multilabel_margin_loss, bare))
    labels = Tensor(np.zeros(8, np.int64))
    times = interleaved_medians(
        {
            "call": lambda: multilabel_margin_loss(x, y).asnumpy(),
            "bare call": lambda: bare(x, y).asnumpy(),
            "ops.multi_margin_loss": lambda: ops.multi_margin_loss(x, labels).asnumpy(),
            "step": lambda: [result.asnumpy() for result in step(x, y)],
            "bare step": lambda: [result.asnumpy() for result in bare_step(x, y)],
        },
        4.0,
    )
    times["call / bare"] = times["call"] / times["bare call"]
    times["step / bare"] = times["step"] / times["bare step"]
    return times


def memory_of_kernels():
    """What the kernels allocate, in a process that has its arrays already."""
    code = """
import numpy as np
from tests.support.aot import Kernel
from benchmarks.measure import batch, extra_memory
input, target = batch(64, 205443, {targets})
gradient, loss, one = np.ones_like(input), np.empty((), np.float32), np.ones((), np.float32)
forward = Kernel({library!r}, "MultilabelMarginLossMean").prepare(input, target, loss)
backward = Kernel({library!r}, "MultilabelMarginLossGradMean").prepare(input, target, one, gradient)
print(extra_memory(forward), extra_memory(backward), input.nbytes)
"""
    rows = {}
    for t in (5, 500, 100_000):
        program = code.format(targets=t, library=str(LIBRARIES["cpu"]))
        output = run_python("-c", program)
        forward, backward, size = map(int, output.split())
        per = max(forward, backward) / THREADS / 205443
        rows[t] = {"forward": forward, "backward": backward, "bytes per thread and class": per, "N*C*4": size}
    return rows


def from_labels():
    """Labels of shape (N, T) against a target of shape (N, C): the kernels, and the memory of a batch and a step."""
    n, c, t = 256, 205443, 76
    input, target = batch(n, c, t)
    labels = np.ascontiguousarray(target[:, :t])
    padded, narrow = kernels(input, target), kernels(input, labels)
    functions = {"forward": narrow[0], "backward": narrow[1], "padded forward": padded[0], "padded backward": padded[1]}
    times = interleaved_medians(functions, 4.0)
    times["labels / padded, forward"] = times["forward"] / times["padded forward"]
    times["labels / padded, backward"] = times["backward"] / times["padded backward"]
    for form in ("labels", "padded"):
        output = run_python("-m", "benchmarks.run", "--memory", form)
        times[f"peak memory of a step, {form}"] = int(output.splitlines()[-1])
    return times


def measure_memory(form):
    """The memory for the labels of a batch and a step with them, by how much the process grows at most."""
    n, c, t = 256, 205443, 76
    x = Tensor(np.ones((n, c), np.float32))
    rows = [list(range(row, row + t)) for row in range(n)]
    function = multilabel_margin_loss if form == "padded" else multilabel_margin_loss_from_labels
    step = ms.jit(ms.value_and_grad(function))
    step(x[:1], Tensor(targets_from_lists(rows[:1], c, None if form == "padded" else t)))[1].asnumpy()

    def run():
        y = Tensor(targets_from_lists(rows, c, None if form == "padded" else t))
        [result.asnumpy() for result in step(x, y)]

    print(extra_memory(run))


def conversions():
    """``targets_from_lists`` of 100 000 samples, against NumPy on CSR arrays, with the same checks and without any."""
    samples, classes, width = 100_000, 200_000, 20
    rng = np.random.default_rng(0)
    arrays = [rng.choice(classes, count, replace=False, shuffle=False) for count in rng.integers(1, width + 1, samples)]
    lists = [array.tolist() for array in arrays]
    indices, indptr = np.concatenate(arrays), np.cumsum([0, *map(len, lists)])
    csr = scipy.sparse.csr_matrix((np.ones(len(indices), np.int8), indices, indptr), shape=(samples, classes))
    functions = {
        "lists": lambda: targets_from_lists(lists, classes, width),
        "arrays": lambda: targets_from_lists(arrays, classes, width),
        "CSR": lambda: targets_from_lists(csr, classes, width),
        "NumPy": lambda: checked_targets_from_csr(indptr, indices, classes, width),
        "NumPy, unchecked": lambda: targets_from_csr(indptr, indices, width),
    }
    assert all((functions[name]() == functions["NumPy"]()).all() for name in ("lists", "arrays", "NumPy, unchecked"))
    times = interleaved_medians(functions, 5.0)
    for form in ("lists", "arrays", "CSR"):
        times[f"{form} / NumPy"] = times[form] / times["NumPy"]
    times["lists / NumPy, unchecked"] = times["lists"] / times["NumPy, unchecked"]
    return times


def targets_from_csr(indptr, indices, width):
    counts = np.diff(indptr)
    targets = np.full((len(counts), width), -1, np.int32)
    targets[np.arange(width) < counts[:, None]] = indices
    return targets


def checked_targets_from_csr(indptr, indices, classes, width):
    """The same, if no class is out of range or twice in a row, and no row is too long."""
    counts = np.diff(indptr)
    in_order = np.sort(np.repeat(np.arange(len(counts)) * classes, counts) + indices)
    assert indices.min() >= 0
    assert indices.max() < classes
    assert counts.max() <= width
    assert (in_order[1:] > in_order[:-1]).all()
    return targets_from_csr(indptr, indices, width)


def long_rows():
    """One long row with all threads against one."""
    rows = {}
    for t in (5, 76):
        forward, backward = kernels(*batch(1, 10_000_000, t))
        for key, kernel in (("forward", forward), ("backward", backward)):

            def with_threads(threads, kernel=kernel):
                set_threads(threads)
                kernel()

            functions = {"1": lambda run=with_threads: run(1), "all": lambda run=with_threads: run(THREADS)}
            times = interleaved_medians(functions, 1.0)
            rows[f"T={t}, 1 thread / {THREADS}, {key}"] = times["1"] / times["all"]
    return rows


def set_threads(threads):
    ctypes.CDLL(str(LIBRARIES["cpu"])).MultilabelMarginLossSetThreads(threads)


def machine():
    """The processor, what the figures were measured with, and when."""

    def first_line(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("\n")[0]

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": backends()[0].reason,
        "compiler": first_line("g++", "--version"),
        "commit": first_line("git", "describe", "--always", "--dirty"),
        "date": time.strftime("%Y-%m-%d"),
        "mindspore": ms.__version__,
        "torch": torch.__version__ if torch is not None else None,
    }


def print_table(title, rows):
    """Seconds are printed as milliseconds, everything else as it is."""
    print(f"\n{title}")
    for name, row in rows.items():
        if row is None:
            print(f"  {name!s:<26}failed: not enough memory")
        elif isinstance(row, dict):
            cells = [f"{key} {format_value(key, value)}" for key, value in row.items() if "percentile" not in key]
            print(f"  {name!s:<26}" + "  ".join(cells))
        else:
            print(f"  {name:<56}{format_value(name, row)}")


def format_value(key, value):
    if not isinstance(value, float):
        return str(value)
    if "/" in key or "speed-up" in key or "per" in key:
        return f"{value:.2f}"
    return f"{value * 1e3:.3f} ms"


def draw(results, folder):
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    def save(figure, name):
        figure.savefig(folder / name, dpi=110)
        plt.close(figure)

    isas = list(results["end to end"])
    if torch is not None:
        figure, both = plt.subplots(2, 1, figsize=(7, 5.6), layout="constrained", sharex=True)
        names, places = list(SHAPES), np.arange(len(SHAPES))
        width = 0.8 / len(isas)
        for axes, key in zip(both, ("forward", "step")):
            for number, isa in enumerate(isas):
                values = [results["end to end"][isa][name][f"{key} speed-up"] for name in names]
                bars = axes.bar(places + (number - (len(isas) - 1) / 2) * width, values, width * 0.95, label=isa)
                axes.bar_label(bars, fmt="%.0f", fontsize=8)
            axes.set_title({"forward": "Forward, PyNative", "step": "Forward + backward, jit"}[key], fontsize=10)
            axes.set(yscale="log", ylabel="times as fast as PyTorch")
            axes.margins(y=0.2)
        both[0].legend(fontsize=8)
        both[1].set_xticks(places, [f"{name}\n{SHAPES[name]}" for name in names], fontsize=8)
        save(figure, "speedup.png")

    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    curve = results["against T"]
    axes.plot(curve["targets"], np.array(curve["seconds"]) * 1e3, "o", label="measured")
    axes.plot(curve["targets"], np.array(curve["fit"]) * 1e3, "-", label="fit: a·C + b·C·log T + c·T·log T")
    axes.set(xscale="log", yscale="log", xlabel="T, targets of the row", ylabel="ms")
    axes.set_title(f"Forward of one row of {curve['classes']:,} classes")
    axes.legend()
    axes.grid(alpha=0.3)
    save(figure, "targets.png")

    for isa in isas:
        figure, both = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
        for axes, kernel, limit in zip(both, ("forward", "backward"), ("read", "copy")):
            for key, style in (("random scores", "-"), ("99 % of the margins met", "--")):
                for dtype, colour in (("float32", "C0"), ("float16", "C1")):
                    rows = results[f"kernels, {key}"][isa][dtype]
                    counts = [int(count) for count in rows]
                    ratios = [row[f"{kernel} / {limit}"] for row in rows.values()]
                    axes.plot(counts, ratios, style, marker=".", color=colour, label=f"{dtype}, {key}")
            axes.set(xscale="log", yscale="log", xlabel="T", title=f"{kernel} / {limit}, {isa}")
            axes.grid(alpha=0.3)
        both[0].legend(fontsize=7)
        both[0].set_ylabel("times as long as streaming")
        save(figure, f"limit_{isa}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--composition", choices=SHAPES, help=argparse.SUPPRESS)  # run in a process of its own
    parser.add_argument("--memory", choices=["labels", "padded"], help=argparse.SUPPRESS)  # likewise
    parser.add_argument("--end-to-end", action="store_true", help=argparse.SUPPRESS)  # likewise
    parser.add_argument("--labels", action="store_true", help=argparse.SUPPRESS)  # likewise
    arguments = parser.parse_args()
    if arguments.composition:
        measure_composition(arguments.composition)
        return
    if arguments.memory:
        measure_memory(arguments.memory)
        return
    if arguments.labels:
        measure_labels()
        return
    if arguments.end_to_end:
        print(json.dumps(as_json(end_to_end())))
        return

    results = {"machine": machine()}
    print("machine:", ", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    arguments.output.mkdir(parents=True, exist_ok=True)

    def add(name, title, rows):
        results[name] = rows
        print_table(title, rows)
        save()

    def save():
        text = json.dumps(as_json(results), indent=2)
        (arguments.output / "results.json").write_text(text + "\n", encoding="utf-8")

    results["end to end"] = {isa: end_to_end_with(MLML_SIMD=isa) for isa in supported_isas()}
    for isa, rows in results["end to end"].items():
        print_table(f"End to end, {isa}, N, C, T as in {SHAPES}", rows)
    for key, options in (("random scores", ()), ("99 % of the margins met", ("--met",))):
        print(f"\nKernels alone, N, C = 64, 205443, {key}")
        results[f"kernels, {key}"] = of_each_isa(supported_isas(), *options)
    add("kernels of a CPU", f"Each kernel, labels of T + 1 columns, N, C, T as in {SHAPES}", of_each_kernel())
    add("composition of MindSpore's operators", "All pairs by MindSpore's operators, forward", composition())
    add("share of preparing", "What share of a row's time is preparing it, one thread", share_of_preparing())
    curve = against_targets()
    results["against T"] = curve
    by_targets = zip(curve["targets"], curve["seconds"], curve["fit"])
    print_table("One row of 100 000 classes", {f"T = {t}": {"measured": s, "fit": f} for t, s, f in by_targets})
    add("small calls", "Small calls, (8, 10, 3)", small_calls())
    add("extra memory", "Extra memory of forward and backward, N = 64, C = 205443, by T", memory_of_kernels())
    add("from labels", "Labels of shape (256, 76) against a target of shape (256, 205443)", from_labels())
    add("conversions", "Lists of classes of 100 000 samples, 1 to 20 of 200 000 classes", conversions())
    add("long rows", "One row of 10 million classes, all threads against one", long_rows())

    save()
    draw(results, arguments.output)
    print(f"\nresults.json and plots are in {arguments.output}")


if __name__ == "__main__":
    main()
