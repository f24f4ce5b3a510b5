"""``Size`` (PyTorch's shape tuple) and ``SymInt`` (an extent that is only known when a program is called)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Union

import numpy as np

from ..ir import dims
from ..ir.dims import Dim, DimExpr, Extent
from ..ir.errors import DataDependentError
from .sources import user_place

IntLike = Union[int, "SymInt"]


class SymInt:
    """A symbolic extent inside a traced ``forward``.

    Arithmetic gives further SymInts (or ints where the symbols cancel). A comparison is answered when
    the declared bounds decide it; otherwise, and for ``int()``, ``float()`` and true division, it
    raises DataDependentError with the user's line, because a compiled graph has only one path.
    """

    __slots__ = ("expr",)

    def __init__(self, expr: DimExpr) -> None:
        self.expr = expr

    def _binary(self, other: object, op: Callable[[Extent, Extent], Extent], swap: bool = False) -> Any:
        if isinstance(other, float):
            _refuse(f"arithmetic of the symbolic size {self} with the float {other} needs its value")
        if isinstance(other, bool) or not isinstance(other, (int, np.integer, SymInt)):
            return NotImplemented
        a, b = self.expr, as_extent(other)
        return wrap(op(b, a) if swap else op(a, b))

    def __add__(self, other: object) -> Any:
        return self._binary(other, lambda a, b: a + b)

    __radd__ = __add__

    def __sub__(self, other: object) -> Any:
        return self._binary(other, lambda a, b: a - b)

    def __rsub__(self, other: object) -> Any:
        return self._binary(other, lambda a, b: a - b, swap=True)

    def __mul__(self, other: object) -> Any:
        return self._binary(other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> Any:
        return self._binary(other, dims.floordiv)

    def __rfloordiv__(self, other: object) -> Any:
        return self._binary(other, dims.floordiv, swap=True)

    def __mod__(self, other: object) -> Any:
        return self._binary(other, dims.mod)

    def __rmod__(self, other: object) -> Any:
        return self._binary(other, dims.mod, swap=True)

    def __divmod__(self, other: object) -> Any:
        return self // other, self % other

    def __neg__(self) -> Any:
        return wrap(-self.expr)

    def __pos__(self) -> SymInt:
        return self

    def __pow__(self, power: object) -> Any:
        if not isinstance(power, int) or power < 0:
            _refuse(f"{self} ** {power} needs the value of a symbolic size")
        out: Extent = 1
        for _ in range(power):
            out = self.expr * out
        return wrap(out)

    def __truediv__(self, other: object) -> Any:
        if not isinstance(other, (int, float, np.number, SymInt)):
            return NotImplemented
        _refuse(f"true division {self} / {other} needs the value of a symbolic size", "use // for sizes, or divide "
                "a tensor by the size")  # fmt: skip

    def __rtruediv__(self, other: object) -> Any:
        if not isinstance(other, (int, float, np.number)):
            return NotImplemented
        _refuse(f"true division {other} / {self} needs the value of a symbolic size", "divide a tensor by the size")

    def _compare(self, other: object, text: str, decide: Callable[[int, int], bool | None]) -> Any:
        if isinstance(other, bool) or not isinstance(other, (int, float, np.integer, SymInt)):
            return NotImplemented
        if isinstance(other, float):
            lo, hi = dims.bounds(self.expr)
            answer = decide(_sign(lo - other), _sign(hi - other))
        else:
            answer = decide(*dims.bounds(self.expr - as_extent(other)))
        if answer is None:
            _refuse(f"the comparison {self} {text} {other} depends on a symbolic size (declared: {self._declared()})",
                    "declare tighter bounds on the Dim, or compute both branches and use where()")  # fmt: skip
        return answer

    def __eq__(self, other: object) -> Any:
        return self._compare(
            other, "==", lambda lo, hi: True if lo == hi == 0 else (False if lo > 0 or hi < 0 else None)
        )

    def __ne__(self, other: object) -> Any:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __lt__(self, other: object) -> Any:
        return self._compare(other, "<", lambda lo, hi: True if hi < 0 else (False if lo >= 0 else None))

    def __le__(self, other: object) -> Any:
        return self._compare(other, "<=", lambda lo, hi: True if hi <= 0 else (False if lo > 0 else None))

    def __gt__(self, other: object) -> Any:
        return self._compare(other, ">", lambda lo, hi: True if lo > 0 else (False if hi <= 0 else None))

    def __ge__(self, other: object) -> Any:
        return self._compare(other, ">=", lambda lo, hi: True if lo >= 0 else (False if hi < 0 else None))

    def __bool__(self) -> bool:
        return self != 0

    def __hash__(self) -> int:
        return hash(self.expr)

    def _declared(self) -> str:
        return ", ".join(
            f"{d.min} <= {d.name}" + ("" if d.max is None else f" <= {d.max}")
            for d in sorted(dims.symbols(self.expr), key=lambda d: d.name)
        )

    def __int__(self) -> int:
        _refuse(f"int() of the symbolic size {self}", "use it as it is: sizes work in arithmetic, view, reshape, "
                "expand, arange and slices")  # fmt: skip

    def __index__(self) -> int:
        _refuse(f"the symbolic size {self} is needed as a number here (range, list index, ...)")

    def __float__(self) -> float:
        _refuse(f"float() of the symbolic size {self}")

    def __str__(self) -> str:
        return str(self.expr)

    __repr__ = __str__


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def _refuse(what: str, hint: str = "declare the dimension as a fixed size, or keep the decision outside the compiled "
            "function") -> NoReturn:  # fmt: skip
    raise DataDependentError(f"{user_place()}: {what}; a traced forward has one path. Try: {hint}.")


def wrap(extent: Extent) -> IntLike:
    """What users see of an IR extent."""
    return SymInt(extent) if isinstance(extent, DimExpr) else int(extent)


def as_extent(value: object) -> Extent:
    """The IR extent of an int, SymInt, Dim or DimExpr; TypeError for anything else."""
    if isinstance(value, SymInt):
        return value.expr
    if isinstance(value, DimExpr):
        return value
    if isinstance(value, Dim):
        return value.expr
    if isinstance(value, (int, np.integer)):
        return int(value)
    index = getattr(value, "__index__", None)
    if index is None:
        raise TypeError(f"expected an integer size, got {type(value).__name__}")
    return int(index())


def is_int(value: object) -> bool:
    """Whether ``value`` is an integer or a symbolic size (bools excluded)."""
    return isinstance(value, (int, np.integer, SymInt)) and not isinstance(value, bool)


def provably(condition: Callable[[], Any]) -> bool:
    """``condition()``, with an undecidable symbolic comparison counted as False."""
    try:
        return bool(condition())
    except DataDependentError:
        return False


class Size(tuple):
    """A shape. A tuple that prints ``torch.Size([2, 3])``; entries are ints, or SymInts while tracing."""

    __slots__ = ()

    def __new__(cls, extents: Iterable[Any] = ()) -> Size:
        return super().__new__(cls, tuple(extents))

    def numel(self) -> IntLike:
        """Number of elements of a tensor of this shape."""
        out: IntLike = 1
        for extent in self:
            out = out * extent
        return out

    def __repr__(self) -> str:
        return f"torch.Size([{', '.join(map(str, self))}])"

    __str__ = __repr__

    def __getitem__(self, index: Any) -> Any:
        item = tuple.__getitem__(self, index)
        return Size(item) if isinstance(index, slice) else item

    def __add__(self, other: Any) -> Size:
        return Size(tuple(self) + tuple(other))

    def __radd__(self, other: Any) -> Size:
        return Size(tuple(other) + tuple(self))

    def __mul__(self, times: Any) -> Size:
        return Size(tuple(self) * times)

    __rmul__ = __mul__

    def __reduce__(self) -> Any:
        return (Size, (tuple(self),))
