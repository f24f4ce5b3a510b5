"""Elementary functions on loop IR values: float32 and float64, any lane count, no library calls.

Only portable operations are used, and ``fma`` may round once or twice: where exactness matters, products are
split. Error bounds (units in the last place, largest seen over dense samples of all exponents; the tests enforce
them):

    ==========  =======  =======    ==========  =======  =======
    function    float32  float64    function    float32  float64
    exp         1.5      1.5        tanh        1.5      2.5
    expm1       1.5      1.5        erf         1.5      1.5
    log         1.5      1.5        sigmoid     2.5      2.5
    log1p       2        2          pow         1        1.5
    sin, cos    1.5      1.5
    ==========  =======  =======    ==========  =======  =======

sin and cos hold their bound for |x| <= 2**28 in float32 and 2**20 in float64; further out the result is some number in
[-1, 1] (NaN for infinities and NaN). Results below the smallest normal number are rounded, not flushed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.dtypes import DType, float32, float64, int32, int64
from . import vmath_coefficients as tables
from .loopir import LoopBuilder, Val

__all__ = ["cos", "erf", "exp", "exp_nonpositive", "expm1", "gelu", "log", "log1p", "pow", "sigmoid", "sin", "tanh"]

_INF, _NAN = math.inf, math.nan
# ln 2 in two parts: the first has so few bits that its product with any exponent is exact.
_LN2 = {
    float32: (0.693145751953125, 1.4286068203094172321e-06),
    float64: (0.693147180369123816490, 1.90821492927058770002e-10),
}


class _Math:
    """Shorthands for one dtype and lane count."""

    def __init__(self, b: LoopBuilder, like: Val) -> None:
        if like.dtype not in (float32, float64):
            raise TypeError(f"vmath: {like.dtype.name} is not float32 or float64")
        self.b = b
        self.dtype: DType = like.dtype
        self.lanes = like.lanes
        self.double = like.dtype is float64
        self.ints = int64 if self.double else int32
        self.mantissa = 52 if self.double else 23
        self.bias = 1023 if self.double else 127

    def table(self, name: str) -> Sequence[float]:
        return getattr(tables, ("F64_" if self.double else "F32_") + name)

    def c(self, value: float) -> Val:
        return self.b.const(self.dtype, value, self.lanes)

    def i(self, value: int) -> Val:
        return self.b.const(self.ints, value, self.lanes)

    def add(self, x: Val, y: Val) -> Val:
        return self.b.op("add", x, y)

    def sub(self, x: Val, y: Val) -> Val:
        return self.b.op("sub", x, y)

    def mul(self, x: Val, y: Val) -> Val:
        return self.b.op("mul", x, y)

    def div(self, x: Val, y: Val) -> Val:
        return self.b.op("div", x, y)

    def fma(self, x: Val, y: Val, z: Val) -> Val:
        return self.b.op("fma", x, y, z)

    def neg(self, x: Val) -> Val:
        return self.b.op("neg", x)

    def abs(self, x: Val) -> Val:
        return self.b.op("abs", x)

    def select(self, mask: Val, x: Val, y: Val) -> Val:
        return self.b.select(mask, x, y)

    def clamp(self, x: Val, low: float, high: float) -> Val:
        """NaN stays: min and max return their second operand then."""
        return self.b.op("min", self.c(high), self.b.op("max", self.c(low), x))

    def horner(self, x: Val, coefficients: Sequence[float]) -> Val:
        acc = self.c(coefficients[-1])
        for k in reversed(coefficients[:-1]):
            acc = self.fma(acc, x, self.c(k))
        return acc

    def round_to_int(self, x: Val) -> tuple[Val, Val]:
        """Nearest integer of a small x, as a float and as an int (adding 1.5 * 2**mantissa rounds in the adder)."""
        magic = 1.5 * 2.0**self.mantissa
        shifted = self.add(x, self.c(magic))
        base = ((self.bias + self.mantissa) << self.mantissa) | (1 << (self.mantissa - 1))
        return self.sub(shifted, self.c(magic)), self.b.op("sub", self.b.bitcast(shifted, self.ints), self.i(base))

    def power_of_two(self, n: Val) -> Val:
        """2**n for an int n in the normal range."""
        field = self.b.op("shl", self.b.op("add", n, self.i(self.bias)), self.i(self.mantissa))
        return self.b.bitcast(field, self.dtype)

    def scale(self, x: Val, n: Val) -> Val:
        """x * 2**n in two steps: right also where the result is subnormal or overflows."""
        half = self.b.op("ashr", n, self.i(1))
        x = self.mul(x, self.power_of_two(half))
        return self.mul(x, self.power_of_two(self.b.op("sub", n, half)))

    def split(self, x: Val) -> tuple[Val, Val]:
        """(exponent as float, mantissa in [sqrt(1/2), sqrt(2))) of a positive finite x."""
        b = self.b
        tiny = b.cmp("lt", x, self.c(2.0 ** (2 - self.bias)))
        x = self.select(tiny, self.mul(x, self.c(2.0**self.mantissa)), x)
        bits = b.bitcast(x, self.ints)
        # Half-way point sqrt(1/2) moved to a power of two, so that the shift rounds where we want it to.
        pivot = 0x3FE6A09E667F3BCD if self.double else 0x3F3504F3
        e = b.op("ashr", b.op("sub", bits, self.i(pivot)), self.i(self.mantissa))
        m = b.bitcast(b.op("sub", bits, b.op("shl", e, self.i(self.mantissa))), self.dtype)
        exponent = b.cast(e, self.dtype)
        return self.select(tiny, self.sub(exponent, self.c(float(self.mantissa))), exponent), m

    # -- exact arithmetic on unevaluated sums (float64) --------------------------------------------------
    def two_sum(self, x: Val, y: Val) -> tuple[Val, Val]:
        """(s, e): s = fl(x + y) and s + e = x + y."""
        s = self.add(x, y)
        t = self.sub(s, x)
        return s, self.add(self.sub(x, self.sub(s, t)), self.sub(y, t))

    def quick_sum(self, x: Val, y: Val) -> tuple[Val, Val]:
        """As ``two_sum`` for |x| >= |y|."""
        s = self.add(x, y)
        return s, self.sub(y, self.sub(s, x))

    def halves(self, x: Val) -> tuple[Val, Val]:
        """x as a sum of two numbers of half the precision."""
        top = self.mul(x, self.c(134217729.0 if self.double else 4097.0))
        high = self.sub(top, self.sub(top, x))
        return high, self.sub(x, high)

    def two_product(self, x: Val, y: Val) -> tuple[Val, Val]:
        """(p, e): p = fl(x * y) and p + e = x * y, without relying on fma."""
        p = self.mul(x, y)
        xh, xl = self.halves(x)
        yh, yl = self.halves(y)
        e = self.sub(self.mul(xh, yh), p)
        e = self.add(self.add(e, self.mul(xh, yl)), self.mul(xl, yh))
        return p, self.add(e, self.mul(xl, yl))


def _reduce_exp(m: _Math, x: Val) -> tuple[Val, Val, Val]:
    """(n as float, n as int, r) with x = n ln 2 + r and |r| <= ln(2) / 2."""
    high, low = _LN2[m.dtype]
    nf, n = m.round_to_int(m.mul(x, m.c(1 / math.log(2))))
    return nf, n, m.fma(nf, m.c(-low), m.fma(nf, m.c(-high), x))


def exp(b: LoopBuilder, x: Val) -> Val:
    """e**x; 1.5 ULP. exp(-inf) = 0, exp(inf) = inf."""
    m = _Math(b, x)
    _, n, r = _reduce_exp(m, m.clamp(x, -746.0, 710.0) if m.double else m.clamp(x, -104.0, 89.0))
    p = m.fma(m.mul(r, r), m.horner(r, m.table("EXP")), r)
    return m.scale(m.add(p, m.c(1.0)), n)


def exp_nonpositive(b: LoopBuilder, x: Val) -> Val:
    """e**x for x <= 0; 1.5 ULP, but 0 for x < -87 (float64: -708). Two thirds of the instructions of ``exp``."""
    m = _Math(b, x)
    magic = m.c(1.5 * 2.0**m.mantissa)
    high, low = _LN2[m.dtype]
    shifted = m.fma(x, m.c(1 / math.log(2)), magic)
    nf = m.sub(shifted, magic)
    r = m.fma(nf, m.c(-low), m.fma(nf, m.c(-high), x))
    p = m.fma(m.mul(r, r), m.horner(r, m.table("EXP")), r)
    # The low bits of ``shifted`` are the exponent; the constant part of its mantissa is shifted out.
    field = b.op("add", b.op("shl", b.bitcast(shifted, m.ints), m.i(m.mantissa)), m.i(m.bias << m.mantissa))
    scaled = m.mul(m.add(p, m.c(1.0)), b.bitcast(field, m.dtype))
    return m.select(b.cmp("lt", x, m.c(-708.0 if m.double else -87.0)), m.c(0.0), scaled)


def expm1(b: LoopBuilder, x: Val) -> Val:
    """e**x - 1; 1.5 ULP, also near 0."""
    m = _Math(b, x)
    low, high = (-40.0, 710.0) if m.double else (-20.0, 89.0)
    xc = m.clamp(x, low, high)
    hi, lo = _LN2[m.dtype]
    nf, n = m.round_to_int(m.mul(xc, m.c(1 / math.log(2))))
    first = m.sub(xc, m.mul(nf, m.c(hi)))
    second = m.mul(nf, m.c(lo))
    r = m.sub(first, second)
    lost = m.sub(m.sub(first, r), second)
    tail = m.fma(m.mul(r, r), m.horner(r, m.table("EXP")), lost)
    # exp(x) - 1 = 2 * (s * (r + tail) + (s - 1/2)) with s = 2**(n - 1), which cannot overflow.
    s = m.power_of_two(b.op("sub", n, m.i(1)))
    big, error = m.two_sum(m.sub(s, m.c(0.5)), m.mul(s, r))
    y = m.add(big, m.fma(s, tail, error))
    y = m.add(y, y)
    tiny = b.cmp("lt", m.abs(x), m.c(2.0 ** -(m.mantissa + 2)))
    return m.select(tiny, x, y)


def _log_of_mantissa(m: _Math, f: Val, e: Val) -> Val:
    """e ln 2 + log(1 + f) for 1 + f in [sqrt(1/2), sqrt(2))."""
    high, low = _LN2[m.dtype]
    half_square = m.mul(m.mul(f, f), m.c(0.5))
    if m.double:
        # log(1 + f) = f - (f*f/2 - s * (f*f/2 + tail)) with s = f / (2 + f); the big terms stay exact.
        s = m.div(f, m.add(f, m.c(2.0)))
        z = m.mul(s, s)
        tail = m.mul(z, m.horner(z, m.table("ATANH")))
        inner = m.fma(s, m.add(half_square, tail), m.mul(e, m.c(low)))
    else:
        cube = m.mul(m.mul(f, f), f)
        inner = m.fma(cube, m.horner(f, m.table("LOG")), m.mul(e, m.c(low)))
    return m.add(m.mul(e, m.c(high)), m.sub(f, m.sub(half_square, inner)))


def log(b: LoopBuilder, x: Val) -> Val:
    """Natural logarithm; 1.5 ULP. log(0) = -inf, NaN below zero."""
    m = _Math(b, x)
    e, mantissa = m.split(x)
    y = _log_of_mantissa(m, m.sub(mantissa, m.c(1.0)), e)
    return _log_specials(m, x, y)


def _log_specials(m: _Math, x: Val, y: Val) -> Val:
    b = m.b
    y = m.select(b.cmp("lt", x, m.c(_INF)), y, x)  # inf and NaN
    y = m.select(b.cmp("lt", x, m.c(0.0)), m.c(_NAN), y)
    return m.select(b.cmp("eq", x, m.c(0.0)), m.c(-_INF), y)


def log1p(b: LoopBuilder, x: Val) -> Val:
    """log(1 + x); 2 ULP, also near 0."""
    m = _Math(b, x)
    u, lost = m.two_sum(m.c(1.0), x)
    e, mantissa = m.split(u)
    y = _log_of_mantissa(m, m.sub(mantissa, m.c(1.0)), e)
    y = m.add(y, m.div(lost, u))
    y = _log_specials(m, u, y)
    return m.select(b.cmp("lt", m.abs(x), m.c(2.0 ** -(m.mantissa + 2))), x, y)


def tanh(b: LoopBuilder, x: Val) -> Val:
    """Hyperbolic tangent; 1.5 ULP in float32, 2.5 in float64."""
    m = _Math(b, x)
    a = m.abs(x)
    if m.double:
        t = expm1(b, m.clamp(m.add(a, a), 0.0, 50.0))
        return b.op("copysign", m.div(t, m.add(t, m.c(2.0))), x)
    e = exp(b, m.add(a, a))
    large = m.sub(m.c(1.0), m.div(m.c(2.0), m.add(e, m.c(1.0))))
    z = m.mul(x, x)
    small = m.fma(m.mul(a, z), m.horner(z, m.table("TANH")), a)
    return b.op("copysign", m.select(b.cmp("lt", a, m.c(0.625)), small, large), x)


def sigmoid(b: LoopBuilder, x: Val) -> Val:
    """1 / (1 + e**-x); 2.5 ULP, small results too."""
    m = _Math(b, x)
    e = exp(b, m.neg(m.abs(x)))
    top = m.select(b.cmp("lt", x, m.c(0.0)), e, m.c(1.0))
    return m.div(top, m.add(e, m.c(1.0)))


def erf(b: LoopBuilder, x: Val) -> Val:
    """Error function; 1.5 ULP."""
    m = _Math(b, x)
    a = m.abs(x)
    if m.double:
        limit, small = 0.84375, m.table("ERF_SMALL_WIDE")
        t = m.clamp(a, 0.84, 6.0)
        ratio = m.div(m.sub(t, m.c(2.0)), m.add(t, m.c(2.0)))
        shape = m.div(m.horner(ratio, m.table("ERFCX")), m.add(m.add(t, t), m.c(1.0)))
        rest = m.mul(exp(b, m.neg(m.mul(t, t))), shape)
    else:
        limit, small = 0.921875, m.table("ERF_SMALL")
        t = m.clamp(a, 0.9, 3.93)
        rest = exp(b, m.mul(t, m.horner(t, m.table("ERF_EXPONENT"))))
    large = b.op("copysign", m.sub(m.c(1.0), rest), x)
    near = m.fma(m.horner(m.mul(x, x), small), x, x)
    return m.select(b.cmp("lt", a, m.c(limit)), near, large)


def gelu(b: LoopBuilder, x: Val) -> Val:
    """x * (1 + erf(x / sqrt(2))) / 2; absolute error 1 ULP of max(|x|, 1), float32: down to -6 at most 5e-6 of y."""
    m = _Math(b, x)
    if m.double:
        e = erf(b, m.mul(x, m.c(math.sqrt(0.5))))
        return m.mul(m.mul(x, m.c(0.5)), m.add(m.c(1.0), e))
    # The normal distribution's tail as one power of two: nothing cancels and there is no second branch.
    limit = 6.3
    t = m.abs(x)
    exponent = m.horner(b.op("min", m.c(limit), t), m.table("NORMAL_EXPONENT"))
    magic = m.c(1.5 * 2.0**m.mantissa)
    shifted = m.add(exponent, magic)
    r = m.mul(m.sub(exponent, m.sub(shifted, magic)), m.c(math.log(2)))
    p = m.fma(m.mul(r, r), m.horner(r, m.table("EXP")), r)
    field = b.op("add", b.op("shl", b.bitcast(shifted, m.ints), m.i(m.mantissa)), m.i(m.bias << m.mantissa))
    tail = m.mul(m.add(p, m.c(1.0)), b.bitcast(field, m.dtype))
    tail = m.select(b.cmp("gt", t, m.c(limit)), m.c(0.0), tail)
    return m.mul(x, m.select(b.cmp("lt", x, m.c(0.0)), tail, m.sub(m.c(1.0), tail)))


# -- sine and cosine -----------------------------------------------------------------------------------
# pi / 2 in three parts. The first two have 24 bits (33 for float64 results), so that their products with up to
# 2**28 (2**20) quarter turns are exact in float64.
_HALF_PI = {
    float32: (13176794 * 2.0**-23, 10625384 * 2.0**-47, 5.3903028581581190529e-15),
    float64: (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959507324e-21),
}


def _reduce_turns(b: LoopBuilder, x: Val) -> tuple[Val, Val, Val]:
    """(quadrant as an int of x's width, r, error of r) with x = n * pi/2 + r + error; computed in float64."""
    v = b.cast(x, float64)
    m = _Math(b, v)
    n = b.op("roundeven", m.mul(v, m.c(2 / math.pi)))
    first, second, third = (m.mul(n, m.c(part)) for part in _HALF_PI[x.dtype])
    turn = m.sub(n, m.mul(b.op("floor", m.mul(n, m.c(0.25))), m.c(4.0)))  # n modulo 4, for n of any size
    # Beyond the range of exact products r is meaningless; the clamps keep the result inside [-1, 1].
    r, error = m.two_sum(m.sub(v, first), m.neg(second))
    r, more = m.two_sum(r, m.neg(third))
    error = m.clamp(m.add(error, more), -1e-9, 1e-9)
    r = m.clamp(r, -0.7854, 0.7854)
    if x.dtype is float32:
        error = m.sub(r, b.cast(b.cast(r, float32), float64))
    ints = int64 if x.dtype is float64 else int32
    whole = m.select(b.cmp("uno", turn, turn), m.c(0.0), turn)
    return b.cast(m.clamp(whole, 0.0, 3.0), ints), b.cast(r, x.dtype), b.cast(error, x.dtype)


def _turned(b: LoopBuilder, x: Val, ahead: int) -> Val:
    """sin(x + ahead * pi/2)."""
    m = _Math(b, x)
    quadrant, r, error = _reduce_turns(b, x)
    if ahead:
        quadrant = b.op("add", quadrant, m.i(ahead))
    z = m.mul(r, r)
    half = m.mul(z, m.c(0.5))
    sine = m.fma(m.mul(r, z), m.horner(z, m.table("SIN")), m.mul(error, m.sub(m.c(1.0), half)))
    sine = m.add(r, sine)
    # 1 - z/2 loses the low part of z/2; it is recovered exactly.
    near = m.sub(m.c(1.0), half)
    lost = m.sub(m.sub(m.c(1.0), near), half)
    fine = m.fma(m.mul(z, z), m.horner(z, m.table("COS")), m.sub(lost, m.mul(r, error)))
    cosine = m.add(near, fine)
    odd = b.cmp("ne", b.op("and", quadrant, m.i(1)), m.i(0))
    y = m.select(odd, cosine, sine)
    flip = b.cmp("ne", b.op("and", quadrant, m.i(2)), m.i(0))
    y = m.clamp(m.select(flip, m.neg(y), y), -1.0, 1.0)
    return m.select(b.cmp("uno", m.sub(x, x), m.c(0.0)), m.c(_NAN), y)  # infinities


def sin(b: LoopBuilder, x: Val) -> Val:
    """Sine of radians; 1.5 ULP up to |x| = 2**28 (float64: 2**20), see the module docstring beyond."""
    m = _Math(b, x)
    return m.select(b.cmp("lt", m.abs(x), m.c(2.0**-13 if not m.double else 2.0**-27)), x, _turned(b, x, 0))


def cos(b: LoopBuilder, x: Val) -> Val:
    """Cosine of radians; 1.5 ULP up to |x| = 2**28 (float64: 2**20), see the module docstring beyond."""
    return _turned(b, x, 1)


# -- powers --------------------------------------------------------------------------------------------
def pow(b: LoopBuilder, x: Val, y: Val) -> Val:
    """x**y; 1 ULP in float32 (computed in float64), 1.5 in float64. Special cases as in IEEE 754 (C's ``pow``)."""
    if x.dtype is float32:
        return b.cast(_pow64(b, b.cast(x, float64), b.cast(y, float64)), float32)
    return _pow64(b, x, y)


def _pow64(b: LoopBuilder, x: Val, y: Val) -> Val:
    m = _Math(b, x)
    zero, one, inf = m.c(0.0), m.c(1.0), m.c(_INF)
    a = m.abs(x)
    high, low = _log_extended(m, a)
    # Exponents beyond 2**80 give 0, 1 or infinity whatever their value; the clamp keeps the products finite.
    yc = m.clamp(y, -(2.0**80), 2.0**80)
    p, pe = m.two_product(yc, high)
    r = _exp_extended(m, p, m.fma(yc, low, pe))
    negative = b.cmp("lt", y, zero)
    r = m.select(b.cmp("eq", a, zero), m.select(negative, inf, zero), r)
    r = m.select(b.cmp("eq", a, inf), m.select(negative, zero, inf), r)
    # Sign of negative bases: that of an odd exponent; other exponents must be integers.
    half = m.mul(y, m.c(0.5))
    whole = b.cmp("eq", b.op("floor", y), y)
    odd = b.op("and", whole, b.cmp("ne", b.op("floor", half), half))
    sign = b.cmp("lt", b.op("copysign", one, x), zero)
    r = m.select(b.op("and", sign, odd), m.neg(r), r)
    finite_negative = b.op("and", b.cmp("lt", x, zero), b.cmp("lt", a, inf))
    r = m.select(b.op("and", finite_negative, b.op("not", whole)), m.c(_NAN), r)
    r = m.select(b.cmp("uno", x, y), m.c(_NAN), r)
    trivial = b.op("or", b.cmp("eq", x, one), b.cmp("eq", y, zero))
    return m.select(trivial, one, r)


def _log_extended(m: _Math, a: Val) -> tuple[Val, Val]:
    """log of a positive finite float64 as an unevaluated sum of relative error 2**-65."""
    e, mantissa = m.split(a)
    f = m.sub(mantissa, m.c(1.0))
    # s = f / (2 + f) to twice the precision; 2 + f is exact in two parts.
    d, d_low = m.two_sum(m.c(2.0), f)
    s = m.div(f, d)
    p, pe = m.two_product(s, d)
    s_low = m.div(m.sub(m.sub(m.sub(f, p), pe), m.mul(s, d_low)), d)
    # log(1 + f) = 2 s + 2/3 s**3 + s**5 tail(s**2), the first two terms with their errors.
    z, ze = m.two_product(s, s)
    ze = m.fma(m.add(s, s), s_low, ze)
    c, ce = m.two_product(s, z)
    ce = m.add(ce, m.fma(s, ze, m.mul(s_low, z)))
    third = 2.0 / 3.0
    t, te = m.two_product(c, m.c(third))
    te = m.add(te, m.fma(ce, m.c(third), m.mul(c, m.c(3.700743415417188e-17))))
    tail = m.mul(m.mul(c, z), m.horner(z, m.table("ATANH2")))
    # e ln 2 in two parts (the first product is exact), then the sum from the largest term down.
    high, error = m.quick_sum(m.mul(e, m.c(0.6931471805598903)), m.add(s, s))
    no_exponent = m.b.cmp("eq", e, m.c(0.0))
    high = m.select(no_exponent, m.add(s, s), high)
    error = m.select(no_exponent, m.c(0.0), error)
    high, more = m.two_sum(high, t)
    rest = m.add(m.add(s_low, s_low), m.add(te, tail))
    rest = m.add(m.add(rest, m.mul(e, m.c(5.4979230187083711747e-14))), m.add(error, more))
    return m.quick_sum(high, rest)


def _exp_extended(m: _Math, x: Val, low: Val) -> Val:
    """exp(x + low) for |low| much smaller than |x|."""
    xc = m.clamp(x, -746.0, 710.0)
    high_part, low_part = _LN2[float64]
    nf, n = m.round_to_int(m.mul(xc, m.c(1 / math.log(2))))
    first = m.sub(xc, m.mul(nf, m.c(high_part)))
    second = m.mul(nf, m.c(low_part))
    r = m.sub(first, second)
    # Far outside the range x alone decides, and its error may be anything.
    low = m.select(m.b.cmp("lt", m.abs(x), m.c(800.0)), low, m.c(0.0))
    r, lost = m.two_sum(r, m.add(m.sub(m.sub(first, r), second), low))
    p = m.fma(m.mul(r, r), m.horner(r, m.table("EXP")), m.fma(lost, r, lost))
    return m.scale(m.add(m.c(1.0), m.add(r, p)), n)
