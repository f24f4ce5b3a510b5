"""NumPy's names for ``dim`` and ``keepdim``, which PyTorch takes as well."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}


def numpy_names(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` that also takes ``axis`` and ``keepdims``."""

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            kwargs = {_NUMPY_NAMES.get(name, name): value for name, value in kwargs.items()}
        return fn(*args, **kwargs)

    return call
