"""``DataLoader``: batches of a dataset, made in this process or in workers."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import channel, worker
from .collate import default_collate, default_convert
from .dataset import IterableDataset
from .fetch import fetcher
from .sampler import BatchSampler, RandomSampler, SequentialSampler, draw_seed

if TYPE_CHECKING:
    from ...random import Generator

T_co = TypeVar("T_co", covariant=True)

__all__ = ["DataLoader", "default_collate", "default_convert"]


class _Endless:
    """The sampler of a stream: the dataset knows when it ends."""

    def __iter__(self) -> Iterator[None]:
        return itertools.repeat(None)


class DataLoader(Generic[T_co]):
    """Iterates over batches of ``dataset``; every ``iter`` is one epoch.

    Args:
        dataset: an object with ``__getitem__`` and ``__len__``, or an ``IterableDataset``.
        batch_size: samples per batch; None gives the samples one by one, uncollated.
        shuffle: a new random order for every epoch, drawn from ``generator``.
        sampler: gives indices in place of ``shuffle``; ``batch_sampler`` gives lists of indices.
        num_workers: processes that load ahead of time, ``prefetch_factor`` batches each (2); 0 loads in this process.
        collate_fn: from a list of samples to a batch; ``default_collate``.
        drop_last: leave an incomplete last batch out.
        timeout: seconds to wait for a worker's batch, 0 for ever.
        worker_init_fn: called with the worker's number in every worker after its random generators were seeded.
        multiprocessing_context: a start method ("fork", "spawn", "forkserver") or context.
        persistent_workers: keep the workers from one epoch to the next.
        in_order: whether batches come in the sampler's order; otherwise as workers finish.
        pin_memory, pin_memory_device: accepted; there is no device to pin memory for.

    Raises ValueError for combinations that exclude each other. An exception in a worker is raised here with the same
    type and with the worker's traceback in its text.
    """

    _initialized = False
    _FIXED = frozenset({"batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"})

    def __init__(
        self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None,
        sampler: Any = None, batch_sampler: Iterable[list[Any]] | None = None, num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None, pin_memory: bool = False, drop_last: bool = False,
        timeout: float = 0, worker_init_fn: Callable[[int], None] | None = None, multiprocessing_context: Any = None,
        generator: Generator | None = None, *, prefetch_factor: int | None = None, persistent_workers: bool = False,
        pin_memory_device: str = "", in_order: bool = True,
    ) -> None:  # fmt: skip
        if num_workers < 0:
            raise ValueError("num_workers option should be non-negative; use num_workers=0 to disable multiprocessing.")
        if timeout < 0:
            raise ValueError("timeout option should be non-negative")
        if num_workers == 0 and prefetch_factor is not None:
            raise ValueError("prefetch_factor option could only be specified in multiprocessing.let num_workers > 0 to "
                             "enable multiprocessing, otherwise set prefetch_factor to None.")  # fmt: skip
        if prefetch_factor is not None and prefetch_factor < 0:
            raise ValueError("prefetch_factor option should be non-negative")
        if persistent_workers and num_workers == 0:
            raise ValueError("persistent_workers option needs num_workers > 0")
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.in_order = in_order

        streamed = isinstance(dataset, IterableDataset)
        if streamed:
            for name, value in (("shuffle", shuffle), ("sampler", sampler), ("batch_sampler", batch_sampler)):
                if value not in (None, False) if name == "shuffle" else value is not None:
                    raise ValueError(f"DataLoader with IterableDataset: expected unspecified {name} option, but got "
                                     f"{name}={value}")  # fmt: skip
        shuffle = bool(shuffle)
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError("batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and "
                                 "drop_last")  # fmt: skip
            batch_size, drop_last = None, False
        elif batch_size is None and drop_last:
            raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")
        if sampler is None:
            if streamed:
                sampler = _Endless()
            else:
                sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.generator = generator
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate
        self.collate_fn = collate_fn
        self.persistent_workers = persistent_workers
        self._initialized = True
        self._promised: int | None = None  # what len() said of a stream
        self._iterator: _Iterator | None = None
        self.check_worker_number_rationality()

    @property
    def multiprocessing_context(self) -> Any:
        return self._context

    @multiprocessing_context.setter
    def multiprocessing_context(self, context: Any) -> None:
        if context is not None:
            if self.num_workers == 0:
                raise ValueError("multiprocessing_context can only be used with multi-process loading (num_workers > 0)"
                                 f", but got num_workers={self.num_workers}")  # fmt: skip
            if isinstance(context, str):
                methods = multiprocessing.get_all_start_methods()
                if context not in methods:
                    raise ValueError("multiprocessing_context option should specify a valid start method in "
                                     f"{methods!r}, but got multiprocessing_context={context!r}")  # fmt: skip
                context = multiprocessing.get_context(context)
            if not isinstance(context, multiprocessing.context.BaseContext):
                raise TypeError("multiprocessing_context option should be a valid context object or a string "
                                f"specifying the start method, but got multiprocessing_context={context}")  # fmt: skip
        self._context = context

    def __setattr__(self, name: str, value: Any) -> None:
        if self._initialized and name in self._FIXED:
            raise ValueError(f"{name} attribute should not be set after {type(self).__name__} is initialized")
        super().__setattr__(name, value)

    @property
    def _index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers == 0:
            return _InProcess(self)
        if not self.persistent_workers:
            return _WithWorkers(self)
        if self._iterator is None:
            self._iterator = _WithWorkers(self)
        else:
            self._iterator.restart()
        return self._iterator

    def __len__(self) -> int:
        """Number of batches; of a stream what its ``len`` says, however many workers there are."""
        if not isinstance(self.dataset, IterableDataset):
            return len(self._index_sampler)
        length = self._promised = len(self.dataset)  # type: ignore[arg-type]
        if self.batch_size is not None:
            full, rest = divmod(length, self.batch_size)
            length = full if self.drop_last or not rest else full + 1
        return length

    def check_worker_number_rationality(self) -> None:
        """Warns if there are more workers than CPUs for this process."""
        if hasattr(os, "sched_getaffinity"):
            cpus, known = len(os.sched_getaffinity(0)), True
        else:
            cpus, known = os.cpu_count() or 0, False
        if self.num_workers > cpus > 0:
            doubt = "" if known else (" (`cpuset` is not taken into account)")
            warnings.warn(
                f"This DataLoader will create {self.num_workers} worker processes in total. Our suggested max number "
                f"of worker in current system is {cpus}{doubt}, which is smaller than what this DataLoader is going to "
                "create. Please be aware that excessive worker creation might get DataLoader running slow or even "
                "freeze, lower the worker number to avoid potential slowness/freeze if necessary.",
                stacklevel=3,
            )


class _Iterator:
    """One epoch: what both ways of loading share."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        if loader.pin_memory:
            warnings.warn("'pin_memory' argument is set as true but no accelerator is found, then device pinned memory "
                          "won't be used.", stacklevel=4)  # fmt: skip
        self.restart()

    def restart(self) -> None:
        """Begin an epoch."""
        self._indices = iter(self._loader._index_sampler)
        self._base_seed = draw_seed(self._loader.generator)
        self._given = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        return len(self._loader._index_sampler)

    def __next__(self) -> Any:
        data = self._next()
        self._given += 1
        promised = self._loader._promised
        if promised is not None and isinstance(self._loader.dataset, IterableDataset) and self._given > promised:
            text = (f"Length of IterableDataset {self._loader.dataset} was reported to be {promised} (when accessing "
                    f"len(dataloader)), but {self._given} samples have been fetched. ")  # fmt: skip
            if self._loader.num_workers:
                text += ("For multiprocessing data-loading, this could be caused by not properly configuring the "
                         "IterableDataset replica at each worker. Please see "
                         "https://pytorch.org/docs/stable/data.html#torch.utils.data.IterableDataset for "
                         "examples.")  # fmt: skip
            warnings.warn(text, stacklevel=2)
        return data

    def _next(self) -> Any:
        raise NotImplementedError


class _InProcess(_Iterator):
    def restart(self) -> None:
        super().restart()
        loader = self._loader
        batched = loader.batch_sampler is not None
        self._fetch = fetcher(loader.dataset, batched, loader.collate_fn, loader.drop_last)

    def _next(self) -> Any:
        return self._fetch(next(self._indices))


class _WithWorkers(_Iterator):
    """Tasks go to the workers in turn; batches are taken from them in the same order."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._processes: list[Any] = []
        self._ends: list[socket.socket] = []
        # Runs when this object is dropped, at the latest at exit; in a forked child it must not touch the parent's
        # processes.
        self._stop = weakref.finalize(self, _shut_down, self._processes, self._ends, os.getpid())
        if not loader.prefetch_factor:
            raise AssertionError("prefetch_factor must be positive with num_workers > 0")
        super().__init__(loader)

    def restart(self) -> None:
        super().restart()
        loader = self._loader
        if not self._processes:
            self._start()
        elif self._pending:  # the last epoch was left early
            self._drain()
        self._pending: deque[int] = deque()
        self._active = [True] * loader.num_workers
        self._turns = itertools.cycle(range(loader.num_workers))
        for number in range(loader.num_workers):
            self._tell(number, (worker.START, self._base_seed))
        for _ in range(loader.num_workers * loader.prefetch_factor):  # type: ignore[operator]
            self._ask()

    def _start(self) -> None:
        loader = self._loader
        context = loader.multiprocessing_context or multiprocessing.get_context()
        batched = loader.batch_sampler is not None
        for number in range(loader.num_workers):
            ours, theirs = channel.pair()
            with theirs:
                process = context.Process(
                    target=worker.run,
                    args=(theirs, loader.dataset, batched, loader.collate_fn, loader.drop_last, self._base_seed, number,
                          loader.num_workers, loader.worker_init_fn),
                    daemon=True,
                )  # fmt: skip
                # Until the worker ignores Ctrl-C for itself.
                held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                try:
                    process.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, held)
            self._ends.append(ours)
            self._processes.append(process)

    def _ask(self, number: int | None = None) -> None:
        """One more batch from the next worker whose turn it is, or from this one."""
        if number is None or not self._active[number]:
            number = next((n for n in itertools.islice(self._turns, len(self._active)) if self._active[n]), None)
        if number is None:
            return
        try:
            index = next(self._indices)
        except StopIteration:
            return
        self._tell(number, (worker.FETCH, index))
        self._pending.append(number)

    def _tell(self, number: int, message: Any) -> None:
        try:
            channel.send(self._ends[number], message)
        except (BrokenPipeError, ConnectionResetError):
            self._lost(number)

    def _next(self) -> Any:
        while self._pending:
            number = self._pending[0] if self._loader.in_order else self._first_ready()
            kind, value = self._receive(number)
            self._pending.remove(number)  # the first of its tasks
            if kind == worker.ENDED:
                # Its other tasks get no answer; their places go to the others.
                self._active[number] = False
                free = 1 + self._pending.count(number)
                self._pending = deque(n for n in self._pending if n != number)
                for _ in range(free if any(self._active) else 0):
                    self._ask()
                continue
            self._ask(None if self._loader.in_order else number)
            if kind == worker.FAILED:
                value.reraise()
            return value
        if not self._loader.persistent_workers:
            self._stop()
        raise StopIteration

    def _first_ready(self) -> int:
        waiting = {self._ends[n]: n for n in self._pending}
        ready = wait(list(waiting), self._loader.timeout or None)
        if not ready:
            self._timed_out()
        return waiting[ready[0]]  # type: ignore[index]

    def _receive(self, number: int) -> Any:
        end = self._ends[number]
        if self._loader.timeout and not wait([end], self._loader.timeout):
            self._timed_out()
        try:
            return channel.receive(end)
        except (EOFError, ConnectionResetError):
            self._lost(number)

    def _timed_out(self) -> None:
        raise RuntimeError(f"DataLoader timed out after {self._loader.timeout} seconds")

    def _lost(self, number: int) -> None:
        process = self._processes[number]
        process.join(worker.GRACE_SECONDS)
        code = process.exitcode
        self._pending = deque()
        self._stop()
        if self._loader._iterator is self:
            self._loader._iterator = None
        if code is not None and code < 0:
            name = signal.strsignal(-code)
            raise RuntimeError(f"DataLoader worker (pid {process.pid}) is killed by signal: {name}. ")
        raise RuntimeError(f"DataLoader worker (pid(s) {process.pid}) exited unexpectedly")

    def _drain(self) -> None:
        while self._pending:
            number = self._pending.popleft()
            if self._receive(number)[0] == worker.ENDED:
                self._pending = deque(n for n in self._pending if n != number)


def _shut_down(processes: list[Any], ends: list[socket.socket], owner: int) -> None:
    if os.getpid() != owner:
        return
    for end in ends:
        end.close()  # a worker that sees this finishes its batch and returns
    limit = time.monotonic() + worker.GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, limit - time.monotonic()))
        if process.is_alive():
            process.terminate()
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()
    processes.clear()
    ends.clear()
