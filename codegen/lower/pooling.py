"""Pooling kernels: each output element gathers its window; windows at the edges shrink their loops, nothing is padded.

Along channels (blocked or channels-last layouts) the window's coordinates are the same for all lanes and its loops
have run-time bounds. Along the width, vectors of windows that lie inside the data are loaded whole (at the end of a row
under a mask), others tap by tap under the mask of what is inside, or element by element where masks are slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...ir import dtypes
from ...ir.dims import Extent
from ...ir.errors import UnsupportedError
from ...ir.graph import Node, Value
from ...ir.target import Target
from ..loopir import LoopBuilder, Val, masked_loads
from .affine import Opaque, strides
from .arithmetic import extreme
from .common import Access, Coord, Extents, IndexMath, Position, compute_dtype
from .elementwise import check_layouts, clear_halo, halos_of, store_lanes
from .kernel import LoweredKernel
from .nest import NestEmitter, grain_for, lanes_for, plan, upper

MOST_TAPS = 5  # along the lanes that are written out
OPS = frozenset({"max_pool", "avg_pool", "avg_pool_grad"})


def supports(node: Node, target: Target) -> str | None:
    """None if ``lower`` accepts the node, else why not."""
    for v in [*node.inputs, *node.outputs]:
        if any(axis >= 2 for axis, _ in v.type.layout.blocks):
            return f"%{v.name}: layout {v.type.layout} splits a spatial axis"
    return check_layouts(node)


def lower(node: Node, target: Target) -> LoweredKernel:
    """The kernel of ``max_pool``, ``avg_pool`` or ``avg_pool_grad``; results nobody uses are not written."""
    reason = supports(node, target)
    if reason is not None:
        raise UnsupportedError(f"{node!r}: {reason}")
    wanted = node.graph.output_set()
    results = [o for o in node.outputs if o.users or o in wanted] or node.outputs[:1]
    (x,) = node.inputs
    shape = node.outputs[0].shape
    rank = len(shape)
    spatial = range(2, rank)
    scatter = node.op == "avg_pool_grad"
    # Windows overlap the data's ends: spatial axes stay apart, and the gradient's windows are not linear in the index.
    pinned = set(spatial)
    rows: list = [{0: 1}, {1: 1}]
    rows += [frozenset({a}) if scatter else {a: node.attrs["stride"][a - 2]} for a in spatial]
    reads = [strides(x.type, rows, pinned)]
    writes = [strides(r.type, [{a: 1} for a in range(rank)], pinned) for r in results]
    halos = halos_of(results)
    lanes = lanes_for([x.dtype], target)
    nest = plan(shape, reads, writes, pinned | set(halos), halos, lanes, target, 1)
    if scatter and isinstance(reads[0].get(nest.inner[-1].axis), Opaque):
        nest.lanes = 1
    b = LoopBuilder("kernel", target)
    extents = Extents(b)
    source = Access(b, extents, x.type, b.buffer(x.name, x.dtype))
    targets = {r: Access(b, extents, r.type, b.buffer(r.name, r.dtype)) for r in results}
    window = _Window(b, extents, node, source, targets)

    merged = {g.axis for g in (*nest.outer, *nest.inner) if len(g.axes) > 1}

    def clear(pos: Position) -> None:
        for access in targets.values():
            clear_halo(access, pos, merged)

    def body(positions: list[Position]) -> None:
        for pos in positions:
            window.element(pos)

    emitter = NestEmitter(b, extents, nest, rank, body, clear)
    b.loop(b.begin, b.end, emitter.iteration)
    taps = math.prod(node.attrs["kernel"])
    elements = float(upper(node.outputs[0].type.elements))
    total = float(sum(upper(v.type.nbytes) for v in [x, *results]))
    return LoweredKernel(
        node=node,
        function=b.finish(),
        values=[x, *results],
        extents=extents.expressions,
        trip=nest.trip,
        grain=grain_for(nest.per_iteration * total / max(elements, 1), nest.per_iteration * taps / 2),
        schedule=f"{node.op}: {nest.describe()}",
        flops=elements * taps,
        bytes=total,
    )


class _Window:
    """Computes one position of a pooling result."""

    def __init__(
        self, b: LoopBuilder, extents: Extents, node: Node, source: Access, targets: dict[Value, Access]
    ) -> None:
        self.b = b
        self.extents = extents
        self.math = IndexMath(b, extents)
        self.node = node
        self.source = source
        self.targets = targets
        attrs = node.attrs
        self.kernel: Sequence[int] = attrs["kernel"]
        self.stride: Sequence[int] = attrs["stride"]
        self.padding: Sequence[tuple[int, int]] = attrs["padding"]
        self.dilation: Sequence[int] = attrs.get("dilation", (1,) * len(self.kernel))
        self.spatial: Sequence[Extent] = attrs["input_shape"] if node.op == "avg_pool_grad" else source.type.shape[2:]
        self.dtype = compute_dtype(source.type.dtype)
        self.edge: int | None = None  # axis along the lanes whose taps are masked

    def element(self, pos: Position) -> None:
        """Compute and store the result at ``pos``."""
        b = self.b
        wide = next((a for a in range(2, len(pos.coords)) if not pos.coords[a].uniform), None)
        if wide is None:
            self._write(pos, None)
            return
        k = wide - 2
        if self._all_inside(k):
            self._write(pos, wide)
            return
        # Lanes along a spatial axis: the windows of the whole vector lie inside, or each tap needs a mask.
        c = pos.coords[wide]
        count: Any = pos.lanes
        if pos.mask is not None:  # a row's end
            ones = b.select(pos.mask, b.const(dtypes.int32, 1, pos.lanes), b.const(dtypes.int32, 0, pos.lanes))
            count = b.cast(b.horizontal("add", ones), dtypes.int64)
        first = b.isub(b.imul(c.base, self.stride[k]), self.padding[k][0])
        reach = b.iadd(b.imul(b.isub(count, 1), self.stride[k]), (self.kernel[k] - 1) * self.dilation[k])
        inside = b.op("and", b.icmp("ge", first, 0), b.icmp("lt", b.iadd(first, reach), self.extents(self.spatial[k])))
        b.when(inside, lambda: self._write(pos, wide))
        if masked_loads(b.target, self.source.type.dtype.itemsize):
            b.when(b.op("not", inside), lambda: self._write(pos, wide, edge=True))
            return

        def one(lane: Any) -> None:
            coords = list(pos.coords)
            coords[wide] = Coord(b.iadd(c.base, lane))
            self._write(Position(tuple(coords), 1), None)

        b.when(b.op("not", inside), lambda: b.loop(0, count, one))

    def _all_inside(self, k: int) -> bool:
        """Whether every window lies inside the data along spatial axis ``k``."""
        low, high = self.padding[k]
        if low == 0 and high <= 0 and not self.node.attrs["ceil_mode"]:
            return True
        count, extent = self.node.outputs[0].shape[k + 2], self.spatial[k]
        if low > 0 or not isinstance(count, int) or not isinstance(extent, int):
            return False
        return (count - 1) * self.stride[k] - low + (self.kernel[k] - 1) * self.dilation[k] < extent

    def _write(self, pos: Position, wide: int | None, edge: bool = False) -> None:
        """``wide``: the spatial axis along the lanes; ``edge``: windows reach beyond the data there."""
        self.edge = wide if edge else None
        value = {"max_pool": self._max, "avg_pool": self._average, "avg_pool_grad": self._gradient}[self.node.op]
        for result, x in zip(self.node.outputs, value(pos, wide), strict=False):
            if result in self.targets:
                store_lanes(self.targets[result], pos, x)

    # -- windows of max_pool and avg_pool ---------------------------------------------------------
    def _taps(
        self, pos: Position, wide: int | None, state: list[Val],
        visit: Callable[[list[Val], Position, list[Coord]], list[Val]],
    ) -> list[Val]:  # fmt: skip
        """Fold ``visit`` over the window's elements inside the data, in row-major order."""
        b = self.b

        def axis(k: int, coords: list[Coord], carried: list[Val]) -> list[Val]:
            if k == len(self.kernel):
                where = Position((*pos.coords[:2], *coords), pos.lanes, pos.mask, pos.guard)
                return visit(carried, self._inside(where), coords)
            c, s, d = pos.coords[k + 2], self.stride[k], self.dilation[k]
            start = self.math.shift(self.math.scale(c, s, pos.lanes), -self.padding[k][0], pos.lanes)
            low, high = (0, self.kernel[k]) if k + 2 == wide else self._range(start.base, k)

            def tap(r: Any, *inner: Val) -> list[Val]:
                return axis(k + 1, [*coords, self.math.shift(start, b.imul(r, d), pos.lanes)], list(inner))

            if k + 2 != wide or self.kernel[k] > MOST_TAPS:
                return b.loop(low, high, tap, carry=carried)
            for r in range(self.kernel[k]):  # taps share what their masks are made of
                carried = tap(r, *carried)
            return carried

        return axis(0, [], state)

    def _inside(self, pos: Position) -> Position:
        """``pos`` without the lanes that lie outside the data."""
        if self.edge is None:
            return pos
        c, extent = pos.coords[self.edge], self.extents(self.spatial[self.edge - 2])
        within = self.b.op("and", self.math.at_least(c, 0, pos.lanes), self.math.below(c, extent, pos.lanes))
        return self.math.restrict(pos, within)

    def _range(self, start: Any, k: int) -> tuple[Any, Any]:
        """Taps [low, high) of spatial axis k that lie in the data, for a window from ``start`` on."""
        b, d, n = self.b, self.dilation[k], self.kernel[k]
        extent = self.extents(self.spatial[k])
        low: Any = 0
        if self.padding[k][0]:
            low = b.idiv(b.imax(b.iadd(b.isub(0, start), d - 1), 0), d)
        high: Any = n
        if self.padding[k][1] or self.node.attrs["ceil_mode"]:
            high = b.imin(n, b.idiv(b.imax(b.iadd(b.isub(extent, start), d - 1), 0), d))
        return low, high

    def _plane_index(self, coords: Sequence[Coord], lanes: int) -> Val:
        index = self.math.linearise(coords, self.spatial, lanes)
        return self.b.ival(index.base) if lanes == 1 else self.math.vector(index, lanes)

    def _max(self, pos: Position, wide: int | None) -> list[Val]:
        b, d, lanes = self.b, self.dtype, pos.lanes
        lowest = -math.inf if d.kind == "f" else d.min
        best = b.const(d, lowest, lanes)

        def load(where: Position) -> Val:
            x = self.source.load(where)
            return x if self.edge is None or where.mask is None else b.select(where.mask, x, best)

        if len(self.node.outputs) == 1 or self.node.outputs[1] not in self.targets:
            return self._taps(pos, wide, [best], lambda s, p, _: [extreme(b, "max", s[0], load(p))])
        firsts = []
        for k, c in enumerate(pos.coords[2:]):
            start = self.math.shift(self.math.scale(c, self.stride[k], lanes), -self.padding[k][0], lanes)
            if k + 2 == self.edge:
                start = self._first_inside(start, self.dilation[k], lanes)
            elif k + 2 != wide:
                low, _ = self._range(start.base, k)
                start = self.math.shift(start, b.imul(low, self.dilation[k]), lanes)
            firsts.append(start)

        def visit(state: list[Val], where: Position, coords: list[Coord]) -> list[Val]:
            x, (value, index) = load(where), state
            better = b.cmp("gt", x, value)
            if d.kind == "f":
                fresh = b.op("and", b.cmp("uno", x, x), b.op("not", b.cmp("uno", value, value)))
                better = b.op("or", better, fresh)
            return [b.select(better, x, value), b.select(better, self._plane_index(coords, lanes), index)]

        return self._taps(pos, wide, [best, self._plane_index(firsts, lanes)], visit)

    def _first_inside(self, start: Coord, step: int, lanes: int) -> Coord:
        """The first of ``start + n * step`` in each lane that is not negative."""
        b = self.b
        zero = b.const(dtypes.int64, 0, lanes)
        missing = b.op("max", self.math.vector(self.math.scale(start, -1, lanes), lanes), zero)
        steps, _ = self.math.divide(self.math.shift(Coord(vector=missing), step - 1, lanes), step, lanes, 1 << 31)
        return self.math.add(start, self.math.scale(steps, step, lanes), lanes)

    def _average(self, pos: Position, wide: int | None) -> list[Val]:
        b = self.b
        zero = b.const(self.dtype, 0.0, pos.lanes)
        (total,) = self._taps(pos, wide, [zero], lambda s, p, _: [b.op("add", s[0], self.source.load(p))])
        bases = [None if k + 2 == wide else c.base for k, c in enumerate(pos.coords[2:])]
        if self.edge is None or self.node.attrs["divisor_override"] is not None:
            return [b.op("div", total, b.splat(self._divisor(bases), pos.lanes))]
        others = b.splat(self._divisor(bases, self.edge - 2), pos.lanes)
        return [b.op("div", total, b.op("mul", others, self._counts(pos, self.edge - 2)))]

    def _counts(self, pos: Position, k: int) -> Val:
        """Per lane, the elements along spatial axis ``k`` that the mean counts."""
        b, lanes, attrs = self.b, pos.lanes, self.node.attrs
        low, high = self.padding[k]
        extent: Any = self.extents(self.spatial[k])
        first = self.math.scale(pos.coords[k + 2], self.stride[k], lanes)
        start = self.math.vector(self.math.shift(first, -low, lanes), lanes)
        stop = b.op("add", start, b.const(dtypes.int64, self.kernel[k], lanes))
        end = b.iadd(extent, high) if attrs["count_include_pad"] else extent
        stop = b.op("min", stop, b.splat(b.ival(end), lanes))
        if not attrs["count_include_pad"]:
            start = b.op("max", start, b.const(dtypes.int64, 0, lanes))
        return b.cast(b.cast(b.op("sub", stop, start), dtypes.int32), self.dtype)

    def _divisor(self, index: Sequence[Any], without: int | None = None) -> Val:
        """What the window at ``index`` is divided by; None stands for a window inside the data. Spatial axis
        ``without`` does not count."""
        b, attrs = self.b, self.node.attrs
        if attrs["divisor_override"] is not None:
            return b.const(self.dtype, float(attrs["divisor_override"]))
        size: Any = 1
        for k, o in enumerate(index):
            if k == without:
                continue
            n, (low, high) = self.kernel[k], self.padding[k]
            if o is not None and (low or high or attrs["ceil_mode"]):
                start = b.isub(b.imul(o, self.stride[k]), low)
                extent = self.extents(self.spatial[k])
                if attrs["count_include_pad"]:
                    stop = b.imin(b.iadd(start, n), b.iadd(extent, high))
                else:
                    stop = b.imin(b.iadd(start, n), extent)
                    start = b.imax(start, 0)
                n = b.isub(stop, start)
            size = b.imul(size, n)
        return b.cast(b.ival(size), self.dtype)

    # -- avg_pool_grad -----------------------------------------------------------------------------
    def _gradient(self, pos: Position, wide: int | None) -> list[Val]:
        """Sum over the windows that cover the element of their gradient / divisor."""
        b = self.b
        counts = self.source.type.shape[2:]

        def axis(k: int, index: list[Any], carried: list[Val]) -> list[Val]:
            if k == len(self.kernel):
                where = Position((*pos.coords[:2], *(Coord(o) for o in index)), pos.lanes, pos.mask, pos.guard)
                share = b.op("div", self.source.load(where), b.splat(self._divisor(index), pos.lanes))
                return [b.op("add", carried[0], share)]
            i = b.iadd(pos.coords[k + 2].base, self.padding[k][0])
            n, s = self.kernel[k], self.stride[k]
            low = b.idiv(b.imax(b.iadd(i, s - n), 0), s)  # first window that ends behind i
            high = b.imin(b.iadd(b.idiv(i, s), 1), self.extents(counts[k]))
            return b.loop(low, high, lambda o, *c: axis(k + 1, [*index, o], list(c)), carry=carried)

        return axis(0, [], [b.const(self.dtype, 0.0, pos.lanes)])
