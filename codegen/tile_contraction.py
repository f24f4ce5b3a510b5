"""Contractions on bfloat16 matrix tiles: the generator for what ``tile_schedule`` decides.

The left operand goes to scratch memory as bfloat16 parts (its rounding, the rounding of what that leaves, ...), 32
channels of one position per 64 bytes, every input under a band once. A kernel position only shifts the place where
tiles start, so nothing is copied per tap. The right operand is a constant, packed as ``tile_packing`` describes.
Sums leave the tiles for scratch memory, from where the usual epilogue takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product as combinations
from typing import Any

from ..ir import dtypes
from ..ir.dims import Extent
from .contraction import Contraction, Epilogue, Generator
from .loopir import LoopBuilder, TileShape, Val
from .schedule import ContractionSchedule
from .tile_schedule import COLUMNS, DEPTH, LANES, ROWS, TILE_BYTES, TileSchedule, products

_TILE = TILE_BYTES // 2  # bfloat16 elements of a tile


@dataclass(frozen=True)
class Left:
    """The left operand: ``channels`` in runs of 16 neighbouring elements, ``run`` elements apart; per window the
    elements from one input to the next (``units``)."""

    channels: int
    run: Extent
    units: tuple[Extent, ...]


class TileGenerator(Generator):
    """Writes one contraction; ``spec`` has no segments (the schedule's windows and ``left`` describe the sums).

    ``images``: name of the outer axis that bands may cover several indices of, "" if there is none. ``finished`` runs
    behind the results of each of them. Call ``begin``, then ``iteration`` in the parallel loop, then ``end``.
    """

    together = 2  # row tiles of a block

    def __init__(
        self,
        b: LoopBuilder,
        extent: Callable[[Extent], Any],
        spec: Contraction,
        tiles: TileSchedule,
        left: Left,
        images: str,
        pointers: tuple[Val, Val, Sequence[Val], Sequence[Val]],
        epilogue: Epilogue,
        finished: Callable[[Mapping[str, Any]], None],
    ) -> None:
        a, right, outs, extras = pointers
        plain = ContractionSchedule(LANES, COLUMNS // LANES, (1, 1), 1)
        super().__init__(b, extent, spec, plain, a, right, outs, extras, epilogue)
        self.tiles, self.left, self.images, self.finished = tiles, left, images, finished
        self.parts, self.steps = tiles.parts, tiles.groups * len(self.taps())
        self.image_count: Extent = next((x.extent for x in spec.outer if x.name == images), 1)
        self.packed = b.reserve(dtypes.uint16, tiles.left_bytes // 2)
        self.sums = b.reserve(dtypes.float32, tiles.sums_bytes // 4)
        self.table = b.reserve(dtypes.int64, self.steps)
        self.state = b.reserve(dtypes.int64, 1)

    # -- the parallel loop ----------------------------------------------------------------------------
    def bands(self) -> tuple[Extent, Extent, Extent]:
        """Number of bands along images, lines and positions."""
        t, (m0, m1) = self.tiles, self.spec.m
        return tuple(  # type: ignore[return-value]
            (extent + (size - 1)) // size
            for extent, size in ((self.image_count, t.images), (m0.extent, t.lines), (m1.extent, t.positions))
        )

    def counters(self) -> list[tuple[str, Extent]]:
        images, lines, positions = self.bands()
        others = [(axis.name, axis.extent) for axis in self.spec.outer if axis.name != self.images]
        return [*others, ("images", images), ("chunk", lines * positions), ("panel", self.panels)]

    def begin(self) -> None:
        """What a call of the kernel does first."""
        b, t = self.b, self.tiles
        self.switch_on()
        b.store(b.scratch_at(dtypes.int64, self.state), b.const(dtypes.int64, -1))
        table, taps = b.scratch_at(dtypes.int64, self.table), self.taps()

        def group(g: Any) -> None:
            for i, place in enumerate(taps):
                at = b.ival(b.imul(b.iadd(b.imul(g, t.group), place), DEPTH))
                b.store(table, at, b.iadd(b.imul(g, len(taps)), i))

        b.loop(0, t.groups, group)

    def switch_on(self) -> None:
        row = TileShape(self.tiles.rows)
        self.b.tile_config([row, row, row, row, row, row, TileShape(ROWS), TileShape(ROWS)])

    def end(self) -> None:
        self.b.tile_release()

    def taps(self) -> list[int]:
        """Where each kernel position's inputs start, in positions from those of one group of channels."""
        t = self.tiles
        inner = t.windows[-2:]
        out = []
        for where in combinations(*(range(w.kernel) for w in t.windows)):
            number = 0
            for k, w in zip(where[:-2], t.windows[:-2], strict=True):
                number = number * w.kernel + k
            far = []
            for k, w in zip(where[-2:], inner, strict=True):
                phase, distance = w.place(k)
                number = number * len(w.phases) + phase
                far.append(distance)
            out.append(number * t.plane + far[0] * t.width + far[1])
        return out

    def iteration(self, at: Mapping[str, Any]) -> None:
        """One panel of columns for one band."""
        b, spec, t = self.b, self.spec, self.tiles
        at = dict(at)
        _, _, across = self.bands()
        first_image = b.imul(at["images"], t.images)
        line = b.imul(b.idiv(at["chunk"], self.extent(across)), t.lines)
        position = b.imul(b.irem(at["chunk"], self.extent(across)), t.positions)
        whole = (t.images, t.lines, t.positions)
        firsts = (first_image, line, position)
        extents = (self.image_count, spec.m[0].extent, spec.m[1].extent)
        counts = tuple(
            size if isinstance(extent, int) and extent % size == 0 else b.imin(b.isub(self.extent(extent), first), size)
            for size, first, extent in zip(whole, firsts, extents, strict=True)
        )
        self.once_per_band(at, lambda: self.fill(at, firsts, counts))
        panel = at["panel"]
        assert isinstance(spec.n, int)
        full, rest = divmod(spec.n, COLUMNS)
        if full:
            run = lambda: self.columns(at, firsts, counts, 2, None)  # noqa: E731
            run() if not rest else b.when(b.icmp("lt", panel, full), run)
        if rest:
            run = lambda: self.columns(at, firsts, counts, -(-rest // LANES), rest)  # noqa: E731
            run() if not full else b.when(b.icmp("ge", panel, full), run)

    def once_per_band(self, at: Mapping[str, Any], body: Callable[[], None]) -> None:
        """``body`` unless the iteration before, in the same call, had the same band."""
        b = self.b
        key: Any = 0
        for name, count in self.counters()[:-1]:
            key = b.iadd(b.imul(key, self.extent(count)), at[name])
        state = b.scratch_at(dtypes.int64, self.state)

        def renew() -> None:
            body()
            b.store(state, b.ival(key))

        b.when(b.icmp("ne", b.load(state), key), renew)

    def places(self, at: Mapping[str, Any], firsts: Sequence[Any], image: Any) -> dict[str, Any]:
        """The outer indices of one image of the band."""
        out = {axis.name: at[axis.name] for axis in self.spec.outer if axis.name != self.images}
        if self.images:
            out[self.images] = self.b.iadd(firsts[0], image)
        return out

    # -- the left operand ---------------------------------------------------------------------------------
    def fill(self, at: Mapping[str, Any], firsts: Sequence[Any], counts: Sequence[Any]) -> None:
        """The inputs under the band, split into parts, in scratch memory."""
        b, t, spec, o = self.b, self.tiles, self.spec, self.spec.a
        packed = b.scratch_at(dtypes.uint16, self.packed)
        planes, (down, along) = t.windows[:-2], t.windows[-2:]
        units = [self.extent(u) for u in self.left.units]

        def image(i: Any) -> None:
            where = self.places(at, firsts, i)
            source = self.b.at(self.buffers[0], self.extent(o.base))
            for axis in spec.outer:
                source = b.at(source, b.imul(where[axis.name], self.extent(o.stride(axis.name))))
            for axis, first in zip(spec.m, firsts[1:], strict=True):
                source = b.at(source, b.imul(first, self.extent(o.stride(axis.name))))
            target = b.at(packed, b.imul(i, t.parts * t.part * DEPTH))
            number = 0
            for k in combinations(*(range(w.kernel) for w in planes)):
                for y, x in combinations(down.phases, along.phases):
                    offset: Any = 0
                    for index, w, unit in zip(k, planes, units, strict=False):
                        offset = b.iadd(offset, b.imul(index * w.dilation, unit))
                    offset = b.iadd(offset, b.iadd(b.imul(y, units[-2]), b.imul(x, units[-1])))
                    lines = b.iadd(counts[1], down.reach(down.phases.index(y)))
                    width = b.iadd(counts[2], along.reach(along.phases.index(x)))
                    self.fill_plane(b.at(source, offset), b.at(target, number * t.plane * DEPTH), lines, width)
                    number += 1

        b.loop(0, counts[0], image)

    def fill_plane(self, source: Val, target: Val, lines: Any, width: Any) -> None:
        """One phase of one plane: ``lines`` x ``width`` positions of every group of channels."""
        b, t, (m0, m1), left = self.b, self.tiles, self.spec.m, self.left
        down, along = (self.extent(self.spec.a.stride(axis.name)) for axis in (m0, m1))
        run = self.extent(left.run)
        full = left.channels // DEPTH

        def place(y: Any, x: Any) -> tuple[Val, Val]:
            src = b.at(source, b.iadd(b.imul(y, down), b.imul(x, along)))
            return src, b.at(target, b.imul(b.iadd(b.imul(y, t.width), x), DEPTH))

        def positions(body: Callable[[Any, Any], None]) -> None:
            b.loop(0, lines, lambda y: b.loop(0, width, lambda x: body(y, x)))

        def group(g: Any, y: Any, x: Any, channels: int = DEPTH) -> None:
            src, dst = place(y, x)
            src, dst = b.at(src, b.imul(b.imul(g, 2), run)), b.at(dst, b.imul(g, t.group * DEPTH))
            for half in range(2):
                self.split(b.at(src, b.imul(half, run)), b.at(dst, half * LANES), channels - half * LANES)

        if isinstance(run, int) and run == LANES:  # a position's channels lie together: read them in one go
            positions(lambda y, x: b.loop(0, full, lambda g: group(g, y, x)))
        else:
            b.loop(0, full, lambda g: positions(lambda y, x: group(g, y, x)))
        if left.channels % DEPTH:
            positions(lambda y, x: group(full, y, x, left.channels % DEPTH))

    def split(self, source: Val, target: Val, channels: int) -> None:
        """16 elements (``channels`` of them exist) into parts."""
        b, step = self.b, self.tiles.part * DEPTH
        if channels <= 0:
            for i in range(self.parts):
                b.store(target, b.const(dtypes.uint16, 0, LANES), i * step)
            return
        mask = None if channels >= LANES else b.lanes_below(channels, LANES)
        rest = b.load(source, 0, LANES, 1, mask)
        for i in range(self.parts):
            bits = b.tile_round(rest)
            b.store(target, bits, i * step)
            if i + 1 < self.parts:
                wide = b.op("shl", b.cast(bits, dtypes.uint32), b.const(dtypes.uint32, 16, LANES))
                rest = b.op("sub", rest, b.bitcast(wide, dtypes.float32))

    # -- products -----------------------------------------------------------------------------------------
    def columns(self, at: dict[str, Any], firsts: Sequence[Any], counts: Sequence[Any], nb: int, rest: Any) -> None:
        b, t = self.b, self.tiles
        right = b.at(
            b.reinterpret(self.buffers[1], dtypes.uint16), b.imul(at["panel"], self.steps * self.parts * 2 * _TILE)
        )
        tiles, odd = self.tile_counts(counts)

        def image(i: Any, low: Any, high: Any, fresh: bool) -> None:
            left = b.at(b.scratch_at(dtypes.uint16, self.packed), b.imul(i, t.parts * t.part * DEPTH))
            sums = b.at(b.scratch_at(dtypes.float32, self.sums), b.imul(i, t.tiles * t.rows * LANES))

            def rows(first: Any, count: int) -> None:
                starts = [b.imul(self.start_of(b.iadd(first, k), counts), DEPTH) for k in range(count)]
                lefts = [b.at(left, start) for start in starts]
                places = [b.at(sums, b.imul(b.iadd(first, k), t.rows * LANES)) for k in range(count)]
                number = b.iadd(b.imul(i, t.tiles), first)
                self.block(number, lefts, right, places, nb, (low, high), fresh)

            size = self.together
            whole = b.idiv(tiles, size)
            b.loop(0, whole, lambda p: rows(b.imul(p, size), size))
            if isinstance(odd, int):
                if odd:
                    rows(b.imul(whole, size), 1)
            else:
                b.when(b.icmp("ne", odd, 0), lambda: rows(b.imul(whole, size), 1))

        def images(low: Any, high: Any, fresh: bool) -> None:
            b.loop(0, counts[0], lambda i: image(i, low, high, fresh))

        images(0, min(t.block, self.steps), True)
        blocks = -(-self.steps // t.block)
        b.loop(
            1, blocks, lambda k: images(b.imul(k, t.block), b.imin(b.imul(b.iadd(k, 1), t.block), self.steps), False)
        )
        b.loop(0, counts[0], lambda i: self.epilogue_of(at, firsts, counts, i, nb, rest))

    def tile_counts(self, counts: Sequence[Any]) -> tuple[Any, Any]:
        """Row tiles of the band and how many of them make no whole block (0 or 1)."""
        b, t = self.b, self.tiles
        _, lines, positions = counts
        if t.flat:
            rows = b.iadd(b.imul(b.isub(lines, 1), t.width), positions)
            tiles = b.idiv(b.iadd(rows, t.rows - 1), t.rows)
        else:
            tiles = b.imul(lines, b.idiv(b.iadd(positions, t.rows - 1), t.rows))
        return tiles, b.irem(tiles, self.together)

    def start_of(self, tile: Any, counts: Sequence[Any]) -> Any:
        """The position in scratch at which a row tile starts."""
        b, t = self.b, self.tiles
        if t.flat or t.lines == 1:
            return b.imul(tile, t.rows)
        per_line = t.tiles_per_line
        return b.iadd(b.imul(b.idiv(tile, per_line), t.width), b.imul(b.irem(tile, per_line), t.rows))

    def block(
        self, number: Any, lefts: list[Val], right: Val, sums: list[Val], nb: int, steps: tuple[Any, Any], fresh: bool
    ) -> None:
        """Some steps of one block of row tiles, the first of them ``number`` of the band, by ``nb`` tiles of columns.

        Registers 0-3 hold sums, 4 and 5 rows, 6 and 7 columns.
        """
        b, t = self.b, self.tiles
        other = t.images * t.tiles * t.rows * LANES  # sums of the second tile of columns
        cells = [(i, j) for i in range(len(lefts)) for j in range(nb)]
        for i, j in cells:
            if fresh:
                b.tile_zero(2 * i + j)
            else:
                b.tile_load(2 * i + j, b.at(sums[i], j * other), 64)
        table = b.scratch_at(dtypes.int64, self.table)

        def step(s: Any) -> None:
            place = b.load(table, s)
            rows = [b.at(left, place) for left in lefts]
            panel = b.at(right, b.imul(s, self.parts * 2 * _TILE))
            held: tuple[int, int] = (-1, -1)
            for p, q in products(self.parts):
                if p != held[0]:
                    for i, row in enumerate(rows):
                        b.tile_load(4 + i, b.at(row, p * t.part * DEPTH), 64)
                if q != held[1]:
                    for j in range(nb):
                        b.tile_load(6 + j, b.at(panel, (2 * q + j) * _TILE), 64)
                held = (p, q)
                for i, j in cells:
                    b.tile_dot(2 * i + j, 4 + i, 6 + j)

        b.loop(*steps, step)
        for i, j in cells:
            b.tile_store(2 * i + j, b.at(sums[i], j * other), 64)

    # -- results ------------------------------------------------------------------------------------------
    def epilogue_of(
        self, at: Mapping[str, Any], firsts: Sequence[Any], counts: Sequence[Any], i: Any, nb: int, rest: Any
    ) -> None:
        """Epilogue and stores of one image's part of the band."""
        b, t, spec = self.b, self.tiles, self.spec
        where = {**self.places(at, firsts, i), "panel": at["panel"], "chunk": at["chunk"]}
        pointers = [self.start(p, o, where) for p, o in self.operands()[2:]]
        outs, extras = pointers[: len(spec.outs)], pointers[len(spec.outs) :]
        masks = self.masks(nb, rest)
        sums = b.at(b.scratch_at(dtypes.float32, self.sums), b.imul(i, t.tiles * t.rows * LANES))
        other = t.images * t.tiles * t.rows * LANES

        def vectors(y: Any, x: Any) -> None:
            row = (b.iadd(firsts[1], y), b.iadd(firsts[2], x))
            place = b.at(sums, b.imul(b.iadd(b.imul(y, t.pitch), x), LANES))
            loaded: dict[tuple[Any, ...], Val] = {}
            for j in range(nb):
                value = b.load(place, j * other, LANES)
                self.finish_vector(outs, extras, row, j, masks[j], value, loaded)

        b.loop(0, counts[1], lambda y: b.loop(0, counts[2], lambda x: vectors(y, x)))
        self.finished(where)
