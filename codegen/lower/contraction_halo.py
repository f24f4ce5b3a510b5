"""Zeros in the halo of a contraction's result, written on every run because the memory is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.dims import Extent
from ...ir.types import TensorType
from ..contraction import Generator
from ..loopir import LoopBuilder, Val
from .contraction_operands import OutAxis, Placed
from .position import Extents, zero_of


def clear_halo(
    b: LoopBuilder,
    extents: Extents,
    type: TensorType,
    pointer: Val,
    g: Generator,
    at: Mapping[str, Any],
    axes: Sequence[OutAxis],
) -> None:
    """Clear the frame around the planes of one panel, in the one iteration that comes first among those sharing it.

    Axes without a halo follow the iteration's indices where there are any; the others are cleared over their whole
    extent, by the iteration in which every index that belongs to them is zero.
    """
    if not type.layout.has_halo:
        return
    placed = Placed(type)
    framed = [axis for axis in range(type.rank) if placed.halo[axis] != (0, 0)]
    firsts, origin, whole = ["chunk"], 0, []
    by_panel = False
    for i, axis in enumerate(axes):
        names = [name for name, _ in axis.terms] + ([axis.base_panel[0]] if axis.base_panel else [])
        if axis.vector and i not in framed and i in placed.blocks:
            by_panel = True
            origin = b.iadd(origin, b.imul(at["panel"], extents(placed.along_n(i, g.lanes, g.nb)["panel"])))
            if axis.base_panel is not None:
                name, count = axis.base_panel
                origin = b.iadd(origin, b.imul(at[name], extents(placed.skip(i, count))))
        elif i not in framed and not axis.vector and all(name in at for name in names):
            for name, scale in axis.terms:
                origin = b.iadd(origin, b.imul(at[name], extents(scale * placed.stride(i))))
        else:
            firsts += names
            if i not in framed:
                whole.append((i, 0, extents(type.shape[i])))
    if not by_panel:
        firsts.append("panel")
    conditions = [b.icmp("eq", at[n], 0) for n in firsts if n in at and not isinstance(at[n], int)]

    def frame() -> None:
        step: Extent = 0
        lanes, count = 1, 1
        if by_panel:
            vector = next(i for i, axis in enumerate(axes) if axis.vector)
            lanes, step = g.lanes, placed.outer[vector]
            count = b.imin(g.nb, b.isub(extents((g.spec.n + (lanes - 1)) // lanes), b.imul(at["panel"], g.nb)))
        value = zero_of(b, type.dtype, lanes)
        for k in range(len(framed)):
            for side in (0, 1):
                spans = [*whole, *(_span(b, extents, placed, axis, i - k, side) for i, axis in enumerate(framed))]

                def vectors(j: Any, spans: list[Any] = spans) -> None:
                    _fill(b, extents, placed, b.at(pointer, b.iadd(origin, b.imul(j, extents(step)))), spans, value)

                b.loop(0, count, vectors)

    guarded(b, conditions, frame)


def guarded(b: LoopBuilder, conditions: Sequence[Val], body: Any) -> None:
    """``body`` under all of ``conditions``."""
    if not conditions:
        body()
        return
    cond = conditions[0]
    for other in conditions[1:]:
        cond = b.op("and", cond, other)
    b.when(cond, body)


def _span(b: LoopBuilder, extents: Extents, placed: Placed, axis: int, order: int, side: int) -> tuple[int, Any, Any]:
    """The physical range of one framed axis: its inside, one side of the halo, or everything, as ``order`` is
    negative, zero or positive. Together the ranges cover the frame once."""
    before, after = placed.halo[axis]
    inside, total = extents(placed.type.shape[axis] + before), extents(placed.type.shape[axis] + (before + after))
    if order < 0:
        return axis, before, inside
    if order > 0:
        return axis, 0, total
    return (axis, inside, total) if side else (axis, 0, before)


def _fill(b: LoopBuilder, extents: Extents, placed: Placed, pointer: Val, spans: list[Any], value: Val) -> None:
    # One level per axis of the tensor, so the nesting is bounded.
    if not spans:
        b.store(pointer, value)
        return
    (axis, low, high), rest = spans[0], spans[1:]
    stride = extents(placed.stride(axis))
    b.loop(low, high, lambda i: _fill(b, extents, placed, b.at(pointer, b.imul(i, stride)), rest, value))
