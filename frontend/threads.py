"""How many threads programs use that are compiled from now on."""

from __future__ import annotations

from ..runtime import cpu

_interop = 1


def get_num_threads() -> int:
    """Threads of a program that does not state its own number."""
    return cpu.default_threads()


def set_num_threads(count: int) -> None:
    """Sets that number, for programs compiled or loaded afterwards; RuntimeError below 1."""
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"set_num_threads expects an int, but got {type(count).__name__}")
    if count < 1:
        raise RuntimeError("set_num_threads expects a positive integer")
    cpu.set_threads(count)


def get_num_interop_threads() -> int:
    """Programs run one at a time unless the caller has threads of its own."""
    return _interop


def set_num_interop_threads(count: int) -> None:
    """Kept for programs that set it; operators of one program do not run beside each other."""
    global _interop
    if count < 1:
        raise RuntimeError("set_num_interop_threads expects a positive integer")
    _interop = count
