"""LLVM IR text to a linked code image, through llvmlite (imported only when something is compiled).

The text goes straight to LLVM's code generator: our own passes and schedules have already decided what the
IR pipeline would decide, and its loop passes multiply compile time and undo register tiling.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..ir.errors import IngotError
from ..ir.target import TILE_EMULATION, Target
from . import objfile

_lock = threading.Lock()
_machines: dict[tuple[str, str, str], Any] = {}


class AssembleError(IngotError):
    """LLVM rejected generated IR. Always an internal error; the message shows the offending lines."""


def assemble(ir: str, target: Target, entry: str) -> tuple[bytes, int]:
    """Machine code of the module ``ir``: (flat image, byte offset of function ``entry``).

    The image imports nothing and can be mapped at any 64-byte aligned address (AArch64: 4096). Triple and
    data layout come from ``target``, whatever the text says. Raises AssembleError for invalid IR and
    ``objfile.LinkError`` for code that needs a symbol from outside (say, ``memset`` or ``expf``).
    """
    with _module(ir, target) as (module, machine):
        obj = machine.emit_object(module)
    return objfile.link(obj, entry)


def assembly_text(ir: str, target: Target) -> str:
    """The assembly that ``assemble`` would produce, for reading."""
    with _module(ir, target) as (module, machine):
        return machine.emit_assembly(module)


def llvm() -> Any:
    """``llvmlite.binding``, set up once per process."""
    import llvmlite.binding as binding

    with _lock:
        if not getattr(binding, "_ingot_ready", False):
            binding.initialize_all_targets()
            binding.initialize_all_asmprinters()
            binding.initialize_native_asmparser()  # inline assembly
            # The machine scheduler hoists loads over register tiles until they spill; IR order is better.
            binding.set_option("", "-enable-misched=false")
            binding._ingot_ready = True
    return binding


def feature_string(target: Target) -> str:
    """LLVM's feature list for ``target``.

    A named CPU implies features that a virtual machine may mask or that kernels never use; those are switched
    off by name.
    """
    parts = [f"+{name}" for name in target.features if name != TILE_EMULATION]
    if target.cpu not in ("", "generic", "x86-64"):
        host = llvm().get_host_cpu_features()
        parts += [f"-{name}" for name in sorted(host) if name not in target.features]
    return ",".join(parts)


def _machine(target: Target) -> Any:
    binding = llvm()
    key = (target.triple, target.cpu, feature_string(target))
    with _lock:
        if key not in _machines:
            _machines[key] = binding.Target.from_triple(target.triple).create_target_machine(
                cpu=target.cpu, features=key[2], opt=3, reloc="pic", codemodel="small", jit=False
            )
        return _machines[key]


@contextmanager
def _module(ir: str, target: Target) -> Iterator[tuple[Any, Any]]:
    """The parsed and verified module, and the machine to generate code with."""
    binding, machine = llvm(), _machine(target)
    # A context of its own: types and constants of earlier modules are not kept. Module and context are
    # closed here, in this order; left to the garbage collector, the context may go first, which crashes.
    context = binding.create_context()
    try:
        try:
            module = binding.parse_assembly(ir, context)
        except RuntimeError as error:
            raise AssembleError(_explain_parse(ir, str(error))) from None
        try:
            module.triple = target.triple
            module.data_layout = str(machine.target_data)
            try:
                module.verify()
            except RuntimeError as error:
                raise AssembleError(_explain_verify(ir, str(error))) from None
            yield module, machine
        finally:
            module.close()
    finally:
        context.close()


def _excerpt(lines: list[str], number: int, around: int = 3) -> str:
    first, last = max(1, number - around), min(len(lines), number + around)
    return "\n".join(f"{'>' if n == number else ' '} {n:5d} | {lines[n - 1]}" for n in range(first, last + 1))


def _explain_parse(ir: str, message: str) -> str:
    match = re.search(r"<string>:(\d+):(\d+): error: (.*)", message)
    if not match:
        return f"internal error: generated LLVM IR does not parse: {message}"
    number = int(match[1])
    return (
        f"internal error: generated LLVM IR does not parse, line {number}, column {match[2]}: {match[3]}\n"
        + _excerpt(ir.splitlines(), number)
    )


def _explain_verify(ir: str, message: str) -> str:
    lines = ir.splitlines()
    stripped = {line.split(";")[0].strip(): n for n, line in enumerate(lines, 1)}
    quoted = [stripped[text.strip()] for text in message.splitlines() if text.strip() in stripped]
    shown = "\n".join(_excerpt(lines, n) for n in quoted[:2])
    return f"internal error: generated LLVM IR is invalid: {message.strip()}\n{shown}".rstrip()
