"""Give every graph output a kernel that writes it.

An output that is an input, a constant, a reshape of either, or the same memory as another output gets an
``identity`` copy; so does an in-place update that would overwrite its target before the last reader.

Copies are made at the end, where every target has had its last reader. A graph input that is itself overwritten
is saved at the very beginning instead (states that swap their values need that).
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
        first = next(iter(graph), None)
        claimed: set[Value] = set()
        overwritten = {graph.inputs[k] for k in graph.updates.values()}
        count = 0
        # In-place updates first: a second output of the same memory is then the one that gets the copy.
        for i in sorted(range(len(graph.outputs)), key=lambda k: (k not in graph.updates, k)):
            value = graph.outputs[i]
            root = memory_root(value)
            reason = self._why_copy(graph, i, value, root, claimed, index)
            if reason is None:
                claimed.add(root)
                continue
            if root in overwritten:
                value = self._copy(graph, value, ctx, "the output is an input that is overwritten", root, first)
                first = first or next(iter(graph))
                count += 1
            if root not in overwritten or i in graph.updates:
                value = self._copy(graph, value, ctx, reason)
                count += 1
            graph.outputs[i] = value
            claimed.add(value)
        return count

    def _copy(
        self, graph: Graph, value: Value, ctx: PassContext, reason: str, root: Value | None = None,
        before: Node | None = None,
    ) -> Value:
        """A copy of ``value`` (a reshape of ``root``, if that is given) before a node or at the end."""
        source = value.producer.source if value.producer is not None else UNKNOWN
        name = f"{value.name}.out"
        if root is not None and root is not value:
            attrs = {"shape": value.shape}
            value = graph.create("reshape", [root], attrs, [value.type], source=source, before=before).output
        copy = graph.create("identity", [value], {}, [value.type], names=[name], source=source, before=before)
        ctx.fired(f"copy: {reason}", copy)
        return copy.output

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
                # Copies that were saved before are new: not in the index, and run first.
                elif not is_alias(reader) and index.get(reader, -1) > index[producer]:
                    return f"{reader.op} reads the old value later"
        return None


def memory_root(value: Value) -> Value:
    """The value whose buffer ``value`` shares (itself unless it is a reshape)."""
    while value.producer is not None and is_alias(value.producer):
        value = value.producer.inputs[0]
    return value


def reads_same_index(node: Node, operand: Value, result: Value) -> bool:
    """Whether ``node`` reads ``operand``'s memory only at the index at which it writes ``result``.

    True for elementwise nodes, and for fused groups (epilogues of contractions too) in which everything that
    depends on the operand is elementwise over its shape.
    """
    roots = [memory_root(v) for v in node.inputs]
    if operand not in node.inputs or operand.type != result.type or roots.count(operand) != 1:
        return False
    if node.op != "fused":
        return registry.get(node.op).fusion is registry.Fusion.ELEMENTWISE
    if node.attrs["kind"] == "reduction":
        return False
    dependent = {r for v, r in zip(node.inputs, node.regions[0].inputs, strict=True) if v is operand}
    for inner in node.regions[0]:
        if dependent.isdisjoint(inner.inputs):
            continue
        if registry.get(inner.op).fusion is not registry.Fusion.ELEMENTWISE or inner.output.shape != operand.shape:
            return False
        dependent.add(inner.output)
    return True
