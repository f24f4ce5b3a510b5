"""The debug build for memory: every buffer between pages that cannot be touched, checked after every step.

A program built with ``debug="bounds"`` has no arena: each intermediate is a buffer of its own (``kind`` "dynamic").
``GuardedExecutable`` gives each of them, each input, output and weight and each participant's scratch its own pages
between two guard pages, and runs the steps one by one:

- Only a step's own operands can be accessed while it runs, weights and inputs only read. Anything else is a
  segmentation fault, which a handler turns into one line: step, kernel, buffer, side, distance; then the process
  ends, as it must. ``guarding.run_guarded`` puts this into a child process.
- What is left of a buffer's pages holds a pattern, and so does scratch that the step did not ask for. A change is a
  BoundsError with the same facts.
- Memory that nobody has written holds the same pattern, a NaN of every floating type. A step that leaves some of
  it in a result is a BoundsError too.

Buffers end right at a guard page (``place="end"``: reading too far is found to the byte) or begin at one
(``"start"``).
"""

from __future__ import annotations

import copy
import ctypes
import mmap
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import abi
from ..ir.errors import CheckError, UnsupportedError
from ..ir.plan import BufferRef, Program
from . import memory
from .executable import Executable
from .tables import Context, Frame

PAGE = mmap.PAGESIZE
DEBUG = "bounds"  # Program.metadata["debug"] of a program built for this
PATTERN = 0x7FF9  # repeated, a quiet NaN of float16, bfloat16, float32 and float64
_NONE, _READ, _WRITE = 0, 1, 3
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class BoundsError(CheckError):
    """A kernel touched memory that is not its own, or left a part of its result unwritten."""


@dataclass(frozen=True)
class Touch:
    """A stray access: which buffer it is next to, on which side, and how many bytes away."""

    name: str
    side: str
    distance: int
    size: int

    def __str__(self) -> str:
        return f"{self.distance} bytes {self.side} {self.name} of {self.size} bytes"


class Region:
    """``nbytes`` bytes between guard pages; ``array`` is the memory as uint8."""

    def __init__(self, name: str, nbytes: int, place: str = "end") -> None:
        self.name, self.nbytes = name, nbytes
        self.pages = max(1, -(-nbytes // PAGE))
        self._map = mmap.mmap(-1, (self.pages + 2) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._raw = np.frombuffer(self._map, np.uint8)
        self.base = memory.address_of(self._raw)
        room = self.pages * PAGE
        start = PAGE + (room - nbytes if place == "end" else 0)
        self.array = self._raw[start : start + nbytes]
        self._slack = {"before": self._raw[PAGE:start], "after": self._raw[start + nbytes : PAGE + room]}
        self._wanted = {side: _pattern(s, PAGE if side == "before" else start + nbytes)
                        for side, s in self._slack.items()}  # fmt: skip
        _protect(self.base, PAGE, _NONE)
        _protect(self.base + (self.pages + 1) * PAGE, PAGE, _NONE)
        self.poison()

    def poison(self) -> None:
        self._raw[PAGE : (self.pages + 1) * PAGE].view(np.uint16)[:] = PATTERN

    def allow(self, access: int) -> None:
        _protect(self.base + PAGE, self.pages * PAGE, access)

    def view(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        return self.array.view(dtype).reshape(shape)

    def changed(self) -> Touch | None:
        """The first byte beside the buffer that does not hold the pattern any more."""
        for side, slack in self._slack.items():
            wrong = np.flatnonzero(slack != self._wanted[side])
            if wrong.size:
                away = len(slack) - int(wrong[-1]) if side == "before" else int(wrong[0]) + 1
                where = "before the start of" if side == "before" else "beyond the end of"
                return Touch(self.name, where, away, self.nbytes)
        return None

    def unwritten(self) -> int | None:
        """Position of the first four bytes that still hold the pattern."""
        whole = self.array[: self.nbytes // 4 * 4]
        if memory.address_of(whole) % 2:  # bytes at an odd address: the pattern is out of step
            return None
        found = np.flatnonzero(whole.view(np.uint32) == PATTERN << 16 | PATTERN)
        return int(found[0]) * 4 if found.size else None

    def near(self, address: int) -> Touch | None:
        """What an access to ``address`` missed, if it lies in these pages or guards."""
        if not self.base <= address < self.base + (self.pages + 2) * PAGE:
            return None
        start = memory.address_of(self.array)
        if address < start:
            return Touch(self.name, "before the start of", start - address, self.nbytes)
        if address >= start + self.nbytes:
            return Touch(self.name, "beyond the end of", address - start - self.nbytes + 1, self.nbytes)
        return Touch(self.name, "into", address - start, self.nbytes)


def _pattern(like: np.ndarray, phase: int) -> np.ndarray:
    both = np.resize(np.array([PATTERN], "<u2").view(np.uint8), len(like) + 1)
    return both[phase % 2 : phase % 2 + len(like)]


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _protect(address: int, size: int, access: int) -> None:
    assert _libc is not None
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), access):
        raise OSError(ctypes.get_errno(), "mprotect of a guarded buffer")


Key = tuple[str, int]


class GuardedExecutable(Executable):
    """``Executable`` of a program with ``metadata["debug"] == "bounds"``; much slower, one call at a time.

    Args:
        place: which end of each buffer lies at a guard page, ``"end"`` or ``"start"``.
        report: file descriptor for the line that describes a segmentation fault (default: standard error).
    """

    def __init__(
        self, program: Program, *, threads: int | None = None, place: str = "end", report: int = 2
    ) -> None:  # fmt: skip
        if _libc is None:
            raise UnsupportedError('debug="bounds" needs Linux')
        if program.arena_bytes or program.metadata.get("debug") != DEBUG:
            raise UnsupportedError(f'program {program.name!r} has one arena; compile it with debug="{DEBUG}"')
        self._place, self._report = place, report
        self._guards: dict[Key, Region] = {}
        self._scratch: list[int] = []  # addresses of the contexts' scratch pages
        self._step = -1
        self._one_at_a_time = threading.Lock()
        check = getattr(program, "check_constants", None)
        if check is not None:
            check()
        super().__init__(copy.copy(program), threads=threads)
        self._first_use = None
        self._scratch_bytes = self._template.stride
        self._template.stride = (max(1, -(-self._scratch_bytes // PAGE)) + 1) * PAGE
        self._firsts: dict[Key, int] = {}  # the step that writes a buffer
        for number, step in enumerate(self.program.steps):
            for ref in step.buffers:
                self._firsts.setdefault(_key(ref), number)

    def _place_constants(self) -> None:
        constants = []
        for i, (name, array) in enumerate(zip(self.program.constant_names, self.program.constants, strict=True)):
            region = self._guards["constant", i] = Region(f"weight %{name}", array.nbytes, self._place)
            held = region.view(array.dtype, array.shape)
            held[...] = array
            constants.append(held)
        self.program.constants = constants

    def _new_context(self) -> Context:
        context = Context(self._template, self._pool_address)
        pages = self._template.stride // PAGE - 1
        size = self._template.stride * self.threads + PAGE
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        raw = np.frombuffer(block, np.uint8)
        for i in range(self.threads + 1):
            _protect(memory.address_of(raw) + i * self._template.stride, PAGE, _NONE)
        first = PAGE + (pages * PAGE - self._scratch_bytes if self._place == "end" else 0)
        context.scratch = raw[first:]
        self._scratch.append(memory.address_of(raw))
        return context

    # -- one call --------------------------------------------------------------------------------------
    def _launch(self, frame: Frame, inputs: list[np.ndarray], outputs: list[np.ndarray], compared: int) -> None:
        with self._one_at_a_time:
            call = frame.call
            held = {n: int(call[n]) for n in (abi.CALL_STEPS, abi.CALL_COUNT, abi.CALL_TIMES, abi.CALL_PATCH_COUNT)}
            call[abi.CALL_COUNT] = call[abi.CALL_TIMES] = 0
            try:
                super()._launch(frame, inputs, outputs, compared)  # refuses arrays that share memory
                guarded = self._guarded_ports(inputs, outputs)
                self._guard_intermediates(frame)
                super()._launch(frame, guarded[: len(inputs)], guarded[len(inputs) :], 0)  # only fills in addresses
                call[abi.CALL_PATCH_COUNT], call[abi.CALL_COUNT] = 0, 1
                self._run_steps(frame, held)
            finally:
                for n, value in held.items():
                    call[n] = value
                for region in self._guards.values():
                    region.allow(_WRITE)
            for given, array in zip([*inputs, *outputs], guarded, strict=True):
                if given.flags.writeable:
                    given[...] = array

    def _run_steps(self, frame: Frame, held: dict[int, int]) -> None:
        for region in self._guards.values():
            region.allow(_NONE)
        written = {port.updates for port in self.program.outputs}
        with _faults(self._on_fault):
            for number, step in enumerate(self.program.steps):
                operands = {_key(ref, self.program): self._guards[_key(ref, self.program)] for ref in step.buffers}
                for (kind, index), region in operands.items():
                    fixed = kind == "constant" or (kind == "input" and index not in written)
                    region.allow(_READ if fixed else _WRITE)
                scratch = self._scratch_views(frame)
                for part in scratch:
                    part.view(np.uint16)[:] = PATTERN
                frame.call[abi.CALL_STEPS] = held[abi.CALL_STEPS] + 8 * abi.STEP_FIELDS * number
                if held[abi.CALL_TIMES]:
                    frame.call[abi.CALL_TIMES] = held[abi.CALL_TIMES] + 8 * number
                self._step = number
                self._native(frame.address, abi.OP_RUN, 0)
                self._check_step(number, operands, scratch)
                for region in operands.values():
                    region.allow(_NONE)

    def _check_step(self, number: int, operands: dict[Key, Region], scratch: list[np.ndarray]) -> None:
        for key, region in operands.items():
            touch = region.changed()
            if touch is not None:
                raise BoundsError(f"{self._where(number)} wrote {touch}")
            if self._firsts.get(key) == number and key[0] in ("dynamic", "output"):
                at = region.unwritten()
                if at is not None:
                    raise BoundsError(
                        f"{self._where(number)} left {region.name} of {region.nbytes} bytes unwritten from byte {at} "
                        "on, or computed it from memory that nobody has written"
                    )
        allowed = self.program.steps[number].scratch
        for thread, part in enumerate(scratch):
            wrong = np.flatnonzero(part[allowed:] != _pattern(part[allowed:], allowed))
            if wrong.size:
                touch = Touch(f"the scratch of participant {thread}", "beyond the end of", int(wrong[0]) + 1, allowed)
                raise BoundsError(f"{self._where(number)} wrote {touch}")

    def _scratch_views(self, frame: Frame) -> list[np.ndarray]:
        whole, stride = frame.context.scratch, self._template.stride
        return [whole[i * stride : i * stride + self._scratch_bytes] for i in range(self.threads)]

    def _where(self, number: int) -> str:
        if not 0 <= number < len(self.program.steps):
            return "outside of any step, something"
        step = self.program.steps[number]
        return f"step {number} ({step.label or step.kernel}; kernel {step.kernel[:12]})"

    def _on_fault(self, address: int) -> None:
        touch = next((t for t in (region.near(address) for region in self._guards.values()) if t), None)
        what = f"accessed {touch}" if touch else f"accessed address {address:#x}, which is nobody's"
        if any(base <= address < base + self._template.stride * self.threads + PAGE for base in self._scratch):
            what = "accessed memory beside its scratch"
        os.write(self._report, f"{self._where(self._step)} {what}\n".encode())

    # -- where the buffers are ---------------------------------------------------------------------------
    def _guarded_ports(self, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> list[np.ndarray]:
        arrays = []
        for i, (port, array) in enumerate(zip(self.program.inputs, inputs, strict=True)):
            arrays.append(self._fresh(("input", i), f"{port.role} {port.name!r}", array))
            arrays[-1][...] = array
        for i, (port, array) in enumerate(zip(self.program.outputs, outputs, strict=True)):
            if port.updates >= 0:
                arrays.append(arrays[port.updates])
            else:
                arrays.append(self._fresh(("output", i), f"output {port.name!r}", array))
        return arrays

    def _fresh(self, key: Key, name: str, like: np.ndarray) -> np.ndarray:
        region = self._guards.get(key)
        if region is None or region.nbytes != like.nbytes:
            region = self._guards[key] = Region(name, like.nbytes, self._place)
        region.poison()
        return region.view(like.dtype, like.shape)

    def _guard_intermediates(self, frame: Frame) -> None:
        """Guarded buffers for this frame's shapes in place of its own, and their addresses into its tables."""
        for i, size in enumerate(frame.binding.dynamic):
            first = self._firsts.get(("dynamic", i), -1)
            label = self.program.steps[first].label or self.program.steps[first].kernel
            like = np.empty(0, np.uint8) if not size else frame.buffers[i][:size]
            self._fresh(("dynamic", i), f"intermediate {i} (of step {first}, {label})", like)
        for position, index in self._template.dynamic:
            region = self._guards["dynamic", index]
            frame.args[position] = frame.binding.args[position] + memory.address_of(region.array)


def _key(ref: BufferRef, program: Program | None = None) -> Key:
    """Which buffer; an output that updates an input is that input."""
    if program is not None and ref.kind == "output" and program.outputs[ref.index].updates >= 0:
        return "input", program.outputs[ref.index].updates
    return ref.kind, ref.index


class _Action(ctypes.Structure):
    """``struct sigaction`` of the Linux C libraries."""

    _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int),
                ("restorer", ctypes.c_void_p))  # fmt: skip


@contextmanager
def _faults(report: Any) -> Iterator[None]:
    """Calls ``report(address)`` at a segmentation fault, in whichever thread; then the fault takes its course."""
    assert _libc is not None

    def handle(number: int, info: int, _context: int) -> None:
        try:
            report(ctypes.c_void_p.from_address(info + 16).value or 0)
        finally:
            _libc.signal(number, 0)  # the default: returning repeats the access, which now ends the process

    handler = _Handler(handle)
    new, old = _Action(), _Action()
    new.handler, new.flags = ctypes.cast(handler, ctypes.c_void_p).value, 4  # SA_SIGINFO
    _libc.sigaction(signal.SIGSEGV, ctypes.byref(new), ctypes.byref(old))
    try:
        yield
    finally:
        _libc.sigaction(signal.SIGSEGV, ctypes.byref(old), None)


def executable_for(program: Program, *, threads: int | None = None) -> Executable:
    """The Executable of a program, guarded if it was built with ``debug="bounds"``."""
    kind = GuardedExecutable if program.metadata.get("debug") == DEBUG else Executable
    return kind(program, threads=threads)
