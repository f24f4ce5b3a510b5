"""The counter-based random generator of ``random_uniform``, one element per lane."""

from __future__ import annotations

from ...ir.dtypes import DType, float32, int64, uint64
from ..loopir import LoopBuilder, Val

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = 0xFFFFFFFF


def uniform(b: LoopBuilder, index: Val, seed: Val, offset: Val, dtype: DType) -> Val:
    """Numbers on [0, 1) for the elements ``index`` (int64, any lanes) of the stream (seed, offset)."""
    lanes = index.lanes

    def const(value: int) -> Val:
        return b.const(uint64, value, lanes)

    i = b.bitcast(index, uint64)
    counter = b.op("add", b.op("lshr", i, const(2)), b.splat(b.bitcast(offset, uint64), lanes))
    word = b.op("and", i, const(3))
    coarse = _word(b, counter, word, seed, 0)
    if dtype is float32:
        top = b.cast(b.op("lshr", coarse, const(8)), int64)
        return b.op("mul", b.cast(top, float32), b.const(float32, 2.0**-24, lanes))
    fine = _word(b, counter, word, seed, 1)
    bits = b.op("or", b.op("shl", coarse, const(21)), b.op("lshr", fine, const(11)))
    return b.op("mul", b.cast(b.cast(bits, int64), dtype), b.const(dtype, 2.0**-53, lanes))


def _word(b: LoopBuilder, counter: Val, word: Val, seed: Val, upper: int) -> Val:
    """Word ``word`` (0..3) of Philox4x32-10 at ``counter``, in the low half of a uint64."""
    lanes = counter.lanes

    def const(value: int) -> Val:
        return b.const(uint64, value, lanes)

    low, half = const(_LOW), const(32)
    key = b.bitcast(seed, uint64)
    # The key schedule is the same for all lanes: scalar arithmetic.
    mask = b.const(uint64, _LOW)
    k0, k1 = b.op("and", key, mask), b.op("lshr", key, b.const(uint64, 32))
    c0, c1 = b.op("and", counter, low), b.op("lshr", counter, half)
    c2, c3 = const(upper), const(0)
    for _ in range(_ROUNDS):
        p0 = b.op("mul", c0, const(_MULTIPLIERS[0]))
        p1 = b.op("mul", c2, const(_MULTIPLIERS[1]))
        first = b.op("xor", b.op("xor", b.op("lshr", p1, half), c1), b.splat(k0, lanes))
        third = b.op("xor", b.op("xor", b.op("lshr", p0, half), c3), b.splat(k1, lanes))
        c0, c1, c2, c3 = first, b.op("and", p1, low), third, b.op("and", p0, low)
        k0 = b.op("and", b.op("add", k0, b.const(uint64, _KEY_STEPS[0])), mask)
        k1 = b.op("and", b.op("add", k1, b.const(uint64, _KEY_STEPS[1])), mask)
    odd = b.cmp("ne", b.op("and", word, const(1)), const(0))
    high = b.cmp("ne", b.op("and", word, const(2)), const(0))
    return b.select(high, b.select(odd, c3, c2), b.select(odd, c1, c0))
