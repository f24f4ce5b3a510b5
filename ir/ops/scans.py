"""Scans along one axis: running sums, products and extremes, and the linear recurrence that their gradients use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import int64
from ..errors import ShapeError
from ..registry import Attr, Fusion, Infer, OpDef, Vjp, register
from ..types import TensorType
from .common import check_axis, check_kind, check_same_dtype, rounds_once, shift, show, zeros

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value

Grads = list["Value | None"]
_ATTRS = {"axis": Attr("int")}


def _infer(name: str, kinds: str, hint: str, indices: bool = False) -> Infer:
    def infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
        (x,) = types
        check_kind(name, x.dtype, kinds, hint)
        check_axis(name, attrs["axis"], x.rank)
        return [x.with_shape(x.shape), *([TensorType(int64, x.shape)] if indices else [])]

    return infer


def _backwards(g: GraphBuilder, x: Value, axis: int) -> Value:
    return g.flip(x, axes=(axis,))


def _sum_of_later(g: GraphBuilder, factor: Value, dy: Value, axis: int) -> Value:
    """s[i] = dy[i] + factor[i + 1] * s[i + 1]."""
    before = shift(g, _backwards(g, factor, axis), axis, 1, fill=0)
    return _backwards(g, g.linear_recurrence(before, _backwards(g, dy, axis), axis=axis), axis)


def _vjp(rule: Callable[[GraphBuilder, Node, Value, int], Value]) -> Vjp:
    """A gradient from ``rule(g, node, dy, axis)``."""

    def vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
        dy = grads[0]
        if dy is None or not dy.dtype.is_floating_point:
            return [None]
        return [rule(g, node, dy, node.attrs["axis"])]

    return vjp


# -- sums and products --------------------------------------------------------------------------------
def _cumsum_gradient(g: GraphBuilder, node: Node, dy: Value, axis: int) -> Value:
    return _backwards(g, g.cumsum(_backwards(g, dy, axis), axis=axis), axis)


def _cumprod_gradient(g: GraphBuilder, node: Node, dy: Value, axis: int) -> Value:
    """dx[i] is the product before i times the sum over k >= i of dy[k] and the product between i and k: no division,
    so it is exact at zeros, and so are the derivatives of this rule."""
    before = shift(g, node.output, axis, 1, fill=1)
    return g.mul(before, _sum_of_later(g, node.inputs[0], dy, axis))


def _logcumsumexp_gradient(g: GraphBuilder, node: Node, dy: Value, axis: int) -> Value:
    """dx[i] = sum over k >= i of dy[k] * exp(x[i] - y[k]): y never falls, so no factor exceeds 1."""
    x, y = node.inputs[0], node.output
    nothing = g.constant(-np.inf, y.dtype)
    last = shift(g, y, axis, 1, fill=-np.inf)
    stays = g.logical_and(g.isinf(y), g.eq(last, y))  # infinity minus infinity is 0 here
    factor = g.exp(g.where(stays, g.constant(0, y.dtype), g.sub(last, y)))
    share = g.exp(g.where(g.eq(x, nothing), nothing, g.sub(x, y)))
    return g.mul(share, _sum_of_later(g, factor, dy, axis))


def _scan(name: str, fn: Callable[..., np.ndarray], vjp: Vjp, doc: str, kinds: str = "fiu") -> None:
    @rounds_once
    def reference(x: np.ndarray, axis: int) -> np.ndarray:
        return fn(x, axis=axis, dtype=x.dtype)

    hint = "cast it to a floating dtype first" if kinds == "f" else "cast bools to int64 first"
    register(OpDef(name, _infer(name, kinds, hint), reference, Fusion.OPAQUE, attrs=_ATTRS, vjp=vjp, doc=doc))


_scan("cumsum", np.cumsum, _vjp(_cumsum_gradient), "y[i] = x[0] + .. + x[i] along axis")
_scan("cumprod", np.cumprod, _vjp(_cumprod_gradient), "y[i] = x[0] * .. * x[i] along axis")
_scan(
    "logcumsumexp", np.logaddexp.accumulate, _vjp(_logcumsumexp_gradient),
    "y[i] = log(exp(x[0]) + .. + exp(x[i])) along axis, without overflow", "f",
)  # fmt: skip


# -- extremes -----------------------------------------------------------------------------------------
def _extreme_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    dy = grads[0]
    if dy is None or not dy.dtype.is_floating_point:
        return [None]
    x = node.inputs[0]
    return [g.scatter_add(zeros(g, x.type), node.outputs[1], dy, axis=node.attrs["axis"])]


def _extreme(name: str, ufunc: np.ufunc, doc: str) -> None:
    @rounds_once
    def reference(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        values = ufunc.accumulate(x, axis=axis)
        places = np.arange(x.shape[axis]).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        attained = (x == values) | (x != x)
        indices = np.maximum.accumulate(np.where(attained, places, 0), axis=axis)
        return values, indices.astype(np.int64, copy=False)

    register(
        OpDef(
            name, _infer(name, "fiu", "cast bools to uint8 first", True), reference, Fusion.OPAQUE,
            attrs=_ATTRS, vjp=_extreme_vjp, num_outputs=2, doc=doc,
        )
    )  # fmt: skip


_extreme("cummax", np.maximum, "the largest of x[0] .. x[i] along axis (NaN wins), and the last index that has it")
_extreme("cummin", np.minimum, "the smallest of x[0] .. x[i] along axis (NaN wins), and the last index that has it")


# -- linear recurrence --------------------------------------------------------------------------------
def _recurrence_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    a, b = types
    check_kind("linear_recurrence", check_same_dtype("linear_recurrence", a, b), "f")
    if a.shape != b.shape:
        raise ShapeError(f"linear_recurrence: shapes {show(a.shape)} and {show(b.shape)} must be equal")
    check_axis("linear_recurrence", attrs["axis"], b.rank)
    return [b.with_shape(b.shape)]


@rounds_once
def _recurrence(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    """Steps of doubling length: (a1, b1) then (a2, b2) is the step (a2 * a1, a2 * b1 + b2)."""
    factor, total = np.moveaxis(a, axis, 0).copy(), np.moveaxis(b, axis, 0).copy()
    distance = 1
    while distance < len(total):
        total[distance:] += factor[distance:] * total[:-distance]
        factor[distance:] *= factor[:-distance].copy()
        distance *= 2
    return np.moveaxis(total, 0, axis)


def _recurrence_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    (a, _), dy, axis = node.inputs, grads[0], node.attrs["axis"]
    if dy is None:
        return [None, None]
    later = _sum_of_later(g, a, dy, axis)
    return [g.mul(later, shift(g, node.output, axis, 1, fill=0)), later]


register(
    OpDef(
        "linear_recurrence",
        _recurrence_infer,
        _recurrence,
        Fusion.OPAQUE,
        attrs=_ATTRS,
        vjp=_recurrence_vjp,
        arity=(2, 2),
        doc="y[i] = a[i] * y[i - 1] + b[i] along axis, y[0] = b[0]",
    )
)
