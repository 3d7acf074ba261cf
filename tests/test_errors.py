"""Every documented error, in both modes, with the offending value in its message."""

import subprocess
import sys
import textwrap

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindspore_mlml import (
    MultilabelMarginLoss,
    _primitive,
    multilabel_margin_loss,
    multilabel_margin_loss_from_labels,
)
from tests.support import bad_calls
from tests.support.cases import EXAMPLE_INPUT, EXAMPLE_TARGET, REDUCTIONS
from tests.support.compare import check_against_reference
from tests.support.nets import EACH_FORM, FORMS, FORMS_FROM_LABELS, run_loss
from tests.support.processes import ROOT, run_script

INPUT, TARGET = Tensor(EXAMPLE_INPUT), Tensor(EXAMPLE_TARGET)


def call(form, input, target):
    return FORMS[form]("mean")(input, target)


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize(
    "value", [EXAMPLE_INPUT, [[7.0, 2.0]], 7.0, None, "abc"], ids=["array", "list", "float", "None", "str"]
)
def test_input_and_target_must_be_tensors(mode, form, value):
    shown = {list: "[[7", np.ndarray: "0.1"}.get(type(value), str(value)[:2])
    with pytest.raises(TypeError, match="'input' must be a Tensor, but got") as error:
        call(form, value, TARGET)
    assert shown in str(error.value)
    with pytest.raises(TypeError, match="'target' must be a Tensor, but got") as error:
        call(form, INPUT, value)
    assert shown in str(error.value)


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize(
    "value",
    [[[0] * 4000] * 50, "ab" * 10**5, np.zeros((31, 31)), {i: i for i in range(10**4)}, (INPUT,) * 99],
    ids=["list", "str", "array", "dict", "tensors"],
)
def test_a_large_value_does_not_make_a_large_message(mode, form, value):
    for arguments in ((value, TARGET), (INPUT, value)):
        with pytest.raises(TypeError, match="must be a Tensor, but got") as error:
            call(form, *arguments)
        assert len(str(error.value).partition("\n")[0]) < 400


@pytest.mark.parametrize("make", [*FORMS.values(), _primitive.MultilabelMarginLoss])
def test_a_long_reduction_does_not_make_a_large_message(mode, make):
    with pytest.raises(ValueError, match="'reduction' must be one of") as error:
        make("mean" * 10**5)(INPUT, TARGET)
    assert len(str(error.value).partition("\n")[0]) < 400


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("dtype", [ms.float64, ms.bfloat16, ms.int32, ms.int8, ms.uint8, ms.bool_])
def test_input_must_be_float16_or_float32(mode, form, dtype):
    with pytest.raises(TypeError, match=f"dtype of 'input' must be float16 or float32, but got {dtype}"):
        call(form, INPUT.astype(dtype), TARGET)


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("dtype", [ms.int64, ms.int16, ms.uint8, ms.float32, ms.float16, ms.bool_])
def test_target_must_be_int32(mode, form, dtype):
    with pytest.raises(TypeError, match=f"dtype of 'target' must be int32, but got {dtype}") as error:
        call(form, INPUT, TARGET.astype(dtype))
    assert "class indices" in str(error.value)
    assert "mindspore_mlml.targets_from_multi_hot" in str(error.value)
    is_integer = dtype in (ms.int64, ms.int16, ms.uint8)
    assert (f"but got {dtype}. Convert class indices with .astype(mindspore.int32)" in str(error.value)) == is_integer


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("shape", [(), (1, 2, 4), (2, 2, 2, 1)])
def test_rank_must_be_1_or_2(mode, form, shape):
    input, target = Tensor(np.zeros(shape, np.float32)), Tensor(np.zeros(shape, np.int32))
    with pytest.raises(ValueError, match="rank of 'input' must be 1 or 2, but got shape") as error:
        call(form, input, target)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("shape", [(2, 3), (4, 2), (1, 4), (8,), (4,), (2, 4, 1)])
def test_shapes_must_be_the_same(mode, form, shape):
    with pytest.raises(ValueError, match="'target' must be the same as that of 'input'") as error:
        call(form, INPUT, Tensor(np.zeros(shape, np.int32)))
    assert "(2, 4)" in str(error.value)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 0)])
def test_there_must_be_a_class(mode, form, shape):
    with pytest.raises(ValueError, match="number of classes must be positive, but got shape") as error:
        call(form, Tensor(np.zeros(shape, np.float32)), Tensor(np.zeros(shape, np.int32)))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("reduction", ["avg", "Mean", "", None, 1, True])
def test_reduction_must_be_one_of_the_documented(mode, reduction):
    with pytest.raises(ValueError, match="'reduction' must be") as error:
        FORMS["function"](reduction)(INPUT, TARGET)
    assert str(reduction) in str(error.value)
    with pytest.raises(ValueError, match="'reduction' must be") as error:
        MultilabelMarginLoss(reduction)
    assert str(reduction) in str(error.value)


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [4, 5, 1000, 2**31 - 1])
@pytest.mark.parametrize("position", [0, 3])
def test_a_target_out_of_range_is_named_and_pynative_goes_on(form, dtype, bad, position):
    input, target = EXAMPLE_INPUT.astype(dtype), np.array([[1, 2, 0, 3], [2, 3, 1, 0]], np.int32)
    target[1, position] = bad
    for run in (
        lambda: run_loss(input, target, form=form).asnumpy(),
        lambda: ms.grad(FORMS[form]("sum"))(Tensor(input), Tensor(target)).asnumpy(),
    ):
        with pytest.raises(RuntimeError, match="must be less than the number of classes, 4") as error:
            run()
        assert f"target[1][{position}] = {bad}" in str(error.value)
    check_against_reference(input, EXAMPLE_TARGET)


def test_the_error_of_a_single_row_names_its_position():
    with pytest.raises(RuntimeError, match=r"target\[2\] = 9"):
        multilabel_margin_loss(INPUT[0], Tensor(np.array([0, 1, 9, -1], np.int32))).asnumpy()


def test_the_first_of_several_bad_targets_is_named():
    target = np.array([[0, 1, 2, -1], [0, 1, 9, 8], [7, 0, 0, 0]], np.int32)
    with pytest.raises(RuntimeError, match=r"target\[1\]\[2\] = 9"):
        multilabel_margin_loss(Tensor(np.zeros((3, 4), np.float32)), Tensor(target)).asnumpy()


NAMED_LABELS = (
    "For 'multilabel_margin_loss_from_labels', a value of 'labels' must be less than the number of classes, 4, but got "
)
UNKNOWN = Tensor(shape=[None, None], dtype=ms.float32), Tensor(shape=[None, None], dtype=ms.int32)


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shapes", ["known", "unknown"])
def test_a_label_out_of_range_is_named_as_the_caller_names_it(form, reduction, shapes):
    net = FORMS_FROM_LABELS[form](reduction)
    if shapes == "unknown":
        net.set_inputs(*UNKNOWN)
    labels = Tensor(np.array([[1, -1], [2, 9]], np.int32))
    for run in (net, ms.grad(net)):
        with pytest.raises(RuntimeError) as error:
            run(INPUT, labels).asnumpy()
        assert f"{NAMED_LABELS}labels[1][1] = 9." in str(error.value)


def test_a_label_out_of_range_of_a_single_row_is_named_as_the_caller_names_it():
    with pytest.raises(RuntimeError) as error:
        multilabel_margin_loss_from_labels(INPUT[0], Tensor(np.array([0, 1, 7], np.int32))).asnumpy()
    assert f"{NAMED_LABELS}labels[2] = 7." in str(error.value)


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("shapes", ["known", "unknown"])
@pytest.mark.parametrize("what", ["gradient", pytest.param("loss", marks=pytest.mark.slow)])
def test_a_label_out_of_range_is_named_as_the_caller_names_it_in_graph_mode(form, shapes, what, tmp_path):
    """In a process of its own: after a kernel has failed, MindSpore may refuse every later graph in the process."""
    script = textwrap.dedent(f"""
        import mindspore as ms, numpy as np
        from mindspore import Tensor
        from tests.support.nets import FORMS_FROM_LABELS
        ms.set_context(mode=ms.GRAPH_MODE)
        net = FORMS_FROM_LABELS[{form!r}]("mean")
        if {shapes!r} == "unknown":
            net.set_inputs(*[Tensor(shape=[None, None], dtype=dtype) for dtype in (ms.float32, ms.int32)])
        run = ms.grad(net) if {what!r} == "gradient" else net
        try:
            print(run(Tensor(np.zeros((2, 4), np.float32)), Tensor(np.array([[0, -1], [3, 4]], np.int32))).asnumpy())
        except RuntimeError as error:
            print("caught", error)
    """)
    result = run_script(script, tmp_path, PYTHONPATH=str(ROOT))
    assert "caught" in result.stdout, result.stderr
    assert f"{NAMED_LABELS}labels[1][1] = 4." in result.stdout


@pytest.mark.parametrize("form", EACH_FORM)
def test_a_target_out_of_range_is_named_in_graph_mode(form, tmp_path, clean_environment):
    """In a process of its own: after a kernel has failed, MindSpore may refuse every later graph in the process."""
    script = textwrap.dedent(f"""
        import mindspore as ms, numpy as np
        from mindspore import Tensor
        from mindspore_mlml import MultilabelMarginLoss, multilabel_margin_loss
        ms.set_context(mode=ms.GRAPH_MODE)
        forms = {{"cell": MultilabelMarginLoss(), "function": ms.jit(multilabel_margin_loss)}}
        loss, input = forms[{form!r}], Tensor(np.zeros((2, 4), np.float32))
        try:
            print(loss(input, Tensor(np.array([[0, -1, 0, 0], [3, 4, -1, 0]], np.int32))))
        except RuntimeError as error:
            print("caught", error)
        ms.set_context(mode=ms.PYNATIVE_MODE)
        print("PyNative", multilabel_margin_loss(input, Tensor(np.zeros((2, 4), np.int32))))
    """)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=clean_environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "caught" in result.stdout
    assert "must be less than the number of classes, 4, but got target[1][1] = 4" in result.stdout
    assert "PyNative 3.0" in result.stdout


@pytest.fixture
def busy_processes():
    """Two processes that take the processors' time."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def test_each_bad_call_raises_one_error():
    for name, (good, bad) in bad_calls.all_calls(REDUCTIONS).items():
        assert bad_calls.count_errors(good, bad, 20) == (0, []), name


@pytest.mark.slow
def test_each_bad_call_raises_one_error_beside_busy_processes(busy_processes):
    for name, (good, bad) in bad_calls.all_calls(["none"]).items():
        assert bad_calls.count_errors(good, bad, 200 if "gradient" in name else 1000) == (0, []), name
