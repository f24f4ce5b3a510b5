"""What a reduction kernel computes and in which order: the group behind a node, and the plan of its loops."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.dims import Extent, bounds, product
from ...ir.errors import UnsupportedError
from ...ir.graph import Node, Value
from ...ir.target import Target
from . import arithmetic
from .accumulate import ARGS, REDUCES, reduced_axes
from .affine import Blocked, Leaf, footprint, strides
from .common import is_evaluable
from .nest import Group, has_masks, lanes_for, merge_axes, upper, vector_cost
from .view import Result, View


def divides(size: int, extent: Extent) -> bool:
    return isinstance(extent, int) and extent % size == 0


class ReductionGroup:
    """The reduce nodes of a node or region, its results, and the sweep in which each value is known."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.view = View(node)
        self.nodes = self.view.nodes
        self.reduces = [n for n in self.nodes if n.op in REDUCES or n.op in ARGS]
        if not self.reduces:
            raise UnsupportedError(f"{node!r}: no reduction in it")
        first = self.reduces[0]
        self.space = first.inputs[0].shape
        self.axes = reduced_axes(first)
        for n in self.nodes:
            if n in self.reduces:
                if n.inputs[0].shape != self.space or reduced_axes(n) != self.axes:
                    raise UnsupportedError(
                        f"{node!r}: {n.op} over axes {reduced_axes(n)} of {list(n.inputs[0].shape)} beside axes "
                        f"{self.axes} of {list(self.space)}; a group reduces the same axes of one space"
                    )
            elif not is_evaluable(n.op):
                raise UnsupportedError(f"{node!r}: operator {n.op} cannot be part of a reduction kernel")
        self.kept_shape = tuple(1 if a in self.axes else e for a, e in enumerate(self.space))
        dropped = tuple(e for a, e in enumerate(self.space) if a not in self.axes)
        self.full: list[Result] = []
        self.reduced: list[Result] = []
        produced = {n.output for n in self.reduces}
        for r in self.view.results:
            if r.inner.shape == self.space and r.inner not in produced:
                self.full.append(r)
            elif r.inner.shape in (self.kept_shape, dropped):
                self.reduced.append(r)
            else:
                raise UnsupportedError(
                    f"{node!r}: result %{r.outer.name} of shape {list(r.inner.shape)} is neither of the full space "
                    f"{list(self.space)} nor of the reduced one"
                )
        self.level: dict[Value, int] = {}
        for n in self.nodes:
            known = max((self.level.get(v, 0) for v in n.inputs), default=0)
            for o in n.outputs:
                self.level[o] = known + (1 if n in self.reduces else 0)
        self.sweeps = 1 + max([self.level.get(r.inner, 0) for r in self.full] + [0])
        self.sweeps = max(self.sweeps, max(self.level[n.output] for n in self.reduces))

    def reduces_in(self, sweep: int) -> list[Node]:
        return [n for n in self.reduces if self.level[n.output] == sweep + 1]

    def results_in(self, sweep: int) -> list[Result]:
        return [r for r in self.full if self.level.get(r.inner, 0) == sweep]

    def evaluated_in(self, sweep: int) -> list[Node]:
        """Nodes that this sweep computes for its reductions and results."""
        work = [n.inputs[0] for n in self.reduces_in(sweep)] + [r.inner for r in self.results_in(sweep)]
        found: dict[Node, None] = {}
        while work:
            v = work.pop()
            n = v.producer
            if v in self.view.stored or v in self.view.immediates or n is None or n in found or n in self.reduces:
                continue
            found[n] = None
            work += n.inputs
        return list(found)


@dataclass
class Plan:
    """The schedule: kept groups (parallel), reduced groups (loops), and where the lanes go.

    ``kept_vectors``: vectors of neighbouring kept elements per iteration (0: the lanes run along the last reduced
    group, ``unroll`` accumulators).
    """

    kept: list[Group]
    reduced: list[Group]
    vector: Group
    lanes: int
    unroll: int
    kept_vectors: int
    cached: dict[Value, int] = field(default_factory=dict)  # value -> first sweep that computes it

    @property
    def along_kept(self) -> bool:
        return self.kept_vectors > 0

    def describe(self) -> str:
        where = "kept" if self.along_kept else "reduced"
        return (
            f"kept {' x '.join(str(g.extent) for g in self.kept) or '1'}, reduced "
            f"{' x '.join(str(g.extent) for g in self.reduced)}; {self.lanes} lanes along {where} axis "
            f"{self.vector.axis}, {max(self.unroll, self.kept_vectors)} in flight"
            + (f"; {len(self.cached)} value(s) kept in scratch" if self.cached else "")
        )


def make_plan(group: ReductionGroup, target: Target) -> tuple[Plan, list]:
    rank = len(group.space)
    pinned: set[int] = set()
    roots = [n.inputs[0] for n in group.reduces] + [r.inner for r in group.full]
    produced = {n.output for n in group.reduces}
    view = group.view
    reads = footprint(list(dict.fromkeys(roots)), rank, lambda v: v in produced or view.stops(v), view.immediates)
    leaves = [leaf for leaf in reads.leaves if leaf.value not in produced]
    # Epilogues on the reduced results read at kept positions only.
    kept_values = [r.inner for r in group.reduced]
    more = footprint_of_kept(group, kept_values, produced, pinned)
    pinned |= reads.pinned
    accesses = []
    for leaf in leaves:
        stored = view.stored.get(leaf.value, leaf.value)
        accesses.append(strides(stored.type, leaf.rows, pinned))
    epilogues = [strides(view.stored.get(leaf.value, leaf.value).type, leaf.rows, pinned) for leaf in more]
    epilogues += [strides(r.outer.type, _kept_rows(group, r.inner), pinned) for r in group.reduced]
    identity = [{a: 1} for a in range(rank)]
    writes = [strides(r.outer.type, identity, pinned) for r in group.full]
    halo_axes = {a for r in group.full for a, h in enumerate(r.outer.type.layout.halo) if h != (0, 0)}
    pinned |= halo_axes
    classes = [int(a in group.axes) for a in range(rank)]
    groups = merge_axes(group.space, [*accesses, *writes, *epilogues], pinned, classes)
    kept = [g for g in groups if g.axis not in group.axes]
    reduced = [g for g in groups if g.axis in group.axes]
    if not reduced:
        reduced = [Group((group.axes[-1] if group.axes else rank,), 1)]
    dtypes_used = [v.dtype for n in reads.nodes for v in n.outputs] + [leaf.value.dtype for leaf in leaves]
    if any(n.op not in ARGS for n in group.reduces):
        dtypes_used += [r.outer.dtype for r in view.results]
    lanes = lanes_for(dtypes_used or [group.reduces[0].inputs[0].dtype], target)

    def cost(g: Group) -> float:
        total = sum(vector_cost(s.get(g.axis, 0), lanes) for s in [*accesses, *writes])
        extent = max(1, upper(g.extent))
        waste = -(-extent // lanes) * lanes / extent
        fold = 0.0 if g in kept else 8.0 * lanes / max(1, upper(product(x.extent for x in reduced)))
        return total * waste + fold

    vector = min([*reversed(reduced), *reversed(kept)], key=cost)
    padded = [g for g in kept if any(isinstance(s.get(g.axis), Blocked) for s in writes)]
    if padded:
        vector = padded[-1]
    for s in [*accesses, *writes, *epilogues]:
        stride = s.get(vector.axis)
        lanes = min(lanes, stride.size) if isinstance(stride, Blocked) else lanes
    expensive = reads.expensive
    unroll = 2 if expensive or len(group.nodes) > 16 else 4
    vectors = 0
    masked = has_masks(target)
    if vector in kept:
        kept.remove(vector)
        # The padding of a last block is written too; only masks keep it from reading beyond dense operands.
        if isinstance(vector.extent, int) and not padded:
            while lanes > 1 and (lanes // 2 >= vector.extent or (not masked and lanes > vector.extent)):
                lanes //= 2
        vectors = unroll
        others = upper(product(g.extent for g in kept))
        wide = upper(vector.extent)
        while vectors > 1 and (wide < lanes * vectors or others * wide < 8 * lanes * vectors):
            vectors //= 2
        unroll = unroll if vectors == 1 else 1
    else:
        reduced.remove(vector)
        reduced.append(vector)
        if isinstance(vector.extent, int):
            while lanes > 1 and (lanes // 2 >= vector.extent or (not masked and lanes > vector.extent)):
                lanes //= 2
            while unroll > 1 and vector.extent < lanes * unroll:
                unroll //= 2
    plan = Plan(kept, reduced, vector, lanes, unroll, vectors)
    plan.cached = cached_values(group, plan, target)
    return plan, leaves + more


def _kept_rows(group: ReductionGroup, value: Value) -> list[dict[int, Extent]]:
    """Where a value of reduced shape is read: for each of its axes the axis of the space, none for reduced ones."""
    axes = range(len(group.space))
    if value.shape == group.kept_shape:
        return [{} if a in group.axes else {a: 1} for a in axes]
    return [{a: 1} for a in axes if a not in group.axes]


def footprint_of_kept(group: ReductionGroup, values: list[Value], produced: set[Value], pinned: set[int]) -> list[Leaf]:
    """Operands that only the reduced results need; their rows are in axes of the whole space."""
    out = []
    for v in values:
        if v in produced:
            continue
        axes = [next(iter(row), None) for row in _kept_rows(group, v)]
        found = footprint([v], v.type.rank, lambda x: x in produced or group.view.stops(x), group.view.immediates)
        pinned |= {a for a in (axes[k] for k in found.pinned) if a is not None}
        for leaf in found.leaves:
            if leaf.value not in produced:
                leaf.rows = [_renamed(row, axes) for row in leaf.rows]
                leaf.exact = False
                out.append(leaf)
    return out


def _renamed(row: dict | frozenset, axes: list[int | None]) -> dict | frozenset:
    if isinstance(row, frozenset):
        return frozenset(a for a in (axes[k] for k in row) if a is not None)
    return {a: c for a, c in ((axes[k], c) for k, c in row.items()) if a is not None}


def cached_values(group: ReductionGroup, plan: Plan, target: Target) -> dict[Value, int]:
    """Expensive full-space values of one sweep that a later one needs, if their rows fit in half of L2."""
    width = plan.lanes * plan.kept_vectors if plan.along_kept else 1
    row = product(g.extent for g in plan.reduced)
    if bounds(row)[1] > 2**30:
        return {}
    first: dict[Value, int] = {}
    again: dict[Value, int] = {}
    for sweep in range(group.sweeps):
        for n in group.evaluated_in(sweep):
            if n.op in arithmetic.EXPENSIVE and n.output.shape == group.space:
                if n.output in first:
                    again[n.output] = first[n.output]
                else:
                    first[n.output] = sweep
    out: dict[Value, int] = {}
    room = target.l2_bytes // 2
    for v, sweep in again.items():
        need = (bounds(row)[1] * width + plan.lanes) * max(v.dtype.itemsize, 4)
        if need <= room:
            out[v] = sweep
            room -= need
    return out
