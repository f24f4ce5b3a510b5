"""Convolution on dense tensors with pixels of a row along the lanes, its input read in place.

Output channels and rows of the image are the rows of the register tile: a weight is broadcast to the vectors of
several image rows, a vector of pixels is used by all channels. Padding has to be in memory, as the input's halo;
without it ``contraction_dense`` copies the input under the taps.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ...ir.dims import Extent
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.target import Target
from ..contraction import Axis, Contraction, Operand, Segment, compute
from ..loopir import contiguous_loads, masked_loads
from .contraction_operands import OutAxis, Placed, ints

if TYPE_CHECKING:
    from .contraction import Group, Plan


def reads_in_place(core: Node, x: Placed, target: Target) -> bool:
    """Whether the taps of ``core`` are vectors of ``x`` as it lies in memory."""
    attrs, last = core.attrs, x.type.rank - 1
    if x.blocks:
        return False
    held = all(
        before >= low and after >= high
        for (before, after), (low, high) in zip(x.halo[2:], attrs["padding"], strict=True)
    )
    lanes = target.lanes(compute(core.output.dtype))
    ends = core.output.shape[-1] % lanes == 0 or masked_loads(target, x.type.dtype.itemsize)
    return held and ends and contiguous_loads(attrs["stride"][-1] * x.stride(last), lanes) > 0


def plan_pixels(group: Group, target: Target) -> list[Plan]:
    """``conv`` for which ``reads_in_place`` holds, with unblocked operands and result."""
    from .contraction import Plan

    core, out = group.core, group.core.output
    x, w = (Placed(v.type) for v in group.operands)
    if w.type.layout.has_halo or Placed(group.result.type).blocks:
        raise UnsupportedError(
            f"conv: with pixels along the lanes the weight ({w.type}) has no halo and the result ({group.result.type}) "
            "no blocks"
        )
    stride, padding, dilation, groups = (core.attrs[k] for k in ("stride", "padding", "dilation", "groups"))
    shape = ints(w.type.shape)
    kernel = shape[2:]
    rank, channels = len(kernel), shape[0] // groups
    names = [f"p{i}" for i in range(rank)]
    taps = [f"k{i}" for i in range(rank)]
    a_strides: dict[str, Extent] = {
        "row": w.stride(0), "group": w.stride(0) * channels, "c": w.stride(1),
        **{tap: w.stride(2 + i) for i, tap in enumerate(taps)},
    }  # fmt: skip
    b_strides: dict[str, Extent] = {"image": x.stride(0), "group": x.stride(1) * shape[1], "c": x.stride(1)}
    base = x.origin
    for i in range(rank):
        step = x.stride(2 + i)
        b_strides[names[i]], b_strides[taps[i]] = stride[i] * step, dilation[i] * step
        base = base - padding[i][0] * step
    lane = stride[-1] * x.stride(1 + rank)
    # A single spatial axis leaves the images to be the outer rows of the tile.
    lines = [Axis("image", out.shape[0]), *(Axis(p, e) for p, e in zip(names[:-1], out.shape[2:-1], strict=True))]
    reduction = [Axis("c", shape[1]), *(Axis(k, e) for k, e in zip(taps, kernel, strict=True))]
    axes = (
        OutAxis((("image", 1),)),
        OutAxis((("group", channels), ("row", 1))),
        *(OutAxis(((p, 1),)) for p in names[:-1]),
        OutAxis(vector=True),
    )

    def make(lanes: int, nb: int, outs: tuple[Operand, ...], extras: tuple[Operand, ...]) -> Contraction:
        return Contraction(
            out.dtype,
            (*lines[:-1], Axis("group", groups)),
            (lines[-1], Axis("row", channels)),
            out.shape[-1],
            (Segment(tuple(axis for axis in reduction if axis.extent != 1)),),
            Operand(w.origin, a_strides),
            Operand(base, b_strides, nb * lanes * lane, lanes * lane, lane),
            outs,
            extras,
            joinable=False,
        )

    return [Plan(make, axes, None, out.shape[-1], prod(shape[1:]), left=1)]
