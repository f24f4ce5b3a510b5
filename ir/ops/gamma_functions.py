"""The gamma function's family on NumPy arrays, computed in float64 whatever the dtype of the operand.

Relative error about 1e-14, where the result is not next to a zero that is not a simple number (lgamma between two
negative integers, digamma at 1.4616): there the absolute error is that small.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np

from .special import erfc

_EULER = 0.57721566490153286061
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_STIRLING_FROM = 10.0
_ZETA_TERMS = 12


@cache
def _bernoulli() -> tuple[Fraction, ...]:
    """B_2, B_4, ..., exact."""
    count = 2 * _ZETA_TERMS + 1
    numbers = [Fraction(1)]
    for m in range(1, count):
        numbers.append(-sum((math.comb(m + 1, k) * numbers[k] for k in range(m)), Fraction(0)) / (m + 1))
    return tuple(numbers[2::2])


# -- zeta and the derivatives of digamma -----------------------------------------------------------------
def _zeta_positive(s: int, q: np.ndarray) -> np.ndarray:
    """Sum over k >= 0 of (q + k)**-s for q > 0: first terms one by one, the rest by Euler and Maclaurin's formula."""
    total = np.zeros_like(q)
    count = 10 + s
    for k in range(count):
        total = total + (q + k) ** -float(s)
    a = q + count
    power = a ** -float(s)
    total = total + a * power / (s - 1) + power / 2
    factor, inverse = power * s / a, 1 / (a * a)
    for j, b in enumerate(_bernoulli()[:_ZETA_TERMS], 1):
        total = total + float(b / math.factorial(2 * j)) * factor
        factor = factor * (s + 2 * j - 1) * (s + 2 * j) * inverse
    return total


def zeta(s: int, q: np.ndarray) -> np.ndarray:
    """Hurwitz' zeta function for an integer s > 1; inf at q = 0, -1, -2 ..."""
    q = np.asarray(q, np.float64)
    low = np.floor(q)
    pole, below = (q <= 0) & (low == q), (q < 0) & (low != q)
    safe = np.where(pole | below, 1.0, q)
    out = np.where(np.isposinf(q), 0.0, _zeta_positive(s, safe))
    if below.any():  # the terms of negative base are, up to sign, those from 1 - fraction to -q
        q_below = np.where(below, q, -0.5)
        fraction = q_below - np.floor(q_below)
        negative = _zeta_positive(s, 1 - fraction) - _zeta_positive(s, 1 - q_below)
        out = np.where(below, _zeta_positive(s, fraction) + (-1) ** s * negative, out)
    return np.where(pole, np.inf, out)


def digamma(x: np.ndarray) -> np.ndarray:
    """The derivative of lgamma; -inf at 0 (inf at -0), NaN at negative integers."""
    x = np.asarray(x)
    wide = x.astype(np.float64)
    negative = wide < 0
    y = np.where(negative, 1 - wide, np.where(wide == 0, 1.0, wide))
    total = np.zeros_like(y)
    for _ in range(int(_STIRLING_FROM)):
        short = y < _STIRLING_FROM
        total = total - np.where(short, 1 / y, 0.0)
        y = y + short
    inverse = 1 / (y * y)
    tail = np.zeros_like(y)
    for j in range(8, 0, -1):
        tail = (tail + float(_bernoulli()[j - 1] / (2 * j))) * inverse
    total = total + np.log(y) - 0.5 / y - tail
    fraction = wide - np.trunc(wide)
    total = np.where(negative, total - math.pi / np.tan(math.pi * fraction), total)
    total = np.where(negative & (fraction == 0), np.nan, total)
    return np.where(wide == 0, np.copysign(np.inf, -wide), total).astype(x.dtype)


def polygamma(x: np.ndarray, n: int) -> np.ndarray:
    """The n-th derivative of digamma; n = 0 is digamma itself."""
    if n == 0:
        return digamma(x)
    x = np.asarray(x)
    return np.asarray((-1) ** (n + 1) * math.gamma(n + 1) * zeta(n + 1, x)).astype(x.dtype)


# -- lgamma ------------------------------------------------------------------------------------------------
@cache
def _lgamma_coefficients() -> tuple[float, ...]:
    """lgamma(2 + z) = z * (1 - Euler's constant) + sum over k >= 2 of (-1)**k (zeta(k) - 1) z**k / k."""
    return (
        1 - _EULER, *((-1) ** k * float(zeta(k, np.array(2.0))) / k for k in range(2, 32))
    )  # fmt: skip


def _stirling_tail(x: np.ndarray) -> np.ndarray:
    """lgamma(x) - ((x - 1/2) log(x) - x + log(2 pi) / 2) for x >= 10."""
    inverse = 1 / (x * x)
    tail = np.zeros_like(x)
    for j in range(9, 0, -1):
        tail = tail * inverse + float(_bernoulli()[j - 1] / (2 * j * (2 * j - 1)))
    return tail / x


def _lgamma_positive(x: np.ndarray) -> np.ndarray:
    """x > 0. From its Taylor series about 2, to whose neighbourhood recurrences lead, so that it is exact at both
    zeros; from Stirling's series beyond 10."""
    below, large = x < 0.5, x >= _STIRLING_FROM
    y = np.where(below, x + 1, np.where(large, 2.0, x))
    product = np.ones_like(y)
    for _ in range(8):
        down = y > 2.5
        y = y - down
        product = np.where(down, product * y, product)
    one = y < 1.5
    z = np.where(one, y - 1, y - 2)
    series = np.zeros_like(z)
    for c in reversed(_lgamma_coefficients()):
        series = (series + c) * z
    out = series + np.log(product) - np.where(one, np.log1p(z), 0.0)
    out = np.where(below, out - np.log(np.where(below, x, 1.0)), out)
    far = np.where(large, x, _STIRLING_FROM)
    stirling = (far - 0.5) * (np.log(far) - 1) - 0.5 + _HALF_LOG_2PI + _stirling_tail(far)
    return np.where(large, stirling, out)


def lgamma(x: np.ndarray) -> np.ndarray:
    """log(|gamma(x)|); inf at 0, negative integers and infinities."""
    x = np.asarray(x)
    wide = x.astype(np.float64)
    size = np.abs(wide)
    tiny = size < 1e-300
    safe = np.where((size > 0) & np.isfinite(size) & ~tiny, size, 1.0)
    out = _lgamma_positive(safe)
    fraction = safe - np.rint(safe)
    reflected = math.log(math.pi) - np.log(np.abs(np.sin(math.pi * fraction)) * safe) - out
    out = np.where(wide < 0, reflected, out)
    out = np.where(tiny, -np.log(size), out)
    out = np.where(np.isinf(wide), np.inf, out)
    return np.where(np.isnan(wide), wide, out).astype(x.dtype)


# -- the incomplete gamma functions ------------------------------------------------------------------------
_MOST_TERMS = 4000


def _phi(m: np.ndarray) -> np.ndarray:
    """m - log(1 + m)."""
    series = np.zeros_like(m)
    for k in range(11, 1, -1):
        series = series * m + (-1) ** k / k
    return np.where(np.abs(m) < 0.01, series * m * m, m - np.log1p(m))


def _density(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x**a * exp(-x) / gamma(a + 1)."""
    large = a >= _STIRLING_FROM
    far = np.where(large, a, _STIRLING_FROM)
    near = np.where(large, 1.0, a)
    scaled = np.exp(-far * _phi(np.where(large, x - a, 0.0) / far) - _stirling_tail(far)) / np.sqrt(2 * math.pi * far)
    return np.where(large, scaled, np.exp(near * np.log(x) - x - _lgamma_positive(near + 1)))


def _series(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """P(a, x) for x < a + 1."""
    term = np.ones_like(x)
    total = term
    for k in range(1, _MOST_TERMS):
        term = term * x / (a + k)
        total = total + term
        if not (term > total * 1e-17).any():
            break
    return _density(a, x) * total


def _fraction(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Q(a, x) for x >= a + 1: Legendre's continued fraction, by Lentz' algorithm."""
    b = x + 1 - a
    c, d = np.full_like(x, 1e300), 1 / b
    total = d
    for k in range(1, _MOST_TERMS):
        factor = -k * (k - a)
        b = b + 2
        d = 1 / (factor * d + b)
        c = b + factor / c
        change = c * d
        total = total * change
        if not (np.abs(change - 1) > 1e-16).any():
            break
    return a * _density(a, x) * total


def _small_upper(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Q(a, x) for a < 1 and x < 1.5 without the cancellation of 1 - P(a, x)."""
    exponent = a * np.log(x) - _lgamma_positive(a + 1)
    term, total = np.ones_like(x), np.zeros_like(x)
    for k in range(1, 30):
        term = term * -x / k
        total = total - a * term / (a + k)
    return np.exp(exponent) * total - np.expm1(exponent)


def _uniform(a: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P, Q) for a > 10000 and x near a: the first two terms of Temme's uniform expansion."""
    m = (x - a) / a
    eta = np.copysign(np.sqrt(2 * np.fmax(_phi(m), 0.0)), m)
    close = np.abs(eta) < 1e-3
    divisor = np.where(close, 1.0, eta)
    first = np.where(
        close, -1 / 3 + eta * (1 / 12 + eta * (-2 / 135 + eta / 864)), 1 / np.where(close, 1.0, m) - 1 / divisor
    )
    second = -1 / 540 + eta * (-1 / 288 + eta / 378)
    rest = np.exp(-a * eta * eta / 2) / np.sqrt(2 * math.pi * a) * (first + second / a)
    z = eta * np.sqrt(a / 2)
    return erfc(-z) / 2 - rest, erfc(z) / 2 + rest


def _incomplete(a: np.ndarray, x: np.ndarray, upper: bool) -> np.ndarray:
    kind = np.result_type(a, x)
    a, x = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(x, np.float64))
    out = np.full(a.shape, np.nan)
    plain = (a > 0) & (x > 0) & np.isfinite(a) & np.isfinite(x)
    with np.errstate(all="ignore"):
        near = plain & (a > 1e4) & (np.abs(x - a) < 0.1 * a)
        tiny = plain & ~near & (a < 1) & (x < 1.5) if upper else np.zeros_like(plain)
        below = plain & ~near & ~tiny & (x < a + 1)
        above = plain & ~near & ~tiny & ~below
        if near.any():
            out[near] = _uniform(a[near], x[near])[int(upper)]
        if tiny.any():
            out[tiny] = _small_upper(a[tiny], x[tiny])
        if below.any():
            p = _series(a[below], x[below])
            out[below] = 1 - p if upper else p
        if above.any():
            q = _fraction(a[above], x[above])
            out[above] = q if upper else 1 - q
    valid = (a >= 0) & (x >= 0)
    lower = np.where(x == 0, 0.0, 1.0)  # the limits: all mass is at 0 for a = 0, nowhere finite for a = inf
    lower = np.where(np.isinf(a), 0.0, lower)
    undecided = (np.isinf(a) & np.isinf(x)) | ((a == 0) & (x == 0))
    limit = np.where(valid & ~undecided, 1 - lower if upper else lower, np.nan)
    return np.where(plain, out, limit).astype(kind)


def igamma(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The regularised lower incomplete gamma function P(a, x); NaN for negative operands."""
    return _incomplete(a, x, False)


def igammac(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The regularised upper incomplete gamma function Q(a, x) = 1 - P(a, x), small results to relative accuracy."""
    return _incomplete(a, x, True)
