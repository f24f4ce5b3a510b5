"""Reading elements where index tensors, masks or conditions point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims, dtypes
from ..ir.dims import Extent
from . import dispatch, elementwise, indexing, shaping
from .shaping import axis_of
from .size import is_int, wrap
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor


def lifted(t: Tensor) -> Tensor:
    """A 0-d tensor with one axis; others as they are."""
    return shaping.reshape(t, 1) if t.dim() == 0 else t


def index_of(index: Tensor, name: str) -> Tensor:
    """``index`` in int64; PyTorch's error unless it is int32 or int64."""
    dispatch.require_tensor(index, name, "index")
    if index.dtype not in (dtypes.int64, dtypes.int32):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index")
    return dispatch.cast(index, dtypes.int64)


def check_range(index: Tensor, extent: Extent, axis: int, error: type[Exception] = RuntimeError) -> None:
    """PyTorch's error for an index outside [0, extent); not while tracing."""
    if index._value is None and isinstance(extent, int) and index._data.size:
        low, high = int(index._data.min()), int(index._data.max())
        if low < 0 or high >= extent:
            bad = low if low < 0 else high
            raise error(f"index {bad} is out of bounds for dimension {axis} with size {extent}")


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along ``dim`` that the 1-d integer ``index`` names, in its order."""
    if index.dim() > 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    index = lifted(index_of(index, "index_select"))
    axis = axis_of(dim, input.dim())
    x = lifted(input)
    extent = x._extents[axis]
    if index._value is None and isinstance(extent, int) and ((index._data < 0) | (index._data >= extent)).any():
        raise IndexError("index out of range in self")
    out = dispatch.apply("index_select", x, index, axis=axis)
    return shaping.reshape(out) if input.dim() == 0 else out


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0 (and so on); the result has index's shape."""
    axis = axis_of(dim, input.dim())
    if dims.product(index._extents) == 0 and (index.dim() != input.dim() or index.dtype.itemsize < 4):
        return dispatch.mark_local(np.empty(index._extents, input.dtype.numpy))  # type: ignore[arg-type]
    index = index_of(index, "gather")
    x, where = lifted(input), lifted(index)
    if x.dim() != where.dim():
        raise RuntimeError("Index tensor must have the same number of dimensions as input tensor")
    for a in range(x.dim()):
        size, most = where._extents[a], x._extents[a]
        if a != axis and isinstance(size, int) and isinstance(most, int) and size > most:
            raise RuntimeError(f"Size does not match at dimension {a} expected index {list(index.shape)} to be no "
                               f"larger than self {list(input.shape)} apart from dimension {dim}")  # fmt: skip
    check_range(where, x._extents[axis], axis)
    out = dispatch.apply("gather", x, where, axis=axis)
    return shaping.reshape(out, *index._extents) if index.dim() == 0 else out


@named("TakeBackward0")
def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flat tensor, in the index's shape; negative indices count from the end."""
    if index.dtype is not dtypes.int64:
        raise RuntimeError(f"take(): Expected a long tensor for index, but got {dispatch.type_word(index.dtype)}")
    flat = shaping.reshape(input, -1)
    count = flat._extents[0]
    if index._value is None and isinstance(count, int) and index._data.size:
        bad = index._data[(index._data < -count) | (index._data >= count)]
        if bad.size:
            raise IndexError(f"out of range: tried to access index {bad.flat[0]} on a tensor of {count} elements.")
    places = indexing._wrap_negative(index, count)
    picked = dispatch.apply("index_select", flat, shaping.reshape(places, -1), axis=0)
    return shaping.reshape(picked, *index._extents)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """``gather`` with broadcasting; on the flat tensors without ``dim``."""
    if indices.dtype is not dtypes.int64:
        raise RuntimeError("torch.take_along_dim(): dtype of indices should be Long but got "
                           f"{dispatch.type_word(indices.dtype)}")  # fmt: skip
    if dim is None:
        return gather(shaping.reshape(input, -1), 0, shaping.reshape(indices, -1))
    if input.dim() != indices.dim():
        raise RuntimeError("torch.take_along_dim(): input and indices should have the same number of dimensions, but "
                           f"got {input.dim()} dimensions for input, and {indices.dim()} dimensions for "
                           "indices")  # fmt: skip
    axis = axis_of(dim, input.dim())
    a, b = list(input._extents), list(indices._extents)
    common = [x if y == 1 else y for x, y in zip(a, b, strict=True)]
    x = shaping.expand(input, *(a[k] if k == axis else e for k, e in enumerate(common)))
    where = shaping.expand(indices, *(b[k] if k == axis else e for k, e in enumerate(common)))
    return gather(x, axis, indexing._wrap_negative(where, x._extents[axis]))


@named("MaskedSelectBackward0")
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where ``mask`` holds, in one axis; both are broadcast."""
    if mask.dtype is not dtypes.bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    chosen = mask._concrete("masked_select()", "where(mask, x, 0), or a weighted sum")
    shape = np.broadcast_shapes(chosen.shape, input._extents)  # type: ignore[arg-type]
    places = np.flatnonzero(np.broadcast_to(chosen, shape)).astype(np.int64)
    flat = shaping.reshape(shaping.expand(input, *shape), -1)
    return dispatch.apply("index_select", flat, dispatch.mark_local(places), axis=0)


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """int64 [n, rank]: the places of the elements that are not zero; with ``as_tuple`` one index tensor per axis."""
    values = input._concrete("nonzero() (its result's shape)", "where(mask, x, 0), or a weighted sum")
    if as_tuple:
        places = np.nonzero(values if values.ndim else values[None])
        return tuple(dispatch.mark_local(i.astype(np.int64)) for i in places)
    return dispatch.mark_local(np.ascontiguousarray(np.argwhere(values), np.int64))


def argwhere(input: Tensor) -> Tensor:
    """``nonzero``."""
    return nonzero(input)


def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """int64 [size, rank]: the first places of elements that are not zero, and ``fill_value`` behind them."""
    values = input._concrete("nonzero_static()", "where(mask, x, 0), or a weighted sum")
    if size < 0:
        raise RuntimeError(f"nonzero_static: 'size' must be an non-negative integer, but got {size}")
    places = np.argwhere(values)[:size]
    out = np.full((size, values.ndim), fill_value, np.int64)
    out[: len(places)] = places
    return dispatch.mark_local(out)


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Coordinates in a tensor of this shape for indices into the flat one."""
    if not indices.dtype.is_integer:
        raise ValueError("expected 'indices' to be integer dtype, but got " + str(indices.dtype))
    sizes = (shape,) if is_int(shape) else tuple(shape)
    if any(s < 0 for s in sizes):
        raise ValueError(f"'shape' cannot have negative values, but got {tuple(sizes)}")
    rest, out = dispatch.cast(indices, dtypes.int64), []
    for extent in reversed(sizes):
        extent = wrap(shaping.as_extent(extent))
        out.append(elementwise.remainder(rest, extent))
        rest = elementwise.floor_divide(rest, extent)
    return tuple(reversed(out))


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "argwhere", "gather", "index_select", "masked_select", "nonzero", "nonzero_static", "take", "take_along_dim",
    "unravel_index",
)  # fmt: skip
METHODS = (
    "argwhere", "gather", "index_select", "masked_select", "nonzero", "nonzero_static", "take", "take_along_dim",
)  # fmt: skip
IN_PLACE = ()
