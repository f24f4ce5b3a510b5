"""What asking a public module for a name it lacks says: the public module name, and names that look alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def absent(module: str, name: str, available: Iterable[str]) -> AttributeError:
    """The error for ``module.name``; mentions this version's limits unless the name is private."""
    text = f"module {module!r} has no attribute {name!r}"
    if not name.startswith("_"):
        similar = difflib.get_close_matches(name, list(available), 4, 0.6)
        text += "; this version does not have it" + (f" (it has {', '.join(similar)})" if similar else "")
    return AttributeError(text, name=name)
