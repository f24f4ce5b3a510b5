"""``tensor[...]`` and ``tensor[...] = value``."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims, dtypes
from ..ir.dims import Extent
from ..ir.errors import DataDependentError, ShapeError
from ..ir.ops.common import broadcast_shapes
from ..runtime.backward import now
from . import dispatch, elementwise, promotion, shaping, tracing
from .size import SymInt, as_extent, is_int, provably, wrap
from .sources import user_place
from .tape import views
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor


def getitem(input: Tensor, index: Any) -> Tensor:
    """Indexing by ints, slices, None, Ellipsis, bools, integer tensors (or lists) and boolean masks."""
    view, picks = _basic(input, _without_masks(input, _expand(input, index)))
    return view if not picks else _advanced(view, picks)


def _basic(input: Tensor, items: list[Any]) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """The view that ints, slices and None give, and the index tensors with the axes of the view that they index."""
    picks: list[tuple[int, Tensor]] = []
    out, axis = input, 0
    for item in items:
        if item is None or isinstance(item, bool):
            out = shaping.unsqueeze(out, axis)
            if item is not None:  # an index tensor of one element, or of none
                picks.append((axis, dispatch.from_array(np.zeros(int(item), np.int64))))
            axis += 1
        elif isinstance(item, slice):
            out = _slice(out, axis, item)
            axis += 1
        elif is_int(item):
            out = _pick(out, axis, item)
        else:
            picks.append((axis, item))
            axis += 1
    # Always a new tensor, so that t[...] and t[:] are views of t and not t itself.
    return (out if out is not input else shaping.reshape(out, *out._extents)), picks


def _expand(input: Tensor, index: Any) -> list[Any]:
    items = list(index) if isinstance(index, tuple) else [index]
    items = [_normalise(i) for i in items]
    used = sum(
        i.dim() if _is_mask(i) else 1 for i in items if not (i is None or i is Ellipsis or isinstance(i, bool))
    )
    rank = input.dim()
    if used > rank:
        raise IndexError(f"too many indices for tensor of dimension {rank}")
    ellipses = sum(i is Ellipsis for i in items)
    if ellipses > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    at = next((k for k, i in enumerate(items) if i is Ellipsis), len(items))
    return items[:at] + [slice(None)] * (rank - used) + items[at + 1 :]


def _normalise(item: Any) -> Any:
    if isinstance(item, (bool, np.bool_)):
        return bool(item)
    if item is None or item is Ellipsis or isinstance(item, slice) or is_int(item):
        return item
    if dispatch.is_tensor(item):
        if item.dim() == 0 and item.dtype.is_integer and item.dtype is not dtypes.uint8 and _is_known(item):
            return int(item._data)
    elif isinstance(item, (list, tuple, range, np.ndarray)):
        item = dispatch.from_array(np.asarray(item, None if len(item) else np.int64))
    else:
        raise IndexError("only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid "
                         f"indices (got {type(item).__name__})")  # fmt: skip
    if item.dtype is not dtypes.bool_ and not item.dtype.is_integer:
        raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    if item.dtype is dtypes.uint8:
        warnings.warn("indexing with dtype torch.uint8 is now deprecated, please use a dtype torch.bool instead.",
                      UserWarning, stacklevel=5)  # fmt: skip
        item = dispatch.cast(item, dtypes.bool_)
    return item


def _is_known(t: Tensor) -> bool:
    """Whether the numbers of ``t`` are there: it is not part of a trace."""
    tracer = tracing.current()
    return t._value is None and (tracer is None or not tracer.owns(t))


def _is_mask(item: Any) -> bool:
    return dispatch.is_tensor(item) and item.dtype is dtypes.bool_


@named("SelectBackward0")
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


def _merge(t: Tensor, picks: list[tuple[int, Tensor]]) -> tuple[Tensor, list[int], int, Tensor]:
    """(t with the indexed axes side by side and merged into one, the order of t's axes before merging, the merged axis,
    the linear index along it)."""
    axes = [a for a, _ in picks]
    rank = t.dim()
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    target = axes[0] if adjacent else 0  # separated index tensors put their axes first, as in NumPy
    rest = [a for a in range(rank) if a not in axes]
    order = rest[:target] + axes + rest[target:]
    if order != list(range(rank)):
        t = shaping.permute(t, order)
    extents = [t._extents[target + k] for k in range(len(axes))]
    try:
        broadcast_shapes("indexing", *(index._extents for _, index in picks))
    except ShapeError:
        shapes = ", ".join(str(list(index.shape)) for _, index in picks)
        raise IndexError("shape mismatch: indexing tensors could not be broadcast together with shapes "
                         f"{shapes}") from None  # fmt: skip
    linear: Any = None
    for (_, index), extent in zip(picks, extents, strict=True):
        wrapped = _wrap_negative(index, extent)
        linear = wrapped if linear is None else elementwise.add(elementwise.mul(linear, wrap(extent)), wrapped)
    if len(axes) > 1:
        t = shaping.flatten(t, target, target + len(axes) - 1)
    return t, order, target, linear


@named("IndexBackward0")
def _advanced(t: Tensor, picks: list[tuple[int, Tensor]]) -> Tensor:
    """Integer-tensor indexing: the indexed axes are merged into one and selected from by a linear index."""
    merged, _, target, linear = _merge(t, picks)
    out = dispatch.apply("index_select", merged, shaping.reshape(linear, -1), axis=target)
    shape = merged._extents
    return shaping.reshape(out, *shape[:target], *linear._extents, *shape[target + 1 :])


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


def _without_masks(input: Tensor, items: list[Any]) -> list[Any]:
    """``items`` with every mask replaced by the index tensors of its true elements."""
    if not any(map(_is_mask, items)):
        return items
    tracer = tracing.current()
    if tracer is not None and any(tracer.owns(x) for x in (input, *filter(dispatch.is_tensor, items))):
        raise tracer.refuse_data("boolean-mask indexing (its result's shape)", "where(mask, x, 0), or a weighted sum")
    out: list[Any] = []
    axis = 0
    for item in items:
        if _is_mask(item):
            _check_mask(input, item, axis)
            out += [dispatch.from_array(i) for i in np.nonzero(item._data)] if item.dim() else [bool(item._data)]
            axis += item.dim()
        else:
            out.append(item)
            axis += item is not None and not isinstance(item, bool)
    return out


def _check_mask(input: Tensor, mask: Tensor, axis: int) -> None:
    if mask._extents != input._extents[axis : axis + mask.dim()]:
        raise IndexError(
            f"The shape of the mask {list(mask.shape)} at index {axis} does not match the shape of the "
            f"indexed tensor {list(input.shape)} at index {axis}"
        )


def setitem(target: Tensor, index: Any, value: Any) -> None:
    """``target[index] = value``: through a view where the index is one, else by scattering."""
    if target._value is None:
        views.check_writable(target)
    if not dispatch.is_tensor(value):
        value = promotion.operand(np.asarray(value) if isinstance(value, (list, tuple)) else value, target.dtype)
    items = _expand(target, index)
    if len(items) >= 1 and _is_mask(items[0]) and value.dim() == 0 and all(i == slice(None) for i in items[1:]):
        _check_mask(target, items[0], 0)
        mask = shaping.reshape(items[0], *items[0]._extents, *(1,) * (target.dim() - items[0].dim()))
        since = now()
        new = elementwise.where(mask, dispatch.cast(value, target.dtype), target)
        dispatch.assign(target, new, "index assignment", since=since, history=True)
        return
    view, picks = _basic(target, _without_masks(target, items))
    if not picks:
        while value.dim() > view.dim() and value._extents[0] == 1:
            value = shaping.reshape(value, *value._extents[1:])
        dispatch.write(view, dispatch.cast(value, target.dtype), "index assignment")
        return
    since = now()
    new = put(view, picks, dispatch.cast(value, target.dtype))
    dispatch.assign(view, new, "index assignment", since=since, history=True)


def put(t: Tensor, picks: list[tuple[int, Tensor]], value: Tensor, accumulate: bool = False) -> Tensor:
    """``t`` with ``value`` put (or added) where index tensors on some axes point; out of place."""
    merged, order, target, linear = _merge(t, picks)
    rest = merged._extents
    source = shaping.broadcast_to(value, (*rest[:target], *linear._extents, *rest[target + 1 :]))
    count = dims.product(linear._extents)
    source = shaping.reshape(source, *rest[:target], count, *rest[target + 1 :])
    line = shaping.reshape(linear, *(count if a == target else 1 for a in range(merged.dim())))
    everywhere = shaping.expand(line, *source._extents)
    out = dispatch.apply("scatter_add" if accumulate else "scatter", merged, everywhere, source, axis=target)
    out = shaping.reshape(out, *(t._extents[a] for a in order))
    return shaping.permute(out, *(order.index(a) for a in range(t.dim())))
