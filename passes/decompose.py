"""Replaces composite operators by the simpler ones that their record gives, where no kernel takes them whole."""

from __future__ import annotations

from ..ir import registry
from ..ir.builder import GraphBuilder
from ..ir.errors import VerifyError
from ..ir.graph import Graph, Node
from .manager import Pass, PassContext, RewriteCounter


class Decompose(Pass):
    """composite(x) = its decomposition, repeated until no supported rule is left.

    With ``ctx.kernels`` an operator that has a kernel of its own stays; without, everything with a rule goes.
    """

    name = "decompose"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        counter = RewriteCounter(self.name, 100 * len(graph) + 1000)
        node = graph._head
        while node is not None:
            if node.regions or registry.get(node.op).decompose is None:
                node = node._next
                continue
            reason = ctx.kernels.supports(node) if ctx.kernels is not None else "no kernel library given"
            if reason is None:
                ctx.refused(f"{node.op} = its parts", node, "it has a kernel")
                node = node._next
                continue
            counter.add(f"{node.op} = its parts", node)
            ctx.fired(f"{node.op} = its parts", node)
            node = _expand(graph, node)
        return counter.count


def _expand(graph: Graph, node: Node) -> Node | None:
    """Replace ``node``; returns the first node to look at next, which is the first of its parts."""
    before = node._prev
    rule = registry.get(node.op).decompose
    assert rule is not None
    builder = GraphBuilder(graph, node, node.source)
    if all(o.type.elements == 0 for o in node.outputs):  # rules may ask for extremes of nothing
        values = [builder.full(o.shape, 0, o.dtype) for o in node.outputs]
    else:
        values = rule(builder, node)
    if len(values) != len(node.outputs):
        raise VerifyError(f"the decomposition of {node.op} gives {len(values)} values for {len(node.outputs)} results")
    for old, new in zip(node.outputs, values, strict=True):
        if (new.dtype, new.shape) != (old.dtype, old.shape):
            raise VerifyError(f"the decomposition of {node!r} gives {new.type} for %{old.name}: {old.type}")
        graph.replace_uses(old, new)
    following = node._next
    graph.remove(node)
    first = graph._head if before is None else before._next
    part = first
    while part is not None and part is not following:
        part.source = node.source
        part = part._next
    return first
