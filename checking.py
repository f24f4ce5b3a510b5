"""Layer-by-layer check of compiled code against the float64 oracle (``ingot check``).

Questions, each answered by name:
1. Did a pass change the meaning? The graph is interpreted in float64 after every pass.
2. Does a kernel compute its operator? Every intermediate result is tapped; each node's reference is run in
   float64 on the very inputs that the kernel had, so errors do not accumulate and bounds stay tight.
3. Does the planned program (arena, in-place reuse, threads) give the same bits as the tapped one?
4. Does it so again in memory that a run has used? (Fresh memory is zero and hides what nobody has written.)
5. If asked: does every kernel keep to its own buffers (``guarding``)?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .driver import Options, Report, build, refuse_unsupported
from .ir import registry
from .ir.dims import evaluate
from .ir.dtypes import DType, tolerance
from .ir.errors import CheckError
from .ir.graph import Graph, Node, Value
from .ir.interpreter import bind_symbols, eval_node, interpret
from .ir.layout import DENSE, FORMS
from .ir.registry import Fusion
from .passes.manager import PassContext, PassManager
from .passes.materialise_outputs import memory_root
from .passes.pipeline import standard
from .passes.schedule_updates import is_alias
from .program import build_program
from .runtime.executable import Executable

PASS_BOUND = 1e-5  # weights that are folded at compile time are rounded to their own precision again


@dataclass
class Row:
    """One kernel: its operators, where they come from, its largest error and the bound that it must keep."""

    label: str
    source: str
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.error <= self.bound


@dataclass
class CheckResult:
    """Rows in execution order; ``worst_output``: relative L2 error of the results against the float64 oracle;
    ``pass_errors``: the same after each pass that rewrote something, all in float64; ``guarded``: steps that ran
    between guard pages."""

    rows: list[Row] = field(default_factory=list)
    worst_output: float = 0.0
    pass_errors: dict[str, float] = field(default_factory=dict)
    guarded: int = 0


def check_graph(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    options: Options,
    on_row: Callable[[Row], None] | None = None,
    *,
    guard: bool = False,
) -> CheckResult:
    """Check an inference graph (as traced and frozen; it is not changed) on ``inputs``.

    ``guard`` also runs it with every buffer between guard pages, in child processes (Linux).
    Raises CheckError naming the first pass or kernel that departs.
    """
    result = CheckResult()
    oracle = interpret(graph, inputs, float64=True)
    optimised = _passes(graph, inputs, oracle, options, result)
    tapped, values = tap(optimised)
    outputs = Executable(build_program(tapped, options.compiler()), threads=options.threads).run(list(inputs))
    env = bind_symbols(graph, [a.shape for a in inputs])
    held = dict(zip(values, outputs[len(graph.outputs) :], strict=True))
    held.update(zip(optimised.inputs, inputs, strict=True))
    for node in optimised:
        if node.op == "constant":
            continue
        if is_alias(node):
            held[node.output] = eval_node(node, [_operand(v, held) for v in node.inputs], env)[0]
            continue
        row = _check_node(node, held, env)
        result.rows.append(row)
        if on_row is not None:
            on_row(row)
        if not row.ok:
            raise CheckError(
                f"{row.label} {row.source}: error {row.error:.3g} exceeds {row.bound:.3g} (relative to the largest "
                "element), measured on the kernel's own inputs against its NumPy reference in float64"
            )
    planned = Executable(build(graph.clone()[0], options, Report()), threads=options.threads)
    first = planned.run(list(inputs))
    _same_bits(graph, first, outputs, "the planned program differs from the one with every value kept; a buffer was "
               "reused while it was still needed")  # fmt: skip
    _same_bits(graph, planned.run(list(inputs)), first, "a second run gives other bits; a kernel reads memory that "
               "nobody has written")  # fmt: skip
    if guard:
        result.guarded = _guard(graph, inputs, options, first)
    result.worst_output = max((relative_l2(a, b) for a, b in zip(first, oracle, strict=True)), default=0.0)
    return result


def _guard(graph: Graph, inputs: Sequence[np.ndarray], options: Options, wanted: Sequence[np.ndarray]) -> int:
    from .guarding import run_guarded

    program = build(graph.clone()[0], replace(options, debug="bounds"), Report())
    for place in ("end", "start"):
        got = run_guarded(program, inputs, threads=options.threads, place=place)
        _same_bits(graph, got, wanted, f"other bits between guard pages (buffers placed at the {place})")
    return len(program.steps)


def _same_bits(graph: Graph, got: Sequence[np.ndarray], want: Sequence[np.ndarray], complaint: str) -> None:
    for name, a, b in zip(graph.output_names, got, want, strict=False):  # tapped programs have more outputs
        if not np.array_equal(a, b, equal_nan=a.dtype.kind not in "biu"):
            raise CheckError(f"output {name}: {complaint}")


def _passes(
    graph: Graph, inputs: Sequence[np.ndarray], oracle: list[np.ndarray], options: Options, result: CheckResult
) -> Graph:
    """The optimised graph; CheckError names a pass that changed the results in float64."""
    copy, _ = graph.clone()
    kernels = options.kernels()
    target = kernels.target
    context = PassContext(target, kernels)
    for stage in standard():
        if stage.name in options.disable:
            continue
        disabled = set(options.disable) & set(stage.names())
        logged = len(context.log)
        settings = {"verify": options.verify, "disabled": disabled, "reproducer_dir": options.reproducer_dir}
        (record,) = PassManager([stage], **settings).run(copy, context)  # type: ignore[arg-type]
        if not record.rewrites:
            continue
        now = interpret(copy, inputs, float64=True)
        error = max((relative_l2(a, b) for a, b in zip(now, oracle, strict=True)), default=0.0)
        result.pass_errors[stage.name] = max(error, result.pass_errors.get(stage.name, 0.0))
        if not error <= PASS_BOUND:  # NaN fails too
            fired = [str(e) for e in context.log[logged:] if e.fired]
            shown = "; ".join(fired[:3]) + (f" and {len(fired) - 3} more" if len(fired) > 3 else "")
            raise CheckError(f"pass {stage.name} changed the results by {error:.3g} (float64, relative L2); "
                             f"its rewrites: {shown or 'not logged'}")  # fmt: skip
    refuse_unsupported(copy, kernels, target)
    return copy


def tap(graph: Graph) -> tuple[Graph, list[Value]]:
    """A copy of ``graph`` with every computed value among the outputs, and the original values in that order."""
    copy, mapping = graph.clone()
    # A result that is only another shape of a computed value is that value's memory, which can be one output only.
    claimed = {memory_root(o) for o in copy.outputs}
    values = []
    for node in graph:
        if node.op == "constant" or is_alias(node):
            continue
        for out in node.outputs:
            if not out.users and not graph.is_output(out):
                continue
            new = mapping[out]
            if not new.type.layout.is_dense:
                new = copy.create("layout_cast", [new], {"layout": DENSE}, [new.type.with_layout(DENSE)]).output
            elif new in claimed:
                new = copy.create("identity", [new], {}, [new.type]).output
            copy.add_output(new, f"tap.{out.name}")
            values.append(out)
    return copy, values


def _operand(v: Value, held: dict[Value, np.ndarray]) -> np.ndarray:
    return v.constant if v.is_constant else held[v]


def _check_node(node: Node, held: dict[Value, np.ndarray], env: Mapping[str, int]) -> Row:
    arrays = [_operand(v, held) for v in node.inputs]
    oracle = eval_node(node, [_lift(a) for a in arrays], env, float64=True)
    found: list[tuple[float, float]] = []  # (error, bound) per result
    reference: list[np.ndarray] = []
    for i, (out, want) in enumerate(zip(node.outputs, oracle, strict=True)):
        if out not in held:
            continue
        rtol, _ = tolerance(out.dtype, _depth(node, env))
        here = largest_error(held[out], want, out.dtype)
        if here > rtol:
            # Cancellation inside a fused kernel costs the NumPy reference in the same precision digits too.
            reference = reference or eval_node(node, arrays, env)
            rtol = max(rtol, 4 * largest_error(reference[i], want, out.dtype))
        # Kernels on transformed weights state an error in the mean; single elements may be ten times off.
        rtol = max([rtol, *(10 * FORMS[v.type.layout.form].error for v in node.inputs if v.type.layout.form)])
        found.append((here, rtol))
    error, bound = max(found, key=lambda f: f[0] - f[1], default=(0.0, 0.0))
    ops = "+".join(n.op for n in node.regions[0] if n.op != "constant") if node.regions else node.op
    return Row(ops, str(node.source), error, bound)


def _lift(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else array


def _depth(node: Node, env: Mapping[str, int]) -> int:
    """Terms of the longest sum in the node."""
    return max([1, *(_terms(n, env) for n in (node.regions[0] if node.regions else [node]))])


def _terms(node: Node, env: Mapping[str, int]) -> int:
    fusion = registry.get(node.op).fusion
    if fusion not in (Fusion.REDUCE, Fusion.CONTRACTION, Fusion.OPAQUE) or not node.inputs:
        return 1
    shapes = [[evaluate(e, env) for e in v.shape] for v in node.inputs]
    if node.op == "matmul":
        return shapes[0][-2 if node.attrs["transpose_a"] else -1]
    if node.op == "conv":
        return math.prod(shapes[1][1:])
    if fusion is Fusion.REDUCE:
        return math.prod(shapes[0]) // max(1, math.prod(evaluate(e, env) for e in node.outputs[0].shape))
    return max(math.prod(shape) for shape in shapes)


def largest_error(got: np.ndarray, want: np.ndarray, dtype: DType) -> float:
    """Largest absolute difference over the largest magnitude; inf where NaNs or infinities do not agree."""
    got64, want64 = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got64.shape != want64.shape:
        return float("inf")
    finite = np.isfinite(want64)
    same = (got64 == want64) | (np.isnan(got64) & np.isnan(want64))
    if not np.all(same | finite) or not np.all(np.isfinite(got64[finite])):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(np.max(np.abs(want64[finite]))) or 1.0
    if dtype.kind != "f":
        scale = 1.0
    return float(np.max(np.abs(got64[finite] - want64[finite]))) / scale


def relative_l2(got: np.ndarray, want: np.ndarray) -> float:
    """||got - want|| / ||want||."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    norm = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / norm if norm else float(np.linalg.norm(a))
