"""Convolution and pooling; ``nn.functional`` exports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.dims import DimExpr
from ...ir.errors import ShapeError, UnsupportedError
from .. import dispatch, elementwise, linalg, reduce, shaping
from ..sources import user_place
from ..tensor import Tensor


def pair(value: Any, name: str, n: int = 2) -> tuple[int, ...]:
    """``value`` as n ints; RuntimeError if it is neither one int nor n of them."""
    if isinstance(value, (tuple, list)):
        if len(value) == 1:
            value = tuple(value) * n
        if len(value) != n:
            raise RuntimeError(f"{name} must be one int or {n} of them, got {tuple(value)}")
        return tuple(int(v) for v in value)
    return (int(value),) * n


def _batched(input: Tensor, name: str) -> tuple[Tensor, bool]:
    """Input as [N, C, H, W], and whether a batch axis was added."""
    dispatch.require_tensor(input, name)
    if input.dim() == 4:
        return input, False
    if input.dim() == 3:
        return shaping.unsqueeze(input, 0), True
    raise ShapeError(f"Expected 3D (unbatched) or 4D (batched) input to {name}, but got input of size: "
                     f"{list(input.shape)}")  # fmt: skip


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of [N, C, H, W] (or [C, H, W]) with weight [O, C / groups, kH, kW].

    ``padding`` is an int, a pair, ``"valid"`` or ``"same"`` (stride 1 only). RuntimeError if the channels do not fit.
    """
    x, added = _batched(input, "conv2d")
    steps, gaps = pair(stride, "stride"), pair(dilation, "dilation")
    kernel = weight._extents[2:]
    if x.dtype is not weight.dtype:
        raise RuntimeError(f"Input type ({dispatch.type_word(x.dtype)}) and weight type "
                           f"({dispatch.type_word(weight.dtype)}) should be the same")  # fmt: skip
    channels = x._extents[1]
    if weight.dim() != 4 or channels != weight._extents[1] * groups:
        raise ShapeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input{list(x.shape)} to "
            f"have {weight._extents[1] * groups} channels, but got {channels} channels instead"
        )
    if padding == "same":
        if any(s != 1 for s in steps):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        totals = [d * (k - 1) for d, k in zip(gaps, kernel, strict=True)]
        pads = tuple((t // 2, t - t // 2) for t in totals)
    elif padding == "valid":
        pads = ((0, 0), (0, 0))
    elif isinstance(padding, str):
        raise ValueError(f"Invalid padding string '{padding}', should be one of 'valid', 'same'")
    else:
        pads = tuple((p, p) for p in pair(padding, "padding"))
    out = dispatch.apply("conv", x, weight, stride=steps, padding=pads, dilation=gaps, groups=int(groups))
    if bias is not None:
        out = elementwise.add(out, shaping.reshape(bias, -1, 1, 1))
    return shaping.squeeze(out, 0) if added else out


def _window(kernel_size: Any, stride: Any, padding: Any, dilation: Any = 1) -> tuple[Any, Any, Any, Any]:
    kernel = pair(kernel_size, "kernel_size")
    steps = kernel if stride is None or stride == () or stride == [] else pair(stride, "stride")
    widths, gaps = pair(padding, "padding"), pair(dilation, "dilation")
    for p, k, d in zip(widths, kernel, gaps, strict=True):
        if 2 * p > d * (k - 1) + 1:
            raise RuntimeError(f"pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} "
                               f"and dilation={d}")  # fmt: skip
    return kernel, steps, tuple((p, p) for p in widths), gaps


def max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """Largest element of each window of [N, C, H, W] (or [C, H, W]); stride defaults to the kernel.

    ``return_indices`` adds the int64 positions in the flattened plane.
    """
    x, added = _batched(input, "max_pool2d")
    kernel, steps, pads, gaps = _window(kernel_size, stride, padding, dilation)
    values, indices = dispatch.apply(
        "max_pool", x, kernel=kernel, stride=steps, padding=pads, dilation=gaps, ceil_mode=bool(ceil_mode)
    )
    if added:
        values = shaping.squeeze(values, 0)
    if not return_indices:
        return values
    return values, (shaping.squeeze(indices, 0) if added else indices)


def avg_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean of each window of [N, C, H, W] (or [C, H, W]); stride defaults to the kernel."""
    x, added = _batched(input, "avg_pool2d")
    if divisor_override == 0:
        raise RuntimeError("divisor must be not zero")
    kernel, steps, pads, _ = _window(kernel_size, stride, padding)
    out = dispatch.apply(
        "avg_pool", x, kernel=kernel, stride=steps, padding=pads, ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad), divisor_override=divisor_override,
    )  # fmt: skip
    return shaping.squeeze(out, 0) if added else out


def _averaging(size: int, bins: int, dtype: np.dtype) -> np.ndarray:
    """[bins, size]: row i averages [floor(i size / bins), ceil((i + 1) size / bins))."""
    matrix = np.zeros((bins, size), np.float64)
    for i in range(bins):
        low, high = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, low:high] = 1.0 / (high - low)
    return matrix.astype(dtype)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over a grid of ``output_size`` windows (int or pair; None keeps that side)."""
    x, added = _batched(input, "adaptive_avg_pool2d")
    wanted: Sequence[Any] = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    sides = x._extents[2:]
    bins = [side if want is None else int(want) for want, side in zip(wanted, sides, strict=True)]
    if all(b == s for b, s in zip(bins, sides, strict=True)):
        out = x.clone()
    elif all(b == 1 for b in bins):
        out = reduce.mean(x, (2, 3), True)
    elif all(isinstance(s, int) and b and s % b == 0 for s, b in zip(sides, bins, strict=True)):
        kernel = tuple(s // b for s, b in zip(sides, bins, strict=True))
        out = avg_pool2d(x, kernel)
    else:
        out = x
        for axis, (size, count) in enumerate(zip(sides, bins, strict=True), 2):
            if size == count:
                continue
            if isinstance(size, DimExpr) or isinstance(count, DimExpr):
                raise UnsupportedError(
                    f"{user_place()}: adaptive_avg_pool2d from the symbolic extent {size} to {count}: "
                    "windows are only fixed for output size 1; declare the extent as a number"
                )
            matrix = dispatch.from_array(_averaging(size, count, x.dtype.numpy))
            out = linalg.matmul(matrix, out) if axis == 2 else linalg.linear(out, matrix)
    return shaping.squeeze(out, 0) if added else out


__all__ = ["adaptive_avg_pool2d", "avg_pool2d", "conv2d", "max_pool2d"]
