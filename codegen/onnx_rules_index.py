"""ONNX rules of operators that move elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.dims import Extent, bounds, maximum
from ..ir.dtypes import DType, bfloat16, float32, int32, int64
from ..ir.errors import UnsupportedError
from ..ir.graph import Node
from .onnx_emit import Emitter, rule


def reshape(e: Emitter, x: str, shape: Sequence[Extent]) -> str:
    """Reshape to extents of which one may be left to ONNX (-1) where that is unambiguous."""
    symbolic = [i for i, n in enumerate(shape) if not isinstance(n, int)]
    if len(symbolic) == 1 and all(bounds(n)[0] > 0 for n in shape):
        return e.op("Reshape", [x, e.ints([-1 if i == symbolic[0] else int(n) for i, n in enumerate(shape)])])  # type: ignore[arg-type]
    # Without allowzero an extent of 0 means "as in the operand".
    may_be_zero = any(bounds(n)[0] == 0 for n in shape)
    return e.op("Reshape", [x, e.extents(shape)], allowzero=1 if may_be_zero else None)


@rule("reshape")
def _reshape(e: Emitter, node: Node, xs: list[str]) -> str:
    return reshape(e, xs[0], node.attrs["shape"])


@rule("permute")
def _permute(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Transpose", xs, perm=list(node.attrs["dims"]))


@rule("expand")
def _expand(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Expand", [xs[0], e.extents(node.attrs["shape"])])


def cut(
    e: Emitter,
    x: str,
    shape: Sequence[Extent],
    starts: Sequence[Extent],
    stops: Sequence[Extent],
    steps: Sequence[Extent],
) -> str:
    """Slice on the axes where it does anything."""
    axes = [
        a
        for a, (n, first, last, step) in enumerate(zip(shape, starts, stops, steps, strict=True))
        if not (first == 0 and last == n and step == 1)
    ]
    if not axes:
        return x
    pick = [e.extents([values[a] for a in axes]) for values in (starts, stops)]
    return e.op("Slice", [x, *pick, e.ints(axes), e.extents([steps[a] for a in axes])])


@rule("slice")
def _slice(e: Emitter, node: Node, xs: list[str]) -> str:
    a = node.attrs
    return cut(e, xs[0], node.inputs[0].shape, a["starts"], a["stops"], a["steps"])


@rule("flip")
def _flip(e: Emitter, node: Node, xs: list[str]) -> str:
    axes = node.attrs["axes"]
    if not axes:
        return xs[0]
    count = len(axes)
    beyond = np.iinfo(np.int64).min  # an end before the first element
    return e.op("Slice", [xs[0], e.ints([-1] * count), e.ints([beyond] * count), e.ints(axes), e.ints([-1] * count)])


@rule("concat")
def _concat(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Concat", xs, axis=node.attrs["axis"])


@rule("pad")
def _pad(e: Emitter, node: Node, xs: list[str]) -> str:
    (x,), (value,) = xs, node.inputs
    low, high, interior = node.attrs["low"], node.attrs["high"], node.attrs["interior"]
    shape = list(value.shape)
    fill = e.scalar(node.attrs["value"], value.dtype)
    for axis, gap in enumerate(interior):
        if gap != 0:
            x, shape[axis] = _spread(e, x, shape, axis, gap, fill)
    if all(n == 0 for n in (*low, *high)):
        return x
    return e.op("Pad", [x, e.extents([*low, *high]), fill], mode="constant")


def _spread(e: Emitter, x: str, shape: Sequence[Extent], axis: int, gap: Extent, fill: str) -> tuple[str, Extent]:
    """Put ``gap`` elements between neighbours along ``axis``: pad a new axis behind it, merge, cut the last gap off."""
    n = shape[axis]
    split = reshape(e, x, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
    rank = len(shape) + 1
    pads: list[Extent] = [0] * (2 * rank)
    pads[rank + axis + 1] = gap
    padded = e.op("Pad", [split, e.extents(pads), fill], mode="constant")
    merged = [*shape[:axis], n * (gap + 1), *shape[axis + 1 :]]
    joined = reshape(e, padded, merged)
    length = n + maximum(n - 1, 0) * gap
    stops = [*shape[:axis], length, *shape[axis + 1 :]]
    return cut(e, joined, merged, [0] * len(shape), stops, [1] * len(shape)), length


@rule("gather")
def _gather(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("GatherElements", xs, axis=node.attrs["axis"])


_REDUCTIONS = {"prod": "mul", "amax": "max", "amin": "min"}


@rule("scatter_add")
@rule("scatter")
@rule("scatter_reduce")
def _scatter(e: Emitter, node: Node, xs: list[str]) -> str:
    x, index, src = xs
    wanted, given = node.inputs[1].shape, node.inputs[2].shape
    src = cut(e, src, given, [0] * len(given), wanted, [1] * len(given))
    reduction = "add" if node.op == "scatter_add" else _REDUCTIONS.get(node.attrs.get("reduce", ""), "none")
    if reduction in ("max", "min") and e.opset < 18:
        raise UnsupportedError(f"scatter_reduce with {node.attrs['reduce']} needs ONNX opset 18, not {e.opset}")
    return e.op("ScatterElements", [x, index, src], axis=node.attrs["axis"], reduction=reduction)


@rule("index_select")
def _index_select(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Gather", xs, axis=node.attrs["axis"])


@rule("det")
def _det(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Det", xs)


@rule("sort")
def _sort(e: Emitter, node: Node, xs: list[str]) -> list[str]:
    """TopK of all elements: equal ones come in the order of their indices."""
    (value,), axis = node.inputs, node.attrs["axis"]
    x, narrow = _widened(e, xs[0], value.dtype)
    values, indices = e.ops(
        "TopK", [x, e.extents([value.shape[axis]])], 2, axis=axis, largest=int(node.attrs["descending"])
    )
    return [e.cast(values, value.dtype) if narrow else values, indices]


@rule("cumsum")
def _cumsum(e: Emitter, node: Node, xs: list[str]) -> str:
    x, narrow = _widened(e, xs[0], node.output.dtype)
    out = e.op("CumSum", [x, e.scalar(node.attrs["axis"], int64)])
    return e.cast(out, node.output.dtype) if narrow else out


def _widened(e: Emitter, x: str, dtype: DType) -> tuple[str, bool]:
    """Small integers and bools as int32, bfloat16 as float32, which more operators of ONNX take."""
    if dtype is bfloat16:
        return e.cast(x, float32), True
    narrow = dtype.kind == "b" or (dtype.is_integer and dtype.bits < 32)
    return (e.cast(x, int32), True) if narrow else (x, False)
