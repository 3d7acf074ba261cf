"""Metrics of the best classes, for MindSpore's Model."""

import numpy as np
from mindspore.train import Metric, rearrange_inputs

from mindspore_mlml import _checks


class PrecisionAtK(Metric):
    r"""
    Calculates precision at `k`: the share of labels among the `k` best classes of a sample, as a mean over the samples.

    .. math::
        \text{precision@}k = \frac{1}{kN} \sum_{n=1}^{N} \left| best_k(n) \cap labels(n) \right|

    A sample with fewer than `k` labels, or none, counts as any other, as in the published figures of extreme
    classification.

    Args:
        k (int): The number of classes to take from each sample.

    Raises:
        TypeError: If `k` is not an int.
        ValueError: If `k` is less than 1.

    Supported Platforms:
        ``Ascend`` ``GPU`` ``CPU``

    Examples:
        >>> import mindspore as ms
        >>> import numpy as np
        >>> from mindspore_mlml import PrecisionAtK
        >>> scores = ms.Tensor(np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.7, 0.5]]), ms.float32)
        >>> target = ms.Tensor(np.array([[3, 0, -1, -1], [2, 3, 1, -1]]), ms.int32)
        >>> metric = PrecisionAtK(2)
        >>> metric.clear()
        >>> metric.update(scores, target)
        >>> print(metric.eval())
        0.75
        >>> metric.clear()
        >>> metric.update(np.array([[3, 2], [2, 3]]), target)  # the best classes
        >>> print(metric.eval())
        0.75
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
            raise TypeError(f"For 'PrecisionAtK', the 'k' must be an int, but got {_checks.shorten(repr(k))}.")
        if k < 1:
            raise ValueError(f"For 'PrecisionAtK', the 'k' must be at least 1, but got {k}.")
        self.k = int(k)
        self.clear()

    def clear(self) -> None:
        """Clears the internal evaluation result."""
        self._right, self._samples = 0, 0

    @rearrange_inputs
    def update(self, *inputs) -> None:
        r"""
        Adds samples to the internal evaluation result.

        Args:
            inputs: `predicted` and `target`, each a Tensor, list or numpy.ndarray. `predicted` is either the scores of
                all classes, floating-point numbers of shape :math:`(N, C)` where :math:`C \geq k`; or the best classes
                in descending order, integers of shape :math:`(N, K)` where :math:`K \geq k`, as those of
                :meth:`mindspore_mlml.LinearMultilabelMarginLoss.top_k`. `target` has class indices, not multi-hot, as
                integers of shape :math:`(N, T)`; in each row, the first negative value ends the list.

        Raises:
            ValueError: If the number of inputs is not 2, or their shapes are not as above.
            ValueError: If there are scores, and a class in `target` is not less than their number.
            TypeError: If `target` does not have integers, or `predicted` has neither these nor floating-point numbers.
        """
        if len(inputs) != 2:
            raise ValueError(
                f"For 'PrecisionAtK.update', the inputs must be 'predicted' and 'target', but got {len(inputs)} inputs."
            )
        predicted, target = map(self._convert_data, inputs)
        self._check(predicted, target)
        labels = np.where(np.logical_and.accumulate(target >= 0, axis=1), target, -1)
        best = predicted[:, : self.k]
        if predicted.dtype.kind == "f":
            if labels.size and labels.max() >= predicted.shape[1]:
                raise ValueError(
                    f"For 'PrecisionAtK.update', the 'target' must be less than the {predicted.shape[1]} classes that "
                    f"have scores, but got {labels.max()}."
                )
            best = np.argsort(-predicted, axis=1, kind="stable")[:, : self.k]
        self._right += int(((best[:, :, None] == labels[:, None, :]).any(axis=2) & (best >= 0)).sum())
        self._samples += len(best)

    def _check(self, predicted, target):
        if predicted.dtype.kind not in "fiu":
            raise TypeError(
                "For 'PrecisionAtK.update', the 'predicted' must be scores, which are floating-point numbers, or "
                f"classes, which are integers, but got {predicted.dtype}."
            )
        if target.dtype.kind not in "iu":
            raise TypeError(f"For 'PrecisionAtK.update', the 'target' must be integers, but got {target.dtype}.")
        if predicted.ndim != 2 or target.ndim != 2 or len(predicted) != len(target):
            raise ValueError(
                "For 'PrecisionAtK.update', the 'predicted' and 'target' must have two dimensions, and as many rows, "
                f"but got the shapes {predicted.shape} and {target.shape}."
            )
        if predicted.shape[1] < self.k:
            raise ValueError(
                f"For 'PrecisionAtK.update', the 'predicted' must have at least {self.k} columns, as many as 'k', but "
                f"got the shape {predicted.shape}."
            )

    def eval(self) -> float:
        """
        Computes the precision at `k`.

        Returns:
            float, the computed result.

        Raises:
            RuntimeError: If there are no samples.
        """
        if not self._samples:
            raise RuntimeError("For 'PrecisionAtK.eval', there must be a sample: call 'update' first.")
        return self._right / (self.k * self._samples)
