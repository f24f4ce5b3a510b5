"""The matrix tile unit in ordinary vector code: loop IR with tile operations to loop IR without.

For targets with the feature ``tile-emulation``, which exists so that every tile kernel can be run and proven on a CPU
without the unit. Results have the unit's bits. For row m and column n of ``c += a @ b`` it computes, in float32
with one rounding (to nearest even) per step and subnormal operands and results as zero:

    even = odd = 0
    for each pair i along k:  even = fma(a[m, 2i], b[2i, n], even);  odd = fma(a[m, 2i+1], b[2i+1, n], odd)
    c[m, n] = c[m, n] + (even + odd)

The products of two bfloat16 are exact in float32, so a CPU without FMA gives the same sums except within a factor of
two of overflow. What differs from the unit: the payload and sign of NaN results, a sum that rounds up to exactly the
smallest normal number (kept here, zero there), and exception flags (never raised there).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir import dtypes
from .loopir import If, Instr, Loop, LoopBuilder, LoopFunction, Val

_LANES = 16  # float32 columns of a tile
_ROW = 64  # bytes
_SMALLEST = 2.0**-126


def emulate(fn: LoopFunction) -> LoopFunction:
    """``fn`` with every tile operation spelled out, in place. Tile registers live in its scratch memory."""
    if fn.tiles:
        _Expander(fn).run()
    return fn


class _Expander(LoopBuilder):
    def __init__(self, fn: LoopFunction) -> None:
        self.fn, self.target = fn, fn.target
        assert fn.begin is not None and fn.end is not None
        self.begin, self.end = fn.begin, fn.end
        self.registers = [self.reserve(dtypes.int32, 16 * _LANES) for _ in fn.tiles]

    def run(self) -> None:
        self.fn.body = self.expanded(self.fn.body)

    def expanded(self, body: list[Any]) -> list[Any]:
        # Nests are a dozen levels deep at most.
        out: list[Any] = []
        for s in body:
            if isinstance(s, (Loop, If)):
                s.body = self.expanded(s.body)
                out.append(s)
                continue
            rule: Callable[[Instr], None] | None = getattr(self, f"run_{s.op}", None)
            if rule is None:
                out.append(s)
                continue
            self._body = out
            rule(s)
        return out

    # -- one rule per operation -------------------------------------------------------------------------
    def run_tile_config(self, s: Instr) -> None:
        for tile in range(len(self.fn.tiles)):  # the unit clears its registers
            self.clear(tile)

    def run_tile_release(self, s: Instr) -> None:
        pass

    def run_tile_zero(self, s: Instr) -> None:
        self.clear(s.attrs["tile"])

    def run_tile_load(self, s: Instr) -> None:
        memory, step = self.reinterpret(s.args[0], dtypes.int32), s.attrs["row_bytes"] // 4
        self.copy(s.attrs["tile"], lambda register: (memory, step, register, _LANES))

    def run_tile_store(self, s: Instr) -> None:
        memory, step = self.reinterpret(s.args[0], dtypes.int32), s.attrs["row_bytes"] // 4
        self.copy(s.attrs["tile"], lambda register: (register, _LANES, memory, step))

    def run_tile_dot(self, s: Instr) -> None:
        c, a, b = (s.attrs[k] for k in "cab")
        shapes, pairs = self.fn.tiles, self.fn.tiles[b].rows
        if shapes[a].rows != shapes[c].rows or shapes[a].row_bytes != 4 * pairs:
            raise ValueError(f"loop IR: tile shapes {shapes[c]} += {shapes[a]} @ {shapes[b]} do not fit")
        if {shapes[b].row_bytes, shapes[c].row_bytes} != {_ROW}:
            raise ValueError("tile emulation: results have 16 columns")
        left, right = self.register(a), self.register(b)
        sums = self.register(c, dtypes.float32)
        zero = self.const(dtypes.float32, 0, _LANES)

        def row(m: Any) -> None:
            def pair(i: Any, even: Val, odd: Val) -> list[Val]:
                x = self.splat(self.load(left, self.iadd(self.imul(m, _LANES), i)), _LANES)
                y = self.load(right, self.imul(i, _LANES), _LANES)
                return [
                    self.flush(self.op("fma", self.low(x), self.low(y), even)),
                    self.flush(self.op("fma", self.high(x), self.high(y), odd)),
                ]

            even, odd = self.loop(0, pairs, pair, carry=[zero, zero])
            at = self.imul(m, _LANES)
            old = self.flush(self.load(sums, at, _LANES))
            self.store(sums, self.flush(self.op("add", old, self.flush(self.op("add", even, odd)))), at)

        self.loop(0, shapes[c].rows, row)

    # -- parts ------------------------------------------------------------------------------------------
    def register(self, tile: int, dtype: dtypes.DType = dtypes.int32) -> Val:
        return self.scratch_at(dtype, self.registers[tile])

    def clear(self, tile: int) -> None:
        register, zero = self.register(tile), self.const(dtypes.int32, 0, _LANES)
        self.loop(0, 16, lambda m: self.store(register, zero, self.imul(m, _LANES)))

    def copy(self, tile: int, ends: Callable[[Val], tuple[Val, int, Val, int]]) -> None:
        """Row by row between a register and memory; a row shorter than the register's reads nothing behind it."""
        shape = self.fn.tiles[tile]
        source, step_in, target, step_out = ends(self.register(tile))
        words = shape.row_bytes // 4
        mask = None if words == _LANES else self.lanes_below(words, _LANES)

        def row(m: Any) -> None:
            value = self.load(source, self.imul(m, step_in), _LANES, 1, mask)
            self.store(target, value, self.imul(m, step_out), 1, mask)

        self.loop(0, shape.rows, row)

    def low(self, pairs: Val) -> Val:
        """The first bfloat16 of every pair as float32."""
        bits = self.op("shl", pairs, self.const(dtypes.int32, 16, _LANES))
        return self.flush(self.bitcast(bits, dtypes.float32))

    def high(self, pairs: Val) -> Val:
        bits = self.op("and", pairs, self.const(dtypes.int32, -(1 << 16), _LANES))
        return self.flush(self.bitcast(bits, dtypes.float32))

    def flush(self, v: Val) -> Val:
        """Subnormal numbers become zeros of their sign."""
        tiny = self.cmp("lt", self.op("abs", v), self.const(dtypes.float32, _SMALLEST, _LANES))
        return self.select(tiny, self.op("copysign", self.const(dtypes.float32, 0, _LANES), v), v)
