"""Named results, printed as PyTorch prints them."""

from __future__ import annotations

from collections import namedtuple
from typing import Any


def named_result(name: str, *fields: str) -> Any:
    """A named tuple ``torch.return_types.name``."""
    cls = namedtuple(name, fields)  # type: ignore[misc]
    cls.__module__ = "torch.return_types"
    cls.__repr__ = _repr  # type: ignore[method-assign,assignment]
    return cls


def _repr(result: Any) -> str:
    parts = ",\n".join(f"{name}={value!r}" for name, value in zip(result._fields, result, strict=True))
    return f"torch.return_types.{type(result).__name__}(\n{parts})"


aminmax = named_result("aminmax", "min", "max")
frexp = named_result("frexp", "mantissa", "exponent")
histogram = named_result("histogram", "hist", "bin_edges")
histogramdd = named_result("histogramdd", "hist", "bin_edges")
qr = named_result("qr", "Q", "R")
slogdet = named_result("slogdet", "sign", "logabsdet")
svd = named_result("svd", "U", "S", "V")
cummax, cummin, kthvalue, max, median, min, mode, nanmedian, sort, topk = (
    named_result(name, "values", "indices")
    for name in ("cummax", "cummin", "kthvalue", "max", "median", "min", "mode", "nanmedian", "sort", "topk")
)
