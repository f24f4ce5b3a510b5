"""Reductions over whole axes, and argmax / argmin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Extent
from ..dtypes import int64
from ..errors import ShapeError
from ..registry import Attr, Fusion, Infer, OpDef, Reference, Vjp, register
from ..types import Shape, TensorType
from .common import (
    check_axes,
    check_axis,
    check_kind,
    extent_scalar,
    restore_axes,
    rounds_once,
    scalar,
    shift,
    show,
)

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value

NUMERIC = "fiu"
_ATTRS = {"axes": Attr("ints"), "keepdims": Attr("bool", False)}
_AXIS_ATTRS = {"axis": Attr("int"), "keepdims": Attr("bool", False)}


def reduced_shape(shape: Sequence[Extent], axes: Sequence[int], keepdims: bool) -> Shape:
    """``shape`` with ``axes`` removed, or 1 there if ``keepdims``."""
    if keepdims:
        return tuple(1 if a in axes else e for a, e in enumerate(shape))
    return tuple(e for a, e in enumerate(shape) if a not in axes)


def _check_not_empty(op: str, t: TensorType, axes: Sequence[int]) -> None:
    for a in axes:
        if t.shape[a] == 0:
            raise ShapeError(f"{op}: axis {a} of shape {show(t.shape)} is empty, and there is no extreme of nothing")


def _infer(name: str, kinds: str, hint: str, needs_elements: bool) -> Infer:
    def infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
        (x,) = types
        check_kind(name, x.dtype, kinds, hint)
        axes = check_axes(name, attrs["axes"], x.rank)
        if needs_elements:
            _check_not_empty(name, x, axes)
        return [x.with_shape(reduced_shape(x.shape, axes, attrs["keepdims"]))]

    return infer


def _reference(fn: Callable[..., Any]) -> Reference:
    """``fn(x, axes, keepdims)`` accumulated in float32 for 16-bit floats; integers wrap around."""

    @rounds_once
    def reference(x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return np.asarray(fn(x, axes, keepdims)).astype(x.dtype, copy=False)

    return reference


def _op(
    name: str,
    fn: Callable[..., Any],
    vjp: Vjp | None,
    doc: str,
    *,
    kinds: str = NUMERIC,
    hint: str = "",
    needs_elements: bool = False,
) -> OpDef:
    return register(
        OpDef(
            name,
            infer=_infer(name, kinds, hint, needs_elements),
            reference=_reference(fn),
            fusion=Fusion.REDUCE,
            attrs=_ATTRS,
            vjp=vjp,
            doc=doc,
        )
    )


# -- gradients ----------------------------------------------------------------------------------------
def _vjp(rule: Callable[[GraphBuilder, Node, Value, Value], Value]) -> Vjp:
    """A gradient from ``rule(g, node, y, dy)`` with y and dy in keepdims form; its result may still have to be
    broadcast to the operand's shape."""

    def vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
        (x,), dy = node.inputs, grads[0]
        if dy is None or not x.dtype.is_floating_point:
            return [None]
        axes, keepdims = node.attrs["axes"], node.attrs["keepdims"]
        kept = restore_axes(g, node.output, x.type, axes, keepdims)
        dx = rule(g, node, kept, restore_axes(g, dy, x.type, axes, keepdims))
        return [dx if dx.shape == x.shape else g.expand(dx, shape=x.shape)]

    return vjp


def _count(g: GraphBuilder, node: Node) -> Value:
    """Number of reduced elements as a 0-d value, known at compile time or not."""
    x = node.inputs[0]
    known = 1
    symbolic = []
    for a in node.attrs["axes"]:
        if isinstance(x.shape[a], int):
            known *= x.shape[a]
        else:
            symbolic.append(x.shape[a])
    total = g.constant(known, x.dtype)
    for extent in symbolic:
        total = g.mul(total, extent_scalar(g, extent, x.dtype))
    return total


def _share_equally(g: GraphBuilder, node: Node, y: Value, dy: Value) -> Value:
    """amax and amin: equal shares to all elements that attain the extreme, as torch.amax does."""
    x = node.inputs[0]
    hits = g.cast(g.eq(x, y), dtype=x.dtype)
    count = g.sum(hits, axes=node.attrs["axes"], keepdims=True)
    return g.div(g.mul(dy, hits), count)


def _product_of_others(g: GraphBuilder, node: Node, y: Value, dy: Value) -> Value:
    """prod: dy times the product of all *other* elements. Products before and after each element, not y / x:
    exact at zeros, and so are the derivatives of this rule."""
    x = node.inputs[0]
    axes = node.attrs["axes"]
    for i, axis in enumerate(axes):
        # The gradient of reducing the axes from i on is that of the partial product over the later axes.
        inner = g.prod(x, axes=axes[i + 1 :], keepdims=True) if axes[i + 1 :] else x
        dy = g.mul(dy, _others_along(g, inner, axis))
    return dy


def _others_along(g: GraphBuilder, x: Value, axis: int) -> Value:
    """For each element the product of the others along ``axis``."""
    extent = x.shape[axis]
    if isinstance(extent, int):
        return g.mul(_exclusive_product(g, x, axis, False), _exclusive_product(g, x, axis, True))
    # Unknown extent: all pairs, with 1 on the diagonal.
    rank = x.type.rank
    row = g.iota(shape=(extent, 1), axis=0, dtype=int64)
    column = g.iota(shape=(1, extent), axis=1, dtype=int64)
    moved = g.permute(x, dims=(*(a for a in range(rank) if a != axis), axis))
    pairs = g.expand(g.reshape(moved, shape=(*moved.shape[:-1], 1, extent)), shape=(*moved.shape[:-1], extent, extent))
    others = g.prod(g.where(g.eq(row, column), scalar(g, 1, x), pairs), axes=(rank,), keepdims=False)
    back = list(range(rank - 1))
    back.insert(axis, rank - 1)
    return g.permute(others, dims=back)


def _exclusive_product(g: GraphBuilder, x: Value, axis: int, reverse: bool) -> Value:
    """Product of the elements before (after, if ``reverse``) each one: a doubling scan of shifted copies."""
    extent = x.shape[axis]
    total = shift(g, x, axis, 1, fill=1, reverse=reverse)
    distance = 1
    while distance < extent:
        total = g.mul(total, shift(g, total, axis, distance, fill=1, reverse=reverse))
        distance *= 2
    return total


# -- records ------------------------------------------------------------------------------------------
_COUNT_HINT = "cast bools to int64 to count them"
_op(
    "sum", lambda x, axes, keepdims: np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype),
    _vjp(lambda g, node, y, dy: dy), "sum over axes; 0 of nothing", hint=_COUNT_HINT,
)  # fmt: skip
_op(
    "prod", lambda x, axes, keepdims: np.prod(x, axis=axes, keepdims=keepdims, dtype=x.dtype),
    _vjp(_product_of_others), "product over axes; 1 of nothing", hint=_COUNT_HINT,
)  # fmt: skip
_op(
    "amax", lambda x, axes, keepdims: np.amax(x, axis=axes, keepdims=keepdims),
    _vjp(_share_equally), "largest element over axes; NaN if there is one",
    hint="use any on bools", needs_elements=True,
)  # fmt: skip
_op(
    "amin", lambda x, axes, keepdims: np.amin(x, axis=axes, keepdims=keepdims),
    _vjp(_share_equally), "smallest element over axes; NaN if there is one",
    hint="use all on bools", needs_elements=True,
)  # fmt: skip
_op(
    "any", lambda x, axes, keepdims: np.any(x, axis=axes, keepdims=keepdims),
    None, "whether some element is true", kinds="b", hint="compare it with 0 first",
)  # fmt: skip
_op(
    "all", lambda x, axes, keepdims: np.all(x, axis=axes, keepdims=keepdims),
    None, "whether every element is true", kinds="b", hint="compare it with 0 first",
)  # fmt: skip


def _mean(x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
    total = np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)
    return total / x.dtype.type(np.prod([x.shape[a] for a in axes], dtype=np.int64))


_op(
    "mean", _mean, _vjp(lambda g, node, y, dy: g.div(dy, _count(g, node))),
    "sum over axes divided by the number of elements; NaN of nothing", kinds="f",
    hint="cast it to a floating dtype first",
)  # fmt: skip


# -- argmax, argmin -----------------------------------------------------------------------------------
def _arg_op(name: str, fn: Callable[..., Any], doc: str) -> OpDef:
    def infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
        (x,) = types
        check_kind(name, x.dtype, NUMERIC, "cast bools to uint8 first")
        axis = check_axis(name, attrs["axis"], x.rank)
        _check_not_empty(name, x, (axis,))
        return [TensorType(int64, reduced_shape(x.shape, (axis,), attrs["keepdims"]))]

    @rounds_once
    def reference(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
        return np.asarray(fn(x, axis=axis, keepdims=keepdims)).astype(np.int64, copy=False)

    return register(OpDef(name, infer=infer, reference=reference, fusion=Fusion.OPAQUE, attrs=_AXIS_ATTRS, doc=doc))


_arg_op("argmax", np.argmax, "index of the first largest element along axis; the first NaN if there is one")
_arg_op("argmin", np.argmin, "index of the first smallest element along axis; the first NaN if there is one")
