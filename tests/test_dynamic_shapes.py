"""Graphs whose shapes are unknown: dynamic shapes and dynamic rank.

What works in them is a table: forms of the loss, which sizes are unknown, what is done with the graph, and the mode.
`python -m tests.test_dynamic_shapes [way ...]` prints it, of all ways or of some.
"""

import sys
from typing import Callable, NamedTuple

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindspore_mlml import (
    ClassParallelMultilabelMarginLoss,
    LinearMultilabelMarginLoss,
    MultilabelMarginLoss,
    MultilabelMarginLossFromLabels,
    _primitive,
    linear_multilabel_margin_loss,
)
from tests.support.cases import REDUCTIONS, batch_of, random_batch
from tests.support.compare import close
from tests.support.linear import random_layer, reference
from tests.support.nets import EACH_FORM, FORMS, FORMS_FROM_LABELS, GRAPH_AND_SLOWLY_PYNATIVE, GradientNet
from tests.support.processes import ROOT, run_program
from tests.support.reference import loss_and_gradient

CLASSES = 6
LABELS = 3
MODES = {"pynative": ms.PYNATIVE_MODE, "graph": ms.GRAPH_MODE}

# ----------------------------------------------------------------------------------------------------------------------
# The table


class Form(NamedTuple):
    """A row of the table: a Cell of several inputs, the first of which have gradients."""

    make: Callable  # reduction -> the Cell
    batch: Callable  # (rng, rows, columns) -> the inputs as arrays; rows may be None, for inputs of one dimension
    unknown: dict  # which sizes are unknown -> the shape of each input
    expected: Callable  # (*inputs, reduction) -> the loss, and the gradients of the first inputs
    has_single_rows: bool = True  # whether the inputs may have one dimension


def batch_of_labels(rng, rows, columns):
    """The number of columns is that of the labels, and the number of classes is always the same."""
    input, target = batch_of(rng, (CLASSES,) if rows is None else (rows, CLASSES), most=2)
    padded = np.concatenate((target[..., :LABELS], np.full_like(target, -1)), -1)
    return input, np.ascontiguousarray(padded[..., :columns])


def expected_of_scores(input, labels, reduction):
    loss, gradient = loss_and_gradient(input, labels, reduction)
    return loss, [gradient]


class Relu(nn.Cell):
    """An operator of MindSpore's, in the form of a loss of scores."""

    def __init__(self, reduction):
        super().__init__()
        self.is_per_row, self.factor = reduction == "none", 2 if reduction == "mean" else 1

    def construct(self, input, target):
        losses = self.factor * ops.relu(input) + 0 * target
        return losses.sum(-1) if self.is_per_row else losses.sum()


def expected_of_relu(input, target, reduction):
    factor = 2 if reduction == "mean" else 1
    losses = factor * np.maximum(input, 0)
    return losses.sum(-1 if reduction == "none" else None), [factor * (input > 0)]


OF_SCORES = {
    "rows": ([None, CLASSES], [None, CLASSES]),
    "columns": ([5, None], [5, None]),
    "all": ([None, None], [None, None]),
    "rank": (None, None),
}


OF_LABELS = {**OF_SCORES, "rows": ([None, CLASSES], [None, LABELS]), "columns": ([5, CLASSES], [5, None])}


def batch_of_scores(rng, rows, columns):
    return batch_of(rng, (columns,) if rows is None else (rows, columns))


FEATURES = 4
_, WEIGHT, BIAS = random_layer(np.random.default_rng(0), 1, FEATURES, CLASSES)


def linear_layer(reduction):
    return LinearMultilabelMarginLoss(FEATURES, CLASSES, reduction, weight_init=Tensor(WEIGHT), bias_init=Tensor(BIAS))


class LinearFunction(nn.Cell):
    """The function, whose weight and bias are inputs too."""

    def __init__(self, reduction):
        super().__init__()
        self.reduction = reduction

    def construct(self, features, weight, bias, labels):
        return linear_multilabel_margin_loss(features, weight, bias, labels, self.reduction)


def batch_of_features(rng, rows, columns):
    """The number of columns is that of the labels."""
    features, *_ = random_layer(rng, rows, FEATURES, CLASSES)
    return features, batch_of_labels(rng, rows, columns)[1]


def batch_of_layer(rng, rows, columns):
    features, labels = batch_of_features(rng, rows, columns)
    return features, WEIGHT, BIAS, labels


def expected_of_function(features, weight, bias, labels, reduction):
    dout = np.ones(len(features)) if reduction == "none" else 1
    return reference(features, weight, bias, labels, reduction, dout)


def expected_of_layer(features, labels, reduction):
    loss, gradients = expected_of_function(features, WEIGHT, BIAS, labels, reduction)
    return loss, gradients[:1]


OF_FEATURES = {**OF_SCORES, "rows": ([None, FEATURES], [None, LABELS]), "columns": ([5, FEATURES], [5, None])}
OF_LAYER = {
    "rows": ([None, FEATURES], [CLASSES, FEATURES], [CLASSES], [None, LABELS]),
    "columns": ([5, FEATURES], [CLASSES, FEATURES], [CLASSES], [5, None]),
    "all": ([None, None], [None, None], [None], [None, None]),
    "rank": (None, None, None, None),
}

# For comparison, the first row is an operator of MindSpore's.
TABLE = {
    "MindSpore's relu": Form(Relu, batch_of_scores, OF_SCORES, expected_of_relu),
    "loss": Form(MultilabelMarginLoss, batch_of_scores, OF_SCORES, expected_of_scores),
    "labels": Form(MultilabelMarginLossFromLabels, batch_of_labels, OF_LABELS, expected_of_scores),
    "linear layer": Form(linear_layer, batch_of_features, OF_FEATURES, expected_of_layer, False),
    "linear function": Form(LinearFunction, batch_of_layer, OF_LAYER, expected_of_function, False),
    "class parallel": Form(
        lambda reduction: ClassParallelMultilabelMarginLoss(CLASSES, reduction),
        batch_of_labels,
        OF_LABELS,
        expected_of_scores,
        False,
    ),
}
# What is unknown -> the rows and columns of three batches; the columns of "rows" are those of the form.
SIZES = {
    "rows": [(5, None), (4, None), (7, None)],
    "columns": [(5, 6), (5, 8), (5, 3)],
    "all": [(5, 6), (4, 8), (7, 3)],
    "rank": [(5, 6), (None, 8), (7, 3)],
}
UNKNOWN = tuple(SIZES)


class Total(nn.Cell):
    """A loss of any reduction as a scalar."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def construct(self, *inputs):
        return self.net(*inputs).sum()


class ValueAndGrad(nn.Cell):
    """The value and the gradients of a Cell, within the graph."""

    def __init__(self, net, positions):
        super().__init__()
        self.step = ms.value_and_grad(net, positions)

    def construct(self, *inputs):
        return self.step(*inputs)


def compiled(net, unknown, mode):
    """The Cell, as a graph for inputs of unknown shapes."""
    if mode == "pynative":
        net.construct = ms.jit(net.construct)
    net.set_inputs(*unknown)
    return net


def gradient_outside(net, unknown, mode, positions):
    return ms.value_and_grad(compiled(Total(net), unknown, mode), positions)


def gradient_inside(net, unknown, mode, positions):
    return compiled(ValueAndGrad(Total(net), positions), unknown, mode)


def forward(net, unknown, mode, _):
    return compiled(net, unknown, mode)


def mindir(net, unknown, _, __):
    ms.export(net, *unknown, file_name="net", file_format="MINDIR")
    return nn.GraphCell(ms.load("net.mindir"))


def fullgraph(net, _, __, ___):
    """What is unknown, MindSpore finds out from one call to the next."""
    return ms.jit(net.construct, dynamic=1, fullgraph=True)


# What is done with a graph: (Cell, unknown inputs, mode, positions of gradients) -> the function to call.
WAYS = {
    "forward": forward,
    "gradient outside": gradient_outside,
    "gradient inside": gradient_inside,
    "MindIR": mindir,
    "compile cache": forward,  # in processes of its own, which have the cache
    "fullgraph": fullgraph,
    "strict": forward,
}
CELLS = [(form, unknown, way, mode) for form in TABLE for unknown in UNKNOWN for way in WAYS for mode in MODES]


def check_cell(form, unknown, way, mode):
    """Runs one cell of the table in three batches, the first of them twice."""
    number = CELLS.index((form, unknown, way, mode))
    reduction = REDUCTIONS[number % len(REDUCTIONS)]
    row, rng = TABLE[form], np.random.default_rng(number)
    known_columns = row.unknown["rows"][-1][-1]  # of the labels, which are the last input
    sizes = [
        (1 if rows is None and not row.has_single_rows else rows, columns or known_columns)
        for rows, columns in SIZES[unknown]
    ]
    batches = [row.batch(rng, *size) for size in sizes]
    shapes = zip(row.unknown[unknown], batches[0])
    inputs = [Tensor(shape=shape, dtype=Tensor(array).dtype) for shape, array in shapes]
    gradients = len(row.expected(*batches[0], "sum")[1])
    ms.set_context(mode=MODES[mode], jit_syntax_level=ms.STRICT if way == "strict" else ms.LAX)
    try:
        run = WAYS[way](row.make(reduction), inputs, mode, tuple(range(gradients)))
        for batch in (*batches, batches[0]):
            result = run(*map(Tensor, batch))
            if "gradient" not in way:
                close(result, row.expected(*batch, reduction)[0])
                continue
            expected = row.expected(*batch, "sum" if reduction == "none" else reduction)
            close(result[0], expected[0])
            for actual, wanted in zip(result[1] if gradients > 1 else (result[1],), expected[1]):
                np.testing.assert_allclose(actual.asnumpy(), wanted, rtol=1e-5, atol=1e-6)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE, jit_syntax_level=ms.LAX)


# Cells that MindSpore refuses to its own operators too: (what is unknown, way, mode) -> the reason.
REFUSED = {}


def result_of_cell(form, unknown, way, mode):
    """What the printed table says."""
    try:
        check_cell(form, unknown, way, mode)
    except Exception as error:
        reason = REFUSED.get((unknown, way, mode))
        return f"MindSpore: {reason}" if reason else f"{type(error).__name__}: {str(error).strip()[:60]!r}"
    return "unexpectedly works" if (unknown, way, mode) in REFUSED else "works"


def selected_cells(words):
    """The cells whose names are among the words; any form, way, … if there is none of a kind among them."""
    kinds = (TABLE, UNKNOWN, WAYS, MODES)
    wanted = [[name for name in kind if name in words] or list(kind) for kind in kinds]
    return [cell for cell in CELLS if all(name in names for name, names in zip(cell, wanted))]


def main(words):
    """Prints the results, for a table with a column for each way. True if all is as it should be."""
    known = {*TABLE, *UNKNOWN, *WAYS, *MODES}
    if not known.issuperset(words):
        raise SystemExit(f"usage: python -m tests.test_dynamic_shapes [{' | '.join(known)} ...]")
    cells = selected_cells(words)
    rows = {}
    for form, unknown, way, mode in cells:
        rows.setdefault((form, unknown, mode), {})[way] = result_of_cell(form, unknown, way, mode)
    ways = [way for way in WAYS if any(way in row for row in rows.values())]
    print(f"{'form':17} {'unknown':8} {'mode':9}", *[f"{way:17}" for way in ways])
    for (form, unknown, mode), row in rows.items():
        print(f"{form:17} {unknown:8} {mode:9}", *[f"{row[way]:17}" for way in ways], flush=True)
    results = [result for row in rows.values() for result in row.values()]
    print(f"{len(results)} cells, {len([r for r in results if r != 'works'])} do not work")
    return all(result == "works" or result.startswith("MindSpore: ") for result in results)


def is_representative(cell):
    """Whether a cell is among the few that are always tested: each form, way, … is among them."""
    form, unknown, way, mode = [list(kind).index(name) for kind, name in zip((TABLE, UNKNOWN, WAYS, MODES), cell)]
    return form > 0 and (form + unknown + 3 * way + 2 * mode) % 8 == 0


@pytest.mark.parametrize(
    ("form", "unknown", "way", "mode"),
    [
        pytest.param(*cell, id=", ".join(cell), marks=[] if is_representative(cell) else pytest.mark.slow)
        for cell in CELLS
        if cell[2] != "compile cache"
    ],
)
def test_graphs_of_unknown_shapes(form, unknown, way, mode):
    if (unknown, way, mode) in REFUSED:
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            check_cell(form, unknown, way, mode)
    else:
        check_cell(form, unknown, way, mode)


@pytest.mark.parametrize(
    "words", [("loss", "rows"), pytest.param((), marks=pytest.mark.slow)], ids=["some cells", "all cells"]
)
def test_compile_cache_of_graphs_of_unknown_shapes(words, tmp_path):
    """The second process compiles nothing."""
    environment = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    cells = len(selected_cells((*words, "compile cache")))
    for cached in (0, cells):
        command = (sys.executable, "-m", "tests.test_dynamic_shapes", "compile cache", *words)
        result = run_program(*command, cwd=tmp_path, **environment)
        assert result.returncode == 0, result.stdout + result.stderr
        assert f"{cells} cells, 0 do not work" in result.stdout
        assert result.stderr.count("Use the compilation cache") == cached


# ----------------------------------------------------------------------------------------------------------------------
# More than one loss, and other ways to an unknown shape


@pytest.mark.parametrize("form", EACH_FORM)
def test_gradient_of_row_losses_with_dynamic_shapes(mode, rng, form):
    """A dout of dynamic shape is MindSpore's limit (see below), so the row losses are weighted within the network."""

    class Weighted(nn.Cell):
        def __init__(self):
            super().__init__()
            self.loss = FORMS[form]("none")

        def construct(self, input, target, weight):
            return (self.loss(input, target) * weight).sum()

    class Gradient(nn.Cell):
        def __init__(self):
            super().__init__()
            self.net = Weighted()
            self.grad = ops.GradOperation()

        def construct(self, input, target, weight):
            return self.grad(self.net)(input, target, weight)

    net = Gradient()
    unknown = [Tensor(shape=[None, None], dtype=dtype) for dtype in (ms.float32, ms.int32)]
    net.set_inputs(*unknown, Tensor(shape=[None], dtype=ms.float32))
    for shape in ((2, 4), (7, 33)):
        input, target = batch_of(rng, shape)
        weight = rng.standard_normal(shape[0]).astype(np.float32)
        gradient = net(Tensor(input), Tensor(target), Tensor(weight))
        close(gradient, loss_and_gradient(input, target, "none", weight)[1])


def test_mindspore_refuses_an_output_gradient_of_dynamic_shape_in_graph_mode():
    net = GradientNet(FORMS["function"]("none"))
    unknown = [Tensor(shape=[None, None], dtype=dtype) for dtype in (ms.float32, ms.int32)]
    net.set_inputs(*unknown, Tensor(shape=[None], dtype=ms.float32))
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        with pytest.raises(ValueError, match="shape of sense must not be dynamic shape"):
            net(
                Tensor(np.zeros((2, 4), np.float32)), Tensor(np.zeros((2, 4), np.int32)), Tensor(np.ones(2, np.float32))
            )
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_gradient_of_a_model_whose_construct_is_jitted(rng):
    class Network(nn.Cell):
        def __init__(self):
            super().__init__()
            self.dense, self.loss = nn.Dense(5, CLASSES), FORMS["cell"]("mean")

        @ms.jit
        def construct(self, features, target):
            return self.loss(self.dense(features), target)

    net = Network()
    net.set_inputs(Tensor(shape=[None, 5], dtype=ms.float32), Tensor(shape=[None, CLASSES], dtype=ms.int32))
    for rows in (3, 4):
        features = rng.standard_normal((rows, 5)).astype(np.float32)
        _, target = random_batch(rng, rows, CLASSES, 3)
        loss, (weight, bias) = ms.value_and_grad(net, None, net.trainable_params())(Tensor(features), Tensor(target))
        scores = features @ net.dense.weight.asnumpy().T + net.dense.bias.asnumpy()
        expected, gradient = loss_and_gradient(scores, target)
        close(loss, expected)
        np.testing.assert_allclose(weight.asnumpy(), gradient.T @ features, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(bias.asnumpy(), gradient.sum(0), rtol=1e-4, atol=1e-6)


class TwoLosses(nn.Cell):
    """Several losses, one of them in a branch, among checks of the user's own."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def construct(self, input, target):
        if input.shape[0] > 100:
            raise ValueError("too many rows")
        total = self.loss(input, target) + self.loss(2 * input, target)
        if input.shape[0] > 3:
            total = total + self.loss(3 * input, target)
        for factor in range(4, 6):
            total = total + self.loss(factor * input, target)
        return total


@pytest.mark.parametrize("forms", [FORMS, FORMS_FROM_LABELS], ids=["target", "labels"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_of_several_losses_branches_and_loops_with_unknown_shapes(mode, rng, forms, reduction):
    net = TwoLosses(forms["function"](reduction))
    if mode == "pynative":
        net.construct = ms.jit(net.construct)
    net.set_inputs(Tensor(shape=[None, None], dtype=ms.float32), Tensor(shape=[None, None], dtype=ms.int32))
    for rows in (2, 5, 3):
        input, target = random_batch(rng, rows, CLASSES, 3)
        factors = (1, 2, 3, 4, 5) if rows > 3 else (1, 2, 4, 5)
        expected = [loss_and_gradient(factor * input, target, reduction) for factor in factors]
        loss, gradient = ms.value_and_grad(net)(Tensor(input), Tensor(target))
        close(loss, sum(loss for loss, _ in expected))
        expected_gradient = sum(factor * gradient for factor, (_, gradient) in zip(factors, expected))
        np.testing.assert_allclose(gradient.asnumpy(), expected_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("forms", [FORMS, FORMS_FROM_LABELS], ids=["target", "labels"])
def test_gradient_of_row_losses_while_the_rank_changes(mode, rng, forms):
    class Sum(nn.Cell):
        def __init__(self):
            super().__init__()
            self.loss = forms["function"]("none")

        def construct(self, input, target):
            return self.loss(input, target).sum()

    net = Sum()
    if mode == "pynative":
        net.construct = ms.jit(net.construct)
    net.set_inputs(Tensor(shape=None, dtype=ms.float32), Tensor(shape=None, dtype=ms.int32))
    for shape in ((8, CLASSES), (CLASSES,), (1, CLASSES), (3, CLASSES)):
        input, target = batch_of(rng, shape)
        loss, gradient = ms.value_and_grad(net)(Tensor(input), Tensor(target))
        expected = loss_and_gradient(input, target, "sum")
        close(loss, expected[0])
        close(gradient, expected[1])


class ChosenRows(nn.Cell):
    """The loss of rows that are chosen in the graph, which knows only then how many they are."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def construct(self, input, target):
        kept = ops.nonzero(input[:, 0] > -100).reshape((-1,))
        return self.loss(ops.gather(input, kept, 0), ops.gather(target, kept, 0)).sum()


@pytest.mark.parametrize("inside", [True, False], ids=["gradient inside the graph", "gradient outside"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", ["loss", pytest.param("labels", marks=pytest.mark.slow)])
def test_gradient_of_rows_chosen_in_the_graph(mode, rng, form, reduction, inside):
    net = ChosenRows(TABLE[form].make(reduction))
    step = ms.jit(ms.value_and_grad(net)) if inside else ms.value_and_grad(ms.jit(net))
    for rows in (2, 5):
        batch = TABLE[form].batch(rng, rows, LABELS)
        value, gradient = step(*map(Tensor, batch))
        expected = loss_and_gradient(*batch, "sum" if reduction == "none" else reduction)
        close(value, expected[0])
        close(gradient, expected[1])


@pytest.mark.parametrize("shape", [(3, CLASSES), (CLASSES,)])
@pytest.mark.parametrize("mode", GRAPH_AND_SLOWLY_PYNATIVE, indirect=True)
def test_the_patched_primitive_with_unknown_rank(mode, shape):
    """Its second output has the shape of the target, whatever that is."""
    net = compiled(_primitive.MultilabelMarginLoss("none"), unknown_inputs(None), mode)
    input, target = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
    target[..., 0] = 2
    loss, is_target = net(Tensor(input), Tensor(target))
    close(loss, loss_and_gradient(input, target, "none")[0])
    np.testing.assert_array_equal(is_target.asnumpy(), np.arange(CLASSES) == np.full((*shape[:-1], 1), 2))


# ----------------------------------------------------------------------------------------------------------------------
# Errors


def unknown_inputs(shape):
    return Tensor(shape=shape, dtype=ms.float32), Tensor(shape=shape, dtype=ms.int32)


OF_TARGET = "For 'multilabel_margin_loss', "
OF_LABELS_ERROR = "For 'multilabel_margin_loss_from_labels', "
SAME_SHAPE = "the shape of 'target' must be the same as that of 'input', {}, but got {}."
SAME_ROWS = "'labels' must have as many dimensions and rows as 'input', whose shape is {}, but got shape {}."
RANK = "the rank of 'input' must be 1 or 2, but got shape {}; the shape of '{name}' is {}."
SOME_CLASSES = "the number of classes must be positive, but got shape {}; the shape of '{name}' is {}."
SOME_LABELS = (
    "each row of 'labels' must have a label or a negative value, but got shape {1}; the shape of 'input' is {0}."
)

# The shapes of input and labels -> the rule for a target, and for labels, that they break.
MISFITS = {
    ((6, 9), (6, 8)): (SAME_SHAPE, None),
    ((2, 4), (3, 4)): (SAME_SHAPE, SAME_ROWS),
    ((2, 4), (1, 4)): (SAME_SHAPE, SAME_ROWS),
    ((0, 4), (2, 4)): (SAME_SHAPE, SAME_ROWS),
    ((4,), (1, 4)): (SAME_SHAPE, SAME_ROWS),
    ((4,), ()): (SAME_SHAPE, SAME_ROWS),
    ((2, 2, 4), (2, 2, 4)): (RANK, RANK),
    ((1, 2, 4), (1, 2, 4)): (RANK, RANK),
    ((), ()): (RANK, RANK),
    ((2, 0), (2, 0)): (SOME_CLASSES, SOME_CLASSES),
    ((2, 4), (2, 0)): (SAME_SHAPE, SOME_LABELS),
}


# Those that are always tested: where a graph fails, MindSpore takes three seconds.
ALWAYS = {
    ("loss", "pynative", ((6, 9), (6, 8))),
    ("loss", "graph", ((6, 9), (6, 8))),
    ("labels", "pynative", ((2, 4), (1, 4))),
    ("labels", "graph", ((), ())),
}
ERRORS = [
    pytest.param(
        *(form, way, mode, shapes, rule),
        id=f"{form}, {way}, {mode}, {shapes}",
        marks=[] if way == "forward" and (form, mode, shapes) in ALWAYS else pytest.mark.slow,
    )
    for shapes, rules in MISFITS.items()
    for form, rule in zip(("loss", "labels"), rules)
    for way in ("forward", "gradient inside", "MindIR")
    for mode in MODES
    if rule
]


@pytest.mark.parametrize(("form", "way", "mode", "shapes", "rule"), ERRORS)
def test_the_kernel_names_both_unknown_shapes_and_the_rule(form, way, mode, shapes, rule):
    ms.set_context(mode=MODES[mode])
    try:
        net = WAYS[way](TABLE[form].make("mean"), unknown_inputs(None), mode, 0)
        with pytest.raises(RuntimeError) as error:
            value = net(Tensor(np.zeros(shapes[0], np.float32)), Tensor(np.zeros(shapes[1], np.int32)))
            (value[1] if way == "gradient inside" else value).asnumpy()
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    begin, name = (OF_TARGET, "target") if form == "loss" else (OF_LABELS_ERROR, "labels")
    assert begin + rule.format(*shapes, name=name) in str(error.value)


@pytest.mark.parametrize("form", EACH_FORM)
def test_a_valid_call_follows_a_failed_one_in_pynative(rng, form):
    """Where the shapes of a call are known, Python's check says so, with set_inputs too."""
    net = FORMS[form]("mean")
    net.set_inputs(*unknown_inputs([None, None]))
    jitted = compiled(FORMS[form]("mean"), unknown_inputs([None, None]), "pynative")
    input, target = batch_of(rng, (6, 9))
    for loss, kind in ((net, ValueError), (jitted, RuntimeError)):
        with pytest.raises(kind, match=r"same as that of 'input', \(6, 9\), but got \(6, 8\)"):
            loss(Tensor(input), Tensor(np.zeros((6, 8), np.int32))).asnumpy()
        close(net(Tensor(input), Tensor(target)), loss_and_gradient(input, target)[0])


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
