"""``resample`` inside elementwise kernels: weighted sums of neighbours whose places come from a table.

Where the resampled axis is the same for all lanes (channels along the lanes), place and weights are scalars. Where the
lanes run along it, one or a few contiguous vectors hold everything they need, and a permutation of registers picks
each lane's element; only if the places spread too far are the elements gathered.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ...ir.dtypes import int32, int64
from ...ir.graph import Node, Value
from ..llvm_text import permutation
from ..loopir import LoopBuilder, Val
from .position import Coord, Position, compute_dtype

if TYPE_CHECKING:
    from .common import RegionEvaluator

MOST_WRITTEN_OUT = 8  # taps along one axis; more are a loop
MOST_TAPS = 16  # taps of several axes in one expression; beyond, the result between them is stored
MOST_WINDOWS = 3  # vectors that are searched for the elements of one result vector

Steps = Generator["tuple[Value, Position]", Val, Val]


def taps_of(node: Node) -> int:
    """Terms of the sum."""
    return int(node.inputs[2].shape[0]) if len(node.inputs) > 2 else 1  # type: ignore[call-overload]


def steps(ev: RegionEvaluator, node: Node, pos: Position) -> Steps:
    """The node's value at ``pos`` as a generator of requests (see ``RegionEvaluator``)."""
    return (yield from _Resample(ev, node, pos).value())


class _Resample:
    def __init__(self, ev: RegionEvaluator, node: Node, pos: Position) -> None:
        self.ev, self.node, self.pos = ev, node, pos
        self.b: LoopBuilder = ev.builder
        self.x, self.first, *rest = node.inputs
        self.weights: Value | None = rest[0] if rest else None
        self.axis: int = node.attrs["axis"]
        self.coord = pos.coords[self.axis]
        self.taps = taps_of(node)
        self.extent = ev.extents(self.x.shape[self.axis])
        self.last = self.b.isub(self.extent, 1)

    def value(self) -> Steps:
        windows = self._windows()
        if windows:
            sources = yield from self._load_windows(windows)
            total = yield from self._sum(lambda t: self._pick(sources, t))
        else:
            start = yield from self._start()
            if self.taps > MOST_WRITTEN_OUT:
                total = self._loop(start)
            else:
                total = yield from self._sum(lambda t: self._read(start, t))
        return self.b.cast(total, self.node.output.dtype)

    # -- the sum ------------------------------------------------------------------------------------
    def _sum(self, element: Any) -> Steps:
        total: Val | None = None
        for t in range(self.taps):
            v = yield from element(t)
            if self.weights is None:
                return v
            w = yield (self.weights, self._table_position(Coord(t)))
            total = self._add(total, v, w)
        assert total is not None
        return total

    def _add(self, total: Val | None, v: Val, w: Val) -> Val:
        b = self.b
        w = b.splat(b.cast(w, v.dtype), v.lanes)
        return b.op("mul", v, w) if total is None else b.op("fma", v, w, total)

    def _table_position(self, *lead: Coord) -> Position:
        """Where the tables are read: one element for all lanes, or one per lane."""
        there = self.pos.at([*lead, self.coord])
        return there.scalar() if self.coord.uniform else there

    # -- one element, or one per lane ---------------------------------------------------------------
    def _start(self) -> Generator[Any, Val, Coord]:
        start = yield (self.first, self._table_position())
        index = self.ev.math.from_vector(self.b.cast(start, int64))
        return self.ev._clamped(index, self.last, start.lanes)

    def _read(self, start: Coord, tap: Any) -> Steps:
        b = self.b
        if isinstance(tap, int) and tap == 0:
            place = start
        elif start.vector is None:
            place = Coord(b.imin(b.iadd(start.base, tap), self.last))
        else:
            lanes = start.vector.lanes
            moved = b.op("add", start.vector, b.splat(b.ival(tap), lanes))
            place = Coord(vector=b.op("min", moved, b.splat(b.ival(self.last), lanes)))
        return (yield (self.x, self._at(place)))

    def _at(self, place: Coord) -> Position:
        return self.pos.at(place if a == self.axis else c for a, c in enumerate(self.pos.coords))

    def _loop(self, start: Coord) -> Val:
        b, weights = self.b, self.weights
        assert weights is not None  # several taps have weights

        def body(t: Val, total: Val) -> Val:
            scope = self.ev.scope()
            ((_, there),) = [self._read(start, t).send(None)]
            w = scope.value(weights, self._table_position(Coord(t)))
            return self._add(total, scope.value(self.x, there), w)

        zero = b.const(compute_dtype(self.x.dtype), 0, self.pos.lanes)
        (total,) = b.loop(0, self.taps, body, carry=[zero])
        return total

    # -- lanes along the axis -----------------------------------------------------------------------
    def _windows(self) -> int:
        """How many vectors of x hold all that one result vector needs; 0 if they are too many or unknown."""
        pace, lanes = self.node.attrs["pace"], self.pos.lanes
        linear = self.coord.vector is None and self.coord.step == 1
        if pace < 0 or not linear or self.taps > MOST_WRITTEN_OUT:
            return 0
        if permutation(self.b.target, compute_dtype(self.x.dtype), lanes) is None:
            return 0
        reach = math.floor(pace * (lanes - 1) + 1e-9) + 1 + self.taps
        count = -(-reach // lanes)
        return count if count <= MOST_WINDOWS else 0

    def _load_windows(self, count: int) -> Generator[Any, Val, dict[str, Any]]:
        b, lanes, c = self.b, self.pos.lanes, self.coord
        size = self.ev.extents(self.node.output.shape[self.axis])
        base = c.base
        if self.pos.mask is not None:  # lane 0 may not exist
            base = b.imin(b.imax(base, 0), b.isub(size, 1))
        lead = yield (self.first, self.pos.at([Coord(base)]).scalar())
        origin = self.ev._clamped(self.ev.math.from_vector(b.cast(lead, int64)), self.last, 1).base
        places = yield (self.first, self._table_position())
        held = isinstance(self.extent, int) and self.extent >= lanes
        found = []
        for k in range(count):
            at = b.iadd(origin, k * lanes)
            mask = None
            if held:
                at = b.imin(at, b.isub(self.extent, lanes))
            else:
                mask = b.lanes_below(b.imax(b.isub(self.extent, at), 0), lanes)
            there = Position(self._at(Coord(at, 1)).coords, lanes)
            if self.pos.guard is not None:
                there = self.ev.math.restrict(there, self.pos.guard)
            if mask is not None:
                there = self.ev.math.restrict(there, mask)
            v = yield (self.x, there)
            found.append((v, b.splat(b.cast(b.ival(at), int32), lanes), b.iadd(origin, k * lanes)))
        return {"places": places, "windows": found, "last": b.splat(b.cast(b.ival(self.last), int32), lanes)}

    def _pick(self, sources: dict[str, Any], tap: int) -> Steps:
        b, lanes = self.b, self.pos.lanes
        place = sources["places"]
        if tap:
            place = b.op("min", b.op("add", place, b.const(int32, tap, lanes)), sources["last"])
        out: Val | None = None
        for v, at, low in sources["windows"]:
            picked = b.permute(v, b.op("sub", place, at))
            if out is None:
                out = picked
            else:
                beyond = b.cmp("ge", place, b.splat(b.cast(b.ival(low), int32), lanes))
                out = b.select(beyond, picked, out)
        assert out is not None
        return out
        yield  # makes this a generator
