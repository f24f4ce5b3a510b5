"""Loading data (``utils.data``), trading time for memory (``utils.checkpoint``), hooks (``utils.hooks``)."""

from __future__ import annotations

from . import checkpoint, data, hooks

__all__ = ["checkpoint", "data", "hooks"]


def __getattr__(name: str) -> object:
    from ..absent import absent

    raise absent("ingot.utils", name, __all__)
