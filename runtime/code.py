"""Machine code in memory: all images of one program in one mapping, written once, then executable."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Mapping

from ..ir.errors import IngotError
from ..ir.plan import KernelImage
from . import cpu, memory

_PROT_READ, _PROT_EXEC = 1, 4


class CodeError(IngotError):
    """The system does not let this process make memory executable."""


class CodeMap:
    """Executable copies of kernel images; the memory goes with the object.

    ``address(key)`` is where that image's entry is.
    """

    def __init__(self, images: Mapping[str, KernelImage]) -> None:
        # AArch64 code addresses its constants by 4 KiB page.
        alignment = 4096 if cpu.architecture() == "aarch64" else 64
        offsets, end = {}, 0
        for key, image in images.items():
            if not 0 <= image.entry < len(image.code):
                raise CodeError(f"kernel {key}: entry {image.entry} lies outside its {len(image.code)} bytes")
            offsets[key] = end
            end += -(-len(image.code) // alignment) * alignment
        size = max(1, -(-end // mmap.PAGESIZE)) * mmap.PAGESIZE
        self._memory = memory.allocate(size, mmap.PAGESIZE)
        for key, image in images.items():
            self._memory[offsets[key] : offsets[key] + len(image.code)] = memoryview(image.code)
        base = memory.address_of(self._memory)
        self._addresses = {key: base + offset + images[key].entry for key, offset in offsets.items()}
        _make_executable(base, size)

    def address(self, key: str) -> int:
        """Address of kernel ``key``'s entry."""
        return self._addresses[key]

    def keep_forever(self) -> None:
        """Never unmap this code, not even while the interpreter shuts down: threads run in it."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._memory))


def _make_executable(address: int, size: int) -> None:
    """Read + execute, no longer writable. (Linux also brings the instruction cache up to date here.)"""
    if sys.platform == "win32":
        raise CodeError("running compiled code on Windows is not supported; use Linux or WSL")
    if sys.platform == "darwin" and cpu.architecture() == "aarch64":
        raise CodeError("running compiled code on macOS for Apple silicon is not supported; use Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.mprotect(address, size, _PROT_READ | _PROT_EXEC) != 0:
        raise CodeError(
            f"the system refuses executable memory ({os.strerror(ctypes.get_errno())}); a security policy such as "
            "SELinux execmem or PaX MPROTECT must allow it for this process"
        )
