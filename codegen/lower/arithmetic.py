"""Elementwise operators on loop IR values, with PyTorch's rules for NaN, signs and integer division.

Departures where PyTorch raises or leaves the result open: integer division, floor_divide and remainder by
zero give 0 and never trap; ``INT_MIN // -1`` wraps to ``INT_MIN``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...ir import dtypes
from ...ir.dtypes import DType
from ...ir.graph import Node
from .. import vmath
from ..loopir import LoopBuilder, Val
from . import elementary
from .fmod import float_remainder
from .position import compute_dtype

Rule = Callable[[LoopBuilder, Node, Sequence[Val]], Val]


def apply(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    """The result of an elementwise node for operands of one lane count."""
    return RULES[node.op](b, node, args)


def _const(b: LoopBuilder, like: Val, value: float) -> Val:
    return b.const(like.dtype, value, like.lanes)


def _is_float(v: Val) -> bool:
    return v.dtype.kind == "f"


# -- one operand -------------------------------------------------------------------------------------
def _neg(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.op("neg", args[0])


def _abs(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return args[0] if args[0].dtype.kind in "ub" else b.op("abs", args[0])


def _sign(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    zero, one = _const(b, x, 0), _const(b, x, 1)
    positive = b.select(b.cmp("gt", x, zero), one, zero)
    if x.dtype.kind == "u":
        return positive
    return b.select(b.cmp("lt", x, zero), _const(b, x, -1), positive)


def _math(f: Callable[[LoopBuilder, Val], Val]) -> Rule:
    return lambda b, node, args: f(b, args[0])


def _unary(name: str) -> Rule:
    """A loop IR operation that leaves integers as they are (rounding)."""

    def rule(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
        return b.op(name, args[0]) if _is_float(args[0]) else args[0]

    return rule


def _sqrt(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.op("sqrt", args[0])


def _rsqrt(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.op("div", _const(b, args[0], 1.0), b.op("sqrt", args[0]))


def _reciprocal(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.op("div", _const(b, args[0], 1.0), args[0])


def _relu(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    # max(0, x) returns its second operand when either is NaN.
    return b.op("max", _const(b, args[0], 0), args[0])


def _logical_not(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.op("not", b.cast(args[0], dtypes.bool_))


def _bitwise_not(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.op("not", args[0])


def _isnan(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    return b.cmp("uno", x, x) if _is_float(x) else b.const(dtypes.bool_, False, x.lanes)


def _isinf(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    if not _is_float(x):
        return b.const(dtypes.bool_, False, x.lanes)
    return b.cmp("eq", b.op("abs", x), _const(b, x, math.inf))


def _isfinite(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    if not _is_float(x):
        return b.const(dtypes.bool_, True, x.lanes)
    return b.cmp("lt", b.op("abs", x), _const(b, x, math.inf))


def _cast(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return cast(b, args[0], node.attrs["dtype"])


def cast(b: LoopBuilder, x: Val, dtype: DType) -> Val:
    """PyTorch's ``to(dtype)``: floats truncate toward zero, anything non-zero (NaN too) is True."""
    return b.cast(x, dtype)


def _clamp(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    low, high = node.attrs["min"], node.attrs["max"]
    # The bound comes first: min and max return their second operand when it is NaN.
    if low is not None:
        x = b.op("max", _const(b, x, low), x)
    if high is not None:
        x = b.op("min", _const(b, x, high), x)
    return x


def _identity(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return args[0]


# -- compositions (the decompositions of ir.ops, in one place for kernels that keep them whole) -------------
def _gelu(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    if node.attrs["approximate"] == "tanh":
        half = b.op("mul", x, _const(b, x, 0.5))
        cubic = b.op("mul", b.op("mul", x, x), _const(b, x, 0.044715))
        inner = b.op("mul", b.op("fma", cubic, x, x), _const(b, x, math.sqrt(2 / math.pi)))
        return b.op("mul", half, b.op("add", _const(b, x, 1.0), vmath.tanh(b, inner)))
    return vmath.gelu(b, x)


def _silu(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.op("mul", args[0], vmath.sigmoid(b, args[0]))


def _leaky_relu(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    scaled = b.op("mul", x, _const(b, x, node.attrs["negative_slope"]))
    return b.select(b.cmp("gt", x, _const(b, x, 0.0)), x, scaled)


def _elu(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    low = b.op("mul", vmath.expm1(b, x), _const(b, x, node.attrs["alpha"]))
    return b.select(b.cmp("gt", x, _const(b, x, 0.0)), x, low)


def _softplus(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    zero = _const(b, x, 0.0)
    beta = _const(b, x, node.attrs["beta"])
    scaled = b.op("mul", x, beta)
    tail = vmath.log1p(b, vmath.exp(b, b.op("neg", b.op("abs", scaled))))
    soft = b.op("div", b.op("add", b.op("max", zero, scaled), tail), beta)
    return b.select(b.cmp("gt", scaled, _const(b, x, node.attrs["threshold"])), x, soft)


def _hardsigmoid(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    six = _const(b, x, 6.0)
    clipped = b.op("min", six, b.op("max", _const(b, x, 0.0), b.op("add", x, _const(b, x, 3.0))))
    return b.op("div", clipped, six)


def _hardswish(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.op("mul", args[0], _hardsigmoid(b, node, args))


# -- two and three operands --------------------------------------------------------------------------
def _arithmetic(name: str) -> Rule:
    return lambda b, node, args: b.op(name, *args)


def _extreme(name: str) -> Rule:
    """maximum / minimum: NaN in either operand wins."""

    def rule(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
        return extreme(b, name, args[0], args[1])

    return rule


def extreme(b: LoopBuilder, name: str, x: Val, y: Val) -> Val:
    """``max`` / ``min`` of numbers where NaN in either operand wins."""
    best = b.op(name, x, y)  # y when either is NaN
    return b.select(b.cmp("uno", x, x), x, best) if _is_float(x) else best


def _safe_division(b: LoopBuilder, x: Val, y: Val) -> tuple[Val, Val]:
    """Truncated integer (quotient, remainder); zero divisors and INT_MIN / -1 do not trap."""
    zero, one = _const(b, x, 0), _const(b, x, 1)
    by_zero = b.cmp("eq", y, zero)
    unsafe = by_zero
    if x.dtype.kind == "i":
        negated = b.cmp("eq", y, _const(b, x, -1))
        unsafe = b.op("or", by_zero, negated)
    d = b.select(unsafe, one, y)
    q = b.op("div", x, d)
    r = b.op("sub", x, b.op("mul", q, d))
    if x.dtype.kind == "i":
        q = b.select(negated, b.op("neg", x), q)
    return b.select(by_zero, zero, q), b.select(by_zero, zero, r)


def _floor_fix(b: LoopBuilder, r: Val, y: Val) -> Val:
    """Where truncated division must step down: the remainder is not zero and its sign is not the divisor's."""
    zero = _const(b, r, 0)
    signs = b.op("xor", b.cmp("lt", r, zero), b.cmp("lt", y, zero))
    return b.op("and", b.cmp("ne", r, zero), signs)


def _floor_divide(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    x, y = args
    if not _is_float(x):
        q, r = _safe_division(b, x, y)
        if x.dtype.kind == "u":
            return q
        return b.select(_floor_fix(b, r, y), b.op("sub", q, _const(b, q, 1)), q)
    # As PyTorch: from the exact remainder, so that the quotient is never one too large.
    r = float_remainder(b, x, y)
    fix = _floor_fix(b, r, y)
    quotient = b.op("div", b.op("sub", x, r), y)
    quotient = b.select(fix, b.op("sub", quotient, _const(b, x, 1.0)), quotient)
    down = b.op("floor", quotient)
    up = b.cmp("gt", b.op("sub", quotient, down), _const(b, x, 0.5))
    rounded = b.select(up, b.op("add", down, _const(b, x, 1.0)), down)
    plain = b.op("div", x, y)
    # A zero quotient takes the sign of the true one; division by zero gives inf or NaN.
    zero = b.cmp("eq", quotient, _const(b, x, 0.0))
    rounded = b.select(zero, b.op("copysign", _const(b, x, 0.0), plain), rounded)
    return b.select(b.cmp("eq", y, _const(b, y, 0.0)), plain, rounded)


def _remainder(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    x, y = args
    if not _is_float(x):
        _, r = _safe_division(b, x, y)
        if x.dtype.kind == "u":
            return r
        return b.select(_floor_fix(b, r, y), b.op("add", r, y), r)
    r = float_remainder(b, x, y)
    return b.select(_floor_fix(b, r, y), b.op("add", r, y), r)


def _pow(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    x, y = args
    return vmath.pow(b, x, y) if _is_float(x) else _integer_pow(b, x, y)


def _integer_pow(b: LoopBuilder, x: Val, y: Val) -> Val:
    """Repeated squaring, wrapping; a negative exponent gives 1 / x**-y truncated: 0 unless x is 1 or -1."""
    one, zero = _const(b, x, 1), _const(b, x, 0)

    def step(_: Val, result: Val, base: Val, left: Val) -> list[Val]:
        odd = b.cmp("ne", b.op("and", left, one), zero)
        result = b.select(odd, b.op("mul", result, base), result)
        return [result, b.op("mul", base, base), b.op("lshr", left, one)]

    result, _, _ = b.loop(0, x.dtype.bits, step, carry=[one, x, y])
    if x.dtype.kind == "i":
        minus = _const(b, x, -1)
        odd = b.cmp("ne", b.op("and", y, one), zero)
        unit = b.select(b.cmp("eq", x, minus), b.select(odd, minus, one), zero)
        inverse = b.select(b.cmp("eq", x, one), one, unit)
        result = b.select(b.cmp("lt", y, zero), inverse, result)
    return result


def _compare(name: str) -> Rule:
    def rule(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
        x, y = args
        if x.dtype is dtypes.bool_:
            x, y = b.cast(x, dtypes.uint8), b.cast(y, dtypes.uint8)
        return b.cmp(name, x, y)

    return rule


def _logical(name: str) -> Rule:
    def rule(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
        return b.op(name, *(b.cast(a, dtypes.bool_) for a in args))

    return rule


def _bitwise(name: str) -> Rule:
    return lambda b, node, args: b.op(name, *args)


def _where(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.select(*args)


RULES: dict[str, Rule] = {
    "neg": _neg, "abs": _abs, "sign": _sign, "exp": _math(vmath.exp), "expm1": _math(vmath.expm1),
    "log": _math(vmath.log), "log1p": _math(vmath.log1p), "sqrt": _sqrt, "rsqrt": _rsqrt,
    "reciprocal": _reciprocal, "sin": _math(vmath.sin), "cos": _math(vmath.cos), "tanh": _math(vmath.tanh),
    "erf": _math(vmath.erf), "sigmoid": _math(vmath.sigmoid), "relu": _relu, "floor": _unary("floor"),
    "ceil": _unary("ceil"), "round": _unary("roundeven"), "trunc": _unary("trunc"), "logical_not": _logical_not,
    "bitwise_not": _bitwise_not, "isnan": _isnan, "isinf": _isinf, "isfinite": _isfinite, "cast": _cast,
    "identity": _identity, "gelu": _gelu, "silu": _silu, "leaky_relu": _leaky_relu, "elu": _elu,
    "softplus": _softplus, "hardsigmoid": _hardsigmoid, "hardswish": _hardswish, "clamp": _clamp,
    "add": _arithmetic("add"), "sub": _arithmetic("sub"), "mul": _arithmetic("mul"), "div": _arithmetic("div"),
    "pow": _pow, "maximum": _extreme("max"), "minimum": _extreme("min"), "floor_divide": _floor_divide,
    "remainder": _remainder, "eq": _compare("eq"), "ne": _compare("ne"), "lt": _compare("lt"),
    "le": _compare("le"), "gt": _compare("gt"), "ge": _compare("ge"), "logical_and": _logical("and"),
    "logical_or": _logical("or"), "logical_xor": _logical("xor"), "bitwise_and": _bitwise("and"),
    "bitwise_or": _bitwise("or"), "bitwise_xor": _bitwise("xor"), "where": _where, "layout_cast": _identity,
    **elementary.rules(_safe_division),
}  # fmt: skip

# Operators whose code is long: kernels keep fewer vectors in flight.
EXPENSIVE = frozenset({
    "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "sigmoid", "gelu", "silu", "elu", "softplus", "pow",
    "floor_divide", "remainder", *elementary.EXPENSIVE,
})  # fmt: skip


def constant(b: LoopBuilder, dtype: DType, value: Any, lanes: int) -> Val:
    """A number of ``dtype`` as an immediate in its compute type."""
    number = bool(value) if dtype is dtypes.bool_ else float(value) if dtype.kind == "f" else int(value)
    return b.const(compute_dtype(dtype), number, lanes)
