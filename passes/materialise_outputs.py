"""Give every graph output a kernel that writes it.

An output that is an input, a constant, a reshape of either, or the same memory as another output gets an
``identity`` copy; so does an in-place update that would overwrite its target before the last reader.
"""

from __future__ import annotations

from ..ir import registry
from ..ir.graph import Graph, Node, Value
from ..ir.source import UNKNOWN
from .manager import Pass, PassContext
from .schedule_updates import is_alias, readers


class MaterialiseOutputs(Pass):
    """See the module docstring."""

    name = "materialise-outputs"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        index = {node: i for i, node in enumerate(graph)}
        claimed: set[Value] = set()
        count = 0
        # In-place updates first: a second output of the same memory is then the one that gets the copy.
        for i in sorted(range(len(graph.outputs)), key=lambda k: (k not in graph.updates, k)):
            value = graph.outputs[i]
            root = memory_root(value)
            reason = self._why_copy(graph, i, value, root, claimed, index)
            if reason is None:
                claimed.add(root)
                continue
            copy = graph.create(
                "identity",
                [value],
                {},
                [value.type],
                names=[f"{value.name}.out"],
                source=value.producer.source if value.producer is not None else UNKNOWN,
            )
            graph.outputs[i] = copy.output
            claimed.add(copy.output)
            ctx.fired(f"copy: {reason}", copy)
            count += 1
        return count

    def _why_copy(
        self, graph: Graph, i: int, value: Value, root: Value, claimed: set[Value], index: dict[Node, int]
    ) -> str | None:
        producer = root.producer
        if producer is None:
            return "the output is a graph input"
        if producer.op == "constant":
            return "the output is a constant"
        if root in claimed:
            return "two outputs share one value"
        if root is not value and i in graph.updates:
            return "the update is a reshape"
        if i in graph.updates:
            target = graph.inputs[graph.updates[i]]
            for reader in readers(target):
                if reader is producer:
                    if not reads_same_index(producer, target, root):
                        return "the producer reads its target at other positions"
                elif index[reader] > index[producer]:
                    return f"{reader.op} reads the old value later"
        return None


def memory_root(value: Value) -> Value:
    """The value whose buffer ``value`` shares (itself unless it is a reshape)."""
    while value.producer is not None and is_alias(value.producer):
        value = value.producer.inputs[0]
    return value


def reads_same_index(node: Node, operand: Value, result: Value) -> bool:
    """Whether ``node`` reads ``operand`` only at the index at which it writes ``result``.

    True for elementwise nodes and for elementwise readers inside fused groups (epilogues of contractions too).
    """
    if operand not in node.inputs or operand.type != result.type:
        return False
    if node.op != "fused":
        return registry.get(node.op).fusion is registry.Fusion.ELEMENTWISE
    if node.attrs["kind"] == "reduction":
        return False
    inner = [r for v, r in zip(node.inputs, node.regions[0].inputs, strict=True) if v is operand]
    return all(
        registry.get(user.op).fusion is registry.Fusion.ELEMENTWISE and user.output.shape == operand.shape
        for v in inner
        for user in v.users
    )
