"""The gradients of convolution as contractions.

Input gradient (``conv_transpose``): input channels along the lanes. With stride 1 it is a convolution with reversed
taps. With larger strides every residue class of output pixels ("phase") meets its own subset of taps, which is an
affine contraction again. Neighbouring phases with as many taps and pixels differ by fixed offsets, so a loop runs
through them; phases of different kinds are parts of one kernel.

Weight gradient: output channels along the lanes, input channels (or taps) as rows, images and positions summed.
Positions whose tap falls outside the input are cut off by the loop bounds where the input has no halo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod
from typing import TYPE_CHECKING, Any

from ...ir.dims import Extent, bounds
from ...ir.errors import UnsupportedError
from ...ir.target import Target
from ..contraction import Axis, Contraction, Operand, Segment
from ..loopir import LoopBuilder
from ..schedule import upper
from .contraction_conv import SPATIAL, TAPS, names_of
from .contraction_dense import plan_dense_conv
from .contraction_operands import ONE, OutAxis, Placed, channel_segments, ints
from .position import Extents

if TYPE_CHECKING:
    from .contraction import Group, Plan

MOST_PARTS = 16  # each is a loop nest of its own in one kernel


# -- input gradient -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Phase:
    """Output pixels ``first + stride * j`` of one axis: they meet taps ``tap + t * every`` (``taps`` of them) at input
    index ``j + shift - t * back``."""

    first: int
    count: Extent
    tap: int
    every: int
    taps: int
    shift: int
    back: int


def phases(extent: Extent, kernel: int, stride: int, low: int, dilation: int) -> list[Phase]:
    """The phases of one axis of a transposed convolution with ``extent`` output pixels."""
    every = stride // gcd(dilation, stride)
    found = []
    for first in range(stride):
        count = (extent - first + (stride - 1)) // stride
        if isinstance(count, int) and count <= 0:
            continue
        tap = next((r for r in range(min(every, kernel)) if (first + low - r * dilation) % stride == 0), None)
        if tap is None:
            found.append(Phase(first, count, 0, 1, 0, 0, 0))
            continue
        taps = -(-(kernel - tap) // every)
        found.append(
            Phase(first, count, tap, every, taps, (first + low - tap * dilation) // stride, every * dilation // stride)
        )
    return found


def runs(found: Sequence[Phase]) -> list[list[Phase]]:
    """Neighbouring phases that differ by fixed steps of tap and input index: one loop nest with a loop over them."""
    out: list[list[Phase]] = []
    for p in found:
        if out:
            run, q = out[-1], out[-1][-1]
            alike = (p.count, p.every, p.taps, p.back) == (q.count, q.every, q.taps, q.back)
            if alike and (len(run) == 1 or _step(q, p) == _step(run[0], run[1])):
                run.append(p)
                continue
        out.append([p])
    return out


def _step(a: Phase, b: Phase) -> tuple[int, int]:
    """From one phase to the next: (taps, input elements)."""
    return b.tap - a.tap, b.shift - a.shift


def transpose_halo(extent: Extent, found: Sequence[Phase]) -> tuple[int, int]:
    """Zeros that the input of a transposed convolution needs before and after an axis of ``extent`` elements."""
    before = after = 0
    for p in found:
        if p.taps:
            before = max(before, (p.taps - 1) * p.back - p.shift)
            after = max(after, bounds(p.count + (p.shift - extent))[1])
    return before, after


def axis_phases(op: Any, out_shape: Sequence[Extent], kernel: Sequence[int]) -> list[list[Phase]]:
    """Phases of every spatial axis of a ``conv_transpose`` node's attributes."""
    return [
        phases(e, k, s, low, d)
        for e, k, s, (low, _), d in zip(out_shape, kernel, op["stride"], op["padding"], op["dilation"], strict=True)
    ]


def plan_conv_transpose(group: Group, target: Target) -> list[Plan]:
    """``conv_transpose`` with the vector axis over the result's channels."""
    core, out = group.core, group.core.output
    x, w = (Placed(v.type) for v in group.operands)
    lanes = target.lanes(out.dtype)
    shape = ints(w.type.shape)
    groups = core.attrs["groups"]
    depthwise = shape[1] == 1 and shape[0] == groups and groups > 1
    block = w.blocks.get(0 if depthwise else 1)
    if block is None:
        return plan_dense_conv(group, target)
    if block % lanes:
        raise UnsupportedError(f"conv_transpose: weight {w.type} is packed for other vectors than {lanes} lanes")
    parts = axis_phases(core.attrs, out.shape[2:], shape[2:])
    for axis, (extent, found) in enumerate(zip(x.type.shape[2:], parts, strict=True), 2):
        before, after = transpose_halo(extent, found)
        if x.halo[axis][0] < before or x.halo[axis][1] < after:
            raise UnsupportedError(
                f"conv_transpose: axis {axis} needs a halo of ({before}, {after}) in the input's layout, "
                f"it has {x.halo[axis]}"
            )
    grouped = [runs(found) for found in parts]
    count = prod(len(found) for found in grouped)
    if count > MOST_PARTS or any(len(found) > 1 for found in grouped[:-2]):
        raise UnsupportedError(
            f"conv_transpose: stride {core.attrs['stride']} gives {count} kinds of phases; use dense layouts"
        )
    # The parts share their loops: each runs through as many phases as the longest run has, and skips what it has not.
    longest = [max((len(run) for run in found), default=1) for found in grouped]
    mean = prod(sum(p.taps * upper(p.count) for p in found) / max(1, upper(e)) for found, e in zip(
        parts, out.shape[2:], strict=True)) * (1 if depthwise else shape[0] // groups)  # fmt: skip
    plans = [
        _phase_plan(group, x, w, list(chosen), lanes, block, depthwise, count, longest) for chosen in product(*grouped)
    ]
    return [replace(plan, mean_k=mean) for plan in plans]


def _phase_plan(
    group: Group, x: Placed, w: Placed, grouped: list[list[Phase]], lanes: int, block: int, depthwise: bool, count: int,
    longest: list[int],
) -> Plan:  # fmt: skip
    from .contraction import PHASE, Plan

    chosen = [run[0] for run in grouped]

    core, out = group.core, group.core.output
    shape, groups, rank = ints(w.type.shape), core.attrs["groups"], len(chosen)
    spatial, names = names_of(rank, SPATIAL), names_of(rank, TAPS)
    a_strides: dict[str, Extent] = {"image": x.outer[0]}
    b_strides: dict[str, Extent] = {}
    a_base, b_base = x.origin, w.origin
    for i, (p, pixel, tap) in enumerate(zip(chosen, spatial, names, strict=True)):
        sx, sw = x.stride(2 + i), w.stride(2 + i)
        a_strides[pixel], a_strides[tap] = sx, -p.back * sx
        b_strides[tap] = p.every * sw
        a_base, b_base = a_base + p.shift * sx, b_base + p.tap * sw
        tap_step, step = _step(grouped[i][0], grouped[i][1]) if len(grouped[i]) > 1 else (0, 0)
        a_strides[PHASE + pixel], b_strides[PHASE + pixel] = step * sx, tap_step * sw
    taps = tuple(Axis(k, p.taps, tap=True) for k, p in zip(names, chosen, strict=True))
    looped = [(PHASE + pixel, n) for pixel, n in zip(spatial, longest, strict=True) if n > 1]
    outer = [Axis("image", out.shape[0]), *(Axis(name, n) for name, n in looped)]
    along: dict[str, Any] = {}
    channel, per_group = OutAxis(vector=True), shape[0] // groups
    nb = block // lanes
    if any(p.taps == 0 for p in chosen):
        segments: tuple[Segment, ...] = ()
    elif depthwise:
        segments = (Segment(tuple(t for t in taps if t.extent != 1)),)
    else:
        segments, a_channel, b_channel = channel_segments(per_group, x, 1, w, 0, taps)
        a_strides |= a_channel
        b_strides |= b_channel
    if depthwise:
        n, along, b_along = shape[0], x.along_n(1, lanes, nb), w.along_n(0, lanes, nb)
    else:
        n, b_along = shape[1], w.along_n(1, lanes, nb)
        if groups > 1:
            if n % block:
                raise UnsupportedError(f"conv_transpose: {n} channels per group are no whole panels of {block}")
            outer.append(Axis("group", groups))
            a_strides["group"], b_strides["group"] = x.skip(1, per_group), w.skip(0, per_group)
            channel = OutAxis(vector=True, base_panel=("group", n))
    rows = [Axis(name, p.count) for name, p in zip(spatial, chosen, strict=True)]
    outer += rows[:-2]
    m = (rows[-2], rows[-1]) if rank > 1 else (rows[-1], ONE)
    axes = (
        OutAxis((("image", 1),)),
        channel,
        *(
            OutAxis(((name, s), (PHASE + name, 1)) if n > 1 else ((name, s),), p.first)
            for name, s, p, n in zip(spatial, core.attrs["stride"], chosen, longest, strict=True)
        ),
    )
    k = max(1, prod(p.taps for p in chosen)) * (1 if depthwise else per_group)
    static = all(isinstance(s, int) for s in a_strides.values())

    def make(lanes: int, nb: int, outs: tuple[Operand, ...], extras: tuple[Operand, ...]) -> Contraction:
        return Contraction(
            out.dtype,
            tuple(outer),
            m,
            n,
            segments,
            Operand(a_base, a_strides, **along),
            Operand(b_base, b_strides, **b_along),
            outs,
            extras,
            unroll_all=depthwise and static and k <= 25,
            joinable=count == 1,
        )

    own = {PHASE + pixel: len(run) for pixel, run in zip(spatial, grouped, strict=True)}
    return Plan(make, axes, nb, n, k, within=tuple((name, own[name]) for name, n in looped if own[name] < n))


# -- weight gradient ----------------------------------------------------------------------------------------
def plan_conv_weight_grad(group: Group, target: Target) -> list[Plan]:
    """``conv_weight_grad`` with the vector axis over the weight's output channels."""
    core = group.core
    x, dy = (Placed(v.type) for v in group.operands)
    dw = Placed(group.result.type)
    lanes = target.lanes(core.output.dtype)
    shape, groups = core.output.shape, core.attrs["groups"]
    depthwise = shape[1] == 1 and shape[0] == groups and groups > 1
    per_group, channels = upper(shape[0]) // groups, upper(shape[1])
    block = dw.blocks.get(0)
    if block is not None and block % lanes:
        raise UnsupportedError(f"conv_weight_grad: result {dw.type} is packed for other vectors than {lanes} lanes")
    nb = block // lanes if block else None
    if depthwise:
        return [_weight_plan(group, x, dy, nb, None, channels, True)]
    if groups > 1 and block and per_group % block:
        raise UnsupportedError(
            f"conv_weight_grad: {per_group} output channels per group are no whole panels of {block}"
        )
    size = x.blocks.get(1) or dw.blocks.get(1)
    if size is None:
        return [_weight_plan(group, x, dy, nb, None, channels, False)]
    whole, rest = divmod(channels, size)
    parts = []
    if whole:
        parts.append(_weight_plan(group, x, dy, nb, (size, 0, whole), size, False))
    if rest:
        parts.append(_weight_plan(group, x, dy, nb, (size, whole, whole + 1), rest, False))
    return parts


def _weight_plan(
    group: Group, x: Placed, dy: Placed, nb: int | None, split: tuple[int, int, int] | None, rows: int, depthwise: bool
) -> Plan:
    """One contraction for ``rows`` input channels; ``split``: (channel block, first, last + 1) of the blocks."""
    from .contraction import Plan

    core, out = group.core, group.core.output
    shape, attrs = out.shape, core.attrs
    groups, kernel, stride, padding, dilation = (
        attrs[k] for k in ("groups", "kernel", "stride", "padding", "dilation")
    )
    rank = len(kernel)
    pixels, taps = names_of(rank, SPATIAL), names_of(rank, TAPS)
    covered = all(x.halo[2 + i][0] >= low and x.halo[2 + i][1] >= high for i, (low, high) in enumerate(padding))
    a_strides: dict[str, Extent] = {"image": x.outer[0]}
    b_strides: dict[str, Extent] = {"image": dy.outer[0]}
    base = x.origin
    for i, (p, k) in enumerate(zip(pixels, taps, strict=True)):
        sx = x.stride(2 + i)
        a_strides[p], a_strides[k], b_strides[p] = stride[i] * sx, dilation[i] * sx, dy.stride(2 + i)
        base = base - padding[i][0] * sx
    tap_axes = [Axis(k, e) for k, e in zip(taps, kernel, strict=True)]
    outer: list[Axis] = []
    channel = OutAxis(vector=True)
    per_group = upper(shape[0]) // groups
    if not depthwise and groups > 1:
        outer.append(Axis("group", groups))
        b_strides["group"] = dy.skip(1, per_group)
        a_strides["group"] = x.skip(1, upper(shape[1]))
        channel = OutAxis(vector=True, base_panel=("group", per_group))
    column = OutAxis((("c", 1),))
    gate: tuple[str, int, int] | None = None
    if depthwise:
        # Every tap is a row, unless its range of positions is its own.
        m = (tap_axes[-2] if rank > 1 else ONE, tap_axes[-1]) if covered else (ONE, ONE)
        outer += (tap_axes[:-2] if rank > 1 else []) if covered else tap_axes
        column = OutAxis()
    elif split is None:
        a_strides["c"] = x.stride(1)
        m = (Axis("c", rows), tap_axes[-1] if covered else ONE)
        outer += tap_axes[:-1] if covered else tap_axes
    else:
        size, first, last = split
        outer += [*tap_axes, Axis("cb", -(-upper(shape[1]) // size))]
        m = (Axis("c", rows), ONE)
        column = OutAxis(split=("cb", "c", size))
        gate = ("cb", first, last)
        if 1 in x.blocks:
            a_strides["cb"], a_strides["c"] = x.outer[1], x.inner[1]
        else:
            a_strides["cb"], a_strides["c"] = size * x.stride(1), x.stride(1)
    reduce = [Axis("image", x.type.shape[0])]
    for i, (p, k) in enumerate(zip(pixels, taps, strict=True)):
        range_of = (
            None
            if covered
            else _inside(k, x.type.shape[2 + i], dy.type.shape[2 + i], stride[i], padding[i][0], dilation[i])
        )
        reduce.append(Axis(p, dy.type.shape[2 + i], bounds=range_of))
    kept = tuple(a for a in reduce if a.extent != 1 or a.bounds is not None)
    axes = (channel, column, *(OutAxis(((k, 1),)) for k in taps))
    k_steps = prod(upper(a.extent, 4096) for a in reduce)
    n = shape[0] if depthwise else per_group

    def make(lanes: int, nb: int, outs: tuple[Operand, ...], extras: tuple[Operand, ...]) -> Contraction:
        along = x.along_n(1, lanes, nb) if depthwise else {}
        return Contraction(
            out.dtype,
            tuple(outer),
            m,
            n,
            (Segment(kept),),
            Operand(base, a_strides, **along),
            Operand(dy.origin, b_strides, **dy.along_n(1, lanes, nb)),
            outs,
            extras,
            joinable=False,
            padding_rows=split[0] - rows
            if split is not None and any(axis == 1 for axis, _ in group.result.type.layout.blocks)
            else 0,
        )

    return Plan(make, axes, nb, n, k_steps, gate=gate)


def _inside(
    tap: str, extent: Extent, count: Extent, stride: int, low: int, dilation: int
) -> Callable[[LoopBuilder, Extents, Mapping[str, Any]], tuple[Any, Any]]:
    """The output positions whose tap lies inside the input."""

    def bounds_of(b: LoopBuilder, extents: Extents, at: Mapping[str, Any]) -> tuple[Any, Any]:
        reach = b.imul(at[tap], dilation)
        first = b.idiv(b.imax(b.isub(low + stride - 1, reach), 0), stride)
        end = b.idiv(b.imax(b.isub(b.iadd(extents(extent), low + stride - 1), reach), 0), stride)
        return first, b.imin(end, extents(count))

    return bounds_of
