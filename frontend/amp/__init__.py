"""Automatic mixed precision with PyTorch's names: ``autocast``, ``GradScaler``, ``custom_fwd``, ``custom_bwd``."""

from . import autocast_mode, grad_scaler
from .autocast_mode import autocast, custom_bwd, custom_fwd, is_autocast_available
from .grad_scaler import GradScaler

__all__ = [
    "GradScaler", "autocast", "autocast_mode", "custom_bwd", "custom_fwd", "grad_scaler", "is_autocast_available",
]  # fmt: skip


def __getattr__(name: str) -> object:
    from ..absent import absent

    raise absent("ingot.amp", name, __all__)
