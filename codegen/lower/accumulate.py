"""What a reduction carries through its loops: initial state, one step, merging two states, the result.

A state is a list of loop IR values of one lane count. Merging is associative up to rounding; the order in which a
kernel merges is fixed by its schedule, never by threads.
"""

from __future__ import annotations

import math
from typing import Any

from ...ir import dtypes
from ...ir.dims import product
from ...ir.graph import Node
from ..loopir import LoopBuilder, Val
from .arithmetic import constant, extreme
from .position import Extents, IndexMath, Position, compute_dtype

REDUCES = frozenset({"sum", "prod", "amax", "amin", "any", "all", "mean"})
ARGS = frozenset({"argmax", "argmin"})


class Accumulator:
    """Accumulates one reduce node: sum prod amax amin any all mean."""

    def __init__(self, builder: LoopBuilder, extents: Extents, node: Node) -> None:
        self.b = builder
        self.extents = extents
        self.node = node
        self.dtype = node.inputs[0].dtype
        self.fold_op = {"sum": "add", "mean": "add", "prod": "mul", "any": "or", "all": "and"}.get(node.op, "")

    def init(self, lanes: int) -> list[Val]:
        """The state of nothing."""
        return [constant(self.b, self.dtype, self._identity(), lanes)]

    def _identity(self) -> float | int | bool:
        op, d = self.node.op, self.dtype
        if op in ("amax", "amin"):
            low = op == "amax"
            if d.kind == "f":
                return -math.inf if low else math.inf
            return d.min if low else d.max
        return {"sum": 0, "mean": 0, "prod": 1, "any": False, "all": True}[op]

    def step(self, state: list[Val], x: Val, pos: Position) -> list[Val]:
        """``state`` with the elements ``x`` at ``pos``; masked-off lanes do not count."""
        if pos.mask is not None:
            x = self.b.select(pos.mask, x, constant(self.b, self.dtype, self._identity(), x.lanes))
        return self.merge(state, [x])

    def merge(self, first: list[Val], second: list[Val]) -> list[Val]:
        if self.fold_op:
            return [self.b.op(self.fold_op, first[0], second[0])]
        return [extreme(self.b, "max" if self.node.op == "amax" else "min", first[0], second[0])]

    def fold(self, state: list[Val]) -> list[Val]:
        """The lanes merged into one, in a fixed order."""
        (x,) = state
        if x.lanes == 1:
            return state
        if self.fold_op:
            return [self.b.horizontal(self.fold_op, x)]
        best = self.b.horizontal("max" if self.node.op == "amax" else "min", x)
        if x.dtype.kind != "f":
            return [best]
        # The pairwise fold may drop NaN: look for one separately.
        has_nan = self.b.horizontal("or", self.b.cmp("uno", x, x))
        return [self.b.select(has_nan, self.b.const(x.dtype, math.nan), best)]

    def finish(self, state: list[Val]) -> Val:
        """The node's result."""
        (x,) = state
        if self.node.op != "mean":
            return x
        shape = self.node.inputs[0].shape
        count = self.extents(product(shape[a] for a in self.node.attrs["axes"]))
        n = self.b.cast(self.b.ival(count), x.dtype)
        return self.b.op("div", x, self.b.splat(n, x.lanes))


class ArgAccumulator:
    """Accumulates argmax / argmin: the best value and the smallest index where it is; NaN is best."""

    fold_op = ""

    def __init__(self, builder: LoopBuilder, extents: Extents, node: Node) -> None:
        self.b = builder
        self.extents = extents
        self.node = node
        self.dtype = compute_dtype(node.inputs[0].dtype)
        self.math = IndexMath(builder, extents)
        self.better = "gt" if node.op == "argmax" else "lt"

    def init(self, lanes: int) -> list[Val]:
        d = self.dtype
        lowest: Any = (-math.inf if self.better == "gt" else math.inf) if d.kind == "f" else (
            d.min if self.better == "gt" else d.max
        )  # fmt: skip
        return [self.b.const(d, lowest, lanes), self.b.const(dtypes.int64, 2**62, lanes)]

    def step(self, state: list[Val], x: Val, pos: Position) -> list[Val]:
        b, lanes = self.b, x.lanes
        c = pos.coords[self.node.attrs["axis"]]
        index = b.ival(c.base) if lanes == 1 else self.math.vector(c, lanes)
        if pos.mask is not None:
            nothing = self.init(lanes)
            x, index = b.select(pos.mask, x, nothing[0]), b.select(pos.mask, index, nothing[1])
        return self.merge(state, [x, index])

    def merge(self, first: list[Val], second: list[Val]) -> list[Val]:
        b, (x, i), (y, j) = self.b, first, second
        wins = b.cmp(self.better, y, x)
        earlier = b.cmp("lt", j, i)
        ties = b.op("and", b.cmp("eq", y, x), earlier)
        if self.dtype.kind == "f":
            x_nan, y_nan = b.cmp("uno", x, x), b.cmp("uno", y, y)
            both = b.op("and", b.op("and", x_nan, y_nan), earlier)
            only = b.op("and", y_nan, b.op("not", x_nan))
            wins = b.op("or", b.op("and", wins, b.op("not", x_nan)), b.op("or", both, only))
        wins = b.op("or", wins, ties)
        return [b.select(wins, y, x), b.select(wins, j, i)]

    def fold(self, state: list[Val]) -> list[Val]:
        x, i = state
        if x.lanes == 1:
            return state
        best = [self.b.extract(x, 0), self.b.extract(i, 0)]
        for lane in range(1, x.lanes):
            best = self.merge(best, [self.b.extract(x, lane), self.b.extract(i, lane)])
        return best

    def finish(self, state: list[Val]) -> Val:
        return state[1]


def accumulator(builder: LoopBuilder, extents: Extents, node: Node) -> Accumulator | ArgAccumulator:
    """The accumulator of a reduce or argmax / argmin node."""
    return (ArgAccumulator if node.op in ARGS else Accumulator)(builder, extents, node)


def reduced_axes(node: Node) -> tuple[int, ...]:
    """The axes a reduce or argmax / argmin node reduces."""
    return (node.attrs["axis"],) if node.op in ARGS else tuple(node.attrs["axes"])
