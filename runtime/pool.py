"""The process-wide pool of worker threads.

Workers are Python threads that spend their life in one native call (``OP_WORKER``, the GIL released); jobs
and sleeping are handled natively, see ``codegen/executor_pool.py``. The pool's memory block stays at one
address for the whole life of the process, so tables of any executable can point to it.

Fork: the child has no workers; its copy of the block is reset and workers start afresh when first needed.
Exit: workers are told to return and joined briefly; block and code are never unmapped, so a worker that is
late finds them where they were.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
import threading
import time
from typing import Any

import numpy as np

from ..ir import abi
from ..ir.plan import KernelImage
from . import memory
from .code import CodeMap

NativeFunction = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
SPIN_SECONDS = 40e-6  # of a worker between calls, at most; eight times as long within one
LOST_SECONDS = 1e-3  # who sees the clock jump this far was off its CPU for a time slice
SUPPORTED = sys.platform == "linux"  # elsewhere the executor has no workers
MAX_THREADS = abi.POOL_MAX_PARTICIPANTS


class Pool:
    """Worker threads and the memory block they share with callers. Use the module's ``POOL``."""

    def __init__(self) -> None:
        self.size = 0  # workers started
        self._block = memory.allocate(abi.POOL_BYTES, 4096)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._block))
        self.address = memory.address_of(self._block)
        self._native: Any = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._caller_cpu = -1

    def ensure(self, workers: int, executor: KernelImage) -> None:
        """At least ``workers`` workers (at most MAX_THREADS - 1) are running, if the system lets us.

        ``executor`` supplies the code if none is loaded yet.
        """
        workers = min(workers, MAX_THREADS - 1)
        if self.size >= workers or not SUPPORTED:
            return
        with self._lock:
            if self._closed:
                return
            if self._native is None:
                self._load(executor)
            while self.size < workers:
                thread = threading.Thread(
                    target=self._native,
                    args=(self.address, abi.OP_WORKER, self.size),
                    name=f"ingot-worker-{self.size}",
                    daemon=True,
                )
                try:
                    thread.start()
                except RuntimeError:  # no more threads to be had: callers do the work themselves
                    self._closed = True
                    return
                self._threads.append(thread)
                self.size += 1
            self._caller_cpu = -1

    def clear_caller_cpu(self) -> None:
        """Keeps the workers off the CPU that the calling thread runs on, until a call comes from another one.

        A worker that is woken on the caller's CPU would wait there for the rest of its time slice (milliseconds)
        while another CPU is idle. Costs a fraction of a microsecond as long as the caller stays where it is.
        """
        if _current_cpu is None or (cpu := _current_cpu()) == self._caller_cpu:
            return
        self._caller_cpu = cpu
        others = os.sched_getaffinity(0) - {cpu}
        if others:
            for thread in self._threads:
                with contextlib.suppress(OSError, TypeError):  # it is only a hint; the thread may not have started
                    os.sched_setaffinity(thread.native_id, others)  # type: ignore[arg-type]

    def _load(self, executor: KernelImage) -> None:
        code = CodeMap({abi.EXECUTOR: executor})
        code.keep_forever()
        native = NativeFunction(code.address(abi.EXECUTOR))
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
        rate = clock_rate(native, 0.5e-3)
        self._word(abi.POOL_SPIN_BYTES, np.int64)[0] = int(SPIN_SECONDS * rate)
        self._word(abi.POOL_LOST_BYTES, np.int64)[0] = int(LOST_SECONDS * rate)
        self._native = native

    def _word(self, offset: int, dtype: type) -> np.ndarray:
        return self._block[offset : offset + 8].view(dtype)

    def trace(self) -> np.ndarray:
        """int64 [participants, 2]: chunks run and sleeps so far, the callers' in row 0. For tests."""
        lines = self._block[abi.POOL_TRACE_BYTES :].view(np.int64).reshape(-1, 8)
        return lines[: self.size + 1, :2].copy()

    def close(self, timeout: float = 1.0) -> None:
        """Sends the workers home and waits up to ``timeout`` seconds in all for them."""
        with self._lock:
            self._closed = True
            if self._native is not None:
                self._native(self.address, abi.OP_STOP, 0)
            deadline = time.monotonic() + timeout
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def after_fork(self) -> None:
        """Starts over in a forked child, which inherits the memory but no threads."""
        self._lock = threading.Lock()
        self._threads = []
        self._closed = False
        self._caller_cpu = -1
        self.size = 0
        settings = self._word(abi.POOL_SPIN_BYTES, np.int64), self._word(abi.POOL_LOST_BYTES, np.int64)
        held = [int(word[0]) for word in settings]
        self._block[:] = 0
        for word, value in zip(settings, held, strict=True):
            word[0] = value


def _find_current_cpu() -> Any:
    """``sched_getcpu`` of the C library, None where there is none."""
    if not SUPPORTED or not hasattr(os, "sched_setaffinity"):
        return None
    try:
        function = ctypes.PyDLL(None).sched_getcpu
    except (AttributeError, OSError):
        return None
    function.argtypes, function.restype = (), ctypes.c_int
    return function if function() >= 0 else None


_current_cpu = _find_current_cpu()


def clock_rate(native: Any, seconds: float) -> float:
    """Ticks per second of the executor's clock, measured for ``seconds``."""
    started, first = time.perf_counter(), native(0, abi.OP_CLOCK, 0)
    while True:
        now, ticks = time.perf_counter(), native(0, abi.OP_CLOCK, 0)
        if now - started >= seconds:
            return max(1.0, (ticks - first) / (now - started))


POOL = Pool()
atexit.register(POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.after_fork)
