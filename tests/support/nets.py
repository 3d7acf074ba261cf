"""The loss in Cells, and running them on NumPy arrays."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindspore_mlml import (
    MultilabelMarginLoss,
    MultilabelMarginLossFromLabels,
    multilabel_margin_loss,
    multilabel_margin_loss_from_labels,
)


class FunctionNet(nn.Cell):
    """The function inside a Cell: compiled in graph mode, run eagerly in PyNative."""

    def __init__(self, reduction):
        super().__init__()
        self.reduction = reduction

    def construct(self, input, target):
        return multilabel_margin_loss(input, target, self.reduction)


class FunctionFromLabelsNet(FunctionNet):
    """The same for the function that takes short rows of labels."""

    def construct(self, input, labels):
        return multilabel_margin_loss_from_labels(input, labels, self.reduction)


class GradientNet(nn.Cell):
    """The gradient of the loss of ``net`` for the output gradient ``dout``."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.grad = ops.GradOperation(sens_param=True)

    def construct(self, input, target, dout):
        return self.grad(self.net)(input, target, dout)


# The function, and the Cell, which calls it: what is tested of the one is tested of the other in the slow tests.
EACH_FORM = ["function", pytest.param("cell", marks=pytest.mark.slow)]
# The same for the modes, where a graph or an error takes seconds: for the parameter "mode", with indirect=True.
PYNATIVE_AND_SLOWLY_GRAPH = ["pynative", pytest.param("graph", marks=pytest.mark.slow)]
GRAPH_AND_SLOWLY_PYNATIVE = ["graph", pytest.param("pynative", marks=pytest.mark.slow)]

FORMS = {"function": FunctionNet, "cell": MultilabelMarginLoss}
FORMS_FROM_LABELS = {"function": FunctionFromLabelsNet, "cell": MultilabelMarginLossFromLabels}


def run_loss(input, target, reduction="mean", form="function"):
    """The loss as a Tensor."""
    return FORMS[form](reduction)(Tensor(input), Tensor(target))


def run_gradient(input, target, dout, reduction="mean", form="function"):
    """The gradient of the loss times ``dout`` as a NumPy array."""
    net = GradientNet(FORMS[form](reduction))
    return net(Tensor(input), Tensor(target), Tensor(np.asarray(dout, input.dtype))).asnumpy()
