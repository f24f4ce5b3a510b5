"""What every lowering uses: positions, accesses, and the evaluator that turns IR nodes into loop IR values.

``RegionEvaluator`` pulls: asked for a value at a position, it walks up through elementwise and index operators to
loads, moving the position through each index operator. A fused chain thus becomes straight-line code without
any intermediate in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.dims import Extent, bounds
from ...ir.dtypes import float32, float64, int64
from ...ir.errors import UnsupportedError
from ...ir.graph import Node, Value
from ..loopir import LoopBuilder, Val
from . import arithmetic, philox, reindex, resampling
from .position import ZERO, Access, Coord, Extents, IndexMath, Position, compute_dtype, zero_of

__all__ = [
    "Access", "Coord", "Extents", "IndexMath", "Position", "RegionEvaluator", "compute_dtype", "constant_number",
    "is_evaluable", "zero_of",
]  # fmt: skip

Request = tuple[Value, Position]
Steps = Generator[Request, Val, Val]
Given = Val | Callable[[Position], Val]

_HANDLED = frozenset(
    {"concat", "pad", "iota", "constant", "random_uniform", "gather", "index_select", "resample", "fused"}
)


def is_evaluable(op: str) -> bool:
    """Whether the evaluator can compute this operator in place (no memory, no loops over an axis)."""
    return op in arithmetic.RULES or op in reindex.MOVES or (op in _HANDLED and op != "fused")


def constant_number(value: Value) -> Any:
    """The number that fills a constant value, or None if it holds different ones (or none)."""
    if not value.is_constant:
        return None
    array = np.asarray(value.constant)
    if array.size == 0:
        return None
    first = array.reshape(-1)[0]
    if array.size == 1 or bool((array == first).all()):
        return first.item() if hasattr(first, "item") else first
    return None


class RegionEvaluator:
    """Values of a region (or of a single node) at logical positions.

    Args:
        builder, extents: of the kernel being written.
        accesses: values that are in memory; the walk stops there.
        given: values already computed: a Val with the position's lanes (one-lane Vals are broadcast), or a function of
            the position. It stops the walk too.

    Results are remembered per (value, position), so an evaluator must live no longer than the loop body it was
    made for: make one per body, or call ``scope()``.
    """

    def __init__(
        self,
        builder: LoopBuilder,
        extents: Extents,
        accesses: Mapping[Value, Access],
        given: Mapping[Value, Given] | None = None,
    ) -> None:
        self.builder = builder
        self.extents = extents
        self.math = IndexMath(builder, extents)
        self.accesses = accesses
        self.given = dict(given or {})
        self._known: dict[tuple[Value, Position], Val] = {}

    def scope(self, given: Mapping[Value, Given] | None = None) -> RegionEvaluator:
        """An evaluator for another loop body, knowing ``given`` besides."""
        return RegionEvaluator(self.builder, self.extents, self.accesses, {**self.given, **(given or {})})

    def value(self, value: Value, pos: Position) -> Val:
        """``value`` at ``pos``: ``pos.lanes`` wide, in the value's compute dtype."""
        stack: list[tuple[Request, Steps]] = []
        request: Request | None = (value, pos)
        result: Val | None = None
        while True:
            if request is not None:
                result = self._known.get(request)
                if result is None:
                    stack.append((request, self._steps(*request)))
            if not stack:
                assert result is not None
                return result
            key, steps = stack[-1]
            try:
                request = steps.send(result)  # type: ignore[arg-type]  # None starts a new generator
            except StopIteration as stop:
                result = self._known[key] = stop.value
                stack.pop()
                request = None

    # -- one value ----------------------------------------------------------------------------------
    def _steps(self, value: Value, pos: Position) -> Steps:
        """A generator that asks for the operands it needs and returns the value."""
        b = self.builder
        if value in self.given:
            found = self.given[value]
            return b.splat(found if isinstance(found, Val) else found(pos), pos.lanes)
        if pos.lanes > 1 and pos.uniform:
            # The same for all lanes: compute once, then broadcast.
            one = yield (value, pos.scalar())
            return b.splat(one, pos.lanes)
        access = self.accesses.get(value)
        if access is not None:
            return access.load(pos)
        node = value.producer
        if node is None:
            raise UnsupportedError(f"kernel: %{value.name} is neither in memory nor computed here")
        if node.op in arithmetic.RULES:
            args = []
            for v in node.inputs:
                args.append((yield (v, self.broadcast(v.shape, value.shape, pos))))
            return arithmetic.apply(b, node, args)
        move = reindex.MOVES.get(node.op)
        if move is not None:
            return (yield (node.inputs[0], move(self.math, node, pos)))
        handler = getattr(self, f"_op_{node.op}", None)
        if handler is None:
            raise UnsupportedError(f"kernel: operator {node.op} cannot be computed inside a fused kernel")
        return (yield from handler(node, pos))

    def broadcast(self, shape: Sequence[Extent], result: Sequence[Extent], pos: Position) -> Position:
        """Where an operand of ``shape`` is read for ``pos`` in the broadcast ``result``."""
        lead = len(result) - len(shape)
        axes = zip(pos.coords[lead:], shape, result[lead:], strict=True)
        return pos.at(ZERO if e == 1 and r != 1 else c for c, e, r in axes)

    def _op_constant(self, node: Node, pos: Position) -> Steps:
        number = constant_number(node.output)
        if number is None:
            raise UnsupportedError(
                f"kernel: constant %{node.output.name} of shape {list(node.output.shape)} is neither one number nor a "
                "buffer"
            )
        return arithmetic.constant(self.builder, node.output.dtype, number, pos.lanes)
        yield  # makes this a generator

    def _op_iota(self, node: Node, pos: Position) -> Steps:
        c = pos.coords[node.attrs["axis"]]
        index = self.builder.ival(c.base) if c.uniform and pos.lanes == 1 else self.math.vector(c, pos.lanes)
        return self.builder.cast(index, node.attrs["dtype"])
        yield

    def _op_random_uniform(self, node: Node, pos: Position) -> Steps:
        (state,) = node.inputs
        seed = yield (state, Position((Coord(0),)))
        offset = yield (state, Position((Coord(1),)))
        index = self.math.linearise(pos.coords, node.output.shape, pos.lanes)
        dtype = node.attrs["dtype"]
        assert dtype in (float32, float64)
        return philox.uniform(self.builder, self.math.vector(index, pos.lanes), seed, offset, dtype)

    def _op_concat(self, node: Node, pos: Position) -> Steps:
        b, axis = self.builder, node.attrs["axis"]
        coord = pos.coords[axis]
        out: Val | None = None
        start: Extent = 0
        for v in node.inputs:
            end = start + v.shape[axis]
            inside = self.math.below(coord, self.extents(end), pos.lanes)
            if not (isinstance(start, int) and start == 0):
                inside = b.op("and", inside, self.math.at_least(coord, self.extents(start), pos.lanes))
            local = self.math.shift(coord, b.isub(0, self.extents(start)), pos.lanes)
            coords = [local if a == axis else c for a, c in enumerate(pos.coords)]
            part = yield (v, self.math.restrict(pos.at(coords), inside))
            out = part if out is None else b.select(b.splat(inside, pos.lanes), part, out)
            start = end
        assert out is not None
        return out

    def _op_pad(self, node: Node, pos: Position) -> Steps:
        b, (x,) = self.builder, node.inputs
        moved = pos
        inside: Val | None = None
        coords = []
        for c, extent, low, high, interior in zip(
            pos.coords, x.shape, node.attrs["low"], node.attrs["high"], node.attrs["interior"], strict=True
        ):
            if (low, high, interior) == (0, 0, 0):
                coords.append(c)
                continue
            conds = []
            c = self.math.shift(c, b.isub(0, self.extents(low)), pos.lanes)
            if interior != 0:
                step = self.extents(interior + 1)
                # Division is defined for non-negative numbers; what is below low is masked off either way.
                conds.append(self.math.at_least(c, 0, pos.lanes))
                c, rest = self.math.divide(self._clamped(c, None, pos.lanes), step, pos.lanes)
                conds.append(self._is_zero(rest, pos.lanes))
            elif low != 0:
                conds.append(self.math.at_least(c, 0, pos.lanes))
            if high != 0:
                conds.append(self.math.below(c, self.extents(extent), pos.lanes))
            for cond in conds:
                moved = self.math.restrict(moved, cond)
                wide = b.splat(cond, pos.lanes)
                inside = wide if inside is None else b.op("and", inside, wide)
            coords.append(c)
        value = yield (x, moved.at(coords))
        if inside is None:
            return value
        fill = arithmetic.constant(b, node.output.dtype, node.attrs["value"], pos.lanes)
        return b.select(inside, value, fill)

    def _is_zero(self, c: Coord, lanes: int) -> Val:
        b = self.builder
        if c.uniform:
            return b.icmp("eq", c.base, 0)
        return b.cmp("eq", self.math.vector(c, lanes), b.const(int64, 0, lanes))

    def _clamped(self, c: Coord, last: Any, lanes: int) -> Coord:
        """``c`` held in [0, last]."""
        b = self.builder
        if c.uniform:
            low = b.imax(c.base, 0)
            return Coord(low if last is None else b.imin(low, last))
        v = b.op("max", self.math.vector(c, lanes), b.const(int64, 0, lanes))
        if last is not None:
            v = b.op("min", v, b.splat(b.ival(last), lanes))
        return Coord(vector=v)

    def _selected(self, index: Val, extent: Extent, lanes: int) -> Coord:
        """An index operand's value as a coordinate, held inside ``extent``: nothing outside is ever read."""
        last = self.builder.isub(self.extents(extent), 1)
        return self._clamped(self.math.from_vector(index), last, lanes)

    def _if_any(self, extent: Extent, pos: Position) -> Position:
        """``pos`` where an axis of ``extent`` has elements at all: from an empty one nothing is read."""
        if bounds(extent)[0] >= 1:
            return pos
        return self.math.restrict(pos, self.builder.icmp("gt", self.builder.ival(self.extents(extent)), 0))

    def _op_gather(self, node: Node, pos: Position) -> Steps:
        (x, index), axis = node.inputs, node.attrs["axis"]
        chosen = self._selected((yield (index, pos)), x.shape[axis], pos.lanes)
        there = pos.at([chosen if a == axis else c for a, c in enumerate(pos.coords)])
        return (yield (x, self._if_any(x.shape[axis], there)))

    def _op_index_select(self, node: Node, pos: Position) -> Steps:
        (x, index), axis = node.inputs, node.attrs["axis"]
        where = pos.at([pos.coords[axis]])
        if pos.lanes > 1 and where.uniform:  # one row for all lanes: the rest stays linear
            chosen = self._selected((yield (index, where.scalar())), x.shape[axis], 1)
        else:
            chosen = self._selected((yield (index, where)), x.shape[axis], pos.lanes)
        there = pos.at([chosen if a == axis else c for a, c in enumerate(pos.coords)])
        return (yield (x, self._if_any(x.shape[axis], there)))

    def _op_resample(self, node: Node, pos: Position) -> Steps:
        return (yield from resampling.steps(self, node, pos))
