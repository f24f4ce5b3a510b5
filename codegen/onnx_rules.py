"""ONNX rules of elementwise operators, reductions and generated tensors."""

from __future__ import annotations

import math
import re

import numpy as np

from ..ir import dtypes
from ..ir.dtypes import DType
from ..ir.errors import UnsupportedError
from ..ir.graph import Node
from .onnx_emit import Emitter, Rule, rule

_SIMPLE = {
    "abs": "Abs", "sign": "Sign", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "sin": "Sin",
    "cos": "Cos", "tanh": "Tanh", "erf": "Erf", "sigmoid": "Sigmoid", "floor": "Floor", "ceil": "Ceil",
    "round": "Round", "isnan": "IsNaN", "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div",
    "maximum": "Max", "minimum": "Min", "eq": "Equal",
}  # fmt: skip


def _simple(op_type: str) -> Rule:
    return lambda e, node, xs: e.op(op_type, xs)


for _ir, _onnx in _SIMPLE.items():
    rule(_ir)(_simple(_onnx))


def _dtype(node: Node) -> DType:
    return node.inputs[0].dtype


# -- one operand -------------------------------------------------------------------------------------
@rule("identity")
def _identity(e: Emitter, node: Node, xs: list[str]) -> str:
    return xs[0]


@rule("neg")
def _neg(e: Emitter, node: Node, xs: list[str]) -> str:
    if _dtype(node).kind == "u":
        return e.op("Sub", [e.scalar(0, _dtype(node)), xs[0]])
    return e.op("Neg", xs)


@rule("relu")
def _relu(e: Emitter, node: Node, xs: list[str]) -> str:
    if _dtype(node).kind == "u":
        return xs[0]
    return e.op("Relu", xs)


@rule("cast")
def _cast(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.cast(xs[0], node.attrs["dtype"])


@rule("expm1")
def _expm1(e: Emitter, node: Node, xs: list[str]) -> str:
    # tanh(x / 2) * (exp(x) + 1): unlike exp(x) - 1 it loses nothing near 0
    (x,), dtype = xs, _dtype(node)
    half = e.op("Mul", [x, e.scalar(0.5, dtype)])
    return e.op("Mul", [e.op("Tanh", [half]), e.op("Add", [e.op("Exp", [x]), e.scalar(1, dtype)])])


@rule("log1p")
def _log1p(e: Emitter, node: Node, xs: list[str]) -> str:
    # u = 1 + x; log(u) * (x / (u - 1)) corrects the rounding of u; x itself where u is 1 or infinite
    (x,), dtype = xs, _dtype(node)
    one = e.scalar(1, dtype)
    u = e.op("Add", [x, one])
    corrected = e.op("Mul", [e.op("Log", [u]), e.op("Div", [x, e.op("Sub", [u, one])])])
    plain = e.op("Or", [e.op("Equal", [u, one]), e.op("Equal", [u, e.scalar(math.inf, dtype)])])
    return e.op("Where", [plain, x, corrected])


@rule("rsqrt")
def _rsqrt(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Reciprocal", [e.op("Sqrt", xs)])


@rule("trunc")
def _trunc(e: Emitter, node: Node, xs: list[str]) -> str:
    negative = e.op("Less", [xs[0], e.scalar(0, _dtype(node))])
    return e.op("Where", [negative, e.op("Ceil", xs), e.op("Floor", xs)])


def _truth(e: Emitter, name: str, dtype: DType) -> str:
    return name if dtype is dtypes.bool_ else e.cast(name, dtypes.bool_)


@rule("logical_not")
def _logical_not(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Not", [_truth(e, xs[0], _dtype(node))])


@rule("isinf")
def _isinf(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Equal", [e.op("Abs", xs), e.scalar(math.inf, _dtype(node))])


@rule("isfinite")
def _isfinite(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Less", [e.op("Abs", xs), e.scalar(math.inf, _dtype(node))])


@rule("silu")
def _silu(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Mul", [xs[0], e.op("Sigmoid", xs)])


@rule("gelu")
def _gelu(e: Emitter, node: Node, xs: list[str]) -> str:
    (x,), dtype = xs, _dtype(node)
    if e.opset >= 20:
        return e.op("Gelu", xs, approximate=node.attrs["approximate"])
    if node.attrs["approximate"] == "tanh":
        cube = e.op("Mul", [e.op("Mul", [e.op("Mul", [x, x]), x]), e.scalar(0.044715, dtype)])
        inner = e.op("Mul", [e.op("Add", [x, cube]), e.scalar(math.sqrt(2 / math.pi), dtype)])
        bend = e.op("Tanh", [inner])
    else:
        bend = e.op("Erf", [e.op("Mul", [x, e.scalar(math.sqrt(0.5), dtype)])])
    half = e.op("Mul", [x, e.scalar(0.5, dtype)])
    return e.op("Mul", [half, e.op("Add", [bend, e.scalar(1, dtype)])])


@rule("leaky_relu")
def _leaky_relu(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("LeakyRelu", xs, alpha=node.attrs["negative_slope"])


@rule("elu")
def _elu(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Elu", xs, alpha=node.attrs["alpha"])


@rule("softplus")
def _softplus(e: Emitter, node: Node, xs: list[str]) -> str:
    (x,), dtype = xs, _dtype(node)
    beta, threshold = node.attrs["beta"], node.attrs["threshold"]
    if beta == 1 and math.exp(-threshold) < dtype.eps:  # beyond the threshold the two branches round to the same
        return e.op("Softplus", [x])
    scaled = e.op("Mul", [x, e.scalar(beta, dtype)])
    smooth = e.op("Div", [e.op("Softplus", [scaled]), e.scalar(beta, dtype)])
    return e.op("Where", [e.op("Greater", [scaled, e.scalar(threshold, dtype)]), x, smooth])


@rule("hardsigmoid")
def _hardsigmoid(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("HardSigmoid", xs, alpha=1 / 6, beta=0.5)


@rule("hardswish")
def _hardswish(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("HardSwish", xs)


@rule("clamp")
def _clamp(e: Emitter, node: Node, xs: list[str]) -> str:
    low, high = node.attrs["min"], node.attrs["max"]
    if low is None and high is None:
        return xs[0]
    bounds = ["" if b is None else e.scalar(b, _dtype(node)) for b in (low, high)]
    return e.op("Clip", [xs[0], *(bounds if bounds[1] else bounds[:1])])


# -- two operands ------------------------------------------------------------------------------------
@rule("pow")
def _pow(e: Emitter, node: Node, xs: list[str]) -> str:
    dtype = _dtype(node)
    if dtype.is_integer and dtype not in (dtypes.int32, dtypes.int64):
        # ONNX takes a power of no narrower integers; their wrap-around is that of int64, truncated.
        return e.cast(e.op("Pow", [e.cast(x, dtypes.int64) for x in xs]), dtype)
    return e.op("Pow", xs)


def _floor_mod(e: Emitter, dtype: DType, a: str, b: str) -> str:
    """Remainder with the sign of b; ONNX has that for integers only."""
    if dtype.is_integer:
        return e.op("Mod", [a, b])
    zero = e.scalar(0, dtype)
    rest = e.op("Mod", [a, b], fmod=1)
    differ = e.op("Xor", [e.op("Less", [rest, zero]), e.op("Less", [b, zero])])
    wrong = e.op("And", [differ, e.op("Not", [e.op("Equal", [rest, zero])])])
    return e.op("Where", [wrong, e.op("Add", [rest, b]), rest])


@rule("remainder")
def _remainder(e: Emitter, node: Node, xs: list[str]) -> str:
    return _floor_mod(e, _dtype(node), *xs)


@rule("floor_divide")
def _floor_divide(e: Emitter, node: Node, xs: list[str]) -> str:
    (a, b), dtype = xs, _dtype(node)
    exact = e.op("Div", [e.op("Sub", [a, _floor_mod(e, dtype, a, b)]), b])
    if dtype.is_integer:
        return exact
    by_zero = e.op("Equal", [b, e.scalar(0, dtype)])
    return e.op("Where", [by_zero, e.op("Div", [a, b]), e.op("Round", [exact])])


@rule("ne")
def _ne(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Not", [e.op("Equal", xs)])


def _ordered(op_type: str) -> Rule:
    def emit(e: Emitter, node: Node, xs: list[str]) -> str:
        if _dtype(node) is dtypes.bool_:
            xs = [e.cast(x, dtypes.int32) for x in xs]
        return e.op(op_type, xs)

    return emit


for _ir, _onnx in {"lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}.items():
    rule(_ir)(_ordered(_onnx))


def _logical(op_type: str) -> Rule:
    def emit(e: Emitter, node: Node, xs: list[str]) -> str:
        return e.op(op_type, [_truth(e, x, _dtype(node)) for x in xs])

    return emit


def _bitwise(logical: str, bitwise: str) -> Rule:
    def emit(e: Emitter, node: Node, xs: list[str]) -> str:
        if _dtype(node) is dtypes.bool_:
            return e.op(logical, xs)
        if e.opset < 18:
            raise UnsupportedError(f"{node.op} on integers needs ONNX opset 18 or newer, not {e.opset}")
        return e.op(bitwise, xs)

    return emit


for _ir, _onnx in {"and": "And", "or": "Or", "xor": "Xor"}.items():
    rule(f"logical_{_ir}")(_logical(_onnx))
    rule(f"bitwise_{_ir}")(_bitwise(_onnx, f"Bitwise{_onnx}"))
rule("bitwise_not")(_bitwise("Not", "BitwiseNot"))


@rule("where")
def _where(e: Emitter, node: Node, xs: list[str]) -> str:
    condition, a, b = xs
    if node.output.dtype is dtypes.bool_:  # runtimes choose between numbers only
        return e.op("Or", [e.op("And", [condition, a]), e.op("And", [e.op("Not", [condition]), b])])
    return e.op("Where", xs)


# -- reductions --------------------------------------------------------------------------------------
# Element types that the operator takes; others are reduced in a wider type and cast back.
_WIDE = {dtypes.int32, dtypes.int64, dtypes.uint32, dtypes.uint64}
_REDUCE = {"sum": "ReduceSum", "prod": "ReduceProd", "amax": "ReduceMax", "amin": "ReduceMin", "mean": "ReduceMean"}


def _reduce(e: Emitter, op_type: str, x: str, node: Node) -> str:
    axes, keepdims = list(node.attrs["axes"]), int(node.attrs["keepdims"])
    if op_type == "ReduceSum" or e.opset >= 18:
        return e.op(op_type, [x, e.ints(axes)], keepdims=keepdims)
    return e.op(op_type, [x], axes=axes, keepdims=keepdims)


@rule(*_REDUCE)
def _reduction(e: Emitter, node: Node, xs: list[str]) -> str:
    if not node.attrs["axes"]:  # ONNX takes no axes for all of them
        return xs[0]
    dtype = _dtype(node)
    if dtype.is_floating_point or dtype in _WIDE:
        return _reduce(e, _REDUCE[node.op], xs[0], node)
    return e.cast(_reduce(e, _REDUCE[node.op], e.cast(xs[0], dtypes.int64), node), dtype)


@rule("any", "all")
def _any_all(e: Emitter, node: Node, xs: list[str]) -> str:
    if not node.attrs["axes"]:
        return xs[0]
    number = e.cast(xs[0], dtypes.int32)
    return e.cast(_reduce(e, "ReduceMax" if node.op == "any" else "ReduceMin", number, node), dtypes.bool_)


@rule("argmax", "argmin")
def _arg(e: Emitter, node: Node, xs: list[str]) -> str:
    op_type = "ArgMax" if node.op == "argmax" else "ArgMin"
    return e.op(op_type, xs, axis=node.attrs["axis"], keepdims=int(node.attrs["keepdims"]))


# -- generated ---------------------------------------------------------------------------------------
@rule("constant")
def _constant(e: Emitter, node: Node, xs: list[str]) -> str:
    array = np.asarray(node.attrs["value"])
    if array.size <= 1 and re.fullmatch(r"const(_\d+)?", node.output.name):  # a number in a formula
        return e.const(array, node.output.dtype)
    return e.initializer(array, node.output.name)


@rule("iota")
def _iota(e: Emitter, node: Node, xs: list[str]) -> str:
    shape, axis, dtype = node.attrs["shape"], node.attrs["axis"], node.attrs["dtype"]
    length = e.op("Squeeze", [e.extent(shape[axis]), e.ints([0])])
    line = e.op("Range", [e.scalar(0, dtypes.int64), length, e.scalar(1, dtypes.int64)])
    if dtype is not dtypes.int64:
        line = e.cast(line, dtype)
    if len(shape) == 1:
        return line
    column = [1] * len(shape)
    column[axis] = -1
    return e.op("Expand", [e.op("Reshape", [line, e.ints(column)]), e.extents(shape)])
