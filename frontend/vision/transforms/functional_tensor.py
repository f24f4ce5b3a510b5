"""Transforms of tensors [..., C, H, W]; ``functional.py`` chooses between these and those of Pillow images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....ir import dtypes
from ... import creation, elementwise, shaping
from ...nn import functional as F
from ...tensor import Tensor

_MODES = {"nearest": "nearest", "nearest-exact": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic"}


def require_picture(x: Any) -> None:
    """TypeError unless ``x`` is a tensor with at least two axes."""
    if not isinstance(x, Tensor) or x.dim() < 2:
        raise TypeError("Tensor is not a torch image.")


def _brightest(dtype: Any) -> float:
    return 1.0 if dtype.is_floating_point else float(np.iinfo(dtype.numpy).max)


def _like(result: Tensor, dtype: Any) -> Tensor:
    """Computed in floating point, back to the pixels' dtype."""
    if dtype.is_floating_point:
        return result.to(dtype)
    return result.round().clamp(0, _brightest(dtype)).to(dtype)


def _as_float(x: Tensor) -> Tensor:
    return x if x.dtype.is_floating_point else x.to(dtypes.float32)


def resize(x: Tensor, size: tuple[int, int], interpolation: str, antialias: bool | None) -> Tensor:
    """To (height, width)."""
    require_picture(x)
    if interpolation not in _MODES:
        raise ValueError(f"This Interpolation mode is unsupported with Tensor input: {interpolation}")
    batch = _as_float(x).reshape(-1, 1, *x.shape[-2:])
    smooth = interpolation in ("bilinear", "bicubic")
    out = F.interpolate(batch, size=size, mode=_MODES[interpolation], align_corners=False if smooth else None,
                        antialias=bool(antialias) and smooth)  # fmt: skip
    return _like(out.reshape(*x.shape[:-2], *size), x.dtype)


def pad(x: Tensor, padding: tuple[int, int, int, int], fill: Any, mode: str) -> Tensor:
    """``padding`` is left, top, right, bottom; modes as in NumPy."""
    require_picture(x)
    left, top, right, bottom = padding
    if mode == "constant":
        if isinstance(fill, (tuple, list)):
            if len(fill) > 1:
                raise ValueError(f"a tensor is padded with one number, not {fill}")
            fill = fill[0]
        return F.pad(x, (left, right, top, bottom), value=fill)
    rows, columns = (np.pad(np.arange(n), around, mode=mode)  # type: ignore[call-overload]
                     for n, around in ((x.size(-2), (top, bottom)), (x.size(-1), (left, right))))  # fmt: skip
    x = x.index_select(x.dim() - 2, creation.from_numpy(rows))
    return x.index_select(x.dim() - 1, creation.from_numpy(columns))


def crop(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """A part; what lies outside is zero."""
    require_picture(x)
    h, w = x.shape[-2:]
    right, bottom = left + width, top + height
    inside = x[..., max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if left < 0 or top < 0 or right > w or bottom > h:
        around = (
            max(min(right, 0) - left, 0), max(right - max(w, left), 0),
            max(min(bottom, 0) - top, 0), max(bottom - max(h, top), 0),
        )  # fmt: skip
        return F.pad(inside, around)
    return inside


def rotate(x: Tensor, angle: float, interpolation: str, expand: bool, center: Any, fill: Any) -> Tensor:
    """Counter-clockwise by ``angle`` degrees about ``center`` (x, y); the centre of the picture by default."""
    require_picture(x)
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(f"a tensor is rotated with the interpolations nearest and bilinear, not {interpolation}")
    h, w = x.shape[-2:]
    cx, cy = (w / 2, h / 2) if center is None else center
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    height, width = h, w
    ox, oy = cx, cy
    if expand:
        width = math.ceil(abs(w * cos) + abs(h * sin) - 1e-6)
        height = math.ceil(abs(w * sin) + abs(h * cos) - 1e-6)
        ox, oy, cx, cy = width / 2, height / 2, w / 2, h / 2
    # Where in the source the centre of every pixel of the result lies.
    dy, dx = np.mgrid[0:height, 0:width] + 0.5 - np.array([oy, ox])[:, None, None]
    sx, sy = cos * dx - sin * dy + cx - 0.5, sin * dx + cos * dy + cy - 0.5
    numbers = np.atleast_1d(np.asarray(0 if fill is None else fill, np.float64))
    outside = creation.from_numpy(numbers.astype(np.float32)[:, None, None])
    source = _as_float(x)
    if interpolation == "nearest":
        return _like(_pick(source, np.rint(sy), np.rint(sx), outside), x.dtype)
    y0, x0 = np.floor(sy), np.floor(sx)
    fy, fx = sy - y0, sx - x0
    out: Any = 0
    for yy, wy in ((y0, 1 - fy), (y0 + 1, fy)):
        for xx, wx in ((x0, 1 - fx), (x0 + 1, fx)):
            weight = creation.from_numpy((wy * wx).astype(np.float32))
            out = _pick(source, yy, xx, outside) * weight + out
    return _like(out, x.dtype)


def _pick(x: Tensor, rows: np.ndarray, columns: np.ndarray, outside: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    there = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    place = (np.clip(rows, 0, h - 1) * w + np.clip(columns, 0, w - 1)).astype(np.int64)
    flat = x.reshape(*x.shape[:-2], h * w)
    found = flat.index_select(flat.dim() - 1, creation.from_numpy(place.reshape(-1)))
    found = found.reshape(*x.shape[:-2], *rows.shape)
    return elementwise.where(creation.from_numpy(there), found, outside.to(x.dtype))


def blend(a: Tensor, b: Tensor, ratio: float) -> Tensor:
    """``ratio`` of a and the rest of b, in a's range (bytes are cut off, not rounded)."""
    mixed = (ratio * _as_float(a) + (1 - ratio) * b).clamp(0, _brightest(a.dtype))
    return mixed.to(a.dtype)


def luminance(x: Tensor, channels: int = 1) -> Tensor:
    """Grey from RGB with the weights of ITU-R 601; one channel, or three equal ones."""
    require_picture(x)
    if x.size(-3) == 1:
        grey = x
    else:
        r, g, b = (_as_float(c) for c in shaping.unbind(x, x.dim() - 3))
        grey = (0.2989 * r + 0.587 * g + 0.114 * b).to(x.dtype).unsqueeze(-3)
    return grey if channels == 1 else shaping.cat([grey] * 3, grey.dim() - 3)


def enhance(x: Tensor, kind: str, factor: float) -> Tensor:
    """``kind``: "Brightness", "Contrast" or "Color" (saturation)."""
    require_picture(x)
    if kind == "Brightness":
        return blend(x, creation.zeros(1), factor)
    if kind == "Contrast":
        return blend(x, _as_float(luminance(x)).mean((-3, -2, -1), keepdim=True), factor)
    return x if x.size(-3) == 1 else blend(x, _as_float(luminance(x)), factor)


def shift_hue(x: Tensor, factor: float) -> Tensor:
    """By ``factor`` of the whole circle, -0.5 to 0.5."""
    require_picture(x)
    if x.size(-3) == 1:
        return x
    scale = _brightest(x.dtype)
    r, g, b = (_as_float(c) / scale for c in shaping.unbind(x, x.dim() - 3))
    high = elementwise.maximum(elementwise.maximum(r, g), b)
    span = high - elementwise.minimum(elementwise.minimum(r, g), b)
    one = creation.ones_like(high)
    saturation = span / elementwise.where(high == 0, one, high)
    safe = elementwise.where(span == 0, one, span)
    hue = elementwise.where(
        high == r, ((g - b) / safe) % 6, elementwise.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4)
    )  # fmt: skip
    hue = elementwise.where(span == 0, creation.zeros_like(hue), hue) / 6
    hue = (hue + factor) % 1.0
    channels = []
    for start in (5, 3, 1):  # red, green, blue
        k = (start + 6 * hue) % 6
        ramp = elementwise.minimum(k, 4 - k).clamp(0, 1)
        channels.append(high - high * saturation * ramp)
    return _like(shaping.stack(channels, x.dim() - 3) * scale, x.dtype)
