"""The example that trains on files."""

import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parent.parent / "examples" / "train_file.py"

HEADER = r"""% made up
@relation 'made up'
@attribute 'a word' {0,1}
@ATTRIBUTE size numeric
@attribute 'it\'s' {0,1}
@attribute "other" {0,1}

@data
"""
XML = r"""<labels xmlns="http://mulan.sourceforge.net/labels">
<label name="it's"></label><label name="other"></label></labels>"""
SPARSE = ["{0 1,2 1}", "{1 2.5,3 1}", "{0 1, 1 1,2 1,3 1}", "{}"]
DENSE = ["1,0,1,0", "'0', 2.5 ,0,1", "1,1,1,1", "0,?,0,0"]
WITH_HEADER = ["4 2 2", "0 0:1", "1 1:2.5", "0,1 0:1 1:1", " 1:0"]
COUNTED_FROM_ONE = ["0 1:1", "1 2:2.5", "0,1 1:1 2:1", " 2:0"]
FEATURES = [[1, 0], [0, 2.5], [1, 1], [0, 0]]
TARGETS = [[0, -1], [1, -1], [0, 1], [-1, -1]]


@pytest.fixture(scope="module")
def train_file():
    spec = importlib.util.spec_from_file_location("train_file", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder, name, lines, header=""):
    (folder / "data.xml").write_text(XML, encoding="utf-8")
    (folder / name).write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def read(train_file, path, test_path=None, labels=None, scale="none"):
    (x, targets), (test_x, test_targets), classes = train_file.read(
        argparse.Namespace(file=path, test_file=test_path, labels=labels, scale=scale)
    )
    return x.toarray(), targets[:, :2], test_x.toarray(), test_targets[:, :2], classes


@pytest.mark.parametrize("labels", [None, "2"])
@pytest.mark.parametrize("rows", [SPARSE, DENSE], ids=["sparse", "dense"])
def test_arff(train_file, tmp_path, rows, labels):
    path = write(tmp_path, "data.arff", rows, HEADER)
    x, targets, _, _, classes = read(train_file, path, path, labels)
    assert (x.tolist(), targets.tolist(), classes) == (FEATURES, TARGETS, 2)


def test_arff_with_labels_first(train_file, tmp_path):
    path = write(tmp_path, "data.arff", ["1,0,5,6", "1,1,7,8"], HEADER.replace("{0,1}", "numeric"))
    x, targets, *_ = read(train_file, path, path, "-2")
    assert (x.tolist(), targets.tolist()) == ([[5, 6], [7, 8]], [[0, -1], [0, 1]])


@pytest.mark.parametrize("rows", [WITH_HEADER, COUNTED_FROM_ONE], ids=["with header", "counted from one"])
def test_libsvm(train_file, tmp_path, rows):
    path = write(tmp_path, "data.txt", rows)
    x, targets, _, _, classes = read(train_file, path, path)
    assert (x.tolist(), targets.tolist(), classes) == (FEATURES, TARGETS, 2)


def test_a_quarter_is_held_out_and_rows_get_length_1(train_file, tmp_path):
    path = write(tmp_path, "data.arff", SPARSE[:3] * 8, HEADER)
    x, targets, test_x, test_targets, _ = read(train_file, path, scale="rows")
    assert (len(x), len(targets), len(test_x), len(test_targets)) == (18, 18, 6, 6)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([x, test_x]), axis=1), 1, rtol=1e-6)


def test_best_threshold(train_file):
    scores, classes = np.array([[3.0, 1], [2, 0]]), np.array([[5, 2], [1, 0]])
    targets = np.array([[5, -1], [1, 3]])
    threshold = train_file.best_threshold(scores, classes, targets)
    assert threshold == 1.5
    assert train_file.micro_f1(scores, classes, targets, threshold) == pytest.approx(0.8)


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(
            ["--loss", "bce", "--optimizer", "adam", "--hidden", "8", "--rate", "0.05", "--epochs", "20"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_example_learns(tmp_path, clean_environment, options):
    rows = ["{0 1,2 1}", "{1 2,3 1}", "{1 1,3 1}"] * 100
    path = write(tmp_path, "data.arff", rows, HEADER)
    command = [sys.executable, str(PROGRAM), str(path), "--epochs", "4", *options]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean_environment, check=False)
    assert result.returncode == 0, result.stderr
    figures = re.findall(r"held-out (\S+) ([\d.]+)%, of the most frequent labels ([\d.]+)%", result.stdout)
    assert [name for name, _, _ in figures] == ["precision@1", "precision@3", "precision@5", "micro-F1"]
    assert float(figures[0][1]) == 100 > float(figures[0][2])
    assert (tmp_path / "train_file.png").stat().st_size > 0
