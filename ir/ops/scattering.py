"""``scatter_reduce``: what arrives at one place is multiplied, or its extreme is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import bool_
from ..errors import ShapeError
from ..registry import Attr, Fusion, OpDef, get, register
from ..types import TensorType
from . import indexing
from .common import rounds_once, scalar

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value

Grads = list["Value | None"]

UFUNCS = {"prod": np.multiply, "amax": np.maximum, "amin": np.minimum}


def _infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    if attrs["reduce"] not in UFUNCS:
        raise ShapeError(f"scatter_reduce: reduce must be one of {', '.join(UFUNCS)}, got {attrs['reduce']!r}")
    return get("scatter_add").infer(types, attrs)


@rounds_once
def _reference(x: np.ndarray, index: np.ndarray, src: np.ndarray, axis: int, reduce: str) -> np.ndarray:
    indexing._check_range("scatter_reduce", index, x.shape[axis], axis)
    out = x.copy()
    UFUNCS[reduce].at(out, indexing._along(index, axis), indexing._covered(index, src))
    return out


def _vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    (x, index, src), dy, axis = node.inputs, grads[0], node.attrs["axis"]
    if dy is None or not dy.dtype.is_floating_point:
        return [None, None, None]
    none = (0,) * src.type.rank
    covered = src
    if index.shape != src.shape:
        covered = g.slice(src, starts=none, stops=index.shape, steps=(1,) * src.type.rank)
    share = _product_shares if node.attrs["reduce"] == "prod" else _extreme_shares
    dx, dsrc = share(g, node, dy, x, index, covered, axis)
    if index.shape != src.shape:
        high = tuple(s - i for s, i in zip(src.shape, index.shape, strict=True))
        dsrc = g.pad(dsrc, low=none, high=high, interior=none, value=0)
    return [dx, None, dsrc]


def _extreme_shares(
    g: GraphBuilder, node: Node, dy: Value, x: Value, index: Value, src: Value, axis: int
) -> tuple[Value, Value]:
    """All elements that are the extreme share its gradient evenly."""
    y = node.output
    own = g.cast(g.eq(x, y), dtype=x.dtype)
    theirs = g.cast(g.eq(src, g.gather(y, index, axis=axis)), dtype=x.dtype)
    count = g.maximum(g.scatter_add(own, index, theirs, axis=axis), scalar(g, 1, x))
    each = g.div(dy, count)
    return g.mul(own, each), g.mul(theirs, g.gather(each, index, axis=axis))


def _product_shares(
    g: GraphBuilder, node: Node, dy: Value, x: Value, index: Value, src: Value, axis: int
) -> tuple[Value, Value]:
    """The product of all other factors: exact where one of them is zero, too."""
    zero, one = scalar(g, 0, x), scalar(g, 1, x)
    x_zero, src_zero = g.eq(x, zero), g.eq(src, zero)
    x_kept, src_kept = g.where(x_zero, one, x), g.where(src_zero, one, src)
    kept = g.scatter_reduce(x_kept, index, src_kept, axis=axis, reduce="prod")
    zeros = g.scatter_add(g.cast(x_zero, dtype=x.dtype), index, g.cast(src_zero, dtype=x.dtype), axis=axis)

    def others(is_zero: Value, factor: Value, kept: Value, zeros: Value) -> Value:
        assert is_zero.dtype is bool_
        alone = g.eq(zeros, g.cast(is_zero, dtype=zeros.dtype))  # no zero but perhaps itself
        return g.where(alone, g.div(kept, factor), zero)

    there = [g.gather(v, index, axis=axis) for v in (kept, zeros, dy)]
    return g.mul(dy, others(x_zero, x_kept, kept, zeros)), g.mul(there[2], others(src_zero, src_kept, *there[:2]))


register(
    OpDef(
        "scatter_reduce",
        infer=_infer,
        reference=_reference,
        fusion=Fusion.OPAQUE,
        attrs={"axis": Attr("int"), "reduce": Attr("str")},
        vjp=_vjp,
        arity=(3, 3),
        doc="x[i, index[i, j, k], k] and every src[i, j, k] that goes there, for axis 1, reduced by prod, amax or amin",
    )
)
