"""``fused(kind="chain")``: convolutions run one behind the other on a band of rows, with what lies between in L2.

Each stage is an ordinary contraction on small images: its input and result are bands in scratch memory (the
first reads the tensor, the last writes it). Rows above and below the image and the columns beside it are zero
in the bands, as a halo is. A band moves down the image; rows that the next one needs too are moved to its top.
Results are the same for any size of bands and strips: every element is one sum in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...ir.dims import product
from ...ir.errors import UnsupportedError
from ...ir.graph import Graph, Node, Value
from ...ir.target import Target
from ...ir.types import TensorType
from .. import schedule as scheduling
from ..contraction import Contraction, Generator, Operand, compute
from ..loopir import LoopBuilder, Val
from .chain_plan import Band, ChainPlan, Stage, other_plans, plan_chain
from .contraction import Group, Plan, _epilogue, _epilogue_lines, decode, grain, group_of, problem
from .contraction_conv import check_halo, plan_conv
from .contraction_halo import clear_halo
from .contraction_operands import Placed, result_operand
from .kernel import LoweredKernel
from .position import Extents, zero_of


def supports(node: Node, target: Target) -> str | None:
    """None if ``node`` can be lowered, else the reason."""
    try:
        stages, plan = plan_chain(node, target)
        for i in range(len(stages)):
            _Step(node, stages, plan, i, target)
    except UnsupportedError as error:
        return str(error)
    return None


class _Step:
    """One stage as a contraction between bands (or the tensors at the ends)."""

    def __init__(self, node: Node, stages: Sequence[Stage], plan: ChainPlan, index: int, target: Target) -> None:
        stage = stages[index]
        self.stage, self.target = stage, target
        self.band_in: Band | None = plan.intermediates[index - 1] if index else None
        self.band: Band | None = plan.intermediates[index] if index + 1 < len(stages) else None
        self.outer = dict(zip(node.regions[0].inputs, node.inputs, strict=True))
        self.results = [
            o for inner, o in zip(node.regions[0].outputs, node.outputs, strict=True) if inner in stage.results
        ]
        if self.band_in is None:
            check_halo("chain", Placed(self.outer[stage.core.inputs[0]].type), stage.core.attrs["padding"])
        self.real: dict[Value, Value] = {}  # value of the stage's graph -> value of the chain's node
        self.group = self._group(node)
        plans = plan_conv(self.group, target)
        if len(plans) != 1 or plans[0].nb is None or plans[0].gate is not None:
            raise UnsupportedError("chain kernel: a convolution without packed weights")
        self.plan: Plan = plans[0]
        self.lanes = target.lanes(compute(self.group.core.output.dtype))
        draft = self.describe(plans[0].nb)
        # Tiles of one row, so that any range of rows can be computed.
        wanted = problem(self.plan, replace(draft, m=(replace(draft.m[0], extent=1), draft.m[1])), 1, self.lanes)
        rows = plan.rows if self.band is None else self.band.rows
        self.schedule = replace(scheduling.choose(target, wanted), chunk=max(2, rows))
        self.spec = self.describe(self.schedule.nb)

    def _group(self, node: Node) -> Group:
        """The stage as a fused contraction in a graph of its own, whose types say where its operands lie."""
        stage, core = self.stage, self.stage.core
        graph, region = Graph("stage"), Graph("contraction")
        mapping: dict[Value, Value] = {}
        inputs: list[Value] = []

        def enter(v: Value, type: TensorType) -> None:
            mapping[v] = region.add_input(type, v.name)
            inputs.append(graph.add_input(type, v.name))
            if v in self.outer:
                self.real[inputs[-1]] = self.outer[v]

        x, w = core.inputs
        enter(x, self.outer[x].type if self.band_in is None else self.band_in.type)
        enter(w, self.outer[w].type)
        extras = [v for v in stage.inputs if v not in mapping]
        for v in extras:
            enter(v, self.outer[v].type)
        reads_again = [v for v in stage.inputs if v in core.inputs]
        if reads_again:
            raise UnsupportedError(f"chain kernel: %{reads_again[0].name} is also read behind its convolution")
        shape = core.output.shape if self.band is None else self.band.type.shape
        sides = core.attrs["padding"][1]
        attrs = {**core.attrs, "padding": ((0, 0), sides)}
        for n in (core, *stage.nodes):
            for v in n.inputs:
                if v not in mapping:
                    assert v.is_constant
                    mapping[v] = region.constant(v.constant, v.name)
            new = region.create(
                n.op,
                [mapping[v] for v in n.inputs],
                attrs if n is core else n.attrs,
                [TensorType(o.dtype, shape) for o in n.outputs],
                source=n.source,
            )
            mapping.update(zip(n.outputs, new.outputs, strict=True))
        for v in stage.results:
            region.add_output(mapping[v])
        types = [o.type for o in self.results] if self.band is None else [self.band.type]
        fused = graph.create("fused", inputs, {"kind": "contraction"}, types, regions=[region])
        for o, result in zip(fused.outputs, self.results, strict=False):
            self.real[o] = result
        return group_of(fused)

    def describe(self, nb: int) -> Contraction:
        shape, axes = self.group.core.output.shape, self.plan.axes
        outs = tuple(result_operand(v.type, shape, axes, self.lanes, nb) for v in self.group.node.outputs)
        extras = tuple(result_operand(v.type, shape, axes, self.lanes, nb) for v in self.group.extras)
        spec = self.plan.make(self.lanes, nb, outs, extras)
        if len(spec.outer) != 1 or len(spec.segments) > 2 or spec.outer[0].name != "image":
            raise UnsupportedError("chain kernel: grouped convolutions other than depthwise")
        return spec


@dataclass
class _Memory:
    """A band in scratch memory."""

    band: Band
    placed: Placed
    pointer: Val


def schedules(node: Node, target: Target) -> list[ChainPlan]:
    """Plans that ``lower`` takes for ``node`` and that are worth measuring, the rule's choice first."""
    return [plan_chain(node, target)[1], *other_plans(node, target)]


def lower(node: Node, target: Target, schedule: ChainPlan | None = None) -> LoweredKernel:
    """The kernel of a chain; ``schedule`` (one of ``schedules``): instead of the rule's choice.

    Raises:
        UnsupportedError: the group is no chain, or its layouts do not fit; the message says why.
    """
    stages, rule = plan_chain(node, target)
    plan = schedule or rule
    steps = [_Step(node, stages, plan, i, target) for i in range(len(stages))]
    b = LoopBuilder("kernel", target)
    last = steps[-1]
    real = {v for s in steps for v in s.real.values()}
    values = [v for v in dict.fromkeys((*node.inputs, *node.outputs)) if v in real]
    pointers = {v: b.buffer(v.name, v.dtype) for v in values}
    extents = Extents(b)
    images = last.group.core.output.shape[0]
    counters = [("image", images), ("chunk", plan.strips)]
    memory = [_Memory(x, Placed(x.type), b.scratch(x.type.dtype, x.nbytes // x.type.dtype.itemsize))
              for x in plan.intermediates]  # fmt: skip
    writer = _Writer(b, extents, plan, steps, pointers, memory)

    def body(it: Any) -> None:
        writer.strip(decode(b, extents, it, counters))

    b.loop(b.begin, b.end, body)
    trip = product(count for _, count in counters)
    flops = sum(s.flops for s in stages) * scheduling.upper(images, 1 << 20)
    moved = sum(float(scheduling.upper(v.type.nbytes, 1 << 40)) for v in values)
    tiles = "; ".join(str(s.schedule).split(",")[0] for s in steps)
    return LoweredKernel(
        node,
        b.finish(),
        values,
        extents.expressions,
        trip,
        grain(target, flops, moved, trip, last.group.core.output.dtype.itemsize),
        f"chain of {len(steps)}: {plan}; {tiles}",
        flops,
        moved,
    )


class _Writer:
    """Emits a strip: the bands of one image that one parallel iteration computes."""

    def __init__(
        self,
        b: LoopBuilder,
        extents: Extents,
        plan: ChainPlan,
        steps: Sequence[_Step],
        pointers: dict[Value, Val],
        memory: Sequence[_Memory],
    ) -> None:
        self.b, self.extents, self.plan, self.steps = b, extents, plan, steps
        self.pointers, self.memory = pointers, memory
        height = steps[-1].group.core.output.shape[2]
        assert isinstance(height, int)
        self.height = height

    def strip(self, at: dict[str, Any]) -> None:
        b, plan = self.b, self.plan
        for m in self.memory:
            self._clear_sides(m)
        first = b.imul(at["chunk"], plan.bands)
        count = -(-self.height // plan.rows)
        self._clear_frame(at)
        bands = b.imin(plan.bands, b.isub(count, first))
        b.loop(0, bands, lambda j: self._band(at, b.imul(b.iadd(first, j), plan.rows), j))

    def _clear_frame(self, at: dict[str, Any]) -> None:
        """Zeros in the halos of the results, by the first strip of an image."""
        last = self.steps[-1]
        for v in last.group.node.outputs:
            if v.type.layout.has_halo:
                g = self._generator(last, (), ())

                def panel(p: Any, v: Value = v, g: Generator = g) -> None:
                    here = {**at, "panel": p}
                    clear_halo(self.b, self.extents, v.type, self.pointers[last.real[v]], g, here, last.plan.axes)

                self.b.loop(0, self.extents(g.panels), panel)

    def _generator(self, step: _Step, outs: Sequence[Val], extras: Sequence[Val], a: Any = None) -> Generator:
        weights = step.real[step.group.operands[1]]
        return Generator(
            self.b,
            self.extents,
            step.spec,
            step.schedule,
            a,
            self.pointers[weights],
            outs,
            extras,
            _epilogue(self.b, self.extents, step.group, step.plan.axes),
            epilogue_lines=_epilogue_lines(step.group, step.plan.axes, step.target, step.lanes),
        )

    def _band(self, at: dict[str, Any], row: Any, j: Any) -> None:
        """All stages for the rows of the result from ``row`` on; ``j`` numbers the band in its strip."""
        b = self.b
        starts = [row]  # the first row of each stage's result, from the last to the first
        for step in reversed(self.steps[1:]):
            stage = step.stage
            starts.append(b.isub(b.imul(starts[-1], stage.stride), stage.core.attrs["padding"][0][0]))
        starts.reverse()
        for i, (step, start) in enumerate(zip(self.steps, starts, strict=True)):
            if i < len(self.memory):
                self._run_into_band(step, self.memory[i], at, start, j)
            else:
                rows = b.imin(self.plan.rows, b.isub(self.height, row))
                self._run(step, at, start, 0, rows)

    def _run_into_band(self, step: _Step, m: _Memory, at: dict[str, Any], start: Any, j: Any) -> None:
        b, band = self.b, m.band
        low: Any = 0
        if band.kept and self.plan.bands > 1:
            b.when(b.icmp("gt", j, 0), lambda: self._keep(m))
            low = b.imul(b.imin(j, 1), band.kept)
        above, below = b.isub(0, start), b.isub(band.height, start)
        self._zero_rows(m, low, b.imin(above, band.rows))
        low = b.imax(low, above)
        high = b.imin(below, band.rows)
        self._run(step, at, start, low, high)
        self._zero_rows(m, b.imax(high, low), band.rows)

    def _run(self, step: _Step, at: dict[str, Any], start: Any, low: Any, high: Any) -> None:
        """Rows ``low`` to ``high`` of a stage, counted from row ``start`` of its result's tensor."""
        b, spec = self.b, step.spec
        names = (spec.outer[0].name, spec.m[0].name)

        def place(v: Value, o: Operand, first: Any) -> Val:
            pointer = self.pointers[step.real[v]]
            offset = b.imul(at["image"], self.extents(o.stride(names[0])))
            return b.at(pointer, b.iadd(offset, b.imul(first, self.extents(o.stride(names[1])))))

        core = step.stage.core
        if step.band_in is None:
            x = step.group.operands[0]
            # The stride along y holds the convolution's: rows of the result, less the padding in rows of x.
            pointer = place(x, spec.a, start)
            a = b.at(pointer, -core.attrs["padding"][0][0] * self.extents(Placed(x.type).stride(2)))
        else:
            a = self.memory[self.steps.index(step) - 1].pointer
        if step.band is None:
            extras = [place(v, o, start) for v, o in zip(step.group.extras, spec.extras, strict=True)]
            outs = [place(v, o, start) for v, o in zip(step.group.node.outputs, spec.outs, strict=True)]
        else:  # operands of intermediates are the same for all images and rows
            extras = [self.pointers[step.real[v]] for v in step.group.extras]
            outs = [self.memory[self.steps.index(step)].pointer]
        g = self._generator(step, outs, extras, a)
        g.row_range = (low, high)

        def panels() -> None:
            b.loop(0, self.extents(g.panels), lambda p: g.iteration({"image": 0, "panel": p, "chunk": 0}))

        b.when(b.icmp("lt", low, high), panels)

    # -- bands in scratch memory --------------------------------------------------------------------
    def _clear_sides(self, m: _Memory) -> None:
        """Zeros in the columns beside a band, once per strip: nothing else is ever written there."""
        left, right = m.placed.halo[3]
        width = m.band.type.shape[3]
        for low, count in ((0, left), (width + left, right)):
            if count:
                self._per_row(m, 0, m.band.rows, lambda p, low=low, count=count: self._fill(m, p, low, count))

    def _zero_rows(self, m: _Memory, low: Any, high: Any) -> None:
        width = m.band.type.shape[3] + sum(m.placed.halo[3])  # type: ignore[operator]
        self._per_row(m, low, high, lambda p: self._fill(m, p, 0, width))

    def _per_row(self, m: _Memory, low: Any, high: Any, body: Any) -> None:
        """``body(pointer to the row)`` for rows of every channel block."""
        b = self.b
        blocks = -(-m.band.type.shape[1] // m.placed.blocks[1])  # type: ignore[operator]

        def row(i: Any) -> None:
            here = b.at(m.pointer, b.imul(i, m.placed.stride(2)))
            b.loop(0, blocks, lambda c: body(b.at(here, b.imul(c, m.placed.outer[1]))))

        b.loop(low, high, row)

    def _fill(self, m: _Memory, pointer: Val, low: Any, count: Any) -> None:
        b, lanes = self.b, m.placed.blocks[1]
        zero = zero_of(b, m.band.type.dtype, lanes)
        b.loop(0, count, lambda i: b.store(pointer, zero, b.imul(b.iadd(low, i), lanes)))

    def _keep(self, m: _Memory) -> None:
        """Moves the last rows, which this band needs again, to the top."""
        b, lanes, stride = self.b, m.placed.blocks[1], m.placed.stride(2)
        count = m.band.kept * stride // lanes  # type: ignore[operator]
        distance = m.band.step * stride  # type: ignore[operator]

        def move(c: Any) -> None:
            plane = b.at(m.pointer, b.imul(c, m.placed.outer[1]))

            def vector(i: Any) -> None:
                to = b.at(plane, b.imul(i, lanes))
                b.store(to, b.load(to, distance, lanes))

            b.loop(0, count, vector)

        b.loop(0, -(-m.band.type.shape[1] // lanes), move)  # type: ignore[operator]
