"""Image data sets, transforms and networks with torchvision's names. Pictures need Pillow: the extra ``vision``."""

from __future__ import annotations

from . import datasets, io, models, transforms, utils

__all__ = ["datasets", "io", "models", "transforms", "utils"]


def __getattr__(name: str) -> object:
    from ..absent import absent

    raise absent("ingot.vision", name, __all__)
