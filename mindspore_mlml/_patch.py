"""The loss under MindSpore's own names."""

import sys
import threading
from typing import ClassVar

from mindspore_mlml import _primitive
from mindspore_mlml.functional import multilabel_margin_loss
from mindspore_mlml.losses import MultilabelMarginLoss

_REPLACEMENTS = {
    "mindspore.ops": {
        "multilabel_margin_loss": multilabel_margin_loss,
        "MultilabelMarginLoss": _primitive.MultilabelMarginLoss,
    },
    "mindspore.nn": {"MultilabelMarginLoss": MultilabelMarginLoss},
}


class patch:  # noqa: N801 (it is called like a function)
    """
    Puts this package's loss in place of MindSpore's: `mindspore.ops.multilabel_margin_loss`,
    `mindspore.nn.MultilabelMarginLoss` and the primitive `mindspore.ops.MultilabelMarginLoss`, wherever MindSpore has
    them. The primitive's second output, `is_target`, is int32 and 1 at the classes that are targets.

    A plain call replaces them for good; as a context manager it restores what was there. Calls may be repeated and
    nested. What was imported by name before the call stays what it was.

    Examples:
        >>> import mindspore_mlml
        >>> from mindspore import ops
        >>> with mindspore_mlml.patch():
        ...     print(ops.multilabel_margin_loss is mindspore_mlml.multilabel_margin_loss)
        True
        >>> print(ops.multilabel_margin_loss is mindspore_mlml.multilabel_margin_loss)
        False
    """

    # Those that a thread has entered and not left. When one of them leaves, the names stay replaced for the others.
    _entered: ClassVar[list] = []
    _lock = threading.RLock()

    def __init__(self) -> None:
        self._replaced = []
        self._replace_all()

    def _replace_all(self):
        with patch._lock:
            for documented, names in _REPLACEMENTS.items():
                for name, replacement in names.items():
                    self._replace(name, getattr(sys.modules[documented], name), replacement, documented)

    def _replace(self, name, original, replacement, package):
        """Replaces the name in each module of the package that has the original under it."""
        if original is replacement:
            return
        modules = [
            module
            for module_name, module in list(sys.modules.items())
            if (module_name == package or module_name.startswith(package + ".")) and vars(module).get(name) is original
        ]
        for module in modules:
            self._replaced.append((module, name, original))
            setattr(module, name, replacement)

    def __enter__(self) -> "patch":
        with patch._lock:
            patch._entered.append(self)
            self._replace_all()  # another thread may have left since
        return self

    def __exit__(self, *_) -> None:
        with patch._lock:
            patch._entered.remove(self)
            if patch._entered:
                patch._entered[0]._replaced += self._replaced
            else:
                for module, name, original in self._replaced:
                    setattr(module, name, original)
            self._replaced = []
