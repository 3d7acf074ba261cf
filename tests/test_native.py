"""The CPU library as others build, load and call it: malformed calls, faults, races, hardening."""

import ctypes
import subprocess

import numpy as np
import pytest

from benchmarks.measure import memory
from mindspore_mlml._backends import LIBRARIES
from tests.support.aot import Kernel
from tests.support.builds import NATIVE, build_cpu, compile_program
from tests.support.cases import random_batch
from tests.support.linear import saved_size
from tests.support.processes import run_program, run_python
from tests.support.reference import expectation
from tools import fuzz_kernels, fuzz_slices

LIBRARY = LIBRARIES["cpu"]


# ----------------------------------------------------------------------------------------------------------------------
# Malformed calls


class Call:
    """The raw arguments of a call that is right, to be spoiled one by one."""

    def __init__(self, *arrays):
        self.arrays = arrays
        self.nparam = len(self.arrays)
        self.params = [array.ctypes.data for array in self.arrays]
        self.shapes = [list(array.shape) for array in self.arrays]
        self.ndims = [array.ndim for array in self.arrays]
        self.dtypes = [array.dtype.name.encode() for array in self.arrays]
        self.missing = ()

    def run(self, kernel):
        shapes = [np.array([*shape, *[2] * 3], np.int64) if shape is not None else None for shape in self.shapes]
        arguments = {
            "params": (ctypes.c_void_p * len(self.params))(*self.params),
            "ndims": (ctypes.c_int * len(self.ndims))(*self.ndims),
            "shapes": (ctypes.c_void_p * len(shapes))(*[None if s is None else s.ctypes.data for s in shapes]),
            "dtypes": (ctypes.c_char_p * len(self.dtypes))(*self.dtypes),
        }
        kernel.call(self.nparam, *[None if name in self.missing else value for name, value in arguments.items()])


def whole_call(gradient):
    arrays = [np.zeros((2, 4), np.float32), np.zeros((2, 4), np.int32), np.zeros((), np.float32)]
    return Call(*arrays, *([np.zeros((2, 4), np.float32)] if gradient else []))


SPOILED = {
    "too few parameters": ("nparam", 2, "takes . parameters, but got 2"),
    "too many parameters": ("nparam", 7, "takes . parameters, but got 7"),
    "no parameters": ("nparam", 0, "takes . parameters, but got 0"),
    "a negative number of parameters": ("nparam", -1, "takes . parameters, but got -1"),
    "no list of parameters": ("missing", ("params",), "null pointer instead of its parameters"),
    "no list of ranks": ("missing", ("ndims",), "null pointer instead of its parameters"),
    "no list of shapes": ("missing", ("shapes",), "null pointer instead of its parameters"),
    "no list of dtypes": ("missing", ("dtypes",), "null pointer instead of its parameters"),
    "float64 input": ("dtypes[0]", b"float64", "dtype of 'input' must be float16 or float32, but got float64"),
    "empty dtype": ("dtypes[0]", b"", "dtype of 'input' must be float16 or float32, but got "),
    "no dtype": ("dtypes[0]", None, "dtype of 'input' must be float16 or float32, but got none"),
    "int64 target": ("dtypes[1]", b"int64", "dtype of 'target' must be int32, but got int64"),
    "no dtype of target": ("dtypes[1]", None, "dtype of 'target' must be int32, but got none"),
    "an output of another dtype": ("dtypes[2]", b"float16", "must be that of 'input', but got float16"),
    "rank 0": ("ndims[0]", 0, r"must be 1 or 2, but got shape \(\); the shape of 'target' is \(2, 4\)"),
    "rank 3": ("ndims[0]", 3, r"must be 1 or 2, but got shape \(2, 4, 2\); the shape of 'target' is \(2, 4\)"),
    "a negative rank": ("ndims[0]", -1, "parameter 0 of the kernel has no shape"),
    "a negative rank of target": ("ndims[1]", -1, "parameter 1 of the kernel has no shape"),
    "no shape": ("shapes[0]", None, "parameter 0 of the kernel has no shape"),
    "other rows": ("shapes[1]", [3, 4], r"'input'.* \(2, 4\), but got (shape )?\(3, 4\)"),
    "negative rows": ("shapes", [[-1, 4], [-1, 4], [], [-1, 4]], "number of classes must be positive"),
    "no classes": ("shapes", [[2, 0], [2, 0], [], [2, 0]], "number of classes must be positive"),
    "negative classes": ("shapes", [[2, -4], [2, -4], [], [2, -4]], "number of classes must be positive"),
    "no labels": ("shapes[1]", [2, 0], r"(same as that of 'input'|label or a negative value).* \(2, 0\)"),
    "a size beyond 64 bits": ("shapes", [[2**62, 8], [2**62, 8], [], [2**62, 8]], "too large"),
    "no input": ("params[0]", None, "parameter 0 of the kernel is a null pointer"),
    "no target": ("params[1]", None, "parameter 1 of the kernel is a null pointer"),
    "no output": ("params[2]", None, "parameter 2 of the kernel is a null pointer"),
}


# What each function's symbols begin with, and the names in their errors.
FUNCTIONS = {
    "MultilabelMarginLoss": ("multilabel_margin_loss", "target"),
    "MultilabelMarginLossFromLabels": ("multilabel_margin_loss_from_labels", "labels"),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_malformed_call_is_an_error_of_the_function_that_was_called(function, gradient, spoiled):
    kernel = Kernel(LIBRARY, f"{function}{'Grad' if gradient else ''}Mean")
    call = whole_call(gradient)
    call.run(kernel)
    place, value, message = SPOILED[spoiled]
    name, _, index = place.rstrip("]").partition("[")
    if index:
        getattr(call, name)[int(index)] = value
    else:
        setattr(call, name, value[: len(call.arrays)] if name == "shapes" else value)
    name, target = FUNCTIONS[function]
    with pytest.raises(RuntimeError, match=f"^For '{name}', .*{message.replace('target', target)}") as error:
        call.run(kernel)
    assert target == "target" or "target" not in str(error.value)


@pytest.mark.parametrize("gradient", [False, True])
def test_only_the_loss_of_targets_needs_as_many_columns_as_classes(gradient):
    call = whole_call(gradient)
    call.shapes[1] = [2, 3]
    symbol = f"{'Grad' if gradient else ''}Mean"
    call.run(Kernel(LIBRARY, f"MultilabelMarginLossFromLabels{symbol}"))
    with pytest.raises(RuntimeError) as error:
        call.run(Kernel(LIBRARY, f"MultilabelMarginLoss{symbol}"))
    assert str(error.value) == (
        "For 'multilabel_margin_loss', the shape of 'target' must be the same as that of 'input', (2, 4), but got "
        "(2, 3)."
    )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("reduction", ["None", "Mean", "Sum"])
def test_a_target_out_of_range_is_an_error_of_the_function_that_was_called(function, reduction):
    name, target = FUNCTIONS[function]
    arrays = [np.zeros((2, 4), np.float32), np.array([[1, -1, 9, 9], [0, 2, 4, 0]], np.int32)]
    loss = np.zeros(2 if reduction == "None" else (), np.float32)
    message = (
        f"For '{name}', a value of '{target}' must be less than the number of classes, 4, but got {target}[1][2] = 4."
    )
    for symbol, others in (("", [loss]), ("Grad", [loss, np.zeros((2, 4), np.float32)])):
        kernel = Kernel(LIBRARY, f"{function}{symbol}{reduction}")
        with pytest.raises(RuntimeError) as error:
            kernel.prepare(*arrays, *others)()
        assert str(error.value) == message


def test_an_output_of_another_size_is_an_error():
    kernel = Kernel(LIBRARY, "MultilabelMarginLossGradMean")
    call = whole_call(True)
    call.shapes[3] = [2, 3]
    with pytest.raises(RuntimeError, match=r"'gradient' must have 8 elements, but got shape \(2, 3\)"):
        call.run(kernel)


def spoil(call, index):
    """Spoils a parameter in all ways, one by one."""
    shape = call.shapes[index]
    for name, value in (
        ("params", None),
        ("dtypes", None),
        ("dtypes", b"float64"),
        ("ndims", -1),
        ("shapes", None),
        ("shapes", [-size for size in shape[:1]] + shape[1:]),
        ("shapes", [2**62, *shape[1:]]),
    ):
        values = getattr(call, name)
        before, values[index] = values[index], value
        yield f"{name}[{index}] = {value}"
        values[index] = before


@pytest.mark.parametrize("function", [name for name in fuzz_kernels.FUNCTIONS if name not in FUNCTIONS])
def test_malformed_call_of_a_layer_or_slice_is_an_error(function):
    layer = {"features": np.ones((2, 3), np.float32), "weight": np.ones((5, 3), np.float16), "bias": np.zeros(5, "f4")}
    is_linear = function in (fuzz_kernels.LINEAR, fuzz_kernels.SHARDED)
    case = {
        **(layer if is_linear else {}),
        "input": np.full((2, 5), 3, np.float32),
        "target": np.array([[0, 4, -1], [2, 2, 3]], np.int32),
        "dout": np.ones(2, np.float32),
        **{"reduction": "none", "cuts": [0.5], "offset": 0, "malformed": None},
    }
    begin, _ = fuzz_kernels.FUNCTIONS[function]
    said = {}

    def error_of(kernel, call):
        try:
            call.run(kernel)
        except RuntimeError as error:
            return str(error)
        return "nothing"

    def check(step, inputs, outputs):
        kernel, call = Kernel(LIBRARY, function + step), Call(*inputs, *outputs)
        call.run(kernel)
        for index in range(call.nparam):
            for what in spoil(call, index):
                said[step, what] = error_of(kernel, call)
        for nparam in (0, call.nparam - 1, call.nparam + 1, -1):
            call.nparam = nparam
            said[step, nparam] = error_of(kernel, call)
        return None, outputs

    if function == fuzz_kernels.LINEAR:
        assert fuzz_slices.run_layer(case, check, None, saved_size) is not None
    else:
        assert fuzz_slices.run(case, check, None, saved_size=saved_size if is_linear else None) is not None
    assert {what: message for what, message in said.items() if not message.startswith(begin)} == {}
    assert len(said) > 200


def test_more_rows_than_can_be_counted_are_an_error():
    place, header = np.array([1, 0, 1, 0]), np.zeros(17, np.float32)
    call = Call(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int32), place, header)
    call.shapes[0] = call.shapes[1] = [2**40, 1]
    with pytest.raises(RuntimeError, match="there are too many rows: 1099511627776"):
        call.run(Kernel(LIBRARY, "MultilabelMarginLossClassParallelHeader"))


# ----------------------------------------------------------------------------------------------------------------------
# Faults and races


@pytest.mark.slow
@pytest.mark.parametrize("room", ["usual", "little"])
def test_failing_allocations_and_threads_surface_as_errors_or_not_at_all(tmp_path, room):
    library = LIBRARY if room == "usual" else build_cpu(tmp_path, f"-O1 {fuzz_kernels.LITTLE_ROOM}")
    result = run_program(compile_program("faults.cpp", library, tmp_path / "faults"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert ", 0 wrong" in result.stdout


@pytest.fixture(scope="session")
def thread_sanitized(tmp_path_factory):
    return build_cpu(tmp_path_factory.mktemp("tsan"), f"-O1 -g1 -fsanitize=thread {fuzz_kernels.LITTLE_ROOM}")


@pytest.mark.slow
def test_thread_sanitizer_finds_no_race_but_a_planted_one(thread_sanitized, tmp_path):
    flags = ["-fsanitize=thread"]
    clean = run_program(compile_program("races.cpp", thread_sanitized, tmp_path / "races", *flags))
    assert clean.returncode == 0, clean.stdout + clean.stderr
    assert "WARNING: ThreadSanitizer" not in clean.stderr
    planted = run_program(compile_program("races.cpp", thread_sanitized, tmp_path / "planted", *flags, "-DPLANT_RACE"))
    assert planted.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in planted.stderr
    assert "races.cpp" in planted.stderr


def test_the_corpus_of_the_fuzzer_passes(tmp_path):
    program = compile_program("fuzz_row.cpp", LIBRARY, tmp_path / "replay", "-DREPLAY")
    corpus = sorted((NATIVE / "corpus").iterdir())
    result = run_program(program, *corpus)
    assert result.stdout == f"{len(corpus)} cases\n", result.stderr


def test_the_fuzzer_makes_a_failing_case_smaller():
    case = fuzz_kernels.make_case(1, 0, fuzz_kernels.WHOLE)
    case = {**case, "input": np.ones((4, 100), np.float32), "target": np.full((4, 100), -1, np.int32)}
    case["input"][2, 70] = 9
    case["dout"] = np.ones((), np.float32)

    def fails(candidate):
        return 9 in candidate["input"]

    small = fuzz_kernels.minimize(case, fails)
    assert small["input"].shape[0] == 1
    assert small["target"].shape == (1, 1)
    assert small["threads"] == 1
    assert fails(small)


@pytest.mark.parametrize("function", [name for name in fuzz_kernels.FUNCTIONS if name not in fuzz_kernels.WHOLE])
def test_what_the_fuzzer_makes_smaller_for_a_slice_of_the_classes_is_a_case(function):
    runner = fuzz_kernels.Runner(LIBRARY)
    cases = [fuzz_kernels.make_case(1, index, (function,)) for index in range(5)]
    candidates = [candidate for case in cases for candidate in fuzz_kernels.smaller(case)]
    assert [problem for candidate in candidates if (problem := runner.problem(candidate))] == []
    assert len(candidates) > 10


def test_the_fuzzer_sees_a_wrong_result_and_a_missing_error(monkeypatch):
    runner = fuzz_kernels.Runner(LIBRARY)
    problems = [runner.problem(fuzz_kernels.make_case(5, index)) for index in range(300)]
    assert problems == [None] * 300
    monkeypatch.setattr(fuzz_kernels, "expectation", lambda *a: [value + 1e6 for value in expectation(*a)])
    original = fuzz_kernels.expected_error
    monkeypatch.setattr(
        fuzz_kernels, "expected_error", lambda case, *_: "x" if case["threads"] == 1 else original(case)
    )
    problems = [runner.problem(fuzz_kernels.make_case(5, index)) for index in range(300)]
    assert sum(problem is not None for problem in problems) > 100
    assert any(", not 1" in problem for problem in problems if problem)
    assert any("the error is None" in problem for problem in problems if problem)


@pytest.mark.skipif(run_program("which", "valgrind").returncode != 0, reason="valgrind is not installed")
@pytest.mark.slow
def test_valgrind_finds_nothing(tmp_path):
    program = compile_program("races.cpp", LIBRARY, tmp_path / "races")
    # Debian's valgrind knows no AVX-512.
    options = ["--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"]
    result = run_program("valgrind", "--tool=memcheck", *options, program, MLML_SIMD="avx2")
    assert result.returncode == 0, result.stderr
    assert "ERROR SUMMARY: 0 errors" in result.stderr


# ----------------------------------------------------------------------------------------------------------------------
# The library


def test_it_is_hardened_and_exports_the_documented_symbols_only():
    def readelf(option):
        return subprocess.run(["readelf", "-W", option, LIBRARY], capture_output=True, text=True, check=True).stdout

    segments = readelf("-l")
    assert "GNU_RELRO" in segments
    (stack,) = (line for line in segments.splitlines() if "GNU_STACK" in line)
    assert " RW " in stack
    assert "BIND_NOW" in readelf("-d")
    symbols = [line.split() for line in readelf("--dyn-syms").splitlines()]
    defined = {row[7] for row in symbols if len(row) > 7 and row[4] in ("GLOBAL", "WEAK") and row[6] != "UND"}
    reductions = ("None", "Mean", "Sum")
    whole = {f"{name}{grad}{r}" for name in FUNCTIONS for grad in ("", "Grad", "GradAfterReport") for r in reductions}
    kernels = whole | set(fuzz_kernels.Runner(LIBRARY).kernels)
    kernels |= {f"{fuzz_kernels.LINEAR}Layer{r}" for r in reductions}  # that differs in what errors call it
    kernels |= {kernel + end for kernel in kernels for end in ("InferShape", "InferType")}
    others = ("Call", "SetGemm", "SetThreads", "Threads", "Isa", "Isas", "LinearSavedSize", "LinearSavesAll")
    assert defined == kernels | {"MultilabelMarginLoss" + end for end in others}
    imported = {row[7].split("@")[0] for row in symbols if len(row) > 7 and row[6] == "UND"}
    assert "__stack_chk_fail" in imported
    assert not any(name.startswith(("Py", "_Py", "GOMP")) for name in imported)


@pytest.mark.slow
def test_it_has_no_debug_information_unless_the_compiler_flags_ask_for_it(thread_sanitized):
    def sections(library):
        return subprocess.run(["readelf", "-WS", library], capture_output=True, text=True, check=True).stdout

    assert ".debug_info" not in sections(LIBRARY)
    assert ".debug_info" in sections(thread_sanitized)  # built with CXXFLAGS=-g1


RELOAD = """
import _ctypes, os, sys
import numpy as np
from tests.support.aot import Kernel
rng = np.random.default_rng(0)
input, target = rng.standard_normal((8, 50000), np.float32), np.full((8, 50000), -1, np.int32)
target[:, :9] = np.arange(9)
threads, losses, mapped = [], [], []
for _ in range(4):
    kernel, loss = Kernel(sys.argv[1], "MultilabelMarginLossMean"), np.zeros((), np.float32)
    kernel._library.MultilabelMarginLossSetThreads(4)
    kernel.prepare(input, target, loss)()
    _ctypes.dlclose(kernel._library._handle)
    threads.append(len(os.listdir("/proc/self/task")))
    losses.append(float(loss))
    with open("/proc/self/maps") as file:
        mapped.append(sys.argv[1] in file.read())
print(len(set(threads)), len(set(losses)), *mapped)
"""


def test_its_helper_threads_outlive_its_being_closed_and_serve_it_when_it_is_loaded_again():
    assert run_python("-c", RELOAD, str(LIBRARY)) == "1 1 True True True True\n"


def test_it_may_be_loaded_twice(tmp_path):
    code = f"""
import ctypes, shutil, numpy as np
from tests.support.aot import Kernel
shutil.copy({str(LIBRARY)!r}, {str(tmp_path / "copy.so")!r})
rng = np.random.default_rng(0)
input, target = rng.standard_normal((8, 50000)).astype(np.float32), rng.integers(0, 50000, (8, 50000)).astype(np.int32)
target[:, 9] = -1
losses = []
for library in ({str(LIBRARY)!r}, {str(tmp_path / "copy.so")!r}):
    loss = np.zeros((), np.float32)
    Kernel(library, "MultilabelMarginLossMean").prepare(input, target, loss)()
    losses.append(float(loss))
print(losses[0] == losses[1])
"""
    assert run_python("-c", code) == "True\n"


@pytest.mark.parametrize("order", ["torch first", "torch last"])
def test_it_works_beside_pytorch_whichever_is_loaded_first(order):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
    ours = "import mindspore_mlml; from mindspore import Tensor"
    imports = ["import torch", ours] if order == "torch first" else [ours, "import torch"]
    code = "\n".join(
        [
            *imports,
            """
import numpy as np
input = np.random.default_rng(0).standard_normal((8, 50000)).astype(np.float32)
target = np.full((8, 50000), -1, np.int32)
target[:, :5] = [1, 2, 3, 4, 5]
for _ in range(3):
    theirs = torch.nn.functional.multilabel_margin_loss(torch.tensor(input), torch.tensor(target).long())
    ours = mindspore_mlml.multilabel_margin_loss(Tensor(input), Tensor(target)).asnumpy()
    assert abs(theirs.item() - ours) < 1e-4 * ours
print("agree")
""",
        ]
    )
    assert run_python("-c", code).endswith("agree\n")


# ----------------------------------------------------------------------------------------------------------------------
# Memory over many calls

SOAK = """
import sys
import mindspore as ms
from mindspore import Tensor
from tests.support.cases import random_batch
from tests.support.linear import saved_size
from benchmarks.measure import memory
from mindspore_mlml import multilabel_margin_loss
import numpy as np
ms.set_context(mode=getattr(ms, sys.argv[1]))
call = ms.jit(multilabel_margin_loss) if sys.argv[1] == "GRAPH_MODE" else multilabel_margin_loss
x, y = map(Tensor, random_batch(np.random.default_rng(0), 8, 50, 9))
for _ in range(10000):
    call(x, y).asnumpy()
before = memory("VmRSS")
for _ in range(int(sys.argv[2])):
    call(x, y).asnumpy()
print((memory("VmRSS") - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["PYNATIVE_MODE", "GRAPH_MODE"])
def test_memory_does_not_grow_over_100_000_calls(mode):
    assert float(run_python("-c", SOAK, mode, "100000").split()[-1]) < 4  # MiB; MindSpore's own operators take 0.3


def test_memory_of_the_kernels_does_not_grow(rng):
    input, target = random_batch(rng, 8, 3000, 300)
    loss, gradient, dout = np.zeros((), np.float32), np.zeros_like(input), np.ones((), np.float32)
    forward = Kernel(LIBRARY, "MultilabelMarginLossMean").prepare(input, target, loss)
    backward = Kernel(LIBRARY, "MultilabelMarginLossGradMean").prepare(input, target, dout, gradient)
    for calls in (200, 2000):
        before = memory("VmRSS")
        for _ in range(calls):
            forward()
            backward()
        grown = memory("VmRSS") - before
    assert grown < 2**20
