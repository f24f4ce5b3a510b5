"""``DataParallel``: PyTorch's wrapper for several GPUs of one process. On the CPU it runs the module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...device import require_cpu
from ..module import Module


class DataParallel(Module):
    """Runs ``module``; its parameters are called ``module.*``. Devices other than the CPU are refused."""

    def __init__(
        self, module: Module, device_ids: Sequence[Any] | None = None, output_device: Any = None, dim: int = 0
    ) -> None:
        super().__init__()
        for device in (*(device_ids or ()), output_device):
            require_cpu(device)
        self.dim = dim
        self.device_ids: list[Any] = []
        self.module = module

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


def data_parallel(
    module: Module, inputs: Any, device_ids: Sequence[Any] | None = None, output_device: Any = None, dim: int = 0,
    module_kwargs: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """``module`` on ``inputs`` (a tensor or a tuple of arguments)."""
    for device in (*(device_ids or ()), output_device):
        require_cpu(device)
    return module(*(inputs if isinstance(inputs, tuple) else (inputs,)), **(module_kwargs or {}))
