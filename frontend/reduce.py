"""Reductions and statistics."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..ir import dims, dtypes
from ..ir.dtypes import DType
from ..ir.errors import DTypeError
from . import dispatch, elementwise, promotion, shaping
from .shaping import axis_of
from .size import wrap

if TYPE_CHECKING:
    from .tensor import Tensor

max_result: Any = namedtuple("max", ["values", "indices"])  # type: ignore[name-match]
min_result: Any = namedtuple("min", ["values", "indices"])  # type: ignore[name-match]


def _result_repr(result: Any) -> str:
    return f"torch.return_types.{type(result).__name__}(\nvalues={result.values!r},\nindices={result.indices!r})"


for _cls in (max_result, min_result):
    _cls.__module__ = "torch.return_types"
    _cls.__repr__ = _result_repr  # type: ignore[method-assign]

Dims = int | Sequence[int] | None


def _axes(dim: Dims, rank: int) -> tuple[int, ...]:
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


def _reduce(op: str, x: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    if x.dtype is dtypes.bool_:
        op = {"amax": "any", "amin": "all"}.get(op, op)
    return dispatch.apply(op, x, axes=_axes(dim, x.dim()), keepdims=keepdim)


def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """Sum over axes (all by default); integers and bool are summed in int64."""
    target = dtype or (input.dtype if input.dtype.is_floating_point else dtypes.int64)
    return _reduce("sum", dispatch.cast(input, target), dim, keepdim)


def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """Arithmetic mean over axes; needs a floating dtype."""
    x = input if dtype is None else dispatch.cast(input, dtype)
    if not x.dtype.is_floating_point:
        raise DTypeError("mean(): could not infer output dtype. Input dtype must be either a floating point or complex "
                         f"dtype. Got: {dispatch.type_word(x.dtype)}")  # fmt: skip
    return _reduce("mean", x, dim, keepdim)


def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """Product over one axis or all; integers and bool are multiplied in int64."""
    target = dtype or (input.dtype if input.dtype.is_floating_point else dtypes.int64)
    return _reduce("prod", dispatch.cast(input, target), dim, keepdim)


def amax(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """Largest element over axes."""
    return _reduce("amax", input, dim, keepdim)


def amin(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """Smallest element over axes."""
    return _reduce("amin", input, dim, keepdim)


def _arg(op: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    if input.dtype is dtypes.bool_:
        input = dispatch.cast(input, dtypes.uint8)
    if dim is None or input.dim() == 0:
        out = dispatch.apply(op, shaping.reshape(input, -1), axis=0, keepdims=False)
        return shaping.reshape(out, *([1] * input.dim())) if keepdim else out
    return dispatch.apply(op, input, axis=axis_of(dim, input.dim()), keepdims=keepdim)


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """int64 index of the largest element (the first of equals), in the flat tensor if ``dim`` is None."""
    return _arg("argmax", input, dim, keepdim)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """int64 index of the smallest element (the first of equals), in the flat tensor if ``dim`` is None."""
    return _arg("argmin", input, dim, keepdim)


def _extreme(name: str, input: Tensor, dim: Any, keepdim: bool, other: Any, result: Any) -> Any:
    if dispatch.is_tensor(dim):
        dim, other = None, dim
    if other is not None:
        return elementwise.maximum(input, other) if name == "max" else elementwise.minimum(input, other)
    if dim is None:
        return _reduce("a" + name, input, None, False)
    indices = _arg("arg" + name, input, dim, True)
    if input.dim() == 0:
        return result(input.clone(), indices)
    axis = axis_of(dim, input.dim())
    values = dispatch.apply("gather", input, indices, axis=axis)
    if not keepdim:
        values, indices = (shaping.reshape(x, *_without(x, axis)) for x in (values, indices))
    return result(values, indices)


def _without(x: Tensor, axis: int) -> tuple[Any, ...]:
    return (*x._extents[:axis], *x._extents[axis + 1 :])


def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """Largest element; with ``dim`` a (values, indices) pair; with a tensor the element-wise maximum."""
    return _extreme("max", input, dim, keepdim, other, max_result)


def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """Smallest element; with ``dim`` a (values, indices) pair; with a tensor the element-wise minimum."""
    return _extreme("min", input, dim, keepdim, other, min_result)


def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether any element is non-zero (bool; uint8 for uint8)."""
    out = _reduce("any", dispatch.cast(input, dtypes.bool_), dim, keepdim)
    return dispatch.cast(out, dtypes.uint8) if input.dtype is dtypes.uint8 else out


def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are non-zero (bool; uint8 for uint8)."""
    out = _reduce("all", dispatch.cast(input, dtypes.bool_), dim, keepdim)
    return dispatch.cast(out, dtypes.uint8) if input.dtype is dtypes.uint8 else out


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> Tensor:
    """Variance over axes with divisor n - correction (1 unless ``unbiased=False``)."""
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    if not input.dtype.is_floating_point:
        raise RuntimeError("std and var only support floating point and complex dtypes")
    if correction is None:
        correction = 0 if unbiased is False else 1
    axes = _axes(dim, input.dim())
    centred = elementwise.sub(input, _reduce("mean", input, axes or (), True))
    total = _reduce("sum", elementwise.mul(centred, centred), axes, keepdim)
    count = wrap(dims.product(input._extents[a] for a in axes)) - correction
    if isinstance(count, int) and count < 0:
        count = 0
    return elementwise.div(total, promotion.operand(count, total.dtype))


def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> Tensor:
    """Square root of ``var``."""
    return elementwise.sqrt(var(input, dim, unbiased, keepdim, correction=correction))


def norm(input: Tensor, p: Any = 2, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """p-norm over axes: a number, inf, or "fro" (2)."""
    x = elementwise.abs(promotion.as_float(input))
    if p in ("fro", 2):
        return elementwise.sqrt(sum(elementwise.mul(x, x), dim, keepdim))
    if p == float("inf"):
        return amax(x, () if dim is None else dim, keepdim)
    if p == 1:
        return sum(x, dim, keepdim)
    return elementwise.pow(sum(elementwise.pow(x, p), dim, keepdim), 1.0 / p)

# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "all", "amax", "amin", "any", "argmax", "argmin", "max", "mean", "min", "norm", "prod", "std", "sum", "var",
)  # fmt: skip
METHODS = ("all", "amax", "amin", "any", "argmax", "argmin", "max", "mean", "min", "norm", "prod", "std", "sum", "var")
IN_PLACE = ()
