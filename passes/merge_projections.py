"""x @ A, x @ B, x @ C with constant weights = slices of x @ [A B C], where the results feed attention.

One product in place of two or three reads its input once, starts once and has more columns to share out, which shows
for short sequences and small batches. Biases are joined likewise (zeros where there is none). The slices cost
nothing, because an attention kernel reads its operands by strides; projections that anything else reads are left alone.
Exact: every element is the same sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.builder import GraphBuilder
from ..ir.graph import Graph, Node, Value
from .manager import Pass, PassContext

_VIEWS = {"reshape", "permute", "slice", "expand"}


@dataclass(frozen=True)
class _Projection:
    product: Node
    bias: Value | None  # a constant vector, or none
    result: Value  # behind the bias
    columns: int


class MergeProjections(Pass):
    """See the module docstring."""

    name = "merge-projections"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        merged = 0
        groups: dict[tuple[object, ...], list[_Projection]] = {}
        for node in graph:
            found = _projection(node, graph)
            if found is not None:
                weight = node.inputs[1]
                key = (node.inputs[0], node.attrs["transpose_b"], weight.dtype, weight.type.layout)
                groups.setdefault(key, []).append(found)
        for group in groups.values():
            if len(group) > 1:
                ctx.fired(f"{len(group)} products of one operand = one", group[0].product)
                _merge(graph, group)
                merged += len(group)
        return merged


def _projection(node: Node, graph: Graph) -> _Projection | None:
    """``node`` as a projection for attention, None if it is not one."""
    if node.op != "matmul" or node.attrs["transpose_a"]:
        return None
    weight = node.inputs[1]
    if not weight.is_constant or weight.type.rank != 2 or not weight.type.layout.is_dense:
        return None
    columns = weight.shape[0 if node.attrs["transpose_b"] else 1]
    result, bias = node.output, None
    if len(result.users) == 1 and not graph.is_output(result):
        (user,) = result.users
        if user.op == "add" and user.output.shape == result.shape:
            other = user.inputs[1] if user.inputs[0] is result else user.inputs[0]
            if other.is_constant and other.shape == (columns,) and other.dtype is result.dtype:
                result, bias = user.output, other
    if not isinstance(columns, int) or not _feeds_attention(result, graph):
        return None
    return _Projection(node, bias, result, columns)


def _feeds_attention(value: Value, graph: Graph, limit: int = 32) -> bool:
    """Whether ``value`` is read by nothing but products of two computed values, through views and scales."""
    work, seen = [value], set[Value]()
    while work:
        v = work.pop()
        if v in seen:
            continue
        seen.add(v)
        if graph.is_output(v) or not v.users or len(seen) > limit:
            return False
        for user in v.users:
            if user.op in _VIEWS or (user.op in ("mul", "div") and user.inputs[0] is v and _is_number(user.inputs[1])):
                work.append(user.output)
            elif user.op != "matmul" or any(x.is_constant for x in user.inputs):
                return False
    return True


def _is_number(value: Value) -> bool:
    while value.producer is not None and value.producer.op == "expand":
        value = value.producer.inputs[0]
    return value.is_constant and value.type.elements == 1


def _merge(graph: Graph, group: list[_Projection]) -> None:
    first = group[0].product
    axis = 0 if first.attrs["transpose_b"] else 1
    b = GraphBuilder(graph, first, first.source)
    weights = [p.product.inputs[1] for p in group]
    joined = np.concatenate([w.constant for w in weights], axis=axis)
    out = b.emit("matmul", [first.inputs[0], b.constant(joined, name="+".join(w.name for w in weights))], **first.attrs)
    result = out.output
    if any(p.bias is not None for p in group):
        kind = result.dtype.numpy
        parts = [np.zeros(p.columns, kind) if p.bias is None else p.bias.constant for p in group]
        names = [p.bias.name for p in group if p.bias is not None]
        result = b.add(result, b.constant(np.concatenate(parts), name="+".join(names)))
    start = 0
    for p in group:
        lead = result.shape[:-1]
        part = b.slice(
            result,
            starts=(*(0 for _ in lead), start),
            stops=(*lead, start + p.columns),
            steps=(1,) * len(result.shape),
        )
        graph.replace_uses(p.result, part)
        start += p.columns
    for p in group:
        if p.result is not p.product.output:
            assert p.result.producer is not None
            graph.remove(p.result.producer)
        graph.remove(p.product)
