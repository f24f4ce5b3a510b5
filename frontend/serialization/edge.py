"""Where arrays become front-end objects and back; the readers and the writer know NumPy arrays only."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Edge(Protocol):
    """What a reader makes out of what it finds."""

    def tensor(self, array: np.ndarray, requires_grad: bool) -> Any: ...
    def parameter(self, tensor: Any, requires_grad: bool) -> Any: ...
    def size(self, extents: tuple[int, ...]) -> Any: ...
    def device(self, *args: Any) -> Any: ...


class Frontend:
    """Makes ``ingot.Tensor``, ``nn.Parameter``, ``Size`` and ``device``."""

    def __init__(self) -> None:
        # Imported here: the front end's package may be importing this one for ``ingot.load``.
        from .. import device, size, tensor
        from ..nn import parameter

        self._tensor = tensor.Tensor
        self._parameter = parameter.Parameter
        self._size = size.Size
        self._device = device.device

    def tensor(self, array: np.ndarray, requires_grad: bool) -> Any:
        out = self._tensor(array)
        if requires_grad:
            out.requires_grad = True
        return out

    def parameter(self, tensor: Any, requires_grad: bool) -> Any:
        return self._parameter(tensor, requires_grad)

    def size(self, extents: tuple[int, ...]) -> Any:
        return self._size(extents)

    def device(self, *args: Any) -> Any:
        return self._device(*args)
