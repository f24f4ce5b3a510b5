"""The process group: who takes part, and what happens when one of them fails.

MPI itself leaves the other processes waiting forever when one raises. Here every wait polls: for completion, for a word
from a process that failed, and for the time limit.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import traceback
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

_FAILED = 4711  # tag of the word of a process that failed
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "PMIX_SIZE")  # set by mpiexec of the usual MPIs


class DistributedError(RuntimeError):
    """Another process failed, or did not answer within the time limit."""


class Group:
    """All processes of the program.

    Attributes:
        comm: mpi4py's communicator; None for a single process.
        rank, size: this process's number and how many there are.
        timeout: seconds that a collective may wait for the others.
    """

    def __init__(self, comm: Any, timeout: float) -> None:
        self.comm = comm
        self.control = comm.Dup() if comm is not None else None
        self.rank = comm.Get_rank() if comm is not None else 0
        self.size = comm.Get_size() if comm is not None else 1
        self.timeout = timeout

    def wait(self, request: Any, what: str) -> None:
        """Until ``request`` is complete; DistributedError if another process fails meanwhile or time runs out."""
        end, pause = time.monotonic() + self.timeout, 0.0
        while not request.Test():
            self.check()
            if time.monotonic() > end:
                raise DistributedError(f"{what}: rank {self.rank} has waited {self.timeout:.0f} s for the others; one "
                                       "of them is stuck, or takes another path through the program")  # fmt: skip
            time.sleep(pause)
            pause = min(pause + 1e-5, 1e-3)

    def check(self) -> None:
        """DistributedError if another process has said that it failed."""
        if self.control.Iprobe(tag=_FAILED):
            rank, words = self.control.recv(tag=_FAILED)
            raise DistributedError(f"rank {rank} failed: {words}")

    def tell_failure(self, error: BaseException) -> None:
        """Tell the others that this process ends with ``error``."""
        words = "".join(traceback.format_exception_only(error)).strip()
        requests = [
            self.control.isend((self.rank, words), r, tag=_FAILED) for r in range(self.size) if r != self.rank
        ]
        end = time.monotonic() + 2.0
        while time.monotonic() < end and not all([r.Test() for r in requests]):
            time.sleep(0.01)


_group: Group | None = None
_hook: Any = None


def is_available() -> bool:
    """True: one process is always a group."""
    return True


def is_mpi_available() -> bool:
    """Whether mpi4py is installed."""
    return find_spec("mpi4py") is not None


def is_initialized() -> bool:
    """Whether ``init_process_group`` was called."""
    return _group is not None


def _started_by_mpi() -> int:
    return max((int(os.environ[name]) for name in _SIZES if os.environ.get(name, "").isdigit()), default=1)


def init_process_group(
    backend: str | None = None, init_method: str | None = None, timeout: timedelta | None = None, world_size: int = -1,
    rank: int = -1, **unused: Any,
) -> None:  # fmt: skip
    """Join the group of all processes that ``mpiexec`` started.

    Args:
        backend: None or ``"mpi"``; ``"gloo"`` is taken for it. ``"nccl"`` is refused: there are no GPUs.
        timeout: how long a collective may wait for the others (default: 30 minutes).
        world_size, rank: checked if given; MPI knows them.

    Raises:
        RuntimeError: called twice; several processes and no mpi4py; a size that does not fit.
        DistributedError (from collectives): another process failed or does not answer.
    """
    global _group
    if _group is not None:
        raise RuntimeError("trying to initialize the default process group twice!")
    if backend not in (None, "mpi", "gloo"):
        raise RuntimeError(f"backend {backend!r} is not available; Ingot's processes talk over MPI (backend 'mpi')")
    comm = None
    if _started_by_mpi() > 1 or world_size > 1 or (backend == "mpi" and is_mpi_available()):
        if not is_mpi_available():
            raise RuntimeError("several processes need mpi4py and an MPI library: pip install 'ingot[mpi]'")
        from mpi4py import MPI

        comm = MPI.COMM_WORLD if MPI.COMM_WORLD.Get_size() > 1 else None
    group = Group(comm, (timeout or timedelta(minutes=30)).total_seconds())
    for name, given, found in (("world_size", world_size, group.size), ("rank", rank, group.rank)):
        if given not in (-1, found):
            raise RuntimeError(f"init_process_group: {name}={given}, but MPI says {found}; start the program with "
                               "mpiexec -n N")  # fmt: skip
    _group = group
    if comm is not None:
        _watch()


def _watch() -> None:
    """An uncaught exception of this process reaches the others as an error instead of leaving them waiting."""
    global _hook
    _hook = sys.excepthook

    def hook(kind: Any, error: BaseException, trace: Any) -> None:
        _hook(kind, error, trace)
        sys.stderr.flush()
        if _group is not None and _group.comm is not None:
            if not isinstance(error, DistributedError):
                _group.tell_failure(error)
            time.sleep(1.0)  # the others print what they were told before they are ended
            _group.comm.Abort(1)

    sys.excepthook = hook
    atexit.register(destroy_process_group)


def destroy_process_group(group: Any = None) -> None:
    """Leave the group."""
    global _group, _hook
    if _hook is not None:
        sys.excepthook, _hook = _hook, None
    _group = None


def current() -> Group:
    """The group; RuntimeError before ``init_process_group``."""
    if _group is None:
        raise RuntimeError("Default process group has not been initialized, please make sure to call "
                           "init_process_group.")  # fmt: skip
    return _group


def get_rank(group: Any = None) -> int:
    """This process's number, from 0."""
    return current().rank


def get_world_size(group: Any = None) -> int:
    """How many processes there are."""
    return current().size


def get_backend(group: Any = None) -> str:
    """``"mpi"``."""
    current()
    return "mpi"
