"""Symbolic dimensions: ``Dim`` (what users declare) and ``DimExpr`` (integer expressions over them).

Equality and hashing are *structural* (canonical polynomials over atoms), so IR code can compare
shapes; the tracer wraps extents in its own SymInt, which refuses comparisons it cannot decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Union

_UNBOUNDED = 2**62


@dataclass(frozen=True)
class Dim:
    """A named extent that is fixed only when the executable is called.

    Args:
        name: identifier, unique within a graph (``"N"``).
        min: smallest extent the program will be called with (at least 1... 0 is allowed).
        max: largest extent, or None for no bound (its buffers then live outside the arena).
    """

    name: str
    min: int = 1
    max: int | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"Dim name {self.name!r} is not an identifier")
        if self.min < 0 or (self.max is not None and self.max < self.min):
            raise ValueError(f"Dim {self.name}: bad range [{self.min}, {self.max}]")

    @property
    def expr(self) -> DimExpr:
        return DimExpr(((((self, 1),), 1),))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FloorDiv:
    """Atom: ``num // den`` that could not be divided out."""

    num: DimExpr
    den: DimExpr

    def __str__(self) -> str:
        return f"(({self.num}) // ({self.den}))"


@dataclass(frozen=True)
class Mod:
    """Atom: ``num % den``."""

    num: DimExpr
    den: DimExpr

    def __str__(self) -> str:
        return f"(({self.num}) % ({self.den}))"


@dataclass(frozen=True)
class Max:
    """Atom: ``max(a, b)``."""

    a: DimExpr
    b: DimExpr

    def __str__(self) -> str:
        return f"max({self.a}, {self.b})"


Atom = Dim | FloorDiv | Mod | Max
Monomial = tuple[tuple[Atom, int], ...]  # atoms with powers, sorted by text; () is the constant 1
Extent = Union[int, "DimExpr"]


@dataclass(frozen=True)
class DimExpr:
    """A polynomial with integer coefficients over atoms, in canonical form (``terms`` sorted by text).

    Never build one directly: arithmetic on ``Dim.expr`` and ints does; constants come out as ``int``.
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Extent) -> Extent:
        return _make(_merge(_terms(self), _terms(other)))

    __radd__ = __add__

    def __neg__(self) -> Extent:
        return _make({m: -c for m, c in self.terms})

    def __sub__(self, other: Extent) -> Extent:
        return self + (-other)

    def __rsub__(self, other: Extent) -> Extent:
        return (-self) + other

    def __mul__(self, other: Extent) -> Extent:
        out: dict[Monomial, int] = {}
        for m1, c1 in self.terms:
            for m2, c2 in _terms(other).items():
                m = _monomial_mul(m1, m2)
                out[m] = out.get(m, 0) + c1 * c2
        return _make(out)

    __rmul__ = __mul__

    def __floordiv__(self, other: Extent) -> Extent:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Extent) -> Extent:
        return floordiv(other, self)

    def __mod__(self, other: Extent) -> Extent:
        return mod(self, other)

    def __rmod__(self, other: Extent) -> Extent:
        return mod(other, self)

    def __str__(self) -> str:
        parts = []
        for mono, coef in self.terms:
            factors = [str(a) if p == 1 else f"{a}**{p}" for a, p in mono]
            if coef != 1 or not factors:
                factors.insert(0, str(coef))
            parts.append("*".join(factors))
        return " + ".join(parts)

    __repr__ = __str__


def _terms(x: Extent) -> dict[Monomial, int]:
    if isinstance(x, DimExpr):
        return dict(x.terms)
    return {(): int(x)} if x else {}


def _merge(a: dict[Monomial, int], b: Mapping[Monomial, int]) -> dict[Monomial, int]:
    for m, c in b.items():
        a[m] = a.get(m, 0) + c
    return a


def _monomial_mul(a: Monomial, b: Monomial) -> Monomial:
    powers: dict[Atom, int] = dict(a)
    for atom, p in b:
        powers[atom] = powers.get(atom, 0) + p
    return tuple(sorted(powers.items(), key=lambda ap: str(ap[0])))


def _make(terms: Mapping[Monomial, int]) -> Extent:
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return DimExpr(tuple(sorted(kept.items(), key=lambda mc: (not mc[0], str([(str(a), p) for a, p in mc[0]])))))


def _atom(a: Atom) -> DimExpr:
    return DimExpr(((((a, 1),), 1),))


def floordiv(a: Extent, b: Extent) -> Extent:
    """``a // b``; exact polynomial division where every coefficient allows it."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1:
        return a
    if isinstance(b, int):
        assert isinstance(a, DimExpr)
        # Split a = b*q + r with constant remainder 0 <= r < b when all non-constant terms divide.
        whole = {m: c // b for m, c in a.terms if m and c % b == 0}
        rest = {m: c for m, c in a.terms if not (m and c % b == 0)}
        const = rest.pop((), 0)
        if not rest:
            return _make(_merge(dict(whole), {(): const // b}))
    elif isinstance(a, DimExpr):
        q = _divide_monomial(a, b)
        if q is not None:
            return q
        if a == b:
            return 1
    return _atom(FloorDiv(_as_expr(a), _as_expr(b)))


def _divide_monomial(a: DimExpr, b: DimExpr) -> Extent | None:
    """a / b when b is one monomial that divides each term of a."""
    if len(b.terms) != 1:
        return None
    (bm, bc), out = b.terms[0], {}
    for m, c in a.terms:
        powers = dict(m)
        for atom, p in bm:
            powers[atom] = powers.get(atom, 0) - p
        if c % bc or any(p < 0 for p in powers.values()):
            return None
        out[tuple(sorted(((x, p) for x, p in powers.items() if p), key=lambda ap: str(ap[0])))] = c // bc
    return _make(out)


def _as_expr(x: Extent) -> DimExpr:
    return x if isinstance(x, DimExpr) else DimExpr((((), int(x)),))


def mod(a: Extent, b: Extent) -> Extent:
    """``a % b``, 0 where division is provably exact."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if isinstance(b, int) and isinstance(a, DimExpr):
        rest = {m: c % b for m, c in a.terms if c % b}
        if set(rest) <= {()}:
            return rest.get((), 0)
    q = floordiv(a, b)
    if not (isinstance(q, DimExpr) and any(isinstance(at, FloorDiv) for m, _ in q.terms for at, _ in m)) and (
        q * b == a
    ):
        return 0
    return _atom(Mod(_as_expr(a), _as_expr(b)))


def maximum(a: Extent, b: Extent) -> Extent:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    lo_a, hi_a = bounds(a)
    lo_b, hi_b = bounds(b)
    if a == b or lo_a >= hi_b:
        return a
    if lo_b >= hi_a:
        return b
    return _atom(Max(_as_expr(a), _as_expr(b)))


def evaluate(x: Extent, env: Mapping[str, int]) -> int:
    """The integer value of ``x`` with every Dim looked up by name in ``env``."""
    if not isinstance(x, DimExpr):
        return int(x)
    total = 0
    for mono, coef in x.terms:
        value = coef
        for atom, power in mono:
            value *= _evaluate_atom(atom, env) ** power
        total += value
    return total


def _evaluate_atom(atom: Atom, env: Mapping[str, int]) -> int:
    if isinstance(atom, Dim):
        return int(env[atom.name])
    if isinstance(atom, Max):
        return max(evaluate(atom.a, env), evaluate(atom.b, env))
    num, den = evaluate(atom.num, env), evaluate(atom.den, env)
    return num // den if isinstance(atom, FloorDiv) else num % den


def bounds(x: Extent) -> tuple[int, int]:
    """(smallest, largest) value over the declared ranges (conservative; largest may be >= 2**62)."""
    if not isinstance(x, DimExpr):
        return int(x), int(x)
    lo = hi = 0
    for mono, coef in x.terms:
        interval = (coef, coef)
        for atom, power in mono:
            for _ in range(power):
                interval = _times(interval, _atom_bounds(atom))
        lo, hi = _clamp(lo + interval[0]), _clamp(hi + interval[1])
    return lo, hi


def _times(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    corners = [x * y for x in a for y in b]
    return _clamp(min(corners)), _clamp(max(corners))


def _clamp(x: int) -> int:
    """Infinity stays infinity whatever is done to it."""
    return max(-_UNBOUNDED, min(x, _UNBOUNDED))


def _atom_bounds(atom: Atom) -> tuple[int, int]:
    if isinstance(atom, Dim):
        return atom.min, _UNBOUNDED if atom.max is None else atom.max
    if isinstance(atom, Max):
        (la, ha), (lb, hb) = bounds(atom.a), bounds(atom.b)
        return max(la, lb), max(ha, hb)
    nlo, nhi = bounds(atom.num)
    dlo, dhi = bounds(atom.den)
    if isinstance(atom, Mod):
        return 0, max(0, dhi - 1)
    corners = [_quotient(n, d) for n in (nlo, nhi) for d in (max(dlo, 1), max(dhi, 1))]
    return min(corners), max(corners)


def _quotient(n: int, d: int) -> int:
    return n if abs(n) >= _UNBOUNDED else n // d


def is_bounded(x: Extent) -> bool:
    """Whether the declared ranges give ``x`` a finite upper bound."""
    return bounds(x)[1] < 2**48


def symbols(x: Extent | Iterable[Extent]) -> frozenset[Dim]:
    """All Dims that occur in an extent or a shape."""
    found: set[Dim] = set()
    stack: list[object] = list(x) if isinstance(x, (tuple, list)) else [x]
    while stack:
        item = stack.pop()
        if isinstance(item, Dim):
            found.add(item)
        elif isinstance(item, DimExpr):
            stack.extend(atom for mono, _ in item.terms for atom, _ in mono)
        elif isinstance(item, (FloorDiv, Mod)):
            stack += [item.num, item.den]
        elif isinstance(item, Max):
            stack += [item.a, item.b]
    return frozenset(found)


def assignment(x: Extent, env: Mapping[str, int]) -> str:
    """The symbols of ``x`` with their values, for messages: ``H = 1, W = 7``."""
    return ", ".join(f"{name} = {env[name]}" for name in sorted(d.name for d in symbols(x)))


def product(extents: Iterable[Extent]) -> Extent:
    """Product of extents (1 for none)."""
    extents = list(extents)
    if all(isinstance(e, int) for e in extents):
        return math.prod(extents)  # type: ignore[arg-type]
    out: Extent = 1
    for e in extents:
        out = out * e
    return out
