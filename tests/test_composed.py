"""The loss by MindSpore's own operators: that of the kernels, without compiled code.

Here is what is particular to it, and each promise once. The last test runs other files with it.
"""

import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from benchmarks.measure import extra_memory
from mindspore_mlml import MultilabelMarginLoss, multilabel_margin_loss_from_labels
from tests import test_dynamic_shapes
from tests.support.cases import DTYPES, EXAMPLE_INPUT, EXAMPLE_TARGET, REDUCTIONS, SEMANTICS, batch_of, random_batch
from tests.support.compare import check_against_reference, check_second_derivatives, close
from tests.support.nets import FORMS, FORMS_FROM_LABELS, PYNATIVE_AND_SLOWLY_GRAPH, GradientNet, run_gradient, run_loss
from tests.support.processes import ROOT, run_program, run_script
from tests.support.reference import expectation, loss_and_gradient

UNKNOWN = Tensor(shape=[None, None], dtype=ms.float32), Tensor(shape=[None, None], dtype=ms.int32)


@pytest.fixture(autouse=True)
def composed(force_kernel):
    force_kernel("composed")


# ----------------------------------------------------------------------------------------------------------------------
# Loss and gradient


@pytest.mark.parametrize("dtype", DTYPES)
def test_documented_example_prints_0_325(mode, dtype):
    assert str(run_loss(EXAMPLE_INPUT.astype(dtype), EXAMPLE_TARGET)) == "0.325"


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_each_row_of_the_semantics_table(mode, dtype, reduction):
    input = np.array([scores for scores, _ in SEMANTICS.values()], dtype)
    target = np.array([labels for _, labels in SEMANTICS.values()], np.int32)
    kept = np.isfinite(input).all(axis=1) | (reduction == "none")
    check_against_reference(input[kept], target[kept], reduction)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "classes",
    [1, 256, 257, 1025, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 255, 1023, 1024, 30000))],
)
def test_sizes_around_those_where_the_method_changes(rng, dtype, classes):
    """1024 pairs: of 4 targets and 256 classes, of one target and 1024 classes."""
    for most in (1, 4, 300):
        check_against_reference(*random_batch(rng, 3, classes, most, dtype))


def test_rows_with_few_and_with_many_pairs_in_one_batch(rng):
    input, target = random_batch(rng, 40, 60, 60)
    check_against_reference(input, target, "none")
    check_against_reference(input[0], target[0], "none")


def test_scores_far_from_zero_and_thresholds_far_apart(rng):
    """Sums of thresholds would cancel: of their differences, nothing does."""
    input, target = random_batch(rng, 6, 3000, 400)
    input[:, ::7] *= 2.0**20
    check_against_reference(input, target, "none")


def test_large_finite_scores_do_not_overflow_on_the_way():
    huge = np.float32(3e38)
    input, target = np.array([-huge, huge, 0, 0], np.float32), np.array([0, -1, 0, 0], np.int32)
    assert float(run_loss(input, target).asnumpy()) == pytest.approx(6e38 / 4 + 3e38 / 2, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_gradient_is_that_of_the_kernels_bit_for_bit(force_kernel, rng, dtype, reduction):
    for rows, classes, most in ((100, 700, 500), (5, 9, 9), (2, 5000, 40), (3, 1, 1), (None, 33, 12)):
        input, target = random_batch(rng, rows or 1, classes, most, dtype)
        target[0, :3] = [0, 0, -1][: len(target[0])]
        if rows is None:
            input, target = input[0], target[0]
        dout = rng.standard_normal(input.shape[:-1] if reduction == "none" else ()).astype(dtype)
        gradients = []
        for kernel in ("cpu", "composed"):
            force_kernel(kernel)
            gradients.append(run_gradient(input, target, dout, reduction).tobytes())
        assert gradients[0] == gradients[1]


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("bad", [20, 2**31 - 1])
def test_a_target_out_of_range_makes_its_row_nan(mode, rng, reduction, bad):
    input, target = random_batch(rng, 4, 20, 5)
    target[1, :3] = [3, bad, -1]
    target[2, :2] = [-1, bad]
    dout = np.ones(4 if reduction == "none" else (), np.float32)
    loss, gradient = expectation(input, target, reduction, dout)
    np.testing.assert_allclose(run_loss(input, target, reduction).asnumpy(), loss, rtol=1e-6)
    np.testing.assert_allclose(run_gradient(input, target, dout, reduction), gradient, rtol=1e-6)


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_empty_batch_has_loss_zero(mode, reduction):
    for classes in (1, 4):
        input, target = np.zeros((0, classes), np.float32), np.zeros((0, classes), np.int32)
        check_against_reference(input, target, reduction)


@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", [None, 3])
def test_second_derivatives(mode, rng, dtype, reduction, rows):
    check_second_derivatives(rng, dtype, reduction, rows)


@pytest.mark.parametrize("mode", ["graph"], indirect=True)
def test_in_a_graph_loss_gradient_and_second_derivatives(mode, rng):
    check_against_reference(*random_batch(rng, 3, 300, 7, np.float16))
    check_second_derivatives(rng, np.float32, "mean", 3)


# ----------------------------------------------------------------------------------------------------------------------
# Labels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "classes", "most"), [(2, 3000, 300), (3, 70, 5), (None, 9, 2)])
def test_labels_give_the_bits_of_the_padded_target(rng, dtype, rows, classes, most):
    input, target = random_batch(rng, rows or 1, classes, most, dtype)
    if rows is None:
        input, target = input[0], target[0]
    results = []
    for forms, labels in ((FORMS, target), (FORMS_FROM_LABELS, np.ascontiguousarray(target[..., :most]))):
        net = forms["function"]("mean")
        x, y = Tensor(input), Tensor(labels)
        results.append((net(x, y).asnumpy().tobytes(), GradientNet(net)(x, y, Tensor(dtype(3))).asnumpy().tobytes()))
    assert results[0] == results[1]


def test_there_may_be_more_labels_than_classes():
    labels = np.array([[1, 1, 2, 1, 1, 2, -1, 7]], np.int32)
    expected = loss_and_gradient(EXAMPLE_INPUT[:1], labels)
    value_and_grad = ms.value_and_grad(FORMS_FROM_LABELS["function"]("mean"))
    for result, wanted in zip(value_and_grad(Tensor(EXAMPLE_INPUT[:1]), Tensor(labels)), expected):
        close(result, wanted)


def test_no_memory_for_all_pairs(rng):
    """Of 2 x 5000 targets and 20 000 classes there are 800 MB of pairs."""
    x = Tensor(rng.standard_normal((2, 20000), np.float32))
    labels = Tensor(rng.integers(0, 20000, (2, 5000)).astype(np.int32))
    assert extra_memory(lambda: ms.grad(multilabel_margin_loss_from_labels)(x, labels).asnumpy()) < 2**26


# ----------------------------------------------------------------------------------------------------------------------
# Unknown shapes, files


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_unknown_shapes(rng, reduction):
    net = FORMS_FROM_LABELS["function"](reduction)
    net.construct = ms.jit(net.construct)
    net.set_inputs(*UNKNOWN)
    for rows, classes, most in ((2, 4, 3), (7, 333, 20), (0, 5, 1), (3, 2000, 9), (1, 1, 1)):
        input, target = random_batch(rng, rows, classes, most)
        labels = np.ascontiguousarray(target[:, :most])
        close(net(Tensor(input), Tensor(labels)), loss_and_gradient(input, labels, reduction)[0])


@pytest.mark.parametrize("calls", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_gradient_with_unknown_shapes_in_each_of_many_calls(rng, calls):
    """MindSpore's TensorScatterElements would lose additions in one of some hundred."""
    net = MultilabelMarginLoss("sum")
    net.construct = ms.jit(net.construct)
    net.set_inputs(*UNKNOWN)
    step = ms.value_and_grad(net)
    for _ in range(calls):
        input, target = batch_of(rng, (int(rng.integers(0, 6)), int(rng.integers(1, 300))), most=7)
        for result, expected in zip(step(Tensor(input), Tensor(target)), loss_and_gradient(input, target, "sum")):
            close(result, expected)


@pytest.mark.parametrize(
    ("form", "shapes"),
    [
        pytest.param(form, shapes, marks=[] if shapes == ((6, 9), (6, 8)) or len(shapes[0]) > 2 else pytest.mark.slow)
        for shapes, rules in test_dynamic_shapes.MISFITS.items()
        for form, rule in zip(("loss", "labels"), rules)
        if rule
    ],
)
@pytest.mark.parametrize("mode", PYNATIVE_AND_SLOWLY_GRAPH, indirect=True)
def test_unknown_shapes_that_do_not_fit_are_errors_of_mindspore(mode, form, shapes):
    """AddN, Concat and Gather raise them."""
    net = test_dynamic_shapes.TABLE[form].make("none")
    net = test_dynamic_shapes.compiled(net, test_dynamic_shapes.unknown_inputs(None), mode)
    with pytest.raises((ValueError, RuntimeError, IndexError), match=r"AddN|Concat|Gather|TupleGetItem"):
        net(Tensor(np.zeros(shapes[0], np.float32)), Tensor(np.zeros(shapes[1], np.int32))).asnumpy()


def test_a_mindir_needs_nothing_of_this_package(rng, tmp_path):
    input, target = random_batch(rng, 3, 40, 5)
    ms.export(MultilabelMarginLoss(), Tensor(input), Tensor(target), file_name="net", file_format="MINDIR")
    np.savez("data.npz", input=input, target=target)
    load = """
        import sys
        import mindspore as ms, numpy as np
        from mindspore import Tensor, nn
        data = np.load("data.npz")
        net = nn.GraphCell(ms.load("net.mindir"))
        assert "mindspore_mlml" not in sys.modules
        print(repr(float(net(Tensor(data["input"]), Tensor(data["target"])).asnumpy())))
    """
    result = run_script(load, tmp_path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == float(run_loss(input, target).asnumpy())
    assert b"_cpu.so" not in (tmp_path / "net.mindir").read_bytes()


# ----------------------------------------------------------------------------------------------------------------------
# The other tests


# Of each file, what is not tested above, and of cases that are alike a few: a graph of this kernel takes seconds to
# compile. Not of it are a library that has moved, and a child that was forked, in which some of MindSpore's own
# operators hang.
OTHER_TESTS = {
    "semantics": "thresholds or exact_count or modified",
    "gradients": "not second_derivatives and not float16",
    "dynamic_shapes": (
        "(unknown_shapes and not kernel and not several and not class) or row_losses or jitted or primitive or "
        "(chosen and mean)"
    ),
    "mindspore": (
        "vjp or jvp or jacobians or (vmap and (pynative or axis_with_one)) or inputs or spawned or threads or "
        "(amp_levels and O3 and False) or (auto_mixed and (O2 or auto]) and not graph) or overflow or leaves or "
        "scaling or (auto_keeps and primitive and graph and False)"
    ),
    "properties": "",
    "training": "graph or not model",
}


@pytest.mark.slow
@pytest.mark.parametrize("file", OTHER_TESTS)
def test_it_passes_the_tests_of_the_kernels(file):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
    command += ["--hypothesis-profile=few", "-k", OTHER_TESTS[file], f"tests/test_{file}.py"]
    result = run_program(*command, cwd=ROOT, timeout=1800, MLML_KERNEL="composed")
    assert result.returncode == 0, result.stdout[-5000:]
