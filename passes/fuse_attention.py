"""matmul -> elementwise -> softmax -> matmul becomes one kernel that never stores the scores.

The group starts at a softmax over the last axis: up to the product that makes the scores (through scales, masks,
biases), down to the product with the values. Views around it (splitting and joining heads, transposes, slices of a
joint projection, expanded key heads) join as long as the kernel can turn them into addresses. Masks over queries and
keys are transposed once, outside: the kernel has queries along the lanes. Runs while softmax is still one node.
Exact up to rounding: the weights are divided by their sum after the second product, and scores too long for the cache
are normalised block by block. Attention weights that others need (training, returned weights) are not fused.
"""

from __future__ import annotations

import numpy as np

from ..ir import registry
from ..ir.builder import GraphBuilder
from ..ir.graph import Graph, Node, Value
from ..ir.registry import Fusion
from ..ir.source import UNKNOWN
from .fuse import Fuser, trial
from .manager import Pass, PassContext

_VIEWS = {"reshape", "permute", "slice", "expand"}
_RESULT_VIEWS = {"reshape", "permute"}
# Between softmax and the second product: casts of mixed precision.
_ROUNDED = {"cast", "identity"}


class FuseAttention(Pass):
    """See the module docstring."""

    name = "fuse-attention"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        if ctx.kernels is None:
            return 0
        turned = _turn_masks(graph, ctx)
        fuser = Fuser(graph)
        fuser.taken |= turned
        for seed in fuser.nodes:
            core = _core(seed, fuser)
            if core is None:
                continue
            group = self._largest(core, fuser, ctx)
            if isinstance(group, str):
                ctx.refused("attention = one kernel", seed, group)
                continue
            ctx.fired(" + ".join(n.op for n in group), seed)
            fuser.commit(group, "attention")
        return len(fuser.apply()) if fuser.groups else 0

    def _largest(self, core: set[Node], fuser: Fuser, ctx: PassContext) -> list[Node] | str:
        """``core`` with as many views around it as the kernel takes, in graph order; else why there is no kernel."""

        def reason(group: set[Node]) -> str | None:
            if fuser.find_place(group) is None:
                return "something that it needs comes from what needs it"
            if any(_escapes(n, group, fuser) for n in group if n is not _last(group, fuser)):
                return "something inside is needed outside"
            return ctx.kernels.supports(trial(fuser.graph, _ordered(group, fuser), "attention", fuser.outputs))  # type: ignore[union-attr]

        with_result = _with_result(core, fuser)
        for start in dict.fromkeys([frozenset(with_result), frozenset(core)]):
            # All views, else none: what stays outside becomes a copy.
            for group in (_with_operands(set(start), fuser), set(start)):
                why = reason(group)
                if why is None:
                    return _ordered(group, fuser)
        return why or ""


def _turn_masks(graph: Graph, ctx: PassContext) -> set[Node]:
    """mask = permute(permute(mask)) where a mask with queries and keys is read from memory. The inner ones, which are
    returned, stay outside the kernel, so that it finds the queries side by side."""
    fuser = Fuser(graph)
    assert ctx.kernels is not None
    turned: dict[Value, Value] = {}
    for seed in fuser.nodes:
        core = _core(seed, fuser)
        if core is None or ctx.kernels.supports(trial(graph, _ordered(core, fuser), "attention", fuser.outputs)):
            continue
        scores = seed.output
        for node in core:
            if registry.get(node.op).fusion is not Fusion.ELEMENTWISE:
                continue
            for i, v in enumerate(node.inputs):
                if v.producer in core or v.type.rank < 2 or v.shape[-2:] != scores.shape[-2:] or 1 in v.shape[-2:]:
                    continue
                if _by_position(v):
                    continue
                if v not in turned:
                    turned[v] = _turned(graph, v)
                b = GraphBuilder(graph, node, node.source)
                node.replace_input(i, b.permute(turned[v], dims=_swapped(v)))
    return {v.producer for v in turned.values() if v.producer is not None}


def _turned(graph: Graph, mask: Value) -> Value:
    """``mask`` with its last two axes swapped, as early as it exists; a constant stays one."""
    if mask.is_constant:
        assert mask.producer is not None
        array = np.ascontiguousarray(np.swapaxes(mask.constant, -1, -2))
        return graph.constant(array, mask.name, before=mask.producer)
    following = mask.producer._next if mask.producer is not None else graph._head
    source = mask.producer.source if mask.producer is not None else UNKNOWN
    return GraphBuilder(graph, following, source).permute(mask, dims=_swapped(mask))


def _swapped(value: Value) -> tuple[int, ...]:
    rank = value.type.rank
    return (*range(rank - 2), rank - 1, rank - 2)


def _by_position(value: Value, limit: int = 64) -> bool:
    """Whether ``value`` is made of positions and numbers only."""
    work, seen = [value], set[Value]()
    while work:
        v = work.pop()
        if v in seen:
            continue
        seen.add(v)
        node = v.producer
        if node is None or len(seen) > limit:
            return False
        if node.op == "constant":
            if v.type.elements != 1:
                return False
        elif node.op != "iota" and node.op not in _VIEWS and registry.get(node.op).fusion is not Fusion.ELEMENTWISE:
            return False
        work += node.inputs
    return True


def _ordered(group: set[Node], fuser: Fuser) -> list[Node]:
    return sorted(group, key=fuser.index.__getitem__)


def _last(group: set[Node], fuser: Fuser) -> Node:
    return max(group, key=fuser.index.__getitem__)


def _escapes(node: Node, group: set[Node], fuser: Fuser) -> bool:
    return any(o in fuser.outputs or any(u not in group for u in o.users) for o in node.outputs)


def _core(softmax: Node, fuser: Fuser) -> set[Node] | None:
    """Both products, softmax and what is computed from the scores between them; None if that is not the pattern."""
    if softmax.op != "softmax" or softmax.attrs["axis"] != softmax.output.type.rank - 1 or softmax in fuser.taken:
        return None
    group = {softmax}
    value: Value = softmax.output
    while True:
        if value in fuser.outputs or len(value.users) != 1:
            return None
        (user,) = value.users
        group.add(user)
        if user.op == "matmul":
            break
        if user.op not in _ROUNDED:
            return None
        value = user.output
    if user.inputs[0] is not value:
        return None
    # Upwards: the nodes through which the scores reach softmax.
    above = _chain(softmax.inputs[0])
    if above is None:
        return None
    group |= above
    if any(n in fuser.taken for n in group):
        return None
    return group


def _chain(logits: Value, limit: int = 32) -> set[Node] | None:
    """The nodes between a product and ``logits``, the product included; what masks are made of is not among them."""
    group: set[Node] = set()
    value = logits
    while len(group) < limit:
        node = value.producer
        if node is None:
            return None
        group.add(node)
        if node.op == "matmul":
            return group
        if registry.get(node.op).fusion is not Fusion.ELEMENTWISE:
            return None
        full = [v for v in dict.fromkeys(node.inputs) if v.shape == logits.shape and _from_product(v, limit)]
        if len(full) != 1:
            return None
        value = full[0]
    return None


def _from_product(value: Value, limit: int) -> bool:
    """Whether a product lies above ``value`` with nothing but elementwise operators on its shape between."""
    shape = value.shape
    seen: set[Value] = set()
    work = [value]
    while work and len(seen) < limit:
        v = work.pop()
        node = v.producer
        if v in seen or node is None or v.shape != shape:
            continue
        seen.add(v)
        if node.op == "matmul":
            return True
        if registry.get(node.op).fusion is Fusion.ELEMENTWISE:
            work += node.inputs
    return False


def _with_result(core: set[Node], fuser: Fuser) -> set[Node]:
    """``core`` and the views behind its result that nobody else sees in between."""
    group = set(core)
    value = _last(core, fuser).output
    while value not in fuser.outputs and len(value.users) == 1:
        (user,) = value.users
        if user.op not in _RESULT_VIEWS or user in fuser.taken:
            break
        group.add(user)
        value = user.output
    return group


def _with_operands(group: set[Node], fuser: Fuser) -> set[Node]:
    """``group`` and what its operands are made of without real work: views, scales, masks by position."""
    size = -1
    while size != len(group):
        size = len(group)
        for node in list(group):
            for v in node.inputs:
                above = v.producer
                if above is None or above in group or above in fuser.taken or _escapes(above, group, fuser):
                    continue
                if above.op in _VIEWS or above.op == "iota" or _is_scale(above) or _is_mask(above, node):
                    group.add(above)
    return group


def _is_scale(node: Node) -> bool:
    """x * number or x / number."""
    if node.op not in ("mul", "div") or node.inputs[0].shape != node.output.shape:
        return False
    number = node.inputs[1]
    while number.producer is not None and number.producer.op == "expand":
        number = number.producer.inputs[0]
    return number.is_constant and number.type.elements == 1


def _is_mask(node: Node, reader: Node) -> bool:
    """Elementwise work on what is no product, read by elementwise work: masks and biases from positions."""
    kinds = (registry.get(node.op).fusion, registry.get(reader.op).fusion)
    return kinds == (Fusion.ELEMENTWISE, Fusion.ELEMENTWISE)
