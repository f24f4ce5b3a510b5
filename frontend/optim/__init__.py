"""Optimizers with PyTorch's names."""

from . import lr_scheduler, swa_utils
from .adam import Adam, Adamax, AdamW, NAdam, RAdam
from .adaptive import Adadelta, Adagrad, RMSprop, Rprop
from .lbfgs import LBFGS
from .optimizer import Optimizer, required
from .sgd import ASGD, SGD

__all__ = [
    "ASGD", "LBFGS", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "Optimizer", "RAdam", "RMSprop",
    "Rprop", "lr_scheduler", "required", "swa_utils",
]  # fmt: skip


def __getattr__(name: str) -> object:
    from ..absent import absent

    if name == "SparseAdam":
        raise AttributeError("ingot.optim.SparseAdam does not exist: it is for sparse gradients, and Ingot's tensors "
                             "are dense. Use Adam, or Embedding with sparse=False", name=name)  # fmt: skip
    raise absent("ingot.optim", name, __all__)
