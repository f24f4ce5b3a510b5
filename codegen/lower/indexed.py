"""``scatter_add``, ``scatter_reduce`` and ``scatter``: a copy of x, then combinations or writes in index order.

Slices along the axis are independent and run in parallel (vectors of them where the contiguous axis is another one);
inside a slice they are serial, so the result does not depend on threads. 16-bit floats accumulate in float32.
(``gather`` and ``index_select`` are elementwise kernels with indexed loads, ``argmax`` and ``argmin`` are reductions.)
"""

from __future__ import annotations

from typing import Any

from ...ir.dims import Extent, bounds, product
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.target import Target
from ..loopir import LoopBuilder, Val
from .arithmetic import RULES
from .common import Access, Coord, Extents, IndexMath, Position, compute_dtype
from .kernel import LoweredKernel
from .nest import grain_for, lanes_for, upper
from .slices import Slices

COMBINES = {"add": "add", "prod": "mul", "amax": "maximum", "amin": "minimum"}


def _combination(node: Node) -> str | None:
    """The elementwise operator that puts two elements for one place together; None: the later one stays."""
    if node.op == "scatter":
        return None
    return COMBINES[node.attrs["reduce"] if node.op == "scatter_reduce" else "add"]


def supports(node: Node, target: Target) -> str | None:
    """None if ``lower`` accepts the node, else why not."""
    out = node.output.type
    if not out.layout.is_dense:
        return f"{node.op} writes dense results, %{node.output.name} has layout {out.layout}"
    combines = _combination(node) is not None
    if combines and out.dtype.kind == "f" and out.dtype.bits == 16 and bounds(out.shape[node.attrs["axis"]])[1] > 2**24:
        return f"{node.op} of {out.dtype.name} accumulates in scratch memory; axis {node.attrs['axis']} has no bound"
    return None


def lower(node: Node, target: Target) -> LoweredKernel:
    """The kernel of a ``scatter_add``, ``scatter_reduce`` or ``scatter`` node."""
    reason = supports(node, target)
    if reason is not None:
        raise UnsupportedError(f"{node!r}: {reason}")
    b = LoopBuilder("kernel", target)
    extents = Extents(b)
    values = [*dict.fromkeys(node.inputs), node.output]
    access = {v: Access(b, extents, v.type, b.buffer(v.name, v.dtype)) for v in values}
    writer = _Scatter(b, extents, node, access)
    x = node.inputs[0]
    axis = node.attrs["axis"]
    trip = writer.kernel(target)
    total = float(sum(upper(v.type.nbytes) for v in values))
    return LoweredKernel(
        node=node,
        function=b.finish(),
        values=values,
        extents=extents.expressions,
        trip=trip,
        grain=grain_for(2 * total / max(1, upper(trip))),
        schedule=f"{node.op} along axis {axis} of {x.type}: {writer.lanes} independent slice(s) per iteration",
        flops=float(upper(product(node.inputs[1].shape))),
        bytes=total,
        inplace={0: 0} if x.type == node.output.type and node.inputs.count(x) == 1 and not writer.scratch else {},
    )


class _Scatter:
    def __init__(self, b: LoopBuilder, extents: Extents, node: Node, access: dict) -> None:
        self.b = b
        self.extents = extents
        self.math = IndexMath(b, extents)
        self.node = node
        self.x, self.index, self.src = (access[v] for v in node.inputs)
        self.out = access[node.output]
        self.combines = _combination(node)
        self.axis = node.attrs["axis"]
        self.shape = node.output.shape
        self.dtype = compute_dtype(node.output.dtype)
        self.lanes = 1
        self.scratch: Val | None = None

    def kernel(self, target: Target) -> Extent:
        shape, axis = self.shape, self.axis
        last = len(shape) - 1
        covered = self.node.inputs[1].shape
        vectors = axis != last and covered[last] == shape[last]
        lanes = lanes_for([self.node.output.dtype], target) if vectors else 1
        self.slices = Slices(self.b, self.extents, shape, axis, lanes)
        self.lanes = self.slices.lanes
        if self.combines is not None and self.dtype is not self.node.output.dtype:
            self.scratch = self.b.scratch(self.dtype, bounds(shape[axis])[1] * self.lanes)
        return self.slices.loop(self._slice)

    def _slice(self, coords: dict[int, Coord], lanes: int) -> None:
        b, ext = self.b, self.extents
        extent = ext(self.shape[self.axis])
        covered = self.node.inputs[1].shape

        def copy(i: Any) -> None:
            pos = self.slices.at(coords, Coord(i), lanes)
            self._put(pos, Coord(i), self.x.load(pos))

        def put(j: Any) -> None:
            here = self.slices.at(coords, Coord(j), lanes)
            chosen = self._clamped(self.index.load(here), extent)
            pos = self.slices.at(coords, chosen, lanes)
            value = self.src.load(here)
            if self.combines is not None:
                value = RULES[self.combines](b, self.node, [self._get(pos, chosen), value])
            self._put(pos, chosen, value)

        def finish(i: Any) -> None:
            pos = self.slices.at(coords, Coord(i), lanes)
            self.out.store(pos, self._get(pos, Coord(i)))

        b.loop(0, extent, copy)
        inside: Val | None = None
        for a, c in coords.items():
            if covered[a] != self.shape[a]:
                ok = b.icmp("lt", c.base, ext(covered[a]))
                inside = ok if inside is None else b.op("and", inside, ok)
        if bounds(self.shape[self.axis])[0] < 1:  # an empty axis has no place for any index
            ok = b.icmp("gt", b.ival(extent), 0)
            inside = ok if inside is None else b.op("and", inside, ok)
        body = lambda: _discard(b.loop(0, ext(covered[self.axis]), put))  # noqa: E731
        body() if inside is None else b.when(inside, body)
        if self.scratch is not None:
            b.loop(0, extent, finish)

    def _clamped(self, index: Val, extent: Any) -> Coord:
        """An index held inside the axis: nothing outside is ever touched."""
        b = self.b
        last = b.splat(b.ival(b.isub(extent, 1)), index.lanes)
        held = b.op("max", b.op("min", index, last), b.const(index.dtype, 0, index.lanes))
        return self.math.from_vector(held)

    def _cell(self, along: Coord, lanes: int) -> Any:
        """Offset(s) in the scratch row of the element ``along`` the axis."""
        b = self.b
        if along.vector is None:
            return b.imul(along.base, lanes)
        scaled = b.op("mul", along.vector, b.const(along.vector.dtype, lanes, lanes))
        return b.op("add", scaled, b.iota(along.vector.dtype, lanes))

    def _get(self, pos: Position, along: Coord) -> Val:
        if self.scratch is None:
            return self.out.load(pos)
        cell = self._cell(along, pos.lanes)
        if along.vector is not None:
            return self.b.gather(self.scratch, cell)
        return self.b.load(self.scratch, cell, pos.lanes)

    def _put(self, pos: Position, along: Coord, value: Val) -> None:
        if self.scratch is None:
            self.out.store(pos, value)
        elif along.vector is not None:
            self.b.scatter(self.scratch, value, self._cell(along, pos.lanes))
        else:
            self.b.store(self.scratch, value, self._cell(along, pos.lanes))


def _discard(_: Any) -> None:
    return None
