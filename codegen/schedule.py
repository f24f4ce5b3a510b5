"""Schedules of contractions as data, and the rule that chooses them from a Target without measuring.

A contraction keeps a register tile of ``rows`` x ``nb`` vectors of sums. The rule estimates cycles per tile
(FMA ports, load ports, latency, operand traffic, fixed cost) for every tile that fits the registers, sums
them over the splits of the real extents (edges included) and takes the cheapest.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

from ..ir.dims import Extent, bounds
from ..ir.dtypes import DType
from ..ir.target import Target

LINE_BUDGET = 1100  # lines of LLVM IR per kernel; compile time is about 50 microseconds per line
EPILOGUE_LINES = 2500  # lines of all the epilogues in a kernel beyond which they become loops
FMA_LATENCY = 4
L2_RATE = 16.0  # bytes per cycle of a panel of B that streams from the second-level cache
ITERATION_SECONDS = 4e-6  # wished work per parallel iteration
GRAIN_SECONDS = 1e-5  # work below which splitting over threads does not pay
_ROWS_PER_COPY = 256  # rows that pay for copying a panel of B
_MOST_TILES = 6  # other register tiles that are worth measuring
_EQUAL = 1.04  # estimates so near the least count as equal
_TAILS = (4, 1)  # tile sizes that finish an extent known only at run time


@dataclass(frozen=True)
class Split:
    """``tiles`` tiles of ``size`` consecutive indices, the first starting at ``start``; ``first`` numbers it."""

    size: int
    tiles: Extent
    first: Extent
    start: Extent


@dataclass(frozen=True)
class ContractionSchedule:
    """How one contraction is executed.

    Attributes:
        lanes: elements per vector; nb: vectors along n in the register tile.
        tile: register tile along the two m axes (outer, inner).
        unroll: steps of the innermost reduction loop written out.
        order: parallel loops, outermost first: "outer" axes (images, groups), "panel" (n), "chunk" (m).
        chunk: tiles of the outer m axis per parallel iteration.
        reason: why, for people.
    """

    lanes: int
    nb: int
    tile: tuple[int, int]
    unroll: int
    order: tuple[str, ...] = ("outer", "panel", "chunk")
    chunk: int = 1
    reason: str = ""

    @property
    def name(self) -> str:
        """The decisions alone: equal for equal schedules, different for different ones (``tune``)."""
        return (
            f"tile {self.tile[0]}x{self.tile[1]} x {self.nb}, unroll {self.unroll}, {' > '.join(self.order)}, "
            f"chunk {self.chunk}"
        )

    def __str__(self) -> str:
        rows = f"{self.tile[0]}x{self.tile[1]}" if self.tile[0] > 1 and self.tile[1] > 1 else str(max(self.tile))
        return (
            f"tile {rows} x {self.nb} vectors of {self.lanes}, unroll {self.unroll}, "
            f"loops {' > '.join(self.order)}, {self.chunk} tile(s) per iteration; {self.reason}"
        )


def splits(extent: Extent, tile: int) -> tuple[Split, ...]:
    """``extent`` cut into tiles: near-equal ones if it is known, else full tiles and ever smaller ones behind them."""
    if isinstance(extent, int):
        if extent <= 0:
            return ()
        count = -(-extent // tile)
        small, bigger = divmod(extent, count)
        parts = []
        if bigger:
            parts.append(Split(small + 1, bigger, 0, 0))
        parts.append(Split(small, count - bigger, bigger, bigger * (small + 1)))
        return tuple(parts)
    out: list[Split] = []
    first: Extent = 0
    start: Extent = 0
    rest: Extent = extent
    for size in (tile, *(t for t in _TAILS if t < tile)):
        tiles = rest // size
        if tiles == 0:
            continue
        out.append(Split(size, tiles, first, start))
        first, start, rest = first + tiles, start + tiles * size, rest - tiles * size
        if rest == 0:
            break
    return tuple(out)


def tile_count(parts: tuple[Split, ...]) -> Extent:
    """Number of tiles of all parts."""
    return parts[-1].first + parts[-1].tiles if parts else 0


def upper(extent: Extent, cap: int = 1 << 20) -> int:
    """Largest value an extent takes, for estimates."""
    return extent if isinstance(extent, int) else min(bounds(extent)[1], cap)


@dataclass(frozen=True)
class Problem:
    """What the rule looks at. ``m`` are the extents of the outer and inner m axis, ``n`` elements along the
    vectors, ``k`` products per sum, ``outer`` the number of independent repetitions; ``nb`` is fixed when a packed
    operand dictates it; ``vector_a``: the left operand is loaded as vectors (depthwise); ``strided``: vector loads are
    put together lane by lane; ``loads``: contiguous loads per vector of B; ``rows_of_b``: the outer m axis moves along
    B and the inner one along A, instead of both along A."""

    dtype: DType
    m: tuple[Extent, Extent]
    n: Extent
    k: int
    inner: int
    outer: int = 1
    nb: int | None = None
    vector_a: bool = False
    parts: int = 1
    strided: bool = False
    loads: int = 1
    rows_of_b: bool = False


def registers_for(target: Target) -> int:
    # Without FMA a product needs a register of its own.
    spare = 0 if not target.is_x86 or target.has("fma") else 1
    return target.vector_registers - spare


def tile_cycles(target: Target, tile: tuple[int, int], nb: int, p: Problem, unroll: int, panel_bytes: int) -> float:
    """Estimated cycles of one register tile over the whole reduction, store included."""
    rows = tile[0] * tile[1]
    sums = rows * nb
    # Written-out taps share the loads of neighbouring rows.
    loads = (0.6 * rows * nb + nb if p.vector_a else rows + nb) / 2
    if p.rows_of_b:
        # Vectors begin anywhere in a line of 64 bytes: the longer they are, the more are in two. Lines that taps share
        # stay near.
        one = (1 + target.vector_bytes / 64) / 2
        loads = tile[1] / 2 + tile[0] * nb * (p.loads * one + p.loads - 1)
        panel_bytes //= p.inner
    if p.strided:
        loads += 1.2 * (target.vector_bytes // p.dtype.accumulator.itemsize) * (rows * nb + nb if p.vector_a else nb)
    traffic = nb * target.vector_bytes / (64.0 if panel_bytes <= target.l1_bytes // 2 else L2_RATE)
    step = max(sums / target.fma_ports, loads, float(FMA_LATENCY) if sums < FMA_LATENCY * target.fma_ports else 0.0)
    # Entering and leaving a short inner loop costs about eleven cycles, which the unrolled steps share.
    control = 0.0 if p.vector_a else (11.0 if p.inner <= 16 else 2.0) / unroll
    return p.k * (max(step, traffic) + control) + 30 + 2.5 * sums


def step_lines(p: Problem, lanes: int, tile: tuple[int, int], nb: int) -> int:
    """Lines of LLVM IR of one reduction step."""
    rows = tile[0] * tile[1]
    if p.rows_of_b:
        return 4 * tile[1] + rows * nb + tile[0] * nb * 3 * p.loads
    if p.strided:
        return rows * (4 + nb) + 3 * lanes * nb * (rows + 1 if p.vector_a else 1)
    return rows * (4 + nb) + 2 * nb


@functools.lru_cache(4096)
def choose(target: Target, p: Problem) -> ContractionSchedule:
    """The cheapest schedule for ``p`` by the rule above."""
    found = list(_tilings(target, p))
    least = min(cost for cost, _, _ in found)
    equal = [t for t in found if t[0] <= _EQUAL * least]
    return _schedule(target, p, *min(equal, key=lambda t: (_bytes_per_product(target, p, t[1], t[2]), t[0])))


def alternatives(target: Target, p: Problem) -> list[ContractionSchedule]:
    """What else is worth measuring, most promising first: other tiles by estimate, and the chosen one in other
    loops."""
    rule = choose(target, p)
    others = sorted((t for t in _tilings(target, p) if t[1:] != (rule.tile, rule.nb)), key=lambda t: t[0])
    tiles = [_schedule(target, p, *t) for t in others[:_MOST_TILES]]
    turned = ("panel", "outer", "chunk") if rule.order[0] == "outer" else ("outer", "chunk", "panel")
    most = max(1, upper(tile_count(splits(p.m[0], rule.tile[0]))))
    loops = [replace(rule, order=turned)]
    if not p.strided:
        steps = [u for u in (rule.unroll * 2, rule.unroll // 2) if 1 <= u <= p.inner]
        loops += [replace(rule, unroll=u) for u in steps]
    loops += [replace(rule, chunk=c) for c in (rule.chunk * 2, rule.chunk // 2, rule.chunk * 4) if 1 <= c <= most]
    loops = [replace(s, reason="a variant of the rule's choice") for s in loops]
    return [s for pair in zip_longest(tiles, loops) for s in pair if s is not None]


def _registers(target: Target, p: Problem) -> int:
    # In a long loop LLVM keeps more values live, and a tile that fills the file spills.
    return registers_for(target) - (2 if p.inner > 16 else 0)


def _tilings(target: Target, p: Problem) -> Iterator[tuple[float, tuple[int, int], int]]:
    """(estimated cycles, tile, nb) of every register tile that fits."""
    lanes = target.lanes(p.dtype)
    vectors = max(1, -(-upper(p.n) // lanes))
    for nb in (p.nb,) if p.nb else range(1, min(8, vectors) + 1):
        registers = _registers(target, p)
        tiles = _tiles(p.m, _most_rows(p, registers, nb))
        if p.rows_of_b:
            # Sums, vectors of B, an element of A, and what puts strided vectors together.
            more = dict.fromkeys([*tiles, *((1, inner) for _, inner in tiles)])
            tiles = [t for t in more if t[0] * nb * (t[1] + 1) + min(p.loads, 2) < registers] or [(1, 1)]
        for tile in tiles:
            yield _cost(target, p, tile, nb, -(-vectors // nb), lanes), tile, nb


def _schedule(target: Target, p: Problem, cost: float, tile: tuple[int, int], nb: int) -> ContractionSchedule:
    """The schedule for a register tile of estimated cost."""
    lanes, registers = target.lanes(p.dtype), _registers(target, p)
    vectors = max(1, -(-upper(p.n) // lanes))
    variants = len(splits(p.m[0], tile[0])) * len(splits(p.m[1], tile[1])) * p.parts
    unroll = _unroll(p, tile, nb, lanes)
    order, chunk, why = _loops(target, p, tile, nb, lanes, cost)
    cost = max(cost, 1.0)
    ideal = upper(p.m[0]) * upper(p.m[1]) * vectors * p.k / target.fma_ports
    filled = tile[0] * tile[1] * nb
    reason = f"{filled} sums in {registers} registers, est. {100 * ideal / cost:.0f}% of FMA peak"
    if variants > 1:
        reason += f", {variants} tile variants"
    return ContractionSchedule(lanes, nb, tile, unroll, order, chunk, f"{reason}; {why}")


def _bytes_per_product(target: Target, p: Problem, tile: tuple[int, int], nb: int) -> float:
    """Bytes of A and B that a register tile reads per vector product. Those of A count twice: they come from far away
    line by line, those of B as a stream."""
    rows = tile[0] * tile[1]
    return (2 * rows * p.dtype.accumulator.itemsize + nb * target.vector_bytes) / (rows * nb)


def for_prepared_panel(s: ContractionSchedule, p: Problem) -> ContractionSchedule:
    """``s`` for a B that each iteration first copies to scratch: many rows share one copy."""
    tiles = max(1, upper(tile_count(splits(p.m[0], s.tile[0]))))
    panels = -(-upper(p.n) // (s.lanes * s.nb))
    if panels * p.outer < 16:
        tiles = min(tiles, -(-_ROWS_PER_COPY // s.tile[0]))
    return replace(
        s, order=("outer", "panel", "chunk"), chunk=tiles, reason=f"{s.reason.split(';')[0]}; B is copied per panel"
    )


def _most_rows(p: Problem, registers: int, nb: int) -> int:
    """Rows of the largest register tile with ``nb`` vectors."""
    most = (registers - 2) // (3 * nb) if p.vector_a else (registers - 1 - nb) // nb
    if p.strided:
        most = min(most, 12 // nb)  # every strided vector is some fifty lines, in loads and stores alike
    return max(1, most)


def _unroll(p: Problem, tile: tuple[int, int], nb: int, lanes: int) -> int:
    """Steps to write out: as many as the line budget allows, and no more than pay."""
    if p.strided:
        return 1
    variants = [(a.size, b.size) for a in splits(p.m[0], tile[0]) for b in splits(p.m[1], tile[1])]
    rows = sum(a * b for a, b in variants)
    lines = sum(step_lines(p, lanes, v, nb) for v in variants) if p.rows_of_b else step_lines(p, lanes, (rows, 1), nb)
    copies = p.parts * (2 if upper(p.n) % (lanes * nb) and upper(p.n) > lanes * nb else 1)
    unroll = 1
    while (
        unroll < (16 if p.inner <= 16 else 4)
        and unroll * 2 <= p.inner
        and copies * (lines * unroll * 2 + 6 * rows * nb) <= LINE_BUDGET
    ):
        unroll *= 2
    return unroll


def estimate(target: Target, p: Problem, s: ContractionSchedule) -> float:
    """Estimated seconds of one repetition of ``p`` under ``s``."""
    panels = -(-upper(p.n) // (s.lanes * s.nb))
    return _cost(target, p, s.tile, s.nb, panels, s.lanes) / (target.clock_ghz * 1e9)


def _tiles(m: tuple[Extent, Extent], most: int) -> list[tuple[int, int]]:
    """Candidate tiles of at most ``most`` rows; known extents get near-equal splits only."""

    def sizes(extent: Extent, limit: int) -> list[int]:
        if not isinstance(extent, int):
            return [limit] if limit <= 4 else [limit, limit - 1, limit // 2]
        extent = max(extent, 1)
        out = {-(-extent // -(-extent // t)) for t in range(1, min(limit, extent) + 1)}
        return sorted(out, reverse=True) or [1]

    found: list[tuple[int, int]] = []
    for inner in sizes(m[1], most):
        # Several rows of the outer axis only when the inner axis leaves registers free.
        found += [(outer, inner) for outer in sizes(m[0], most // inner)]
    return found


def _cost(target: Target, p: Problem, tile: tuple[int, int], nb: int, panels: int, lanes: int) -> float:
    """Estimated cycles of one repetition."""
    panel_bytes = p.k * nb * lanes * p.dtype.accumulator.itemsize
    unroll = _unroll(p, tile, nb, lanes)
    total = 0.0
    lines = 0
    for a in splits(p.m[0], tile[0]):
        for b in splits(p.m[1], tile[1]):
            tiles = upper(a.tiles) * upper(b.tiles)
            if not isinstance(p.m[0], int) and a.size < tile[0]:
                tiles = upper(b.tiles)  # run-time tails: once
            total += tiles * tile_cycles(target, (a.size, b.size), nb, p, unroll, panel_bytes)
            lines += unroll * step_lines(p, lanes, (a.size, b.size), nb)
    over = max(0, lines * p.parts - LINE_BUDGET) / LINE_BUDGET
    return total * panels * (1 + 0.1 * over)


def _loops(
    target: Target, p: Problem, tile: tuple[int, int], nb: int, lanes: int, cycles: float
) -> tuple[tuple[str, ...], int, str]:
    seconds = cycles / (target.clock_ghz * 1e9)  # of one repetition, all panels
    tiles = max(1, upper(tile_count(splits(p.m[0], tile[0]))))
    panels = max(1, -(-upper(p.n) // (lanes * nb)))
    per_tile = seconds / (tiles * panels)
    chunk = max(1, round(ITERATION_SECONDS / max(per_tile, 1e-9)))
    # Keep some iterations for threads as long as each is worth something.
    wanted = 32 // max(1, min(32, panels * p.outer))
    chunk = min(chunk, max(1, -(-tiles // max(wanted, 1))))
    size = p.dtype.itemsize
    if p.k * upper(p.n) * size <= target.l2_bytes // 2:
        return ("outer", "chunk", "panel"), chunk, "all of B stays in L2, so panels run inside"
    return ("panel", "outer", "chunk"), chunk, "B exceeds L2, so one panel is reused over all rows"
