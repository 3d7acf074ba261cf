"""Precision at k."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.dataset import NumpySlicesDataset

from mindspore_mlml import LinearMultilabelMarginLoss, PrecisionAtK

SCORES = np.float32([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.7, 0.5], [0.9, 0.1, 0.2, 0.3]])
TARGET = np.int32([[3, 0, -1], [1, -1, 2], [-1, -1, -1]])  # the 2 comes after the end


def precision(k, *updates):
    metric = PrecisionAtK(k)
    for update in updates:
        metric.update(*update)
    return metric.eval()


@pytest.mark.parametrize("k, expected", [(1, 1 / 3), (2, 1 / 6), (3, 2 / 9), (4, 3 / 12)])
def test_scores_and_classes_give_the_share_of_labels(k, expected):
    classes = np.argsort(-SCORES, axis=1)
    assert precision(k, (SCORES, TARGET)) == pytest.approx(expected)
    assert precision(k, (Tensor(SCORES), Tensor(TARGET))) == pytest.approx(expected)
    assert precision(k, (Tensor(classes.astype(np.int32)), Tensor(TARGET))) == pytest.approx(expected)
    assert precision(k, (SCORES[:1], TARGET[:1]), (classes[1:], TARGET[1:])) == pytest.approx(expected)


def test_a_class_listed_twice_counts_once():
    assert precision(2, (SCORES[:1], np.int32([[3, 3, -1]]))) == 0.5


def test_no_class_is_not_a_label():
    assert precision(2, (np.int32([[3, -1]]), TARGET[:1])) == 0.5


def test_clear_forgets():
    metric = PrecisionAtK(1)
    metric.update(SCORES, TARGET)
    metric.clear()
    with pytest.raises(RuntimeError, match="there must be a sample"):
        metric.eval()


@pytest.mark.parametrize("k, error", [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_wrong_k(k, error):
    with pytest.raises(error, match="For 'PrecisionAtK', the 'k' must be"):
        PrecisionAtK(k)


@pytest.mark.parametrize(
    "inputs, error, message",
    [
        ((SCORES,), ValueError, "'predicted' and 'target', but got 1 inputs"),
        ((SCORES[0], TARGET[0]), ValueError, r"got the shapes \(4,\) and \(3,\)"),
        ((SCORES[:2], TARGET), ValueError, r"got the shapes \(2, 4\) and \(3, 3\)"),
        ((SCORES[:, :1], TARGET), ValueError, r"at least 2 columns, as many as 'k', but got the shape \(3, 1\)"),
        ((SCORES, TARGET + 4), ValueError, "less than the 4 classes that have scores, but got 7"),
        ((SCORES, TARGET.astype(np.float32)), TypeError, "'target' must be integers, but got float32"),
        ((SCORES > 0.5, TARGET), TypeError, "but got bool"),
    ],
)
def test_wrong_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        PrecisionAtK(2).update(*inputs)


class Evaluation(nn.Cell):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def construct(self, features, labels):
        return self.head(features, labels), self.head.predict(features), labels


class EvaluationOfTopK(Evaluation):
    def construct(self, features, labels):
        return self.head(features, labels), self.head.top_k(features, 2)[1], labels


def evaluate(evaluation):
    head = LinearMultilabelMarginLoss(4, 4, weight_init=Tensor(np.eye(4, dtype=np.float32)), has_bias=False)
    metrics = {"loss": ms.train.Loss(), "precision@1": PrecisionAtK(1), "precision@2": PrecisionAtK(2)}
    model = ms.train.Model(head, metrics=metrics, eval_network=evaluation(head), eval_indexes=[0, 1, 2])
    return model.eval(NumpySlicesDataset((SCORES, TARGET), ["features", "labels"], shuffle=False).batch(3))


def check_evaluation(result):
    assert result["precision@1"] == pytest.approx(1 / 3)
    assert result["precision@2"] == pytest.approx(1 / 6)
    assert result["loss"] > 0


def test_scores_in_a_model(mode):
    check_evaluation(evaluate(Evaluation))


def test_top_k_in_a_model(mode):
    check_evaluation(evaluate(EvaluationOfTopK))
