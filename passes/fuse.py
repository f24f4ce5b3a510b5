"""Shared machinery of the fusion passes: growing legal groups and outlining them into ``fused`` nodes.

A group is a set of nodes that becomes one kernel. It is legal when there is a place in the present order
where it can run as one: behind every outside producer that it reads, before every outside reader of its
results. (That is stricter than "no path leaves and returns", but it is checked in constant time per
edge and several groups can never form a cycle with each other.) Groups grow forward from a seed in graph
order; the pass decides which neighbours may join, this module whether it is legal. The search looks at a
bounded number of users, so a pass is linear in the graph.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import numpy as np

from ..ir import registry
from ..ir.graph import Graph, Node, Value
from ..ir.registry import Fusion
from ..ir.source import Source

# How many candidate users one growth may look at; bounds the cost on graphs with huge fan-out.
_WINDOW = 256

Joins = Callable[[Node, "set[Node]"], bool]


class Fuser:
    """Collects disjoint groups over one graph, then outlines them all at once (``apply``)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.outputs = graph.output_set()
        self.nodes = list(graph)
        self.index = {node: i for i, node in enumerate(self.nodes)}
        # Where a node runs; members of a group share one place. Constants are available from the start.
        self.place: dict[Node, float] = {
            node: -1.0 if node.op == "constant" else float(i) for i, node in enumerate(self.nodes)
        }
        self.groups: list[tuple[list[Node], str, float]] = []
        self.taken: set[Node] = set()

    def grow(self, seed: Node, joins: Joins, limit: int, *, backward: bool = False) -> list[Node]:
        """The largest legal group around ``seed``: ``joins(candidate, group)`` accepts or refuses neighbours.

        Candidates are users of the group, in graph order, and with ``backward`` also the producers of its
        operands, nearest first. Returns the nodes in graph order (at least the seed).
        """
        group: set[Node] = {seed}
        refused: set[Node] = set()
        heap: list[tuple[int, int]] = []  # producers first (they make later users legal), then users in order

        def push_neighbours(node: Node) -> None:
            if backward:
                for v in node.inputs:
                    if v.producer is not None and v.producer not in group:
                        heapq.heappush(heap, (0, -self.index[v.producer]))
            for out in node.outputs:
                for user in out.users:
                    if user not in group:
                        heapq.heappush(heap, (1, self.index[user]))

        push_neighbours(seed)
        visited = 0
        while heap and len(group) < limit and visited < _WINDOW:
            visited += 1
            candidate = self.nodes[abs(heapq.heappop(heap)[1])]
            if candidate in group or candidate in self.taken:
                continue
            if not joins(candidate, group) or self.find_place({*group, candidate}) is None:
                refused.add(candidate)
                continue
            group.add(candidate)
            push_neighbours(candidate)
            for node in refused:  # a refusal may have been premature: its other neighbours were missing
                heapq.heappush(heap, (1, self.index[node]))
            refused.clear()
        return sorted(group, key=self.index.__getitem__)

    def find_place(self, group: set[Node]) -> float | None:
        """Where the group can run as one node; None if nowhere."""
        earliest, latest, last = -1.0, math.inf, -1.0
        for node in group:
            last = max(last, self.place[node])
            for v in node.inputs:
                if v.producer is not None and v.producer not in group:
                    earliest = max(earliest, self.place[v.producer])
            for o in node.outputs:
                for user in o.users:
                    if user not in group:
                        latest = min(latest, self.place[user])
        if earliest >= latest:
            return None
        return last if earliest < last < latest else (earliest + min(latest, earliest + 2.0)) / 2

    def commit(self, group: list[Node], kind: str) -> None:
        """Keep ``group`` as a fused node of ``kind``; its nodes are no longer available to others."""
        place = self.find_place(set(group))
        assert place is not None
        self.groups.append((group, kind, place))
        self.taken.update(group)
        for node in group:
            self.place[node] = place

    def apply(self) -> list[Node]:
        """Outline every committed group and restore the order; returns the fused nodes."""
        fused = []
        for group, kind, place in self.groups:
            node = outline(self.graph, group, kind, self.outputs)
            self.place[node] = place
            fused.append(node)
        for node in sorted(self.graph.nodes, key=self.place.__getitem__):
            self.graph.move_before(node, None)
        return fused


def escaping(group: list[Node], outputs: set[Value]) -> list[Value]:
    """Results of the group that something outside reads, in graph order."""
    members = set(group)
    return [o for node in group for o in node.outputs if o in outputs or any(u not in members for u in o.users)]


def _region(
    graph: Graph, group: list[Node], kind: str, outputs: set[Value]
) -> tuple[Graph, list[Value], list[Value]]:
    """(copy of the group as a region, its operands, the group's results) in the order of the fused node."""
    results = escaping(group, outputs)
    members = set(group)
    region = Graph(kind)
    region.symbols = dict(graph.symbols)
    mapping: dict[Value, Value] = {}
    operands: list[Value] = []
    for node in group:
        for v in node.inputs:
            if v in mapping or v.producer in members:
                continue
            if v.is_constant and np.size(v.constant) == 1 and registry.get(node.op).fusion is not Fusion.CONTRACTION:
                mapping[v] = region.constant(v.constant, v.name)
            else:
                mapping[v] = region.add_input(v.type, v.name)
                operands.append(v)
        new = region.create(
            node.op,
            [mapping[v] for v in node.inputs],
            node.attrs,
            [o.type for o in node.outputs],
            names=[o.name for o in node.outputs],
            source=node.source,
            regions=node.regions,
        )
        mapping.update(zip(node.outputs, new.outputs, strict=True))
    for r in results:
        region.add_output(mapping[r])
    return region, operands, results


def trial(graph: Graph, group: list[Node], kind: str, outputs: set[Value]) -> Node:
    """The fused node that ``group`` would become, in a graph of its own, to ask the kernel library about."""
    region, operands, results = _region(graph, group, kind, outputs)
    alone = Graph(graph.name)
    alone.symbols = dict(graph.symbols)
    inputs = [alone.add_input(v.type, v.name) for v in operands]
    node = alone.create("fused", inputs, {"kind": kind}, [r.type for r in results], regions=[region])
    for out in node.outputs:
        alone.add_output(out)
    return node


def outline(graph: Graph, group: list[Node], kind: str, outputs: set[Value]) -> Node:
    """Replace ``group`` (in graph order) by one ``fused`` node at the end of the graph; returns it.

    One-element constants are copied into the region, so that kernels see them as immediates (but the operands of a
    contraction stay in memory).
    ``outputs`` is the graph's output set and is kept up to date.
    """
    region, operands, results = _region(graph, group, kind, outputs)
    fused = graph.create(
        "fused",
        operands,
        {"kind": kind},
        [r.type for r in results],
        names=[r.name for r in results],
        source=joined_source(group),
        regions=[region],
    )
    for old, new_value in zip(results, fused.outputs, strict=True):
        graph.replace_uses(old, new_value)
        if old in outputs:
            outputs.discard(old)
            outputs.add(new_value)
    for node in reversed(group):
        graph.remove(node)
    return fused


def joined_source(group: list[Node]) -> Source:
    """One source for a fused node: the first position, the module paths joined with ``+``."""
    modules = list(dict.fromkeys(n.source.module for n in group if n.source.module))
    first = next((n.source for n in group if n.source.file), group[0].source)
    return Source(first.file, first.line, "+".join(modules[:4]))
