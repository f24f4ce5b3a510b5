"""``sort``: a merge sort of values with their indices, slice by slice in scratch memory.

Slices along the axis run in parallel. Every pass merges runs of one length into runs of twice that length, from one
half of the scratch memory into the other; of equal elements the left one comes first, so the order is stable.
"""

from __future__ import annotations

import math
from typing import Any

from ...ir.dims import bounds, product
from ...ir.dtypes import int64, uint8
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.target import Target
from ..loopir import LoopBuilder, Val
from .arithmetic import cast
from .common import Access, Coord, Extents, compute_dtype
from .kernel import LoweredKernel
from .nest import grain_for, upper
from .slices import Slices
from .view import View

LONGEST = 2**20  # elements along the axis; scratch memory holds twice as many pairs per thread


def supports(node: Node, target: Target) -> str | None:
    """None if ``lower`` accepts the node, else why not."""
    for out in node.outputs:
        if not out.type.layout.is_dense:
            return f"sort writes dense results, %{out.name} has layout {out.type.layout}"
    extent = node.outputs[0].shape[node.attrs["axis"]]
    if bounds(extent)[1] > LONGEST:
        return f"sort works in scratch memory for at most {LONGEST} elements along the axis, which has up to {extent}"
    return None


def lower(node: Node, target: Target) -> LoweredKernel:
    """The kernel of a ``sort`` node."""
    reason = supports(node, target)
    if reason is not None:
        raise UnsupportedError(f"{node!r}: {reason}")
    b = LoopBuilder("kernel", target)
    extents = Extents(b)
    (x,) = node.inputs
    wanted = [r.outer for r in View(node).results]
    values = [x, *wanted]
    access = {v: Access(b, extents, v.type, b.buffer(v.name, v.dtype)) for v in values}
    sorter = _Sort(b, extents, node, access)
    trip = sorter.slices.loop(sorter.slice)
    total = float(sum(upper(v.type.nbytes) for v in values))
    steps = upper(product(x.shape)) * (sorter.passes + 2)
    return LoweredKernel(
        node=node,
        function=b.finish(),
        values=values,
        extents=extents.expressions,
        trip=trip,
        grain=grain_for(total / max(1, upper(trip)), 8.0 * steps / max(1, upper(trip))),
        schedule=f"sort along axis {node.attrs['axis']} of {x.type}: {sorter.passes} merging passes per slice",
        flops=float(steps),
        bytes=total,
    )


class _Sort:
    def __init__(self, b: LoopBuilder, extents: Extents, node: Node, access: dict) -> None:
        self.b, self.node, self.access = b, node, access
        (x,) = node.inputs
        self.slices = Slices(b, extents, x.shape, node.attrs["axis"])
        extent = x.shape[node.attrs["axis"]]
        self.extent: Any = extents(extent)
        self.most = max(1, bounds(extent)[1])
        self.passes = math.ceil(math.log2(self.most))
        self.dtype = uint8 if x.dtype.kind == "b" else compute_dtype(x.dtype)
        self.values = b.scratch(self.dtype, 2 * self.most)
        self.indices = b.scratch(int64, 2 * self.most)

    def slice(self, coords: dict[int, Coord], lanes: int) -> None:
        """Sort one slice."""
        b, (x,) = self.b, self.node.inputs

        def fetch(i: Any) -> None:
            value = self.access[x].load(self.slices.at(coords, Coord(i), lanes))
            b.store(self.values, cast(b, value, self.dtype), i)
            b.store(self.indices, b.ival(i), i)

        def put(i: Any) -> None:
            where = self.slices.at(coords, Coord(i), lanes)
            source = b.iadd(i, self.passes % 2 * self.most)
            for out, held in zip(self.node.outputs, (self.values, self.indices), strict=True):
                if out in self.access:
                    value = b.load(held, source)
                    self.access[out].store(where, value if out.dtype.kind != "b" else cast(b, value, out.dtype))

        b.loop(0, self.extent, fetch)
        b.loop(0, self.passes, self._merge_runs, carry=[b.ival(1)])
        b.loop(0, self.extent, put)

    def _merge_runs(self, number: Any, width: Val) -> list[Val]:
        """Runs of ``width`` elements, pair by pair."""
        b = self.b
        source = b.imul(b.irem(number, 2), self.most)
        target = b.isub(self.most, source)
        twice = b.iadd(width, width)
        pairs = b.idiv(b.iadd(self.extent, b.isub(twice, 1)), twice)

        def pair(r: Any) -> None:
            low = b.imul(r, twice)
            middle = b.imin(b.iadd(low, width), self.extent)
            high = b.imin(b.iadd(low, twice), self.extent)
            last = b.isub(self.extent, 1)

            def element(k: Any, i: Val, j: Val) -> list[Val]:
                left, right = b.imin(i, last), b.imin(j, last)
                a = b.load(self.values, b.iadd(source, left))
                c = b.load(self.values, b.iadd(source, right))
                take = b.op("or", self._precedes(c, a), b.icmp("ge", i, middle))
                take = b.op("and", take, b.icmp("lt", j, high))
                chosen = b.select(take, b.ival(right), b.ival(left))
                b.store(self.values, b.select(take, c, a), b.iadd(target, k))
                b.store(self.indices, b.load(self.indices, b.iadd(source, chosen)), b.iadd(target, k))
                return [b.select(take, i, b.iadd(i, 1)), b.select(take, b.iadd(j, 1), j)]

            b.loop(low, high, element, carry=[b.ival(low), b.ival(middle)])

        b.loop(0, pairs, pair)
        return [twice]

    def _precedes(self, a: Val, c: Val) -> Val:
        """Whether ``a`` has to come before ``c``: NaN is the largest."""
        b, down = self.b, self.node.attrs["descending"]
        before = b.cmp("gt" if down else "lt", a, c)
        if a.dtype.kind != "f":
            return before
        first, second = (a, c) if down else (c, a)
        alone = b.op("and", b.cmp("uno", first, first), b.cmp("eq", second, second))
        return b.op("or", before, alone)
