"""Objects that stand in for tensors."""

from __future__ import annotations

from typing import Any

from .tensor import Tensor


def is_tensor_like(inp: object) -> bool:
    """Whether ``inp`` is a Tensor or has PyTorch's protocol of overriding functions."""
    return isinstance(inp, Tensor) or hasattr(type(inp), "__torch_function__")


def has_torch_function(relevant_args: Any) -> bool:
    """False for tensors: functions are never handed over to a subclass."""
    return any(not isinstance(a, Tensor) and hasattr(type(a), "__torch_function__") for a in relevant_args)
