"""What convolutions and pooling share: window arithmetic on extents and on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dims import Extent, bounds, maximum
from ..errors import ShapeError
from .common import show

Pairs = Sequence[tuple[int, int]]


def check_windows(op: str, spatial: int, *, kernel: Sequence[int], **per_axis: Sequence) -> None:
    """ShapeError unless every attribute has one entry per spatial axis and sensible values."""
    for name, values in {"kernel": kernel, **per_axis}.items():
        if len(values) != spatial:
            raise ShapeError(
                f"{op}: {name} must have one entry per spatial axis ({spatial}), got {tuple(values)} ({len(values)})"
            )
        for v in values:
            if name == "padding":
                if min(v) < 0:
                    raise ShapeError(f"{op}: padding must not be negative, got {tuple(values)}")
            elif v < 1:
                raise ShapeError(f"{op}: {name} must be positive, got {tuple(values)}")


def window_count(
    op: str,
    axis: int,
    extent: Extent,
    kernel: int,
    stride: int,
    padding: tuple[int, int],
    dilation: int = 1,
    ceil_mode: bool = False,
) -> Extent:
    """Number of window positions along spatial axis ``axis``.

    floor((extent + low + high - dilation * (kernel - 1) - 1) / stride) + 1; with ``ceil_mode`` the quotient is
    rounded up, but no window may start in the padding behind the data. ShapeError if no window can fit.
    """
    low, high = padding
    span = dilation * (kernel - 1) + 1
    room = extent + (low + high - span)
    if bounds(room)[1] < 0:
        raise ShapeError(
            f"{op}: spatial axis {axis} of extent {extent} with padding ({low}, {high}) is smaller than the window "
            f"(kernel {kernel}, dilation {dilation}: {span} elements)"
        )
    if not ceil_mode:
        return room // stride + 1
    rounded_up = (room + (stride - 1)) // stride + 1
    starts_in_data = (extent + (low + stride - 1)) // stride
    return -maximum(-rounded_up, -starts_in_data)  # the minimum of the two


def pad_spatial(x: np.ndarray, padding: Pairs, value: object = 0) -> np.ndarray:
    """``x`` [N, C, spatial...] padded along its spatial axes (x itself if there is nothing to add)."""
    if not any(low or high for low, high in padding):
        return x
    shape = x.shape[:2] + tuple(e + low + high for e, (low, high) in zip(x.shape[2:], padding, strict=True))
    out = np.full(shape, value, x.dtype)
    inside = tuple(slice(low, low + e) for e, (low, _) in zip(x.shape[2:], padding, strict=True))
    out[(slice(None), slice(None), *inside)] = x
    return out


def reach(count: int, kernel: int, stride: int, dilation: int) -> int:
    """Elements from the start of the first of ``count`` windows to the end of the last."""
    return (count - 1) * stride + dilation * (kernel - 1) + 1 if count else 0


def taps(
    kernel: Sequence[int], counts: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """For each kernel position, in row-major order: its index and the spatial slices that the windows see there."""
    out = []
    for index in np.ndindex(*kernel):
        cut = tuple(
            slice(k * d, k * d + (n - 1) * s + 1 if n else k * d, s)
            for k, n, s, d in zip(index, counts, stride, dilation, strict=True)
        )
        out.append((index, cut))
    return out


def windows(
    x: np.ndarray, kernel: Sequence[int], counts: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> np.ndarray:
    """Read-only view [N, C, kernel..., counts...] of a padded ``x`` [N, C, spatial...]."""
    step = x.strides[2:]
    strides = (
        *x.strides[:2],
        *(b * d for b, d in zip(step, dilation, strict=True)),
        *(b * s for b, s in zip(step, stride, strict=True)),
    )
    return np.lib.stride_tricks.as_strided(x, (*x.shape[:2], *kernel, *counts), strides, writeable=False)


def check_shape(op: str, what: str, actual: Sequence[Extent], expected: Sequence[Extent]) -> None:
    """ShapeError unless the two shapes are equal."""
    if tuple(actual) != tuple(expected):
        raise ShapeError(f"{op}: {what} must have shape {show(expected)}, got {show(actual)}")
