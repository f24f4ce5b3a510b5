"""Pooling with windows of one size, and its inverse; ``nn.functional`` exports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...ir import dtypes
from ...ir.dims import Extent, product
from ...ir.errors import ShapeError
from ...runtime.backward import now
from .. import creation, dispatch, elementwise, shaping
from ..size import as_extent, wrap
from ..tensor import Tensor
from .windows import batched, label, pair, unbatched


def _given(stride: Any) -> bool:
    return stride is not None and stride != () and stride != []


def _window(rank: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any = 1) -> tuple[Any, Any, Any, Any]:
    kernel = pair(kernel_size, "kernel_size", rank)
    steps = pair(stride, "stride", rank) if _given(stride) else kernel
    widths, gaps = pair(padding, "padding", rank), pair(dilation, "dilation", rank)
    if min(steps) < 1:
        raise RuntimeError("stride should not be zero")
    for p, k, d in zip(widths, kernel, gaps, strict=True):
        if p < 0:
            raise RuntimeError(f"pad must be non-negative, but got pad: {p}")
        if 2 * p > d * (k - 1) + 1:
            raise RuntimeError(f"pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} "
                               f"and dilation={d}")  # fmt: skip
    return kernel, steps, tuple((p, p) for p in widths), gaps


# -- maximum ------------------------------------------------------------------------------------------
def _max_pool(
    rank: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    return_indices: bool,
) -> Any:  # fmt: skip
    x, added = batched(input, f"max_pool{rank}d", rank)
    kernel, steps, pads, gaps = _window(rank, kernel_size, stride, padding, dilation)
    since = now()
    values, indices = dispatch.apply(
        "max_pool", x, kernel=kernel, stride=steps, padding=pads, dilation=gaps, ceil_mode=bool(ceil_mode)
    )
    values = unbatched(values, added)
    label(values, rank, "MaxPool{}DWithIndices", since)
    return (values, unbatched(indices, added)) if return_indices else values


def max_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """Largest element of each window of [N, C, L] (or [C, L]); see ``max_pool2d``."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """Largest element of each window of [N, C, H, W] (or [C, H, W]); stride defaults to the kernel.

    ``return_indices`` adds the int64 positions in the flattened plane. RuntimeError if a window does not fit.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """Largest element of each window of [N, C, D, H, W] (or [C, D, H, W]); see ``max_pool2d``."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _with_indices(rank: int, pool: Callable[..., Any]) -> Callable[..., Any]:
    def fn(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Any:  # fmt: skip
        return pool(input, kernel_size, stride, padding, dilation, ceil_mode, True)

    fn.__name__ = fn.__qualname__ = f"max_pool{rank}d_with_indices"
    fn.__doc__ = f"``max_pool{rank}d`` with ``return_indices=True``."
    return fn


max_pool1d_with_indices = _with_indices(1, max_pool1d)
max_pool2d_with_indices = _with_indices(2, max_pool2d)
max_pool3d_with_indices = _with_indices(3, max_pool3d)


# -- mean ---------------------------------------------------------------------------------------------
def _avg_pool(
    rank: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:  # fmt: skip
    x, added = batched(input, f"avg_pool{rank}d", rank)
    if divisor_override == 0:
        raise RuntimeError("divisor must be not zero")
    kernel, steps, pads, _ = _window(rank, kernel_size, stride, padding)
    since = now()
    exact = not x.dtype.is_floating_point  # integers: the quotient without its fraction
    out = dispatch.apply(
        "avg_pool", dispatch.cast(x, dtypes.float64) if exact else x, kernel=kernel, stride=steps, padding=pads,
        ceil_mode=bool(ceil_mode), count_include_pad=bool(count_include_pad), divisor_override=divisor_override,
    )  # fmt: skip
    out = unbatched(dispatch.cast(elementwise.trunc(out), x.dtype) if exact else out, added)
    label(out, rank, "AvgPool{}D", since)
    return out


def avg_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """Mean of each window of [N, C, L] (or [C, L]); stride defaults to the kernel."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean of each window of [N, C, H, W] (or [C, H, W]); stride defaults to the kernel."""
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean of each window of [N, C, D, H, W] (or [C, D, H, W]); stride defaults to the kernel."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


# -- power mean ---------------------------------------------------------------------------------------
def _lp_pool(rank: int, input: Tensor, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool) -> Tensor:
    kernel = pair(kernel_size, "kernel_size", rank)
    steps = stride if _given(stride) else kernel
    mean = _avg_pool(rank, elementwise.pow(input, norm_type), kernel, steps, 0, ceil_mode, True, None)
    # sign and relu: a negative sum, possible for odd powers, gives 0 instead of NaN, as in PyTorch.
    total = elementwise.mul(elementwise.mul(elementwise.sign(mean), elementwise.relu(elementwise.abs(mean))),
                            product(kernel))  # fmt: skip
    return elementwise.pow(total, 1.0 / norm_type)


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(sum of x ** p over each window) ** (1 / p) of [N, C, L] or [C, L]; stride defaults to the kernel."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(sum of x ** p over each window) ** (1 / p) of [N, C, H, W] or [C, H, W]; stride defaults to the kernel."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(sum of x ** p over each window) ** (1 / p) of [N, C, D, H, W] or [C, D, H, W]; stride defaults to the kernel."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


# -- the inverse of max_pool --------------------------------------------------------------------------
def _unpooled_size(
    spatial: Sequence[Any], kernel: Sequence[int], steps: Sequence[int], widths: Sequence[int], output_size: Any
) -> list[Any]:
    """Spatial extents of the result; ValueError if ``output_size`` is more than a stride away from them."""
    rank = len(kernel)
    natural = [(e - 1) * s + k - 2 * p for e, s, k, p in zip(spatial, steps, kernel, widths, strict=True)]
    if output_size is None:
        return natural
    wanted = list(output_size)
    if len(wanted) == rank + 2:
        wanted = wanted[2:]
    if len(wanted) != rank:
        raise ValueError(f"output_size should be a sequence containing {rank} or {rank + 2} elements, but it has a "
                         f"length of '{len(wanted)}'")  # fmt: skip
    for d, (want, have, step) in enumerate(zip(wanted, natural, steps, strict=True)):
        if not have - step < want < have + step:
            raise ValueError(f"invalid output_size '{wanted}' (dim {d} must be between {have - step} and "
                             f"{have + step})")  # fmt: skip
    return wanted


def _max_unpool(
    rank: int, input: Tensor, indices: Tensor, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> Tensor:
    name = f"max_unpool{rank}d"
    x, added = batched(input, name, rank)
    if input._extents != indices._extents:
        raise ShapeError(f"Expected shape of indices to be same as that of the input tensor ({list(input.shape)}) but "
                         f"got indices tensor with shape: {list(indices.shape)}")  # fmt: skip
    if indices.dtype.name != "int64":
        raise RuntimeError(f"elements in indices should be type int64 but got: {dispatch.type_word(indices.dtype)}")
    kernel = pair(kernel_size, "kernel_size", rank)
    steps = pair(stride, "stride", rank) if _given(stride) else kernel
    widths = pair(padding, "padding", rank)
    sizes = _unpooled_size([wrap(e) for e in x._extents[2:]], kernel, steps, widths, output_size)
    extents = [as_extent(e) for e in sizes]
    plane, count = product(extents), product(x._extents[2:])
    if indices._value is None and isinstance(plane, int) and indices._data.size:
        low, high = int(indices._data.min()), int(indices._data.max())
        if low < 0 or high >= plane:
            raise RuntimeError(f"Found an invalid max index: {low if low < 0 else high} (output volumes are of size "
                               f"{'x'.join(map(str, sizes))}")  # fmt: skip
    lead: tuple[Extent, ...] = x._extents[:2]
    since = now()
    empty = creation.zeros(*lead, plane, dtype=x.dtype)
    out = dispatch.apply(
        "scatter", empty, shaping.reshape(indices, *lead, count), shaping.reshape(x, *lead, count), axis=2
    )
    out = unbatched(shaping.reshape(out, *lead, *extents), added)
    label(out, rank, "MaxUnpool{}D", since)
    return out


def max_unpool1d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Values [N, C, L] (or [C, L]) put where ``max_pool1d`` found them; see ``max_unpool2d``."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Values [N, C, H, W] (or [C, H, W]) put where ``max_pool2d`` found them, zeros elsewhere.

    ``output_size`` chooses among the sizes that the pooling maps to this one. ValueError if it is none of them,
    RuntimeError for an index outside of the plane.
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Values [N, C, D, H, W] (or [C, D, H, W]) put where ``max_pool3d`` found them; see ``max_unpool2d``."""
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


__all__ = [
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d", "max_pool1d",
    "max_pool1d_with_indices", "max_pool2d", "max_pool2d_with_indices", "max_pool3d", "max_pool3d_with_indices",
    "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip
