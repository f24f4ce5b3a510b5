"""Views that reshape, permute and slice cannot express: several result axes along one axis, one along several, and
the same bits as another dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Extent, product
from ..dtypes import DType, int64
from ..errors import DTypeError, ShapeError
from ..registry import Attr, Fusion, OpDef, register
from ..types import TensorType
from .common import extent_scalar, is_nonnegative, show

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value


def _rows(steps: Sequence[int], rank: int, columns: int) -> list[tuple[int, ...]]:
    """``steps`` as one row per axis of the operand."""
    return [tuple(steps[a * columns : (a + 1) * columns]) for a in range(rank)]


def _infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,), shape, starts, steps = types, attrs["shape"], attrs["starts"], attrs["steps"]
    if len(starts) != x.rank or len(steps) != x.rank * len(shape) or any(s < 0 for s in steps):
        raise ShapeError(f"strided_view: {show(x.shape)} as {show(shape)} takes {x.rank} starts and "
                         f"{x.rank * len(shape)} steps >= 0, got {show(starts)} and {show(steps)}")  # fmt: skip
    if product(shape) != 0:
        for a, row in enumerate(_rows(steps, x.rank, len(shape))):
            last: Extent = starts[a]
            for step, extent in zip(row, shape, strict=True):
                last = last + (extent - 1) * step
            if not (is_nonnegative(starts[a]) and is_nonnegative(x.shape[a] - 1 - last)):
                raise ShapeError(f"strided_view: {show(shape)} reaches from {starts[a]} to {last} on axis {a} of "
                                 f"{show(x.shape)}")  # fmt: skip
    return [x.with_shape(shape)]


def _strided_view(x: np.ndarray, shape: Any, starts: Any, steps: Any) -> np.ndarray:
    x = np.asarray(x)
    nothing: list[Any] = [slice(0, 0)] * x.ndim
    if 0 in shape:
        return x[(..., *nothing)].reshape(shape) if x.ndim else np.empty(shape, x.dtype)
    part: list[Any] = [slice(s, None) for s in starts]
    origin = x[(..., *part)]
    rows = _rows(steps, x.ndim, len(shape))
    strides = tuple(
        sum(row[k] * stride for row, stride in zip(rows, x.strides, strict=True)) for k in range(len(shape))
    )
    return np.lib.stride_tricks.as_strided(origin, shape, strides)


def linear_index(
    g: GraphBuilder, source: Sequence[Extent], shape: Sequence[Extent], starts: Sequence[Extent], steps: Sequence[int]
) -> Value:
    """Where the elements of a ``strided_view`` are in the flat operand: int64 of the view's shape."""
    strides = [product(source[a + 1 :]) for a in range(len(source))]
    first = sum((s * r for s, r in zip(starts, strides, strict=True)), 0)
    out = extent_scalar(g, first, int64)
    rows = _rows(steps, len(source), len(shape))
    for k, extent in enumerate(shape):
        stride: Extent = sum((row[k] * r for row, r in zip(rows, strides, strict=True)), 0)
        if stride == 0:
            continue
        count = g.mul(g.iota(shape=(extent,), axis=0, dtype=int64), extent_scalar(g, stride, int64))
        out = g.add(out, g.reshape(count, shape=tuple(extent if a == k else 1 for a in range(len(shape)))))
    return g.expand(out, shape=tuple(shape))


def _decompose(g: GraphBuilder, node: Node) -> list[Value]:
    (x,), attrs = node.inputs, node.attrs
    shape = attrs["shape"]
    index = linear_index(g, x.shape, shape, attrs["starts"], attrs["steps"])
    flat = g.reshape(x, shape=(x.type.elements,))
    picked = g.index_select(flat, g.reshape(index, shape=(product(shape),)), axis=0)
    return [g.reshape(picked, shape=shape)]


def _vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    (x,), attrs, dy = node.inputs, node.attrs, grads[0]
    if dy is None or not dy.dtype.is_floating_point:
        return [None]
    shape = attrs["shape"]
    count = (product(shape),)
    index = linear_index(g, x.shape, shape, attrs["starts"], attrs["steps"])
    nothing = g.full((x.type.elements,), 0, x.dtype)
    flat = g.scatter_add(nothing, g.reshape(index, shape=count), g.reshape(dy, shape=count), axis=0)
    return [g.reshape(flat, shape=x.shape)]


register(
    OpDef(
        "strided_view",
        infer=_infer,
        reference=_strided_view,
        fusion=Fusion.OPAQUE,
        attrs={"shape": Attr("extents"), "starts": Attr("extents"), "steps": Attr("ints")},
        vjp=_vjp,
        decompose=_decompose,
        doc="out[i] = x[starts + steps i], steps a matrix of one row per axis of x: diagonals, sliding windows",
    )
)


def bitcast_shape(shape: Sequence[Extent], old: DType, new: DType) -> tuple[Extent, ...]:
    """The shape that the same bytes have in another dtype; ShapeError if they do not divide."""
    if old.itemsize == new.itemsize:
        return tuple(shape)
    if not shape:
        raise ShapeError(f"self.dim() cannot be 0 to view {old} as {new} (different element sizes)")
    if old.itemsize > new.itemsize:
        return (*shape[:-1], shape[-1] * (old.itemsize // new.itemsize))
    ratio = new.itemsize // old.itemsize
    if not isinstance(shape[-1], int) or shape[-1] % ratio:
        raise ShapeError(f"self.size(-1) must be divisible by {ratio} to view {old} as {new} (different element "
                         f"sizes), but got {shape[-1]}")  # fmt: skip
    return (*shape[:-1], shape[-1] // ratio)


def _bitcast_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,), dtype = types, attrs["dtype"]
    if not isinstance(dtype, DType):
        raise DTypeError(f"bitcast: attribute dtype must be a dtype, got {dtype!r}")
    return [TensorType(dtype, bitcast_shape(x.shape, x.dtype, dtype))]


def _bitcast(x: np.ndarray, dtype: DType) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim == 0:
        return x.reshape(1).view(dtype.numpy).reshape(())
    if x.dtype.itemsize != dtype.itemsize and x.strides[-1] != x.itemsize:
        x = np.ascontiguousarray(x)
    return x.view(dtype.numpy)


register(
    OpDef(
        "bitcast",
        infer=_bitcast_infer,
        reference=_bitcast,
        fusion=Fusion.OPAQUE,
        attrs={"dtype": Attr("dtype")},
        doc="the same bytes as elements of another dtype; the last axis shrinks or grows with the element size",
    )
)
