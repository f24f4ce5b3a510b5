"""``functional.pad``: constant, reflect, replicate and circular borders, composed from operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..ir.errors import ShapeError
from ..runtime.backward import now
from . import dispatch, shaping
from .size import wrap
from .tape.names import rename

if TYPE_CHECKING:
    from .tensor import Tensor


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Pads from the last axis backwards: ``(left, right, top, bottom, ...)``.

    ``mode`` is constant, reflect, replicate or circular; negative widths crop. ShapeError
    if the widths do not fit the input.
    """
    widths = [int(p) for p in pad]
    if len(widths) % 2:
        raise ShapeError("Padding length must be divisible by 2")
    rank = input.dim()
    if len(widths) // 2 > rank:
        raise ShapeError(
            f"Padding length should be less than or equal to two times the input dimension but got padding "
            f"length {len(widths)} and input of dimension {rank}"
        )
    pairs = {rank - 1 - i: (widths[2 * i], widths[2 * i + 1]) for i in range(len(widths) // 2)}
    if mode == "constant":
        return _constant(input, pairs, 0 if value is None else value)
    if value:
        raise ShapeError(f'Padding mode "{mode}" doesn\'t take in value argument')
    border = {"reflect": _reflect, "replicate": _replicate, "circular": _circular}.get(mode)
    if border is None:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    if rank not in (len(pairs) + 1, len(pairs) + 2):
        raise NotImplementedError("Only 2D, 3D, 4D, 5D padding with non-constant padding are supported for now")
    out, since = input, now()
    for axis, (low, high) in sorted(pairs.items()):
        if mode == "circular":  # what is cropped does not come back on the other side
            out = _crop(out, axis, low, high)
        if low > 0 or high > 0:
            out = border(out, axis, max(low, 0), max(high, 0))
        if mode != "circular":
            out = _crop(out, axis, low, high)
    if mode != "circular":
        rename(out, f"{'Reflection' if mode == 'reflect' else 'Replication'}Pad{len(pairs)}DBackward0", since)
    return out


def _crop(x: Tensor, axis: int, low: int, high: int) -> Tensor:
    if low >= 0 and high >= 0:
        return x
    return shaping.slice_axis(x, axis, max(-low, 0), x._extents[axis] - max(-high, 0))


def _constant(x: Tensor, pairs: dict[int, tuple[int, int]], value: float) -> Tensor:
    rank = x.dim()
    for axis, (low, high) in pairs.items():
        x = _crop(x, axis, low, high)
    if not x.dtype.is_floating_point:
        value = x.dtype.numpy.type(value).item()
    lows = tuple(max(pairs.get(a, (0, 0))[0], 0) for a in range(rank))
    highs = tuple(max(pairs.get(a, (0, 0))[1], 0) for a in range(rank))
    return dispatch.apply("pad", x, low=lows, high=highs, interior=(0,) * rank, value=value)


def _reflect(x: Tensor, axis: int, low: int, high: int) -> Tensor:
    n = x._extents[axis]
    if not wrap(n) > max(low, high):
        raise ShapeError("Padding size should be less than the corresponding input dimension, but got: padding "
                         f"({low}, {high}) at dimension {axis} of input {list(x.shape)}")  # fmt: skip
    parts = [x]
    if low:
        parts.insert(0, shaping.flip(shaping.slice_axis(x, axis, 1, low + 1), axis))
    if high:
        parts.append(shaping.flip(shaping.slice_axis(x, axis, n - 1 - high, n - 1), axis))
    return shaping.cat(parts, axis)


def _replicate(x: Tensor, axis: int, low: int, high: int) -> Tensor:
    n, shape = x._extents[axis], x._extents
    parts = [x]
    if low:
        edge = shaping.slice_axis(x, axis, 0, 1)
        parts.insert(0, shaping.expand(edge, *shape[:axis], low, *shape[axis + 1 :]))
    if high:
        edge = shaping.slice_axis(x, axis, n - 1, n)
        parts.append(shaping.expand(edge, *shape[:axis], high, *shape[axis + 1 :]))
    return shaping.cat(parts, axis)


def _circular(x: Tensor, axis: int, low: int, high: int) -> Tensor:
    n = x._extents[axis]
    if not wrap(n) >= max(low, high):
        raise ShapeError("Padding value causes wrapping around more than once.")
    parts = [x]
    if low:
        parts.insert(0, shaping.slice_axis(x, axis, n - low, n))
    if high:
        parts.append(shaping.slice_axis(x, axis, 0, high))
    return shaping.cat(parts, axis)
