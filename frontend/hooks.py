"""Handles of registered hooks."""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from typing import Any

_ids = itertools.count()


class RemovableHandle:
    """Returned by ``register_*_hook``; ``remove()`` takes the hook off, and so does leaving it as a context.

    ``tables``: the hook tables the new id belongs to (the hooks first, then sets of options by id).
    """

    def __init__(self, *tables: OrderedDict[int, Any]) -> None:
        self.id = next(_ids)
        self._tables = [weakref.ref(t) for t in tables]  # the handle must not keep the module alive

    def remove(self) -> None:
        """Take the hook off; harmless if it is off already."""
        for ref in self._tables:
            table = ref()
            if table is not None:
                table.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def add_hook(table: OrderedDict[int, Any], hook: Any, *options: OrderedDict[int, Any]) -> RemovableHandle:
    """Put ``hook`` into ``table``; its options by id live in ``options``."""
    handle = RemovableHandle(table, *options)
    table[handle.id] = hook
    return handle
