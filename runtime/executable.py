"""A compiled program that can be called.

Safe from several threads at once: each call in flight uses a context (arena, tables) of its own, taken from
a free list; contexts are made when calls overlap and kept for the next time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import abi
from ..ir.dims import Extent
from ..ir.errors import InputError, UnsupportedError, VerifyError
from ..ir.plan import Port, Program
from . import cpu, memory
from .binding import Shape, Signature
from .code import CodeMap
from .pool import MAX_THREADS, POOL, SUPPORTED, NativeFunction, clock_rate
from .tables import Binding, Context, Frame, Template
from .validate import problems

_READABLE = 0x101  # ndarray.flags.num: C-contiguous and aligned
_WRITABLE = 0x501  # and writeable
_MAX_BINDINGS = 256


@dataclass(frozen=True)
class StepTime:
    """Measured time of one step: the smallest and the mean over the repeats, in seconds."""

    label: str
    kernel: str
    seconds: float
    mean: float
    flops: float
    bytes: float


class Executable:
    """``program`` loaded into this process.

    Args:
        program: what the compiler or ``artifact.load`` gave. Constants that do not lie at a multiple of 64
            bytes are replaced in ``program.constants`` by equal ones that do.
        threads: participants per call at most (default: ``cpu.default_threads()``). Results do not depend
            on it.

    Raises UnsupportedError if this machine cannot run the code, VerifyError for a malformed program.
    """

    def __init__(self, program: Program, *, threads: int | None = None) -> None:
        reason = cpu.refusal(program.target_name, program.target_features) if program.target_name else None
        if reason:
            raise UnsupportedError(f"program {program.name!r} cannot run here: {reason}")
        reason = cpu.tile_refusal() if program.uses_tiles else None
        if reason:
            raise UnsupportedError(
                f"program {program.name!r} cannot run here: {reason}; compile it with precision='float32' or "
                f"for target 'x86-64-avx512'"
            )
        wrong = problems(program)
        if wrong:
            raise VerifyError(f"program {program.name!r} is malformed: " + "; ".join(wrong[:5]))
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.program = program
        self.threads = min(threads or cpu.default_threads(), MAX_THREADS)
        self.signature = Signature(program.inputs)
        for extent in _extents(program):
            if not self.signature.knows(extent):
                raise VerifyError(f"program {program.name!r}: extent {extent} does not follow from the input shapes")
        self._place_constants()
        self._code = CodeMap(program.kernels)
        self._native = NativeFunction(self._code.address(abi.EXECUTOR))
        self._template = Template(program, self.threads if SUPPORTED else 1, self._code.address)
        self._pool_address = POOL.address if SUPPORTED and self.threads > 1 else 0
        self._workers = self.threads - 1 if self._pool_address and program.steps else 0
        self._dtypes = [port.type.dtype.numpy for port in program.inputs]
        self._address = id if memory.DATA_OFFSET else memory.address_of  # what CALL_PORTS holds
        self._updates = [(i, port.updates) for i, port in enumerate(program.outputs) if port.updates >= 0]
        self._updated = frozenset(source for _, source in self._updates)
        # Written ports that the native call compares with all others: by run (new outputs), and by run_into.
        self._compared = len(self._updates), len(program.outputs)
        self._bindings: dict[Sequence[Shape], Binding] = {}
        self._free: list[Context] = []
        # Artefacts check their weight blocks when first used.
        self._first_use = getattr(program, "check_constants", None)

    def _place_constants(self) -> None:
        self.program.constants[:] = memory.aligned(self.program.constants)

    def _new_context(self) -> Context:
        return Context(self._template, self._pool_address)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs for ``inputs``, in port order.

        An output that updates an input is written into that input's array, which is what is returned for
        it. InputError names the input, what was expected and what came.
        """
        arrays = self._check_inputs(inputs)
        context = self._take_context()
        try:
            frame = context.frame(tuple([a.shape for a in arrays]), self._bind)
            outputs = self._new_outputs(frame, arrays)
            self._launch(frame, arrays, outputs, self._compared[0])
        finally:
            self._free.append(context)
        return outputs

    def run_into(self, outputs: Sequence[np.ndarray | None], inputs: Sequence[np.ndarray]) -> None:
        """Like ``run``, into given C-contiguous arrays; after the first call per shape it allocates nothing.

        For an output that updates an input give None or that input's array. InputError if an output has
        another shape or dtype, cannot be written, or shares memory with an input or another output.
        """
        arrays = self._check_inputs(inputs)
        context = self._take_context()
        try:
            frame = context.frame(tuple([a.shape for a in arrays]), self._bind)
            results = self._check_outputs(frame, arrays, outputs)
            self._launch(frame, arrays, results, self._compared[1])
        finally:
            self._free.append(context)

    def profile(self, inputs: Sequence[np.ndarray], repeat: int = 10) -> list[StepTime]:
        """Time of every step over ``repeat`` runs (updates are made each time)."""
        seconds, _ = self.step_seconds(inputs, repeat)
        best, mean = seconds.min(axis=0), seconds.mean(axis=0)
        return [
            StepTime(step.label or step.kernel, step.kernel, float(b), float(m), step.flops, step.bytes)
            for step, b, m in zip(self.program.steps, best, mean, strict=True)
        ]

    def step_seconds(self, inputs: Sequence[np.ndarray], repeat: int) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of every step, ``[repeat, steps]``, and of the calls that ran them, ``[repeat]``, checks included."""
        times = np.zeros((repeat, len(self.program.steps) + 1), np.int64)
        calls = np.zeros(repeat)
        begun, tick = time.perf_counter(), self._native(0, abi.OP_CLOCK, 0)
        for i, row in enumerate(times):
            started = time.perf_counter()
            arrays = self._check_inputs(inputs)
            context = self._take_context()
            try:
                frame = context.frame(tuple([a.shape for a in arrays]), self._bind)
                outputs = self._new_outputs(frame, arrays)
                frame.call[abi.CALL_TIMES] = memory.address_of(row)
                try:
                    self._launch(frame, arrays, outputs, self._compared[0])
                finally:
                    frame.call[abi.CALL_TIMES] = 0
            finally:
                self._free.append(context)
            calls[i] = time.perf_counter() - started
        elapsed = time.perf_counter() - begun
        ticks = self._native(0, abi.OP_CLOCK, 0) - tick
        rate = ticks / elapsed if elapsed > 0.05 else clock_rate(self._native, 0.02)
        return np.diff(times, axis=1) / rate, calls

    def output_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Shapes of the outputs for these input shapes; InputError if they do not fit."""
        return [shape for shape, _ in self._bind(tuple(tuple(s) for s in shapes)).output_specs]

    def _take_context(self) -> Context:
        first_use = self._first_use
        if first_use is not None:
            first_use()
            self._first_use = None
        if self._workers:
            if POOL.size < self._workers:
                POOL.ensure(self._workers, self.program.kernels[abi.EXECUTOR])
            POOL.clear_caller_cpu()
        try:
            return self._free.pop()
        except IndexError:
            return self._new_context()

    def _bind(self, shapes: Sequence[Shape]) -> Binding:
        binding = self._bindings.get(shapes)
        if binding is None:
            binding = Binding(self._template, self.signature.bind(shapes))
            if len(self._bindings) >= _MAX_BINDINGS:
                self._bindings.clear()
            self._bindings[shapes] = binding
        return binding

    def _launch(self, frame: Frame, inputs: list[np.ndarray], outputs: list[np.ndarray], compared: int) -> None:
        ports, address, i = frame.ports, self._address, 0
        for a in inputs:
            ports[i] = address(a)
            i += 1
        for a in outputs:
            ports[i] = address(a)
            i += 1
        if self._native(frame.address, abi.OP_RUN, compared):
            self._refuse_overlap(inputs, outputs, compared > len(self._updates))

    def _check_inputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        arrays = list(inputs)
        if len(arrays) != len(self._dtypes):
            names = ", ".join(port.name for port in self.program.inputs)
            raise InputError(f"{self.program.name!r} takes {len(self._dtypes)} inputs ({names}), got {len(arrays)}")
        for i, dtype in enumerate(self._dtypes):
            a = arrays[i]
            if type(a) is not np.ndarray or a.dtype is not dtype or a.flags.num & _READABLE != _READABLE:
                arrays[i] = self._convert(i, a)
        if self._updates:
            self._check_updates(arrays)
        return arrays

    def _convert(self, i: int, given: object) -> np.ndarray:
        """``given`` as an array that a kernel can read, or InputError."""
        port = self.program.inputs[i]
        if isinstance(given, np.generic):
            given = np.asarray(given)
        if not isinstance(given, np.ndarray):
            raise InputError(f"input {port.name!r}: expected a NumPy array {port.type}, got {type(given).__name__}")
        if given.dtype != self._dtypes[i]:
            shown = f"{given.dtype}[{', '.join(map(str, given.shape))}]"
            raise InputError(f"input {port.name!r}: expected {port.type}, got {shown}: convert it with .astype()")
        if given.flags.num & _READABLE == _READABLE:
            return given
        if i in self._updated:
            raise InputError(f"input {port.name!r} is updated in place and must be C-contiguous, got {_flaws(given)}")
        # ascontiguousarray would make 0-d arrays 1-d
        return np.array(given, order="C", copy=True, subok=False)

    def _check_updates(self, arrays: list[np.ndarray]) -> None:
        for i in self._updated:
            if not arrays[i].flags.writeable:
                raise InputError(f"input {self.program.inputs[i].name!r} is updated in place but is read-only")

    def _refuse_overlap(self, inputs: list[np.ndarray], outputs: list[np.ndarray], given: bool) -> None:
        """InputError for memory that is shared and written; ``given``: the outputs are the caller's too."""
        ports = self.program
        clash = _overlap(inputs, self._updated)
        if clash:
            a, b = (ports.inputs[i].name for i in clash)
            raise InputError(f"inputs {a!r} and {b!r} share memory, and one of them is updated in place")
        fresh = [i for i, port in enumerate(ports.outputs) if given and port.updates < 0]
        everything = [*inputs, *[outputs[i] for i in fresh]]
        clash = _overlap(everything, range(len(inputs), len(everything)))
        if clash:
            names = [port.name for port in ports.inputs] + [ports.outputs[i].name for i in fresh]
            raise InputError(f"output {names[max(clash)]!r} shares memory with {names[min(clash)]!r}; give it its own")
        raise AssertionError("the native check for shared memory and this one disagree")

    def _new_outputs(self, frame: Frame, inputs: list[np.ndarray]) -> list[np.ndarray]:
        specs = frame.binding.output_specs
        if not self._updates:
            return [np.empty(shape, dtype) for shape, dtype in specs]
        ports = self.program.outputs
        for i, source in self._updates:
            self._check_update_shape(ports[i], specs[i][0], inputs[source])
        return [
            inputs[port.updates] if port.updates >= 0 else np.empty(*spec)
            for port, spec in zip(ports, specs, strict=True)
        ]

    @staticmethod
    def _check_update_shape(port: Port, shape: Shape, array: np.ndarray) -> None:
        if array.shape != shape:
            raise InputError(f"output {port.name!r} of shape {shape} cannot update an input of shape {array.shape}")

    def _check_outputs(
        self, frame: Frame, inputs: list[np.ndarray], outputs: Sequence[np.ndarray | None]
    ) -> list[np.ndarray]:
        ports, specs = self.program.outputs, frame.binding.output_specs
        if len(outputs) != len(ports):
            raise InputError(f"{self.program.name!r} has {len(ports)} outputs, got {len(outputs)}")
        results: list[np.ndarray] = []
        for i, given in enumerate(outputs):
            shape, dtype = specs[i]
            if (
                type(given) is np.ndarray
                and given.dtype is dtype
                and given.shape == shape
                and ports[i].updates < 0
                and given.flags.num & _WRITABLE == _WRITABLE
            ):
                results.append(given)
            else:
                results.append(self._other_output(ports[i], shape, inputs, given))
        return results

    def _other_output(self, port: Port, shape: Shape, inputs: list[np.ndarray], given: object) -> np.ndarray:
        """The array to write for an output that is no plain match, or InputError."""
        if port.updates >= 0:
            source = inputs[port.updates]
            self._check_update_shape(port, shape, source)
            if given is not None and given is not source:
                raise InputError(f"output {port.name!r} updates an input in place; pass None or that array for it")
            return source
        wanted = f"{port.type.dtype.name}[{', '.join(map(str, shape))}]"
        if not isinstance(given, np.ndarray):
            raise InputError(f"output {port.name!r}: expected a NumPy array {wanted}, got {type(given).__name__}")
        if given.dtype != port.type.dtype.numpy or given.shape != shape:
            got = f"{given.dtype}[{', '.join(map(str, given.shape))}]"
            raise InputError(f"output {port.name!r}: expected {wanted}, got {got}")
        if given.flags.num & _WRITABLE != _WRITABLE:
            raise InputError(f"output {port.name!r} must be C-contiguous and writable, got {_flaws(given)}")
        return given


def _flaws(array: np.ndarray) -> str:
    flags = array.flags
    found = [] if flags.c_contiguous else [f"strides {array.strides}"]
    found += [] if flags.aligned else ["a misaligned array"]
    return ", ".join(found + ([] if flags.writeable else ["a read-only array"]))


def _overlap(arrays: Sequence[np.ndarray], written: Sequence[int] | frozenset[int] | range) -> tuple[int, int] | None:
    """Positions of two arrays that share memory, at least one of them ``written``; all are C-contiguous."""
    spans = sorted([(memory.address_of(a), a.nbytes, i) for i, a in enumerate(arrays)])
    reach, reach_of, written_reach, written_of = 0, -1, 0, -1
    for start, size, i in spans:
        if not size:
            continue
        if start < reach and i in written:
            return i, reach_of
        if start < written_reach:
            return i, written_of
        if start + size > reach:
            reach, reach_of = start + size, i
        if start + size > written_reach and i in written:
            written_reach, written_of = start + size, i
    return None


def _extents(program: Program) -> set[Extent]:
    found: set[Extent] = {*program.dynamic, *(extent for extent, _ in program.extents)}
    for step in program.steps:
        found.add(step.trip)
        found.update(step.extents)
    for port in program.outputs:
        found.update(port.type.shape)
    return found
