"""Reshaping, joining, splitting and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims
from ..ir.dims import DimExpr, Extent
from ..ir.errors import ShapeError
from . import dispatch, promotion
from .size import as_extent, is_int, wrap
from .tape import views
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor


def axis_of(dim: Any, rank: int) -> int:
    """``dim`` as a non-negative axis; IndexError with PyTorch's words outside [-rank, rank)."""
    bound = max(rank, 1)
    if not -bound <= dim < bound:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-bound}, {bound - 1}], but got {dim})")
    return int(dim) % bound


def sizes_of(args: Sequence[Any]) -> tuple[Extent, ...]:
    """Extents from ``f(2, 3)``, ``f((2, 3))`` or ``f([2, 3])``."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = args[0]
    return tuple(as_extent(a) for a in args)


def resolve(shape: Sequence[Extent], total: Extent) -> tuple[Extent, ...]:
    """``shape`` with -1 replaced so that it holds ``total`` elements; ShapeError if that is impossible."""
    unknown = [i for i, e in enumerate(shape) if isinstance(e, int) and e == -1]
    if len(unknown) > 1:
        raise ShapeError("only one dimension can be inferred")
    if any(isinstance(e, int) and e < -1 for e in shape):
        raise ShapeError(f"invalid shape dimension {min(e for e in shape if isinstance(e, int))}")
    out = list(shape)
    if unknown:
        known = dims.product(e for i, e in enumerate(shape) if i != unknown[0])
        if known == 0:
            raise ShapeError(f"cannot reshape tensor of {total} elements into shape {list(shape)} because the "
                             "unspecified dimension size -1 can be any value and is ambiguous")  # fmt: skip
        out[unknown[0]] = dims.floordiv(total, known)
    if dims.product(out) != total:
        raise ShapeError(f"shape '{list(shape)}' is invalid for input of size {total}")
    return tuple(out)


def _total(t: Tensor) -> Extent:
    return dims.product(t._extents)


def reshape(input: Tensor, *args: Any, shape: Sequence[Any] | None = None) -> Tensor:
    """Same elements in another shape (one extent may be -1): a view if the memory order allows, else a copy."""
    shape = args if shape is None else (shape,)
    return dispatch.apply("reshape", input, shape=resolve(sizes_of(shape), _total(input)))


def view(input: Tensor, *shape: Any) -> Tensor:
    """Same memory in another shape; RuntimeError if the memory order does not allow it."""
    out = reshape(input, *shape)
    if out._value is None and out._data.size and not np.may_share_memory(out._data, input._data):
        raise ShapeError("view size is not compatible with input tensor's size and stride (at least one dimension "
                         "spans across two contiguous subspaces). Use .reshape(...) instead.")  # fmt: skip
    return out


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """``view`` in other's shape."""
    return view(input, *other.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """``reshape`` in other's shape."""
    return reshape(input, *other.shape)


def _listed(args: Sequence[Any], given: Any) -> Sequence[Any]:
    """``f(1, 2)``, ``f((1, 2))`` or ``f(dims=(1, 2))``."""
    if given is not None:
        args = (given,)
    return args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def permute(input: Tensor, *args: Any, dims: Sequence[int] | None = None) -> Tensor:
    """Axes in the given order."""
    order = _listed(args, dims)
    rank = input.dim()
    axes = tuple(axis_of(d, rank) for d in order)
    if len(axes) != rank:
        raise ShapeError(f"permute(sparse_coo): number of dimensions in the tensor input does not match the length of "
                         f"the desired ordering of dimensions i.e. input.dim() = {rank} is not equal to len(dims) = "
                         f"{len(axes)}".replace("(sparse_coo)", ""))  # fmt: skip
    if len(set(axes)) != rank:
        raise ShapeError("permute(): duplicate dims are not allowed.")
    return dispatch.apply("permute", input, dims=axes)


@named("TransposeBackward0")
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Exchanges two axes."""
    rank = input.dim()
    a, b = axis_of(dim0, rank), axis_of(dim1, rank)
    if rank == 0:
        return permute(input)
    order = list(range(rank))
    order[a], order[b] = order[b], order[a]
    return permute(input, order)


@named("TBackward0")
def t(input: Tensor) -> Tensor:
    """Transpose of a matrix; tensors below two dimensions as they are."""
    if input.dim() > 2:
        raise ShapeError(f"t() expects a tensor with <= 2 dimensions, but self is {input.dim()}D")
    return input if input.dim() < 2 else transpose(input, 0, 1)


def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Moves axes to other places; the others keep their order."""
    rank = input.dim()
    froms = [source] if is_int(source) else list(source)  # type: ignore[arg-type]
    tos = [destination] if is_int(destination) else list(destination)  # type: ignore[arg-type]
    if len(froms) != len(tos):
        raise RuntimeError(f"movedim: Invalid source or destination dims: source ({froms} dims) should contain the "
                           f"same number of dims as destination ({tos} dims)")  # fmt: skip
    a, b = [axis_of(d, rank) for d in froms], [axis_of(d, rank) for d in tos]
    for word, axes, given in (("source", a, froms), ("destination", b, tos)):
        if len(set(axes)) != len(axes):
            raise RuntimeError(f"movedim: repeated dim in `{word}` ({given})")
    if rank == 0:
        return permute(input)
    rest = iter([i for i in range(rank) if i not in a])
    by_place = dict(zip(b, a, strict=True))
    return permute(input, [by_place[i] if i in by_place else next(rest) for i in range(rank)])


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Joins the axes start_dim..end_dim into one."""
    dispatch.require_tensor(input, "flatten")
    rank = input.dim()
    if rank == 0:
        return reshape(input, 1)
    a, b = axis_of(start_dim, rank), axis_of(end_dim, rank)
    if a > b:
        raise ShapeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if a == b:
        return input
    shape = input._extents
    return reshape(input, *shape[:a], dims.product(shape[a : b + 1]), *shape[b + 1 :])


def unflatten(input: Tensor, dim: int, sizes: Sequence[Any]) -> Tensor:
    """Splits one axis into ``sizes`` (one may be -1)."""
    axis, shape = axis_of(dim, input.dim()), input._extents
    try:
        parts = resolve(sizes_of((tuple(sizes),)), shape[axis])
    except ShapeError:
        raise ShapeError(f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {axis} "
                         f"({shape[axis]}) in the input tensor") from None  # fmt: skip
    return reshape(input, *shape[:axis], *parts, *shape[axis + 1 :])


@named("SqueezeBackward0")
def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Drops axes of extent 1: all of them, or those named (if they are 1)."""
    shape = input._extents
    if dim is None:
        drop = {i for i, e in enumerate(shape) if wrap(e) == 1}
    else:
        wanted = dim if isinstance(dim, (tuple, list)) else (dim,)
        axes = {axis_of(d, len(shape)) for d in wanted} if shape else set()
        drop = {a for a in axes if wrap(shape[a]) == 1}
    if not drop:
        return reshape(input, *shape)
    return reshape(input, *(e for i, e in enumerate(shape) if i not in drop))


@named("UnsqueezeBackward0")
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Inserts an axis of extent 1 before ``dim``."""
    shape = list(input._extents)
    shape.insert(axis_of(dim, len(shape) + 1), 1)
    return reshape(input, *shape)


def expand(input: Tensor, *sizes: Any, size: Sequence[Any] | None = None, implicit: bool = False) -> Tensor:
    """Repeats extent-1 axes without copying; -1 keeps an extent; new axes come in front."""
    sizes = sizes if size is None else (size,)
    wanted, shape = sizes_of(sizes), input._extents
    lead = len(wanted) - len(shape)
    if lead < 0:
        raise ShapeError(f"expand({input.type()}{{{list(input.shape)}}}, size={list(wanted)}): the number of sizes "
                         f"provided ({len(wanted)}) must be greater or equal to the number of dimensions in the tensor "
                         f"({len(shape)})")  # fmt: skip
    out: list[Extent] = []
    for i, e in enumerate(wanted):
        own = shape[i - lead] if i >= lead else None
        if isinstance(e, int) and e == -1:
            if own is None:
                raise ShapeError(f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing "
                                 f"dimension {i}")  # fmt: skip
            e = own
        elif own is not None and own != 1 and own != e:
            raise ShapeError(f"The expanded size of the tensor ({e}) must match the existing size ({own}) at "
                             f"non-singleton dimension {i}.  Target sizes: {list(wanted)}.  Tensor sizes: "
                             f"{list(shape)}")  # fmt: skip
        out.append(e)
    return dispatch.apply("expand", input, shape=tuple(out))


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """``expand`` to other's shape."""
    return expand(input, *other.shape)


def broadcast_to(input: Tensor, shape: Sequence[Any]) -> Tensor:
    """``expand`` to ``shape``."""
    return expand(input, *shape)


@named("RepeatBackward0")
def repeat(input: Tensor, *sizes: Any, repeats: Sequence[Any] | None = None) -> Tensor:
    """Tiles the tensor ``sizes[i]`` times along each axis (copies)."""
    sizes = sizes if repeats is None else (repeats,)
    times, shape = sizes_of(sizes), input._extents
    if len(times) < len(shape):
        raise ShapeError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    shape = (1,) * (len(times) - len(shape)) + tuple(shape)
    interleaved = [e for extent in shape for e in (1, extent)]
    expanded = [e for n, extent in zip(times, shape, strict=True) for e in (n, extent)]
    out = dispatch.apply("expand", reshape(input, *interleaved), shape=tuple(expanded))
    out = reshape(out, *(n * e for n, e in zip(times, shape, strict=True)))
    if out._value is not None:
        return views.unlink(out)  # a copy in eager mode: writes to it do not concern ``input``
    return out if out._base is None else out.clone()


def flip(input: Tensor, *args: Any, dims: Sequence[int] | None = None) -> Tensor:
    """Reverses axes (a copy)."""
    axes = [axis_of(d, input.dim()) for d in _listed(args, dims)]
    if len(set(axes)) != len(axes):
        twice = next(a for a in axes if axes.count(a) > 1)
        raise RuntimeError(f"dim {twice} appears multiple times in the list of dims")
    return dispatch.apply("flip", input, axes=tuple(sorted(axes)) if input.dim() else ())


def narrow(input: Tensor, dim: int, start: Any, length: Any) -> Tensor:
    """The view [start, start + length) along one axis; a negative start counts from the end."""
    if input.dim() == 0:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    axis = axis_of(dim, input.dim())
    begin, size, extent = as_extent(start), as_extent(length), input._extents[axis]
    if all(isinstance(e, int) for e in (begin, size, extent)):
        if size < 0:  # type: ignore[operator]
            raise RuntimeError("narrow(): length must be non-negative.")
        if not -extent <= begin <= extent:  # type: ignore[operator]
            raise IndexError(f"start out of range (expected to be in range of [{-extent}, {extent}], but got {begin})")
        if begin < 0:  # type: ignore[operator]
            begin = begin + extent
        if begin + size > extent:  # type: ignore[operator]
            raise RuntimeError(f"start ({begin}) + length ({size}) exceeds dimension size ({extent}).")
    return slice_axis(input, axis, begin, begin + size)


def slice_axis(input: Tensor, axis: int, start: Extent, stop: Extent, step: int = 1) -> Tensor:
    """Slice of one axis by extents that are known to be in range."""
    shape = input._extents
    starts: list[Extent] = [0] * len(shape)
    stops, steps = list(shape), [1] * len(shape)
    starts[axis], stops[axis], steps[axis] = start, stop, step
    return dispatch.apply("slice", input, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Joins tensors along an axis; mixed dtypes are promoted, empty 1-d tensors are skipped."""
    if dispatch.is_tensor(tensors) or not isinstance(tensors, (tuple, list)):
        raise TypeError("cat(): argument 'tensors' (position 1) must be tuple of Tensors, not "
                        f"{type(tensors).__name__}")  # fmt: skip
    if not tensors:
        raise RuntimeError("torch.cat(): expected a non-empty list of Tensors")
    dtype = promotion.result_type(*tensors)
    kept = [x for x in tensors if x._extents != (0,)] or list(tensors[:1])
    if any(x.dim() == 0 for x in kept):
        raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    return dispatch.apply("concat", *(dispatch.cast(x, dtype) for x in kept), axis=axis_of(dim, kept[0].dim()))


concat = concatenate = cat


@named("StackBackward0")
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Joins tensors of equal shape along a new axis."""
    if not tensors:
        raise RuntimeError("stack expects a non-empty TensorList")
    first = tensors[0]
    for i, x in enumerate(tensors):
        if x._extents != first._extents:
            raise ShapeError(f"stack expects each tensor to be equal size, but got {list(first.shape)} at entry 0 and "
                             f"{list(x.shape)} at entry {i}")  # fmt: skip
    axis = axis_of(dim, first.dim() + 1)
    return cat([unsqueeze(x, axis) for x in tensors], axis)


def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces of a size (the last may be smaller), or of the listed sizes, as views."""
    axis = axis_of(dim, tensor.dim())
    extent = tensor._extents[axis]
    if is_int(split_size_or_sections):
        size = as_extent(split_size_or_sections)
        if isinstance(extent, DimExpr) or isinstance(size, DimExpr):
            pieces = dims.floordiv(extent, size)
            if not isinstance(pieces, int) or pieces * size != extent:
                raise ShapeError(
                    f"split of the symbolic extent {extent} into pieces of {size}: the number of pieces is "
                    "not fixed; pass a list of sizes"
                )
            sections: list[Extent] = [size] * pieces
        else:
            if size <= 0:
                raise RuntimeError(f"split expects split_size be non-negative, but got split_size={size}")
            sections = [min(size, extent - i) for i in range(0, extent, size)] or [0]
    else:
        sections = [as_extent(s) for s in split_size_or_sections]
        if sum(sections[1:], sections[0]) != extent:
            raise ShapeError(f"split_with_sizes expects split_sizes to sum exactly to {extent} (input tensor's size at "
                             f"dimension {axis}), but got split_sizes={sections}")  # fmt: skip
    out: list[Tensor] = []
    start: Extent = 0
    for length in sections:
        out.append(slice_axis(tensor, axis, start, start + length))
        start = start + length
    return tuple(out)


def split_with_sizes(input: Tensor, split_sizes: Sequence[Any], dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces of the listed sizes, as views."""
    return split(input, list(split_sizes), dim)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` pieces of equal size (the last may be smaller), as views."""
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    extent = input._extents[axis_of(dim, input.dim())]
    if isinstance(extent, DimExpr) and dims.mod(extent, chunks) == 0:
        return split(input, [wrap(dims.floordiv(extent, chunks))] * chunks, dim)
    return split(input, max(1, wrap((extent + chunks - 1) // chunks)), dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Every slice along an axis, without that axis."""
    axis = axis_of(dim, input.dim())
    shape = input._extents
    count = int(wrap(shape[axis]))
    rest = (*shape[:axis], *shape[axis + 1 :])
    return tuple(reshape(slice_axis(input, axis, i, i + 1), *rest) for i in range(count))



def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """``transpose``."""
    return transpose(input, axis0, axis1)


def swapdims(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """``transpose``."""
    return transpose(input, dim0, dim1)


moveaxis = movedim

# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "broadcast_to", "cat", "chunk", "concat", "concatenate", "flatten", "flip", "moveaxis", "movedim", "narrow",
    "permute", "reshape", "split", "split_with_sizes", "squeeze", "stack", "swapaxes", "swapdims", "t", "transpose",
    "unbind", "unflatten", "unsqueeze",
)  # fmt: skip
METHODS = (
    "broadcast_to", "chunk", "expand", "expand_as", "flatten", "flip", "moveaxis", "movedim", "narrow", "permute",
    "repeat", "reshape", "reshape_as", "split", "split_with_sizes", "squeeze", "swapaxes", "swapdims", "t", "transpose",
    "unbind", "unflatten", "unsqueeze", "view_as",
)  # fmt: skip
IN_PLACE = ()
