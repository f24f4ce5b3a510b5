"""Contraction: matrix products and convolutions.

``conv``, ``conv_transpose`` and ``conv_weight_grad`` are the three faces of one trilinear form
sum x * w * dy; the gradients of each are the other two, so the family is closed under differentiation.
Weights are always [O, C / groups, kernel...] with O the channels of ``conv``'s *result*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import DimExpr, Extent, bounds, product
from ..dtypes import dtype_from_numpy
from ..errors import ShapeError
from ..registry import Attr, Fusion, OpDef, register
from ..types import TensorType
from .common import broadcast_shapes, check_kind, check_same_dtype, show, unbroadcast
from .windows import check_shape, check_windows, pad_spatial, reach, taps, window_count, windows

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value

# The references unfold at most this many elements at a time (batches are cut into pieces).
_COLUMN_LIMIT = 1 << 23


# -- accumulation -----------------------------------------------------------------------------------
def _lift(depth: int, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Operands in the type the sum runs in. Integers up to 16 bits go through float64, where products and sums of
    ``depth`` terms are exact and BLAS is available; wider ones use 64-bit integers, which wrap exactly."""
    dtype = dtype_from_numpy(arrays[0].dtype)
    if dtype.kind == "f":
        wide: Any = np.float32 if dtype.bits < 32 else dtype.numpy
    elif dtype.bits <= 16 and depth < 1 << 20:
        wide = np.float64
    else:
        wide = np.uint64 if dtype.kind == "u" else np.int64
    return tuple(a.astype(wide, copy=False) for a in arrays)


def _lower(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A sum rounded, or for integers wrapped, to ``dtype``."""
    if array.dtype == np.float64 and dtype.kind in "iu":
        array = array.astype(np.int64)
    return array.astype(dtype, copy=False)


# -- matmul -------------------------------------------------------------------------------------------
def _swap(shape: Sequence[Extent], transposed: bool) -> tuple[Extent, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if transposed else tuple(shape)


def _matmul_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    a, b = types
    dtype = check_same_dtype("matmul", a, b)
    check_kind("matmul", dtype, "fiu")
    if a.rank < 2 or b.rank < 2:
        raise ShapeError(f"matmul: operands must have rank 2 or more, got {show(a.shape)} and {show(b.shape)}")
    sa, sb = _swap(a.shape, attrs["transpose_a"]), _swap(b.shape, attrs["transpose_b"])
    if sa[-1] != sb[-2]:
        flags = "".join(f", {k}" for k in ("transpose_a", "transpose_b") if attrs[k])
        raise ShapeError(
            f"matmul: inner extents differ: {sa[-1]} and {sb[-2]} for operands {show(a.shape)} and "
            f"{show(b.shape)}{flags}"
        )
    batch = broadcast_shapes("matmul (batch axes)", sa[:-2], sb[:-2])
    return [TensorType(dtype, (*batch, sa[-2], sb[-1]))]


def _matmul_reference(a: np.ndarray, b: np.ndarray, *, transpose_a: bool, transpose_b: bool) -> np.ndarray:
    if transpose_a:
        a = np.swapaxes(a, -1, -2)
    if transpose_b:
        b = np.swapaxes(b, -1, -2)
    wide_a, wide_b = _lift(a.shape[-1], a, b)
    return _lower(np.matmul(wide_a, wide_b), a.dtype)


def _matmul_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    a, b = node.inputs
    (grad,) = grads
    assert grad is not None
    ta, tb = node.attrs["transpose_a"], node.attrs["transpose_b"]
    da = (
        g.matmul(b, grad, transpose_a=tb, transpose_b=True)
        if ta
        else g.matmul(grad, b, transpose_a=False, transpose_b=not tb)
    )
    left, right = a, grad
    if b.type.rank == 2 and a.type.rank > 2 and not ta:
        # One matrix for all batches: fold the batch into the rows instead of summing a product per batch.
        left = g.reshape(a, shape=(product(a.shape[:-1]), a.shape[-1]))
        right = g.reshape(grad, shape=(product(grad.shape[:-1]), grad.shape[-1]))
    db = (
        g.matmul(right, left, transpose_a=True, transpose_b=ta)
        if tb
        else g.matmul(left, right, transpose_a=not ta, transpose_b=False)
    )
    return [unbroadcast(g, da, a.type), unbroadcast(g, db, b.type)]


register(
    OpDef(
        "matmul",
        infer=_matmul_infer,
        reference=_matmul_reference,
        fusion=Fusion.CONTRACTION,
        attrs={"transpose_a": Attr("bool", False), "transpose_b": Attr("bool", False)},
        vjp=_matmul_vjp,
        arity=(2, 2),
        doc="y[..., i, j] = sum_k a[..., i, k] * b[..., k, j]; leading axes broadcast",
    )
)


# -- convolution: shapes ------------------------------------------------------------------------------
_CONV_ATTRS = {"stride": Attr("ints"), "padding": Attr("pairs"), "dilation": Attr("ints"), "groups": Attr("int")}
_GEOMETRY = tuple(_CONV_ATTRS)


def _geometry(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: attrs[key] for key in _GEOMETRY}


def _check_data(op: str, name: str, t: TensorType) -> int:
    """The number of spatial axes of a [N, channels, spatial...] operand."""
    if t.rank < 3:
        raise ShapeError(f"{op}: {name} must be [N, channels, spatial...] of rank 3 or more, got {show(t.shape)}")
    if isinstance(t.shape[1], DimExpr):
        raise ShapeError(f"{op}: the channel extent of {name} must be a fixed number, got {show(t.shape)}")
    return t.rank - 2


def _check_weight(op: str, w: TensorType, rank: int, groups: int) -> tuple[int, ...]:
    """The shape of a weight as ints."""
    if w.rank != rank:
        raise ShapeError(f"{op}: the weight must be [O, C / groups, kernel...] of rank {rank}, got {show(w.shape)}")
    if not w.is_static:
        raise ShapeError(f"{op}: the weight must have fixed extents, got {show(w.shape)}")
    _check_groups(op, "the weight's first extent (output channels)", w.shape[0], groups)
    return w.shape  # type: ignore[return-value]


def _check_groups(op: str, what: str, channels: Extent, groups: int) -> None:
    if groups < 1 or not isinstance(channels, int) or channels % groups:
        raise ShapeError(f"{op}: {what} {channels} must be divisible by groups = {groups} (at least 1)")


def _counts(op: str, spatial: Sequence[Extent], kernel: Sequence[int], attrs: Mapping[str, Any]) -> tuple[Extent, ...]:
    per_axis = zip(spatial, kernel, attrs["stride"], attrs["padding"], attrs["dilation"], strict=True)
    return tuple(window_count(op, i, e, k, s, p, d) for i, (e, k, s, p, d) in enumerate(per_axis))


def _conv_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    x, w = types
    dtype = check_same_dtype("conv", x, w)
    check_kind("conv", dtype, "fiu")
    spatial = _check_data("conv", "the input", x)
    shape = _check_weight("conv", w, x.rank, attrs["groups"])
    _check_windows("conv", spatial, shape[2:], attrs)
    if x.shape[1] != shape[1] * attrs["groups"]:
        raise ShapeError(
            f"conv: the input has {x.shape[1]} channels, the weight {show(shape)} with groups = {attrs['groups']} "
            f"expects {shape[1]} * {attrs['groups']} = {shape[1] * attrs['groups']}"
        )
    return [TensorType(dtype, (x.shape[0], shape[0], *_counts("conv", x.shape[2:], shape[2:], attrs)))]


def _check_windows(op: str, spatial: int, kernel: Sequence[int], attrs: Mapping[str, Any]) -> None:
    check_windows(
        op, spatial, kernel=kernel, stride=attrs["stride"], padding=attrs["padding"], dilation=attrs["dilation"]
    )


def _conv_transpose_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    op = "conv_transpose"
    x, w = types
    dtype = check_same_dtype(op, x, w)
    check_kind(op, dtype, "fiu")
    spatial = _check_data(op, "the input", x)
    shape = _check_weight(op, w, x.rank, attrs["groups"])
    _check_windows(op, spatial, shape[2:], attrs)
    extra = attrs["output_padding"]
    if len(extra) != spatial:
        raise ShapeError(f"{op}: output_padding must have one entry per spatial axis ({spatial}), got {show(extra)}")
    if x.shape[1] != shape[0]:
        raise ShapeError(f"{op}: the input has {x.shape[1]} channels, the weight {show(shape)} expects {shape[0]}")
    out: list[Extent] = []
    per_axis = zip(x.shape[2:], shape[2:], attrs["stride"], attrs["padding"], attrs["dilation"], extra, strict=True)
    for axis, (e, k, s, (low, high), d, more) in enumerate(per_axis):
        if isinstance(more, int) and not 0 <= more < max(s, d):
            raise ShapeError(
                f"{op}: output_padding must be in [0, max(stride, dilation)), got {more} on spatial axis {axis} with "
                f"stride {s} and dilation {d}"
            )
        extent = (e - 1) * s + (d * (k - 1) + 1 - low - high) + more
        if bounds(extent)[1] < 0:
            raise ShapeError(
                f"{op}: spatial axis {axis} would get the extent {extent} (padding ({low}, {high}) is too large)"
            )
        out.append(extent)
    return [TensorType(dtype, (x.shape[0], shape[1] * attrs["groups"], *out))]


def _conv_weight_grad_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    op = "conv_weight_grad"
    x, dy = types
    dtype = check_same_dtype(op, x, dy)
    check_kind(op, dtype, "fiu")
    spatial = _check_data(op, "the input", x)
    kernel, groups = attrs["kernel"], attrs["groups"]
    _check_windows(op, spatial, kernel, attrs)
    _check_data(op, "the output gradient", dy)
    _check_groups(op, "the input's channel extent", x.shape[1], groups)
    _check_groups(op, "the output gradient's channel extent", dy.shape[1], groups)
    counts = _counts(op, x.shape[2:], kernel, attrs)
    check_shape(op, "the output gradient", dy.shape, (x.shape[0], dy.shape[1], *counts))
    return [TensorType(dtype, (dy.shape[1], x.shape[1] // groups, *kernel))]


# -- convolution: references ----------------------------------------------------------------------------
def _pieces(batch: int, elements: int) -> list[slice]:
    """Cuts a batch so that ``elements`` unfolded numbers per image stay within the limit."""
    step = max(1, _COLUMN_LIMIT // max(elements, 1))
    return [slice(i, min(i + step, batch)) for i in range(0, batch, step)]


def _conv_reference(
    x: np.ndarray, w: np.ndarray, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> np.ndarray:
    dtype, kernel = x.dtype, w.shape[2:]
    depth = prod(w.shape[1:])
    x, w = _lift(depth, x, w)
    x = pad_spatial(x, padding)
    counts = [(e - d * (k - 1) - 1) // s + 1 for e, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)]
    points, channels = prod(counts), w.shape[0]
    out = np.empty((x.shape[0], groups, channels // groups, points), x.dtype)
    rows = w.reshape(groups, channels // groups, depth)
    for cut in _pieces(x.shape[0], depth * groups * points):
        part = x[cut]
        columns = windows(part, kernel, counts, stride, dilation).reshape(len(part), groups, depth, points)
        np.matmul(rows, columns, out=out[cut])
    return _lower(out, dtype).reshape(x.shape[0], channels, *counts)


def _conv_transpose_reference(
    x: np.ndarray, w: np.ndarray, *, stride: Any, padding: Any, dilation: Any, groups: int, output_padding: Any
) -> np.ndarray:
    dtype, kernel, counts = x.dtype, w.shape[2:], x.shape[2:]
    channels, depth = w.shape[1] * groups, prod(w.shape[1:])
    x, w = _lift(w.shape[0] * prod(kernel), x, w)
    full = [reach(n, k, s, d) for n, k, s, d in zip(counts, kernel, stride, dilation, strict=True)]
    starts = [low for low, _ in padding]
    stops = [
        max((n - 1) * s + d * (k - 1) + 1 + more - high, low)
        for n, k, s, d, (low, high), more in zip(counts, kernel, stride, dilation, padding, output_padding, strict=True)
    ]
    # Windows scatter into the whole reach; the result is the part [low, stop) of it.
    buffer = np.zeros((x.shape[0], channels, *(max(f, e) for f, e in zip(full, stops, strict=True))), x.dtype)
    points = prod(counts)
    rows = w.reshape(groups, w.shape[0] // groups, depth).swapaxes(1, 2)
    for cut in _pieces(x.shape[0], depth * groups * points):
        part = x[cut]
        columns = np.matmul(rows, part.reshape(len(part), groups, rows.shape[2], points))
        columns = columns.reshape(len(part), channels, *kernel, *counts)
        target = buffer[cut]
        for index, where in taps(kernel, counts, stride, dilation):
            target[(slice(None), slice(None), *where)] += columns[(slice(None), slice(None), *index)]
    inside = tuple(slice(low, stop) for low, stop in zip(starts, stops, strict=True))
    return _lower(np.ascontiguousarray(buffer[(slice(None), slice(None), *inside)]), dtype)


def _conv_weight_grad_reference(
    x: np.ndarray, dy: np.ndarray, *, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> np.ndarray:
    dtype, counts = x.dtype, dy.shape[2:]
    points, channels = prod(counts), dy.shape[1]
    depth = x.shape[1] // groups * prod(kernel)
    x, dy = _lift(dy.shape[0] * points, x, dy)
    x = pad_spatial(x, padding)
    rows = channels // groups
    out = np.zeros((groups, rows, depth), x.dtype)
    for cut in _pieces(x.shape[0], depth * groups * points):
        part = x[cut]
        n = len(part)
        columns = windows(part, kernel, counts, stride, dilation).reshape(n, groups, depth, points)
        grads = dy[cut].reshape(n, groups, rows, points)
        if rows <= points:
            # A product per image needs no second copy of the columns, and its results are smaller than they are.
            out += np.matmul(grads, columns.swapaxes(2, 3)).sum(axis=0)
        else:
            # One product per group: batch and positions together are the summed axis.
            joined = np.moveaxis(columns, 0, 2).reshape(groups, depth, n * points)
            summed = np.moveaxis(grads, 0, 2).reshape(groups, rows, n * points)
            out += np.matmul(summed, joined.swapaxes(1, 2))
    return _lower(out, dtype).reshape(channels, x.shape[1] // groups, *kernel)


# -- convolution: gradients -----------------------------------------------------------------------------
def _transpose_to(g: GraphBuilder, y: Value, w: Value, spatial: Sequence[Extent], geometry: Mapping[str, Any]) -> Value:
    """conv_transpose whose result has the extents ``spatial``: output_padding makes up for what the stride lost.

    It is written as the difference of extents, not as a remainder, so that symbolic shapes cancel exactly.
    """
    per_axis = zip(
        spatial, y.shape[2:], w.shape[2:], geometry["stride"], geometry["padding"], geometry["dilation"], strict=True
    )
    extra = tuple(e - ((n - 1) * s + (d * (k - 1) + 1 - low - high)) for e, n, k, s, (low, high), d in per_axis)
    return g.conv_transpose(y, w, output_padding=extra, **geometry)


def _conv_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    x, w = node.inputs
    (grad,) = grads
    assert grad is not None
    geometry = _geometry(node.attrs)
    dx = _transpose_to(g, grad, w, x.shape[2:], geometry)
    return [dx, g.conv_weight_grad(x, grad, kernel=w.shape[2:], **geometry)]


def _conv_transpose_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    x, w = node.inputs
    (grad,) = grads
    assert grad is not None
    geometry = _geometry(node.attrs)
    dx = g.conv(grad, w, **geometry)
    # output_padding of a whole stride or more (possible with dilation) makes room for windows that x never filled.
    surplus = [
        more // s if isinstance(more, int) else 0
        for more, s in zip(node.attrs["output_padding"], geometry["stride"], strict=True)
    ]
    if any(surplus):
        rank = x.type.rank
        dx = g.slice(dx, starts=(0,) * rank, stops=x.shape, steps=(1,) * rank)
        x = g.pad(x, low=(0,) * rank, high=(0, 0, *surplus), interior=(0,) * rank, value=0)
    return [dx, g.conv_weight_grad(grad, x, kernel=w.shape[2:], **geometry)]


def _conv_weight_grad_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    x, dy = node.inputs
    (grad,) = grads
    assert grad is not None
    geometry = _geometry(node.attrs)
    dx = _transpose_to(g, dy, grad, x.shape[2:], geometry)
    return [dx, g.conv(x, grad, **geometry)]


register(
    OpDef(
        "conv",
        infer=_conv_infer,
        reference=_conv_reference,
        fusion=Fusion.CONTRACTION,
        attrs=_CONV_ATTRS,
        vjp=_conv_vjp,
        arity=(2, 2),
        doc="y[n, o, p] = sum_{c, k} x[n, c, p * stride - padding + k * dilation] * w[o, c, k], c within o's group",
    )
)

register(
    OpDef(
        "conv_transpose",
        infer=_conv_transpose_infer,
        reference=_conv_transpose_reference,
        fusion=Fusion.CONTRACTION,
        attrs={**_CONV_ATTRS, "output_padding": Attr("extents")},
        vjp=_conv_transpose_vjp,
        arity=(2, 2),
        doc="the input gradient of conv: y[n, c, p * stride - padding + k * dilation] += x[n, o, p] * w[o, c, k]",
    )
)

register(
    OpDef(
        "conv_weight_grad",
        infer=_conv_weight_grad_infer,
        reference=_conv_weight_grad_reference,
        fusion=Fusion.CONTRACTION,
        attrs={"kernel": Attr("ints"), **_CONV_ATTRS},
        vjp=_conv_weight_grad_vjp,
        arity=(2, 2),
        doc="weight gradient: dw[o, c, k] = sum_{n, p} dy[n, o, p] * x[n, c, p * stride - padding + k * dilation]",
    )
)
