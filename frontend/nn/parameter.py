"""``Parameter``: a Tensor that registers itself when assigned to a Module."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensor import Tensor


class Parameter(Tensor):
    """A trainable tensor. Shares the storage of ``data`` (empty if None).

    Raises RuntimeError for integer data with ``requires_grad=True``.
    """

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        if data is None:
            self._data = np.zeros((0,), np.float32)
        else:
            self._data, self._trace = data._concrete("Parameter()"), data._trace
        self.requires_grad_(requires_grad)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


class Buffer(Tensor):
    """A tensor that registers itself as a buffer when assigned to a Module."""

    def __init__(self, data: Tensor | None = None, *, persistent: bool = True) -> None:
        self._data = np.zeros((0,), np.float32) if data is None else data._concrete("Buffer()")
        self.persistent = persistent


def is_lazy(param: Any) -> bool:
    """Whether a parameter has no shape yet; Ingot has no lazy parameters."""
    return False


__all__ = ["Buffer", "Parameter"]
