"""Whether operations are meant to be differentiated: ``no_grad``, ``enable_grad``, ``set_grad_enabled``."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any


class _Mode(threading.local):
    enabled = True


_mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether grad mode is on in this thread."""
    return _mode.enabled


class _GradMode:
    _target = True

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(_mode.enabled)
        _mode.enabled = self._target

    def __exit__(self, *exc: object) -> None:
        _mode.enabled = self._before.pop()

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with type(self)():
                return fn(*args, **kwargs)

        return wrapper

    def __new__(cls, fn: Callable[..., Any] | None = None) -> Any:
        # ``@no_grad`` without parentheses decorates as well.
        self = super().__new__(cls)
        if fn is None:
            return self
        cls.__init__(self)
        return _GradMode.__call__(self, fn)


class no_grad(_GradMode):
    """Context and decorator inside which nothing is recorded for differentiation."""

    _target = False


class enable_grad(_GradMode):
    """Turns recording on again inside ``no_grad``."""

    _target = True


class set_grad_enabled:
    """Sets the mode at once; as a context it restores the previous one at exit."""

    def __init__(self, mode: bool) -> None:
        self._before = _mode.enabled
        self.mode = bool(mode)
        _mode.enabled = self.mode

    def __enter__(self) -> None:
        _mode.enabled = self.mode

    def __exit__(self, *exc: object) -> None:
        _mode.enabled = self._before
