"""Measures schedules beside those that the rule chose, in the program itself, for as long as it may (``tune=``).

Every comparison runs two whole programs in turns: the best one so far, and one in which many kernels have their next
schedule. So all kernels are measured at once, each with the caches as its neighbours leave them and with the program's
threads. A schedule replaces another only if it took less than ``GAIN`` of its time in two comparisons; in the end what
was found is compared with the rule's choices once more, and what is not faster then is dropped.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .codegen.lower.table import schedules
from .ir.dims import Dim, evaluate
from .ir.errors import UnsupportedError
from .ir.graph import Graph, Node
from .ir.plan import Program
from .program import KernelCompiler, KernelRecord, kernel_nodes, with_kernels
from .runtime.executable import Executable
from .runtime.findings import Finding

GAIN = 0.97  # share of the time that a better schedule may take
SHARE = 0.01  # of the program's time; kernels that take less are left alone
TURNS = 4  # slices of each program in a comparison
SLICE_SECONDS = 0.08
_COMPILE_SHARE = 0.1  # of the budget, at most, that goes into code before the next comparison


class Timer(Protocol):
    """Gives the median seconds of every step of programs that take turns; two of them cost ``comparison_seconds``."""

    @property
    def comparison_seconds(self) -> float: ...

    def __call__(self, programs: Sequence[Program]) -> list[np.ndarray]: ...


class Stopwatch:
    """Times programs of equal inputs in turns, on made-up inputs and this machine (a ``Timer``).

    Args:
        program: one of them. Symbolic extents get their upper bounds.
        threads: as for ``Executable``.

    UnsupportedError: an extent has no bound, or this machine cannot run the code.
    """

    def __init__(self, program: Program, threads: int | None) -> None:
        self.threads = threads
        self.inputs = made_up_inputs(program)
        executable = Executable(program, threads=threads)
        executable.run(self.inputs)
        start = time.perf_counter()
        executable.run(self.inputs)
        self.call_seconds = time.perf_counter() - start
        self._held: dict[int, tuple[Program, Executable]] = {id(program): (program, executable)}

    @property
    def repeat(self) -> int:
        """Calls per slice."""
        return max(1, round(SLICE_SECONDS / max(self.call_seconds, 1e-6)))

    @property
    def comparison_seconds(self) -> float:
        """What comparing two programs takes."""
        return 2 * TURNS * self.repeat * self.call_seconds

    def __call__(self, programs: Sequence[Program]) -> list[np.ndarray]:
        held = {id(p): self._held.get(id(p)) or (p, Executable(p, threads=self.threads)) for p in programs}
        self._held = held
        for _, executable in held.values():
            executable.run(self.inputs)
        times: list[list[np.ndarray]] = [[] for _ in programs]
        calls = []
        for _ in range(TURNS):
            for i, p in enumerate(programs):
                steps, whole = held[id(p)][1].step_seconds(self.inputs, self.repeat)
                times[i].append(steps)
                calls.append(whole)
        self.call_seconds = float(np.mean(np.concatenate(calls)))
        return [np.median(np.concatenate(t), axis=0) for t in times]


def made_up_inputs(program: Program) -> list[np.ndarray]:
    """Small normal floats and zeros, for the upper bounds of symbolic extents; UnsupportedError if one has none."""
    unbounded = [d.name for d in program.symbols.values() if d.max is None]
    if unbounded:
        raise UnsupportedError(
            f"tune: there is no size to measure with, because {', '.join(unbounded)} has no upper bound; declare one, "
            f'such as Dim("{unbounded[0]}", 1, 64)'
        )
    env = {name: d.max for name, d in program.symbols.items() if d.max is not None}
    rng = np.random.default_rng(0)
    out = []
    for port in program.inputs:
        shape = [evaluate(e, env) for e in port.type.shape]
        numbers = 0.1 * rng.standard_normal(shape) if port.type.dtype.kind == "f" else np.zeros(shape)
        out.append(np.asarray(numbers).astype(port.type.dtype.numpy))
    return out


@dataclass(eq=False)
class _Kernel:
    """A distinct kernel of the program.

    ``names``: schedules, the rule's first; ``after``: position of the next one to try, ``measured``: how many others
    than the rule's count as measured. ``seconds`` (best schedule) and ``rule_seconds``: sums over its steps.
    """

    key: str
    node: Node
    steps: list[int]
    names: list[str]
    rule: KernelRecord
    name: str
    best: KernelRecord
    after: int = 1
    measured: int = 0
    seconds: float = 0.0
    rule_seconds: float = 0.0
    codes: set[bytes] = field(default_factory=set)
    known: Finding | None = None

    def fits(self, record: KernelRecord) -> bool:
        """Whether the kernel can take the place of the rule's in a planned program, and has code of its own."""
        same_use = record.operands == self.rule.operands and record.inplace == self.rule.inplace
        return same_use and record.image.code not in self.codes

    def took(self, times: np.ndarray) -> float:
        return float(times[self.steps].sum())


class Tuner:
    """Looks for better schedules for the kernels of one program.

    Args:
        graph: the optimised graph; program: what ``build_program`` made of it with ``compiler``.
        threads: as for ``Executable``. seconds: what may be spent, compiling included.
        measure, clock: where times come from (default: a ``Stopwatch``, ``time.perf_counter``).
        progress: called with (seconds spent, seconds in all, what).

    Attributes:
        comparisons: one line per schedule that was measured. log: what came of it in all.
    """

    def __init__(
        self, graph: Graph, program: Program, compiler: KernelCompiler, *, threads: int, seconds: float,
        measure: Timer | None = None, clock: Callable[[], float] = time.perf_counter,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.started = clock()
        self.program, self.compiler = program, compiler
        self.threads, self.seconds, self.progress = threads, seconds, progress
        self.dims: Mapping[str, Dim] = graph.symbols
        self.comparisons: list[str] = []
        self.log: list[str] = []
        self.kernels = self._kernels(graph)
        self._measure = measure

    def _kernels(self, graph: Graph) -> list[_Kernel]:
        """The kernels for which there is something to try."""
        found: dict[str, _Kernel] = {}
        outputs = graph.output_set()
        for i, node in enumerate(kernel_nodes(graph)):
            key = self.compiler.key(node, outputs)
            if key in found:
                found[key].steps.append(i)
                continue
            names = [s.name for s in schedules(node, self.compiler.target)]
            if len(names) < 2:
                continue
            rule = self.compiler.variant(key, node, self.dims)
            kernel = found[key] = _Kernel(key, node, [i], names, rule, names[0], rule, codes={rule.image.code})
            known = self.compiler.findings.get(key)
            if known is None or known.rule != names[0] or known.schedule not in names:
                continue
            kernel.known = known
            kernel.measured = min(known.measured, len(names) - 1)
            kernel.after = kernel.measured + 1
            if known.is_tuned:
                kernel.name, kernel.best = known.schedule, self.compiler.variant(key, node, self.dims, known.schedule)
                kernel.codes.add(kernel.best.image.code)
        return list(found.values())

    @property
    def spent(self) -> float:
        return self.clock() - self.started

    def run(self) -> None:
        """Measure until the time is over or nothing is left to try. What was found is kept when it is interrupted."""
        if not any(k.after < len(k.names) for k in self.kernels) or self.seconds <= 0:
            return
        measure = self._measure or Stopwatch(self.program, self.threads)
        self._measure = measure
        (times,) = measure([self.program])
        total = float(times.sum())
        for k in self.kernels:
            k.seconds = k.rule_seconds = k.took(times)
            if k.known is not None:
                k.rule_seconds = k.known.rule_us * len(k.steps) / 1e6
        busy = sorted((k for k in self.kernels if k.seconds >= SHARE * total), key=lambda k: -k.seconds)
        changed = False
        while self._room(3):  # twice now, and once in the end
            tried = self._next(busy)
            if not tried:
                break
            won = self._compare(tried)
            if won:
                won = self._compare(won)
            for k in tried:
                k.measured = k.after - 1
            for k, record in won.items():
                k.name, k.best = k.names[k.after - 1], record
                self.program = with_kernels(self.program, dict.fromkeys(k.steps, record))
                changed = True
            self._report(busy)
        if changed:
            self._compare_with_rule()

    def _room(self, comparisons: int) -> bool:
        assert self._measure is not None
        return self.spent + comparisons * self._measure.comparison_seconds <= self.seconds

    def _next(self, busy: Sequence[_Kernel]) -> dict[_Kernel, KernelRecord]:
        """The next schedule of each kernel, the slowest kernels first, as far as there is time to compile."""
        found: dict[_Kernel, KernelRecord] = {}
        until = self.spent + _COMPILE_SHARE * self.seconds
        for k in busy:
            while k.after < len(k.names) and k not in found:
                if self.spent >= until or not self._room(3):
                    return found
                try:
                    record = self.compiler.variant(k.key, k.node, self.dims, k.names[k.after])
                except UnsupportedError:
                    record = k.rule  # which is known already
                k.after += 1
                if k.fits(record):
                    k.codes.add(record.image.code)
                    found[k] = record
                else:
                    k.measured = k.after - 1
        return found

    def _compare(self, tried: Mapping[_Kernel, KernelRecord]) -> dict[_Kernel, KernelRecord]:
        """Those of ``tried`` that are faster than the best so far."""
        assert self._measure is not None
        changed = with_kernels(self.program, {i: record for k, record in tried.items() for i in k.steps})
        old, new = self._measure([self.program, changed])
        won = {}
        for k, record in tried.items():
            before, after = k.took(old), k.took(new)
            better = after < GAIN * before
            self.comparisons.append(
                f"{_label(self.program, k)}: {after * 1e6:.1f} us, best so far {before * 1e6:.1f} us: "
                f"{k.names[k.after - 1]}{', faster' if better else ''}"
            )
            if k.best is k.rule:
                k.rule_seconds = before
            k.seconds = after if better else before
            if better:
                won[k] = record
        return won

    def _compare_with_rule(self) -> None:
        """Once more beside the rule's choices; what is not faster is dropped."""
        assert self._measure is not None
        tuned = [k for k in self.kernels if k.best is not k.rule]
        rule = with_kernels(self.program, {i: k.rule for k in tuned for i in k.steps})
        old, new = self._measure([rule, self.program])
        for k in self.kernels:
            k.rule_seconds, k.seconds = k.took(old), k.took(new)
            if k.seconds >= GAIN * k.rule_seconds:
                k.seconds = k.rule_seconds
                if k.best is k.rule:
                    continue
                self.comparisons.append(f"{_label(self.program, k)}: dropped again: {k.name}")
                k.name, k.best = k.names[0], k.rule
                self.program = with_kernels(self.program, dict.fromkeys(k.steps, k.rule))
        self.log.append(
            f"all kernels in turns: {old.sum() * 1e6:.1f} us by the rule, {new.sum() * 1e6:.1f} us as measured"
        )

    def _report(self, busy: Sequence[_Kernel]) -> None:
        if self.progress is not None:
            measured = sum(k.measured for k in busy)
            better = sum(k.best is not k.rule for k in busy)
            self.progress(
                min(int(self.spent), int(self.seconds)), int(self.seconds),
                f"tuning: {measured} schedules measured, {better} of {len(busy)} kernels faster",
            )  # fmt: skip

    def findings(self) -> dict[str, Finding]:
        """What was found so far, by kernel key."""
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        target = self.compiler.target.name
        return {
            k.key: Finding(
                k.key, self.threads, _label(self.program, k), target, k.names[0], k.name,
                round(k.rule_seconds * 1e6 / len(k.steps), 2), round(k.seconds * 1e6 / len(k.steps), 2), k.measured,
                date,
            )
            for k in self.kernels
            if k.measured and (k.known is None or (k.measured, k.name) != (k.known.measured, k.known.schedule))
        }  # fmt: skip


def _label(program: Program, k: _Kernel) -> str:
    return program.steps[k.steps[0]].label


__all__ = ["Stopwatch", "Tuner", "made_up_inputs"]
