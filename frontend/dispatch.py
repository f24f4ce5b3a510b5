"""The one door to operators: record under an active trace, otherwise run the NumPy reference.

``tensor.py`` registers its class here on import, so that the operator families can be imported by it
(they become its methods) without a cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from ..ir import ops as _ops  # noqa: F401 - importing registers every operator
from ..ir import registry
from ..ir.dims import DimExpr, Extent
from ..ir.dtypes import ALL, DType, dtype_from_numpy, int64
from ..ir.errors import DTypeError, ShapeError
from ..ir.types import TensorType
from ..runtime.backward import now
from . import grad_mode, tracing
from .size import SymInt

if TYPE_CHECKING:
    from .tensor import Tensor

# Operators whose result shares memory with their operand, as in PyTorch.
VIEWS = frozenset({"reshape", "permute", "expand", "slice", "strided_view", "bitcast"})

# Native code for heavy operators, filled from above: (op, arrays, attrs) -> results, or None: the reference is to run.
native: Callable[[str, Sequence[np.ndarray], dict[str, Any]], list[np.ndarray] | None] | None = None

_tensor_class: Any = None
_BY_NUMPY = {d.numpy: d for d in ALL}


def register_tensor_class(cls: type) -> None:
    """Called once by ``tensor.py``."""
    global _tensor_class
    _tensor_class = cls


def is_tensor(x: object) -> TypeGuard[Tensor]:
    """Whether ``x`` is an ``ingot.Tensor``."""
    return isinstance(x, _tensor_class)


def require_tensor(x: object, function: str, argument: str = "input", position: int = 1) -> None:
    """TypeError with PyTorch's words unless ``x`` is a Tensor."""
    if not is_tensor(x):
        raise TypeError(
            f"{function}(): argument '{argument}' (position {position}) must be Tensor, not {type(x).__name__}"
        )


def from_array(array: np.ndarray) -> Tensor:
    """A Tensor on this very array (no copy)."""
    return _tensor_class._wrap(array)


def mark_local(array: np.ndarray) -> Tensor:
    """``from_array`` for a tensor made inside forward: it may be changed in place while tracing."""
    out = from_array(array)
    out._trace = tracing.current()
    return out


def from_value(value: Any, tracer: tracing.Tracer) -> Tensor:
    """The Tensor that stands for an IR value."""
    return _tensor_class._traced(value, tracer)


def array_dtype(array: np.ndarray) -> DType:
    """The Ingot dtype of an array; TypeError if there is none."""
    known = _BY_NUMPY.get(array.dtype)
    return known if known is not None else dtype_from_numpy(array.dtype)


def apply(op: str, *tensors: Tensor, **attrs: Any) -> Any:
    """Apply operator ``op`` of the IR to tensors.

    Under an active trace the node is recorded if an operand is traced or a state, or an attribute is
    symbolic; anything else is computed now. Returns a Tensor, or a tuple for several results.
    ShapeError / DTypeError state the operator's rule.
    """
    tracer = tracing.current()
    if tracer is not None and (
        any([tracer.owns(t) for t in tensors]) or any(_is_symbolic(v) for v in attrs.values())
    ):
        return tracer.record(op, tensors, attrs)
    record = registry.get(op)
    full = record.complete_attrs(attrs)
    arrays = [t._data for t in tensors]
    record.infer([TensorType(array_dtype(a), a.shape) for a in arrays], full)
    results = [from_array(a) for a in evaluate(op, arrays, full)]
    if op in VIEWS and shares_memory(results[0]._data, arrays[0]):
        views.link(op, full, tensors[0], results[0])
    if tracer is not None:
        for t in results:
            # A view of a tensor from outside of forward is outside, too: writes to it are refused.
            t._trace = tensors[0]._trace if op in VIEWS else tracer
    elif grad_mode.is_grad_enabled():
        if any(t.requires_grad for t in tensors):
            nodes.record(op, full, tensors, results)
    elif grad_mode.is_inference_mode_enabled():
        for t in results:
            t._inference = t._base is None or t._base._inference
    return results[0] if len(results) == 1 else tuple(results)


def _is_symbolic(attr: Any) -> bool:
    return isinstance(attr, tuple) and any(isinstance(e, DimExpr) for e in attr)


def evaluate(op: str, arrays: Sequence[np.ndarray], attrs: dict[str, Any]) -> list[np.ndarray]:
    """The results of an operator on arrays that fit it; ``attrs`` are complete."""
    if native is not None and (found := native(op, arrays, attrs)) is not None:
        return found
    with np.errstate(all="ignore"):  # infinities and NaN are results, not warnings
        out = registry.get(op).reference(*arrays, **attrs)
    outs = out if isinstance(out, tuple) else (out,)
    return [_own(np.asarray(o), op, arrays) for o in outs]


def shares_memory(view: np.ndarray, source: np.ndarray) -> bool:
    """Whether the result of a view operator is a view (``reshape`` copies where it has to)."""
    return view.size == 0 or np.may_share_memory(view, source)


def _own(array: np.ndarray, op: str, operands: Sequence[np.ndarray]) -> np.ndarray:
    # Only views may share memory with their operand (in-place methods rely on it); all other results are
    # row-major, so that ``view`` works on them as it does in PyTorch.
    if op in VIEWS:
        return array
    array = np.asarray(array, order="C")
    if any(array is a or (array.base is not None and np.may_share_memory(array, a)) for a in operands):
        return array.copy()
    return array


def scalar(value: Any, dtype: DType) -> Tensor:
    """A 0-d tensor holding a Python number or symbolic size in ``dtype``."""
    if isinstance(value, SymInt):
        return extent_scalar(value.expr, dtype)
    array = np.asarray(value)
    if array.dtype != dtype.numpy:
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(dtype.numpy)
    return from_array(array)


def extent_scalar(extent: Extent, dtype: DType) -> Tensor:
    """A 0-d tensor with the value of an extent (symbolic ones only exist while tracing)."""
    if not isinstance(extent, DimExpr):
        return scalar(extent, dtype)
    total = None
    for monomial, coefficient in extent.terms:
        term = scalar(coefficient, int64)
        for atom, power in monomial:
            # No operator reads an extent: the sum of that many ones is one, and exact in int64.
            expr = DimExpr(((((atom, 1),), 1),))
            count = apply("sum", apply("expand", scalar(1, int64), shape=(expr,)), axes=(0,))
            for _ in range(power):
                term = apply("mul", term, count)
        total = term if total is None else apply("add", total, term)
    assert total is not None  # a DimExpr has terms
    return cast(total, dtype)


def cast(t: Tensor, dtype: DType) -> Tensor:
    """``t`` in another dtype; ``t`` itself if it has it already."""
    return t if t.dtype is dtype else apply("cast", t, dtype=dtype)


def write(target: Tensor, new: Tensor, op: str = "assignment", since: int | None = None) -> Tensor:
    """Put ``new`` (broadcast and cast) into ``target`` in place and return ``target``.

    Eager: into the storage, visible through every view of it; the history of ``target`` becomes that of ``new``.
    Traced: a state's value is replaced (a graph update), another tensor is rebound to the new value. RuntimeError if
    shapes or dtypes do not fit, or if a leaf that requires grad is changed outside ``no_grad``.

    ``since``: ``new`` was computed from ``target`` by nodes recorded after this one.
    """
    if target._value is None:
        views.check_writable(target)
    return assign(target, new, op, since=since, history=True)


def assign(
    target: Tensor, new: Tensor, op: str = "assignment", *, since: int | None = None, history: bool = False
) -> Tensor:
    """``write`` without the check on leaves that require grad; the history of ``target`` changes only with
    ``history``."""
    if _category(new.dtype) > _category(target.dtype):
        raise DTypeError(f"result type {type_word(new.dtype)} can't be cast to the desired output type "
                         f"{type_word(target.dtype)}")  # fmt: skip
    new = cast(new, target.dtype)
    if new._extents != target._extents:
        if len(new._extents) > len(target._extents) or any(
            n not in (1, t) for n, t in zip(reversed(new._extents), reversed(target._extents), strict=False)
        ):
            raise ShapeError(f"output with shape {list(target.shape)} doesn't match the broadcast shape "
                             f"{list(new.shape)}")  # fmt: skip
        new = apply("expand", new, shape=target._extents)
    tracer = tracing.current()
    if tracer is not None and tracer.write(target, new, op):
        return target
    if not target._data.flags.writeable:
        raise RuntimeError("unsupported operation: more than one element of the written-to tensor refers to a single "
                           "memory location. Please clone() the tensor before performing the operation.")  # fmt: skip
    if since is not None and new._grad_fn is not None:
        views.keep_old_value(target, new, since)
    np.copyto(target._data, new._data)
    if tracer is None:
        views.written(target, new, computed=since is not None, history=history)
    return target


def _category(dtype: DType) -> int:
    return {"b": 0, "i": 1, "u": 1, "f": 2}[dtype.kind]


_WORDS = {
    "float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long",
    "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool", "uint16": "UInt16",
    "uint32": "UInt32", "uint64": "UInt64",
}  # fmt: skip


def type_word(dtype: DType) -> str:
    """PyTorch's word for a dtype in messages (``Long``)."""
    return _WORDS[dtype.name]


def inplace(fn: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The method ``name`` that writes ``fn``'s result into its first argument."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._value is None:
            views.check_writable(self)
        since = now()
        return assign(self, fn(self, *args, **kwargs), name, since=since, history=True)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"In-place version of ``{fn.__name__}``; returns self."
    return method


from .tape import nodes, views  # noqa: E402 - they call back into this module
