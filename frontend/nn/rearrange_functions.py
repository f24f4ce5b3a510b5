"""Functions that move elements: shuffles of pixels and channels, sliding windows, one-hot; see ``nn.functional``."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ...ir import dtypes
from ...ir.errors import ShapeError
from .. import creation, dispatch, elementwise, shaping
from ..padding import pad
from ..size import wrap
from ..tape.names import named
from ..tensor import Tensor
from .windows import pair


# -- shuffles -----------------------------------------------------------------------------------------
def _spatial(input: Tensor, name: str) -> tuple[tuple[Any, ...], Any, Any, Any]:
    if input.dim() < 3:
        raise RuntimeError(f"{name} expects input to have at least 3 dimensions, but got input with {input.dim()} "
                           "dimension(s)")  # fmt: skip
    *lead, c, h, w = input._extents
    return tuple(lead), c, h, w


@named("PixelShuffleBackward0")
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """[*, C r r, H, W] to [*, C, H r, W r]: channels become pixels. RuntimeError if r r does not divide them."""
    lead, c, h, w = _spatial(input, "pixel_shuffle")
    r = upscale_factor
    if r <= 0:
        raise RuntimeError(f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    if wrap(c) % (r * r) != 0:
        raise RuntimeError("pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of "
                           f"upscale_factor, but input.size(-3)={c} is not divisible by {r * r}")  # fmt: skip
    n = len(lead)
    parts = shaping.reshape(input, *lead, c // (r * r), r, r, h, w)
    moved = shaping.permute(parts, *range(n), n, n + 3, n + 1, n + 4, n + 2)
    return shaping.reshape(moved, *lead, c // (r * r), h * r, w * r)


@named("PixelUnshuffleBackward0")
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """[*, C, H r, W r] to [*, C r r, H, W]: the inverse of ``pixel_shuffle``."""
    lead, c, h, w = _spatial(input, "pixel_unshuffle")
    r = downscale_factor
    if r <= 0:
        raise RuntimeError(f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    for size, word, at in ((h, "height", -2), (w, "width", -1)):
        if wrap(size) % r != 0:
            raise RuntimeError(f"pixel_unshuffle expects {word} to be divisible by downscale_factor, but "
                               f"input.size({at})={size} is not divisible by {r}")  # fmt: skip
    n = len(lead)
    parts = shaping.reshape(input, *lead, c, h // r, r, w // r, r)
    moved = shaping.permute(parts, *range(n), n, n + 2, n + 4, n + 1, n + 3)
    return shaping.reshape(moved, *lead, c * r * r, h // r, w // r)


@named("ChannelShuffleBackward0")
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels (axis 1) of [N, C, ...] dealt out over ``groups``; RuntimeError if they do not divide."""
    if input.dim() < 3:
        raise RuntimeError("channel_shuffle expects input with > 2 dims, but got input with sizes "
                           f"{list(input.shape)}")  # fmt: skip
    n, c, *rest = input._extents
    if groups <= 0:
        raise RuntimeError(f"Number of groups to divide channels in must be positive. Value of groups:{groups}")
    if wrap(c) % groups != 0:
        raise RuntimeError(f"Number of channels must be divisible by groups. Got {c} channels and {groups} groups.")
    parts = shaping.transpose(shaping.reshape(input, n, groups, c // groups, *rest), 1, 2)
    return shaping.reshape(parts, *input._extents)


native_channel_shuffle = channel_shuffle


# -- sliding windows ----------------------------------------------------------------------------------
def _blocks(sizes: Sequence[Any], kernel: Sequence[int], gaps: Any, widths: Any, steps: Any) -> list[Any]:
    """The number of windows per axis."""
    return [
        (wrap(e) + 2 * p - d * (k - 1) - 1) // s + 1
        for e, k, d, p, s in zip(sizes, kernel, gaps, widths, steps, strict=True)
    ]


def _windows(kernel: int, count: int, gap: int, step: int) -> Tensor:
    """Flat [kernel * count]: where tap k of window i lies."""
    return dispatch.from_array(
        (np.arange(kernel)[:, None] * gap + np.arange(count)[None, :] * step).reshape(-1).astype(np.int64)
    )


def _options(kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> list[tuple[int, ...]]:
    named = {"kernel_size": kernel_size, "dilation": dilation, "padding": padding, "stride": stride}
    out = [pair(value, name) for name, value in named.items()]
    for name, sizes in zip(named, out, strict=True):
        if any(v < (0 if name == "padding" else 1) for v in sizes):
            limit = "non-negative" if name == "padding" else "greater than zero"
            words = ", ".join(f"{n}={v}" for n, v in zip(("height", "width"), sizes, strict=True))
            raise RuntimeError(f"{name} should be {limit}, but got {words}")
    return out


@named("Im2ColBackward0")
def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """Sliding windows of [N, C, H, W] (or [C, H, W]) as columns: [N, C * kH * kW, windows].

    RuntimeError for other ranks and where no window fits. The spatial extents must be numbers.
    """
    dispatch.require_tensor(input, "im2col")
    if input.dim() not in (3, 4):
        raise ShapeError("Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero "
                         f"dimensions for input, but got: {list(input.shape)}")  # fmt: skip
    kernel, gaps, widths, steps = _options(kernel_size, dilation, padding, stride)
    x = input if input.dim() == 4 else shaping.unsqueeze(input, 0)
    n, c, h, w = x._extents
    counts = _blocks((h, w), kernel, gaps, widths, steps)
    if any(count < 1 for count in counts):
        raise ShapeError(
            f"Given input with spatial size ({h}, {w}), kernel_size={kernel}, dilation={gaps}, padding={widths}, "
            f"stride={steps}, calculated shape of the array of sliding blocks as ({counts[0]}, {counts[1]}), but its "
            "components must be at least one."
        )
    x = pad(x, (widths[1], widths[1], widths[0], widths[0])) if any(widths) else x
    for axis in (0, 1):
        places = _windows(kernel[axis], int(counts[axis]), gaps[axis], steps[axis])
        x = dispatch.apply("index_select", x, places, axis=axis + 2)
    x = shaping.reshape(x, n, c, kernel[0], counts[0], kernel[1], counts[1])
    out = shaping.reshape(shaping.permute(x, 0, 1, 2, 4, 3, 5), n, c * prod(kernel), counts[0] * counts[1])
    return out if input.dim() == 4 else shaping.reshape(out, *out._extents[1:])


@named("Col2ImBackward0")
def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """The transpose of ``unfold``: columns [N, C * kH * kW, windows] (or without N) added up to [N, C, H, W].

    RuntimeError unless the columns are those of windows in ``output_size``.
    """
    dispatch.require_tensor(input, "col2im")
    if input.dim() not in (2, 3):
        raise ShapeError("Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero "
                         f"dimensions for input, but got: {list(input.shape)}")  # fmt: skip
    kernel, gaps, widths, steps = _options(kernel_size, dilation, padding, stride)
    sizes = pair(output_size, "output_size")
    x = input if input.dim() == 3 else shaping.unsqueeze(input, 0)
    n, rows, columns = x._extents
    if wrap(rows) % prod(kernel) != 0:
        raise ShapeError("Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
                         f"input.size(1)={rows} and kernel_size={kernel}.")  # fmt: skip
    c = rows // prod(kernel)
    counts = _blocks(sizes, kernel, gaps, widths, steps)
    if wrap(columns) != counts[0] * counts[1]:
        raise ShapeError(
            f"Given output_size={sizes}, kernel_size={kernel}, dilation={gaps}, padding={widths}, stride={steps}, "
            f"expected size of input's dimension 2 to match the calculated number of sliding blocks {counts[0]} * "
            f"{counts[1]} = {counts[0] * counts[1]}, but got input.size(2)={columns}."
        )
    x = shaping.reshape(x, n, c, kernel[0], kernel[1], counts[0], counts[1])
    x = shaping.permute(x, 0, 1, 2, 4, 3, 5)
    x = shaping.reshape(x, n, c, kernel[0] * counts[0], kernel[1] * counts[1])
    for axis in (0, 1):
        places = _windows(kernel[axis], int(counts[axis]), gaps[axis], steps[axis])
        shape = list(x._extents)
        line = shaping.reshape(places, *(-1 if a == axis + 2 else 1 for a in range(4)))
        index = shaping.expand(line, *shape)
        shape[axis + 2] = sizes[axis] + 2 * widths[axis]
        x = dispatch.apply("scatter_add", creation.zeros(*shape, dtype=x.dtype), index, x, axis=axis + 2)
    x = pad(x, (-widths[1], -widths[1], -widths[0], -widths[0])) if any(widths) else x
    return x if input.dim() == 3 else shaping.reshape(x, *x._extents[1:])


# -- one-hot ------------------------------------------------------------------------------------------
def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 [*, num_classes] with a 1 where each int64 of ``tensor`` [*] points; -1 takes the largest plus one.

    RuntimeError for negative classes, or classes from ``num_classes`` on (eager).
    """
    dispatch.require_tensor(tensor, "one_hot")
    if tensor.dtype is not dtypes.int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    if num_classes == -1 or tensor._value is None:
        values = tensor._concrete("one_hot()", "passing num_classes")
        if values.size == 0 and num_classes <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        if values.size and int(values.min()) < 0:
            raise RuntimeError("Class values must be non-negative.")
        if num_classes == -1:
            num_classes = int(values.max()) + 1
        elif values.size and int(values.max()) >= num_classes:
            raise RuntimeError("Class values must be smaller than num_classes.")
    if num_classes < 1:
        raise RuntimeError("num_classes should be positive")
    classes = creation.arange(num_classes, dtype=dtypes.int64)
    return dispatch.cast(elementwise.eq(shaping.unsqueeze(tensor, -1), classes), dtypes.int64)


__all__ = [
    "channel_shuffle", "fold", "native_channel_shuffle", "one_hot", "pixel_shuffle", "pixel_unshuffle", "unfold",
]  # fmt: skip
