"""Convolution and its input gradient on dense tensors, whatever the padding.

Pixels of one row run along the lanes and channels are the rows of the register tile. For each panel of pixels
the input under every tap is copied to scratch memory first, zeros where the tap falls outside, so the
contraction itself is a plain matrix product of the weights with that panel.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from ...ir import dtypes
from ...ir.dims import Extent
from ...ir.errors import UnsupportedError
from ...ir.graph import Value
from ...ir.target import Target
from ..contraction import Axis, Contraction, Operand, Prepare, Segment
from ..loopir import LoopBuilder, Val
from ..schedule import ContractionSchedule
from .contraction_operands import ONE, OutAxis, Placed, ints
from .position import Coord, Extents, IndexMath

if TYPE_CHECKING:
    from .contraction import Group, Plan


def plan_dense_conv(group: Group, target: Target) -> list[Plan]:
    """``conv`` or ``conv_transpose`` with unblocked operands and result."""
    from .contraction import Plan

    core, out = group.core, group.core.output
    x, w = (Placed(v.type) for v in group.operands)
    transposed = core.op == "conv_transpose"
    for name, placed in (("x", x), ("w", w), ("result", Placed(group.result.type))):
        if placed.blocks:
            raise UnsupportedError(
                f"{core.op}: {name} has layout {placed.type.layout}, but the weight is not packed; "
                "pack the weight or leave all operands unblocked"
            )
    groups, shape = core.attrs["groups"], ints(w.type.shape)
    kernel = shape[2:]
    rank = len(kernel)
    rows_axis, sum_axis = (1, 0) if transposed else (0, 1)
    rows = shape[1] if transposed else shape[0] // groups
    channels = shape[0] // groups if transposed else shape[1]
    names = [f"p{i}" for i in range(rank)]
    outer = [
        Axis("image", out.shape[0]),
        Axis("group", groups),
        *(Axis(p, e) for p, e in zip(names[:-1], out.shape[2:-1], strict=True)),
    ]
    a_strides: dict[str, Extent] = {
        "row": w.stride(rows_axis),
        "c": w.stride(sum_axis),
        "group": w.stride(0) * (shape[0] // groups),
        "tap": w.stride(1 + rank),
    }
    k = channels * prod(kernel)
    if sum_axis == 1:  # channels and taps are adjacent in the weight
        axes: tuple[Axis, ...] = (Axis("tap", k),)
    else:
        axes = tuple(a for a in (Axis("c", channels), Axis("tap", prod(kernel))) if a.extent != 1)
    if w.type.layout.order or w.type.layout.has_halo:
        raise UnsupportedError(f"{core.op}: weight layout {w.type.layout} is neither dense nor packed")
    result = (
        OutAxis((("image", 1),)),
        OutAxis((("group", rows), ("row", 1))),
        *(OutAxis(((p, 1),)) for p in names[:-1]),
        OutAxis(vector=True),
    )

    def make(lanes: int, nb: int, outs: tuple[Operand, ...], extras: tuple[Operand, ...]) -> Contraction:
        width = lanes * nb
        b_strides = {"c": width * prod(kernel), "tap": width}
        return Contraction(
            out.dtype,
            tuple(outer),
            (Axis("row", rows), ONE),
            out.shape[-1],
            (Segment(axes),),
            Operand(w.origin, a_strides),
            Operand(0, b_strides, 0, lanes, 1, padded=True),
            outs,
            extras,
            joinable=False,
        )

    def panel(
        b: LoopBuilder, extents: Extents, pointers: dict[Value, Val], s: ContractionSchedule
    ) -> tuple[Val, Prepare]:
        copy = _Columns(b, extents, group, pointers[group.operands[0]], s, names, channels)
        return copy.scratch, copy.fill

    return [Plan(make, result, None, out.shape[-1], k, panel, left=1)]


class _Columns:
    """Copies the input under every tap of one panel of pixels to scratch: [channel][taps][pixels]."""

    def __init__(
        self,
        b: LoopBuilder,
        extents: Extents,
        group: Group,
        x: Val,
        s: ContractionSchedule,
        names: list[str],
        channels: int,
    ) -> None:
        self.b, self.extents, self.s, self.names, self.channels = b, extents, s, names, channels
        self.core, self.x = group.core, x
        self.placed = Placed(group.operands[0].type)
        self.kernel: tuple[int, ...] = ints(group.operands[1].shape[2:])
        self.width = s.lanes * s.nb
        self.scratch = b.scratch(x.dtype, channels * prod(self.kernel) * self.width)

    def fill(self, at: Mapping[str, Any], masks: list[Val | None]) -> None:
        b, ext, placed = self.b, self.extents, self.placed
        offset = b.iadd(ext(placed.origin), b.imul(at["image"], ext(placed.stride(0))))
        offset = b.iadd(offset, b.imul(at["group"], ext(self.channels * placed.stride(1))))
        self.taps(0, at, len(masks), b.at(self.x, offset), self.scratch, None)

    def taps(self, axis: int, at: Mapping[str, Any], nb: int, src: Val, dst: Val, inside: Val | None) -> None:
        """Loops over the kernel positions of ``axis`` and the following axes; ``inside``: the rows so far exist."""
        b, ext, last = self.b, self.extents, axis == len(self.kernel) - 1
        below = prod(self.kernel[axis + 1 :]) * self.width
        low, dilation = self.core.attrs["padding"][axis][0], self.core.attrs["dilation"][axis]

        def body(k: Any) -> None:
            to = b.at(dst, b.imul(k, below))
            if last:
                self.pixels(at, nb, k, src, to, inside)
                return
            index, good = self.source(axis, at[self.names[axis]], b.imul(k, dilation), low)
            row = b.at(src, b.imul(index, ext(self.placed.stride(2 + axis))))
            self.taps(axis + 1, at, nb, row, to, good if inside is None else b.op("and", inside, good))

        b.loop(0, self.kernel[axis], body)

    def source(self, axis: int, position: Any, reach: Any, low: int) -> tuple[Any, Val]:
        """Input index under a tap for an output position, and whether it exists."""
        b, stride = self.b, self.core.attrs["stride"][axis]
        extent = self.extents(self.placed.type.shape[2 + axis])
        if self.core.op == "conv":
            index = b.isub(b.iadd(b.imul(position, stride), reach), low)
            return index, b.op("and", b.icmp("ge", index, 0), b.icmp("lt", index, extent))
        whole = b.isub(b.iadd(position, low), reach)
        good = b.icmp("ge", whole, 0)
        whole = b.imax(whole, 0)
        index = b.idiv(whole, stride)
        good = b.op("and", good, b.icmp("lt", index, extent))
        return index, b.op("and", good, b.icmp("eq", b.irem(whole, stride), 0))

    def pixels(self, at: Mapping[str, Any], nb: int, k: Any, src: Val, dst: Val, inside: Val | None) -> None:
        """One tap of the last axis: masks and offsets per vector, then all channels."""
        b, ext, s, axis = self.b, self.extents, self.s, len(self.kernel) - 1
        core, placed = self.core, self.placed
        stride, dilation, low = (core.attrs[name][axis] for name in ("stride", "dilation", "padding"))
        extent, step = ext(placed.type.shape[2 + axis]), ext(placed.stride(2 + axis))
        forward = core.op == "conv"
        loads: list[tuple[Any, Val | None, Val]] = []  # (uniform offset, offsets per lane, mask)
        for j in range(nb):
            first = b.iadd(b.imul(at["panel"], self.width), j * s.lanes)
            reach = b.imul(k, dilation)
            if forward:
                begin = b.isub(b.iadd(b.imul(first, stride), reach), low[0])
            else:
                begin = b.isub(b.iadd(first, low[0]), reach)
            lane_step = stride if forward else 1
            index = b.op("add", b.iota(dtypes.int64, s.lanes), b.splat(b.ival(0), s.lanes))
            if lane_step != 1:
                index = b.op("mul", index, b.const(dtypes.int64, lane_step, s.lanes))
            index = b.op("add", index, b.splat(b.ival(begin), s.lanes))
            mask = b.cmp("ge", index, b.const(dtypes.int64, 0, s.lanes))
            vector: Val | None = None
            if not forward and stride != 1:
                clamped = b.op("max", index, b.const(dtypes.int64, 0, s.lanes))
                quotient, rest = IndexMath(b, ext).divide(Coord(vector=clamped), stride, s.lanes, 1 << 31)
                assert quotient.vector is not None and rest.vector is not None
                mask = b.op("and", mask, b.cmp("eq", rest.vector, b.const(dtypes.int64, 0, s.lanes)))
                index = vector = quotient.vector
                if not (isinstance(step, int) and step == 1):
                    vector = b.op("mul", index, b.splat(b.ival(step), s.lanes))
            mask = b.op("and", mask, b.cmp("lt", index, b.splat(b.ival(extent), s.lanes)))
            if inside is not None:
                mask = b.op("and", mask, b.splat(inside, s.lanes))
            loads.append((b.imul(begin, step), vector, mask))
        lane = b.imul(stride if forward else 1, step)

        def channel(c: Any) -> None:
            plane = b.at(src, b.imul(c, ext(placed.stride(1))))
            to = b.at(dst, b.imul(c, prod(self.kernel) * self.width))
            for j, (offset, vector, mask) in enumerate(loads):
                if vector is not None:
                    value = b.gather(plane, vector, mask)
                else:
                    value = b.load(plane, offset, s.lanes, lane, mask)
                b.store(to, value, j * s.lanes)

        b.loop(0, self.channels, channel)
