"""Contractions to kernels: matmul, convolutions and their gradients, alone or with a fused elementwise epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...ir.dims import Extent, maximum, product
from ...ir.errors import UnsupportedError
from ...ir.graph import Graph, Node, Value
from ...ir.target import Target
from .. import gather
from .. import schedule as scheduling
from ..contraction import Contraction, Generator, Operand, Prepare, compute, plain
from ..fixed_point import FORMS as FIXED_POINT
from ..gather import GatherSchedule
from ..llvm_emit import emit
from ..loopir import LoopBuilder, Val, contiguous_loads
from ..schedule import ContractionSchedule, Problem
from ..strassen import FORMS as STRASSEN
from ..strassen import StrassenSchedule
from ..tile_schedule import PARTS
from ..winograd import FILTERINGS, WinogradSchedule
from . import arithmetic
from .common import RegionEvaluator
from .contraction_gathered import convolution_of, lower_gathered, plan_gathered
from .contraction_halo import clear_halo, guarded
from .contraction_operands import OutAxis, merge_rows, result_operand
from .contraction_tiles import check_tiles, lower_tiles
from .fixed_point import check_fixed_point, lower_fixed_point
from .kernel import LoweredKernel
from .position import Coord, Extents, Position
from .strassen import check_strassen, lower_strassen, strassen_schedules
from .winograd import lower_winograd, other_schedules

PHASE = "phase"  # outer axes of that name run through the phases of a transposed convolution
CONTRACTIONS = ("matmul", "conv", "conv_transpose", "conv_weight_grad")
_OTHER_WAY = 3  # schedules to measure of the way (gathered rows or in place) that the rule did not take

Schedule = ContractionSchedule | GatherSchedule | WinogradSchedule | StrassenSchedule


@dataclass
class Group:
    """A contraction with the elementwise nodes behind it, in terms of the outer graph's values."""

    node: Node  # what is lowered: the contraction itself or the fused node
    core: Node  # the contraction
    operands: list[Value]  # outer values of the contraction's two operands
    extras: list[Value]  # outer values that the epilogue reads
    inner_extras: list[Value]  # the same inside the region
    region: Graph | None

    @property
    def result(self) -> Value:
        """The result whose layout the kernel is built for."""
        return self.node.outputs[0]


def group_of(node: Node) -> Group:
    """Takes a contraction or ``fused(kind="contraction")`` node apart; UnsupportedError says what does not fit."""
    if node.op in CONTRACTIONS:
        return Group(node, node, list(node.inputs), [], [], None)
    if node.op != "fused" or node.attrs.get("kind") != "contraction":
        raise UnsupportedError(f"contraction kernel: cannot lower {node.op}")
    region = node.regions[0]
    cores = [n for n in region if n.op in CONTRACTIONS]
    if len(cores) != 1:
        raise UnsupportedError(
            f"contraction kernel: a fused group needs exactly one contraction, this has {len(cores)}"
        )
    core = cores[0]
    outer = dict(zip(region.inputs, node.inputs, strict=True))
    for v in core.inputs:
        if v not in outer:
            raise UnsupportedError(f"contraction kernel: operand %{v.name} of {core.op} is computed inside the group")
    for n in region:
        if n is not core and n.op != "constant" and n.op not in arithmetic.RULES:
            raise UnsupportedError(f"contraction kernel: {n.op} in an epilogue; only elementwise operators can follow")
    for out in node.outputs:
        if out.shape != core.output.shape:
            raise UnsupportedError(
                f"contraction kernel: result %{out.name} has shape {list(out.shape)}, "
                f"the contraction {list(core.output.shape)}"
            )
    inner = [v for v in region.inputs if any(u is not core for u in v.users) or region.is_output(v)]
    return Group(node, core, [outer[v] for v in core.inputs], [outer[v] for v in inner], inner, region)


@dataclass
class Plan:
    """What a lowering rule returns: the contraction without its result side, and where result axes come from.

    ``make(lanes, nb, outs, extras)`` finishes the description once the schedule fixed the vectors. ``panel``: where B
    is not read in place but prepared, panel by panel, in scratch memory.
    """

    make: Callable[[int, int, tuple[Operand, ...], tuple[Operand, ...]], Contraction]
    axes: tuple[OutAxis, ...]
    nb: int | None
    n: Extent
    k: int
    panel: PanelSource | None = None
    left: int = 0  # which operand is broadcast
    gate: tuple[str, int, int] | None = None  # runs only where this outer index is in [low, high)
    within: tuple[tuple[str, int], ...] = ()  # and where these are below their limits
    mean_k: float = 0.0  # products per sum where parts differ in k


# Builds the routine that fills a panel of B in scratch memory, once the schedule is known.
PanelSource = Callable[[LoopBuilder, Extents, dict[Value, Val], ContractionSchedule], tuple[Val, Prepare]]


def lower_contraction(node: Node, target: Target, schedule: Schedule | None = None) -> LoweredKernel:
    """The kernel of ``node`` for the layouts its values carry; ``schedule`` (one of ``schedules``): instead of the
    rule's choice.

    Raises:
        UnsupportedError: the layouts or the group do not fit any contraction kernel; the message says why.
    """
    group = group_of(node)
    if _is_winograd(group):
        assert schedule is None or isinstance(schedule, WinogradSchedule)
        return lower_winograd(group, target, schedule)
    if _is_strassen(group):
        assert schedule is None or isinstance(schedule, StrassenSchedule)
        return lower_strassen(group, target, schedule)
    assert not isinstance(schedule, WinogradSchedule | StrassenSchedule)
    if group.operands[1].type.layout.form in PARTS:
        return lower_tiles(group, target)
    if _is_fixed_point(group):
        return lower_fixed_point(group, target)
    gathered = plan_gathered(group, target) if schedule is None else schedule
    if isinstance(gathered, GatherSchedule):
        return lower_gathered(group, target, gathered)
    plans = _rule(group)(group, target)
    return _write(group, plans, target, gathered)


def schedules(node: Node, target: Target) -> list[Schedule]:
    """Schedules that ``lower_contraction`` takes for ``node`` as it stands and that are worth measuring: the rule's
    choice, then others, the most promising first. Empty where the rule is all there is: matrix tiles, weights in
    fixed point, and transposed convolutions in several phases.
    """
    group = group_of(node)
    if group.operands[1].type.layout.form in PARTS or _is_fixed_point(group):
        return []
    if _is_winograd(group):
        chosen, others = other_schedules(group, target)
        return [chosen, *others]
    if _is_strassen(group):
        return list(strassen_schedules(group, target))
    plans = _rule(group)(group, target)
    if len(plans) != 1:
        return []
    lanes = target.lanes(compute(group.core.output.dtype))
    wanted = problem(plans[0], _describe(group, plans[0], lanes, plans[0].nb or 1), 1, lanes)
    rule, others = scheduling.choose(target, wanted), scheduling.alternatives(target, wanted)
    if plans[0].panel is not None:  # the loops follow from the panel
        others = [s for s in others if (s.tile, s.nb, s.unroll) != (rule.tile, rule.nb, rule.unroll)]
    direct: list[Schedule] = [rule, *others]
    c = convolution_of(group, target)
    gathered: list[Schedule] = list(gather.alternatives(target, c)) if c is not None else []
    if c is not None and gather.choose(target, c) is not None:
        return [*gathered, *direct[:_OTHER_WAY]]
    return [direct[0], *gathered[:_OTHER_WAY], *direct[1:]]


def _is_winograd(group: Group) -> bool:
    return group.core.op == "conv" and group.operands[1].type.layout.form in FILTERINGS


def _is_strassen(group: Group) -> bool:
    return group.operands[1].type.layout.form in STRASSEN


def _is_fixed_point(group: Group) -> bool:
    return group.operands[1].type.layout.form in FIXED_POINT


def _describe(group: Group, plan: Plan, lanes: int, nb: int) -> Contraction:
    """The contraction of ``plan`` with its result side, for panels of ``nb`` vectors."""
    shape = group.core.output.shape
    outs = tuple(result_operand(v.type, shape, plan.axes, lanes, nb) for v in group.node.outputs)
    extras = tuple(result_operand(v.type, shape, plan.axes, lanes, nb) for v in group.extras)
    return merge_rows(plan.make(lanes, nb, outs, extras))


def supports(node: Node, target: Target) -> str | None:
    """None if ``node`` can be lowered with the layouts its values carry, else the reason."""
    try:
        group = group_of(node)
        if group.operands[1].type.layout.form in PARTS:
            check_tiles(group, target)
            return None
        if _is_strassen(group):
            check_strassen(group, target)
            return None
        if _is_fixed_point(group):
            check_fixed_point(group, target)
            return None
        lanes = target.lanes(compute(group.core.output.dtype))
        for plan in _rule(group)(group, target):
            for v in (*node.outputs, *group.extras):
                result_operand(v.type, group.core.output.shape, plan.axes, lanes, plan.nb or 1)
    except UnsupportedError as error:
        return str(error)
    return None


def _rule(group: Group) -> Callable[[Group, Target], list[Plan]]:
    from .contraction_conv import plan_conv
    from .contraction_gradients import plan_conv_transpose, plan_conv_weight_grad
    from .contraction_matmul import plan_matmul

    rules: dict[str, Callable[[Group, Target], list[Plan]]] = {
        "matmul": plan_matmul,
        "conv": plan_conv,
        "conv_transpose": plan_conv_transpose,
        "conv_weight_grad": plan_conv_weight_grad,
    }
    if group.core.op not in rules:
        raise UnsupportedError(f"contraction kernel: no rule for {group.core.op}")
    return rules[group.core.op]


def _write(
    group: Group,
    plans: list[Plan],
    target: Target,
    schedule: ContractionSchedule | None = None,
    generator: type[Generator] = Generator,
) -> LoweredKernel:
    """``schedule``: instead of the rule's, for a single plan."""
    node, core = group.node, group.core
    b = LoopBuilder("kernel", target)
    values = _distinct([*group.operands, *group.extras, *node.outputs])
    pointers = {v: b.buffer(v.name, v.dtype) for v in values}
    extents = Extents(b)
    lanes = target.lanes(compute(core.output.dtype))
    generators, notes = [], []
    width: int | None = None  # parts share the panel loop, so they must agree on the vectors per panel
    far = _is_far(group, target)
    for plan in plans:
        wanted = problem(plan, _describe(group, plan, lanes, plan.nb or 1), len(plans), lanes)
        if wanted.nb is None and width is not None:
            wanted = replace(wanted, nb=width)
        chosen = schedule or scheduling.choose(target, wanted)
        width = chosen.nb
        spec = replace(_describe(group, plan, lanes, chosen.nb), far=far)
        bptr, prepare = pointers[group.operands[1 - plan.left]], None
        if plan.panel is not None:
            chosen = scheduling.for_prepared_panel(chosen, problem(plan, spec, len(plans), lanes))
            bptr, prepare = plan.panel(b, extents, pointers, chosen)
        generators.append(
            generator(
                b,
                extents,
                spec,
                chosen,
                pointers[group.operands[plan.left]],
                bptr,
                [pointers[v] for v in node.outputs],
                [pointers[v] for v in group.extras],
                _epilogue(b, extents, group, plan.axes),
                prepare,
                len(plans),
                _epilogue_lines(group, plan.axes, target, lanes),
            )
        )
        notes.append(str(chosen) + (", epilogue in a loop" if generators[-1].loop_epilogue else ""))
    first = generators[0]
    counters = first.counters()
    if len(generators) > 1:  # parts share the loops; the one with most chunks counts
        most = first.chunks
        for g in generators[1:]:
            most = maximum(most, g.chunks)
        counters = [(name, most if name == "chunk" else count) for name, count in counters]

    counters = phases_by_panels(counters)

    def body(it: Any) -> None:
        at = decode(b, extents, it, counters)
        for g, plan in zip(generators, plans, strict=True):
            limits = [plan.gate] if plan.gate is not None else []
            limits += [(name, 0, count) for name, count in plan.within]
            runs = [c for c in (gate(b, at, counters, one) for one in limits) if c is not None]
            guarded(b, runs, partial(g.iteration, at))
        for v in node.outputs:
            clear_halo(b, extents, v.type, pointers[v], first, at, plans[0].axes)

    b.loop(b.begin, b.end, body)
    trip = product(count for _, count in counters)
    flops = 2.0 * (plans[0].mean_k or plans[0].k) * scheduling.upper(product(core.output.shape), 1 << 40)
    moved = sum(float(scheduling.upper(v.type.nbytes, 1 << 40)) for v in values)
    return LoweredKernel(
        node,
        b.finish(),
        values,
        extents.expressions,
        trip,
        grain(target, flops, moved, trip, core.output.dtype.itemsize),
        f"{core.op}: {notes[0]}",
        flops,
        moved,
        _inplace(group),
    )


def _is_far(group: Group, target: Target) -> bool:
    """Whether results should be asked for: they and what the epilogue reads are more than the L2 caches of two cores
    hold. Products of matrices write whole rows and gain nothing (measured)."""
    touched = sum(scheduling.upper(v.type.nbytes, 1 << 40) for v in (*group.node.outputs, *group.extras))
    return group.core.op in ("conv", "conv_transpose") and touched > 2 * target.l2_bytes


def _inplace(group: Group) -> dict[int, int]:
    """Results that may overwrite an epilogue operand: each element is read in the iteration that then stores it."""
    node, out = group.node, {}
    free = [v for v in group.extras if node.inputs.count(v) == 1 and v not in group.operands and not v.is_constant]
    for i, result in enumerate(node.outputs):
        found = next((v for v in free if v.type == result.type), None)
        if found is not None:
            out[i] = node.inputs.index(found)
            free.remove(found)
    return out


def problem(plan: Plan, spec: Contraction, parts: int, lanes: int) -> Problem:
    """What the schedule is chosen from, for vectors of ``lanes``."""
    innermost = spec.segments[0].axes[-1].extent if spec.segments and spec.segments[0].axes else 1
    repeats = 1
    for axis in spec.outer:
        repeats *= scheduling.upper(axis.extent)
    loads = contiguous_loads(spec.b.lane, lanes) if plan.panel is None else 1
    return Problem(
        spec.dtype,
        (spec.m[0].extent, spec.m[1].extent),
        spec.n,
        plan.k,
        scheduling.upper(innermost),
        repeats,
        plan.nb,
        spec.vector_a,
        parts,
        strided=plan.panel is None and spec.b.lane != 0 and not loads,
        loads=max(1, loads),
        rows_of_b=spec.rows_of_b,
    )


def phases_by_panels(counters: Sequence[tuple[str, Extent]]) -> list[tuple[str, Extent]]:
    """Phases of a transposed convolution change the weights only, like panels: they run beside them, so that the rows
    of the input are read once."""
    phases = [c for c in counters if c[0].startswith(PHASE)]
    rest = [c for c in counters if not c[0].startswith(PHASE)]
    panel = [name for name, _ in rest].index("panel")
    cut = panel if panel == len(rest) - 1 else panel + 1
    return [*rest[:cut], *phases, *rest[cut:]]


def gate(
    b: LoopBuilder, at: dict[str, Any], counters: Sequence[tuple[str, Extent]], limits: tuple[str, int, int]
) -> Val | None:
    """The condition under which a part runs; None if it always does."""
    name, low, high = limits
    extent = dict(counters)[name]
    if low == 0 and high == extent:
        return None
    return b.icmp("ge", at[name], low) if high == extent else b.icmp("lt", at[name], high)


def grain(target: Target, flops: float, moved: float, trip: Extent, itemsize: int) -> int:
    """Iterations worth about ten microseconds."""
    lanes = max(1, target.vector_bytes // itemsize)
    rate = target.clock_ghz * 1e9 * target.fma_ports * 2 * lanes * 0.7
    seconds = max(flops / rate, moved / 20e9)
    count = max(1, scheduling.upper(trip, 1 << 40))
    return max(1, int(scheduling.GRAIN_SECONDS / max(seconds / count, 1e-12)))


def decode(b: LoopBuilder, extents: Extents, it: Any, counters: Sequence[tuple[str, Extent]]) -> dict[str, Any]:
    """Indices of the parallel loops from the iteration number."""
    at: dict[str, Any] = {}
    for i, (name, count) in reversed(list(enumerate(counters))):
        if count == 1:
            at[name] = 0
        elif all(c == 1 for _, c in counters[:i]):
            at[name] = it
            it = 0
        else:
            at[name], it = b.irem(it, extents(count)), b.idiv(it, extents(count))
    return at


def _epilogue(b: LoopBuilder, extents: Extents, group: Group, axes: Sequence[OutAxis]) -> Any:
    if group.region is None:
        return plain
    region, core = group.region, group.core
    # Operands come from affine addresses, so all a position has to tell is which axis runs along the lanes.
    coords = tuple(Coord(0, 1) if axis.vector else Coord(0) for axis in axes)

    def run(value: Val, load: Callable[[int], Val]) -> list[Val]:
        given: dict[Value, Any] = {core.output: value}
        for i, v in enumerate(group.inner_extras):
            given[v] = lambda pos, i=i: load(i)
        evaluator = RegionEvaluator(b, extents, {}, given)
        return [evaluator.value(out, Position(coords, value.lanes)) for out in region.outputs]

    return run


def _epilogue_lines(group: Group, axes: Sequence[OutAxis], target: Target, lanes: int) -> int:
    """Lines of LLVM IR that one vector takes through the epilogue: it is written once, on its own, and counted."""
    if group.region is None:
        return 0
    b = LoopBuilder("epilogue", target)
    sums = b.buffer("sums", compute(group.core.output.dtype))
    extras = [b.buffer(v.name, v.dtype) for v in group.extras]
    outs = [b.buffer(v.name, v.dtype) for v in group.node.outputs]
    run = _epilogue(b, Extents(b), group, axes)
    value = b.load(sums, 0, lanes)
    before = emit(b.fn).count("\n")
    for pointer, result in zip(outs, run(value, lambda i: b.load(extras[i], 0, lanes)), strict=True):
        b.store(pointer, result)
    return emit(b.finish()).count("\n") - before


def _distinct(values: Sequence[Value]) -> list[Value]:
    return list(dict.fromkeys(values))
