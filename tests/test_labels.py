"""Labels as people hold them: conversions, checks, and the loss from short rows of labels."""

import itertools

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mindspore import Tensor, nn

from benchmarks.measure import extra_memory
from mindspore_mlml import (
    MultilabelMarginLoss,
    check_target,
    multi_hot_from_targets,
    multilabel_margin_loss,
    multilabel_margin_loss_from_labels,
    targets_from_lists,
    targets_from_multi_hot,
)
from mindspore_mlml._backends import LIBRARIES
from tests.support.aot import Kernel
from tests.support.cases import DTYPES, EXAMPLE_INPUT, REDUCTIONS, random_batch
from tests.support.nets import EACH_FORM, FORMS, FORMS_FROM_LABELS, GradientNet
from tests.support.reference import loss_and_gradient

# ----------------------------------------------------------------------------------------------------------------------
# The loss from labels


def narrow(target, most):
    """The first columns of a target, which has no more targets in a row."""
    return np.ascontiguousarray(target[..., :most])


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("rows", "classes", "most"),
    [
        (2, 3000, 300),
        (None, 70, 5),
        pytest.param(5, 9, 1, marks=pytest.mark.slow),
        pytest.param(4, 40, 7, marks=pytest.mark.slow),
    ],
)
def test_it_equals_the_loss_of_the_padded_target_bit_for_bit(mode, rng, form, dtype, reduction, rows, classes, most):
    input, target = random_batch(rng, rows or 1, classes, most, dtype)
    if rows is None:
        input, target = input[0], target[0]
    padded, labels = FORMS[form](reduction), FORMS_FROM_LABELS[form](reduction)
    x, y, k = Tensor(input), Tensor(target), Tensor(narrow(target, most))
    expected = padded(x, y)
    loss = labels(x, k)
    assert loss.shape == expected.shape
    assert loss.dtype == expected.dtype
    assert loss.asnumpy().tobytes() == expected.asnumpy().tobytes()
    dout = Tensor(rng.standard_normal(expected.shape).astype(dtype))
    gradients = [GradientNet(net)(x, t, dout).asnumpy() for net, t in ((padded, y), (labels, k))]
    assert gradients[0].tobytes() == gradients[1].tobytes()


@pytest.mark.parametrize("form", EACH_FORM)
def test_there_may_be_more_labels_than_classes(mode, form):
    """A class may be repeated, so that a row has more labels than there are classes."""
    input = EXAMPLE_INPUT[:1]
    labels = np.array([[1, 1, 2, 1, 1, 2, -1, 7]], np.int32)
    net = FORMS_FROM_LABELS[form]("mean")
    loss, gradient = loss_and_gradient(input, labels)
    np.testing.assert_allclose(net(Tensor(input), Tensor(labels)).asnumpy(), loss, rtol=1e-6)
    actual = GradientNet(net)(Tensor(input), Tensor(labels), Tensor(1.0, ms.float32)).asnumpy()
    np.testing.assert_allclose(actual, gradient, rtol=1e-6)


def test_dynamic_shapes_of_labels(mode, rng):
    net = FORMS_FROM_LABELS["cell"]("mean")
    net.set_inputs(Tensor(shape=[None, None], dtype=ms.float32), Tensor(shape=[None, None], dtype=ms.int32))
    for rows, classes, most in ((2, 5, 1), (6, 33, 4), (3, 2000, 9)):
        input, target = random_batch(rng, rows, classes, most)
        loss = net(Tensor(input), Tensor(narrow(target, most))).asnumpy()
        np.testing.assert_allclose(loss, loss_and_gradient(input, target)[0], rtol=1e-6)


@pytest.mark.parametrize("form", EACH_FORM)
def test_its_errors_name_the_function_and_the_value(mode, form):
    net = FORMS_FROM_LABELS[form]("mean")
    x, y = Tensor(EXAMPLE_INPUT), Tensor(np.zeros((2, 3), np.int32))
    for arguments, kind, message in (
        ((3.5, y), TypeError, "'input' must be a Tensor, but got 3.5"),
        ((x, [[1]]), TypeError, "'labels' must be a Tensor, but got"),
        ((x.astype(ms.float64), y), TypeError, "'input' must be float16 or float32, but got Float64"),
        ((x, y.astype(ms.int64)), TypeError, "'labels' must be int32, but got Int64"),
        (
            (x[0], y[0, 0]),
            ValueError,
            "dimensions and rows as 'input', whose shape is .4,., but got shape ..\\.",
        ),
        ((x.reshape((2, 2, 2)), y), ValueError, "rank of 'input' must be 1 or 2, but got shape .2, 2, 2."),
        (
            (x, Tensor(np.zeros((3, 3), np.int32))),
            ValueError,
            "rows as 'input', whose shape is .2, 4., but got shape .3, 3.",
        ),
        ((x, Tensor(np.zeros(4, np.int32))), ValueError, "rows as 'input', whose shape is .2, 4., but got shape .4,."),
        (
            (x, Tensor(np.zeros((2, 0), np.int32))),
            ValueError,
            "must have a label or a negative value, but got shape .2, 0.",
        ),
        (
            (Tensor(np.zeros((2, 0), np.float32)), y),
            ValueError,
            "number of classes must be positive, but got shape .2, 0.",
        ),
    ):
        with pytest.raises(kind, match=message) as error:
            net(*arguments)
        assert "For 'multilabel_margin_loss_from_labels'" in str(error.value)


def test_no_memory_for_a_target_of_all_classes(rng):
    """At (64, 205443) a padded target is 53 MB."""
    rows, classes = 64, 205443
    input = rng.standard_normal((rows, classes), np.float32)
    labels = rng.integers(0, classes, (rows, 5)).astype(np.int32)
    loss, gradient, dout = np.zeros((), np.float32), np.zeros_like(input), np.ones((), np.float32)
    forward = Kernel(LIBRARIES["cpu"], "MultilabelMarginLossFromLabelsMean").prepare(input, labels, loss)
    backward = Kernel(LIBRARIES["cpu"], "MultilabelMarginLossFromLabelsGradMean").prepare(input, labels, dout, gradient)

    def run():
        forward()
        backward()

    run()
    assert extra_memory(run) < rows * classes


# ----------------------------------------------------------------------------------------------------------------------
# Conversions


@given(hnp.arrays(st.sampled_from([np.bool_, np.uint8, np.int64, np.float32]), (3, 7), elements=st.integers(0, 1)))
def test_targets_from_multi_hot_lists_the_ones_in_order(multi_hot):
    target = targets_from_multi_hot(multi_hot)
    assert target.dtype == np.int32
    assert target.shape == multi_hot.shape
    for row, labels in zip(multi_hot, target):
        ones = np.flatnonzero(row)
        np.testing.assert_array_equal(labels[: ones.size], ones)
        assert (labels[ones.size :] == -1).all()
    np.testing.assert_array_equal(targets_from_multi_hot(multi_hot[0]), target[0])


@given(st.lists(st.lists(st.integers(0, 8), unique=True)))
def test_targets_from_lists_keeps_the_order_and_pads(lists):
    target = targets_from_lists(lists, 9)
    assert target.dtype == np.int32
    assert target.shape == (len(lists), 9)
    for classes, labels in zip(lists, target):
        assert labels[: len(classes)].tolist() == classes
        assert (labels[len(classes) :] == -1).all()


def test_both_give_the_same_loss(rng):
    multi_hot = rng.random((5, 12)) < 0.3
    lists = [np.flatnonzero(row) for row in multi_hot]
    x = Tensor(rng.standard_normal((5, 12)).astype(np.float32))
    most = max(map(len, lists))
    losses = {
        multilabel_margin_loss(x, Tensor(targets_from_multi_hot(multi_hot))).asnumpy().tobytes(),
        multilabel_margin_loss(x, Tensor(targets_from_lists(lists, 12))).asnumpy().tobytes(),
        multilabel_margin_loss_from_labels(x, Tensor(targets_from_lists(lists, 12, most))).asnumpy().tobytes(),
    }
    assert len(losses) == 1


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=7)))
def test_multi_hot_from_targets_is_the_way_back(multi_hot):
    target = targets_from_multi_hot(multi_hot)
    for given_target in (target, target.astype(np.int64), Tensor(target)):
        back = multi_hot_from_targets(given_target, multi_hot.shape[-1])
        assert back.dtype == np.int32
        np.testing.assert_array_equal(back, multi_hot)


def test_multi_hot_from_targets_reads_what_the_loss_reads():
    target = np.array([[1, 3, 1, -1, 9], [-7, 0, 9, 0, 0], [3, 2, 1, 0, 0]], np.int32)
    assert multi_hot_from_targets(target, 4).tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert multi_hot_from_targets(target[0], 5).tolist() == [0, 1, 0, 1, 0]
    assert multi_hot_from_targets(target[:0], 4).shape == (0, 4)
    assert multi_hot_from_targets(target[:, :0], 4).tolist() == [[0, 0, 0, 0]] * 3
    with pytest.raises(ValueError, match="the number of classes, 3, but got 2 bad rows: ") as error:
        multi_hot_from_targets(target, 3)
    assert str(error.value).endswith("target[0][1] = 3, target[2][0] = 3.")
    with pytest.raises(ValueError, match=r"target\[0\] = 9223372036854775808"):
        multi_hot_from_targets(np.array([2**63], np.uint64), 4)
    for bad in (np.ones((2, 3)), np.ones((2, 3), bool)):
        with pytest.raises(TypeError, match=r"must be an integer type, but got .*class indices, not multi-hot"):
            multi_hot_from_targets(bad, 3)


class Evaluation(nn.Cell):
    """Loss, prediction and labels, as ``Model.eval`` wants them."""

    def __init__(self, network):
        super().__init__()
        self.network, self.loss = network, MultilabelMarginLoss()

    def construct(self, features, target, multi_hot):
        scores = self.network(features)
        return self.loss(scores, target), (scores > 0).astype(ms.int32), multi_hot


def test_the_multilabel_metrics_of_mindspore(mode, rng):
    scores = rng.standard_normal((24, 6)).astype(np.float32)
    multi_hot = rng.random((24, 6)) < 0.5
    target = targets_from_multi_hot(multi_hot)
    columns = {"features": scores, "target": target, "multi_hot": multi_hot_from_targets(target, 6)}
    data = ds.NumpySlicesDataset(columns, shuffle=False).batch(8)
    network = nn.Identity()
    names = ("Accuracy", "Precision", "Recall")
    metrics = {"Loss": ms.train.Loss(), **{name: getattr(ms.train, name)("multilabel") for name in names}}
    model = ms.train.Model(network, metrics=metrics, eval_network=Evaluation(network), eval_indexes=[0, 1, 2])
    result = model.eval(data)
    found = (scores > 0) & multi_hot
    np.testing.assert_allclose(result["Loss"], loss_and_gradient(scores, target)[0], rtol=1e-5)
    np.testing.assert_allclose(result["Accuracy"], ((scores > 0) == multi_hot).all(1).mean())
    np.testing.assert_allclose(result["Precision"], found.sum(1) / np.maximum((scores > 0).sum(1), 1))
    np.testing.assert_allclose(result["Recall"], found.sum(1) / np.maximum(multi_hot.sum(1), 1))


@pytest.mark.parametrize("in_processes", [False, True])
def test_they_are_map_operations_of_a_dataset(rng, in_processes):
    multi_hot = (rng.random((24, 6)) < 0.3).astype(np.uint8)
    lists = [np.flatnonzero(row) for row in multi_hot]
    features = rng.standard_normal((24, 6)).astype(np.float32)

    def make():
        yield from zip(features, multi_hot, lists)

    def to_row(classes):
        return check_target(targets_from_lists(classes, 6), 6)

    data = ds.GeneratorDataset(make, ["features", "multi_hot", "list"], shuffle=False)
    options = {"num_parallel_workers": 2, "python_multiprocessing": in_processes}
    data = data.map(targets_from_multi_hot, ["multi_hot"], **options).map(to_row, ["list"], **options).batch(8)
    seen = 0
    for x, from_multi_hot, from_list in data.create_tuple_iterator():
        rows = slice(seen, seen + 8)
        np.testing.assert_array_equal(from_multi_hot.asnumpy(), from_list.asnumpy())
        expected = loss_and_gradient(features[rows], targets_from_multi_hot(multi_hot[rows]))[0]
        np.testing.assert_allclose(multilabel_margin_loss(x, from_list).asnumpy(), expected, rtol=1e-6)
        seen += 8
    assert seen == 24


# ----------------------------------------------------------------------------------------------------------------------
# What the conversions do not take


@pytest.mark.parametrize("bad", [2, -1, 0.5, np.nan])
def test_a_value_that_is_neither_0_nor_1_is_named(bad):
    multi_hot = np.zeros((2, 3), np.float32)
    multi_hot[1, 2] = bad
    with pytest.raises(ValueError, match=r"must be 0 or 1, but got multi_hot\[1\]\[2\] = ") as error:
        targets_from_multi_hot(multi_hot)
    assert str(np.float32(bad)) in str(error.value)
    with pytest.raises(ValueError, match=r"multi_hot\[2\] = "):
        targets_from_multi_hot(multi_hot[1])


@pytest.mark.parametrize("shape", [(), (2, 2, 2)])
def test_multi_hot_has_one_or_two_dimensions(shape):
    with pytest.raises(ValueError, match="rank of 'multi_hot' must be 1 or 2, but got shape"):
        targets_from_multi_hot(np.zeros(shape))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[0], [1, 4]], r"from 0 to 3, but got class_lists\[1\]\[1\] = 4"),
        ([[-1]], r"from 0 to 3, but got class_lists\[0\]\[0\] = -1"),
        ([1, 2, 9], r"from 0 to 3, but got class_lists\[2\] = 9"),
        ([[0], [1, 2, 1]], r"twice, but got class_lists\[1\]\[2\] = 1 again"),
        ([[0.5]], r"class_lists\[0\] must be a list of integers, but got \[0.5\]"),
        ([["a"]], r"class_lists\[0\] must be a list of integers, but got"),
        ([[True]], r"class_lists\[0\] must be a list of integers, but got"),
        ([[0, 1, 2, 3, 0]], r"class_lists\[0\] must not be longer than 4, but got 5 classes"),
    ],
)
def test_a_list_that_is_wrong_is_named(lists, message):
    with pytest.raises(ValueError, match=message):
        targets_from_lists(lists, 4)


def test_repeats_of_other_classes_do_not_look_like_multi_hot():
    with pytest.raises(ValueError, match=r"= 1 again\.$"):
        targets_from_lists([[0], [1, 2, 1]], 4)


def test_a_list_must_fit_the_row():
    with pytest.raises(ValueError, match=r"class_lists\[1\] must not be longer than 2, but got 3 classes"):
        targets_from_lists([[0], [1, 2, 3]], 4, num_labels=2)


@given(st.lists(st.lists(st.integers(0, 8), unique=True, max_size=5)))
def test_the_longest_row_may_give_the_length_of_all(lists):
    longest = max([1, *map(len, lists)])
    expected = targets_from_lists(lists, 9, longest)
    multi_hot = np.zeros((len(lists), 9), bool)
    for row, classes in zip(multi_hot, lists):
        row[classes] = True
    np.testing.assert_array_equal(targets_from_lists(lists, 9, "max"), expected)
    sparse = scipy.sparse.csr_matrix(multi_hot)
    expected = targets_from_multi_hot(multi_hot, num_labels=longest)
    np.testing.assert_array_equal(targets_from_multi_hot(multi_hot, num_labels="max"), expected)
    np.testing.assert_array_equal(targets_from_multi_hot(sparse, num_labels="max"), expected)
    np.testing.assert_array_equal(targets_from_lists(sparse, 9, num_labels="max"), expected)


def test_the_longest_row_of_a_single_list():
    assert targets_from_lists([3, 1], 9, "max").tolist() == [3, 1]
    assert targets_from_lists(np.array([], np.int64), 9, "max").tolist() == [-1]
    assert targets_from_multi_hot([0, 1, 0, 1], "max").tolist() == [1, 3]


def test_an_error_of_memory_names_the_shape_and_the_way_out():
    """Of 258 TB, which is more than an address space."""
    for call, shape in (
        (lambda: targets_from_lists([[4, 7]] * 30_000, 2**31), "(30000, 2)"),
        (lambda: targets_from_multi_hot(scipy.sparse.coo_matrix((30_000, 2**31), dtype=bool)), "(30000, 1)"),
    ):
        with pytest.raises(MemoryError, match=r"of shape \(30000, 2147483648\), 240000\.0 GiB") as error:
            call()
        assert str(error.value).endswith(f'With num_labels="max" their shape is {shape}.')


def test_a_single_list_becomes_a_single_row():
    assert targets_from_lists([2, 0], 4).tolist() == [2, 0, -1, -1]
    assert targets_from_lists(np.array([2, 0]), 4).tolist() == [2, 0, -1, -1]
    assert targets_from_lists(np.array([], np.int64), 4).tolist() == [-1, -1, -1, -1]
    assert targets_from_lists([[]], 2).tolist() == [[-1, -1]]
    assert targets_from_lists([], 2).shape == (0, 2)


def test_ones_must_fit_the_row():
    multi_hot = np.array([[0, 1, 1], [1, 1, 1]])
    for form in (multi_hot, scipy.sparse.lil_matrix(multi_hot)):
        with pytest.raises(ValueError, match=r"multi_hot\[1\] must not have more classes than 2, but got 3 classes"):
            targets_from_multi_hot(form, num_labels=2)
    with pytest.raises(ValueError, match="multi_hot must not have more classes than 1, but got 2 classes"):
        targets_from_multi_hot(multi_hot[0], num_labels=1)


SIZED = {
    ("targets_from_lists", "num_classes"): lambda size: targets_from_lists([[0]], size),
    ("targets_from_lists", "num_labels"): lambda size: targets_from_lists([[0]], 4, size),
    ("targets_from_multi_hot", "num_labels"): lambda size: targets_from_multi_hot([0, 1], size),
    ("multi_hot_from_targets", "num_classes"): lambda size: multi_hot_from_targets([0], size),
    ("check_target", "num_classes"): lambda size: check_target(np.zeros(1, np.int32), size),
}


@pytest.mark.parametrize(("function", "name"), SIZED)
def test_sizes_are_positive_integers(function, name):
    for size in (True, np.True_, 4.0, np.float32(4), "4", [4], Tensor(True), np.array([4, 4])):
        with pytest.raises(TypeError, match=f"'{function}', the '{name}' must be a positive integer, but got "):
            SIZED[function, name](size)
    for size in (0, -3, np.int64(-1), 2**31 + 1, 2**70, 10**5000):
        with pytest.raises(ValueError, match=f"'{function}', the '{name}' must be from 1 to 2147483648, but got "):
            SIZED[function, name](size)
    for size in (4, np.int64(4), np.uint8(4), np.array(4), Tensor(4)):
        np.testing.assert_array_equal(SIZED[function, name](size), SIZED[function, name](4))


# ----------------------------------------------------------------------------------------------------------------------
# Checks


def test_check_target_returns_what_is_right():
    target = np.array([[3, 0, -1, 99], [-5, 99, 99, 99]], np.int32)
    assert check_target(target, 4) is target
    tensor = Tensor(target)
    assert check_target(tensor, 4) is tensor


def test_check_target_names_every_bad_row():
    target = np.full((100, 5), -1, np.int32)
    target[7] = [0, 1, 50, 60, -1]
    target[42] = [-1, 50, 50, 50, 50]  # behind the end
    target[99] = [2**31 - 1, 0, 0, 0, 0]
    for given_target in (target, Tensor(target)):
        with pytest.raises(ValueError, match="classes, 50, but got 2 bad rows") as error:
            check_target(given_target, 50)
        assert str(error.value).endswith(": target[7][2] = 50, target[99][0] = 2147483647.")
    with pytest.raises(ValueError, match=r"1 bad row: target\[2\] = 50\."):
        check_target(target[7], 50)


def test_check_target_wants_int32_of_one_or_two_dimensions():
    with pytest.raises(TypeError, match="must be int32, but got int64"):
        check_target(np.zeros((2, 2), np.int64), 4)
    with pytest.raises(ValueError, match="rank of 'target' must be 1 or 2, but got shape"):
        check_target(np.zeros((), np.int32), 4)


def test_check_target_names_the_first_bad_rows_and_how_many_there_are():
    target = np.full((20_000, 3), -1, np.int32)
    target[100:, 1:] = 8
    target[100:, 0] = np.arange(19_900) % 7
    with pytest.raises(ValueError, match="classes, 8, but got 19900 bad rows: ") as error:
        check_target(target, 8)
    assert str(error.value).endswith(": target[100][1] = 8, target[101][1] = 8, target[102][1] = 8 and 19897 more.")


def first_wrong(target, is_wrong):
    """Row, position and value of the first value of each row for which ``is_wrong(the ones before it, itself)``."""
    for row, values in enumerate(target):
        listed = list(itertools.takewhile(lambda value: value >= 0, values.tolist()))
        for position, value in enumerate(listed):
            if is_wrong(listed[:position], value):
                yield f"target[{row}][{position}] = {value}"
                break


@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=st.integers(-1, 30)))
def test_check_target_finds_what_a_loop_finds(target):
    too_large = list(first_wrong(target, lambda before, value: value >= 25))
    repeated = list(first_wrong(target, lambda before, value: value in before))
    bad = too_large or [f"{text} again" for text in repeated]
    for array in (target, Tensor(target), np.asfortranarray(target), np.repeat(target, 2, axis=1)[:, ::2]):
        if not bad:
            assert check_target(array, 25) is array
            continue
        with pytest.raises(ValueError, match=f"but got {len(bad)} bad row") as error:
            check_target(array, 25)
        more = f" and {len(bad) - 3} more." if len(bad) > 3 else "."
        assert f": {', '.join(bad[:3])}{more}" in str(error.value)
    if not too_large:
        assert check_target(target, 25, allow_repeats=True) is target


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.uint8, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 3), (5, 12), (9,)])
def test_check_target_recognises_multi_hot(rng, dtype, shape):
    multi_hot = (rng.random(shape) < 0.3).astype(dtype)
    for target in (multi_hot, Tensor(multi_hot)):
        with pytest.raises(ValueError if dtype == np.int32 else TypeError) as error:
            check_target(target, shape[-1])
        assert "looks like multi-hot: targets_from_multi_hot" in str(error.value)
        assert dtype == np.int32 or "class indices, not multi-hot" in str(error.value)
    with pytest.raises(TypeError, match=r"not multi-hot, but got .*targets_from_multi_hot"):
        check_target(scipy.sparse.csr_matrix(np.atleast_2d(multi_hot.astype(float))), shape[-1])


def test_check_target_does_not_take_indices_for_multi_hot():
    for row in (
        [0, 1, -1, 0, 0],
        [1, 0, -1, 1, 1],
        [1, -1, 1, 1, 1],
        [0, -1, 0, 0, 0],
        [-1, 0, 0, 0, 0],
        [4, 3, 2, 1, 0],
    ):
        check_target(np.array([row], np.int32), 5)
    check_target(np.array([[0, 1], [1, 0], [1, -1], [0, -1], [-1, 0]], np.int32), 2)
    check_target(np.array([[0], [1], [1]], np.int32), 2)
    many = np.tile(np.array([0, 1] * 100, np.int32), (3000, 1))
    with pytest.raises(ValueError, match=r"3000 bad rows: target\[0\]\[2\] = 0 again, .* looks like multi-hot"):
        check_target(many, 200)
    many[2999, 0] = 2
    with pytest.raises(ValueError, match=r"and 2997 more\. To let repeats pass"):
        check_target(many, 200)
    with pytest.raises(ValueError, match=r"1 bad row: target\[1\]\[2\] = 5 again\. .*'allow_repeats'") as error:
        check_target(np.array([[0, 1, 2, -1], [5, 1, 5, -1]], np.int32), 6)
    assert "multi-hot" not in str(error.value)
    for target in (np.array([[1.0, -1.0]]), np.array([["1"]]), np.array([[None]])):
        with pytest.raises(TypeError, match="not multi-hot") as error:
            check_target(target, 5)
        assert "looks like" not in str(error.value)
        assert "class indices with .astype(numpy.int32), multi-hot with targets_from_multi_hot" in str(error.value)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16])
def test_check_target_says_how_to_convert_class_indices(dtype):
    target = np.array([[1, 2]], dtype)
    for given_target, conversion in ((target, ".astype(numpy.int32)"), (Tensor(target), ".astype(mindspore.int32)")):
        with pytest.raises(TypeError, match=f"must be int32, but got {np.dtype(dtype)}") as error:
            check_target(given_target, 5)
        assert str(error.value).endswith(f"Convert it with {conversion}.")


def test_check_target_looks_at_every_one_of_many_targets(rng):
    target = np.tile(np.arange(200, dtype=np.int32), (3000, 1))
    assert check_target(target, 200) is target
    for row, position in ((0, 199), (1310, 3), (1311, 0), (2999, 199)):
        wrong = target.copy()
        wrong[row, position] = 200
        with pytest.raises(ValueError, match=rf"1 bad row: target\[{row}\]\[{position}\] = 200\."):
            check_target(wrong, 200)
        wrong[row, position] = 77
        with pytest.raises(ValueError, match=rf"1 bad row: target\[{row}\]\[{max(position, 77)}\] = 77 again"):
            check_target(wrong, 200)


def test_check_target_reads_no_more_than_what_is_listed():
    rows, classes = 64, 1_000_000
    target = np.full((rows, classes), -1, np.int32)
    target[:, :50] = np.arange(50)
    check_target(target, classes)
    assert extra_memory(lambda: check_target(target, classes)) < rows * classes / 10


def test_check_target_does_not_drop_a_mask():
    target = np.ma.array([[1, 2, -1]], mask=[[0, 1, 0]], dtype=np.int32)
    with pytest.raises(ValueError, match=r"masked values, but got masked target\[0\]\[1\]"):
        check_target(target, 4)
    assert check_target(np.ma.array(target.data), 4).tolist() == [[1, 2, -1]]
    for masked in (target, [target[0]]):
        with pytest.raises(ValueError, match=r"masked values, but got masked target\[0\]\[1\]"):
            multi_hot_from_targets(masked, 4)
    with pytest.raises(ValueError, match="rows of 'target' must be equally long, but got"):
        check_target([[1], [2, 3]], 4)
