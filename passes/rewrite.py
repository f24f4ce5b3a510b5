"""The worklist driver behind rule-based passes, and small questions that rules ask about values.

A rule looks at one node and returns a replacement for its result, or None for "not mine". The driver visits
each node once, then again only those next to a change, so a pass takes time linear in nodes plus rewrites.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..ir import registry
from ..ir.builder import GraphBuilder
from ..ir.graph import Graph, Node, Value
from ..ir.registry import Fusion
from .manager import Pass, PassContext, RewriteCounter

Apply = Callable[[GraphBuilder, Node], "Value | None"]


@dataclass(frozen=True)
class Rule:
    """One equation.

    Attributes:
        equation: its name, as the log shows it.
        ops: operators it starts from; ``"elementwise"`` means every operator of that fusion kind.
        condition: when it holds for floats; "exact" means bit for bit, NaN and infinities included.
        apply: builds the replacement before the node, or returns None having built nothing that is used.
    """

    equation: str
    ops: tuple[str, ...]
    condition: str
    apply: Apply


class RuleSet(list[Rule]):
    """A list of rules with a decorator: ``@RULES.add("x * 1 = x", "mul", "exact")``."""

    def add(self, equation: str, ops: str, condition: str) -> Callable[[Apply], Apply]:
        def register(apply: Apply) -> Apply:
            self.append(Rule(equation, tuple(ops.split()), condition, apply))
            return apply

        return register


class RewritePass(Pass):
    """Applies rules until none fires; PassError with the last rewrite if that takes unreasonably long."""

    def __init__(self, name: str, rules: Iterable[Rule]) -> None:
        self.name = name
        self.rules = tuple(rules)
        self._by_op: dict[str, list[Rule]] = defaultdict(list)
        for rule in self.rules:
            for op in rule.ops:
                self._by_op[op].append(rule)

    def _rules_for(self, node: Node) -> Iterable[Rule]:
        yield from self._by_op.get(node.op, ())
        if registry.get(node.op).fusion is Fusion.ELEMENTWISE:
            yield from self._by_op.get("elementwise", ())

    def run(self, graph: Graph, ctx: PassContext) -> int:
        counter = RewriteCounter(self.name, 20 * len(graph) + 1000)
        queue = deque(node for node in graph if not node.regions)
        waiting = set(queue)

        def push(node: Node | None) -> None:
            if node is not None and node not in waiting and not node.regions:
                waiting.add(node)
                queue.append(node)

        while queue:
            node = queue.popleft()
            waiting.discard(node)
            if node._graph is not graph or len(node.outputs) != 1:
                continue
            rule, new, built = self._first_match(graph, node)
            if rule is None or new is None:
                continue
            counter.add(rule.equation, node)
            ctx.fired(rule.equation, node)
            for fresh in built:
                push(fresh)
            readers = list(node.output.users)  # not all of new's: it may be one that thousands read
            graph.replace_uses(node.output, new)
            for user in readers:
                push(user)
            for operand in remove_dead(graph, node):
                for out in operand.outputs:  # rules that ask for a single use may hold now
                    if len(out.users) == 1:
                        push(next(iter(out.users)))
        return counter.count

    def _first_match(self, graph: Graph, node: Node) -> tuple[Rule | None, Value | None, list[Node]]:
        for rule in self._rules_for(node):
            before = node._prev
            new = rule.apply(GraphBuilder(graph, node, node.source), node)
            built = _between(before, node, graph)
            # A rule knows shapes and dtypes only; where a layout would be lost it does not apply.
            if new is not None and new.type == node.output.type and new is not node.output:
                for fresh in built:
                    fresh.source = node.source
                return rule, new, built
            for fresh in reversed(built):
                graph.remove(fresh)
        return None, None, []


def _between(before: Node | None, node: Node, graph: Graph) -> list[Node]:
    """Nodes after ``before`` and before ``node``: those a rule has just built."""
    found = []
    current = node._prev
    while current is not before and current is not None:
        found.append(current)
        current = current._prev
    return found[::-1]


def remove_dead(graph: Graph, node: Node) -> list[Node]:
    """Remove ``node`` if unused, then every operand that this leaves unused; returns the producers that stay."""
    stack, alive = [node], []
    while stack:
        current = stack.pop()
        if current._graph is not graph:
            continue
        if any(o.users for o in current.outputs) or any(graph.is_output(o) for o in current.outputs):
            alive.append(current)
            continue
        graph.remove(current)
        stack += [v.producer for v in current.inputs if v.producer is not None]
    return alive


# -- questions about values -------------------------------------------------------------------------
SCAN_ELEMENTS = 4096  # constants up to this size are searched for special values


def producer(value: Value, op: str) -> Node | None:
    """The node that makes ``value`` if it is an ``op``."""
    node = value.producer
    return node if node is not None and node.op == op else None


def single_use(graph: Graph, value: Value) -> bool:
    """Whether exactly one operand in the graph reads ``value`` and it is no result."""
    return len(value.users) == 1 and next(iter(value.users.values())) == 1 and not graph.is_output(value)


def splat(value: Value) -> float | int | bool | None:
    """The number that every element of ``value`` has, if it is a small constant or a broadcast of one; else None."""
    node = producer(value, "expand")
    if node is not None:
        value = node.inputs[0]
    array = small_constant(value)
    if array is None or not array.size:
        return None
    first = array.reshape(-1)[:1]
    if array.size > 1 and (array.reshape(-1).view(f"V{array.itemsize}") != first.view(f"V{array.itemsize}")).any():
        return None
    number = first.astype(np.float64)[0] if value.dtype.is_floating_point else first[0]
    return number.item()


def small_constant(value: Value) -> np.ndarray | None:
    """The array of a constant of at most ``SCAN_ELEMENTS`` elements."""
    if not value.is_constant or value.constant.size > SCAN_ELEMENTS:
        return None
    return np.ascontiguousarray(value.constant).reshape(value.constant.shape)


def is_splat(value: Value, number: float) -> bool:
    """Whether ``value`` is ``number`` everywhere (0.0 matches -0.0 as well)."""
    found = splat(value)
    return found is not None and found == number


def fit(b: GraphBuilder, value: Value, like: Value) -> Value | None:
    """``value`` broadcast to the shape of ``like``; None if the dtypes differ."""
    if value.dtype is not like.dtype:
        return None
    return value if value.shape == like.shape else b.expand(value, shape=like.shape)
