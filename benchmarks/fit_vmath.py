"""Fits the polynomials of ``codegen/vmath_coefficients.py`` and prints that file (needs mpmath).

Each is a relative-error interpolation at Chebyshev nodes in 60 digits, rounded to the target precision; with one degree
to spare, the difference to a minimax fit does not show after rounding.
"""

from __future__ import annotations

import textwrap

import mpmath as mp
import numpy as np

mp.mp.dps = 60
HALF_LN2 = mp.log(2) / 2


def fit(f, low, high, degree: int) -> list:
    """Coefficients, constant first, of the polynomial through f at the Chebyshev nodes of [low, high]."""
    n = degree + 1
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * n)) for k in range(n)]
    matrix = mp.matrix(n, n)
    for i, x in enumerate(nodes):
        for j in range(n):
            matrix[i, j] = x**j
    return list(mp.lu_solve(matrix, mp.matrix([f(x) for x in nodes])))


def error(f, coefficients, low, high) -> float:
    """Largest relative error of the unrounded fit."""
    worst = mp.mpf(0)
    for k in range(400):
        x = low + (high - low) * (k + mp.mpf(1) / 3) / 400
        worst = max(worst, abs(mp.polyval(coefficients[::-1], x) / f(x) - 1))
    return float(worst)


def exp_tail(r):
    """(exp(r) - 1 - r) / r**2"""
    return mp.nsum(lambda k: r**k / mp.factorial(k + 2), [0, 40]) if abs(r) < mp.mpf("0.4") else None


def log_tail(f):
    """(log(1 + f) - f + f**2 / 2) / f**3"""
    return mp.mpf(1) / 3 if f == 0 else (mp.log(1 + f) - f + f * f / 2) / f**3


def atanh_tail(z):
    """(log((1 + s) / (1 - s)) - 2 s) / s**3 for s = sqrt(z)"""
    s = mp.sqrt(z)
    return (mp.log((1 + s) / (1 - s)) - 2 * s) / s**3


def atanh_tail2(z):
    """The same without its first term: (... - 2/3) / s**2"""
    return (atanh_tail(z) - mp.mpf(2) / 3) / z


def tanh_tail(z):
    """(tanh(x) / x - 1) / x**2 for x = sqrt(z)"""
    x = mp.sqrt(z)
    return (mp.tanh(x) / x - 1) / z


def erf_small(z):
    """erf(x) / x - 1 for x = sqrt(z)"""
    x = mp.sqrt(z)
    return mp.erf(x) / x - 1


def erf_exponent(a):
    """log(erfc(a)) / a"""
    return mp.log(mp.erfc(a)) / a


def normal_exponent(t):
    """log2(erfc(t / sqrt(2)) / 2)"""
    return mp.log(mp.erfc(t / mp.sqrt(2)) / 2, 2)


def erfcx_mapped(t):
    """exp(a * a) * erfc(a) * (1 + 2 * a) for t = (a - 2) / (a + 2)"""
    a = 2 * (1 + t) / (1 - t)
    return mp.exp(a * a) * mp.erfc(a) * (1 + 2 * a)


def sin_tail(z):
    """(sin(x) / x - 1) / x**2"""
    x = mp.sqrt(z)
    return (mp.sin(x) / x - 1) / z


def cos_tail(z):
    """(cos(x) - 1 + x**2 / 2) / x**4"""
    x = mp.sqrt(z)
    return (mp.cos(x) - 1 + z / 2) / z**2


def asin_tail(z):
    """(asin(x) / x - 1) / x**2 for x = sqrt(z)"""
    x = mp.sqrt(z)
    return (mp.asin(x) / x - 1) / z


def atan_tail(z):
    """(atan(x) / x - 1) / x**2 for x = sqrt(z)"""
    x = mp.sqrt(z)
    return (mp.atan(x) / x - 1) / z


TINY = mp.mpf(10) ** -12
QUARTER_PI_2 = (mp.pi / 4 * mp.mpf("1.0001")) ** 2
RANGE = HALF_LN2 * mp.mpf("1.001")
M_LOW, M_HIGH = mp.sqrt(mp.mpf("0.5")) - 1, mp.sqrt(2) - 1
S_HIGH = (mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)


def mapped(a):
    return (mp.mpf(a) - 2) / (mp.mpf(a) + 2)


# name -> (function, low, high, degree in float32 or None, degree in float64 or None)
FITS = {
    "EXP": (exp_tail, -RANGE, RANGE, 4, 10),
    "LOG": (log_tail, M_LOW, M_HIGH, 8, None),
    "ATANH": (atanh_tail, TINY, S_HIGH**2, None, 7),
    "ATANH2": (atanh_tail2, mp.mpf(10) ** -10, S_HIGH**2, None, 6),
    "TANH": (tanh_tail, TINY, mp.mpf("0.63") ** 2, 5, None),
    "ERF_SMALL": (erf_small, TINY, mp.mpf("0.93") ** 2, 6, None),
    "ERF_EXPONENT": (erf_exponent, mp.mpf("0.9"), mp.mpf("3.95"), 8, None),
    "NORMAL_EXPONENT": (normal_exponent, mp.mpf(0), mp.mpf("6.3"), 12, None),
    "ERF_SMALL_WIDE": (erf_small, TINY, mp.mpf("0.85") ** 2, None, 11),
    "ERFCX": (erfcx_mapped, mapped("0.84"), mapped("6"), None, 17),
    "ERFCX_FAR": (erfcx_mapped, mapped("0.45"), mapped("28"), None, 22),
    "ASIN": (asin_tail, TINY, mp.mpf("0.2501"), None, 12),
    "ATAN": (atan_tail, TINY, mp.mpf("0.1717"), None, 11),
    "SIN": (sin_tail, mp.mpf(10) ** -10, QUARTER_PI_2, 3, 6),
    "COS": (cos_tail, mp.mpf(10) ** -8, QUARTER_PI_2, 2, 5),
}


def main() -> None:
    print('"""Polynomial coefficients, constant term first; printed by ``benchmarks/fit_vmath.py``."""\n')
    tables: dict[str, list[str]] = {"F32": [], "F64": []}
    for name, (f, low, high, narrow, wide) in FITS.items():
        for bits, degree in (("F32", narrow), ("F64", wide)):
            if degree is None:
                continue
            c = fit(f, low, high, degree)
            kind = np.float32 if bits == "F32" else np.float64
            numbers = ", ".join(repr(float(kind(mp.nstr(x, 25)))) for x in c)
            doc = " ".join(f.__doc__.split())
            domain = f"[{mp.nstr(low, 5)}, {mp.nstr(high, 5)}]"
            tables[bits].append(f"# {doc} on {domain}, relative error {error(f, c, low, high):.1e}")
            body = textwrap.fill(numbers, 110, initial_indent="    ", subsequent_indent="    ")
            tables[bits].append(f"{bits}_{name} = (\n{body},\n)")
    for lines in tables.values():
        print("\n".join(lines))


if __name__ == "__main__":
    main()
