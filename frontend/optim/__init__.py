"""Optimizers with PyTorch's names."""

from .optimizer import Optimizer
from .sgd import SGD

__all__ = ["SGD", "Optimizer"]


def __getattr__(name: str) -> object:
    from ..absent import absent

    raise absent("ingot.optim", name, __all__)
