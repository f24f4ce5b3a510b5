"""Tables of one-dimensional resampling: which neighbours an output element reads and with which weights.

Coordinates and edges follow PyTorch. Nearest neighbours are chosen in float32, as PyTorch does for float32 images,
so that every dtype picks the same elements; weights are computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MODES = ("nearest", "nearest-exact", "linear", "cubic", "area", "lanczos")
_SUPPORT = {"linear": 1.0, "cubic": 2.0, "lanczos": 3.0}  # of the filters that antialias stretches
_HORIZON = 64  # pace() looks this far ahead: more than any vector has lanes


@dataclass(frozen=True, eq=False)
class Bands:
    """Element j is the sum over t of ``weights[t, j] * x[min(first[j] + t, last)]``.

    first: int64 [size], within the axis; weights: float64 [taps, size].
    """

    first: np.ndarray
    weights: np.ndarray

    @property
    def is_choice(self) -> bool:
        """Whether every element is one of x's, unweighted."""
        return self.weights.shape[0] == 1 and bool((self.weights == 1).all())

    def is_identity(self, extent: int) -> bool:
        return self.is_choice and len(self.first) == extent and bool((self.first == np.arange(extent)).all())

    def matrix(self, extent: int) -> np.ndarray:
        """The dense [size, extent] matrix."""
        out = np.zeros((len(self.first), extent))
        for t, row in enumerate(self.weights):
            np.add.at(out, (np.arange(len(self.first)), np.minimum(self.first + t, extent - 1)), row)
        return out


@lru_cache(256)
def bands(mode: str, extent: int, size: int, scale: float, align_corners: bool, antialias: bool = False) -> Bands:
    """Tables from ``extent`` elements to ``size``; ``scale`` (output over input) 0 means size / extent."""
    j = np.arange(size)
    if mode.startswith("nearest"):
        # The very operations of PyTorch: one ratio in float32, and products in float32.
        pace = np.float32(1.0 / scale) if scale > 0 else np.float32(extent) / np.float32(size)
        place = (j.astype(np.float32) + np.float32(0.5 if mode == "nearest-exact" else 0)) * pace
        return Bands(np.minimum(np.floor(place).astype(np.int64), extent - 1), np.ones((1, size)))
    if mode == "area":
        low, high = j * extent // size, -(-(j + 1) * extent // size)
        taps = np.arange(int((high - low).max(initial=1)))[:, None]
        return Bands(low, np.where(taps < high - low, 1.0 / (high - low), 0.0))
    if size == extent and (mode == "linear" or antialias):
        return Bands(j, np.ones((1, size)))  # a copy, whatever the scale
    if align_corners:
        ratio = (extent - 1) / (size - 1) if size > 1 else 0.0
    else:
        ratio = 1.0 / scale if scale > 0 else extent / size
    if antialias:
        return _antialiased(mode, extent, j, ratio)
    place = j * ratio if align_corners else (j + 0.5) * ratio - 0.5
    if mode == "linear":
        place = np.maximum(place, 0.0)
        first = np.minimum(np.floor(place).astype(np.int64), extent - 1)
        part = np.clip(place - first, 0.0, 1.0)
        return Bands(first, np.stack([1 - part, part])) if part.any() else Bands(first, np.ones((1, size)))
    first = np.floor(place).astype(np.int64)
    part = place - first
    weights = np.stack([_cubic(part + 1, -0.75), _cubic(part, -0.75), _cubic(1 - part, -0.75), _cubic(2 - part, -0.75)])
    return _held(first - 1, weights, extent)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _antialiased(mode: str, extent: int, j: np.ndarray, ratio: float) -> Bands:
    """Filters stretched by the ratio when shrinking, as in PyTorch and Pillow."""
    stretch = max(ratio, 1.0)
    support = _SUPPORT[mode] * stretch
    center = ratio * (j + 0.5)
    low = np.maximum((center - support + 0.5).astype(np.int64), 0)
    high = np.minimum((center + support + 0.5).astype(np.int64), extent)
    taps = np.arange(int((high - low).max(initial=1)))[:, None]
    distance = (taps + low - center + 0.5) / stretch
    if mode == "linear":
        weights = np.maximum(1 - np.abs(distance), 0.0)
    elif mode == "cubic":
        weights = _cubic(distance, -0.5)
    else:
        weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    weights = np.where(taps < high - low, weights, 0.0)
    total = weights.sum(0)
    return Bands(np.clip(low, 0, extent - 1), weights / np.where(total == 0, 1.0, total))


def _held(first: np.ndarray, weights: np.ndarray, extent: int) -> Bands:
    """Places below 0 moved to 0, their weights with them. (Those behind the end are held there by the operator.)"""
    taps, size = weights.shape
    start = np.clip(first, 0, extent - 1)
    out = np.zeros_like(weights)
    columns = np.arange(size)
    for t in range(taps):
        place = np.clip(first + t, 0, extent - 1)
        np.add.at(out, (place - start, columns), weights[t])
    return Bands(start, out)


def transposed(tables: Bands, extent: int) -> Bands:
    """The tables of the transpose: from len(tables.first) elements back to ``extent``."""
    taps, size = tables.weights.shape
    low, high = np.full(extent, size), np.full(extent, -1)
    columns = np.arange(size)
    places = [np.minimum(tables.first + t, extent - 1) for t in range(taps)]
    for place, row in zip(places, tables.weights, strict=True):
        used = row != 0
        np.minimum.at(low, place[used], columns[used])
        np.maximum.at(high, place[used], columns[used])
    unread = high < 0
    # Elements that nobody reads get zero weights at the place of their predecessor, so that places stay in order.
    filled = np.where(unread, -1, low)
    low = (
        np.maximum(np.maximum.accumulate(filled), 0) if (np.diff(filled[~unread]) >= 0).all() else np.maximum(filled, 0)
    )
    weights = np.zeros((max(1, int((high - low)[~unread].max(initial=0)) + 1), extent))
    for place, row in zip(places, tables.weights, strict=True):
        used = row != 0
        np.add.at(weights, (columns[used] - low[place[used]], place[used]), row[used])
    return Bands(low, weights)


def pace(first: np.ndarray) -> float:
    """The smallest p with 0 <= first[j + k] - first[j] <= p * k + 1 for every k, or -1 if places do not ascend."""
    if len(first) < 2:
        return 0.0
    if (np.diff(first) < 0).any():
        return -1.0
    steps = range(1, min(_HORIZON, len(first)))
    return max(0.0, max(float((first[k:] - first[:-k]).max() - 1) / k for k in steps))
