"""When convolutions run as products of gathered rows, and in which blocks (see ``lower/contraction_gathered.py``)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..ir.dtypes import DType
from ..ir.target import Target
from . import schedule as scheduling
from .schedule import ContractionSchedule, Problem

_ROWS = 256  # most positions of an iteration
_LINES = 16  # most vectors of channels in a block of the sum
_ITERATIONS = 4  # wished number of parallel iterations
# Measured on Cascade Lake: cycles to copy a vector to scratch, to take one from the totals through the epilogue, and
# bytes per cycle that one core reads from the shared cache (of which neighbours leave about so much) and from memory.
_LINE_CYCLES, _RESULT_CYCLES = 4.0, 9.0
_L3_RATE, _MEMORY_RATE, _L3_SHARE = 8.0, 4.0, 8 << 20


@dataclass(frozen=True)
class GatherSchedule:
    """How one convolution runs.

    Attributes:
        images, height: images and rows of the result in one iteration.
        lines: vectors of channels (each under one tap) in a block of the sum.
        parts: parallel parts of the output channels.
        whole: all channels are gathered at once, instead of block by block for all panels.
        product: schedule of the product of one block and panel.
        seconds: estimate for the whole convolution on one thread.
    """

    images: int
    height: int
    lines: int
    parts: int
    whole: bool
    product: ContractionSchedule
    seconds: float
    reason: str = ""

    @property
    def name(self) -> str:
        """The decisions alone: equal for equal schedules, different for different ones (``tune``)."""
        how = "all channels at once" if self.whole else "block by block"
        return (
            f"gathered, {self.images}x{self.height} rows, lines {self.lines}, parts {self.parts}, {how}; "
            f"{self.product.name}"
        )

    def __str__(self) -> str:
        p = self.product
        return (
            f"gathered rows, {self.images} image(s) x {self.height} row(s) per iteration, sums in blocks of "
            f"{self.lines * p.lanes}, output channels in {self.parts} part(s), tile {p.tile[0]} x {p.nb} vectors of "
            f"{p.lanes}, unroll {p.unroll}; {self.reason}"
        )


@dataclass(frozen=True)
class Convolution:
    """What the rule looks at: ``images`` (None: known at run time only) times ``extent`` positions, sums over
    ``channels`` times ``taps``; ``linear``: the positions of an image follow one another in memory."""

    dtype: DType
    images: int | None
    extent: tuple[int, int]
    channels: int
    taps: int
    outputs: int
    nb: int
    stride: tuple[int, int]
    linear: bool


@functools.lru_cache(4096)
def ordinary_seconds(target: Target, c: Convolution) -> float:
    """Estimate of the ordinary kernel, with what it waits for operands from beyond the second-level cache."""
    height, width = c.extent
    images, sum_length = c.images or 1, c.channels * c.taps
    rows = (1, height * width) if c.linear else (height, width)
    p = Problem(c.dtype, rows, c.outputs, sum_length, min(target.lanes(c.dtype), c.channels), images, c.nb)
    s = scheduling.choose(target, p)
    size = c.dtype.itemsize
    a = images * height * width * c.stride[0] * c.stride[1] * c.channels * size
    b = sum_length * c.outputs * size
    if s.order[0] == "panel":
        panels = -(-c.outputs // (s.nb * s.lanes))
        moved = a * (panels if a > target.l2_bytes // 2 else 1) + b
    else:
        moved = a
    stalls = 0.8 * far_cycles(target, moved, max(a, b))
    return images * scheduling.estimate(target, p, s) + stalls / (target.clock_ghz * 1e9)


def far_cycles(target: Target, moved: float, footprint: float) -> float:
    """Cycles to read ``moved`` bytes of ``footprint`` different ones from where they stay."""
    if footprint <= target.l2_bytes // 2:
        return 0.0
    return moved / (_L3_RATE if footprint <= _L3_SHARE else _MEMORY_RATE)


@functools.lru_cache(4096)
def choose(target: Target, c: Convolution) -> GatherSchedule | None:
    """The schedule of a convolution, or None where the ordinary kernel is no slower by estimate."""
    found = next(_schedules(target, c), None)
    return found if found is not None and found.seconds < ordinary_seconds(target, c) else None


def alternatives(target: Target, c: Convolution) -> list[GatherSchedule]:
    """What is worth measuring, whatever ``choose`` takes: its way of gathering and a few others."""
    return list({s.name: s for s in _schedules(target, c)}.values())


def _schedules(target: Target, c: Convolution) -> Iterator[GatherSchedule]:
    """Ways to gather, the usual one first; none if the convolution cannot run this way or is too small."""
    lanes, (height, width) = target.lanes(c.dtype), c.extent
    lines = c.channels // lanes * c.taps
    panels = -(-c.outputs // (c.nb * lanes))
    if c.channels % lanes or lines * lanes < 128 or c.taps > _LINES or panels * c.nb < 8:
        return
    rows = [(1, h) for h in _divisors(height) if h * width <= _ROWS]
    if (1, height) in rows and c.images is not None:
        rows += [(i, height) for i in _divisors(c.images) if i * height * width <= _ROWS]
    if not rows:
        return
    rows.sort(key=lambda r: -r[0] * r[1])
    # A block holds all taps of some channels.
    step = c.taps * max((d for d in _divisors(c.channels // lanes) if d * c.taps <= _LINES), default=0)
    if step < _LINES // 2:  # a rest at the end
        step = min(lines, _LINES // c.taps * c.taps)
    usual = _schedule(target, c, *rows[0], step)
    yield usual
    for few in rows[1:3]:
        yield _schedule(target, c, *few, step)
    half = step // c.taps // 2 * c.taps
    if half:
        yield _schedule(target, c, *rows[0], half)
    size = rows[0][0] * rows[0][1] * width
    variant = replace(usual, reason=f"{size} positions share the weights; a variant of the rule's choice")
    if usual.whole or size * lines * lanes * c.dtype.itemsize <= target.l2_bytes:
        yield replace(variant, whole=not usual.whole)
    if usual.parts * 2 <= _most_parts(panels * c.nb):
        yield replace(variant, parts=usual.parts * 2)
    product = Problem(c.dtype, (size, 1), c.nb * lanes, step * lanes, step * lanes, 1, c.nb)
    tiles = [s for s in scheduling.alternatives(target, product) if s.tile != usual.product.tile]
    for s in tiles[:3]:
        yield replace(variant, product=replace(s, chunk=size))


def _schedule(target: Target, c: Convolution, count: int, high: int, step: int) -> GatherSchedule:
    """``count`` images and ``high`` rows per iteration, sums in blocks of ``step`` lines."""
    lanes, (height, width) = target.lanes(c.dtype), c.extent
    lines = c.channels // lanes * c.taps
    panels = -(-c.outputs // (c.nb * lanes))
    size = count * high * width
    blocks = (c.images or 1) // count * (height // high)
    item = c.dtype.itemsize
    whole = size * lines * lanes * item <= 0.4 * target.l2_bytes
    totals = 0 if whole else size * c.nb * lanes * item
    parts = max(-(-panels * totals // (target.l2_bytes // 4)), -(-_ITERATIONS // max(blocks, 1)))
    parts = min(parts, _most_parts(panels * c.nb))
    p = Problem(c.dtype, (size, 1), c.nb * lanes, step * lanes, step * lanes, 1, c.nb)
    s = replace(scheduling.choose(target, p), chunk=size)
    products = blocks * panels * (lines / step) * scheduling.estimate(target, p, s)
    a = blocks * size * c.channels * c.stride[0] * c.stride[1] * item
    b = lines * panels * c.nb * lanes * lanes * item
    stalls = 0.5 * far_cycles(target, a, a) + 0.5 * far_cycles(target, b * blocks, b)
    gather = blocks * size * (lines * parts * _LINE_CYCLES + panels * c.nb * _RESULT_CYCLES)
    seconds = products + (stalls + gather) / (target.clock_ghz * 1e9)
    ordinary = ordinary_seconds(target, c)
    reason = f"{size} positions share the weights; est. {seconds * 1e6:.0f} us, in place {ordinary * 1e6:.0f} us"
    return GatherSchedule(count, high, step, parts, whole, s, seconds, reason)


def _most_parts(vectors: int) -> int:
    """Parallel parts of so many vectors of output channels; every part gathers the rows again."""
    return max(1, vectors // 5)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
