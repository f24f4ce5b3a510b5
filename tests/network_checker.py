"""Compiles a graph with everything switched on and holds each stage against the float64 interpreter.

``check_network`` asks, in this order: do the passes keep the meaning (float64 before and after); does every
kernel compute its node (on the very operands it had); is the planned program (arena, in-place reuse, dirty
memory, 1 to 3 threads, guarded arrays) equal to the bit to the one that keeps every value; are the results as
near to the oracle as NumPy's in the same precision. ``minimise`` cuts a failing graph down.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ingot.checking import tap
from ingot.codegen.host import host_target
from ingot.codegen.library import NativeKernels
from ingot.codegen.lower import table
from ingot.driver import Options, optimise, refuse_unsupported
from ingot.ir import registry
from ingot.ir.dims import evaluate
from ingot.ir.dtypes import DType, dtype_from_numpy, float32, tolerance
from ingot.ir.errors import IngotError
from ingot.ir.graph import Graph, Node, Value
from ingot.ir.interpreter import bind_symbols, eval_node, interpret
from ingot.ir.registry import Fusion
from ingot.passes.schedule_updates import is_alias
from ingot.program import KernelCompiler, build_program
from ingot.runtime.executable import Executable
from ingot.runtime.pool import SUPPORTED
from kernel_harness import run_kernel
from network_fuzzer import Network

PAGE = mmap.PAGESIZE


class Mismatch(AssertionError):
    """A stage gave a wrong result."""


class TimingCompiler(KernelCompiler):
    """Compiles without the disk cache and notes how long each kernel took."""

    def __init__(self, target: Any) -> None:
        super().__init__(target, None)
        self.slow: list[tuple[float, str]] = []

    def _build(self, key: str, node: Node, schedule: str = "") -> Any:
        start = time.thread_time()
        record = super()._build(key, node, schedule)
        self.slow.append((time.thread_time() - start, describe(node)))
        return record


@dataclass
class Outcome:
    """What a check saw: kernels with their compile times, seconds in all, the worst error over its bound."""

    kernels: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    worst: float = 0.0


_COMPILERS: dict[str, TimingCompiler] = {}


def compiler_for(target: Any) -> TimingCompiler:
    compiler = _COMPILERS.setdefault(target.name, TimingCompiler(target))
    if len(compiler.records) > 2000:
        compiler.records.clear()
    return compiler


def describe(node: Node) -> str:
    ops = "+".join(n.op for n in node.regions[0] if n.op != "constant") if node.regions else node.op
    return f"{ops}({', '.join(str(v.type) for v in node.inputs)}) -> {', '.join(str(v.type) for v in node.outputs)}"


# -- memory with guards -------------------------------------------------------------------------------
class GuardedArrays:
    """Arrays that end (or begin) right at a page that can neither be read nor written."""

    def __init__(self) -> None:
        self._maps: list[Any] = []
        self._libc = ctypes.CDLL(None, use_errno=True)

    def place(self, shape: Sequence[int], dtype: np.dtype, at_end: bool) -> np.ndarray:
        nbytes = int(np.prod(shape)) * dtype.itemsize
        pages = max(1, -(-nbytes // PAGE))
        block = mmap.mmap(-1, (pages + 2) * PAGE)
        raw = np.frombuffer(block, np.uint8)
        base = raw.ctypes.data
        for guard in (base, base + (pages + 1) * PAGE):
            if self._libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self._maps.append((block, raw, base, pages))
        start = PAGE + (pages * PAGE - nbytes if at_end else 0)
        raw[PAGE : PAGE + pages * PAGE] = 0xFF
        return raw[start : start + nbytes].view(dtype).reshape(shape)

    def copy(self, array: np.ndarray, at_end: bool) -> np.ndarray:
        out = self.place(array.shape, array.dtype, at_end)
        out[...] = array
        return out

    def close(self) -> None:
        for _, _, base, pages in self._maps:
            for guard in (base, base + (pages + 1) * PAGE):
                self._libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 3)
        self._maps.clear()


def poison(executable: Executable) -> None:
    """Fill every arena, scratch and dynamic buffer of an idle executable with NaN patterns."""
    for context in executable._free:
        context.arena[...] = 0xFF
        context.scratch[...] = 0xFF
        for frame in context._frames.values():
            for buffer in frame.buffers:
                buffer[...] = 0xFF


# -- comparing ----------------------------------------------------------------------------------------
def error_of(got: np.ndarray, want: np.ndarray, least: float = 0.0) -> float:
    """Largest difference over the largest magnitude (at least ``least``: what went into sums that cancel); inf where
    NaNs, infinities or shapes do not agree."""
    if got.shape != want.shape:
        return float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    if not np.isfinite(a[~same]).all() or not np.isfinite(b[~same]).all():
        return float("inf")
    scale = max(magnitude(b), least) or 1.0
    return float(np.max(np.abs(a[~same] - b[~same]))) / (scale if want.dtype.kind == "f" else 1.0)


def magnitude(array: np.ndarray) -> float:
    """Largest finite absolute value of a floating array."""
    if dtype_from_numpy(array.dtype).kind != "f":
        return 0.0
    return float(np.max(np.abs(array[np.isfinite(array)].astype(np.float64)), initial=0))


def oracle_of(graph: Graph, inputs: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """The results in float64, and the largest magnitude on the way."""
    largest = max([0.0, *(magnitude(a) for a in inputs)])

    def observe(node: Node, outputs: list[np.ndarray]) -> None:
        nonlocal largest
        largest = max([largest, *(magnitude(o) for o in outputs)])

    return interpret(graph, inputs, float64=True, observer=observe), largest


def node_depth(node: Node, env: Mapping[str, int]) -> int:
    """Terms of the longest sum in the node."""
    depth = 1
    for n in node.regions[0] if node.regions else [node]:
        fusion = registry.get(n.op).fusion
        if n.op in ("matmul", "conv", "conv_transpose"):
            shape = [evaluate(e, env) for e in n.inputs[-1].shape]
            if n.op == "matmul":
                depth = max(depth, shape[-1] if n.attrs["transpose_b"] else shape[-2])
            else:
                depth = max(depth, int(np.prod(shape)))
        elif fusion in (Fusion.REDUCE, Fusion.OPAQUE, Fusion.CONTRACTION) and n.inputs:
            depth = max(depth, max(int(np.prod([evaluate(e, env) for e in v.shape])) for v in n.inputs))
    return depth


def coarsest(graph: Graph) -> DType:
    """The least precise floating dtype that any value has."""
    found = {v.dtype for v in graph.values() if v.dtype.kind == "f"}
    for node in graph:
        for region in node.regions:
            found |= {v.dtype for v in region.values() if v.dtype.kind == "f"}
    return max(found, key=lambda d: d.eps, default=float32)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Mismatch(message)


# -- the check ----------------------------------------------------------------------------------------
def check_network(network: Network, target_name: str = "host", *, canaries: bool = False) -> Outcome:
    """Raises Mismatch (or whatever the compiler raised) with the stage and the node."""
    return check_graph(network.graph, network.inputs_at, network.sizes, target_name, canaries=canaries)


def check_graph(
    graph: Graph,
    inputs_at: Callable[[dict[str, int]], list[np.ndarray]],
    sizes: Sequence[dict[str, int]] = ({},),
    target_name: str = "host",
    *,
    canaries: bool = False,
) -> Outcome:
    start = time.thread_time()
    target = host_target(target_name)
    optimised, _ = graph.clone()
    optimise(optimised, Options(target=target, cache=False))
    refuse_unsupported(optimised, NativeKernels(target), target)
    compiler = compiler_for(target)
    before = len(compiler.slow)
    tapped, values = tap(optimised)
    keeping = Executable(build_program(tapped, compiler), threads=1)
    program = build_program(optimised.clone()[0], compiler)
    runs = [Executable(program, threads=n) for n in ((1, 2, 3) if SUPPORTED else (1,))]
    outcome = Outcome(compiler.slow[before:], time.thread_time() - start)
    for env in sizes:
        inputs = inputs_at(env)
        if env and not (_defined(graph, inputs) and _defined(optimised, inputs)):
            continue
        _check_passes(graph, optimised, inputs)
        held = _check_kernels(optimised, keeping, values, inputs, outcome)
        first = _check_plan(program, runs, keeping, inputs, env)
        _check_results(graph, inputs, first, env)
        if canaries and env == sizes[0]:
            _check_canaries(optimised, target, held, inputs)
    return outcome


def _defined(graph: Graph, inputs: list[np.ndarray]) -> bool:
    """Whether the graph has a result: there is no largest of nothing, and windows must fit."""
    try:
        interpret(graph, inputs)
    except IngotError:
        return False
    return True


def _check_passes(graph: Graph, optimised: Graph, inputs: list[np.ndarray]) -> None:
    oracle, largest = oracle_of(graph, inputs)
    now = interpret(optimised, inputs, float64=True)
    # Constants that are computed at compile time are rounded to their dtype.
    folded = any(not n.inputs for n in graph)
    bound = max(64 * coarsest(graph).eps if folded else 0.0, 1e-11)
    for i, (name, a, b) in enumerate(zip(graph.output_names, now, oracle, strict=True)):
        e = error_of(a, b, 0.1 * largest)
        if e > bound and folded:  # and the graph may enlarge that
            bound = max(bound, 16 * error_of(interpret(graph, inputs)[i], b, 0.1 * largest))
        require(e <= bound, f"passes changed output {name} by {e:.3g} (float64)")


def _check_kernels(
    optimised: Graph, keeping: Executable, values: list[Value], inputs: list[np.ndarray], outcome: Outcome
) -> dict[Value, np.ndarray]:
    """Every node on the operands it had; returns all intermediate values."""
    env = bind_symbols(optimised, [a.shape for a in inputs])
    outputs = keeping.run([a.copy() for a in inputs])
    held: dict[Value, np.ndarray] = dict(zip(values, outputs[len(optimised.outputs) :], strict=True))
    held.update(zip(optimised.inputs, inputs, strict=True))
    for node in optimised:
        if node.op == "constant":
            held[node.output] = node.output.constant
            continue
        arrays = [held[v] for v in node.inputs]
        if is_alias(node):
            held[node.output] = eval_node(node, arrays, env)[0]
            continue
        want = eval_node(node, [_lift(a) for a in arrays], env, float64=True)
        rough: list[np.ndarray] = []
        # Results much smaller than the operands are what is left of a sum that cancels.
        least = 0.1 * max([0.0, *(magnitude(a) for a in arrays)])
        for i, (out, oracle) in enumerate(zip(node.outputs, want, strict=True)):
            if out not in held:
                continue
            e = error_of(held[out], oracle.astype(out.dtype.numpy), least)
            bound = tolerance(out.dtype, node_depth(node, env))[0]
            if e > bound:  # cancellation, or a coarser type inside, costs NumPy in the same precision digits too
                rough = rough or eval_node(node, arrays, env)
                bound = max(bound, 8 * error_of(rough[i], oracle, least))
                exact = error_of(held[out], rough[i]) == 0
                require(e <= bound or exact, f"kernel {describe(node)}: output {i} is off by {e:.3g} > {bound:.3g}")
            outcome.worst = max(outcome.worst, e / bound if bound else 0.0)
    return held


def _lift(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if dtype_from_numpy(array.dtype).kind == "f" else array


def _check_plan(
    program: Any, runs: list[Executable], keeping: Executable, inputs: list[np.ndarray], env: dict[str, int]
) -> list[np.ndarray]:
    wanted = keeping.run([a.copy() for a in inputs])[: len(program.outputs)]
    wanted = [w.copy() for w in wanted]
    for run in runs:
        for k, how in enumerate(("first run", "dirty memory", "guarded arrays")):
            guards = GuardedArrays()
            if k == 2:
                given = [guards.copy(a, True) for a in inputs]
                results: list[Any] = [
                    None if port.updates >= 0 else guards.place(shape, port.type.dtype.numpy, True)
                    for port, shape in zip(program.outputs, run.output_shapes([a.shape for a in inputs]), strict=True)
                ]
                run.run_into(results, given)
                got = [given[p.updates] if p.updates >= 0 else r for p, r in zip(program.outputs, results, strict=True)]
            else:
                given = [a.copy() for a in inputs]
                got = run.run(given)
            for port, a, b in zip(program.outputs, got, wanted, strict=True):
                e = error_of(a, b)
                require(
                    np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)) or e == 0,
                    f"plan: output {port.name} of the planned program ({run.threads} threads, {how}, {env}) differs "
                    f"from the one that keeps every value by {e:.3g}",
                )
            updated = {p.updates for p in program.outputs}
            for i, (a, b) in enumerate(zip(given, inputs, strict=True)):
                same = i in updated or np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))
                require(same, f"plan: input {program.inputs[i].name} was written ({how})")
            guards.close()
            poison(run)
    return wanted


def _check_results(
    graph: Graph, inputs: list[np.ndarray], got: list[np.ndarray], env: dict[str, int]
) -> None:
    oracle, largest = oracle_of(graph, inputs)
    rough = interpret(graph, inputs)
    sizes = bind_symbols(graph, [a.shape for a in inputs])
    depth = max((node_depth(n, sizes) for n in graph), default=1) * max(1, len(graph))
    kind = coarsest(graph)
    for name, a, b, r in zip(graph.output_names, got, oracle, rough, strict=True):
        bound = 0.0
        if dtype_from_numpy(a.dtype).kind == "f":
            bound = max(tolerance(kind, depth)[0], 64 * error_of(r, b, 0.1 * largest))
        e = error_of(a, b, 0.1 * largest)
        require(e <= bound, f"result {name} is off by {e:.3g} > {bound:.3g} at {env}")


def _check_canaries(
    optimised: Graph, target: Any, held: dict[Value, np.ndarray], inputs: list[np.ndarray]
) -> None:
    """Every kernel once more, alone, between guards, its iterations in random pieces."""
    env = bind_symbols(optimised, [a.shape for a in inputs])
    for node in optimised:
        if node.op == "constant" or is_alias(node):
            continue
        lowered = table.lower(node, target)
        arrays = {v: held[v] for v in node.inputs}
        out = run_kernel(lowered, arrays, env=env, seed=len(held))
        for o in node.outputs:
            if o in held and o in out:
                require(error_of(out[o], held[o]) == 0, f"kernel {describe(node)}: other bits when run alone in pieces")


# -- minimising ---------------------------------------------------------------------------------------
def minimise(
    graph: Graph, inputs: list[np.ndarray], fails: Callable[[Graph, list[np.ndarray]], bool], budget: float = 60.0
) -> tuple[Graph, list[np.ndarray]]:
    """A smaller graph that still fails: fewer outputs, and intermediate values made inputs."""
    deadline = time.monotonic() + budget
    shrinking = True
    while shrinking and time.monotonic() < deadline:
        shrinking = False
        for candidate, arrays in _smaller(graph, inputs):
            if time.monotonic() > deadline:
                break
            if fails(candidate.clone()[0], arrays):
                graph, inputs, shrinking = candidate, arrays, True
                break
    return graph, inputs


def _smaller(graph: Graph, inputs: list[np.ndarray]) -> Any:
    for i in range(len(graph.outputs)):
        if len(graph.outputs) > 1:
            copy, _ = graph.clone()
            del copy.outputs[i], copy.output_names[i]
            copy.updates = {o - (o > i): k for o, k in copy.updates.items() if o != i}
            yield from _pruned(copy, inputs)
    values: dict[Value, np.ndarray] = {}

    def remember(node: Node, outputs: list[np.ndarray]) -> None:
        values.update(zip(node.outputs, outputs, strict=True))

    interpret(graph, inputs, observer=remember)
    nodes = graph.nodes
    for node in nodes:  # from the start: cut whole prefixes off first
        if node.op == "constant":
            continue
        copy, mapping = graph.clone()
        arrays = list(inputs)
        for o in node.outputs:
            if o.users or graph.is_output(o):
                new = copy.add_input(o.type, "cut")
                copy.replace_uses(mapping[o], new)
                arrays.append(np.ascontiguousarray(values[o]))
        yield from _pruned(copy, arrays, len(graph))
    for node in reversed(nodes):  # leave elementwise nodes out
        if node.op == "constant" or len(node.outputs) != 1:
            continue
        for v in node.inputs:
            if v.type == node.output.type:
                copy, mapping = graph.clone()
                copy.replace_uses(mapping[node.output], mapping[v])
                yield from _pruned(copy, list(inputs), len(graph))


def _pruned(copy: Graph, arrays: list[np.ndarray], limit: int | None = None) -> Any:
    copy.prune()
    if limit is not None and len(copy) >= limit:
        return
    kept = [i for i, v in enumerate(copy.inputs) if v.users or copy.is_output(v) or i in copy.updates.values()]
    positions = {old: new for new, old in enumerate(kept)}
    copy.inputs = [copy.inputs[i] for i in kept]
    copy.roles = [copy.roles[i] for i in kept]
    copy.updates = {o: positions[i] for o, i in copy.updates.items()}
    yield copy, [arrays[i] for i in kept]


__all__ = ["Mismatch", "Outcome", "check_graph", "check_network", "minimise"]
