"""Names of nodes as ``grad_fn`` prints them: PyTorch's where it has the operator."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from ...runtime import backward

_NAMES = {
    "amax": "Amax", "amin": "Amin", "avg_pool": "AvgPool2D", "batch_norm": "NativeBatchNorm",
    "batch_norm_train": "NativeBatchNorm", "cast": "ToCopy", "concat": "Cat", "conv": "Convolution",
    "conv_transpose": "Convolution", "conv_weight_grad": "Convolution", "identity": "Clone", "layer_norm":
    "NativeLayerNorm", "matmul": "Mm", "max_pool": "MaxPool2DWithIndices", "pad": "ConstantPadNd", "reshape": "View",
    "where": "Where",
}  # fmt: skip
_BY_AXES = {"sum", "mean", "prod"}


def name_of(op: str, attrs: dict[str, Any]) -> str:
    """``MulBackward0`` for ``mul``."""
    word = _NAMES.get(op) or "".join(part.capitalize() for part in op.split("_"))
    return f"{word}Backward{int(op in _BY_AXES and bool(attrs.get('keepdims')))}"


def named(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a function that is one operator to its user but several in the IR: the last of its nodes is
    called ``name``."""

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(fn)
        def inner(*args: Any, **kwargs: Any) -> Any:
            before = backward.now()
            out = fn(*args, **kwargs)
            rename(out, name, before)
            return out

        return inner

    return decorate


def rename(t: Any, name: str, since: int = 0) -> None:
    """Call the node that made ``t`` ``name`` if it was recorded after ``since``."""
    node = getattr(t, "_grad_fn", None)
    if node is not None and node.sequence > since:
        node.name = name


def called(t: Any, name: str) -> Any:
    """``t``, whose node (made just now) is called ``name``."""
    rename(t, name)
    return t
