"""Loop nests over a result's index space: which axes merge, which one is vectorised, what a thread's share is.

The schedule is data (``Nest``); ``elementwise`` and ``pooling`` emit it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir.dims import Extent, bounds, product
from ...ir.dtypes import DType
from ...ir.target import Target
from ..loopir import LoopBuilder, Val
from .affine import Blocked, Opaque
from .position import Coord, Extents, Position, compute_dtype

Strides = Mapping[int, "Extent | Blocked | Opaque"]

TARGET_CHUNK = 4096  # elements per iteration of the parallel loop, so that decoding its index costs nothing
BYTES_PER_GRAIN = 100_000  # 10 microseconds at 10 GB/s


@dataclass(frozen=True)
class Group:
    """One loop: neighbouring axes that are walked as one. The index counts in units of ``scale`` along ``axis`` (the
    innermost of ``axes``); ``halo`` widens the range at both ends."""

    axes: tuple[int, ...]
    extent: Extent
    scale: int = 1
    halo: tuple[int, int] = (0, 0)

    @property
    def axis(self) -> int:
        return self.axes[-1]

    @property
    def padded(self) -> Extent:
        return self.extent + (self.halo[0] + self.halo[1])


@dataclass
class Nest:
    """``outer`` loops are flattened into the parallel loop (with the chunks of ``inner[0]``); ``inner`` loops run
    inside, the last one vectorised. ``valid``: extent of the vector axis where blocks reach beyond it."""

    outer: list[Group]
    inner: list[Group]
    chunk: int
    lanes: int
    unroll: int
    valid: Extent | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def chunks(self) -> Extent:
        return (self.inner[0].extent + (self.chunk - 1)) // self.chunk

    @property
    def trip(self) -> Extent:
        return product([*(g.padded for g in self.outer), self.chunks])

    @property
    def per_iteration(self) -> int:
        """Elements of one iteration of the parallel loop, at the upper bounds."""
        return max(1, self.chunk * upper(product(g.extent for g in self.inner[1:])))

    def describe(self) -> str:
        """``parallel 8 x 4096 | loops 64 | vector axis 3 16 lanes x 4``"""
        outer = " x ".join(str(g.padded) for g in self.outer) or "1"
        inner = ", ".join(f"axes {'+'.join(map(str, g.axes))}: {g.extent}" for g in self.inner)
        return (
            f"parallel {outer} x {self.chunks} chunks of {self.chunk}; inner {inner}; "
            f"{self.lanes} lanes along axis {self.inner[-1].axis}, unroll {self.unroll}"
            + (f" ({'; '.join(self.notes)})" if self.notes else "")
        )


def upper(extent: Extent) -> int:
    """Upper bound of an extent for estimates; unbounded symbols count as 64 times their lower bound."""
    low, high = bounds(extent)
    return high if high < 2**40 else max(low, 1) * 64


def lanes_for(dtypes_used: Sequence[DType], target: Target) -> int:
    """Lane count of a kernel: full vectors of 4-byte elements if there are any, else of the widest type."""
    sizes = {compute_dtype(d).itemsize for d in dtypes_used}
    size = 4 if 4 in sizes else max(sizes)
    return max(1, target.vector_bytes // size)


def merge_axes(
    shape: Sequence[Extent], accesses: Sequence[Strides], pinned: set[int], classes: Sequence[int] | None = None
) -> list[Group]:
    """The fewest loops over ``shape``: neighbouring axes merge where every access walks them as one.

    Axes of extent 1 have no loop unless they are pinned; axes of different ``classes`` stay apart.
    """
    groups: list[Group] = []
    for axis, extent in enumerate(shape):
        if extent == 1 and axis not in pinned:
            continue
        last = groups[-1] if groups else None
        alike = last is not None and (classes is None or classes[last.axis] == classes[axis])
        free = last is not None and alike and axis not in pinned and last.axis not in pinned
        if last and free and all(_continues(s.get(last.axis, 0), s.get(axis, 0), extent) for s in accesses):
            groups[-1] = Group((*last.axes, axis), last.extent * extent)
            continue
        groups.append(Group((axis,), extent))
    return groups


def _continues(outer: Any, inner: Any, extent: Extent) -> bool:
    if isinstance(outer, (Opaque, Blocked)) or isinstance(inner, (Opaque, Blocked)):
        return False
    return outer == inner * extent


def vector_cost(stride: Any, lanes: int) -> float:
    """Relative cost of one vector access along a stride."""
    if isinstance(stride, Blocked):
        stride = stride.inner if stride.size % lanes == 0 or lanes % stride.size == 0 else Opaque()
    if isinstance(stride, Opaque):
        return 1.5 * lanes
    if stride == 0:
        return 0.25
    return 1.0 if stride == 1 else 0.75 * lanes


def plan(
    shape: Sequence[Extent],
    reads: Sequence[Strides],
    writes: Sequence[Strides],
    pinned: set[int],
    halos: Mapping[int, tuple[int, int]],
    lanes: int,
    target: Target,
    unroll: int,
) -> Nest:
    """Choose the nest for results of ``shape`` from the strides of everything read and written."""
    groups = merge_axes(shape, [*reads, *writes], pinned)
    groups = [Group(g.axes, g.extent, 1, halos.get(g.axis, (0, 0))) for g in groups]
    if not groups:
        groups = [Group((len(shape) - 1,) if shape else (0,), 1)]

    def cost(g: Group) -> float:
        total = sum(vector_cost(s.get(g.axis, 0), lanes) for s in reads)
        total += sum(2.0 * vector_cost(s.get(g.axis, 0), lanes) for s in writes)
        extent = upper(g.extent)
        return total * (-(-extent // lanes) * lanes) / max(extent, 1)

    notes: list[str] = []
    vector = min(reversed(groups), key=cost)
    # Block padding of any other axis is cleared like a halo.
    rest = [Group(g.axes, g.extent, 1, _with_padding(g, writes)) for g in groups if g is not vector]
    valid: Extent | None = None
    blocks = [s[vector.axis].size for s in writes if isinstance(s.get(vector.axis), Blocked)]  # type: ignore[union-attr]
    if blocks:
        size = max(blocks)
        count = (vector.extent + (size - 1)) // size
        if not (isinstance(vector.extent, int) and vector.extent % size == 0):
            valid = vector.extent
        rest.append(Group(vector.axes, count, size))
        vector = Group(vector.axes, size)
    elif isinstance(vector.extent, int):
        masked = has_masks(target)
        while lanes > 1 and (lanes // 2 >= vector.extent or (not masked and lanes > vector.extent)):
            lanes //= 2

    for s in [*reads, *writes]:
        stride = s.get(vector.axis)
        lanes = min(lanes, stride.size) if isinstance(stride, Blocked) else lanes

    across = _transposed(vector, rest, reads) if not blocks else None
    if across is not None and isinstance(vector.extent, int):
        # Walk tiles, so that every line read along the other axis is used up while it is in the cache.
        tile = next((n * lanes for n in (2, 1) if vector.extent % (n * lanes) == 0 and vector.extent > n * lanes), 0)
        if tile:
            rest.remove(across)
            rest = [*rest, Group(vector.axes, vector.extent // tile, tile, (0, 0)), across]
            vector = Group(vector.axes, tile)
            unroll = min(unroll, tile // lanes)
            notes.append("tiled transposition")
        else:
            across = None
    else:
        across = None

    def memory_order(g: Group) -> float:
        if g is across:
            return -1.0
        if g.axis == vector.axis and across is not None:
            return float("inf")
        stride = writes[0].get(g.axis, 0) if writes else 0
        if isinstance(stride, Opaque):
            return 0.0
        if isinstance(stride, Blocked):
            return float("inf") if g.scale > 1 else float(upper(stride.inner))
        return float(upper(stride))

    inner = [vector]
    size_so_far = upper(vector.extent)
    rest.sort(key=memory_order, reverse=True)
    while rest and size_so_far < TARGET_CHUNK // 4:
        taken = rest.pop()
        inner.insert(0, taken)
        size_so_far *= max(1, upper(taken.extent))
    first = inner[0]
    per_step = max(1, size_so_far // max(1, upper(first.extent)))
    chunk = max(1, TARGET_CHUNK // per_step)
    if first is vector:
        chunk = -(-chunk // (lanes * unroll)) * lanes * unroll
    if upper(first.extent) <= chunk * 1.5 and isinstance(first.extent, int):
        chunk = max(1, first.extent)
    return Nest(rest, inner, chunk, lanes, unroll, valid, notes)


def _transposed(vector: Group, rest: Sequence[Group], reads: Sequence[Strides]) -> Group | None:
    """The loop along which some operand is contiguous while the vector axis strides through it."""
    if vector.halo != (0, 0):
        return None
    for s in reads:
        own = s.get(vector.axis, 0)
        if own in (0, 1) or isinstance(own, (Opaque, Blocked)):
            continue
        for g in rest:
            stride = s.get(g.axis, 0)
            if stride == 1 or (isinstance(stride, Blocked) and stride.inner == 1):
                return g
    return None


def _with_padding(group: Group, writes: Sequence[Strides]) -> tuple[int, int]:
    before, after = group.halo
    for s in writes:
        stride = s.get(group.axis)
        if isinstance(stride, Blocked):
            assert isinstance(group.extent, int), "checked by elementwise.supports"
            after = max(after, -group.extent % stride.size)
    return before, after


def has_masks(target: Target) -> bool:
    """Whether masked vector loads and stores of every element size are instructions."""
    return target.has("avx512bw") and target.has("avx512vl")


def grain_for(bytes_per_iteration: float, operations_per_iteration: float = 0.0) -> int:
    """Iterations that make about 10 microseconds of work."""
    work = bytes_per_iteration + 5.0 * operations_per_iteration
    return max(1, int(BYTES_PER_GRAIN / max(work, 1.0)))


class NestEmitter:
    """Writes the loops of a Nest.

    ``body(positions)`` computes and stores at some positions (several vectors in flight), ``zero(position)`` clears
    what lies in a halo.
    """

    def __init__(
        self,
        builder: LoopBuilder,
        extents: Extents,
        nest: Nest,
        rank: int,
        body: Callable[[list[Position]], None],
        halo: Callable[[Position], None] | None = None,
    ) -> None:
        self.builder = builder
        self.extents = extents
        self.nest = nest
        self.rank = rank
        self.body = body
        self.halo = halo

    def iteration(self, index: Any) -> None:
        """One iteration of the parallel loop."""
        b, nest = self.builder, self.nest
        chunks = self.extents(nest.chunks)
        rest = index
        low: Any = 0
        if not (isinstance(chunks, int) and chunks == 1):
            low = b.imul(b.irem(rest, chunks) if nest.outer else rest, nest.chunk)
            rest = b.idiv(rest, chunks)
        bases: dict[int, tuple[Any, int]] = {}
        inside: Val | None = None
        for k in range(len(nest.outer) - 1, -1, -1):
            group = nest.outer[k]
            extent = self.extents(group.padded)
            digit = rest if k == 0 else b.irem(rest, extent)
            rest = b.idiv(rest, extent) if k else rest
            c = b.imul(b.isub(digit, group.halo[0]), group.scale)
            self._place(bases, group, c, group.scale)
            if group.halo != (0, 0):
                ok = b.op("and", b.icmp("ge", c, 0), b.icmp("lt", c, self.extents(group.extent)))
                inside = ok if inside is None else b.op("and", inside, ok)
        extent = self.extents(nest.inner[0].extent)
        if isinstance(extent, int) and extent % nest.chunk == 0:
            count: Any = nest.chunk
        else:
            count = b.imin(nest.chunk, b.isub(extent, low))
        if inside is None:
            self._inner(0, bases, low, count)
            return
        b.when(inside, lambda: self._inner(0, bases, low, count))
        outside = b.op("not", inside)
        b.when(outside, lambda: self._clear(0, bases, low, count))

    def _place(self, bases: dict[int, tuple[Any, int]], group: Group, index: Any, align: int) -> None:
        base, known = bases.get(group.axis, (0, 0))
        bases[group.axis] = (self.builder.iadd(base, index), math.gcd(known, align))

    def _repeat(self, low: Any, count: Any, step: int, body: Callable[[Any], None]) -> None:
        """``body(low + k)`` for k in range(0, count, step); ``count`` is a multiple of step."""
        b = self.builder
        if isinstance(count, int) and count == step:
            body(low)
        else:
            b.loop(0, count, lambda k: body(b.iadd(low, k)), step=step)

    def _inner(self, level: int, bases: dict[int, tuple[Any, int]], low: Any, count: Any) -> None:
        nest, group, b = self.nest, self.nest.inner[level], self.builder
        last = level == len(nest.inner) - 1
        if group.halo != (0, 0):
            self._halo_ends(level, bases, low, count)
        if last:
            self._vectors(bases, low, count)
            return

        def step(lows: list[Any]) -> None:
            if len(lows) == 1:
                deeper = dict(bases)
                self._place(deeper, group, b.imul(lows[0], group.scale), group.scale)
                self._inner(level + 1, deeper, 0, self.extents(nest.inner[level + 1].extent))
                return
            placed = []
            for one in lows:
                deeper = dict(bases)
                self._place(deeper, group, b.imul(one, group.scale), group.scale)
                placed.append(deeper)
            self._single_vectors(placed)

        # A vector loop of one iteration leaves its unrolling to the loop around it.
        single = level == len(nest.inner) - 2 and self._one_vector() and nest.unroll > 1
        if not single or (isinstance(count, int) and count < nest.unroll):
            self._repeat(low, count, 1, lambda i: step([i]))
            return
        whole = b.imul(b.idiv(count, nest.unroll), nest.unroll)
        self._repeat(low, whole, nest.unroll, lambda i: step([b.iadd(i, u) for u in range(nest.unroll)]))
        rest = b.isub(count, whole)
        if not (isinstance(rest, int) and rest == 0):
            self._repeat(b.iadd(low, whole), rest, 1, lambda i: step([i]))

    def _one_vector(self) -> bool:
        vector = self.nest.inner[-1]
        return isinstance(vector.extent, int) and vector.extent == self.nest.lanes and vector.halo == (0, 0)

    def _single_vectors(self, placed: list[dict[int, tuple[Any, int]]]) -> None:
        self.body([self._position(bases, 0, self.nest.lanes, None) for bases in placed])

    def _vectors(self, bases: dict[int, tuple[Any, int]], low: Any, count: Any) -> None:
        b, nest = self.builder, self.nest
        lanes = nest.lanes
        wide = lanes * nest.unroll

        def vectors(i: Any, n: int) -> None:
            self.body([self._position(bases, b.iadd(i, u * lanes), lanes, None) for u in range(n)])

        done = b.imul(b.idiv(count, wide), wide)
        if not (isinstance(done, int) and done == 0):
            self._repeat(low, done, wide, lambda i: vectors(i, nest.unroll))
        full = b.imul(b.idiv(count, lanes), lanes)
        middle = b.isub(full, done)
        if nest.unroll > 1 and not (isinstance(middle, int) and middle == 0):
            self._repeat(b.iadd(low, done), middle, lanes, lambda i: vectors(i, 1))
        rest = b.isub(count, full)
        if lanes == 1 or (isinstance(rest, int) and rest == 0):
            return
        start = b.iadd(low, full)
        if has_masks(self.builder.target) and not (isinstance(rest, int) and rest == 1):

            def tail() -> None:
                self.body([self._position(bases, start, lanes, b.lanes_below(rest, lanes))])

            if isinstance(rest, int):
                tail()
            else:
                b.when(b.icmp("gt", rest, 0), tail)
        else:
            self._repeat(start, rest, 1, lambda i: self.body([self._position(bases, i, 1, None)]))

    def _position(self, bases: dict[int, tuple[Any, int]], index: Any, lanes: int, mask: Val | None) -> Position:
        b, nest = self.builder, self.nest
        coords = [Coord() for _ in range(self.rank)]
        for axis, (base, align) in bases.items():
            coords[axis] = Coord(base, 0, max(align, 1))
        vector = nest.inner[-1]
        if self.rank:
            base, align = bases.get(vector.axis, (0, 0))
            at = b.iadd(base, index)
            coords[vector.axis] = Coord(at, 1 if lanes > 1 else 0, math.gcd(align, lanes) or 1)
        if nest.valid is not None:
            left = b.isub(self.extents(nest.valid), coords[vector.axis].base)
            mask = b.lanes_below(left, lanes) if lanes > 1 else b.icmp("gt", left, 0)
        return Position(tuple(coords), lanes, mask, mask if lanes == 1 else None)

    # -- halo ---------------------------------------------------------------------------------------
    def _halo_ends(self, level: int, bases: dict[int, tuple[Any, int]], low: Any, count: Any) -> None:
        """Clear both ends of this loop's axis (all of the loops inside), where this chunk touches them."""
        b, group = self.builder, self.nest.inner[level]
        before, after = group.halo
        extent = self.extents(group.extent)

        def clear(start: Any, n: int) -> None:
            self._repeat(start, n, 1, lambda i: self._clear_at(level, bases, i))

        def when(condition: Val | bool, body: Callable[[], None]) -> None:
            body() if condition is True else b.when(condition, body)  # type: ignore[arg-type]

        whole = level > 0 or (isinstance(extent, int) and extent == self.nest.chunk)
        if before:
            when(True if whole else b.icmp("eq", low, 0), lambda: clear(-before, before))
        if after:
            last = True if whole else b.icmp("eq", b.iadd(low, count), extent)
            when(last, lambda: clear(extent, after))

    def _clear_at(self, level: int, bases: dict[int, tuple[Any, int]], index: Any) -> None:
        deeper = dict(bases)
        group = self.nest.inner[level]
        self._place(deeper, group, self.builder.imul(index, group.scale), group.scale)
        if level + 1 == len(self.nest.inner):
            self._clear_one(deeper)
        else:
            self._clear(level + 1, deeper, 0, self.extents(self.nest.inner[level + 1].extent))

    def _clear(self, level: int, bases: dict[int, tuple[Any, int]], low: Any, count: Any) -> None:
        """Clear everything at and inside ``level``, halo ends included."""
        nest, group = self.nest, self.nest.inner[level]
        if group.halo != (0, 0):
            self._halo_ends(level, bases, low, count)
        if level + 1 == len(nest.inner):
            lanes = nest.lanes
            if isinstance(count, int) and count % lanes == 0 and self.halo is not None:
                at = self.halo
                self._repeat(low, count, lanes, lambda i: at(self._bare(bases, i, lanes)))
                return
        self._repeat(low, count, 1, lambda i: self._clear_at(level, bases, i))

    def _bare(self, bases: dict[int, tuple[Any, int]], index: Any, lanes: int) -> Position:
        return self._position(bases, index, lanes, None)

    def _clear_one(self, bases: dict[int, tuple[Any, int]]) -> None:
        if self.halo is not None:
            self.halo(self._bare(bases, 0, 1))
