"""Zeros in the halo of a contraction's result, written on every run because the memory is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.types import TensorType
from ..contraction import Generator
from ..loopir import LoopBuilder, Val
from .contraction_operands import OutAxis, Placed
from .position import Extents


def clear_halo(
    b: LoopBuilder,
    extents: Extents,
    type: TensorType,
    pointer: Val,
    g: Generator,
    at: Mapping[str, Any],
    axes: Sequence[OutAxis],
) -> None:
    """Clear the whole frame around the planes of one panel, in the iteration that holds the first rows."""
    if not type.layout.has_halo:
        return
    placed = Placed(type)
    framed = [axis for axis in range(type.rank) if placed.halo[axis] != (0, 0)]
    vector = next(i for i, axis in enumerate(axes) if axis.vector)

    def frame() -> None:
        origin = _plane_start(b, extents, placed, g, at, axes, framed)
        if vector in framed or vector not in placed.blocks:
            lanes, count, step = 1, 1, 0
        else:
            vectors = -(-type.shape[vector] // g.lanes)  # type: ignore[operator]
            lanes, step = g.lanes, placed.outer[vector]
            count = b.imin(g.nb, b.isub(vectors, b.imul(at["panel"], g.nb)))
        value = b.const(g.sum_type, 0, lanes)
        for k, axis in enumerate(framed):
            before, after = placed.halo[axis]
            total = extents(type.shape[axis] + (before + after))
            for low, high in ((0, before), (b.isub(total, after), total)):
                spans = [
                    (a, before_a, extents(type.shape[a] + before_a))
                    if i < k
                    else (a, low, high)
                    if i == k
                    else (a, 0, extents(type.shape[a] + sum(placed.halo[a])))
                    for i, a in enumerate(framed)
                    for before_a in (placed.halo[a][0],)
                ]

                def vectors_of(j: Any, spans: list[Any] = spans) -> None:
                    _fill(b, extents, placed, b.at(pointer, b.iadd(origin, b.imul(j, extents(step)))), spans, value)

                b.loop(0, count, vectors_of)

    first = at["chunk"]
    if isinstance(first, int) or g.chunks == 1:
        frame()
    else:
        b.when(b.icmp("eq", first, 0), frame)


def _plane_start(
    b: LoopBuilder,
    extents: Extents,
    placed: Placed,
    g: Generator,
    at: Mapping[str, Any],
    axes: Sequence[OutAxis],
    framed: list[int],
) -> Any:
    offset: Any = 0
    for i, axis in enumerate(axes):
        if i in framed:
            continue
        if axis.vector:
            along = placed.along_n(i, g.lanes, g.nb)
            offset = b.iadd(offset, b.imul(at["panel"], extents(along["panel"])))
            if axis.base_panel is not None:
                name, count = axis.base_panel
                offset = b.iadd(offset, b.imul(at[name], extents(placed.skip(i, count))))
            continue
        for name, scale in axis.terms:
            offset = b.iadd(offset, b.imul(at[name], extents(scale * placed.stride(i))))
    return offset


def _fill(b: LoopBuilder, extents: Extents, placed: Placed, pointer: Val, spans: list[Any], value: Val) -> None:
    # At most three spatial axes, so the nesting is bounded.
    if not spans:
        b.store(pointer, value)
        return
    (axis, low, high), rest = spans[0], spans[1:]
    stride = extents(placed.outer[axis])
    b.loop(low, high, lambda i: _fill(b, extents, placed, b.at(pointer, b.imul(i, stride)), rest, value))
