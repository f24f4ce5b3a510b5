"""Winograd's minimal filtering F(m x m, 3 x 3): the three matrices, the transform of weights, the choice of blocks.

A tile of m x m results of a 3x3 convolution with stride 1 comes from n x n inputs, n = m + 2:
``Y = AT [ (G w GT) * (BT d B) ] A``, summed over channels between the brackets. That takes n * n products per tile
instead of 9 m * m. Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015; the interpolation points
are 0, 1, -1 for m = 2 and 0, 1, -1, 2, -2 for m = 4, whose integers keep the error small.
"""

from __future__ import annotations

import functools
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


# Cycles to transform one vector of channels of one tile: arithmetic, loads and stores at two per cycle, some overhead.
_INPUT_CYCLES = {2: 44.0, 4: 130.0}
_OUTPUT_CYCLES = {2: 48.0, 4: 120.0}
_STREAM_BYTES = 10.0  # per cycle, of weights that do not stay in L2


@dataclass(frozen=True)
class WinogradSchedule:
    """How one convolution runs.

    Attributes:
        tile: m; block: tiles of one parallel iteration; groups: parallel parts of the output channels.
        product: schedule of one point's product, [block, C] x [C, panel].
        seconds: estimate for the whole convolution on one thread.
    """

    tile: int
    block: int
    groups: int
    product: ContractionSchedule
    seconds: float

    def __str__(self) -> str:
        p = self.product
        return (
            f"Winograd F({self.tile}x{self.tile}, 3x3), {self.block} tiles per iteration, output channels in "
            f"{self.groups} part(s), products by tile {p.tile[0]} x {p.nb} vectors of {p.lanes}, unroll {p.unroll}; "
            f"est. {self.seconds * 1e3:.3f} ms on one thread"
        )


@functools.lru_cache(1024)
def choose(
    target: Target, dtype: DType, tile: int, channels: int, outputs: int, tiles: int, nb: int | None = None
) -> WinogradSchedule:
    """The cheapest schedule for ``tiles`` tiles in all, by estimate; ``nb`` is fixed when packed weights dictate it."""
    lanes, points = target.lanes(dtype), (tile + 2) ** 2
    size = dtype.itemsize
    in_vectors, out_vectors = -(-channels // lanes), -(-outputs // lanes)
    most = max(4, int(0.55 * target.l2_bytes) // (points * in_vectors * lanes * size))
    best: WinogradSchedule | None = None
    for block in range(1, min(most, tiles, 64) + 1):
        if block not in (most, tiles, 64) and -(-tiles // block) == -(-tiles // (block + 1)) and block > 32:
            continue
        p = Problem(dtype, (block, 1), outputs, channels, min(lanes, channels), 1, nb)
        s = scheduling.choose(target, p)
        s = replace(s, chunk=block)
        blocks, panels = -(-tiles // block), -(-out_vectors // s.nb)
        products = points * scheduling.estimate(target, p, s)
        weights = points * channels * panels * s.nb * lanes * size
        if weights > target.l2_bytes // 2:
            products = max(products, weights / _STREAM_BYTES / (target.clock_ghz * 1e9))
        before = block * in_vectors * _INPUT_CYCLES[tile] / (target.clock_ghz * 1e9)
        after = block * out_vectors * _OUTPUT_CYCLES[tile] / (target.clock_ghz * 1e9)
        for groups in {1, 2, 4, 8, panels}:
            if groups > panels:
                continue
            parts = blocks * groups
            waste = (-(-parts // 2) * 2 + -(-parts // 4) * 4) / (2 * parts)  # what two or four threads wait at the end
            seconds = blocks * (before * groups + products + after) * waste
            if best is None or seconds < best.seconds * 0.999:
                best = WinogradSchedule(tile, block, groups, s, seconds)
    assert best is not None
    return best
