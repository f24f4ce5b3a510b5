"""The old names of mixed precision on the CPU."""

from __future__ import annotations

import warnings
from typing import Any

from ...ir import dtypes
from ...ir.dtypes import DType
from .. import amp


class autocast(amp.autocast):
    """Deprecated: ``torch.amp.autocast("cpu", ...)``."""

    def __init__(self, enabled: bool = True, dtype: DType = dtypes.bfloat16, cache_enabled: bool = True) -> None:
        warnings.warn("`torch.cpu.amp.autocast(args...)` is deprecated. Please use `torch.amp.autocast('cpu', "
                      "args...)` instead.", FutureWarning, stacklevel=2)  # fmt: skip
        super().__init__("cpu", dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


class GradScaler(amp.GradScaler):
    """Deprecated: ``torch.amp.GradScaler("cpu", ...)``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("`torch.cpu.amp.GradScaler(args...)` is deprecated. Please use `torch.amp.GradScaler('cpu', "
                      "args...)` instead.", FutureWarning, stacklevel=2)  # fmt: skip
        super().__init__("cpu", *args, **kwargs)


__all__ = ["GradScaler", "autocast"]
