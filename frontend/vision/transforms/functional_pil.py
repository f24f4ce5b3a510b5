"""Transforms of Pillow images; ``functional.py`` chooses between these and those of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..pillow import pillow


def resize(picture: Any, size: tuple[int, int], interpolation: str) -> Any:
    """To (height, width)."""
    names = {"nearest": "NEAREST", "nearest-exact": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC",
             "box": "BOX", "hamming": "HAMMING", "lanczos": "LANCZOS"}  # fmt: skip
    return picture.resize((size[1], size[0]), getattr(pillow().Resampling, names[interpolation]))


def crop(picture: Any, top: int, left: int, height: int, width: int) -> Any:
    """A part; what lies outside is black."""
    return picture.crop((left, top, left + width, top + height))


def pad(picture: Any, padding: tuple[int, int, int, int], fill: Any, mode: str) -> Any:
    """``padding`` is left, top, right, bottom."""
    left, top, right, bottom = padding
    if mode == "constant":
        if isinstance(fill, (int, float)) and len(picture.getbands()) > 1:
            fill = (int(fill),) * len(picture.getbands())
        elif isinstance(fill, Sequence):
            fill = tuple(fill) if len(fill) > 1 else fill[0]
        width, height = picture.size
        out = pillow().new(picture.mode, (width + left + right, height + top + bottom), fill)
        out.paste(picture, (left, top))
        return out
    # Negative amounts cut.
    if min(padding) < 0:
        width, height = picture.size
        picture = picture.crop((max(-left, 0), max(-top, 0), width - max(-right, 0), height - max(-bottom, 0)))
        left, top, right, bottom = (max(p, 0) for p in padding)
    pixels = np.asarray(picture)
    amounts = ((top, bottom), (left, right)) + ((0, 0),) * (pixels.ndim - 2)
    return pillow().fromarray(np.pad(pixels, amounts, mode=mode))  # type: ignore[call-overload]


def flip(picture: Any, horizontal: bool) -> Any:
    """Left and right, or top and bottom, exchanged."""
    transpose = pillow().Transpose
    return picture.transpose(transpose.FLIP_LEFT_RIGHT if horizontal else transpose.FLIP_TOP_BOTTOM)


def rotate(picture: Any, angle: float, interpolation: str, expand: bool, center: Any, fill: Any) -> Any:
    """Counter-clockwise by ``angle`` degrees."""
    bands = len(picture.getbands())
    if isinstance(fill, (int, float)):
        fill = int(fill) if bands == 1 else (int(fill),) * bands
    elif fill is not None:
        fill = tuple(fill) if bands > 1 else fill[0]
    names = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC"}
    if interpolation not in names:
        raise ValueError(f"rotate has the interpolations {', '.join(names)}, not {interpolation}")
    method = getattr(pillow().Resampling, names[interpolation])
    return picture.rotate(angle, method, expand, center, fillcolor=fill)


def enhance(picture: Any, kind: str, factor: float) -> Any:
    """``kind``: "Brightness", "Contrast" or "Color" (saturation)."""
    return getattr(pillow("ImageEnhance"), kind)(picture).enhance(factor)


def shift_hue(picture: Any, factor: float) -> Any:
    """By ``factor`` of the whole circle, -0.5 to 0.5."""
    if picture.mode in ("L", "1", "I", "F"):
        return picture
    hue, saturation, value = picture.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int32) + int(factor * 255)) % 256
    image = pillow()
    return image.merge("HSV", (image.fromarray(turned.astype(np.uint8)), saturation, value)).convert(picture.mode)


def grayscale(picture: Any, channels: int) -> Any:
    """One grey channel, or three equal ones."""
    grey = picture.convert("L")
    return grey if channels == 1 else pillow().merge("RGB", (grey,) * 3)
