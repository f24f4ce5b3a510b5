"""When convolutions run as products of gathered rows, and in which blocks (see ``lower/contraction_gathered.py``)."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from ..ir.dtypes import DType
from ..ir.target import Target
from . import schedule as scheduling
from .schedule import ContractionSchedule, Problem

_ROWS = 256  # most positions of an iteration
_LINES = 16  # most vectors of channels in a block of the sum


@dataclass(frozen=True)
class GatherSchedule:
    """How one convolution runs.

    Attributes:
        images, height: images and rows of the result in one iteration.
        lines: vectors of channels (each under one tap) in a block of the sum.
        parts: parallel parts of the output channels.
        product: schedule of the product of one block and panel.
        seconds: estimate for the whole convolution on one thread.
    """

    images: int
    height: int
    lines: int
    parts: int
    product: ContractionSchedule
    seconds: float
    reason: str = ""

    def __str__(self) -> str:
        p = self.product
        return (
            f"gathered rows, {self.images} image(s) x {self.height} row(s) per iteration, sums in blocks of "
            f"{self.lines * p.lanes}, output channels in {self.parts} part(s), tile {p.tile[0]} x {p.nb} vectors of "
            f"{p.lanes}, unroll {p.unroll}; {self.reason}"
        )


@functools.lru_cache(4096)
def choose(
    target: Target,
    dtype: DType,
    images: int | None,
    extent: tuple[int, int],
    channels: int,
    taps: int,
    outputs: int,
    nb: int,
    stride: tuple[int, int],
) -> GatherSchedule | None:
    """The schedule of a convolution with a result of ``images`` (None: a run-time number) times ``extent`` positions,
    or None where the ordinary kernel is no slower."""
    lanes, (height, width) = target.lanes(dtype), extent
    lines = channels // lanes * taps
    panels = -(-outputs // (nb * lanes))
    if channels % lanes or lines * lanes < 128 or panels * nb < 4:
        return None
    rows = [(1, h) for h in _divisors(height) if h * width <= _ROWS]
    if (1, height) in rows and images is not None:
        rows += [(i, height) for i in _divisors(images) if i * height * width <= _ROWS]
    if not rows:
        return None
    count, high = max(rows, key=lambda r: r[0] * r[1])
    size = count * high * width
    step = max((d for d in _divisors(lines) if d <= _LINES), default=1)
    if step < _LINES // 2:
        step = min(lines, 12)
    blocks = (images or 1) // count * (height // high)
    totals = size * nb * lanes * dtype.itemsize
    parts = min(panels, max(-(-panels * totals // (target.l2_bytes // 4)), -(-8 // max(blocks, 1))))
    parts = min(parts, max(1, panels * nb // 8))
    p = Problem(dtype, (size, 1), nb * lanes, step * lanes, step * lanes, 1, nb)
    s = replace(scheduling.choose(target, p), chunk=size)
    one = scheduling.estimate(target, p, s)
    return GatherSchedule(count, high, step, parts, s, one, f"{size} positions share the weights")


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
