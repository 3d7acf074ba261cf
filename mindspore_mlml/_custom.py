"""What operators of one's own need on each platform."""

from mindspore import ops


class Custom(ops.Custom):
    """MindSpore's class refuses to make an operator where the system is not Linux, also where its runtime has what runs
    one."""

    def _check_platform(self):
        pass


def input_dtype(dtype, *_):
    """The dtype of the output: that of the first input."""
    return dtype
