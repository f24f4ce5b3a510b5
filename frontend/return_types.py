"""Named results, printed as PyTorch prints them."""

from __future__ import annotations

from collections import namedtuple
from typing import Any


def _named(name: str, *fields: str) -> Any:
    cls = namedtuple(name, fields)  # type: ignore[misc]
    cls.__module__ = "torch.return_types"
    cls.__repr__ = _repr  # type: ignore[method-assign,assignment]
    return cls


def _repr(result: Any) -> str:
    parts = ",\n".join(f"{name}={value!r}" for name, value in zip(result._fields, result, strict=True))
    return f"torch.return_types.{type(result).__name__}(\n{parts})"


aminmax = _named("aminmax", "min", "max")
histogram = _named("histogram", "hist", "bin_edges")
histogramdd = _named("histogramdd", "hist", "bin_edges")
cummax, cummin, kthvalue, max, median, min, mode, nanmedian, sort, topk = (
    _named(name, "values", "indices")
    for name in ("cummax", "cummin", "kthvalue", "max", "median", "min", "mode", "nanmedian", "sort", "topk")
)
