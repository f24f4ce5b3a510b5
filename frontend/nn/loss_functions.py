"""Losses of class scores; ``nn.functional`` exports them."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ShapeError
from .. import dispatch, elementwise, reduce, shaping
from ..linalg import linear
from ..size import wrap
from ..tape.names import rename
from ..tensor import Tensor
from .activation_functions import log_softmax
from .loss_reduction import reduced, reduction_of

_sum = reduce.sum  # the public functions have PyTorch's legacy argument ``reduce``


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
    out = elementwise.div(reduce.sum(loss), reduce.sum(factor)) if reduction == "mean" else reduced(loss, reduction)
    rename(out, "NllLossBackward0" if logp.dim() == 2 else "NllLoss2DBackward0")
    return out


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
    return reduced(per_sample, reduction)


def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, linear_bias: Tensor | None = None,
    weight: Tensor | None = None, reduction: str = "mean", ignore_index: int | None = None,
    label_smoothing: float = 0.0, options: Any = None,
) -> Tensor:  # fmt: skip
    """``cross_entropy`` of the scores linear(input, linear_weight, linear_bias).

    Input [in] or [N, in]; linear_weight [C, in], or [C, d..., in] for targets [N, d...]; linear_bias [C, d...].
    ``options`` are PyTorch's about memory; they change no result and are not needed here.
    """
    if input.dim() not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.dim()}")
    if linear_weight.dim() < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {linear_weight.dim()}")
    if input._extents[-1] != linear_weight._extents[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), got "
            f"{input.shape[-1]} and {linear_weight.shape[-1]}, respectively"
        )
    classes = linear_weight._extents[:-1]
    if linear_bias is not None and linear_bias._extents != classes:
        raise RuntimeError(f"expected linear_bias shape {classes}, got {tuple(linear_bias.shape)}")
    if len(classes) > 1 and input.dim() == 1:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {tuple(linear_weight.shape)} requires batched input, "
            f"(N, {input.shape[-1]}), got unbatched input with shape {tuple(input.shape)}"
        )
    shape = (*input._extents[:-1], *classes)
    if target._extents == shape and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    rows = shaping.reshape(linear_weight, -1, linear_weight._extents[-1])
    bias = None if linear_bias is None else shaping.reshape(linear_bias, -1)
    scores = shaping.reshape(linear(input, rows, bias), *shape)
    return cross_entropy(
        scores, target, weight, ignore_index=-100 if ignore_index is None else ignore_index, reduction=reduction,
        label_smoothing=label_smoothing,
    )  # fmt: skip


__all__ = ["cross_entropy", "linear_cross_entropy", "nll_loss"]
