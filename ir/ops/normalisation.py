"""Normalisation: softmax, layer norm, batch norm. Every variance is two-pass and biased, every softmax subtracts the
maximum; 16-bit floats are computed in float32 in references, decompositions and gradients alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Extent, product
from ..dtypes import DType
from ..errors import ShapeError
from ..registry import Attr, Fusion, OpDef, register
from ..types import TensorType
from .common import check_axis, check_kind, check_same_dtype, extent_scalar, rounds_once, show
from .windows import check_shape

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value


# -- helpers that build graphs -------------------------------------------------------------------------
def _up(g: GraphBuilder, *values: Value) -> list[Value]:
    """Values in the type to compute in."""
    return [v if v.dtype is v.dtype.accumulator else g.cast(v, dtype=v.dtype.accumulator) for v in values]


def _down(g: GraphBuilder, value: Value, dtype: DType) -> Value:
    return value if value.dtype is dtype else g.cast(value, dtype=dtype)


def _mean(g: GraphBuilder, x: Value, axes: Sequence[int]) -> Value:
    return g.mean(x, axes=axes, keepdims=True)


def _channel_axes(x: TensorType) -> tuple[int, ...]:
    return (0, *range(2, x.rank))


def _per_channel(g: GraphBuilder, v: Value, x: TensorType) -> Value:
    """A [C] vector shaped to broadcast along axis 1 of ``x``."""
    return g.reshape(v, shape=(1, x.shape[1], *(1 for _ in x.shape[2:])))


def _vector(g: GraphBuilder, v: Value, x: TensorType) -> Value:
    return g.reshape(v, shape=(x.shape[1],))


def _standardise(g: GraphBuilder, x: Value, axes: Sequence[int], eps: float) -> tuple[Value, Value, Value, Value]:
    """(normalised x, 1 / standard deviation, mean, biased variance), statistics with kept axes."""
    mean = _mean(g, x, axes)
    centred = g.sub(x, mean)
    var = _mean(g, g.mul(centred, centred), axes)
    rstd = g.rsqrt(g.add(var, eps))
    return g.mul(centred, rstd), rstd, mean, var


def _standardise_grad(g: GraphBuilder, grad: Value, xhat: Value, rstd: Value, axes: Sequence[int]) -> Value:
    """Gradient of the normalised x: rstd * (grad - mean(grad) - xhat * mean(grad * xhat))."""
    projection = g.mul(xhat, _mean(g, g.mul(grad, xhat), axes))
    return g.mul(rstd, g.sub(g.sub(grad, _mean(g, grad, axes)), projection))


# -- softmax ------------------------------------------------------------------------------------------
def _softmax_infer(op: str) -> Any:
    def infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
        (x,) = types
        check_kind(op, x.dtype, "f")
        check_axis(op, attrs["axis"], x.rank)
        return [TensorType(x.dtype, x.shape)]

    return infer


def _shifted(x: np.ndarray, axis: int) -> np.ndarray:
    return x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)


@rounds_once
def _softmax_reference(x: np.ndarray, *, axis: int) -> np.ndarray:
    e = np.exp(_shifted(x, axis))
    return e / e.sum(axis=axis, keepdims=True)


@rounds_once
def _log_softmax_reference(x: np.ndarray, *, axis: int) -> np.ndarray:
    shifted = _shifted(x, axis)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _softmax_decompose(g: GraphBuilder, node: Node) -> list[Value]:
    axes, dtype = (node.attrs["axis"],), node.output.dtype
    (x,) = _up(g, node.inputs[0])
    e = g.exp(g.sub(x, g.amax(x, axes=axes, keepdims=True)))
    return [_down(g, g.div(e, g.sum(e, axes=axes, keepdims=True)), dtype)]


def _log_softmax_decompose(g: GraphBuilder, node: Node) -> list[Value]:
    axes, dtype = (node.attrs["axis"],), node.output.dtype
    (x,) = _up(g, node.inputs[0])
    shifted = g.sub(x, g.amax(x, axes=axes, keepdims=True))
    return [_down(g, g.sub(shifted, g.log(g.sum(g.exp(shifted), axes=axes, keepdims=True))), dtype)]


def _softmax_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    assert grads[0] is not None
    grad, y = _up(g, grads[0], node.output)
    inner = g.sum(g.mul(grad, y), axes=(node.attrs["axis"],), keepdims=True)
    return [_down(g, g.mul(g.sub(grad, inner), y), node.output.dtype)]


def _log_softmax_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    assert grads[0] is not None
    grad, y = _up(g, grads[0], node.output)
    total = g.sum(grad, axes=(node.attrs["axis"],), keepdims=True)
    return [_down(g, g.sub(grad, g.mul(g.exp(y), total)), node.output.dtype)]


# -- layer_norm ---------------------------------------------------------------------------------------
def _last_axes(x: TensorType, ndim: int) -> tuple[int, ...]:
    return tuple(range(x.rank - ndim, x.rank))


def _layer_norm_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    x, ndim = types[0], attrs["ndim"]
    check_kind("layer_norm", check_same_dtype("layer_norm", *types), "f")
    if not 1 <= ndim <= x.rank:
        raise ShapeError(f"layer_norm: ndim must be in [1, {x.rank}] for an input of shape {show(x.shape)}, got {ndim}")
    for name, t in zip(("weight", "bias"), types[1:], strict=False):
        check_shape("layer_norm", f"the {name}", t.shape, x.shape[x.rank - ndim :])
    return [TensorType(x.dtype, x.shape)]


@rounds_once
def _layer_norm_reference(x: np.ndarray, *affine: np.ndarray, ndim: int, eps: float) -> np.ndarray:
    axes = tuple(range(x.ndim - ndim, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    var = (centred * centred).mean(axis=axes, keepdims=True)
    y = centred / np.sqrt(var + np.asarray(eps, x.dtype))
    if affine:
        y = y * affine[0]
    return y + affine[1] if len(affine) == 2 else y


def _layer_norm_decompose(g: GraphBuilder, node: Node) -> list[Value]:
    x, *affine = _up(g, *node.inputs)
    y = _standardise(g, x, _last_axes(x.type, node.attrs["ndim"]), node.attrs["eps"])[0]
    if affine:
        y = g.mul(y, affine[0])
    if len(affine) == 2:
        y = g.add(y, affine[1])
    return [_down(g, y, node.output.dtype)]


def _layer_norm_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    assert grads[0] is not None
    x, grad, *affine = _up(g, node.inputs[0], grads[0], *node.inputs[1:])
    axes = _last_axes(x.type, node.attrs["ndim"])
    leading = tuple(range(x.type.rank - len(axes)))
    xhat, rstd, _, _ = _standardise(g, x, axes, node.attrs["eps"])

    def total(v: Value) -> Value:
        return g.sum(v, axes=leading, keepdims=False) if leading else v

    out = [_standardise_grad(g, g.mul(grad, affine[0]) if affine else grad, xhat, rstd, axes)]
    if affine:
        out.append(total(g.mul(grad, xhat)))
    if len(affine) == 2:
        out.append(total(grad))
    return [_down(g, v, node.output.dtype) for v in out]


# -- batch_norm ---------------------------------------------------------------------------------------
def _batch_norm_check(op: str, types: Sequence[TensorType], names: Sequence[str]) -> TensorType:
    x = types[0]
    check_kind(op, check_same_dtype(op, *types), "f")
    if x.rank < 2:
        raise ShapeError(f"{op}: the input must be [N, C, ...] of rank 2 or more, got {show(x.shape)}")
    for name, t in zip(names, types[1:], strict=True):
        check_shape(op, f"the {name}", t.shape, (x.shape[1],))
    return x


def _batch_norm_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    x = _batch_norm_check("batch_norm", types, ("weight", "bias", "mean", "variance"))
    return [TensorType(x.dtype, x.shape)]


def _batch_norm_train_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    x = _batch_norm_check("batch_norm_train", types, ("weight", "bias"))
    if _count(x) == 0:
        raise ShapeError(f"batch_norm_train: no elements per channel to take statistics of in {show(x.shape)}")
    return [TensorType(x.dtype, x.shape), *[TensorType(x.dtype, (x.shape[1],))] * 2]


def _count(x: TensorType) -> Extent:
    """Elements per channel."""
    return product(x.shape[a] for a in _channel_axes(x))


def _column(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return v.reshape(1, -1, *(1,) * (x.ndim - 2))


@rounds_once
def _batch_norm_reference(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray, *, eps: float
) -> np.ndarray:
    scale = weight / np.sqrt(var + np.asarray(eps, x.dtype))
    return (x - _column(mean, x)) * _column(scale, x) + _column(bias, x)


@rounds_once
def _batch_norm_train_reference(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes)
    centred = x - _column(mean, x)
    var = (centred * centred).mean(axis=axes)
    scale = weight / np.sqrt(var + np.asarray(eps, x.dtype))
    return centred * _column(scale, x) + _column(bias, x), mean, var


def _batch_norm_decompose(g: GraphBuilder, node: Node) -> list[Value]:
    x, weight, bias, mean, var = _up(g, *node.inputs)
    scale = g.mul(weight, g.rsqrt(g.add(var, node.attrs["eps"])))
    centred = g.sub(x, _per_channel(g, mean, x.type))
    y = g.add(g.mul(centred, _per_channel(g, scale, x.type)), _per_channel(g, bias, x.type))
    return [_down(g, y, node.output.dtype)]


def _batch_norm_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    assert grads[0] is not None
    grad, x, weight, _, mean, var = _up(g, grads[0], *node.inputs)
    axes = _channel_axes(x.type)
    rstd = g.rsqrt(g.add(var, node.attrs["eps"]))
    scale = g.mul(weight, rstd)
    total = g.sum(grad, axes=axes, keepdims=False)
    centred = g.sub(x, _per_channel(g, mean, x.type))
    product_total = g.sum(g.mul(grad, centred), axes=axes, keepdims=False)
    # y depends on var through rstd = (var + eps) ** -1/2, whose derivative is -rstd ** 3 / 2.
    dvar = g.mul(g.mul(product_total, weight), g.mul(g.mul(rstd, g.mul(rstd, rstd)), -0.5))
    out = [
        g.mul(grad, _per_channel(g, scale, x.type)),
        g.mul(product_total, rstd),
        total,
        g.neg(g.mul(total, scale)),
        dvar,
    ]
    return [_down(g, v, node.output.dtype) for v in out]


def _batch_norm_train_decompose(g: GraphBuilder, node: Node) -> list[Value]:
    x, weight, bias = _up(g, *node.inputs)
    xhat, _, mean, var = _standardise(g, x, _channel_axes(x.type), node.attrs["eps"])
    y = g.add(g.mul(xhat, _per_channel(g, weight, x.type)), _per_channel(g, bias, x.type))
    results = [y, _vector(g, mean, x.type), _vector(g, var, x.type)]
    return [_down(g, v, o.dtype) for v, o in zip(results, node.outputs, strict=True)]


def _batch_norm_train_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    dtype = node.outputs[0].dtype
    x, weight = _up(g, *node.inputs[:2])
    grad, grad_mean, grad_var = (None if v is None else _up(g, v)[0] for v in grads)
    axes = _channel_axes(x.type)
    dx: Value | None = None
    dweight = dbias = None

    def accumulate(term: Value) -> Value:
        return term if dx is None else g.add(dx, term)

    if dtype is x.dtype:
        mean, var = (_per_channel(g, v, x.type) for v in node.outputs[1:])
    else:  # the results were rounded to 16 bits
        _, _, mean, var = _standardise(g, x, axes, node.attrs["eps"])
    centred = g.sub(x, mean)
    if grad is not None:
        rstd = g.rsqrt(g.add(var, node.attrs["eps"]))
        xhat = g.mul(centred, rstd)
        dx = _standardise_grad(g, g.mul(grad, _per_channel(g, weight, x.type)), xhat, rstd, axes)
        dweight = g.sum(g.mul(grad, xhat), axes=axes, keepdims=False)
        dbias = g.sum(grad, axes=axes, keepdims=False)
    count = extent_scalar(g, _count(x.type), x.dtype) if grad_mean is not None or grad_var is not None else None
    if grad_var is not None:
        slope = g.div(g.mul(grad_var, 2.0), count)
        dx = accumulate(g.mul(centred, _per_channel(g, slope, x.type)))
    if grad_mean is not None:
        share = _per_channel(g, g.div(grad_mean, count), x.type)
        dx = accumulate(share if dx is not None else g.expand(share, shape=x.shape))
    return [None if v is None else _down(g, v, dtype) for v in (dx, dweight, dbias)]


_AXIS = {"axis": Attr("int")}
_EPS = {"eps": Attr("float")}

register(
    OpDef(
        "softmax",
        infer=_softmax_infer("softmax"),
        reference=_softmax_reference,
        fusion=Fusion.OPAQUE,
        attrs=_AXIS,
        vjp=_softmax_vjp,
        decompose=_softmax_decompose,
        doc="exp(x - max) / sum(exp(x - max)) along axis",
    )
)

register(
    OpDef(
        "log_softmax",
        infer=_softmax_infer("log_softmax"),
        reference=_log_softmax_reference,
        fusion=Fusion.OPAQUE,
        attrs=_AXIS,
        vjp=_log_softmax_vjp,
        decompose=_log_softmax_decompose,
        doc="x - max - log(sum(exp(x - max))) along axis",
    )
)

register(
    OpDef(
        "layer_norm",
        infer=_layer_norm_infer,
        reference=_layer_norm_reference,
        fusion=Fusion.OPAQUE,
        attrs={"ndim": Attr("int"), **_EPS},
        vjp=_layer_norm_vjp,
        decompose=_layer_norm_decompose,
        arity=(1, 3),
        doc="(x - mean) / sqrt(var + eps) over the last ndim axes [* weight [+ bias]], biased variance",
    )
)

register(
    OpDef(
        "batch_norm",
        infer=_batch_norm_infer,
        reference=_batch_norm_reference,
        fusion=Fusion.OPAQUE,
        attrs=_EPS,
        vjp=_batch_norm_vjp,
        decompose=_batch_norm_decompose,
        arity=(5, 5),
        doc="(x - mean) / sqrt(var + eps) * weight + bias per channel (axis 1), statistics given",
    )
)

register(
    OpDef(
        "batch_norm_train",
        infer=_batch_norm_train_infer,
        reference=_batch_norm_train_reference,
        fusion=Fusion.OPAQUE,
        attrs=_EPS,
        vjp=_batch_norm_train_vjp,
        decompose=_batch_norm_train_decompose,
        arity=(3, 3),
        num_outputs=3,
        doc="batch_norm with the batch's own mean and biased variance, which are also results",
    )
)
