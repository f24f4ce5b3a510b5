"""PyTorch's random streams on the CPU: a Mersenne Twister and the distributions drawn from it, as NumPy arrays.

Every function draws in the order in which PyTorch fills memory, so the same seed gives PyTorch's numbers (to the
last bit where no logarithm or cosine is involved).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# PyTorch's state in bytes: seed, draws left before the next twist, seeded, next word, the 624 words, an unused double
# (our offset), the cached double normal, another unused one, whether the cache is valid; the same for floats.
_HEAD, _TAIL = struct.Struct("<Qii Q"), struct.Struct("<qddi4xfB3x")
_WORDS = 624
STATE_BYTES = _HEAD.size + 8 * _WORDS + _TAIL.size
_BLOCK = 16  # PyTorch draws large normal tensors in blocks of this many elements


class Stream:
    """MT19937 with the cached second number of a pair of normals."""

    def __init__(self, seed: int) -> None:
        self.seed = seed % 2**64
        self._engine: Any = np.random.MT19937(0)
        self._engine._legacy_seeding(self.seed % 2**32)
        self._spare: float | None = None

    def words(self, count: int) -> np.ndarray:
        """``count`` draws of 32 bits, as uint64."""
        return self._engine.random_raw(count)

    def double_words(self, count: int) -> np.ndarray:
        """``count`` draws of 64 bits: the first of two words is the upper half."""
        pairs = self.words(2 * count).reshape(count, 2)
        return (pairs[:, 0] << np.uint64(32)) | pairs[:, 1]

    def doubles(self, count: int) -> np.ndarray:
        """Uniform on [0, 1) with 53 bits."""
        return (self.double_words(count) & np.uint64(2**53 - 1)) * 2.0**-53

    def units(self, count: int, kind: np.dtype) -> np.ndarray:
        """Uniform on [0, 1): float64 with 53 bits, else float32 with 24."""
        if kind == np.float64:
            return self.doubles(count)
        return (self.words(count) & np.uint64(2**24 - 1)).astype(np.float32) * np.float32(2.0**-24)

    def normals(self, count: int) -> np.ndarray:
        """Standard normal doubles, drawn in pairs whose second number is kept for the next call."""
        out = np.empty(count)
        start = 0
        if self._spare is not None and count:
            out[0], self._spare, start = self._spare, None, 1
        pairs = (count - start + 1) // 2
        u = self.doubles(2 * pairs).reshape(pairs, 2)
        radius, angle = np.sqrt(-2.0 * np.log1p(-u[:, 1])), 2.0 * np.pi * u[:, 0]
        both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
        out[start:] = both[: count - start]
        if count - start < both.size:
            self._spare = float(both[-1])
        return out

    # -- state --------------------------------------------------------------------------------------
    def state(self, offset: int = 0) -> bytes:
        """The state in PyTorch's layout; ``offset`` goes into a field that PyTorch leaves unused."""
        state = self._engine.state["state"]
        position = int(state["pos"])
        words = np.asarray(state["key"]).astype("<u8").tobytes()
        spare = self._spare
        tail = _TAIL.pack(offset, 0.0 if spare is None else spare, 0.0, spare is not None, 0.0, 0)
        return _HEAD.pack(self.seed, _WORDS + 1 - position, 1, position) + words + tail

    def set_state(self, data: bytes) -> int:
        """Go to a state that ``state`` (or PyTorch) gave; returns its ``offset``. ValueError for a damaged one."""
        seed, left, _, position = _HEAD.unpack_from(data)
        offset, spare, _, valid, _, _ = _TAIL.unpack_from(data, _HEAD.size + 8 * _WORDS)
        if not (0 < left <= _WORDS and 0 <= position <= _WORDS):
            raise ValueError("Invalid mt19937 state")
        words = np.frombuffer(data, "<u8", _WORDS, _HEAD.size).astype(np.uint32)
        # One draw left means that the next one twists, whatever the position says (0 right after seeding).
        key = {"key": words, "pos": _WORDS if left == 1 else position}
        self._engine.state = {"bit_generator": "MT19937", "state": key}
        self.seed, self._spare = seed, spare if valid else None
        return int(offset)


def arrange(numbers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Numbers in the order in which they were drawn, in the shape of ``target``, whose memory they fill in order."""
    if target.flags.c_contiguous:
        return numbers.reshape(target.shape)
    order = sorted(range(target.ndim), key=lambda i: -abs(target.strides[i]))
    return numbers.reshape([target.shape[i] for i in order]).transpose(np.argsort(order))


def uniform(stream: Stream, target: np.ndarray, low: float, high: float) -> np.ndarray:
    """Uniform on [low, high)."""
    u = stream.units(target.size, target.dtype)
    low, high = target.dtype.type(low), target.dtype.type(high)
    out = (u * (u.dtype.type(high) - u.dtype.type(low)) + u.dtype.type(low)).astype(target.dtype)
    out[out == high] = low  # rounding must not reach the upper bound
    return arrange(out, target)


def normal(stream: Stream, target: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Normal; large contiguous tensors are drawn in blocks, all others in pairs of doubles."""
    if target.size < _BLOCK or not target.flags.c_contiguous:
        return arrange(stream.normals(target.size) * std + mean, target)
    whole = target.size // _BLOCK * _BLOCK
    # PyTorch draws 16-bit types block by block, the others for the whole tensor before the last block anew.
    u = stream.units(whole if target.dtype.itemsize == 2 else target.size, target.dtype)
    out = np.empty(target.size, u.dtype)
    out[:whole] = _normal_blocks(u[:whole], mean, std)
    if whole < target.size:  # the last block overlaps the one before, with numbers of its own
        out[-_BLOCK:] = _normal_blocks(stream.units(_BLOCK, target.dtype), mean, std)
    return out.reshape(target.shape)


def _normal_blocks(u: np.ndarray, mean: float, std: float) -> np.ndarray:
    kind = u.dtype.type
    half = u.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(kind(-2) * np.log(kind(1) - half[:, 0]))
    angle = kind(2 * np.pi) * half[:, 1]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return (both * kind(std) + kind(mean)).reshape(-1)


def from_doubles(stream: Stream, target: np.ndarray, transform: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A distribution that is a function of one uniform double per element."""
    return arrange(transform(stream.doubles(target.size)), target)


def integers(stream: Stream, target: np.ndarray, low: int, high: int) -> np.ndarray:
    """Whole numbers from ``low`` up to, not including, ``high``."""
    span = high - low
    if span >= 2**64:
        drawn = stream.double_words(target.size)
    elif span >= 2**28:
        drawn = stream.double_words(target.size) % np.uint64(span)
    else:
        drawn = stream.words(target.size) % np.uint64(span)
    return arrange(drawn.astype(np.int64) + np.int64(low), target)


def permutation(stream: Stream, n: int) -> np.ndarray:
    """0..n-1 shuffled: element i changes places with one that is not before it."""
    out = list(range(n))
    draw = stream.words if n < (2**32 - 1) // 20 else stream.double_words
    picks = draw(max(n - 1, 0)) % np.arange(n, 1, -1, dtype=np.uint64)
    for i, pick in enumerate(picks.tolist()):
        j = i + pick
        out[i], out[j] = out[j], out[i]
    return np.array(out, np.int64)


def choices(stream: Stream, weights: np.ndarray, count: int) -> np.ndarray:
    """``count`` draws with replacement for every row of weights [rows, categories]: int64 [rows, count]."""
    places = np.cumsum(weights, axis=1, dtype=weights.dtype)
    places = places / places[:, -1:]
    places[:, -1] = 1
    u = stream.doubles(len(weights) * count).reshape(len(weights), count)
    rows: Sequence[np.ndarray] = [np.searchsorted(p, v, side="left") for p, v in zip(places, u, strict=True)]
    return np.stack(rows).astype(np.int64) if rows else np.empty((0, count), np.int64)


def exponential(rate: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: (-1.0 / rate) * np.log1p(-u)


def geometric(p: float) -> Callable[[np.ndarray], np.ndarray]:
    def transform(u: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.ceil(np.log(u) / math.log1p(-p))

    return transform


def cauchy(median: float, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: median + sigma * np.tan(np.pi * (u - 0.5))
