"""Sampling images at arbitrary places: ``grid_sample`` and ``affine_grid``; ``nn.functional`` exports them."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir import dtypes
from ...ir.dims import product
from ...ir.errors import ShapeError
from ...runtime.backward import now
from .. import dispatch, elementwise, linalg, shaping
from ..size import wrap
from ..tape.names import named, rename
from ..tensor import Tensor

_MODES = ("bilinear", "nearest", "bicubic")
_BORDERS = ("zeros", "border", "reflection")


def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """[N, C, H, W] sampled at ``grid`` [N, oH, oW, 2] of (x, y) on [-1, 1] (or [N, C, D, H, W] at [N, oD, oH, oW, 3]).

    ``mode`` is bilinear, nearest or bicubic (4-d only), ``padding_mode`` zeros, border or reflection. ValueError for
    others, RuntimeError if the shapes do not fit.
    """
    if mode not in _MODES:
        raise ValueError(f"nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', but "
                         f"got: '{mode}'")  # fmt: skip
    if padding_mode not in _BORDERS:
        raise ValueError("nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or 'reflection', "
                         f"but got: '{padding_mode}'")  # fmt: skip
    if align_corners is None:
        warnings.warn("Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. "
                      "Please specify align_corners=True if the old behavior is desired. See the documentation of "
                      "grid_sample for details.", stacklevel=2)  # fmt: skip
        align_corners = False
    return _sample(input, grid, mode, padding_mode, align_corners)


def _sample(input: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool) -> Tensor:
    dispatch.require_tensor(input, "grid_sampler")
    rank = input.dim() - 2
    if rank not in (2, 3) or grid.dim() != input.dim():
        raise ShapeError("grid_sampler(): expected 4D or 5D input and grid with same number of dimensions, but got "
                         f"input with sizes {list(input.shape)} and grid with sizes {list(grid.shape)}")  # fmt: skip
    if grid._extents[0] != input._extents[0]:
        raise ShapeError("grid_sampler(): expected grid and input to have same batch size, but got input with sizes "
                         f"{list(input.shape)} and grid with sizes {list(grid.shape)}")  # fmt: skip
    if grid._extents[-1] != rank:
        raise ShapeError(f"grid_sampler(): expected grid to have size {rank} in last dimension, but got grid with "
                         f"sizes {list(grid.shape)}")  # fmt: skip
    if any(e == 0 for e in input._extents[2:]):
        raise ShapeError("grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes "
                         f"{list(input.shape)}")  # fmt: skip
    if mode == "bicubic" and rank == 3:
        raise RuntimeError("grid_sampler(): bicubic interpolation only supports 4D input")
    n, c = input._extents[:2]
    sizes = input._extents[2:]
    points = grid._extents[1:-1]
    since = now()
    count = product(points)
    flat = shaping.reshape(grid, n, count, rank)
    # grid has x first; axes are in the input's order from here on.
    places = [
        _unnormalise(shaping.reshape(shaping.slice_axis(flat, 2, rank - 1 - a, rank - a), n, count), sizes[a],
                     align_corners)
        for a in range(rank)
    ]  # fmt: skip
    read = _reader(shaping.reshape(input, n, c, product(sizes)), sizes)
    if mode == "bicubic":
        out = _bicubic(read, places, sizes, padding_mode, align_corners)
    else:
        places = [_bring_in(p, e, padding_mode, align_corners) for p, e in zip(places, sizes, strict=True)]
        if mode == "nearest":
            out = read([elementwise.round(p) for p in places], padding_mode == "zeros")
        else:
            out = _linear(read, places)
    out = shaping.reshape(out, n, c, *points)
    rename(out, f"GridSampler{rank}DBackward0", since)
    return out


Reader = Callable[[Sequence[Tensor], bool], Tensor]


def _reader(plane: Tensor, sizes: Sequence[Any]) -> Reader:
    """Reads [N, C, points] at whole-numbered float places [N, points] per axis; 0 outside of the image."""
    n, c, _ = plane._extents

    def read(places: Sequence[Tensor], check: bool = True) -> Tensor:
        index: Tensor | None = None
        inside: Tensor | None = None
        for place, size in zip(places, sizes, strict=True):
            last = wrap(size) - 1
            ok = elementwise.logical_and(elementwise.ge(place, 0), elementwise.le(place, last))
            inside = ok if inside is None else elementwise.logical_and(inside, ok)
            # NaN compares false, so it is outside, too.
            whole = dispatch.cast(elementwise.where(ok, place, dispatch.scalar(0, place.dtype)), dtypes.int64)
            index = whole if index is None else elementwise.add(elementwise.mul(index, wrap(size)), whole)
        assert index is not None and inside is not None
        count = index._extents[1]
        lines = shaping.expand(shaping.reshape(index, n, 1, count), n, c, count)
        values = dispatch.apply("gather", plane, lines, axis=2)
        return elementwise.where(shaping.reshape(inside, n, 1, count), values, dispatch.scalar(0, values.dtype))

    return read


def _unnormalise(place: Tensor, size: Any, align_corners: bool) -> Tensor:
    """[-1, 1] to elements: the ends are centres of the outer ones, or their outer edges."""
    extent = wrap(size)
    if align_corners:
        return elementwise.mul(elementwise.add(place, 1), (extent - 1) / 2)
    return elementwise.div(elementwise.sub(elementwise.mul(elementwise.add(place, 1), extent), 1), 2)


def _bring_in(place: Tensor, size: Any, padding_mode: str, align_corners: bool) -> Tensor:
    """Places outside of the image moved to its border, or mirrored at it; as they are for zeros."""
    last = wrap(size) - 1
    if padding_mode == "reflection":
        place = _reflect(place, 0, 2 * last) if align_corners else _reflect(place, -1, 2 * last + 1)
    if padding_mode == "zeros":
        return place
    limited = elementwise.where(elementwise.isnan(place), dispatch.scalar(0, place.dtype), place)
    inside = elementwise.logical_and(elementwise.gt(limited, 0), elementwise.lt(limited, last))
    # Outside, and on the border itself, PyTorch's gradient is 0.
    return elementwise.where(inside, limited, elementwise.clamp(limited.detach(), 0, last))


def _reflect(place: Tensor, twice_low: int, twice_high: int) -> Tensor:
    """Mirrored at the two bounds, given doubled, until it lies between them."""
    if twice_low == twice_high:
        return elementwise.mul(place, 0.0)
    low, span = twice_low / 2, (twice_high - twice_low) / 2
    distance = elementwise.sub(place, low)
    away = elementwise.mul(distance, elementwise.sub(1, elementwise.mul(
        dispatch.cast(elementwise.lt(distance, 0), place.dtype), 2)))  # fmt: skip
    flips = elementwise.floor(elementwise.div(away.detach(), span))
    extra = elementwise.sub(away, elementwise.mul(flips, span))
    even = elementwise.eq(elementwise.remainder(flips, 2), 0)
    return elementwise.where(even, elementwise.add(extra, low), elementwise.sub(span + low, extra))


def _linear(read: Reader, places: Sequence[Tensor]) -> Tensor:
    lows = [elementwise.floor(p).detach() for p in places]
    total: Tensor | None = None
    for corner in itertools.product((0, 1), repeat=len(places)):
        at = [elementwise.add(low, side) if side else low for low, side in zip(lows, corner, strict=True)]
        weight: Tensor | None = None
        for place, low, side in zip(places, lows, corner, strict=True):
            share = elementwise.sub(place, low)
            share = share if side else elementwise.sub(1, share)
            weight = share if weight is None else elementwise.mul(weight, share)
        assert weight is not None
        values = read(at, True)
        n, _, count = values._extents
        term = elementwise.mul(values, shaping.reshape(weight, n, 1, count))
        total = term if total is None else elementwise.add(total, term)
    assert total is not None
    return total


def _cubic_weights(t: Tensor) -> list[Tensor]:
    """Of the four neighbours at -1, 0, 1, 2, for the fraction t; Keys' kernel with a = -0.75."""
    a = -0.75

    def poly(x: Tensor, *coefficients: float) -> Tensor:
        out: Any = coefficients[0]
        for k in coefficients[1:]:
            out = elementwise.add(elementwise.mul(x, out), k)
        return out

    back = elementwise.sub(1, t)
    near = (a + 2, -(a + 3), 0.0, 1.0)
    far = (a, -5 * a, 8 * a, -4 * a)
    return [
        poly(elementwise.add(t, 1), *far), poly(t, *near), poly(back, *near), poly(elementwise.add(back, 1), *far)
    ]  # fmt: skip


def _bicubic(
    read: Reader, places: Sequence[Tensor], sizes: Sequence[Any], padding_mode: str, align_corners: bool
) -> Tensor:
    lows = [elementwise.floor(p).detach() for p in places]
    weights = [_cubic_weights(elementwise.sub(p, low)) for p, low in zip(places, lows, strict=True)]
    total: Tensor | None = None
    for i, j in itertools.product(range(4), repeat=2):
        at = [
            _bring_in(elementwise.add(low, k - 1), size, padding_mode, align_corners)
            for low, k, size in zip(lows, (i, j), sizes, strict=True)
        ]
        values = read([elementwise.trunc(p) for p in at] if padding_mode != "zeros" else at, True)
        n, _, count = values._extents
        weight = elementwise.mul(weights[0][i], weights[1][j])
        term = elementwise.mul(values, shaping.reshape(weight, n, 1, count))
        total = term if total is None else elementwise.add(total, term)
    assert total is not None
    return total


# -- affine_grid --------------------------------------------------------------------------------------
def _line(size: int, dtype: Any, align_corners: bool) -> np.ndarray:
    if size <= 1:
        return np.zeros(size, dtype)
    line = np.linspace(-1, 1, size)
    return (line if align_corners else line * (size - 1) / size).astype(dtype)


@named("AffineGridGeneratorBackward0")
def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The grid [N, H, W, 2] (or [N, D, H, W, 3]) for ``grid_sample`` of the affine maps ``theta`` [N, 2, 3] (or
    [N, 3, 4]); ``size`` is the output's [N, C, H, W]. ValueError if they do not fit."""
    if not theta.dtype.is_floating_point:
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    sizes = [int(s) for s in size]
    rank = len(sizes) - 2
    if rank not in (2, 3):
        raise NotImplementedError("affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, "
                                  f"respectively. Got size {tuple(sizes)}.")  # fmt: skip
    if theta.dim() != 3 or tuple(theta._extents[1:]) != (rank, rank + 1):
        raise ValueError(f"Expected a batch of {rank}D affine matrices of shape Nx{rank}x{rank + 1} for size "
                         f"{tuple(sizes)}. Got {tuple(theta.shape)}.")  # fmt: skip
    if align_corners is None:
        warnings.warn("Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. "
                      "Please specify align_corners=True if the old behavior is desired. See the documentation of "
                      "grid_sample for details.", stacklevel=2)  # fmt: skip
        align_corners = False
    if min(sizes) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {tuple(sizes)}")
    spatial = sizes[2:]
    lines = [_line(s, theta.dtype.accumulator.numpy, align_corners) for s in spatial]
    axes = np.meshgrid(*lines, indexing="ij")[::-1]  # x first
    base = np.stack([*axes, np.ones(spatial)], -1).reshape(-1, rank + 1).astype(theta.dtype.numpy)
    flat = linalg.matmul(dispatch.from_array(base), shaping.transpose(theta, 1, 2))
    return shaping.reshape(flat, sizes[0], *spatial, rank)


__all__ = ["affine_grid", "grid_sample"]
