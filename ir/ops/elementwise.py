"""Elementwise operators: one, two and three operands.

Each record names, on neighbouring lines, the dtypes it takes, its NumPy formula and its gradient rule
``rule(g, *operands, result, incoming, **attrs)``, written in PyTorch's conventions at kinks and ties.
A gradient rule that selects with ``where`` keeps the branch not taken finite: 0 * inf would otherwise bring
NaN into second gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import DType, bool_
from ..errors import DTypeError, IngotError
from ..registry import Attr, Decompose, Fusion, Infer, OpDef, Vjp, register
from ..types import TensorType
from .common import broadcast_shapes, check_kind, check_same_dtype, check_value, rounds_once, scalar, unbroadcast
from .special import erf, sigmoid

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value

NUMERIC = "fiu"
ANY = "fiub"
_TO_FLOAT = "cast it to a floating dtype first"
Rule = Callable[..., Any]


# -- building records ---------------------------------------------------------------------------------
def _infer(name: str, kinds: str, hint: str, result: DType | None) -> Infer:
    """Broadcast shapes of operands with one common dtype; the result has it too unless ``result`` is given."""

    def infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
        dtype = check_same_dtype(name, *types)
        check_kind(name, dtype, kinds, hint)
        return [TensorType(result or dtype, broadcast_shapes(name, *(t.shape for t in types)))]

    return infer


def _reference(fn: Callable[..., Any], result: DType | None) -> Callable[..., np.ndarray]:
    """``fn`` computed in float32 for 16-bit floats and rounded once; the result dtype is forced (NumPy 1 widens
    0-d arrays next to Python numbers)."""

    def reference(*arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        own = arrays[-1].dtype
        return np.asarray(rounded(*arrays, **attrs)).astype(result.numpy if result else own, copy=False)

    rounded = rounds_once(fn)
    return reference


def _vjp(rule: Rule) -> Vjp:
    """A gradient from ``rule(g, *operands, y, dy, **attrs)``; None for integer operands, broadcasting undone."""

    def vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
        dy = grads[0]
        if dy is None or not node.output.dtype.is_floating_point:
            return [None] * len(node.inputs)
        found = rule(g, *node.inputs, node.output, dy, **node.attrs)
        found = found if isinstance(found, tuple) else (found,)
        return [None if d is None else unbroadcast(g, d, v.type) for d, v in zip(found, node.inputs, strict=True)]

    return vjp


def _decompose(rule: Rule) -> Decompose:
    """A decomposition from ``rule(g, x, **attrs)``."""
    return lambda g, node: [rule(g, *node.inputs, **node.attrs)]


def _op(
    name: str,
    fn: Callable[..., Any],
    grad: Rule | None,
    doc: str,
    *,
    arity: int = 1,
    kinds: str = "f",
    hint: str = "",
    result: DType | None = None,
    attrs: Mapping[str, Attr] | None = None,
    infer: Infer | None = None,
    decompose: Rule | None = None,
    commutative: bool = False,
    unruled: tuple[int, ...] = (),
) -> OpDef:
    return register(
        OpDef(
            name,
            infer=infer or _infer(name, kinds, hint, result),
            reference=_reference(fn, result),
            fusion=Fusion.ELEMENTWISE,
            attrs=attrs or {},
            vjp=_vjp(grad) if grad else None,
            decompose=_decompose(decompose) if decompose else None,
            arity=(arity, arity),
            commutative=commutative,
            unruled=unruled,
            doc=doc,
        )
    )


def _unary(name: str, fn: Callable[..., Any], grad: Rule | None, doc: str, **options: Any) -> OpDef:
    if options.get("kinds", "f") == "f":
        options.setdefault("hint", _TO_FLOAT)
    return _op(name, fn, grad, doc, **options)


def _binary(name: str, fn: Callable[..., Any], grad: Rule | None, doc: str, **options: Any) -> OpDef:
    options.setdefault("kinds", NUMERIC)
    return _op(name, fn, grad, doc, arity=2, **options)


def _flat(*_: Any, **__: Any) -> None:
    """Gradient of a piecewise constant function: zero wherever it exists, so nothing flows."""
    return None


def _zero(g: GraphBuilder, like: Value) -> Value:
    return scalar(g, 0, like)


# -- arithmetic, one operand --------------------------------------------------------------------------
_unary("neg", np.negative, lambda g, x, y, dy: g.neg(dy), "-x", kinds=NUMERIC)
_unary("abs", np.abs, lambda g, x, y, dy: g.mul(dy, g.sign(x)), "|x|; gradient 0 at 0", kinds=NUMERIC)
_unary(
    "sign", lambda x: (x > 0).astype(np.int8) - (x < 0).astype(np.int8), _flat,
    "-1, 0 or 1; 0 for NaN", kinds=NUMERIC,
)  # fmt: skip
_unary("floor", np.floor, _flat, "largest integer <= x")
_unary("ceil", np.ceil, _flat, "smallest integer >= x")
_unary("round", np.rint, _flat, "nearest integer, halves to even")
_unary("trunc", np.trunc, _flat, "x without its fraction")

# -- exponentials, roots, trigonometry ----------------------------------------------------------------
_unary("exp", np.exp, lambda g, x, y, dy: g.mul(dy, y), "e**x")
_unary("expm1", np.expm1, lambda g, x, y, dy: g.mul(dy, g.add(y, 1.0)), "e**x - 1, accurate near 0")
_unary("log", np.log, lambda g, x, y, dy: g.div(dy, x), "natural logarithm")
_unary("log1p", np.log1p, lambda g, x, y, dy: g.div(dy, g.add(x, 1.0)), "log(1 + x), accurate near 0")
_unary("sqrt", np.sqrt, lambda g, x, y, dy: g.div(dy, g.mul(y, 2.0)), "square root")
_unary(
    "rsqrt", lambda x: 1 / np.sqrt(x), lambda g, x, y, dy: g.mul(g.mul(dy, -0.5), g.mul(y, g.mul(y, y))),
    "1 / sqrt(x)",
)  # fmt: skip
_unary("reciprocal", lambda x: 1 / x, lambda g, x, y, dy: g.neg(g.mul(dy, g.mul(y, y))), "1 / x")
_unary("sin", np.sin, lambda g, x, y, dy: g.mul(dy, g.cos(x)), "sine of radians")
_unary("cos", np.cos, lambda g, x, y, dy: g.neg(g.mul(dy, g.sin(x))), "cosine of radians")
_unary("tanh", np.tanh, lambda g, x, y, dy: g.mul(dy, g.sub(g.constant(1, x.dtype), g.mul(y, y))), "hyperbolic tangent")
_unary(
    "erf", erf,
    lambda g, x, y, dy: g.mul(dy, g.mul(g.exp(g.neg(g.mul(x, x))), 2 / math.sqrt(math.pi))),
    "2/sqrt(pi) * integral of exp(-t*t) over [0, x]",
)  # fmt: skip
_unary(
    "sigmoid", sigmoid,
    lambda g, x, y, dy: g.mul(dy, g.mul(y, g.sub(g.constant(1, x.dtype), y))),
    "1 / (1 + exp(-x))",
)  # fmt: skip
_unary(
    "relu", lambda x: np.maximum(x, 0),
    lambda g, x, y, dy: g.where(g.le(y, 0.0), _zero(g, dy), dy),  # from y, so that x need not be kept
    "max(x, 0); gradient 0 at 0", kinds=NUMERIC,
)  # fmt: skip

# -- tests and bits -----------------------------------------------------------------------------------
_NEVER = "integers and bools are always finite numbers"
_BITS = "bitwise operators need integers or bools"
_unary("logical_not", np.logical_not, None, "x == 0", kinds=ANY, result=bool_)
_unary("bitwise_not", np.bitwise_not, None, "every bit inverted; on bools the negation", kinds="iub", hint=_BITS)
_unary("isnan", np.isnan, None, "x is NaN", result=bool_, hint=_NEVER)
_unary("isinf", np.isinf, None, "x is +inf or -inf", result=bool_, hint=_NEVER)
_unary("isfinite", np.isfinite, None, "x is neither NaN nor infinite", result=bool_, hint=_NEVER)

# -- copies and casts ---------------------------------------------------------------------------------
_unary("identity", lambda x: x, lambda g, x, y, dy: dy, "x", kinds=ANY)


def _cast_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    if not isinstance(attrs["dtype"], DType):
        raise DTypeError(f"cast: attribute dtype must be an Ingot dtype, got {attrs['dtype']!r}")
    return [TensorType(attrs["dtype"], types[0].shape)]


def _cast(x: np.ndarray, dtype: DType) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype.numpy)


def _cast_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    (x,), dy = node.inputs, grads[0]
    if dy is None or not (x.dtype.is_floating_point and node.output.dtype.is_floating_point):
        return [None]
    return [g.cast(dy, dtype=x.dtype)]


register(
    OpDef(
        "cast",
        infer=_cast_infer,
        reference=_cast,
        fusion=Fusion.ELEMENTWISE,
        attrs={"dtype": Attr("dtype")},
        vjp=_cast_vjp,
        doc="x as another dtype: floats round to nearest even; float to integer drops the fraction and is "
        "unspecified out of range; to bool is x != 0",
    )
)


# -- activations: gradients are written out, so that they stay finite for huge operands ---------------
_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def _gelu_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    if attrs["approximate"] not in ("none", "tanh"):
        raise IngotError(f"gelu: attribute approximate must be 'none' or 'tanh', got {attrs['approximate']!r}")
    return _infer("gelu", "f", _TO_FLOAT, None)(types, attrs)


def _gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(_SQRT_2_OVER_PI * (x + _CUBIC * x * x * x)))
    return 0.5 * x * (1 + erf(x * _SQRT_HALF))


def _gelu_inner(g: GraphBuilder, x: Value) -> Value:
    return g.mul(g.add(x, g.mul(g.mul(x, g.mul(x, x)), _CUBIC)), _SQRT_2_OVER_PI)


def _gelu_parts(g: GraphBuilder, x: Value, approximate: str) -> Value:
    bend = g.tanh(_gelu_inner(g, x)) if approximate == "tanh" else g.erf(g.mul(x, _SQRT_HALF))
    return g.mul(g.mul(x, 0.5), g.add(bend, 1.0))


def _gelu_grad(g: GraphBuilder, x: Value, y: Value, dy: Value, approximate: str) -> Value:
    if approximate == "none":
        cdf = g.mul(g.add(g.erf(g.mul(x, _SQRT_HALF)), 1.0), 0.5)
        pdf = g.mul(g.exp(g.mul(g.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
        return g.mul(dy, g.add(cdf, g.mul(x, pdf)))
    # tanh is exactly +-1 beyond |x| = 10 in every dtype; the clamp keeps x*x finite there.
    near = g.clamp(x, min=-10.0, max=10.0)
    bend = g.tanh(_gelu_inner(g, near))
    slope = g.mul(g.add(g.mul(g.mul(near, near), 3 * _CUBIC), 1.0), _SQRT_2_OVER_PI)
    rise = g.mul(g.sub(g.constant(1, x.dtype), g.mul(bend, bend)), slope)
    return g.mul(g.mul(dy, 0.5), g.add(g.add(bend, 1.0), g.mul(near, rise)))


_unary(
    "gelu", _gelu, _gelu_grad, "0.5 * x * (1 + erf(x / sqrt(2))), or its tanh approximation",
    attrs={"approximate": Attr("str", "none")}, decompose=_gelu_parts, infer=_gelu_infer,
)  # fmt: skip


def _silu_grad(g: GraphBuilder, x: Value, y: Value, dy: Value) -> Value:
    s = g.sigmoid(x)
    return g.mul(dy, g.add(s, g.mul(g.mul(x, s), g.sub(g.constant(1, x.dtype), s))))


_unary(
    "silu", lambda x: x * sigmoid(x), _silu_grad, "x * sigmoid(x)",
    decompose=lambda g, x: g.mul(x, g.sigmoid(x)),
)  # fmt: skip

_unary(
    "leaky_relu", lambda x, negative_slope: np.where(x > 0, x, x * negative_slope),
    lambda g, x, y, dy, negative_slope: g.where(g.gt(x, 0.0), dy, g.mul(dy, negative_slope)),
    "x if x > 0 else negative_slope * x", attrs={"negative_slope": Attr("float", 0.01)},
    decompose=lambda g, x, negative_slope: g.where(g.gt(x, 0.0), x, g.mul(x, negative_slope)),
)  # fmt: skip


def _elu_grad(g: GraphBuilder, x: Value, y: Value, dy: Value, alpha: float) -> Value:
    below = g.clamp(x, max=0.0)  # exp of a large positive x must not appear, see the module docstring
    return g.where(g.gt(x, 0.0), dy, g.mul(dy, g.mul(g.exp(below), alpha)))


_unary(
    "elu", lambda x, alpha: np.where(x > 0, x, np.expm1(np.minimum(x, 0)) * alpha), _elu_grad,
    "x if x > 0 else alpha * (exp(x) - 1)", attrs={"alpha": Attr("float", 1.0)},
    decompose=lambda g, x, alpha: g.where(g.gt(x, 0.0), x, g.mul(g.expm1(g.clamp(x, max=0.0)), alpha)),
)  # fmt: skip


def _softplus(x: np.ndarray, beta: float, threshold: float) -> np.ndarray:
    z = x * beta
    return np.where(z > threshold, x, (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) / beta)


def _softplus_parts(g: GraphBuilder, x: Value, beta: float, threshold: float) -> Value:
    z = g.mul(x, beta)
    smooth = g.div(g.add(g.relu(z), g.log1p(g.exp(g.neg(g.abs(z))))), beta)
    return g.where(g.gt(z, threshold), x, smooth)


def _softplus_grad(g: GraphBuilder, x: Value, y: Value, dy: Value, beta: float, threshold: float) -> Value:
    z = g.mul(x, beta)
    return g.where(g.gt(z, threshold), dy, g.mul(dy, g.sigmoid(z)))


_unary(
    "softplus", _softplus, _softplus_grad, "log(1 + exp(beta * x)) / beta; x where beta * x > threshold",
    attrs={"beta": Attr("float", 1.0), "threshold": Attr("float", 20.0)}, decompose=_softplus_parts,
)  # fmt: skip


def _hardsigmoid_grad(g: GraphBuilder, x: Value, y: Value, dy: Value) -> Value:
    inside = g.logical_and(g.gt(x, -3.0), g.lt(x, 3.0))
    return g.where(inside, g.div(dy, 6.0), _zero(g, dy))


def _hardswish_grad(g: GraphBuilder, x: Value, y: Value, dy: Value) -> Value:
    middle = g.mul(dy, g.add(g.div(x, 3.0), 0.5))
    return g.where(g.le(x, -3.0), _zero(g, dy), g.where(g.lt(x, 3.0), middle, dy))


_unary(
    "hardsigmoid", lambda x: np.clip(x + 3, 0, 6) / 6, _hardsigmoid_grad, "clamp(x + 3, 0, 6) / 6",
    decompose=lambda g, x: g.div(g.clamp(g.add(x, 3.0), min=0.0, max=6.0), 6.0),
)  # fmt: skip
_unary(
    "hardswish", lambda x: x * (np.clip(x + 3, 0, 6) / 6), _hardswish_grad, "x * hardsigmoid(x)",
    decompose=lambda g, x: g.mul(x, g.div(g.clamp(g.add(x, 3.0), min=0.0, max=6.0), 6.0)),
)  # fmt: skip


def _clamp_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    dtype = types[0].dtype
    check_kind("clamp", dtype, NUMERIC)
    for bound in ("min", "max"):
        if attrs[bound] is not None:
            check_value("clamp", bound, attrs[bound], dtype)
    return [TensorType(dtype, types[0].shape)]


def _clamp(x: np.ndarray, min: Any, max: Any) -> np.ndarray:
    if min is not None:
        x = np.maximum(x, np.asarray(min, x.dtype))
    return x if max is None else np.minimum(x, np.asarray(max, x.dtype))


def _clamp_parts(g: GraphBuilder, x: Value, min: Any, max: Any) -> Value:
    if min is not None:
        x = g.maximum(x, scalar(g, min, x))
    if max is not None:
        x = g.minimum(x, scalar(g, max, x))
    return x if min is not None or max is not None else g.identity(x)


def _clamp_grad(g: GraphBuilder, x: Value, y: Value, dy: Value, min: Any, max: Any) -> Value:
    tests = [g.ge(x, scalar(g, min, x))] if min is not None else []
    if max is not None:
        tests.append(g.le(x, scalar(g, max, x)))
    if not tests:
        return dy
    inside = tests[0] if len(tests) == 1 else g.logical_and(*tests)
    return g.where(inside, dy, _zero(g, dy))


_unary(
    "clamp", _clamp, _clamp_grad,
    "minimum(maximum(x, min), max); None means no bound; NaN stays; the gradient passes at the bounds",
    attrs={"min": Attr("scalar", None), "max": Attr("scalar", None)}, decompose=_clamp_parts, infer=_clamp_infer,
)  # fmt: skip

# -- arithmetic, two operands -------------------------------------------------------------------------
_NO_BOOL = "use logical_or, logical_and or logical_xor on bools, or cast them"
_binary("add", np.add, lambda g, a, b, y, dy: (dy, dy), "a + b", hint=_NO_BOOL, commutative=True)
_binary("sub", np.subtract, lambda g, a, b, y, dy: (dy, g.neg(dy)), "a - b", hint=_NO_BOOL)
_binary(
    "mul", np.multiply, lambda g, a, b, y, dy: (g.mul(dy, b), g.mul(dy, a)), "a * b", hint=_NO_BOOL, commutative=True
)
_binary(
    "div", np.divide, lambda g, a, b, y, dy: (g.div(dy, b), g.neg(g.mul(dy, g.div(y, b)))), "a / b",
    kinds="f", hint="cast integers to a floating dtype for true division, or use floor_divide",
)  # fmt: skip


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "i":  # NumPy refuses negative exponents; 1 / a**|b| rounds towards zero
        odd = np.where(b % 2 == 0, 1, a)
        power = np.power(a, np.maximum(b, 0))
        return np.where(b >= 0, power, np.where(a == 1, 1, np.where(a == -1, odd, 0)))
    return np.power(a, b)


def _pow_grad(g: GraphBuilder, a: Value, b: Value, y: Value, dy: Value) -> tuple[Value, Value]:
    one = scalar(g, 1, a)
    at_zero = g.eq(a, 0.0)
    # d/da = b * a**(b-1), which is 0 * inf at a = b = 0 where the derivative of a**0 is 0.
    exponent = g.where(g.logical_and(at_zero, g.eq(b, 0.0)), one, b)
    da = g.mul(dy, g.mul(b, g.pow(a, g.sub(exponent, 1.0))))
    # d/db = a**b * log(a), whose limit at a = 0 is 0 for b >= 0.
    vanishes = g.logical_and(at_zero, g.ge(b, 0.0))
    base = g.where(vanishes, one, a)
    return da, g.mul(dy, g.mul(y, g.log(base)))


_binary("pow", _pow, _pow_grad, "a ** b; integers to negative powers round towards zero (0 ** -1 is 0)")


def _pick_grad(a_wins: str, b_wins: str) -> Rule:
    """Gradient of maximum and minimum: half to each operand on a tie, all to both next to NaN."""

    def rule(g: GraphBuilder, a: Value, b: Value, y: Value, dy: Value) -> tuple[Value, Value]:
        shared = g.where(g.eq(a, b), g.mul(dy, 0.5), dy)
        zero = _zero(g, dy)
        only_b, only_a = (g.emit(test, [a, b]).output for test in (b_wins, a_wins))
        return g.where(only_b, zero, shared), g.where(only_a, zero, shared)

    return rule


_binary("maximum", np.maximum, _pick_grad("gt", "lt"), "larger of a and b; NaN if either is", commutative=True)
_binary("minimum", np.minimum, _pick_grad("lt", "gt"), "smaller of a and b; NaN if either is", commutative=True)
_binary(
    "floor_divide", np.floor_divide, lambda g, a, b, y, dy: (None, None),
    "a / b rounded down (Python's //); integer division by zero gives 0",
)  # fmt: skip
_binary(
    "remainder", np.remainder,
    lambda g, a, b, y, dy: (dy, g.neg(g.mul(dy, g.floor_divide(a, b)))),
    "a - floor(a / b) * b, with b's sign (Python's %); integer remainder by zero is 0",
)  # fmt: skip

# -- comparisons, logic, bits -------------------------------------------------------------------------
_binary("eq", np.equal, None, "a == b", kinds=ANY, result=bool_, commutative=True)
_binary("ne", np.not_equal, None, "a != b (true for NaN)", kinds=ANY, result=bool_, commutative=True)
_binary("lt", np.less, None, "a < b", kinds=ANY, result=bool_)
_binary("le", np.less_equal, None, "a <= b", kinds=ANY, result=bool_)
_binary("gt", np.greater, None, "a > b", kinds=ANY, result=bool_)
_binary("ge", np.greater_equal, None, "a >= b", kinds=ANY, result=bool_)
_binary("logical_and", np.logical_and, None, "a != 0 and b != 0", kinds=ANY, result=bool_, commutative=True)
_binary("logical_or", np.logical_or, None, "a != 0 or b != 0", kinds=ANY, result=bool_, commutative=True)
_binary("logical_xor", np.logical_xor, None, "(a != 0) != (b != 0)", kinds=ANY, result=bool_, commutative=True)
_binary("bitwise_and", np.bitwise_and, None, "a & b", kinds="iub", hint=_BITS, commutative=True)
_binary("bitwise_or", np.bitwise_or, None, "a | b", kinds="iub", hint=_BITS, commutative=True)
_binary("bitwise_xor", np.bitwise_xor, None, "a ^ b", kinds="iub", hint=_BITS, commutative=True)


# -- three operands -----------------------------------------------------------------------------------
def _where_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    cond, a, b = types
    check_kind("where", cond.dtype, "b", "compare it with 0 first", operand="the condition")
    dtype = check_same_dtype("where (branches)", a, b)
    return [TensorType(dtype, broadcast_shapes("where", cond.shape, a.shape, b.shape))]


def _where_grad(g: GraphBuilder, cond: Value, a: Value, b: Value, y: Value, dy: Value) -> tuple[Value | None, ...]:
    zero = _zero(g, dy)
    return None, g.where(cond, dy, zero), g.where(cond, zero, dy)


register(
    OpDef(
        "where",
        infer=_where_infer,
        reference=_reference(np.where, None),
        fusion=Fusion.ELEMENTWISE,
        vjp=_vjp(_where_grad),
        arity=(3, 3),
        doc="a where cond, else b",
    )
)
