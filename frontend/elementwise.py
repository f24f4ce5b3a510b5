"""Element-wise functions and arithmetic, with broadcasting and PyTorch's dtype promotion."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from ..ir.dtypes import DType
from . import dispatch, promotion
from .deprecated import old_order
from .promotion import as_float, binary, is_operand
from .size import SymInt
from .tape.names import called, named

if TYPE_CHECKING:
    from .tensor import Tensor


def unary(op: str, doc: str, *, floats: bool = False, name: str = "") -> Callable[[Tensor], Tensor]:
    def fn(input: Tensor) -> Tensor:
        dispatch.require_tensor(input, fn.__name__)
        return dispatch.apply(op, as_float(input) if floats else input)

    fn.__name__ = fn.__qualname__ = name or op
    fn.__doc__ = doc + (" Integers become the default float type." if floats else "") + " Any shape."
    return fn


exp = unary("exp", "e to the power of each element.", floats=True)
expm1 = unary("expm1", "exp(x) - 1, exact near 0.", floats=True)
log = unary("log", "Natural logarithm.", floats=True)
log1p = unary("log1p", "log(1 + x), exact near 0.", floats=True)
sqrt = unary("sqrt", "Square root.", floats=True)
rsqrt = unary("rsqrt", "1 / sqrt(x).", floats=True)
reciprocal = unary("reciprocal", "1 / x.", floats=True)
sin = unary("sin", "Sine.", floats=True)
cos = unary("cos", "Cosine.", floats=True)
tanh = unary("tanh", "Hyperbolic tangent.", floats=True)
erf = unary("erf", "Error function.", floats=True)
sigmoid = unary("sigmoid", "1 / (1 + exp(-x)).", floats=True)
isnan = unary("isnan", "Whether each element is NaN (bool).", floats=True)
isinf = unary("isinf", "Whether each element is infinite (bool).", floats=True)
isfinite = unary("isfinite", "Whether each element is finite (bool).", floats=True)


def binary_number(op: str, a: Any, b: Any) -> Tensor:
    """Apply a floating two-operand operator after promotion; integers become the default float type."""
    dtype = promotion.common_dtype(op, a, b)
    return promotion.broadcast(op, a, b, dtype if dtype.is_floating_point else promotion.get_default_dtype())


def _refuse(function: str, dtype: DType) -> NotImplementedError:
    return NotImplementedError(f"\"{function}_cpu\" not implemented for '{dispatch.type_word(dtype)}'")


def integers_only(function: str, dtype: DType, *, bools: bool = True) -> None:
    """NotImplementedError with PyTorch's words for floating dtypes (and bool unless ``bools``)."""
    if dtype.is_floating_point or (dtype is dtypes.bool_ and not bools):
        raise _refuse(function, dtype)


def zero_divisor(other: Any, dtype: DType) -> None:
    """RuntimeError if an integer division would be by zero; a compiled function gives 0 there."""
    if dtype.is_floating_point:
        return
    if not dispatch.is_tensor(other):
        zero = not isinstance(other, SymInt) and bool(np.any(np.asarray(other) == 0))
    else:
        zero = other._value is None and not other._data.all()
    if zero:
        raise RuntimeError("ZeroDivisionError")


def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1; a bool stays as it is."""
    dispatch.require_tensor(input, "sign")
    return input.clone() if input.dtype is dtypes.bool_ else dispatch.apply("sign", input)


def _rounding(op: str, doc: str) -> Callable[[Tensor], Tensor]:
    def fn(input: Tensor) -> Tensor:
        dispatch.require_tensor(input, op)
        if input.dtype is dtypes.bool_:
            raise NotImplementedError(f"\"{op}_vml_cpu\" not implemented for 'Bool'")
        return dispatch.apply(op, input) if input.dtype.is_floating_point else input.clone()

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = doc + " Integers stay as they are."
    return fn


trunc = _rounding("trunc", "Rounds towards zero.")
ceil = _rounding("ceil", "Smallest integer not below x.")
floor = _rounding("floor", "Largest integer not above x.")
_round = _rounding("round", "Nearest integer, halves to even.")


@named("RoundBackward1")
def _round_to(input: Tensor, decimals: int) -> Tensor:
    if not input.dtype.is_floating_point:
        raise _refuse("round", input.dtype)
    power = 10.0 ** builtins.abs(decimals)
    if decimals > 0:
        return div(_round(mul(input, power)), power)
    return mul(_round(div(input, power)), power)


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Nearest integer, halves to even; with ``decimals``, nearest multiple of 10 ** -decimals (floating only)."""
    return _round_to(input, decimals) if decimals else _round(input)


def neg(input: Tensor) -> Tensor:
    """-x; refuses bool."""
    dispatch.require_tensor(input, "neg")
    if input.dtype is dtypes.bool_:
        raise RuntimeError("Negation, the `-` operator, on a bool tensor is not supported. If you are trying to "
                           "invert a mask, use the `~` or `logical_not()` operator instead.")  # fmt: skip
    return dispatch.apply("neg", input)


def abs(input: Tensor) -> Tensor:
    """Absolute value; refuses bool."""
    dispatch.require_tensor(input, "abs")
    if input.dtype is dtypes.bool_:
        raise _refuse("abs", input.dtype)
    return dispatch.apply("abs", input)


def positive(input: Tensor) -> Tensor:
    """+x: the tensor itself; refuses bool."""
    dispatch.require_tensor(input, "positive")
    if input.dtype is dtypes.bool_:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


@named("PowBackward0")
def square(input: Tensor) -> Tensor:
    """x * x."""
    return pow(input, 2)


def relu(input: Tensor) -> Tensor:
    """max(x, 0); refuses bool."""
    dispatch.require_tensor(input, "relu")
    if input.dtype is dtypes.bool_:
        raise RuntimeError("Boolean inputs not supported for relu")
    return dispatch.apply("relu", input)


def _times_alpha(function: str, input: Any, other: Any, alpha: Any) -> Any:
    """alpha * other, with PyTorch's rules for alpha."""
    if dispatch.is_tensor(alpha):
        alpha = alpha.item()
    if not isinstance(alpha, (bool, int, float, SymInt, np.number, np.bool_)):
        raise TypeError(f"{function}(): argument 'alpha' must be Number, not {type(alpha).__name__}")
    dtype = promotion.result_type(input, other)
    if isinstance(alpha, bool) and dtype is not dtypes.bool_:
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if isinstance(alpha, (float, np.floating)) and not dtype.is_floating_point:
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
    return mul(promotion.operand(other, dtype), bool(alpha) if dtype is dtypes.bool_ else alpha)


def plus(input: Any, other: Any) -> Tensor:
    """The operator ``+``; the logical or for bools."""
    dtype = promotion.common_dtype("add", input, other)
    return promotion.broadcast("logical_or" if dtype is dtypes.bool_ else "add", input, other, dtype)


def minus(input: Any, other: Any) -> Tensor:
    """The operator ``-``; refuses bool."""
    dtype = promotion.common_dtype("sub", input, other)
    if dtype is dtypes.bool_:
        raise RuntimeError("Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
                           "`logical_xor()` operator instead.")  # fmt: skip
    if any((x.dtype is dtypes.bool_) if dispatch.is_tensor(x) else isinstance(x, bool) for x in (input, other)):
        raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to "
                           "invert a mask, use the `~` or `logical_not()` operator instead.")  # fmt: skip
    return promotion.broadcast("sub", input, other, dtype)


def reflected_minus(input: Any, other: Tensor) -> Tensor:
    """A number minus a tensor."""
    return called(minus(input, other), "RsubBackward1")


def reflected_div(input: Any, other: Tensor) -> Tensor:
    """A number divided by a tensor, which PyTorch computes as its reciprocal times the number."""
    return called(div(input, other), "MulBackward0")


@old_order
def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input + alpha * other; the logical or for bools."""
    return plus(input, other) if alpha == 1 and alpha is not True else _add_scaled(input, other, alpha)


@named("AddBackward0")
def _add_scaled(input: Any, other: Any, alpha: Any) -> Tensor:
    return plus(input, _times_alpha("add", input, other, alpha))


@old_order
def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input - alpha * other; refuses bool."""
    return minus(input, other) if alpha == 1 and alpha is not True else _sub_scaled(input, other, alpha)


@named("SubBackward0")
def _sub_scaled(input: Any, other: Any, alpha: Any) -> Tensor:
    return minus(input, _times_alpha("sub", input, other, alpha))


def mul(input: Any, other: Any) -> Tensor:
    """input * other; the logical and for bools."""
    dtype = promotion.common_dtype("mul", input, other)
    return promotion.broadcast("logical_and" if dtype is dtypes.bool_ else "mul", input, other, dtype)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other (integers give the default float).

    ``rounding_mode``: None, "floor", or "trunc" (towards zero); with one, integers stay integers and dividing them by
    zero is a RuntimeError.
    """
    if rounding_mode is None:
        return binary_number("div", input, other)
    if rounding_mode == "floor":
        return called(_floor_quotient(input, other, "div_floor"), "DivBackward2")
    if rounding_mode != "trunc":
        raise RuntimeError("div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
                           f"'{rounding_mode}'")  # fmt: skip
    dtype = promotion.result_type(input, other)
    if dtype.is_floating_point:
        return called(trunc(binary("div", input, other)), "DivBackward2")
    if dtype is dtypes.bool_:
        raise _refuse("div_trunc", dtype)
    zero_divisor(other, dtype)
    a, b = promotion.operand(input, dtype), promotion.operand(other, dtype)
    return binary("floor_divide", binary("sub", a, binary("fmod", a, b)), b)  # an exact division


def _floor_quotient(input: Any, other: Any, function: str) -> Tensor:
    dtype = promotion.result_type(input, other)
    if dtype is dtypes.bool_:
        raise _refuse(function, dtype)
    zero_divisor(other, dtype)
    return binary("floor_divide", input, other)


def floor_divide(input: Any, other: Any) -> Tensor:
    """Floor of the quotient; RuntimeError for integers divided by zero."""
    return _floor_quotient(input, other, "div_floor")


def remainder(input: Any, other: Any) -> Tensor:
    """Python's modulo: the result has the divisor's sign; RuntimeError for integers divided by zero."""
    dtype = promotion.result_type(input, other)
    if dtype is dtypes.bool_:
        raise _refuse("remainder", dtype)
    zero_divisor(other, dtype)
    return called(binary("remainder", input, other), f"RemainderBackward{int(dispatch.is_tensor(other))}")


def pow(input: Any, exponent: Any) -> Tensor:
    """input ** exponent."""
    if isinstance(exponent, (int, float)) and dispatch.is_tensor(input):
        if exponent == 2:  # a product: exact and cheap, also for negative bases
            dtype = promotion.result_type(input, exponent)
            base = dispatch.cast(input, dtype)
            return called(mul(base, base), "PowBackward0")
        if exponent < 0 and not promotion.result_type(input, exponent).is_floating_point:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
    if promotion.common_dtype("pow", input, exponent) is dtypes.bool_:
        if dispatch.is_tensor(exponent):
            raise NotImplementedError("\"pow\" not implemented for 'Bool'")
        return input.clone() if exponent else logical_or(input, logical_not(input))
    kind = 2 if not dispatch.is_tensor(input) else int(dispatch.is_tensor(exponent))
    return called(binary("pow", input, exponent), f"PowBackward{kind}")


def _extreme(op: str, word: str, bools: str) -> Callable[[Tensor, Tensor], Tensor]:
    def fn(input: Tensor, other: Tensor) -> Tensor:
        dispatch.require_tensor(input, op)
        dispatch.require_tensor(other, op, "other", 2)
        return binary(bools if promotion.result_type(input, other) is dtypes.bool_ else op, input, other)

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = f"Element-wise {word}; NaN wins."
    return fn


maximum = _extreme("maximum", "larger", "logical_or")
minimum = _extreme("minimum", "smaller", "logical_and")


def _comparison(op: str, sign_: str) -> Callable[[Any, Any], Tensor]:
    def fn(input: Tensor, other: Any) -> Tensor:
        dispatch.require_tensor(input, op)
        return binary(op, input, other)

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = f"input {sign_} other as a bool tensor."
    return fn


eq = _comparison("eq", "==")
ne = _comparison("ne", "!=")
lt = _comparison("lt", "<")
le = _comparison("le", "<=")
gt = _comparison("gt", ">")
ge = _comparison("ge", ">=")


def logical_not(input: Tensor) -> Tensor:
    """True where x is zero."""
    dispatch.require_tensor(input, "logical_not")
    return dispatch.apply("logical_not", dispatch.cast(input, dtypes.bool_))


def _logical(op: str, doc: str) -> Callable[[Tensor, Tensor], Tensor]:
    def fn(input: Tensor, other: Tensor) -> Tensor:
        dispatch.require_tensor(input, op)
        dispatch.require_tensor(other, op, "other", 2)
        return promotion.broadcast(op, input, other, dtypes.bool_)

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = doc
    return fn


logical_and = _logical("logical_and", "Both non-zero.")
logical_or = _logical("logical_or", "Either non-zero.")
logical_xor = _logical("logical_xor", "Exactly one non-zero.")


def _bitwise(op: str, logical: str) -> Callable[[Any, Any], Tensor]:
    def fn(input: Any, other: Any) -> Tensor:
        dtype = promotion.common_dtype(op, input, other)
        integers_only(op, dtype)
        return binary(logical if dtype is dtypes.bool_ else op, input, other)

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = f"{op} of integers; the logical operation for bool."
    return fn


bitwise_and = _bitwise("bitwise_and", "logical_and")
bitwise_or = _bitwise("bitwise_or", "logical_or")
bitwise_xor = _bitwise("bitwise_xor", "logical_xor")


def bitwise_not(input: Tensor) -> Tensor:
    """Complement of integers; logical not for bool."""
    dispatch.require_tensor(input, "bitwise_not")
    integers_only("bitwise_not", input.dtype)
    return logical_not(input) if input.dtype is dtypes.bool_ else dispatch.apply("bitwise_not", input)


def invert(input: Tensor) -> Tensor:
    """The operator ``~``; TypeError for floating tensors."""
    if input.dtype.is_floating_point:
        raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
    return bitwise_not(input)


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """``input`` where the bool ``condition`` holds, else ``other``; broadcasting. With the condition
    alone: where it holds, one index tensor per axis."""
    if input is None and other is None:
        from . import picking

        return picking.nonzero(condition, as_tuple=True)
    if condition.dtype is not dtypes.bool_:
        raise RuntimeError(f"where expected condition to be a boolean tensor, but got a tensor with dtype "
                           f"{dispatch.type_word(condition.dtype)}")  # fmt: skip
    dtype = promotion.result_type(input, other)
    return dispatch.apply("where", condition, promotion.operand(input, dtype), promotion.operand(other, dtype))


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """``input`` with ``value`` (a number or 0-d tensor) where ``mask`` holds; keeps input's dtype."""
    if dispatch.is_tensor(value) and value.dim():
        raise RuntimeError("masked_fill_ only supports a 0-dimensional value tensor, but got tensor with "
                           f"{value.dim()} dimension(s).")  # fmt: skip
    if mask.dtype is not dtypes.bool_:
        raise RuntimeError("masked_fill_ only supports boolean masks, but got mask with dtype "
                           f"{c_name(mask.dtype)}")  # fmt: skip
    return called(where(mask, promotion.operand(value, input.dtype), input), "MaskedFillBackward0")


def c_name(dtype: DType) -> str:
    """The dtype's name in C++, which some of PyTorch's messages have."""
    return {
        dtypes.uint8: "unsigned char", dtypes.int8: "signed char", dtypes.int16: "short", dtypes.int32: "int",
        dtypes.int64: "long int", dtypes.float32: "float", dtypes.float64: "double", dtypes.bool_: "bool",
        dtypes.float16: "c10::Half", dtypes.bfloat16: "c10::BFloat16",
    }.get(dtype, dtype.name)  # fmt: skip


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limits values to [min, max]; the limits are numbers or tensors."""
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    limits = [m for m in (min, max) if m is not None]
    dtype = promotion.result_type(input, *limits)
    if dtype is dtypes.bool_:
        if not all(map(dispatch.is_tensor, limits)):
            raise _refuse("clamp", dtype)
        above = input if min is None else maximum(input, min)
        return above if max is None else minimum(above, max)
    x = dispatch.cast(input, dtype)
    if all(isinstance(m, (bool, int, float)) for m in limits):
        if any(isinstance(m, float) and m != m for m in limits):
            return mul(x, math.nan)
        return called(dispatch.apply("clamp", x, min=min, max=max), "ClampBackward1")
    if min is not None:
        x = _limited(x, promotion.operand(min, dtype), "lt")
    return called(x if max is None else _limited(x, promotion.operand(max, dtype), "gt"), "ClampBackward0")


def _limited(x: Tensor, limit: Tensor, beyond: str) -> Tensor:
    """The limit where ``x`` is beyond it or the limit is NaN; the gradient at the limit is that of ``x``."""
    beyond_it = dispatch.apply(beyond, x, limit)
    if limit.dtype.is_floating_point:
        beyond_it = logical_or(beyond_it, isnan(limit))
    return dispatch.apply("where", beyond_it, limit, x)


def to_dtype(input: Tensor, dtype: DType) -> Tensor:
    """Cast; the tensor itself if it has the dtype already."""
    return dispatch.cast(input, dtype)


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """|input - other| <= atol + rtol |other| per element; infinities only equal themselves."""
    dispatch.require_tensor(input, "isclose")
    dispatch.require_tensor(other, "isclose", "other", 2)
    if input.dtype is not other.dtype:
        raise RuntimeError(f"{dispatch.type_word(input.dtype)} did not match {dispatch.type_word(other.dtype)}")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value < 0:
            raise RuntimeError(f"{name} must be greater than or equal to zero, but got {value}")
    a, b = as_float(input), as_float(other)
    close = logical_or(eq(a, b), logical_and(le(abs(sub(a, b)), add(mul(abs(b), rtol), atol)), isfinite(b)))
    return logical_or(close, logical_and(isnan(a), isnan(b))) if equal_nan else close


def reflected(fn: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Any]:
    """``fn`` with its operands exchanged, NotImplemented for foreign operands."""

    def method(self: Tensor, other: Any) -> Any:
        return fn(other, self) if is_operand(other) else NotImplemented

    return method


def operator(fn: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Any]:
    """``fn`` as a Python operator: NotImplemented for foreign operands."""

    def method(self: Tensor, other: Any) -> Any:
        return fn(self, other) if is_operand(other) else NotImplemented

    return method


multiply = mul
subtract = sub
divide = true_divide = div
negative = neg
absolute = abs
clip = clamp
greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close (``isclose``)."""
    return isclose(input, other, rtol, atol, equal_nan)._concrete("allclose()").all().item()


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether shapes and all elements are equal."""
    if input._extents != other._extents:
        return False
    return eq(input, other)._concrete("equal()").all().item()


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
METHODS = (
    "abs", "absolute", "add", "allclose", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil",
    "clamp", "clip", "cos", "div", "divide", "eq", "equal", "erf", "exp", "expm1", "floor", "floor_divide", "ge",
    "greater", "greater_equal", "gt", "isclose", "isfinite", "isinf", "isnan", "le", "less", "less_equal", "log",
    "log1p", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "masked_fill", "maximum", "minimum",
    "mul", "multiply", "ne", "neg", "negative", "not_equal", "positive", "pow", "reciprocal", "relu", "remainder",
    "round", "rsqrt", "sigmoid", "sign", "sin", "sqrt", "square", "sub", "subtract", "tanh", "true_divide",
    "trunc",
)  # fmt: skip
FUNCTIONS = (*METHODS, "where")
IN_PLACE = (
    "abs", "absolute", "add", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "clamp", "clip", "cos",
    "div", "divide", "eq", "erf", "exp", "expm1", "floor", "floor_divide", "ge", "greater", "greater_equal", "gt", "le",
    "less", "less_equal", "log", "log1p", "logical_and", "logical_not", "logical_or", "logical_xor", "lt",
    "masked_fill", "mul", "multiply", "ne", "neg", "negative", "not_equal", "pow", "reciprocal", "relu", "remainder",
    "round", "rsqrt", "sigmoid", "sign", "sin", "sqrt", "square", "sub", "subtract", "tanh", "true_divide", "trunc",
)  # fmt: skip
