"""Convolution over one to three spatial axes; ``nn.functional`` exports it."""

from __future__ import annotations

from typing import Any

from ...ir.dims import DimExpr
from ...ir.errors import ShapeError
from ...runtime.backward import now
from .. import dispatch, elementwise, shaping
from ..tape.names import rename
from ..tensor import Tensor
from .windows import batched, pair, unbatched


def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of [N, C, L] (or [C, L]) with weight [O, C / groups, kL]; ``padding`` as in ``conv2d``."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of [N, C, H, W] (or [C, H, W]) with weight [O, C / groups, kH, kW].

    ``padding`` is an int, one per axis, ``"valid"`` or ``"same"`` (stride 1 only). RuntimeError if channels, dtypes or
    extents do not fit.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of [N, C, D, H, W] (or [C, D, H, W]) with weight [O, C / groups, kD, kH, kW]; ``padding`` as in
    ``conv2d``."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def _conv(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    x, added = batched(input, f"conv{rank}d", rank)
    steps, gaps = pair(stride, "stride", rank), pair(dilation, "dilation", rank)
    kernel = weight._extents[2:]
    if x.dtype is not weight.dtype:
        raise RuntimeError(f"Input type ({dispatch.type_word(x.dtype)}) and weight type "
                           f"({dispatch.type_word(weight.dtype)}) should be the same")  # fmt: skip
    channels = x._extents[1]
    if weight.dim() != rank + 2 or channels != weight._extents[1] * groups:
        raise ShapeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input{list(input.shape)} to "
            f"have {weight._extents[1] * groups} channels, but got {channels} channels instead"
        )
    pads = _pads(rank, padding, kernel, steps, gaps)
    _check_room(x._extents[2:], kernel, pads, gaps)
    since = now()
    out = dispatch.apply("conv", x, weight, stride=steps, padding=pads, dilation=gaps, groups=int(groups))
    if bias is not None:
        out = elementwise.add(out, shaping.reshape(bias, -1, *(1,) * rank))
    rename(out, "ConvolutionBackward0", since)
    return unbatched(out, added)


def _pads(rank: int, padding: Any, kernel: Any, steps: Any, gaps: Any) -> tuple[tuple[int, int], ...]:
    if padding == "same":
        if any(s != 1 for s in steps):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        totals = [d * (k - 1) for d, k in zip(gaps, kernel, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if padding == "valid":
        return ((0, 0),) * rank
    if isinstance(padding, str):
        raise RuntimeError(f"Invalid padding string: '{padding}'")
    widths = pair(padding, "padding", rank)
    if min(widths) < 0:
        raise RuntimeError("negative padding is not supported")
    return tuple((p, p) for p in widths)


def _check_room(spatial: Any, kernel: Any, pads: Any, gaps: Any) -> None:
    if any(isinstance(e, DimExpr) for e in (*spatial, *kernel)):
        return
    padded = [e + low + high for e, (low, high) in zip(spatial, pads, strict=True)]
    reach = [d * (k - 1) + 1 for d, k in zip(gaps, kernel, strict=True)]
    if any(r > e for r, e in zip(reach, padded, strict=True)):
        room, size = (" x ".join(map(str, v)) for v in (padded, reach))
        raise ShapeError(f"Calculated padded input size per channel: ({room}). Kernel size: ({size}). Kernel size "
                         "can't be greater than actual input size")  # fmt: skip


__all__ = ["conv1d", "conv2d", "conv3d"]
