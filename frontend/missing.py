"""Methods of PyTorch's Tensor that Ingot lacks: while tracing they are noted with their place and the trace goes on.

Only methods whose result has their operand's shape can be passed over like this; the placeholder is the
operand itself, and it is never compiled, because a trace with notes ends in an UnsupportedError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import dispatch, tracing

if TYPE_CHECKING:
    from .tensor import Tensor

# A test keeps this current: what Tensor has now does not belong here.
SAME_SHAPE = frozenset((
    "angle", "dequantize", "lu_solve", "sparse_mask",
))  # fmt: skip


def method(tensor: Tensor, name: str) -> Callable[..., Any]:
    """The stand-in for a missing method of a traced tensor; AttributeError for any other attribute."""
    tracer = tracing.current()
    if tracer is None or name not in SAME_SHAPE or not tracer.owns(tensor):
        raise AttributeError(f"'{type(tensor).__name__}' object has no attribute '{name}'")

    def stand_in(*args: Any, **kwargs: Any) -> Tensor:
        operands = [tensor, *(a for a in args if dispatch.is_tensor(a))]
        tracer.unsupported(name, operands, "the operator does not exist", "composing it from supported operators")
        return tensor.clone()

    return stand_in
