"""Which kernel runs where."""

import pytest

from mindspore_mlml._backends import backends, choose
from tests.support.processes import run_python


@pytest.mark.parametrize(
    ("target", "wanted", "problems", "kernel"),
    [
        ("CPU", "", ["cuda"], "cpu"),
        ("CPU", "", [], "cpu"),
        ("CPU", "", ["cpu"], "host"),
        ("CPU", "", ["cpu", "host", "cuda", "hybrid"], "composed"),
        ("CPU", "host", [], "host"),
        ("CPU", "hybrid", [], "hybrid"),
        ("CPU", "composed", [], "composed"),
        ("GPU", "", [], "cuda"),
        ("GPU", "", ["cuda"], "hybrid"),
        ("GPU", "", ["cuda", "hybrid"], "composed"),
        ("GPU", "hybrid", [], "hybrid"),
        ("GPU", "mindspore", [], "mindspore"),
        ("Ascend", "", ["cpu", "cuda", "hybrid"], "mindspore"),
    ],
)
def test_each_device_has_its_best_kernel_unless_another_is_wanted(target, wanted, problems, kernel):
    assert choose(target, wanted, dict.fromkeys(problems, "because")) == kernel


@pytest.mark.parametrize(
    ("target", "wanted"),
    [("CPU", "cuda"), ("CPU", "mindspore"), ("GPU", "cpu"), ("Ascend", "cuda"), ("Ascend", "composed")],
)
def test_a_kernel_of_another_device_is_an_error_that_names_it(target, wanted):
    with pytest.raises(RuntimeError, match=f"MLML_KERNEL={wanted} needs the device target .*, but it is {target}"):
        choose(target, wanted, {})


@pytest.mark.parametrize(("target", "wanted"), [("CPU", "cpu"), ("GPU", "cuda"), ("GPU", "hybrid")])
def test_a_wanted_kernel_that_cannot_be_used_is_an_error_that_says_why(target, wanted):
    with pytest.raises(RuntimeError, match=f"MLML_KERNEL={wanted}, but it cannot be used. Because."):
        choose(target, wanted, {wanted: "Because."})


def test_an_unknown_kernel_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="must be one of cpu, host, cuda, hybrid, composed, mindspore, but got 'tpu'"):
        choose("CPU", "tpu", {})


def test_every_backend_is_listed_with_a_reason():
    listed = backends()
    assert [(backend.target, backend.kernel) for backend in listed] == [
        ("CPU", "cpu"),
        ("CPU", "host"),
        ("GPU", "cuda"),
        ("GPU", "hybrid"),
        ("CPU, GPU", "composed"),
        ("Ascend", "mindspore"),
    ]
    assert all(backend.reason for backend in listed)


def test_the_smoke_test_shows_the_choice():
    assert "In use here, with device target CPU: cpu" in run_python("-m", "mindspore_mlml")


@pytest.mark.parametrize("kernel", ["host", "hybrid", "composed"])
def test_the_smoke_test_shows_the_kernel_that_is_wanted(kernel):
    output = run_python("-m", "mindspore_mlml", MLML_KERNEL=kernel)
    assert output.count("0.325\n") == 4
    assert f"In use here, with device target CPU: {kernel}" in output
