"""Weights of few rows in fixed point: three in 64 bits, with a scale per output and block of terms.

A product of few rows takes the time in which its weights arrive from memory, so a third fewer bytes are a third less
time. Memory of one output: per block of ``TERMS`` terms its scale (float32), then two words for every three terms.
The words of terms 0 and 1 are their values, as they stand: the low 11 bits belong to term 2, and the high 21 bits are
chosen for what stands there. Term 2 has its high 11 bits in the first word, the next 11 in the second. So one
conversion makes a weight of a word, and three instructions more every third one.

Rounding moves weights by at most 2**-21 of the largest one of their block (every third by half of that). As this one is
itself in the block, no weights whatever are off by more than 5.7e-6 of their L2 norm; those with a normal distribution
are by 0.7e-6. Exact zeros do not survive: a pruned weight becomes up to 2**-21 of the largest one of its block, and
times an infinite input it gives infinity where float32 gives NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from math import hypot

import numpy as np

from ..ir import dtypes
from ..ir.target import Target
from .schedule import FMA_LATENCY, L2_RATE, ContractionSchedule, registers_for, splits, upper

FORM, FORM_TRANSPOSED = "fixed21", "fixed21_t"  # of B [K, N], and of B [N, K]
FORMS = (FORM, FORM_TRANSPOSED)
GROUP, WORDS = 3, 2  # weights, and the words that hold them
TERMS = 192  # that share a scale, which float32 kernels add up before the sum goes to a total, too
BLOCK_WORDS = 1 + TERMS // GROUP * WORDS
MOST_ROWS = 8  # the estimate offers up to 5 (AVX-512 with two FMA ports)
LOW = 11  # bits of the third weight in either word
# Largest value: the low bits move the one above by up to a step, either way.
_LARGEST = float(((1 << 20) - 2) << LOW)
# A block's scale has to be a normal number: its largest weight is at least this, or zero.
_LEAST = 2.0**-95
# A block's sum, up to 4 * TERMS times its largest weight, has to be finite before the row's power comes in: the largest
# weight is at most this. 2**118 would do; no model's weights are anywhere near.
_MOST = 2.0**80

_CHUNK = 1 << 21  # weights that are encoded at a time

_FAR_RATE = 9.0  # bytes per cycle from memory, for one core
# How many times faster than with float32 weights the estimate has to be, with weights from memory.
_MARGIN = 1.05
# The same where a cache may hold the weights. The estimate promises too much there: on Zen 4 a product estimated to be
# 1.3 times as fast was 1.2 times as fast when measured, and one estimated at 1.2 was slower (0.93).
_NEAR_MARGIN = 1.25
_MOST_VECTORS = 4  # of outputs, in a panel
_COPY_CYCLES = 60.0  # of a row's part of a block


def words(depth: int) -> int:
    """Words per output of ``depth`` terms."""
    return -(-depth // TERMS) + -(-depth // GROUP) * WORDS


def _cut(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] -> blocks [N, blocks, TERMS], filled up with zeros, and the largest magnitude in each of them."""
    n, k = weights.shape
    count = -(-k // TERMS)
    padded = np.zeros((n, count * TERMS), np.float32)
    padded[:, :k] = weights
    cut = padded.reshape(n, count, TERMS)
    return cut, np.maximum(cut.max(2), -cut.min(2))


def _words(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] -> scales [N, blocks] and words [N, blocks, groups, 2]."""
    cut, largest = _cut(weights)
    scales = (largest / np.float64(_LARGEST)).astype(np.float32)
    cut *= (1 / np.where(scales == 0, np.float32(1), scales))[:, :, None]
    units = cut.reshape(*scales.shape, TERMS // GROUP, GROUP)
    third = np.rint(units[..., 2] * np.float32(2.0**-10)).astype(np.int32)
    found = np.empty((*third.shape, WORDS), np.int32)
    for i, low in enumerate((third >> LOW, third)):
        low = low & ((1 << LOW) - 1)
        high = np.rint((units[..., i] - low.astype(np.float32)) * np.float32(2.0**-LOW)).astype(np.int32)
        found[..., i] = (high << LOW) | low
    return scales, found


def _chunks(weights: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    rows = max(1, _CHUNK // max(weights.shape[1], 1))
    for first in range(0, weights.shape[0], rows):
        part = slice(first, first + rows)
        yield part, weights[part]


def encode(array: np.ndarray, form: str) -> np.ndarray:
    """Float32 [N, K] as its words [N, ``words(K)``], or [K, N] as [``words(K)``, N]; words have the type float32."""
    weights = array if form == FORM_TRANSPOSED else array.T
    n, k = weights.shape
    whole = -(-k // TERMS)
    out = np.empty((n, whole, BLOCK_WORDS), np.float32)
    for part, chunk in _chunks(weights):
        scales, found = _words(chunk)
        out[part, :, 0] = scales
        out[part, :, 1:] = found.reshape(*found.shape[:2], -1).view(np.float32)
    flat = out.reshape(n, -1)[:, : words(k)]
    return flat if form == FORM_TRANSPOSED else flat.T


def holds(array: np.ndarray, form: str) -> bool:
    """Whether ``encode`` is meant for ``array``: all weights are finite, and no block's largest one is so small
    (below ``_LEAST``, but not zero) or so large (above ``_MOST``) that the kernel would lose its results."""
    for _, chunk in _chunks(array if form == FORM_TRANSPOSED else array.T):
        _, largest = _cut(chunk)
        if not ((largest == 0) | ((largest >= _LEAST) & (largest <= _MOST))).all():  # NaN is neither
            return False
    return True


def _cycles(target: Target, rows: int, nb: int, tile: int, depth: int, outputs: int, rate: float = _FAR_RATE) -> float:
    """Estimate for the whole product on one thread, with weights from memory, or coming at ``rate`` bytes per cycle."""
    wide = target.vector_bytes == 64
    unpack, ports = (6, 2) if wide else (8, 3)  # three conversions, two shifts, and AVX-512 selects bits in one
    total, stream = 0.0, WORDS * nb * target.vector_bytes / rate
    for s in splits(rows, tile):
        fma = GROUP * s.size * nb
        loads = (GROUP * s.size + WORDS * nb) / 2
        one = max(fma / target.fma_ports, (fma + unpack * nb) / ports, loads, GROUP * float(FMA_LATENCY))
        total += upper(s.tiles) * one
        if s.first == 0:  # the other tiles find the block in a cache
            total += hypot(one, stream) - one
    panels = -(-outputs // (target.lanes(dtypes.float32) * nb))
    return panels * (-(-depth // GROUP) * total + -(-depth // TERMS) * rows * _COPY_CYCLES)


@functools.lru_cache(1024)
def choose(target: Target, rows: int, depth: int, outputs: int, nb: int | None = None) -> ContractionSchedule:
    """The cheapest schedule, by estimate; ``nb`` is fixed when a packed B dictates it."""
    lanes = target.lanes(dtypes.float32)
    found = []
    for width in (nb,) if nb else range(1, min(_MOST_VECTORS, -(-outputs // lanes)) + 1):
        # Sums, a word of each vector, what becomes of two, and an element of A.
        most = max(1, (registers_for(target) - 5 - width) // width)
        tiles = -(-rows // most)
        tile = -(-rows // tiles)
        found.append((_cycles(target, rows, width, tile, depth, outputs), width, tile))
    _, width, tile = min(found, key=lambda f: (f[0], -f[1]))  # of equal ones the widest
    reason = "weights in fixed point, three in 64 bits"
    # One iteration has all rows: it streams through its weights once.
    return ContractionSchedule(lanes, width, (tile, 1), 1, ("panel", "outer", "chunk"), -(-rows // tile), reason)


def speedup(target: Target, rows: int, depth: int, outputs: int, seconds: float) -> float:
    """How many times faster than with float32 weights, by estimate (``seconds``: where these are near); 0 where it
    does not pay, or the weights stay in L2."""
    size, near = 4 * depth * outputs, seconds * target.clock_ghz * 1e9
    if not 1 <= rows <= MOST_ROWS or size <= target.l2_bytes or target.lanes(dtypes.float32) == 1:
        return 0.0
    s = choose(target, rows, depth, outputs)
    far = size >= target.l3_bytes // 4  # other weights leave less than a share of it
    rate, margin, plain = (_FAR_RATE, _MARGIN, max(near, size / _FAR_RATE)) if far else (L2_RATE, _NEAR_MARGIN, near)
    gain = plain / _cycles(target, rows, s.nb, s.tile[0], depth, outputs, rate)
    return gain if gain >= margin else 0.0
