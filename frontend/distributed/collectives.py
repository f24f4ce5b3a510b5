"""Collective operations on tensors and objects. All processes must call them in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir import dtypes
from ...ir.errors import UnsupportedError
from .. import dispatch, tracing
from ..sources import user_place
from ..tape.nodes import counter_of
from .group import Group, current

if TYPE_CHECKING:
    from ..tensor import Tensor


class ReduceOp(Enum):
    """How the processes' values are combined."""

    SUM = "SUM"
    AVG = "AVG"
    PRODUCT = "PROD"
    MIN = "MIN"
    MAX = "MAX"


class Work:
    """A collective in progress."""

    def __init__(self, finish: Any) -> None:
        self._finish = finish

    def wait(self) -> bool:
        """Until the result is there; DistributedError if another process fails."""
        if self._finish is not None:
            finish, self._finish = self._finish, None
            finish()
        return True

    def is_completed(self) -> bool:
        """Whether ``wait`` has returned."""
        return self._finish is None


def _array(t: Tensor, what: str) -> np.ndarray:
    if tracing.is_tracing():
        raise UnsupportedError(f"{user_place()}: {what} cannot be compiled; call it outside the compiled function")
    if not dispatch.is_tensor(t):
        raise TypeError(f"Invalid function argument. Expected parameter `tensor` of type torch.Tensor but got "
                        f"{type(t)} instead.")  # fmt: skip
    return t._data


def _done(work: Work, async_op: bool) -> Work | None:
    if async_op:
        return work
    work.wait()
    return None


def start_sum(group: Group, flat: np.ndarray) -> Any:
    """A running sum of a flat array over all processes, in place; ``group.wait`` finishes it."""
    from mpi4py import MPI

    return group.comm.Iallreduce(MPI.IN_PLACE, flat, MPI.SUM)


def all_reduce(tensor: Tensor, op: ReduceOp = ReduceOp.SUM, group: Any = None, async_op: bool = False) -> Work | None:
    """Combines the processes' tensors, in place on all of them. 16-bit floats are combined in float32."""
    g, array = current(), _array(tensor, "all_reduce")
    if g.comm is None:
        return _done(Work(None), async_op)
    from mpi4py import MPI

    wide = np.float32 if tensor.dtype in (dtypes.float16, dtypes.bfloat16) else array.dtype
    buffer = np.array(array, wide, order="C")
    kind = MPI.SUM if op is ReduceOp.AVG else getattr(MPI, op.value)
    request = g.comm.Iallreduce(MPI.IN_PLACE, buffer, kind)

    def finish() -> None:
        g.wait(request, "all_reduce")
        array[...] = buffer / g.size if op is ReduceOp.AVG else buffer
        counter_of(tensor).value += 1

    return _done(Work(finish), async_op)


def reduce(
    tensor: Tensor, dst: int = 0, op: ReduceOp = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Work | None:
    """``all_reduce`` whose result only process ``dst`` keeps."""
    held = np.array(_array(tensor, "reduce"))
    all_reduce(tensor, op)
    if current().rank != dst:
        tensor._data[...] = held
    return _done(Work(None), async_op)


def broadcast(tensor: Tensor, src: int = 0, group: Any = None, async_op: bool = False) -> Work | None:
    """The tensor of process ``src``, in place on all."""
    g, array = current(), _array(tensor, "broadcast")
    if g.comm is None:
        return _done(Work(None), async_op)
    buffer = np.array(array, order="C").reshape(-1).view(np.uint8)
    request = g.comm.Ibcast(buffer, src)

    def finish() -> None:
        g.wait(request, "broadcast")
        array[...] = buffer.view(array.dtype).reshape(array.shape)
        counter_of(tensor).value += 1

    return _done(Work(finish), async_op)


def all_gather(
    tensor_list: Sequence[Tensor], tensor: Tensor, group: Any = None, async_op: bool = False
) -> Work | None:
    """Every process's tensor, in order of rank, into ``tensor_list`` on all processes."""
    parts = all_arrays(np.asarray(_array(tensor, "all_gather")))
    if len(tensor_list) != len(parts):
        raise ValueError(f"all_gather: {len(parts)} processes, but a list of {len(tensor_list)} tensors")
    for target, part in zip(tensor_list, parts, strict=True):
        target._data[...] = part
        counter_of(target).value += 1
    return _done(Work(None), async_op)


def all_arrays(array: np.ndarray) -> list[np.ndarray]:
    """The arrays (of one shape and dtype) of all processes."""
    g = current()
    if g.comm is None:
        return [array]
    mine = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    every = np.empty((g.size, mine.size), np.uint8)
    g.wait(g.comm.Iallgather(mine, every), "all_gather")
    return [row.view(array.dtype).reshape(array.shape) for row in every]


def gather(
    tensor: Tensor, gather_list: Sequence[Tensor] | None = None, dst: int = 0, group: Any = None, async_op: bool = False
) -> Work | None:
    """Every process's tensor into ``gather_list`` on process ``dst``."""
    parts = all_arrays(np.asarray(_array(tensor, "gather")))
    if current().rank == dst:
        if gather_list is None or len(gather_list) != len(parts):
            raise ValueError("gather: process dst needs a gather_list with one tensor per process")
        for target, part in zip(gather_list, parts, strict=True):
            target._data[...] = part
    return _done(Work(None), async_op)


def scatter(
    tensor: Tensor, scatter_list: Sequence[Tensor] | None = None, src: int = 0, group: Any = None,
    async_op: bool = False,
) -> Work | None:  # fmt: skip
    """The tensors of ``scatter_list`` of process ``src``, one to each process."""
    g, array = current(), _array(tensor, "scatter")
    rows = None
    if g.rank == src:
        if scatter_list is None or len(scatter_list) != g.size:
            raise ValueError("scatter: process src needs a scatter_list with one tensor per process")
        rows = np.stack([np.ascontiguousarray(t._data) for t in scatter_list])
    if g.comm is None:
        array[...] = rows[0]  # type: ignore[index]
        return _done(Work(None), async_op)
    mine = np.empty(array.shape, array.dtype).reshape(-1).view(np.uint8)
    sent = None if rows is None else rows.reshape(g.size, -1).view(np.uint8)
    g.wait(g.comm.Iscatter(sent, mine, src), "scatter")
    array[...] = mine.view(array.dtype).reshape(array.shape)
    counter_of(tensor).value += 1
    return _done(Work(None), async_op)


def barrier(group: Any = None, async_op: bool = False, device_ids: Any = None) -> Work | None:
    """Until all processes have come here."""
    g = current()
    if g.comm is None:
        return _done(Work(None), async_op)
    request = g.comm.Ibarrier()
    return _done(Work(lambda: g.wait(request, "barrier")), async_op)


def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """Every process's object (pickled; the processes of one program trust each other) into ``object_list``."""
    import pickle

    data = np.frombuffer(pickle.dumps(obj), np.uint8)
    sizes = [int(s[0]) for s in all_arrays(np.array([data.size], np.int64))]
    padded = np.zeros(max(sizes), np.uint8)
    padded[: data.size] = data
    for i, (row, size) in enumerate(zip(all_arrays(padded), sizes, strict=True)):
        object_list[i] = pickle.loads(row[:size].tobytes())


def broadcast_object_list(object_list: list[Any], src: int = 0, group: Any = None, device: Any = None) -> None:
    """The objects of process ``src``, on all."""
    found: list[Any] = [None] * current().size
    all_gather_object(found, list(object_list) if current().rank == src else None)
    object_list[:] = found[src]
