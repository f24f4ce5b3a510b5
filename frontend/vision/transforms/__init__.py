"""Transforms of pictures with torchvision's names."""

from __future__ import annotations

from . import functional
from .transforms import *  # noqa: F403
from .transforms import __all__ as _names

__all__ = ["functional", *_names]


def __getattr__(name: str) -> object:
    from ...absent import absent

    raise absent("ingot.vision.transforms", name, __all__)
