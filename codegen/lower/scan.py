"""Scans: one value (``cummax`` and ``cummin``: and its index) carried along the axis.

Slices along the axis are independent and run in parallel (vectors of them where the contiguous axis is another one);
inside a slice the order is that of the indices, so the result does not depend on threads. 16-bit floats are carried in
float32 and rounded when they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...ir.dims import bounds, product
from ...ir.dtypes import int64
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.target import Target
from .. import vmath
from ..loopir import LoopBuilder, Val
from .arithmetic import extreme
from .common import Access, Coord, Extents
from .kernel import LoweredKernel
from .nest import grain_for, lanes_for, upper
from .slices import Slices
from .view import View

Step = Callable[[LoopBuilder, Sequence[Val], Sequence[Val], Val], list[Val]]  # (carried, loaded, index) -> next


def _combined(op: str) -> Step:
    return lambda b, carried, loaded, index: [b.op(op, carried[0], loaded[0])]


def _log_add(b: LoopBuilder, carried: Sequence[Val], loaded: Sequence[Val], index: Val) -> list[Val]:
    x, y = carried[0], loaded[0]
    high = extreme(b, "max", x, y)
    distance = b.op("sub", b.op("min", x, y), high)
    none = b.const(x.dtype, 0, x.lanes)
    distance = b.select(b.cmp("eq", x, y), none, distance)  # also of equal infinities
    return [b.op("add", high, vmath.log1p(b, vmath.exp(b, distance)))]


def _recurrence(b: LoopBuilder, carried: Sequence[Val], loaded: Sequence[Val], index: Val) -> list[Val]:
    return [b.op("fma", loaded[0], carried[0], loaded[1])]


def _extreme(better: str) -> Step:
    def step(b: LoopBuilder, carried: Sequence[Val], loaded: Sequence[Val], index: Val) -> list[Val]:
        (value, place), x = carried, loaded[0]
        wins = b.cmp(better, x, value)
        if x.dtype.kind == "f":
            wins = b.op("or", wins, b.cmp("uno", x, x))
        return [b.select(wins, x, value), b.select(wins, index, place)]

    return step


STEPS: dict[str, Step] = {
    "cumsum": _combined("add"), "cumprod": _combined("mul"), "logcumsumexp": _log_add,
    "linear_recurrence": _recurrence, "cummax": _extreme("ge"), "cummin": _extreme("le"),
}  # fmt: skip


def supports(node: Node, target: Target) -> str | None:
    """None if ``lower`` accepts the node, else why not."""
    for out in node.outputs:
        if not out.type.layout.is_dense:
            return f"{node.op} writes dense results, %{out.name} has layout {out.type.layout}"
    return None


def lower(node: Node, target: Target) -> LoweredKernel:
    """The kernel of a scan."""
    reason = supports(node, target)
    if reason is not None:
        raise UnsupportedError(f"{node!r}: {reason}")
    b = LoopBuilder("kernel", target)
    extents = Extents(b)
    wanted = [r.outer for r in View(node).results]
    values = [*dict.fromkeys(node.inputs), *wanted]
    access = {v: Access(b, extents, v.type, b.buffer(v.name, v.dtype)) for v in values}
    shape, axis = node.outputs[0].shape, node.attrs["axis"]
    slices = Slices(b, extents, shape, axis, lanes_for([node.outputs[0].dtype], target))
    trip = slices.loop(lambda coords, lanes: _slice(b, extents, node, access, slices, coords, lanes))
    total = float(sum(upper(v.type.nbytes) for v in values))
    x = node.inputs[0]
    in_place = x.type == wanted[0].type and node.inputs.count(x) == 1
    return LoweredKernel(
        node=node,
        function=b.finish(),
        values=values,
        extents=extents.expressions,
        trip=trip,
        grain=grain_for(2 * total / max(1, upper(trip))),
        schedule=f"{node.op} along axis {axis} of {x.type}: {slices.lanes} independent slice(s) per iteration",
        flops=float(upper(product(shape))),
        bytes=total,
        inplace={0: 0} if in_place and wanted[0] is node.outputs[0] else {},
    )


def _slice(
    b: LoopBuilder, extents: Extents, node: Node, access: dict, slices: Slices, coords: dict[int, Coord], lanes: int
) -> None:
    step = STEPS[node.op]
    extent = node.outputs[0].shape[node.attrs["axis"]]

    def load(i: Any) -> list[Val]:
        return [access[v].load(slices.at(coords, Coord(i), lanes)) for v in node.inputs]

    def store(i: Any, carried: Sequence[Val]) -> list[Val]:
        for value, out in zip(carried, node.outputs, strict=True):
            if out in access:
                access[out].store(slices.at(coords, Coord(i), lanes), value)
        return list(carried)

    def index(i: Any) -> Val:
        return b.splat(b.ival(i), lanes)

    def line() -> None:
        start = [load(0)[-1], *([b.const(int64, 0, lanes)] if len(node.outputs) > 1 else [])]
        store(0, start)
        b.loop(1, extents(extent), lambda i, *carried: store(i, step(b, carried, load(i), index(i))), carry=start)

    if bounds(extent)[0] >= 1:
        line()
    elif bounds(extent)[1] >= 1:
        b.when(b.icmp("gt", extents(extent), 0), line)
