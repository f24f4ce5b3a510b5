"""Losses; ``nn.functional`` exports them."""

from __future__ import annotations

import warnings
from typing import Any

from ...ir.errors import ShapeError
from .. import dispatch, elementwise, reduce, shaping
from ..size import wrap
from ..tensor import Tensor
from .activation_functions import log_softmax

_sum = reduce.sum  # the public functions have PyTorch's legacy argument ``reduce``


def reduction_of(size_average: Any, reduce_: Any, reduction: str) -> str:
    """``reduction``, unless the legacy arguments are given; ValueError for unknown words."""
    if size_average is not None or reduce_ is not None:
        reduction = "none" if reduce_ is False else "sum" if size_average is False else "mean"
        warnings.warn(f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.",
                      stacklevel=3)  # fmt: skip
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else reduce.mean(loss) if reduction == "mean" else reduce.sum(loss)


def _compare_sizes(input: Tensor, target: Tensor) -> None:
    if input._extents != target._extents:
        warnings.warn(f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
                      "This will likely lead to incorrect results due to broadcasting. Please ensure they have the "
                      "same size.", stacklevel=3)  # fmt: skip


def mse_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(input - target)^2, optionally weighted per element."""
    _compare_sizes(input, target)
    difference = elementwise.sub(input, target)
    return _weighted(elementwise.mul(difference, difference), weight, reduction_of(size_average, reduce, reduction))


def l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """|input - target|, optionally weighted per element."""
    _compare_sizes(input, target)
    loss = elementwise.abs(elementwise.sub(input, target))
    return _weighted(loss, weight, reduction_of(size_average, reduce, reduction))


def _weighted(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is None:
        return _reduced(loss, reduction)
    loss = elementwise.mul(loss, weight)
    if reduction != "mean":
        return _reduced(loss, reduction)
    return elementwise.div(reduce.sum(loss), reduce.sum(shaping.expand(weight, *loss.shape)))


def _check_targets(target: Tensor, classes: Any, ignore_index: int) -> None:
    if target._value is None and isinstance(classes, int):
        bad = target._data[(target._data != ignore_index) & ((target._data < 0) | (target._data >= classes))]
        if bad.size:
            raise IndexError(f"Target {bad.flat[0]} is out of bounds.")


def _class_shapes(input: Tensor, target: Tensor) -> None:
    want = (*input._extents[:1], *input._extents[2:])
    if input._extents[0] != target._extents[0]:
        raise ShapeError(f"Expected input batch_size ({input._extents[0]}) to match target batch_size "
                         f"({target._extents[0]}).")  # fmt: skip
    if target._extents != want:
        raise ShapeError(f"Expected target size {list(want)}, got {list(target.shape)}")


def _negative_log_likelihood(
    logp: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float = 0.0
) -> Tensor:
    """For [N, C, d...] log-probabilities and [N, d...] class numbers, with label smoothing."""
    if not target.dtype.is_integer:
        raise RuntimeError(f"expected scalar type Long but found {dispatch.type_word(target.dtype)}")
    _class_shapes(logp, target)
    classes = wrap(logp._extents[1])
    _check_targets(target, classes, ignore_index)
    target = target.long()
    valid = elementwise.ne(target, ignore_index)
    index = elementwise.where(valid, target, 0)
    picked = dispatch.apply("gather", logp, shaping.unsqueeze(index, 1), axis=1)
    loss = elementwise.neg(shaping.reshape(picked, *target._extents))
    counted = dispatch.cast(valid, logp.dtype)
    if weight is None:
        factor = counted
    else:
        if weight._extents != (logp._extents[1],):
            raise ShapeError(
                "weight tensor should be defined either for all "
                f"{classes} classes or no classes but got weight tensor of shape: {list(weight.shape)}"
            )
        rows = dispatch.apply("index_select", dispatch.cast(weight, logp.dtype), shaping.reshape(index, -1), axis=0)
        factor = elementwise.mul(shaping.reshape(rows, *target._extents), counted)
    # where, not a product: an ignored infinite loss must not become NaN.
    loss = elementwise.where(valid, elementwise.mul(loss, factor), 0.0)
    if smoothing:
        spread = (
            logp if weight is None else elementwise.mul(logp, shaping.reshape(weight, -1, *([1] * (logp.dim() - 2))))
        )
        smooth = elementwise.where(valid, elementwise.neg(reduce.sum(spread, 1)), 0.0)
        loss = elementwise.add(elementwise.mul(loss, 1 - smoothing), elementwise.mul(smooth, smoothing / classes))
    if reduction != "mean":
        return _reduced(loss, reduction)
    return elementwise.div(reduce.sum(loss), reduce.sum(factor))


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Minus the log-probability of the target class; input [C], [N, C] or [N, C, d...], target without the C.

    ``weight`` [C] scales classes ("mean" divides by the sum of the samples' weights); ``ignore_index`` samples
    count nowhere. IndexError (eager) for a class number out of range.
    """
    reduction = reduction_of(size_average, reduce, reduction)
    single = input.dim() == 1
    if single:
        input, target = shaping.unsqueeze(input, 0), shaping.reshape(target, 1)
    loss = _negative_log_likelihood(input, target, weight, ignore_index, reduction)
    return shaping.reshape(loss) if single and reduction == "none" else loss


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """log_softmax over the classes, then the negative log-likelihood of ``target``.

    Input [C], [N, C] or [N, C, d...]; target holds class numbers (shape without C) or probabilities (input's shape).
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    single = input.dim() == 1
    probabilities = input._extents == target._extents
    if single:
        input = shaping.unsqueeze(input, 0)
        target = shaping.unsqueeze(target, 0) if probabilities else shaping.reshape(target, 1)
    logp = log_softmax(input, 1)
    if not probabilities:
        loss = _negative_log_likelihood(logp, target, weight, ignore_index, reduction, label_smoothing)
        return shaping.reshape(loss) if single and reduction == "none" else loss
    if not target.is_floating_point():
        raise RuntimeError("Expected floating point type for target with class probabilities, got "
                           f"{dispatch.type_word(target.dtype)}")  # fmt: skip
    if ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target")
    if label_smoothing:
        target = elementwise.add(
            elementwise.mul(target, 1 - label_smoothing), label_smoothing / wrap(input._extents[1])
        )
    loss = elementwise.mul(logp, target)
    if weight is not None:
        loss = elementwise.mul(loss, shaping.reshape(weight, -1, *([1] * (logp.dim() - 2))))
    per_sample = elementwise.neg(_sum(loss, 1))
    if single and reduction == "none":
        per_sample = shaping.reshape(per_sample)
    return _reduced(per_sample, reduction)


__all__ = ["cross_entropy", "l1_loss", "mse_loss", "nll_loss"]
