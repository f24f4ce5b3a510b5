"""``DistributedDataParallel``: every process computes on its part of the batch, gradients are averaged over all.

Gradients are put into buckets in the order in which backward finishes them (last parameters first). A full bucket is
summed while the backward pass goes on; the end of the pass waits for all of them and writes the averages back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ....ir import dtypes
from ....runtime import backward as engine
from ... import dispatch, grad_mode
from ...device import require_cpu
from ...distributed import all_gather_object, broadcast
from ...distributed.collectives import start_sum
from ...distributed.group import current
from ...tensor import Tensor
from ..module import Module

_FIRST_BUCKET = 1 << 20  # bytes: the first bucket is small, so that the first sum starts early


class _Bucket:
    """Parameters of one dtype whose gradients travel together."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        wide = np.float32 if parameters[0].dtype in (dtypes.float16, dtypes.bfloat16) else parameters[0].dtype.numpy
        self.flat = np.zeros(sum(p._data.size for p in parameters), wide)
        self.waiting: set[int] = set()
        self.request: Any = None

    def reset(self) -> None:
        self.waiting = {id(p) for p in self.parameters}
        self.request = None

    def fill(self) -> None:
        at = 0
        for p in self.parameters:
            n = p._data.size
            self.flat[at : at + n] = 0 if p._grad is None else p._grad._data.reshape(-1)
            at += n

    def write_back(self, size: int, used: set[int]) -> None:
        at = 0
        for p in self.parameters:
            n = p._data.size
            if id(p) in used:
                mean = (self.flat[at : at + n] / size).reshape(p._data.shape).astype(p._data.dtype)
                if p._grad is None:
                    p._grad = dispatch.from_array(mean)
                else:
                    p._grad._data[...] = mean
            at += n


class DistributedDataParallel(Module):
    """``module`` on every process of the group, with gradients averaged in backward.

    Parameters and buffers start as those of process 0. Keys of ``state_dict`` begin with ``module.``.

    Args:
        broadcast_buffers: every forward in training starts from the buffers of process 0.
        bucket_cap_mb: size of a bucket.
        find_unused_parameters: parameters that the loss does not reach count with a gradient of zero.
        device_ids, output_device: the CPU is the only device.
        gradient_as_bucket_view, static_graph, check_reduction: accepted for PyTorch's sake.

    Raises:
        RuntimeError: nothing to train; the processes have different modules; (in the next forward) parameters were not
            used. DistributedError: another process failed.
    """

    def __init__(
        self, module: Module, device_ids: Sequence[Any] | None = None, output_device: Any = None, dim: int = 0,
        broadcast_buffers: bool = True, process_group: Any = None, bucket_cap_mb: float | None = None,
        find_unused_parameters: bool = False, check_reduction: bool = False, gradient_as_bucket_view: bool = False,
        static_graph: bool = False, **unused: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        for device in (*(device_ids or ()), output_device):
            require_cpu(device)
        self._group = current()
        self.module = module
        self.dim, self.broadcast_buffers = dim, broadcast_buffers
        self.find_unused_parameters = find_unused_parameters
        self.require_backward_grad_sync = True
        self._names = {id(p): name for name, p in module.named_parameters()}
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            raise RuntimeError("DistributedDataParallel is not needed when a module doesn't have any parameter that "
                               "requires a gradient.")  # fmt: skip
        self._same_everywhere(trained)
        self._share([*module.parameters(), *module.buffers()])
        cap = int((25 if bucket_cap_mb is None else bucket_cap_mb) * (1 << 20))
        self._buckets = [_Bucket(ps) for ps in _in_buckets(trained, cap)]
        self._of = {id(p): b for b in self._buckets for p in b.parameters}
        self._next = 0  # buckets start in one order everywhere
        self._armed = False
        self._used: set[int] = set()
        if self._group.size > 1:
            for p in trained:
                p.register_post_accumulate_grad_hook(self._ready)

    def _same_everywhere(self, trained: Sequence[Tensor]) -> None:
        mine = [(self._names[id(p)], tuple(p.shape), p.dtype.name) for p in trained]
        every: list[Any] = [None] * self._group.size
        all_gather_object(every, mine)
        for rank, other in enumerate(every):
            if other != mine:
                different = next((a, b) for a, b in zip([*mine, None], [*other, None], strict=False) if a != b)
                raise RuntimeError(f"DDP expects same model across all ranks, but rank {self._group.rank} has "
                                   f"{different[0]} where rank {rank} has {different[1]}")  # fmt: skip

    def _share(self, tensors: Sequence[Tensor]) -> None:
        with grad_mode.no_grad():
            for t in tensors:
                broadcast(t, 0)

    # -- forward --------------------------------------------------------------------------------------
    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        if self._group.size > 1 and grad_mode.is_grad_enabled() and self.require_backward_grad_sync:
            if self._armed and self._used and self._next < len(self._buckets):
                missing = [self._names[i] for b in self._buckets for i in b.waiting]
                raise RuntimeError(
                    "Expected to have finished reduction in the prior iteration before starting a new one. This error "
                    "indicates that your module has parameters that were not used in producing loss: "
                    f"{', '.join(missing)}. You can enable unused parameter detection by passing the keyword argument "
                    "`find_unused_parameters=True` to `torch.nn.parallel.DistributedDataParallel`."
                )
            self._arm()
        if self.broadcast_buffers and self.training and self._group.size > 1 and self.require_backward_grad_sync:
            self._share(list(self.module.buffers()))
        return self.module(*inputs, **kwargs)

    def _arm(self) -> None:
        for bucket in self._buckets:
            bucket.reset()
        self._next, self._armed, self._used = 0, True, set()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients of the backward passes inside stay this process's own, and accumulate."""
        before, self.require_backward_grad_sync = self.require_backward_grad_sync, False
        try:
            yield
        finally:
            self.require_backward_grad_sync = before

    # -- backward -------------------------------------------------------------------------------------
    def _ready(self, p: Tensor) -> None:
        if not self._armed or not self.require_backward_grad_sync:
            return
        if not self._used:
            engine.at_end(self._finish)
        self._used.add(id(p))
        self._of[id(p)].waiting.discard(id(p))
        self._start()

    def _start(self) -> None:
        while self._next < len(self._buckets) and not self._buckets[self._next].waiting:
            bucket = self._buckets[self._next]
            bucket.fill()
            bucket.request = start_sum(self._group, bucket.flat)
            self._next += 1
        for bucket in self._buckets[: self._next]:
            bucket.request.Test()  # lets MPI move on

    def _finish(self) -> None:
        """At the end of the backward pass."""
        if self.find_unused_parameters:
            for bucket in self._buckets:
                bucket.waiting.clear()
            self._start()
            self._used = self._used_anywhere()
        if self._next < len(self._buckets):
            return  # the next forward says which parameters are missing
        for bucket in self._buckets:
            self._group.wait(bucket.request, "averaging gradients")
            bucket.write_back(self._group.size, self._used)
        self._armed = False

    def _used_anywhere(self) -> set[int]:
        ids = [id(p) for b in self._buckets for p in b.parameters]
        flags = np.array([float(i in self._used) for i in ids])
        self._group.wait(start_sum(self._group, flags), "averaging gradients")
        return {i for i, flag in zip(ids, flags, strict=True) if flag}


def _in_buckets(parameters: Sequence[Tensor], cap: int) -> list[list[Tensor]]:
    """Last parameters first, one dtype per bucket, ``cap`` bytes at most unless one parameter is larger."""
    buckets: list[list[Tensor]] = []
    filled: dict[Any, tuple[list[Tensor], int]] = {}
    for p in reversed(parameters):
        bucket, size = filled.get(p.dtype, ([], 0))
        limit = min(cap, _FIRST_BUCKET) if bucket and bucket is buckets[0] else cap
        if not bucket or size + p._data.nbytes > limit:
            bucket, size = [], 0
            buckets.append(bucket)
        bucket.append(p)
        filled[p.dtype] = bucket, size + p._data.nbytes
    return buckets
