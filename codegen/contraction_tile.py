"""The reduction of one register tile: broadcast elements of A times vectors of B, in loops over the reduction axes.

Long float32 sums are made of blocks (usually of some 200 terms); ``each_block`` walks over the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .loopir import Val
from .schedule import upper

if TYPE_CHECKING:
    from .contraction import Axis, Generator, Operand

BLOCK = 192  # terms that are added before the sum goes to a total


def product_of(axes: Sequence[Axis]) -> int:
    """Terms of a sum over ``axes`` (run-time extents at their upper bounds)."""
    terms = 1
    for axis in axes:
        terms *= upper(axis.extent)
    return terms


def group_size(axis: Axis, below: int, terms: int) -> int:
    """How many steps of ``axis``, of ``below`` terms each, make a block of about ``terms``; divisors of a known extent
    come first, because then no code is needed for a rest."""
    usual = max(2, terms // below)
    if axis.bounds is not None or not isinstance(axis.extent, int):
        return usual
    low, high = max(2, terms // 4 // below), min(axis.extent, 2 * terms // below)
    sizes = [d for d in range(low, high + 1) if axis.extent % d == 0]
    even = [d for d in sizes if below > 1 or d % 16 == 0] or sizes
    return min(even, key=lambda d: abs(d * below - terms)) if even else usual


def each_block(
    g: Generator, axes: tuple[Axis, ...], pa: Val, pb: Val, body: Callable[[tuple[Axis, ...], Val, Val], None]
) -> None:
    """Loops that cut the reduction over ``axes`` into blocks: ``body(axes of the block, A, B)`` for each of them."""
    b = g.b
    if not axes or product_of(axes) <= 2 * g.spec.terms:
        body(axes, pa, pb)
        return
    axis, inner = axes[0], axes[1:]
    sa, sb = g.extent(g.spec.a.stride(axis.name)), g.extent(g.spec.b.stride(axis.name))
    below = product_of(inner)
    group = 1 if 3 * below >= 2 * g.spec.terms else group_size(axis, below, g.spec.terms)

    def part(i: Any, steps: Axis | None = None) -> None:
        qa, qb = b.at(pa, b.imul(i, sa)), b.at(pb, b.imul(i, sb))
        if steps is not None:
            body((steps, *inner), qa, qb)
        elif inner:
            each_block(g, inner, qa, qb, body)
        else:
            body((), qa, qb)

    low, high = (0, g.extent(axis.extent)) if axis.bounds is None else axis.bounds(b, g.extent, g.at)
    if group == 1:
        b.loop(low, high, lambda i: part(i))
        return
    cut = replace(axis, extent=group, bounds=None)
    if axis.bounds is None and isinstance(axis.extent, int) and axis.extent % group == 0:
        b.loop(low, high, lambda i: part(i, cut), step=group)
        return
    # Whole blocks, then what is left of a range that they do not divide.
    count = b.imax(b.isub(high, low), 0)
    middle = b.iadd(low, b.imul(b.idiv(count, group), group))
    rest = b.isub(high, middle)
    b.loop(low, middle, lambda i: part(i, cut), step=group)
    tail = replace(axis, extent=rest if isinstance(rest, int) else group, bounds=None)
    if not isinstance(rest, int):
        tail = replace(tail, bounds=lambda *_: (0, rest))
    part(middle, tail)


class Tile:
    """The reduction of one register tile."""

    def __init__(self, g: Generator, rows: list[tuple[int, int]], nb: int, masks: list[Val | None]) -> None:
        self.g, self.b, self.rows, self.nb, self.masks = g, g.b, rows, nb, masks
        self.row_offsets = [g.row_offset(g.spec.a, row) for row in rows]
        # Rows by the element of A that they share, and what they add to the offset in B.
        self.sharing: dict[tuple[int, ...], list[int]] = {}
        self.b_offsets: dict[tuple[int, ...], Any] = {}
        self.b_of_row = [self._along(g.spec.b, row) for row in rows]
        for i, row in enumerate(rows):
            self.sharing.setdefault(self._along(g.spec.a, row), []).append(i)
            if self.b_of_row[i] not in self.b_offsets:
                self.b_offsets[self.b_of_row[i]] = g.row_offset(g.spec.b, row)

    def _along(self, o: Operand, row: tuple[int, int]) -> tuple[int, ...]:
        """What of ``row`` tells apart the elements of ``o``."""
        return tuple(at if o.stride(axis.name) != 0 else 0 for at, axis in zip(row, self.g.spec.m, strict=True))

    def reduce(self, axes: tuple[Axis, ...], pa: Val, pb: Val, sums: list[Val]) -> list[Val]:
        g, b = self.g, self.b
        if not axes:
            return self.step(pa, pb, 0, 0, sums)
        axis, inner = axes[0], axes[1:]
        sa, sb = g.extent(g.spec.a.stride(axis.name)), g.extent(g.spec.b.stride(axis.name))

        def once(i: Any, *carried: Val) -> list[Val]:
            return self.reduce(inner, b.at(pa, b.imul(i, sa)), b.at(pb, b.imul(i, sb)), list(carried))

        if inner:
            low, high = (0, g.extent(axis.extent)) if axis.bounds is None else axis.bounds(b, g.extent, g.at)
            return b.loop(low, high, once, carry=sums)
        unroll = g.schedule.unroll

        def steps(count: int) -> Callable[..., list[Val]]:
            def body(i: Any, *carried: Val) -> list[Val]:
                qa, qb = b.at(pa, b.imul(i, sa)), b.at(pb, b.imul(i, sb))
                vals = list(carried)
                for u in range(count):
                    ua, ub = b.imul(u, sa), b.imul(u, sb)
                    if axis.tap and u:
                        # Otherwise LLVM shares the loads of overlapping taps, and spills.
                        vals = self.step(b.opaque(b.at(qa, ua)), qb, 0, ub, vals)
                    else:
                        vals = self.step(qa, qb, ua, ub, vals)
                return vals

            return body

        extent = axis.extent
        if axis.bounds is not None:
            low, high = axis.bounds(b, g.extent, g.at)
            if unroll == 1:
                return b.loop(low, high, steps(1), carry=sums)
            count = b.imax(b.isub(high, low), 0)
            middle = b.iadd(low, b.imul(b.idiv(count, unroll), unroll))
            sums = b.loop(low, middle, steps(unroll), step=unroll, carry=sums)
            return b.loop(middle, high, steps(1), carry=sums)
        if isinstance(extent, int):
            whole = extent - extent % unroll
            sums = b.loop(0, whole, steps(unroll), step=unroll, carry=sums)
            if extent > whole:
                if whole:
                    # One more copy of the body costs code; a rolled loop serves the odd steps.
                    return b.loop(whole, extent, steps(1), carry=sums)
                return steps(extent)(0, *sums)
            return sums
        whole = b.imul(b.idiv(g.extent(extent), unroll), unroll)
        sums = b.loop(0, whole, steps(unroll), step=unroll, carry=sums)
        return b.loop(whole, g.extent(extent), steps(1), carry=sums) if unroll > 1 else sums

    def step(self, pa: Val, pb: Val, ua: Any, ub: Any, sums: list[Val]) -> list[Val]:
        g, b, spec = self.g, self.b, self.g.spec
        if len(self.b_offsets) > 1:
            return self.step_of_rows(pa, pb, ua, ub, sums)
        vectors = [g.load_vector(pb, spec.b, ub, j, self.masks[j]) for j in range(self.nb)]
        if spec.ahead:
            for j in range(self.nb):
                b.prefetch(pb, b.iadd(b.iadd(ub, b.imul(j, g.extent(spec.b.vector))), spec.ahead))
        out = list(sums)
        for i, row in enumerate(self.row_offsets):
            offset = b.iadd(row, ua)
            if spec.vector_a:
                for j in range(self.nb):
                    a = g.load_vector(pa, spec.a, offset, j, self.masks[j])
                    out[i * self.nb + j] = b.op("fma", a, vectors[j], sums[i * self.nb + j])
                continue
            a = b.splat(b.load(pa, offset), g.lanes)
            for j in range(self.nb):
                out[i * self.nb + j] = b.op("fma", a, vectors[j], sums[i * self.nb + j])
        return out

    def step_of_rows(self, pa: Val, pb: Val, ua: Any, ub: Any, sums: list[Val]) -> list[Val]:
        """``step`` where vectors of B belong to some rows and elements of A are shared by others."""
        g, b, spec = self.g, self.b, self.g.spec
        vectors = {
            key: [g.load_vector(pb, spec.b, b.iadd(ub, offset), j, self.masks[j]) for j in range(self.nb)]
            for key, offset in self.b_offsets.items()
        }
        out = list(sums)
        for rows in self.sharing.values():  # one element of A at a time: the sums leave few registers
            a = b.splat(b.load(pa, b.iadd(self.row_offsets[rows[0]], ua)), g.lanes)
            for i in rows:
                for j in range(self.nb):
                    at = i * self.nb + j
                    out[at] = b.op("fma", a, vectors[self.b_of_row[i]][j], sums[at])
        return out

    def written_out(self, axes: tuple[Axis, ...], pa: Val, pb: Val, sums: list[Val]) -> list[Val]:
        """Every step spelled out, each element of A loaded once (depthwise: neighbouring outputs share inputs)."""
        g, spec = self.g, self.g.spec
        steps: list[tuple[int, int]] = [(0, 0)]
        for axis in axes:
            sa, sb = spec.a.stride(axis.name), spec.b.stride(axis.name)
            assert isinstance(axis.extent, int) and isinstance(sa, int) and isinstance(sb, int)
            steps = [(a + i * sa, b_ + i * sb) for a, b_ in steps for i in range(axis.extent)]
        seen: dict[tuple[int, int], Val] = {}
        out = list(sums)
        for ua, ub in steps:
            vectors = [g.load_vector(pb, spec.b, ub, j, self.masks[j]) for j in range(self.nb)]
            for i, row in enumerate(self.row_offsets):
                for j in range(self.nb):
                    key = (row + ua, j)
                    if key not in seen:
                        seen[key] = g.load_vector(pa, spec.a, row + ua, j, self.masks[j])
                    out[i * self.nb + j] = g.b.op("fma", seen[key], vectors[j], out[i * self.nb + j])
        return out
