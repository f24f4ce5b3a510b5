"""Pooling to a given number of windows, and fractional pooling; ``nn.functional`` exports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from ...ir import dtypes
from ...ir.dims import DimExpr, Extent, product
from ...ir.errors import ShapeError, UnsupportedError
from ...runtime.backward import now
from .. import dispatch, elementwise, linalg, random, reduce, shaping
from ..sources import user_place
from ..tensor import Tensor
from .pooling_functions import _avg_pool, _max_pool
from .windows import batched, label, pair, unbatched


def _bins(rank: int, output_size: Any, sides: Sequence[Extent]) -> list[Any]:
    """The output extents: None keeps a side."""
    wanted = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * rank
    if len(wanted) == 1:
        wanted *= rank
    if len(wanted) != rank:
        raise ShapeError(f"adaptive pooling: output_size must be {rank}, got {len(wanted)} entries")
    bins = [side if want is None else int(want) for want, side in zip(wanted, sides, strict=True)]
    if any(isinstance(b, int) and b < 0 for b in bins):
        raise RuntimeError(f"adaptive pooling: elements of output_size must be greater than or equal to 0, got {bins}")
    return bins


def _edges(size: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows [floor(i size / bins), ceil((i + 1) size / bins))."""
    i = np.arange(bins)
    return i * size // max(bins, 1), -(-(i + 1) * size // max(bins, 1))


def _is_regular(sides: Sequence[Extent], bins: Sequence[Any]) -> bool:
    """Whether all windows have one size and follow each other."""
    return all(isinstance(s, int) and isinstance(b, int) and b and s % b == 0 and s for s, b in
               zip(sides, bins, strict=True))  # fmt: skip


def _refuse_symbolic(name: str, sides: Sequence[Extent], bins: Sequence[Any]) -> None:
    for size, count in zip(sides, bins, strict=True):
        if size != count and (isinstance(size, DimExpr) or isinstance(count, DimExpr)):
            raise UnsupportedError(
                f"{user_place()}: {name} from the symbolic extent {size} to {count}: "
                "windows are only fixed for output size 1; declare the extent as a number"
            )


# -- mean ---------------------------------------------------------------------------------------------
def _averaging(size: int, bins: int, dtype: np.dtype) -> np.ndarray:
    """[bins, size]: row i averages window i."""
    low, high = _edges(size, bins)
    place = np.arange(size)
    inside = (place >= low[:, None]) & (place < high[:, None])
    return (inside / np.maximum(high - low, 1)[:, None]).astype(dtype)


def _adaptive_avg_pool(rank: int, input: Tensor, output_size: Any) -> Tensor:
    name = f"adaptive_avg_pool{rank}d"
    x, added = batched(input, name, rank)
    sides, since = x._extents[2:], now()
    bins = _bins(rank, output_size, sides)
    if all(b == s for b, s in zip(bins, sides, strict=True)):
        out = x.clone()
    elif all(b == 1 for b in bins):
        out = reduce.mean(x, tuple(range(2, rank + 2)), True)
    elif _is_regular(sides, bins):
        kernel = tuple(s // b for s, b in zip(sides, bins, strict=True))  # type: ignore[operator]
        out = _avg_pool(rank, x, kernel, None, 0, False, True, None)
    else:
        _refuse_symbolic(name, sides, bins)
        out = x
        for axis, (size, count) in enumerate(zip(sides, bins, strict=True), 2):
            if size == count:
                continue
            matrix = dispatch.from_array(_averaging(size, count, x.dtype.numpy))  # type: ignore[arg-type]
            last = axis == rank + 1
            out = linalg.linear(out if last else shaping.transpose(out, axis, -1), matrix)
            out = out if last else shaping.transpose(out, axis, -1)
        out = out.contiguous()
    out = unbatched(out, added)
    if rank == 1 or any(b != 1 for b in bins):
        label(out, rank, "AdaptiveAvgPool{}D", since)
    return out


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Means of ``output_size`` windows along [N, C, L] or [C, L]."""
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over a grid of ``output_size`` windows (int or pair; None keeps that side) of [N, C, H, W] or [C, H, W]."""
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over a grid of ``output_size`` windows (int or three; None keeps that side) of [N, C, D, H, W] or
    [C, D, H, W]."""
    return _adaptive_avg_pool(3, input, output_size)


# -- maximum ------------------------------------------------------------------------------------------
def _largest(x: Tensor, table: Tensor, counts: Sequence[Extent]) -> tuple[Tensor, Tensor]:
    """Maximum and its place over lists of places in the flattened plane: ``table`` is int64 and broadcasts to
    [N, C, windows, places]; results [N, C, counts...]."""
    lead = x._extents[:2]
    windows, places = table._extents[2:]
    table = shaping.expand(table, *lead, windows, places)
    flat = shaping.reshape(x, *lead, product(x._extents[2:]))
    seen = dispatch.apply("gather", flat, shaping.reshape(table, *lead, windows * places), axis=2)
    seen = shaping.reshape(seen, *lead, windows, places)
    which = dispatch.apply("argmax", seen, axis=3, keepdims=True)
    values, indices = (dispatch.apply("gather", t, which, axis=3) for t in (seen, table))
    return shaping.reshape(values, *lead, *counts), shaping.reshape(indices, *lead, *counts)


def _places(sides: Sequence[int], bins: Sequence[int]) -> np.ndarray:
    """[windows, places]: flat places of each window, short windows filled up with their last row or column."""
    table = np.zeros((1, 1), np.int64)
    for size, count in zip(sides, bins, strict=True):
        low, high = _edges(size, count)
        most = int((high - low).max(initial=1))
        axis = np.minimum(low[:, None] + np.arange(most), high[:, None] - 1)
        table = table[:, None, :, None] * size + axis[None, :, None, :]
        table = table.reshape(table.shape[0] * table.shape[1], -1)
    return table


def _adaptive_max_pool(rank: int, input: Tensor, output_size: Any, return_indices: bool) -> Any:
    name = f"adaptive_max_pool{rank}d"
    x, added = batched(input, name, rank)
    sides = x._extents[2:]
    if any(e == 0 for e in sides):
        raise ShapeError(f"{name}(): Expected input to have non-zero size for non-batch dimensions, but input has "
                         f"sizes {list(input.shape)}")  # fmt: skip
    bins, since = _bins(rank, output_size, sides), now()
    if all(b == 1 for b in bins):
        plane = shaping.reshape(x, *x._extents[:2], product(sides))
        where = dispatch.apply("argmax", plane, axis=2, keepdims=True)
        shape = (*x._extents[:2], *(1,) * rank)
        values = shaping.reshape(dispatch.apply("gather", plane, where, axis=2), *shape)
        indices = shaping.reshape(where, *shape)
    elif _is_regular(sides, bins):
        kernel = tuple(s // b for s, b in zip(sides, bins, strict=True))  # type: ignore[operator]
        values, indices = _max_pool(rank, x, kernel, None, 0, 1, False, True)
    else:
        _refuse_symbolic(name, sides, bins)
        if any(isinstance(e, DimExpr) for e in sides):
            raise UnsupportedError(f"{user_place()}: {name} over symbolic extents {list(x.shape[2:])} keeps one of "
                                   "them; declare the extents as numbers")  # fmt: skip
        table = dispatch.from_array(_places(sides, bins)[None, None])  # type: ignore[arg-type]
        values, indices = _largest(x, table, bins)
    values = unbatched(values, added)
    label(values, rank, "AdaptiveMaxPool{}D", since)
    return (values, unbatched(indices, added)) if return_indices else values


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Largest element of ``output_size`` windows along [N, C, L] or [C, L]."""
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Largest element over a grid of ``output_size`` windows (int or pair; None keeps that side); ``return_indices``
    adds their int64 places in the flattened plane."""
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Largest element over a grid of ``output_size`` windows (int or three; None keeps that side)."""
    return _adaptive_max_pool(3, input, output_size, return_indices)


def _with_indices(rank: int, pool: Callable[..., Any]) -> Callable[..., Any]:
    def fn(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        return pool(input, output_size, True)

    fn.__name__ = fn.__qualname__ = f"adaptive_max_pool{rank}d_with_indices"
    fn.__doc__ = f"``adaptive_max_pool{rank}d`` with ``return_indices=True``."
    return fn


adaptive_max_pool1d_with_indices = _with_indices(1, adaptive_max_pool1d)
adaptive_max_pool2d_with_indices = _with_indices(2, adaptive_max_pool2d)
adaptive_max_pool3d_with_indices = _with_indices(3, adaptive_max_pool3d)


# -- fractional ---------------------------------------------------------------------------------------
def _starts(samples: Tensor, side: int, count: int, kernel: int) -> Tensor:
    """Where the windows begin: int64 [..., count] for samples [...] in [0, 1)."""
    if count == 1:
        first = elementwise.mul(samples, 0.0)
        start = elementwise.add(shaping.unsqueeze(first, -1), float(side - kernel))
        return dispatch.cast(start, dtypes.int64)
    alpha = (side - kernel) / (count - 1)
    samples = shaping.unsqueeze(samples, -1)
    steps = dispatch.from_array(np.arange(count - 1, dtype=samples.dtype.numpy))
    moved = elementwise.mul(elementwise.add(steps, samples), alpha)
    inner = elementwise.sub(elementwise.trunc(moved), elementwise.trunc(elementwise.mul(samples, alpha)))
    last = elementwise.add(elementwise.mul(samples, 0.0), float(side - kernel))
    return dispatch.cast(shaping.cat([inner, last], -1), dtypes.int64)


def _fractional(
    rank: int, input: Tensor, kernel_size: Any, output_size: Any, output_ratio: Any, return_indices: bool,
    samples: Tensor | None,
) -> Any:  # fmt: skip
    name = f"fractional_max_pool{rank}d"
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    x, added = batched(input, name, rank)
    sides: Any = x._extents[2:]
    if any(isinstance(e, DimExpr) for e in x._extents):
        raise UnsupportedError(f"{user_place()}: {name} of symbolic extents {list(x.shape)}; declare them as numbers")
    kernel = pair(kernel_size, "kernel_size", rank)
    if output_size is None:
        ratios = output_ratio if isinstance(output_ratio, (tuple, list)) else (output_ratio,) * rank
        counts = tuple(int(s * r) for s, r in zip(sides, ratios, strict=True))
    else:
        counts = pair(output_size, "output_size", rank)
    for side, k, wanted in zip(sides, kernel, counts, strict=True):
        if wanted + k - 1 > side:
            raise RuntimeError(f"{name}(): pool size {k} too large relative to input size {side}")
    n, c = x._extents[:2]
    if samples is None:
        samples = dispatch.cast(random.uniform((n, c, rank), dtypes.float32), x.dtype)
    if samples.dim() != 3 or samples.shape[0] < n or samples.shape[1] != c or samples.shape[2] != rank:
        raise ShapeError(f"{name}: _random_samples must be [{n}, {c}, {rank}], got {list(samples.shape)}")
    samples = shaping.slice_axis(samples, 0, 0, n)
    since = now()
    table: Tensor | None = None
    for axis, (side, count, k) in enumerate(zip(sides, counts, kernel, strict=True)):
        # PyTorch counts the samples from the last axis in two dimensions and from the first in three.
        column = rank - 1 - axis if rank == 2 else axis
        start = _starts(shaping.reshape(shaping.slice_axis(samples, 2, column, column + 1), n, c), side, count, k)
        offsets = dispatch.from_array(np.arange(k, dtype=np.int64))
        along = elementwise.add(shaping.reshape(start, n, c, count, 1), offsets)
        if table is None:
            table = along
            continue
        windows, places = table._extents[2:]
        mixed = elementwise.add(
            elementwise.mul(shaping.reshape(table, n, c, windows, 1, places, 1), side),
            shaping.reshape(along, n, c, 1, count, 1, k),
        )
        table = shaping.reshape(mixed, n, c, windows * count, places * k)
    assert table is not None and prod(counts) == table._extents[2]
    values, indices = _largest(x, table, counts)
    values = unbatched(values, added)
    label(values, rank, "FractionalMaxPool{}D", since)
    return (values, unbatched(indices, added)) if return_indices else values


def fractional_max_pool2d(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """Largest element of windows at random places: ``output_size`` of them, or ``output_ratio`` times the input's
    extents. ``_random_samples`` [N, C, 2] on [0, 1) fixes the places."""
    return _fractional(2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


def fractional_max_pool3d(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """``fractional_max_pool2d`` for [N, C, D, H, W] or [C, D, H, W], with ``_random_samples`` [N, C, 3]."""
    return _fractional(3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


def fractional_max_pool2d_with_indices(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """``fractional_max_pool2d`` with ``return_indices=True``."""
    return _fractional(2, input, kernel_size, output_size, output_ratio, True, _random_samples)


def fractional_max_pool3d_with_indices(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """``fractional_max_pool3d`` with ``return_indices=True``."""
    return _fractional(3, input, kernel_size, output_size, output_ratio, True, _random_samples)


__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool1d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d", "adaptive_max_pool3d_with_indices", "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices", "fractional_max_pool3d", "fractional_max_pool3d_with_indices",
]  # fmt: skip
