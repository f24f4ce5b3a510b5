"""NumPy's names for ``dim`` and ``keepdim``, which PyTorch takes as well."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from . import dispatch

_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}


def numpy_names(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` of a tensor that also takes ``axis`` and ``keepdims``."""

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if args:
            dispatch.require_tensor(args[0], fn.__name__)
        if kwargs:
            kwargs = {_NUMPY_NAMES.get(name, name): value for name, value in kwargs.items()}
        return fn(*args, **kwargs)

    return call
