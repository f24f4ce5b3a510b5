"""Convolution as contractions: input with its halo, packed weights, output channels along the lanes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ...ir.errors import UnsupportedError
from ...ir.target import Target
from ..contraction import Axis, Contraction, Operand, Segment
from .contraction_operands import ONE, OutAxis, Placed, channel_segments, ints

if TYPE_CHECKING:
    from .contraction import Group, Plan

SPATIAL = ("z", "y", "x")
TAPS = ("kz", "ky", "kx")


def names_of(rank: int, names: tuple[str, ...]) -> tuple[str, ...]:
    """The innermost ``rank`` names; more than three spatial axes get numbers."""
    return names[len(names) - rank :] if rank <= 3 else tuple(f"{names[0]}{i}" for i in range(rank))


def check_halo(what: str, x: Placed, padding: tuple[tuple[int, int], ...]) -> None:
    """Padding is read from memory: the halo must cover it."""
    for axis, (low, high) in enumerate(padding, 2):
        before, after = x.halo[axis]
        if before < low or after < high:
            raise UnsupportedError(
                f"{what}: padding ({low}, {high}) on axis {axis} needs a halo as wide in the input's layout, "
                f"which has ({before}, {after})"
            )


def plan_conv(group: Group, target: Target) -> list[Plan]:
    """``conv`` with the vector axis over output channels."""
    from .contraction import Plan
    from .contraction_dense import plan_dense_conv
    from .contraction_pixels import plan_pixels, reads_in_place

    core = group.core
    x, w = (Placed(v.type) for v in group.operands)
    out = core.output
    stride, padding, dilation, groups = (core.attrs[k] for k in ("stride", "padding", "dilation", "groups"))
    lanes = target.lanes(out.dtype)
    block = w.blocks.get(0)
    if block is None:
        return (plan_pixels if reads_in_place(core, x, target) else plan_dense_conv)(group, target)
    if block % lanes:
        raise UnsupportedError(f"conv: weight {w.type} is packed for other vectors than {lanes} lanes")
    check_halo("conv", x, padding)
    shape = ints(w.type.shape)
    kernel = shape[2:]
    rank = len(kernel)
    spatial, taps = names_of(rank, SPATIAL), names_of(rank, TAPS)
    depthwise = shape[1] == 1 and shape[0] == groups and groups > 1
    per_group = shape[0] // groups
    a_strides = {"image": x.outer[0]}
    b_strides = {}
    base = x.origin
    for i, (p, tap) in enumerate(zip(spatial, taps, strict=True)):
        a_strides[p], a_strides[tap] = stride[i] * x.stride(2 + i), dilation[i] * x.stride(2 + i)
        b_strides[tap] = w.stride(2 + i)
        base = base - padding[i][0] * x.stride(2 + i)
    tap_axes = tuple(Axis(k, e, tap=True) for k, e in zip(taps, kernel, strict=True))
    outer = [Axis("image", out.shape[0])]
    along = w.along_n(0, lanes, block // lanes)
    if depthwise:
        segments: tuple[Segment, ...] = (Segment(tuple(t for t in tap_axes if t.extent != 1)),)
        channel = OutAxis(vector=True)
        a_along = x.along_n(1, lanes, block // lanes)
    else:
        segments, a_channel, b_channel = channel_segments(shape[1], x, 1, w, 1, tap_axes)
        a_strides |= a_channel
        b_strides |= b_channel
        a_along = {}
        channel = OutAxis(vector=True)
        if groups > 1:
            if per_group % block:
                raise UnsupportedError(f"conv: {per_group} output channels per group are no whole panels of {block}")
            outer.append(Axis("group", groups))
            a_strides["group"], b_strides["group"] = x.skip(1, shape[1]), w.skip(0, per_group)
            channel = OutAxis(vector=True, base_panel=("group", per_group))
    rows = [Axis(p, e) for p, e in zip(spatial, out.shape[2:], strict=True)]
    outer += rows[:-2]
    m = (rows[-2], rows[-1]) if rank > 1 else (rows[-1], ONE)
    static = all(isinstance(s, int) for s in a_strides.values())
    axes = (OutAxis((("image", 1),)), channel, *(OutAxis(((p, 1),)) for p in spatial))
    k = prod(shape[1:])
    n = shape[0] if depthwise else per_group

    def make(lanes: int, nb: int, outs: tuple[Operand, ...], extras: tuple[Operand, ...]) -> Contraction:
        return Contraction(
            out.dtype,
            tuple(outer),
            m,
            n,
            segments,
            Operand(base, a_strides, **a_along),
            Operand(w.origin, b_strides, **along),
            outs,
            extras,
            unroll_all=depthwise and static and k <= 25,
        )

    return [Plan(make, axes, block // lanes, n, k)]
