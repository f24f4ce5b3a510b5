"""What a chain of convolutions computes per band of rows, how large the bands are, and whether the chain pays.

A chain runs its convolutions one behind the other on a band of output rows. What lies between them is a band
in scratch memory that stays in L2, instead of a tensor that is written to L3 or memory and read back.
Rows that two neighbouring bands need are kept by moving them to the top of the band.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from ...ir.dims import Extent, bounds
from ...ir.errors import UnsupportedError
from ...ir.graph import Graph, Node, Value
from ...ir.layout import Layout
from ...ir.target import Target
from ...ir.types import TensorType
from ..contraction import compute
from ..schedule import upper
from . import arithmetic

# Bytes per cycle and core, reading and writing, by where the data of a kernel lie.
L2_RATE, L3_RATE, MEMORY_RATE = 16.0, 8.0, 4.0
SCRATCH_SHARE = 0.45  # of L2, for the bands; weights, the input and the result need the rest
FMA_SHARE, DEPTHWISE_SHARE = 0.8, 0.6  # of the FMA rate, for kernels whose operands are near
STRIPS = 8  # usual parallel iterations of one image; up to twice as many
_THREADS = {2: 0.8, 4: 0.15, 8: 0.05}  # for which strips are balanced, and how much each counts
_MANY = 16  # images from which on it makes no difference
MOST_REPEATED = 0.08  # share of the work that may be done twice so that strips are independent
GAIN = 0.97  # a chain has to take less than this share of the time of its parts


@dataclass
class Stage:
    """One convolution and the elementwise nodes behind it, in terms of the chain's region.

    Attributes:
        core: the convolution; nodes: what follows it; results: values that leave the stage.
        inputs: region inputs that the elementwise nodes read.
    """

    core: Node
    nodes: list[Node]
    results: list[Value]
    inputs: list[Value]

    @property
    def depthwise(self) -> bool:
        w = self.core.inputs[1]
        return w.shape[1] == 1 and w.shape[0] == self.core.attrs["groups"] and self.core.attrs["groups"] > 1

    @property
    def stride(self) -> int:
        return self.core.attrs["stride"][0]

    @property
    def reach(self) -> int:
        """Input rows that one output row needs."""
        return (upper(self.core.inputs[1].shape[2]) - 1) * self.core.attrs["dilation"][0] + 1

    @property
    def flops(self) -> float:
        """Of one image."""
        return 2.0 * upper(prod(upper(e) for e in self.core.output.shape[1:]), 1 << 40) * self.terms

    @property
    def terms(self) -> int:
        return prod(upper(e) for e in self.core.inputs[1].shape[1:])


@dataclass(frozen=True)
class Band:
    """The rows of one intermediate that a band of the result needs.

    Attributes:
        rows: how many; step: by how many rows the next band lies lower; height: rows that the tensor has.
        type: the band as a tensor: one image with zero columns at its sides, in the layout of scratch memory.
    """

    rows: int
    step: int
    height: int
    type: TensorType

    @property
    def kept(self) -> int:
        """Rows that the next band needs too."""
        return max(0, self.rows - self.step)

    @property
    def nbytes(self) -> int:
        return upper(self.type.nbytes, 1 << 40)


@dataclass(frozen=True)
class ChainPlan:
    """``rows`` of the result per band, ``bands`` per strip, ``strips`` (parallel iterations) per image."""

    rows: int
    bands: int
    strips: int
    intermediates: tuple[Band, ...]
    seconds: float
    separate: float

    @property
    def scratch(self) -> int:
        return sum(band.nbytes for band in self.intermediates)

    @property
    def name(self) -> str:
        """The decisions alone: equal for equal plans, different for different ones (``tune``)."""
        return f"chain, {self.rows} rows per band, {self.bands} bands per strip, {self.strips} strips"

    def __str__(self) -> str:
        return (
            f"{self.rows} rows per band, {self.bands} band(s) in each of {self.strips} strip(s), "
            f"{self.scratch >> 10} KiB between; est. {self.seconds * 1e6:.0f} us, apart {self.separate * 1e6:.0f} us"
        )


def stages_of(node: Node) -> list[Stage]:
    """The stages of ``fused(kind="chain")``; UnsupportedError says what does not fit."""
    if node.op != "fused" or node.attrs.get("kind") != "chain":
        raise UnsupportedError(f"chain kernel: cannot lower {node.op}")
    region = node.regions[0]
    stages: list[Stage] = []
    home: dict[Value, int] = {}
    for n in region:
        if n.op == "conv":
            if stages and home.get(n.inputs[0]) != len(stages) - 1:
                raise UnsupportedError("chain kernel: a convolution does not read the one before it")
            _check_conv(n, first=not stages)
            stages.append(Stage(n, [], [], []))
        elif n.op == "constant":
            continue
        elif n.op in arithmetic.RULES and stages and any(v in home for v in n.inputs):
            if any(home.get(v, len(stages) - 1) != len(stages) - 1 for v in n.inputs):
                raise UnsupportedError(f"chain kernel: {n.op} reads an earlier convolution than the last")
            if n.output.shape != stages[-1].core.output.shape:
                raise UnsupportedError(f"chain kernel: {n.op} has another shape than the convolution before it")
            stages[-1].nodes.append(n)
        else:
            raise UnsupportedError(f"chain kernel: {n.op} between convolutions")
        home.update((o, len(stages) - 1) for o in n.outputs)
    if len(stages) < 2:
        raise UnsupportedError("chain kernel: needs at least two convolutions")
    for i, stage in enumerate(stages):
        _interface(region, stage, stages[i + 1].core if i + 1 < len(stages) else None)
    if any(v in home for stage in stages for v in stage.core.inputs[1:]):
        raise UnsupportedError("chain kernel: weights are computed inside the group")
    return stages


def _check_conv(n: Node, first: bool) -> None:
    if n.output.type.rank != 4:
        raise UnsupportedError(f"chain kernel: only convolutions over two axes, this has {n.output.type.rank - 2}")
    shapes = [n.inputs[1].shape, n.output.shape[1:], n.inputs[0].shape[1:]]
    if not all(isinstance(e, int) for shape in shapes for e in shape):
        raise UnsupportedError("chain kernel: extents other than the batch must be known")
    packed = n.inputs[1].type.layout
    if packed.form or 0 not in dict(packed.blocks):
        raise UnsupportedError("chain kernel: weights must be packed in panels of output channels")
    layouts = [n.output.type.layout] if first else [n.inputs[0].type.layout, n.output.type.layout]
    if any(layout.order or [axis for axis, _ in layout.blocks] != [1] for layout in layouts):
        raise UnsupportedError("chain kernel: intermediates need channels in blocks")


def _interface(region: Graph, stage: Stage, reader: Node | None) -> None:
    """Fills in what enters and leaves a stage."""
    members = {stage.core, *stage.nodes}
    for n in (stage.core, *stage.nodes):
        for o in n.outputs:
            inside = [u for u in o.users if u not in members]
            if reader is None and region.is_output(o):
                stage.results.append(o)
            elif inside or region.is_output(o):
                if region.is_output(o) or any(u is not reader for u in inside) or reader.inputs[0] is not o:  # type: ignore[union-attr]
                    raise UnsupportedError("chain kernel: an intermediate is needed outside")
                stage.results.append(o)
    stage.inputs = list(dict.fromkeys(v for n in stage.nodes for v in n.inputs if v.producer is None))
    if not stage.results:
        raise UnsupportedError("chain kernel: a convolution's result is not used")
    if reader is not None:
        for v in stage.inputs:
            # A band is no image: what it is combined with must be the same for all images and pixels.
            if any(e != 1 for e in v.shape[-2:]) or any(e != 1 for e in v.shape[:-3]):
                raise UnsupportedError(f"chain kernel: %{v.name} of shape {list(v.shape)} joins an intermediate")


def bands_of(stages: list[Stage], rows: int, lanes: int) -> tuple[Band, ...]:
    """The intermediates for ``rows`` rows of the result, in the order of the stages."""
    out: list[Band] = []
    need = step = rows
    for before, stage in reversed(list(pairwise(stages))):
        need, step = (need - 1) * stage.stride + stage.reach, step * stage.stride
        value = before.core.output
        _, channels, height, width = (upper(e) for e in value.shape)
        layout = Layout(blocks=((1, lanes),), halo=((0, 0), (0, 0), (0, 0), tuple(stage.core.attrs["padding"][1])))
        if not layout.has_halo:
            layout = replace(layout, halo=())
        dtype = before.results[0].dtype
        out.append(Band(need, step, height, TensorType(dtype, (1, channels, need, width), layout)))
    return tuple(reversed(out))


def plan_chain(node: Node, target: Target) -> tuple[list[Stage], ChainPlan]:
    """Stages of the chain and the bands for them; UnsupportedError if no chain kernel can run it."""
    stages, lanes = _stages_and_lanes(node, target)
    return stages, _strips(stages, _most_rows(stages, lanes, SCRATCH_SHARE * target.l2_bytes), lanes, target)


def other_plans(node: Node, target: Target) -> list[ChainPlan]:
    """What else is worth measuring than the plan of ``plan_chain``: smaller and larger bands, more and fewer strips."""
    stages, lanes = _stages_and_lanes(node, target)
    rule = _strips(stages, _most_rows(stages, lanes, SCRATCH_SHARE * target.l2_bytes), lanes, target)
    rows = [_most_rows(stages, lanes, share * SCRATCH_SHARE * target.l2_bytes) for share in (0.5, 0.7, 1.4, 0.25, 2.0)]
    plans = [_strips(stages, size, lanes, target) for size in rows]
    counts = [rule.strips * 2, rule.strips // 2, STRIPS // 2, 2 * STRIPS]
    plans += [_strips(stages, rule.rows, lanes, target, count) for count in counts if count]
    return [p for p in {p.name: p for p in plans}.values() if p.name != rule.name]


def _stages_and_lanes(node: Node, target: Target) -> tuple[list[Stage], int]:
    stages = stages_of(node)
    lanes = target.lanes(compute(stages[-1].core.output.dtype))
    if any(lanes != target.lanes(compute(s.core.output.dtype)) for s in stages):
        raise UnsupportedError("chain kernel: convolutions of different types")
    for value in (s.core.output for s in stages):
        if dict(value.type.layout.blocks)[1] != lanes:
            raise UnsupportedError(f"chain kernel: channels must lie in blocks of {lanes}")
    return stages, lanes


def _most_rows(stages: list[Stage], lanes: int, scratch: float) -> int:
    """Rows of near-equal bands that fit ``scratch`` bytes."""
    height = upper(stages[-1].core.output.shape[2])
    return next(
        size
        for size in (-(-height // count) for count in range(1, height + 1))
        if size == 1 or sum(b.nbytes for b in bands_of(stages, size, lanes)) <= scratch
    )


def _strips(stages: list[Stage], rows: int, lanes: int, target: Target, wanted: int | None = None) -> ChainPlan:
    """The plan for bands of at most ``rows``; ``wanted``: strips, if the work they repeat is small."""
    images = stages[-1].core.output.shape[0]
    height = upper(stages[-1].core.output.shape[2])
    work = [s.flops / _rate(s, target, lanes) for s in stages]

    def repeated(strips: int, bands: tuple[Band, ...]) -> float:
        """Seconds per image of rows that neighbouring strips both compute."""
        return sum((strips - 1) * b.kept / b.height * t for b, t in zip(bands, work[:-1], strict=True))

    found: list[tuple[float, int, int, int, tuple[Band, ...]]] = []
    for count in range(1, min(height, wanted or 2 * STRIPS) + 1):
        per_strip = -(-height // (count * rows))
        size = -(-height // (count * per_strip))
        strips = -(-height // (size * per_strip))
        bands = bands_of(stages, size, lanes)
        again = repeated(strips, bands)
        if strips == 1 or again <= MOST_REPEATED * sum(work):
            kept = sum(b.nbytes * b.kept / b.rows for b in bands)  # moved to the top of every band but a strip's first
            moves = 2.0 * strips * (per_strip - 1) * kept / (L2_RATE * target.clock_ghz * 1e9)
            waits = 1.0 if wanted else _waiting(height, size * per_strip, max(1, bounds(images)[0]))
            found.append(((sum(work) + again + moves) * waits, size, per_strip, strips, bands))
    _, size, per_strip, strips, bands = found[-1] if wanted else min(found, key=lambda f: f[0])
    between = sum(2.0 * upper(s.core.output.shape[1]) * b.height * upper(b.type.shape[3]) * b.type.dtype.itemsize
                  for s, b in zip(stages, bands, strict=False))  # fmt: skip
    first, last = stages[0].core.inputs[0], stages[-1]
    outside = _bytes(first) + sum(_bytes(v) for v in (*last.results, *_full(last)))
    count_images = upper(images)
    clock = target.clock_ghz * 1e9
    fused = count_images * (sum(work) + repeated(strips, bands) + between / (L2_RATE * clock))
    fused += outside / (_level(outside, target) * clock)
    apart = count_images * sum(work)
    for i, s in enumerate(stages):
        moved = _bytes(s.core.inputs[0]) + (_bytes(s.core.output) if i + 1 < len(stages) else outside - _bytes(first))
        apart += moved / (_level(moved, target) * clock)
    return ChainPlan(size, per_strip, strips, bands, fused, apart)


def _waiting(height: int, strip: int, images: int) -> float:
    """What threads that have no strip left wait, as a factor of the time; the usual numbers of threads count most."""
    sizes = [min(strip, height - start) for start in range(0, height, strip)] * min(images, _MANY)

    def longest(threads: int) -> int:
        taken = [0] * threads
        for size in sizes:
            taken[taken.index(min(taken))] += size
        return max(taken)

    return sum(share * longest(t) * t for t, share in _THREADS.items()) / sum(sizes)


def _rate(stage: Stage, target: Target, lanes: int) -> float:
    share = DEPTHWISE_SHARE if stage.depthwise else FMA_SHARE
    return target.clock_ghz * 1e9 * target.fma_ports * 2 * lanes * share


def _bytes(v: Value) -> float:
    return float(bounds(v.type.elements)[1]) * v.dtype.itemsize


def _full(stage: Stage) -> list[Value]:
    return [v for v in stage.inputs if v.shape == stage.core.output.shape]


def _level(nbytes: float, target: Target) -> float:
    if nbytes <= target.l2_bytes / 2:
        return L2_RATE
    return L3_RATE if nbytes <= target.l3_bytes / 2 else MEMORY_RATE


def worth(node: Node, target: Target) -> str | None:
    """None if the chain is estimated to be faster than its parts, else the reason."""
    try:
        _, plan = plan_chain(node, target)
    except UnsupportedError as error:
        return str(error)
    images: Extent = node.outputs[0].shape[0]
    if plan.strips * bounds(images)[0] < 2:
        return "a chain of one image and one strip would run on one thread"
    if plan.seconds > GAIN * plan.separate:
        return f"chain: {plan} does not pay"
    return None
