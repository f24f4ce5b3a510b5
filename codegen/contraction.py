"""One generator for everything that is a sum of products.

A contraction computes ``out[outer, m0, m1, n] = sum_k A[outer, m, k] * B[outer, n, k]``. It is described as
data: axes with extents, and per operand an affine element offset (a base plus a stride per axis). Matrix
products, convolutions of every kind and their gradients differ in those index maps only. The register
tile holds ``tile[0] x tile[1]`` rows of ``nb`` vectors; A is loaded as scalars and broadcast (or as vectors,
for depthwise convolutions), B as vectors along n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..ir import dtypes
from ..ir.dims import Extent
from ..ir.dtypes import DType
from .loopir import LoopBuilder, Val
from .schedule import EPILOGUE_LINES, ContractionSchedule, Split, splits, tile_count, upper

BLOCK = 192  # terms that are added before the sum goes to a total


@dataclass(frozen=True)
class Axis:
    """A loop: its name (the key of operand strides) and extent. ``tap``: kernel positions, whose steps may touch the
    same input element, so unrolled steps are kept apart. ``bounds(builder, extents,
    parallel indices)``: the range that a reduction runs over, if not the whole extent."""

    name: str
    extent: Extent
    tap: bool = False
    bounds: Callable[[LoopBuilder, Any, Mapping[str, Any]], tuple[Any, Any]] | None = None


@dataclass(frozen=True)
class Operand:
    """Affine element offset of one operand in its buffer.

    ``strides`` per axis name (absent: 0). Along n, element ``(panel * nb + j) * lanes + l`` is at
    ``panel * self.panel + j * self.vector + l * self.lane``. ``padded``: the buffer holds whole vectors along n, so
    nothing needs a mask; ``whole_panel``: even whole panels.
    """

    base: Extent = 0
    strides: Mapping[str, Extent] = field(default_factory=dict)
    panel: Extent = 0
    vector: Extent = 0
    lane: Extent = 0
    padded: bool = False
    whole_panel: bool = False

    def stride(self, axis: str) -> Extent:
        return self.strides.get(axis, 0)


@dataclass(frozen=True)
class Segment:
    """One nest of reduction loops, outermost first, and where it starts in A and B."""

    axes: tuple[Axis, ...]
    a: Extent = 0
    b: Extent = 0


@dataclass(frozen=True)
class Contraction:
    """The whole description.

    ``outs`` and ``extras`` (operands of the epilogue) follow the order of the buffers handed to the generator. ``m``
    has an outer and an inner axis (extent 1 where there is only one). ``unroll_all``: the reduction is spelled out.
    ``joinable``: outer axes may become rows (not if B is prepared per outer index). ``padding_rows``: how many rows
    behind the last one exist in the results' memory and have to be cleared.
    """

    dtype: DType
    outer: tuple[Axis, ...]
    m: tuple[Axis, Axis]
    n: Extent
    segments: tuple[Segment, ...]
    a: Operand
    b: Operand
    outs: tuple[Operand, ...]
    extras: tuple[Operand, ...] = ()
    unroll_all: bool = False
    joinable: bool = True
    padding_rows: int = 0

    @property
    def vector_a(self) -> bool:
        return self.a.lane != 0


# Fills the panel of B that an iteration uses: (parallel indices, mask of the existing lanes per vector)
Prepare = Callable[[Mapping[str, Any], "list[Val | None]"], None]

# (accumulated value, load(extra) -> its elements there) -> one value per output
Epilogue = Callable[[Val, Callable[[int], Val]], Sequence[Val]]


def plain(value: Val, load: Callable[[int], Val]) -> Sequence[Val]:
    """The epilogue that stores the sums as they are."""
    return [value]


class Generator:
    """Writes one contraction into a kernel.

    ``pointers`` are the buffers of A, B, the outputs and the extras. ``extent`` turns an Extent into an index.
    ``parts``: how many contractions share the kernel and its parallel loops; ``epilogue_lines``: LLVM lines of the
    epilogue per vector, 0 if it only stores.
    """

    def __init__(
        self,
        b: LoopBuilder,
        extent: Callable[[Extent], Any],
        spec: Contraction,
        schedule: ContractionSchedule,
        a: Val,
        bptr: Val,
        outs: Sequence[Val],
        extras: Sequence[Val] = (),
        epilogue: Epilogue = plain,
        prepare: Prepare | None = None,
        parts: int = 1,
        epilogue_lines: int = 0,
    ) -> None:
        self.b, self.extent, self.spec, self.schedule = b, extent, spec, schedule
        self.buffers = (a, bptr, list(outs), list(extras))
        self.epilogue, self.prepare = epilogue, prepare
        self.shared = parts > 1  # the parallel loops count for several contractions: a chunk may lie behind our rows
        self.at: Mapping[str, Any] = {}
        self._left: Any = None
        self._scratch: tuple[int, int] | None = None
        self.lanes, self.nb = schedule.lanes, schedule.nb
        self.m_splits = (splits(spec.m[0].extent, schedule.tile[0]), splits(spec.m[1].extent, schedule.tile[1]))
        # An epilogue of many lines, written out for every vector of every tile, takes LLVM seconds; as a loop over the
        # tile it costs a store and a load per vector, which such an epilogue hides.
        rows = parts * sum(o.size * i.size for o in self.m_splits[0] for i in self.m_splits[1])
        self.loop_epilogue = rows * self.vectors_written * epilogue_lines > EPILOGUE_LINES

    @property
    def sum_type(self) -> DType:
        """The type sums are kept in."""
        return compute(self.spec.dtype)

    @property
    def vectors_written(self) -> int:
        """Vectors along n in the code: those of a whole panel and, where the last one differs, of that."""
        if not isinstance(self.spec.n, int):
            return self.nb
        full, rest = divmod(self.spec.n, self.lanes * self.nb)
        return (self.nb if full else 0) + -(-rest // self.lanes)

    # -- parallel iteration space -------------------------------------------------------------------
    @property
    def panels(self) -> Extent:
        width = self.lanes * self.nb
        return (self.spec.n + (width - 1)) // width

    @property
    def chunks(self) -> Extent:
        return (tile_count(self.m_splits[0]) + (self.schedule.chunk - 1)) // self.schedule.chunk

    def counters(self) -> list[tuple[str, Extent]]:
        """Names and counts of the parallel loops, outermost first."""
        out: list[tuple[str, Extent]] = []
        for kind in self.schedule.order:
            if kind == "outer":
                out += [(axis.name, axis.extent) for axis in self.spec.outer]
            else:
                out.append((kind, self.panels if kind == "panel" else self.chunks))
        return out

    def iteration(self, at: Mapping[str, Any]) -> None:
        """One parallel iteration: ``at`` maps counter names to indices."""
        b, spec, panel = self.b, self.spec, at["panel"]
        if isinstance(spec.n, int):
            full, rest = divmod(spec.n, self.lanes * self.nb)
            vectors = -(-rest // self.lanes)
            if full and rest:
                b.when(b.icmp("lt", panel, full), lambda: self.panel(at, self.nb, None))
                b.when(b.icmp("ge", panel, full), lambda: self.panel(at, vectors, rest))
            else:
                self.panel(at, self.nb if full else vectors, rest or None)
        else:
            left = b.isub(self.extent(spec.n), b.imul(panel, self.lanes * self.nb))
            self.panel(at, self.nb, left)

    # -- one panel of n over the rows of this iteration -----------------------------------------------
    def panel(self, at: Mapping[str, Any], nb: int, left: Any) -> None:
        """``left``: how many elements along n remain (None: all lanes exist)."""
        spec = self.spec
        self.at, self._left = at, left
        masks = self.masks(nb, left)
        if self.prepare is not None:
            self.prepare(at, masks)
        bases = [self.start(p, o, at) for p, o in self.operands()]
        if spec.padding_rows:
            self.b.when(self.b.icmp("eq", at["chunk"], 0), lambda: self.clear_rows(bases[2 : 2 + len(spec.outs)]))
        if isinstance(at["chunk"], int) and self.chunks == 1 and not self.shared:
            low, high = 0, self.extent(tile_count(self.m_splits[0]))
        else:
            low = self.b.imul(at["chunk"], self.schedule.chunk)
            high = self.b.imin(self.b.iadd(low, self.schedule.chunk), self.extent(tile_count(self.m_splits[0])))
        single = len(self.m_splits[0]) == 1
        for outer in self.m_splits[0]:
            first = self.extent(outer.first)
            lo = low if single else self.b.imax(low, first)
            hi = high if single else self.b.imin(high, self.b.iadd(first, self.extent(outer.tiles)))

            def rows(t: Any, outer: Split = outer, first: Any = first) -> None:
                i0 = self.b.iadd(self.extent(outer.start), self.b.imul(self.b.isub(t, first), outer.size))
                moved = [self.move(p, o, spec.m[0].name, i0) for p, (_, o) in zip(bases, self.operands(), strict=True)]
                for inner in self.m_splits[1]:

                    def columns(t: Any, inner: Split = inner) -> None:
                        i1 = self.b.iadd(self.extent(inner.start), self.b.imul(t, inner.size))
                        ptrs = [
                            self.move(p, o, spec.m[1].name, i1)
                            for p, (_, o) in zip(moved, self.operands(), strict=True)
                        ]
                        self.tile(ptrs, outer.size, inner.size, nb, masks)

                    self.b.loop(0, self.extent(inner.tiles), columns)

            if self.schedule.chunk == 1 and single and not isinstance(low, int) and not self.shared:
                rows(low)
            else:
                self.b.loop(lo, hi, rows)

    def clear_rows(self, outs: list[Val]) -> None:
        b, m0 = self.b, self.spec.m[0]
        for o, pointer in zip(self.spec.outs, outs, strict=True):
            zero = b.const(compute(pointer.dtype), 0, self.lanes)
            for r in range(self.spec.padding_rows):
                row = b.imul(b.iadd(self.extent(m0.extent), r), self.extent(o.stride(m0.name)))
                for j in range(self.nb):
                    b.store(pointer, zero, b.iadd(row, b.imul(j, self.extent(o.vector))))

    def operands(self) -> list[tuple[Val, Operand]]:
        a, bptr, outs, extras = self.buffers
        spec = self.spec
        return [
            (a, spec.a),
            (bptr, spec.b),
            *zip(outs, spec.outs, strict=True),
            *zip(extras, spec.extras, strict=True),
        ]

    def start(self, pointer: Val, o: Operand, at: Mapping[str, Any]) -> Val:
        offset = self.extent(o.base)
        for axis in self.spec.outer:
            offset = self.b.iadd(offset, self.b.imul(at[axis.name], self.extent(o.stride(axis.name))))
        offset = self.b.iadd(offset, self.b.imul(at["panel"], self.extent(o.panel)))
        return self.b.at(pointer, offset)

    def move(self, pointer: Val, o: Operand, axis: str, index: Any) -> Val:
        return self.b.at(pointer, self.b.imul(index, self.extent(o.stride(axis))))

    def masks(self, nb: int, left: Any) -> list[Val | None]:
        """Per vector: the lanes that exist, None for all of them."""
        return [self.mask(left, j) for j in range(nb)]

    def mask(self, left: Any, j: Any) -> Val | None:
        if left is None:
            return None
        remaining = self.b.isub(left, self.b.imul(j, self.lanes))
        if isinstance(remaining, int) and remaining >= self.lanes:
            return None
        return self.b.lanes_below(self.b.imax(remaining, 0), self.lanes)

    # -- the register tile ----------------------------------------------------------------------------
    def tile(self, ptrs: list[Val], size0: int, size1: int, nb: int, masks: list[Val | None]) -> None:
        spec, b = self.spec, self.b
        rows = [(r0, r1) for r0 in range(size0) for r1 in range(size1)]
        zero = b.const(compute(spec.dtype), 0, self.lanes)
        sums: list[Val] = [zero] * (len(rows) * nb)
        micro = _Tile(self, rows, nb, masks)
        totals = self.totals(len(rows) * nb)
        if totals is not None:
            micro.clear(totals, zero)
        for segment in spec.segments:
            pa, pb = b.at(ptrs[0], self.extent(segment.a)), b.at(ptrs[1], self.extent(segment.b))
            if totals is not None:
                micro.reduce_in_blocks(segment.axes, pa, pb, totals, zero)
            elif spec.unroll_all:
                sums = micro.written_out(segment.axes, pa, pb, sums)
            else:
                sums = micro.reduce(segment.axes, pa, pb, sums)
        outs, extras = ptrs[2 : 2 + len(spec.outs)], ptrs[2 + len(spec.outs) :]
        if self.loop_epilogue and len(sums) > 1:
            if totals is None:
                totals = self.scratch(len(sums))
                for i, value in enumerate(sums):
                    b.store(totals, value, i * self.lanes)
            self.finish_in_loops(outs, extras, (size0, size1), nb, totals)
            return
        if totals is not None:
            sums = [b.load(totals, i * self.lanes, self.lanes) for i in range(len(sums))]
        self.finish(outs, extras, rows, nb, masks, sums)

    def totals(self, count: int) -> Val | None:
        """Scratch for the ``count`` vectors of totals of a long float32 sum, None where one level of sums is enough.

        The error of a sum grows with its length; adding blocks of some 200 terms first keeps it near that of
        a short one, for three instructions per block and vector.
        """
        spec = self.spec
        if spec.unroll_all or self.sum_type is not dtypes.float32:
            return None
        terms = sum(product_of(segment.axes) for segment in spec.segments)
        if terms <= 2 * BLOCK:
            return None
        return self.scratch(count)

    def scratch(self, count: int) -> Val:
        """Memory for ``count`` vectors of sums."""
        if self._scratch is None or self._scratch[1] < count:
            self._scratch = (self.b.reserve(self.sum_type, count * self.lanes), count)
        return self.b.scratch_at(self.sum_type, self._scratch[0])

    def row_offset(self, o: Operand, row: tuple[Any, Any]) -> Any:
        m0, m1 = self.spec.m
        return self.b.iadd(
            self.b.imul(row[0], self.extent(o.stride(m0.name))), self.b.imul(row[1], self.extent(o.stride(m1.name)))
        )

    def load_vector(self, pointer: Val, o: Operand, offset: Any, j: Any, mask: Val | None) -> Val:
        offset = self.b.iadd(offset, self.b.imul(j, self.extent(o.vector)))
        lane = self.extent(o.lane)
        if isinstance(lane, int) and lane == 0:
            return self.b.splat(self.b.load(pointer, offset), self.lanes)
        return self.b.load(pointer, offset, self.lanes, lane, None if o.padded else mask)

    def finish(
        self,
        outs: list[Val],
        extras: list[Val],
        rows: list[tuple[int, int]],
        nb: int,
        masks: list[Val | None],
        sums: list[Val],
    ) -> None:
        """Epilogue and stores, vector by vector."""
        loaded: dict[tuple[Any, ...], Val] = {}
        for r, row in enumerate(rows):
            for j in range(nb):
                self.finish_vector(outs, extras, row, j, masks[j], sums[r * nb + j], loaded)
            self.pad_panel(outs, row, nb)

    def finish_in_loops(self, outs: list[Val], extras: list[Val], size: tuple[int, int], nb: int, sums: Val) -> None:
        """``finish`` with the sums in memory and one copy of the epilogue."""
        b = self.b

        def row(r0: Any, r1: Any) -> None:
            first = b.imul(b.iadd(b.imul(r0, size[1]), r1), nb)

            def vector(j: Any) -> None:
                value = b.load(sums, b.imul(b.iadd(first, j), self.lanes), self.lanes)
                self.finish_vector(outs, extras, (r0, r1), j, self.mask(self._left, j), value, {})

            b.loop(0, nb, vector)
            self.pad_panel(outs, (r0, r1), nb)

        b.loop(0, size[0], lambda r0: b.loop(0, size[1], lambda r1: row(r0, r1)))

    def finish_vector(
        self,
        outs: list[Val],
        extras: list[Val],
        row: tuple[Any, Any],
        j: Any,
        mask: Val | None,
        value: Val,
        loaded: dict[tuple[Any, ...], Val],
    ) -> None:
        """Epilogue and stores of one vector; ``loaded`` keeps the extras that several vectors share."""
        b, spec = self.b, self.spec

        def load(i: int) -> Val:
            o = spec.extras[i]
            key = (
                i,
                *(at if o.stride(axis.name) != 0 else 0 for at, axis in zip(row, spec.m, strict=True)),
                j if o.vector != 0 else 0,
            )
            if key not in loaded:
                offset = self.row_offset(o, row)
                uniform = o.lane == 0
                loaded[key] = b.load(extras[i], offset) if uniform else self.load_vector(extras[i], o, offset, j, mask)
            return loaded[key]

        for o, pointer, result in zip(spec.outs, outs, self.epilogue(value, load), strict=True):
            offset = b.iadd(self.row_offset(o, row), b.imul(j, self.extent(o.vector)))
            if mask is not None and o.padded:
                # Lanes behind the last channel exist in memory; they get zero, never garbage.
                result = b.select(mask, result, b.const(result.dtype, 0, result.lanes))
            b.store(pointer, result, offset, self.extent(o.lane), None if o.padded else mask)

    def pad_panel(self, outs: list[Val], row: tuple[Any, Any], nb: int) -> None:
        """Zeros into the vectors that only pad the last panel."""
        b = self.b
        for o, pointer in zip(self.spec.outs, outs, strict=True):
            if o.whole_panel:
                for j in range(nb, self.nb):
                    offset = b.iadd(self.row_offset(o, row), b.imul(j, self.extent(o.vector)))
                    b.store(pointer, b.const(compute(pointer.dtype), 0, self.lanes), offset)


def product_of(axes: Sequence[Axis]) -> int:
    """Terms of a sum over ``axes`` (run-time extents at their upper bounds)."""
    terms = 1
    for axis in axes:
        terms *= upper(axis.extent)
    return terms


def group_size(axis: Axis, below: int) -> int:
    """How many steps of ``axis``, of ``below`` terms each, make a block of about BLOCK; divisors of a known extent
    come first, because then no code is needed for a rest."""
    usual = max(2, BLOCK // below)
    if axis.bounds is not None or not isinstance(axis.extent, int):
        return usual
    low, high = max(2, BLOCK // 4 // below), min(axis.extent, 2 * BLOCK // below)
    sizes = [d for d in range(low, high + 1) if axis.extent % d == 0]
    even = [d for d in sizes if below > 1 or d % 16 == 0] or sizes
    return min(even, key=lambda d: abs(d * below - BLOCK)) if even else usual


class _Tile:
    """The reduction of one register tile."""

    def __init__(self, g: Generator, rows: list[tuple[int, int]], nb: int, masks: list[Val | None]) -> None:
        self.g, self.b, self.rows, self.nb, self.masks = g, g.b, rows, nb, masks
        self.row_offsets = [g.row_offset(g.spec.a, row) for row in rows]

    def clear(self, totals: Val, zero: Val) -> None:
        for i in range(len(self.rows) * self.nb):
            self.b.store(totals, zero, i * self.g.lanes)

    def reduce_in_blocks(self, axes: tuple[Axis, ...], pa: Val, pb: Val, totals: Val, zero: Val) -> None:
        """Like ``reduce``, but block by block: the sums of each block are added to ``totals`` in memory."""
        g, b = self.g, self.b

        def block(inner: tuple[Axis, ...], qa: Val, qb: Val) -> None:
            sums = self.reduce(inner, qa, qb, [zero] * (len(self.rows) * self.nb))
            for i, value in enumerate(sums):
                at = i * g.lanes
                b.store(totals, b.op("add", b.load(totals, at, g.lanes), value), at)

        if not axes or product_of(axes) <= 2 * BLOCK:
            block(axes, pa, pb)
            return
        axis, inner = axes[0], axes[1:]
        sa, sb = g.extent(g.spec.a.stride(axis.name)), g.extent(g.spec.b.stride(axis.name))
        below = product_of(inner)
        group = 1 if below >= BLOCK // 2 else group_size(axis, below)

        def part(i: Any, steps: Axis | None = None) -> None:
            qa, qb = b.at(pa, b.imul(i, sa)), b.at(pb, b.imul(i, sb))
            if steps is not None:
                block((steps, *inner), qa, qb)
            elif inner:
                self.reduce_in_blocks(inner, qa, qb, totals, zero)
            else:
                block((), qa, qb)

        low, high = (0, g.extent(axis.extent)) if axis.bounds is None else axis.bounds(b, g.extent, g.at)
        if group == 1:
            b.loop(low, high, lambda i: part(i))
            return
        cut = replace(axis, extent=group, bounds=None)
        if axis.bounds is None and isinstance(axis.extent, int) and axis.extent % group == 0:
            b.loop(low, high, lambda i: part(i, cut), step=group)
            return
        # Whole blocks, then what is left of a range that they do not divide.
        count = b.imax(b.isub(high, low), 0)
        middle = b.iadd(low, b.imul(b.idiv(count, group), group))
        rest = b.isub(high, middle)
        b.loop(low, middle, lambda i: part(i, cut), step=group)
        tail = replace(axis, extent=rest if isinstance(rest, int) else group, bounds=None)
        if not isinstance(rest, int):
            tail = replace(tail, bounds=lambda *_: (0, rest))
        part(middle, tail)

    def reduce(self, axes: tuple[Axis, ...], pa: Val, pb: Val, sums: list[Val]) -> list[Val]:
        g, b = self.g, self.b
        if not axes:
            return self.step(pa, pb, 0, 0, sums)
        axis, inner = axes[0], axes[1:]
        sa, sb = g.extent(g.spec.a.stride(axis.name)), g.extent(g.spec.b.stride(axis.name))

        def once(i: Any, *carried: Val) -> list[Val]:
            return self.reduce(inner, b.at(pa, b.imul(i, sa)), b.at(pb, b.imul(i, sb)), list(carried))

        if inner:
            low, high = (0, g.extent(axis.extent)) if axis.bounds is None else axis.bounds(b, g.extent, g.at)
            return b.loop(low, high, once, carry=sums)
        unroll = g.schedule.unroll

        def steps(count: int) -> Callable[..., list[Val]]:
            def body(i: Any, *carried: Val) -> list[Val]:
                qa, qb = b.at(pa, b.imul(i, sa)), b.at(pb, b.imul(i, sb))
                vals = list(carried)
                for u in range(count):
                    ua, ub = b.imul(u, sa), b.imul(u, sb)
                    if axis.tap and u:
                        # Otherwise LLVM shares the loads of overlapping taps, and spills.
                        vals = self.step(b.opaque(b.at(qa, ua)), qb, 0, ub, vals)
                    else:
                        vals = self.step(qa, qb, ua, ub, vals)
                return vals

            return body

        extent = axis.extent
        if axis.bounds is not None:
            low, high = axis.bounds(b, g.extent, g.at)
            if unroll == 1:
                return b.loop(low, high, steps(1), carry=sums)
            count = b.imax(b.isub(high, low), 0)
            middle = b.iadd(low, b.imul(b.idiv(count, unroll), unroll))
            sums = b.loop(low, middle, steps(unroll), step=unroll, carry=sums)
            return b.loop(middle, high, steps(1), carry=sums)
        if isinstance(extent, int):
            whole = extent - extent % unroll
            sums = b.loop(0, whole, steps(unroll), step=unroll, carry=sums)
            if extent > whole:
                if whole:
                    # One more copy of the body costs code; a rolled loop serves the odd steps.
                    return b.loop(whole, extent, steps(1), carry=sums)
                return steps(extent)(0, *sums)
            return sums
        whole = b.imul(b.idiv(g.extent(extent), unroll), unroll)
        sums = b.loop(0, whole, steps(unroll), step=unroll, carry=sums)
        return b.loop(whole, g.extent(extent), steps(1), carry=sums) if unroll > 1 else sums

    def step(self, pa: Val, pb: Val, ua: Any, ub: Any, sums: list[Val]) -> list[Val]:
        g, b, spec = self.g, self.b, self.g.spec
        vectors = [g.load_vector(pb, spec.b, ub, j, self.masks[j]) for j in range(self.nb)]
        out = list(sums)
        for i, row in enumerate(self.row_offsets):
            offset = b.iadd(row, ua)
            if spec.vector_a:
                for j in range(self.nb):
                    a = g.load_vector(pa, spec.a, offset, j, self.masks[j])
                    out[i * self.nb + j] = b.op("fma", a, vectors[j], sums[i * self.nb + j])
                continue
            a = b.splat(b.load(pa, offset), g.lanes)
            for j in range(self.nb):
                out[i * self.nb + j] = b.op("fma", a, vectors[j], sums[i * self.nb + j])
        return out

    def written_out(self, axes: tuple[Axis, ...], pa: Val, pb: Val, sums: list[Val]) -> list[Val]:
        """Every step spelled out, each element of A loaded once (depthwise: neighbouring outputs share inputs)."""
        g, spec = self.g, self.g.spec
        steps: list[tuple[int, int]] = [(0, 0)]
        for axis in axes:
            sa, sb = spec.a.stride(axis.name), spec.b.stride(axis.name)
            assert isinstance(axis.extent, int) and isinstance(sa, int) and isinstance(sb, int)
            steps = [(a + i * sa, b_ + i * sb) for a, b_ in steps for i in range(axis.extent)]
        seen: dict[tuple[int, int], Val] = {}
        out = list(sums)
        for ua, ub in steps:
            vectors = [g.load_vector(pb, spec.b, ub, j, self.masks[j]) for j in range(self.nb)]
            for i, row in enumerate(self.row_offsets):
                for j in range(self.nb):
                    key = (row + ua, j)
                    if key not in seen:
                        seen[key] = g.load_vector(pa, spec.a, row + ua, j, self.masks[j])
                    out[i * self.nb + j] = g.b.op("fma", seen[key], vectors[j], out[i * self.nb + j])
        return out


def compute(dtype: DType) -> DType:
    """The type sums are kept in: float32 for 16-bit floats, else the type itself (integers wrap as in NumPy)."""
    return dtypes.float32 if dtype.kind == "f" and dtype.bits == 16 else dtype
