"""Winograd's minimal filtering F(m x m, 3 x 3): the three matrices, the transform of weights, the choice of blocks.

A tile of m x m results of a 3x3 convolution with stride 1 comes from n x n inputs, n = m + 2:
``Y = AT [ (G w GT) * (BT d B) ] A``, summed over channels between the brackets. That takes n * n products per tile
instead of 9 m * m. Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015; the interpolation points
are 0, 1, -1 for m = 2 and 0, 1, -1, 2, -2 for m = 4, whose integers keep the error small.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..ir.dtypes import DType
from ..ir.target import Target
from . import schedule as scheduling
from .schedule import ContractionSchedule, Problem

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Filtering:
    """Matrices of F(m x m, 3 x 3): ``input`` (BT, n x n), ``weight`` (G, n x 3), ``output`` (AT, m x n)."""

    tile: int
    input: Matrix
    weight: Matrix
    output: Matrix

    @property
    def points(self) -> int:
        """n: inputs along one side of a tile."""
        return self.tile + 2


F2 = Filtering(
    2,
    input=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    weight=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    output=((1, 1, 1, 0), (0, 1, -1, -1)),
)
F4 = Filtering(
    4,
    input=(
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
    weight=(
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    output=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
)
FILTERINGS = {2: F2, 4: F4}


def winograd_tile(form: str) -> int | None:
    """m of a layout form ``winograd<m>``, None for other forms."""
    return int(form.removeprefix("winograd")) if form.startswith("winograd") else None


def transform_weight(weight: np.ndarray, tile: int) -> np.ndarray:
    """``G w GT`` of [O, C, 3, 3] weights: [O, C, tile + 2, tile + 2] in their dtype, computed in float64."""
    g = np.array(FILTERINGS[tile].weight)
    points = tile + 2
    flat = weight.reshape(-1, 9).astype(np.float64) @ np.kron(g, g).T
    return flat.astype(weight.dtype).reshape(*weight.shape[:2], points, points)


# Cycles to transform one vector of channels of one tile, with the transformed block in L1, L2 and beyond (measured).
_INPUT_CYCLES = {2: (75.0, 180.0, 400.0), 4: (300.0, 550.0, 900.0)}
_OUTPUT_CYCLES = {2: (65.0, 65.0, 200.0), 4: (300.0, 300.0, 500.0)}
_ALTERNATIVES = 12  # that are worth measuring
_L2_BYTES, _L3_BYTES, _FAR_BYTES = 20.0, 11.0, 5.0  # per cycle: from L2, from L3, from what others share with us


@dataclass(frozen=True)
class WinogradSchedule:
    """How one convolution runs.

    Attributes:
        tile: m; block: tiles of one parallel iteration; groups: parallel parts of the output channels.
        whole: the sums of all output channels are kept until the last point, so weights are read once per block;
            else one panel after the other goes through all points and back.
        product: schedule of one point's product, [block, C] x [C, panel].
        seconds: estimate for the whole convolution on one thread.
    """

    tile: int
    block: int
    groups: int
    whole: bool
    product: ContractionSchedule
    seconds: float

    @property
    def name(self) -> str:
        """The decisions alone: equal for equal schedules, different for different ones (``tune``)."""
        p = self.product
        order = "points outermost" if self.whole else "panel by panel"
        return (
            f"winograd {self.tile}, block {self.block}, parts {self.groups}, {order}, tile {p.tile[0]} x {p.nb}, "
            f"unroll {p.unroll}"
        )

    def __str__(self) -> str:
        p = self.product
        order = "points outermost" if self.whole else "panel by panel"
        return (
            f"Winograd F({self.tile}x{self.tile}, 3x3), {self.block} tiles per iteration, output channels in "
            f"{self.groups} part(s), {order}, products by tile {p.tile[0]} x {p.nb} vectors of {p.lanes}, "
            f"unroll {p.unroll}; est. {self.seconds * 1e3:.3f} ms on one thread"
        )


@functools.lru_cache(1024)
def choose(
    target: Target, dtype: DType, tile: int, channels: int, outputs: int, tiles: int, nb: int | None = None
) -> WinogradSchedule:
    """The cheapest schedule for ``tiles`` tiles in all, by estimate; ``nb`` is fixed when packed weights dictate it."""
    return _cheapest(
        _cheapest(_estimates(target, dtype, tile, channels, outputs, tiles, *blocking))
        for blocking in _blockings(target, dtype, outputs, tiles, nb)
    )


def alternatives(
    target: Target, dtype: DType, tile: int, channels: int, outputs: int, tiles: int, nb: int | None = None
) -> list[WinogradSchedule]:
    """What else is worth measuring than ``choose`` of the same arguments, cheapest by estimate first."""
    rule = choose(target, dtype, tile, channels, outputs, tiles, nb)
    found = [
        s
        for blocking in _blockings(target, dtype, outputs, tiles, nb)
        for s in _estimates(target, dtype, tile, channels, outputs, tiles, *blocking)
    ]
    others = {s.name: s for s in sorted(found, key=lambda s: s.seconds) if s.name != rule.name}
    return list(others.values())[:_ALTERNATIVES]


def _cheapest(found: Iterable[WinogradSchedule]) -> WinogradSchedule:
    """The first of those whose estimates differ by less than a thousandth."""
    best: WinogradSchedule | None = None
    for s in found:
        if best is None or s.seconds < best.seconds * 0.999:
            best = s
    assert best is not None
    return best


def _blockings(
    target: Target, dtype: DType, outputs: int, tiles: int, nb: int | None
) -> Iterator[tuple[int, int, bool]]:
    """(nb, block, whole) to estimate."""
    for width in (nb,) if nb else range(1, min(4, -(-outputs // target.lanes(dtype))) + 1):
        rows = (scheduling.registers_for(target) - 1 - width) // width
        for whole in (False, True):
            # A block is one register tile of rows, and weights stream. With many weights it pays to read them for
            # more rows and to keep all sums.
            blocks = range(1, min(rows, tiles) + 1) if not whole else [min(tiles, k * rows) for k in range(2, 9)]
            for block in blocks:
                yield width, block, whole


def _estimates(
    target: Target, dtype: DType, tile: int, channels: int, outputs: int, tiles: int, nb: int, block: int, whole: bool
) -> Iterator[WinogradSchedule]:
    """The schedules with these blocks, for several numbers of parts."""
    lanes, points = target.lanes(dtype), (tile + 2) ** 2
    size, hertz = dtype.itemsize, target.clock_ghz * 1e9
    in_vectors, out_vectors = -(-channels // lanes), -(-outputs // lanes)
    p = Problem(dtype, (block, 1), outputs, channels, min(lanes, channels), 1, nb)
    rows = (scheduling.registers_for(target) - 1 - nb) // nb
    s = replace(scheduling.choose(target, p), tile=(-(-block // -(-block // rows)), 1), chunk=block)
    blocks, panels = -(-tiles // block), -(-out_vectors // nb)
    weights = points * channels * panels * nb * lanes * size
    inputs = points * in_vectors * block * lanes * size
    for groups in sorted({1, 2, 4, 8, panels}):
        if groups > panels:
            continue
        kept = -(-panels // groups) if whole else 1
        sums = points * kept * nb * block * lanes * size
        # Bytes that come from beyond L2, per block.
        used = weights / groups + inputs + sums
        rate = _L3_BYTES if weights < target.l3_bytes // 4 else _FAR_BYTES
        stream = weights / rate if used > 0.75 * target.l2_bytes else 0.0
        if whole:
            stream += 2 * (inputs + sums) * groups / _L3_BYTES if inputs + sums > 0.5 * target.l2_bytes else 0.0
        elif inputs > 0.5 * target.l2_bytes:
            stream += panels * inputs / _L3_BYTES
        # The tiles of a block read a point's weights again from L2.
        again = points * panels * (-(-block // s.tile[0])) * channels * nb * lanes * size / _L2_BYTES
        products = max(points * scheduling.estimate(target, p, s), again / hertz)
        products = max(products, stream / hertz) + 0.15 * min(products, stream / hertz)
        level = (inputs + sums > target.l1_bytes) + (inputs + sums > 0.75 * target.l2_bytes)
        before = block * in_vectors * _INPUT_CYCLES[tile][level] / hertz
        after = block * out_vectors * _OUTPUT_CYCLES[tile][level] / hertz
        parts = blocks * groups
        waste = (0.75 * -(-parts // 2) * 2 + 0.25 * -(-parts // 4) * 4) / parts  # what two or four threads wait
        seconds = blocks * (before * groups + products + after) * waste
        yield WinogradSchedule(tile, block, groups, whole, s, seconds)
