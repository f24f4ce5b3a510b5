"""The one device there is."""

from __future__ import annotations

from typing import Any

from . import amp

__all__ = ["amp", "current_device", "device_count", "is_available", "synchronize"]


def is_available() -> bool:
    """True."""
    return True


def device_count() -> int:
    """1."""
    return 1


def current_device() -> str:
    """"cpu"."""
    return "cpu"


def synchronize(device: Any = None) -> None:
    """Nothing: every call has finished when it returns."""


def __getattr__(name: str) -> object:
    from ..absent import absent

    raise absent("ingot.cpu", name, __all__)
