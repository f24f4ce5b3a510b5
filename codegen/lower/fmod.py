"""The exact floating remainder (C's ``fmod``) by long division on mantissas."""

from __future__ import annotations

from ...ir import dtypes
from ..loopir import LoopBuilder, Val


def float_remainder(b: LoopBuilder, x: Val, y: Val) -> Val:
    """``x - y * trunc(x / y)`` without rounding: the sign of x, NaN for infinite x or zero y, x for infinite y.

    The quotient is developed some bits at a time in int64; the number of rounds follows from the largest exponent
    difference among the lanes (one round when |x / y| < 2**10).
    """
    lanes, double = x.lanes, x.dtype.bits == 64
    ints = dtypes.int64 if double else dtypes.int32
    mantissa, chunk = (52, 10) if double else (23, 39)

    def const(value: int) -> Val:
        return b.const(dtypes.int64, value, lanes)

    def split(v: Val) -> tuple[Val, Val]:
        """(integer mantissa, exponent of its last bit above the smallest one)."""
        bits = b.cast(b.bitcast(b.op("abs", v), ints), dtypes.int64)
        field = b.op("lshr", bits, const(mantissa))
        normal = b.cmp("gt", field, const(0))
        fraction = b.op("and", bits, const((1 << mantissa) - 1))
        whole = b.select(normal, b.op("or", fraction, const(1 << mantissa)), fraction)
        return whole, b.op("sub", b.op("max", field, const(1)), const(1))

    mx, ex = split(x)
    my, ey = split(y)
    divisor = b.op("max", my, const(1))  # zero is dealt with at the end
    distance = b.op("max", b.op("sub", ex, ey), const(0))
    longest = b.horizontal("max", distance)
    rounds = b.idiv(b.iadd(longest, chunk - 1), chunk)

    def step(_: Val, rest: Val, left: Val) -> list[Val]:
        bits = b.op("min", left, const(chunk))
        return [b.op("rem", b.op("shl", rest, bits), divisor), b.op("sub", left, bits)]

    rest, _ = b.loop(0, rounds, step, carry=[b.op("rem", mx, divisor), distance])
    # rest * 2**(ey - smallest), in two steps so that neither factor leaves the range; both products are exact.
    power = b.op("sub", ey, const(1074 if double else 149))
    half = b.op("ashr", power, const(1))
    value = b.cast(rest, x.dtype)
    for part in (half, b.op("sub", power, half)):
        value = b.op("mul", value, _power_of_two(b, part, x.dtype, ints, mantissa))
    value = b.op("copysign", value, x)
    smaller = b.cmp("lt", b.op("abs", x), b.op("abs", y))
    value = b.select(smaller, x, value)
    zero, inf = b.const(x.dtype, 0.0, lanes), b.const(x.dtype, float("inf"), lanes)
    invalid = b.op("or", b.cmp("eq", y, zero), b.cmp("eq", b.op("abs", x), inf))
    invalid = b.op("or", invalid, b.cmp("uno", x, y))
    return b.select(invalid, b.const(x.dtype, float("nan"), lanes), value)


def _power_of_two(b: LoopBuilder, exponent: Val, dtype: dtypes.DType, ints: dtypes.DType, mantissa: int) -> Val:
    bias = 1023 if dtype.bits == 64 else 127
    field = b.cast(b.op("add", exponent, b.const(dtypes.int64, bias, exponent.lanes)), ints)
    return b.bitcast(b.op("shl", field, b.const(ints, mantissa, exponent.lanes)), dtype)
