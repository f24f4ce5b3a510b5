"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any

from .. import creation
from ..device import require_cpu
from ..tensor import Tensor
from . import functional as F
from . import init
from .module import Module
from .parameter import Parameter
from .windows import pair

_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    """Weight [out_channels, in_channels / groups, kernel...]; see the subclasses."""

    _rank = 0

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        rank = self._rank
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups != 0:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups != 0:
            raise ValueError("out_channels must be divisible by groups")
        self.stride = pair(stride, "stride", rank)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string '{padding}', should be one of 'valid', 'same'")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        if padding_mode not in _MODES:
            raise ValueError(f"padding_mode must be one of {set(_MODES)}, but got padding_mode='{padding_mode}'")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size, "kernel_size", rank)
        self.padding = padding if isinstance(padding, str) else pair(padding, "padding", rank)
        self.dilation = pair(dilation, "dilation", rank)
        self.transposed = False
        self.output_padding = (0,) * rank
        self.groups = groups
        self.padding_mode = padding_mode
        self._reversed_padding_repeated_twice = self._border()
        require_cpu(device)
        self.weight = Parameter(creation.empty(out_channels, in_channels // groups, *self.kernel_size, dtype=dtype))
        if bias:
            self.bias = Parameter(creation.empty(out_channels, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight and bias uniform in +-1 / sqrt(in_channels / groups * kernel volume)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in != 0:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def _border(self) -> list[int]:
        """Padding widths for ``F.pad``, from the last axis backwards."""
        out: list[int] = []
        for axis in reversed(range(self._rank)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                out += [total // 2, total - total // 2]
            else:
                width = 0 if isinstance(self.padding, str) else self.padding[axis]
                out += [width, width]
        return out

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._border(), mode=self.padding_mode), 0
        convolve = getattr(F, f"conv{self._rank}d")
        return convolve(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        rank = self._rank
        out = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * rank:
            out += f", padding={self.padding}"
        if self.dilation != (1,) * rank:
            out += f", dilation={self.dilation}"
        if self.output_padding != (0,) * rank:
            out += f", output_padding={self.output_padding}"
        if self.groups != 1:
            out += f", groups={self.groups}"
        if self.bias is None:
            out += ", bias=False"
        if self.padding_mode != "zeros":
            out += f", padding_mode={self.padding_mode}"
        return out


class Conv1d(_ConvNd):
    """Cross-correlation of [N, C, L] or [C, L]; arguments as in ``Conv2d``."""

    _rank = 1


class Conv2d(_ConvNd):
    """Cross-correlation of [N, C, H, W] or [C, H, W].

    ``padding``: int, one per axis, "valid" or "same" (stride 1); ``padding_mode``: zeros, reflect, replicate, circular.
    ValueError for channel counts not divisible by ``groups`` and for unknown modes.
    """

    _rank = 2


class Conv3d(_ConvNd):
    """Cross-correlation of [N, C, D, H, W] or [C, D, H, W]; arguments as in ``Conv2d``."""

    _rank = 3


__all__ = ["Conv1d", "Conv2d", "Conv3d"]
