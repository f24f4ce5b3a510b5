"""Constant folding: evaluates nodes whose operands are all constants, through the operators' references.

Not folded, because it would trade a few instructions for memory: ``expand`` (kernels read broadcast operands
with stride 0), and any node whose result is larger than its operands together *and* than the limit. Random
numbers are never folded.
"""

from __future__ import annotations

import numpy as np

from ..ir import registry
from ..ir.graph import Graph, Node
from ..ir.interpreter import eval_node
from .manager import Pass, PassContext

DEFAULT_LIMIT = 64 << 10  # bytes by which folding may grow the model, per node (option "fold_limit")
IOTA_LIMIT = 4 << 10  # generated sequences above this size stay generated
RULE = "f(const) = const"
_NEVER = frozenset({"constant", "expand"})


class FoldConstants(Pass):
    """f(constants) = constant, bit for bit what the reference computes in the node's own dtype."""

    name = "fold-constants"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        limit = int(ctx.options.get("fold_limit", DEFAULT_LIMIT))
        folded = 0
        for node in graph:
            reason = why_not(node, limit)
            if reason is None:
                ctx.fired(RULE, node)
                _fold(graph, node)
                folded += 1
            elif reason:  # an empty reason is the ordinary case: not all operands are constant
                ctx.refused(RULE, node, reason)
        return folded


def why_not(node: Node, limit: int) -> str | None:
    """None if ``node`` should be folded, "" if it is no candidate, else the reason why it is kept."""
    if node.op in _NEVER or node.regions or not all(v.is_constant for v in node.inputs):
        return ""
    if node.op.startswith("random") or not registry.get(node.op).pure:
        return "results differ from run to run"
    if not all(o.type.is_static for o in node.outputs):
        return "the result's shape is symbolic"
    result = sum(o.type.elements * o.dtype.itemsize for o in node.outputs)
    if not node.inputs:
        return None if result <= min(limit, IOTA_LIMIT) else f"{result} bytes generated, limit {IOTA_LIMIT}"
    operands = sum(v.constant.nbytes for v in node.inputs)
    if result > operands and result > limit:
        return f"the result has {result} bytes, its operands {operands}, the limit is {limit}"
    return None


def _fold(graph: Graph, node: Node) -> None:
    results = eval_node(node, [v.constant for v in node.inputs])
    for old, array in zip(node.outputs, results, strict=True):
        # Row-major, because what reads constants (packing, artefacts) wants their bytes in order.
        value = {"value": np.asarray(array, order="C")}
        new = graph.create("constant", [], value, [old.type], names=[old.name], source=node.source, before=node)
        graph.replace_uses(old, new.output)
    graph.remove(node)
