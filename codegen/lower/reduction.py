"""Kernels for reductions, alone or fused with the elementwise operators around them.

A group reduces the same axes of one full space, maybe several times in a row (softmax, layer norm, batch statistics).
Kept elements are independent and run in parallel; for each of them (or for some vectors of them, where the contiguous
axis is kept) the kernel sweeps over the reduced axes once per level of dependent reductions, and the last sweeps
write full-space results. Expensive values that a later sweep needs again wait in scratch memory when a row fits.

Summation order: lanes and unrolled accumulators sum separately, every loop level and every ``BLOCK`` vectors start from
zero, and partial sums are merged innermost first. It depends on the schedule only. One kept element is always
summed by one thread: a full reduction of a big tensor uses one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.dims import Extent, bounds, product
from ...ir.errors import UnsupportedError
from ...ir.graph import Node, Value
from ...ir.target import Target
from ..loopir import LoopBuilder, Val
from . import arithmetic
from .accumulate import Accumulator, ArgAccumulator, accumulator
from .common import Extents, RegionEvaluator
from .elementwise import inplace_operands, store_lanes
from .kernel import LoweredKernel
from .nest import grain_for, has_masks, upper
from .position import ZERO, Coord, Position, compute_dtype, zero_of
from .reduction_plan import Plan, ReductionGroup, divides, make_plan
from .view import Buffers

BLOCK = 64  # vectors that one accumulator adds before it is merged into the next level
States = "list[list[list[Val]]]"  # [accumulator set][reduce node] -> state


def supports(node: Node, target: Target) -> str | None:
    """None if ``lower`` accepts the node, else why not."""
    try:
        group = ReductionGroup(node)
    except UnsupportedError as error:
        return str(error)
    for v in [*node.inputs, *node.outputs]:
        layout = v.type.layout
        if len({a for a, _ in layout.blocks}) != len(layout.blocks):
            return f"%{v.name}: layout {layout} splits one axis twice"
    for r in group.full:
        layout = r.outer.type.layout
        for axis, (before, after) in enumerate(layout.halo):
            if (before or after) and axis not in group.axes:
                return f"%{r.outer.name}: halo on axis {axis}, which is not reduced"
        padded = [a for a, n in layout.blocks if not divides(n, r.outer.shape[a])]
        if any(a in group.axes for a in padded):
            return f"%{r.outer.name}: layout {layout} pads an axis that is reduced"
        if len(padded) > 1:
            return f"%{r.outer.name}: layout {layout} pads several axes"
    for r in group.reduced:
        layout = r.outer.type.layout
        if layout.has_halo or any(not divides(n, r.outer.shape[a]) for a, n in layout.blocks):
            return f"%{r.outer.name}: layout {layout} pads a reduced result"
    return None


def lower(node: Node, target: Target) -> LoweredKernel:
    """The kernel of a reduction, or of a ``fused`` group around reductions."""
    reason = supports(node, target)
    if reason is not None:
        raise UnsupportedError(f"{node!r}: {reason}")
    group = ReductionGroup(node)
    plan, leaves = make_plan(group, target)
    b = LoopBuilder("kernel", target)
    extents = Extents(b)
    buffers = Buffers(b, extents, group.view, [leaf.value for leaf in leaves if group.view.stops(leaf.value)])
    emitter = _Emitter(b, extents, group, plan, buffers)
    trip = emitter.kernel()
    total = float(sum(upper(v.type.nbytes) for v in buffers.values))
    weight = sum(1 + 8 * (n.op in arithmetic.EXPENSIVE) for n in group.nodes)
    elements = float(upper(product(group.space)))
    steps = max(1, upper(trip))
    return LoweredKernel(
        node=node,
        function=b.finish(),
        values=buffers.values,
        extents=extents.expressions,
        trip=trip,
        grain=grain_for(total / steps, elements * weight / 8 / steps),
        schedule=f"reduction in {group.sweeps} sweep(s): {plan.describe()}",
        flops=elements * weight,
        bytes=total,
        # Earlier sweeps' results may not: later sweeps read the operands again.
        inplace=inplace_operands(
            group.view, leaves, [r.outer for r in group.results_in(group.sweeps - 1)], len(group.space)
        ),
    )


class _Emitter:
    """Writes the kernel of a plan."""

    def __init__(self, b: LoopBuilder, extents: Extents, group: ReductionGroup, plan: Plan, buffers: Buffers) -> None:
        self.b = b
        self.extents = extents
        self.group = group
        self.plan = plan
        self.buffers = buffers
        self.rank = len(group.space)
        self.masks = has_masks(b.target)
        self.accumulators = {n: accumulator(b, extents, n) for n in group.reduces}
        width = plan.lanes * plan.kept_vectors if plan.along_kept else 1
        row = bounds(product(g.extent for g in plan.reduced))[1]
        self.caches: dict[Value, Val] = {}
        for v in plan.cached:
            self.caches[v] = b.scratch(compute_dtype(v.dtype), row * width + plan.lanes)

    # -- the parallel loop --------------------------------------------------------------------------
    def kernel(self) -> Extent:
        """Emit all pieces; returns the trip count."""
        plan = self.plan
        outer = product(g.extent for g in plan.kept)
        if not plan.along_kept:
            self._piece(0, outer, 1, 0, 1, 1, False)
            return outer
        wide = plan.lanes * plan.kept_vectors
        extent = plan.vector.extent
        whole = extent // wide
        blocks = [dict(r.outer.type.layout.blocks).get(plan.vector.axis) for r in self.group.full]
        size = max([n for n in blocks if n is not None], default=1)
        left = (extent + (size - 1)) // size * size - whole * wide  # the padding of a last block is written too
        # Whole groups of vectors first, then what is left: masked vectors or single elements.
        end = self._piece(0, outer, whole, 0, plan.lanes, plan.kept_vectors, False)
        if isinstance(left, int) and left == 0:
            return end
        lanes = plan.lanes if size > 1 or self.masks else 1
        count = (left + (lanes - 1)) // lanes
        return self._piece(end, outer, count, whole * wide, lanes, 1, lanes > 1)

    def _piece(
        self, start: Extent, outer: Extent, count: Extent, origin: Extent, lanes: int, vectors: int, masked: bool
    ) -> Extent:
        """Kept elements from ``origin`` on along the vector axis, ``count`` steps of ``vectors`` vectors."""
        b, ext = self.b, self.extents
        end = start + outer * count
        if isinstance(end, int) and end == start:
            return end

        def iteration(t: Val) -> None:
            rest: Any = b.isub(t, ext(start))
            bases: dict[int, Coord] = {}
            if self.plan.along_kept:
                n = ext(count)
                step = rest if not self.plan.kept else b.irem(rest, n)
                rest = b.idiv(rest, n)
                base = b.iadd(b.imul(step, lanes * vectors), ext(origin))
                align = lanes if isinstance(origin, int) and origin % lanes == 0 else 1
                bases[self.plan.vector.axis] = Coord(base, 1 if lanes > 1 else 0, align)
            for k in range(len(self.plan.kept) - 1, -1, -1):
                g = self.plan.kept[k]
                digit = rest if k == 0 else b.irem(rest, ext(g.extent))
                rest = b.idiv(rest, ext(g.extent)) if k else rest
                bases[g.axis] = Coord(digit)
            self._element(bases, lanes, vectors, masked)

        b.loop(b.imax(b.begin, ext(start)), b.imin(b.end, ext(end)), iteration)
        return end

    # -- one kept element (or some vectors of them) -------------------------------------------------
    def _kept_positions(self, bases: dict[int, Coord], lanes: int, vectors: int, masked: bool) -> list[Position]:
        b = self.b
        out = []
        for v in range(vectors):
            coords = [ZERO] * self.rank
            mask = None
            for axis, c in bases.items():
                coords[axis] = c
            if self.plan.along_kept:
                axis = self.plan.vector.axis
                c = bases[axis]
                coords[axis] = Coord(b.iadd(c.base, v * lanes), c.step, c.align)
                if masked:
                    mask = b.lanes_below(b.isub(self.extents(self.plan.vector.extent), coords[axis].base), lanes)
            out.append(Position(tuple(coords), lanes, mask))
        return out

    def _element(self, bases: dict[int, Coord], lanes: int, vectors: int, masked: bool) -> None:
        group = self.group
        kept = self._kept_positions(bases, lanes if self.plan.along_kept else 1, vectors, masked)
        base = self.buffers.evaluator(self.extents)
        scopes = [base.scope() for _ in kept]
        for sweep in range(group.sweeps):
            given = [self._kept_values(sweep, s, p) for s, p in zip(scopes, kept, strict=True)]
            states = self._sweep(sweep, [s.scope(g) for s, g in zip(scopes, given, strict=True)], kept)
            for k, scope in enumerate(scopes):
                for n, state in zip(group.reduces_in(sweep), states[k], strict=True):
                    result = self.accumulators[n].finish(state)
                    scopes[k] = scope = scope.scope({n.output: result})
        for r in group.full:
            self._clear_halo(self.buffers.targets[r.outer], kept)
        for p, scope in zip(kept, scopes, strict=True):
            for r in group.reduced:
                coords = p.coords if r.inner.shape == group.kept_shape and len(r.inner.shape) == self.rank else tuple(
                    c for a, c in enumerate(p.coords) if a not in group.axes
                )  # fmt: skip
                where = p.at(coords)
                store_lanes(self.buffers.targets[r.outer], where, scope.value(r.inner, where))

    def _kept_values(self, sweep: int, scope: RegionEvaluator, pos: Position) -> dict[Value, Val]:
        """What the sweep's full-space nodes read of kept shape, computed once before the loops."""
        group, found = self.group, {}
        if group.kept_shape == group.space:
            return {}
        for n in group.evaluated_in(sweep):
            if n.output.shape != group.space:
                continue
            for v in n.inputs:
                if v.shape == group.kept_shape and v not in found and v not in group.view.immediates:
                    found[v] = scope.value(v, pos)
        return found

    # -- sweeps -------------------------------------------------------------------------------------
    def _sweep(self, sweep: int, scopes: list[RegionEvaluator], kept: list[Position]) -> States:
        """Run over the reduced axes; per kept position the states of this sweep's reductions."""
        accs = [self.accumulators[n] for n in self.group.reduces_in(sweep)]
        state = self._loops(0, sweep, scopes, kept, {}, 0, accs)
        if self.plan.along_kept:
            return [self._merge_banks(accs, state.banks[k :: len(kept)]) for k in range(len(kept))]
        folded = self._merge_banks(accs, state.banks)
        result = [a.fold(s) for a, s in zip(accs, folded, strict=True)]
        if state.single is not None:
            result = [a.merge(s, t) for a, s, t in zip(accs, result, state.single, strict=True)]
        return [result]

    def _merge_banks(self, accs: list[Accumulator | ArgAccumulator], banks: States) -> list[list[Val]]:
        while len(banks) > 1:
            half = len(banks) // 2
            pairs = [
                [a.merge(x, y) for a, x, y in zip(accs, banks[k], banks[k + half], strict=True)] for k in range(half)
            ]
            banks = pairs + banks[2 * half :]
        return banks[0]

    @property
    def _single_tail(self) -> bool:
        """Whether the end of a reduced row goes through single elements, for want of masks."""
        plan = self.plan
        whole = isinstance(plan.vector.extent, int) and plan.vector.extent % plan.lanes == 0
        return not plan.along_kept and plan.lanes > 1 and not self.masks and not whole

    def _fresh(self, accs: list[Accumulator | ArgAccumulator], banks: int, lanes: int) -> _State:
        single = [a.init(1) for a in accs] if self._single_tail else None
        return _State([[a.init(lanes) for a in accs] for _ in range(banks)], single)

    def _loops(
        self, level: int, sweep: int, scopes: list[RegionEvaluator], kept: list[Position], at: dict[int, Coord],
        slot: Any, accs: list[Accumulator | ArgAccumulator],
    ) -> _State:  # fmt: skip
        """The loops from ``level`` inwards, from fresh states."""
        b, plan = self.b, self.plan
        g = plan.reduced[level]
        extent = self.extents(g.extent)
        if level == len(plan.reduced) - 1:
            return self._innermost(sweep, scopes, kept, at, slot, accs, extent)
        lanes = plan.lanes if not plan.along_kept else kept[0].lanes
        total = self._fresh(accs, self._banks(kept), lanes)
        inner = self.extents(product(x.extent for x in plan.reduced[level + 1 :]))

        def body(i: Any, *carried: Val) -> list[Val]:
            deeper = {**at, g.axis: Coord(i)}
            part = self._loops(level + 1, sweep, scopes, kept, deeper, b.iadd(slot, b.imul(i, inner)), accs)
            return total.like(carried).merged(accs, part).values()

        return total.like(b.loop(0, extent, body, carry=total.values()))

    def _banks(self, kept: list[Position]) -> int:
        return len(kept) * self.plan.unroll if self.plan.along_kept else self.plan.unroll

    def _innermost(
        self, sweep: int, scopes: list[RegionEvaluator], kept: list[Position], at: dict[int, Coord], slot: Any,
        accs: list[Accumulator | ArgAccumulator], extent: Any,
    ) -> _State:  # fmt: skip
        b, plan = self.b, self.plan
        lanes = kept[0].lanes if plan.along_kept else plan.lanes
        unit = 1 if plan.along_kept else lanes  # reduced elements per vector
        wide = unit * plan.unroll
        block = wide * BLOCK
        start = self._fresh(accs, self._banks(kept), lanes)

        def some(i: Any, state: _State, count: int) -> _State:
            """``count`` steps from reduced index ``i`` on."""
            banks = list(state.banks)
            places = [(b.iadd(i, u * unit), u) for u in range(count)]
            return _State(self._step(sweep, scopes, kept, at, places, slot, accs, banks, lanes, None), state.single)

        def run(low: Any, count: Any, step: int, n: int, state: _State) -> _State:
            if isinstance(count, int) and count == 0:
                return state
            if isinstance(count, int) and count == step:
                return some(low, state, n)
            return state.like(
                b.loop(0, count, lambda k, *c: some(b.iadd(low, k), state.like(c), n).values(), step=step,
                       carry=state.values())
            )  # fmt: skip

        whole = b.imul(b.idiv(extent, wide), wide)
        state = start
        low: Any = 0
        if upper(plan.reduced[-1].extent) > 2 * block:
            blocks = b.idiv(whole, block)

            def one_block(k: Any, *carried: Val) -> list[Val]:
                part = run(b.imul(k, block), block, wide, plan.unroll, self._fresh(accs, self._banks(kept), lanes))
                return state.like(carried).merged(accs, part).values()

            state = state.like(b.loop(0, blocks, one_block, carry=state.values()))
            low = b.imul(blocks, block)
        state = run(low, b.isub(whole, low), wide, plan.unroll, state)
        full = b.imul(b.idiv(extent, unit), unit)
        if plan.unroll > 1:
            state = run(whole, b.isub(full, whole), unit, 1, state)
        rest = b.isub(extent, full)
        if plan.along_kept or lanes == 1 or (isinstance(rest, int) and rest == 0):
            return state
        if self.masks:
            return self._masked_tail(sweep, scopes, kept, at, slot, accs, full, rest, state, lanes)

        def single(i: Any, *carried: Val) -> list[Val]:
            banks = [_unflatten(carried, [len(a.init(1)) for a in accs])]
            place = [(b.iadd(full, i), 0)]
            return _flatten(self._step(sweep, scopes, kept, at, place, slot, accs, banks, 1, None))

        assert state.single is not None
        done = b.loop(0, rest, single, carry=_flatten([state.single]))
        return _State(state.banks, _unflatten(done, [len(s) for s in state.single]))

    def _masked_tail(
        self, sweep: int, scopes: list[RegionEvaluator], kept: list[Position], at: dict[int, Coord], slot: Any,
        accs: list[Accumulator | ArgAccumulator], full: Any, rest: Any, state: _State, lanes: int,
    ) -> _State:  # fmt: skip
        b = self.b

        def tail(_: Any, *carried: Val) -> list[Val]:
            mask = b.lanes_below(rest, lanes)
            banks = list(state.like(carried).banks)
            out = self._step(sweep, scopes, kept, at, [(full, 0)], slot, accs, banks, lanes, mask)
            return _State(out, None).values()

        # A loop of at most one iteration: there is no tail when rest is zero.
        return state.like(b.loop(0, b.imin(rest, 1), tail, carry=state.values()))

    def _step(
        self, sweep: int, scopes: list[RegionEvaluator], kept: list[Position], at: dict[int, Coord],
        places: list[tuple[Any, int]], slot: Any, accs: list[Accumulator | ArgAccumulator], banks: States,
        lanes: int, mask: Val | None,
    ) -> States:  # fmt: skip
        """Accumulate, and write results, at some reduced indices for all kept positions."""
        b, plan, group = self.b, self.plan, self.group
        axis = plan.reduced[-1].axis
        banks = list(banks)
        stores = []
        local = [s.scope() for s in scopes]
        for i, u in places:
            for k, p in enumerate(kept):
                coords = list(p.coords)
                for a, c in at.items():
                    coords[a] = c
                if plan.along_kept:
                    if axis < self.rank:
                        coords[axis] = Coord(i)
                    pos = Position(tuple(coords), p.lanes, p.mask)
                    cell = b.iadd(b.imul(b.iadd(slot, i), plan.lanes * plan.kept_vectors), k * plan.lanes)
                    bank = u * len(kept) + k
                else:
                    if axis < self.rank:
                        coords[axis] = Coord(i, 1 if lanes > 1 else 0, lanes)
                    pos = Position(tuple(coords), lanes, mask)
                    cell = b.iadd(slot, i)
                    bank = u
                scope = local[k].scope(self._cached_values(sweep, cell, pos))
                for v, first in plan.cached.items():
                    if first == sweep:
                        value = scope.value(v, pos)
                        self._keep(v, cell, value)
                        scope = scope.scope({v: value})
                for slot_of, n in enumerate(group.reduces_in(sweep)):
                    x = scope.value(n.inputs[0], pos)
                    states = list(banks[bank])
                    # Lanes along kept elements are all real or never stored: no mask.
                    here = Position(pos.coords, pos.lanes) if plan.along_kept else pos
                    states[slot_of] = accs[slot_of].step(states[slot_of], x, here)
                    banks[bank] = states
                stores += [(r, pos, scope.value(r.inner, pos)) for r in group.results_in(sweep)]
        for r, pos, value in stores:
            store_lanes(self.buffers.targets[r.outer], pos, value)
        return banks

    def _cached_values(self, sweep: int, cell: Any, pos: Position) -> dict[Value, Any]:
        return {
            v: self.b.load(self.caches[v], cell, pos.lanes)
            for v, first in self.plan.cached.items()
            if first < sweep and self._needed(v, sweep)
        }

    def _needed(self, value: Value, sweep: int) -> bool:
        return value.producer in self.group.evaluated_in(sweep)

    def _keep(self, value: Value, cell: Any, x: Val) -> None:
        # The row has room for a full last vector, so no mask is needed.
        self.b.store(self.caches[value], x, cell)

    # -- halo ---------------------------------------------------------------------------------------
    def _clear_halo(self, access: Any, kept: list[Position]) -> None:
        """Zero the halo of a full-space result around the reduced axes, at the kept positions."""
        if not access.type.layout.has_halo:
            return
        axes = self.group.axes
        for p in kept:
            for k, axis in enumerate(axes):
                before, after = access.halo[axis]
                extent = self.extents(self.group.space[axis])
                for low, count in ((-before, before), (extent, after)):
                    if count:
                        self._clear_slab(access, p, axes, k, low, count, 0, {})

    def _clear_slab(
        self, access: Any, p: Position, axes: tuple[int, ...], k: int, low: Any, count: int, j: int,
        at: dict[int, Coord],
    ) -> None:  # fmt: skip
        """Axis k's halo; earlier axes run over the inside only, later ones over their halo too."""
        b = self.b
        if j == len(axes):
            pos = p.at(at.get(a, c) for a, c in enumerate(p.coords))
            store_lanes(access, pos, zero_of(b, access.type.dtype, pos.lanes))
            return
        axis = axes[j]
        before, after = access.halo[axis]
        extent = self.extents(self.group.space[axis])
        start, n = (low, count) if j == k else (0, extent) if j < k else (-before, b.iadd(extent, before + after))

        def at_index(i: Any) -> None:
            self._clear_slab(access, p, axes, k, low, count, j + 1, {**at, axis: Coord(b.iadd(start, i))})

        b.loop(0, n, at_index)


@dataclass
class _State:
    """All accumulator states at one point: banks (unrolled vectors), and single elements for row ends."""

    banks: States
    single: list[list[Val]] | None

    def values(self) -> list[Val]:
        return _flatten(self.banks) + (_flatten([self.single]) if self.single is not None else [])

    def like(self, values: Any) -> _State:
        """The same structure over other values."""
        values = list(values)
        sizes = [len(s) for s in self.banks[0]] if self.banks else []
        width = sum(sizes)
        banks = [_unflatten(values[k * width : (k + 1) * width], sizes) for k in range(len(self.banks))]
        rest = values[len(self.banks) * width :]
        return _State(banks, _unflatten(rest, sizes) if self.single is not None else None)

    def merged(self, accs: list[Accumulator | ArgAccumulator], other: _State) -> _State:
        banks = [
            [a.merge(x, y) for a, x, y in zip(accs, mine, theirs, strict=True)]
            for mine, theirs in zip(self.banks, other.banks, strict=True)
        ]
        single = None
        if self.single is not None and other.single is not None:
            single = [a.merge(x, y) for a, x, y in zip(accs, self.single, other.single, strict=True)]
        return _State(banks, single)


def _flatten(banks: States) -> list[Val]:
    return [v for bank in banks for state in bank for v in state]


def _unflatten(values: Any, sizes: list[int]) -> list[list[Val]]:
    values, out, at = list(values), [], 0
    for n in sizes:
        out.append(values[at : at + n])
        at += n
    return out
