"""Variance, covariance, histograms and counts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims, dtypes
from . import creation, dispatch, elementwise, linalg, promotion, return_types, shaping
from .distance import root
from .elementwise import div, mul, sub
from .keywords import numpy_names
from .ordering import searchsorted
from .reduce import axes_of, reduce, require_kernel, sum
from .size import wrap
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor


# -- variance -----------------------------------------------------------------------------------------
def _variance(
    name: str, input: Tensor, dim: Any, unbiased: bool | None, keepdim: bool, correction: float | None
) -> tuple[Tensor, Tensor]:
    """(variance, mean) over ``dim``."""
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    if not input.dtype.is_floating_point:
        which = f"{name} only support" if "_" in name else "std and var only support"
        raise RuntimeError(f"{which} floating point and complex dtypes")
    if correction is None:
        correction = 0 if unbiased is False else 1
    axes = axes_of(dim, input.dim())
    centre = reduce("mean", input, axes or (), True)
    centred = sub(input, centre)
    total = dispatch.apply("sum", mul(centred, centred), axes=axes, keepdims=keepdim)
    count = wrap(dims.product(input._extents[a] for a in axes)) - correction
    if isinstance(count, (int, float)) and count <= 0:
        if 0 not in total._extents:
            warnings.warn(f"{name}(): degrees of freedom is <= 0. Correction should be strictly less than the "
                          "reduction factor (input numel divided by output numel).", stacklevel=5)  # fmt: skip
        count = 0
    out = div(total, promotion.operand(count, total.dtype))
    return out, (centre if keepdim else shaping.reshape(centre, *out._extents))


@numpy_names
@named("VarBackward0")
def var(
    input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> Tensor:  # fmt: skip
    """Variance over axes with divisor n - correction (1 unless ``unbiased=False``)."""
    return _variance("var", input, dim, unbiased, keepdim, correction)[0]


@numpy_names
@named("StdBackward0")
def std(
    input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> Tensor:  # fmt: skip
    """Square root of ``var``; its gradient is 0 where it is 0."""
    return root(_variance("std", input, dim, unbiased, keepdim, correction)[0])


@numpy_names
def var_mean(
    input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(``var``, mean)."""
    return _variance("var_mean", input, dim, unbiased, keepdim, correction)


@numpy_names
def std_mean(
    input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(``std``, mean)."""
    variance, centre = _variance("std_mean", input, dim, unbiased, keepdim, correction)
    return root(variance), centre


# -- covariance ---------------------------------------------------------------------------------------
def _check_weights(word: str, weights: Tensor, observations: Any, kind: str, fits: bool) -> None:
    if weights.dim() > 1:
        raise RuntimeError(f"cov(): expected {word} to have one or fewer dimensions but got {word} with "
                           f"{weights.dim()} dimensions")  # fmt: skip
    if not fits:
        raise RuntimeError(f"cov(): expected {word} to have {kind} dtype but got {word} with "
                           f"{dispatch.type_word(weights.dtype)} dtype")  # fmt: skip
    if weights.numel() != observations:
        raise RuntimeError(f"cov(): expected {word} to have the same numel as there are observations in the input but "
                           f"got {weights.numel()} != {observations}")  # fmt: skip
    if weights._value is None and (weights._data < 0).any():
        raise RuntimeError(f"cov(): {word} cannot be negative")


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """Covariance matrix of variables (rows) over observations (columns); ``fweights`` counts observations, ``aweights``
    weighs them."""
    if input.dim() > 2:
        raise RuntimeError("cov(): expected input to have two or fewer dimensions but got an input with "
                           f"{input.dim()} dimensions")  # fmt: skip
    if input.dtype is dtypes.bool_:
        raise RuntimeError("cov(): bool dtype is not supported for input")
    x = shaping.reshape(input, 1, -1) if input.dim() < 2 else input
    count = wrap(x._extents[1])
    weights = None
    if fweights is not None:
        _check_weights("fweights", fweights, count, "integral", fweights.dtype.is_integer)
        weights = fweights
    if aweights is not None:
        _check_weights("aweights", aweights, count, "floating point", aweights.dtype.is_floating_point)
        weights = aweights if weights is None else mul(weights, aweights)
    if weights is not None:
        weights = shaping.reshape(weights, -1)
    x = promotion.as_float(x)
    if weights is None:
        centre = div(sum(x, 1, True), count)
        divisor: Any = sub(promotion.operand(count, x.dtype), correction)
    else:
        total = sum(weights)
        centre = div(sum(mul(x, weights), 1, True), total)
        if correction == 0:
            divisor = total
        elif aweights is None:
            divisor = sub(total, correction)
        else:
            divisor = sub(total, div(mul(sum(mul(weights, aweights)), correction), total))
    centred = sub(x, centre)
    weighted = centred if weights is None else mul(centred, weights)
    dtype = promotion.result_type(centred, weighted)
    product = linalg.matmul(dispatch.cast(weighted, dtype), dispatch.cast(shaping.t(centred), dtype))
    return shaping.squeeze(div(product, elementwise.clamp(divisor, min=0)))


def corrcoef(input: Tensor) -> Tensor:
    """Pearson's correlation coefficients of variables (rows) over observations (columns)."""
    if input.dim() > 2:
        raise RuntimeError("corrcoef(): expected input to have two or fewer dimensions but got an input with "
                           f"{input.dim()} dimensions")  # fmt: skip
    c = cov(input)
    if c.dim() == 0:
        return div(c, c)
    count = c._extents[0]
    diagonal = shaping.slice_axis(shaping.reshape(c, -1), 0, 0, count * count, count + 1)  # type: ignore[arg-type]
    deviation = elementwise.sqrt(diagonal)
    scaled = div(div(c, shaping.unsqueeze(deviation, 1)), shaping.unsqueeze(deviation, 0))
    return elementwise.clamp(scaled, -1, 1)


# -- counts and histograms ----------------------------------------------------------------------------
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, .. occurs in a 1-d integer tensor (int64), or the sum of its weights."""
    require_kernel("bincount_cpu", input, "fb")
    data = input._concrete("bincount()", "histc, whose number of bins is given")
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    if data.ndim != 1 or (data.size and data.min() < 0):
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is None:
        return dispatch.mark_local(np.bincount(data.astype(np.int64), minlength=minlength).astype(np.int64))
    if weights._extents != input._extents:
        raise RuntimeError("weights should be 1-d and have the same length as input")
    out = np.bincount(data.astype(np.int64), weights._concrete("bincount()").astype(np.float64), minlength)
    return dispatch.mark_local(out.astype(np.float32 if weights.dtype is dtypes.float32 else np.float64))


def _range_of(
    name: str, x: Tensor, given: tuple[float, float] | None, margin: float, dimension: int = 0
) -> tuple[float, float]:
    """``given``, else the range of the elements; an empty one is widened by ``margin`` on both sides."""
    low, high = given or (0.0, 1.0)
    if given is None and x.numel():
        data = x._concrete(f"{name} without a range", "min= and max= (histc), or range=")
        low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RuntimeError(f"{name}: range of [{low:g}, {high:g}] is not finite")
    if low > high:
        rule = "max must be larger than min" if name == "torch.histc" else (
            f"min should not exceed max, but got min {low:g} max {high:g} for dimension {dimension}")  # fmt: skip
        raise RuntimeError(f"{name}: {rule}")
    return (low - margin, high + margin) if low == high else (low, high)


def _counts(places: Tensor, inside: Tensor, bins: int, weight: Tensor) -> Tensor:
    """The sum of ``weight`` per place (all 1-d) where ``inside``."""
    zeros = dispatch.apply("expand", dispatch.scalar(0, weight.dtype), shape=(bins,))
    where = elementwise.clamp(elementwise.where(inside, places, 0), 0, bins - 1)
    return dispatch.apply("scatter_add", zeros, where, elementwise.where(inside, weight, 0), axis=0)


def _ones(x: Tensor) -> Tensor:
    return dispatch.apply("expand", dispatch.scalar(1, x.dtype), shape=x._extents)


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements lie in each of ``bins`` equal parts of [min, max] (if equal: of the range of the elements)."""
    require_kernel("histogram_cpu", input, "iub")
    if bins <= 0:
        raise RuntimeError(f"torch.histogram(): bins must be > 0, but got {bins} for dimension 0")
    x = shaping.reshape(input.detach(), -1)
    low, high = _range_of("torch.histc", x, None if min == max else (min, max), 1.0)
    inside = elementwise.logical_and(elementwise.ge(x, low), elementwise.le(x, high))
    scaled = div(mul(sub(elementwise.where(inside, x, low), low), bins), high - low)
    places = elementwise.clamp(dispatch.cast(scaled, dtypes.int64), max=bins - 1)
    return _counts(places, inside, bins, _ones(x))


def _edges(x: Tensor, bins: Any, low: float, high: float) -> Tensor:
    if dispatch.is_tensor(bins):
        return bins
    if bins <= 0:
        raise RuntimeError(f"torch.histogram(): bins must be > 0, but got {bins} for dimension 0")
    return creation.linspace(low, high, bins + 1, dtype=x.dtype)


def _bin(x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """(bin of each element, whether it is in any): the last bin holds its upper edge."""
    count = wrap(edges._extents[0]) - 1
    low, high = (shaping.slice_axis(edges, 0, k, k + 1) for k in (0, edges._extents[0] - 1))
    inside = elementwise.logical_and(elementwise.ge(x, low), elementwise.le(x, high))
    return elementwise.clamp(sub(searchsorted(edges, x, right=True), 1), max=count - 1), inside


def _weights(x: Tensor, weight: Tensor | None, shape: Sequence[Any]) -> Tensor:
    if weight is None:
        return _ones(x)
    if weight._extents != tuple(shape):
        raise RuntimeError("torch.histogramdd: if weight tensor is provided it should have the same shape as the "
                           "input tensor excluding its innermost dimension, but got input with shape "
                           f"{list(shape)} and weight with shape {list(weight.shape)}")  # fmt: skip
    return dispatch.cast(shaping.reshape(weight, -1), x.dtype)


def histogram(
    input: Tensor, bins: Any = 100, *, range: Any = None, weight: Tensor | None = None, density: bool = False
) -> Any:
    """(hist, bin_edges): the (weighted) number of elements between edges: ``bins`` equal parts of ``range`` (of the
    elements), or the given edges. ``density``: divided so that the integral is 1."""
    require_kernel("histogramdd", input, "iub")
    x = shaping.reshape(input.detach(), -1)
    hist, edges = _histogram(shaping.unsqueeze(x, 1), [bins], range, _weights(x, weight, input._extents), density)
    return return_types.histogram(hist, edges[0])


def histogramdd(
    input: Tensor, bins: Any, range: Any = None, weight: Tensor | None = None, density: bool = False
) -> Any:
    """(hist, bin_edges) of points [..., D] in D dimensions; ``bins``: a number, D numbers, or D tensors of edges."""
    require_kernel("histogramdd", input, "iub")
    if input.dim() < 2:
        raise RuntimeError("torch.histogramdd: input tensor should have at least 2 dimensions")
    count = int(wrap(input._extents[-1]))
    each = list(bins) if isinstance(bins, (tuple, list)) else [bins] * count
    if len(each) != count:
        raise RuntimeError("histogramdd: The size of bins must be equal to the innermost dimension of the input.")
    points = shaping.reshape(input.detach(), -1, count)
    column = shaping.reshape(shaping.slice_axis(points, 1, 0, 1), -1)
    weights = _weights(column, weight, input._extents[:-1])
    hist, edges = _histogram(points, each, range, weights, density)
    return return_types.histogramdd(hist, tuple(edges))


def _histogram(
    points: Tensor, bins: Sequence[Any], range: Any, weight: Tensor, density: bool
) -> tuple[Tensor, list[Tensor]]:
    edges: list[Tensor] = []
    index: Any = None
    inside: Any = None
    for k, wanted in enumerate(bins):
        x = shaping.reshape(shaping.slice_axis(points, 1, k, k + 1), -1)
        given = None if range is None else (float(range[2 * k]), float(range[2 * k + 1]))
        low, high = (0.0, 0.0) if dispatch.is_tensor(wanted) else _range_of("torch.histogramdd", x, given, 0.5, k)
        edges.append(_edges(x, wanted, low, high))
        place, here = _bin(x, edges[-1])
        index = place if index is None else elementwise.add(mul(index, wrap(edges[-1]._extents[0]) - 1), place)
        inside = here if inside is None else elementwise.logical_and(inside, here)
    counts = [int(wrap(e._extents[0])) - 1 for e in edges]
    hist = shaping.reshape(_counts(index, inside, int(np.prod(counts)), weight), *counts)
    if density:
        hist = div(hist, sum(hist))
        for k, e in enumerate(edges):
            width = sub(shaping.slice_axis(e, 0, 1, counts[k] + 1), shaping.slice_axis(e, 0, 0, counts[k]))
            hist = div(hist, shaping.reshape(width, *(-1 if a == k else 1 for a, _ in enumerate(edges))))
    return hist, edges


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "bincount", "corrcoef", "cov", "histc", "histogram", "histogramdd", "std", "std_mean", "var", "var_mean",
)  # fmt: skip
METHODS = ("bincount", "corrcoef", "cov", "histc", "histogram", "std", "var")
IN_PLACE = ()
