"""Normalisation and embedding; ``nn.functional`` exports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import dims
from ...ir.errors import ShapeError
from .. import dispatch, elementwise, promotion, reduce, shaping
from ..padding import pad
from ..size import provably, wrap
from ..tape.names import named
from ..tensor import Tensor
from .pooling_functions import avg_pool2d


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: Any = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalises axis 1 of [N, C, ...] by batch statistics (training) or the running ones.

    In training the running tensors move by ``momentum`` (a number or 0-d tensor) towards the batch mean
    and the unbiased batch variance. ValueError for a single value per channel in training.
    """
    dispatch.require_tensor(input, "batch_norm")
    shape = input._extents
    if provably(lambda: wrap(dims.product(shape)) == 0):  # nothing to learn from: the running tensors stay
        first = [None if t is None else shaping.slice_axis(t, 0, 0, min(1, t.shape[0])) for t in (weight, bias)]
        out = input.clone() if first[0] is None else elementwise.mul(input, first[0])
        return out if first[1] is None else elementwise.add(out, first[1])
    if len(shape) < 2:
        raise ShapeError(f"batch_norm: expected at least 2 axes [N, C, ...], got input of size {list(input.shape)}")
    channels = shape[1]
    scale = weight if weight is not None else _constant(1, channels, input)
    shift = bias if bias is not None else _constant(0, channels, input)
    scale, shift = dispatch.cast(scale, input.dtype), dispatch.cast(shift, input.dtype)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
        mean, var = dispatch.cast(running_mean, input.dtype), dispatch.cast(running_var, input.dtype)
        return dispatch.apply("batch_norm", input, scale, shift, mean, var, eps=eps)
    count = wrap(dims.product((shape[0], *shape[2:])))
    if provably(lambda: count == 1):
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
    out, mean, var = dispatch.apply("batch_norm_train", input, scale, shift, eps=eps)
    if running_mean is not None:
        _move(running_mean, mean, momentum)
    if running_var is not None:
        if isinstance(count, int):
            unbiased = elementwise.mul(var, count / (count - 1))
        else:
            n = promotion.operand(count, var.dtype)
            unbiased = elementwise.mul(var, elementwise.div(n, elementwise.sub(n, 1)))
        _move(running_var, unbiased, momentum)
    return out


def _constant(value: int, channels: Any, like: Tensor) -> Tensor:
    return dispatch.apply("expand", dispatch.scalar(value, like.dtype), shape=(channels,))


def _move(running: Tensor, batch: Tensor, momentum: Any) -> None:
    kept = elementwise.mul(running, 1 - momentum if not isinstance(momentum, Tensor) else elementwise.sub(1, momentum))
    running._assign(elementwise.add(kept, elementwise.mul(dispatch.cast(batch, running.dtype), momentum)))


def _check_tail(input: Tensor, tail: tuple[Any, ...]) -> None:
    if not tail:
        raise RuntimeError("Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one "
                           "element, but got normalized_shape = []")  # fmt: skip
    if input.dim() < len(tail) or tuple(input._extents[input.dim() - len(tail) :]) != tail:
        raise ShapeError(f"Given normalized_shape={list(tail)}, expected input with shape [*, "
                         f"{', '.join(map(str, tail))}], but got input of size{list(input.shape)}")  # fmt: skip


@named("NativeLayerNormBackward0")
def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalises over the trailing axes, which must have ``normalized_shape``."""
    tail = tuple(normalized_shape)
    _check_tail(input, tail)
    if (weight is None) == (bias is None):
        operands = () if weight is None else (weight, bias)
        return dispatch.apply("layer_norm", input, *operands, ndim=len(tail), eps=eps)
    out = dispatch.apply("layer_norm", input, ndim=len(tail), eps=eps)
    return elementwise.mul(out, weight) if weight is not None else elementwise.add(out, bias)


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalises every sample and channel of [N, C, spatial...] by its own statistics, or by the running ones.

    With ``use_input_stats`` the running tensors move by ``momentum`` towards the batch's mean of means and of unbiased
    variances. ValueError for a single element per channel.
    """
    dispatch.require_tensor(input, "instance_norm")
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    lead, count = input._extents[:2], wrap(dims.product(input._extents[2:]))
    if provably(lambda: count == 1):
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {input.shape}")
    planes = shaping.reshape(input, *lead, -1)
    if running_mean is not None:
        _move(running_mean, reduce.mean(reduce.mean(planes, 2), 0), momentum)
    if running_var is not None:
        _move(running_var, reduce.mean(planes.var(2), 0), momentum)
    out = shaping.reshape(dispatch.apply("layer_norm", planes, ndim=1, eps=eps), *input._extents)
    return _affine(out, weight, bias)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x * weight + bias per channel (axis 1)."""
    column = (1, -1, *(1,) * (x.dim() - 2))
    if weight is not None:
        x = elementwise.mul(x, dispatch.cast(shaping.reshape(weight, *column), x.dtype))
    if bias is not None:
        x = elementwise.add(x, dispatch.cast(shaping.reshape(bias, *column), x.dtype))
    return x


@named("NativeGroupNormBackward0")
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalises groups of channels of [N, C, ...] by their own statistics.

    RuntimeError if the channels do not divide into ``num_groups``, ValueError for a single value per group.
    """
    dispatch.require_tensor(input, "group_norm")
    if input.dim() < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {input.dim()}")
    n, channels = input._extents[:2]
    if num_groups <= 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if wrap(channels) % num_groups != 0:
        raise RuntimeError("Expected number of channels in input to be divisible by num_groups, but got input of shape "
                           f"{list(input.shape)} and num_groups={num_groups}")  # fmt: skip
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t._extents != (channels,):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} of "
                f"shape {list(t.shape)} and input of shape {list(input.shape)}"
            )
    sizes = [wrap(n) * wrap(channels) // num_groups, num_groups, *input.shape[2:]]
    count = sizes[0]
    for size in sizes[2:]:
        count = count * size
    if provably(lambda: count == 1):
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {sizes}")
    rest = dims.product((channels // num_groups, *input._extents[2:]))
    if provably(lambda: wrap(dims.product(input._extents)) == 0):
        return input.clone()
    groups = dispatch.apply("layer_norm", shaping.reshape(input, n, num_groups, rest), ndim=1, eps=eps)
    return _affine(shaping.reshape(groups, *input._extents), weight, bias)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / sqrt(mean(x * x) + eps) * weight over the trailing axes ``normalized_shape``; ``eps`` defaults to the
    dtype's."""
    tail = tuple(normalized_shape)
    _check_tail(input, tail)
    wide = dispatch.cast(input, input.dtype.accumulator)
    if eps is None:
        eps = float(np.finfo(wide.dtype.numpy).eps)
    axes = tuple(range(input.dim() - len(tail), input.dim()))
    power = reduce.mean(elementwise.mul(wide, wide), axes, True)
    out = elementwise.mul(wide, elementwise.rsqrt(elementwise.add(power, eps)))
    if weight is not None:
        out = elementwise.mul(out, dispatch.cast(weight, wide.dtype))
    return dispatch.cast(out, input.dtype)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x / (k + alpha * mean of x * x over ``size`` neighbouring channels) ** beta for [N, C, spatial...]."""
    rank = input.dim()
    if rank < 3:
        raise ValueError(f"Expected 3D or higher dimensionality                          input (got {rank} dimensions)")
    if provably(lambda: wrap(dims.product(input._extents)) == 0):
        return input
    n, channels = input._extents[:2]
    planes = shaping.reshape(elementwise.mul(input, input), n, 1, channels, dims.product(input._extents[2:]))
    padded = pad(planes, (0, 0, size // 2, (size - 1) // 2))
    mean = shaping.reshape(avg_pool2d(padded, (size, 1), stride=1), *input._extents)
    return elementwise.div(input, elementwise.pow(elementwise.add(elementwise.mul(mean, alpha), k), beta))


def normalize(
    input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """x / max(p-norm along ``dim``, eps)."""
    length = elementwise.clamp(input.norm(p, dim, keepdim=True), min=eps)
    result = elementwise.div(input, length)
    return result if out is None else dispatch.write(out, result, "normalize")


__all__ = [
    "batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "normalize",
    "rms_norm",
]  # fmt: skip
