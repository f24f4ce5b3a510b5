"""Depthwise convolution + the convolutions before and behind it -> one kernel that works on bands of rows.

A depthwise convolution does few operations per element: alone it runs at the rate of the memory its tensors
lie in, and in an inverted residual (1x1 expand, depthwise, 1x1 project) these are the largest tensors of the
network. In a chain they live in a band of scratch memory. Each convolution takes its elementwise nodes along.
The kernel library says whether a chain has a kernel and whether it pays; tried are both neighbours, then one.

Exact: every element is computed from the same operands in the same order as by the separate kernels.
"""

from __future__ import annotations

from ..ir import registry
from ..ir.graph import Graph, Node, Value
from ..ir.registry import Fusion
from .fuse import Fuser, escaping, trial
from .fuse_contraction import epilogue_of
from .manager import Pass, PassContext


class FuseChain(Pass):
    """See the module docstring."""

    name = "fuse-chain"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        if ctx.kernels is None:
            return 0
        fuser = Fuser(graph)
        limit = ctx.kernels.max_group()
        for seed in fuser.nodes:
            if seed in fuser.taken or not _depthwise(seed):
                continue
            middle = fuser.grow(seed, epilogue_of(seed), limit)
            before = _stage_before(fuser, seed, limit)
            behind = _stage_behind(fuser, middle, limit)
            for group in ([*before, *middle, *behind], [*middle, *behind], [*before, *middle]):
                if sum(n.op == "conv" for n in group) < 2 or len(group) > limit or len(set(group)) < len(group):
                    continue
                if fuser.find_place(set(group)) is None:
                    continue
                group.sort(key=fuser.index.__getitem__)
                reason = ctx.kernels.supports(trial(graph, group, "chain", fuser.outputs))
                if reason is None:
                    ctx.fired(" + ".join(n.op for n in group), seed)
                    fuser.commit(group, "chain")
                    break
        return len(fuser.apply()) if fuser.groups else 0


def _depthwise(node: Node) -> bool:
    if node.op != "conv":
        return False
    w = node.inputs[1]
    return w.shape[1] == 1 and w.shape[0] == node.attrs["groups"] != 1


def _stage_before(fuser: Fuser, seed: Node, limit: int) -> list[Node]:
    """The convolution whose result, after elementwise nodes, only ``seed`` reads; [] if there is none."""
    value: Value | None = seed.inputs[0]
    while value is not None and value.producer is not None and value.producer not in fuser.taken:
        node = value.producer
        if node.op == "conv":
            group = fuser.grow(node, epilogue_of(node), limit)
            results = escaping(group, fuser.outputs)
            private = results == [seed.inputs[0]] and results[0] not in fuser.outputs
            return group if private and set(results[0].users) == {seed} else []
        if registry.get(node.op).fusion is not Fusion.ELEMENTWISE:
            break
        value = next((v for v in node.inputs if v.shape == node.output.shape and v.producer is not None), None)
    return []


def _stage_behind(fuser: Fuser, middle: list[Node], limit: int) -> list[Node]:
    """The convolution that is alone in reading what ``middle`` computes; [] if there is none."""
    results = escaping(middle, fuser.outputs)
    if len(results) != 1 or results[0] in fuser.outputs:
        return []
    readers = set(results[0].users)
    node = readers.pop()
    if readers or node.op != "conv" or node in fuser.taken or node.inputs[0] is not results[0]:
        return []
    return [] if node.inputs[1] is results[0] else fuser.grow(node, epilogue_of(node), limit)
