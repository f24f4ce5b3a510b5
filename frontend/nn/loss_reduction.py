"""What all losses share: ``reduction`` and the arguments that came before it, checks of sizes."""

from __future__ import annotations

import warnings
from typing import Any

from .. import reduce, shaping
from ..tensor import Tensor


def reduction_of(size_average: Any, reduce_: Any, reduction: str) -> str:
    """``reduction``, unless the legacy arguments are given; ValueError for unknown words."""
    if size_average is not None or reduce_ is not None:
        reduction = "none" if reduce_ is False else "sum" if size_average is False else "mean"
        warnings.warn(f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.",
                      stacklevel=3)  # fmt: skip
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """All elements, their mean or their sum."""
    return loss if reduction == "none" else reduce.mean(loss) if reduction == "mean" else reduce.sum(loss)


def broadcast_pair(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common shape, with PyTorch's warning if that is not the shape of both."""
    if input._extents != target._extents:
        warnings.warn(f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
                      "This will likely lead to incorrect results due to broadcasting. Please ensure they have the "
                      "same size.", stacklevel=3)  # fmt: skip
        rank = max(input.dim(), target.dim())
        pairs = [[1] * (rank - t.dim()) + list(t.shape) for t in (input, target)]
        shape = [b if a == 1 else a for a, b in zip(*pairs, strict=True)]
        input, target = shaping.expand(input, *shape), shaping.expand(target, *shape)
    return input, target


def require_same_size(input: Tensor, weight: Tensor) -> None:
    """ValueError unless a weight per element has the input's shape."""
    if weight._extents != input._extents:
        raise ValueError("Weights and input must have the same size.")
