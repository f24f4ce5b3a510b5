"""``Variable``: the name that tensors with a history had in PyTorch before 0.4."""

from __future__ import annotations

from typing import Any

from .. import dispatch
from ..tensor import Tensor


class _VariableMeta(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor)

    def __call__(cls, data: Any = None, requires_grad: bool = False, volatile: bool = False) -> Tensor:
        if volatile:
            raise RuntimeError("volatile was removed (Variable.volatile is always False); please use torch.no_grad()")
        source = Tensor() if data is None else data
        if not dispatch.is_tensor(source):
            raise TypeError(f"Variable data has to be a tensor, but got {type(data).__name__}")
        return source.detach().requires_grad_(requires_grad)


class Variable(metaclass=_VariableMeta):
    """``Variable(tensor, requires_grad=False)`` is a Tensor on the same memory; every Tensor is an instance."""


__all__ = ["Variable"]
