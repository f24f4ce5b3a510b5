"""Element-wise functions beyond arithmetic: trigonometry, logarithms, special functions, parts of numbers, integers.

All broadcast and promote dtypes as PyTorch does; integers become the default float type unless the text says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from ..ir.dtypes import DType
from . import dispatch, promotion, return_types, shaping
from .deprecated import old_order
from .elementwise import (
    abs,
    add,
    binary_number,
    c_name,
    clamp,
    div,
    eq,
    exp,
    floor_divide,
    ge,
    gt,
    integers_only,
    isinf,
    isnan,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    lt,
    maximum,
    minimum,
    mul,
    pow,
    sign,
    sin,
    sub,
    trunc,
    unary,
    where,
    zero_divisor,
)
from .promotion import as_float
from .tape.names import called, named

if TYPE_CHECKING:
    from .tensor import Tensor

# -- one operand ---------------------------------------------------------------------------------------------------
tan = unary("tan", "Tangent of radians.", floats=True)
asin = unary("asin", "Inverse sine.", floats=True)
acos = unary("acos", "Inverse cosine.", floats=True)
atan = unary("atan", "Inverse tangent.", floats=True)
sinh = unary("sinh", "Hyperbolic sine.", floats=True)
cosh = unary("cosh", "Hyperbolic cosine.", floats=True)
asinh = unary("asinh", "Inverse hyperbolic sine.", floats=True)
acosh = unary("acosh", "Inverse hyperbolic cosine.", floats=True)
atanh = unary("atanh", "Inverse hyperbolic tangent.", floats=True)
log2 = unary("log2", "Logarithm to base 2.", floats=True)
log10 = unary("log10", "Logarithm to base 10.", floats=True)
erfc = unary("erfc", "1 - erf(x), accurate for large x.", floats=True)
erfinv = unary("erfinv", "Inverse of erf.", floats=True)
lgamma = unary("lgamma", "log(|gamma(x)|).", floats=True)
digamma = unary("digamma", "Derivative of lgamma.", floats=True)
i0 = unary("i0", "Modified Bessel function of the first kind of order 0.", floats=True)


@named("Exp2Backward0")
def exp2(input: Tensor) -> Tensor:
    """2 ** x."""
    dispatch.require_tensor(input, "exp2")
    return pow(2.0, as_float(input))


def _scaled(name: str, factor: float, doc: str) -> Callable[[Tensor], Tensor]:
    @named(f"{name[:3].capitalize()}2{name[4:].capitalize()}Backward0")
    def fn(input: Tensor) -> Tensor:
        dispatch.require_tensor(input, name)
        return mul(as_float(input), factor)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = doc
    return fn


deg2rad = _scaled("deg2rad", math.pi / 180, "Degrees to radians.")
rad2deg = _scaled("rad2deg", 180 / math.pi, "Radians to degrees.")


@named("FracBackward0")
def frac(input: Tensor) -> Tensor:
    """x without its integer part, with x's sign; floating only."""
    dispatch.require_tensor(input, "frac")
    if not input.dtype.is_floating_point:
        raise NotImplementedError(f"\"frac_cpu\" not implemented for '{dispatch.type_word(input.dtype)}'")
    return sub(input, trunc(input))


@named("SincBackward0")
def sinc(input: Tensor) -> Tensor:
    """sin(pi x) / (pi x); 1 at 0."""
    dispatch.require_tensor(input, "sinc")
    x = mul(as_float(input), math.pi)
    at_zero = eq(x, 0)
    safe = where(at_zero, 1.0, x)
    return where(at_zero, 1.0, div(sin(safe), safe))


@named("LogitBackward0")
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)); x is limited to [eps, 1 - eps] first if ``eps`` is given."""
    dispatch.require_tensor(input, "logit")
    x = as_float(input)
    if eps is not None:
        x = clamp(x, eps, 1 - eps)
    return log(div(x, sub(1, x)))


def sgn(input: Tensor) -> Tensor:
    """-1, 0 or 1; a bool stays as it is."""
    return called(sign(input), "SgnBackward0")


def signbit(input: Tensor) -> Tensor:
    """Whether the sign is negative, also of -0.0 (bool)."""
    dispatch.require_tensor(input, "signbit")
    if not input.dtype.is_floating_point:
        return lt(input, 0)
    one = dispatch.scalar(1, input.dtype)
    return lt(dispatch.apply("copysign", one, input.detach()), 0)


def isposinf(input: Tensor) -> Tensor:
    """Whether x is +inf (bool)."""
    dispatch.require_tensor(input, "isposinf")
    return eq(as_float(input), math.inf)


def isneginf(input: Tensor) -> Tensor:
    """Whether x is -inf (bool)."""
    dispatch.require_tensor(input, "isneginf")
    return eq(as_float(input), -math.inf)


def isreal(input: Tensor) -> Tensor:
    """True everywhere: there are no complex tensors."""
    dispatch.require_tensor(input, "isreal")
    some = eq(input, input)
    return logical_or(some, logical_not(some))


@named("NanToNumBackward0")
def nan_to_num(
    input: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """NaN becomes ``nan`` (0), infinities ``posinf`` and ``neginf`` (the largest and smallest number)."""
    dispatch.require_tensor(input, "nan_to_num")
    if not input.dtype.is_floating_point:
        return input.clone()
    out = where(isnan(input), 0.0 if nan is None else nan, input)
    out = where(isposinf(input), input.dtype.max if posinf is None else posinf, out)
    return where(isneginf(input), input.dtype.min if neginf is None else neginf, out)


def frexp(input: Tensor) -> tuple[Tensor, Tensor]:
    """(mantissa in [1/2, 1), exponent as int32) with x = mantissa * 2 ** exponent; floating only."""
    dispatch.require_tensor(input, "frexp")
    if not input.dtype.is_floating_point:
        raise RuntimeError("torch.frexp() only supports floating-point dtypes")
    exponent = dispatch.apply("exponent", input.detach())
    mantissa = _scaled_by_powers(input, mul(exponent, -1))
    return return_types.frexp(called(mantissa, "FrexpBackward0"), exponent)


# -- two operands, to floating -------------------------------------------------------------------------------------
def _to_float(op: str, doc: str) -> Callable[[Any, Any], Tensor]:
    def fn(input: Tensor, other: Any) -> Tensor:
        dispatch.require_tensor(input, op)
        kind = int(not dispatch.is_tensor(other))
        return called(binary_number(op, input, other), f"{op.capitalize()}Backward{kind}")

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = doc
    return fn


def atan2(input: Tensor, other: Tensor) -> Tensor:
    """Angle of the point (other, input) in (-pi, pi]."""
    dispatch.require_tensor(input, "atan2")
    dispatch.require_tensor(other, "atan2", "other", 2)
    return binary_number("atan2", input, other)


copysign = _to_float("copysign", "|input| with the sign of ``other`` (a tensor or a number).")


def _needs_float(op: str, doc: str) -> Callable[[Tensor, Tensor], Tensor]:
    def fn(input: Tensor, other: Tensor) -> Tensor:
        dispatch.require_tensor(input, op)
        dispatch.require_tensor(other, op, "other", 2)
        dtype = promotion.result_type(input, other)
        if not dtype.is_floating_point:
            raise NotImplementedError(f"\"{op}_cpu\" not implemented for '{dispatch.type_word(dtype)}'")
        return promotion.binary(op, input, other)

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = doc + " Floating only."
    return fn


hypot = _needs_float("hypot", "sqrt(input ** 2 + other ** 2) without overflow on the way.")
nextafter = _needs_float("nextafter", "The number next to ``input`` on the way to ``other``.")


def _incomplete(op: str, doc: str) -> Callable[[Tensor, Tensor], Tensor]:
    def fn(input: Tensor, other: Tensor) -> Tensor:
        dispatch.require_tensor(input, op)
        dispatch.require_tensor(other, op, "other", 2)
        dtype = promotion.result_type(input, other)
        if not dtype.is_floating_point:
            raise NotImplementedError(f"\"{op}_cpu\" not implemented for '{dispatch.type_word(dtype)}'")
        return promotion.binary(op, input, other)

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = doc + " Gradient for ``other`` only."
    return fn


igamma = _incomplete("igamma", "Regularised lower incomplete gamma function P(input, other).")
igammac = _incomplete("igammac", "Regularised upper incomplete gamma function 1 - P(input, other).")


def polygamma(n: int, input: Tensor) -> Tensor:
    """The n-th derivative of digamma."""
    dispatch.require_tensor(input, "polygamma")
    if n < 0:
        raise RuntimeError("polygamma(n, x) does not support negative n.")
    return dispatch.apply("polygamma", as_float(input), n=int(n))


@named("MvlgammaBackward0")
def mvlgamma(input: Tensor, p: int) -> Tensor:
    """Logarithm of the multivariate gamma function of dimension ``p``."""
    dispatch.require_tensor(input, "mvlgamma")
    if p < 1:
        raise RuntimeError("p has to be greater than or equal to 1")
    x = as_float(input)
    offsets = dispatch.from_array(np.arange(p) * -0.5)
    total = dispatch.apply(
        "sum", lgamma(add(shaping.unsqueeze(x, -1), dispatch.cast(offsets, x.dtype))), axes=(x.dim(),)
    )
    return add(total, p * (p - 1) / 4 * math.log(math.pi))


def float_power(input: Any, exponent: Any) -> Tensor:
    """input ** exponent in float64."""
    promotion.common_dtype("float_power", input, exponent)
    base = dispatch.cast(input, dtypes.float64) if dispatch.is_tensor(input) else float(input)
    power = dispatch.cast(exponent, dtypes.float64) if dispatch.is_tensor(exponent) else float(exponent)
    if not dispatch.is_tensor(base):
        base = dispatch.scalar(base, dtypes.float64)
    return pow(base, power)


def float_power_(input: Tensor, exponent: Any) -> Tensor:
    """``float_power`` in place; float64 only."""
    if input.dtype is not dtypes.float64:
        raise RuntimeError(f"the base given to float_power_ has dtype {dispatch.type_word(input.dtype)} but the "
                           "operation's result requires dtype Double")  # fmt: skip
    return input.pow_(exponent)


def xlogy(input: Any, other: Any) -> Tensor:
    """input * log(other); 0 where input is 0, unless other is NaN."""
    dtype = _floating(promotion.common_dtype("xlogy", input, other))
    x, y = promotion.operand(input, dtype), promotion.operand(other, dtype)
    nothing = logical_and(eq(x, 0), logical_or(_not_above(y, 0), eq(y, math.inf)))
    kind = 1 if not dispatch.is_tensor(input) else 0 if dispatch.is_tensor(other) else 2
    return called(mul(x, log(where(nothing, 1.0, y))), f"XlogyBackward{kind}")


def _not_above(x: Tensor, bound: float) -> Tensor:
    return logical_or(lt(x, bound), eq(x, bound))


def _floating(dtype: DType) -> DType:
    return dtype if dtype.is_floating_point else promotion.get_default_dtype()


def _log_of_sum(name: str, base: float) -> Callable[[Tensor, Tensor], Tensor]:
    @named(f"{name.capitalize()}Backward0")
    def fn(input: Tensor, other: Tensor) -> Tensor:
        dispatch.require_tensor(input, name)
        dispatch.require_tensor(other, name, "other", 2)
        dtype = promotion.result_type(input, other)
        if not dtype.is_floating_point:
            raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{dispatch.type_word(dtype)}'")
        a, b = dispatch.cast(input, dtype), dispatch.cast(other, dtype)
        same = logical_and(isinf(a), eq(a, b))  # inf - inf would be NaN
        distance = mul(abs(where(same, 0.0, sub(a, b))), -math.log(base))
        rest = log1p(exp(distance))
        return add(maximum(a, b), rest if base == math.e else div(rest, math.log(base)))

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"Logarithm of the sum of powers, base {'e' if base == math.e else int(base)}, without overflow."
    return fn


logaddexp = _log_of_sum("logaddexp", math.e)
logaddexp2 = _log_of_sum("logaddexp2", 2.0)


@named("LdexpBackward0")
def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """input * 2 ** other; with integers in ``other`` exact, and of input's dtype if that is floating."""
    dispatch.require_tensor(input, "ldexp")
    dispatch.require_tensor(other, "ldexp", "other", 2)
    if other.dtype.is_floating_point:
        return mul(input, pow(2.0, other))
    if not input.dtype.is_floating_point:
        return mul(input, pow(2.0, as_float(other)))
    if other.dtype is dtypes.bool_:
        raise NotImplementedError("\"ldexp_cpu_exp\" not implemented for 'Bool'")
    return _scaled_by_powers(input, other)


def _scaled_by_powers(input: Tensor, exponent: Tensor) -> Tensor:
    """input * 2 ** exponent in two steps: the power alone may overflow."""
    wide = dtypes.float64 if input.dtype is dtypes.float64 else dtypes.float32
    first = floor_divide(exponent, 2)
    out = dispatch.cast(input, wide)
    for part in (first, sub(exponent, first)):
        out = mul(out, pow(2.0, dispatch.cast(part, wide)))
    return dispatch.cast(out, input.dtype)


@named("HeavisideBackward0")
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below zero, ``values`` at zero, 1 above; both of one dtype."""
    dispatch.require_tensor(input, "heaviside")
    dispatch.require_tensor(values, "heaviside", "values", 2)
    if input.dtype is not values.dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")
    x, at_zero = input.detach(), values.detach()
    return where(eq(x, 0), at_zero, dispatch.cast(gt(x, 0), x.dtype))


# -- two operands, any dtype ---------------------------------------------------------------------------------------
def fmod(input: Any, other: Any) -> Tensor:
    """Remainder of the division rounded towards zero: it has ``input``'s sign."""
    dispatch.require_tensor(input, "fmod")
    dtype = promotion.result_type(input, other)
    if dtype is dtypes.bool_:
        raise NotImplementedError("\"fmod_cpu\" not implemented for 'Bool'")
    zero_divisor(other, dtype)
    return called(promotion.binary("fmod", input, other), f"FmodBackward{int(dispatch.is_tensor(other))}")


def _ignoring_nan(name: str, word: str) -> Callable[[Tensor, Tensor], Tensor]:
    @named(f"{name.capitalize()}Backward0")
    def fn(input: Tensor, other: Tensor) -> Tensor:
        dispatch.require_tensor(input, name)
        dispatch.require_tensor(other, name, "other", 2)
        dtype = promotion.result_type(input, other)
        a, b = dispatch.cast(input, dtype), dispatch.cast(other, dtype)
        takes = ge(a, b) if name == "fmax" else dispatch.apply("le", a, b)
        return where(logical_or(takes, isnan(b)), a, b)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"Element-wise {word}; NaN only where both are."
    return fn


fmax = _ignoring_nan("fmax", "larger")
fmin = _ignoring_nan("fmin", "smaller")


def clamp_min(input: Tensor, min: Any) -> Tensor:
    """Values below ``min`` (a number or a tensor) become it."""
    if promotion.result_type(input, min) is dtypes.bool_:
        return maximum(input, promotion.operand(min, dtypes.bool_))
    return called(clamp(input, min=min), f"ClampMinBackward{int(dispatch.is_tensor(min))}")


def clamp_max(input: Tensor, max: Any) -> Tensor:
    """Values above ``max`` (a number or a tensor) become it."""
    if promotion.result_type(input, max) is dtypes.bool_:
        return minimum(input, promotion.operand(max, dtypes.bool_))
    return called(clamp(input, max=max), f"ClampMaxBackward{int(dispatch.is_tensor(max))}")


def rsub(input: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """other - alpha * input."""
    dispatch.require_tensor(input, "rsub")
    return called(sub(other, input, alpha=alpha), f"RsubBackward{int(not dispatch.is_tensor(other))}")


def gcd(input: Tensor, other: Tensor) -> Tensor:
    """Greatest common divisor of integers, not negative."""
    dispatch.require_tensor(input, "gcd")
    dispatch.require_tensor(other, "gcd", "other", 2)
    integers_only("gcd", promotion.result_type(input, other), bools=False)
    return promotion.binary("gcd", input, other)


def lcm(input: Tensor, other: Tensor) -> Tensor:
    """Least common multiple of integers, not negative."""
    dispatch.require_tensor(input, "lcm")
    dispatch.require_tensor(other, "lcm", "other", 2)
    integers_only("lcm", promotion.result_type(input, other), bools=False)
    divisor = gcd(input, other)
    return abs(mul(dispatch.apply("floor_divide", *_same(input, divisor)), other))


def _same(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    dtype = promotion.result_type(a, b)
    return dispatch.cast(a, dtype), dispatch.cast(b, dtype)


def _shift(op: str, name: str, sign_: str) -> Callable[[Any, Any], Tensor]:
    def fn(input: Any, other: Any) -> Tensor:
        integers_only(f"{sign_}shift", promotion.common_dtype(name, input, other), bools=False)
        return promotion.binary(op, input, other)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"Integers shifted {'left' if sign_ == 'l' else 'right'} by ``other`` bits."
    return fn


bitwise_left_shift = _shift("shift_left", "bitwise_left_shift", "l")
bitwise_right_shift = _shift("shift_right", "bitwise_right_shift", "r")


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each element is among ``test_elements`` (bool); both are compared in their common dtype."""
    dtype = promotion.common_dtype("isin", elements, test_elements)
    a, b = promotion.operand(elements, dtype), promotion.operand(test_elements, dtype)
    found = eq(shaping.unsqueeze(a, -1), shaping.reshape(b, -1))
    out = dispatch.apply("any", found, axes=(a.dim(),))
    return logical_not(out) if invert else out


# -- three operands ------------------------------------------------------------------------------------------------
@old_order
@named("AddcmulBackward0")
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    for position, x in enumerate((input, tensor1, tensor2)):
        dispatch.require_tensor(x, "addcmul", ("input", "tensor1", "tensor2")[position], position + 1)
    product = mul(tensor1, tensor2)
    dtype = promotion.result_type(input, product)
    if dtype is dtypes.bool_:
        raise NotImplementedError("\"addcmul_cpu_out\" not implemented for 'Bool'")
    if not dtype.is_floating_point:
        value = int(value)
    return add(input, product if value == 1 else mul(product, value))


@old_order
@named("AddcdivBackward0")
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 / tensor2; RuntimeError for integers alone."""
    for position, x in enumerate((input, tensor1, tensor2)):
        dispatch.require_tensor(x, "addcdiv", ("input", "tensor1", "tensor2")[position], position + 1)
    if not promotion.result_type(tensor1, tensor2).is_floating_point:
        raise RuntimeError(
            "Integer division with addcdiv is no longer supported, and in a future  release addcdiv will perform a "
            "true division of tensor1 and tensor2. The historic addcdiv behavior can be implemented as (input + value "
            "* torch.trunc(tensor1 / tensor2)).to(input.dtype) for integer inputs and as (input + value * tensor1 / "
            "tensor2) for float inputs. The future addcdiv behavior is just the latter implementation: (input + value "
            "* tensor1 / tensor2), for all dtypes."
        )
    quotient = div(tensor1, tensor2)
    return add(input, quotient if value == 1 else mul(quotient, value))


def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """input + weight * (end - input), exact at weight 0 and 1; floating tensors of one dtype."""
    dispatch.require_tensor(input, "lerp")
    dispatch.require_tensor(end, "lerp", "end", 2)
    if input.dtype is not end.dtype:
        raise RuntimeError(f"expected dtype {c_name(input.dtype)} for `end` but got dtype {c_name(end.dtype)}")
    if not input.dtype.is_floating_point:
        kind = "tensor" if dispatch.is_tensor(weight) else "scalar"
        raise NotImplementedError(f"\"lerp_kernel_{kind}\" not implemented for '{dispatch.type_word(input.dtype)}'")
    distance = sub(end, input)
    if not dispatch.is_tensor(weight):
        near_start = weight < 0.5
        out = add(input, mul(distance, weight)) if near_start else sub(end, mul(distance, 1 - weight))
        return called(out, "LerpBackward0")
    if weight.dtype is not input.dtype:
        raise RuntimeError(
            f"expected dtype {c_name(input.dtype)} for `weight` but got dtype {c_name(weight.dtype)}"
        )
    near = add(input, mul(distance, weight))
    out = where(lt(weight, 0.5), near, sub(end, mul(distance, sub(1, weight))))
    return called(out, "LerpBackward1")


arccos, arccosh, arcsin, arcsinh, arctan, arctan2, arctanh = acos, acosh, asin, asinh, atan, atan2, atanh
fix = trunc

_BOTH = (
    "acos", "acosh", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "asin", "asinh", "atan",
    "atan2", "atanh", "copysign", "cosh", "deg2rad", "digamma", "erfc", "erfinv", "exp2", "fix", "float_power", "fmod",
    "frac", "heaviside", "hypot", "i0", "igamma", "igammac", "ldexp", "lerp", "lgamma", "log10", "log2", "logit",
    "mvlgamma", "nan_to_num", "nextafter", "rad2deg", "sgn", "sinc", "sinh", "tan", "xlogy", "addcdiv", "addcmul",
    "clamp_max", "clamp_min", "bitwise_left_shift", "bitwise_right_shift", "gcd", "lcm",
)  # fmt: skip
# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    *_BOTH, "fmax", "fmin", "frexp", "isin", "isneginf", "isposinf", "isreal", "logaddexp", "logaddexp2",
    "polygamma", "rsub", "signbit",
)  # fmt: skip
METHODS = (
    *_BOTH, "float_power_", "fmax", "fmin", "frexp", "isneginf", "isposinf", "isreal", "logaddexp", "logaddexp2",
    "signbit",
)  # fmt: skip
IN_PLACE = tuple(name for name in _BOTH if name != "float_power")
