"""From values with layouts to the affine operands of the contraction generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...ir.dims import Extent
from ...ir.errors import UnsupportedError
from ...ir.types import TensorType
from ..contraction import Axis, Contraction, Operand, Segment

ONE = Axis("one", 1)


class Placed:
    """Strides of a value's logical axes. A blocked axis has an outer stride (per block) and an inner one."""

    def __init__(self, type: TensorType) -> None:
        layout, rank = type.layout, type.rank
        self.type = type
        self.blocks = dict(layout.blocks)
        if len(self.blocks) != len(layout.blocks):
            raise UnsupportedError(
                f"contraction: layout {layout} blocks one axis twice; kernels take one block per axis"
            )
        strides = layout.strides(type.shape)
        order = layout.order or tuple(range(rank))
        self.outer = {axis: strides[i] for i, axis in enumerate(order)}
        self.inner = {axis: strides[rank + i] for i, (axis, _) in enumerate(layout.blocks)}
        self.halo = layout.halo or ((0, 0),) * rank
        self.origin: Extent = 0
        for axis in range(rank):
            self.origin = self.origin + self.halo[axis][0] * self.outer[axis]

    def stride(self, axis: int) -> Extent:
        """Stride of an axis that is not blocked."""
        if axis in self.blocks:
            raise UnsupportedError(f"contraction: axis {axis} of {self.type} may not be blocked here")
        return self.outer[axis]

    def skip(self, axis: int, count: int) -> Extent:
        """Offset of ``count`` elements along an axis (whole blocks)."""
        block = self.blocks.get(axis)
        if block is None:
            return count * self.outer[axis]
        if count % block:
            raise UnsupportedError(f"contraction: {count} elements of axis {axis} are no whole blocks of {self.type}")
        return count // block * self.outer[axis]

    def along_n(self, axis: int, lanes: int, nb: int) -> dict[str, Any]:
        """panel, vector and lane strides of a vectorised axis, and whether memory holds whole vectors."""
        block = self.blocks.get(axis)
        s = self.outer[axis]
        if block is None:
            return {"panel": nb * lanes * s, "vector": lanes * s, "lane": s, "padded": False}
        inner = self.inner[axis]
        if block == lanes:
            return {"panel": nb * s, "vector": s, "lane": inner, "padded": True}
        if block == lanes * nb:
            return {"panel": s, "vector": lanes * inner, "lane": inner, "padded": True, "whole_panel": True}
        raise UnsupportedError(
            f"contraction: axis {axis} of {self.type} is blocked by {block}, expected {lanes} or {lanes * nb}"
        )


def ints(shape: Sequence[Extent]) -> tuple[int, ...]:
    """A shape that the operator's record has checked to be static (weights, channels)."""
    return tuple(e for e in shape if isinstance(e, int))


@dataclass(frozen=True)
class OutAxis:
    """Where an axis of the result comes from: sum of ``scale * axis`` plus ``offset``, or the vector axis."""

    terms: tuple[tuple[str, int], ...] = ()
    offset: int = 0
    vector: bool = False
    base_panel: tuple[str, int] | None = None  # (group axis, elements of n per group)
    split: tuple[str, str, int] | None = None  # (block axis, axis inside the block, block size)


def result_operand(
    type: TensorType, out_shape: Sequence[Extent], axes: Sequence[OutAxis], lanes: int, nb: int
) -> Operand:
    """The operand of a value that broadcasts against the result (or is it)."""
    placed, rank, shift = Placed(type), type.rank, len(out_shape) - type.rank
    base: Extent = placed.origin
    strides: dict[str, Extent] = {}
    along: dict[str, Any] = {}
    for axis in range(rank):
        where = axes[axis + shift]
        if type.shape[axis] == 1 and out_shape[axis + shift] != 1:
            continue
        if where.vector:
            along = placed.along_n(axis, lanes, nb)
            if where.base_panel is not None:
                name, count = where.base_panel
                strides[name] = strides.get(name, 0) + placed.skip(axis, count)
            continue
        if where.split is not None:
            outer, inner, block = where.split
            if placed.blocks.get(axis, block) != block:
                raise UnsupportedError(f"contraction: axis {axis} of {type} must be blocked by {block} or not at all")
            blocked = axis in placed.blocks
            strides[outer] = placed.outer[axis] * (1 if blocked else block)
            strides[inner] = placed.inner[axis] if blocked else placed.outer[axis]
            continue
        if not where.terms and where.offset == 0:
            continue
        stride = placed.stride(axis)
        base = base + where.offset * stride
        for name, scale in where.terms:
            strides[name] = strides.get(name, 0) + scale * stride
    return Operand(base, strides, **along)


def channel_segments(
    extent: int, a: Placed, a_axis: int, b: Placed, b_axis: int, inside: tuple[Axis, ...]
) -> tuple[tuple[Segment, ...], dict[str, Extent], dict[str, Extent]]:
    """The reduction over ``extent`` channels with the axes ``inside`` (taps): segments and the strides in A and B.

    Blocked channels give a loop over blocks, the taps, and the channels of one block innermost; the last, partial
    block is a segment of its own, so that padding channels are never read.
    """
    sizes = {p.blocks[axis] for p, axis in ((a, a_axis), (b, b_axis)) if axis in p.blocks}
    if len(sizes) > 1:
        raise UnsupportedError(
            f"contraction: channels are blocked by {sorted(sizes)} in the two operands {a.type} and {b.type}"
        )

    def strides(p: Placed, axis: int) -> tuple[Extent, Extent]:
        if axis in p.blocks:
            return p.outer[axis], p.inner[axis]
        return (size * p.outer[axis], p.outer[axis])

    inside = tuple(axis for axis in inside if axis.extent != 1)
    if not sizes:
        channel = (Axis("c", extent),) if extent != 1 or not inside else ()
        return (Segment((*channel, *inside)),), {"c": a.outer[a_axis]}, {"c": b.outer[b_axis]}
    (size,) = sizes
    count, rest = divmod(extent, size)
    (a_outer, a_inner), (b_outer, b_inner) = strides(a, a_axis), strides(b, b_axis)
    segments = []
    if count:
        blocks = (Axis("cb", count),) if count > 1 else ()
        segments.append(Segment((*blocks, *inside, Axis("c", size))))
    if rest:
        segments.append(Segment((*inside, Axis("c", rest)), count * a_outer, count * b_outer))
    return tuple(segments), {"cb": a_outer, "c": a_inner}, {"cb": b_outer, "c": b_inner}


def merge_rows(spec: Contraction) -> Contraction:
    """Joins the two m axes into one, and then outer axes into it, where every operand's strides allow it."""
    if not spec.joinable:
        return spec
    m0, m1 = spec.m
    if m1.extent != 1 and m0.extent != 1 and _joinable(spec, m0, m1):
        spec = replace(spec, m=(Axis(m1.name, m0.extent * m1.extent), ONE))
    elif m0.extent == 1 and m1.extent != 1:
        spec = replace(spec, m=(m1, ONE))
    while spec.outer and spec.m[1].extent == 1:
        last, m0 = spec.outer[-1], spec.m[0]
        if last.extent != 1 and (spec.b.stride(last.name) != 0 or not _joinable(spec, last, m0)):
            break
        spec = replace(spec, outer=spec.outer[:-1], m=(Axis(m0.name, last.extent * m0.extent), ONE))
    return spec


def _joinable(spec: Contraction, outer: Axis, inner: Axis) -> bool:
    return all(o.stride(outer.name) == inner.extent * o.stride(inner.name) for o in (spec.a, *spec.outs, *spec.extras))
