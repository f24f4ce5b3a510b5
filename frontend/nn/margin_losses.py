"""Losses that want a margin between scores or distances; ``nn.functional`` exports them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.dims import Extent
from ...ir.dtypes import int64
from .. import creation, dispatch, elementwise, reduce, shaping
from ..elementwise import where
from ..size import wrap
from ..tape.names import named
from ..tensor import Tensor
from .activation_functions import logsigmoid
from .distance_functions import pairwise_distance
from .loss_reduction import reduced, reduction_of

_sum, _amin = reduce.sum, reduce.amin  # the public functions have PyTorch's legacy argument ``reduce``
_COSINE_EPSILON = 1e-12


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, margin - target (input1 - input2)) for targets 1 (the first is to be larger) and -1."""
    reduction = reduction_of(size_average, reduce, reduction)
    if not input1.dim() == input2.dim() == target.dim():
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()} "
        )
    return reduced(elementwise.clamp(-target * (input1 - input2) + margin, min=0), reduction)


def _iota(extent: Extent) -> Tensor:
    return creation.arange(wrap(extent))


@named("MultiMarginLossBackward0")
def multi_margin_loss(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
    size_average: Any = None, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Sum over the other classes j of max(0, margin - x[target] + x[j])^p, divided by their number C.

    Input [N, C] or [C]; target [N] or []; ``weight`` [C] scales by the target's class.
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    if input.dim() > 2 or target.dim() > 1 or (input.dim() == 2 and target._extents != input._extents[:1]):
        raise RuntimeError(f"inconsistent target size, expected {list(input.shape[:1])} but got {list(target.shape)}")
    single = input.dim() < 2
    x = shaping.reshape(input, 1, -1) if single else input
    column = shaping.reshape(target, -1, 1)
    wanted = dispatch.apply("gather", x, column, axis=1)
    loss = elementwise.clamp(margin - wanted + x, min=0)
    if p == 2:
        loss = loss * loss
    if weight is not None:
        factor = dispatch.apply("index_select", weight, shaping.reshape(target, -1), axis=0)
        loss = loss * shaping.unsqueeze(factor, 1)
    loss = _sum(where(_iota(x._extents[1]) == column, 0.0, loss), 1) / x.shape[1]
    return reduced(shaping.reshape(loss, *target._extents) if single else loss, reduction)


@named("MultilabelMarginLossBackward0")
def multilabel_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """Sum over target classes j and other classes i of max(0, 1 - (x[j] - x[i])), divided by C.

    Input and target [N, C] or [C]; a row of targets lists classes and ends at its first -1.
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if input._extents != target._extents or input.dim() > 2:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}")
    single = input.dim() < 2
    x, labels = (shaping.reshape(t, 1, -1) if single else t for t in (input, target))
    classes = _iota(x._extents[1])
    first = _amin(where(labels < 0, classes, x.shape[1]), 1, True)
    listed = classes < first
    index = where(listed, labels, 0)
    is_target = elementwise.logical_and(shaping.unsqueeze(index, 2) == classes, shaping.unsqueeze(listed, 2))
    other = elementwise.logical_not(is_target.any(1, keepdim=True))
    wanted = dispatch.apply("gather", x, dispatch.cast(index, int64), axis=1)
    gap = elementwise.clamp(1 - shaping.unsqueeze(wanted, 2) + shaping.unsqueeze(x, 1), min=0)
    counted = elementwise.logical_and(shaping.unsqueeze(listed, 2), other)
    loss = _sum(where(counted, gap, 0.0), (1, 2)) / x.shape[1]
    return reduced(shaping.reshape(loss) if single else loss, reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Mean over the classes (the last axis) of the binary cross entropy on logits."""
    reduction = reduction_of(size_average, reduce, reduction)
    loss = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    if weight is not None:
        loss = loss * weight
    return reduced(_sum(loss, input.dim() - 1) / input.shape[-1], reduction)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """1 - cos(input1, input2) where the target is 1, max(0, cos - margin) where it is -1.

    Inputs [N, D] with target [N], or [D] with a target of one element.
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if target.dim() not in (0, 1):
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    rank = target.dim() + 1
    if input1.dim() != rank or input2.dim() != rank:
        kind = "1D target tensor expects 2D input tensors" if rank == 2 else "0D target tensor expects 1D input tensors"
        raise RuntimeError(f"{kind}, but found inputs with sizes {list(input1.shape)} and {list(input2.shape)}.")
    lengths = (_sum(x * x, -1) + _COSINE_EPSILON for x in (input1, input2))
    a, b = lengths
    cosine = _sum(input1 * input2, -1) / (a * b).sqrt()
    near = where(target == 1, 1 - cosine, 0.0)
    far = where(target == -1, elementwise.clamp(cosine - margin, min=0), 0.0)
    return reduced(near + far, reduction)


def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2, eps: float = 1e-6,
    swap: bool = False, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(d(a, p) - d(a, n) + margin, 0) with p-norm distances; ``swap``: d(p, n) if that is smaller than d(a, n)."""
    reduction = reduction_of(size_average, reduce, reduction)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return pairwise_distance(x, y, p, eps)

    return _triplet(anchor, positive, negative, distance, margin, swap, reduction)


def triplet_margin_with_distance_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None, margin: float = 1.0, swap: bool = False,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """``triplet_margin_loss`` with any function of two tensors as the distance (``pairwise_distance``)."""
    reduction = reduction_of(None, None, reduction)
    return _triplet(anchor, positive, negative, distance_function or pairwise_distance, margin, swap, reduction)


def _triplet(
    anchor: Tensor, positive: Tensor, negative: Tensor, distance: Callable[[Tensor, Tensor], Tensor], margin: float,
    swap: bool, reduction: str,
) -> Tensor:  # fmt: skip
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    ranks = [t.dim() for t in (anchor, positive, negative)]
    if len(set(ranks)) != 1:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: "
            f"anchor {ranks[0]}D, positive {ranks[1]}D, and negative {ranks[2]}D inputs"
        )
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = elementwise.minimum(far, distance(positive, negative))
    return reduced(elementwise.clamp(margin + near - far, min=0), reduction)


__all__ = [
    "cosine_embedding_loss", "margin_ranking_loss", "multi_margin_loss", "multilabel_margin_loss",
    "multilabel_soft_margin_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss",
]  # fmt: skip
