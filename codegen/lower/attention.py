"""Fused attention: ``softmax(f(q @ k)) @ v`` without the matrix of scores in memory.

One iteration takes some vectors of query rows of one head. Everything is kept transposed, queries along the lanes:
``scores[key][query]`` is a product of keys (read in place, element by element) with the queries, which are transposed
into scratch memory once; maxima and sums of softmax then are plain vector operations without any folding of lanes, and
``result[e][query]`` is a product of values (in place again) with the weights. Only the result is transposed back.

If the scores of all keys fit in L1 they are normalised at once. Else keys come in blocks, and what is known so far is
scaled down whenever a block raises the maximum (online softmax). A row in which every score is -inf gives NaN, as
softmax does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...ir.dims import Extent, bounds, product
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.target import Target
from .. import schedule as scheduling
from .. import vmath
from ..contraction import Axis, Contraction, Epilogue, Generator, Operand, Segment
from ..loopir import LoopBuilder, Val
from ..schedule import ContractionSchedule, Problem, upper
from .attention_group import AttentionGroup, Matrix
from .common import Extents, RegionEvaluator
from .contraction import decode, grain
from .contraction_operands import ONE
from .kernel import LoweredKernel
from .position import Coord, Position
from .view import Buffers

_MOST_VECTORS = 4  # of queries in one iteration
_MOST_KEYS = 256  # in a block: sums of more terms would need two levels


@dataclass(frozen=True)
class Plan:
    """``panel`` queries at a time against ``block`` keys; ``single``: one block holds them all."""

    lanes: int
    nb: int
    block: int
    single: bool
    first: ContractionSchedule
    second: ContractionSchedule

    @property
    def panel(self) -> int:
        return self.lanes * self.nb

    def __str__(self) -> str:
        how = "all keys at once" if self.single else f"blocks of {self.block} keys, online softmax"
        tiles = " and ".join(f"{s.tile[0]} x {s.nb}" for s in (self.first, self.second))
        return f"attention: {self.panel} queries at a time, {how}; tiles {tiles} vectors of {self.lanes}"


def supports(node: Node, target: Target) -> str | None:
    """None if ``lower`` accepts the node, else why not."""
    try:
        AttentionGroup(node)
    except UnsupportedError as error:
        return str(error)
    return None


def make_plan(group: AttentionGroup, target: Target) -> Plan:
    """Vectors of queries and block of keys with the least estimated time of both products."""
    lanes, size = target.lanes(group.dtype), group.dtype.itemsize
    most = bounds(group.count)[1]
    best: tuple[float, Plan] | None = None
    for nb in range(1, min(_MOST_VECTORS, max(1, -(-upper(group.length) // lanes))) + 1):
        width = lanes * nb
        room = target.l1_bytes // (width * size)
        single = most <= min(room, _MOST_KEYS)
        block = most if single else max(32, min(_MOST_KEYS, room // 2) // 16 * 16)
        first = Problem(group.dtype, (block, 1), width, group.depth, group.depth, nb=nb)
        second = Problem(group.dtype, (group.width, 1), width, block, block, nb=nb)
        schedules = [replace(scheduling.choose(target, p), chunk=1 << 30) for p in (first, second)]
        panels = -(-upper(group.length) // width)
        seconds = sum(
            scheduling.estimate(target, p, s) for p, s in zip((first, second), schedules, strict=True)
        ) * panels / block  # fmt: skip
        if best is None or seconds < best[0] * 0.999:
            best = (seconds, Plan(lanes, nb, block, single, *schedules))
    assert best is not None
    return best[1]


def lower(node: Node, target: Target) -> LoweredKernel:
    """The kernel of a ``fused`` node of kind "attention"."""
    group = AttentionGroup(node)
    plan = make_plan(group, target)
    b = LoopBuilder("kernel", target)
    extents = Extents(b)
    touched = [m.root for m in (group.queries, group.keys, group.values)] + group.leaves
    buffers = Buffers(b, extents, group.view, touched)
    counters = [(f"batch{i}", batch.extent) for i, batch in enumerate(group.batches)]
    counters.append(("panel", (group.length + (plan.panel - 1)) // plan.panel))
    emitter = _Emitter(b, extents, group, plan, buffers)

    def body(it: Any) -> None:
        emitter.iteration(decode(b, extents, it, counters))
        if ahead:
            emitter.fetch(decode(b, extents, b.iadd(it, extents(counters[-1][1])), counters))

    ahead = emitter.fetches(target, counters[-1][1])
    b.loop(b.begin, b.end, body)
    trip = product(count for _, count in counters)
    cells = float(upper(product(group.logits.shape), 1 << 40))
    flops = cells * (2.0 * (group.depth + group.width) + 8 + len(group.chain))
    moved = float(sum(upper(v.type.nbytes, 1 << 40) for v in buffers.values))
    return LoweredKernel(
        node=node,
        function=b.finish(),
        values=buffers.values,
        extents=extents.expressions,
        trip=trip,
        grain=grain(target, flops, moved, trip, group.dtype.itemsize),
        schedule=str(plan),
        flops=flops,
        bytes=moved,
    )


class _Emitter:
    def __init__(self, b: LoopBuilder, extents: Extents, group: AttentionGroup, plan: Plan, buffers: Buffers) -> None:
        self.b, self.extents, self.group, self.plan, self.buffers = b, extents, group, plan, buffers
        self.lanes, self.nb, self.panel = plan.lanes, plan.nb, plan.panel
        rows = {
            "queries": group.depth, "scores": plan.block, "result": group.width,
            "top": 1, "sum": 1, "shrink": 1,
        }  # fmt: skip
        self._offsets = {name: b.reserve(group.dtype, count * self.panel) for name, count in rows.items()}
        length = group.length
        self.ragged = not (isinstance(length, int) and length % self.panel == 0)

    def memory(self, name: str) -> Val:
        """Pointer to a scratch array of rows of ``panel`` elements."""
        return self.b.scratch_at(self.group.dtype, self._offsets[name])

    def const(self, value: float) -> Val:
        return self.b.const(self.group.dtype, value, self.lanes)

    def vectors(self, pointer: Val, row: Any = 0) -> list[Val]:
        """The vectors of a row of scratch."""
        at = self.b.at(pointer, self.b.imul(row, self.panel))
        return [self.b.load(at, v * self.lanes, self.lanes) for v in range(self.nb)]

    def put(self, pointer: Val, values: Sequence[Val], row: Any = 0) -> None:
        at = self.b.at(pointer, self.b.imul(row, self.panel))
        for v, value in enumerate(values):
            self.b.store(at, value, v * self.lanes)

    # -- one iteration ------------------------------------------------------------------------------
    def iteration(self, at: dict[str, Any]) -> None:
        b, ext, group, plan = self.b, self.extents, self.group, self.plan
        self.at = at
        self.row = b.imul(at["panel"], self.panel)
        queries, self.keys, self.values, result = self._start(at)
        self._transpose_queries(queries)
        if plan.single:
            self._block(0, group.count, True)
        else:
            self.put(self.memory("top"), [self.const(-math.inf)] * self.nb)
            self.put(self.memory("sum"), [self.const(0.0)] * self.nb)
            b.loop(0, group.width, lambda e: self.put(self.memory("result"), [self.const(0.0)] * self.nb, e))
            blocks = ext(group.count // plan.block)
            b.loop(0, blocks, lambda i: self._block(b.imul(i, plan.block), plan.block, False))
            rest = group.count % plan.block
            if not isinstance(rest, int):
                tail = rest
                b.when(b.icmp("gt", ext(rest), 0), lambda: self._block(b.imul(blocks, plan.block), tail, False))
            elif rest:
                self._block(b.imul(blocks, plan.block), rest, False)
            self._normalise()
        self._store_result(result)

    def _start(self, at: dict[str, Any]) -> list[Val]:
        """Pointers to the first elements of queries, keys, values and result."""
        b, ext, group = self.b, self.extents, self.group
        pointers = []
        for i, m in enumerate((group.queries, group.keys, group.values, group.result)):
            offset = ext(m.base)
            for k, batch in enumerate(group.batches):
                offset = b.iadd(offset, b.imul(at[f"batch{k}"], ext(batch.strides[i])))
            pointers.append(b.at(self._pointer(m), offset))
        return pointers

    def fetches(self, target: Target, panels: Extent) -> bool:
        """Whether each iteration asks for its share of what the next head reads: heads that wait in L2 while this one
        is computed, at addresses too far apart for the hardware to guess."""
        group, size = self.group, self.group.dtype.itemsize
        heads = upper(group.count) * (group.depth + group.width) * size
        rows = all(m.column == 1 for m in (group.queries, group.keys, group.values))
        return rows and bool(group.batches) and heads <= target.l2_bytes // 4 and isinstance(panels, int)

    def fetch(self, at: dict[str, Any]) -> None:
        """Prefetch the share of one panel of queries, keys and values at ``at``."""
        b, group = self.b, self.group
        panels = -(-upper(group.length) // self.panel)
        parts = zip(
            (group.queries, group.keys, group.values), self._start(at)[:3],
            (group.length, group.count, group.count), (group.depth, group.depth, group.width), strict=True,
        )  # fmt: skip
        for m, pointer, rows, columns in parts:
            share = -(-upper(rows) // panels)
            first = b.imul(at["panel"], share)
            line = 64 // m.root.dtype.itemsize

            def row(i: Any, m=m, pointer=pointer, first=first, columns=columns, line=line) -> None:
                start = b.at(pointer, b.imul(b.iadd(first, i), self.extents(m.row)))
                for c in range(0, columns, line):
                    b.prefetch(start, c, level=2)

            b.loop(0, share, row)

    def _pointer(self, m: Matrix) -> Val:
        access = self.buffers.accesses.get(m.root)
        return access.pointer if access is not None else self.buffers.targets[self.group.node.outputs[0]].pointer

    def _block(self, start: Any, count: Extent, single: bool) -> None:
        """Keys from ``start`` on."""
        self._score(start, count)
        top = self._maxima(start, count)
        if single:
            sums = self._weights(count, top)
            self.put(self.memory("shrink"), [self.b.op("div", self.const(1.0), s) for s in sums])
            self._mix(start, count, lambda value, load: [self.b.op("mul", value, load(0))], 1)
            return
        b = self.b
        # Subtracting zero where there is nothing but -inf so far keeps those weights zero instead of NaN.
        old = self.vectors(self.memory("top"))
        top = [b.op("max", o, t) for o, t in zip(old, top, strict=True)]
        none = self.const(-math.inf)
        safe = [b.select(b.cmp("eq", t, none), self.const(0.0), t) for t in top]
        shrink = [vmath.exp_nonpositive(b, b.op("sub", o, s)) for o, s in zip(old, safe, strict=True)]
        self.put(self.memory("top"), top)
        self.put(self.memory("shrink"), shrink)
        sums = self._weights(count, safe)
        known = self.vectors(self.memory("sum"))
        self.put(
            self.memory("sum"), [b.op("fma", k, f, s) for k, f, s in zip(known, shrink, sums, strict=True)]
        )  # fmt: skip
        self._mix(start, count, lambda value, load: [b.op("fma", load(1), load(0), value)], 2)

    # -- the two products ---------------------------------------------------------------------------
    def _rows(self) -> Operand:
        """A scratch array as an operand whose rows are the axis ``row``."""
        return Operand(0, {"row": self.panel}, 0, self.lanes, 1, padded=True)

    def _product(
        self, rows: Extent, terms: Extent, a: tuple[Val, Extent, Extent], right: str, out: str, extras: Sequence[str],
        epilogue: Epilogue, schedule: ContractionSchedule,
    ) -> None:  # fmt: skip
        """scratch ``out``[row] = sum over k of a[row, k] * scratch ``right``[k], through the epilogue."""
        pointer, row, k = a
        one = Operand(0, {}, 0, self.lanes, 1, padded=True)
        spec = Contraction(
            self.group.dtype,
            (),
            (Axis("row", rows), ONE),
            self.panel,
            (Segment((Axis("k", terms),)),),
            Operand(0, {"row": row, "k": k}),
            Operand(0, {"k": self.panel}, 0, self.lanes, 1, padded=True),
            (self._rows(),),
            tuple(self._rows() if name == "result" else one for name in extras),
        )
        generator = Generator(
            self.b, self.extents, spec, schedule, pointer, self.memory(right), [self.memory(out)],
            [self.memory(name) for name in extras], epilogue,
        )  # fmt: skip
        generator.iteration({"panel": 0, "chunk": 0})

    def _score(self, start: Any, count: Extent) -> None:
        b, keys = self.b, self.group.keys
        row = self.extents(keys.row)
        pointer = b.at(self.keys, b.imul(start, row))

        def finish(value: Val, load: Callable[[int], Val]) -> list[Val]:
            return [self._logit(value, 0, None) if self.group.uniform else value]

        left = (pointer, keys.row, keys.column)
        self._product(count, self.group.depth, left, "queries", "scores", (), finish, self.plan.first)

    def _mix(self, start: Any, count: Extent, epilogue: Epilogue, extras: int) -> None:
        b, values = self.b, self.group.values
        pointer = b.at(self.values, b.imul(start, self.extents(values.row)))
        left = (pointer, values.column, values.row)
        names = ("shrink", "result")[:extras]
        self._product(self.group.width, count, left, "scores", "result", names, epilogue, self.plan.second)

    # -- softmax ------------------------------------------------------------------------------------
    def _logit(self, score: Val, vector: int, key: Any) -> Val:
        """``f(score)``; ``key`` None where the chain does not look at positions."""
        group, b = self.group, self.b
        rank = group.scores.type.rank
        coords = [*[Coord(0)] * (rank - 2), Coord(0, 1, self.lanes), Coord(0)]
        mask = None
        if key is not None:
            for k, batch in enumerate(group.batches):
                moved = b.imul(self.at[f"batch{k}"], self.extents(batch.weight))
                coords[batch.axis] = Coord(b.iadd(coords[batch.axis].base, moved))
            first = b.iadd(self.row, vector * self.lanes)
            coords[-2:] = [Coord(first, 1, self.lanes), Coord(key)]
            if self.ragged:
                mask = b.lanes_below(b.imax(b.isub(self.extents(group.length), first), 0), self.lanes)
        scope: RegionEvaluator = self.buffers.evaluator(self.extents).scope({group.scores: score})
        return scope.value(group.logits, Position(tuple(coords), score.lanes, mask))

    def _sweep(
        self, count: Extent, unroll: int, body: Callable[[Any, list[Val]], list[Val]], start: list[Val]
    ) -> list[list[Val]]:
        """``body(key, state)`` for all keys, ``unroll`` states in turn."""
        b, n = self.b, len(start)
        keys = self.extents(count)

        def steps(many: int) -> Callable[..., list[Val]]:
            def run(i: Any, *carried: Val) -> list[Val]:
                out = list(carried)
                for u in range(many):
                    out[u * n : u * n + n] = body(b.iadd(i, u), out[u * n : u * n + n])
                return out

            return run

        whole = b.imul(b.idiv(keys, unroll), unroll)
        state = b.loop(0, whole, steps(unroll), step=unroll, carry=start * unroll)
        state = b.loop(whole, keys, steps(1), carry=state)
        return [state[u * n : u * n + n] for u in range(unroll)]

    def _maxima(self, start: Any, count: Extent) -> list[Val]:
        b, scores = self.b, self.memory("scores")

        def body(key: Any, best: list[Val]) -> list[Val]:
            found = self.vectors(scores, key)
            if not self.group.uniform:
                found = [self._logit(x, v, b.iadd(start, key)) for v, x in enumerate(found)]
                self.put(scores, found, key)
            return [b.op("max", x, y) for x, y in zip(best, found, strict=True)]

        banks = self._sweep(
            count, max(1, 8 // self.nb) if self.group.uniform else 1, body, [self.const(-math.inf)] * self.nb
        )
        return [_folded(b, "max", column) for column in zip(*banks, strict=True)]

    def _weights(self, count: Extent, top: list[Val]) -> list[Val]:
        """Scores to e**(score - top); returns their sums over the keys."""
        b, scores = self.b, self.memory("scores")

        def body(key: Any, sums: list[Val]) -> list[Val]:
            found = self.vectors(scores, key)
            weights = [vmath.exp_nonpositive(b, b.op("sub", x, t)) for x, t in zip(found, top, strict=True)]
            self.put(scores, weights, key)
            return [b.op("add", s, w) for s, w in zip(sums, weights, strict=True)]

        banks = self._sweep(count, max(1, 4 // self.nb), body, [self.const(0.0)] * self.nb)
        return [_folded(b, "add", column) for column in zip(*banks, strict=True)]

    def _normalise(self) -> None:
        b, result = self.b, self.memory("result")
        scale = [b.op("div", self.const(1.0), s) for s in self.vectors(self.memory("sum"))]

        def row(e: Any) -> None:
            found = self.vectors(result, e)
            self.put(result, [b.op("mul", x, y) for x, y in zip(found, scale, strict=True)], e)

        b.loop(0, self.group.width, row)

    # -- transposing in and out ---------------------------------------------------------------------
    def _transpose_queries(self, source: Val) -> None:
        """scratch[d][query] = factor * q[query][d]; queries behind the last one repeat it."""
        b, group, lanes = self.b, self.group, self.lanes
        target, m = self.memory("queries"), self.group.queries
        row, column = self.extents(m.row), self.extents(m.column)
        last = b.isub(self.extents(group.length), 1)
        factor = self.const(group.factor) if group.factor != 1.0 else None
        whole = group.depth // lanes * lanes if isinstance(column, int) and column == 1 and lanes > 1 else 0

        def vector(v: Any) -> None:
            first = b.iadd(self.row, b.imul(v, lanes))
            to = b.at(target, b.imul(v, lanes))
            rows = [b.iadd(first, r) for r in range(lanes)]
            if self.ragged:
                rows = [b.imin(r, last) for r in rows]
            lines = [b.at(source, b.imul(r, row)) for r in rows]

            def square(d: Any) -> None:
                turned = b.transpose([b.load(b.at(line, d), 0, lanes) for line in lines])
                for c, x in enumerate(turned):
                    x = x if factor is None else b.op("mul", x, factor)
                    b.store(to, x, b.imul(b.iadd(d, c), self.panel))

            def single(d: Any) -> None:
                for r, line in enumerate(lines):
                    x = b.load(line, b.imul(d, column))
                    x = x if factor is None else b.op("mul", x, b.const(group.dtype, group.factor))
                    b.store(to, x, b.iadd(b.imul(d, self.panel), r))

            b.loop(0, whole, square, step=lanes)
            b.loop(whole, group.depth, single)

        b.loop(0, self.nb, vector)

    def _store_result(self, target: Val) -> None:
        """result[query][e] = scratch[e][query] for the queries that exist."""
        b, group, lanes = self.b, self.group, self.lanes
        source, m = self.memory("result"), self.group.result
        row, column = self.extents(m.row), self.extents(m.column)
        whole = group.width // lanes * lanes if isinstance(column, int) and column == 1 and lanes > 1 else 0
        left = b.isub(self.extents(group.length), self.row)

        def vector(v: Any) -> None:
            place = b.imul(v, lanes)
            to = b.at(target, b.imul(b.iadd(self.row, place), row))
            exists = b.imin(b.isub(left, place), lanes) if self.ragged else lanes

            def square(e: Any) -> None:
                at = b.at(source, b.iadd(b.imul(e, self.panel), place))
                turned = b.transpose([b.load(at, c * self.panel, lanes) for c in range(lanes)])
                for r, x in enumerate(turned):
                    line = b.iadd(b.imul(row, r), e)
                    if self.ragged:
                        b.when(b.icmp("lt", r, exists), lambda x=x, line=line: b.store(b.at(to, line), x))
                    else:
                        b.store(b.at(to, line), x)

            def single(e: Any) -> None:
                at = b.at(source, b.iadd(b.imul(e, self.panel), place))

                def element(r: Any) -> None:
                    b.store(b.at(to, b.iadd(b.imul(r, row), b.imul(e, column))), b.load(at, r))

                b.loop(0, exists, element)

            b.loop(0, whole, square, step=lanes)
            b.loop(whole, group.width, single)

        b.loop(0, self.nb, vector)


def _folded(b: LoopBuilder, op: str, values: Sequence[Val]) -> Val:
    """The values joined pairwise."""
    found = list(values)
    while len(found) > 1:
        half = len(found) // 2
        found = [b.op(op, x, y) for x, y in zip(found[:half], found[half : 2 * half], strict=True)] + found[2 * half :]
    return found[0]
