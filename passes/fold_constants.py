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
                reason = _fold(graph, node, ctx)
                folded += reason is None
            if reason:  # an empty reason is the ordinary case: not all operands are constant
                ctx.refused("f(const) = const", node, reason)
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


def _fold(graph: Graph, node: Node, ctx: PassContext) -> str | None:
    try:
        with np.errstate(all="ignore"):
            results = eval_node(node, [v.constant for v in node.inputs])
    except ArithmeticError as error:  # integer division by zero: leave it to happen (or not) at run time
        return f"evaluating it fails: {error}"
    ctx.fired("f(const) = const", node)
    for old, array in zip(node.outputs, results, strict=True):
        array = np.asarray(array)
        if tuple(array.shape) != old.shape or array.dtype != old.dtype.numpy:
            raise AssertionError(
                f"the reference of {node.op} gave {array.dtype}{list(array.shape)} for %{old.name}: {old.type}"
            )
        new = graph.create(
            "constant", [], {"value": array}, [old.type], names=[old.name], source=node.source, before=node
        )
        graph.replace_uses(old, new.output)
    graph.remove(node)
    return None
