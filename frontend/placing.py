"""Writing elements where index tensors or masks point; out of place, with in-place methods made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims, dtypes
from . import dispatch, elementwise, indexing, promotion, shaping
from .picking import check_range, index_of, lifted
from .shaping import axis_of
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor


def _same_dtype(name: str, input: Tensor, src: Tensor, word: str = "src") -> None:
    if input.dtype is not src.dtype:
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to {word}.dtype")


def _put(op: str, x: Tensor, axis: int, index: Tensor, src: Tensor, **attrs: Any) -> Tensor:
    """A scatter operator; bool counts as the integers 0 and 1."""
    if x.dtype is dtypes.bool_ and op != "scatter":
        first, second = dispatch.cast(x, dtypes.uint8), dispatch.cast(src, dtypes.uint8)
        return elementwise.ne(dispatch.apply(op, first, index, second, axis=axis, **attrs), 0)
    return dispatch.apply(op, x, index, src, axis=axis, **attrs)


def _ready(name: str, input: Tensor, dim: int, index: Tensor, src: Tensor | None) -> tuple[Tensor, int, Tensor, Any]:
    """(input, axis, index, src) with one axis at least, checked."""
    axis = axis_of(dim, input.dim())
    index = index_of(index, name)
    x, where = lifted(input), lifted(index)
    source = None if src is None else lifted(src)
    if where.dim() != x.dim():
        raise RuntimeError("Index tensor must have the same number of dimensions as self tensor")
    if source is not None and where.dim() != source.dim():
        raise RuntimeError("Index tensor must have the same number of dimensions as src tensor")
    for a, size in enumerate(where._extents):
        for word, other in (("self", x), ("src", source)):
            most = None if other is None or (word == "self" and a == axis) else other._extents[a]
            if isinstance(size, int) and isinstance(most, int) and size > most:
                raise RuntimeError(f"Expected index {list(index.shape)} to be no larger than {word} "
                                   f"{list(other.shape)}"  # type: ignore[union-attr]
                                   + (f" apart from dimension {dim}" if word == "self" else ""))  # fmt: skip
    check_range(where, x._extents[axis], axis)
    return x, axis, where, source


def _empty(index: Tensor) -> bool:
    return dims.product(index._extents) == 0


_REDUCTIONS = {"add": "sum", "multiply": "prod"}


@named("ScatterBackward0")
def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Tensor:
    """``input`` with src[i][j] (or a number) put at [index[i][j]][j] for dim 0 (and so on); of equal places the last
    one wins. ``reduce``: "add" or "multiply" instead of putting."""
    if src is None:
        src = value
    if src is None:
        raise TypeError("scatter() missing one of the arguments 'src' and 'value'")
    if reduce is not None and reduce not in _REDUCTIONS:
        raise RuntimeError("reduce argument must be either add or multiply.")
    if not dispatch.is_tensor(src):
        filler = promotion.operand(src, input.dtype)
        if _empty(index):
            return input.clone()
        src = shaping.expand(filler, *index._extents)
    else:
        _same_dtype("scatter", input, src)
    if _empty(index):
        return input.clone()
    if reduce is not None:
        return scatter_reduce(input, dim, index, src, _REDUCTIONS[reduce])
    x, axis, where, source = _ready("scatter", input, dim, index, src)
    return shaping.reshape(_put("scatter", x, axis, where, source), *input._extents)


@named("ScatterAddBackward0")
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``input`` with src[i][j] added at [index[i][j]][j] for dim 0 (and so on)."""
    _same_dtype("scatter", input, src)
    if _empty(index):
        return input.clone()
    x, axis, where, source = _ready("scatter_add", input, dim, index, src)
    return shaping.reshape(_put("scatter_add", x, axis, where, source), *input._extents)


@named("ScatterReduceBackward0")
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """``input`` with what arrives at each place reduced by sum, prod, mean, amax or amin; ``include_self``: together
    with the element that is there."""
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError("reduce argument must be either sum, prod, mean, amax or amin, got " + str(reduce) + ".")
    _same_dtype("scatter", input, src)
    if _empty(index):
        return input.clone()
    x, axis, where, source = _ready("scatter_reduce", input, dim, index, src)
    return shaping.reshape(_reduce(x, axis, where, source, reduce, include_self), *input._extents)


def _neutral(reduce: str, x: Tensor) -> Any:
    if reduce in ("sum", "mean", "prod"):
        return int(reduce == "prod")
    low = reduce == "amax"
    if x.dtype.is_floating_point:
        return -np.inf if low else np.inf
    return x.dtype.min if low else x.dtype.max


def _everywhere(value: Any, like: Tensor, index: Tensor) -> Tensor:
    return shaping.expand(dispatch.scalar(value, like.dtype), *index._extents)


def _reduce(x: Tensor, axis: int, index: Tensor, src: Tensor, reduce: str, include_self: bool) -> Tensor:
    start = x
    if not include_self:
        start = _put("scatter", x, axis, index, _everywhere(_neutral(reduce, x), x, index))
    if reduce in ("prod", "amax", "amin"):
        return _put("scatter_reduce", start, axis, index, src, reduce=reduce)
    total = _put("scatter_add", start, axis, index, src)
    if reduce == "sum":
        return total
    ones = shaping.expand(dispatch.scalar(1, x.dtype), *x._extents)
    if not include_self:
        ones = _put("scatter", ones, axis, index, _everywhere(0, x, index))
    count = _put("scatter_add", ones, axis, index, _everywhere(1, x, index))
    if x.dtype.is_floating_point:
        return elementwise.div(total, count)
    return elementwise.floor_divide(total, elementwise.maximum(count, dispatch.scalar(1, x.dtype)))


# -- whole slices -------------------------------------------------------------------------------------------
def _slices(name: str, input: Tensor, dim: int, index: Tensor, source: Tensor) -> tuple[Tensor, int, Tensor, Tensor]:
    """(input, axis, index at every element of source, source)."""
    axis = axis_of(dim, input.dim())
    if index.dim() > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector, but got dim: {index.dim()} with type: "
                         f"{dispatch.type_word(index.dtype)}")  # fmt: skip
    _same_dtype(name, input, source, "source")
    x, where, part = lifted(input), lifted(index_of(index, name)), lifted(source)
    count = where._extents[0]
    if source.dim() == 0 and x.dim() == 1 and count == 1:
        part = shaping.reshape(source, 1)
    want = tuple(count if a == axis else e for a, e in enumerate(x._extents))
    if part._extents != want:
        raise RuntimeError(f"{name}(): Source/destination tensor must have same slice shapes. Destination slice shape: "
                           f"{list(want)} and source slice shape: {list(source.shape)}")  # fmt: skip
    check_range(where, x._extents[axis], axis, IndexError if name == "index_copy" else RuntimeError)
    line = shaping.reshape(where, *(count if a == axis else 1 for a in range(x.dim())))
    return x, axis, shaping.expand(line, *want), part


@named("IndexAddBackward0")
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """``input`` with alpha * source's slices added to the slices that ``index`` names."""
    x, axis, where, part = _slices("index_add", input, dim, index, source)
    if alpha != 1:
        part = elementwise.mul(part, promotion.operand(alpha, part.dtype))
    return shaping.reshape(_put("scatter_add", x, axis, where, part), *input._extents)


@named("IndexCopyBackward0")
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """``input`` with source's slices in the place of the slices that ``index`` names."""
    x, axis, where, part = _slices("index_copy", input, dim, index, source)
    return shaping.reshape(_put("scatter", x, axis, where, part), *input._extents)


@named("IndexFillBackward0")
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """``input`` with a number in all elements of the slices that ``index`` names."""
    axis = axis_of(dim, input.dim())
    if dispatch.is_tensor(value) and value.dim():
        raise RuntimeError("index_fill_ only supports a 0-dimensional value tensor, but got tensor with "
                           f"{value.dim()} dimension(s).")  # fmt: skip
    if index.dim() > 1:
        raise IndexError("index_fill_(): Index is supposed to be a vector")
    x, where = lifted(input), lifted(index_of(index, "index_fill"))
    where = indexing._wrap_negative(where, x._extents[axis])
    shape = tuple(where._extents[0] if a == axis else 1 for a in range(x.dim()))
    nowhere = shaping.expand(dispatch.scalar(False, dtypes.bool_),
                             *(e if a == axis else 1 for a, e in enumerate(x._extents)))  # fmt: skip
    there = shaping.expand(dispatch.scalar(True, dtypes.bool_), *shape)
    mask = dispatch.apply("scatter", nowhere, shaping.reshape(where, *shape), there, axis=axis)
    return shaping.reshape(elementwise.where(mask, promotion.operand(value, input.dtype), x), *input._extents)


@named("IndexReduceBackward0")
def index_reduce(
    input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """``input`` with source's slices reduced (prod, mean, amax, amin) into the slices that ``index`` names."""
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise RuntimeError(f"index_reduce(): Expected reduce to be one of prod, mean, amax or amin but got {reduce}.")
    x, axis, where, part = _slices("index_reduce", input, dim, index, source)
    return shaping.reshape(_reduce(x, axis, where, part, reduce, include_self), *input._extents)


# -- any places ---------------------------------------------------------------------------------------------
@named("IndexPutBackward0")
def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """``input`` with ``values`` at input[indices], put or added; ``indices``: index tensors, masks or None per axis."""
    items = [slice(None) if i is None else i for i in indices]
    _same_dtype("index_put", input, values, "values")
    if accumulate and input.dtype is dtypes.bool_:
        first, second = dispatch.cast(input, dtypes.uint8), dispatch.cast(values, dtypes.uint8)
        return elementwise.ne(index_put(first, indices, second, True), 0)
    view, picks = indexing._basic(input, indexing._without_masks(input, indexing._expand(input, tuple(items))))
    return indexing.put(view, picks, values, accumulate)


@named("PutBackward0")
def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """``input`` with source[i] put at (or added to) element index[i] of the flat tensor."""
    _same_dtype("put", input, source, "source")
    if index.dtype is not dtypes.int64:
        raise RuntimeError(f"put_(): Expected a long tensor for index, but got {dispatch.type_word(index.dtype)}")
    if dims.product(index._extents) != dims.product(source._extents):
        raise RuntimeError("put_(): Expected source and index to have the same number of elements, but got "
                           f"source.numel() = {source.numel()}, index.numel() = {index.numel()}")  # fmt: skip
    flat = shaping.reshape(input, -1)
    places = indexing._wrap_negative(shaping.reshape(index, -1), flat._extents[0])
    op = "scatter_add" if accumulate else "scatter"
    return shaping.reshape(_put(op, flat, 0, places, shaping.reshape(source, -1)), *input._extents)


@named("MaskedScatterBackward0")
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """``input`` with the first elements of ``source``, in order, where ``mask`` holds; input and mask broadcast."""
    if mask.dtype is not dtypes.bool_:
        raise RuntimeError("masked_scatter_ only supports boolean masks, but got mask with dtype "
                           f"{dispatch.type_word(mask.dtype)}")  # fmt: skip
    _same_dtype("masked_scatter", input, source, "source")
    chosen = mask._concrete("masked_scatter()", "where(mask, a, b)")
    shape = np.broadcast_shapes(chosen.shape, input._extents)  # type: ignore[arg-type]
    places = np.flatnonzero(np.broadcast_to(chosen, shape)).astype(np.int64)
    flat, given = shaping.reshape(shaping.expand(input, *shape), -1), shaping.reshape(source, -1)
    if dims.product(source._extents) < len(places):  # type: ignore[operator]
        raise RuntimeError("masked_scatter: expected self and source to have same dtypes and the source to have at "
                           f"least as many elements as the mask has ones ({len(places)})")  # fmt: skip
    given = shaping.slice_axis(given, 0, 0, len(places))
    return shaping.reshape(_put("scatter", flat, 0, dispatch.mark_local(places), given), *shape)


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "index_add", "index_copy", "index_fill", "index_put", "index_reduce", "masked_scatter", "put", "scatter",
    "scatter_add", "scatter_reduce",
)  # fmt: skip
METHODS = (
    "index_add", "index_copy", "index_fill", "index_put", "index_reduce", "masked_scatter", "put", "scatter",
    "scatter_add", "scatter_reduce",
)  # fmt: skip
IN_PLACE = (
    "index_add", "index_copy", "index_fill", "index_put", "index_reduce", "masked_scatter", "put", "scatter",
    "scatter_add", "scatter_reduce",
)  # fmt: skip
