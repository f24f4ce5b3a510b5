"""cuDNN's switches: programs set them for repeatable or fast convolutions; on the CPU they change nothing."""

from __future__ import annotations

enabled = True
benchmark = False
deterministic = False
allow_tf32 = True
benchmark_limit = 10


def is_available() -> bool:
    """False: there is no GPU."""
    return False


def version() -> int | None:
    """None: there is no cuDNN."""
    return None
