"""Joining, splitting, repeating and rearranging by convention: ``hstack``, ``tensor_split``, ``meshgrid``..."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims
from ..ir.errors import ShapeError
from ..ir.ops.common import broadcast_shapes as _broadcast
from . import dispatch, shaping
from .shaping import axis_of
from .size import Size, as_extent, is_int, wrap
from .tape import views
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor


# -- ranks --------------------------------------------------------------------------------------------------
def _atleast(rank: int, grow: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def fn(*tensors: Any) -> Any:
        if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
            return tuple(map(grow, tensors[0]))
        out = tuple(map(grow, tensors))
        return out[0] if len(out) == 1 else out

    fn.__name__ = fn.__qualname__ = f"atleast_{rank}d"
    fn.__doc__ = f"Views with {rank} axes at least; a tuple for several tensors."
    return fn


def _grow1(x: Tensor) -> Tensor:
    return shaping.reshape(x, 1) if x.dim() == 0 else x


def _grow2(x: Tensor) -> Tensor:
    return shaping.reshape(x, 1, 1) if x.dim() == 0 else shaping.unsqueeze(x, 0) if x.dim() == 1 else x


def _grow3(x: Tensor) -> Tensor:
    if x.dim() == 0:
        return shaping.reshape(x, 1, 1, 1)
    if x.dim() == 1:
        return shaping.unsqueeze(shaping.unsqueeze(x, 0), -1)
    return shaping.unsqueeze(x, -1) if x.dim() == 2 else x


atleast_1d = _atleast(1, _grow1)
atleast_2d = _atleast(2, _grow2)
atleast_3d = _atleast(3, _grow3)


# -- joining ------------------------------------------------------------------------------------------------
def _nonempty(name: str, tensors: Sequence[Tensor]) -> None:
    if not tensors:
        raise RuntimeError(f"{name} expects a non-empty TensorList")


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joins along the second axis (the first of 1-d tensors)."""
    _nonempty("hstack", tensors)
    grown = [_grow1(x) for x in tensors]
    return shaping.cat(grown, 0 if grown[0].dim() == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joins along the first axis; 1-d tensors count as rows."""
    _nonempty("vstack", tensors)
    return shaping.cat([_grow2(x) for x in tensors], 0)


def row_stack(tensors: Sequence[Tensor]) -> Tensor:
    """``vstack``."""
    return vstack(tensors)


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joins along the third axis."""
    _nonempty("dstack", tensors)
    return shaping.cat([_grow3(x) for x in tensors], 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joins along the second axis; 0-d and 1-d tensors count as columns."""
    _nonempty("column_stack", tensors)
    return hstack([shaping.reshape(x, -1, 1) if x.dim() <= 1 else x for x in tensors])


def block_diag(*tensors: Tensor) -> Tensor:
    """The matrix with these matrices on its diagonal and zeros elsewhere; vectors count as rows."""
    from . import promotion

    blocks = [_grow2(x) for x in tensors] or [dispatch.mark_local(np.zeros((1, 0), np.float32))]
    for i, b in enumerate(blocks):
        if b.dim() > 2:
            raise RuntimeError("block_diag: Input tensors must have 2 or fewer dimensions. Input "
                               f"{i} has {b.dim()} dimensions")  # fmt: skip
    dtype = promotion.result_type(*blocks)
    width = sum((b._extents[1] for b in blocks[1:]), blocks[0]._extents[1])
    rows: list[Tensor] = []
    before: Any = 0
    for b in blocks:
        own = b._extents[1]
        rows.append(
            dispatch.apply(
                "pad", dispatch.cast(b, dtype), low=(0, before), high=(0, width - before - own), interior=(0, 0),
                value=False if dtype.kind == "b" else 0,
            )
        )  # fmt: skip
        before = before + own
    return shaping.cat(rows, 0)


# -- broadcasting -------------------------------------------------------------------------------------------
def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that tensors of these shapes have together."""
    extents = [(as_extent(s),) if is_int(s) else tuple(map(as_extent, s)) for s in shapes]
    if any(isinstance(e, int) and e < 0 for shape in extents for e in shape):
        raise RuntimeError("Trying to create tensor with negative dimension "
                           f"({min(e for s in extents for e in s)}): ({min(e for s in extents for e in s)})")  # type: ignore[type-var]  # fmt: skip
    try:
        return Size(map(wrap, _broadcast("broadcast_shapes", *extents)))
    except ShapeError:
        raise RuntimeError("Shape mismatch: objects cannot be broadcast to a single shape") from None


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """The tensors expanded to their common shape."""
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    shape = _broadcast("broadcast_tensors", *(t._extents for t in tensors))
    return tuple(shaping.expand(t, *shape) for t in tensors)


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Coordinate grids of 1-d tensors: result k varies along axis k (``indexing="ij"``, the default), or with the first
    two axes exchanged (``"xy"``)."""
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    if not tensors:
        raise ValueError("meshgrid expects a non-empty TensorList")
    if indexing not in (None, "ij", "xy"):
        raise RuntimeError('torch.meshgrid: indexing must be one of "xy" or "ij", but received: ' + str(indexing))
    if any(t.dtype is not tensors[0].dtype for t in tensors):
        raise RuntimeError("torch.meshgrid expects all tensors to have the same dtype")
    for t in tensors:
        if t.dim() > 1:
            raise RuntimeError(f"torch.meshgrid: Expected 0D or 1D tensor in the tensor list but got: {list(t.shape)}")
    swap = indexing == "xy" and len(tensors) > 1
    lines = [_grow1(t) for t in tensors]
    if swap:
        lines[:2] = lines[1::-1]
    shape = [t._extents[0] for t in lines]
    grids = [
        shaping.expand(shaping.reshape(t, *(e if k == i else 1 for k, e in enumerate(shape))), *shape)
        for i, t in enumerate(lines)
    ]
    if swap:
        grids[:2] = grids[1::-1]
    return tuple(grids)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """Every combination of one element of each 1-d tensor, one row each."""
    if not tensors:
        raise RuntimeError("meshgrid expects a non-empty TensorList")
    for t in tensors:
        if t.dim() != 1:
            raise RuntimeError(f"Expect a 1D vector, but got shape {list(t.shape)}")
    if len(tensors) == 1:
        return tensors[0]
    return shaping.stack([shaping.reshape(g, -1) for g in meshgrid(*tensors, indexing="ij")], 1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """Every choice of ``r`` elements of a 1-d tensor in order, one row each."""
    if input.dim() != 1:
        raise RuntimeError(f"Expect a 1D vector, but got shape {list(input.shape)}")
    if r < 0:
        raise RuntimeError(f"Expect a non-negative number, but got {r}")
    count = int(wrap(input._extents[0]))
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    chosen = np.fromiter(itertools.chain.from_iterable(choose(range(count), r)), np.int64)
    if r == 0:
        return dispatch.mark_local(np.empty((0,), input.dtype.numpy))
    picked = dispatch.apply("index_select", input, dispatch.mark_local(chosen), axis=0)
    return shaping.reshape(picked, len(chosen) // r, r)


# -- splitting ----------------------------------------------------------------------------------------------
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0, *, indices: Any = None, sections: Any = None
                 ) -> tuple[Tensor, ...]:  # fmt: skip
    """Views: ``sections`` pieces as equal as possible (the first ones larger), or cut before each index."""
    where = indices if indices is not None else sections if sections is not None else indices_or_sections
    if dispatch.is_tensor(where):
        where = where._concrete("tensor_split() by a tensor", "a list of indices").tolist()
    if input.dim() == 0:
        raise RuntimeError("tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims")
    axis = axis_of(dim, input.dim())
    extent = int(wrap(input._extents[axis]))
    if is_int(where):
        if where <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {where}")
        small, larger = divmod(extent, where)
        ends = list(itertools.accumulate([small + 1] * larger + [small] * (where - larger)))
        starts = [0, *ends[:-1]]
    else:
        cuts = [max(0, min(i + extent if i < 0 else i, extent)) for i in where]
        starts, ends = [0, *cuts], [*cuts, extent]
    return tuple(shaping.slice_axis(input, axis, a, max(a, b)) for a, b in zip(starts, ends, strict=True))


def _split_along(name: str, rank: int, axis: int) -> Callable[..., Any]:
    def fn(input: Tensor, indices_or_sections: Any = None, *, indices: Any = None, sections: Any = None) -> Any:
        where = next(w for w in (indices_or_sections, indices, sections) if w is not None)
        if input.dim() < rank:
            raise RuntimeError(f"torch.{name} requires a tensor with at least {rank} dimension{'s' * (rank > 1)}, but "
                               f"got a tensor with {input.dim()} dimensions!")  # fmt: skip
        along = 0 if name == "hsplit" and input.dim() == 1 else axis
        extent = wrap(input._extents[along])
        if is_int(where) and (where <= 0 or extent % where):
            raise RuntimeError(f"torch.{name} attempted to split along dimension {along}, but the size of the "
                               f"dimension {extent} is not divisible by the split_size {where}!")  # fmt: skip
        return tensor_split(input, where, along)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"``tensor_split`` along axis {axis}; a number of pieces has to divide it."
    return fn


hsplit = _split_along("hsplit", 1, 1)
vsplit = _split_along("vsplit", 2, 0)
dsplit = _split_along("dsplit", 3, 2)


def unsafe_split(tensor: Tensor, split_size: int, dim: int = 0) -> tuple[Tensor, ...]:
    """``split``."""
    return shaping.split(tensor, split_size, dim)


def unsafe_split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """``split_with_sizes``."""
    return shaping.split_with_sizes(input, split_sizes, dim)


def unsafe_chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """``chunk``."""
    return shaping.chunk(input, chunks, dim)


# -- repeating and turning ----------------------------------------------------------------------------------
def tile(input: Tensor, *args: Any, dims: Sequence[Any] | None = None) -> Tensor:
    """``repeat``, with missing counts in front taken as 1."""
    times = shaping.sizes_of(args if dims is None else (dims,))
    return shaping.repeat(input, *(1,) * (input.dim() - len(times)), *times)


def repeat_interleave(input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
                      ) -> Tensor:  # fmt: skip
    """Each element (along ``dim``; of the flat tensor without) repeated in place, once or ``repeats[i]`` times.

    With ``repeats`` alone: the index i repeated ``repeats[i]`` times.
    """
    if repeats is None:  # repeat_interleave(repeats)
        counts = input._concrete("repeat_interleave()", "repeating a fixed number of times")
        return dispatch.mark_local(np.repeat(np.arange(len(counts)), counts).astype(np.int64))
    x = shaping.reshape(input, -1) if dim is None else _grow1(input)
    axis = axis_of(0 if dim is None else dim, x.dim())
    shape = x._extents
    if dispatch.is_tensor(repeats) and repeats.numel() == 1 and repeats._value is None:
        repeats = int(repeats)
    if is_int(repeats):
        if isinstance(repeats, int) and repeats < 0:
            raise RuntimeError("repeats can not be negative")
        times = as_extent(repeats)
        out = shaping.expand(shaping.unsqueeze(x, axis + 1), *shape[: axis + 1], times, *shape[axis + 1 :])
        out = shaping.reshape(out, *shape[:axis], shape[axis] * times, *shape[axis + 1 :])
        if out._value is not None:
            return views.unlink(out)
        return out if out._base is None else out.clone()
    counts = repeats._concrete("repeat_interleave()", "repeating a fixed number of times")
    if counts.ndim > 1:
        raise RuntimeError("repeats must be 0-dim or 1-dim tensor")
    if counts.size != shape[axis]:
        raise RuntimeError("repeats must have the same size as input along dim, but got repeats.size(0) = "
                           f"{counts.size} and input.size({axis}) = {shape[axis]}")  # fmt: skip
    index = np.repeat(np.arange(counts.size), counts).astype(np.int64)
    return dispatch.apply("index_select", x, dispatch.mark_local(index), axis=axis)



@named("RollBackward0")
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements moved ``shifts`` places along axes, the last ones coming first (of the flat tensor without ``dims``)."""
    moves = [shifts] if is_int(shifts) else list(shifts)
    axes = [] if dims is None else [dims] if is_int(dims) else list(dims)
    if not moves:
        raise RuntimeError("`shifts` required")
    if not axes and len(moves) == 1:
        return shaping.reshape(roll(shaping.reshape(input, -1), moves, 0), *input._extents)
    if len(moves) != len(axes):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(moves)}, dims:{len(axes)}")
    out = input
    for move, dim in zip(moves, axes, strict=True):
        if out.dim() == 0:
            axis_of(dim, 0)
            continue
        axis = axis_of(dim, out.dim())
        extent = wrap(out._extents[axis])
        if isinstance(extent, int) and extent == 0:
            continue
        cut = as_extent((extent - move) % extent)
        first = shaping.slice_axis(out, axis, cut, out._extents[axis])
        out = shaping.cat([first, shaping.slice_axis(out, axis, 0, cut)], axis)
    return out.clone() if out is input else out


@named("Rot90Backward0")
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turned ``k`` quarters from the first of two axes towards the second (a copy)."""
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if input.dim() < 2:
        raise RuntimeError(f"expected total dims >= 2, but got total dims = {input.dim()}")
    a, b = (axis_of(d, input.dim()) for d in dims)
    if a == b:
        raise RuntimeError("expected rotation dims to be different, but got dim0 = "
                           f"{dims[0]} and dim1 = {dims[1]}")  # fmt: skip
    turns = k % 4
    if turns == 0:
        return input.clone()
    if turns == 2:
        return shaping.flip(input, a, b)
    return shaping.transpose(shaping.flip(input, b if turns == 1 else a), a, b).clone()


def fliplr(input: Tensor) -> Tensor:
    """The second axis reversed."""
    if input.dim() < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return shaping.flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """The first axis reversed."""
    if input.dim() < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return shaping.flip(input, 0)


def ravel(input: Tensor) -> Tensor:
    """One axis: a view if the memory order allows."""
    return shaping.reshape(input, dims.product(input._extents))


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "atleast_1d", "atleast_2d", "atleast_3d", "block_diag", "broadcast_shapes", "broadcast_tensors", "cartesian_prod",
    "column_stack", "combinations", "dsplit", "dstack", "fliplr", "flipud", "hsplit", "hstack", "meshgrid", "ravel",
    "repeat_interleave", "roll", "rot90", "row_stack", "tensor_split", "tile", "unsafe_chunk", "unsafe_split",
    "unsafe_split_with_sizes", "vsplit", "vstack",
)  # fmt: skip
METHODS = (
    "dsplit", "fliplr", "flipud", "hsplit", "ravel", "repeat_interleave", "roll", "rot90", "tensor_split", "tile",
    "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes", "vsplit",
)  # fmt: skip
IN_PLACE = ()
