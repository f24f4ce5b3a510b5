"""The compiled program as data: what the driver hands to ``runtime/`` and what an artefact stores.

A program is a list of kernel launches over buffers. Kernels are position-independent code images that
import nothing; their one signature is

    void kernel(i64* args, i64 begin, i64 end, i8* scratch)

``args`` holds the buffer addresses in ``Step.buffers`` order followed by the values of
``Step.extents`` (64-bit each). The kernel runs iterations [begin, end) of its outermost loop, whose
extent is ``Step.trip``; iterations are independent, so any split over threads gives the same bits.
``scratch`` is that thread's private memory of ``Step.scratch`` bytes, 64-byte aligned.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .dims import Dim, Extent
from .types import TensorType

ARENA_ALIGNMENT = 64


@dataclass(frozen=True)
class BufferRef:
    """Where a kernel argument lives.

    ``kind``: ``"arena"`` (``index`` = byte offset), ``"constant"`` (index into Program.constants),
    ``"input"`` / ``"output"`` (position in Program.inputs / outputs), ``"dynamic"`` (index into
    Program.dynamic: buffers without a bound on their size, allocated outside the arena).
    ``offset`` is a further byte offset into that buffer.
    """

    kind: str
    index: int
    offset: int = 0


@dataclass(frozen=True)
class Step:
    """One kernel launch.

    ``grain``: smallest number of iterations worth giving to a thread (``trip`` or more: serial).
    ``label``: the source nodes, for profiles. ``flops``/``bytes``: what the kernel really does, at the upper bounds of
    symbolic extents; ``direct``: what its contractions would take in direct form (0: it has none).
    ``bf16``: its products run on a bfloat16 unit (matrix tiles, dot products of vectors).
    """

    kernel: str
    buffers: tuple[BufferRef, ...]
    extents: tuple[Extent, ...]
    trip: Extent
    grain: int = 1
    scratch: int = 0
    label: str = ""
    flops: float = 0.0
    bytes: float = 0.0
    direct: float = 0.0
    bf16: bool = False


@dataclass(frozen=True)
class Port:
    """A program input or output. ``role`` as in Graph.roles; ``updates``: for outputs that are written in
    place into an input (parameters, running statistics), that input's position, else -1. ``alias``:
    an output that *is* an input or constant or arena buffer needing a copy is never left implicit:
    every output has a kernel that writes it."""

    name: str
    type: TensorType
    role: str = "input"
    updates: int = -1


@dataclass(frozen=True)
class KernelImage:
    """Linked machine code of one kernel: flat, position-independent, no imports.

    ``entry`` is the byte offset of the kernel in ``code``; ``description`` the log line (schedule chosen
    and why).
    """

    key: str
    code: bytes
    entry: int
    description: str = ""


@dataclass
class MemoryReport:
    """Outcome of memory planning, in bytes as allocated (before page rounding)."""

    arena: int = 0
    lower_bound: int = 0  # live peak: largest sum of simultaneously live buffers
    intermediates: int = 0  # sum of all buffers if nothing was shared

    @property
    def efficiency(self) -> float:
        return 1.0 if self.arena == 0 else self.lower_bound / self.arena


@dataclass
class Program:
    """Everything needed to run: no Python objects of the model, no LLVM."""

    name: str
    inputs: list[Port]
    outputs: list[Port]
    constants: list[np.ndarray]  # packed, physical layout, C-contiguous
    constant_names: list[str]
    steps: list[Step]
    kernels: dict[str, KernelImage]
    symbols: dict[str, Dim] = field(default_factory=dict)
    # Extents that the declared ranges let fall below 0, and whose they are: every call checks them first, since
    # kernels trust their extents (two negative ones make a positive number of elements).
    extents: list[tuple[Extent, str]] = field(default_factory=list)
    arena_bytes: int = 0
    dynamic: list[Extent] = field(default_factory=list)  # byte sizes of buffers outside the arena
    memory: MemoryReport = field(default_factory=MemoryReport)
    target_name: str = ""
    target_features: tuple[str, ...] = ()
    uses_tiles: bool = False  # kernels need the system's permission for matrix tiles (AMX)
    metadata: dict[str, str] = field(default_factory=dict)  # structure of outputs, provenance, versions
