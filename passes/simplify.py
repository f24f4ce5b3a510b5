"""Algebraic simplification: a table of equations, each with the condition under which it holds for floats.

Nothing here may turn a finite result into a NaN or infinity or the reverse. Rules about shapes and indices,
which are exact for every dtype, are in ``simplify_index``.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir import registry
from ..ir.builder import GraphBuilder
from ..ir.dtypes import DType, bool_
from ..ir.graph import Node, Value
from ..ir.registry import Fusion
from .rewrite import RewritePass, RuleSet, fit, is_splat, producer, small_constant, splat
from .simplify_index import INDEX_RULES

RULES = RuleSet()


class Simplify(RewritePass):
    """All rules of this file and of ``simplify_index`` to a fixpoint."""

    def __init__(self) -> None:
        super().__init__("simplify", [*RULES, *INDEX_RULES])


# -- order of operands ------------------------------------------------------------------------------
@RULES.add("c o x = x o c", "elementwise", "exact; o commutative, c constant")
def _constant_right(b: GraphBuilder, node: Node) -> Value | None:
    if len(node.inputs) != 2 or not registry.get(node.op).commutative:
        return None
    left, right = node.inputs
    if (splat(left) is None and not left.is_constant) or right.is_constant or splat(right) is not None:
        return None
    return b.emit(node.op, [right, left], **node.attrs).output


# -- neutral elements -------------------------------------------------------------------------------
@RULES.add("x + 0 = x", "add", "exact but for the sign of zero: -0.0 + 0.0 stays -0.0")
def _add_zero(b: GraphBuilder, node: Node) -> Value | None:
    return fit(b, node.inputs[0], node.output) if is_splat(node.inputs[1], 0) else None


@RULES.add("x - 0 = x", "sub", "exact (for a constant -0.0: but for the sign of zero)")
def _sub_zero(b: GraphBuilder, node: Node) -> Value | None:
    return fit(b, node.inputs[0], node.output) if is_splat(node.inputs[1], 0) else None


@RULES.add("x * 1 = x", "mul", "exact")
def _mul_one(b: GraphBuilder, node: Node) -> Value | None:
    return fit(b, node.inputs[0], node.output) if is_splat(node.inputs[1], 1) else None


@RULES.add("x / 1 = x", "div", "exact")
def _div_one(b: GraphBuilder, node: Node) -> Value | None:
    return fit(b, node.inputs[0], node.output) if is_splat(node.inputs[1], 1) else None


@RULES.add("x * -1 = -x", "mul", "exact")
def _mul_minus_one(b: GraphBuilder, node: Node) -> Value | None:
    x, c = node.inputs
    return fit(b, b.neg(x), node.output) if x.dtype.is_signed and is_splat(c, -1) else None


@RULES.add("x * 0 = 0", "mul", "integers only: a float x may be NaN, infinite or negative")
def _int_mul_zero(b: GraphBuilder, node: Node) -> Value | None:
    if not node.output.dtype.is_integer or not is_splat(node.inputs[1], 0):
        return None
    return b.full(node.output.shape, 0, node.output.dtype)


@RULES.add("x - x = 0", "sub", "integers only: for floats x may be NaN or infinite")
def _int_sub_self(b: GraphBuilder, node: Node) -> Value | None:
    if not node.output.dtype.is_integer or node.inputs[0] is not node.inputs[1]:
        return None
    return b.full(node.output.shape, 0, node.output.dtype)


@RULES.add("product over nothing = 0", "matmul conv conv_transpose conv_weight_grad", "exact")
def _empty_product(b: GraphBuilder, node: Node) -> Value | None:
    # A padded convolution of an empty plane still has pixels: all of them see nothing but padding.
    if all(v.type.elements != 0 for v in node.inputs):
        return None
    return b.full(node.output.shape, 0, node.output.dtype)


# -- signs ------------------------------------------------------------------------------------------
@RULES.add("-(-x) = x", "neg", "exact")
def _double_neg(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "neg")
    return inner.inputs[0] if inner else None


@RULES.add("x + -y = x - y", "add", "exact")
def _add_neg(b: GraphBuilder, node: Node) -> Value | None:
    x, y = node.inputs
    inner = producer(y, "neg")
    if inner:
        return b.sub(x, inner.inputs[0])
    inner = producer(x, "neg")
    return b.sub(y, inner.inputs[0]) if inner else None


@RULES.add("x - -y = x + y", "sub", "exact")
def _sub_neg(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[1], "neg")
    return b.add(node.inputs[0], inner.inputs[0]) if inner else None


@RULES.add("-x * c = x * -c", "mul", "exact; c a small constant")
def _neg_times_constant(b: GraphBuilder, node: Node) -> Value | None:
    inner, c = producer(node.inputs[0], "neg"), small_constant(node.inputs[1])
    if inner is None or c is None or not node.output.dtype.is_signed:
        return None
    return b.mul(inner.inputs[0], b.constant(np.negative(c)))


@RULES.add("|-x| = |x|", "abs", "exact")
def _abs_neg(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "neg")
    return b.abs(inner.inputs[0]) if inner else None


# -- division and powers ----------------------------------------------------------------------------
@RULES.add("x / c = x * (1/c)", "div", "exact; every element of c and 1/c is a normal power of two")
def _div_power_of_two(b: GraphBuilder, node: Node) -> Value | None:
    c = small_constant(node.inputs[1])
    if c is None or not c.size or np.all(c == 1):
        return None
    wide = c.astype(np.float64)
    mantissa, exponent = np.frexp(wide)
    # Powers well inside the exponent range of the type, so that neither c nor 1/c is subnormal.
    bound = math.frexp(node.output.dtype.max)[1] - 3
    if not np.all(np.isfinite(wide)) or np.any(np.abs(mantissa) != 0.5) or np.any(np.abs(exponent) > bound):
        return None
    return b.mul(node.inputs[0], b.constant((1 / wide).astype(c.dtype)))


@RULES.add("1 / sqrt(x) = rsqrt(x)", "div", "exact: it is how rsqrt is defined")
def _div_sqrt(b: GraphBuilder, node: Node) -> Value | None:
    one, root = node.inputs
    inner = producer(root, "sqrt")
    return fit(b, b.rsqrt(inner.inputs[0]), node.output) if inner and is_splat(one, 1) else None


@RULES.add("1 / x = reciprocal(x)", "div", "exact: it is how reciprocal is defined")
def _div_into_one(b: GraphBuilder, node: Node) -> Value | None:
    one, x = node.inputs
    return fit(b, b.reciprocal(x), node.output) if is_splat(one, 1) and not x.is_constant else None


@RULES.add("reciprocal(sqrt(x)) = rsqrt(x)", "reciprocal", "exact: it is how rsqrt is defined")
def _reciprocal_sqrt(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "sqrt")
    return b.rsqrt(inner.inputs[0]) if inner else None


@RULES.add("x ** 0 = 1", "pow", "exact, NaN ** 0 = 1 included")
def _pow_zero(b: GraphBuilder, node: Node) -> Value | None:
    return b.full(node.output.shape, 1, node.output.dtype) if is_splat(node.inputs[1], 0) else None


@RULES.add("x ** 1 = x", "pow", "exact")
def _pow_one(b: GraphBuilder, node: Node) -> Value | None:
    return fit(b, node.inputs[0], node.output) if is_splat(node.inputs[1], 1) else None


@RULES.add("x ** 2 = x * x", "pow", "x * x is correctly rounded; NaN and infinities agree")
def _pow_two(b: GraphBuilder, node: Node) -> Value | None:
    x, c = node.inputs
    return fit(b, b.mul(x, x), node.output) if is_splat(c, 2) else None


@RULES.add("x ** -1 = 1 / x", "pow", "floats; 1 / x is correctly rounded; zeros and infinities agree")
def _pow_minus_one(b: GraphBuilder, node: Node) -> Value | None:
    x, c = node.inputs
    return fit(b, b.reciprocal(x), node.output) if x.dtype.is_floating_point and is_splat(c, -1) else None


@RULES.add("x ** 0.5 = sqrt(x)", "pow", "x known not to be negative nor -0.0 (they differ at -0.0 and -inf)")
def _pow_half(b: GraphBuilder, node: Node) -> Value | None:
    x, c = node.inputs
    return fit(b, b.sqrt(x), node.output) if is_splat(c, 0.5) and never_negative(x) else None


def never_negative(value: Value) -> bool:
    """Whether ``value`` is provably >= +0.0 or NaN: neither negative nor -0.0. Looks at one or two nodes only."""
    node = value.producer
    if node is None or not value.dtype.is_floating_point:
        return False
    if node.op in ("abs", "exp", "sigmoid"):
        return True
    if node.op == "mul":
        return node.inputs[0] is node.inputs[1]
    if node.op == "add":
        c = splat(node.inputs[1])
        return c is not None and c >= 0 and math.copysign(1, c) > 0 and _shallow(node.inputs[0])
    return False


def _shallow(value: Value) -> bool:
    node = value.producer
    return node is not None and (node.op in ("abs", "exp", "sigmoid") or _is_square(node))


def _is_square(node: Node) -> bool:
    return node.op == "mul" and node.inputs[0] is node.inputs[1]


# -- things done twice ------------------------------------------------------------------------------
@RULES.add("f(f(x)) = f(x)", "relu abs floor ceil round trunc sign", "exact")
def _idempotent(b: GraphBuilder, node: Node) -> Value | None:
    return node.inputs[0] if producer(node.inputs[0], node.op) else None


@RULES.add("f(x, x) = x", "maximum minimum logical_and logical_or bitwise_and bitwise_or", "exact; bools for logical")
def _same_operands(b: GraphBuilder, node: Node) -> Value | None:
    x, y = node.inputs
    return x if x is y and x.dtype is node.output.dtype else None


@RULES.add("relu(x) = x", "relu abs", "exact; x never negative nor -0.0")
def _already_positive(b: GraphBuilder, node: Node) -> Value | None:
    return node.inputs[0] if never_negative(node.inputs[0]) else None


@RULES.add("max(x, 0) = relu(x)", "maximum", "exact, NaN stays; but for the sign of zero")
def _max_zero(b: GraphBuilder, node: Node) -> Value | None:
    x, c = node.inputs
    if x.dtype.kind not in "fi" or not is_splat(c, 0):
        return None
    return fit(b, b.relu(x), node.output)


@RULES.add("not not x = x", "logical_not bitwise_not", "exact; bools for logical_not")
def _double_not(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], node.op)
    return inner.inputs[0] if inner and inner.inputs[0].dtype is node.output.dtype else None


@RULES.add("identity(x) = x", "identity", "exact")
def _identity(b: GraphBuilder, node: Node) -> Value | None:
    return node.inputs[0]


@RULES.add("clamp(x) = x", "clamp", "exact; no bounds given")
def _no_clamp(b: GraphBuilder, node: Node) -> Value | None:
    return node.inputs[0] if node.attrs["min"] is None and node.attrs["max"] is None else None


# -- selection --------------------------------------------------------------------------------------
@RULES.add("where(const, x, y) = x or y", "where", "exact")
def _where_constant(b: GraphBuilder, node: Node) -> Value | None:
    cond, x, y = node.inputs
    chosen = splat(cond)
    return None if chosen is None else fit(b, x if chosen else y, node.output)


@RULES.add("where(c, x, x) = x", "where", "exact")
def _where_same(b: GraphBuilder, node: Node) -> Value | None:
    _, x, y = node.inputs
    return fit(b, x, node.output) if x is y else None


@RULES.add("where(not c, x, y) = where(c, y, x)", "where", "exact")
def _where_not(b: GraphBuilder, node: Node) -> Value | None:
    cond, x, y = node.inputs
    inner = producer(cond, "logical_not")
    if inner is None or inner.inputs[0].dtype is not bool_:
        return None
    return b.where(inner.inputs[0], y, x)


# -- casts ------------------------------------------------------------------------------------------
def is_lossless(source: DType, target: DType) -> bool:
    """Whether every value of ``source`` is a value of ``target``."""
    if source is target or source.kind == "b":
        return True
    if target.kind == "b":
        return False
    if source.kind == "f":
        # 16-bit floats trade range for precision between each other; wider ones contain all narrower ones.
        return target.kind == "f" and target.bits > source.bits
    if target.kind == "f":
        digits = round(1 - math.log2(target.eps))
        return source.bits - (source.kind == "i") <= min(digits, math.frexp(target.max)[1] - 1)
    if source.kind == target.kind:
        return target.bits >= source.bits
    return source.kind == "u" and target.bits > source.bits


@RULES.add("cast(x, its own dtype) = x", "cast", "exact")
def _cast_nothing(b: GraphBuilder, node: Node) -> Value | None:
    return node.inputs[0] if node.inputs[0].dtype is node.output.dtype else None


@RULES.add("cast(cast(x, wide), d) = cast(x, d)", "cast", "exact; wide holds every value of x")
def _cast_chain(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "cast")
    if inner is None:
        return None
    x, wide, final = inner.inputs[0], inner.output.dtype, node.output.dtype
    # Integers wrap and floats saturate or are undefined when narrowed to integers: int -> float -> int must stay.
    wraps = x.dtype.is_integer and wide.is_floating_point and final.is_integer and final is not x.dtype
    if not is_lossless(x.dtype, wide) or wraps:
        return None
    return x if x.dtype is final else b.cast(x, dtype=final)


# -- broadcasting -----------------------------------------------------------------------------------
@RULES.add("f(expand(x), y) = expand(f(x, y))", "elementwise", "exact: the same numbers, computed once each")
def _through_expand(b: GraphBuilder, node: Node) -> Value | None:
    if registry.get(node.op).fusion is not Fusion.ELEMENTWISE:
        return None
    stripped = []
    for v in node.inputs:
        inner = producer(v, "expand")
        stripped.append(inner.inputs[0] if inner else v)
    if all(s is v for s, v in zip(stripped, node.inputs, strict=True)):
        return None
    return fit(b, b.emit(node.op, stripped, **node.attrs).output, node.output)
