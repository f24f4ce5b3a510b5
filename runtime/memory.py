"""Anonymous memory blocks on huge pages, and addresses of arrays."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys

import numpy as np

HUGE_PAGE = 2 << 20
_HUGE_FROM = 1 << 20  # smaller blocks do not ask for huge pages


def allocate(nbytes: int, alignment: int = 64) -> np.ndarray:
    """A zeroed uint8 array of ``nbytes`` at a multiple of ``alignment``, freed with its last reference.

    From 1 MiB on it starts at a 2 MiB boundary and asks for huge pages; where the system has none, normal
    pages come without a fuss. Pages are only taken from the system when touched. MemoryError if refused.
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
            block.madvise(mmap.MADV_HUGEPAGE, start, nbytes - nbytes % mmap.PAGESIZE)
    return raw[start : start + nbytes]


def aligned_copy(array: np.ndarray, alignment: int = 64) -> np.ndarray:
    """``array`` itself if it is C-contiguous at a multiple of ``alignment``, else such a copy."""
    if array.flags.c_contiguous and address_of(array) % alignment == 0:
        return array
    copy = allocate(array.nbytes, alignment).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _data_offset() -> int:
    """Byte offset of the data pointer in an ndarray object, 0 if it cannot be relied on.

    It is the first field after the object header in every CPython build of NumPy; reading it is ten times
    cheaper than asking. Checked here against the official way on arrays of several kinds.
    """
    if sys.implementation.name != "cpython":
        return 0
    offset = object.__basicsize__
    base = np.arange(24, dtype=np.float64)
    samples = [
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
