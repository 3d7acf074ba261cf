"""What operators of one's own need on each platform."""

from mindspore import ops
from mindspore.ops import CustomRegOp, DataType


class Custom(ops.Custom):
    """MindSpore's class refuses to make an operator where the system is not Linux, also where its runtime has what runs
    one."""

    def _check_platform(self):
        pass

    def __deepcopy__(self, memo):
        """An operator has no state: a copy of a network has the same one. MindSpore's class cannot be copied."""
        return self

    def _update_func_imply_path(self):
        """The path of a function's source, for the operator's name alone. It may have bytes that are no characters."""
        return super()._update_func_imply_path().encode(errors="backslashreplace").decode()


def aot(symbol, target, inputs, outputs, out_shape, out_dtype, bprop=None):
    """The operator of a symbol of a library ("path:name") for a device target. Where ``out_shape`` is None, the library
    infers the shapes, which works for unknown shapes in a graph."""
    reg_info = CustomRegOp()
    for index, name in enumerate(inputs):
        reg_info = reg_info.input(index, name)
    for index, name in enumerate(outputs):
        reg_info = reg_info.output(index, name)
    reg_info = reg_info.dtype_format(*[DataType.None_None] * (len(inputs) + len(outputs))).target(target)
    return Custom(symbol, out_shape, out_dtype, "aot", bprop=bprop, reg_info=reg_info.get_op_info())


def input_dtype(dtype, *_):
    """The dtype of the output: that of the first input."""
    return dtype
