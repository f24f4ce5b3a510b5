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
    """Makes ``ingot.Tensor``, ``nn.Parameter``, ``Size`` and ``device``; tensors share the arrays' memory."""

    # Imported when used: the front end's package imports this one for ``ingot.load``.
    def tensor(self, array: np.ndarray, requires_grad: bool) -> Any:
        from ..tensor import Tensor

        out = Tensor._wrap(array)
        return out.requires_grad_() if requires_grad else out

    def parameter(self, tensor: Any, requires_grad: bool) -> Any:
        from ..nn.parameter import Parameter

        return Parameter(tensor, requires_grad)

    def size(self, extents: tuple[int, ...]) -> Any:
        from ..size import Size

        return Size(extents)

    def device(self, *args: Any) -> Any:
        from ..device import device

        return device(*args)
