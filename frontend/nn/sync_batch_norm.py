"""``SyncBatchNorm``: batch statistics over the batches of all processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dispatch, elementwise, reduce, shaping
from ..autograd.function import Function
from ..distributed import all_reduce, is_initialized
from ..distributed.group import current
from ..tensor import Tensor
from .module import Module
from .normalization import _BatchNorm

__all__ = ["SyncBatchNorm"]


class _SumOverProcesses(Function):
    """The sum of every process's tensor. Each process's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clone()
        all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _SumOverProcesses.apply(grad)


class SyncBatchNorm(_BatchNorm):
    """Batch norm of [N, C, ...] whose statistics, in training, are those of all processes together.

    With one process, and in eval, it is batch norm. ``convert_sync_batchnorm`` replaces every batch norm of a model.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, process_group: Any = None, device: Any = None, dtype: Any = None,
        *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:
        use_batch = self.training or (self.running_mean is None and self.running_var is None)
        if not use_batch or not is_initialized() or current().size == 1:
            return super().forward(input)
        self._check_input_dim(input)
        factor: Any = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked._assign(elementwise.add(self.num_batches_tracked, 1))
            if self.momentum is None:  # cumulative average
                factor = 1.0 / self.num_batches_tracked.item()
        axes = (0, *range(2, input.dim()))
        shape = tuple(input.shape[1] if a == 1 else 1 for a in range(input.dim()))
        count = dispatch.from_array(np.array(input._data.size / input._data.shape[1], np.float64))
        all_reduce(count)
        n = count.item()
        mean = elementwise.div(_SumOverProcesses.apply(reduce.sum(input, axes)), n)
        centred = elementwise.sub(input, shaping.reshape(mean, *shape))
        var = elementwise.div(_SumOverProcesses.apply(reduce.sum(elementwise.square(centred), axes)), n)
        if self.training and self.track_running_stats:
            for running, value in ((self.running_mean, mean), (self.running_var, var * (n / max(n - 1, 1)))):
                new = value.detach().to(running.dtype)
                running._assign(running.detach() * (1 - factor) + new * factor)
        out = elementwise.mul(centred, shaping.reshape(elementwise.rsqrt(elementwise.add(var, self.eps)), *shape))
        if self.weight is not None:
            out = elementwise.mul(out, shaping.reshape(self.weight, *shape))
        return out if self.bias is None else elementwise.add(out, shaping.reshape(self.bias, *shape))

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """``module`` with every batch norm in it replaced; parameters and buffers are the same objects."""
        out = module
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
            out = cls(
                module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats,
                process_group,
            )  # fmt: skip
            out._parameters.update(module._parameters)
            out._buffers.update(module._buffers)
            out.training = module.training
        for name, child in module.named_children():
            out.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return out
