"""Many pictures in one, and pictures to files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from ...ir import dtypes
from .. import creation, shaping
from ..grad_mode import no_grad
from ..tensor import Tensor
from .pillow import pillow

__all__ = ["make_grid", "save_image"]


@no_grad()
def make_grid(
    tensor: Tensor | Sequence[Tensor], nrow: int = 8, padding: int = 2, normalize: bool = False,
    value_range: tuple[float, float] | None = None, scale_each: bool = False, pad_value: float = 0.0,
) -> Tensor:  # fmt: skip
    """Pictures [N, C, H, W] (or a list of them) side by side, ``nrow`` in a row: [C, height, width].

    Grey pictures get three channels. ``normalize`` maps ``value_range`` (the smallest and largest value, for each
    picture with ``scale_each``) to 0..1. ``padding`` pixels of ``pad_value`` lie between and around them.
    """
    if isinstance(tensor, Tensor):
        pictures = tensor
    elif isinstance(tensor, (list, tuple)) and all(isinstance(t, Tensor) for t in tensor):
        pictures = shaping.stack(list(tensor), 0)
    else:
        raise TypeError(f"tensor or list of tensors expected, got a {type(tensor).__name__}")
    if pictures.dim() == 2:
        pictures = pictures.unsqueeze(0)
    if pictures.dim() == 3:
        if pictures.size(0) == 1:
            pictures = shaping.cat([pictures] * 3, 0)
        pictures = pictures.unsqueeze(0)
    if pictures.dim() == 4 and pictures.size(1) == 1:
        pictures = shaping.cat([pictures] * 3, 1)
    if normalize:
        parts = [_scaled(t, value_range) for t in pictures] if scale_each else [_scaled(pictures, value_range)]
        pictures = shaping.stack(parts, 0) if scale_each else parts[0]
    if pictures.size(0) == 1:
        return pictures.squeeze(0)
    count, channels, height, width = pictures.shape
    columns = min(nrow, count)
    rows = math.ceil(count / columns)
    height, width = height + padding, width + padding
    grid = creation.full(
        (channels, height * rows + padding, width * columns + padding), pad_value, dtype=pictures.dtype
    )  # fmt: skip
    for k in range(count):
        top, left = k // columns * height + padding, k % columns * width + padding
        grid[:, top : top + height - padding, left : left + width - padding] = pictures[k]
    return grid


def _scaled(t: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    low, high = value_range if value_range is not None else (t.min().item(), t.max().item())
    return (t.clamp(low, high) - low) / max(high - low, 1e-5)


@no_grad()
def save_image(tensor: Tensor | Sequence[Tensor], fp: Any, format: str | None = None, **kwargs: Any) -> None:
    """Write pictures with values 0..1 as one (``make_grid`` with ``kwargs``) to a path or file."""
    grid = make_grid(tensor, **kwargs)
    pixels = (grid * 255 + 0.5).clamp(0, 255).permute(1, 2, 0).to(dtypes.uint8).contiguous().numpy()
    path = os.fspath(fp) if isinstance(fp, os.PathLike) else fp
    pillow().fromarray(pixels).save(path, format=format)
