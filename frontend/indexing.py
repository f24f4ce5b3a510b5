"""``tensor[...]``, and picking elements by index tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from ..ir.dims import DimExpr, Extent
from ..ir.errors import DataDependentError, ShapeError, UnsupportedError
from . import dispatch, elementwise, shaping, tracing
from .shaping import axis_of
from .size import SymInt, as_extent, is_int, provably, wrap
from .sources import user_place

if TYPE_CHECKING:
    from .tensor import Tensor


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along ``dim`` that the 1-d integer ``index`` names, in its order."""
    if index.dim() > 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    if index.dim() == 0:
        index = shaping.reshape(index, 1)
    axis = axis_of(dim, input.dim())
    _check_range(index, input._extents[axis], axis)
    return dispatch.apply("index_select", input, index, axis=axis)


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0 (and so on); the result has index's shape."""
    axis = axis_of(dim, input.dim())
    _check_range(index, input._extents[axis], axis)
    return dispatch.apply("gather", input, index, axis=axis)


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``input`` with src[i][j] added at [index[i][j]][j] for dim 0 (and so on)."""
    axis = axis_of(dim, input.dim())
    _check_range(index, input._extents[axis], axis)
    return dispatch.apply("scatter_add", input, index, src, axis=axis)


def _check_range(index: Tensor, extent: Extent, axis: int) -> None:
    if not index.dtype.is_integer:
        raise IndexError(f"index tensors must be integer, got {index.dtype}")
    if index._value is None and isinstance(extent, int) and index._data.size:
        low, high = int(index._data.min()), int(index._data.max())
        if low < 0 or high >= extent:
            bad = low if low < 0 else high
            raise IndexError(f"index {bad} is out of bounds for dimension {axis} with size {extent}")


def getitem(input: Tensor, index: Any) -> Tensor:
    """Indexing by ints, slices, None, Ellipsis, integer tensors (or lists) and boolean masks."""
    items = _expand(input, index)
    if any(_is_mask(i) for i in items):
        return _masked(input, index, items)
    advanced: list[tuple[int, Tensor]] = []  # (axis of the result so far, index)
    out, axis = input, 0
    for item in items:
        if item is None:
            out = shaping.unsqueeze(out, axis)
            axis += 1
        elif isinstance(item, slice):
            out = _slice(out, axis, item)
            axis += 1
        elif is_int(item):
            out = _pick(out, axis, item)
        else:
            advanced.append((axis, item))
            axis += 1
    if not advanced:
        # Always a new tensor, so that t[...] and t[:] are views of t and not t itself.
        return out if out is not input else shaping.reshape(out, *out._extents)
    return _advanced(out, advanced)


def _expand(input: Tensor, index: Any) -> list[Any]:
    items = list(index) if isinstance(index, tuple) else [index]
    items = [_normalise(i) for i in items]
    used = sum(i.dim() if _is_mask(i) else 1 for i in items if i is not None and i is not Ellipsis)
    rank = input.dim()
    if used > rank:
        raise IndexError(f"too many indices for tensor of dimension {rank}")
    ellipses = sum(i is Ellipsis for i in items)
    if ellipses > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    at = next((k for k, i in enumerate(items) if i is Ellipsis), len(items))
    return items[:at] + [slice(None)] * (rank - used) + items[at + 1 :]


def _normalise(item: Any) -> Any:
    if item is None or item is Ellipsis or isinstance(item, slice) or is_int(item):
        return item
    if isinstance(item, (bool, np.bool_)):
        raise UnsupportedError(f"{user_place()}: indexing with the Python bool {item}; use a mask tensor")
    if dispatch.is_tensor(item):
        pass
    elif isinstance(item, (list, tuple, range, np.ndarray)):
        item = dispatch.from_array(np.asarray(item, None if len(item) else np.int64))
    else:
        raise IndexError("only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid "
                         f"indices (got {type(item).__name__})")  # fmt: skip
    if item.dtype is not dtypes.bool_ and not item.dtype.is_integer:
        raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    return item


def _is_mask(item: Any) -> bool:
    return dispatch.is_tensor(item) and item.dtype is dtypes.bool_


def _pick(t: Tensor, axis: int, item: Any) -> Tensor:
    extent = wrap(t._extents[axis])
    if not (-extent <= item < extent):
        raise IndexError(f"index {item} is out of bounds for dimension {axis} with size {extent}")
    start = as_extent(item + extent if item < 0 else item)
    shape = t._extents
    out = shaping.slice_axis(t, axis, start, start + 1)
    return shaping.reshape(out, *shape[:axis], *shape[axis + 1 :])


def _bound(value: Any, extent: Any, default: Any, low: int = 0) -> Any:
    """A slice bound brought into [low, extent + low], as ``slice.indices`` does; sizes may be symbolic."""
    if value is None:
        return default
    if dispatch.is_tensor(value):
        value = value.__index__()
    if not isinstance(value, SymInt):
        value = int(value.__index__())
    try:
        if value < 0:
            value = value + extent
            return value if value >= low else low
        return value if value <= extent + low else extent + low
    except DataDependentError as error:
        raise DataDependentError(f"{error} (a slice bound must provably lie inside or outside the extent {extent})") \
            from None  # fmt: skip


def _slice(t: Tensor, axis: int, item: slice) -> Tensor:
    extent = wrap(t._extents[axis])
    step = 1 if item.step is None else int(item.step)
    if step == 0:
        raise ValueError("slice step cannot be zero")
    if step > 0:
        start, stop = _bound(item.start, extent, 0), _bound(item.stop, extent, extent)
        if (isinstance(start, int) and start == 0 and stop is extent) and step == 1:
            return t
        if not provably(lambda: start <= stop):
            if provably(lambda: start >= stop):
                stop = start
            else:
                raise DataDependentError(f"{user_place()}: whether the slice {start}:{stop} is empty depends on a "
                                         "symbolic size. Try: declare tighter bounds on the Dim.")  # fmt: skip
        return shaping.slice_axis(t, axis, as_extent(start), as_extent(stop), step)
    # x[a:b:-s] walks a, a-s, ... down to b+1: reverse the range, then step through it forwards.
    first, last = _bound(item.start, extent, extent - 1, -1), _bound(item.stop, extent, -1, -1)
    if provably(lambda: first <= last):
        return shaping.slice_axis(t, axis, 0, 0)
    part = shaping.slice_axis(t, axis, as_extent(last + 1), as_extent(first + 1))
    reversed_ = shaping.flip(part, axis)
    return reversed_ if step == -1 else shaping.slice_axis(reversed_, axis, 0, part._extents[axis], -step)


def _advanced(t: Tensor, picks: list[tuple[int, Tensor]]) -> Tensor:
    """Integer-tensor indexing: the indexed axes are merged into one and selected from by a linear index."""
    axes = [a for a, _ in picks]
    rank = t.dim()
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    target = axes[0] if adjacent else 0  # separated index tensors put their axes first, as in NumPy
    rest = [a for a in range(rank) if a not in axes]
    order = rest[:target] + axes + rest[target:]
    if order != list(range(rank)):
        t = shaping.permute(t, order)
    extents = [t._extents[target + k] for k in range(len(axes))]
    linear: Any = None
    for (_, index), extent in zip(picks, extents, strict=True):
        wrapped = _wrap_negative(index, extent)
        linear = wrapped if linear is None else elementwise.add(elementwise.mul(linear, wrap(extent)), wrapped)
    shape = t._extents
    if len(axes) > 1:
        t = shaping.flatten(t, target, target + len(axes) - 1)
    out = dispatch.apply("index_select", t, shaping.reshape(linear, -1), axis=target)
    return shaping.reshape(out, *shape[:target], *linear._extents, *shape[target + len(axes) :])


def _wrap_negative(index: Tensor, extent: Extent) -> Tensor:
    index = dispatch.cast(index, dtypes.int64)
    if index._value is not None:
        return elementwise.where(elementwise.lt(index, 0), elementwise.add(index, wrap(extent)), index)
    data = index._data
    if data.size and isinstance(extent, int):
        bad = data[(data < -extent) | (data >= extent)]
        if bad.size:
            raise IndexError(f"index {bad.flat[0]} is out of bounds for dimension 0 with size {extent}")
    if not (data < 0).any():
        return index
    return elementwise.where(elementwise.lt(index, 0), elementwise.add(index, wrap(extent)), index)


def _masked(input: Tensor, index: Any, items: list[Any]) -> Tensor:
    tracer = tracing.current()
    if tracer is not None and any(tracer.owns(x) for x in (input, *filter(dispatch.is_tensor, items))):
        raise tracer.refuse_data("boolean-mask indexing (its result's shape)", "where(mask, x, 0), or a weighted sum")
    for axis, mask in enumerate(items):
        if _is_mask(mask) and len(items) == 1 and mask.shape != input.shape[: mask.dim()]:
            raise IndexError(
                f"The shape of the mask {list(mask.shape)} at index {axis} does not match the shape of the "
                f"indexed tensor {list(input.shape)} at index {axis}"
            )
    return dispatch.from_array(np.asarray(input._data[to_numpy_index(index)], order="C"))


def to_numpy_index(index: Any) -> Any:
    """``index`` with tensors replaced by their arrays."""
    if isinstance(index, tuple):
        return tuple(to_numpy_index(i) for i in index)
    return index._data if dispatch.is_tensor(index) else index


def setitem(target: Tensor, index: Any, value: Any) -> None:
    """``target[index] = value``, on eager tensors; tracing notes it as unsupported."""
    tracer = tracing.current()
    if tracer is not None:
        parts = [
            x for x in (target, value, *(index if isinstance(index, tuple) else (index,))) if dispatch.is_tensor(x)
        ]
        symbolic = any(isinstance(i, (SymInt, DimExpr)) for i in (index if isinstance(index, tuple) else (index,)))
        if symbolic or any(tracer.owns(p) for p in parts):
            tracer.unsupported("index assignment", parts, "assignment into part of a tensor is eager only",
                               "cat the parts, pad, or where(mask, new, old)")  # fmt: skip
            return
        if target._trace is not tracer:
            tracer.unsupported("index assignment", parts, "the target was made outside forward",
                               "create it inside forward")  # fmt: skip
            return
    if target.requires_grad and dispatch.is_grad_enabled():
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
    array = value._data if dispatch.is_tensor(value) else np.asarray(value)
    try:
        target._data[to_numpy_index(index)] = array.astype(target._data.dtype, copy=False)
    except ValueError as error:
        raise ShapeError(f"shape mismatch in index assignment to {list(target.shape)}: {error}") from None
