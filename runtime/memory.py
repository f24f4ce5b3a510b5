"""Anonymous memory blocks on huge pages, and addresses of arrays."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Sequence

import numpy as np

HUGE_PAGE = 2 << 20
_HUGE_FROM = 1 << 20  # smaller blocks do not ask for huge pages


def allocate(nbytes: int, alignment: int = 64) -> np.ndarray:
    """A zeroed uint8 array of ``nbytes`` at a multiple of ``alignment``, freed with its last reference.

    From 1 MiB on it starts at a 2 MiB boundary and asks for huge pages; where the system has none, normal
    pages come without a fuss. With INGOT_HUGE_PAGES=0 in the environment it asks for normal ones instead, for
    measurements. Pages are only taken from the system when touched. MemoryError if refused.
    """
    if nbytes <= 0:
        return np.empty(0, np.uint8)
    huge = nbytes >= _HUGE_FROM
    alignment = max(alignment, HUGE_PAGE if huge else 64)
    # A mapping is page-aligned anyway.
    extra = alignment if alignment > mmap.PAGESIZE else 0
    try:
        if sys.platform == "win32":
            block = mmap.mmap(-1, nbytes + extra)
        else:  # private: after fork parent and child must not see each other's values
            block = mmap.mmap(-1, nbytes + extra, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"cannot allocate {nbytes} bytes: {error}") from None
    raw = np.frombuffer(block, np.uint8)
    start = -address_of(raw) % alignment
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError, ValueError):  # not configured: normal pages
            wanted = os.environ.get("INGOT_HUGE_PAGES", "1") != "0"
            advice = mmap.MADV_HUGEPAGE if wanted else mmap.MADV_NOHUGEPAGE
            block.madvise(advice, start, nbytes - nbytes % mmap.PAGESIZE)
    return raw[start : start + nbytes]


def aligned(arrays: Sequence[np.ndarray], alignment: int = 64) -> list[np.ndarray]:
    """``arrays`` with those that are not C-contiguous at a multiple of ``alignment`` copied into one such block."""
    moved = [not a.flags.c_contiguous or (a.size > 0 and address_of(a) % alignment != 0) for a in arrays]
    rounded = [-(-a.nbytes // alignment) * alignment for a in arrays]
    block = allocate(sum(n for n, move in zip(rounded, moved, strict=True) if move), alignment)
    result, at = [], 0
    for array, move, size in zip(arrays, moved, rounded, strict=True):
        if move:
            copy = block[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
            copy[...] = array
            result.append(copy)
            at += size
        else:
            result.append(array)
    return result


def _data_offset() -> int:
    """Byte offset of the data pointer in an ndarray object, 0 if it cannot be relied on.

    It is the first field after the object header in every CPython build of NumPy; reading it is ten times
    cheaper than asking. Checked here against the official way on arrays of several kinds.
    """
    if sys.implementation.name != "cpython":
        return 0
    offset = object.__basicsize__
    base = np.arange(24, dtype=np.float64)
    samples: list[np.ndarray] = [
        base, base[3:], base[::2], base.reshape(2, 3, 4)[1, :, ::-1], np.zeros((), np.int8), np.zeros((0, 3)),
        base.view(np.recarray), np.broadcast_to(base[:1], (5,)), np.zeros(3, "S7"),
    ]  # fmt: skip
    for array in samples:
        if ctypes.c_void_p.from_address(id(array) + offset).value != array.__array_interface__["data"][0]:
            return 0
    return offset


DATA_OFFSET = _data_offset()
_pointer_at = ctypes.c_size_t.from_address


def address_of(array: np.ndarray) -> int:
    """Address of the first element."""
    if DATA_OFFSET:
        return _pointer_at(id(array) + DATA_OFFSET).value
    return array.__array_interface__["data"][0]
