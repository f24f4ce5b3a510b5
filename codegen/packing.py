"""NumPy arrays into physical layouts and back: constants at compile time, and tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.layout import Layout
from . import fixed_point, strassen
from .tile_packing import pack_tiles
from .tile_schedule import PARTS
from .winograd import FILTERINGS, transform_weight


def pack(array: np.ndarray, layout: Layout, out: np.ndarray | None = None) -> np.ndarray:
    """``array`` (logical shape) as the C-contiguous physical array of ``layout``; halo and block padding are zero.

    ``out``: where to write it, a flat array of the right dtype and size.
    """
    array = transformed(np.asarray(array), layout.form)
    rank = array.ndim
    widths = [list(h) for h in layout.halo] if layout.halo else [[0, 0] for _ in range(rank)]
    for axis, size in layout.blocks:
        if widths[axis] != [0, 0]:
            raise ValueError(f"layout {layout}: axis {axis} has both a halo and a block")
        widths[axis][1] = -array.shape[axis] % size
    if any(w != [0, 0] for w in widths):
        array = np.pad(array, widths)
    shape: list[int] = []
    where: list[int] = []  # position of each logical axis in the split array
    inner: dict[int, int] = {}
    blocks = dict(layout.blocks)
    for axis, extent in enumerate(array.shape):
        where.append(len(shape))
        if axis in blocks:
            shape += [extent // blocks[axis], blocks[axis]]
            inner[axis] = len(shape) - 1
        else:
            shape.append(extent)
    order = layout.order or tuple(range(rank))
    axes = [where[a] for a in order] + [inner[a] for a, _ in layout.blocks]
    ordered = array.reshape(shape).transpose(axes)
    if layout.form in PARTS:
        ordered = pack_tiles(ordered, layout.form)
    if out is None:
        return np.ascontiguousarray(ordered)
    physical = out.reshape(ordered.shape)
    np.copyto(physical, ordered)
    return physical


def transformed(array: np.ndarray, form: str) -> np.ndarray:
    """``array`` after the transform that ``form`` (``ir.layout.FORMS``) names, if it precedes the placement."""
    if not form or form in PARTS:
        return array
    if form in strassen.FORMS:
        return strassen.transform(array, form)
    if form in fixed_point.FORMS:
        return fixed_point.encode(array, form)
    if form not in FILTERINGS:
        raise ValueError(f"no packing for form {form!r}")
    return transform_weight(array, FILTERINGS[form])


def unpack(array: np.ndarray, layout: Layout, shape: Sequence[int]) -> np.ndarray:
    """Inverse of ``pack``: the logical array of ``shape`` from physical memory (any array of the right size)."""
    if layout.form:
        raise ValueError(f"layout {layout}: form {layout.form} cannot be undone")
    rank = len(shape)
    physical = np.asarray(array).reshape([e for e in layout.physical_shape(tuple(shape)) if isinstance(e, int)])
    order = layout.order or tuple(range(rank))
    position = {axis: i for i, axis in enumerate(order)}
    blocks = {axis: rank + i for i, (axis, _) in enumerate(layout.blocks)}
    axes: list[int] = []
    merged: list[int] = []
    for axis in range(rank):
        axes.append(position[axis])
        extent = physical.shape[position[axis]]
        if axis in blocks:
            axes.append(blocks[axis])
            extent *= physical.shape[blocks[axis]]
        merged.append(extent)
    whole = physical.transpose(axes).reshape(merged)
    halo = layout.halo or ((0, 0),) * rank
    return whole[tuple(slice(before, before + e) for (before, _), e in zip(halo, shape, strict=True))]
