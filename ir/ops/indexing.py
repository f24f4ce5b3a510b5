"""Operators that move elements: views, slices, pads, concatenation, gathers and scatters.

References of reshape, permute, expand, slice and flip return views of their operand where NumPy can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Extent, maximum, product
from ..dtypes import int64
from ..errors import DTypeError, ShapeError
from ..registry import Attr, Fusion, Infer, OpDef, register
from ..types import Shape, TensorType
from .common import (
    check_axes,
    check_axis,
    check_kind,
    check_rank,
    check_same_dtype,
    check_value,
    is_nonnegative,
    rounds_once,
    show,
    unbroadcast,
    zeros,
)

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value

Grads = list["Value | None"]


def _check_extents(op: str, shape: Sequence[Extent]) -> Shape:
    for e in shape:
        if not is_nonnegative(e):
            raise ShapeError(f"{op}: extent {e} in {show(shape)} may be negative; the front end resolves -1")
    return tuple(shape)


def _check_length(op: str, attr: str, values: Sequence[Any], rank: int) -> None:
    if len(values) != rank:
        raise ShapeError(f"{op}: attribute {attr} must have one entry per axis ({rank}), got {show(values)}")


# -- reshape, permute, expand, flip -------------------------------------------------------------------
def _reshape_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    shape = _check_extents("reshape", attrs["shape"])
    if product(shape) != x.elements:
        raise ShapeError(
            f"reshape: {show(x.shape)} has {x.elements} elements and {show(shape)} has {product(shape)}; "
            f"the numbers must be equal for every value of the symbols"
        )
    return [x.with_shape(shape)]


def _reshape_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    return [grads[0] and g.reshape(grads[0], shape=node.inputs[0].shape)]


register(
    OpDef(
        "reshape",
        infer=_reshape_infer,
        reference=lambda x, shape: np.asarray(x).reshape(shape),
        fusion=Fusion.INDEX,
        attrs={"shape": Attr("extents")},
        vjp=_reshape_vjp,
        doc="the same elements in row-major order under another shape",
    )
)


def _permute_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    dims = attrs["dims"]
    if sorted(dims) != list(range(x.rank)):
        raise ShapeError(f"permute: dims must be a permutation of 0..{x.rank - 1} for {show(x.shape)}, got {dims}")
    return [x.with_shape(x.shape[d] for d in dims)]


def _permute_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    dims = node.attrs["dims"]
    inverse = sorted(range(len(dims)), key=dims.__getitem__)
    return [grads[0] and g.permute(grads[0], dims=inverse)]


register(
    OpDef(
        "permute",
        infer=_permute_infer,
        reference=lambda x, dims: np.asarray(x).transpose(dims),
        fusion=Fusion.INDEX,
        attrs={"dims": Attr("ints")},
        vjp=_permute_vjp,
        doc="axis i of the result is axis dims[i] of x",
    )
)


def _expand_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    shape = _check_extents("expand", attrs["shape"])
    lead = len(shape) - x.rank
    if lead < 0:
        raise ShapeError(f"expand: {show(x.shape)} has more axes than the wanted shape {show(shape)}")
    for a, e in enumerate(x.shape):
        if e != 1 and e != shape[lead + a]:
            raise ShapeError(
                f"expand: {show(x.shape)} does not broadcast to {show(shape)}: axis {a} has extent {e}, which is "
                f"neither 1 nor {shape[lead + a]}"
            )
    return [x.with_shape(shape)]


def _expand_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    return [grads[0] and unbroadcast(g, grads[0], node.inputs[0].type)]


register(
    OpDef(
        "expand",
        infer=_expand_infer,
        reference=lambda x, shape: np.broadcast_to(x, shape),
        fusion=Fusion.INDEX,
        attrs={"shape": Attr("extents")},
        vjp=_expand_vjp,
        doc="x repeated along new leading axes and axes of extent 1 (numpy.broadcast_to)",
    )
)


def _flip_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    check_axes("flip", attrs["axes"], types[0].rank)
    return [types[0].with_shape(types[0].shape)]


def _flip_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    return [grads[0] and g.flip(grads[0], axes=node.attrs["axes"])]


register(
    OpDef(
        "flip",
        infer=_flip_infer,
        reference=lambda x, axes: np.asarray(np.flip(x, axes)),
        fusion=Fusion.INDEX,
        attrs={"axes": Attr("ints")},
        vjp=_flip_vjp,
        doc="x in reverse order along axes",
    )
)


# -- slice and pad: each other's gradients ------------------------------------------------------------
def _slice_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    for attr in ("starts", "stops", "steps"):
        _check_length("slice", attr, attrs[attr], x.rank)
    out = []
    bounds = zip(x.shape, attrs["starts"], attrs["stops"], attrs["steps"], strict=True)
    for axis, (extent, start, stop, step) in enumerate(bounds):
        for small, large, rule in (
            (0, start, "start >= 0"),
            (start, stop, "start <= stop"),
            (stop, extent, "stop <= extent"),
            (1, step, "step >= 1"),
        ):
            if not is_nonnegative(large - small):
                raise ShapeError(
                    f"slice: {start}:{stop}:{step} on axis {axis} of {show(x.shape)}: {rule} must hold for every "
                    f"value of the symbols; give a Dim a larger min if it is never that small"
                )
        out.append((stop - start + step - 1) // step)
    return [x.with_shape(out)]


def _slice(x: np.ndarray, starts: Any, stops: Any, steps: Any) -> np.ndarray:
    cut: list[Any] = [slice(*s) for s in zip(starts, stops, steps, strict=True)]
    return np.asarray(x)[(..., *cut)]  # with ... the result is a view even for rank 0


def _gaps(extent: Extent, interior: Extent) -> Extent:
    """Elements that pad puts between ``extent`` elements."""
    return 0 if interior == 0 else maximum(extent - 1, 0) * interior


def _slice_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    (x,), starts, steps = node.inputs, node.attrs["starts"], node.attrs["steps"]
    interior = tuple(s - 1 for s in steps)
    high = tuple(
        extent - start - n - _gaps(n, gap)
        for extent, start, n, gap in zip(x.shape, starts, node.output.shape, interior, strict=True)
    )
    return [grads[0] and g.pad(grads[0], low=starts, high=high, interior=interior, value=0)]


register(
    OpDef(
        "slice",
        infer=_slice_infer,
        reference=_slice,
        fusion=Fusion.INDEX,
        attrs={"starts": Attr("extents"), "stops": Attr("extents"), "steps": Attr("extents")},
        vjp=_slice_vjp,
        doc="x[start:stop:step] on every axis; 0 <= start <= stop <= extent, step >= 1",
    )
)


def _pad_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    for attr in ("low", "high", "interior"):
        _check_length("pad", attr, attrs[attr], x.rank)
        for axis, amount in enumerate(attrs[attr]):
            if not is_nonnegative(amount):
                raise ShapeError(
                    f"pad: {attr}={amount} on axis {axis} of {show(x.shape)} must be >= 0; crop with slice"
                )
    check_value("pad", "value", attrs["value"], x.dtype)
    extents = zip(x.shape, attrs["low"], attrs["high"], attrs["interior"], strict=True)
    return [x.with_shape(low + n + _gaps(n, gap) + high for n, low, high, gap in extents)]


def _pad(x: np.ndarray, low: Any, high: Any, interior: Any, value: Any) -> np.ndarray:
    x = np.asarray(x)
    amounts = list(zip(x.shape, low, high, interior, strict=True))
    out = np.full([lo + n + _gaps(n, gap) + hi for n, lo, hi, gap in amounts], value, x.dtype)
    out[tuple(slice(lo, lo + n + _gaps(n, gap), gap + 1) for n, lo, hi, gap in amounts)] = x
    return out


def _pad_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    (x,), low, interior = node.inputs, node.attrs["low"], node.attrs["interior"]
    stops = tuple(lo + n + _gaps(n, gap) for lo, n, gap in zip(low, x.shape, interior, strict=True))
    steps = tuple(gap + 1 for gap in interior)
    return [grads[0] and g.slice(grads[0], starts=low, stops=stops, steps=steps)]


register(
    OpDef(
        "pad",
        infer=_pad_infer,
        reference=_pad,
        fusion=Fusion.INDEX,
        attrs={
            "low": Attr("extents"),
            "high": Attr("extents"),
            "interior": Attr("extents"),
            "value": Attr("scalar", 0),
        },
        vjp=_pad_vjp,
        doc="low and high elements of value put around x and interior ones between neighbours, per axis",
    )
)


# -- concat -------------------------------------------------------------------------------------------
def _concat_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    check_same_dtype("concat", *types)
    first = types[0]
    axis = check_axis("concat", attrs["axis"], first.rank)
    total: Extent = 0
    for i, t in enumerate(types):
        check_rank("concat", f"operand {i}", t, first.rank)
        for a in range(t.rank):
            if a != axis and t.shape[a] != first.shape[a]:
                raise ShapeError(
                    f"concat: operand {i} of shape {show(t.shape)} differs from operand 0 of shape "
                    f"{show(first.shape)} on axis {a}; only axis {axis} may differ"
                )
        total = total + t.shape[axis]
    return [first.with_shape(total if a == axis else e for a, e in enumerate(first.shape))]


def _concat_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    dy, axis = grads[0], node.attrs["axis"]
    if dy is None:
        return [None] * len(node.inputs)
    out: Grads = []
    offset: Extent = 0
    for x in node.inputs:
        starts = tuple(offset if a == axis else 0 for a in range(x.type.rank))
        offset = offset + x.shape[axis]
        stops = tuple(offset if a == axis else e for a, e in enumerate(x.shape))
        out.append(g.slice(dy, starts=starts, stops=stops, steps=(1,) * x.type.rank))
    return out


register(
    OpDef(
        "concat",
        infer=_concat_infer,
        reference=lambda *xs, axis: np.concatenate(xs, axis),
        fusion=Fusion.INDEX,
        attrs={"axis": Attr("int")},
        vjp=_concat_vjp,
        arity=(1, None),
        doc="operands one after another along axis",
    )
)


# -- gather, scatter_add, index_select ----------------------------------------------------------------
def _check_index(op: str, index: TensorType) -> None:
    if index.dtype is not int64:
        raise DTypeError(f"{op}: the index must be int64, got {index.dtype.name}; cast it")


def _check_covers(op: str, index: TensorType, other: TensorType, name: str, axes: Sequence[int]) -> None:
    for a in axes:
        if not is_nonnegative(other.shape[a] - index.shape[a]):
            raise ShapeError(
                f"{op}: index {show(index.shape)} exceeds {name} {show(other.shape)} on axis {a}; "
                f"index.size(d) <= {name}.size(d) must hold there"
            )


def _check_range(op: str, index: np.ndarray, extent: int, axis: int) -> None:
    if index.size and (index.min() < 0 or index.max() >= extent):
        bad = index.min() if index.min() < 0 else index.max()
        raise IndexError(f"{op}: index {bad} is out of range for axis {axis} of extent {extent}")


def _gather_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    x, index = types
    axis = check_axis("gather", attrs["axis"], x.rank)
    _check_index("gather", index)
    check_rank("gather", "the index", index, x.rank)
    _check_covers("gather", index, x, "x", [a for a in range(x.rank) if a != axis])
    return [x.with_shape(index.shape)]


def _along(index: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """Index arrays that address ``[i0, .., index[i0, i1, ..], .., ik]``."""
    grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    grid[axis] = index
    return tuple(grid)


def _gather(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    _check_range("gather", index, x.shape[axis], axis)
    return x[_along(index, axis)]


def _gather_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    (x, index), dy = node.inputs, grads[0]
    if dy is None or not x.dtype.is_floating_point:
        return [None, None]
    return [g.scatter_add(zeros(g, x.type), index, dy, axis=node.attrs["axis"]), None]


register(
    OpDef(
        "gather",
        infer=_gather_infer,
        reference=_gather,
        fusion=Fusion.OPAQUE,
        attrs={"axis": Attr("int")},
        vjp=_gather_vjp,
        arity=(2, 2),
        doc="out[i, j, k] = x[i, index[i, j, k], k] for axis 1 (torch.gather); indices in [0, extent)",
    )
)


def _scatter_infer(op: str, kinds: str) -> Infer:
    def infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
        x, index, src = types
        axis = check_axis(op, attrs["axis"], x.rank)
        _check_index(op, index)
        check_kind(op, check_same_dtype(f"{op} (x and src)", x, src), kinds)
        check_rank(op, "the index", index, x.rank)
        check_rank(op, "src", src, x.rank)
        _check_covers(op, index, x, "x", [a for a in range(x.rank) if a != axis])
        _check_covers(op, index, src, "src", range(x.rank))
        return [x.with_shape(x.shape)]

    return infer


def _covered(index: np.ndarray, src: np.ndarray) -> np.ndarray:
    """The elements of src that have an index."""
    return src[tuple(slice(n) for n in index.shape)]


@rounds_once
def _scatter_add(x: np.ndarray, index: np.ndarray, src: np.ndarray, axis: int) -> np.ndarray:
    _check_range("scatter_add", index, x.shape[axis], axis)
    out = x.copy()
    np.add.at(out, _along(index, axis), _covered(index, src))
    return out


def _scatter(x: np.ndarray, index: np.ndarray, src: np.ndarray, axis: int) -> np.ndarray:
    _check_range("scatter", index, x.shape[axis], axis)
    out, part = x.copy(), _covered(index, src)
    # NumPy assigns in index order, so that the last of equal indices wins.
    out[_along(index, axis)] = part
    return out


def _scatter_source_grad(g: GraphBuilder, node: Node, dy: Value) -> Value:
    _, index, src = node.inputs
    dsrc = g.gather(dy, index, axis=node.attrs["axis"])
    if index.shape != src.shape:  # elements of src beyond the index were not used
        none = (0,) * src.type.rank
        high = tuple(s - i for s, i in zip(src.shape, index.shape, strict=True))
        dsrc = g.pad(dsrc, low=none, high=high, interior=none, value=0)
    return dsrc


def _scatter_add_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    dy = grads[0]
    if dy is None or not dy.dtype.is_floating_point:
        return [None, None, None]
    return [dy, None, _scatter_source_grad(g, node, dy)]


def _scatter_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    (_, index, src), dy = node.inputs, grads[0]
    if dy is None or not dy.dtype.is_floating_point:
        return [None, None, None]
    kept = g.scatter(dy, index, zeros(g, src.type), axis=node.attrs["axis"])
    return [kept, None, _scatter_source_grad(g, node, dy)]


register(
    OpDef(
        "scatter_add",
        infer=_scatter_infer("scatter_add", "fiu"),
        reference=_scatter_add,
        fusion=Fusion.OPAQUE,
        attrs={"axis": Attr("int")},
        vjp=_scatter_add_vjp,
        arity=(3, 3),
        doc="x with src[i, j, k] added at [i, index[i, j, k], k] for axis 1 (torch.scatter_add), in index order",
    )
)
register(
    OpDef(
        "scatter",
        infer=_scatter_infer("scatter", "fiub"),
        reference=_scatter,
        fusion=Fusion.OPAQUE,
        attrs={"axis": Attr("int")},
        vjp=_scatter_vjp,
        arity=(3, 3),
        doc="x with src[i, j, k] put at [i, index[i, j, k], k] for axis 1 (torch.scatter); the last of equal indices "
        "wins (the gradient counts every one)",
    )
)


def _select_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    x, index = types
    axis = check_axis("index_select", attrs["axis"], x.rank)
    _check_index("index_select", index)
    check_rank("index_select", "the index", index, 1)
    return [x.with_shape(index.shape[0] if a == axis else e for a, e in enumerate(x.shape))]


def _select(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    _check_range("index_select", index, x.shape[axis], axis)
    return np.take(x, index, axis)


def _select_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    (x, index), dy, axis = node.inputs, grads[0], node.attrs["axis"]
    if dy is None or not x.dtype.is_floating_point:
        return [None, None]
    line = g.reshape(index, shape=tuple(index.shape[0] if a == axis else 1 for a in range(x.type.rank)))
    everywhere = g.expand(line, shape=dy.shape)
    return [g.scatter_add(zeros(g, x.type), everywhere, dy, axis=axis), None]


register(
    OpDef(
        "index_select",
        infer=_select_infer,
        reference=_select,
        fusion=Fusion.OPAQUE,
        attrs={"axis": Attr("int")},
        vjp=_select_vjp,
        arity=(2, 2),
        doc="the slices of x along axis that index names (torch.index_select); indices in [0, extent)",
    )
)
