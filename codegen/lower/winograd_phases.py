"""Minimal filtering with stride 2 on few channels: phases of dense input rows become the channels of a tile.

A block is part of one row of tiles. Its pixels are first brought together in scratch memory, the channels of all phases
along the lanes; from there on it is a convolution with stride 1 (``winograd``). x has no halo: what lies outside it is
masked when it is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...ir.errors import UnsupportedError
from ...ir.target import Target
from ..contraction import Segment
from ..loopir import Val
from ..winograd import PHASES, WinogradSchedule
from .winograd import Winograd

if TYPE_CHECKING:
    from .contraction import Group


class PhasedWinograd(Winograd):
    """Writes one kernel whose ``filtering`` has phases."""

    def __init__(self, group: Group, target: Target, schedule: WinogradSchedule | None) -> None:
        super().__init__(group, target, schedule)
        y_line, x_line = self.lines
        pixels = x_line.points + x_line.tile * (self.block - 1)
        self.chunks = -(-pixels // self.lanes)  # of one row, split together
        self.pitch = self.chunks * self.lanes * self.lanes
        self.pixels = self.b.scratch(self.dtype, self.in_vectors * y_line.points * self.pitch)

    def check_input(self) -> None:
        layout = self.x.type.layout
        if layout.blocks or layout.order:
            raise UnsupportedError(f"winograd: x {self.x.type} must be dense where its phases are taken as channels")

    # -- into the transformed space -------------------------------------------------------------------
    def transform_inputs(self, first: Any, end: Any) -> None:
        """``BT d B`` of a block's tiles to V[point][channel block][tile][lane]; tiles behind the last one are made of
        zeros or of pixels that exist."""
        b, (y_line, x_line) = self.b, self.lines
        place = self.place(first)
        image = b.at(self.pointers[self.group.operands[0]], self.extents(self.x.origin))
        image = b.at(image, b.imul(place.image, self.extents(self.x.outer[0])))
        row, column = b.imul(place.row, y_line.tile), b.imul(place.column, x_line.tile)
        for block in range(self.in_vectors):
            pixels = b.at(self.pixels, block * y_line.points * self.pitch)
            target = b.at(self.v, block * self.block * self.lanes)

            def split(i: Any, block: int = block, pixels: Val = pixels) -> None:
                to = b.at(pixels, b.imul(i, self.pitch))
                b.loop(0, self.chunks, lambda q: self.split(block, image, b.iadd(row, i), column, q, to))

            def tile(t: Any, pixels: Val = pixels, target: Val = target) -> None:
                source = b.at(pixels, b.imul(t, x_line.tile * self.lanes))
                self.transform_tile(source, self.pitch, self.lanes, b.at(target, b.imul(t, self.lanes)))

            b.loop(0, y_line.points, split)
            b.loop(0, self.block, tile)

    def split(self, block: int, image: Val, row: Any, column: Any, chunk: Any, to: Val) -> None:
        """A chunk of pixels: row ``row`` of the phases from column ``column + chunk * lanes`` on, the channels of one
        ``block``."""
        b, lanes, n = self.b, self.lanes, self.filtering.phases
        height, width = (self.x.type.shape[axis] for axis in (2, 3))
        assert isinstance(height, int) and isinstance(width, int)
        top, left = (pads[0] for pads in self.padding)
        start = b.iadd(column, b.imul(chunk, lanes))
        y, x = b.isub(b.imul(row, n), top), b.isub(b.imul(start, n), left)
        channels = range(block * lanes, min((block + 1) * lanes, self.channels))

        def move(inside: bool) -> None:
            vectors = []
            masks: dict[tuple[int, int], Val | None] = {}
            for k in channels:
                phase, c = PHASES[k // self.given], k % self.given
                if phase not in masks:
                    masks[phase] = None if inside else exists(*phase)
                at = b.iadd(b.imul(b.iadd(y, phase[0]), self.extents(self.x.outer[2])), b.iadd(x, phase[1]))
                at = b.iadd(at, self.extents(c * self.x.outer[1]))
                vectors.append(b.load(b.at(image, at), 0, lanes, n, masks[phase]))
            zero = b.const(self.dtype, 0, lanes)
            target = b.at(to, b.imul(chunk, lanes * lanes))
            for lane, vector in enumerate(b.transpose([*vectors, *[zero] * (lanes - len(vectors))])):
                b.store(target, vector, lane * lanes)

        def exists(dy: int, dx: int) -> Val:
            """The lanes whose pixel is one of x."""
            there = b.op("and", b.icmp("ge", b.iadd(y, dy), 0), b.icmp("lt", b.iadd(y, dy), height))
            low = max(0, -(-(left - dx) // n))  # the first column of the phase, and the one behind its last
            high = -(-(width + left - dx) // n)
            until = b.select(there, b.ival(b.imax(b.isub(high, start), 0)), b.ival(0))
            mask = b.lanes_below(until, lanes)
            before = b.lanes_below(b.imax(b.isub(low, start), 0), lanes)
            return b.op("and", mask, b.op("not", before))

        last = (lanes - 1) * n + n - 1
        inside = b.op("and", b.icmp("ge", y, 0), b.icmp("lt", b.iadd(y, n - 1), height))
        inside = b.op("and", inside, b.icmp("ge", x, 0))
        inside = b.op("and", inside, b.icmp("lt", b.iadd(x, last), width))
        b.when(inside, lambda: move(True))
        b.when(b.op("not", inside), lambda: move(False))

    # -- products -----------------------------------------------------------------------------------------
    def products(self, panel: Any, number: Any, first: Any, end: Any) -> None:
        """Where the weights of some phases are zero, only the others are multiplied."""
        b, f, n = self.b, self.filtering, self.lines[1].points
        ranges: dict[tuple[Any, ...], list[tuple[int, int]]] = {}  # equal loops -> (row of sums, column)
        for row in range(f.sums // n):
            for column in range(n):
                points = [(row * f.together + i, column) for i in range(f.together)]
                ranges.setdefault(tuple(f.depth(at, self.given) for at in points), []).append((row, column))
        for depths, places in ranges.items():
            (low, left), (high, right) = places[0], places[-1]
            segments = tuple(
                replace(s, a=s.a + i * n * self.v_point, b=s.b + i * self.w.outer[2])
                for i, (start, stop) in enumerate(depths)
                for s in self.segments(start, stop)
            )

            def one(row: Any, column: Any, segments: tuple[Segment, ...] = segments) -> None:
                point, total = b.iadd(b.imul(row, n * f.together), column), b.iadd(b.imul(row, n), column)
                if self.far:
                    self.ask_for_results(first, end, panel, total, f.sums)
                self.product(point, total, panel, segments)

            def line(row: Any, left: int = left, right: int = right, one: Any = one) -> None:
                b.loop(left, right + 1, lambda column: one(row, column))

            b.loop(low, high + 1, line)
