"""Losses that compare element by element: distances, probabilities, likelihoods; ``nn.functional`` exports them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .. import dispatch, elementwise, reduce, shaping
from ..elementwise import where
from ..tape.names import named
from ..tensor import Tensor
from .activation_functions import softplus
from .loss_reduction import broadcast_pair, reduced, reduction_of, require_same_size

# From here on softplus would return its argument; the logarithm is exact for all numbers, so it never should.
_NEVER = 1e30
# BCE: logarithms are cut at -100, and continue with this slope at probability 0.
_LOWEST_LOG, _STEEPEST = -100.0, 1e12

_sum = reduce.sum  # the public functions have PyTorch's legacy argument ``reduce``


@named("MseLossBackward0")
def mse_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(input - target)^2, optionally weighted per element."""
    reduction = reduction_of(size_average, reduce, reduction)
    x, y = broadcast_pair(input, target)
    difference = x - y
    return _weighted(input, difference * difference, weight, reduction)


def l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """|input - target|, optionally weighted per element."""
    reduction = reduction_of(size_average, reduce, reduction)
    x, y = broadcast_pair(input, target)
    return _weighted(input, (x - y).abs(), weight, reduction)


def _weighted(input: Tensor, loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is None:
        return reduced(loss, reduction)
    require_same_size(input, weight)
    loss = loss * weight
    return _sum(loss) / _sum(weight) if reduction == "mean" else reduced(loss, reduction)


@named("SmoothL1LossBackward0")
def smooth_l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:  # fmt: skip
    """0.5 d^2 / beta where d = |input - target| is below ``beta``, else d - 0.5 beta."""
    reduction = reduction_of(size_average, reduce, reduction)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    x, y = broadcast_pair(input, target)
    d = (x - y).abs()
    return reduced(d if beta == 0 else where(d < beta, d * d * (0.5 / beta), d - 0.5 * beta), reduction)


@named("HuberLossBackward0")
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """0.5 d^2 where d = |input - target| is at most ``delta``, else delta (d - 0.5 delta)."""
    reduction = reduction_of(None, None, reduction)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    x, y = broadcast_pair(input, target)
    d = (x - y).abs()
    loss = where(d <= delta, d * d * 0.5, (d - 0.5 * delta) * delta)
    if weight is not None:
        require_same_size(input, weight)
        loss = loss * weight
    return reduced(loss, reduction)


def _cut_log(x: Tensor) -> Tensor:
    """max(log x, -100) for x >= 0, with a finite slope at 0."""
    zero = x <= 0
    return where(zero, x * _STEEPEST + _LOWEST_LOG, where(zero, 1.0, x).log().clamp(min=_LOWEST_LOG))


@named("BinaryCrossEntropyBackward0")
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """-(t log x + (1 - t) log(1 - x)) for probabilities x; logarithms are cut at -100.

    ``weight`` broadcasts to the target. RuntimeError (eager) for numbers outside [0, 1].
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if input._extents != target._extents:
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is "
            "deprecated. Please ensure they have the same size."
        )
    if input._value is None and not ((input._data >= 0) & (input._data <= 1)).all():
        raise RuntimeError("all elements of input should be between 0 and 1")
    loss = -(target * _cut_log(input) + (1 - target) * _cut_log(1 - input))
    return reduced(loss if weight is None else loss * weight, reduction)


@named("BinaryCrossEntropyWithLogitsBackward0")
def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean", pos_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """``binary_cross_entropy`` of sigmoid(input), computed stably; ``pos_weight`` scales the term of the target."""
    reduction = reduction_of(size_average, reduce, reduction)
    if input._extents != target._extents:
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    positive = target if pos_weight is None else target * pos_weight
    loss = positive * softplus(-input, threshold=_NEVER) + (1 - target) * softplus(input, threshold=_NEVER)
    return reduced(loss if weight is None else loss * weight, reduction)


def kl_div(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:  # fmt: skip
    """target (log target - input) for log-probabilities ``input``; ``log_target``: the target is in logs, too.

    "batchmean" divides the sum by the first extent: the mathematical divergence. "mean" divides by all elements, with
    PyTorch's warning.
    """
    if size_average is not None or reduce is not None:
        reduction = reduction_of(size_average, reduce, reduction)
    elif reduction == "mean":
        warnings.warn("reduction: 'mean' divides the total loss by both the batch size and the support size."
                      "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
                      "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
                      stacklevel=2)  # fmt: skip
    batchmean = reduction == "batchmean"
    reduction = reduction_of(None, None, "sum" if batchmean else reduction)
    if log_target:
        loss = target.exp() * (target - input)
    else:
        zero = target == 0  # 0 log 0 is 0, and so is its gradient
        loss = where(zero, 0.0, target * where(zero, 1.0, target).log()) - target * input
    out = reduced(loss, reduction)
    return out / input.shape[0] if batchmean and input.dim() else out


def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False, size_average: Any = None,
    eps: float = 1e-8, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """exp(input) - target input, or input - target log(input + eps) if the rate is not given in logs.

    ``full`` adds Stirling's approximation of log(target!) for targets above 1.
    """
    reduction = reduction_of(size_average, reduce, reduction)
    loss = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        big = target > 1
        t = where(big, target, 1.0)
        loss = loss + where(big, t * t.log() - t + 0.5 * (t * (2 * math.pi)).log(), 0.0)
    return reduced(loss, reduction)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """0.5 (log var + (input - target)^2 / var) with the variance at least ``eps`` (its gradient is not cut).

    ``var``: a number, or the input's shape, or that without its last axis, or with one extent 1. ``full`` adds the
    constant 0.5 log(2 pi).
    """
    if isinstance(var, Tensor):
        negative = var._value is None and bool(np.any(var._data < 0))
    else:
        negative = var < 0
        var = dispatch.apply("expand", dispatch.scalar(var, input.dtype), shape=input._extents)
    if negative:
        raise ValueError("var has negative entry/entries")
    assert isinstance(var, Tensor)
    sizes, own = input._extents, var._extents
    if own != sizes:
        if own == sizes[:-1]:
            var = shaping.unsqueeze(var, -1)
        elif len(own) != len(sizes) or [b for a, b in zip(sizes, own, strict=True) if a != b] != [1]:
            raise ValueError("var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction + " is not valid")
    fixed = var.detach()
    spread = var + (fixed.clamp(min=eps) - fixed)
    difference = input - target
    loss = 0.5 * (spread.log() + difference * difference / spread)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


@named("SoftMarginLossBackward0")
def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """log(1 + exp(-target input)) for targets 1 and -1."""
    reduction = reduction_of(size_average, reduce, reduction)
    return reduced(softplus(-target * input, threshold=_NEVER), reduction)


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """input where the target is 1, max(0, margin - input) where it is -1."""
    reduction = reduction_of(size_average, reduce, reduction)
    near = where(target != -1, input, 0.0)
    return reduced(near + where(target != 1, elementwise.clamp(margin - input, min=0), 0.0), reduction)


__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "gaussian_nll_loss", "hinge_embedding_loss",
    "huber_loss", "kl_div", "l1_loss", "mse_loss", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss",
]  # fmt: skip
