"""Making tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from ..ir.dims import DimExpr
from ..ir.dtypes import DType
from . import dispatch, elementwise, promotion, shaping
from .device import require_cpu
from .size import SymInt, as_extent
from .tape import views

if TYPE_CHECKING:
    from .tensor import Tensor


def _array_of(data: Any, dtype: DType | None) -> np.ndarray:
    """A fresh array of nested numbers, arrays and tensors; the dtype inferred as PyTorch does."""
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.array(data)
    else:
        data, first = _plain(data)
        try:
            array = np.array(data)
        except ValueError as error:
            raise ValueError(f"expected sequences of equal length: {error}") from None
        if array.dtype == object:
            raise TypeError(f"tensor(): cannot make a tensor of {type(first).__name__} elements")
        if (
            dtype is None and array.dtype == np.float64 and not isinstance(first, (np.ndarray, np.generic))
        ) or array.size == 0:
            array = array.astype(promotion.get_default_dtype().numpy)
    if dtype is not None:
        return array.astype(dtype.numpy, copy=False)
    return array.astype(dispatch.array_dtype(array).numpy, copy=False)


def _plain(data: Any) -> tuple[Any, Any]:
    """(data with tensors replaced by arrays, first leaf)."""
    if dispatch.is_tensor(data):
        array = data._concrete("tensor()")
        return array, array
    if isinstance(data, (list, tuple)):
        parts = [_plain(d) for d in data]
        return [p for p, _ in parts], parts[0][1] if parts else None
    return data, data


def _has_symbols(data: Any) -> bool:
    return isinstance(data, SymInt) or (isinstance(data, (list, tuple)) and any(map(_has_symbols, data)))


def tensor(data: Any, *, dtype: DType | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of ``data``: ints give int64, floats the default float, arrays keep their type."""
    require_cpu(device)
    if dispatch.is_tensor(data):
        out = data.detach().clone() if dtype is None else dispatch.cast(data.detach().clone(), dtype)
    elif _has_symbols(data):
        out = _symbolic(data, dtype or dtypes.int64)
    else:
        out = dispatch.mark_local(_array_of(data, dtype))
    return out.requires_grad_(requires_grad)


def _symbolic(data: Any, dtype: DType) -> Tensor:
    if isinstance(data, (list, tuple)):
        return shaping.stack([_symbolic(d, dtype) for d in data])
    return dispatch.scalar(data, dtype)


def as_tensor(data: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Like ``tensor``, but shares memory with an array, and returns a tensor as it is, if no cast is needed."""
    require_cpu(device)
    if dispatch.is_tensor(data):
        return data if dtype is None else dispatch.cast(data, dtype)
    if isinstance(data, np.ndarray) and (dtype is None or data.dtype == dtype.numpy):
        return from_numpy(data)
    return tensor(data, dtype=dtype)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor on the array's memory: a write on either side shows on the other. TypeError for others."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    kind = dispatch.array_dtype(array)
    # Byte-swapped arrays have no shared form; all others are used as they are.
    return dispatch.from_array(array if array.dtype == kind.numpy else array.astype(kind.numpy))


asarray = as_tensor


def full(
    size: Sequence[Any], fill_value: Any, *, dtype: DType | None = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """All elements equal; dtype from the value: bool, int64 or the default float."""
    require_cpu(device)
    kind = dtype or (fill_value.dtype if dispatch.is_tensor(fill_value) else promotion.number_dtype(fill_value))
    shape = shaping.sizes_of((tuple(size),))
    if any(isinstance(e, DimExpr) for e in shape) or dispatch.is_tensor(fill_value):
        out = dispatch.apply("expand", promotion.operand(fill_value, kind), shape=shape)
        views.unlink(out)  # a tensor of its own, not a view of the fill value
        if out._value is None:
            out = dispatch.mark_local(np.array(out._data))
    else:
        if any(e < 0 for e in shape):  # type: ignore[operator]
            raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")  # type: ignore[type-var]
        out = dispatch.mark_local(np.full(shape, fill_value, kind.numpy))  # type: ignore[arg-type]
    return out.requires_grad_(requires_grad)


def _filled(value: int) -> Any:
    def fn(*size: Any, dtype: DType | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        return full(
            shaping.sizes_of(size), value, dtype=dtype or promotion.get_default_dtype(), device=device,
            requires_grad=requires_grad,
        )  # fmt: skip

    def like(input: Tensor, *, dtype: DType | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        return full(input._extents, value, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)

    return fn, like


zeros, zeros_like = _filled(0)
ones, ones_like = _filled(1)
# Uninitialised memory has no use in a functional program; zeros are as good and repeatable.
empty, empty_like = _filled(0)
for _name, _fn in {"zeros": zeros, "ones": ones, "empty": empty}.items():
    _fn.__name__ = _fn.__qualname__ = _name
    _fn.__doc__ = f"A tensor of {'zeros' if _name != 'ones' else 'ones'}; sizes as separate ints, a tuple or a list."
for _name, _fn in {"zeros_like": zeros_like, "ones_like": ones_like, "empty_like": empty_like}.items():
    _fn.__name__ = _fn.__qualname__ = _name
    _fn.__doc__ = f"``{_name[:-5]}`` with input's shape and dtype."


def full_like(input: Tensor, fill_value: Any, *, dtype: DType | None = None, requires_grad: bool = False) -> Tensor:
    """``full`` with input's shape and dtype."""
    return full(input._extents, fill_value, dtype=dtype or input.dtype, requires_grad=requires_grad)


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: DType | None = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """start, start + step, ... below ``end``; int64 if all are integers, else the default float."""
    require_cpu(device)
    if end is None:
        start, end = 0, start
    numbers = (start, end, step)
    floats = any(isinstance(x, (float, np.floating)) for x in numbers)
    kind = dtype or (promotion.get_default_dtype() if floats else dtypes.int64)
    if any(isinstance(x, SymInt) for x in numbers):
        if not isinstance(step, int) or step != 1 or floats:
            raise TypeError("arange with a symbolic size takes integers and step 1")
        count = as_extent(end) - as_extent(start)
        out = dispatch.apply("iota", shape=(count,), axis=0, dtype=kind)
        return out if isinstance(start, int) and start == 0 else elementwise.add(out, start)
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    count = math.ceil((end - start) / step) if floats else -((start - end) // step)
    values = np.arange(count, dtype=np.float64 if floats else np.int64) * step + start
    return dispatch.mark_local(values.astype(kind.numpy)).requires_grad_(requires_grad)


def linspace(start: float, end: float, steps: int, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """``steps`` evenly spaced numbers, both ends included."""
    require_cpu(device)
    kind = dtype or promotion.get_default_dtype()
    return dispatch.mark_local(np.linspace(start, end, int(steps)).astype(kind.numpy))


def eye(n: int, m: int | None = None, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Ones on the diagonal of an [n, m] matrix (m defaults to n)."""
    require_cpu(device)
    return dispatch.mark_local(np.eye(n, m, dtype=(dtype or promotion.get_default_dtype()).numpy))

# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "arange", "as_tensor", "asarray", "empty", "empty_like", "eye", "from_numpy", "full", "full_like", "linspace",
    "ones", "ones_like", "tensor", "zeros", "zeros_like",
)  # fmt: skip
METHODS = ()
IN_PLACE = ()
