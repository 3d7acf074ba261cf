"""The loss for more classes than one device holds, or than scores fit into memory."""

import operator
from typing import Literal, Optional

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.communication import GlobalComm, get_group_size, get_rank

from mindspore_mlml import _checks, _linear, _ops, _slices
from mindspore_mlml._backends import kernel_in_use


def linear_multilabel_margin_loss(
    features: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    labels: Tensor,
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> Tensor:
    r"""
    The loss of :func:`mindspore_mlml.multilabel_margin_loss_from_labels` for the scores of a linear layer,
    :math:`features \cdot weight^T + bias`, without making them: a matrix of :math:`N \times C` numbers, and as many for
    its gradient.

    The scores are computed a block of classes at a time, in float32, as fused linear cross-entropies do
    (`Liger Kernel <https://arxiv.org/abs/2410.10989>`_, `Cut Cross-Entropy <https://arxiv.org/abs/2411.09009>`_). A
    margin that is met has gradient 0, exactly: the forward pass saves which pairs of a sample and a class are active,
    and the gradients are sums over these pairs where they are few. Beside the arguments and their gradients, this takes
    some 30 MB at most, whatever the number of classes is, and some vectors for each sample.

    Args:
        features (Tensor): Tensor of shape :math:`(N, D)`, where :math:`N` is the batch size. Data type must be float16
            or float32.
        weight (Tensor): Tensor of shape :math:`(C, D)`, as that of :class:`mindspore.nn.Dense`, where :math:`C` is the
            number of classes, at most 16 777 216. Data type must be float16 or float32.
        bias (Tensor): Tensor of shape :math:`(C)`, or None. Data type must be float16 or float32.
        labels (Tensor): Class indices, not multi-hot. Tensor of shape :math:`(N, K)`, for any :math:`K \geq 1`. In each
            row, the first negative value ends the list. Data type must be int32.
        reduction (str, optional): Apply specific reduction method to the output: ``'none'`` , ``'mean'`` ,
            ``'sum'`` . Default: ``'mean'`` .

    Returns:
        Tensor of the dtype of `features`. If `reduction` is ``'none'``, its shape is :math:`(N)`. Otherwise, its shape
        is :math:`()`. It has first derivatives by `features`, `weight` and `bias`.

    Raises:
        TypeError: If `features`, `weight`, `bias` or `labels` is not a Tensor, or their dtypes are not as above.
        ValueError: If their shapes are not as above.
        ValueError: If `reduction` is not one of ``'none'``, ``'mean'``, ``'sum'``.
        RuntimeError: If a label is not less than the number of classes. Raised when the kernel runs.

    Note:
        On a GPU, and where the kernel ``cpu`` or MindSpore's oneDNN cannot be used, the scores of all classes are
        computed at once. In a graph whose shapes are unknown, wrong shapes are a RuntimeError, raised when the kernel
        runs.

    See also:
        - :class:`mindspore_mlml.LinearMultilabelMarginLoss`, which has the layer's parameters.

    Supported Platforms:
        ``GPU`` ``CPU``

    Examples:
        >>> import mindspore as ms
        >>> import numpy as np
        >>> from mindspore_mlml import linear_multilabel_margin_loss
        >>> features = ms.Tensor(np.array([[1, 0], [0, 1]]), ms.float32)
        >>> weight = ms.Tensor(np.array([[0.1, 0.2], [0.2, 0.3], [0.4, 0.5], [0.8, 0.7]]), ms.float32)
        >>> labels = ms.Tensor(np.array([[0, 3], [2, -1]]), ms.int32)
        >>> print(linear_multilabel_margin_loss(features, weight, None, labels))
        0.7625
    """
    name = "linear_multilabel_margin_loss"
    _checks.check_tensor(name, "features", features)
    _checks.check_tensor(name, "weight", weight)
    if bias is not None:
        _checks.check_tensor(name, "bias", bias)
    _checks.check_tensor(name, "labels", labels)
    if _ops.in_graph():
        return _linear.loss(name, features, weight, bias, labels, reduction)
    return _ops.in_turn(_linear.loss, name, features, weight, bias, labels, reduction)


def _find_group(name, group):
    """The group of a name, or that of all processes."""
    if not GlobalComm.INITED:
        if group is not None:
            raise RuntimeError(f"For '{name}', a 'group' needs mindspore.communication.init(), which was not called.")
        return _slices.ALONE
    group = GlobalComm.WORLD_COMM_GROUP if group is None else group
    if get_group_size(group) == 1:
        return _slices.ALONE
    return _slices.Group(get_rank(group), get_group_size(group), ops.AllReduce(group=group))


@ms.constexpr  # a graph has no try statements
def _positive_int(name, argument, value):
    """The argument as an int, of whatever integer type it is."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"For '{name}', the '{argument}' must be an int, but got {_checks.shorten(repr(value))}.")
    if number <= 0:
        raise ValueError(f"For '{name}', the '{argument}' must be positive, but got {number}.")
    return number


class ClassParallelMultilabelMarginLoss(nn.LossBase):
    r"""
    The loss of :class:`mindspore_mlml.MultilabelMarginLossFromLabels` when the classes are divided over the processes
    of a group: each has the scores of consecutive classes.

    A row's sum of hinges is the sum of its sums over the slices, once the scores of its labels are known everywhere.
    So the processes exchange :math:`N \times K` scores, as many counts, and :math:`2N` numbers for each process,
    whatever the number of classes is. The gradient of `x` is this process's part of the whole gradient, bit for bit.
    For cross-entropies this is known as vocabulary-parallel (`Megatron-LM <https://arxiv.org/abs/1909.08053>`_).

    Args:
        num_classes (int): The number of classes of all processes together, at most 16 777 216.
        reduction (str, optional): Apply specific reduction method to the output: ``'none'`` , ``'mean'`` ,
            ``'sum'`` . Default: ``'mean'`` .
        group (str, optional): The group of processes, of at most 256. Default: ``None`` , all processes; or this
            process alone, if ``mindspore.communication.init`` was not called.

    Inputs:
        - **x** (Tensor) - The scores of this process's classes. Tensor of shape :math:`(N, c)`, where :math:`N` is the
          batch size. The processes have consecutive classes in the order of their ranks, and need not have as many.
          Data type must be float16 or float32.
        - **labels** (Tensor) - Class indices among all classes, the same in all processes. Tensor of shape
          :math:`(N, K)`, for any :math:`K \geq 1`. In each row, the first negative value ends the list. Data type must
          be int32.

    Outputs:
        Tensor of the dtype of `x`, the same in all processes. If `reduction` is ``'none'``, its shape is :math:`(N)`.
        Otherwise, its shape is :math:`()`. It has first derivatives. Where a row's loss is too large for float32, it is
        infinite.

    Raises:
        TypeError: If `num_classes` is not an int, or `x` or `labels` is not a Tensor of such a dtype.
        ValueError: If `num_classes` is not positive, or shapes or `reduction` are not as above.
        RuntimeError: If the processes have not `num_classes` classes together, or not the same `labels`; in all of
            them. Raised when the kernel runs, as is:
        RuntimeError: If a label is not less than the number of classes.
        RuntimeError: If the kernel in use is not ``cpu`` or ``cuda``.

    Note:
        On a GPU these mistakes in `x` and `labels` make losses and gradients NaN; with the environment variable
        ``MLML_CHECK_TARGETS=1``, they are errors there too. The kernels for a GPU have run on an emulation of one: this
        class has not run on a GPU.

    Supported Platforms:
        ``GPU`` ``CPU``

    Examples:
        >>> import mindspore as ms
        >>> import numpy as np
        >>> from mindspore_mlml import ClassParallelMultilabelMarginLoss
        >>> loss = ClassParallelMultilabelMarginLoss(num_classes=4)  # one process, which has all of them
        >>> x = ms.Tensor(np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]]), ms.float32)
        >>> labels = ms.Tensor(np.array([[0, 3], [2, -1]]), ms.int32)
        >>> print(loss(x, labels))
        0.7625
    """

    def __init__(
        self,
        num_classes: int,
        reduction: Literal["none", "mean", "sum"] = "mean",
        group: Optional[str] = None,
    ) -> None:
        name = type(self).__name__
        num_classes = _positive_int(name, "num_classes", num_classes)
        _checks.check_reduction(name, reduction)
        super().__init__(reduction)
        self._num_classes, self._reduction = num_classes, reduction
        processes = _find_group(name, group)
        self._is_alone = processes.ranks == 1
        loss, arguments = _slices.ClassParallelLoss, (reduction, processes, num_classes)
        self._loss = (loss(*arguments, "cpu"),) if _slices.CAN_SLICE else ()
        self._loss_on_gpu = (loss(*arguments, "cuda"),) if _slices.CAN_SLICE_ON_GPU else ()

    @property
    def reduction(self):
        """The reduction, which cannot be changed."""
        return self._reduction

    def extend_repr(self):
        return f"num_classes={self._num_classes}, reduction={self._reduction!r}"

    def construct(self, x: Tensor, labels: Tensor) -> Tensor:
        call = ("ClassParallelMultilabelMarginLoss", "x", "labels", False)
        _checks.check_tensor("ClassParallelMultilabelMarginLoss", "x", x)
        _checks.check_tensor("ClassParallelMultilabelMarginLoss", "labels", labels)
        _checks.check_kernel("ClassParallelMultilabelMarginLoss", kernel_in_use(), ("cpu", "cuda"))
        _checks.check_types(call, (x.dtype, labels.dtype), self._reduction)
        if not (_ops.is_unknown(x) or _ops.is_unknown(labels)):
            _checks.check_matrices(call, x.shape, labels.shape)
        loss = self._loss_on_gpu[0] if kernel_in_use() == "cuda" else self._loss[0]
        # The exchanges of several processes must have one order in all of them, which turns of threads do not have.
        if _ops.in_graph() or not self._is_alone:
            return loss(x, labels)
        return _ops.in_turn(loss, x, labels)


class LinearMultilabelMarginLoss(nn.Cell):
    r"""
    A linear layer and the loss of its scores, :class:`mindspore.nn.Dense` followed by
    :class:`mindspore_mlml.MultilabelMarginLossFromLabels`, without the matrix of scores; see
    :func:`mindspore_mlml.linear_multilabel_margin_loss`.

    Its parameters `weight` and `bias` are those of an :class:`mindspore.nn.Dense`, whose checkpoints it takes.

    Args:
        in_channels (int): The number of features, :math:`D`.
        num_classes (int): The number of classes, :math:`C`, at most 16 777 216.
        reduction (str, optional): Apply specific reduction method to the output: ``'none'`` , ``'mean'`` ,
            ``'sum'`` . Default: ``'mean'`` .
        has_bias (bool, optional): Whether the layer has a bias. Default: ``True`` .
        weight_init (Union[Tensor, str, Initializer, numbers.Number], optional): As of :class:`mindspore.nn.Dense`.
            Default: ``None`` .
        bias_init (Union[Tensor, str, Initializer, numbers.Number], optional): As of :class:`mindspore.nn.Dense`.
            Default: ``None`` .
        dtype (mindspore.dtype, optional): Of the parameters. Default: ``mindspore.float32`` .
        group (str, optional): A group of processes among which the classes are divided; all have the same features and
            labels, and the classes from :math:`\lfloor C \cdot rank / ranks \rfloor` on. Default: ``None`` , no group.

    Inputs:
        - **features** (Tensor) - Tensor of shape :math:`(N, D)`. Data type must be float16 or float32. Of a SciPy
          matrix, pass ``Tensor(matrix[rows].toarray())`` , a batch at a time.
        - **labels** (Tensor) - Class indices, not multi-hot. Tensor of shape :math:`(N, K)`, for any :math:`K \geq 1`.
          In each row, the first negative value ends the list. Data type must be int32.

    Outputs:
        Tensor of the dtype of `features`. If `reduction` is ``'none'``, its shape is :math:`(N)`. Otherwise, its shape
        is :math:`()`.

    Raises:
        TypeError: If `in_channels` or `num_classes` is not an int, or `features` or `labels` is not a Tensor of such a
            dtype.
        ValueError: If one of these is not positive, or `reduction` is not one of ``'none'``, ``'mean'``, ``'sum'``.

    Supported Platforms:
        ``GPU`` ``CPU``

    Examples:
        >>> import mindspore as ms
        >>> import numpy as np
        >>> from mindspore_mlml import LinearMultilabelMarginLoss
        >>> head = LinearMultilabelMarginLoss(2, 1000, weight_init="ones", bias_init="zeros")
        >>> features = ms.Tensor(np.array([[1, 0], [0, 1]]), ms.float32)
        >>> labels = ms.Tensor(np.array([[0, 999], [2, -1]]), ms.int32)
        >>> print(head(features, labels).shape, head.predict(features).shape)
        () (2, 1000)
        >>> scores, classes = head.top_k(features, 5)
        >>> print(scores.shape, classes.dtype)
        (2, 5) Int32
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        reduction: Literal["none", "mean", "sum"] = "mean",
        has_bias: bool = True,
        weight_init=None,
        bias_init=None,
        dtype=ms.float32,
        group: Optional[str] = None,
    ) -> None:
        name = type(self).__name__
        in_channels = _positive_int(name, "in_channels", in_channels)
        num_classes = _positive_int(name, "num_classes", num_classes)
        _checks.check_reduction(name, reduction)
        super().__init__()
        processes = _slices.ALONE if group is None else _find_group(name, group)
        rank, ranks = processes.rank, processes.ranks
        own_classes = num_classes * (rank + 1) // ranks - num_classes * rank // ranks
        layer = nn.Dense(in_channels, own_classes, weight_init, bias_init, has_bias, dtype=dtype)
        self.weight = layer.weight
        self.bias = layer.bias if has_bias else None
        self.has_bias = has_bias
        self._in_channels, self._num_classes, self._reduction = in_channels, num_classes, reduction
        self._is_alone = ranks == 1
        is_sharded = ranks > 1 and _slices.CAN_SLICE
        self._loss = (_slices.LinearLoss(reduction, processes, num_classes),) if is_sharded else ()

    @property
    def reduction(self):
        """The reduction, which cannot be changed."""
        return self._reduction

    def extend_repr(self):
        return (
            f"in_channels={self._in_channels}, num_classes={self._num_classes}, reduction={self._reduction!r}, "
            f"has_bias={self.has_bias}"
        )

    def construct(self, features: Tensor, labels: Tensor) -> Tensor:
        called = "LinearMultilabelMarginLoss"
        _checks.check_tensor(called, "features", features)
        _checks.check_tensor(called, "labels", labels)
        if not self._is_alone:
            return self._sharded_loss(features, labels)
        if _ops.in_graph():
            return _linear.loss(called, features, self.weight, self.bias, labels, self._reduction)
        return _ops.in_turn(_linear.loss, called, features, self.weight, self.bias, labels, self._reduction)

    def _sharded_loss(self, features, labels):
        _checks.check_kernel("LinearMultilabelMarginLoss", kernel_in_use(), ("cpu",))
        bias = self.bias if self.has_bias else ops.zeros(self.weight.shape[:1], self.weight.dtype)
        _linear.check("LinearMultilabelMarginLoss", features, self.weight, bias, labels, self._reduction)
        return self._loss[0](features, labels, self.weight, bias)

    def predict(self, features: Tensor) -> Tensor:
        """The scores of this process's classes, of shape (N, C), or (C) for one sample."""
        _checks.check_tensor("LinearMultilabelMarginLoss", "features", features)
        if _ops.in_graph():
            return _linear.scores(features, self.weight, self.bias)
        return _ops.in_turn(_linear.scores, features, self.weight, self.bias)

    def top_k(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The `k` greatest scores of each row among this process's classes, in descending order, and their classes
        (int32), both of shape (N, k), or (k) for one sample; without the scores of all classes at a time."""
        k = _positive_int("top_k", "k", k)
        if k > self.weight.shape[0]:
            raise ValueError(f"For 'top_k', 'k' must be an int from 1 to {self.weight.shape[0]}, but got {k}.")
        _checks.check_tensor("LinearMultilabelMarginLoss", "features", features)
        if _ops.in_graph():
            return _linear.top_k(features, self.weight, self.bias, k)
        return _ops.in_turn(_linear.top_k, features, self.weight, self.bias, k)
