"""Run each in-place update as early as it is safe.

An update (new parameter, momentum, running statistic) overwrites a graph input, so it may only run behind
every other reader of that input. Placed right there instead of at the end of the step, gradients die early and
their memory is reused.
"""

from __future__ import annotations

from ..ir.graph import Graph, Node, Value
from .manager import Pass, PassContext


class ScheduleUpdates(Pass):
    """See the module docstring."""

    name = "schedule-updates"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        nodes = graph.nodes
        place = {node: -1.0 if node.op == "constant" else float(i) for i, node in enumerate(nodes)}
        overwritten: dict[Node, list[Value]] = {}
        for out, target in graph.updates.items():
            producer = graph.outputs[out].producer
            if producer is not None and producer.op != "constant":
                overwritten.setdefault(producer, []).append(graph.inputs[target])
        moved = 0
        for node in list(overwritten):
            before = [place[v.producer] for v in node.inputs if v.producer is not None]
            before += [place[u] for x in overwritten[node] for u in readers(x) if u is not node]
            latest_use = min((place[u] for o in node.outputs for u in o.users), default=float("inf"))
            earliest = max(before, default=-1.0) + 0.5
            if earliest < place[node] and earliest < latest_use:
                place[node] = earliest
                moved += 1
        order = sorted(nodes, key=place.__getitem__)
        if not moved or order == nodes:
            return 0
        for node in order:
            graph.move_before(node, None)
        return moved


def readers(value: Value) -> list[Node]:
    """Nodes that read the memory of ``value``, through reshapes too."""
    found, stack = [], [value]
    while stack:
        for user in stack.pop().users:
            found.append(user)
            if is_alias(user):
                stack.append(user.output)
    return found


def is_alias(node: Node) -> bool:
    """Whether the node's result shares its operand's memory: a reshape between dense tensors."""
    return node.op == "reshape" and node.inputs[0].type.layout.is_dense and node.output.type.layout.is_dense
