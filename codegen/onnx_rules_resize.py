"""ONNX rules of resampling: ``Resize`` where it means the same, else gathers and weighted sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir.graph import Node
from ..ir.ops.bands import Bands
from ..ir.ops.resampling import resize_tables
from .onnx_emit import Emitter, rule
from .onnx_rules_index import reshape

_COORDINATES = {"nearest": "asymmetric", "nearest-exact": "half_pixel", "linear": "half_pixel", "cubic": "half_pixel"}


@rule("resize")
def _resize(e: Emitter, node: Node, xs: list[str]) -> str:
    a, (value,) = node.attrs, node.inputs
    tables = resize_tables(value.shape[2:], a)  # type: ignore[arg-type]
    if not _says_the_same(node, tables):
        out = xs[0]
        for axis, one in enumerate(tables, 2):
            if not one.is_identity(value.shape[axis]):  # type: ignore[arg-type]
                weights = None if one.is_choice else e.initializer(
                    one.weights.astype(value.dtype.accumulator.numpy), "resize/weights")  # fmt: skip
                places = e.const(one.first, dtypes.int64)
                out = _weighted(e, out, node, axis, places, weights, one, value.shape[axis])
        return out if out != xs[0] else e.op("Identity", xs)
    mode = a["mode"].split("-")[0]
    return e.op(
        "Resize", [xs[0], "", "", e.extents(node.output.shape)], mode=mode,
        coordinate_transformation_mode="align_corners" if a["align_corners"] else _COORDINATES[a["mode"]],
        nearest_mode={"nearest": "floor", "nearest-exact": "round_prefer_ceil"}.get(a["mode"]),
        cubic_coeff_a=-0.75 if mode == "cubic" else None,
    )  # fmt: skip


def _says_the_same(node: Node, tables: list[Bands]) -> bool:
    """Whether ``Resize`` with these sizes reads the elements that the tables name."""
    a, extents = node.attrs, node.inputs[0].shape[2:]
    if a["mode"] not in _COORDINATES or a["antialias"] or (a["mode"] == "cubic" and len(extents) != 2):
        return False
    for extent, size, scale, table in zip(
        extents, a["sizes"], a["scales"] or (0.0,) * len(extents), tables, strict=True
    ):
        assert isinstance(extent, int)
        if scale > 0 and scale * extent != size:
            return False  # the ratio is the scale's, not that of the sizes
        if a["mode"].startswith("nearest"):  # readers divide by the scale in float32
            j = np.arange(size).astype(np.float32)
            ratio = np.float32(size) / np.float32(extent)
            half = np.float32(0.5)
            place = np.floor(j / ratio) if a["mode"] == "nearest" else np.floor((j + half) / ratio - half + half)
            if not np.array_equal(np.clip(place, 0, extent - 1).astype(np.int64), table.first):
                return False
    return True


@rule("resample")
def _resample(e: Emitter, node: Node, xs: list[str]) -> str:
    value, axis = node.inputs[0], node.attrs["axis"]
    tables = None
    if all(v.is_constant for v in node.inputs[1:]):
        weights = np.asarray(node.inputs[2].constant) if len(xs) > 2 else np.ones((1, 1))
        tables = Bands(np.asarray(node.inputs[1].constant).astype(np.int64), weights)
    places = e.cast(xs[1], dtypes.int64)
    return _weighted(e, xs[0], node, axis, places, xs[2] if len(xs) > 2 else None, tables, value.shape[axis])


def _weighted(
    e: Emitter, x: str, node: Node, axis: int, places: str, weights: str | None, tables: Bands | None, extent: Any
) -> str:
    """sum_t weights[t] * x[min(places + t, last)] along ``axis``; ``tables`` if their numbers are known."""
    dtype = node.output.dtype
    wide, rank = dtype.accumulator, node.output.type.rank
    last = e.op("Sub", [e.extent(extent), e.ints([1])])
    start = e.op("Min", [e.op("Max", [places, e.ints([0])]), last]) if tables is None else places
    if weights is None:
        return e.op("Gather", [x, start], axis=axis)
    if wide is not dtype:
        x = e.cast(x, wide)
    given = node.inputs[2].dtype if node.op == "resample" else wide
    if given is not wide:
        weights = e.cast(weights, wide)
    size = node.output.shape[axis]
    taps = tables.weights.shape[0] if tables is not None else node.inputs[2].shape[0]
    total = ""
    for t in range(taps):  # type: ignore[arg-type]
        if tables is not None and isinstance(extent, int):
            place = e.const(np.clip(tables.first + t, 0, extent - 1), dtypes.int64)
        else:
            place = e.op("Min", [e.op("Add", [start, e.ints([t])]), last])
        row = e.op("Gather", [weights, e.ints([t])], axis=0)
        row = reshape(e, row, [size if a == axis else 1 for a in range(rank)])
        part = e.op("Mul", [e.op("Gather", [x, place], axis=axis), row])
        total = part if not total else e.op("Add", [total, part])
    return e.cast(total, dtype) if wide is not dtype else total
