"""Sorting and what follows from it: top-k, medians, modes, quantiles, ranks, membership, distinct elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from ..ir.dims import Extent
from . import dispatch, elementwise, promotion, return_types, shaping
from .elementary import lerp
from .elementwise import eq, ge, where
from .keywords import numpy_names
from .reduce import any_empty, reduce, require_elements, require_kernel, selected, sum
from .scans import cummax, cumsum
from .shaping import axis_of, slice_axis
from .size import as_extent, is_int, provably, wrap
from .tape.names import rename

if TYPE_CHECKING:
    from .tensor import Tensor


def _sorted(x: Tensor, axis: int, descending: bool = False) -> tuple[Tensor, Tensor]:
    return dispatch.apply("sort", x, axis=axis, descending=descending)


@numpy_names
def sort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Any:
    """(values, indices) in order along ``dim``; NaN counts as the largest. Equal elements always keep their order."""
    axis = axis_of(dim, input.dim())
    if input.dim() == 0:
        return return_types.sort(input.clone(), dispatch.from_array(np.zeros((), np.int64)))
    return return_types.sort(*_sorted(input, axis, bool(descending)))


@numpy_names
def argsort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Tensor:
    """The indices that sort along ``dim``."""
    return sort(input, dim, descending)[1]


def msort(input: Tensor) -> Tensor:
    """Sorted along the first axis."""
    return sort(input, 0)[0]


@numpy_names
def topk(input: Tensor, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the ``k`` largest (or smallest) elements along ``dim``, in order."""
    axis = axis_of(dim, input.dim())
    if input.dtype is dtypes.bool_:
        raise RuntimeError("topk does not support bool dtypes on CPU")
    extent = wrap(input._extents[axis]) if input.dim() else 1
    if not provably(lambda: (k >= 0) & (k <= extent) if is_int(k) else False) and not (0 <= k <= extent):
        raise RuntimeError("selected index k out of range")
    values, indices = sort(input, dim, largest)
    if input.dim():
        values, indices = (slice_axis(x, axis, 0, as_extent(k)) for x in (values, indices))
    rename(values, "TopkBackward0")
    return return_types.topk(values, indices)


# -- one element by rank ------------------------------------------------------------------------------
def _pick(x: Tensor, axis: int, rank: Any, keepdim: bool, result: Any) -> Any:
    """(value, index) of the element that comes at place ``rank`` (an extent, or a tensor with extent 1 on ``axis``)
    in order."""
    values, indices = _sorted(x, axis)
    if dispatch.is_tensor(rank):
        values, indices = (dispatch.apply("gather", v, rank, axis=axis) for v in (values, indices))
    else:
        values, indices = (slice_axis(v, axis, rank, rank + 1) for v in (values, indices))
    return selected(result, axis, keepdim, values, indices)


def _of_scalar(x: Tensor, result: Any) -> Any:
    return result(x.clone(), dispatch.from_array(np.zeros((), np.int64)))


@numpy_names
def kthvalue(input: Tensor, k: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """(value, index) of the k-th smallest element along ``dim`` (k from 1)."""
    axis = axis_of(dim, input.dim())
    require_elements("kthvalue()", input, axis)
    extent = wrap(input._extents[axis]) if input.dim() else 1
    if not 1 <= k <= extent:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {axis}")
    if input.dim() == 0:
        return _of_scalar(input, return_types.kthvalue)
    require_kernel("kthvalue_cpu", input, "b")
    return _pick(input, axis, as_extent(k) - 1, keepdim, return_types.kthvalue)


def _median(name: str, input: Tensor, dim: int | None, keepdim: bool, ignore_nan: bool, result: Any) -> Any:
    if dim is None:
        return _median_of_all(name, input, ignore_nan, result)
    axis = axis_of(dim, input.dim())
    require_elements("median()", input, axis)
    require_kernel("median_out", input, "b")
    if input.dim() == 0:
        return _of_scalar(input, result)
    return _pick(input, axis, _middle(input, axis, ignore_nan), keepdim, result)


def _middle(x: Tensor, axis: int, ignore_nan: bool) -> Any:
    """The place of the lower median in order along ``axis``; without ``ignore_nan`` that of the first NaN, if any."""
    extent = x._extents[axis]
    if not x.dtype.is_floating_point:
        return as_extent((wrap(extent) - 1) // 2)
    count = reduce("sum", dispatch.cast(elementwise.isnan(x.detach()), dtypes.int64), axis, True)
    numbers = elementwise.sub(promotion.operand(wrap(extent), dtypes.int64), count)
    if ignore_nan:
        return elementwise.clamp(elementwise.floor_divide(elementwise.sub(numbers, 1), 2), min=0)
    return where(eq(count, 0), promotion.operand((wrap(extent) - 1) // 2, dtypes.int64), numbers)


def _median_of_all(name: str, input: Tensor, ignore_nan: bool, result: Any) -> Tensor:
    flat = shaping.reshape(input, -1)
    if any_empty(flat, (0,)):
        if not input.dtype.is_floating_point:  # what a NaN becomes there
            return dispatch.scalar(input.dtype.min if input.dtype.bits >= 32 else 0, input.dtype)
        return elementwise.add(sum(flat), float("nan"))
    require_kernel("median_cpu", input, "b")
    value = _pick(flat.detach(), 0, _middle(flat, 0, ignore_nan), False, result)[0]
    # All elements that equal the median share its gradient, as they do for amax.
    if not input.dtype.is_floating_point:
        return value
    others = where(elementwise.isnan(value), value, float("-inf"))
    out = reduce("amax", where(eq(flat, value), flat, others), None, False)
    rename(out, f"{name.capitalize()}Backward0")
    return out


@numpy_names
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Lower of the two middle elements for an even count; NaN if there is one. With ``dim`` (values, indices)."""
    return _median("median", input, dim, keepdim, False, return_types.median)


@numpy_names
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """``median`` of the elements that are not NaN."""
    return _median("nanmedian", input, dim, keepdim, True, return_types.nanmedian)


@numpy_names
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """(value, index) of the most frequent element along ``dim``: the smallest of several, the last of its places."""
    axis = axis_of(dim, input.dim())
    require_elements("mode()", input, axis)
    if input.dim() == 0:
        return _of_scalar(input, return_types.mode)
    values, indices = _sorted(input, axis)
    extent = input._extents[axis]
    places = _places(input, axis)
    before = slice_axis(values, axis, 0, extent - 1)
    changes = elementwise.ne(slice_axis(values, axis, 1, extent), before)
    first = dispatch.apply("expand", dispatch.scalar(True, dtypes.bool_), shape=slice_axis(values, axis, 0, 1)._extents)
    starts = cummax(where(shaping.cat([first, changes], axis), places, 0), axis)[0]
    end = dispatch.apply("argmax", elementwise.sub(places, starts), axis=axis, keepdims=True)
    index = dispatch.apply("gather", indices, end, axis=axis)
    value = dispatch.apply("gather", input, index, axis=axis)
    return selected(return_types.mode, axis, keepdim, value, index)


def _places(x: Tensor, axis: int) -> Tensor:
    """0, 1, 2, ... along ``axis``, in the shape of ``x``."""
    shape: tuple[Extent, ...] = x._extents
    return dispatch.apply("iota", shape=shape, axis=axis, dtype=dtypes.int64)


# -- quantiles ----------------------------------------------------------------------------------------
_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(
    name: str, input: Tensor, q: Any, dim: int | None, keepdim: bool, interpolation: str, ignore_nan: bool
) -> Tensor:
    if any_empty(input, range(input.dim())):
        raise RuntimeError(f"{name}() input tensor must be non-empty")
    if input.dtype not in (dtypes.float32, dtypes.float64):
        raise RuntimeError(f"{name}() input tensor must be either float or double dtype")
    if interpolation not in _INTERPOLATIONS:
        raise RuntimeError(f"{name}() interpolation must be one of linear, lower, higher, midpoint or nearest, but got "
                           f"{interpolation}")  # fmt: skip
    if not dispatch.is_tensor(q):
        if not 0 <= q <= 1:
            raise RuntimeError(f"{name}() q must be in the range [0, 1] but got {q:g}")
        q = dispatch.scalar(q, input.dtype)
    if q.dim() > 1:
        raise RuntimeError(f"{name}() q must be a scalar or 1D tensor")
    if q.dtype is not input.dtype:
        raise RuntimeError(f"{name}() q tensor must be same dtype as the input tensor")
    if q._value is None and q._data.size and not ((q._data >= 0) & (q._data <= 1)).all():
        raise RuntimeError(f"{name}() q values must be in the range [0, 1]")
    rank = input.dim()
    axis = 0 if dim is None else axis_of(dim, rank)
    x = shaping.reshape(input, -1) if dim is None or rank == 0 else shaping.movedim(input, axis, -1)
    found = _at_quantiles(x, shaping.reshape(q, -1), interpolation, ignore_nan)
    # found: [..., quantiles]; PyTorch puts the quantiles first.
    kept: list[Any] = list(found._extents[:-1])
    if keepdim:
        kept = [1] * rank if dim is None else [*kept[:axis], 1, *kept[axis:]] if rank else []
    out = shaping.movedim(found, -1, 0)
    return shaping.reshape(out, *(q._extents if q.dim() else ()), *kept)


def _at_quantiles(x: Tensor, q: Tensor, interpolation: str, ignore_nan: bool) -> Tensor:
    """Quantiles ``q`` [k] along the last axis of ``x``: [..., k]."""
    axis = x.dim() - 1
    extent = wrap(x._extents[axis])
    values, _ = _sorted(x, axis)
    nans = reduce("sum", dispatch.cast(elementwise.isnan(x.detach()), dtypes.int64), axis, True)
    if ignore_nan:
        last = elementwise.clamp(elementwise.sub(promotion.operand(extent - 1, dtypes.int64), nans), min=0)
        ranks = elementwise.mul(q, dispatch.cast(last, x.dtype))
    else:  # NaN comes last in order
        end = promotion.operand(extent - 1, x.dtype)
        ranks = where(elementwise.gt(nans, 0), end, elementwise.mul(q, end))
    if interpolation == "nearest":
        return _gathered(values, elementwise.round(ranks), axis)
    if interpolation == "higher":
        return _gathered(values, elementwise.ceil(ranks), axis)
    floor = elementwise.floor(ranks.detach())
    below = _gathered(values, floor, axis)
    if interpolation == "lower":
        return below
    above = _gathered(values, elementwise.ceil(ranks.detach()), axis)
    return lerp(below, above, elementwise.sub(ranks, floor) if interpolation == "linear" else 0.5)


def _gathered(values: Tensor, ranks: Tensor, axis: int) -> Tensor:
    return dispatch.apply("gather", values, dispatch.cast(ranks.detach(), dtypes.int64), axis=axis)


@numpy_names
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """Quantiles ``q`` (a number or 1-d tensor, in [0, 1]) along ``dim`` or of all; several come along a new first axis.
    NaN where there is one."""
    return _quantile("quantile", input, q, dim, keepdim, interpolation, False)


@numpy_names
def nanquantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """``quantile`` of the elements that are not NaN."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, True)


# -- ranks in a sorted sequence -----------------------------------------------------------------------
def searchsorted(
    sorted_sequence: Tensor, input: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Where each value would go in the innermost axis of a sorted sequence: before its equals, or behind them with
    ``right`` (``side="right"``)."""
    if side not in (None, "left", "right"):
        raise RuntimeError(f"torch.searchsorted(): side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise RuntimeError("torch.searchsorted(): side and right can't be set to opposites, got side of left while "
                           "right was True")  # fmt: skip
    line, number = sorted_sequence, not dispatch.is_tensor(input)
    values = promotion.operand(input, line.dtype) if number else input
    _check_sequence(line, values)
    if sorter is not None:
        if sorter._extents != line._extents:
            raise RuntimeError("torch.searchsorted(): boundary and sorter must have the same size, but got boundary "
                               f"tensor {list(line.shape)}and got sorter tensor {list(sorter.shape)}")  # fmt: skip
        if sorter._value is None and sorter._data.size and not _within(sorter, line._extents[-1]):
            raise RuntimeError("torch.searchsorted(): sorter index out of range")
        line = dispatch.apply("gather", line, sorter, axis=line.dim() - 1)
    out = _ranks(line, values, right or side == "right")
    return dispatch.cast(out, dtypes.int32) if out_int32 else out


def _within(index: Tensor, extent: Extent) -> bool:
    return not isinstance(extent, int) or bool(index._data.min() >= 0 and index._data.max() < extent)


def _check_sequence(line: Tensor, values: Tensor) -> None:
    shapes = f"boundaries tensor {list(line.shape)} and input value tensor {list(values.shape)}"
    if values.dim() == 0 and line.dim() != 1:
        raise RuntimeError("torch.searchsorted(): input value can be a scalar only when boundaries tensor dimension is "
                           f"1, but we got boundaries tensor dim({line.dim()}) and input value's dim({values.dim()}) "
                           f"numel({values.numel()})")  # fmt: skip
    if line.dim() == 0:
        raise RuntimeError("torch.searchsorted(): input value tensor should have positive dimension, but got 0")
    if line.dim() > 1 and line._extents[:-1] != values._extents[:-1]:
        raise RuntimeError("torch.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions "
                           f"of boundaries tensor and input value tensor must match, but we got {shapes}")  # fmt: skip


def _ranks(line: Tensor, values: Tensor, right: bool) -> Tensor:
    """How many elements of ``line`` come before each value, found by sorting both together."""
    dtype = promotion.result_type(line, values)
    x = dispatch.cast(shaping.reshape(values, -1) if line.dim() == 1 else values, dtype).detach()
    line = dispatch.cast(line, dtype).detach()
    axis = line.dim() - 1
    count = (line if right else x)._extents[axis]
    joined = shaping.cat([line, x] if right else [x, line], axis)  # the sort keeps the order of equals
    _, source = _sorted(joined, axis)
    of_line = elementwise.lt(source, wrap(count)) if right else ge(source, wrap(count))
    before = cumsum(of_line, axis)
    back = dispatch.apply("scatter", elementwise.mul(source, 0), source, before, axis=axis)
    out = slice_axis(back, axis, count, back._extents[axis]) if right else slice_axis(back, axis, 0, count)
    return shaping.reshape(out, *values._extents)


def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The bucket of each value among sorted 1-d boundaries: i with boundaries[i - 1] < value <= boundaries[i]
    (``right``: <= and <)."""
    if boundaries.dim() != 1:
        raise RuntimeError(f"boundaries tensor must be 1 dimension, but got dim({boundaries.dim()})")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each of ``elements`` is among ``test_elements`` (or is not, with ``invert``)."""
    if not (dispatch.is_tensor(elements) or dispatch.is_tensor(test_elements)):
        raise TypeError("isin() received an invalid combination of arguments: elements or test_elements must be a "
                        "Tensor")  # fmt: skip
    dtype = promotion.result_type(elements, test_elements)
    if dtype is dtypes.bool_:
        raise RuntimeError("Unsupported input type encountered for isin(): Bool")
    x, wanted = promotion.operand(elements, dtype), shaping.reshape(promotion.operand(test_elements, dtype), -1)
    if any_empty(wanted, (0,)):
        found = elementwise.ne(x, x) if not dtype.is_floating_point else dispatch.cast(elementwise.mul(eq(x, x), 0),
                                                                                      dtypes.bool_)  # fmt: skip
    else:
        line, _ = _sorted(wanted, 0)
        last = wrap(line._extents[0]) - 1
        place = elementwise.clamp(_ranks(line, x, False), max=last)
        near = dispatch.apply("index_select", line, shaping.reshape(place, -1), axis=0)
        found = eq(shaping.reshape(near, *x._extents), x)
    return elementwise.logical_not(found) if invert else found


# -- distinct elements --------------------------------------------------------------------------------
_DISTINCT = "a mask: the number of distinct elements is known only when the values are"


def unique(
    input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,
    dim: int | None = None,
) -> Any:  # fmt: skip
    """The distinct elements (slices along ``dim``) in ascending order; on request also where each element went, and
    how often each occurs."""
    if dim is not None and input.dim() == 0:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    axis = None if dim is None else axis_of(dim, input.dim())
    data = input._concrete("unique()", _DISTINCT)
    if axis is not None and 0 in data.shape and data.shape[axis] != 0:
        raise RuntimeError("There are 0 sized dimensions, and they aren't selected, so unique cannot be applied")
    values, inverse, counts = np.unique(data, return_inverse=True, return_counts=True, axis=axis, equal_nan=False)
    inverse = inverse.reshape(data.shape if axis is None else -1)
    return _distinct(values, inverse, counts, return_inverse, return_counts)


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """``unique`` of neighbours: all but the first of each run of equal elements (slices along ``dim``) are dropped."""
    if dim is None or input.dim() == 0:
        axis, flat = 0, input._concrete("unique_consecutive()", _DISTINCT).reshape(-1)
    else:
        axis, flat = axis_of(dim, input.dim()), input._concrete("unique_consecutive()", _DISTINCT)
    rows = np.moveaxis(flat, axis, 0)
    changes = (rows[1:] != rows[:-1]).any(axis=tuple(range(1, rows.ndim)))
    first = np.concatenate([np.ones(min(len(rows), 1), bool), changes])
    starts = np.flatnonzero(first)
    counts = np.diff(np.append(starts, len(rows)))
    inverse = np.cumsum(first) - 1
    inverse = inverse.reshape(input.shape) if dim is None else inverse
    return _distinct(np.take(flat, starts, axis), inverse, counts, return_inverse, return_counts)


def _distinct(
    values: np.ndarray, inverse: np.ndarray, counts: np.ndarray, with_inverse: bool, with_counts: bool
) -> Any:
    out = [np.ascontiguousarray(values)]
    out += [inverse.astype(np.int64)] if with_inverse else []
    out += [counts.astype(np.int64)] if with_counts else []
    tensors = tuple(dispatch.mark_local(a) for a in out)
    return tensors[0] if len(tensors) == 1 else tensors


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "argsort", "bucketize", "isin", "kthvalue", "median", "mode", "msort", "nanmedian", "nanquantile", "quantile",
    "searchsorted", "sort", "topk", "unique", "unique_consecutive",
)  # fmt: skip
METHODS = (
    "argsort", "kthvalue", "median", "mode", "msort", "nanmedian", "nanquantile", "quantile", "sort", "topk", "unique",
    "unique_consecutive",
)  # fmt: skip
IN_PLACE = ()
