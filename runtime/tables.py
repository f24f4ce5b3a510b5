"""The native tables of a program (layouts in ``ir.abi``), built in three layers.

``Template`` is made once per executable: all step arguments in one int64 array, with what depends on the
shapes or on the memory left open. ``Binding`` fills in the extents for one tuple of input shapes. ``Frame``
adds the addresses of one ``Context`` (arena, scratch, dynamic buffers), which belongs to one call at a time.
"""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..ir import abi
from ..ir.dims import DimExpr, Extent, assignment, evaluate
from ..ir.errors import InputError
from ..ir.plan import ARENA_ALIGNMENT, Port, Program
from . import memory
from .binding import Shape

_MAX_CHUNKS = 1 << 15  # per step; a ticket has 16 bits for them
_MAX_FRAMES = 64  # per context; beyond that the least recently used shapes are forgotten
_MAX_DYNAMIC_FRAMES = 4  # the same for programs whose frames own big buffers


class Template:
    """Tables of ``program`` without shapes and memory.

    ``threads``: participants at most, which is also what chunk sizes are chosen for.
    """

    def __init__(self, program: Program, threads: int, code_address: Callable[[str], int]) -> None:
        self.program = program
        self.threads = threads
        self.count = len(program.steps)
        args: list[int] = []
        starts: list[int] = []
        arena: list[int] = []  # positions in args that hold arena offsets
        dynamic: list[tuple[int, int]] = []  # (position, dynamic buffer)
        self.patches: list[tuple[int, int, int]] = []  # (position, port, offset)
        self.extents: list[tuple[int, Extent]] = []  # (position, symbolic extent)
        constants = [memory.address_of(c) for c in program.constants]
        inputs = len(program.inputs)
        for step in program.steps:
            starts.append(len(args))
            for ref in step.buffers:
                value = ref.offset
                if ref.kind == "arena":
                    arena.append(len(args))
                    value += ref.index
                elif ref.kind == "constant":
                    value += constants[ref.index]
                elif ref.kind == "dynamic":
                    dynamic.append((len(args), ref.index))
                else:
                    port = ref.index if ref.kind == "input" else inputs + ref.index
                    self.patches.append((len(args), port, ref.offset))
                args.append(value)
            for extent in step.extents:
                if isinstance(extent, DimExpr):
                    self.extents.append((len(args), extent))
                    extent = 0
                args.append(extent)
        self.args = np.array(args, np.int64)
        self.starts = np.array(starts, np.int64)
        self.arena = np.array(arena, np.int64)
        self.dynamic = dynamic
        self.functions = np.array([code_address(step.kernel) for step in program.steps], np.int64)
        self.grains = np.array([max(1, step.grain) for step in program.steps], np.int64)
        stride = max((step.scratch for step in program.steps), default=0)
        self.stride = -(-stride // 64) * 64
        self.static = self._evaluate({}) if not self._symbolic() else None

    def _symbolic(self) -> bool:
        p = self.program
        return bool(self.extents) or any(isinstance(e, DimExpr) for e in [*(s.trip for s in p.steps), *p.dynamic])

    def _evaluate(self, env: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """(args, steps, dynamic sizes) for these symbols; equal extents are evaluated once."""
        known: dict[DimExpr, int] = {}

        def value(extent: Extent) -> int:
            if not isinstance(extent, DimExpr):
                return extent
            if extent not in known:
                known[extent] = evaluate(extent, env)
            return known[extent]

        args = self.args.copy()
        for position, extent in self.extents:
            args[position] = value(extent)
        trip = np.maximum(np.array([value(step.trip) for step in self.program.steps], np.int64), 0)
        # Chunks as small as the grain: participants take many at first and single ones at the end of a step.
        chunk = np.maximum(self.grains, -(-trip // _MAX_CHUNKS))
        if self.threads == 1:
            chunk = np.maximum(trip, 1)
        steps = np.zeros((self.count, abi.STEP_FIELDS), np.int64)
        steps[:, abi.STEP_FN] = self.functions
        steps[:, abi.STEP_TRIP] = trip
        steps[:, abi.STEP_CHUNK] = chunk
        steps[:, abi.STEP_CHUNKS] = -(-trip // chunk)
        return args, steps, [max(0, value(extent)) for extent in self.program.dynamic]


class Binding:
    """A template with the extents of one tuple of input shapes; InputError if these make an extent negative."""

    def __init__(self, template: Template, env: Mapping[str, int]) -> None:
        self.template = template
        try:
            _check_extents(template.program, env)
            self.args, self.steps, self.dynamic = template.static or template._evaluate(env)
            self.input_specs = _specs(template.program.inputs, env)
            self.output_specs = _specs(template.program.outputs, env)
        except (ZeroDivisionError, OverflowError) as error:
            raise InputError(f"extents of {template.program.name!r} for {dict(env)}: {error}") from None


def _specs(ports: Sequence[Port], env: Mapping[str, int]) -> list[tuple[Shape, np.dtype]]:
    return [(tuple(evaluate(e, env) for e in port.type.shape), port.type.dtype.numpy) for port in ports]


def _check_extents(program: Program, env: Mapping[str, int]) -> None:
    for extent, owner in program.extents:
        value = evaluate(extent, env)
        if value < 0:
            raise InputError(
                f"{program.name!r}: {assignment(extent, env)} makes the extent {extent} of {owner} negative ({value}): "
                "the inputs are too small"
            )


class Frame:
    """A binding with the addresses of one context: ready for the executor but for the ports."""

    def __init__(self, binding: Binding, context: Context, pool_address: int) -> None:
        template = binding.template
        self.binding = binding
        self.context = context
        self.args = binding.args.copy()
        self.steps = binding.steps.copy()
        self.buffers = [memory.allocate(max(1, size)) for size in binding.dynamic]
        self.args[template.arena] += memory.address_of(context.arena)
        for position, index in template.dynamic:
            self.args[position] += memory.address_of(self.buffers[index])
        base = memory.address_of(self.args)
        self.steps[:, abi.STEP_ARGS] = base + 8 * template.starts
        self.patches = np.array(template.patches, np.int64).reshape(-1, abi.PATCH_FIELDS)
        self.patches[:, abi.PATCH_SLOT] = base + 8 * self.patches[:, abi.PATCH_SLOT]
        ports = len(template.program.inputs) + len(template.program.outputs)
        self.ports = array("q", bytes(8 * max(1, ports)))
        self.call = np.zeros(abi.CALL_FIELDS, np.int64)
        self.call[abi.CALL_STEPS] = memory.address_of(self.steps)
        self.call[abi.CALL_COUNT] = template.count
        self.call[abi.CALL_POOL] = pool_address
        self.call[abi.CALL_SCRATCH] = memory.address_of(context.scratch)
        self.call[abi.CALL_STRIDE] = template.stride
        self.call[abi.CALL_LIMIT] = template.threads
        self.call[abi.CALL_PORTS] = self.ports.buffer_info()[0]
        self.call[abi.CALL_DEREF] = memory.DATA_OFFSET
        self.call[abi.CALL_PATCHES] = memory.address_of(self.patches)
        self.call[abi.CALL_PATCH_COUNT] = len(self.patches)
        self.call[abi.CALL_SHARE] = (template.threads - 1).bit_length() + 1
        chunks = self.steps[:, abi.STEP_CHUNKS]
        shared = int(chunks[chunks > 1].sum())
        self.call[abi.CALL_WAKE] = min(template.threads, shared) - 1 if shared >= abi.WAKE_PARTS else 0
        self.sizes, self.written = _port_tables(template.program, binding)
        self.call[abi.CALL_SIZES] = memory.address_of(self.sizes)
        self.call[abi.CALL_WRITTEN] = memory.address_of(self.written)
        self.call[abi.CALL_PORT_COUNT] = ports
        self.address = memory.address_of(self.call)


def _port_tables(program: Program, binding: Binding) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of each port (0 for outputs that are an input), and the written ones: updated inputs, then outputs."""
    first = len(program.inputs)
    updated = [port.updates for port in program.outputs if port.updates >= 0]
    fresh = [first + i for i, port in enumerate(program.outputs) if port.updates < 0]
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in binding.input_specs]
    sizes += [
        0 if port.updates >= 0 else math.prod(shape) * dtype.itemsize
        for port, (shape, dtype) in zip(program.outputs, binding.output_specs, strict=True)
    ]
    return np.array(sizes, np.int64), np.array([*updated, *fresh], np.int64)


class Context:
    """The memory of one call in flight: arena, scratch per participant, and frames for the shapes seen."""

    def __init__(self, template: Template, pool_address: int) -> None:
        self.arena = memory.allocate(max(1, template.program.arena_bytes), ARENA_ALIGNMENT)
        self.scratch = memory.allocate(max(64, template.stride * template.threads))
        self._pool = pool_address
        self._frames: OrderedDict[object, Frame] = OrderedDict()
        self._limit = _MAX_DYNAMIC_FRAMES if template.program.dynamic else _MAX_FRAMES

    def frame(self, key: Sequence[Shape], binding: Callable[[Sequence[Shape]], Binding]) -> Frame:
        """The frame for input shapes ``key``; ``binding`` makes the binding if these shapes are new here."""
        frame = self._frames.get(key)
        if frame is None:
            frame = Frame(binding(key), self, self._pool)
            self._frames[key] = frame
            while len(self._frames) > self._limit:
                self._frames.popitem(last=False)
        elif len(self._frames) > 1:
            self._frames.move_to_end(key)
        return frame
