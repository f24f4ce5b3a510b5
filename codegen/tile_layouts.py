"""Layouts for contractions on bfloat16 units, with their cost: an entry in a contraction's list of choices."""

from __future__ import annotations

from ..ir.errors import UnsupportedError
from ..ir.graph import Node
from ..ir.kernels import LayoutChoice
from ..ir.layout import DENSE, Layout
from ..ir.target import Target
from ..ir.types import TensorType
from .lower.contraction_operands import Placed
from .lower.contraction_tiles import geometry, schedule_of, weight_layout
from .tile_schedule import FORMS, LANES, products, serves

# Three parts would do for "float32" by their error, but not for infinite inputs, nor for products near 2**-126.
_PARTS = {"float32-fast": 2, "bfloat16": 1}


def tile_choices(node: Node, target: Target, precision: str) -> list[LayoutChoice]:
    """At most one choice: operands on as many bfloat16 parts as ``precision`` asks for."""
    parts = _PARTS.get(precision)
    if parts is None or not serves(target, parts):
        return []
    weight = weight_layout(node, parts) if node.op in ("conv", "matmul") else None
    if weight is None:
        return []
    x = node.inputs[0].type
    given, out = DENSE, DENSE
    if node.op == "conv":
        halo = ((0, 0), (0, 0), *((max(low, 0), max(high, 0)) for low, high in node.attrs["padding"]))
        out = Layout(blocks=((1, LANES),))
        given = Layout(blocks=out.blocks, halo=halo if any(h != (0, 0) for h in halo) else ())
    try:
        shape = geometry(node, Placed(TensorType(x.dtype, x.shape, given)))
        tiles = schedule_of(node, shape, parts, None, target)
    except UnsupportedError:
        return []
    seconds = tiles.cycles / (target.clock_ghz * 1e9)
    why = f"bfloat16 {tiles.unit}, {len(products(parts))} product(s) per term, weights as {FORMS[parts]}"
    return [LayoutChoice((given, weight), (out,), seconds, why)]


def missing_unit(target: Target, precision: str) -> str:
    """Why ``precision`` gains less than it could on ``target``; "" if a unit serves it or it does not ask for them."""
    if precision not in _PARTS or serves(target, _PARTS[precision]):
        return ""
    also = "" if _PARTS[precision] > 1 else ", nor fast bfloat16 dot products"
    return f"{target.name} has no bfloat16 matrix tiles{also}; contractions run on its float32 units"
