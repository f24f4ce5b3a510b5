"""Elementwise operators beyond arithmetic: trigonometry, logarithms of other bases, the gamma function's family,
parts of floating numbers, integer operations. Records as in ``elementwise``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import int32
from ..errors import IngotError
from ..registry import Attr, Fusion, OpDef, register
from ..types import TensorType
from . import gamma_functions, special
from .common import scalar
from .elementwise import _binary, _infer, _unary, _vjp

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Value


def _one(g: GraphBuilder, like: Value) -> Value:
    return scalar(g, 1, like)


def _squared(g: GraphBuilder, x: Value) -> Value:
    return g.mul(x, x)


# -- trigonometric and hyperbolic functions and their inverses ---------------------------------------------------
_unary("tan", np.tan, lambda g, x, y, dy: g.mul(dy, g.add(_squared(g, y), 1.0)), "tangent of radians")
_unary(
    "asin", np.arcsin, lambda g, x, y, dy: g.mul(dy, g.rsqrt(g.sub(_one(g, x), _squared(g, x)))),
    "inverse sine; NaN outside [-1, 1]",
)  # fmt: skip
_unary(
    "acos", np.arccos, lambda g, x, y, dy: g.neg(g.mul(dy, g.rsqrt(g.sub(_one(g, x), _squared(g, x))))),
    "inverse cosine; NaN outside [-1, 1]",
)  # fmt: skip
_unary("atan", np.arctan, lambda g, x, y, dy: g.div(dy, g.add(_squared(g, x), 1.0)), "inverse tangent")
_unary("sinh", np.sinh, lambda g, x, y, dy: g.mul(dy, g.cosh(x)), "hyperbolic sine")
_unary("cosh", np.cosh, lambda g, x, y, dy: g.mul(dy, g.sinh(x)), "hyperbolic cosine")
_unary(
    "asinh", np.arcsinh, lambda g, x, y, dy: g.mul(dy, g.rsqrt(g.add(_squared(g, x), 1.0))),
    "inverse hyperbolic sine",
)  # fmt: skip
_unary(
    "acosh", np.arccosh, lambda g, x, y, dy: g.mul(dy, g.rsqrt(g.sub(_squared(g, x), 1.0))),
    "inverse hyperbolic cosine; NaN below 1",
)  # fmt: skip
_unary(
    "atanh", np.arctanh, lambda g, x, y, dy: g.div(dy, g.sub(_one(g, x), _squared(g, x))),
    "inverse hyperbolic tangent; NaN outside [-1, 1]",
)  # fmt: skip
_unary("log2", np.log2, lambda g, x, y, dy: g.div(dy, g.mul(x, math.log(2))), "logarithm to base 2")
_unary("log10", np.log10, lambda g, x, y, dy: g.div(dy, g.mul(x, math.log(10))), "logarithm to base 10")

# -- error functions, the gamma function's family, Bessel functions -----------------------------------------------
_unary(
    "erfc", special.erfc,
    lambda g, x, y, dy: g.mul(dy, g.mul(g.exp(g.neg(_squared(g, x))), -2 / math.sqrt(math.pi))),
    "1 - erf(x), accurate for large x",
)  # fmt: skip
_unary(
    "erfinv", special.erfinv,
    lambda g, x, y, dy: g.mul(dy, g.mul(g.exp(_squared(g, y)), math.sqrt(math.pi) / 2)),
    "inverse of erf; NaN outside [-1, 1]",
)  # fmt: skip
_unary("lgamma", gamma_functions.lgamma, lambda g, x, y, dy: g.mul(dy, g.digamma(x)), "log(|gamma(x)|)")
_unary(
    "digamma", gamma_functions.digamma, lambda g, x, y, dy: g.mul(dy, g.polygamma(x, n=1)),
    "derivative of lgamma",
)  # fmt: skip


def _polygamma_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    if attrs["n"] < 0:
        raise IngotError(f"polygamma: attribute n must not be negative, got {attrs['n']}")
    return _infer("polygamma", "f", "cast it to a floating dtype first", None)(types, attrs)


_unary(
    "polygamma", gamma_functions.polygamma,
    lambda g, x, y, dy, n: g.mul(dy, g.polygamma(x, n=n + 1)),
    "n-th derivative of digamma", attrs={"n": Attr("int")}, infer=_polygamma_infer,
)  # fmt: skip


def _gamma_density(g: GraphBuilder, a: Value, x: Value) -> Value:
    """x**(a - 1) * exp(-x) / gamma(a), the derivative of igamma."""
    return g.exp(g.sub(g.sub(g.mul(g.sub(a, 1.0), g.log(x)), x), g.lgamma(a)))


_binary(
    "igamma", gamma_functions.igamma, lambda g, a, x, y, dy: (None, g.mul(dy, _gamma_density(g, a, x))),
    "regularised lower incomplete gamma function P(a, x); no gradient for a", kinds="f",
    unruled=(0,),
)  # fmt: skip
_binary(
    "igammac", gamma_functions.igammac, lambda g, a, x, y, dy: (None, g.neg(g.mul(dy, _gamma_density(g, a, x)))),
    "1 - igamma(a, x), accurate where it is small; no gradient for a", kinds="f",
    unruled=(0,),
)  # fmt: skip
_unary("i0", special.i0, lambda g, x, y, dy: g.mul(dy, g.i1(x)), "modified Bessel function of order 0")


def _i1_grad(g: GraphBuilder, x: Value, y: Value, dy: Value) -> Value:
    at_zero = g.eq(x, 0.0)
    safe = g.where(at_zero, _one(g, x), x)
    return g.mul(dy, g.sub(g.i0(x), g.where(at_zero, scalar(g, 0.5, x), g.div(y, safe))))


_unary("i1", special.i1, _i1_grad, "modified Bessel function of order 1")


# -- two operands --------------------------------------------------------------------------------------------------
def _atan2_grad(g: GraphBuilder, a: Value, b: Value, y: Value, dy: Value) -> tuple[Value, Value]:
    scaled = g.div(dy, g.add(_squared(g, a), _squared(g, b)))
    return g.mul(scaled, b), g.neg(g.mul(scaled, a))


_binary("atan2", np.arctan2, _atan2_grad, "angle of the point (b, a) in (-pi, pi]", kinds="f")
_binary(
    "hypot", np.hypot, lambda g, a, b, y, dy: (g.mul(dy, g.div(a, y)), g.mul(dy, g.div(b, y))),
    "sqrt(a*a + b*b) without overflow on the way", kinds="f", commutative=True,
)  # fmt: skip


def _copysign_grad(g: GraphBuilder, a: Value, b: Value, y: Value, dy: Value) -> tuple[Value, None]:
    return g.mul(dy, g.mul(g.sign(a), g.copysign(_one(g, dy), b))), None


_binary("copysign", np.copysign, _copysign_grad, "|a| with the sign of b; gradient 0 at 0", kinds="f")


def _fmod(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.fmod(a, b)
    return out if a.dtype.kind == "f" else np.where(b == 0, 0, out)


_binary(
    "fmod", _fmod, lambda g, a, b, y, dy: (dy, g.neg(g.mul(dy, g.trunc(g.div(a, b))))),
    "a - trunc(a / b) * b, with a's sign (C's fmod); integer remainder by zero is 0",
)  # fmt: skip


def _nextafter(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        # In the format of 16-bit floats, too. Of equal numbers it is b, where NumPy's for float16 is a: -0 to 0.
        return np.where(a == b, b, np.nextafter(a, b))


register(
    OpDef(
        "nextafter",
        infer=_infer("nextafter", "f", "cast it to a floating dtype first", None),
        reference=_nextafter,
        fusion=Fusion.ELEMENTWISE,
        vjp=_vjp(lambda g, a, b, y, dy: (dy, None)),
        arity=(2, 2),
        doc="the number next to a on the way to b",
    )
)

# -- integers and parts of floating numbers -----------------------------------------------------------------------
_binary("gcd", np.gcd, None, "greatest common divisor, not negative", kinds="iu", commutative=True)


def _shift(name: str) -> Any:
    function = np.left_shift if name == "left" else np.right_shift

    def shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        bits = a.dtype.itemsize * 8
        inside = (b >= 0) & (b < bits)
        if name == "left":
            return np.where(inside, function(a, np.where(inside, b, 0)), 0)
        return (
            function(a, np.where(inside, b, bits - 1))
            if a.dtype.kind == "i"
            else np.where(inside, function(a, np.where(inside, b, 0)), 0)
        )

    return shift


_SHIFTED = "shifts need integers"
_binary("shift_left", _shift("left"), None, "a * 2**b, wrapping; 0 for b outside [0, bits)", kinds="iu", hint=_SHIFTED)
_binary(
    "shift_right", _shift("right"), None, "floor(a / 2**b); b outside [0, bits) shifts everything out", kinds="iu",
    hint=_SHIFTED,
)  # fmt: skip


def _exponent(x: np.ndarray) -> np.ndarray:
    return np.frexp(x)[1]


_unary("exponent", _exponent, None, "e with x = m * 2**e and 1/2 <= |m| < 1; 0 for 0, infinities and NaN", result=int32)
