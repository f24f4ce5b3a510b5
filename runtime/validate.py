"""Consistency of a Program, checked before anything of it runs.

Kernels trust their tables, so a wrong index here would become a wild pointer there.
"""

from __future__ import annotations

from ..ir import abi
from ..ir.dims import bounds
from ..ir.plan import BufferRef, Program

_LIMIT = 1 << 46  # no size, offset or extent of a real program reaches it


def problems(program: Program) -> list[str]:
    """What is wrong with ``program``, one line each; empty if nothing is."""
    found: list[str] = []
    if abi.EXECUTOR not in program.kernels:
        found.append(f"no kernel {abi.EXECUTOR!r}")
    for key, image in program.kernels.items():
        if not 0 <= image.entry < len(image.code):
            found.append(f"kernel {key}: entry {image.entry} outside its {len(image.code)} bytes")
    if not 0 <= program.arena_bytes < _LIMIT:
        found.append(f"arena of {program.arena_bytes} bytes")
    if len(program.constant_names) != len(program.constants):
        found.append(f"{len(program.constants)} constants, {len(program.constant_names)} names")
    for kind, ports in (("input", program.inputs), ("output", program.outputs)):
        for port in ports:
            if not port.type.layout.is_dense:
                found.append(f"{kind} {port.name!r} has layout {port.type.layout}; ports are dense")
    for port in program.outputs:
        if port.updates >= len(program.inputs):
            found.append(f"output {port.name!r} updates input {port.updates} of {len(program.inputs)}")
        elif port.updates >= 0 and program.inputs[port.updates].type.dtype is not port.type.dtype:
            found.append(f"output {port.name!r} updates an input of another dtype")
    updated = [port.updates for port in program.outputs if port.updates >= 0]
    if len(set(updated)) != len(updated):
        found.append("two outputs update the same input")
    room = _room(program)
    for number, step in enumerate(program.steps):
        where = f"step {number} ({step.label or step.kernel})"
        if step.kernel not in program.kernels or step.kernel == abi.EXECUTOR:
            found.append(f"{where}: no kernel {step.kernel!r}")
        if not 0 <= step.scratch < _LIMIT or step.grain < 0:
            found.append(f"{where}: scratch {step.scratch}, grain {step.grain}")
        if isinstance(step.trip, int) and not 0 <= step.trip < _LIMIT:
            found.append(f"{where}: trip {step.trip}")
        for ref in step.buffers:
            flaw = _reference(ref, room)
            if flaw:
                found.append(f"{where}: {flaw}")
    return found


def _room(program: Program) -> dict[str, list[int]]:
    """Per buffer kind, the bytes that each index offers at most (the arena: one entry)."""
    return {
        "arena": [program.arena_bytes],
        "constant": [c.nbytes for c in program.constants],
        "input": [bounds(port.type.nbytes)[1] for port in program.inputs],
        "output": [bounds(port.type.nbytes)[1] for port in program.outputs],
        "dynamic": [bounds(size)[1] for size in program.dynamic],
    }


def _reference(ref: BufferRef, room: dict[str, list[int]]) -> str | None:
    if ref.kind not in room:
        return f"unknown buffer kind {ref.kind!r}"
    if ref.kind == "arena":
        start = ref.index + ref.offset
        ok = ref.index >= 0 and ref.offset >= 0 and start <= room["arena"][0]
        return None if ok else f"arena offset {start} outside its {room['arena'][0]} bytes"
    sizes = room[ref.kind]
    if not 0 <= ref.index < len(sizes):
        return f"{ref.kind} {ref.index} of {len(sizes)}"
    if not 0 <= ref.offset <= sizes[ref.index]:
        return f"offset {ref.offset} outside {ref.kind} {ref.index} of {sizes[ref.index]} bytes"
    return None
