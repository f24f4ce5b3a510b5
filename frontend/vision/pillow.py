"""Pillow, imported when a picture is first needed."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def pillow(module: str = "Image") -> Any:
    """A module of Pillow; ImportError says how to install it."""
    try:
        return import_module(f"PIL.{module}")
    except ImportError as error:
        raise ImportError("pictures need Pillow, the extra `vision` of Ingot: pip install 'ingot[vision]'") from error


def is_picture(x: object) -> bool:
    """Whether ``x`` is a Pillow image. Does not import Pillow: without it there are none."""
    image = sys.modules.get("PIL.Image")
    return image is not None and isinstance(x, image.Image)
