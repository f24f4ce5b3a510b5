"""Padding layers: borders of zeros or a constant, mirrored, repeated or wrapped around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tensor import Tensor
from . import functional as F
from .module import Module


class _PadNd(Module):
    """Pads the last ``_rank`` axes of any input; ``padding`` is an int or (left, right, top, bottom, ...)."""

    _rank = 0
    _mode = "constant"

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        wanted = 2 * self._rank
        widths: tuple[Any, ...] = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * wanted
        if len(widths) != wanted:
            raise ValueError(f"{type(self).__name__}: padding must be an int or {wanted} of them, got {padding}")
        self.padding = widths

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPadNd(_PadNd):
    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPadNd(_ConstantPadNd):
    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _CircularPadNd(_PadNd):
    _mode = "circular"

    def forward(self, input: Tensor) -> Tensor:
        ranks = (self._rank + 1, self._rank + 2)
        if input.dim() not in ranks:
            raise ValueError(f"expected {ranks[0]}D or {ranks[1]}D input (got {input.dim()}D input)")
        return super().forward(input)


def _family(base: type[_PadNd], word: str, rank: int, text: str) -> Any:
    name = f"{word}{rank}d"
    doc = f"{text} around the last {'axis' if rank == 1 else f'{rank} axes'}; ``padding`` is an int or " \
          f"{2 * rank} of them, from the last axis backwards."  # fmt: skip
    return type(name, (base,), {"_rank": rank, "__doc__": doc, "__module__": __name__, "__qualname__": name})


class _ReflectionPadNd(_PadNd):
    _mode = "reflect"


class _ReplicationPadNd(_PadNd):
    _mode = "replicate"


ConstantPad1d, ConstantPad2d, ConstantPad3d = (
    _family(_ConstantPadNd, "ConstantPad", r, "A border of ``value``") for r in (1, 2, 3)
)  # fmt: skip
ZeroPad1d, ZeroPad2d, ZeroPad3d = (_family(_ZeroPadNd, "ZeroPad", r, "A border of zeros") for r in (1, 2, 3))
ReflectionPad1d, ReflectionPad2d, ReflectionPad3d = (
    _family(_ReflectionPadNd, "ReflectionPad", r, "A mirrored border (without the edge)") for r in (1, 2, 3)
)
ReplicationPad1d, ReplicationPad2d, ReplicationPad3d = (
    _family(_ReplicationPadNd, "ReplicationPad", r, "A border that repeats the edge") for r in (1, 2, 3)
)
CircularPad1d, CircularPad2d, CircularPad3d = (
    _family(_CircularPadNd, "CircularPad", r, "A border from the opposite side") for r in (1, 2, 3)
)

__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip
