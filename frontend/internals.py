"""The few names of PyTorch's private modules that programs use."""

from __future__ import annotations

from typing import Any

from . import tracing


def _get_tracing_state() -> Any:
    """The trace that runs in this thread, or None."""
    return tracing.current()
