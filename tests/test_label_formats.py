"""Labels as libraries hold them: lists, arrays, Series, sparse matrices, and what is refused."""

import io
import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mindspore import Tensor
from sklearn.datasets import load_svmlight_file
from sklearn.preprocessing import MultiLabelBinarizer

from benchmarks.measure import extra_memory
from mindspore_mlml import check_target, multi_hot_from_targets, targets_from_lists, targets_from_multi_hot

# ----------------------------------------------------------------------------------------------------------------------
# What is taken


# How libraries hold lists of classes. Each function makes it of a list of lists.
LIST_FORMS = {
    "lists": list,
    "tuples": lambda lists: tuple(map(tuple, lists)),
    "generator": iter,
    "generators": lambda lists: map(iter, lists),
    "view of a dict": lambda lists: dict(enumerate(lists)).values(),
    "keys of dicts": lambda lists: [dict.fromkeys(classes).keys() for classes in lists],
    "arrays": lambda lists: [np.array(classes, np.int64) for classes in lists],
    "arrays of several types": lambda lists: [
        np.array(classes, dtype)
        for classes, dtype in zip(lists, itertools.cycle([np.uint64, np.int8, np.float16, object]))
    ],
    "arrays and lists": lambda lists: [np.array(row) if n % 2 else row for n, row in enumerate(lists)],
    "object array": lambda lists: np.array([*lists, None], object)[:-1],
    "masked arrays without a mask": lambda lists: [np.ma.array(classes, np.int64) for classes in lists],
    "Tensors": lambda lists: [Tensor(np.array(classes, np.int32)) for classes in lists],
    "Series of lists": lambda lists: pd.Series([[99], *lists], dtype=object)[1:],
    "Series of tuples": lambda lists: pd.Series(
        [*map(tuple, lists)], index=list("abcdefghij")[: len(lists)], dtype=object
    ),
    "Series of arrays": lambda lists: pd.Series([np.array(row, np.int64) for row in lists], dtype=object),
    "list of Series": lambda lists: [pd.Series(row, index=[7] * len(row), dtype="Int64") for row in lists],
    "NumPy's integers": lambda lists: [[np.int64(label) for label in row] for row in lists],
    "floats": lambda lists: [tuple(map(float, row)) for row in lists],
    "NumPy's floats": lambda lists: [tuple(map(np.float32, row)) for row in lists],
    "integers and floats": lambda lists: [[float(label) if label % 2 else label for label in row] for row in lists],
}


@pytest.mark.parametrize("form", LIST_FORMS)
@given(lists=st.lists(st.lists(st.integers(0, 8), unique=True, max_size=5), max_size=10))
def test_lists_of_classes_may_be_of_any_kind(form, lists):
    np.testing.assert_array_equal(targets_from_lists(LIST_FORMS[form](lists), 9), targets_from_lists(lists, 9))


@pytest.mark.parametrize("kind", [set, frozenset, lambda row: pd.Series(list(row)).unique()])
def test_a_set_is_a_list_of_its_classes(kind):
    target = targets_from_lists(pd.Series([kind({5, 0}), kind({2})]), 9, num_labels=2)
    assert sorted(target[0]) == [0, 5]
    assert target[1].tolist() == [2, -1]


@pytest.mark.parametrize(
    "classes",
    [
        (3, 0),
        iter([3, 0]),
        (3.0, 0.0),
        np.array([3, 0], np.uint8),
        np.array([3, 0], object),
        pd.Series([3, 0], index=[5, 6]),
        pd.Series([3, 0], dtype="Int64"),
        pd.Series([3, 0]).astype("category"),
        Tensor([3, 0]),
        [np.array(3), Tensor(0)],
        dict.fromkeys([3, 0]),
    ],
)
def test_a_single_list_may_be_of_any_kind(classes):
    classes = classes.keys() if isinstance(classes, dict) else classes
    assert targets_from_lists(classes, 4).tolist() == [3, 0, -1, -1]


def test_a_matrix_of_classes_has_a_row_for_each_sample():
    expected = [[3, 0, -1, -1], [1, 2, -1, -1]]
    for matrix in (np.array([[3, 0], [1, 2]]), np.array([[3.0, 0], [1, 2]]), np.array([[3, 0], [1, 2]], object)):
        assert targets_from_lists(matrix, 4).tolist() == expected
        assert targets_from_lists(pd.DataFrame(matrix), 4).tolist() == expected
        assert targets_from_lists(np.asfortranarray(matrix), 4).tolist() == expected
    assert targets_from_lists(Tensor([[3, 0], [1, 2]]), 4).tolist() == expected


def test_a_class_may_be_as_large_as_its_type_allows():
    largest = 2**31 - 1
    for classes in ([0, largest], [0.0, largest], (0.0, float(largest)), np.array([0, largest], np.uint32)):
        assert targets_from_lists(classes, 2**31, num_labels=3).tolist() == [0, largest, -1]
    matrix = scipy.sparse.coo_matrix(([1, 1], ([0, 0], [0, largest])), shape=(1, 2**31))
    assert targets_from_multi_hot(matrix, num_labels=3).tolist() == [[0, largest, -1]]
    with pytest.raises(ValueError, match="must have at most 2147483648 columns, but got 2147483649"):
        targets_from_multi_hot(scipy.sparse.coo_matrix((1, 2**31 + 1)), num_labels=3)
    assert targets_from_lists(np.array([2048], np.float16), 2049, num_labels=1).tolist() == [2048]


def test_the_labels_of_scikit_learns_svmlight_files():
    _, labels = load_svmlight_file(io.BytesIO(b"0,3 1:0.5\n 2:1\n2 1:0.25\n"), multilabel=True)
    assert labels[0] == (0.0, 3.0)
    assert targets_from_lists(labels, 4, num_labels=2).tolist() == [[0, 3], [-1, -1], [2, -1]]


SPARSE_FORMATS = ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("name", SPARSE_FORMATS)
@given(multi_hot=hnp.arrays(st.sampled_from([np.bool_, np.int8, np.float64]), (4, 6), elements=st.integers(0, 1)))
def test_a_sparse_matrix_of_any_format_equals_the_dense_one(kind, name, multi_hot):
    matrix = getattr(scipy.sparse, f"{name}_{kind}")(multi_hot)
    np.testing.assert_array_equal(targets_from_multi_hot(matrix), targets_from_multi_hot(multi_hot))
    np.testing.assert_array_equal(targets_from_lists(matrix, 6), targets_from_multi_hot(multi_hot))
    np.testing.assert_array_equal(
        targets_from_multi_hot(matrix, num_labels=9)[:, :6], targets_from_multi_hot(multi_hot)
    )
    np.testing.assert_array_equal(matrix.toarray(), multi_hot)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from([-1, 0, 1, 1, 1])), max_size=12),
    st.sampled_from([np.int8, np.float32, np.bool_]),
)
def test_entries_of_a_sparse_matrix_in_one_place_add_up(entries, dtype):
    rows, columns, values = np.array(entries, np.int64).reshape(-1, 3).T
    coo = scipy.sparse.coo_matrix((values.astype(dtype), (rows, columns)), shape=(3, 4))
    csr = scipy.sparse.csr_array((3, 4), dtype=dtype)
    csr.data, csr.indices = (
        values[np.argsort(rows, kind="stable")].astype(dtype),
        columns[np.argsort(rows, kind="stable")],
    )
    csr.indptr = np.searchsorted(np.sort(rows), np.arange(4))
    dense = coo.toarray()
    for matrix in (coo, csr):
        before = matrix.data.copy()
        if np.isin(dense, [0, 1]).all():
            np.testing.assert_array_equal(targets_from_multi_hot(matrix), targets_from_multi_hot(dense))
        else:
            with pytest.raises(ValueError, match="must be 0 or 1, but got") as error:
                targets_from_multi_hot(matrix)
            with pytest.raises(ValueError, match="must be 0 or 1, but got") as expected:
                targets_from_multi_hot(dense)
            assert str(error.value) == str(expected.value)
        np.testing.assert_array_equal(matrix.data, before)


def test_a_sparse_array_of_one_dimension_is_a_single_row():
    vector = scipy.sparse.coo_array(np.array([0, 1, 0, 1]))
    assert targets_from_multi_hot(vector).tolist() == [1, 3, -1, -1]
    assert targets_from_lists(vector, 5).tolist() == [1, 3, -1, -1, -1]
    with pytest.raises(ValueError, match=r"multi_hot\[2\] = 7"):
        targets_from_multi_hot(scipy.sparse.coo_array(np.array([0, 1, 7])))


@pytest.mark.parametrize("name", SPARSE_FORMATS)
def test_a_sparse_matrix_is_not_made_dense(name):
    rows, classes = 200_000, 1_000_000
    matrix = scipy.sparse.eye(rows, classes, format="coo", dtype=np.int8).asformat(name)
    expected = np.stack([np.arange(rows), np.full(rows, -1)], axis=1)
    for function in (
        lambda: targets_from_multi_hot(matrix, num_labels=2),
        lambda: targets_from_lists(matrix, classes, num_labels=2),
    ):
        np.testing.assert_array_equal(function(), expected)
        assert extra_memory(function) < rows * classes / 1000


def test_scikit_learns_binarizer(rng):
    lists = [sorted(rng.choice(50, 4, replace=False)) for _ in range(20)]
    expected = targets_from_lists(lists, 50)
    for is_sparse in (False, True):
        multi_hot = MultiLabelBinarizer(classes=range(50), sparse_output=is_sparse).fit_transform(lists)
        np.testing.assert_array_equal(targets_from_multi_hot(multi_hot), expected)
        np.testing.assert_array_equal(targets_from_multi_hot(multi_hot, num_labels=4), expected[:, :4])


@pytest.mark.parametrize(
    "multi_hot",
    [
        [[0, 1, 1], [0, 0, 1]],
        ((False, True, True), (False, False, True)),
        [np.array([0, 1, 1]), np.array([0, 0, 1])],
        np.array([[0, 1, 1], [0, 0, 1]], object),
        np.array([[np.False_, True, 1], [0.0, False, np.True_]], object),
        np.array([[0, 1, 1], [0, 0, 1]], np.complex64),
        np.ma.array([[0, 1, 1], [0, 0, 1]]),
        [np.ma.array([0, 1, 1]), np.ma.array([0, 0, 1])],
        Tensor([[0, 1, 1], [0, 0, 1]]),
        [Tensor([0, 1, 1]), Tensor([0, 0, 1])],
        pd.DataFrame([[0, 1, 1], [0, 0, 1]], index=[8, 9], columns=list("abc")),
        pd.DataFrame({"a": [False, False], "b": [1, 0], "c": [1.0, 1.0]}),
        pd.DataFrame({"a": [0, 0], "b": [1, 0], "c": [1, 1]}, dtype="Int8"),
        pd.DataFrame({"a": [0, 0], "b": [1, 0], "c": [1, 1]}, dtype="boolean"),
        pd.Series([[0, 1, 1], [0, 0, 1]]),
        pd.Series([np.array([0, 1, 1]), np.array([0, 0, 1])], index=[8, 9]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_multi_hot_labels_may_be_of_any_kind(multi_hot):
    assert targets_from_multi_hot(multi_hot).tolist() == [[1, 2, -1], [2, -1, -1]]
    assert targets_from_multi_hot(multi_hot, num_labels=2).tolist() == [[1, 2], [2, -1]]


def test_scipy_and_pandas_are_not_imported(clean_environment):
    code = """
import sys
import mindspore  # which imports SciPy itself
sys.modules["scipy"] = sys.modules["pandas"] = None
from mindspore_mlml import check_target, multi_hot_from_targets, targets_from_lists, targets_from_multi_hot
target = check_target(targets_from_lists([[3, 0], [2]], 4), 4)
assert (targets_from_multi_hot(multi_hot_from_targets(target, 4))[:, 0] == [0, 2]).all()
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


# ----------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            [["0", "3"]],
            r"class_lists\[0\] must be .* got \['0', '3'\], with class_lists\[0\]\[0\] = '0'.*Convert strings",
        ),
        ([[2], [1, b"1"]], r"class_lists\[1\]\[1\] = b'1'\. Convert strings to integers"),
        ([[1], "23"], r"class_lists\[1\] must be a list of integers, but got '23'\. Convert strings"),
        ([[1], b"23"], r"class_lists\[1\] must be a list of integers, but got b'23'\. Convert strings"),
        (["0 3", "1"], r"class_lists\[0\] = '0 3', class_lists\[1\] = '1'\. Convert strings"),
        ("12", "class_lists must be a list of integers, but got '12'"),
        (np.array(["0", "3"]), r"class_lists\[0\] = '0'"),
        (np.array([[b"0", b"3"]]), r"class_lists\[0\]\[0\] = b'0'"),
        (pd.Series(["0", "3"]), r"class_lists\[0\] = '0'"),
        ([(0.0, 2.5)], r"class_lists\[0\]\[1\] = 2\.5\."),
        ([[1, 2.5]], r"class_lists\[0\]\[1\] = 2\.5\."),
        (np.array([1, 2.5]), r"class_lists\[1\] = 2\.5\."),
        ([np.array([1.0]), np.array([2, 0.5], np.float16)], r"class_lists\[1\]\[1\] = 0\.5\."),
        ([[0, float("nan")]], r"class_lists\[0\]\[1\] = nan"),
        ([[0], [None]], r"class_lists\[1\]\[0\] = None"),
        (pd.Series([[0, pd.NA]]), r"class_lists\[0\]\[1\] = <NA>"),
        (pd.Series([1, None], dtype="Int64"), r"class_lists\[1\] = (<NA>|nan)"),
        (pd.Series([[0], None]), r"class_lists\[1\] must be a list of integers, but got None"),
        (pd.Series([np.nan, [0]]), r"class_lists\[0\] must be a list of integers, but got nan"),
        (pd.DataFrame({"a": [1, 2], "b": [3, np.nan]}), r"class_lists\[1\]\[1\] = nan"),
        ([[float("inf")]], r"from 0 to 3, but got class_lists\[0\]\[0\] = inf"),
        ([[0, 1j]], r"class_lists\[0\]\[1\] = 1j"),
        ([[2, True]], r"class_lists\[0\]\[1\] = True\. .*targets_from_multi_hot"),
        ([[2], [False, 1.0]], r"class_lists\[1\]\[0\] = False"),
        ([[np.True_]], r"class_lists\[0\]\[0\] = True"),
        (np.array([[True, False]]), r"class_lists\[0\]\[0\] = True, class_lists\[0\]\[1\] = False"),
        ([Tensor(True), Tensor(2)], r"class_lists\[0\] = Tensor"),
        ([[2**70]], rf"from 0 to 3, but got class_lists\[0\]\[0\] = {2**70}"),
        ([[0, -(2**70)], [1.0]], rf"from 0 to 3, but got class_lists\[0\]\[1\] = -{2**70}"),
        ([[10**5000]], r"from 0 to 3, but got class_lists\[0\]\[0\] = "),
        ([np.array([2**63], np.uint64), [1]], rf"from 0 to 3, but got class_lists\[0\]\[0\] = {2**63}"),
        ([np.array([200], np.uint8)], r"from 0 to 3, but got class_lists\[0\]\[0\] = 200"),
        ([[[1], [2]]], r"class_lists\[0\]\[0\] = \[1\]"),
        ([1, [2]], r"class_lists\[0\] must be a list of integers, but got 1"),
        ([np.zeros((2, 2), int)], r"class_lists\[0\] must be a list of integers, but got array"),
        (np.zeros((2, 2, 2)), r"class_lists\[0\] must be a list of integers, but got array"),
        (None, "class_lists must be a list of integers, but got None"),
        (3, "class_lists must be a list of integers, but got 3"),
        ({0: [1]}, r"class_lists must be a list of integers, but got {0: \[1\]}\. Of a mapping"),
        ([[1], {2: 1}], r"class_lists\[1\] must be a list of integers, but got {2: 1}\. Of a mapping"),
        (np.ma.array([1, 2], mask=[0, 1]), r"masked values, but got masked class_lists\[1\]"),
        (np.ma.array([[1, 2]], mask=[[1, 0]]), r"masked values, but got masked class_lists\[0\]\[0\]"),
        ([[0], np.ma.array([1, 2], mask=[0, 1])], r"masked values, but got masked class_lists\[1\]\[1\]"),
        ([[1, np.ma.masked]], r"class_lists\[0\]\[1\] = masked"),
        ([[0, 1, 0, 0], [0, 0, 1, 1]], r"class_lists\[0\]\[2\] = 0 again.*and 1 more\..*looks like multi-hot"),
        (np.eye(4), "looks like multi-hot: targets_from_multi_hot"),
        (scipy.sparse.csr_matrix([[0, 2]]), r"must be 0 or 1, but got class_lists\[0\]\[1\] = 2"),
        (scipy.sparse.csr_matrix((2, 5)), "sparse 'class_lists' must not have more columns .*, 4, but got 5"),
        ([scipy.sparse.csr_matrix([[0, 1]])], r"class_lists must be a list of integers, .*, with class_lists\[0\] = <"),
    ],
)
@pytest.mark.filterwarnings("ignore:In future, it will be an error for 'np.bool_'")
def test_what_is_no_list_of_classes_is_named(lists, message):
    with pytest.raises(ValueError, match=message) as error:
        targets_from_lists(lists, 4)
    assert "For 'targets_from_lists'" in str(error.value)


@pytest.mark.parametrize(
    ("multi_hot", "message"),
    [
        ([["0", "1"]], r"multi_hot\[0\]\[0\] = '0', multi_hot\[0\]\[1\] = '1'\. Convert strings"),
        (np.array([[b"0", b"1"]]), r"multi_hot\[0\]\[0\] = b'0'"),
        (pd.DataFrame({"a": ["0", "1"]}), r"multi_hot\[0\]\[0\] = '0'"),
        (np.array([[0, 1], [2, None]], object), r"multi_hot\[1\]\[0\] = 2, multi_hot\[1\]\[1\] = None"),
        ([0, 1, None], r"multi_hot\[2\] = None"),
        (pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [0, 1]}), r"multi_hot\[1\]\[0\] = <NA>"),
        (pd.DataFrame({"a": [1, None], "b": [0, 1]}), r"multi_hot\[1\]\[0\] = nan"),
        (scipy.sparse.csc_matrix([[0, np.nan], [1, 0]]), r"multi_hot\[0\]\[1\] = nan"),
        (scipy.sparse.dok_matrix([[0, 1], [-1, 0]]), r"multi_hot\[1\]\[0\] = -1"),
        ([[0, 1], [1]], r"rows of 'multi_hot' must be equally long, but got \[\[0, 1\], \[1\]\]"),
        (pd.Series([[0, 1], [1]]), "rows of 'multi_hot' must be equally long"),
        (np.ma.array([0, 1], mask=[1, 0]), r"masked values, but got masked multi_hot\[0\]"),
        ([np.ma.array([0, 1], mask=[0, 1])], r"masked values, but got masked multi_hot\[0\]\[1\]"),
        (
            np.ma.array(np.eye(3), mask=np.eye(3)),
            r"masked multi_hot\[0\]\[0\], multi_hot\[1\]\[1\], multi_hot\[2\]\[2\]\.",
        ),
        ("01", "rank of 'multi_hot' must be 1 or 2"),
        (np.full((20, 3), 7), r"= 7, multi_hot\[0\]\[1\] = 7, multi_hot\[0\]\[2\] = 7 and 57 more"),
    ],
)
def test_what_is_not_multi_hot_is_named(multi_hot, message):
    with pytest.raises(ValueError, match=message) as error:
        targets_from_multi_hot(multi_hot)
    assert "For 'targets_from_multi_hot'" in str(error.value)


LONG = {
    "many bad rows": np.full((20_000, 5), 10**9, np.int32),
    "many repeats": np.zeros((20_000, 5), np.int32),
    "many long lists": [[1, 2, 3, 4, 5, 6]] * 20_000,
    "long list": [0.5] * 100_000,
    "long lists": [list("abc" * 10_000)] * 3,
    "nested": [[[[list(range(10))] * 10] * 10] * 10] * 10,
    "long string": "0" * 10**6,
    "long strings": ["0" * 10**6, "1" * 10**6],
    "huge integers": [[10**4000] * 10] * 10,
    "integers that Python does not print": [[10**5000] * 10] * 10,
    "a mapping": {n: "x" * 1000 for n in range(1000)},
    "objects": [[np.zeros(100_000), "x" * 1000, {1: "y" * 1000}]] * 1000,
    "ragged": [[0] * n for n in range(1000)],
    "masked": np.ma.array(np.zeros((1000, 1000), np.int32), mask=True),
    "Series": pd.Series(["x" * 1000] * 1000),
    "DataFrame": pd.DataFrame(np.full((1000, 1000), 0.5)),
    "Tensor": Tensor(np.full((1000, 1000), 0.5)),
    "sparse": scipy.sparse.csr_matrix(np.full((1000, 1000), 0.5)),
    "of many dimensions": np.zeros((1,) * 32, np.int32),
    "structured": np.zeros(3, [(f"field {n}", int) for n in range(1000)]),
}


@pytest.mark.parametrize("name", LONG)
def test_no_message_is_long(name):
    value = LONG[name]
    messages = []
    for call in (
        lambda: targets_from_lists(value, 5),
        lambda: targets_from_lists(value, 2 * 10**9, num_labels=5),
        lambda: targets_from_lists([[1], value], 5),
        lambda: targets_from_multi_hot(value),
        lambda: targets_from_multi_hot([[0, value]]),
        lambda: multi_hot_from_targets(value, 5),
        lambda: check_target(value, 5),
        lambda: check_target(value, 2 * 10**9),
        lambda: check_target(np.zeros(1, np.int32), value),
    ):
        try:
            call()
        except (TypeError, ValueError) as error:
            messages.append(str(error))
    assert len(messages) > 3
    for message in messages:
        assert message.startswith("For '")
        assert len(message) < 500
