"""Settings of the process: threads of programs compiled from now on; what programs ask for and always get."""

from __future__ import annotations

from ..runtime import cpu

_interop = 1
_deterministic = False
_matmul_precision = "highest"


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


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Results are repeatable in any case: every sum has one order. The setting is only remembered."""
    global _deterministic
    _deterministic = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    """What ``use_deterministic_algorithms`` was given last."""
    return _deterministic


def set_float32_matmul_precision(precision: str) -> None:
    """``"highest"``, ``"high"`` or ``"medium"``: what is allowed, not what is done; eager products of float32 are
    computed in float32, and ``compile(precision=...)`` says it for programs. ValueError for other words."""
    global _matmul_precision
    if precision not in ("highest", "high", "medium"):
        raise ValueError(f"precision must be 'highest', 'high' or 'medium', not {precision!r}")
    _matmul_precision = precision


def get_float32_matmul_precision() -> str:
    """What ``set_float32_matmul_precision`` was given last."""
    return _matmul_precision
