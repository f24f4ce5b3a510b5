"""Rules of the operators in ``ir.ops.elementary``, in ``arithmetic``'s form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir import dtypes
from ...ir.graph import Node
from .. import vmath_inverse as vmath
from ..loopir import LoopBuilder, Val
from .fmod import float_remainder

Rule = Callable[[LoopBuilder, Node, Sequence[Val]], Val]
SafeDivision = Callable[[LoopBuilder, Val, Val], tuple[Val, Val]]


def _function(f: Callable[..., Val]) -> Rule:
    return lambda b, node, args: f(b, *args)


def _copysign(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    return b.op("copysign", *args)


def _int_like(v: Val) -> dtypes.DType:
    return dtypes.int64 if v.dtype.bits == 64 else dtypes.int32


def _exponent(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    ints, mantissa, bias = (_int_like(x), 52, 1022) if x.dtype.bits == 64 else (_int_like(x), 23, 126)
    lanes = x.lanes
    a = b.op("abs", x)
    tiny = b.cmp("lt", a, b.const(x.dtype, 2.0 ** (1 - bias), lanes))
    scaled = b.select(tiny, b.op("mul", a, b.const(x.dtype, 2.0**mantissa, lanes)), a)
    field = b.op("lshr", b.bitcast(scaled, ints), b.const(ints, mantissa, lanes))
    shift = b.select(tiny, b.const(ints, bias + mantissa, lanes), b.const(ints, bias, lanes))
    out = b.op("sub", field, shift)
    zero = b.const(ints, 0, lanes)
    out = b.select(b.cmp("eq", a, b.const(x.dtype, 0.0, lanes)), zero, out)
    finite = b.cmp("lt", a, b.const(x.dtype, float("inf"), lanes))
    return b.cast(b.select(finite, out, zero), dtypes.int32)


def _nextafter(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
    kind = node.output.dtype
    x, y = (b.cast(a, kind) for a in args)  # what was computed before in the same kernel is not rounded yet
    ints, lanes = _int_like(x), x.lanes
    dropped = {dtypes.float16: 13, dtypes.bfloat16: 16}.get(kind, 0)  # bits of the mantissa that ``kind`` lacks
    zero, one = b.const(x.dtype, 0.0, lanes), b.const(ints, 1 << dropped, lanes)
    bits = b.bitcast(x, ints)
    # As integers, numbers of one sign are in the order of their sizes.
    outwards = b.op("xor", b.cmp("lt", x, y), b.cmp("lt", x, zero))
    out = b.bitcast(b.select(outwards, b.op("add", bits, one), b.op("sub", bits, one)), x.dtype)
    if kind is dtypes.float16:  # its range of exponents is smaller than that of the float32 it is computed in
        size, step = b.op("abs", x), b.const(x.dtype, 2.0**-24, lanes)
        evenly = b.select(b.cmp("lt", x, y), b.op("add", x, step), b.op("sub", x, step))
        evenly = b.select(b.cmp("eq", x, zero), evenly, b.op("copysign", evenly, x))  # -0 before a negative number
        out = b.select(b.cmp("le", size, b.const(x.dtype, 2.0**-14, lanes)), evenly, out)
        largest = b.op("copysign", b.const(x.dtype, 65504.0, lanes), x)
        out = b.select(b.cmp("eq", size, b.const(x.dtype, float("inf"), lanes)), largest, out)
    else:
        out = b.select(b.cmp("eq", x, zero), b.op("copysign", b.bitcast(one, x.dtype), y), out)
    out = b.select(b.cmp("eq", x, y), y, out)
    return b.select(b.cmp("uno", x, y), b.const(x.dtype, float("nan"), lanes), out)


def _fmod(divide: SafeDivision) -> Rule:
    def rule(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
        x, y = args
        return float_remainder(b, x, y) if x.dtype.kind == "f" else divide(b, x, y)[1]

    return rule


def _gcd(divide: SafeDivision) -> Rule:
    """Euclid's algorithm, as many steps as the worst pair of this width (neighbouring Fibonacci numbers) takes."""

    def rule(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
        zero = b.const(args[0].dtype, 0, args[0].lanes)

        def step(_: Val, x: Val, y: Val) -> list[Val]:
            done = b.cmp("eq", y, zero)
            return [b.select(done, x, y), divide(b, x, y)[1]]

        found, _ = b.loop(0, args[0].dtype.bits * 3 // 2, step, carry=list(args))
        return b.op("abs", found) if found.dtype.kind == "i" else found

    return rule


def _shift(op: str) -> Rule:
    def rule(b: LoopBuilder, node: Node, args: Sequence[Val]) -> Val:
        x, y = args
        zero, last = (b.const(x.dtype, v, x.lanes) for v in (0, x.dtype.bits - 1))
        inside = b.cmp("le", y, last)
        if x.dtype.kind == "i":
            inside = b.op("and", inside, b.cmp("ge", y, zero))
        if op == "shift_right" and x.dtype.kind == "i":
            return b.op("ashr", x, b.select(inside, y, last))
        shifted = b.op("shl" if op == "shift_left" else "lshr", x, b.select(inside, y, zero))
        return b.select(inside, shifted, zero)

    return rule


def rules(divide: SafeDivision) -> dict[str, Rule]:
    """By operator; ``divide``: integer quotient and remainder that never trap."""
    return {
        **{name: _function(getattr(vmath, name)) for name in vmath.__all__},
        "copysign": _copysign, "exponent": _exponent, "nextafter": _nextafter, "fmod": _fmod(divide),
        "gcd": _gcd(divide), "shift_left": _shift("shift_left"), "shift_right": _shift("shift_right"),
    }  # fmt: skip


EXPENSIVE = frozenset({*vmath.__all__, "fmod", "gcd"})
