"""Products of few rows with constant weights in fixed point (``codegen/fixed_point.py``).

One iteration takes a panel of outputs and streams through its weights once. For each block of terms it copies what
belongs to it from the rows of A, scaled by a power of two to about one, so that sums of products with whole numbers
neither overflow nor vanish; the power and the scale of the weights come in when the block's sums go to the totals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...ir import dtypes
from ...ir.errors import UnsupportedError
from ...ir.target import Target
from .. import fixed_point
from ..contraction import Contraction, Generator
from ..fixed_point import BLOCK_WORDS, FORMS, GROUP, LOW, TERMS, WORDS
from ..loopir import Val
from ..schedule import upper
from .contraction_matmul import plan_matmul
from .contraction_operands import Placed
from .kernel import LoweredKernel

if TYPE_CHECKING:
    from .contraction import Group, Plan

# Tiles of at least so many rows prefetch their weights; with fewer the CPU's own prefetchers alone do better. Zen 4, in
# GB/s, without and with: 28 and 22 for 2 rows, 22 and 27 for 4.
_ROWS_PREFETCHED = 4
_AHEAD = 8192  # words from those that are loaded to those that are prefetched
_LINE = 16  # words of a cache line
_EXPONENT = 0x7F800000  # bits of a float32
# Powers of two whose inverse is a number, too.
_LEAST_POWER, _MOST_POWER, _INVERSE = 0x00800000, 0x7E800000, 0x7F000000


def lower_fixed_point(group: Group, target: Target) -> LoweredKernel:
    """The kernel of a product whose B has a form of ``fixed_point.FORMS``.

    Raises:
        UnsupportedError: the operands do not fit.
    """
    from .contraction import _write

    plan, spec = check_fixed_point(group, target)
    (rows, _), outputs = spec.m, spec.n
    assert isinstance(rows.extent, int) and isinstance(outputs, int)
    schedule = fixed_point.choose(target, rows.extent, plan.k, outputs, plan.nb)
    return _write(group, [plan], target, schedule, _FixedPoint)


def check_fixed_point(group: Group, target: Target) -> tuple[Plan, Contraction]:
    """What ``lower_fixed_point`` starts from; UnsupportedError says what does not fit."""
    from .contraction import _describe

    core, (a, b) = group.core, (v.type for v in group.operands)
    if b.layout.form not in FORMS or core.op != "matmul" or b.rank != 2:
        raise UnsupportedError(f"fixed point: {core!r} is no product with {b} in its form")
    if any(v.dtype != dtypes.float32 for v in (*group.operands, core.output)):
        raise UnsupportedError(f"fixed point: only float32 products, this is of {a} and {b}")
    turned = b.layout.form == fixed_point.FORM_TRANSPOSED
    if core.attrs["transpose_a"] or turned != core.attrs["transpose_b"]:
        raise UnsupportedError(f"fixed point: {core!r} takes its operands another way round than form {b.layout.form}")
    if Placed(a).stride(a.rank - 1) != 1:
        raise UnsupportedError(f"fixed point: A {a} must be row-major")
    (plan,) = plan_matmul(group, target)
    lanes = target.lanes(dtypes.float32)
    if plan.nb is None or lanes == 1 or TERMS % lanes:
        raise UnsupportedError(f"fixed point: B {b} must be in panels of whole vectors")
    spec = _describe(group, plan, lanes, plan.nb)
    if upper(spec.m[0].extent) > fixed_point.MOST_ROWS:
        raise UnsupportedError(f"fixed point: only products of up to {fixed_point.MOST_ROWS} rows, not {a}")
    if not (isinstance(spec.m[0].extent, int) and spec.m[1].extent == 1 and isinstance(spec.n, int)):
        raise UnsupportedError(f"fixed point: rows of A {a} must be known, and close together")
    return plan, spec


class _FixedPoint(Generator):
    """The usual parallel loops, addresses and epilogues around sums of its own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rows = upper(self.spec.m[0].extent)
        self.near = self.b.reserve(self.spec.dtype, self.rows * TERMS)
        self.powers = self.b.reserve(self.spec.dtype, self.rows)

    def panel(self, at: Mapping[str, Any], nb: int, left: Any) -> None:
        b, spec = self.b, self.spec
        self.at, self._left, masks = at, left, self.masks(nb, left)
        depth = self.extent(spec.segments[0].axes[0].extent)
        rows = self.rows
        a, weights, *results = (self.start(p, o, at) for p, o in self.operands())
        weights = b.reinterpret(weights, dtypes.int32)
        totals = self.scratch(rows * nb)
        near, powers = (b.scratch_at(spec.dtype, offset) for offset in (self.near, self.powers))
        b.loop(0, rows * nb, lambda i: b.store(b.at(totals, b.imul(i, self.lanes)), self.zero))
        width = self.lanes * self.nb

        def block(number: Any, terms: int) -> None:
            source = b.at(a, b.imul(number, TERMS))
            b.loop(0, rows, lambda r: self.copy(source, near, powers, r, terms))
            words = b.at(weights, b.imul(number, BLOCK_WORDS * width))
            self.tiles(lambda first, size: self.sums(words, near, powers, totals, first, size, nb, terms))

        whole, rest = divmod(depth, TERMS)
        b.loop(0, whole, lambda number: block(number, TERMS))
        if rest:
            block(whole, rest)

        def finish(first: Any, size: int) -> None:
            operands = [*spec.outs, *spec.extras]
            moved = [self.move(p, o, spec.m[0].name, first) for p, o in zip(results, operands, strict=True)]
            outs, extras = moved[: len(spec.outs)], moved[len(spec.outs) :]
            mine = b.at(totals, b.imul(first, nb * self.lanes))
            if self.loop_epilogue and size * nb > 1:
                self.finish_in_loops(outs, extras, (size, 1), nb, mine)
                return
            values = [b.load(mine, i * self.lanes, self.lanes) for i in range(size * nb)]
            self.finish(outs, extras, [(r, 0) for r in range(size)], nb, masks, values)

        self.tiles(finish)

    def tiles(self, body: Any) -> None:
        """``body(first row, rows)`` for every tile."""
        b = self.b
        for s in self.m_splits[0]:
            b.loop(
                0, self.extent(s.tiles), lambda t, s=s: body(b.iadd(b.imul(t, s.size), self.extent(s.start)), s.size)
            )

    def copy(self, source: Val, near: Val, powers: Val, row: Any, terms: int) -> None:
        """One row's elements of a block of ``terms``, divided by a power of two near the largest of them; zeros up to
        a whole vector behind the last group."""
        b, lanes, dtype = self.b, self.lanes, self.spec.dtype
        source = b.at(source, b.imul(row, self.extent(self.spec.a.stride(self.spec.m[0].name))))
        near = b.at(near, b.imul(row, TERMS))
        whole, rest = divmod(terms, lanes)
        count = -(-(-(-terms // GROUP) * GROUP) // lanes)

        tail = b.lanes_below(rest, lanes) if rest else None

        def size(i: Any, most: Val, mask: Val | None = None) -> list[Val]:
            return [b.op("max", b.op("abs", b.load(source, b.imul(i, lanes), lanes, 1, mask)), most)]

        (most,) = b.loop(0, whole, size, carry=[self.zero])
        if rest:
            (most,) = size(whole, most, tail)
        bits = b.bitcast(b.horizontal("max", most), dtypes.int32)
        power = b.op("and", bits, b.const(dtypes.int32, _EXPONENT))
        power = b.op("max", power, b.const(dtypes.int32, _LEAST_POWER))
        power = b.op("min", power, b.const(dtypes.int32, _MOST_POWER))
        inverse = b.splat(b.bitcast(b.op("sub", b.const(dtypes.int32, _INVERSE), power), dtype), lanes)
        b.store(b.at(powers, row), b.bitcast(power, dtype))

        def scale(i: Any, mask: Val | None = None) -> None:
            # From the source again: vectors just stored are slow to load.
            value = b.load(source, b.imul(i, lanes), lanes, 1, mask)
            b.store(b.at(near, b.imul(i, lanes)), b.op("mul", value, inverse))

        b.loop(0, whole, scale)
        if rest:
            scale(whole, tail)
        for i in range(-(-terms // lanes), count):
            b.store(near, self.zero, i * lanes)

    def sums(self, words: Val, near: Val, powers: Val, totals: Val, first: Any, size: int, nb: int, terms: int) -> None:
        """One block of terms for ``size`` rows from ``first`` on, to their totals."""
        b, lanes, width = self.b, self.lanes, self.lanes * self.nb
        left = b.at(near, b.imul(first, TERMS))

        def group(number: Any, *given: Val) -> list[Val]:
            place = b.at(words, b.iadd(b.imul(number, WORDS * width), width))
            # In the order of addresses: otherwise the CPU's prefetchers lose the stream.
            pair = [[b.load(place, w * width + j * lanes, lanes) for j in range(nb)] for w in range(WORDS)]
            if size >= _ROWS_PREFETCHED:
                for line in range(0, WORDS * width, _LINE):
                    b.prefetch(place, _AHEAD + line, level=2)
            columns = [self.unpacked(*both) for both in zip(*pair, strict=True)]
            here, out = b.at(left, b.imul(number, GROUP)), list(given)
            for term in range(GROUP):
                for r in range(size):
                    x = b.splat(b.load(here, r * TERMS + term), lanes)
                    for j in range(nb):
                        out[r * nb + j] = b.op("fma", x, columns[j][term], out[r * nb + j])
            return out

        found = b.loop(0, -(-terms // GROUP), group, carry=[self.zero] * (size * nb))
        head = b.reinterpret(words, self.spec.dtype)
        scales = [b.load(head, j * lanes, lanes) for j in range(nb)]
        mine, row_powers = b.at(totals, b.imul(first, nb * lanes)), b.at(powers, first)
        for r in range(size):
            power = b.splat(b.load(row_powers, r), lanes)
            for j in range(nb):
                at = (r * nb + j) * lanes
                value = b.op("mul", found[r * nb + j], scales[j])
                b.store(mine, b.op("fma", value, power, b.load(mine, at, lanes)), at)

    def unpacked(self, first: Val, second: Val) -> Sequence[Val]:
        """The three weights of two words, in units of their scale."""
        b, lanes = self.b, self.lanes

        def word(value: int) -> Val:
            return b.const(dtypes.int32, value, lanes)

        high = b.op("shl", first, word(32 - LOW))
        low = b.op("and", b.op("shl", second, word(32 - 2 * LOW)), word((1 << (32 - LOW)) - 1))
        return [b.cast(v, self.spec.dtype) for v in (first, second, b.op("or", high, low))]


__all__ = ["check_fixed_point", "lower_fixed_point"]
