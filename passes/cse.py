"""Common subexpression elimination by value numbering, in one forward walk.

Two nodes are the same value when operator, operands and attributes are the same. Floats in
attributes compare by bits (0.0 and -0.0 differ, a NaN equals itself). Small constants compare by
contents, large ones by identity of the array, so that no large weight is ever hashed.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ..ir import registry
from ..ir.graph import Graph, Node
from .manager import Pass, PassContext

SMALL_CONSTANT = 4096  # bytes up to which constants are compared by contents


class CommonSubexpressions(Pass):
    """Replaces a node by an earlier one that computes the same values; operands of commutative ops in any order."""

    name = "cse"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        seen: dict[Any, Node] = {}
        removed = 0
        for node in graph:
            if node.regions:  # comparing bodies costs more than it finds
                continue
            first = seen.setdefault(_key(node), node)
            if first is node:
                continue
            ctx.fired("f(x), f(x) = one f(x)", node)
            for old, new in zip(node.outputs, first.outputs, strict=True):
                graph.replace_uses(old, new)
            graph.remove(node)
            removed += 1
        return removed


def _key(node: Node) -> tuple[Any, ...]:
    operands = [id(v) for v in node.inputs]
    if registry.get(node.op).commutative:
        operands.sort()
    layouts = tuple(o.type.layout for o in node.outputs)
    return node.op, tuple(operands), layouts, tuple((k, freeze(v)) for k, v in node.attrs.items())


def freeze(value: Any) -> Any:
    """A hashable stand-in for an attribute; equal exactly when the attributes mean the same."""
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, float):
        return "float", struct.pack("<d", value)
    if isinstance(value, tuple | list):
        return tuple(freeze(v) for v in value)
    if isinstance(value, np.generic):
        return value.dtype.str, value.tobytes()
    if isinstance(value, np.ndarray):
        key = value.tobytes() if value.nbytes <= SMALL_CONSTANT else id(value)
        return "array", str(value.dtype), value.shape, key
    return value
