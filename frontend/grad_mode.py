"""Thread-local modes of differentiation: ``no_grad``, ``enable_grad``, ``set_grad_enabled``, ``inference_mode``,
anomaly detection."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any


class _Mode(threading.local):
    enabled = True
    inference = False


class _Anomaly:
    enabled = False
    check_nan = True


_mode = _Mode()
anomaly = _Anomaly()  # of all threads, as in PyTorch


def is_grad_enabled() -> bool:
    """Whether grad mode is on in this thread."""
    return _mode.enabled


def is_inference_mode_enabled() -> bool:
    """Whether inference mode is on in this thread."""
    return _mode.inference


def is_anomaly_enabled() -> bool:
    """Whether anomaly detection is on."""
    return anomaly.enabled


def is_anomaly_check_nan_enabled() -> bool:
    """Whether anomaly detection looks for NaN."""
    return anomaly.check_nan


class _Context:
    """A context manager that decorates functions, generator functions and the methods of classes as well."""

    def _again(self) -> _Context:
        """A fresh context like this one: a decorated function may call itself."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(self, *exc: object) -> None:
        raise NotImplementedError

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(fn):

            @functools.wraps(fn)
            def generator(*args: Any, **kwargs: Any) -> Any:
                # The mode holds while the generator runs, not between its yields.
                running = fn(*args, **kwargs)
                answer: Any = None
                while True:
                    with self._again():
                        try:
                            item = running.send(answer)
                        except StopIteration as end:
                            return end.value
                    answer = yield item

            return generator

        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return fn(*args, **kwargs)

        return wrapper


class _GradMode(_Context):
    _target = True

    def __new__(cls, fn: Callable[..., Any] | None = None) -> Any:
        # ``@no_grad`` without parentheses decorates as well.
        self = super().__new__(cls)
        if fn is None:
            return self
        cls.__init__(self)
        return _Context.__call__(self, fn)

    def __init__(self) -> None:
        self._before: list[bool] = []

    def _again(self) -> _GradMode:
        return type(self)()

    def __enter__(self) -> None:
        self._before.append(_mode.enabled)
        _mode.enabled = self._target

    def __exit__(self, *exc: object) -> None:
        _mode.enabled = self._before.pop()


class no_grad(_GradMode):
    """Context and decorator inside which nothing is recorded for differentiation."""

    _target = False


class enable_grad(_GradMode):
    """Turns recording on again inside ``no_grad``."""

    _target = True


class set_grad_enabled(_Context):
    """Sets the mode at once; as a context it restores the previous one at exit."""

    def __init__(self, mode: bool) -> None:
        self._before = _mode.enabled
        self.mode = bool(mode)
        _mode.enabled = self.mode

    def _again(self) -> set_grad_enabled:
        return set_grad_enabled(self.mode)

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        _mode.enabled = self._before  # a decorator changes nothing until the function runs
        return super().__call__(fn)

    def __enter__(self) -> None:
        _mode.enabled = self.mode

    def __exit__(self, *exc: object) -> None:
        _mode.enabled = self._before


class inference_mode(_Context):
    """``no_grad`` whose results may never take part in differentiation: cheaper, and errors are loud."""

    def __new__(cls, mode: Any = True) -> Any:
        self = super().__new__(cls)
        if isinstance(mode, bool):
            return self
        cls.__init__(self)
        return _Context.__call__(self, mode)

    def __init__(self, mode: bool = True) -> None:
        self.mode = mode
        self._before: list[tuple[bool, bool]] = []

    def _again(self) -> inference_mode:
        return inference_mode(self.mode)

    def __enter__(self) -> None:
        self._before.append((_mode.enabled, _mode.inference))
        _mode.inference, _mode.enabled = self.mode, not self.mode

    def __exit__(self, *exc: object) -> None:
        _mode.enabled, _mode.inference = self._before.pop()


class set_detect_anomaly(_Context):
    """Sets anomaly detection at once: nodes remember where they were recorded, and a NaN in a gradient is an error that
    names the operation. As a context it restores the previous setting at exit."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = anomaly.enabled, anomaly.check_nan
        self.mode, self.check_nan = bool(mode), bool(check_nan)
        anomaly.enabled, anomaly.check_nan = self.mode, self.check_nan

    def __enter__(self) -> None:
        anomaly.enabled, anomaly.check_nan = self.mode, self.check_nan

    def __exit__(self, *exc: object) -> None:
        anomaly.enabled, anomaly.check_nan = self._before


class detect_anomaly(_Context):
    """Context inside which anomaly detection is on."""

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan
        self._before: list[tuple[bool, bool]] = []

    def _again(self) -> detect_anomaly:
        return detect_anomaly(self.check_nan)

    def __enter__(self) -> None:
        self._before.append((anomaly.enabled, anomaly.check_nan))
        anomaly.enabled, anomaly.check_nan = True, self.check_nan

    def __exit__(self, *exc: object) -> None:
        anomaly.enabled, anomaly.check_nan = self._before.pop()
