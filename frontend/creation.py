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
from .size import SymInt, as_extent, is_int
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


def _check_layout(layout: Any, memory_format: Any = None) -> None:
    """Dense row-major tensors are the only ones; "preserve" and "contiguous" formats mean those."""
    if layout is not None and str(layout) != "torch.strided":
        raise NotImplementedError(f"layout {layout} is not supported: tensors are dense (torch.strided)")
    if memory_format is not None and str(memory_format) not in ("torch.preserve_format", "torch.contiguous_format"):
        raise NotImplementedError(f"memory_format {memory_format} is not supported: new tensors are row-major")


def full(
    size: Sequence[Any], fill_value: Any, *, dtype: DType | None = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False, pin_memory: bool = False, memory_format: Any = None,
) -> Tensor:  # fmt: skip
    """All elements equal; dtype from the value: bool, int64 or the default float."""
    require_cpu(device)
    _check_layout(layout, memory_format)
    kind = dtype or (fill_value.dtype if dispatch.is_tensor(fill_value) else promotion.number_dtype(fill_value))
    shape = shaping.sizes_of((tuple(size),))
    if any(isinstance(e, DimExpr) for e in shape) or dispatch.is_tensor(fill_value):
        out: Any = dispatch.apply("expand", promotion.operand(fill_value, kind), shape=shape)
        views.unlink(out)  # a tensor of its own, not a view of the fill value
        if out._value is None:
            out = dispatch.mark_local(np.array(out._data))
    else:
        if any(e < 0 for e in shape):  # type: ignore[operator]
            raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")  # type: ignore[type-var]
        if not kind.is_floating_point and isinstance(fill_value, (bool, int, np.integer)):
            out = np.full(shape, dispatch.scalar(fill_value, kind)._data)  # type: ignore[arg-type]
        else:
            out = np.full(shape, fill_value, kind.numpy)  # type: ignore[arg-type]
        out = dispatch.mark_local(out)
    return out.requires_grad_(requires_grad)


def _filled(value: int) -> Any:
    def fn(*args: Any, size: Any = None, dtype: DType | None = None, **options: Any) -> Tensor:
        given = args if size is None else (size,)
        return full(shaping.sizes_of(given), value, dtype=dtype or promotion.get_default_dtype(), **options)

    def like(input: Tensor, *, dtype: DType | None = None, **options: Any) -> Tensor:
        dispatch.require_tensor(input, like.__name__)
        return full(input._extents, value, dtype=dtype or input.dtype, **options)

    def new(input: Tensor, *args: Any, size: Any = None, dtype: DType | None = None, **options: Any) -> Tensor:
        given = args if size is None else (size,)
        return full(shaping.sizes_of(given), value, dtype=dtype or input.dtype, **options)

    return fn, like, new


zeros, zeros_like, new_zeros = _filled(0)
ones, ones_like, new_ones = _filled(1)
# Uninitialised memory has no use in a functional program; zeros are as good and repeatable.
empty, empty_like, new_empty = _filled(0)
for _name, _fn in {"zeros": zeros, "ones": ones, "empty": empty}.items():
    _fn.__name__ = _fn.__qualname__ = _name
    _fn.__doc__ = f"A tensor of {'zeros' if _name != 'ones' else 'ones'}; sizes as separate ints, a tuple or a list."
for _name, _fn in {"zeros_like": zeros_like, "ones_like": ones_like, "empty_like": empty_like}.items():
    _fn.__name__ = _fn.__qualname__ = _name
    _fn.__doc__ = f"``{_name[:-5]}`` with input's shape and dtype."


for _name, _fn in {"new_zeros": new_zeros, "new_ones": new_ones, "new_empty": new_empty}.items():
    _fn.__name__ = _fn.__qualname__ = _name
    _fn.__doc__ = f"``{_name[4:]}`` with the tensor's dtype."


def full_like(input: Tensor, fill_value: Any, *, dtype: DType | None = None, **options: Any) -> Tensor:
    """``full`` with input's shape and dtype."""
    return full(input._extents, fill_value, dtype=dtype or input.dtype, **options)


def new_full(input: Tensor, size: Sequence[Any], fill_value: Any, *, dtype: DType | None = None, **options: Any
             ) -> Tensor:  # fmt: skip
    """``full`` with the tensor's dtype."""
    return full(size, fill_value, dtype=dtype or input.dtype, **options)


def new_tensor(
    input: Tensor, data: Any, *, dtype: DType | None = None, device: Any = None, requires_grad: bool = False,
    layout: Any = None, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """``tensor(data)`` with the tensor's dtype."""
    _check_layout(layout)
    return tensor(data, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def scalar_tensor(
    s: Any, *, dtype: DType | None = None, layout: Any = None, device: Any = None, requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """A 0-d tensor of a number, in the default float type unless told otherwise."""
    return full((), s, dtype=dtype or promotion.get_default_dtype(), layout=layout, device=device,
                requires_grad=requires_grad)  # fmt: skip


def _plain_number(x: Any) -> Any:
    return x.item() if dispatch.is_tensor(x) and x._value is None else x


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: DType | None = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """start, start + step, ... below ``end``; int64 if all are integers, else the default float."""
    require_cpu(device)
    _check_layout(layout)
    if end is None:
        start, end = 0, start
    numbers = start, end, step = tuple(map(_plain_number, (start, end, step)))
    floats = any(isinstance(x, (float, np.floating)) for x in numbers)
    kind = dtype or (promotion.get_default_dtype() if floats else dtypes.int64)
    if any(isinstance(x, SymInt) for x in numbers):
        if not isinstance(step, int) or step != 1 or floats:
            raise TypeError("arange with a symbolic size takes integers and step 1")
        count = as_extent(end) - as_extent(start)
        out = dispatch.apply("iota", shape=(count,), axis=0, dtype=kind)
        return out if isinstance(start, int) and start == 0 else elementwise.add(out, start)
    if kind is dtypes.bool_:
        raise NotImplementedError("\"arange_cpu\" not implemented for 'Bool'")
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if not all(map(math.isfinite, (start, end))):
        raise RuntimeError(f"unsupported range: {start} -> {end}")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    if kind is dtypes.int64:  # the other dtypes count before their numbers lose what follows the point
        start, end, step, floats = int(start), int(end), int(step), False
        if step == 0:
            raise ValueError("step must be nonzero")
    count = math.ceil((end - start) / step) if floats else -((start - end) // step)
    if not kind.is_floating_point:
        start, step, floats = int(start), int(step), False
    values = np.arange(count, dtype=np.float64 if floats else np.int64) * step + start
    return dispatch.mark_local(values.astype(kind.numpy)).requires_grad_(requires_grad)


def _integer_of(x: Any, dtype: DType) -> int:
    """Rounded towards zero; RuntimeError, as in PyTorch, if ``dtype`` cannot hold it. Negative integers wrap around in
    unsigned dtypes."""
    low, high = (int(getattr(np.iinfo(dtype.numpy), word)) for word in ("min", "max"))
    if not (-high if dtype.kind == "u" and is_int(x) else low) <= x <= high:
        name = {64: "int64_t", 32: "int"}.get(dtype.bits, f"{dtype.name}_t")
        raise RuntimeError(f"value cannot be converted to type {name} without overflow")
    return int(x) % (high + 1) if dtype.kind == "u" else int(x)


def _spaced(start: Any, end: Any, steps: Any, dtype: DType, power: float | None) -> np.ndarray:
    """Evenly spaced from both ends, as PyTorch counts; rounded towards zero for integers."""
    count = int(steps)
    if count < 0:
        raise RuntimeError("number of steps must be non-negative")
    floats = dtype.is_floating_point
    work: Any = np.float64 if dtype is dtypes.float64 or not floats else np.float32
    first, last = (x.item() if isinstance(x, np.generic) else x for x in (start, end))
    if not floats and count > (power is not None):
        first, last = _integer_of(first, dtype), _integer_of(last, dtype) if count > 1 else 0
    if count < 2:
        values = np.full(count, first, work)
    else:
        step = (work(last) - work(first)) / work(count - 1)
        places = np.arange(count)
        front = work(first) + step * places.astype(work)
        back = work(last) - step * (count - 1 - places).astype(work)
        values = np.where(places < count / 2 if count % 2 == 0 else places < (count // 2), front, back).astype(work)
    if power is not None:
        values = np.power(work(power), values)
        if not floats and count == 1:  # a power of the number as given
            values = np.array([_integer_of(values[0], dtype)])
    return values.astype(dtype.numpy)


def linspace(
    start: Any, end: Any, steps: int, *, dtype: DType | None = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """``steps`` evenly spaced numbers, both ends included."""
    require_cpu(device)
    _check_layout(layout)
    kind = dtype or promotion.get_default_dtype()
    values = _spaced(_plain_number(start), _plain_number(end), steps, kind, None)
    return dispatch.mark_local(values).requires_grad_(requires_grad)


def logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: DType | None = None, layout: Any = None,
    device: Any = None, requires_grad: bool = False, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """``base`` to the power of ``linspace``."""
    require_cpu(device)
    _check_layout(layout)
    kind = dtype or promotion.get_default_dtype()
    values = _spaced(_plain_number(start), _plain_number(end), steps, kind, base)
    return dispatch.mark_local(values).requires_grad_(requires_grad)


def eye(
    n: int, m: int | None = None, *, dtype: DType | None = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """Ones on the diagonal of an [n, m] matrix (m defaults to n)."""
    require_cpu(device)
    _check_layout(layout)
    for word, size in (("n", n), ("m", m)):
        if size is not None and size < 0:
            raise RuntimeError(f"{word} must be greater or equal to 0, got {size}")
    out = dispatch.mark_local(np.eye(n, m, dtype=(dtype or promotion.get_default_dtype()).numpy))
    return out.requires_grad_(requires_grad)


def empty_strided(size: Sequence[Any], stride: Sequence[int], *, dtype: DType | None = None, **options: Any) -> Tensor:
    """Zeros whose memory has the given strides; RuntimeError for negative ones."""
    if len(size) != len(stride) or any(s < 0 for s in stride):
        raise RuntimeError(f"empty_strided: sizes {list(size)} need as many strides >= 0, got {list(stride)}")
    if 0 in size:
        return zeros(size, dtype=dtype, **options)
    flat = np.zeros(1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)), zeros(0, dtype=dtype)._data.dtype)
    strided = np.lib.stride_tricks.as_strided(flat, tuple(size), tuple(s * flat.itemsize for s in stride))
    require_cpu(options.get("device"))
    return dispatch.mark_local(strided).requires_grad_(options.get("requires_grad", False))


def new_empty_strided(input: Tensor, size: Sequence[Any], stride: Sequence[int], *, dtype: DType | None = None,
                      **options: Any) -> Tensor:  # fmt: skip
    """``empty_strided`` with the tensor's dtype."""
    return empty_strided(size, stride, dtype=dtype or input.dtype, **options)


def empty_permuted(size: Sequence[Any], physical_layout: Sequence[int], **options: Any) -> Tensor:
    """Zeros whose axes lie in memory in the given order, the outermost first."""
    if sorted(physical_layout) != list(range(len(size))):
        raise RuntimeError("Number of dimensions in size does not match the length of the physical_layout, or it is no "
                           f"permutation: {list(physical_layout)}")  # fmt: skip
    strides, stride = [0] * len(size), 1
    for axis in reversed(physical_layout):
        strides[axis], stride = stride, stride * size[axis]
    return empty_strided(size, strides, **options)


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Powers of a vector's elements as rows: N - 1 down to 0 (0 up with ``increasing``); N defaults to its length."""
    if x.dim() != 1:
        raise RuntimeError("x must be a one-dimensional tensor.")
    count = int(x.shape[0]) if N is None else N
    if count < 0:
        raise RuntimeError("N must be non-negative.")
    base = x if x.dtype.is_floating_point else dispatch.cast(x, dtypes.int64)
    powers = [ones_like(base)]
    for _ in range(count - 1):
        powers.append(elementwise.mul(powers[-1], base))
    powers = powers[:count]
    if not powers:
        return new_empty(base, x.shape[0], 0)
    return shaping.stack(powers if increasing else powers[::-1], 1)


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy."""
    dispatch.require_tensor(input, "clone")
    _check_layout(None, memory_format)
    return input.clone()


def fill(input: Tensor, value: Any) -> Tensor:
    """A copy with every element set to a number or 0-d tensor."""
    if dispatch.is_tensor(value) and value.dim():
        raise RuntimeError("fill only supports 0-dimension value tensor but got tensor with "
                           f"{value.dim()} dimensions.")  # fmt: skip
    return input.clone().fill_(value)


def fill_(input: Tensor, value: Any) -> Tensor:
    """``Tensor.fill_``."""
    return input.fill_(value)


def zero_(input: Tensor) -> Tensor:
    """``Tensor.zero_``."""
    return input.zero_()


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "arange", "as_tensor", "asarray", "clone", "empty", "empty_like", "empty_permuted", "empty_strided", "eye", "fill",
    "fill_", "from_numpy", "full", "full_like", "linspace", "logspace", "ones", "ones_like", "scalar_tensor", "tensor",
    "vander", "zero_", "zeros", "zeros_like",
)  # fmt: skip
METHODS = ("new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros")
IN_PLACE = ()
