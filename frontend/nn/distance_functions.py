"""Distances and similarities; ``nn.functional`` exports them."""

from __future__ import annotations

from .. import dispatch, promotion, reduce, shaping
from ..distance import pdist, vector_norm
from ..tape.names import named
from ..tensor import Tensor


@named("SumBackward1")
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / (|x1| |x2|) along ``dim``, each length at least ``eps``; the shapes broadcast."""
    dtype = promotion.result_type(x1, x2)
    if not dtype.is_floating_point:
        raise RuntimeError(f"expected common dtype to be floating point, yet common dtype is {dtype}")
    rank = max(x1.dim(), x2.dim())
    axis = shaping.axis_of(dim, rank) - rank  # counted from the end: right for both operands
    x1, x2 = (dispatch.cast(x, dtype) for x in (x1, x2))
    x1, x2 = (x.reshape(*([1] * (rank - x.dim())), *x.shape) for x in (x1, x2))
    extents = tuple(b if a == 1 else a for a, b in zip(x1._extents, x2._extents, strict=True))
    x1, x2 = (dispatch.apply("expand", x, shape=extents) for x in (x1, x2))
    a, b = (x / vector_norm(x, 2, axis, True).clamp(min=eps) for x in (x1, x2))
    return reduce.sum(a * b, axis)


@named("LinalgVectorNormBackward0")
def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last axis; the shapes broadcast."""
    return vector_norm(x1 - x2 + eps, p, -1, keepdim)


__all__ = ["cosine_similarity", "pairwise_distance", "pdist"]
