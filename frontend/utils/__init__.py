"""Loading data (``utils.data``) and trading time for memory (``utils.checkpoint``)."""

from __future__ import annotations

from . import checkpoint, data

__all__ = ["checkpoint", "data"]


def __getattr__(name: str) -> object:
    from ..absent import absent

    raise absent("ingot.utils", name, __all__)
