"""Apple's GPUs."""

from __future__ import annotations


def is_available() -> bool:
    """False: Ingot computes on the CPU."""
    return False


def is_built() -> bool:
    """False."""
    return False
