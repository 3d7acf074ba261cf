"""Labels as libraries hold them, read into one form: how many classes each row has, and the classes of all rows.

SciPy's and pandas' objects are recognised by what they offer; neither is imported. Every error names the function
``op``, the place and the value.
"""

import numbers
import operator
import sys
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from mindspore import Tensor

from mindspore_mlml._messages import SHOWN_VALUES, few, few_values, place, shown

LARGEST_SIZE = 2**31  # the number of classes that int32 can tell apart


class Listing(NamedTuple):
    """The rows of an argument, for their lengths and for messages."""

    name: str
    is_single: bool  # one row, without a dimension for rows
    counts: np.ndarray  # the number of items of each row
    rows: Sequence = ()  # where they are needed

    def row_name(self, row):
        return self.name if self.is_single else place(self.name, [row])

    def locate(self, number):
        """The row and the position in it of the item with this number, counted over all rows."""
        row = int(np.searchsorted(np.cumsum(self.counts), number, side="right"))
        return row, int(number - self.counts[:row].sum())

    def few_items(self, item_numbers, suffix=""):
        """For a message: the first of these items, and how many more there are."""
        places = map(self.locate, item_numbers[:SHOWN_VALUES].tolist())
        found = [(self.row_name(row), [position], list(self.rows[row])[position]) for row, position in places]
        return few_values(found, len(item_numbers), suffix)


# ----------------------------------------------------------------------------------------------------------------------
# Arguments


def positive_integer(op, name, value):
    """A number of classes or of labels, as an int."""
    number = _integer(value)
    if number is None:
        raise TypeError(f"For '{op}', the '{name}' must be a positive integer, but got {shown(value)}.")
    if not 0 < number <= LARGEST_SIZE:
        raise ValueError(f"For '{op}', the '{name}' must be from 1 to {LARGEST_SIZE}, but got {shown(number)}.")
    return number


def _integer(value):
    """An integer of any library as Python's; ``None`` for anything else, a bool for example."""
    value = _unwrapped(value)
    try:
        return None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        return None


def _unwrapped(value):
    """What an array or a Tensor without dimensions holds. A masked value stays one: NumPy would make it 0."""
    has_array = hasattr(value, "__array__") and not isinstance(value, np.ma.MaskedArray)
    return np.asarray(value)[()] if has_array else value


def is_sparse(value):
    """Whether it is a sparse matrix or array as SciPy has them, of any format."""
    return hasattr(value, "tocoo") and hasattr(value, "nnz")


def as_array(op, name, value):
    """What is an array in its library, as NumPy's; ``None`` for anything else."""
    if isinstance(value, Tensor):
        return value.asnumpy()
    if isinstance(value, np.ma.MaskedArray):
        _check_mask(op, name, np.ma.getmaskarray(value))
    return np.asarray(value) if hasattr(value, "__array__") else None


def to_array(op, name, value):
    """An array, or rows that make one."""
    values = as_array(op, name, value)
    if values is not None:
        return values
    is_masked = isinstance(value, (list, tuple)) and any(isinstance(row, np.ma.MaskedArray) for row in value)
    try:
        rows = np.ma.array(value) if is_masked else np.asarray(value)  # NumPy drops the masks of arrays in a list
    except ValueError as error:
        raise ValueError(f"For '{op}', the rows of '{name}' must be equally long, but got {shown(value)}.") from error
    return as_array(op, name, rows)


def _check_mask(op, name, mask):
    masked = np.argwhere(mask)
    if len(masked):
        places = few([place(name, index) for index in masked[:SHOWN_VALUES].tolist()], len(masked))
        raise ValueError(f"For '{op}', '{name}' must not have masked values, but got masked {places}.")


def check_rank(op, name, shape):
    if len(shape) not in (1, 2):
        raise ValueError(f"For '{op}', the rank of '{name}' must be 1 or 2, but got shape {tuple(shape)}.")


def _advice(value):
    """What to do with a value that is not what it should be, if that is known."""
    if isinstance(value, (str, bytes, bytearray)):
        return " Convert strings to integers."
    if isinstance(value, (bool, np.bool_)):
        return " For multi-hot labels there is targets_from_multi_hot."
    if isinstance(value, Mapping):
        return " Of a mapping, pass the keys or the values."
    return ""


# ----------------------------------------------------------------------------------------------------------------------
# Multi-hot


def read_multi_hot(op, name, multi_hot):
    """The rows, the classes of all of them in order, and the number of classes."""
    read = _read_sparse if is_sparse(multi_hot) else _read_dense
    shape, rows, classes = read(op, name, multi_hot)
    is_single = len(shape) == 1
    counts = np.bincount(rows, minlength=1 if is_single else shape[0])
    return Listing(name, is_single, counts), classes, shape[-1]


def _read_dense(op, name, multi_hot):
    """The shape, and the rows and columns of the ones."""
    values = to_array(op, name, multi_hot)
    if values.dtype == object and values.ndim == 1:  # perhaps of rows
        values = to_array(op, name, values.tolist())
    check_rank(op, name, values.shape)
    is_one = _equal(values, 1)
    wrong = np.flatnonzero(~(is_one | _equal(values, 0)))
    if len(wrong):
        index = np.unravel_index(wrong[:SHOWN_VALUES], values.shape)
        _raise_neither_0_nor_1(op, name, index, values[index], len(wrong))
    return values.shape, *np.nonzero(np.atleast_2d(is_one))


def _equal(values, number):
    """Where there is a number that equals this one."""
    if values.dtype == bool:
        return values if number else ~values
    if values.dtype.kind in "iufc":
        return values == number
    # A comparison of objects need not give a bool: that of pandas' NA gives NA.
    equal = [isinstance(value, (numbers.Number, np.bool_)) and value == number for value in values.flat]
    return np.array(equal, bool).reshape(values.shape)


def _read_sparse(op, name, matrix):
    """The same for a sparse matrix, which is not made dense."""
    check_rank(op, name, matrix.shape)
    if matrix.shape[-1] > LARGEST_SIZE:
        raise ValueError(f"For '{op}', '{name}' must have at most {LARGEST_SIZE} columns, but got {matrix.shape[-1]}.")
    entries = matrix.tocoo()
    rows, columns, values = entries.row, entries.col, entries.data
    places = rows.astype(np.int64) * matrix.shape[-1] + columns
    if (places[1:] <= places[:-1]).any():  # out of order, or several entries in one place, whose sum counts
        order = np.argsort(places, kind="stable")
        _, first = np.unique(places[order], return_index=True)
        rows, columns = rows[order[first]], columns[order[first]]
        values = np.add.reduceat(values[order], first, dtype=values.dtype)
    is_one = values == 1
    wrong = np.flatnonzero(~(is_one | (values == 0)))
    if len(wrong):
        first = wrong[:SHOWN_VALUES]
        index = (rows[first], columns[first])[-len(matrix.shape) :]
        _raise_neither_0_nor_1(op, name, index, values[first], len(wrong))
    return matrix.shape, rows[is_one], columns[is_one]


def _raise_neither_0_nor_1(op, name, index, values, total):
    """Raises the error for the values at ``index``, the first of ``total``."""
    found = few_values([(name, place, value) for place, value in zip(np.transpose(index).tolist(), values)], total)
    advice = _advice(values[0])
    if isinstance(values[0], numbers.Real) and values[0] == values[0]:
        advice = advice or f" Of a matrix of relevances, pass where it is not 0: {name} != 0."
    raise ValueError(f"For '{op}', each value of '{name}' must be 0 or 1, but got {found}.{advice}")


# ----------------------------------------------------------------------------------------------------------------------
# Lists of classes


def read_class_lists(op, name, class_lists):
    """The lists, and an array of all their classes, which are integers, in or out of range."""
    listing = _listing(op, name, class_lists)
    classes = _numbers(listing)
    wrong = np.flatnonzero(classes != np.floor(classes)) if classes.dtype.kind == "f" else ()
    if len(wrong):
        _raise_not_integers(op, listing, wrong)
    return listing, classes


def _listing(op, name, class_lists):
    """The lists, in which there may be anything."""
    values = as_array(op, name, class_lists)
    lists = class_lists if values is None else values
    if not _is_list(lists):
        _raise_not_a_list(op, name, class_lists)
    is_array_of_items = values is not None and values.dtype != object
    if is_array_of_items and values.ndim <= 2 and _has_numbers(values.dtype):
        rows = np.atleast_2d(values)
        return Listing(name, values.ndim == 1, np.full(len(rows), rows.shape[1]), rows)
    rows = list(lists)
    is_single = values.ndim == 1 if is_array_of_items else bool(rows) and not any(map(_is_list, rows))
    if is_single:
        return Listing(name, True, np.array([len(rows)]), [rows])
    rows = _uniform_rows(op, name, rows)
    return Listing(name, False, np.fromiter(map(len, rows), np.int64, len(rows)), rows)


def _is_list(value):
    """Whether its items are what counts, which they are not in a string or a mapping."""
    is_scalar = getattr(value, "shape", None) == ()
    if is_scalar or isinstance(value, (str, bytes, bytearray, Mapping)) or is_sparse(value):
        return False
    return hasattr(value, "__iter__") or hasattr(value, "__array__")  # MindSpore 2.7's Tensor has only the second


def _uniform_rows(op, name, rows):
    """The rows as Python's collections, or all of them as arrays of numbers."""
    if set(map(type, rows)) <= {list, tuple, set, frozenset, range} or _are_arrays_of_numbers(rows):
        return rows
    rows = [_uniform_row(op, place(name, [number]), row) for number, row in enumerate(rows)]
    if _are_arrays_of_numbers(rows):
        return rows
    return [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]


def _are_arrays_of_numbers(rows):
    if set(map(type, rows)) != {np.ndarray} or {row.ndim for row in rows} != {1}:
        return False
    return all(map(_has_numbers, {row.dtype for row in rows}))


def _has_numbers(dtype):
    return dtype.kind in "iuf"


def _uniform_row(op, name, row):
    """A row as an array of numbers, or else as a list."""
    values = as_array(op, name, row)
    if not _is_list(row) or (values is not None and values.ndim != 1):
        _raise_not_a_list(op, name, row)
    if values is None:
        return list(row)
    return values if _has_numbers(values.dtype) else list(values)


def _numbers(listing):
    """All items as an array of numbers, NaN where one is not a number: a string, for example, or a bool."""
    rows = listing.rows
    if isinstance(rows, np.ndarray):
        return rows.ravel()
    if rows and isinstance(rows[0], np.ndarray):
        return np.concatenate(rows)
    try:
        return _integers(listing)
    # Not all of them are integers of 64 bits. NumPy warns of its bools.
    except (TypeError, ValueError, OverflowError, DeprecationWarning):
        items = list(chain.from_iterable(rows))
    if _are_all(items, (float, np.floating)):
        return np.array(items, np.float64)
    return np.array(list(map(_number, items)), np.float64)


def _integers(listing):
    """All items as an array of integers, or an error."""
    rows, integers = listing.rows, (int, np.integer)
    # Python 3.9 would cut the fractions of NumPy's floats.
    if sys.version_info < (3, 10) and not _are_all(chain.from_iterable(rows), integers):
        raise TypeError
    items = array("q")
    for row in rows:
        items.fromlist(row if isinstance(row, list) else list(row))
    values = np.asarray(items)
    suspects = np.flatnonzero((values == 0) | (values == 1))  # a bool has become one of them
    in_rows = set(np.searchsorted(np.cumsum(listing.counts), suspects, side="right").tolist())
    if not _are_all(chain.from_iterable(rows[row] for row in in_rows), integers):
        raise TypeError
    return values


def _are_all(items, types):
    return all(issubclass(kind, types) and kind is not bool for kind in set(map(type, items)))


def _number(item):
    """An item as a float, which every class is exactly; NaN if it is not a number."""
    item = _unwrapped(item)
    if isinstance(item, (float, np.floating)):
        return float(item)
    number = _integer(item)
    # A Python integer may be too large for a float.
    return np.nan if number is None else float(min(max(number, -1), LARGEST_SIZE))


def _raise_not_a_list(op, name, value):
    raise ValueError(f"For '{op}', {name} must be a list of integers, but got {shown(value)}.{_advice(value)}")


def _raise_not_integers(op, listing, wrong):
    """Raises the error for the items with these numbers."""
    row, position = listing.locate(wrong[0])
    items = list(listing.rows[row])
    raise ValueError(
        f"For '{op}', {listing.row_name(row)} must be a list of integers, but got {shown(items)}, with "
        f"{listing.few_items(wrong)}.{_advice(items[position])}"
    )
