"""Kernels for elementwise, index and generated operators, alone or fused, in any layouts.

A kernel is a list of pieces, each a loop nest over one index space; a piece computes a whole result, several results of
one shape, or one operand's share of a concatenation. The parallel loop runs through the pieces one after another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.dims import Extent
from ...ir.dtypes import DType
from ...ir.errors import UnsupportedError
from ...ir.graph import Node, Value
from ...ir.target import Target
from ...ir.types import TensorType
from ..loopir import LoopBuilder
from .affine import Footprint, Leaf, footprint, strides
from .common import Access, Extents, is_evaluable, zero_of
from .kernel import LoweredKernel
from .nest import Nest, NestEmitter, grain_for, lanes_for, plan, upper
from .position import Position
from .view import Buffers, Result, View

MAX_STATEMENTS = 160  # operators times unrolling in one loop body: longer ones only cost compile time


def supports(node: Node, target: Target) -> str | None:
    """None if ``lower`` accepts the node, else why not."""
    for n in View(node).nodes:
        if not is_evaluable(n.op):
            return f"operator {n.op} cannot be part of an elementwise kernel"
    return check_layouts(node)


def check_layouts(node: Node) -> str | None:
    """Why a loop nest cannot write these layouts, or None."""
    for v in [*node.inputs, *node.outputs]:
        axes = [a for a, _ in v.type.layout.blocks]
        if len(set(axes)) != len(axes):
            return f"%{v.name}: layout {v.type.layout} splits one axis twice"
    sizes: dict[tuple[int, int], int] = {}
    for v in node.outputs:
        if len(v.type.layout.blocks) > 1 and any(not isinstance(v.shape[a], int) for a, _ in v.type.layout.blocks):
            return f"%{v.name}: layout {v.type.layout} splits several axes, of which one has a symbolic extent"
        for axis, size in v.type.layout.blocks:
            if sizes.setdefault((v.type.rank, axis), size) != size:
                return f"results split axis {axis} into blocks of {size} and of {sizes[v.type.rank, axis]}"
    return None


@dataclass
class Piece:
    """``inner`` over ``shape`` is written to the result at index + ``shift``."""

    shape: tuple[Extent, ...]
    stores: list[tuple[Value, Value]]  # (region value, result)
    shift: tuple[Extent, ...]
    reads: Footprint
    nest: Nest


def lower(node: Node, target: Target) -> LoweredKernel:
    """The kernel of an elementwise, index or generated node, or of a ``fused`` group of them."""
    reason = supports(node, target)
    if reason is not None:
        raise UnsupportedError(f"{node!r}: {reason}")
    view = View(node)
    pieces = [_piece(view, *split, target) for split in _split(view)]
    b = LoopBuilder("kernel", target)
    extents = Extents(b)
    touched = [leaf.value for p in pieces for leaf in p.reads.leaves if view.stops(leaf.value)]
    buffers = Buffers(b, extents, view, touched)
    start: Extent = 0
    for piece in pieces:
        end = start + piece.nest.trip
        _emit(b, extents, buffers, piece, start, end if len(pieces) > 1 else None)
        start = end
    weight = sum(len(p.reads.nodes) + 8 * p.reads.expensive for p in pieces) / len(pieces)
    per_iteration = sum(p.nest.per_iteration for p in pieces) / len(pieces)
    total = float(sum(upper(v.type.nbytes) for v in buffers.values))
    elements = sum(upper(r.outer.type.elements) for r in view.results) / max(1, len(view.results))
    return LoweredKernel(
        node=node,
        function=b.finish(),
        values=buffers.values,
        extents=extents.expressions,
        trip=start,
        grain=grain_for(per_iteration * total / max(elements, 1), per_iteration * weight / 8),
        schedule=f"elementwise, {len(pieces)} piece(s): {pieces[0].nest.describe()}",
        flops=weight * elements,
        bytes=total,
        inplace=inplace_operands(view, pieces[0].reads.leaves, [r for _, r in pieces[0].stores], len(pieces[0].shape))
        if len(pieces) == 1
        else {},
    )


# -- pieces --------------------------------------------------------------------------------------------
Split = tuple[tuple[Extent, ...], list[Result], "list[Value]", tuple[Extent, ...]]


def _split(view: View) -> list[Split]:
    """(shape, results, values, shift) of every piece: results of one shape share one, a concatenation has many."""
    out: list[Split] = []
    by_shape: dict[tuple[Extent, ...], list[Result]] = {}
    for r in view.results:
        parts = _concat_parts(view, r)
        if parts is not None:
            out += [(v.shape, [r], [v], shift) for v, shift in parts]
        else:
            by_shape.setdefault(r.outer.shape, []).append(r)
    for shape, results in by_shape.items():
        out.append((shape, results, [r.inner for r in results], (0,) * len(shape)))
    return out


def _concat_parts(view: View, r: Result) -> list[tuple[Value, tuple[Extent, ...]]] | None:
    """Operands and places of a concatenation that can be copied one by one."""
    node = r.inner.producer
    if r.inner in view.stored or node is None or node.op != "concat":
        return None
    axis, layout = node.attrs["axis"], r.outer.type.layout
    block = dict(layout.blocks).get(axis, 1)
    if layout.halo and any(layout.halo[axis]):
        return None
    out = []
    start: Extent = 0
    for k, v in enumerate(node.inputs):
        extent = v.shape[axis]
        if block > 1 and k + 1 < len(node.inputs) and not (isinstance(extent, int) and extent % block == 0):
            return None  # an operand would start inside a block
        if extent != 0:
            out.append((v, tuple(start if a == axis else 0 for a in range(v.type.rank))))
        start = start + extent
    return out


def _piece(
    view: View, shape: tuple[Extent, ...], results: list[Result], values: list[Value], shift: tuple[Extent, ...],
    target: Target,
) -> Piece:  # fmt: skip
    rank = len(shape)
    reads = footprint(values, rank, view.stops, view.immediates)
    pinned = set(reads.pinned)
    read_strides = [strides(_memory_type(view, leaf), leaf.rows, pinned) for leaf in reads.leaves]
    identity = [{a: 1} for a in range(rank)]
    write_strides = [strides(r.outer.type, identity, pinned) for r in results]
    halos = halos_of([r.outer for r in results])
    pinned |= set(halos)
    lanes = lanes_for(_dtypes(view, reads, results), target)
    statements = len(reads.nodes) + len(reads.leaves) + len(results) + 10 * reads.expensive
    unroll = 4 if reads.expensive == 0 else 2
    while unroll > 1 and statements * unroll > MAX_STATEMENTS:
        unroll //= 2
    nest = plan(shape, read_strides, write_strides, pinned, halos, lanes, target, unroll)
    return Piece(shape, [(v, r.outer) for v, r in zip(values, results, strict=True)], shift, reads, nest)


def halos_of(results: Sequence[Value]) -> dict[int, tuple[int, int]]:
    """The widest halo of each axis that has one."""
    halos: dict[int, tuple[int, int]] = {}
    for r in results:
        for axis, (before, after) in enumerate(r.type.layout.halo):
            if before or after:
                low, high = halos.get(axis, (0, 0))
                halos[axis] = (max(low, before), max(high, after))
    return halos


def _memory_type(view: View, leaf: Leaf) -> TensorType:
    return view.stored[leaf.value].type if leaf.value in view.stored else leaf.value.type


def _dtypes(view: View, reads: Footprint, results: Sequence[Result]) -> list[DType]:
    found = [v.dtype for n in reads.nodes for v in n.outputs] + [r.outer.dtype for r in results]
    found += [leaf.value.dtype for leaf in reads.leaves]
    return found


# -- emission ------------------------------------------------------------------------------------------
def _emit(b: LoopBuilder, extents: Extents, buffers: Buffers, piece: Piece, start: Extent, end: Extent | None) -> None:
    """The piece's share of the parallel loop: iterations [start, end) of the kernel's."""
    base = buffers.evaluator(extents)

    def body(positions: list[Position]) -> None:
        scope = base.scope()
        results = [(buffers.targets[r], p, scope.value(v, p)) for p in positions for v, r in piece.stores]
        for access, p, value in results:
            store_lanes(access, _shifted(extents, piece, access, p), value)

    # A loop over several axes counts past the extent of the innermost one; axes without a halo need no look.
    merged = {g.axis for g in (*piece.nest.outer, *piece.nest.inner) if len(g.axes) > 1}

    def clear(pos: Position) -> None:
        for _, r in piece.stores:
            clear_halo(buffers.targets[r], _shifted(extents, piece, buffers.targets[r], pos), merged)

    emitter = NestEmitter(b, extents, piece.nest, len(piece.shape), body, clear)
    if end is None:
        b.loop(b.begin, b.end, emitter.iteration)
        return
    low, high = extents(start), extents(end)
    b.loop(b.imax(b.begin, low), b.imin(b.end, high), lambda i: emitter.iteration(b.isub(i, low)))


def _shifted(extents: Extents, piece: Piece, access: Access, pos: Position) -> Position:
    pairs = zip(pos.coords, piece.shift, strict=True)
    return pos.at(access.math.shift(c, extents(s), pos.lanes) if s != 0 else c for c, s in pairs)


def store_lanes(access: Access, where: Position, value: Any) -> None:
    """Store; lanes in a block's padding become zero, in results that have such padding."""
    b = access.builder
    if where.mask is not None and _covers_padding(access, where):
        zero = zero_of(b, value.dtype, value.lanes)
        access.store(Position(where.coords, where.lanes), b.select(where.mask, value, zero))
    else:
        access.store(where, value)


def _covers_padding(access: Access, where: Position) -> bool:
    """Whether masked-off lanes at ``where`` are padding of this value's blocks (and not behind its end)."""
    for axis, c in enumerate(where.coords):
        size = access.blocks.get(axis)
        if c.step == 1 and size is not None and size % where.lanes == 0:
            return c.divisor % where.lanes == 0
    return False


def clear_halo(access: Access, pos: Position, merged: Collection[int] = ()) -> None:
    """Zero at a position that lies in the halo of some result, if it lies in this one's. ``merged`` axes stand for
    several, none of which has a halo."""
    b, math_ = access.builder, access.math
    cond = None
    for axis, c in enumerate(pos.coords):
        if axis in merged:
            continue
        before, after = access.halo[axis]
        extent = access.type.shape[axis]
        if axis in access.blocks and isinstance(extent, int):
            after = -extent % access.blocks[axis]
        end = b.iadd(access.extents(extent), after)
        if isinstance(c.base, int) and isinstance(end, int) and -before <= c.base < end:
            continue
        if c.uniform:
            inside = b.op("and", math_.at_least(c, -before, 1), math_.below(c, end, 1))
            cond = inside if cond is None else b.op("and", cond, inside)
    zero = zero_of(b, access.type.dtype, pos.lanes)
    if cond is None:
        store_lanes(access, pos, zero)
    else:
        b.when(cond, lambda: store_lanes(access, pos, zero))


def inplace_operands(view: View, leaves: Sequence[Leaf], results: Sequence[Value], rank: int) -> dict[int, int]:
    """Results that may take an operand's memory: same type and layout, every read at the index being written."""
    operands: dict[Value, bool] = {}
    identity = [{a: 1} for a in range(rank)]
    for leaf in leaves:
        if leaf.value in view.stored:
            outer = view.stored[leaf.value]
            operands[outer] = operands.get(outer, True) and leaf.exact and leaf.rows == identity
    out: dict[int, int] = {}
    taken: set[Value] = set()
    for result in results:
        for operand, fine in operands.items():
            free = fine and operand not in taken and operand in view.node.inputs
            if free and operand.type == result.type and not operand.is_constant:
                out[view.node.outputs.index(result)] = view.node.inputs.index(operand)
                taken.add(operand)
                break
    return out
