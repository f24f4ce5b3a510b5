"""One generator for everything that is a sum of products.

A contraction computes ``out[outer, m0, m1, n] = sum_k A[outer, m, k] * B[outer, n, k]``. It is described as
data: axes with extents, and per operand an affine element offset (a base plus a stride per axis). Matrix
products, convolutions of every kind and their gradients differ in those index maps only. The register
tile holds ``tile[0] x tile[1]`` rows of ``nb`` vectors; A is loaded as scalars and broadcast (or as vectors,
for depthwise convolutions), B as vectors along n. B may move along m too (``B[outer, m0, n, k]``: rows of an image).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..ir import dtypes
from ..ir.dims import Extent
from ..ir.dtypes import DType
from .contraction_tile import BLOCK, Tile, each_block, product_of
from .loopir import LoopBuilder, Val
from .schedule import EPILOGUE_LINES, ContractionSchedule, Split, splits, tile_count, upper

MOST_TOTALS = 128 << 10  # bytes of totals that tiles running together may keep


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
    behind the last one exist in the results' memory and have to be cleared. ``ahead``: how many elements ahead B is
    prefetched, 0 for not at all. ``terms``: about how many products are added before the sum goes to a total.
    ``far``: the results and what the epilogue reads are larger than the caches.
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
    ahead: int = 0
    terms: int = BLOCK
    far: bool = False

    @property
    def vector_a(self) -> bool:
        return self.a.lane != 0

    @property
    def rows_of_b(self) -> bool:
        """Whether the outer m axis moves along B, which the rows of a tile that lie along the inner one share."""
        return self.b.stride(self.m[0].name) != 0


@dataclass(frozen=True)
class _Place:
    """A tile: pointers moved to it, its rows along the two m axes, its number within the iteration."""

    pointers: list[Val]
    size: tuple[int, int]
    slot: Any


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
        self.row_range: tuple[Any, Any] | None = None  # tiles of the outer m axis to run instead of the chunk's
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
        if self.row_range is not None:
            low, high = self.row_range
        elif isinstance(at["chunk"], int) and self.chunks == 1 and not self.shared:
            low, high = 0, self.extent(tile_count(self.m_splits[0]))
        else:
            low = self.b.imul(at["chunk"], self.schedule.chunk)
            high = self.b.imin(self.b.iadd(low, self.schedule.chunk), self.extent(tile_count(self.m_splits[0])))
        if self.long:
            self.in_blocks(bases, low, high, nb, masks)
            return
        operands = [o for _, o in self.operands()]
        single = self.schedule.chunk == 1 and self.row_range is None

        def whole(at: _Place) -> None:
            self.tile(at.pointers, at.size[0], at.size[1], nb, masks)

        self.each_tile(list(zip(bases, operands, strict=True)), low, high, whole, single)

    def each_tile(
        self,
        pointers: list[tuple[Val, Operand]],
        low: Any,
        high: Any,
        body: Callable[[_Place], None],
        single: bool = False,
    ) -> None:
        """``body`` for every tile of the outer tiles ``low`` to ``high``; ``single``: there is exactly one of those."""
        b, spec = self.b, self.spec
        alone = len(self.m_splits[0]) == 1
        for outer in self.m_splits[0]:
            first = self.extent(outer.first)
            lo = low if alone else b.imax(low, first)
            hi = high if alone else b.imin(high, b.iadd(first, self.extent(outer.tiles)))

            def rows(t: Any, outer: Split = outer, first: Any = first) -> None:
                i0 = b.iadd(self.extent(outer.start), b.imul(b.isub(t, first), outer.size))
                moved = [self.move(p, o, spec.m[0].name, i0) for p, o in pointers]
                number = b.imul(b.isub(t, low), self.extent(tile_count(self.m_splits[1])))
                for inner in self.m_splits[1]:

                    def columns(t: Any, inner: Split = inner) -> None:
                        i1 = b.iadd(self.extent(inner.start), b.imul(t, inner.size))
                        ptrs = [self.move(p, o, spec.m[1].name, i1) for p, (_, o) in zip(moved, pointers, strict=True)]
                        slot = b.iadd(number, b.iadd(self.extent(inner.first), t))
                        body(_Place(ptrs, (outer.size, inner.size), slot))

                    b.loop(0, self.extent(inner.tiles), columns)

            if single and alone and not isinstance(low, int) and not self.shared:
                rows(low)
            else:
                b.loop(lo, hi, rows)

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
        """One tile from zero to the stores."""
        spec, b = self.spec, self.b
        rows = [(r0, r1) for r0 in range(size0) for r1 in range(size1)]
        if spec.far:
            self.ask_for_results(ptrs[2:], rows, nb)
        micro = Tile(self, rows, nb, masks)
        sums: list[Val] = [self.zero] * (len(rows) * nb)
        for segment in spec.segments:
            pa, pb = b.at(ptrs[0], self.extent(segment.a)), b.at(ptrs[1], self.extent(segment.b))
            reduce = micro.written_out if spec.unroll_all else micro.reduce
            sums = reduce(segment.axes, pa, pb, sums)
        outs, extras = ptrs[2 : 2 + len(spec.outs)], ptrs[2 + len(spec.outs) :]
        if self.loop_epilogue and len(sums) > 1:
            totals = self.scratch(len(sums))
            for i, value in enumerate(sums):
                b.store(totals, value, i * self.lanes)
            self.finish_in_loops(outs, extras, (size0, size1), nb, totals)
        else:
            self.finish(outs, extras, rows, nb, masks, sums)

    def ask_for_results(self, ptrs: list[Val], rows: list[tuple[int, int]], nb: int) -> None:
        """Have the lines of a tile's results, and of what its epilogue reads, come while products leave memory idle."""
        b, spec = self.b, self.spec
        for n, (pointer, o) in enumerate(zip(ptrs, (*spec.outs, *spec.extras), strict=True)):
            if o.lane == 1 and any(o.stride(axis.name) != 0 for axis in spec.m):
                for row in rows:
                    for j in range(nb):
                        offset = b.iadd(self.row_offset(o, row), b.imul(j, self.extent(o.vector)))
                        b.prefetch(pointer, offset, write=n < len(spec.outs), level=2)

    @property
    def zero(self) -> Val:
        return self.b.const(self.sum_type, 0, self.lanes)

    @property
    def long(self) -> bool:
        """Whether sums are made of blocks.

        The error of a float32 sum grows with its length; adding blocks of ``spec.terms`` first keeps it near that of
        a short one, for three instructions per block and vector.
        """
        if self.spec.unroll_all or self.sum_type is not dtypes.float32:
            return False
        return sum(product_of(segment.axes) for segment in self.spec.segments) > 2 * self.spec.terms

    def in_blocks(self, bases: list[Val], low: Any, high: Any, nb: int, masks: list[Val | None]) -> None:
        """Long sums: all tiles of the iteration run over one block of terms before the next block begins.

        So a block of B comes from the first-level cache for all tiles but the first. The tiles' totals are in scratch.
        """
        b = self.b
        sizes = [max((s.size for s in parts), default=1) for parts in self.m_splits]
        vectors = sizes[0] * sizes[1] * nb
        across = upper(tile_count(self.m_splits[1]))
        room = MOST_TOTALS // (across * vectors * self.lanes * self.sum_type.itemsize)
        most = upper(tile_count(self.m_splits[0]))  # tiles of an iteration
        if self.row_range is None:
            most = min(most, self.schedule.chunk)
        together = max(1, min(most, room))

        def group(first: Any) -> None:
            last = b.imin(b.iadd(first, together), high)
            totals = self.scratch(together * across * vectors)
            count = b.imul(b.isub(last, first), self.extent(tile_count(self.m_splits[1])))
            b.loop(0, b.imul(count, vectors), lambda i: b.store(b.at(totals, b.imul(i, self.lanes)), self.zero))

            results = [(p, o) for p, (_, o) in zip(bases, self.operands(), strict=True)][2:]
            if self.spec.far:

                def ask(at: _Place) -> None:
                    rows = [(r0, r1) for r0 in range(at.size[0]) for r1 in range(at.size[1])]
                    self.ask_for_results(at.pointers, rows, nb)

                self.each_tile(results, first, last, ask, together == 1)

            def slot(at: _Place) -> Val:
                return b.at(totals, b.imul(at.slot, vectors * self.lanes))

            def block(axes: tuple[Axis, ...], pa: Val, pb: Val) -> None:
                def part(at: _Place) -> None:
                    rows = [(r0, r1) for r0 in range(at.size[0]) for r1 in range(at.size[1])]
                    micro, mine = Tile(self, rows, nb, masks), slot(at)
                    sums = micro.reduce(axes, at.pointers[0], at.pointers[1], [self.zero] * (len(rows) * nb))
                    for i, value in enumerate(sums):
                        where = i * self.lanes
                        b.store(mine, b.op("add", b.load(mine, where, self.lanes), value), where)

                self.each_tile([(pa, self.spec.a), (pb, self.spec.b)], first, last, part, together == 1)

            for segment in self.spec.segments:
                pa, pb = b.at(bases[0], self.extent(segment.a)), b.at(bases[1], self.extent(segment.b))
                each_block(self, segment.axes, pa, pb, block)

            def end(at: _Place) -> None:
                mine = slot(at)
                outs, extras = at.pointers[: len(self.spec.outs)], at.pointers[len(self.spec.outs) :]
                rows = [(r0, r1) for r0 in range(at.size[0]) for r1 in range(at.size[1])]
                if self.loop_epilogue and len(rows) * nb > 1:
                    self.finish_in_loops(outs, extras, at.size, nb, mine)
                else:
                    sums = [b.load(mine, i * self.lanes, self.lanes) for i in range(len(rows) * nb)]
                    self.finish(outs, extras, rows, nb, masks, sums)

            self.each_tile(results, first, last, end, together == 1)

        if together >= most:
            group(low)
        else:
            b.loop(low, high, group, step=together)

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


def compute(dtype: DType) -> DType:
    """The type sums are kept in: float32 for 16-bit floats, else the type itself (integers wrap as in NumPy)."""
    return dtypes.float32 if dtype.kind == "f" and dtype.bits == 16 else dtype
