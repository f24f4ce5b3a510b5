"""What this machine can do at best: multiply-adds per second and bytes per second of each level of memory.

The loops are kernels of an ordinary program that the ordinary executor runs with the same number of threads as the
program under test, so sampling them in turns with it cancels what the machine's other users take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..codegen.assemble import assemble
from ..codegen.executor_ir import executor_ir
from ..codegen.host import host_target
from ..codegen.llvm_emit import emit
from ..codegen.loopir import LoopBuilder, LoopFunction, TileShape, Val
from ..ir import abi
from ..ir.dtypes import float32, int32
from ..ir.plan import BufferRef, KernelImage, Program, Step
from ..ir.target import Target
from ..runtime.cpu import tile_refusal
from ..runtime.executable import Executable
from ..runtime.memory import allocate

_SUMS = 12  # independent accumulators: more than latency times ports of any CPU so far
_FMA_ROUNDS, _TILE_ROUNDS = 4000, 200
_MEMORY_BYTES = (64 << 20, 256 << 20)  # least and most that stands for "does not fit any cache"
LEVELS = ("L2", "L3", "memory")


@dataclass(frozen=True)
class Limits:
    """Rates with all threads, per second.

    ``flops``: float32 multiply-adds on vectors, two operations each; ``undisturbed_flops``: what a tenth of the samples
    reach, since others take from it and nobody adds to it. ``bf16_flops``: bfloat16 products on matrix tiles or by dot
    products of vectors, 0.0 where kernels use neither. ``capacity``: what a level holds (L2: of all threads together),
    in bytes.
    """

    threads: int
    flops: float
    bf16_flops: float
    bandwidth: dict[str, float]
    capacity: dict[str, int]
    undisturbed_flops: float

    def level(self, nbytes: float) -> str:
        """The smallest level that holds ``nbytes``."""
        return next((name for name in LEVELS[:-1] if nbytes <= self.capacity[name]), LEVELS[-1])


class Probe:
    """Samples the machine's limits with ``threads`` threads; ``limits`` are medians (and the 90th
    percentile) of all samples so far."""

    def __init__(self, threads: int) -> None:
        target = host_target()
        lanes = target.lanes(float32)
        l2, l3 = target.l2_bytes, max(target.l3_bytes, 2 * target.l2_bytes)
        # L3: more than the L2 caches hold together, but no more than half: it is often shared with strangers.
        sizes = {
            "L2": l2 // 2,
            "L3": min(l3 // 2, max(8 * l2 * threads, 8 << 20)),
            "memory": min(max(4 * l3, _MEMORY_BYTES[0]), _MEMORY_BYTES[1]),
        }
        fma = _Step(_fma(target), threads * 8, 0, 2.0 * lanes * _SUMS * _FMA_ROUNDS * threads * 8)
        steps = [fma, fma]  # the first one wakes the threads, and the cores' vector units
        for name, size in sizes.items():
            block = min(size, 1 << 20) // (8 * lanes * 4) * (8 * lanes * 4)
            blocks = size // block
            sweeps = {"L2": 128 * threads, "L3": 2}.get(name, 1)
            steps.append(_Step(_read(target, name, block // 4, blocks), blocks * sweeps, size, blocks * sweeps * block))
        self._tiles = target.has("amx-tile") and target.has_tiles and tile_refusal() is None
        if self._tiles:
            steps.append(_Step(tile_loop(target), threads * 8, 0, 2.0 * 16 * 16 * 32 * 4 * _TILE_ROUNDS * threads * 8))
        elif target.has_dots:
            steps.append(_Step(_fma(target, dots=True), threads * 8, 0, 2 * steps[0].work))
        self._unit = self._tiles or target.has_dots
        self._work = [s.work for s in steps]
        program = _program(target, steps)
        program.uses_tiles = self._tiles
        self._executable = Executable(program, threads=threads)
        self._samples: list[np.ndarray] = []
        self._capacity = {"L2": l2 * threads, "L3": l3}
        self._executable.run([])  # touches the memory

    def sample(self, count: int = 1) -> None:
        """Take ``count`` samples of everything, about 20 ms each."""
        seconds, _ = self._executable.step_seconds([], count)
        self._samples.extend(np.array(self._work) / np.maximum(seconds, 1e-9))

    def limits(self) -> Limits:
        if not self._samples:
            self.sample(3)
        _, flops, *rates = (float(x) for x in np.median(self._samples, axis=0))
        unit = rates.pop() if self._unit else 0.0
        bandwidth = dict(zip(LEVELS, rates, strict=True))
        best = float(np.percentile([s[1] for s in self._samples], 90))
        return Limits(self._executable.threads, flops, unit, bandwidth, dict(self._capacity), best)


@dataclass
class _Step:
    function: LoopFunction
    trip: int
    data_bytes: int
    work: float


def _fma(target: Target, dots: bool = False) -> LoopFunction:
    """Independent multiply-adds on registers; ``dots``: bfloat16 dot products."""
    b = LoopBuilder("dots" if dots else "fma", target)
    lanes = target.lanes(float32)
    memory = b.scratch(float32, lanes * _SUMS)
    x = b.load(memory, 0, lanes)
    pairs = b.bitcast(x, int32)

    def add(total: Val) -> Val:
        return b.pair_dot(total, pairs, pairs) if dots else b.op("fma", x, x, total)

    def rounds(_: Val, *sums: Val) -> list[Val]:
        return b.loop(0, _FMA_ROUNDS, lambda _, *v: [add(a) for a in v], carry=sums)

    sums = b.loop(b.begin, b.end, rounds, carry=[b.load(memory, lanes * k, lanes) for k in range(_SUMS)])
    _store(b, memory, sums)
    return b.finish()


def tile_loop(target: Target) -> LoopFunction:
    """Independent products of matrix tiles: four sums of two by two operands."""
    b = LoopBuilder("tiles", target)
    b.tile_config([TileShape()] * 8)
    memory = b.scratch(float32, 256)
    for tile in range(8):
        b.tile_load(tile, memory, 64) if tile >= 4 else b.tile_zero(tile)

    def products(_: Val) -> None:
        for tile in range(4):
            b.tile_dot(tile, 4 + tile // 2, 6 + tile % 2)

    b.loop(b.begin, b.end, lambda _: b.loop(0, _TILE_ROUNDS, products))
    for tile in range(4):
        b.tile_store(tile, memory, 64)
    b.tile_release()
    return b.finish()


def _read(target: Target, name: str, elements: int, blocks: int) -> LoopFunction:
    """Iteration i reads block i of ``blocks`` (then from the first again), each of ``elements`` float32."""
    b = LoopBuilder(f"read_{name}", target)
    data = b.buffer("data", float32)
    lanes, width = target.lanes(float32), 8
    memory = b.scratch(float32, lanes * width)

    def sweep(i: Val, *sums: Val) -> list[Val]:
        start = b.imul(b.irem(i, blocks), elements)

        def add(j: Val, *v: Val) -> list[Val]:
            at = b.iadd(start, j)
            return [b.op("add", a, b.load(data, b.iadd(at, lanes * k), lanes)) for k, a in enumerate(v)]

        return b.loop(0, elements, add, step=width * lanes, carry=sums)

    zero: Callable[[int], Val] = lambda k: b.load(memory, lanes * k, lanes)  # noqa: E731
    _store(b, memory, b.loop(b.begin, b.end, sweep, carry=[zero(k) for k in range(width)]))
    return b.finish()


def _store(b: LoopBuilder, memory: Val, values: list[Val]) -> None:
    for k, v in enumerate(values):
        b.store(memory, v, v.lanes * k)


def _program(target: Target, steps: list[_Step]) -> Program:
    def image(key: str, text: str) -> KernelImage:
        code, entry = assemble(text, target, key)
        return KernelImage(key, code, entry)

    program = Program("limits", [], [], [], [], [], {abi.EXECUTOR: image(abi.EXECUTOR, executor_ir(target))})
    program.target_name, program.target_features = target.name, target.features
    for step in steps:
        fn = step.function
        program.kernels[fn.name] = image(fn.name, emit(fn))
        buffers = ()
        if step.data_bytes:
            data = allocate(step.data_bytes)
            data[:] = 0  # memory that nobody wrote is one shared page of zeros
            buffers = (BufferRef("constant", len(program.constants)),)
            program.constants.append(data)
            program.constant_names.append(fn.name)
        program.steps.append(Step(fn.name, buffers, (), step.trip, 1, fn.scratch_bytes, fn.name))
    return program
