"""The worker's side of a ``DataLoader``: a process that turns indices into batches until its parent hangs up."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import random as python_random
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import random, settings
from . import channel
from .fetch import fetcher

GRACE_SECONDS = 5.0  # what a worker may still take for its current batch when nobody waits for it any more

# Messages to a worker: (START, base seed), (FETCH, index). From it, for every FETCH until it has ENDED: (BATCH, data),
# (FAILED, Failure) or (ENDED, None).
START, FETCH, BATCH, FAILED, ENDED = range(5)


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this process is: ``id`` of ``num_workers``, its ``seed`` and its copy of the ``dataset``."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """In a worker process of a ``DataLoader``, which one it is; None in the program's own process."""
    return _info


class _Readable(str):
    """A KeyError prints the repr of its argument, which would put a traceback on one line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Failure:
    """An exception on its way to another process, with its traceback as text."""

    def __init__(self, error: BaseException, where: str) -> None:
        self.kind: Any = type(error)
        self.message = f"Caught {self.kind.__name__} {where}.\nOriginal {''.join(traceback.format_exception(error))}"
        try:
            pickle.dumps(self.kind)
        except Exception:
            self.kind = RuntimeError  # a class inside a function: the other side cannot name it

    def reraise(self) -> None:
        """Raise an exception of the same type whose text holds the worker's traceback."""
        message = _Readable(self.message) if self.kind is KeyError else self.message
        if self.kind is StopIteration:
            raise RuntimeError(message)  # would end the loop of whoever iterates
        try:
            error = self.kind(message)
        except Exception:
            raise RuntimeError(message) from None
        raise error


def run(
    end: socket.socket, dataset: Any, batched: bool, collate: Callable[[Any], Any], drop_last: bool,
    base_seed: int, worker_id: int, num_workers: int, init: Callable[[int], None] | None,
) -> None:  # fmt: skip
    """The main function of a worker process."""
    global _info
    # Ctrl-C reaches every process of the terminal: the program handles it and closes the channel.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    settings.set_num_threads(1)  # the other CPUs are for the other workers and for training
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(end, tasks), daemon=True, name="ingot-data-tasks").start()

    where = f"in DataLoader worker process {worker_id}"
    fetch: Callable[[Any], Any] | None = None
    broken: Failure | None = None
    _seed(base_seed, worker_id)
    _info = WorkerInfo(worker_id, num_workers, base_seed + worker_id, dataset)
    try:
        if init is not None:
            init(worker_id)
    except Exception as error:
        broken = Failure(error, where)
    while (task := tasks.get()) is not None:
        kind, value = task
        if kind == START:
            # A stream begins anew, under the seed of the new epoch if this worker is not new itself.
            try:
                if value != _info.seed - worker_id:
                    _seed(value, worker_id)
                    _info = WorkerInfo(worker_id, num_workers, value + worker_id, dataset)
                fetch = fetcher(dataset, batched, collate, drop_last)
            except Exception as error:
                broken = broken or Failure(error, where)
            continue
        if fetch is None and broken is None:
            continue  # asked before it was known that the stream has ended
        try:
            answer = _answer(fetch, value, broken, where)
            if answer[0] == ENDED:
                fetch = None
            _send(end, answer, where)
        except OSError:
            break  # nobody listens any more


def _answer(fetch: Any, index: Any, broken: Failure | None, where: str) -> tuple[int, Any]:
    if broken is not None:
        return FAILED, broken
    try:
        return BATCH, fetch(index)
    except StopIteration as stop:
        from .dataset import IterableDataset

        if _info is not None and isinstance(_info.dataset, IterableDataset):
            return ENDED, None
        return FAILED, Failure(stop, where)
    except Exception as error:
        return FAILED, Failure(error, where)


def _send(end: socket.socket, answer: tuple[int, Any], where: str) -> None:
    try:
        channel.send(end, answer)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # the batch cannot be pickled, or there is no memory for it
        channel.send(end, (FAILED, Failure(error, where)))


def _read(end: socket.socket, tasks: queue.SimpleQueue[Any]) -> None:
    # Reading all tasks at once keeps the parent from ever waiting in a send, and notices its end at any time.
    with contextlib.suppress(OSError, EOFError):
        while True:
            tasks.put(channel.receive(end))
    tasks.put(None)
    time.sleep(GRACE_SECONDS)
    os._exit(1)  # still in the user's code, maybe for ever


def _seed(base_seed: int, worker_id: int) -> None:
    seed = base_seed + worker_id
    python_random.seed(seed)
    random.manual_seed(seed)
    np.random.seed(np.random.SeedSequence([base_seed, worker_id]).generate_state(4))
