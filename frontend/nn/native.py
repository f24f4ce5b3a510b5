"""Functions of ``nn`` that PyTorch also has at the top of the package, some with other arguments there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import autocasting, elementwise, reduce, shaping
from ..padding import pad
from ..tensor import Tensor
from . import functional as F
from . import grid_functions

# The same function in both places.
_SHARED = (
    "alpha_dropout", "avg_pool1d", "adaptive_avg_pool1d", "celu", "celu_", "channel_shuffle", "conv1d", "conv2d",
    "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "feature_alpha_dropout", "group_norm",
    "hardshrink", "layer_norm", "log_softmax", "max_pool1d", "max_pool1d_with_indices", "max_pool2d", "max_pool3d",
    "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "prelu", "relu_", "rms_norm", "rrelu", "rrelu_",
    "selu", "selu_", "softmax", "threshold", "threshold_",
)  # fmt: skip
_METHODS = ("hardshrink", "prelu")


def adaptive_max_pool1d(input: Tensor, output_size: Any) -> tuple[Tensor, Tensor]:
    """Largest element of ``output_size`` windows along [N, C, L] or [C, L], and its index."""
    return F.adaptive_max_pool1d(input, output_size, True)


def batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, training: bool, momentum: float, eps: float, cudnn_enabled: bool = False,
) -> Tensor:  # fmt: skip
    """``nn.functional.batch_norm`` with the order of arguments of ``torch.batch_norm``."""
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def instance_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool = False,
) -> Tensor:  # fmt: skip
    """``nn.functional.instance_norm`` with the order of arguments of ``torch.instance_norm``."""
    return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """``nn.functional.dropout``."""
    return F.dropout(input, p, train)


def dropout_(input: Tensor, p: float, train: bool) -> Tensor:
    """``nn.functional.dropout`` in place."""
    return F.dropout(input, p, train, inplace=True)


def feature_dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """Zeroes whole channels of [N, C, ...]."""
    return F.dropout2d(input, p, train) if input.dim() == 4 else F.dropout3d(input, p, train)


def constant_pad_nd(input: Tensor, pad_: Sequence[int], value: float = 0) -> Tensor:
    """``nn.functional.pad`` with a constant border."""
    return pad(input, pad_, "constant", value)


def grid_sampler(
    input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Tensor:
    """``nn.functional.grid_sample`` with numbers for the modes: bilinear, nearest, bicubic; zeros, border,
    reflection."""
    mode, border = grid_functions._MODES[interpolation_mode], grid_functions._BORDERS[padding_mode]
    return grid_functions._sample(input, grid, mode, border, align_corners)


grid_sampler_2d = grid_sampler_3d = grid_sampler


def affine_grid_generator(theta: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """``nn.functional.affine_grid``."""
    return F.affine_grid(theta, size, align_corners)


def _statistics(x: Tensor, axes: tuple[int, ...], eps: float, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(biased variance + eps)."""
    mean = reduce.mean(x, axes, keepdim)
    return mean, elementwise.rsqrt(elementwise.add(x.var(axes, False, keepdim), eps))


def native_layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``layer_norm``, and the mean and 1 / standard deviation it used (normalised axes kept as 1)."""
    out = F.layer_norm(input, normalized_shape, weight, bias, eps)
    axes = tuple(range(input.dim() - len(tuple(normalized_shape)), input.dim()))
    return out, *_statistics(input, axes, eps, True)


def native_group_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, N: int, C: int, HxW: int, group: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``group_norm`` of an input of N * C * HxW elements, and the [N, group] means and 1 / standard deviations."""
    out = F.group_norm(shaping.reshape(input, N, C, HxW), group, weight, bias, eps)
    groups = shaping.reshape(input, N, group, C // group * HxW)
    return shaping.reshape(out, *input._extents), *_statistics(groups, (2,), eps, False)


def native_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, training: bool, momentum: float, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``batch_norm``, and the batch's mean and 1 / standard deviation per channel (empty unless ``training``)."""
    out = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if training:
        axes = (0, *range(2, input.dim()))
        return out, *_statistics(input, axes, eps, False)
    none = shaping.slice_axis(shaping.reshape(input, -1), 0, 0, 0).detach()
    return out, none, none


_FUNCTIONS = (
    adaptive_max_pool1d, affine_grid_generator, batch_norm, constant_pad_nd, dropout, dropout_, feature_dropout,
    grid_sampler, instance_norm, native_batch_norm, native_group_norm, native_layer_norm,
)  # fmt: skip


def functions() -> dict[str, Any]:
    """Every function of the package's top level that comes from ``nn``, by name."""
    out = {name: getattr(F, name) for name in _SHARED}
    out.update({f.__name__: f for f in _FUNCTIONS})
    out.update(grid_sampler_2d=grid_sampler_2d, grid_sampler_3d=grid_sampler_3d)
    return autocasting.policies(out, __name__.rpartition(".nn")[0])


def attach(cls: type) -> None:
    """Give the class of tensors the methods that come from ``nn``."""
    for name in _METHODS:
        setattr(cls, name, getattr(F, name))
