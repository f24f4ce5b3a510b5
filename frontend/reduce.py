"""Reductions: sums, products, extremes, counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..ir import dtypes
from ..ir.dtypes import DType
from ..ir.errors import DTypeError
from . import dispatch, elementwise, promotion, return_types, shaping
from .keywords import numpy_names
from .shaping import axis_of
from .tape.names import named, rename

if TYPE_CHECKING:
    from .tensor import Tensor

Dims = int | Sequence[int] | None
INFINITY = float("inf")


def axes_of(dim: Dims, rank: int) -> tuple[int, ...]:
    """``dim`` (None or an empty list: all) as sorted axes; RuntimeError for repeats."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(rank))
    if isinstance(dim, (tuple, list)):
        axes = [axis_of(d, rank) for d in dim]
        if len(set(axes)) != len(axes):
            raise RuntimeError(f"dim {next(a for a in axes if axes.count(a) > 1)} appears multiple times in the list "
                               "of dims")  # fmt: skip
    else:
        axes = [axis_of(dim, rank)]
    return tuple(sorted(axes)) if rank else ()


def require_elements(name: str, x: Tensor, axis: int, given: int | None = None) -> None:
    """IndexError with PyTorch's words for an empty axis, which the user called ``given``."""
    if x._extents and x._extents[axis] == 0:
        raise IndexError(f"{name}: Expected reduction dim {axis if given is None else given} to have non-zero size.")


def require_kernel(name: str, x: Tensor, refused: str) -> None:
    """NotImplementedError with PyTorch's words for the kinds of dtype (letters) that it does not compute."""
    if x.dtype.kind in refused:
        raise NotImplementedError(f"\"{name}\" not implemented for '{dispatch.type_word(x.dtype)}'")


def drop_axis(axis: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors without ``axis``, whose extent is 1."""
    return tuple(shaping.reshape(x, *x._extents[:axis], *x._extents[axis + 1 :]) for x in tensors)


def selected(result: Any, axis: int, keepdim: bool, values: Tensor, indices: Tensor) -> Any:
    """The named result of one element per line, given with extent 1 on ``axis``."""
    if not keepdim:
        values, indices = drop_axis(axis, values, indices)
    # A function that has a form without dim as well counts that one first.
    rename(values, f"{result.__name__.capitalize()}Backward{int('median' in result.__name__)}")
    return result(values, indices)


def reduce(op: str, x: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    """A reduction of the IR over ``dim``; ``amax`` and ``amin`` of bools are ``any`` and ``all``."""
    if x.dtype is dtypes.bool_:
        op = {"amax": "any", "amin": "all"}.get(op, op)
    return dispatch.apply(op, x, axes=axes_of(dim, x.dim()), keepdims=keepdim)


def _accumulate(op: str, x: Tensor, dim: Dims, keepdim: bool, dtype: DType | None) -> Tensor:
    x = dispatch.cast(x, dtype or (x.dtype if x.dtype.is_floating_point else dtypes.int64))
    if x.dtype is dtypes.bool_:
        op = {"sum": "any", "prod": "all"}[op]
    return _named_by_dim(reduce(op, x, dim, keepdim), op, dim)


def _named_by_dim(out: Tensor, op: str, dim: Dims) -> Tensor:
    rename(out, f"{op.capitalize()}Backward{int(dim is not None)}")
    return out


# -- sums and products --------------------------------------------------------------------------------
@numpy_names
def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """Sum over axes (all by default); integers and bool are summed in int64."""
    return _accumulate("sum", input, dim, keepdim, dtype)


@numpy_names
def nansum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """``sum`` in which NaN counts as 0."""
    return sum(_without_nan(input), dim, keepdim, dtype=dtype)


def _without_nan(x: Tensor) -> Tensor:
    return elementwise.where(elementwise.isnan(x), 0, x) if x.dtype.is_floating_point else x


@numpy_names
def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """Arithmetic mean over axes; needs a floating dtype."""
    x = input if dtype is None else dispatch.cast(input, dtype)
    if not x.dtype.is_floating_point:
        which = "Input" if dtype is None else "Optional"
        raise DTypeError(f"mean(): could not infer output dtype. {which} dtype must be either a floating point or "
                         f"complex dtype. Got: {dispatch.type_word(x.dtype)}")  # fmt: skip
    return _named_by_dim(reduce("mean", x, dim, keepdim), "mean", dim)


@numpy_names
def nanmean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """Mean of the elements that are not NaN."""
    if not input.dtype.is_floating_point:
        raise RuntimeError("nanmean(): expected input to have floating point or complex dtype but got "
                           f"{dispatch.type_word(input.dtype)}")  # fmt: skip
    count = sum(elementwise.logical_not(elementwise.isnan(input.detach())), dim, keepdim)
    return elementwise.div(nansum(input, dim, keepdim, dtype=dtype), count)


@numpy_names
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """Product over one axis or all; integers and bool are multiplied in int64."""
    if dim is not None and not isinstance(dim, int):
        raise TypeError(f"prod(): argument 'dim' (position 2) must be int, not {type(dim).__name__}")
    return _accumulate("prod", input, dim, keepdim, dtype)


@numpy_names
@named("LogsumexpBackward0")
def logsumexp(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) over axes, without overflow."""
    x = promotion.as_float(input)
    if any_empty(x, axes_of(dim, x.dim())):
        return elementwise.log(sum(elementwise.exp(x), dim, keepdim))
    largest = reduce("amax", x.detach(), dim, True)
    largest = elementwise.where(elementwise.isinf(largest), 0, largest)
    total = elementwise.log(sum(elementwise.exp(elementwise.sub(x, largest)), dim, keepdim))
    return elementwise.add(total, largest if keepdim else shaping.reshape(largest, *total._extents))


def any_empty(x: Tensor, axes: Sequence[int]) -> bool:
    """Whether one of the axes is known to have no elements."""
    return 0 in [x._extents[a] for a in axes]


def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """Sum over the axes along which ``size`` would be broadcast to the tensor's shape."""
    shape, own = shaping.sizes_of(size), input._extents
    lead = len(own) - len(shape)
    if lead < 0 or not _broadcasts(shape, own[lead:]):
        raise RuntimeError(f"size {{{list(shape)}}} is not expandable to size {{{list(own)}}}.")
    if not shape:
        return sum(input)
    axes = [*range(lead), *(lead + i for i, e in enumerate(shape) if e == 1 and own[lead + i] != 1)]
    return shaping.reshape(sum(input, axes, True), *shape) if axes else input


def _broadcasts(shape: Sequence[Any], own: Sequence[Any]) -> bool:
    return not [0 for e, o in zip(shape, own, strict=True) if e != 1 and e != o]


# -- extremes -----------------------------------------------------------------------------------------
def _require_nonempty(name: str, x: Tensor, dim: Dims, error: type[Exception] = RuntimeError) -> None:
    axes = axes_of(dim, x.dim())
    if not any_empty(x, axes):
        return
    if dim is None or dim == () or dim == []:
        more = "" if error is IndexError else " Specify the reduction dim with the 'dim' argument."
        raise error(f"{name}: Expected reduction dim to be specified for input.numel() == 0.{more}")
    for d in (dim,) if isinstance(dim, int) else dim:
        require_elements(name, x, axis_of(d, x.dim()), d if error is RuntimeError else None)


@numpy_names
def amax(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """Largest element over axes; its gradient is shared by all elements that attain it."""
    _require_nonempty("amax()", input, dim)
    return reduce("amax", input, dim, keepdim)


@numpy_names
def amin(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """Smallest element over axes; its gradient is shared by all elements that attain it."""
    _require_nonempty("amin()", input, dim)
    return reduce("amin", input, dim, keepdim)


@numpy_names
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """Smallest and largest element, of all or along one axis, as (min, max)."""
    if dim is None and any_empty(input, range(input.dim())):
        raise RuntimeError("aminmax(): cannot compute aminmax over an empty dimension as the operation has no "
                           "identity.")  # fmt: skip
    if dim is not None:
        require_elements("aminmax", input, axis_of(dim, input.dim()))
    return return_types.aminmax(reduce("amin", input, dim, keepdim), reduce("amax", input, dim, keepdim))


def _refuse_bool(name: str, x: Tensor) -> None:
    if x.dtype is dtypes.bool_:
        raise RuntimeError(f"{name}(): does not support bool input")


def _arg(op: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    if input.dtype is dtypes.bool_:
        input = dispatch.cast(input, dtypes.uint8)
    if dim is not None:
        axis_of(dim, input.dim())
    if dim is None or input.dim() == 0:
        out = dispatch.apply(op, shaping.reshape(input, -1), axis=0, keepdims=False)
        return shaping.reshape(out, *([1] * input.dim())) if keepdim else out
    return dispatch.apply(op, input, axis=axis_of(dim, input.dim()), keepdims=keepdim)


@numpy_names
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """int64 index of the largest element (the first of equals), in the flat tensor if ``dim`` is None."""
    _refuse_bool("argmax", input)
    _require_nonempty("argmax()", input, dim, IndexError)
    return _arg("argmax", input, dim, keepdim)


@numpy_names
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """int64 index of the smallest element (the first of equals), in the flat tensor if ``dim`` is None."""
    _refuse_bool("argmin", input)
    _require_nonempty("argmin()", input, dim, IndexError)
    return _arg("argmin", input, dim, keepdim)


def _extreme(name: str, input: Tensor, dim: Any, keepdim: bool, other: Any, result: Any) -> Any:
    if dispatch.is_tensor(dim):
        dim, other = None, dim
    if other is not None:
        return elementwise.maximum(input, other) if name == "max" else elementwise.minimum(input, other)
    if dim is None:
        _require_nonempty(f"{name}()", input, None)
        out = reduce("a" + name, input, None, False)
        rename(out, f"{name.capitalize()}Backward1")
        return out
    if not isinstance(dim, int):
        raise TypeError(f"{name}() received an invalid combination of arguments - got (Tensor, {type(dim).__name__}), "
                        "but expected one of:\n * (Tensor input, *, Tensor out = None)\n * (Tensor input, Tensor "
                        "other, *, Tensor out = None)\n * (Tensor input, int dim, bool keepdim = False, *, tuple of "
                        "Tensors out = None)\n")  # fmt: skip
    axis = axis_of(dim, input.dim())
    require_elements(f"{name}()", input, axis)
    indices = _arg("arg" + name, input, dim, True)
    if input.dim() == 0:
        return result(input.clone(), indices)
    values = dispatch.apply("gather", input, indices, axis=axis)
    return selected(result, axis, keepdim, values, indices)


@numpy_names
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """Largest element; with ``dim`` a (values, indices) pair; with a tensor the element-wise maximum."""
    return _extreme("max", input, dim, keepdim, other, return_types.max)


@numpy_names
def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """Smallest element; with ``dim`` a (values, indices) pair; with a tensor the element-wise minimum."""
    return _extreme("min", input, dim, keepdim, other, return_types.min)


# -- logic and counting -------------------------------------------------------------------------------
def _logical(op: str, input: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    out = dispatch.cast(input, dtypes.bool_)
    if not (isinstance(dim, (tuple, list)) and not dim):  # an empty list means no axis here
        out = reduce(op, out, dim, keepdim)
    return dispatch.cast(out, dtypes.uint8) if input.dtype is dtypes.uint8 else out


@numpy_names
def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether any element is non-zero (bool; uint8 for uint8)."""
    return _logical("any", input, dim, keepdim)


@numpy_names
def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are non-zero (bool; uint8 for uint8)."""
    return _logical("all", input, dim, keepdim)


def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """Number of elements that are not 0, over axes (int64)."""
    return sum(dispatch.cast(input, dtypes.bool_), dim)


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "count_nonzero", "logsumexp", "max", "mean", "min",
    "nanmean", "nansum", "prod", "sum",
)  # fmt: skip
METHODS = (*FUNCTIONS, "sum_to_size")
IN_PLACE = ()
