"""Slices along one axis: independent of each other, so they run in parallel, and as vectors where the contiguous axis
is another one; what happens inside a slice is up to its kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.dims import Extent, product
from ..loopir import LoopBuilder, Val
from .position import Coord, Extents, Position

Body = Callable[[dict[int, Coord], int], None]


class Slices:
    """The slices along ``axis`` of ``shape``, ``lanes`` of them at a time where ``vector`` (the last axis, and not
    ``axis``) runs in vectors.

    ``loop(body)`` writes the parallel loop and gives its extent; ``body(coords, lanes)`` gets the coordinates on the
    other axes, ``at(coords, along, lanes)`` makes a position of them.
    """

    def __init__(self, b: LoopBuilder, extents: Extents, shape: tuple[Extent, ...], axis: int, lanes: int = 1) -> None:
        self.b, self.extents, self.shape, self.axis = b, extents, shape, axis
        last = len(shape) - 1
        self.vector = last if lanes > 1 and axis != last else None
        self.lanes = lanes if self.vector is not None else 1

    def loop(self, body: Body) -> Extent:
        """Write the parallel loop; its extent."""
        shape = self.shape
        rest = [a for a in range(len(shape)) if a not in (self.axis, self.vector)]
        outer = product(shape[a] for a in rest)
        if self.vector is None:
            self._piece(body, 0, outer, rest, 1, 0, 1)
            return outer
        whole = shape[self.vector] // self.lanes
        left = shape[self.vector] - whole * self.lanes
        middle = outer * whole
        end = middle + outer * left
        self._piece(body, 0, middle, rest, whole, 0, self.lanes)
        self._piece(body, middle, end, rest, left, whole * self.lanes, 1)
        return end

    def _piece(
        self, body: Body, start: Extent, end: Extent, rest: list[int], count: Extent, origin: Extent, lanes: int
    ) -> None:
        """Iterations [start, end); ``count`` groups of lanes from ``origin`` on along the vector axis."""
        b, ext = self.b, self.extents

        def iteration(t: Val) -> None:
            left: Any = b.isub(t, ext(start))
            coords: dict[int, Coord] = {}
            if self.vector is not None:
                step = b.irem(left, ext(count))
                left = b.idiv(left, ext(count))
                base = b.iadd(b.imul(step, lanes), ext(origin))
                coords[self.vector] = Coord(base, 1 if lanes > 1 else 0, lanes)
            for a in reversed(rest):
                coords[a] = Coord(b.irem(left, ext(self.shape[a])))
                left = b.idiv(left, ext(self.shape[a]))
            body(coords, lanes)

        if not (isinstance(start, int) and isinstance(end, int) and start == end):
            b.loop(b.imax(b.begin, ext(start)), b.imin(b.end, ext(end)), iteration)

    def at(self, coords: dict[int, Coord], along: Coord, lanes: int) -> Position:
        """The position at ``along`` in a slice."""
        return Position(tuple(along if a == self.axis else coords[a] for a in range(len(self.shape))), lanes)
