"""The CPU kernels: every instruction set, any number of threads, large sizes, forks, memory."""

import os
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.measure import extra_memory
from mindspore_mlml import _backends, _ops
from mindspore_mlml._backends import LIBRARIES
from tests.support.aot import Kernel
from tests.support.builds import ISA_FLAGS, build_vector_operations
from tests.support.cases import random_batch
from tests.support.processes import run_program, run_python


def check_grid(threads, **environment):
    outputs = {run_python("-m", "tests.support.kernel_grid", OMP_NUM_THREADS=n, **environment) for n in threads}
    assert len(outputs) == 1
    assert int(outputs.pop().split()[0]) > 400


def test_the_kernels_equal_the_reference_with_the_same_bits_for_any_number_of_threads():
    check_grid(("1", "3"))


@pytest.mark.slow
def test_every_instruction_set_equals_the_reference_with_the_same_bits_for_any_number_of_threads(isa):
    check_grid(("1", "2", "5"), MLML_SIMD=isa)


def test_the_vector_operations_of_every_instruction_set_equal_plain_loops(isa, tmp_path):
    output = run_program(*build_vector_operations(tmp_path, isa)).stdout
    assert output.endswith(" checks, 0 wrong\n"), output
    assert int(output.split()[0]) > 300_000


def test_every_instruction_set_prints_0_325(isa):
    output = run_python("-m", "mindspore_mlml", MLML_SIMD=isa)
    assert output.count("0.325\n") == 4
    assert f"instruction set {isa}" in output


def test_an_unknown_instruction_set_is_an_error_that_names_the_known_ones():
    code = """
        import mindspore, numpy, mindspore_mlml
        try:
            mindspore_mlml.multilabel_margin_loss(
                mindspore.Tensor(numpy.ones(3, numpy.float32)), mindspore.Tensor(numpy.ones(3, numpy.int32))
            ).asnumpy()
        except RuntimeError as error:
            print(error)
    """
    output = run_python("-c", textwrap.dedent(code), MLML_SIMD="mmx")
    assert "MLML_SIMD must be one of" in output
    assert next(iter(ISA_FLAGS)) in output
    assert "but got 'mmx'" in output


MOST = 1024
ALL = len(os.sched_getaffinity(0))  # where nothing is said, or nothing that is a number
THREADS = pytest.mark.parametrize(
    ("wanted", "threads"),
    [
        ("1", 1),
        ("3", 3),
        ("2,1", 2),
        (" 8 ", 8),
        ("7 , 2", 7),
        ("0012", 12),
        ("1024", MOST),
        ("1025", MOST),
        ("9999999999", MOST),
        ("9" * 20, MOST),
        ("9" * 5000, MOST),
        ("", ALL),
        ("abc", ALL),
        ("4abc", ALL),
        ("4.5", ALL),
        ("-3", ALL),
        ("0", ALL),
        (",2", ALL),
    ],
)


@pytest.fixture
def threads_are_restored():
    yield
    _ops._set_threads()


@THREADS
def test_the_package_honours_omp_num_threads_within_reason(threads_are_restored, monkeypatch, wanted, threads):
    with monkeypatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", wanted)
        _ops._set_threads()
    assert _backends.threads() == threads


@THREADS
def test_the_library_alone_honours_omp_num_threads_within_reason(wanted, threads):
    code = f"import ctypes; print(ctypes.CDLL({str(LIBRARIES['cpu'])!r}).MultilabelMarginLossThreads())"
    assert run_python("-c", code, OMP_NUM_THREADS=wanted).split() == [str(threads)]


@pytest.mark.parametrize(("wanted", "threads"), [("3", 3), ("9" * 20, MOST), (None, ALL)])
def test_the_import_honours_omp_num_threads(wanted, threads):
    code = "from mindspore_mlml._backends import threads; print(threads())"
    if wanted is None:
        code, wanted = "import os; del os.environ['OMP_NUM_THREADS']; " + code, "1"
    assert run_python("-c", code, OMP_NUM_THREADS=wanted).split() == [str(threads)]


def test_more_threads_than_the_process_gets_do_no_harm():
    code = """
        import numpy as np
        from tests.test_kernels import kernels
        from tests.support.cases import random_batch
        forward, backward, loss, gradient = kernels(*random_batch(np.random.default_rng(0), 400, 4000, 9))
        forward(); backward()
        print(loss, gradient.sum())
    """
    outputs = {run_python("-c", textwrap.dedent(code), OMP_NUM_THREADS=n) for n in ("1", "9" * 20)}
    assert len(outputs) == 1


def kernels(input, target):
    """Functions that run the kernels, and the arrays that they write."""
    loss, gradient, dout = np.empty((), input.dtype), np.empty_like(input), np.ones((), input.dtype)
    forward = Kernel(LIBRARIES["cpu"], "MultilabelMarginLossSum").prepare(input, target, loss)
    backward = Kernel(LIBRARIES["cpu"], "MultilabelMarginLossGradSum").prepare(input, target, dout, gradient)
    return forward, backward, loss, gradient


def test_several_threads_may_call_at_once(rng):
    batches = [random_batch(rng, 4, 20000, 50) for _ in range(8)]
    expected = []
    for batch in batches:
        forward, backward, loss, gradient = kernels(*batch)
        forward()
        backward()
        expected.append((loss.copy(), gradient.copy()))

    def work(index):
        forward, backward, loss, gradient = kernels(*batches[index])
        for _ in range(10):
            loss[...] = gradient[...] = 7
            forward()
            backward()
            np.testing.assert_array_equal(loss, expected[index][0])
            np.testing.assert_array_equal(gradient, expected[index][1])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_a_forked_child_can_call_after_its_parent():
    code = """
        import os, numpy as np
        from tests.test_kernels import kernels
        input = np.random.default_rng(1).standard_normal((8, 50000)).astype(np.float32)
        target = np.full(input.shape, -1, np.int32); target[:, :9] = np.arange(9)
        forward, backward, loss, gradient = kernels(input, target)
        forward(); backward()
        expected = loss.copy(), gradient.copy()
        for _ in range(3):
            child = os.fork()
            if child == 0:
                loss[...] = gradient[...] = 7
                forward(); backward()
                os._exit(0 if loss == expected[0] and (gradient == expected[1]).all() else 1)
            assert os.waitpid(child, 0)[1] == 0
            forward()
        print("same")
    """
    assert run_python("-c", textwrap.dedent(code), OMP_NUM_THREADS="4").split() == ["same"]


@pytest.mark.parametrize("targets", [5, 500, 20000])
def test_extra_memory_is_in_proportion_to_threads_and_classes_not_to_the_batch(targets):
    rng = np.random.default_rng(1)
    input = rng.standard_normal((100, 100_000), np.float32)
    target = np.full(input.shape, -1, np.int32)
    target[:, :targets] = rng.permutation(input.shape[1])[:targets]
    forward, backward, _, gradient = kernels(input, target)
    gradient[...] = 0
    for run in (forward, backward):
        assert extra_memory(run) < 32 * _backends.threads() * input.shape[1] < input.nbytes


@pytest.mark.slow
def test_more_than_2_to_the_31_elements():
    """Pages that were never written take no memory: only the gradient, 6.4 GB, is real."""
    rows, classes = 3, 2**30
    with open("/proc/meminfo", encoding="ascii") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    input, target = np.zeros((rows, classes), np.float16), np.zeros((rows, classes), np.int32)
    target[:, :3] = [[5, -1, 0], [-1, 0, 0], [classes - 1, 7, -1]]
    input[2, classes - 1] = 3
    loss, dout = np.empty(rows, np.float16), np.ones(rows, np.float16)
    Kernel(LIBRARIES["cpu"], "MultilabelMarginLossNone").prepare(input, target, loss)()
    np.testing.assert_array_equal(loss, np.array([1, 0, 1], np.float16))
    if available < 12e9:
        pytest.skip("the gradient needs 6.4 GB")
    gradient = np.empty_like(input)
    dout[...] = 1024
    Kernel(LIBRARIES["cpu"], "MultilabelMarginLossGradNone").prepare(input, target, dout, gradient)()
    pair = np.float16(1024 / classes)
    assert gradient[0, 5] == np.float16(-1024)
    assert not gradient[1, :100].any()
    assert not gradient[1, -100:].any()
    assert gradient[2, classes - 1] == 0
    assert gradient[2, 7] == np.float16(-1024)
    assert (gradient[2, [0, 1, 8, classes // 2, classes - 2]] == pair).all()
