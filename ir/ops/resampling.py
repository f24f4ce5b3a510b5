"""Resampling along spatial axes: interpolation of images, with PyTorch's coordinates.

``resize`` is what users ask for. It stands for one ``resample`` per axis, a weighted sum of a few neighbours whose
places and weights are small tables; the transpose of such a sum is one again, so gradients are the same operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Extent, bounds
from ..dtypes import int32, int64
from ..errors import DTypeError, ShapeError
from ..registry import Attr, Fusion, OpDef, register
from ..types import TensorType
from .bands import MODES, Bands, bands, pace, transposed
from .common import check_axis, check_kind, is_narrow, show, widen, zeros

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value


# -- resample -----------------------------------------------------------------------------------------
def _resample_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    x, first, *rest = types
    axis = check_axis("resample", attrs["axis"], x.rank)
    if first.dtype is not int32 or first.rank != 1:
        raise ShapeError(f"resample: the places must be int32 of rank 1, got {first}")
    if bounds(x.shape[axis])[0] < 1:
        raise ShapeError(
            f"resample: axis {axis} of {show(x.shape)} must have at least one element for every value of the symbols"
        )
    if rest:
        (weights,) = rest
        check_kind("resample", x.dtype, "f")
        if weights.dtype not in (x.dtype, x.dtype.accumulator):
            raise DTypeError(f"resample: weights of {x.dtype.name} must be {x.dtype.accumulator.name}, got "
                             f"{weights.dtype.name}")  # fmt: skip
        if weights.rank != 2 or weights.shape[1] != first.shape[0] or not isinstance(weights.shape[0], int):
            raise ShapeError(f"resample: weights must be [taps, {first.shape[0]}], got {show(weights.shape)}")
    return [x.with_shape(first.shape[0] if a == axis else e for a, e in enumerate(x.shape))]


def _resample_reference(
    x: np.ndarray, first: np.ndarray, weights: np.ndarray | None = None, *, axis: int, pace: float = -1.0
) -> np.ndarray:
    last = x.shape[axis] - 1
    start = np.clip(first.astype(np.int64), 0, last)
    if weights is None:
        return np.take(x, start, axis)
    wide, w = widen(x), widen(weights)
    column = [-1 if a == axis else 1 for a in range(x.ndim)]
    shape = [len(start) if a == axis else e for a, e in enumerate(x.shape)]
    out = np.zeros(shape, np.result_type(wide.dtype, w.dtype))
    with np.errstate(all="ignore"):
        for t in range(w.shape[0]):
            out += np.take(wide, np.minimum(start + t, last), axis) * w[t].reshape(column)
    return out.astype(x.dtype if is_narrow(x) else out.dtype, copy=False)


def _constant_bands(node: Node) -> Bands | None:
    """The tables of a ``resample`` whose tables are constants."""
    tables = node.inputs[1:]
    if not all(v.is_constant for v in tables):
        return None
    first = np.asarray(tables[0].constant)
    return Bands(first, np.asarray(tables[1].constant) if len(tables) > 1 else np.ones((1, len(first))))


def _resample_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    x, *tables = node.inputs
    grad, axis = grads[0], node.attrs["axis"]
    known, extent = _constant_bands(node), x.shape[axis]
    if grad is None or not x.dtype.is_floating_point:
        return [None] * len(node.inputs)
    if known is not None and isinstance(extent, int):
        return [emit_resample(g, grad, axis, transposed(known, extent)), None, *[None] * (len(tables) - 1)]
    # Tables that are computed: one scattered addition per tap.
    dx, dw = zeros(g, x.type), []
    for t in range(tables[1].shape[0] if len(tables) > 1 else 1):
        place = _tap(g, tables[0], t, extent)
        part = grad
        if len(tables) > 1:
            row = g.slice(tables[1], starts=(t, 0), stops=(t + 1, grad.shape[axis]), steps=(1, 1))
            line = g.reshape(row, shape=tuple(grad.shape[axis] if a == axis else 1 for a in range(x.type.rank)))
            part = g.mul(grad, g.cast(line, dtype=x.dtype) if line.dtype is not x.dtype else line)
            others = tuple(a for a in range(x.type.rank) if a != axis)
            there = g.index_select(x, place, axis=axis)
            dot = g.sum(g.mul(grad, there), axes=others) if others else g.mul(grad, there)
            dot = g.cast(dot, dtype=tables[1].dtype) if dot.dtype is not tables[1].dtype else dot
            dw.append(g.reshape(dot, shape=(1, grad.shape[axis])))
        column = g.reshape(place, shape=tuple(grad.shape[axis] if a == axis else 1 for a in range(x.type.rank)))
        dx = g.scatter_add(dx, g.expand(column, shape=grad.shape), part, axis=axis)
    return [dx, None, *([g.concat(*dw, axis=0)] if dw else [])]


def _tap(g: GraphBuilder, first: Value, tap: int, extent: Extent) -> Value:
    """Places of one tap as int64, held inside the axis as the reference does."""
    from .common import extent_scalar

    start = g.maximum(g.cast(first, dtype=int64), 0)
    last = extent_scalar(g, extent - 1, int64)
    start = g.minimum(start, last)
    return g.minimum(g.add(start, tap), last) if tap else start


def emit_resample(g: GraphBuilder, x: Value, axis: int, tables: Bands) -> Value:
    """``x`` resampled along ``axis`` by constant tables; ``x`` itself where they are the identity."""
    if isinstance(x.shape[axis], int) and tables.is_identity(x.shape[axis]):
        return x
    operands = [x, g.constant(tables.first.astype(np.int32), name="places")]
    if not tables.is_choice:
        operands.append(g.constant(tables.weights.astype(x.dtype.accumulator.numpy), name="weights"))
    return g.emit("resample", operands, axis=axis, pace=pace(tables.first)).output


register(
    OpDef(
        "resample",
        infer=_resample_infer,
        reference=_resample_reference,
        fusion=Fusion.OPAQUE,
        attrs={"axis": Attr("int"), "pace": Attr("float", -1.0)},
        vjp=_resample_vjp,
        arity=(2, 3),
        doc="out[j] = sum_t weights[t, j] * x[min(first[j] + t, last)] along axis (without weights: x[first[j]]); "
        "pace >= 0 promises 0 <= first[j + k] - first[j] <= pace * k + 1",
    )
)


# -- resize -------------------------------------------------------------------------------------------
def _resize_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    if attrs["mode"] not in MODES:
        raise ShapeError(f"resize: mode must be one of {', '.join(MODES)}, got {attrs['mode']!r}")
    if not attrs["mode"].startswith("nearest"):
        check_kind("resize", x.dtype, "f")
    spatial = x.rank - 2
    if spatial < 1:
        raise ShapeError(f"resize: the input must be [N, C, spatial...] of rank 3 or more, got {show(x.shape)}")
    for key in ("sizes", "scales"):
        if len(attrs[key]) not in ((spatial,) if key == "sizes" else (0, spatial)):
            raise ShapeError(f"resize: {key} must have one entry per spatial axis ({spatial}), got {attrs[key]}")
    if not all(isinstance(e, int) for e in x.shape[2:]):
        raise ShapeError(f"resize: spatial extents must be fixed numbers, got {show(x.shape)}")
    if min(x.shape[2:]) < 1 or min(attrs["sizes"]) < 1:  # type: ignore[type-var, operator]
        raise ShapeError(
            f"resize: input and output sizes must be greater than 0, got {show(x.shape[2:])} and {attrs['sizes']}"
        )
    if attrs["antialias"] and attrs["mode"] not in ("linear", "cubic", "lanczos"):
        raise ShapeError(f"resize: antialias goes with the modes linear, cubic and lanczos, not {attrs['mode']}")
    if attrs["mode"] == "lanczos" and not attrs["antialias"]:
        raise ShapeError("resize: the mode lanczos needs antialias")
    return [x.with_shape((*x.shape[:2], *attrs["sizes"]))]


def resize_tables(spatial: Sequence[int], attrs: Mapping[str, Any]) -> list[Bands]:
    """Tables of every spatial axis of a ``resize``."""
    scales = attrs["scales"] or (0.0,) * len(spatial)
    return [
        bands(attrs["mode"], e, o, s, attrs["align_corners"], attrs["antialias"])
        for e, o, s in zip(spatial, attrs["sizes"], scales, strict=True)
    ]


def _resize_reference(x: np.ndarray, **attrs: Any) -> np.ndarray:
    out = widen(x)
    for axis, tables in enumerate(resize_tables(x.shape[2:], attrs), 2):
        if not tables.is_identity(x.shape[axis]):
            weights = None if tables.is_choice else tables.weights.astype(out.dtype)
            out = _resample_reference(out, tables.first, weights, axis=axis)
    return out.astype(x.dtype, copy=out is x)


def _resize_decompose(g: GraphBuilder, node: Node) -> list[Value]:
    (out,) = node.inputs
    spatial: Any = out.shape[2:]
    for axis, tables in enumerate(resize_tables(spatial, node.attrs), 2):
        out = emit_resample(g, out, axis, tables)
    return [g.identity(out) if out is node.inputs[0] else out]


def _resize_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    (x,), (grad,) = node.inputs, grads
    if grad is None or not x.dtype.is_floating_point:
        return [None]
    spatial: Any = x.shape[2:]
    for axis, tables in reversed(list(enumerate(resize_tables(spatial, node.attrs), 2))):
        if not tables.is_identity(spatial[axis - 2]):
            grad = emit_resample(g, grad, axis, transposed(tables, spatial[axis - 2]))
    return [grad]


register(
    OpDef(
        "resize",
        infer=_resize_infer,
        reference=_resize_reference,
        fusion=Fusion.OPAQUE,
        attrs={
            "mode": Attr("str"),
            "sizes": Attr("ints"),
            "scales": Attr("floats", ()),
            "align_corners": Attr("bool", False),
            "antialias": Attr("bool", False),
        },
        vjp=_resize_vjp,
        decompose=_resize_decompose,
        doc="images at new spatial sizes; source coordinates as in PyTorch, from scales where they are given (> 0) "
        "and else from the sizes; one resample per axis",
    )
)
