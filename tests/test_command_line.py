"""What a user runs from a shell: the smoke test and the examples."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import mindspore
import pytest

import mindspore_mlml
from mindspore_mlml import __main__, _backends

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*command, cwd, env):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=env, check=False)


def test_smoke_test_prints_the_documented_output_and_nothing_else(tmp_path, clean_environment):
    result = run("-m", "mindspore_mlml", cwd=tmp_path, env=clean_environment)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert [line.split() for line in lines[:4]] == [
        [name, mode, "0.325"]
        for mode in ("PyNative", "graph")
        for name in ("multilabel_margin_loss", "MultilabelMarginLoss")
    ]
    assert lines[5].split() == ["backend", "kernel", "usable", "why"]
    assert [line.split("  ")[0] for line in lines[6:12]] == ["CPU", "CPU", "GPU", "GPU", "CPU, GPU", "Ascend"]
    kernels = ["cpu", "host", "cuda", "hybrid", "composed", "mindspore"]
    assert [line[10:].split()[0] for line in lines[6:12]] == kernels
    assert "yes" in lines[6]
    assert "instruction set" in lines[6]
    assert lines[-1].startswith(
        f"mindspore_mlml {mindspore_mlml.__version__}, MindSpore {mindspore.__version__}, NumPy "
    )
    assert list(tmp_path.iterdir()) == []


def test_smoke_test_fails_on_any_other_output(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "EXPECTED", "0.3250001")
    assert __main__.main() == 1
    assert "not the documented 0.3250001" in capsys.readouterr().out


def test_a_missing_library_is_reported(monkeypatch, tmp_path):
    monkeypatch.setitem(_backends.LIBRARIES, "cpu", tmp_path / "_cpu.so")
    cpu = _backends.backends()[0]
    assert not cpu.usable
    assert "_cpu.so" in cpu.reason


def test_package_is_typed():
    assert Path(mindspore_mlml.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("form", ["function", "cell"])
def test_public_names_have_docstrings_in_mindspore_form(form):
    names = {"function": mindspore_mlml.multilabel_margin_loss, "cell": mindspore_mlml.MultilabelMarginLoss}
    documentation = names[form].__doc__
    for section in (".. math::", "Args:", "Raises:", "Supported Platforms:", "Examples:"):
        assert section in documentation


def test_digits_example_trains(tmp_path, clean_environment):
    result = run(str(EXAMPLES / "train_digits.py"), "--epochs", "1", cwd=tmp_path, env=clean_environment)
    assert result.returncode == 0, result.stderr
    assert "exact match" in result.stdout
    assert (tmp_path / "train_digits.png").stat().st_size > 0


def test_many_labels_example_is_better_than_naming_the_most_frequent(tmp_path, clean_environment):
    program = str(EXAMPLES / "many_labels.py")
    result = run(program, "--classes", "2000", "--samples", "2048", cwd=tmp_path, env=clean_environment)
    assert result.returncode == 0, result.stderr
    precisions = re.findall(r"precision@(\d) ([\d.]+)%, of the most frequent labels ([\d.]+)%", result.stdout)
    assert [k for k, _, _ in precisions] == ["1", "3", "5"]
    for _, learnt, most_frequent in precisions:
        assert float(learnt) > 3 * float(most_frequent)
    peaks = re.findall(r"peak memory with (linear loss|Dense \+ loss) (\d+) MB", result.stdout)
    assert len(peaks) == (2 if sys.platform == "linux" else 0)
    assert (tmp_path / "many_labels.png").stat().st_size > 0


@pytest.mark.parametrize("file", ["README.md", "docs/labels.md", "docs/training.md"])
def test_the_examples_of_the_documentation_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    failures, tests = doctest.testfile(str(EXAMPLES.parent / file), module_relative=False)
    assert tests > 0
    assert failures == 0
