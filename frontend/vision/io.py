"""Picture files to tensors [C, H, W] of bytes, and back."""

from __future__ import annotations

import enum
import os
from typing import Any

import numpy as np

from ...ir import dtypes
from .. import creation
from ..tensor import Tensor
from .pillow import pillow

__all__ = ["ImageReadMode", "read_image", "write_jpeg", "write_png"]


class ImageReadMode(enum.Enum):
    """What a file's pixels become: as they are, grey (1 channel), grey with alpha (2), RGB (3), RGB with alpha (4)."""

    UNCHANGED = 0
    GRAY = 1
    GRAY_ALPHA = 2
    RGB = 3
    RGB_ALPHA = 4


_PILLOW_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_image(path: str | os.PathLike[str], mode: Any = ImageReadMode.UNCHANGED) -> Tensor:
    """The picture in a file as uint8 [C, H, W]; ``mode`` may be a name ("RGB"). OSError if it cannot be read."""
    mode = ImageReadMode[mode.upper()] if isinstance(mode, str) else ImageReadMode(mode)
    with pillow().open(path) as picture:
        if mode is not ImageReadMode.UNCHANGED:
            picture = picture.convert(_PILLOW_MODES[mode.value])
        elif picture.mode not in _PILLOW_MODES.values():  # palettes, bits
            picture = picture.convert("RGB" if picture.mode not in ("1", "I;16", "I", "F") else "L")
        pixels = np.array(picture, np.uint8)
    return creation.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def write_png(input: Tensor, filename: str | os.PathLike[str], compression_level: int = 6) -> None:
    """Write uint8 [C, H, W] with 1 or 3 channels as PNG."""
    _picture(input).save(filename, format="PNG", compress_level=compression_level)


def write_jpeg(input: Tensor, filename: str | os.PathLike[str], quality: int = 75) -> None:
    """Write uint8 [C, H, W] with 1 or 3 channels as JPEG."""
    _picture(input).save(filename, format="JPEG", quality=quality)


def _picture(input: Tensor) -> Any:
    if input.dtype is not dtypes.uint8 or input.dim() != 3 or input.size(0) not in (1, 3):
        raise ValueError(f"expected uint8 [1 or 3, H, W], got {input.dtype} {list(input.shape)}")
    pixels = input.numpy()
    return pillow().fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
