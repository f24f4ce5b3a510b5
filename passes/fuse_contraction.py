"""Contraction + elementwise chain -> one kernel whose epilogue runs on the accumulators.

conv/linear/matmul followed by bias, activation, residual add, scale, ...: every elementwise node over the
same output space joins; its other operands are read at the same index. Values that others need too
are written as further results of the same kernel.
"""

from __future__ import annotations

from ..ir import registry
from ..ir.graph import Graph, Node
from ..ir.registry import Fusion
from .fuse import Fuser, Joins
from .manager import Pass, PassContext


class FuseContraction(Pass):
    """See the module docstring."""

    name = "fuse-contraction"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        fuser = Fuser(graph)
        limit = ctx.kernels.max_group() if ctx.kernels is not None else 32
        for seed in fuser.nodes:
            if seed in fuser.taken or registry.get(seed.op).fusion is not Fusion.CONTRACTION:
                continue
            if ctx.kernels is not None and not ctx.kernels.accepts_epilogue(seed):
                continue
            group = fuser.grow(seed, epilogue_of(seed), limit)
            if len(group) > 1:
                ctx.fired(" + ".join(n.op for n in group), seed)
                fuser.commit(group, "contraction")
        return len(fuser.apply()) if fuser.groups else 0


def epilogue_of(seed: Node) -> Joins:
    """Accepts the elementwise nodes that can run on the sums of ``seed``."""
    out = seed.output.type

    def joins(node: Node, group: set[Node]) -> bool:
        if registry.get(node.op).fusion is not Fusion.ELEMENTWISE:
            return False
        result = node.output.type
        same_place = (result.layout.order, result.layout.blocks) == (out.layout.order, out.layout.blocks)
        return result.shape == out.shape and same_place and any(v.producer in group for v in node.inputs)

    return joins
