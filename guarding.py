"""Runs a program of the debug build in a child process, so that a segmentation fault becomes an error with a name."""

from __future__ import annotations

import mmap
import os
import signal
import sys
from collections.abc import Sequence

import numpy as np

from .ir.errors import IngotError, UnsupportedError
from .ir.plan import Program
from .runtime.executable import Executable
from .runtime.guard import BoundsError, GuardedExecutable

_FAILED = 3


def run_guarded(
    program: Program, inputs: Sequence[np.ndarray], *, threads: int | None = None, place: str = "end"
) -> list[np.ndarray]:
    """Outputs of ``program`` (built with ``debug="bounds"``) for ``inputs``; updated inputs stay as they are.

    ``place``: ``"end"`` or ``"start"``, the end of each buffer that lies at a guard page. BoundsError says which
    step touched or left out what; other IngotErrors as the program's own.
    """
    if sys.platform != "linux":
        raise UnsupportedError("the guarded run needs Linux")
    inputs = [np.array(a, order="C") for a in inputs]
    shapes = Executable(program, threads=1).output_shapes([a.shape for a in inputs])
    results = [_shared(shape, port.type.dtype.numpy) for shape, port in zip(shapes, program.outputs, strict=True)]
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = _FAILED
        try:
            os.close(reader)
            outputs = GuardedExecutable(program, threads=threads, place=place, report=writer).run(inputs)
            for result, output in zip(results, outputs, strict=True):
                result[...] = output
            code = 0
        except BaseException as error:
            kind = "" if isinstance(error, IngotError) else f"{type(error).__name__}: "
            os.write(writer, f"{kind}{error}\n".encode())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as pipe:
        text = pipe.read().strip()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGSEGV:
        raise BoundsError(text or "segmentation fault outside of any step")
    if status:
        raise BoundsError(text or f"the guarded process ended with status {status}")
    return results


def _shared(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that parent and child both see."""
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8)[:size].view(dtype).reshape(shape)
