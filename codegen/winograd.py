"""Winograd's minimal filtering F(m x m, 3 x 3): the three matrices, and the transform of weights.

A tile of m x m results of a 3x3 convolution with stride 1 comes from n x n inputs, n = m + 2:
``Y = AT [ (G w GT) * (BT d B) ] A``, summed over channels between the brackets. That takes n * n products per tile
instead of 9 m * m. Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015; the interpolation points
are 0, 1, -1 for m = 2 and 0, 1, -1, 2, -2 for m = 4, whose integers keep the error small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
