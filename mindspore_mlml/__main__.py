"""Runs the documented example on this machine and lists the usable backends: ``python -m mindspore_mlml``."""

import platform
import sys

import mindspore as ms
import numpy as np
from mindspore import Tensor

import mindspore_mlml
from mindspore_mlml import MultilabelMarginLoss, multilabel_margin_loss
from mindspore_mlml._backends import backends, kernel_in_use

EXPECTED = "0.325"


def run_example() -> bool:
    """Prints the documented example's output for each form and mode; True if each is the documented one."""
    inputs = Tensor(np.array([[0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.5, 0.7]]), ms.float32)
    target = Tensor(np.array([[1, 2, 0, 3], [2, 3, -1, 1]]), ms.int32)
    passed = True
    for mode, mode_name in ((ms.PYNATIVE_MODE, "PyNative"), (ms.GRAPH_MODE, "graph")):
        ms.set_context(mode=mode)
        function = ms.jit(multilabel_margin_loss) if mode == ms.GRAPH_MODE else multilabel_margin_loss
        for name, loss in (("multilabel_margin_loss", function), ("MultilabelMarginLoss", MultilabelMarginLoss())):
            try:
                output = str(loss(inputs, target))
            except (RuntimeError, ValueError) as error:  # the table below says what is missing
                output = str(error).splitlines()[0]
            print(f"{name:<24}{mode_name:<10}{output}")
            passed = passed and output == EXPECTED
    return passed


def print_backends() -> None:
    """Prints a line for each backend."""
    print(f"\n{'backend':<10}{'kernel':<12}{'usable':<8}why")
    for backend in backends():
        print(f"{backend.target:<10}{backend.kernel:<12}{'yes' if backend.usable else 'no':<8}{backend.reason}")
    try:
        print(f"\nIn use here, with device target {ms.get_context('device_target')}: {kernel_in_use()}")
    except (RuntimeError, ValueError) as error:
        print(f"\nNone is in use here. {error}")


def print_versions() -> None:
    """Prints what a bug report needs besides."""
    print(
        f"\nmindspore_mlml {mindspore_mlml.__version__}, MindSpore {ms.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )


def main() -> int:
    """Returns the exit code: 1 if a result is not the documented one."""
    try:
        kernel_in_use()
    except (RuntimeError, ValueError):  # print_backends shows the reason
        print_backends()
        print_versions()
        return 1
    passed = run_example()
    print_backends()
    print_versions()
    if not passed:
        print(f"\nA result above is not the documented {EXPECTED}.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
