"""PyTorch's dtype promotion: dimensioned tensors first, then 0-d tensors, then Python numbers.

An operand of a lower class changes the result only if it is of a higher kind (bool < int < float).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from ..ir.dtypes import DType
from ..ir.errors import DTypeError, ShapeError
from . import dispatch, tracing
from .size import SymInt

if TYPE_CHECKING:
    from .tensor import Tensor

_default = dtypes.float32


def get_default_dtype() -> DType:
    """The dtype of Python floats and of creation functions."""
    return _default


def set_default_dtype(dtype: DType) -> None:
    """Set the default floating dtype; TypeError for others."""
    global _default
    if not isinstance(dtype, DType) or not dtype.is_floating_point:
        raise TypeError("only floating-point types are supported as the default type")
    _default = dtype


def is_operand(x: object) -> bool:
    """Whether ``x`` may take part in tensor arithmetic."""
    return dispatch.is_tensor(x) or isinstance(x, (bool, int, float, SymInt, np.generic, np.ndarray))


def number_dtype(x: object) -> DType:
    """The dtype a Python number counts as."""
    if isinstance(x, (bool, np.bool_)):
        return dtypes.bool_
    if isinstance(x, (int, np.integer, SymInt)):
        return dtypes.int64
    if isinstance(x, (float, np.floating)):
        return _default
    raise TypeError(f"expected a Tensor or a number, got {type(x).__name__}")


def result_type(*operands: Any) -> DType:
    """The common dtype of tensors and Python numbers."""
    classes: list[DType | None] = [None, None, None]
    for x in operands:
        if dispatch.is_tensor(x):
            rank, dtype = (0 if x.dim() else 1), x.dtype
        elif isinstance(x, np.ndarray):
            rank, dtype = (0 if x.ndim else 1), dispatch.array_dtype(x)
        else:
            rank, dtype = 2, number_dtype(x)
        known = classes[rank]
        classes[rank] = dtype if known is None else dtypes.promote(known, dtype)
    return _combine(classes[0], _combine(classes[1], classes[2]))  # type: ignore[return-value]


def _combine(higher: DType | None, lower: DType | None) -> DType | None:
    if higher is None or lower is None:
        return higher or lower
    if higher.is_floating_point:
        return higher
    if higher is dtypes.bool_ or lower.is_floating_point:
        return dtypes.promote(higher, lower)
    return higher


def operand(x: Any, dtype: DType) -> Tensor:
    """``x`` as a tensor of ``dtype``."""
    if dispatch.is_tensor(x):
        return dispatch.cast(x, dtype)
    if isinstance(x, np.ndarray) and x.ndim:
        return dispatch.cast(dispatch.from_array(x), dtype)
    return dispatch.scalar(x, dtype)


def binary(op: str, a: Any, b: Any) -> Tensor:
    """Apply a two-operand operator after promotion; errors in PyTorch's words."""
    return broadcast(op, a, b, common_dtype(op, a, b))


def common_dtype(function: str, a: Any, b: Any) -> DType:
    """``result_type`` of the two operands of a function; TypeError if one of them is no operand, or none a tensor
    (but for some functions, which take two numbers)."""
    try:
        dtype = result_type(a, b)
    except TypeError:
        place = ("input", 1, a) if not is_operand(a) else ("other", 2, b)
        raise TypeError(f"{function}(): argument '{place[0]}' (position {place[1]}) must be Tensor, not "
                        f"{type(place[2]).__name__}") from None  # fmt: skip
    if not (dispatch.is_tensor(a) or dispatch.is_tensor(b) or function in _OF_NUMBERS):
        dispatch.require_tensor(a, function)
    return dtype


_OF_NUMBERS = ("add", "sub", "mul", "div", "floor_divide")  # those that PyTorch lets have two numbers


def broadcast(op: str, a: Any, b: Any, dtype: DType) -> Tensor:
    """Apply a two-operand operator in ``dtype``."""
    left, right = operand(a, dtype), operand(b, dtype)
    try:
        return dispatch.apply(op, left, right)
    except ShapeError as error:
        if tracing.is_tracing():  # it names the line
            raise
        shapes = left._extents, right._extents
        rank = max(map(len, shapes))
        rows = [(1,) * (rank - len(s)) + s for s in shapes]
        for axis, (m, n) in enumerate(zip(*rows, strict=True)):
            if m != n and m != 1 and n != 1 and isinstance(m, int) and isinstance(n, int):
                raise ShapeError(f"The size of tensor a ({m}) must match the size of tensor b ({n}) at non-singleton "
                                 f"dimension {axis}") from error  # fmt: skip
        raise


def as_float(t: Tensor) -> Tensor:
    """``t`` itself if floating, else cast to the default float type."""
    return t if t.dtype.is_floating_point else dispatch.cast(t, _default)


def require_float(t: Tensor, op: str) -> None:
    """DTypeError with PyTorch's words unless ``t`` is floating."""
    if not t.dtype.is_floating_point:
        raise DTypeError(f"{op}(): input dtype should be either floating point or complex dtypes. "
                         f"Got {dispatch.type_word(t.dtype)} instead.")  # fmt: skip
