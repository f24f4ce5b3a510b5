"""ONNX rules of the operators in ``ir.ops.elementary``."""

from __future__ import annotations

import math

from ..ir import dtypes
from ..ir.errors import UnsupportedError
from ..ir.graph import Node
from .onnx_emit import Emitter, rule

for _name in ("tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"):

    @rule(_name)
    def _same(e: Emitter, node: Node, xs: list[str], op_type: str = _name.capitalize()) -> str:
        return e.op(op_type, xs)


@rule("log2", "log10")
def _log_of_base(e: Emitter, node: Node, xs: list[str]) -> str:
    base = math.log(2 if node.op == "log2" else 10)
    return e.op("Div", [e.op("Log", xs), e.scalar(base, node.inputs[0].dtype)])


@rule("erfc")
def _erfc(e: Emitter, node: Node, xs: list[str]) -> str:
    # ONNX has erf only: absolute accuracy, not relative where the result is small
    return e.op("Sub", [e.scalar(1, node.inputs[0].dtype), e.op("Erf", xs)])


def _is_negative(e: Emitter, node: Node, x: str, operand: int) -> str:
    """Whether the sign bit is set: -0.0 has reciprocal -inf."""
    dtype = node.inputs[operand].dtype
    zero = e.scalar(0, dtype)
    negative_zero = e.op("And", [e.op("Equal", [x, zero]), e.op("Less", [e.op("Reciprocal", [x]), zero])])
    return e.op("Or", [e.op("Less", [x, zero]), negative_zero])


@rule("copysign")
def _copysign(e: Emitter, node: Node, xs: list[str]) -> str:
    size = e.op("Abs", [xs[0]])
    return e.op("Where", [_is_negative(e, node, xs[1], 1), e.op("Neg", [size]), size])


@rule("hypot")
def _hypot(e: Emitter, node: Node, xs: list[str]) -> str:
    dtype = node.inputs[0].dtype
    a, b = (e.op("Abs", [x]) for x in xs)
    large, small = e.op("Max", [a, b]), e.op("Min", [a, b])
    ratio = e.op("Div", [small, large])
    root = e.op("Sqrt", [e.op("Add", [e.op("Mul", [ratio, ratio]), e.scalar(1, dtype)])])
    scaled = e.op("Where", [e.op("Equal", [large, e.scalar(0, dtype)]), large, e.op("Mul", [large, root])])
    infinite = e.scalar(math.inf, dtype)
    either = e.op("Or", [e.op("Equal", [a, infinite]), e.op("Equal", [b, infinite])])
    return e.op("Where", [either, infinite, scaled])


@rule("atan2")
def _atan2(e: Emitter, node: Node, xs: list[str]) -> str:
    (y, x), dtype = xs, node.inputs[0].dtype
    zero, quarter = e.scalar(0, dtype), e.scalar(math.pi / 4, dtype)
    ay, ax = e.op("Abs", [y]), e.op("Abs", [x])
    angle = e.op("Atan", [e.op("Div", [ay, ax])])
    angle = e.op("Where", [e.op("Equal", [ay, zero]), zero, angle])
    infinite = e.scalar(math.inf, dtype)
    both = e.op("And", [e.op("Equal", [ay, infinite]), e.op("Equal", [ax, infinite])])
    angle = e.op("Where", [both, quarter, angle])
    angle = e.op("Where", [_is_negative(e, node, x, 1), e.op("Sub", [e.scalar(math.pi, dtype), angle]), angle])
    angle = e.op("Where", [_is_negative(e, node, y, 0), e.op("Neg", [angle]), angle])
    return e.op("Where", [e.op("IsNaN", [x]), x, angle])


@rule("fmod")
def _fmod(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Mod", xs, fmod=1)


@rule("shift_left", "shift_right")
def _shift(e: Emitter, node: Node, xs: list[str]) -> str:
    dtype = node.inputs[0].dtype
    if dtype.kind != "u" or dtype is dtypes.uint16:
        raise UnsupportedError(f"{node.op} of {dtype.name}: ONNX shifts uint8, uint32 and uint64 only")
    inside = e.op("Less", [xs[1], e.scalar(dtype.bits, dtype)])
    count = e.op("Where", [inside, xs[1], e.scalar(0, dtype)])
    shifted = e.op("BitShift", [xs[0], count], direction="LEFT" if node.op == "shift_left" else "RIGHT")
    return e.op("Where", [inside, shifted, e.scalar(0, dtype)])
