"""Optimised graph -> ``ir.plan.Program``: lower every node, compile each distinct kernel once, plan the arena.

Lowering and LLVM are skipped for a node whose signature (operator, attributes, types, region) is in the
kernel cache; the cache keeps what lowering decided beside the machine code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .codegen.executor_ir import executor_ir
from .codegen.lower.common import constant_number
from .codegen.lower.view import SMALL
from .codegen.packing import pack
from .ir import abi
from .ir.dims import Dim, Extent, bounds, is_bounded
from .ir.dtypes import DType
from .ir.graph import Graph, Node, Value
from .ir.layout import Layout
from .ir.ops.common import is_nonnegative
from .ir.parser import parse_extent
from .ir.plan import ARENA_ALIGNMENT, BufferRef, KernelImage, MemoryReport, Port, Program, Step
from .ir.target import Target
from .ir.work import direct_flops
from .passes.materialise_outputs import memory_root
from .passes.memory_plan import Lifetime, plan
from .passes.schedule_updates import is_alias
from .runtime.cache import KernelCache, digest
from .runtime.findings import Finding
from .runtime.memory import allocate

if TYPE_CHECKING:
    from .codegen.lower.table import Schedule


@dataclass(frozen=True)
class KernelRecord:
    """A compiled kernel and what the plan must know of it; ``operands`` index inputs + outputs of its node."""

    image: KernelImage
    operands: tuple[int, ...]
    extents: tuple[Extent, ...]
    trip: Extent
    grain: int
    scratch: int
    flops: float
    bytes: float
    inplace: Mapping[int, int]
    bf16: bool = False

    def to_text(self, schedule: str) -> str:
        """The JSON that travels in ``KernelImage.description``."""
        return json.dumps(
            {
                "schedule": schedule,
                "operands": self.operands,
                "extents": [str(e) for e in self.extents],
                "trip": str(self.trip),
                "grain": self.grain,
                "scratch": self.scratch,
                "flops": self.flops,
                "bytes": self.bytes,
                "inplace": [list(p) for p in self.inplace.items()],
                "bf16": self.bf16,
            }
        )

    @staticmethod
    def from_image(image: KernelImage, dims: Mapping[str, Dim]) -> KernelRecord:
        """Inverse of ``to_text``; ValueError or KeyError if the text is not one of ours."""
        data = json.loads(image.description)
        return KernelRecord(
            KernelImage(image.key, image.code, image.entry, data["schedule"]),
            tuple(data["operands"]),
            tuple(parse_extent(e, dims) for e in data["extents"]),
            parse_extent(data["trip"], dims),
            data["grain"],
            data["scratch"],
            data["flops"],
            data["bytes"],
            {r: o for r, o in data["inplace"]},
            data["bf16"],
        )


class NoSchedule(LookupError):
    """A finding names a schedule that the code generator does not offer for the kernel."""


EMPTY: Mapping[str, Finding] = {}


class KernelCompiler:
    """Turns nodes into KernelRecords through the in-memory and on-disk caches.

    ``findings``: measured schedules, by kernel key, for those kernels that shall not have the rule's.
    """

    def __init__(self, target: Target, cache: KernelCache | None, findings: Mapping[str, Finding] = EMPTY) -> None:
        self.target = target
        self.cache = cache
        self.findings = dict(findings)
        self.tuned: set[str] = set()  # keys of kernels that got another schedule than the rule's
        self.records: dict[str, KernelRecord] = {}
        self.compiled = 0
        self.reused = 0

    def compile(self, node: Node, dims: Mapping[str, Dim], outputs: set[Value]) -> KernelRecord:
        """The kernel of ``node``, scheduled by the rule or as was found; UnsupportedError if there is none."""
        key = self.key(node, outputs)
        finding = self.findings.get(key)
        if finding is None:
            return self.variant(key, node, dims)
        try:
            record = self.variant(key, node, dims, finding.schedule if finding.is_tuned else "")
        except NoSchedule as error:
            self._forget(key, error)
            return self.variant(key, node, dims)
        if finding.is_tuned:
            self.tuned.add(key)
        image = replace(record.image, description=f"{record.image.description}; {finding}")
        return replace(record, image=image)

    def found(self, node: Node, outputs: set[Value]) -> tuple[Schedule | None, Finding | None]:
        """The schedule that ``compile`` uses for ``node`` (None: the rule's) and the finding that says so."""
        finding = self.findings.get(self.key(node, outputs))
        if finding is None or not finding.is_tuned:
            return None, finding
        try:
            return self.schedule(node, finding.schedule), finding
        except NoSchedule as error:
            self._forget(finding.key, error)
            return None, None

    def _forget(self, key: str, error: NoSchedule) -> None:
        warnings.warn(f"a finding is not used: {error}", RuntimeWarning, stacklevel=3)
        del self.findings[key]

    def key(self, node: Node, outputs: set[Value]) -> str:
        """The key of the kernel of ``node`` as the rule schedules it."""
        return self._digest(signature(node, outputs) + _ranges(node))

    def variant(self, key: str, node: Node, dims: Mapping[str, Dim], schedule: str = "") -> KernelRecord:
        """The kernel of ``node``, whose key is ``key``, with the schedule of that name ("": the rule's).

        NoSchedule if the code generator does not offer it.
        """
        key = digest(key, schedule) if schedule else key
        record = self.records.get(key)
        if record is None:
            record = self._from_cache(key, dims) or self._build(key, node, schedule)
            self.records[key] = record
        return record

    def executor(self) -> KernelImage:
        """The native routine that walks the step table."""
        from .codegen.assemble import assemble

        text = executor_ir(self.target)
        key = self._digest("executor" + text)
        image = self.cache.get(key) if self.cache is not None else None
        if image is None:
            code, entry = assemble(text, self.target, abi.EXECUTOR)
            image = KernelImage(key, code, entry, "executor")
            if self.cache is not None:
                self.cache.put(image)
        return KernelImage(abi.EXECUTOR, image.code, image.entry, "executor")

    def schedule(self, node: Node, name: str) -> Schedule | None:
        """The schedule of that name for ``node`` (None for ""); NoSchedule if the code generator does not offer it."""
        from .codegen.lower.table import schedules

        if not name:
            return None
        for schedule in schedules(node, self.target):
            if schedule.name == name:
                return schedule
        raise NoSchedule(f"there is no schedule {name!r} for {_label(node)}")

    def _digest(self, text: str) -> str:
        return digest(_source_digest(), repr(self.target), self.target.features, text)

    def _from_cache(self, key: str, dims: Mapping[str, Dim]) -> KernelRecord | None:
        image = self.cache.get(key) if self.cache is not None else None
        if image is None:
            return None
        try:
            record = KernelRecord.from_image(image, dims)
        except (ValueError, KeyError, TypeError):
            return None  # another program's entry under our key: compile and overwrite
        self.reused += 1
        return record

    def _build(self, key: str, node: Node, schedule: str = "") -> KernelRecord:
        from .codegen.assemble import assemble
        from .codegen.llvm_emit import emit
        from .codegen.lower.table import lower

        lowered = lower(node, self.target, self.schedule(node, schedule))
        fn = lowered.function
        code, entry = assemble(emit(fn), self.target, fn.name)
        everything = [*node.inputs, *node.outputs]
        position = {id(v): i for i, v in enumerate(everything)}
        record = KernelRecord(
            KernelImage(key, code, entry, lowered.schedule),
            tuple(position[id(v)] for v in lowered.values),
            lowered.extents,
            lowered.trip,
            lowered.grain,
            fn.scratch_bytes,
            lowered.flops,
            lowered.bytes,
            lowered.inplace,
            fn.dots or (bool(fn.tiles) and self.target.has("amx-tile")),
        )
        if self.cache is not None:
            self.cache.put(KernelImage(key, code, entry, record.to_text(lowered.schedule)))
        self.compiled += 1
        return record


@functools.cache
def _source_digest() -> str:
    """Digest of the code generator's own source: an edited or upgraded Ingot never meets old kernels."""
    root = Path(__file__).parent
    paths = sorted([*root.glob("codegen/**/*.py"), *root.glob("ir/**/*.py"), root / "program.py"])
    return digest(version("llvmlite"), *(path.read_bytes() for path in paths))


def signature(node: Node, outputs: set[Value]) -> str:
    """Text that is equal for nodes that lower to the same kernel: names and sources do not take part."""
    numbers: dict[Value, int] = {}
    lines = [_line(node, numbers)]
    for region in node.regions:
        local: dict[Value, int] = {}
        lines.append("inputs " + " ".join(_define(v, local) for v in region.inputs))
        lines += [_line(n, local) for n in region]
        lines.append("return " + " ".join(str(local[o]) for o in region.outputs))
    used = "".join("u" if o.users or o in outputs else "-" for o in node.outputs)
    return "\n".join([*lines, used])


def _ranges(node: Node) -> str:
    """The ranges of the Dims that a node's types mention: scratch sizes and loop forms depend on them."""
    dims = set().union(*(v.type.symbols() for v in [*node.inputs, *node.outputs]))
    return "".join(f"\n{d.name} in {d.min}..{d.max}" for d in sorted(dims, key=lambda d: d.name))


def _define(v: Value, numbers: dict[Value, int]) -> str:
    numbers[v] = len(numbers)
    # Lowering writes a small constant of equal elements into the code.
    number = constant_number(v) if v.is_constant and v.constant.size <= SMALL else None
    return f"{numbers[v]}:{v.type}" + ("" if number is None else f"={number!r}")


def _line(node: Node, numbers: dict[Value, int]) -> str:
    operands = " ".join(str(numbers[v]) if v in numbers else _define(v, numbers) for v in node.inputs)
    attrs = " ".join(f"{k}={_attr(v)}" for k, v in node.attrs.items())
    results = " ".join(_define(o, numbers) for o in node.outputs)
    return f"{results} = {node.op} {operands} {{{attrs}}}"


def _attr(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, (DType, Layout)):
        return str(value)
    return repr(value)


def build_program(
    graph: Graph,
    compiler: KernelCompiler,
    *,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    arena: bool = True,
) -> Program:
    """Compile ``graph`` (optimised: every node has a kernel or is an alias) to a Program.

    ``progress(done, total, what)`` is called before each kernel. Without ``arena`` every intermediate is a buffer of
    its own (``runtime.guard`` wants that). Raises UnsupportedError naming every node
    without a kernel.
    """
    return _Builder(graph, compiler, arena).build(dict(metadata or {}), progress)


def kernel_nodes(graph: Graph) -> list[Node]:
    """The nodes of an optimised graph that become steps, in order."""
    return [n for n in graph if n.op != "constant" and not is_alias(n)]


def with_kernels(program: Program, records: Mapping[int, KernelRecord]) -> Program:
    """``program`` with other kernels for some steps (by position) that use their buffers in the same way."""
    steps = list(program.steps)
    kernels = dict(program.kernels)
    for i, record in records.items():
        kernels[record.image.key] = record.image
        steps[i] = replace(
            steps[i], kernel=record.image.key, extents=record.extents, trip=record.trip, grain=record.grain,
            scratch=record.scratch, flops=record.flops, bytes=record.bytes, bf16=record.bf16,
        )  # fmt: skip
    used = dict.fromkeys([*(step.kernel for step in steps), abi.EXECUTOR])
    return replace(program, steps=steps, kernels={key: kernels[key] for key in used},
                   uses_tiles="amx-tile" in program.target_features and any(s.bf16 for s in steps))  # fmt: skip


class _Builder:
    def __init__(self, graph: Graph, compiler: KernelCompiler, arena: bool) -> None:
        self.graph = graph
        self.arena = arena
        self.compiler = compiler
        self.outputs = graph.output_set()
        self.nodes = kernel_nodes(graph)
        self.refs: dict[Value, BufferRef] = {}
        self.program = Program(graph.name, [], [], [], [], [], {}, symbols=dict(graph.symbols))

    def build(self, metadata: dict[str, str], progress: Callable[[int, int, str], None] | None) -> Program:
        program, graph = self.program, self.graph
        program.metadata = metadata
        program.target_name = self.compiler.target.name
        program.target_features = self.compiler.target.features
        updated = {o: i for o, i in graph.updates.items()}
        program.inputs = [Port(v.name, v.type, r) for v, r in zip(graph.inputs, graph.roles, strict=True)]
        program.outputs = [
            Port(name, v.type, "output", updated.get(i, -1))
            for i, (v, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True))
        ]
        program.extents = _unproven_extents(graph)
        records = []
        for i, node in enumerate(self.nodes):
            if progress is not None:
                progress(i, len(self.nodes), str(node.source) or node.op)
            records.append(self.compiler.compile(node, graph.symbols, self.outputs))
        program.uses_tiles = self.compiler.target.has("amx-tile") and any(record.bf16 for record in records)
        self._place(records)
        for node, record in zip(self.nodes, records, strict=True):
            everything = [*node.inputs, *node.outputs]
            program.kernels.setdefault(record.image.key, record.image)
            program.steps.append(
                Step(
                    record.image.key,
                    tuple(self.refs[memory_root(everything[k])] for k in record.operands),
                    record.extents,
                    record.trip,
                    record.grain,
                    record.scratch,
                    _label(node),
                    record.flops,
                    record.bytes,
                    direct_flops(node),
                    record.bf16,
                )
            )
        program.kernels[abi.EXECUTOR] = self.compiler.executor()
        return program

    def _place(self, records: list[KernelRecord]) -> None:
        """A BufferRef for every value that a kernel touches."""
        graph, program = self.graph, self.program
        for i, v in enumerate(graph.inputs):
            self.refs[v] = BufferRef("input", i)
        for i, v in enumerate(graph.outputs):
            self.refs[memory_root(v)] = BufferRef("output", i)  # a reshape of what a kernel wrote is that memory
        constants: list[Value] = []
        start: dict[Value, int] = {}
        end: dict[Value, int] = {}
        for i, (node, record) in enumerate(zip(self.nodes, records, strict=True)):
            everything = [*node.inputs, *node.outputs]
            for k in record.operands:
                root = memory_root(everything[k])
                if root.is_constant and root not in self.refs:
                    self.refs[root] = BufferRef("constant", len(constants))
                    constants.append(root)
                start.setdefault(root, i)
                end[root] = i
        program.constants = _packed(constants)
        program.constant_names = [v.name for v in constants]
        if not self.arena:
            self._place_apart(records, start, end)
            return
        arena = [v for v in start if v not in self.refs and is_bounded(v.type.nbytes)]
        for v in start:
            if v not in self.refs and not is_bounded(v.type.nbytes):
                self.refs[v] = BufferRef("dynamic", len(program.dynamic))
                program.dynamic.append(v.type.nbytes)
        lifetimes = [Lifetime(v, max(bounds(v.type.nbytes)[1], 1), start[v], end[v]) for v in arena]
        unions = self._in_place(records, set(arena), end)
        layout = plan(lifetimes, unions=unions)
        for v in arena:
            self.refs[v] = BufferRef("arena", layout.offsets[v])
        program.arena_bytes = layout.size
        program.memory = MemoryReport(layout.size, layout.lower_bound, layout.total)

    def _place_apart(self, records: list[KernelRecord], start: dict[Value, int], end: dict[Value, int]) -> None:
        """A buffer for each intermediate; results still overwrite operands where the planned program lets them."""
        bounded = {v for v in start if v not in self.refs and is_bounded(v.type.nbytes)}
        first = {m: group[0] for group in self._in_place(records, bounded, end) for m in group}
        for v in start:
            root = first.get(v, v)
            root = root if root.type.nbytes == v.type.nbytes else v
            if root not in self.refs:
                self.refs[root] = BufferRef("dynamic", len(self.program.dynamic))
                self.program.dynamic.append(root.type.nbytes)
            self.refs.setdefault(v, self.refs[root])

    def _in_place(self, records: list[KernelRecord], arena: set[Value], end: dict[Value, int]) -> list[list[Value]]:
        """Groups of values that share memory because a kernel overwrites its operand's last use."""
        group: dict[Value, list[Value]] = {}
        for i, (node, record) in enumerate(zip(self.nodes, records, strict=True)):
            overwritten: set[Value] = set()
            roots = [memory_root(v) for v in node.inputs]
            for result, operand in record.inplace.items():
                out, source = node.outputs[result], roots[operand]
                # Another operand may be a reshape of the same memory, read at other positions.
                alone = roots.count(source) == 1 and source not in overwritten
                usable = alone and out in arena and source in arena and out not in group
                last_use = usable and not any(end[m] > i for m in group.get(source, [source]))
                if last_use and bounds(out.type.nbytes)[1] == bounds(source.type.nbytes)[1]:
                    overwritten.add(source)
                    members = group.setdefault(source, [source])
                    members.append(out)
                    group[out] = members
        return [m for key, m in group.items() if m[0] is key]


def _unproven_extents(graph: Graph) -> list[tuple[Extent, str]]:
    """Extents that have to be checked per call to be at least 0, each with the first value that has it."""
    found: dict[Extent, str | None] = {}
    graphs = [graph]
    while graphs:
        inside = graphs.pop()
        graphs += [region for node in inside for region in node.regions]
        for v in inside.values():
            for e in v.shape:
                if e not in found:
                    found[e] = None if is_nonnegative(e) else f"%{v.name}"
    return [(e, owner) for e, owner in found.items() if owner is not None]


def _packed(constants: list[Value]) -> list[np.ndarray]:
    """The constants in their layouts, one behind the other in a block that starts on a huge page."""
    sizes = [-(-bounds(v.type.nbytes)[1] // ARENA_ALIGNMENT) * ARENA_ALIGNMENT for v in constants]
    block = allocate(sum(sizes), ARENA_ALIGNMENT)
    arrays, at = [], 0
    for v, size in zip(constants, sizes, strict=True):
        place = block[at : at + bounds(v.type.nbytes)[1]].view(v.dtype.numpy)
        arrays.append(pack(v.constant, v.type.layout, place))
        at += size
    return arrays


def _label(node: Node) -> str:
    ops = "+".join(n.op for n in node.regions[0] if n.op != "constant") if node.regions else node.op
    if node.attrs.get("kind") == "attention":
        ops = "attention"  # twenty views in a row say nothing
    where = node.source.module
    return f"{where}: {ops}" if where else ops


__all__ = [
    "KernelCompiler", "KernelRecord", "NoSchedule", "build_program", "kernel_nodes", "signature", "with_kernels",
]  # fmt: skip
