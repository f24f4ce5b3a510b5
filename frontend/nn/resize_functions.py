"""``interpolate`` and its older names; ``nn.functional`` exports them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ...ir.dims import DimExpr, Extent
from ...ir.dtypes import float32, float64, int32
from ...ir.errors import ShapeError, UnsupportedError
from ...runtime.backward import now
from .. import creation, dispatch, elementwise, shaping
from ..size import SymInt, as_extent, is_int
from ..sources import user_place
from ..tape.names import rename
from ..tensor import Tensor

# mode -> (IR mode, rank it needs or None)
_MODES: dict[str, tuple[str, int | None]] = {
    "nearest": ("nearest", None), "nearest-exact": ("nearest-exact", None), "area": ("area", None),
    "linear": ("linear", 3), "bilinear": ("linear", 4), "trilinear": ("linear", 5), "bicubic": ("cubic", 4),
    "lanczos": ("lanczos", 4),
}  # fmt: skip


def interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Tensor:  # fmt: skip
    """[N, C, spatial...] at other spatial extents: ``size`` (an int or one per axis) or ``scale_factor``.

    Modes nearest, nearest-exact, linear, bilinear, trilinear, bicubic, area, and lanczos (with ``antialias``), with
    PyTorch's coordinates and weights. Weights are computed in float64, neighbours of ``nearest`` always in float32.
    Symbolic spatial extents work in the nearest and linear modes.

    Raises:
        ValueError, TypeError, NotImplementedError: options that PyTorch refuses.
        DTypeError: an integer input in a mode that computes. UnsupportedError: a mode without symbolic extents.
    """
    dispatch.require_tensor(input, "interpolate")
    if mode in ("nearest", "area", "nearest-exact") and align_corners is not None:
        raise ValueError("align_corners option can only be set with the interpolating modes: linear | bilinear | "
                         "bicubic | trilinear")  # fmt: skip
    rank = input.dim() - 2
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    if recompute_scale_factor and size is not None:
        raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
    sizes, scales = _sizes(input, rank, size), _scales(input, rank, scale_factor)
    if antialias and not (mode in ("bilinear", "bicubic", "lanczos") and input.dim() == 4):
        raise ValueError(
            "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D tensor as input"
        )
    kind = _kind(input, mode)
    if mode == "lanczos":
        if align_corners:
            raise ValueError("Lanczos mode does not support align_corners=True")
        if not antialias:
            raise ValueError("Lanczos mode requires antialias=True")
    if scales is not None:
        sizes = [_scaled(e, s) for e, s in zip(input._extents[2:], scales, strict=True)]
    assert sizes is not None
    if scales is None or recompute_scale_factor or mode == "area":
        scales = [0.0] * rank
    spatial = input._extents[2:]
    if any(isinstance(e, DimExpr) for e in (*spatial, *sizes)):
        return _symbolic(input, kind, sizes, scales, bool(align_corners), bool(antialias))
    if min(*spatial, *sizes) < 1:
        raise ShapeError(
            f"Input and output sizes should be greater than 0, but got input {_named(spatial)} output {_named(sizes)}"
        )
    since = now()
    out = dispatch.apply(
        "resize", input, mode=kind, sizes=tuple(sizes), scales=tuple(scales) if any(scales) else (),
        align_corners=bool(align_corners), antialias=bool(antialias),
    )  # fmt: skip
    rename(out, _node_name(mode, rank, antialias), since)
    return out


def _node_name(mode: str, rank: int, antialias: bool) -> str:
    """``UpsampleBilinear2DBackward0``."""
    if mode == "area":
        return f"AdaptiveAvgPool{rank}DBackward0"
    word = "".join(part.capitalize() for part in mode.split("-"))
    return f"Upsample{word}{rank}D{'Aa' if antialias else ''}Backward0"


def _kind(input: Tensor, mode: str) -> str:
    """The IR's mode; NotImplementedError if the mode does not exist or goes with another rank."""
    kind, needed = _MODES.get(mode, ("", None))
    if not kind or input.dim() not in (3, 4, 5):
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {input.dim()}D) for the modes: "
            f"{' | '.join(_MODES)} (got {mode})"
        )
    if needed is not None and input.dim() != needed:
        raise NotImplementedError(f"Got {input.dim()}D input, but {mode} mode needs {needed}D input")
    return kind


def _named(extents: Sequence[Any]) -> str:
    names = "DHW"[3 - len(extents) :]
    return "(" + ", ".join(f"{n}: {e}" for n, e in zip(names, extents, strict=True)) + ")"


def _sizes(input: Tensor, rank: int, size: Any) -> list[Any] | None:
    if size is None:
        return None
    if not isinstance(size, (list, tuple)):
        size = [size] * rank
    elif len(size) != rank:
        raise ValueError(
            "Input and output must have the same number of spatial dimensions, but got input with spatial dimensions "
            f"of {list(input.shape[2:])} and output size of {size}. Please provide input tensor in (N, C, d1, d2, "
            "...,dK) format and output size in (o1, o2, ...,oK) format."
        )
    if not all(is_int(x) for x in size):
        raise TypeError(
            "expected size to be one of int or Tuple[int] or Tuple[int, int] or Tuple[int, int, int], but got size "
            f"with types {[type(x) for x in size]}"
        )
    return [as_extent(x) for x in size]


def _scales(input: Tensor, rank: int, scale_factor: Any) -> list[float] | None:
    if scale_factor is None:
        return None
    if not isinstance(scale_factor, (list, tuple)):
        return [float(scale_factor)] * rank
    if len(scale_factor) != rank:
        raise ValueError(
            "Input and scale_factor must have the same number of spatial dimensions, but got input with spatial "
            f"dimensions of {list(input.shape[2:])} and scale_factor of shape {scale_factor}. Please provide input "
            "tensor in (N, C, d1, d2, ...,dK) format and scale_factor in (s1, s2, ...,sK) format."
        )
    return [float(s) for s in scale_factor]


def _scaled(extent: Extent, scale: float) -> Extent:
    """floor(extent * scale)."""
    if isinstance(extent, int):
        return int(extent * scale)
    ratio = Fraction(scale).limit_denominator(64)
    if float(ratio) != scale or scale <= 0:
        raise UnsupportedError(
            f"{user_place()}: scale_factor {scale} of the symbolic extent {extent}: the new size is only known for "
            "fractions like 2, 1.5 or 0.25; pass size= instead"
        )
    return (extent * ratio.numerator) // ratio.denominator


# -- symbolic extents: the tables are computed by the program -------------------------------------------
def _symbolic(
    x: Tensor, kind: str, sizes: Sequence[Extent], scales: Sequence[float], align_corners: bool, antialias: bool
) -> Tensor:
    if kind not in ("nearest", "nearest-exact", "linear") or antialias:
        raise UnsupportedError(
            f"{user_place()}: interpolate with mode {kind!r}{' and antialias' if antialias else ''} from "
            f"{list(x.shape[2:])} to {[str(s) for s in sizes]}: windows are only known for fixed extents; declare "
            "them as numbers, or use nearest, linear, bilinear or trilinear"
        )
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        extent = x._extents[axis]
        if extent == size and (kind == "linear" or scale == 0):
            continue
        exact = kind == "linear"
        ratio = _ratio(extent, size, scale, align_corners, exact)
        place = creation.arange(_shown(size), dtype=float64 if exact else float32)
        if kind == "nearest-exact" or (exact and not align_corners):
            place = elementwise.add(place, 0.5)
        place = elementwise.mul(place, ratio)
        if exact and not align_corners:
            place = elementwise.maximum(elementwise.sub(place, 0.5), dispatch.scalar(0.0, float64))
        last = dispatch.extent_scalar(extent - 1, place.dtype)
        first = elementwise.minimum(elementwise.floor(place), last)
        places = dispatch.cast(first, int32)
        if not exact:
            x = dispatch.apply("resample", x, places, axis=axis)
            continue
        part = shaping.reshape(elementwise.minimum(elementwise.sub(place, first), dispatch.scalar(1.0, float64)), 1, -1)
        weights = shaping.cat([elementwise.sub(dispatch.scalar(1.0, float64), part), part], 0)
        x = dispatch.apply("resample", x, places, dispatch.cast(weights, x.dtype.accumulator), axis=axis)
    return x


def _shown(extent: Extent) -> Any:
    return SymInt(extent) if isinstance(extent, DimExpr) else extent


def _ratio(extent: Extent, size: Extent, scale: float, align_corners: bool, exact: bool) -> Tensor:
    """Input elements per output element, as ``ir.ops.bands`` has it."""
    dtype = float64 if exact else float32
    if align_corners:
        top, bottom = dispatch.extent_scalar(extent - 1, dtype), dispatch.extent_scalar(size - 1, dtype)
        return elementwise.div(top, elementwise.maximum(bottom, dispatch.scalar(1.0, dtype)))
    if scale > 0:
        return dispatch.scalar(np.float64(1.0 / scale), dtype)
    return elementwise.div(dispatch.extent_scalar(extent, dtype), dispatch.extent_scalar(size, dtype))


# -- older names ----------------------------------------------------------------------------------------
def _deprecated(name: str) -> None:
    warnings.warn(
        f"`nn.functional.{name}` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=3
    )  # fmt: skip


def upsample(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Tensor:
    """``interpolate`` under its older name (with a warning)."""
    _deprecated("upsample")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """``interpolate(mode="nearest")`` under its older name (with a warning)."""
    _deprecated("upsample_nearest")
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """``interpolate(mode="bilinear", align_corners=True)`` under its older name (with a warning)."""
    _deprecated("upsample_bilinear")
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


__all__ = ["interpolate", "upsample", "upsample_bilinear", "upsample_nearest"]
