"""Which kernel runs where."""

import pytest

from mindspore_mlml._backends import backends, choose
from tests.support.processes import run_python


@pytest.mark.parametrize(
    ("target", "wanted", "cuda_is_built", "kernel"),
    [
        ("CPU", "", False, "cpu"),
        ("CPU", "", True, "cpu"),
        ("CPU", "hybrid", True, "hybrid"),
        ("GPU", "", True, "cuda"),
        ("GPU", "", False, "hybrid"),
        ("GPU", "hybrid", True, "hybrid"),
        ("GPU", "mindspore", True, "mindspore"),
        ("Ascend", "", True, "mindspore"),
    ],
)
def test_each_device_has_its_kernel_unless_another_is_wanted(target, wanted, cuda_is_built, kernel):
    assert choose(target, wanted, cuda_is_built) == kernel


@pytest.mark.parametrize(
    ("target", "wanted"), [("CPU", "cuda"), ("CPU", "mindspore"), ("GPU", "cpu"), ("Ascend", "cuda")]
)
def test_a_kernel_of_another_device_is_an_error_that_names_it(target, wanted):
    with pytest.raises(RuntimeError, match=f"MLML_KERNEL={wanted} needs the device target .*, but it is {target}"):
        choose(target, wanted, True)


def test_a_kernel_that_is_not_there_is_an_error():
    with pytest.raises(RuntimeError, match="MLML_KERNEL=cuda, but the CUDA kernels are not built"):
        choose("GPU", "cuda", False)


def test_an_unknown_kernel_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="must be one of cpu, cuda, hybrid, mindspore, but got 'tpu'"):
        choose("CPU", "tpu", True)


def test_every_backend_is_listed_with_a_reason():
    listed = backends()
    assert [(backend.target, backend.kernel) for backend in listed] == [
        ("CPU", "cpu"),
        ("GPU", "cuda"),
        ("GPU", "hybrid"),
        ("Ascend", "mindspore"),
    ]
    assert all(backend.reason for backend in listed)


def test_the_smoke_test_shows_the_choice():
    assert "In use here, with device target CPU: cpu" in run_python("-m", "mindspore_mlml")
    output = run_python("-m", "mindspore_mlml", MLML_KERNEL="hybrid")
    assert output.count("0.325\n") == 4
    assert "In use here, with device target CPU: hybrid" in output
