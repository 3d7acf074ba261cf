"""The kernels called through Python, as on Windows: the bits of `cpu`, without MindSpore loading the library."""

import os
import shutil
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindspore_mlml import MultilabelMarginLoss, multilabel_margin_loss, multilabel_margin_loss_from_labels
from mindspore_mlml._backends import PACKAGE
from tests.support.cases import DTYPES, EXAMPLE_INPUT, EXAMPLE_TARGET, REDUCTIONS, SEMANTICS, random_batch
from tests.support.compare import check_against_reference, check_second_derivatives, check_threads, close
from tests.support.nets import FORMS_FROM_LABELS, PYNATIVE_AND_SLOWLY_GRAPH, run_gradient, run_loss
from tests.support.processes import ROOT, run_program, run_script
from tests.support.reference import loss_and_gradient

loads_libraries = pytest.mark.skipif(sys.platform == "win32", reason="there, MindSpore does not load the library")


@pytest.fixture(autouse=True)
def host(force_kernel):
    force_kernel("host")


def results(input, target, dout, reduction):
    """The bytes of loss and gradient, and the shape of the loss."""
    loss = run_loss(input, target, reduction)
    return loss.asnumpy().tobytes(), loss.shape, run_gradient(input, target, dout, reduction).tobytes()


@loads_libraries
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_bits_are_those_of_cpu(mode, force_kernel, rng, dtype, reduction):
    semantics = [np.array(values) for values in zip(*SEMANTICS.values())]
    batches = [random_batch(rng, 30, 700, 300, dtype), (semantics[0].astype(dtype), semantics[1].astype(np.int32))]
    batches.append([array[3] for array in batches[0]])
    batches.append([array[:0] for array in batches[0]])
    for input, target in batches:
        dout = rng.standard_normal(input.shape[:-1] if reduction == "none" else ()).astype(dtype)
        of_host = results(input, target, dout, reduction)
        force_kernel("cpu")
        assert of_host == results(input, target, dout, reduction)
        force_kernel("host")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_short_rows_of_labels(mode, rng, reduction):
    input, target = random_batch(rng, 3, 40, 5)
    labels = np.ascontiguousarray(target[:, :6])
    net = FORMS_FROM_LABELS["function"](reduction)
    close(net(Tensor(input), Tensor(labels)), loss_and_gradient(input, labels, reduction)[0])


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_empty_batch_has_loss_zero(mode, reduction):
    check_against_reference(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.int32), reduction)


def test_second_derivatives(mode, rng):
    check_second_derivatives(rng, np.float32, "mean", 3)


def test_a_target_out_of_range_is_an_error_after_which_other_calls_go_on(mode):
    """But MindSpore does not run the same graph again: "Invalid output number"."""
    target = EXAMPLE_TARGET.copy()
    target[1, 1] = 4
    functions = {"target": multilabel_margin_loss, "labels": multilabel_margin_loss_from_labels}
    for name, function in functions.items():
        run = ms.jit(function) if mode == "graph" else function
        with pytest.raises(RuntimeError, match=rf"number of classes, 4, but got {name}\[1\]\[1\] = 4") as error:
            run(Tensor(EXAMPLE_INPUT), Tensor(target)).asnumpy()
        assert f"For '{function.__name__}'" in str(error.value)
    check_against_reference(EXAMPLE_INPUT, EXAMPLE_TARGET)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_unknown_shapes_are_for_the_composed_kernel(rng, reduction):
    net = MultilabelMarginLoss(reduction)
    net.construct = ms.jit(net.construct)
    net.set_inputs(Tensor(shape=[None, None], dtype=ms.float32), Tensor(shape=[None, None], dtype=ms.int32))
    for rows, classes in ((2, 4), (7, 333), (0, 5)):
        input, target = random_batch(rng, rows, classes, 3)
        close(net(Tensor(input), Tensor(target)), loss_and_gradient(input, target, reduction)[0])


def test_several_python_threads_may_call_at_once(rng):
    check_threads(rng)


# ----------------------------------------------------------------------------------------------------------------------
# Other processes


LOAD = """
    import mindspore as ms, numpy as np
    from mindspore import Tensor, nn
    data = np.load("data.npz")
    net = nn.GraphCell(ms.load("net.mindir"))
    print(net(Tensor(data["input"]), Tensor(data["target"])).asnumpy().tobytes())
"""


def test_a_mindir_runs_where_the_package_is_imported(rng, tmp_path):
    input, target = random_batch(rng, 3, 40, 5)
    net = MultilabelMarginLoss("none")
    expected = net(Tensor(input), Tensor(target)).asnumpy().tobytes()
    ms.export(net, Tensor(input), Tensor(target), file_name="net", file_format="MINDIR")
    np.savez("data.npz", input=input, target=target)
    loaded = run_script("import mindspore_mlml\n" + LOAD.replace("\n    ", "\n"), tmp_path, MLML_KERNEL="")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout == f"{expected}\n"
    without = run_script(LOAD, tmp_path)
    assert without.returncode != 0
    assert "ValueError: Python function with key" in without.stderr


CALLS = """
import os, platform, sys
import mindspore as ms, numpy as np
from mindspore import Tensor
sys.platform, platform.system = "win32", lambda: "Windows"
del os.register_at_fork, os.sched_getaffinity
from mindspore_mlml import multilabel_margin_loss, targets_from_lists
from mindspore_mlml._backends import kernel_in_use
input, target = Tensor(np.zeros((1, 4), np.float32)), Tensor(targets_from_lists([[0]], 4))
for call in (multilabel_margin_loss, ms.grad(multilabel_margin_loss), ms.jit(multilabel_margin_loss)):
    print(call(input, target))
print(kernel_in_use())
"""


@loads_libraries
def test_it_is_the_one_in_use_where_python_says_that_the_system_is_windows(tmp_path):
    """MindSpore, which is imported before, and the library are Linux's."""
    package = shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    os.rename(package / "_cpu.so", package / "_cpu.dll")
    result = run_script(CALLS, tmp_path, PYTHONPATH=str(tmp_path), MLML_KERNEL="")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0.75", "[[-0.75", "0.25", "0.25", "0.25]]", "0.75", "host"]


# A library that has moved; a label out of range where the composed kernel runs.
NOT_OF_IT = [
    "test_mindir_is_loaded_by_a_fresh_process_and_names_a_library_that_has_moved",
    "test_a_label_out_of_range_is_named_as_the_caller_names_it_in_graph_mode[loss-unknown",
]


# Of unknown shapes, which are for composed, its own test has some.
@pytest.mark.slow
@pytest.mark.parametrize("file", ["semantics", "errors", "gradients", "mindspore", "properties", "training", "labels"])
def test_it_passes_the_tests_of_cpu(file):
    path = f"tests/test_{file}.py"
    deselected = [f"--deselect={path}::{name}" for name in NOT_OF_IT]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *deselected, path]
    result = run_program(*command, cwd=ROOT, timeout=1800, MLML_KERNEL="host")
    assert result.returncode == 0, result.stdout[-5000:]
