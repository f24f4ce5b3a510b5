"""Elementwise and reduction fusion: chains without a contraction become one loop nest.

Reduction groups first (softmax, layer norm, batch statistics and their gradients): reduce nodes over the
same axes of one space, with the elementwise nodes over that space and over the reduced one. Then
elementwise groups: nodes over one output space, with index operators (slice, pad, permute, ...) and
generated values (iota, random_uniform) as their readers' prologues.

Not fused although legal: a full-space result that others read into a reduction of much data with few kept
elements. Its kernel would run on too few threads.
"""

from __future__ import annotations

from ..ir import registry
from ..ir.dims import bounds, product
from ..ir.graph import Graph, Node, Value
from ..ir.registry import Fusion
from ..ir.types import Shape, TensorType
from .fuse import Fuser, Joins, trial
from .manager import Pass, PassContext

_REDUCES = {"sum", "prod", "amax", "amin", "any", "all", "mean"}
_PROLOGUES = {"expand", "slice", "flip", "pad", "concat", "permute", "iota", "random_uniform", "resample"}
# Resampling along several axes in one expression reads this many elements at most; beyond, what is between is stored.
_MOST_TAPS = 16
# Fewer kept elements than this leave cores idle; for so little data that costs less than further kernels.
_MIN_KEPT = 128
_SMALL = 16384


class FuseReduction(Pass):
    """Groups around reduce nodes."""

    name = "fuse-reduction"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        fuser = Fuser(graph)
        limit = ctx.kernels.max_group() if ctx.kernels is not None else 32
        for seed in fuser.nodes:
            if seed not in fuser.taken and seed.op in _REDUCES:
                group = fuser.grow(seed, _reduction_space(seed, fuser), limit, backward=True)
                group = _lowerable(graph, group, seed, fuser, ctx)
                if len(group) > 1:
                    ctx.fired(" + ".join(n.op for n in group), seed)
                    fuser.commit(group, "reduction")
        return len(fuser.apply()) if fuser.groups else 0


class FuseElementwise(Pass):
    """Groups of elementwise nodes over one space, then what is left of chains of index operators."""

    name = "fuse-elementwise"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        fuser = Fuser(graph)
        limit = ctx.kernels.max_group() if ctx.kernels is not None else 32
        elementwise = [n for n in fuser.nodes if registry.get(n.op).fusion is Fusion.ELEMENTWISE]
        # The last link first: its operands are the ones that nobody else reads.
        chains = [n for n in reversed(fuser.nodes) if n.op in _PROLOGUES]
        for seed in elementwise + chains:
            if seed not in fuser.taken:
                group = fuser.grow(seed, _elementwise_space(seed, fuser), limit, backward=True)
                if len(group) > 1:
                    ctx.fired(" + ".join(n.op for n in group), seed)
                    fuser.commit(group, "elementwise")
        return len(fuser.apply()) if fuser.groups else 0


def reduced_shape(shape: Shape, axes: tuple[int, ...]) -> Shape:
    """``shape`` with ``axes`` kept as extent 1."""
    return tuple(1 if i in axes else e for i, e in enumerate(shape))


def _lowerable(graph: Graph, group: list[Node], seed: Node, fuser: Fuser, ctx: PassContext) -> list[Node]:
    """``group`` without the last nodes that keep it from having a kernel (results in layouts that pad reduced axes)."""
    while len(group) > 1 and ctx.kernels is not None:
        reason = ctx.kernels.supports(trial(graph, group, "reduction", fuser.outputs))
        if reason is None and fuser.find_place(set(group)) is not None:
            break
        group = [n for n in group if n is not (group[-1] if group[-1] is not seed else group[0])]
    return group


def _placement(type_: TensorType) -> tuple[object, object]:
    return type_.layout.order, type_.layout.blocks


def _elementwise_space(seed: Node, fuser: Fuser) -> Joins:
    space, place = seed.output.shape, _placement(seed.output.type)

    def joins(node: Node, group: set[Node]) -> bool:
        kind = registry.get(node.op).fusion
        if kind is Fusion.ELEMENTWISE and registry.get(seed.op).fusion is Fusion.ELEMENTWISE:
            return node.output.shape == space and _placement(node.output.type) == place
        if node.op not in _PROLOGUES:
            return False
        # Prologues are evaluated where they are read: nobody else may need them, and they may not read the group.
        out = node.output
        private = out not in fuser.outputs and all(u in group for u in out.users)
        few = node.op != "resample" or _taps(node) * _taps_behind(out) <= _MOST_TAPS
        return private and few and not any(v.producer in group for v in node.inputs)

    return joins


def _taps(node: Node) -> int:
    """Elements of its operand that one element of a ``resample`` reads."""
    return int(node.inputs[2].shape[0]) if len(node.inputs) > 2 else 1  # type: ignore[call-overload]


def _taps_behind(value: Value) -> int:
    """How often one element of what follows directly asks for ``value``: the taps of a chain of ``resample``."""
    count = 1
    while len(value.users) == 1 and (user := next(iter(value.users))).op == "resample":
        count, value = count * _taps(user), user.output
    return count


def _reduction_space(seed: Node, fuser: Fuser) -> Joins:
    space, axes = seed.inputs[0].shape, seed.attrs["axes"]
    reduced = reduced_shape(space, axes)
    enough = bounds(product(reduced))[1] >= _MIN_KEPT or bounds(product(space))[1] <= _SMALL

    def joins(node: Node, group: set[Node]) -> bool:
        if node.op in _REDUCES:
            return node.inputs[0].shape == space and node.attrs["axes"] == axes
        if node.op == "expand":
            return node.inputs[0].shape == reduced and node.output.shape == space
        if registry.get(node.op).fusion is not Fusion.ELEMENTWISE:
            return False
        shape = node.output.shape
        if shape == space:
            escapes = node.output in fuser.outputs or any(u not in group for u in node.output.users)
            return enough or not escapes
        return shape == reduced and reduced != space

    return joins
