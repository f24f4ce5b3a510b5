"""sum over many elements into few results -> two sums, so that more than one core can work.

Per-channel sums over (N, H, W) leave only C independent results. Summing each sample first and the
samples afterwards gives N * C of them, in an order that does not depend on the number of threads.
Condition: axis 0 is reduced together with others; few results; many terms. Floating-point: another order of
the same additions (usually a smaller error).
"""

from __future__ import annotations

from ..ir.builder import GraphBuilder
from ..ir.dims import bounds, product
from ..ir.graph import Graph
from .manager import Pass, PassContext

_SPLITTABLE = {"sum", "amax", "amin"}
_FEW_RESULTS = 1024
_MANY_TERMS = 16384


class SplitReduction(Pass):
    """See the module docstring."""

    name = "split-reduction"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        count = 0
        for node in graph.nodes:
            if node.op not in _SPLITTABLE:
                continue
            x, axes = node.inputs[0], node.attrs["axes"]
            inner = tuple(a for a in axes if a != 0)
            if 0 not in axes or not inner:
                continue
            results = bounds(product(node.output.shape))[1]
            terms = bounds(product(x.shape[a] for a in axes))[1]
            if results > _FEW_RESULTS or terms < _MANY_TERMS or x.shape[0] == 1:
                continue
            ctx.fired("sum over (0, rest) = sum over 0 of sums over the rest", node)
            b = GraphBuilder(graph, before=node, source=node.source)
            partial = b.emit(node.op, [x], axes=inner, keepdims=True).output
            whole = b.emit(node.op, [partial], axes=(0,), keepdims=True).output
            result = whole if node.attrs["keepdims"] else b.reshape(whole, shape=node.output.shape)
            graph.replace_uses(node.output, result)
            graph.remove(node)
            count += 1
        return count
