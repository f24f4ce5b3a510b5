"""Diagonals and triangles of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from ..ir.dtypes import DType
from . import creation, dispatch, elementwise, reduce, shaping, viewing
from .device import require_cpu
from .shaping import axis_of
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor


def _distance(rows: Any, columns: Any) -> Tensor:
    """column - row of every place of a matrix (int64)."""
    down = dispatch.apply("iota", shape=(rows, 1), axis=0, dtype=dtypes.int64)
    along = dispatch.apply("iota", shape=(1, columns), axis=1, dtype=dtypes.int64)
    return elementwise.sub(along, down)


def _triangle(input: Tensor, diagonal: int, compare: Any, name: str) -> Tensor:
    if input.dim() < 2:
        raise RuntimeError(f"{name}: input tensor must have at least 2 dimensions")
    kept = compare(_distance(*input._extents[-2:]), diagonal)
    return elementwise.where(kept, input, dispatch.scalar(0, input.dtype))


@named("TrilBackward0")
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, up to the given diagonal; zeros elsewhere."""
    return _triangle(input, diagonal, elementwise.le, "tril")


@named("TriuBackward0")
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, from the given diagonal on; zeros elsewhere."""
    return _triangle(input, diagonal, elementwise.ge, "triu")


def _triangle_indices(rows: int, columns: int, offset: int, lower: bool, dtype: DType | None, device: Any) -> Tensor:
    require_cpu(device)
    if rows < 0 or columns < 0:
        raise RuntimeError(f"row and col must be non-negative, got row={rows} and col={columns}")
    mask = np.tri(rows, columns, offset if lower else offset - 1, dtype=bool)
    places = np.stack(np.nonzero(mask if lower else ~mask))
    return dispatch.mark_local(places.astype((dtype or dtypes.int64).numpy))


def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: DType | None = None, device: Any = None, layout: Any = None
) -> Tensor:
    """[2, n]: rows and columns of the lower triangle of a row x col matrix, row by row."""
    return _triangle_indices(row, col, offset, True, dtype, device)


def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: DType | None = None, device: Any = None, layout: Any = None
) -> Tensor:
    """[2, n]: rows and columns of the upper triangle of a row x col matrix, row by row."""
    return _triangle_indices(row, col, offset, False, dtype, device)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices (in the axes dim1 and dim2 of the result) with the last axis of ``input`` on a diagonal."""
    if not dispatch.is_tensor(input):
        dispatch.require_tensor(input, "diag_embed")
    rank = input.dim() + 1
    a, b = axis_of(dim1, rank), axis_of(dim2, rank)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    length = input._extents[-1]
    size = length + abs(offset)
    before = max(offset, 0)  # places of a row in front of the first element
    row = dispatch.apply(
        "pad", input, low=(*(0,) * (rank - 2), before), high=(*(0,) * (rank - 2), size - length - before),
        interior=(0,) * (rank - 1), value=False if input.dtype is dtypes.bool_ else 0,
    )  # fmt: skip
    on = elementwise.eq(_distance(size, size), offset)
    out = elementwise.where(on, shaping.unsqueeze(row, -2), dispatch.scalar(0, input.dtype))
    return shaping.movedim(out, (-2, -1), (a, b))


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The matrix with a vector on a diagonal, or the diagonal of a matrix (a copy)."""
    if input.dim() == 1:
        return diag_embed(input, diagonal)
    if input.dim() == 2:
        return viewing.diagonal_copy(input, diagonal)
    raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {input.dim()}D")


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The matrix with all elements on a diagonal."""
    return diag_embed(shaping.reshape(input, -1), offset)


@named("TraceBackward0")
def trace(input: Tensor) -> Tensor:
    """Sum of the diagonal of a matrix."""
    if input.dim() != 2:
        raise RuntimeError("trace: expected a matrix, but got tensor with dim " + str(input.dim()))
    return reduce.sum(viewing.diagonal(input))


def fill_diagonal_(input: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Writes the main diagonal of a matrix (or of a tensor of equal extents); ``wrap``: of a tall matrix again after
    every square. Returns the tensor."""
    rank, shape = input.dim(), input._extents
    if rank < 2:
        raise RuntimeError("dimensions must larger than 1")
    if rank > 2 and any(e != shape[0] for e in shape):
        raise RuntimeError("all dimensions of input must be of equal length")
    if rank > 2:
        target = dispatch.apply(
            "strided_view", input, shape=(shape[0],), starts=(0,) * rank, steps=(1,) * rank
        )
        dispatch.write(target, creation.full((), fill_value, dtype=input.dtype), "fill_diagonal_")
        return input
    blocks: Any = -(-shape[0] // (shape[1] + 1)) if wrap and shape[1] else 1  # type: ignore[operator]
    for block in range(blocks):
        rows = shaping.slice_axis(input, 0, block * (shape[1] + 1), shape[0]) if block else input
        dispatch.write(viewing.diagonal(rows), creation.full((), fill_value, dtype=input.dtype), "fill_diagonal_")
    return input


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = ("diag", "diag_embed", "diagflat", "trace", "tril", "tril_indices", "triu", "triu_indices")
METHODS = ("diag", "diag_embed", "diagflat", "fill_diagonal_", "trace", "tril", "triu")
IN_PLACE = ("tril", "triu")
