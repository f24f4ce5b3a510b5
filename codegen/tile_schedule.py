"""Schedules of contractions on bfloat16 units as data, and the rule that chooses them from a Target without measuring.

The unit multiplies a tile of up to 16 rows by one of 16 columns, 32 products deep. A kernel iteration takes a *band* of
output positions: it rounds (or splits) the inputs under the band into scratch memory once, then multiplies them with
one panel of 32 columns after the other, in blocks of 2 x 2 tiles of sums.

CPUs that have bfloat16 dot products of vectors instead run the same bands; a block then is one tile of up to 13 rows of
two vectors, held in vector registers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from ..ir.dims import Extent
from ..ir.target import Target
from .schedule import upper

ROWS = 16  # of a tile
# Rows of a register tile of dot products: with more than 26 sums LLVM spills, fewer than 10 wait for loads.
DOT_ROWS = (5, 13)
DEPTH = 32  # products per sum and tile operation
LANES = 16  # columns of a tile
COLUMNS = 2 * LANES  # of a panel: two tiles
TILE_BYTES = 1024
# Cycles on the machine of the first measurements: 14.7 times the products of float32 FMA on two ports of 16 lanes.
DOT_CYCLES = 8192 / (14.7 * 32)
LOAD_CYCLES_L1, LOAD_CYCLES_L2 = 8.0, 16.0  # of a full tile
_STORE_CYCLES = 16.0
_EXPOSED = 0.5  # share of the shorter of products and loads that does not overlap with the longer; a guess
_STREAM_BYTES_PER_CYCLE = 20.0  # from behind L2; a little less than ``schedule`` takes for vector loads
_SPLIT_CYCLES = {1: 4.0, 2: 8.0, 3: 13.0}  # 16 elements into that many parts, stored
_EPILOGUE_CYCLES = 8.0  # per vector of results
# Of dot products, measured on Zen 4: cycles until a sum can be used again, of the loop around a step, of a register
# tile; share of the rate that nominal clock and ports promise; share of the time of weights from behind L2 that shows.
_DOT_LATENCY, _STEP_CYCLES, _DOT_BLOCK_CYCLES, _DOT_SHARE, _DOT_STALLS = 6.0, 4.0, 20.0, 0.75, 0.2
_MOST_ROWS = 512  # positions of a band without a window
_MOST_SCRATCH = 8 << 20
_FEW_ITERATIONS = 8  # fewer leave threads without work
FORMS = {1: "bf16", 2: "bf16x2", 3: "bf16x3"}
PARTS = {form: parts for parts, form in FORMS.items()}


def serves(target: Target, parts: int) -> bool:
    """Whether ``target`` has a unit for operands of so many parts.

    Dot products of vectors are twice as fast as FMAs at best, which three products per term would more than undo.
    """
    return target.has_tiles or (target.has_dots and parts == 1)


def products(parts: int) -> tuple[tuple[int, int], ...]:
    """(part of A, part of B) of the products that count, in the order of computation.

    Part i is about 2**-8i of the operand, so products with i + j >= parts are dropped. In this order neighbouring
    products mostly share an operand, which then stays in its tile register.
    """
    return tuple((i, j) for i in range(parts) for j in sorted(range(parts - i), reverse=i % 2 == 0))


def operand_loads(parts: int, rows: int, columns: int) -> tuple[int, int]:
    """Tile loads of A and of B per step for ``rows`` x ``columns`` tiles of sums, in that order of products."""
    order = products(parts)
    a = rows * sum(i == 0 or order[i][0] != order[i - 1][0] for i in range(len(order)))
    b = columns * sum(i == 0 or order[i][1] != order[i - 1][1] for i in range(len(order)))
    return a, b


@dataclass(frozen=True)
class Window:
    """One axis of kernel positions: output ``o`` reads inputs ``o * stride + k * dilation``.

    Inputs are kept by phase (their index modulo the stride), so that neighbouring outputs read neighbouring places.
    """

    kernel: int = 1
    stride: int = 1
    dilation: int = 1

    @property
    def phases(self) -> tuple[int, ...]:
        return tuple(sorted({k * self.dilation % self.stride for k in range(self.kernel)}))

    def place(self, k: int) -> tuple[int, int]:
        """(number of the phase, distance within it) of kernel position ``k`` from the output's own place."""
        return self.phases.index(k * self.dilation % self.stride), k * self.dilation // self.stride

    def reach(self, phase: int | None = None) -> int:
        """The largest such distance (in one phase)."""
        found = (self.place(k) for k in range(self.kernel))
        return max(far for number, far in found if phase in (None, number))


@dataclass(frozen=True)
class TileProblem:
    """What the rule looks at: ``images`` x ``lines`` x ``positions`` outputs of ``n`` columns; sums run over
    ``channels`` and the kernel positions of ``windows`` (the last two belong to lines and positions; outer ones have
    stride 1). ``outer``: independent repetitions."""

    parts: int
    images: Extent
    lines: Extent
    positions: Extent
    n: int
    channels: int
    windows: tuple[Window, ...] = (Window(), Window())
    outer: int = 1

    @property
    def groups(self) -> int:
        """Groups of 32 channels."""
        return -(-self.channels // DEPTH)

    @property
    def taps(self) -> int:
        return prod(w.kernel for w in self.windows)

    @property
    def steps(self) -> int:
        """Tile operations per sum and product."""
        return self.groups * self.taps


@dataclass(frozen=True)
class TileSchedule:
    """How a contraction runs on tiles.

    Attributes:
        unit: "tiles" or "dot products".
        parts: bfloat16 parts per operand.
        images, lines, positions: extents of a band; several images only if a band holds whole planes.
        rows: rows of a tile. flat: tiles run on across line ends and also compute what lies between the lines.
        block: steps after which sums go to memory and the next columns' turn comes.
        cycles: estimate of the whole contraction.
    """

    unit: str
    parts: int
    images: int
    lines: int
    positions: int
    rows: int
    flat: bool
    block: int
    windows: tuple[Window, ...]
    groups: int
    cycles: float = field(default=0.0, compare=False)
    reason: str = field(default="", compare=False)

    # -- the scratch image of the left operand, in positions of 32 elements --------------------------------
    @property
    def width(self) -> int:
        return self.positions + self.windows[-1].reach()

    @property
    def height(self) -> int:
        return self.lines + self.windows[-2].reach()

    @property
    def plane(self) -> int:
        """Positions of one phase of one plane."""
        return self.width * self.height

    @property
    def group(self) -> int:
        """Positions of one group of channels."""
        return prod(w.kernel for w in self.windows[:-2]) * prod(len(w.phases) for w in self.windows[-2:]) * self.plane

    @property
    def part(self) -> int:
        return self.groups * self.group

    @property
    def left_bytes(self) -> int:
        """Scratch for the left operand; tiles at the end read a few rows more."""
        return (self.images * self.parts * self.part + ROWS) * 2 * DEPTH

    # -- tiles of rows -------------------------------------------------------------------------------------
    @property
    def tiles_per_line(self) -> int:
        return -(-self.positions // self.rows)

    @property
    def tiles(self) -> int:
        """Row tiles of one image's part of the band."""
        if self.flat:
            return -(-((self.lines - 1) * self.width + self.positions) // self.rows)
        return self.lines * self.tiles_per_line

    @property
    def pitch(self) -> int:
        """Rows of sums from one line to the next."""
        return self.width if self.flat else self.tiles_per_line * self.rows

    @property
    def sums_bytes(self) -> int:
        return 2 * self.images * self.tiles * self.rows * 64

    def __str__(self) -> str:
        band = "x".join(str(e) for e in (self.images, self.lines, self.positions) if e != 1) or "1"
        how = "across lines" if self.flat and self.lines > 1 else "within lines"
        return (
            f"bfloat16 {self.unit}, {len(products(self.parts))} product(s), band {band}, {self.rows} rows per tile "
            f"{how}, {self.block} steps per block; {self.reason}"
        )


@functools.lru_cache(1024)
def choose_tiles(target: Target, p: TileProblem) -> TileSchedule | None:
    """The cheapest schedule for ``p``; None if no band fits into scratch memory."""
    best: TileSchedule | None = None
    for s in _candidates(target, p):
        if s.left_bytes + s.sums_bytes > _MOST_SCRATCH:
            continue
        if best is None or s.cycles < best.cycles * 0.999:
            best = s
    return best


def _candidates(target: Target, p: TileProblem) -> Iterator[TileSchedule]:
    unit, (least, most) = ("tiles", (ROWS, ROWS)) if target.has_tiles else ("dot products", DOT_ROWS)
    for images, lines, positions in _bands(p):
        sizes = {(False, rows) for rows in _row_counts(positions, least, most)}
        if lines > 1:
            width = positions + p.windows[-1].reach()
            whole = (lines - 1) * width + positions
            sizes |= {(True, rows) for rows in (most, *_row_counts(whole, least, most))}
        for flat, rows in sorted(sizes):
            for block in _blocks(p) if unit == "tiles" else [p.steps]:
                s = TileSchedule(unit, p.parts, images, lines, positions, rows, flat, block, p.windows, p.groups)
                yield _estimated(target, p, s)


def _row_counts(positions: int, least: int, most: int) -> set[int]:
    """Rows per tile that share ``positions`` evenly, between ``least`` (if there are so many) and ``most``."""
    counts = range(-(-positions // most), max(-(-positions // most), positions // least) + 1)
    return {-(-positions // count) for count in counts}


def _bands(p: TileProblem) -> Iterator[tuple[int, int, int]]:
    lines, positions = max(1, upper(p.lines)), max(1, upper(p.positions))
    if p.lines == 1:
        most = _MOST_ROWS
        if isinstance(p.positions, int):
            sizes = {-(-positions // count) for count in range(-(-positions // most), -(-positions // 32) + 1)}
            # Whole pairs of tiles, so that only the last band has a rest.
            sizes = {min(positions, -(-size // 32) * 32) for size in sizes} or {positions}
        else:
            sizes = {64, 256}
        yield from ((1, 1, size) for size in sorted(sizes))
        if isinstance(p.positions, int) and positions <= most:
            yield from ((images, 1, positions) for images in _image_counts(p, positions))
        return
    for size in sorted({-(-lines // count) for count in range(1, lines + 1)}):
        yield 1, size, positions
    yield from ((images, lines, positions) for images in _image_counts(p, lines * positions))


def _image_counts(p: TileProblem, plane: int) -> list[int]:
    most = min(upper(p.images), 16, max(1, _MOST_ROWS // max(plane, 1)))
    return [count for count in (2, 4, 8, 16) if count <= most]


def _blocks(p: TileProblem) -> list[int]:
    """Steps per block: all of them, or so few that a panel's share stays in L1."""
    few = max(4, 16 // p.parts)
    return [p.steps] if p.steps <= 2 * few else [p.steps, -(-p.steps // -(-p.steps // few))]


def chains(sums: int) -> int:
    """Independent parts of each sum of a register tile: few sums alone would wait for one another."""
    return next((n for n in (1, 2, 4) if n * sums >= _DOT_LATENCY * 1.5), 8)


def _tile_cycles(target: Target, p: TileProblem, s: TileSchedule, columns: int) -> float:
    """Cycles of all products of one image of a band with a panel of ``columns`` tiles."""
    share = s.rows / ROWS
    in_l1 = s.block * p.parts * columns * TILE_BYTES <= target.l1_bytes // 2
    cycles, (pairs, odd) = 0.0, divmod(s.tiles, 2)
    for rows, times in ((2, pairs), (1, odd)):
        a, b = operand_loads(p.parts, rows, columns)
        loads = a * share * LOAD_CYCLES_L2 + b * (LOAD_CYCLES_L1 if in_l1 else LOAD_CYCLES_L2)
        dots = rows * columns * len(products(p.parts)) * DOT_CYCLES * share
        step = max(dots, loads) + _EXPOSED * min(dots, loads)
        # Sums leave for memory after every block, and come back before all but the first.
        blocks = -(-p.steps // s.block)
        moved = rows * columns * share * (blocks * _STORE_CYCLES + (blocks - 1) * LOAD_CYCLES_L2)
        cycles += times * (p.steps * step + moved + 20)
    return cycles


def _dot_cycles(target: Target, p: TileProblem, s: TileSchedule, columns: int) -> float:
    """The same for dot products, in vectors."""
    sums = s.rows * columns
    dots = 2 * sums / (target.fma_ports * target.bf16_dot * _DOT_SHARE)
    waits = _DOT_LATENCY / chains(sums)
    pair = max(dots, (s.rows + columns) / target.fma_ports, waits)
    return s.tiles * (p.steps * (DEPTH // 2 * pair + _STEP_CYCLES) + _DOT_BLOCK_CYCLES + sums)


def _estimated(target: Target, p: TileProblem, s: TileSchedule) -> TileSchedule:
    """``s`` with its cost."""
    images, lines, positions = max(1, upper(p.images)), max(1, upper(p.lines)), max(1, upper(p.positions))
    bands = -(-images // s.images) * -(-lines // s.lines) * -(-positions // s.positions) * p.outer
    full, rest = divmod(p.n, COLUMNS)
    panels = [(2, full)] + [(-(-rest // LANES), 1)] * bool(rest)
    multiply = stream = 0.0
    for columns, count in panels:
        image = _tile_cycles(target, p, s, columns) if s.unit == "tiles" else _dot_cycles(target, p, s, columns)
        multiply += count * s.images * image
        stream += count * p.steps * p.parts * columns * TILE_BYTES
    if -(-p.n // COLUMNS) * p.steps * p.parts * 2 * TILE_BYTES + s.left_bytes > target.l2_bytes // 2:
        stream /= _STREAM_BYTES_PER_CYCLE
        multiply = max(multiply, stream) if s.unit == "tiles" else multiply + _DOT_STALLS * stream
    split = s.images * s.group * p.groups * 2 * _SPLIT_CYCLES[p.parts]
    finish = s.images * s.lines * s.positions * -(-p.n // 16) * _EPILOGUE_CYCLES
    if s.unit == "tiles" and s.left_bytes > target.l2_bytes // 2:
        multiply *= 1.5  # the band falls out of L2 between panels
    if s.unit != "tiles" and s.left_bytes + s.images * s.lines * s.positions * p.n * 4 > target.l2_bytes // 2:
        multiply *= 1.05  # or the results do, before their lines are complete
    cycles = bands * (split + multiply + finish)
    iterations = bands * -(-p.n // COLUMNS)
    if iterations < _FEW_ITERATIONS:
        cycles *= 1 + 0.02 * (_FEW_ITERATIONS - iterations)
    peak = 8192 / DOT_CYCLES if s.unit == "tiles" else LANES * target.fma_ports * target.bf16_dot * _DOT_SHARE
    ideal = images * lines * positions * p.n * p.channels * p.taps / peak * p.outer
    reason = f"est. {100 * ideal * len(products(p.parts)) / max(cycles, 1.0):.0f}% of the unit's peak"
    values = {k: getattr(s, k) for k in s.__dataclass_fields__} | {"cycles": cycles, "reason": reason}
    return TileSchedule(**values)
