"""Element-wise functions and arithmetic, with broadcasting and PyTorch's dtype promotion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..ir import dtypes
from ..ir.dtypes import DType
from . import dispatch, promotion
from .promotion import as_float, binary, is_operand

if TYPE_CHECKING:
    from .tensor import Tensor


def _unary(op: str, doc: str, *, floats: bool = False, name: str = "") -> Callable[[Tensor], Tensor]:
    def fn(input: Tensor) -> Tensor:
        dispatch.require_tensor(input, fn.__name__)
        return dispatch.apply(op, as_float(input) if floats else input)

    fn.__name__ = fn.__qualname__ = name or op
    fn.__doc__ = doc + (" Integers become the default float type." if floats else "") + " Any shape."
    return fn


exp = _unary("exp", "e to the power of each element.", floats=True)
expm1 = _unary("expm1", "exp(x) - 1, exact near 0.", floats=True)
log = _unary("log", "Natural logarithm.", floats=True)
log1p = _unary("log1p", "log(1 + x), exact near 0.", floats=True)
sqrt = _unary("sqrt", "Square root.", floats=True)
rsqrt = _unary("rsqrt", "1 / sqrt(x).", floats=True)
reciprocal = _unary("reciprocal", "1 / x.", floats=True)
sin = _unary("sin", "Sine.", floats=True)
cos = _unary("cos", "Cosine.", floats=True)
tanh = _unary("tanh", "Hyperbolic tangent.", floats=True)
erf = _unary("erf", "Error function.", floats=True)
sigmoid = _unary("sigmoid", "1 / (1 + exp(-x)).", floats=True)
sign = _unary("sign", "-1, 0 or 1.")
isnan = _unary("isnan", "Whether each element is NaN (bool).", floats=True)
isinf = _unary("isinf", "Whether each element is infinite (bool).", floats=True)
isfinite = _unary("isfinite", "Whether each element is finite (bool).", floats=True)


def _rounding(op: str, doc: str) -> Callable[[Tensor], Tensor]:
    def fn(input: Tensor) -> Tensor:
        dispatch.require_tensor(input, op)
        return dispatch.apply(op, input) if input.dtype.is_floating_point else input.clone()

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = doc + " Integers stay as they are."
    return fn


trunc = _rounding("trunc", "Rounds towards zero.")
ceil = _rounding("ceil", "Smallest integer not below x.")
floor = _rounding("floor", "Largest integer not above x.")
round = _rounding("round", "Nearest integer, halves to even.")


def neg(input: Tensor) -> Tensor:
    """-x; refuses bool."""
    if input.dtype is dtypes.bool_:
        raise RuntimeError("Negation, the `-` operator, on a bool tensor is not supported. If you are trying to "
                           "invert a mask, use the `~` or `logical_not()` operator instead.")  # fmt: skip
    return dispatch.apply("neg", input)


def abs(input: Tensor) -> Tensor:
    """Absolute value."""
    return dispatch.apply("abs", input)


def positive(input: Tensor) -> Tensor:
    """+x: the tensor itself."""
    return input


def square(input: Tensor) -> Tensor:
    """x * x."""
    return mul(input, input)


def relu(input: Tensor) -> Tensor:
    """max(x, 0)."""
    dispatch.require_tensor(input, "relu")
    return dispatch.apply("relu", input)


def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input + alpha * other."""
    if alpha != 1:
        other = mul(other, alpha) if dispatch.is_tensor(other) else other * alpha
    if promotion.result_type(input, other) is dtypes.bool_:
        return binary("logical_or", input, other)
    return binary("add", input, other)


def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input - alpha * other; refuses bool."""
    if alpha != 1:
        other = mul(other, alpha) if dispatch.is_tensor(other) else other * alpha
    if promotion.result_type(input, other) is dtypes.bool_:
        raise RuntimeError("Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
                           "`logical_xor()` operator instead.")  # fmt: skip
    return binary("sub", input, other)


def mul(input: Any, other: Any) -> Tensor:
    """input * other."""
    if promotion.result_type(input, other) is dtypes.bool_:
        return binary("logical_and", input, other)
    return binary("mul", input, other)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other (integers give the default float); ``rounding_mode`` None, "floor" or "trunc"."""
    if rounding_mode == "floor":
        return floor_divide(input, other)
    dtype = promotion.result_type(input, other)
    quotient_type = dtype if dtype.is_floating_point else promotion.get_default_dtype()
    work = dtypes.float64 if rounding_mode == "trunc" and not dtype.is_floating_point else quotient_type
    out = dispatch.apply("div", promotion.operand(input, work), promotion.operand(other, work))
    if rounding_mode is None:
        return out
    if rounding_mode != "trunc":
        raise RuntimeError("div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
                           f"'{rounding_mode}'")  # fmt: skip
    return dispatch.cast(trunc(out), dtype)


def floor_divide(input: Any, other: Any) -> Tensor:
    """Floor of the quotient."""
    return binary("floor_divide", input, other)


def remainder(input: Any, other: Any) -> Tensor:
    """Python's modulo: the result has the divisor's sign."""
    return binary("remainder", input, other)


def pow(input: Any, exponent: Any) -> Tensor:
    """input ** exponent."""
    if isinstance(exponent, (int, float)) and dispatch.is_tensor(input):
        if exponent == 2:  # a product: exact and cheap, also for negative bases
            dtype = promotion.result_type(input, exponent)
            base = dispatch.cast(input, dtype)
            return mul(base, base)
        if exponent < 0 and not promotion.result_type(input, exponent).is_floating_point:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
    return binary("pow", input, exponent)


def maximum(input: Tensor, other: Tensor) -> Tensor:
    """Element-wise larger; NaN wins."""
    return binary("maximum", input, other)


def minimum(input: Tensor, other: Tensor) -> Tensor:
    """Element-wise smaller; NaN wins."""
    return binary("minimum", input, other)


def _comparison(op: str, sign_: str) -> Callable[[Any, Any], Tensor]:
    def fn(input: Any, other: Any) -> Tensor:
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


def _as_bool(x: Any) -> Tensor:
    return dispatch.cast(x, dtypes.bool_) if dispatch.is_tensor(x) else dispatch.scalar(bool(x), dtypes.bool_)


def logical_not(input: Tensor) -> Tensor:
    """True where x is zero."""
    return dispatch.apply("logical_not", _as_bool(input))


def logical_and(input: Tensor, other: Tensor) -> Tensor:
    """Both non-zero."""
    return dispatch.apply("logical_and", _as_bool(input), _as_bool(other))


def logical_or(input: Tensor, other: Tensor) -> Tensor:
    """Either non-zero."""
    return dispatch.apply("logical_or", _as_bool(input), _as_bool(other))


def logical_xor(input: Tensor, other: Tensor) -> Tensor:
    """Exactly one non-zero."""
    return dispatch.apply("logical_xor", _as_bool(input), _as_bool(other))


def _bitwise(op: str, logical: str) -> Callable[[Any, Any], Tensor]:
    def fn(input: Any, other: Any) -> Tensor:
        dtype = promotion.result_type(input, other)
        if dtype.is_floating_point:
            raise RuntimeError(f"\"{op}_cpu\" not implemented for '{dispatch.type_word(dtype)}'")
        return binary(logical if dtype is dtypes.bool_ else op, input, other)

    fn.__name__ = fn.__qualname__ = op
    fn.__doc__ = f"{op} of integers; the logical operation for bool."
    return fn


bitwise_and = _bitwise("bitwise_and", "logical_and")
bitwise_or = _bitwise("bitwise_or", "logical_or")
bitwise_xor = _bitwise("bitwise_xor", "logical_xor")


def bitwise_not(input: Tensor) -> Tensor:
    """Complement of integers; logical not for bool."""
    return logical_not(input) if input.dtype is dtypes.bool_ else dispatch.apply("bitwise_not", input)


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """``input`` where the bool ``condition`` holds, else ``other``; broadcasting. With the condition
    alone: where it holds, one index tensor per axis."""
    if input is None and other is None:
        from . import picking

        return picking.nonzero(condition, as_tuple=True)
    if condition.dtype is not dtypes.bool_:
        raise RuntimeError(f"expected condition to be a boolean tensor, but got a tensor with dtype "
                           f"{dispatch.type_word(condition.dtype)}")  # fmt: skip
    dtype = promotion.result_type(input, other)
    return dispatch.apply("where", condition, promotion.operand(input, dtype), promotion.operand(other, dtype))


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """``input`` with ``value`` (a number or 0-d tensor) where ``mask`` holds; keeps input's dtype."""
    return where(mask, promotion.operand(value, input.dtype), input)


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limits values to [min, max]; the limits are numbers or tensors."""
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    if all(m is None or isinstance(m, (bool, int, float)) for m in (min, max)):
        limits = [m for m in (min, max) if m is not None]
        x = dispatch.cast(input, promotion.result_type(input, *limits))
        return dispatch.apply("clamp", x, min=min, max=max)
    out = input
    if min is not None:
        out = maximum(out, min)
    return out if max is None else minimum(out, max)


def to_dtype(input: Tensor, dtype: DType) -> Tensor:
    """Cast; the tensor itself if it has the dtype already."""
    return dispatch.cast(input, dtype)


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """|input - other| <= atol + rtol |other| per element; infinities only equal themselves."""
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

true_divide = div


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close (``isclose``)."""
    return isclose(input, other, rtol, atol, equal_nan)._concrete("allclose()").all().item()


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether shapes and all elements are equal."""
    if input._extents != other._extents:
        return False
    return eq(input, other)._concrete("equal()").all().item()


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "allclose", "equal",
    "abs", "absolute", "add", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "clamp", "clip",
    "cos", "div", "divide", "eq", "erf", "exp", "expm1", "floor", "floor_divide", "ge", "gt", "isclose",
    "isfinite", "isinf", "isnan", "le", "log", "log1p", "logical_and", "logical_not", "logical_or", "logical_xor",
    "lt", "masked_fill", "maximum", "minimum", "mul", "multiply", "ne", "neg", "negative", "pow", "reciprocal",
    "relu", "remainder", "round", "rsqrt", "sigmoid", "sign", "sin", "sqrt", "square", "sub", "subtract", "tanh",
    "true_divide", "trunc", "where",
)  # fmt: skip
METHODS = (
    "allclose", "equal",
    "abs", "absolute", "add", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "clamp", "clip",
    "cos", "div", "divide", "eq", "erf", "exp", "expm1", "floor", "floor_divide", "ge", "gt", "isclose",
    "isfinite", "isinf", "isnan", "le", "log", "log1p", "logical_and", "logical_not", "logical_or", "logical_xor",
    "lt", "masked_fill", "maximum", "minimum", "mul", "multiply", "ne", "neg", "negative", "pow", "reciprocal",
    "relu", "remainder", "round", "rsqrt", "sigmoid", "sign", "sin", "sqrt", "square", "sub", "subtract", "tanh",
    "true_divide", "trunc",
)  # fmt: skip
IN_PLACE = (
    "abs", "add", "ceil", "clamp", "div", "exp", "floor", "floor_divide", "log", "logical_not", "masked_fill",
    "mul", "neg", "pow", "relu", "remainder", "round", "rsqrt", "sigmoid", "sqrt", "sub", "tanh",
)  # fmt: skip
