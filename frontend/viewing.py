"""Views by stride: ``select``, ``diagonal``, ``unfold``, ``as_strided``, ``view`` in another dtype;
copies of views, and copies with something put where a view points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..ir import dims
from ..ir.dtypes import DType
from ..ir.errors import ShapeError, UnsupportedError
from ..ir.ops.strided import bitcast_shape
from . import dispatch, grad_mode, indexing, shaping, tracing
from .shaping import axis_of
from .size import wrap
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor


# -- views ------------------------------------------------------------------------------------------------
@named("SelectBackward0")
def select(input: Tensor, dim: int, index: Any) -> Tensor:
    """The view at ``index`` of axis ``dim``, without that axis; IndexError outside."""
    if input.dim() == 0:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    axis = axis_of(dim, input.dim())
    extent = wrap(input._extents[axis])
    if dispatch.is_tensor(index):
        index = index.__index__()
    if not -extent <= index < extent:
        raise IndexError(f"select(): index {index} out of range for tensor of size {list(input.shape)} at dimension "
                         f"{axis}")  # fmt: skip
    return indexing._pick(input, axis, index)


@named("DiagonalBackward0")
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The view [..., i] of input's elements [i, i + offset] in the axes dim1 and dim2; the new axis is the last."""
    rank = input.dim()
    if rank < 2:  # no two axes to choose
        axis_of(dim1, rank), axis_of(dim2, rank)
    a, b = axis_of(dim1, rank), axis_of(dim2, rank)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    shape = input._extents
    rows = shape[a] if offset >= 0 else shape[a] + offset
    columns = shape[b] - offset if offset >= 0 else shape[b]
    if isinstance(rows, int) and isinstance(columns, int):
        length: Any = max(0, min(rows, columns))
    elif rows == columns:
        length = rows
    else:
        length = rows if wrap(rows) <= wrap(columns) else columns
    rest = [k for k in range(rank) if k not in (a, b)]
    starts = [0] * rank
    if length != 0:
        starts[a], starts[b] = max(-offset, 0), max(offset, 0)
    steps = [[0] * (len(rest) + 1) for _ in range(rank)]
    for k, axis in enumerate(rest):
        steps[axis][k] = 1
    steps[a][-1] = steps[b][-1] = 1
    out_shape = (*(shape[k] for k in rest), length)
    return dispatch.apply(
        "strided_view", input, shape=out_shape, starts=tuple(starts), steps=tuple(s for row in steps for s in row)
    )


@named("UnfoldBackward0")
def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Every window of ``size`` elements along an axis, ``step`` apart, as a view; the window is the new last axis."""
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    if size < 0:
        raise RuntimeError(f"size is {size} but must be >= 0")
    x = shaping.reshape(input, 1) if input.dim() == 0 else input
    rank, shape = x.dim(), x._extents
    axis = axis_of(dimension, rank)
    if not wrap(shape[axis]) >= size:
        raise RuntimeError(f"maximum size for tensor at dimension {dimension} is {wrap(shape[axis])} but size is "
                           f"{size}")  # fmt: skip
    count = dims.floordiv(shape[axis] - size, step) + 1
    steps = [[int(r == c) for c in range(rank + 1)] for r in range(rank)]
    steps[axis][axis], steps[axis][rank] = step, 1
    out = dispatch.apply(
        "strided_view", x, shape=(*(count if k == axis else e for k, e in enumerate(shape)), size), starts=(0,) * rank,
        steps=tuple(s for row in steps for s in row),
    )  # fmt: skip
    return select(out, 0, 0) if input.dim() == 0 else out


def _row_major(t: Tensor) -> bool:
    return t._value is not None or t._data.flags.c_contiguous


@named("AsStridedBackward0")
def as_strided(
    input: Tensor, size: Sequence[Any], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """The view [i, j, ...] of the memory element storage_offset + i * stride[0] + j * stride[1] + ...

    The memory is that of ``input``'s base if it is a view. RuntimeError for elements outside of it.
    """
    shape, strides = shaping.sizes_of((tuple(size),)), tuple(int(s) for s in stride)
    if len(shape) != len(strides):
        raise RuntimeError("mismatch in length of strides and shape")
    if any(s < 0 for s in strides):
        raise RuntimeError("as_strided: Negative strides are not supported at the moment, got strides: "
                           f"{list(strides)}")  # fmt: skip
    root, inner, moved = input, 0, 0
    span: Any = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))  # type: ignore[operator]
    if input._value is None and input._base is not None and tracing.current() is None:
        base = input._base
        if base.dtype is input.dtype and _row_major(base):
            root = base
            inner = (input._data.ctypes.data - base._data.ctypes.data) // input._data.itemsize
            first = inner if storage_offset is None else int(storage_offset)
            if _row_major(input) and inner <= first and first + span < inner + input.numel():
                root, moved = input, inner  # within the view itself, which may be a leaf
            elif input.requires_grad and not base.requires_grad and grad_mode.is_grad_enabled():
                raise UnsupportedError("as_strided: this tensor is a leaf that is a view of another one's memory, and "
                                       "elements outside of it (or of one that is not row-major) have no gradient "
                                       "here; use detach()")  # fmt: skip
    elif not _row_major(input):
        root = shaping.permute(input, sorted(range(input.dim()), key=lambda a: -input._data.strides[a]))
        if not _row_major(root):
            raise RuntimeError("as_strided: the memory of this tensor is neither row-major nor a permutation of that")
    flat = shaping.reshape(root, -1)
    offset = inner if storage_offset is None else int(storage_offset)
    last: Any = offset - moved + span
    total = flat._extents[0]
    if isinstance(total, int) and dims.product(shape) != 0 and last >= total:
        raise RuntimeError(f"setStorage: sizes {list(shape)}, strides {list(strides)}, storage offset {offset}, and "
                           f"itemsize {input.itemsize} requiring a storage size of "
                           f"{(offset + span + 1) * input.itemsize} are out of bounds for storage of size "
                           f"{total * input.itemsize}")  # fmt: skip
    start = 0 if dims.product(shape) == 0 else offset - moved
    return dispatch.apply("strided_view", flat, shape=shape, starts=(start,), steps=strides)


def view(input: Tensor, *shape: Any, dtype: DType | None = None, size: Any = None) -> Tensor:
    """Same memory in another shape (RuntimeError if the memory order does not allow it), or, given a dtype, the same
    bytes as its elements (the last axis changes with their size)."""
    if size is not None:
        shape = (size,)
    if dtype is None and len(shape) == 1 and isinstance(shape[0], DType):
        dtype = shape[0]
    if dtype is None:
        return shaping.view(input, *shape)
    bitcast_shape(input._extents, input.dtype, dtype)
    if dtype.itemsize != input.dtype.itemsize and input._value is None and input.stride(-1) != 1:
        raise RuntimeError(f"self.stride(-1) must be 1 to view {input.dtype} as {dtype} (different element sizes), but "
                           f"got {input.stride(-1)}")  # fmt: skip
    return dispatch.apply("bitcast", input, dtype=dtype)


def adjoint(input: Tensor) -> Tensor:
    """The last two axes exchanged (of real numbers)."""
    if input.dim() < 2:
        raise RuntimeError("tensor.adjoint() is only supported on matrices or batches of matrices. Got "
                           f"{input.dim()}-D tensor.")  # fmt: skip
    return shaping.transpose(input, -2, -1)


def _conjugate_transpose(input: Tensor) -> Tensor:
    """``t()`` of a matrix or of a 0-d tensor (of real numbers)."""
    if input.dim() not in (0, 2):
        raise RuntimeError(f"tensor.H is only supported on matrices (2-D tensors). Got {input.dim()}-D tensor.")
    return shaping.t(input)


H = property(_conjugate_transpose)
mH = property(adjoint)


def _slice(input: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    return indexing._slice(input, axis_of(dim, input.dim()), slice(start, end, step))


# -- copies of views ----------------------------------------------------------------------------------------
def _copies(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    def copy(*args: Any, **kwargs: Any) -> Any:
        out = fn(*args, **kwargs)
        return tuple(t.clone() for t in out) if isinstance(out, (tuple, list)) else out.clone()

    copy.__name__ = copy.__qualname__ = name
    copy.__doc__ = f"``{name.removesuffix('_copy')}``, copied."
    return copy


def _alias(input: Tensor) -> Tensor:
    return input


alias_copy = _copies(_alias, "alias_copy")
as_strided_copy = _copies(as_strided, "as_strided_copy")
diagonal_copy = _copies(diagonal, "diagonal_copy")
expand_copy = _copies(shaping.expand, "expand_copy")
narrow_copy = _copies(shaping.narrow, "narrow_copy")
permute_copy = _copies(shaping.permute, "permute_copy")
select_copy = _copies(select, "select_copy")
slice_copy = _copies(_slice, "slice_copy")
split_copy = _copies(shaping.split, "split_copy")
split_with_sizes_copy = _copies(shaping.split_with_sizes, "split_with_sizes_copy")
squeeze_copy = _copies(shaping.squeeze, "squeeze_copy")
t_copy = _copies(shaping.t, "t_copy")
transpose_copy = _copies(shaping.transpose, "transpose_copy")
unbind_copy = _copies(shaping.unbind, "unbind_copy")
unfold_copy = _copies(unfold, "unfold_copy")
unsqueeze_copy = _copies(shaping.unsqueeze, "unsqueeze_copy")
view_copy = _copies(view, "view_copy")


# -- something put where a view points ----------------------------------------------------------------------
def _put_at(input: Tensor, src: Tensor, name: str, view_of: Callable[[Tensor], Tensor]) -> Tensor:
    out = input.clone()
    target = view_of(out)
    if target._extents != src._extents:
        raise ShapeError(f"expected src to have a size equal to the slice of self. src size = {list(src.shape)}, slice "
                         f"size = {list(target.shape)}")  # fmt: skip
    dispatch.write(target, dispatch.cast(src, input.dtype), name)
    return out


@named("DiagonalScatterBackward0")
def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A copy of ``input`` with ``src`` on a diagonal (see ``diagonal``)."""
    return _put_at(input, src, "diagonal_scatter", lambda t: diagonal(t, offset, dim1, dim2))


@named("SelectScatterBackward0")
def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of ``input`` with ``src`` at ``index`` of an axis."""
    return _put_at(input, src, "select_scatter", lambda t: select(t, dim, index))


@named("SliceScatterBackward0")
def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """A copy of ``input`` with ``src`` at start:end:step of an axis."""
    axis = axis_of(dim, input.dim())
    return _put_at(input, src, "slice_scatter", lambda t: indexing._slice(t, axis, slice(start, end, step)))


@named("AsStridedScatterBackward0")
def as_strided_scatter(
    input: Tensor, src: Tensor, size: Sequence[Any], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """A copy of ``input`` with ``src`` where ``as_strided`` points."""
    if storage_offset is None and input._value is None and input._base is not None:
        storage_offset = 0
    return _put_at(input, src, "as_strided_scatter", lambda t: as_strided(t, size, stride, storage_offset))


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "adjoint", "alias_copy", "as_strided", "as_strided_copy", "as_strided_scatter", "diagonal", "diagonal_copy",
    "diagonal_scatter", "expand_copy", "narrow_copy", "permute_copy", "select", "select_copy", "select_scatter",
    "slice_copy", "slice_scatter", "split_copy", "split_with_sizes_copy", "squeeze_copy", "t_copy", "transpose_copy",
    "unbind_copy", "unfold_copy", "unsqueeze_copy", "view_copy",
)  # fmt: skip
METHODS = (
    "H", "adjoint", "as_strided", "as_strided_scatter", "diagonal", "diagonal_scatter", "mH", "narrow_copy", "select",
    "select_scatter", "slice_scatter", "unfold", "view",
)  # fmt: skip
IN_PLACE = ()
