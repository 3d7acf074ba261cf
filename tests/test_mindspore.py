"""What MindSpore does with an operator of its own works with this one: in both modes, as a function and as a Cell."""

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from mindspore.train import amp

import mindspore_mlml
from mindspore_mlml import (
    MultilabelMarginLoss,
    MultilabelMarginLossFromLabels,
    _primitive,
    multilabel_margin_loss,
    multilabel_margin_loss_from_labels,
)
from tests.support.cases import batch_of
from tests.support.compare import check_threads, close
from tests.support.nets import EACH_FORM, FORMS
from tests.support.processes import ROOT, run_program, run_script
from tests.support.reference import loss_and_gradient

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(params=EACH_FORM)
def form(request):
    return request.param


# ----------------------------------------------------------------------------------------------------------------------
# Derivatives


class OfInput(nn.Cell):
    """The loss as a function of the input alone: MindSpore's jacfwd cannot join inputs of two dtypes."""

    def __init__(self, net, target):
        super().__init__()
        self.net = net
        self.target = target

    def construct(self, input):
        return self.net(input, self.target)


def jacobian(input, target):
    """The derivatives of the row losses by the input."""
    rows, classes = input.shape
    expected = np.zeros((rows, rows, classes))
    for row in range(rows):
        expected[row, row] = loss_and_gradient(input[row], target[row])[1]
    return expected


def test_vjp(mode, rng, form):
    input, target = batch_of(rng, (3, 6))
    loss, pull_back = ms.vjp(OfInput(FORMS[form]("mean"), Tensor(target)), Tensor(input))
    expected_loss, gradient = loss_and_gradient(input, target)
    close(loss, expected_loss)
    result = pull_back(Tensor(2.0, ms.float32))
    close(result[0] if isinstance(result, tuple) else result, 2 * gradient)


def test_jvp(mode, rng, form):
    input, target = batch_of(rng, (3, 6))
    tangent = rng.standard_normal((3, 6)).astype(np.float32)
    loss, result = ms.jvp(OfInput(FORMS[form]("mean"), Tensor(target)), Tensor(input), Tensor(tangent))
    expected_loss, gradient = loss_and_gradient(input, target)
    close(loss, expected_loss)
    np.testing.assert_allclose(result.asnumpy(), (gradient * tangent).sum(), rtol=1e-5)


@pytest.mark.parametrize("transform", [ms.jacrev, ms.jacfwd])
def test_jacobians(mode, rng, form, transform):
    input, target = batch_of(rng, (3, 6))
    close(transform(OfInput(FORMS[form]("none"), Tensor(target)))(Tensor(input)), jacobian(input, target))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("of_gradient", [False, True])
def test_vmap_over_a_leading_axis(mode, rng, form, jit, of_gradient):
    inputs, targets = (np.stack(arrays) for arrays in zip(*[batch_of(rng, (3, 6)) for _ in range(4)]))
    net = FORMS[form]("mean")
    mapped = ms.vmap(ms.grad(net) if of_gradient else net, in_axes=0)

    def run(input, target):
        return mapped(input, target)

    result = (ms.jit(run) if jit else run)(Tensor(inputs), Tensor(targets))
    close(result, [loss_and_gradient(*pair)[1 if of_gradient else 0] for pair in zip(inputs, targets)])


def test_vmap_over_another_axis_with_one_target(mode, rng, form):
    _, target = batch_of(rng, (3, 6))
    inputs = rng.standard_normal((3, 4, 6)).astype(np.float32)
    result = ms.vmap(FORMS[form]("mean"), in_axes=(1, None))(Tensor(inputs), Tensor(target))
    close(result, [loss_and_gradient(inputs[:, i], target)[0] for i in range(4)])


# ----------------------------------------------------------------------------------------------------------------------
# Inputs that are not plain


def test_inputs_that_are_views(mode, rng, form):
    """Transposed, sliced and strided tensors; in PyNative they share the memory of others."""
    input, target = batch_of(rng, (12, 12))
    net = FORMS[form]("mean")
    x, y = Tensor(input), Tensor(target)
    square = np.arange(144).reshape(12, 12) % 12  # valid targets whatever the view
    z = Tensor(square.astype(np.int32))
    for view in (
        lambda a: a.T,
        lambda a: a[3:9],
        lambda a: a[:, 2:8],
        lambda a: a[::2, ::3],
        lambda a: a[5],
        lambda a: a[:, 4],
    ):
        labels = view(square)
        classes = labels.shape[-1]
        wanted = np.where(labels < classes, labels, -1).astype(np.int32)
        masked = ops.select(view(z) < classes, view(z), ops.full_like(view(z), -1))
        close(net(view(x), masked), loss_and_gradient(view(input), wanted)[0])
    close(net(x[2:4], y[2:4]), loss_and_gradient(input[2:4], target[2:4])[0])


def test_inputs_that_are_parameters(mode, rng, form):
    input, target = batch_of(rng, (3, 6))

    class Net(nn.Cell):
        def __init__(self):
            super().__init__()
            self.scores = Parameter(Tensor(input), name="scores")
            self.target = Parameter(Tensor(target), name="target", requires_grad=False)
            self.loss = FORMS[form]("mean")

        def construct(self):
            return self.loss(self.scores, self.target)

    net = Net()
    expected_loss, gradient = loss_and_gradient(input, target)
    close(net(), expected_loss)
    (of_scores,) = ms.grad(net, None, net.trainable_params())()
    close(of_scores, gradient)


# ----------------------------------------------------------------------------------------------------------------------
# Mixed precision


class Network(nn.Cell):
    """A layer and the loss of its output."""

    def __init__(self, classes=8, loss=None, has_bias=True):
        super().__init__()
        self.dense = nn.Dense(5, classes, has_bias=has_bias)
        self.loss = loss or MultilabelMarginLoss()

    def construct(self, features, target):
        return self.loss(self.dense(features), target)


def training_data(rng):
    features = rng.standard_normal((16, 5)).astype(np.float32)
    _, target = batch_of(rng, (16, 8))
    return features, target, ds.NumpySlicesDataset({"x": features, "y": target}, shuffle=False).batch(8)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3", "auto"])
def test_amp_levels_of_model(mode, rng, level, scaled):
    if level == "O2" and not scaled:
        pytest.skip("on a CPU, MindSpore's O2 needs a FixedLossScaleManager(drop_overflow_update=False)")
    features, target, data = training_data(rng)
    network = nn.Dense(5, 8)
    before = loss_and_gradient(network(Tensor(features)).asnumpy(), target)[0]
    manager = ms.amp.FixedLossScaleManager(1024.0, drop_overflow_update=False) if scaled else None
    optimizer = nn.SGD(network.trainable_params(), 0.1, loss_scale=1024.0 if scaled else 1.0)
    model = ms.train.Model(network, MultilabelMarginLoss(), optimizer, amp_level=level, loss_scale_manager=manager)
    model.train(3, data, dataset_sink_mode=False)
    after = loss_and_gradient(network(Tensor(features).astype(network.weight.dtype)).asnumpy(), target)[0]
    assert after < before


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3", "auto"])
def test_auto_mixed_precision(mode, rng, level):
    features, target, _ = training_data(rng)
    network = Network()
    scores = features @ network.dense.weight.asnumpy().T + network.dense.bias.asnumpy()
    expected = loss_and_gradient(scores, target)[0]
    mixed = ms.amp.auto_mixed_precision(network, level)
    loss = mixed(Tensor(features), Tensor(target))
    np.testing.assert_allclose(loss.asnumpy(), expected, rtol=1e-2)


def of_primitive(scores, target):
    loss, _ = _primitive.MultilabelMarginLoss()(scores, target)
    return loss


def mindspores_own(scores, target):
    return ops.multi_margin_loss(scores, target[:, 0].astype(ms.int64))


LOSSES = {
    "Cell": MultilabelMarginLoss(),
    "function": multilabel_margin_loss,
    "Cell of labels": MultilabelMarginLossFromLabels(),
    "function of labels": multilabel_margin_loss_from_labels,
    "primitive": of_primitive,
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_auto_keeps_the_loss_in_full_precision_as_mindspores_own(mode, rng, loss, jit):
    features, target, _ = training_data(rng)
    target[:, 0] = np.maximum(target[:, 0], 0)
    results = []
    for function in (LOSSES[loss], mindspores_own):
        network = Network(loss=function, has_bias=False)
        if jit:
            network.construct = ms.jit(network.construct)
        expected = loss_and_gradient(features @ network.dense.weight.asnumpy().T, target)[0]
        mixed = ms.amp.auto_mixed_precision(network, "auto")
        results.append((mixed(Tensor(features), Tensor(target)), expected))
        (gradient,) = ms.grad(mixed, None, network.trainable_params())(Tensor(features), Tensor(target))
        assert gradient.dtype == ms.float32
    (ours, expected), (theirs, _) = results
    assert ours.dtype == theirs.dtype == ms.float32
    np.testing.assert_allclose(ours.asnumpy(), expected, rtol=1e-2)


def test_auto_does_not_overflow(mode, rng):
    features = 3 * rng.standard_normal((128, 5)).astype(np.float32)
    _, target = batch_of(rng, (128, 4000), most=900)
    network = Network(4000, MultilabelMarginLoss("sum"), has_bias=False)
    network.dense.weight.set_data(Tensor(rng.standard_normal((4000, 5)).astype(np.float32)))
    expected = network(Tensor(features), Tensor(target)).asnumpy()
    assert expected > 70000  # more than float16 holds
    loss = ms.amp.auto_mixed_precision(network, "auto")(Tensor(features), Tensor(target))
    np.testing.assert_allclose(loss.asnumpy(), expected, rtol=1e-2)


def test_auto_leaves_other_custom_operators_and_other_levels_alone(mode):
    """The lists that MindSpore has are not changed, and float16 stays float16 where nobody asked for more."""
    assert ops.Custom not in amp.AMP_AUTO_BLACK_LIST
    x, y = Tensor(np.zeros((2, 4), np.float16)), Tensor(np.zeros((2, 4), np.int32))
    assert FORMS["function"]("mean")(x, y).dtype == ms.float16
    assert ms.amp.auto_mixed_precision(FORMS["function"]("mean"), "auto")(x, y).dtype == ms.float32
    assert FORMS["function"]("mean")(x, y).dtype == ms.float16


def test_dynamic_loss_scaling(rng):
    features, target, _ = training_data(rng)
    network = Network()
    scaler = ms.amp.DynamicLossScaler(scale_value=1024, scale_factor=2, scale_window=10)

    def forward(x, y):
        return scaler.scale(network(x, y))

    step = ms.value_and_grad(forward, None, network.trainable_params())
    loss, gradients = step(Tensor(features), Tensor(target))
    plain_loss, plain = ms.value_and_grad(network, None, network.trainable_params())(Tensor(features), Tensor(target))
    close(scaler.unscale(loss), plain_loss.asnumpy())
    for scaled, expected in zip(scaler.unscale(gradients), plain):
        np.testing.assert_allclose(scaled.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-7)
    assert ms.amp.all_finite(gradients)


# ----------------------------------------------------------------------------------------------------------------------
# Files, threads, processes


LOAD = """
    import sys
    import mindspore as ms, numpy as np
    from mindspore import Tensor, nn
    ms.set_context(mode=ms.GRAPH_MODE)
    assert "mindspore_mlml" not in sys.modules
    data = np.load("data.npz")
    net = nn.GraphCell(ms.load("net.mindir"))
    print(repr(float(net(Tensor(data["features"]), Tensor(data["target"])).asnumpy())))
"""


def test_mindir_is_loaded_by_a_fresh_process_and_names_a_library_that_has_moved(rng, tmp_path):
    features, target, _ = training_data(rng)
    np.savez(tmp_path / "data.npz", features=features, target=target)
    package = Path(mindspore_mlml.__file__).parent
    shutil.copytree(package, tmp_path / "old" / "mindspore_mlml", ignore=shutil.ignore_patterns("__pycache__"))
    export = """
        import mindspore as ms, numpy as np
        from mindspore import Tensor
        from tests.test_mindspore import Network
        data = np.load("data.npz")
        net, arguments = Network(), [Tensor(data["features"]), Tensor(data["target"])]
        ms.set_context(mode=ms.GRAPH_MODE)
        ms.export(net, *arguments, file_name="net", file_format="MINDIR")
        print(repr(float(net(*arguments).asnumpy())))
    """
    paths = [str(tmp_path / "old"), str(ROOT)]
    exported = run_script(export, tmp_path, PYTHONPATH=os.pathsep.join(paths))
    assert exported.returncode == 0, exported.stderr
    loaded = run_script(LOAD, tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout == exported.stdout

    # The library moves: MindSpore names the place where it was, and a link there is enough.
    expected = tmp_path / "old" / "mindspore_mlml" / "_cpu.so"
    (tmp_path / "new").mkdir()
    expected.rename(tmp_path / "new" / "_cpu.so")
    moved = run_script(LOAD, tmp_path)
    assert moved.returncode != 0
    assert f"couldn't find the AOT binary file: {expected}" in moved.stderr
    expected.symlink_to(tmp_path / "new" / "_cpu.so")
    assert run_script(LOAD, tmp_path).stdout == exported.stdout


def test_several_python_threads_may_call_at_once(rng):
    """Without gradients: MindSpore's automatic differentiation fails in several threads, of x * x too."""
    check_threads(rng)


FORK = """
    import os, sys, time
    import mindspore as ms, numpy as np
    from mindspore import Tensor
    from mindspore_mlml import multilabel_margin_loss
    ms.set_context(pynative_synchronize=True)
    input, target = Tensor(np.ones((3, 40000), np.float32)), Tensor(np.zeros((3, 40000), np.int32))
    expected = float(multilabel_margin_loss(input, target).asnumpy())
    child = os.fork()
    if child == 0:
        os._exit(0 if float(multilabel_margin_loss(input, target).asnumpy()) == expected else 1)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print("child ended with", status)
            sys.exit()
        time.sleep(0.1)
    os.kill(child, 9)
    print("child hangs")
"""


def test_a_forked_child_may_call_after_its_parent(tmp_path):
    """With pynative_synchronize: without it, MindSpore hangs in the child with any operator, x * 2 included."""
    result = run_script(FORK, tmp_path)
    assert "child ended with 0" in result.stdout, result.stdout + result.stderr


def loss_in_child(arrays):
    return float(multilabel_margin_loss(*map(Tensor, arrays)).asnumpy())


def test_a_spawned_process_may_call_after_its_parent(rng):
    arrays = batch_of(rng, (3, 50))
    here = loss_in_child(arrays)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(loss_in_child, (arrays,)).get(timeout=120) == here


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(tmp_path):
    example = str(EXAMPLES / "data_parallel.py")
    port = str(20000 + os.getpid() % 20000)
    launch = [str(Path(sys.executable).with_name("msrun")), "--worker_num=2", "--local_worker_num=2", "--join=True"]
    launch += [f"--master_port={port}", "--log_dir=log", example, "--save", "two.npz"]
    for command in ([sys.executable, example, "--save", "one.npz"], launch):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # msrun calls "python"
        result = run_program(*command, cwd=tmp_path, PATH=path)
        assert result.returncode == 0, result.stdout + result.stderr
    assert "process 1 of 2, epoch 5" in result.stdout
    one, two = (np.load(tmp_path / name) for name in ("one.npz", "two.npz"))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-5)
