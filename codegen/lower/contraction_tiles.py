"""Contractions whose constant operand has a tile form: on matrix tiles or bfloat16 dot products, usual epilogues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ...ir import dtypes
from ...ir.dims import Extent, product
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.layout import Layout
from ...ir.target import TILE_EMULATION, Target
from .. import schedule as scheduling
from ..contraction import Axis, Contraction, Operand
from ..dot_contraction import DotGenerator
from ..loopir import LoopBuilder
from ..tile_contraction import Left, TileGenerator
from ..tile_emulation import emulate
from ..tile_schedule import (
    COLUMNS,
    DEPTH,
    FORMS,
    LANES,
    PARTS,
    TileProblem,
    TileSchedule,
    Window,
    choose_tiles,
    products,
    serves,
)
from .contraction_conv import SPATIAL, check_halo, names_of
from .contraction_halo import clear_halo
from .contraction_operands import ONE, OutAxis, Placed, ints, merge_rows, result_operand
from .kernel import LoweredKernel
from .position import Extents

_SHARE = 6  # iterations should take this many times what filling the band takes


@dataclass(frozen=True)
class Geometry:
    """What a contraction is on tiles, apart from its results: index maps of the left operand and axes of the result."""

    left: Left
    windows: tuple[Window, ...]
    a: Operand
    outer: tuple[Axis, ...]
    m: tuple[Axis, Axis]
    axes: tuple[OutAxis, ...]
    n: int
    depth: int  # products per sum
    images: str


def weight_layout(core: Node, parts: int) -> Layout | None:
    """The layout of the constant operand on tiles; None if ``core`` is not a product that tiles compute."""
    form = FORMS[parts]
    if core.op == "conv":
        return Layout(blocks=((0, COLUMNS), (1, DEPTH)), form=form) if core.attrs["groups"] == 1 else None
    if core.op != "matmul" or core.attrs["transpose_a"] or core.inputs[1].type.rank != 2:
        return None
    if core.attrs["transpose_b"]:
        return Layout(blocks=((0, COLUMNS), (1, DEPTH)), form=form)
    return Layout(order=(1, 0), blocks=((1, COLUMNS), (0, DEPTH)), form=form)


def geometry(core: Node, x: Placed) -> Geometry:
    """The index maps for the layout of ``x``; UnsupportedError says what does not fit."""
    if any(v.dtype is not dtypes.float32 for v in (*core.inputs, core.output)):
        raise UnsupportedError(f"{core.op}: tiles take float32, not {core.inputs[0].type}")
    return _matmul(core, x) if core.op == "matmul" else _conv(core, x)


def _run(core: Node, x: Placed, axis: int) -> Extent:
    """Elements between runs of 16 channels."""
    if x.blocks.get(axis) == LANES:
        return x.outer[axis]
    if axis not in x.blocks and x.outer[axis] == 1:
        return LANES
    raise UnsupportedError(f"{core.op}: tiles need the summed axis of {x.type} contiguous or in blocks of {LANES}")


def _matmul(core: Node, x: Placed) -> Geometry:
    out, rank = core.output, x.type.rank
    depth = x.type.shape[-1]
    if not isinstance(depth, int) or not isinstance(out.shape[-1], int):
        raise UnsupportedError(f"matmul: tiles need known columns and depth, not {x.type} to {out.type}")
    names = [f"batch{i}" for i in range(rank - 2)]
    strides = {name: x.stride(i) for i, name in enumerate(names)} | {"row": x.stride(rank - 2)}
    outer = tuple(Axis(name, e) for name, e in zip(names, out.shape, strict=False))
    axes = (*(OutAxis(((name, 1),)) for name in names), OutAxis((("row", 1),)), OutAxis(vector=True))
    left = Left(depth, _run(core, x, rank - 1), (0, 0))
    rows = Axis("row", out.shape[-2])
    images = names[-1] if names else ""
    return Geometry(
        left, (Window(), Window()), Operand(x.origin, strides), outer, (rows, ONE), axes, out.shape[-1], depth, images
    )


def _conv(core: Node, x: Placed) -> Geometry:
    out, shape = core.output, ints(core.inputs[1].shape)
    stride, padding, dilation = (core.attrs[k] for k in ("stride", "padding", "dilation"))
    check_halo("conv", x, padding)
    kernel, rank = shape[2:], len(shape) - 2
    if rank == 0:
        raise UnsupportedError("conv: tiles need a spatial axis")
    spatial = names_of(rank, SPATIAL)
    strides, base = {"image": x.outer[0]}, x.origin
    for i, name in enumerate(spatial):
        strides[name] = stride[i] * x.stride(2 + i)
        base = base - padding[i][0] * x.stride(2 + i)
    windows = [Window(k, s, d) for k, s, d in zip(kernel, stride, dilation, strict=True)]
    units = [x.stride(2 + i) for i in range(rank)]
    rows = [Axis(p, e) for p, e in zip(spatial, out.shape[2:], strict=True)]
    if rank == 1:
        windows, units, m = [Window(), *windows], [0, *units], (ONE, rows[0])
    else:
        m = (rows[-2], rows[-1])
    outer = (Axis("image", out.shape[0]), *rows[:-2])
    axes = (OutAxis((("image", 1),)), OutAxis(vector=True), *(OutAxis(((p, 1),)) for p in spatial))
    left = Left(shape[1], _run(core, x, 1), tuple(units))
    images = "image" if len(outer) == 1 else ""
    return Geometry(left, tuple(windows), Operand(base, strides), outer, m, axes, shape[0], prod(shape[1:]), images)


def problem_of(core: Node, g: Geometry, parts: int, spec: Contraction | None = None) -> TileProblem:
    """What the schedule looks at; without ``spec`` (whose rows may have been joined) an estimate of it."""
    outer, m = (spec.outer, spec.m) if spec is not None else (g.outer, g.m)
    if spec is None and not _has_window(g) and all(isinstance(a.extent, int) for a in (*g.m, *g.outer)):
        # Rows of a matrix join with its batch, rows of a plane with each other.
        joined = g.m[0].extent * g.m[1].extent
        if core.op == "matmul":
            joined, outer = joined * product(a.extent for a in g.outer), ()
        m = (ONE, Axis(g.m[1].name, joined))
    images: Extent = next((a.extent for a in outer if a.name == g.images), 1)
    repeats = prod(scheduling.upper(a.extent) for a in outer if a.name != g.images)
    return TileProblem(parts, images, m[0].extent, m[1].extent, g.n, g.left.channels, g.windows, repeats)


def _has_window(g: Geometry) -> bool:
    return any(w.kernel > 1 or w.stride > 1 for w in g.windows)


def lower_tiles(group: Any, target: Target) -> LoweredKernel:
    """The kernel of a contraction (``contraction.Group``) whose second operand has a tile form."""
    from .contraction import _distinct, _epilogue, _inplace, decode

    geo, spec, tiles = check_tiles(group, target)
    node, core = group.node, group.core
    b = LoopBuilder("kernel", target)
    values = _distinct([*group.operands, *group.extras, *node.outputs])
    pointers = {v: b.buffer(v.name, v.dtype) for v in values}
    extents = Extents(b)
    outs = [pointers[v] for v in node.outputs]

    def finished(at: Mapping[str, Any]) -> None:
        for v, pointer in zip(node.outputs, outs, strict=True):
            clear_halo(b, extents, v.type, pointer, generator, at, geo.axes)

    left, weight = (pointers[v] for v in group.operands)
    generator = (TileGenerator if tiles.unit == "tiles" else DotGenerator)(
        b, extents, spec, tiles, geo.left, geo.images, (left, weight, outs, [pointers[v] for v in group.extras]),
        _epilogue(b, extents, group, geo.axes), finished,
    )  # fmt: skip
    counters = generator.counters()
    generator.begin()
    b.loop(b.begin, b.end, lambda it: generator.iteration(decode(b, extents, it, counters)))
    generator.end()
    fn = b.finish()
    if target.has(TILE_EMULATION):
        emulate(fn)
    trip = product(count for _, count in counters)
    flops = 2.0 * geo.depth * len(products(tiles.parts)) * scheduling.upper(product(core.output.shape), 1 << 40)
    moved = sum(float(scheduling.upper(v.type.nbytes, 1 << 40)) for v in values)
    return LoweredKernel(
        node, fn, values, extents.expressions, trip, _grain(target, tiles, trip, generator.panels),
        f"{core.op}: {tiles}", flops, moved, _inplace(group),
    )  # fmt: skip


def check_tiles(group: Any, target: Target) -> tuple[Geometry, Contraction, TileSchedule]:
    """What ``lower_tiles`` starts from; UnsupportedError says what does not fit."""
    core, right = group.core, group.operands[1].type.layout
    parts = PARTS[right.form]
    if not serves(target, parts):
        raise UnsupportedError(f"{core.op}: {target.name} has no matrix tile unit for form {right.form}")
    if right != weight_layout(core, parts):
        raise UnsupportedError(f"{core.op}: weight {group.operands[1].type} is not packed for tiles")
    geo = geometry(core, Placed(group.operands[0].type))
    spec = _contraction(group, geo)
    return geo, spec, schedule_of(core, geo, parts, spec, target)


def schedule_of(core: Node, g: Geometry, parts: int, spec: Contraction | None, target: Target) -> TileSchedule:
    """The schedule, or UnsupportedError if there is none."""
    p = problem_of(core, g, parts, spec)
    if p.lines != 1 and not isinstance(p.positions, int):
        raise UnsupportedError(f"{core.op}: tiles need a known width of planes, not {p.positions}")
    tiles = choose_tiles(target, p)
    if tiles is None:
        raise UnsupportedError(f"{core.op}: inputs of one line of results exceed the scratch memory of tiles")
    return tiles


def _contraction(group: Any, g: Geometry) -> Contraction:
    node, shape = group.node, group.core.output.shape
    nb = COLUMNS // LANES
    outs = tuple(result_operand(v.type, shape, g.axes, LANES, nb) for v in node.outputs)
    extras = tuple(result_operand(v.type, shape, g.axes, LANES, nb) for v in group.extras)
    b = Operand()  # read by tiles only, and the same for all rows
    spec = Contraction(
        dtypes.float32, g.outer, g.m, g.n, (), g.a, b, outs, extras, joinable=not _has_window(g)
    )  # fmt: skip
    spec = merge_rows(spec)
    # Rows without a window are positions of one line.
    return replace(spec, m=(ONE, spec.m[0])) if spec.joinable and spec.m[1].extent == 1 else spec


def _grain(target: Target, tiles: TileSchedule, trip: Extent, panels: Extent) -> int:
    """Iterations worth ten microseconds, and enough of a band's panels to pay for filling its scratch memory."""
    count = max(1, scheduling.upper(trip, 1 << 40))
    seconds = tiles.cycles / (target.clock_ghz * 1e9) / count
    fill = tiles.left_bytes / 64 * 4  # cycles
    share = -(-_SHARE * fill * count // max(tiles.cycles, 1.0))
    return max(1, int(scheduling.GRAIN_SECONDS / max(seconds, 1e-12)), min(scheduling.upper(panels), int(share)))
