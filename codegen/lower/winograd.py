"""Convolutions by Winograd's minimal filtering, for weights packed in one of its forms.

One parallel iteration takes a block of tiles and some of the output channels: it transforms the inputs of its tiles
into scratch memory, multiplies point by point with the transformed weights (the register tiles of ``contraction.py``),
transforms back and stores through the epilogue. Nothing but the input and the result is kept in shared memory.
``winograd_phases`` has the forms that take phases of the input as channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ...ir import dtypes
from ...ir.dims import Extent
from ...ir.errors import UnsupportedError
from ...ir.target import Target
from .. import contraction
from ..contraction import Axis, Contraction, Generator, Operand, Segment
from ..loopir import LoopBuilder, Val
from ..schedule import upper
from ..winograd import FILTERINGS, Line, Matrix, WinogradSchedule, alternatives, choose
from .contraction_halo import clear_halo, guarded
from .contraction_operands import ONE, OutAxis, Placed, ints, result_operand
from .kernel import LoweredKernel
from .position import Extents

if TYPE_CHECKING:
    from .contraction import Group

AHEAD = 512  # elements: weights stream from beyond L2
LINE = 64  # bytes
_AXES = (OutAxis((("image", 1),)), OutAxis(vector=True), OutAxis((("y", 1),)), OutAxis((("x", 1),)))


def tile_halo(extent: int, padding: tuple[int, int], line: Line) -> tuple[int, int]:
    """The halo that whole tiles read on one axis of ``extent`` inputs."""
    results = (extent + sum(padding) - line.taps) // line.stride + 1
    # Inputs from the first one that is read to behind the last one.
    last = (-(-results // line.tile) * line.tile - 1) * line.stride + line.taps
    return padding[0], max(0, last - padding[0] - extent)


def lower_winograd(group: Group, target: Target, schedule: WinogradSchedule | None = None) -> LoweredKernel:
    """The kernel of a convolution whose weight has a form of ``FILTERINGS``; ``schedule``: instead of the rule's.

    Raises:
        UnsupportedError: the layouts do not fit.
    """
    from .winograd_phases import PhasedWinograd

    form = FILTERINGS.get(group.operands[1].type.layout.form)
    kind = PhasedWinograd if form is not None and form.phases > 1 else Winograd
    return kind(group, target, schedule).write()


def other_schedules(group: Group, target: Target) -> tuple[WinogradSchedule, list[WinogradSchedule]]:
    """The rule's choice for ``lower_winograd``, and what else is worth measuring."""
    w, out = group.operands[1].type, group.core.output
    f = FILTERINGS[w.layout.form]
    rows, columns = (-(-e // line.tile) for e, line in zip(ints(out.shape[2:]), f.lines, strict=True))
    outputs, channels = ints(w.shape)[:2]
    run, runs = (upper(e) for e in f.runs(out.shape[0], rows, columns))
    problem = (target, out.dtype, f, channels, outputs, run, dict(w.layout.blocks)[0] // target.lanes(out.dtype), runs)
    return choose(*problem), alternatives(*problem)


@dataclass(frozen=True)
class _Place:
    """A tile: its image and its row and column among the image's tiles."""

    image: Any
    row: Any
    column: Any


class Winograd:
    """Writes one kernel. ``run``: tiles in a row, of which a block is a part; there are ``runs`` of them."""

    def __init__(self, group: Group, target: Target, schedule: WinogradSchedule | None) -> None:
        from .contraction import _distinct, _epilogue, _epilogue_lines

        core = group.core
        self.group, self.target = group, target
        xt, wt = (v.type for v in group.operands)
        f = FILTERINGS.get(wt.layout.form)
        fits = f is not None and f.kernel == wt.shape[2:] and core.attrs["stride"] == (f.stride, f.stride)
        if f is None or not fits or core.attrs["dilation"] != (1, 1):
            raise UnsupportedError(f"winograd: weight {wt} of {core!r} has no form for its kernel and stride")
        self.filtering, self.lines = f, f.lines
        self.steps = [line.tile * line.stride for line in f.lines]
        self.x, self.w, out = Placed(xt), Placed(wt), core.output
        self.dtype, self.lanes = out.dtype, target.lanes(out.dtype)
        self.outputs, self.given = ints(wt.shape)[:2]
        self.channels = f.channels(self.given)
        self.padding = core.attrs["padding"]
        self.extent = ints(out.shape[2:])
        self.check_input()
        self.rows, self.columns = (-(-e // line.tile) for e, line in zip(self.extent, f.lines, strict=True))
        self.run, self.runs = f.runs(out.shape[0], self.rows, self.columns)
        block = self.w.blocks[0]
        self.schedule: WinogradSchedule = schedule or choose(
            target,
            self.dtype,
            f,
            self.given,
            self.outputs,
            upper(self.run),
            block // self.lanes,
            upper(self.runs),
        )
        self.nb, self.block = block // self.lanes, self.schedule.block
        self.in_vectors = -(-self.channels // self.lanes)
        self.out_vectors = -(-self.outputs // self.lanes)
        self.panels = -(-self.out_vectors // self.nb)

        self.b = b = LoopBuilder("kernel", target)
        self.values = _distinct([*group.operands, *group.extras, *group.node.outputs])
        self.pointers = {v: b.buffer(v.name, v.dtype) for v in self.values}
        self.extents = Extents(b)
        # An odd number of vectors between points: the vectors of one tile go to different cache sets.
        self.v_point = (self.in_vectors * self.block | 1) * self.lanes
        self.m_point = (self.nb * self.block | 1) * self.lanes
        self.v = b.scratch(self.dtype, f.points * self.v_point)
        self.m = b.scratch(self.dtype, f.sums * self.m_point)
        self.offsets = b.scratch(dtypes.int64, self.block)
        # Products leave memory idle, and transforms wait for it: what is beyond the caches of two cores is asked for
        # while products run.
        self.far = upper(xt.nbytes, 1 << 40) + upper(out.type.nbytes, 1 << 40) > 2 * target.l2_bytes
        self.result = self._result_side(_epilogue(b, self.extents, group, _AXES))
        lines = _epilogue_lines(group, _AXES, target, self.lanes) * f.results
        self.y = b.scratch(self.dtype, f.results * self.lanes) if lines > contraction.EPILOGUE_LINES else None

    def check_input(self) -> None:
        """UnsupportedError if x has not the layout that ``transform_inputs`` reads."""
        if self.x.blocks.get(1) != self.lanes:
            raise UnsupportedError(f"winograd: x {self.x.type} must have channels in blocks of {self.lanes}")
        for axis, (pads, line) in enumerate(zip(self.padding, self.lines, strict=True), 2):
            extent = self.x.type.shape[axis]
            assert isinstance(extent, int)
            need, have = tile_halo(extent, pads, line), self.x.halo[axis]
            if have[0] < need[0] or have[1] < need[1]:
                raise UnsupportedError(f"winograd: axis {axis} of x needs a halo of {need} elements, it has {have}")

    def _result_side(self, epilogue: Any) -> Generator:
        """A generator that is only asked to finish vectors: addresses, epilogue and stores of the result."""
        group, out = self.group, self.group.core.output
        operands = [
            result_operand(v.type, out.shape, _AXES, self.lanes, self.nb) for v in (*group.node.outputs, *group.extras)
        ]
        if any(o.whole_panel for o in operands):
            raise UnsupportedError(f"winograd: the result may not be blocked by {self.nb * self.lanes}")
        count = len(group.node.outputs)
        spec = Contraction(
            self.dtype,
            (Axis("image", out.shape[0]),),
            (Axis("y", self.extent[0]), Axis("x", self.extent[1])),
            self.outputs,
            (),
            Operand(),
            Operand(),
            tuple(operands[:count]),
            tuple(operands[count:]),
        )
        x, w = (self.pointers[v] for v in group.operands)
        outs = [self.pointers[v] for v in group.node.outputs]
        extras = [self.pointers[v] for v in group.extras]
        return Generator(self.b, self.extents, spec, self.schedule.product, x, w, outs, extras, epilogue)

    def write(self) -> LoweredKernel:
        from .contraction import _inplace, grain

        b, group = self.b, self.group
        per_run = (self.run + (self.block - 1)) // self.block
        blocks = self.runs * per_run
        groups = self.schedule.groups
        count = self.extents(blocks)

        def body(it: Any) -> None:
            part = 0 if groups == 1 else b.idiv(it, count)
            number = b.isub(it, b.imul(part, count))
            run = 0 if self.runs == 1 else b.idiv(number, self.extents(per_run))
            start = b.imul(run, self.extents(self.run))
            first = b.iadd(start, b.imul(b.isub(number, b.imul(run, self.extents(per_run))), self.block))
            end = b.iadd(start, self.extents(self.run))
            self.transform_inputs(first, end)
            low, high = (b.idiv(b.imul(b.iadd(part, k), self.panels), groups) for k in (0, 1))

            def one_panel(panel: Any) -> None:
                self.products(panel, b.isub(panel, low), first, end)
                self.each_tile(first, end, partial(self.transform_output, panel))

            b.loop(low, high, one_panel)

        b.loop(b.begin, b.end, body)
        trip = blocks * groups
        f = self.filtering
        executed = 2.0 * self.channels * f.filled * self.outputs * f.points * upper(self.runs * self.run, 1 << 40)
        moved = sum(float(upper(v.type.nbytes, 1 << 40)) for v in self.values)
        return LoweredKernel(
            group.node,
            b.finish(),
            self.values,
            self.extents.expressions,
            trip,
            grain(self.target, executed, moved, trip, self.dtype.itemsize),
            f"conv: {self.schedule}" + (", epilogue in a loop" if self.y is not None else ""),
            executed,
            moved,
            _inplace(group),
        )

    def each_tile(self, first: Any, end: Any, body: Callable[[Any, _Place], None]) -> None:
        """``body(t, place)`` for the tiles of a block that exist."""
        b = self.b

        def one(t: Any) -> None:
            number = b.iadd(first, t)
            whole = isinstance(self.run, int) and self.run % self.block == 0
            conditions = [] if whole else [b.icmp("lt", number, end)]
            guarded(b, conditions, lambda: body(t, self.place(number)))

        b.loop(0, self.block, one)

    def place(self, number: Any) -> _Place:
        b, per_image = self.b, self.rows * self.columns
        image = b.idiv(number, per_image)
        rest = b.isub(number, b.imul(image, per_image))
        row = b.idiv(rest, self.columns)
        return _Place(image, row, b.isub(rest, b.imul(row, self.columns)))

    # -- into the transformed space -------------------------------------------------------------------
    def locate(self, first: Any, end: Any) -> None:
        """Where in x the tiles of a block begin, to ``offsets``. Tiles behind the last one repeat it, so that the loops
        over tiles have no branch."""
        b, x = self.b, self.x
        base: Extent = x.origin
        for axis in (2, 3):
            base = base - self.padding[axis - 2][0] * x.outer[axis]
        last = b.isub(end, 1)

        def one(t: Any) -> None:
            place = self.place(b.imin(b.iadd(first, t), last))
            offset = b.iadd(self.extents(base), b.imul(place.image, self.extents(x.outer[0])))
            offset = b.iadd(offset, b.imul(place.row, self.extents(self.steps[0] * x.outer[2])))
            offset = b.iadd(offset, b.imul(place.column, self.extents(self.steps[1] * x.outer[3])))
            b.store(self.offsets, b.ival(offset), t)

        b.loop(0, self.block, one)

    def ask_ahead(self, call: Any) -> None:
        """A share of the next block's inputs, for point and panel number ``call``."""
        b, x, lines = self.b, self.x, self.lines
        pairs, calls = self.block * self.in_vectors, self.filtering.points * max(1, self.panels // self.schedule.groups)
        row, column = (self.extents(x.outer[axis]) for axis in (2, 3))
        pixels = max(1, LINE // (self.lanes * self.dtype.itemsize))

        def tile(pair: Any) -> None:
            c = b.idiv(pair, self.block)
            source = b.at(self.pointers[self.group.operands[0]], b.imul(c, self.extents(x.outer[1])))
            source = b.at(source, b.load(self.offsets, b.isub(pair, b.imul(c, self.block))))
            # What the tiles above and on the left share with this one was read with them.
            for i in range(lines[0].points - self.steps[0], lines[0].points):
                for j in range(lines[1].points - self.steps[1], lines[1].points, pixels):
                    b.prefetch(source, b.iadd(b.imul(i, row), b.imul(j, column)), level=2)

        low, high = (b.imin(b.idiv(b.imul(b.iadd(call, k), pairs), calls), pairs) for k in (0, 1))
        b.loop(low, high, tile)

    def ask_for_results(self, first: Any, end: Any, panel: Any, call: Any, calls: int) -> None:
        """The lines of this panel's results and of the epilogue's operands: a share of them per call."""
        b, g, lines = self.b, self.result, self.lines
        vectors, last = b.imin(self.nb, b.isub(self.out_vectors, b.imul(panel, self.nb))), b.isub(end, 1)
        pairs = b.imul(vectors, self.block)
        pixels = max(1, LINE // (self.lanes * self.dtype.itemsize))
        images = [(p, o) for p, o in g.operands()[2:] if o.lane == 1 and o.stride("x") == self.lanes]

        def vector(pair: Any) -> None:
            j = b.idiv(pair, self.block)
            place = self.place(b.imin(b.iadd(first, b.isub(pair, b.imul(j, self.block))), last))
            at = {"image": place.image, "panel": panel, "chunk": 0}
            for n, (pointer, o) in enumerate(images):
                start = g.move(g.start(pointer, o, at), o, "y", b.imul(place.row, lines[0].tile))
                start = g.move(start, o, "x", b.imul(place.column, lines[1].tile))
                start = b.at(start, b.imul(j, self.extents(o.vector)))
                for i in range(lines[0].tile):
                    for k in range(0, lines[1].tile, pixels):
                        at_pixel = g.move(g.move(start, o, "y", i), o, "x", k)
                        b.prefetch(at_pixel, write=n < len(g.spec.outs), level=2)

        low, high = (b.idiv(b.imul(b.iadd(call, k), pairs), calls) for k in (0, 1))
        b.loop(low, high, vector)

    def transform_inputs(self, first: Any, end: Any) -> None:
        """``BT d B`` of a block's tiles, all channels, to V[point][channel block][tile][lane].

        Channels are the outer loop: neighbouring tiles then share cache lines of x.
        """
        b, x = self.b, self.x
        row, column = (self.extents(x.outer[axis]) for axis in (2, 3))
        self.locate(first, end)

        def tile(source: Val, target: Val, t: Any) -> None:
            src, dst = b.at(source, b.load(self.offsets, t)), b.at(target, b.imul(t, self.lanes))
            self.transform_tile(src, row, column, dst)

        def channels(c: Any) -> None:
            source = b.at(self.pointers[self.group.operands[0]], b.imul(c, self.extents(x.outer[1])))
            target = b.at(self.v, b.imul(c, self.block * self.lanes))
            b.loop(0, self.block, partial(tile, source, target))

        b.loop(0, self.in_vectors, channels)

    def transform_tile(self, src: Val, row: Any, column: Any, dst: Val) -> None:
        """``BT d B`` of one vector of channels; ``row``, ``column``: elements between the pixels at ``src``."""
        b, (y_line, x_line) = self.b, self.lines
        rows_n, columns_n = y_line.points, x_line.points

        def load(i: int, j: int) -> Val:
            return b.load(src, b.iadd(b.imul(i, row), b.imul(j, column)), self.lanes)

        # A pass per pair of rows keeps the live values of a large tile within the registers.
        passes = [tuple(range(rows_n))] if rows_n * columns_n <= 16 else _pairs(y_line.input)
        for rows in passes:
            part = tuple(y_line.input[i] for i in rows)
            needed = [k for k in range(rows_n) if any(r[k] for r in part)]
            columns = []
            for j in range(columns_n):
                given: list[Val | None] = [load(k, j) if k in needed else None for k in range(rows_n)]
                columns.append(_rows(b, part, given))
            for at, i in enumerate(rows):
                for j, value in enumerate(_rows(b, x_line.input, [column[at] for column in columns])):
                    b.store(dst, value, (i * columns_n + j) * self.v_point)

    # -- products and the way back ----------------------------------------------------------------------
    def products(self, panel: Any, number: Any, first: Any, end: Any) -> None:
        """The products of all points with one panel, number ``number`` of this block of tiles."""
        b, points = self.b, self.filtering.points
        if self.far:
            b.when(b.icmp("eq", number, 0), lambda: self.locate(b.iadd(first, self.block), end))

        def one(p: Any) -> None:
            if self.far:
                self.ask_ahead(b.iadd(b.imul(number, points), p))
                self.ask_for_results(first, end, panel, p, points)
            self.product(p, p, panel, self.segments(0, self.channels))

        b.loop(0, points, one)

    def segments(self, low: int, high: int) -> tuple[Segment, ...]:
        """The reduction over channels ``low`` to ``high``."""
        width, stride = self.nb * self.lanes, self.block * self.lanes
        found = []
        at = low
        while at < high:
            block, inside = divmod(at, self.lanes)
            whole = (high - at) // self.lanes if not inside else 0
            count = self.lanes if whole else min(high - at, self.lanes - inside)
            blocks = (Axis("cb", whole),) if whole > 1 else ()
            found.append(Segment((*blocks, Axis("c", count)), block * stride + inside, at * width))
            at += max(whole, 1) * count
        return tuple(found)

    def product(self, point: Any, to: Any, panel: Any, segments: tuple[Segment, ...]) -> None:
        """The product of one point (and those that ``segments`` lead to) and panel, to M[to][vector of the
        panel][tile][lane]."""
        b, w = self.b, self.w
        width, stride = self.nb * self.lanes, self.block * self.lanes
        weights = b.at(self.pointers[self.group.operands[1]], b.imul(panel, self.extents(w.outer[0])))
        spec = Contraction(
            self.dtype,
            (),
            (Axis("t", self.block), ONE),
            width,
            segments,
            Operand(0, {"t": self.lanes, "cb": stride, "c": 1}),
            Operand(0, {"cb": self.lanes * width, "c": width}, 0, self.lanes, 1, padded=True),
            (Operand(0, {"t": self.lanes}, 0, stride, 1, padded=True),),
            ahead=AHEAD,
            terms=self.filtering.terms_of_sum(self.channels),
        )

        a = b.at(self.v, b.imul(point, self.v_point))
        u = b.at(weights, b.imul(point, self.extents(w.outer[3])))
        out = b.at(self.m, b.imul(to, self.m_point))
        multiply = Generator(b, self.extents, spec, self.schedule.product, a, u, [out])
        multiply.panel({"chunk": 0, "panel": 0}, self.nb, None)

    def transform_output(self, panel: Any, t: Any, place: _Place) -> None:
        """``AT M A`` of one tile and panel, through the epilogue to the result."""
        b, g, (y_line, x_line) = self.b, self.result, self.lines
        at = {"image": place.image, "panel": panel, "chunk": 0}
        ptrs = []
        for pointer, o in g.operands()[2:]:
            start = g.move(g.start(pointer, o, at), o, "y", b.imul(place.row, y_line.tile))
            ptrs.append(g.move(start, o, "x", b.imul(place.column, x_line.tile)))
        outs, extras = ptrs[: len(g.spec.outs)], ptrs[len(g.spec.outs) :]
        left = b.isub(self.outputs, b.imul(panel, self.nb * self.lanes)) if self.outputs % self.lanes else None
        exists = [self._exists(place, axis) for axis in (0, 1)]
        back = self.filtering.back
        m, rows_n, columns_n = y_line.tile, len(back[0]), x_line.points

        def vector(j: Any) -> None:
            src = b.at(self.m, b.imul(b.iadd(b.imul(j, self.block), t), self.lanes))
            mask = g.mask(left, j)
            loaded: dict[tuple[Any, ...], Val] = {}
            # Even rows of a large tile need sums of opposite points and odd rows their differences; apart, the live
            # values stay within the registers.
            passes = [range(m)] if m * columns_n <= 24 else [range(0, m, 2), range(1, m, 2)]
            for rows in passes:
                part, columns = tuple(back[i] for i in rows), []
                for k in range(columns_n):
                    given = [b.load(src, (i * columns_n + k) * self.m_point, self.lanes) for i in range(rows_n)]
                    columns.append(_columns(b, part, given))
                for number, i in enumerate(rows):
                    for k, value in enumerate(_columns(b, x_line.output, [column[number] for column in columns])):
                        if self.y is not None:
                            b.store(self.y, value, (i * x_line.tile + k) * self.lanes)
                            continue
                        conditions = [c for c in (exists[0][i], exists[1][k]) if c is not None]
                        # What is loaded under a condition does not exist outside it.
                        known = loaded if not conditions else dict(loaded)
                        guarded(b, conditions, partial(g.finish_vector, outs, extras, (i, k), j, mask, value, known))
            if self.y is not None:
                self._finish_in_loops(outs, extras, place, j, mask)

        def existing(j: Any) -> None:
            if self.out_vectors % self.nb == 0:
                vector(j)
            else:
                b.when(b.icmp("lt", b.iadd(b.imul(panel, self.nb), j), self.out_vectors), lambda: vector(j))

        b.loop(0, self.nb, existing)
        if any(v.type.layout.has_halo for v in self.group.node.outputs):
            corner = b.op("and", b.icmp("eq", place.row, 0), b.icmp("eq", place.column, 0))

            def frame() -> None:
                for v in self.group.node.outputs:
                    clear_halo(b, self.extents, v.type, self.pointers[v], g, at, _AXES)

            b.when(corner, frame)

    def _finish_in_loops(self, outs: list[Val], extras: list[Val], place: _Place, j: Any, mask: Val | None) -> None:
        """One copy of a long epilogue for all results of a tile."""
        b = self.b
        assert self.y is not None
        y = self.y
        high = [
            b.imin(line.tile, b.isub(e, b.imul(index, line.tile)))
            for e, index, line in zip(self.extent, (place.row, place.column), self.lines, strict=True)
        ]

        def one(i: Any, k: Any) -> None:
            value = b.load(y, b.imul(b.iadd(b.imul(i, self.lines[1].tile), k), self.lanes), self.lanes)
            self.result.finish_vector(outs, extras, (i, k), j, mask, value, {})

        b.loop(0, high[0], lambda i: b.loop(0, high[1], lambda k: one(i, k)))

    def _exists(self, place: _Place, axis: int) -> list[Val | None]:
        """Per result of a tile along ``axis``: the condition under which it exists, None for always."""
        b, m, extent = self.b, self.lines[axis].tile, self.extent[axis]
        index = (place.row, place.column)[axis]
        inside = extent % m or m
        return [None if i < inside else b.icmp("lt", b.iadd(b.imul(index, m), i), extent) for i in range(m)]


# -- the matrices -----------------------------------------------------------------------------------------
def _pairs(matrix: Matrix) -> list[tuple[int, ...]]:
    """The rows of ``matrix``, those that share their sums together, others in twos."""
    paired = [(i, i + 1) for i in range(len(matrix) - 1) if _mirrored(matrix[i], matrix[i + 1])]
    rest = [i for i in range(len(matrix)) if not any(i in p for p in paired)]
    return paired + [tuple(rest[k : k + 2]) for k in range(0, len(rest), 2)]


def _mirrored(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the rows agree at some positions and are opposite at all others."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x or y]
    return all(abs(x) == abs(y) for x, y in pairs) and len({x == y for x, y in pairs}) == 2


def _rows(b: LoopBuilder, matrix: Matrix, values: Sequence[Val | None]) -> list[Val]:
    """``matrix @ values``; rows that are mirror images share their sums."""
    out: list[Val] = []
    i = 0
    while i < len(matrix):
        row = matrix[i]
        if i + 1 < len(matrix) and _mirrored(row, matrix[i + 1]):
            pairs = list(zip(row, matrix[i + 1], strict=True))
            same = _combine(b, [x if x == y else 0 for x, y in pairs], values)
            opposite = _combine(b, [x if x != y else 0 for x, y in pairs], values)
            out += [b.op("add", same, opposite), b.op("sub", same, opposite)]
            i += 2
            continue
        out.append(_combine(b, row, values))
        i += 1
    return out


def _columns(b: LoopBuilder, matrix: Matrix, values: Sequence[Val]) -> list[Val]:
    """``matrix @ values``; neighbouring columns that are equal or opposite in every row share sums and differences."""
    n = len(values)
    terms: list[list[tuple[float, Val]]] = [[] for _ in matrix]
    k = 0
    while k < n:
        if k + 1 < n and all(abs(row[k]) == abs(row[k + 1]) for row in matrix):
            shared: dict[bool, Val] = {}
            for row, found in zip(matrix, terms, strict=True):
                if row[k]:
                    same = row[k] == row[k + 1]
                    if same not in shared:
                        shared[same] = b.op("add" if same else "sub", values[k], values[k + 1])
                    found.append((row[k], shared[same]))
            k += 2
            continue
        for row, found in zip(matrix, terms, strict=True):
            if row[k]:
                found.append((row[k], values[k]))
        k += 1
    return [_combine(b, [c for c, _ in found], [v for _, v in found]) for found in terms]


def _combine(b: LoopBuilder, coefficients: Sequence[float], values: Sequence[Val | None]) -> Val:
    """The sum of ``coefficients * values``; a value may be missing where its coefficient is zero."""
    terms = [(c, v) for c, v in zip(coefficients, values, strict=True) if c and v is not None]
    terms.sort(key=lambda t: (t[0] != 1, abs(t[0]) != 1))  # start from a term that needs no product
    total: Val | None = None
    for c, v in terms:
        if total is None:
            total = v if c == 1 else b.op("neg", v) if c == -1 else b.op("mul", v, b.const(v.dtype, c, v.lanes))
        elif abs(c) == 1:
            total = b.op("add" if c == 1 else "sub", total, v)
        else:
            total = b.op("fma", v, b.const(v.dtype, c, v.lanes), total)
    assert total is not None
    return total
