"""Transposed convolution layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import creation
from ..device import require_cpu
from ..size import provably
from ..tensor import Tensor
from . import functional, init
from .module import Module
from .parameter import Parameter
from .windows import pair


class _ConvTransposeNd(Module):
    """Weight [in_channels, out_channels / groups, kernel...]; see the subclasses."""

    _rank = 0

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, bias: bool = True, dilation: Any = 1, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        rank = self._rank
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        super().__init__()
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups != 0:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups != 0:
            raise ValueError("out_channels must be divisible by groups")
        if isinstance(padding, str):
            raise ValueError(f"{type(self).__name__}: padding must be an int or {rank} of them, got {padding!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size, "kernel_size", rank)
        self.stride = pair(stride, "stride", rank)
        self.padding = pair(padding, "padding", rank)
        self.dilation = pair(dilation, "dilation", rank)
        self.transposed = True
        self.output_padding = pair(output_padding, "output_padding", rank)
        self.groups = groups
        self.padding_mode = padding_mode
        require_cpu(device)
        self.weight = Parameter(creation.empty(in_channels, out_channels // groups, *self.kernel_size, dtype=dtype))
        if bias:
            self.bias = Parameter(creation.empty(out_channels, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight and bias uniform in +-1 / sqrt(out_channels / groups * kernel volume), as in PyTorch."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in != 0:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def _output_padding(self, input: Tensor, output_size: Sequence[Any] | None) -> tuple[Any, ...]:
        """What reaches ``output_size`` (spatial extents, or the whole shape); ValueError if nothing does."""
        rank = self._rank
        if output_size is None:
            return self.output_padding
        lead = input.dim() - rank
        wanted = list(output_size)
        if len(wanted) == lead + rank:
            wanted = wanted[lead:]
        if len(wanted) != rank:
            raise ValueError(
                f"ConvTranspose{rank}D: for {input.dim()}D input, output_size must have {rank} or {lead + rank} "
                f"elements (got {len(wanted)})"
            )
        low = [
            (input.size(i + lead) - 1) * s - 2 * p + d * (k - 1) + 1
            for i, (s, p, d, k) in enumerate(
                zip(self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
            )
        ]
        high = [m + s - 1 for m, s in zip(low, self.stride, strict=True)]
        for size, a, b in zip(wanted, low, high, strict=True):
            if not provably(lambda size=size, a=a, b=b: a <= size <= b):
                raise ValueError(
                    f"requested an output size of {wanted}, but valid sizes range from {low} to {high} (for an input "
                    f"of {list(input.shape[lead:])})"
                )
        return tuple(size - a for size, a in zip(wanted, low, strict=True))

    def forward(self, input: Tensor, output_size: Sequence[Any] | None = None) -> Tensor:
        extra = self._output_padding(input, output_size)
        function = getattr(functional, f"conv_transpose{self._rank}d")
        return function(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )  # fmt: skip

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
        return out


class ConvTranspose1d(_ConvTransposeNd):
    """Transposed convolution of [N, C, L] or [C, L]; extents as in ``F.conv_transpose1d``."""

    _rank = 1


class ConvTranspose2d(_ConvTransposeNd):
    """Transposed convolution of [N, C, H, W] or [C, H, W]; extents as in ``F.conv_transpose1d``."""

    _rank = 2


class ConvTranspose3d(_ConvTransposeNd):
    """Transposed convolution of [N, C, D, H, W] or [C, D, H, W]; extents as in ``F.conv_transpose1d``."""

    _rank = 3


__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
