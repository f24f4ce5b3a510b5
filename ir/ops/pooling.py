"""Pooling over windows of the spatial axes of [N, C, spatial...], with PyTorch's rules for edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Extent, product
from ..dtypes import dtype_from_numpy, int64
from ..errors import ShapeError
from ..registry import Attr, Fusion, OpDef, register
from ..types import TensorType
from .common import check_kind, rounds_once, show, zeros
from .windows import check_shape, check_windows, pad_spatial, reach, taps, window_count

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value


def _check(op: str, x: TensorType, attrs: Mapping[str, Any]) -> int:
    """Checks shared by all pools; the number of spatial axes."""
    if x.rank < 3:
        raise ShapeError(f"{op}: the input must be [N, C, spatial...] of rank 3 or more, got {show(x.shape)}")
    spatial = x.rank - 2
    lists = {key: attrs[key] for key in ("kernel", "stride", "padding", "dilation") if key in attrs}
    check_windows(op, spatial, **lists)
    dilation = attrs.get("dilation", (1,) * spatial)
    for axis, (k, d, pads) in enumerate(zip(attrs["kernel"], dilation, attrs["padding"], strict=True)):
        if 2 * max(pads) > d * (k - 1) + 1:
            raise ShapeError(
                f"{op}: padding must be at most half of the window, got {pads} for kernel {k} with dilation {d} on "
                f"spatial axis {axis}"
            )
    return spatial


def _counts(op: str, spatial: Sequence[Extent], attrs: Mapping[str, Any]) -> tuple[Extent, ...]:
    dilation = attrs.get("dilation", (1,) * len(spatial))
    per_axis = zip(spatial, attrs["kernel"], attrs["stride"], attrs["padding"], dilation, strict=True)
    return tuple(window_count(op, i, e, k, s, p, d, attrs["ceil_mode"]) for i, (e, k, s, p, d) in enumerate(per_axis))


def _fit(
    x: np.ndarray, padding: Any, counts: Sequence[int], kernel: Any, stride: Any, dilation: Any, fill: Any
) -> np.ndarray:
    """``x`` padded so that every window lies inside (``ceil_mode`` windows may overhang the declared padding)."""
    ends = [reach(n, k, s, d) for n, k, s, d in zip(counts, kernel, stride, dilation, strict=True)]
    pads = [(low, max(0, end - low - e)) for (low, _), end, e in zip(padding, ends, x.shape[2:], strict=True)]
    return pad_spatial(x, pads, fill)


# -- max_pool -----------------------------------------------------------------------------------------
def _max_pool_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    check_kind("max_pool", x.dtype, "fiu")
    _check("max_pool", x, attrs)
    shape = (*x.shape[:2], *_counts("max_pool", x.shape[2:], attrs))
    return [TensorType(x.dtype, shape), TensorType(int64, shape)]


def _max_pool_reference(
    x: np.ndarray, *, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[np.ndarray, np.ndarray]:
    spatial, dtype = x.shape[2:], dtype_from_numpy(x.dtype)
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    counts: Any = _counts("max_pool", spatial, attrs)
    lowest = -np.inf if dtype.kind == "f" else dtype.min
    padded = _fit(x, padding, counts, kernel, stride, dilation, lowest)
    plane_strides = [prod(spatial[i + 1 :]) for i in range(len(spatial))]

    def along(axis: int, values: np.ndarray) -> np.ndarray:
        return values.reshape([-1 if a == axis else 1 for a in range(len(spatial))])

    # Where each window starts along each axis; its first element inside the data is the initial winner, so
    # that a window of nothing but -inf still points at an element.
    starts = [np.arange(n) * s - low for n, s, (low, _) in zip(counts, stride, padding, strict=True)]
    index = np.zeros(counts, np.int64)
    for axis, (start, d, e) in enumerate(zip(starts, dilation, spatial, strict=True)):
        first = start + np.where(start < 0, -(start // d) * d, 0)
        index = index + along(axis, np.clip(first, 0, max(e - 1, 0)) * plane_strides[axis])
    indices = np.broadcast_to(index, (*x.shape[:2], *counts)).copy()
    values = np.full(indices.shape, lowest, x.dtype)
    has_nan = dtype.kind == "f" and bool(np.isnan(x).any())
    for tap, where in taps(kernel, counts, stride, dilation):
        candidate = padded[(slice(None), slice(None), *where)]
        better = candidate > values
        if has_nan:
            better |= np.isnan(candidate) & ~np.isnan(values)
        position = np.zeros((1,) * len(spatial), np.int64)
        for axis, (start, k, d) in enumerate(zip(starts, tap, dilation, strict=True)):
            position = position + along(axis, (start + k * d) * plane_strides[axis])
        np.copyto(values, candidate, where=better)
        np.copyto(indices, position, where=better)
    return values, indices


def _max_pool_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    (x,) = node.inputs
    grad = grads[0]
    if grad is None:
        return [None]
    flat = (*x.shape[:2], product(grad.shape[2:]))
    plane = zeros(g, x.type.with_shape((*x.shape[:2], product(x.shape[2:]))))
    index = g.reshape(node.outputs[1], shape=flat)
    scattered = g.scatter_add(plane, index, g.reshape(grad, shape=flat), axis=2)
    return [g.reshape(scattered, shape=x.shape)]


register(
    OpDef(
        "max_pool",
        infer=_max_pool_infer,
        reference=_max_pool_reference,
        fusion=Fusion.OPAQUE,
        attrs={
            "kernel": Attr("ints"),
            "stride": Attr("ints"),
            "padding": Attr("pairs"),
            "dilation": Attr("ints"),
            "ceil_mode": Attr("bool", False),
        },
        vjp=_max_pool_vjp,
        num_outputs=2,
        doc="largest element of each window and its index in the flattened spatial plane (first of equals; NaN wins)",
    )
)


# -- avg_pool -----------------------------------------------------------------------------------------
_AVG_ATTRS = {
    "kernel": Attr("ints"),
    "stride": Attr("ints"),
    "padding": Attr("pairs"),
    "ceil_mode": Attr("bool", False),
    "count_include_pad": Attr("bool", True),
    "divisor_override": Attr("optional_int", None),
}


def _check_divisor(op: str, attrs: Mapping[str, Any]) -> None:
    if attrs["divisor_override"] == 0:
        raise ShapeError(f"{op}: divisor_override must not be 0")


def _avg_pool_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    check_kind("avg_pool", x.dtype, "f")
    _check("avg_pool", x, attrs)
    _check_divisor("avg_pool", attrs)
    return [TensorType(x.dtype, (*x.shape[:2], *_counts("avg_pool", x.shape[2:], attrs)))]


def _avg_pool_grad_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (grad,) = types
    check_kind("avg_pool_grad", grad.dtype, "f")
    spatial = _check("avg_pool_grad", grad, attrs)
    _check_divisor("avg_pool_grad", attrs)
    if len(attrs["input_shape"]) != spatial:
        raise ShapeError(
            f"avg_pool_grad: input_shape must have one entry per spatial axis ({spatial}), "
            f"got {show(attrs['input_shape'])}"
        )
    counts = _counts("avg_pool_grad", attrs["input_shape"], attrs)
    check_shape("avg_pool_grad", "the output gradient", grad.shape, (*grad.shape[:2], *counts))
    return [TensorType(grad.dtype, (*grad.shape[:2], *attrs["input_shape"]))]


def _divisors(spatial: Sequence[int], counts: Sequence[int], attrs: Mapping[str, Any]) -> np.ndarray:
    """What each window's sum is divided by: its size cut to the padded data, or to the data alone."""
    if attrs["divisor_override"] is not None:
        return np.array(float(attrs["divisor_override"]))
    out = np.ones(())
    for e, n, k, s, (low, high) in zip(
        spatial, counts, attrs["kernel"], attrs["stride"], attrs["padding"], strict=True
    ):
        start = np.arange(n) * s - low
        stop = np.minimum(start + k, e + high)
        if not attrs["count_include_pad"]:
            start, stop = np.maximum(start, 0), np.minimum(stop, e)
        out = out[..., None] * (stop - start)
    return out


@rounds_once
def _avg_pool_reference(x: np.ndarray, **attrs: Any) -> np.ndarray:
    kernel, stride, spatial = attrs["kernel"], attrs["stride"], x.shape[2:]
    counts: Any = _counts("avg_pool", spatial, attrs)
    dilation = (1,) * len(spatial)
    padded = _fit(x, attrs["padding"], counts, kernel, stride, dilation, 0)
    total = np.zeros((*x.shape[:2], *counts), x.dtype)
    for _, where in taps(kernel, counts, stride, dilation):
        total += padded[(slice(None), slice(None), *where)]
    return total / _divisors(spatial, counts, attrs).astype(x.dtype)


@rounds_once
def _avg_pool_grad_reference(grad: np.ndarray, *, input_shape: Any, **attrs: Any) -> np.ndarray:
    kernel, stride, counts = attrs["kernel"], attrs["stride"], grad.shape[2:]
    dilation = (1,) * len(counts)
    share = grad / _divisors(input_shape, counts, attrs).astype(grad.dtype)
    lows = [low for low, _ in attrs["padding"]]
    ends = [
        max(reach(n, k, s, 1), low + e)
        for n, k, s, low, e in zip(counts, kernel, stride, lows, input_shape, strict=True)
    ]
    out = np.zeros((*grad.shape[:2], *ends), grad.dtype)
    for _, where in taps(kernel, counts, stride, dilation):
        out[(slice(None), slice(None), *where)] += share
    inside = tuple(slice(low, low + e) for low, e in zip(lows, input_shape, strict=True))
    return np.ascontiguousarray(out[(slice(None), slice(None), *inside)])


def _avg_pool_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    return [g.avg_pool_grad(grads[0], input_shape=node.inputs[0].shape[2:], **node.attrs)]


def _avg_pool_grad_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    return [g.avg_pool(grads[0], **{key: node.attrs[key] for key in _AVG_ATTRS})]


register(
    OpDef(
        "avg_pool",
        infer=_avg_pool_infer,
        reference=_avg_pool_reference,
        fusion=Fusion.OPAQUE,
        attrs=_AVG_ATTRS,
        vjp=_avg_pool_vjp,
        doc="sum of each window / its size (padding counted or not) or divisor_override",
    )
)

register(
    OpDef(
        "avg_pool_grad",
        infer=_avg_pool_grad_infer,
        reference=_avg_pool_grad_reference,
        fusion=Fusion.OPAQUE,
        attrs={"input_shape": Attr("extents"), **_AVG_ATTRS},
        vjp=_avg_pool_grad_vjp,
        doc="the transpose of avg_pool: each output gradient / divisor added to all elements of its window",
    )
)
