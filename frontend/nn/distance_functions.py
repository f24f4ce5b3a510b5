"""Distances and similarities; ``nn.functional`` exports them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import dispatch, promotion, reduce, shaping
from ..elementwise import where
from ..tape.names import named
from ..tensor import Tensor


def length(x: Tensor, p: float, dim: int, keepdim: bool = False) -> Tensor:
    """The p-norm along ``dim``; its gradient at zero is zero, as PyTorch's."""
    size = x.abs()
    if p == math.inf:
        return reduce.amax(size, dim, keepdim)
    if p == -math.inf:
        return reduce.amin(size, dim, keepdim)
    if p == 0:
        return reduce.sum(where(x == 0, x * 0, 1.0), dim, keepdim)
    if p == 1:
        return reduce.sum(size, dim, keepdim)
    if p != 2:
        # Powers of zero have infinite derivatives for p < 1.
        size = where(size == 0, 0.0, where(size == 0, 1.0, size) ** p)
    total = reduce.sum(x * x if p == 2 else size, dim, keepdim)
    zero = total == 0
    safe = where(zero, 1.0, total)
    return where(zero, 0.0, safe.sqrt() if p == 2 else safe ** (1.0 / p))


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
    a, b = (x / length(x, 2, axis, True).clamp(min=eps) for x in (x1, x2))
    return reduce.sum(a * b, axis)


@named("LinalgVectorNormBackward0")
def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last axis; the shapes broadcast."""
    return length(x1 - x2 + eps, p, -1, keepdim)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """p-norm distances of all pairs i < j of the rows of [N, M]: [N (N - 1) / 2]."""
    if input.dim() != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {input.dim()}D")
    if p < 0:
        raise RuntimeError("pdist only supports non-negative p values")
    rows = input._extents[0]
    if not isinstance(rows, int):
        raise RuntimeError("pdist needs a known number of rows")
    left, right = (dispatch.from_array(i.astype(np.int64)) for i in np.triu_indices(rows, 1))
    pick: Any = lambda i: dispatch.apply("index_select", input, i, axis=0)  # noqa: E731
    return length(pick(left) - pick(right), p, 1)


__all__ = ["cosine_similarity", "pairwise_distance", "pdist"]
