"""Transposed convolution over one to three spatial axes; ``nn.functional`` exports them."""

from __future__ import annotations

from typing import Any

from ...ir.dims import DimExpr
from ...ir.errors import ShapeError
from ...runtime.backward import now
from .. import dispatch, elementwise, shaping
from ..size import as_extent
from ..tape.names import rename
from ..tensor import Tensor
from .windows import pair, unbatched

_KINDS = {1: "conv_transpose1d", 2: "conv_transpose2d", 3: "conv_transpose3d"}


def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The input gradient of ``conv1d``: [N, C, L] (or [C, L]) with weight [C, O / groups, kL] to
    [N, O, (L - 1) stride - 2 padding + dilation (kL - 1) + output_padding + 1].

    RuntimeError or ShapeError if channels, dtypes or output_padding do not fit.
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The input gradient of ``conv2d``: [N, C, H, W] (or [C, H, W]) with weight [C, O / groups, kH, kW];
    extents as in ``conv_transpose1d``."""
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The input gradient of ``conv3d``: [N, C, D, H, W] (or [C, D, H, W]) with weight [C, O / groups, kD, kH, kW];
    extents as in ``conv_transpose1d``."""
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _conv_transpose(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, output_padding: Any,
    groups: int, dilation: Any,
) -> Tensor:  # fmt: skip
    kind = _KINDS[rank]
    dispatch.require_tensor(input, kind)
    if input.dim() not in (rank + 1, rank + 2):
        raise ShapeError(f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to {kind}, but got input "
                         f"of size: {list(input.shape)}")  # fmt: skip
    if isinstance(padding, str):
        raise TypeError(f"{kind}(): argument 'padding' must be tuple of ints, not str")
    added = input.dim() == rank + 1
    x = shaping.unsqueeze(input, 0) if added else input
    steps, widths, gaps = (
        pair(v, name, rank)
        for v, name in ((stride, "stride"), (padding, "padding"), (dilation, "dilation"))
    )  # fmt: skip
    extra = _extents(output_padding, rank)
    _check(rank, x, weight, bias, steps, widths, gaps, extra, groups)
    since = now()
    out = dispatch.apply(
        "conv_transpose", x, weight, stride=steps, padding=tuple((p, p) for p in widths), dilation=gaps,
        groups=int(groups), output_padding=extra,
    )  # fmt: skip
    if bias is not None:
        out = elementwise.add(out, shaping.reshape(bias, -1, *(1,) * rank))
    rename(out, "ConvolutionBackward0", since)
    return unbatched(out, added)


def _extents(value: Any, rank: int) -> tuple[Any, ...]:
    """output_padding: one or ``rank`` ints or sizes."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(values) == 1:
        values = values * rank
    if len(values) != rank:
        raise RuntimeError(f"output_padding must be one int or {rank} of them, got {values}")
    return tuple(as_extent(v) for v in values)


def _check(
    rank: int, x: Tensor, weight: Tensor, bias: Tensor | None, steps: tuple[int, ...], widths: tuple[int, ...],
    gaps: tuple[int, ...], extra: tuple[Any, ...], groups: int,
) -> None:  # fmt: skip
    """PyTorch's complaints, in PyTorch's words."""
    if x.dtype is not weight.dtype:
        raise RuntimeError(f"Input type ({dispatch.type_word(x.dtype)}) and weight type "
                           f"({dispatch.type_word(weight.dtype)}) should be the same")  # fmt: skip
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")
    if min(widths) < 0:
        raise RuntimeError("negative padding is not supported")
    if any(isinstance(e, int) and e < 0 for e in extra):
        raise RuntimeError("negative output_padding is not supported")
    if min(steps) <= 0:
        raise RuntimeError("non-positive stride is not supported")
    if min(gaps) <= 0:
        raise RuntimeError("dilation should be greater than zero")
    if weight.dim() != rank + 2:
        raise ShapeError(f"expected {rank + 2}-dimensional weight for a transposed convolution over {rank} axes, got "
                         f"weight of size {list(weight.shape)}")  # fmt: skip
    channels, inputs, outputs = x._extents[1], weight._extents[0], weight._extents[1]
    if channels != inputs:
        raise ShapeError(f"Given transposed=1, weight of size {list(weight.shape)}, expected input{list(x.shape)} to "
                         f"have {inputs} channels, but got {channels} channels instead")  # fmt: skip
    if inputs % groups:
        raise ShapeError(f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got "
                         f"weight of size {list(weight.shape)} instead")  # fmt: skip
    if bias is not None and (bias.dim() != 1 or bias._extents[0] != outputs * groups):
        raise ShapeError(
            f"Given transposed=1, weight of size {list(weight.shape)}, expected bias to be 1-dimensional with "
            f"{outputs * groups} elements, but got bias of size {list(bias.shape)} instead"
        )
    for more, s, d in zip(extra, steps, gaps, strict=True):
        if not isinstance(more, DimExpr) and more >= s and more >= d:
            shown = ", ".join(map(str, extra))
            raise RuntimeError(
                "output padding must be smaller than either stride or dilation, but got output_padding: "
                f"({shown}) stride: {steps} dilation: {gaps}"
            )


__all__ = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
