"""What the operator families share: shape and dtype rules, precision of references, gradient helpers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import DimExpr, Extent, FloorDiv, bounds
from ..dtypes import DType, dtype_from_numpy, int64
from ..errors import DTypeError, ShapeError
from ..types import Shape, TensorType

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Value

_KIND_NAMES = {"f": "floating", "i": "signed integer", "u": "unsigned integer", "b": "bool"}


# -- shapes -----------------------------------------------------------------------------------------
def show(shape: Sequence[Extent]) -> str:
    """A shape as messages print it: ``[2, N, 3]``."""
    return "[" + ", ".join(map(str, shape)) + "]"


def broadcast_shapes(op: str, *shapes: Sequence[Extent]) -> Shape:
    """The NumPy broadcast of ``shapes``.

    Two extents go together when they are structurally equal or one is the int 1. A symbolic extent and
    another int do not, even if the symbol may take that value. ShapeError names the axis.
    """
    rank = max((len(s) for s in shapes), default=0)
    out: list[Extent] = []
    for axis in range(-rank, 0):
        extent: Extent = 1
        for shape in shapes:
            other = shape[axis] if -axis <= len(shape) else 1
            if other == 1 or other == extent:
                continue
            if extent != 1:
                raise ShapeError(
                    f"{op}: shapes {' and '.join(map(show, shapes))} do not broadcast: extents {extent} and {other} "
                    f"at axis {axis} differ and neither is 1"
                )
            extent = other
        out.append(extent)
    return tuple(out)


def normalise_axes(op: str, axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Axes as the IR wants them: non-negative, sorted; None means all. ShapeError for range or repeats."""
    if axes is None:
        return tuple(range(rank))
    given = (axes,) if isinstance(axes, (int, np.integer)) else tuple(axes)
    out = sorted(normalise_axis(op, a, rank) for a in given)
    if len(set(out)) != len(out):
        raise ShapeError(f"{op}: axis {next(a for a in out if out.count(a) > 1)} appears twice in {given}")
    return tuple(out)


def normalise_axis(op: str, axis: int, rank: int) -> int:
    """One axis as a non-negative int; ShapeError if it is not in [-rank, rank)."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{op}: axis {axis} is out of range for rank {rank} (expected {-rank} <= axis < {rank})")
    return int(axis) % rank


def check_axis(op: str, axis: int, rank: int) -> int:
    """``axis`` as stored in an attribute: already non-negative."""
    if not 0 <= axis < rank:
        raise ShapeError(f"{op}: attribute axis must be in [0, {rank}) for an operand of rank {rank}, got {axis}")
    return axis


def check_axes(op: str, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """``axes`` as stored in an attribute: sorted, without repeats, each in [0, rank)."""
    if list(axes) != sorted(set(axes)) or any(not 0 <= a < rank for a in axes):
        raise ShapeError(
            f"{op}: attribute axes must be sorted, unique and in [0, {rank}) for an operand of rank {rank}, "
            f"got {tuple(axes)}"
        )
    return tuple(axes)


def check_rank(op: str, operand: str, t: TensorType, rank: int) -> None:
    if t.rank != rank:
        raise ShapeError(f"{op}: {operand} must have rank {rank}, got shape {show(t.shape)}")


def is_nonnegative(e: Extent) -> bool:
    """Whether ``e >= 0`` can be proven for every value that the declared Dims may take.

    Interval bounds first; where they fail, each ``num // den`` (den a positive int) is replaced by the
    unfavourable end of ``[(num - den + 1) / den, num / den]``, after multiplying through by ``den``, so that
    terms in the same symbol can cancel (``N - N // 2``).
    """
    while True:
        if bounds(e)[0] >= 0:
            return True
        quotient = _find_quotient(e)
        if quotient is None:
            return False
        term, coef, num, den = quotient
        worst = num if coef < 0 else num - (den - 1)
        e = (e - term) * den + worst * coef


def _find_quotient(e: Extent) -> tuple[DimExpr, int, DimExpr, int] | None:
    """(term, coefficient, num, den) of a linear ``coefficient * (num // den)`` term with a constant den."""
    for mono, coef in e.terms if isinstance(e, DimExpr) else ():
        if len(mono) == 1 and mono[0][1] == 1 and isinstance(mono[0][0], FloorDiv):
            atom = mono[0][0]
            (den_mono, den), *more = atom.den.terms
            if not more and den_mono == () and den > 0:
                return DimExpr(((mono, coef),)), coef, atom.num, den
    return None


# -- dtypes -----------------------------------------------------------------------------------------
def check_kind(op: str, dtype: DType, kinds: str, hint: str = "", operand: str = "operand") -> None:
    """DTypeError unless ``dtype.kind`` is one of the letters ``kinds`` (f, i, u, b)."""
    if dtype.kind not in kinds:
        allowed = " or ".join(_KIND_NAMES[k] for k in kinds)
        raise DTypeError(f"{op}: {operand} is {dtype.name}, expected {allowed}{'; ' + hint if hint else ''}")


def check_same_dtype(op: str, *types: TensorType) -> DType:
    """The one dtype of all ``types``; DTypeError if they differ (the front end inserts casts)."""
    if any(t.dtype is not types[0].dtype for t in types):
        names = ", ".join(t.dtype.name for t in types)
        raise DTypeError(f"{op}: operands must have equal dtypes, got {names}; insert a cast")
    return types[0].dtype


def check_value(op: str, attr: str, value: Any, dtype: DType) -> None:
    """DTypeError unless the Python or NumPy number ``value`` can stand among elements of ``dtype``."""
    if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        raise DTypeError(f"{op}: attribute {attr} must be a number, got {value!r}")
    if not dtype.is_floating_point and not (float(value).is_integer() and dtype.min <= value <= dtype.max):
        raise DTypeError(f"{op}: {attr}={value} is not a value of {dtype.name}; cast the operand first")


# -- references -------------------------------------------------------------------------------------
def is_narrow(a: np.ndarray) -> bool:
    """Whether ``a`` holds 16-bit floats."""
    return a.dtype.itemsize == 2 and dtype_from_numpy(a.dtype).kind == "f"


def widen(a: np.ndarray) -> np.ndarray:
    """16-bit floats as float32, in which references compute; anything else unchanged."""
    return a.astype(np.float32) if is_narrow(a) else a


def rounds_once(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``fn(*arrays, **attrs)`` a reference: 16-bit floats are computed in float32 and float32 results rounded
    once at the end to the dtype of the first 16-bit operand; floating-point warnings are off."""

    @wraps(fn)
    def reference(*arrays: np.ndarray, **attrs: Any) -> Any:
        arrays = tuple(np.asarray(a) for a in arrays)
        narrow = next((a.dtype for a in arrays if is_narrow(a)), None)
        with np.errstate(all="ignore"):
            out = fn(*(widen(a) for a in arrays), **attrs)
            if isinstance(out, tuple):
                return tuple(_round(o, narrow) for o in out)
            return _round(out, narrow)

    return reference


def _round(out: Any, narrow: np.dtype | None) -> np.ndarray:
    out = np.asarray(out)
    return out.astype(narrow) if narrow is not None and out.dtype == np.float32 else out


# -- gradients --------------------------------------------------------------------------------------
def unbroadcast(g: GraphBuilder, grad: Value, type: TensorType) -> Value:
    """Sum ``grad`` over the axes along which an operand of ``type`` was repeated to get grad's shape."""
    lead = grad.type.rank - type.rank
    stretched = [a + lead for a, e in enumerate(type.shape) if e == 1 and grad.shape[a + lead] != 1]
    axes = [*range(lead), *stretched]
    if not axes:
        return grad
    grad = g.sum(grad, axes=axes, keepdims=False)
    return grad if grad.shape == type.shape else g.reshape(grad, shape=type.shape)


def restore_axes(g: GraphBuilder, reduced: Value, type: TensorType, axes: Sequence[int], keepdims: bool) -> Value:
    """A reduction's result brought back to keepdims form, so that it broadcasts against the operand."""
    if keepdims or not axes:
        return reduced
    return g.reshape(reduced, shape=tuple(1 if a in axes else e for a, e in enumerate(type.shape)))


def zeros(g: GraphBuilder, type: TensorType) -> Value:
    """Zeros of a (possibly symbolic) type."""
    return g.full(type.shape, 0, type.dtype)


def scalar(g: GraphBuilder, value: float, like: Value) -> Value:
    """A 0-d constant of ``like``'s dtype."""
    return g.constant(value, like.dtype)


def extent_scalar(g: GraphBuilder, extent: Extent, dtype: DType) -> Value:
    """``extent`` as a 0-d tensor: a constant, or for a symbolic n element n of iota(n + 1), which
    fusion makes a single store."""
    if isinstance(extent, int):
        return g.constant(extent, dtype)
    counts = g.iota(shape=(extent + 1,), axis=0, dtype=int64)
    last = g.slice(counts, starts=(extent,), stops=(extent + 1,), steps=(1,))
    return g.cast(g.reshape(last, shape=()), dtype=dtype)


def shift(g: GraphBuilder, x: Value, axis: int, distance: int, *, fill: float, reverse: bool = False) -> Value:
    """``x`` moved by ``distance`` towards higher (lower, if ``reverse``) indices along ``axis``, ``fill`` moved in."""
    amount = tuple(distance if a == axis else 0 for a in range(x.type.rank))
    none = (0,) * x.type.rank
    low, high = (none, amount) if reverse else (amount, none)
    padded = g.pad(x, low=low, high=high, interior=none, value=fill)
    stops = tuple(s + e for s, e in zip(high, x.shape, strict=True))
    return g.slice(padded, starts=high, stops=stops, steps=(1,) * x.type.rank)
