"""Whether MindSpore's automatic mixed precision, at its level "auto", keeps this loss in float32.

There MindSpore goes by lists of names. Its own multi-label margin loss is on the list of those that are computed in
float32; an operator of ours has the name ``Custom``, as everybody's has. So this asks what happens to MindSpore's own.
"""

import mindspore as ms
from mindspore import ops
from mindspore._c_expression import amp

from mindspore_mlml import _mindspore, _ops


def wants_float32():
    """In a graph it is decided when the graph is compiled, and nothing of this is left of it."""
    if _ops.in_graph():
        score, target = ops.zeros((1, 1), ms.float16), ops.zeros((1, 1), ms.int32)
        return _mindspore.operators["mean"](score, target)[0].dtype == ms.float32
    strategy = amp.get_curr_amp_strategy()
    if strategy is None:
        return False
    info = amp.get_prim_cast_strategy_info(strategy, "MultilabelMarginLoss")
    return info.strategy == amp.PrimCastStrategy.AmpDoCast and info.dtype == ms.float32
