"""Whether MindSpore's automatic mixed precision, at its level "auto", wants this loss in float32.

There MindSpore goes by lists of names. Its own multi-label margin loss is on the list of those that are computed in
float32; an operator of ours has the name ``Custom``, as everybody's has. So this asks what happens to MindSpore's own.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from mindspore._c_expression import amp

from mindspore_mlml._ops import in_graph

_NAME = "MultilabelMarginLoss"
_mindspore_operator = ops.MultilabelMarginLoss()
_SCORE = Tensor(np.zeros((1, 1)), ms.float16)
_TARGET = Tensor(np.zeros((1, 1)), ms.int32)


def _current_level_casts_to_float32():
    strategy = amp.get_curr_amp_strategy()
    if strategy is None:
        return False
    info = amp.get_prim_cast_strategy_info(strategy, _NAME)
    return info.strategy == amp.PrimCastStrategy.AmpDoCast and info.dtype == ms.float32


def wants_float32():
    """In a graph it is decided when the graph is compiled, and nothing of this is left of it."""
    if in_graph():
        return _mindspore_operator(_SCORE, _TARGET)[0].dtype == ms.float32
    return _current_level_casts_to_float32()
