"""Tangent, inverse and hyperbolic functions, logarithms of other bases, erfc, erfinv and hypot on loop IR values.

All are computed in float64; float32 results are rounded from there, so that they are within 1 unit in the last place.
Error bounds in float64 (largest seen over dense samples; the tests enforce them):

    ==========  ====    ==========  ====    ==========  ====
    tan         3.5     sinh        4       log2        1
    asin, acos  2.5     cosh        4       log10       1
    atan        2       asinh       4       erfc        3
    atan2       2.5     acosh       4       erfinv      4
    hypot       2       atanh       4
    ==========  ====    ==========  ====    ==========  ====

tan holds it for |x| <= 2**20, as sin and cos do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..ir.dtypes import float32, float64
from . import vmath
from .loopir import LoopBuilder, Val
from .vmath import _exp_extended, _log_extended, _log_specials, _Math

__all__ = [
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cosh", "erfc", "erfinv", "hypot", "log2", "log10",
    "sinh", "tan",
]  # fmt: skip

_INF, _NAN = math.inf, math.nan
_PI_LOW = 1.2246467991473532e-16  # pi - math.pi
_LARGE = 2.0**28  # from here on 1 + x*x is x*x


def _in_double(f: Callable[..., Val]) -> Callable[..., Val]:
    """``f`` for float64 values as a function of float32 values, too."""

    def function(b: LoopBuilder, *xs: Val) -> Val:
        if xs[0].dtype is float32:
            return b.cast(f(b, *(b.cast(x, float64) for x in xs)), float32)
        return f(b, *xs)

    function.__doc__, function.__name__ = f.__doc__, f.__name__
    return function


@_in_double
def tan(b: LoopBuilder, x: Val) -> Val:
    """Tangent of radians."""
    return b.op("div", vmath.sin(b, x), vmath.cos(b, x))


# -- inverse trigonometric functions ---------------------------------------------------------------------------
@_in_double
def atan(b: LoopBuilder, x: Val) -> Val:
    """Inverse tangent: a polynomial up to tan(pi/8), differences to pi/4 and pi/2 beyond."""
    m = _Math(b, x)
    a = m.abs(x)
    middle, far = b.cmp("gt", a, m.c(math.tan(math.pi / 8))), b.cmp("gt", a, m.c(math.tan(3 * math.pi / 8)))
    t = m.select(middle, m.div(m.sub(a, m.c(1.0)), m.add(a, m.c(1.0))), a)
    t = m.select(far, m.div(m.c(-1.0), a), t)
    base = m.select(far, m.c(math.pi / 2), m.select(middle, m.c(math.pi / 4), m.c(0.0)))
    low = m.select(far, m.c(_PI_LOW / 2), m.select(middle, m.c(_PI_LOW / 4), m.c(0.0)))
    z = m.mul(t, t)
    tail = m.fma(m.mul(t, z), m.horner(z, m.table("ATAN")), low)
    return b.op("copysign", m.add(base, m.add(t, tail)), x)


@_in_double
def atan2(b: LoopBuilder, y: Val, x: Val) -> Val:
    """The angle of the point (x, y) in [-pi, pi], the signs of zeros included."""
    m = _Math(b, x)
    ax, ay = m.abs(x), m.abs(y)
    angle = atan(b, m.div(ay, ax))
    angle = m.select(b.cmp("eq", ay, m.c(0.0)), m.c(0.0), angle)
    both = b.op("and", b.cmp("eq", ax, m.c(_INF)), b.cmp("eq", ay, m.c(_INF)))
    angle = m.select(both, m.c(math.pi / 4), angle)
    left = b.cmp("lt", b.op("copysign", m.c(1.0), x), m.c(0.0))
    angle = m.select(left, m.sub(m.c(math.pi), m.sub(angle, m.c(_PI_LOW))), angle)
    return m.select(b.cmp("uno", x, y), m.c(_NAN), b.op("copysign", angle, y))


def _asin_parts(m: _Math, a: Val) -> tuple[Val, Val, Val]:
    """(whether a > 1/2, argument s, asin(s) - s): s is a, or sqrt((1 - a) / 2)."""
    large = m.b.cmp("gt", a, m.c(0.5))
    z = m.select(large, m.mul(m.sub(m.c(1.0), a), m.c(0.5)), m.mul(a, a))
    s = m.select(large, m.b.op("sqrt", z), a)
    return large, s, m.mul(m.mul(s, z), m.horner(z, m.table("ASIN")))


@_in_double
def asin(b: LoopBuilder, x: Val) -> Val:
    """Inverse sine; NaN outside [-1, 1]."""
    m = _Math(b, x)
    large, s, tail = _asin_parts(m, m.abs(x))
    far = m.sub(m.c(math.pi / 2), m.sub(m.add(m.add(s, s), m.add(tail, tail)), m.c(_PI_LOW / 2)))
    return b.op("copysign", m.select(large, far, m.add(s, tail)), x)


@_in_double
def acos(b: LoopBuilder, x: Val) -> Val:
    """Inverse cosine; NaN outside [-1, 1]."""
    m = _Math(b, x)
    large, s, tail = _asin_parts(m, m.abs(x))
    negative = b.cmp("lt", x, m.c(0.0))
    twice = m.add(m.add(s, s), m.add(tail, tail))
    far = m.select(negative, m.sub(m.c(math.pi), m.sub(twice, m.c(_PI_LOW))), twice)
    angle = m.add(s, tail)
    signed = m.select(negative, m.neg(angle), angle)
    near = m.sub(m.c(math.pi / 2), m.sub(signed, m.c(_PI_LOW / 2)))
    return m.select(large, far, near)


# -- hyperbolic functions and their inverses ---------------------------------------------------------------------
def _half_exp(m: _Math, a: Val) -> Val:
    """exp(a) / 2 for a beyond 709, where exp(a) may overflow and this does not."""
    root = vmath.exp(m.b, m.mul(a, m.c(0.5)))
    return m.mul(m.mul(root, m.c(0.5)), root)


@_in_double
def sinh(b: LoopBuilder, x: Val) -> Val:
    """Hyperbolic sine."""
    m = _Math(b, x)
    a = m.abs(x)
    t = vmath.expm1(b, m.clamp(a, 0.0, 709.0))
    near = m.mul(m.c(0.5), m.add(t, m.div(t, m.add(t, m.c(1.0)))))
    y = m.select(b.cmp("gt", a, m.c(709.0)), _half_exp(m, a), near)
    return b.op("copysign", m.select(b.cmp("lt", a, m.c(2.0**-27)), a, y), x)


@_in_double
def cosh(b: LoopBuilder, x: Val) -> Val:
    """Hyperbolic cosine."""
    m = _Math(b, x)
    a = m.abs(x)
    e = vmath.exp(b, m.clamp(a, 0.0, 709.0))
    near = m.add(m.mul(m.c(0.5), e), m.div(m.c(0.5), e))
    return m.select(b.cmp("gt", a, m.c(709.0)), _half_exp(m, a), near)


@_in_double
def asinh(b: LoopBuilder, x: Val) -> Val:
    """Inverse hyperbolic sine."""
    m = _Math(b, x)
    a = m.abs(x)
    near = m.clamp(a, 0.0, _LARGE)
    square = m.mul(near, near)
    root = b.op("sqrt", m.add(square, m.c(1.0)))
    y = vmath.log1p(b, m.add(near, m.div(square, m.add(root, m.c(1.0)))))
    far = m.add(vmath.log(b, a), m.c(math.log(2)))
    return b.op("copysign", m.select(b.cmp("gt", a, m.c(_LARGE)), far, y), x)


@_in_double
def acosh(b: LoopBuilder, x: Val) -> Val:
    """Inverse hyperbolic cosine; NaN below 1."""
    m = _Math(b, x)
    t = m.sub(m.clamp(x, 1.0, _LARGE), m.c(1.0))
    y = vmath.log1p(b, m.add(t, b.op("sqrt", m.fma(t, t, m.add(t, t)))))
    far = m.add(vmath.log(b, x), m.c(math.log(2)))
    y = m.select(b.cmp("gt", x, m.c(_LARGE)), far, y)
    return m.select(b.cmp("lt", x, m.c(1.0)), m.c(_NAN), y)


@_in_double
def atanh(b: LoopBuilder, x: Val) -> Val:
    """Inverse hyperbolic tangent; NaN outside [-1, 1]."""
    m = _Math(b, x)
    a = m.abs(x)
    y = vmath.log1p(b, m.div(m.add(a, a), m.sub(m.c(1.0), a)))
    return b.op("copysign", m.mul(m.c(0.5), y), x)


# -- logarithms ----------------------------------------------------------------------------------------------------
def _log_over(b: LoopBuilder, x: Val, high: float, low: float) -> Val:
    """log(x) * (high + low), the product to more than float64's precision before it is rounded."""
    m = _Math(b, x)
    ordinary = b.op("and", b.cmp("gt", x, m.c(0.0)), b.cmp("lt", x, m.c(_INF)))
    top, rest = _log_extended(m, m.select(ordinary, x, m.c(1.0)))
    product, error = m.two_product(top, m.c(high))
    y = m.add(product, m.add(error, m.fma(top, m.c(low), m.mul(rest, m.c(high)))))
    return _log_specials(m, x, y)


@_in_double
def log2(b: LoopBuilder, x: Val) -> Val:
    """Logarithm to base 2, exact for powers of two."""
    return _log_over(b, x, 1.4426950408889634, 2.0355273740931033e-17)


@_in_double
def log10(b: LoopBuilder, x: Val) -> Val:
    """Logarithm to base 10, exact for powers of ten."""
    return _log_over(b, x, 0.4342944819032518, 1.098319650216765e-17)


# -- error functions -----------------------------------------------------------------------------------------------
@_in_double
def erfc(b: LoopBuilder, x: Val) -> Val:
    """1 - erf(x), small results to relative accuracy."""
    m = _Math(b, x)
    t = m.clamp(x, 0.45, 28.0)
    ratio = m.div(m.sub(t, m.c(2.0)), m.add(t, m.c(2.0)))
    shape = m.div(m.horner(ratio, m.table("ERFCX_FAR")), m.add(m.add(t, t), m.c(1.0)))
    square, error = m.two_product(t, t)
    far = m.mul(_exp_extended(m, m.neg(square), m.neg(error)), shape)
    return m.select(b.cmp("gt", x, m.c(0.5)), far, m.sub(m.c(1.0), vmath.erf(b, x)))


@_in_double
def erfinv(b: LoopBuilder, x: Val) -> Val:
    """The inverse of erf: a closed approximation and two steps of Halley's method; NaN outside [-1, 1]."""
    m = _Math(b, x)
    size = m.abs(x)
    inner = m.clamp(size, 0.0, 1.0 - 2.0**-53)
    rest = m.sub(m.c(1.0), inner)
    log = vmath.log1p(b, m.neg(m.mul(inner, inner)))
    a = 0.147
    t = m.add(m.c(2 / (math.pi * a)), m.mul(log, m.c(0.5)))
    scaled = m.mul(log, m.c(-1 / a))
    y = b.op("sqrt", m.div(scaled, m.add(b.op("sqrt", m.fma(t, t, scaled)), t)))
    low = b.cmp("lt", inner, m.c(0.5))
    for _ in range(2):
        miss = m.select(low, m.sub(vmath.erf(b, y), inner), m.sub(rest, erfc(b, y)))
        step = m.mul(m.mul(miss, m.c(math.sqrt(math.pi) / 2)), vmath.exp(b, m.mul(y, y)))
        y = m.sub(y, m.div(step, m.fma(y, step, m.c(1.0))))
    y = m.select(b.cmp("eq", size, m.c(1.0)), m.c(_INF), y)
    y = m.select(b.cmp("gt", size, m.c(1.0)), m.c(_NAN), y)
    return b.op("copysign", m.select(b.cmp("uno", x, x), x, y), x)


@_in_double
def hypot(b: LoopBuilder, x: Val, y: Val) -> Val:
    """sqrt(x*x + y*y), scaled so that nothing overflows on the way; infinite if either is."""
    m = _Math(b, x)
    ax, ay = m.abs(x), m.abs(y)
    large, small = b.op("max", ax, ay), b.op("min", ax, ay)
    ratio = m.div(small, large)
    out = m.mul(large, b.op("sqrt", m.fma(ratio, ratio, m.c(1.0))))
    out = m.select(b.cmp("eq", large, m.c(0.0)), large, out)
    out = m.select(b.cmp("uno", x, y), m.c(_NAN), out)
    infinite = b.op("or", b.cmp("eq", ax, m.c(_INF)), b.cmp("eq", ay, m.c(_INF)))
    return m.select(infinite, m.c(_INF), out)
