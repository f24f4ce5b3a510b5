"""Hooks: their handles, and those of modules that run when gradients are computed."""

from __future__ import annotations

from ..hooks import RemovableHandle
from ..nn.backward_hooks import (
    BackwardHook,
    BackwardHookFunction,
    _WrappedHook,
    unserializable_hook,
    warn_if_has_hooks,
)

__all__ = [
    "BackwardHook", "BackwardHookFunction", "RemovableHandle", "_WrappedHook", "unserializable_hook",
    "warn_if_has_hooks",
]  # fmt: skip
