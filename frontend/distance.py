"""Norms and distances. Where a norm is 0 its gradient is 0, as in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.dtypes import DType, float32
from ..ir.errors import UnsupportedError
from . import dispatch, elementwise, linalg, promotion, shaping
from .elementwise import mul, sub, where
from .reduce import INFINITY, Dims, any_empty, axes_of, reduce
from .size import is_int
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor

_MANY_ROWS = 25  # from here on PyTorch computes Euclidean distances by a matrix product


def root(x: Tensor) -> Tensor:
    """Square root of non-negative numbers, with gradient 0 at 0."""
    zero = elementwise.eq(x, 0)
    return where(zero, 0.0, elementwise.sqrt(where(zero, 1.0, x)))


def vector_norm(
    x: Tensor, ord: Any = 2, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """(sum of |x| ** ord) ** (1 / ord) over axes (all by default); ``ord`` may be inf, -inf and 0 (the number of
    elements that are not 0)."""
    dispatch.require_tensor(x, "linalg.vector_norm")
    x = x if dtype is None else dispatch.cast(x, dtype)
    if not x.dtype.is_floating_point:
        raise RuntimeError("linalg.vector_norm: Expected a floating point or complex tensor as input. Got "
                           f"{dispatch.type_word(x.dtype)}")  # fmt: skip
    ord = float(ord)
    if ord < 0 or ord == INFINITY:
        _require_elements(x, ord, dim)
    axes = axes_of(dim, x.dim())
    if ord in (INFINITY, -INFINITY):
        return reduce("amax" if ord > 0 else "amin", elementwise.abs(x), axes or (), keepdim)
    if x.dtype.bits == 16:  # powers leave the range of 16-bit floats where the norm does not
        return dispatch.cast(_finite_norm(dispatch.cast(x, float32), ord, axes, keepdim), x.dtype)
    return _finite_norm(x, ord, axes, keepdim)


def _finite_norm(x: Tensor, ord: float, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    if ord == 0:
        return _sum(where(elementwise.ne(x, 0), 1.0, mul(x, 0)), axes, keepdim)
    if ord == 2:
        return root(_sum(mul(x, x), axes, keepdim))
    size = elementwise.abs(x)
    if ord == 1:
        return _sum(size, axes, keepdim)
    if ord < 1:  # the slope at 0 is infinite
        zero = elementwise.eq(x, 0)
        size = where(zero, 0.0 if ord > 0 else INFINITY, elementwise.pow(where(zero, 1.0, size), ord))
    else:
        size = elementwise.pow(size, ord)
    total = _sum(size, axes, keepdim)
    if ord < 0:
        return elementwise.pow(total, 1 / ord)
    zero = elementwise.eq(total, 0)
    return where(zero, 0.0, elementwise.pow(where(zero, 1.0, total), 1 / ord))


def _sum(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    return dispatch.apply("sum", x, axes=axes, keepdims=keepdim)


def _require_elements(x: Tensor, ord: float, dim: Dims) -> None:
    """RuntimeError with PyTorch's words if there is an axis without elements, or no element at all."""
    given = [] if dim is None else [dim] if is_int(dim) else list(dim)  # type: ignore[arg-type]
    for d in given:
        if any_empty(x, axes_of(d, x.dim())):
            raise RuntimeError(f"linalg.vector_norm cannot compute the {ord:g} norm on the dimension {d}because this "
                               "dimension is empty and the operation does not have an identity")  # fmt: skip
    if not given and 0 in x._extents:
        raise RuntimeError(f"linalg.vector_norm cannot compute the {ord:g} norm on an empty tensor because the "
                           "operation does not have an identity")  # fmt: skip


@named("LinalgVectorNormBackward0")
def dist(input: Tensor, other: Tensor, p: Any = 2) -> Tensor:
    """p-norm of input - other, over everything."""
    difference = sub(input, other)
    promotion.require_float(difference, "norm")
    return vector_norm(difference, p)


@named("CdistBackward0")
def cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
) -> Tensor:
    """p-norm distances of every row of x1 [..., P, M] to every row of x2 [..., R, M]: [..., P, R]."""
    for x, word in ((x1, "X1"), (x2, "X2")):
        if x.dim() < 2:
            raise RuntimeError(f"cdist only supports at least 2D tensors, {word} got: {x.dim()}D")
        if not x.dtype.is_floating_point:
            raise RuntimeError(f"cdist only supports floating-point dtypes, {word} got: {dispatch.type_word(x.dtype)}")
    columns = [x._extents[-1] for x in (x1, x2)]
    if columns[0] != columns[1]:
        raise RuntimeError(f"X1 and X2 must have the same number of columns. X1: {columns[0]} X2: {columns[1]}")
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")
    if compute_mode not in _MODES:
        raise ValueError(f"{compute_mode} is not a valid value for compute_mode")
    dtype = promotion.result_type(x1, x2)
    x1, x2 = dispatch.cast(x1, dtype), dispatch.cast(x2, dtype)
    if p == 2 and _by_product(x1, x2, compute_mode):
        squares = [_sum(mul(x, x), (x.dim() - 1,), True) for x in (x1, x2)]
        product = linalg.matmul(x1, shaping.transpose(x2, -1, -2))
        total = sub(elementwise.add(squares[0], shaping.transpose(squares[1], -1, -2)), mul(product, 2))
        return root(elementwise.clamp(total, min=0))
    difference = sub(shaping.unsqueeze(x1, -2), shaping.unsqueeze(x2, -3))
    if columns[0] == 0:
        return _sum(difference, (difference.dim() - 1,), False)
    return vector_norm(difference, p, -1)


_MODES = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")


def _by_product(x1: Tensor, x2: Tensor, compute_mode: str) -> bool:
    if compute_mode == _MODES[0]:
        rows = [x._extents[-2] for x in (x1, x2)]
        return not all(isinstance(r, int) and r <= _MANY_ROWS for r in rows)
    return compute_mode == _MODES[1]


@named("PdistBackward0")
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """p-norm distances of all pairs of rows i < j, row by row: [N * (N - 1) / 2] from [N, M]."""
    if input.dim() != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {input.dim()}D")
    if not input.dtype.is_floating_point:
        raise RuntimeError("pdist only supports floating-point dtypes")
    if p < 0:
        raise RuntimeError("pdist only supports non-negative p values")
    count = input._extents[0]
    if not isinstance(count, int):
        raise UnsupportedError(f"pdist of {count} rows: the number of rows must be known when tracing")
    i, j = (dispatch.from_array(k.astype(np.int64)) for k in np.triu_indices(count, 1))
    pairs = [dispatch.apply("index_select", input, k, axis=0) for k in (i, j)]
    difference = sub(*pairs)
    return _sum(difference, (1,), False) if input._extents[1] == 0 else vector_norm(difference, p, 1)


def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """The slices along ``dim`` scaled down to p-norm ``maxnorm`` where theirs is larger."""
    if p <= 0:
        raise RuntimeError("renorm: non-positive-norm not supported")
    if maxnorm < 0:
        raise RuntimeError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm:g}")
    if input.dim() < 2:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {input.dim()} dimensions")
    axis = shaping.axis_of(dim, input.dim())
    size = vector_norm(input, p, [a for a in range(input.dim()) if a != axis], True)
    scale = mul(elementwise.reciprocal(elementwise.add(size, 1e-7)), maxnorm)
    return mul(input, where(elementwise.gt(size, maxnorm), scale, 1.0))


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = ("cdist", "dist", "pdist", "renorm")
METHODS = ("dist", "renorm")
IN_PLACE = ("renorm",)
