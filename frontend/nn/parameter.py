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

    def __repr__(self, **kwargs: Any) -> str:
        return "Parameter containing:\n" + super().__repr__(**kwargs)


class Buffer(Tensor):
    """A tensor that registers itself as a buffer when assigned to a Module."""

    def __init__(self, data: Tensor | None = None, *, persistent: bool = True) -> None:
        self._data = np.zeros((0,), np.float32) if data is None else data._concrete("Buffer()")
        self.persistent = persistent


class _Uninitialized:
    """A tensor whose shape comes later, by ``materialize``; its dtype is there already."""

    _becomes: type = Tensor

    def materialize(self: Any, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Gives it a shape (and uninitialised values); it becomes an ordinary parameter or buffer."""
        self._data = np.zeros(tuple(shape), self._data.dtype if dtype is None else dtype.numpy)
        self.__class__ = self._becomes

    @property
    def shape(self) -> Any:
        raise RuntimeError(
            "Can't access the shape of an uninitialized parameter or buffer. This error usually happens in "
            "`load_state_dict` when trying to load an uninitialized parameter into an initialized one. Call `forward` "
            "to initialize the parameters before accessing their attributes."
        )

    def __repr__(self, **kwargs: Any) -> str:
        return f"<{type(self).__name__}>"


class UninitializedParameter(_Uninitialized, Parameter):
    """A parameter without a shape yet."""

    _becomes = Parameter

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(None, requires_grad)
        if dtype is not None:
            self._data = self._data.astype(dtype.numpy)


class UninitializedBuffer(_Uninitialized, Buffer):
    """A buffer without a shape yet."""

    _becomes = Buffer

    def __init__(
        self, requires_grad: bool = False, device: Any = None, dtype: Any = None, persistent: bool = True
    ) -> None:
        super().__init__(None, persistent=persistent)
        if dtype is not None:
            self._data = self._data.astype(dtype.numpy)


def is_lazy(param: Any) -> bool:
    """Whether a parameter or buffer has no shape yet."""
    return isinstance(param, _Uninitialized)


__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter"]
