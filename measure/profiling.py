"""Where the time of a compiled program goes: every kernel beside what the machine could do (``ingot profile``)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..ir.plan import Program, Step
from ..runtime.executable import Executable
from .limits import Limits, Probe

SLICES = 5  # of the program, in turns with samples of the machine's limits


@dataclass(frozen=True)
class KernelTime:
    """One step of a program.

    Attributes:
        layers, operators: where it comes from and what it computes. schedule: what the compiler chose and why.
        seconds: median; best: 10th percentile.
        flops, bytes: what the kernel really does, or None where extents are symbolic and not at their upper bounds.
        direct: operations that its contractions take in direct form (Winograd needs fewer), else equal to ``flops``.
        bound: what takes longest: ``"compute"``, ``"bfloat16"`` (the unit for such products) or a level of memory
            (``limits.LEVELS``).
        limit_seconds: the least time that the measured limits allow.
    """

    index: int
    kernel: str
    layers: str
    operators: str
    schedule: str
    seconds: float
    best: float
    flops: float | None
    direct: float | None
    bytes: float | None
    bound: str
    limit_seconds: float

    @property
    def share(self) -> float:
        """Of the roofline, from 0 to about 1."""
        return self.limit_seconds / max(self.seconds, 1e-12)


@dataclass(frozen=True)
class Profile:
    """A profiled program: its kernels in execution order and whole calls.

    ``call_seconds``: median of a call from Python; ``outside_seconds``: median of what of it no kernel accounts for
    (checks, tables, the way into native code). ``runs``: how many calls were measured.
    """

    name: str
    target: str
    threads: int
    runs: int
    kernels: list[KernelTime]
    call_seconds: float
    outside_seconds: float
    limits: Limits

    @property
    def kernel_seconds(self) -> float:
        return sum(k.seconds for k in self.kernels)

    def to_json(self) -> dict[str, Any]:
        limits = self.limits
        return {
            "name": self.name,
            "target": self.target,
            "threads": self.threads,
            "runs": self.runs,
            "call_seconds": self.call_seconds,
            "outside_seconds": self.outside_seconds,
            "limits": asdict(limits),
            "kernels": [{**vars(k), "share": k.share} for k in self.kernels],
        }


def profile(executable: Executable, inputs: Sequence[np.ndarray], seconds: float = 2.0) -> Profile:
    """Run ``executable`` for about ``seconds`` in turns with samples of the machine's limits."""
    probe = Probe(executable.threads)
    outs = executable.run(inputs)
    started = time.perf_counter()
    executable.run_into(outs, inputs)
    repeat = max(2, min(200, int(seconds / SLICES / max(time.perf_counter() - started, 1e-6))))
    steps, calls = [], []
    for _ in range(SLICES):
        probe.sample(2)
        in_steps, in_calls = executable.step_seconds(inputs, repeat)
        steps.append(in_steps)
        calls.append(in_calls)
    times, whole = np.concatenate(steps), np.concatenate(calls)
    program, limits = executable.program, probe.limits()
    known = _work_is_known(executable, inputs)
    medians, best = np.median(times, axis=0), np.percentile(times, 10, axis=0)
    kernels = [
        _kernel(program, i, step, float(medians[i]), float(best[i]), limits, known)
        for i, step in enumerate(program.steps)
    ]
    return Profile(
        program.name, program.target_name, executable.threads, len(whole), kernels, float(np.median(whole)),
        float(np.median(whole - times.sum(axis=1))), limits,
    )  # fmt: skip


def _work_is_known(executable: Executable, inputs: Sequence[np.ndarray]) -> bool:
    """Work is recorded for the upper bounds of symbolic extents: whether the inputs have those."""
    env = executable.signature.bind([a.shape for a in inputs])
    return all(env.get(name) == dim.max for name, dim in executable.program.symbols.items())


def _kernel(
    program: Program, index: int, step: Step, seconds: float, best: float, limits: Limits, known: bool
) -> KernelTime:
    layers, _, operators = (step.label or step.kernel).rpartition(": ")
    flops, direct, moved = (step.flops, step.direct or step.flops, step.bytes) if known else (None, None, None)
    unit = "bfloat16" if step.bf16 and limits.bf16_flops else "compute"
    compute = step.flops / (limits.bf16_flops if unit == "bfloat16" else limits.flops)
    levels = _memory_times(program, step, limits)
    memory = sum(levels.values())
    bound = unit if compute >= memory else max(levels, key=lambda name: levels[name])
    return KernelTime(
        index, step.kernel, layers, operators, program.kernels[step.kernel].description, seconds, best, flops, direct,
        moved, bound if known else "", max(compute, memory) if known else 0.0,
    )  # fmt: skip


def _memory_times(program: Program, step: Step, limits: Limits) -> dict[str, float]:
    """Least time for the traffic of each level.

    Weights come from the level that holds the whole program, since every call reads all of them; what kernels
    hand to each other comes from the level that holds what this one touches.
    """
    constants = sum(c.nbytes for c in program.constants)
    own = {ref.index for ref in step.buffers if ref.kind == "constant"}
    weights = min(step.bytes, float(sum(program.constants[i].nbytes for i in own)))
    times: dict[str, float] = {}
    for nbytes, footprint in ((weights, constants + program.arena_bytes), (step.bytes - weights, step.bytes)):
        level = limits.level(footprint)
        times[level] = times.get(level, 0.0) + nbytes / limits.bandwidth[level]
    return times
