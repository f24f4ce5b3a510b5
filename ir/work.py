"""How much arithmetic a node asks for, whatever algorithm computes it."""

from __future__ import annotations

from .dims import Extent, bounds, is_bounded, product
from .graph import Node


def direct_flops(node: Node) -> float:
    """Operations of the contractions in ``node`` (its regions included) in direct form: two per multiply-add.

    Symbolic extents count at their upper bounds. 0.0 if there is no contraction, or an extent has no bound.
    """
    return sum((_one(n) for region in node.regions for n in region), _one(node))


def _one(node: Node) -> float:
    if node.op not in ("matmul", "conv", "conv_transpose", "conv_weight_grad"):
        return 0.0
    x, w = node.inputs[0].shape, node.inputs[1].shape
    out = node.outputs[0].shape
    count: Extent
    if node.op == "matmul":
        count = product(out) * x[-2 if node.attrs["transpose_a"] else -1]
    elif node.op == "conv":
        count = product(out) * product(w[1:])
    elif node.op == "conv_transpose":
        count = product(x) * product(w[1:])
    else:  # the second operand is the gradient of the result, and the result has the weight's shape
        count = product(w) * product(out[1:])
    return 2.0 * bounds(count)[1] if is_bounded(count) else 0.0
