"""Matrix products (and 1x1 convolutions) with constant B by Strassen's algorithm, one or two levels, for B in its form.

One parallel iteration takes a band of rows, cut into two blocks per level, and some of the columns: it combines the
blocks of A into scratch memory, multiplies them panel by panel with the combinations of B (the register tiles of
``contraction.py``) and combines the products of seven into four pieces: of the result, through the epilogue, or with
two levels first of one of the seven products of the first level.

A combination mixes a row of each block, and with them their errors. Bands stay within an image or a sequence. Rows of a
matrix are samples or tokens of their own: where some that would be mixed differ much in size, or are not finite, each
half of the band is mixed with itself instead, in two passes, or with two levels each quarter, in four. Columns of B
are looked after when it gets its form (``strassen.holds``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from ...ir import dtypes
from ...ir.dims import Extent, product
from ...ir.errors import UnsupportedError
from ...ir.target import Target
from .. import strassen
from ..contraction import Axis, Contraction, Generator, Operand, Segment, plain
from ..loopir import LoopBuilder, Val
from ..schedule import EPILOGUE_LINES, upper
from ..strassen import FORMS, PRODUCTS, SINE, StrassenSchedule
from .contraction_conv import plan_conv
from .contraction_halo import clear_halo
from .contraction_matmul import plan_matmul
from .contraction_operands import ONE, OutAxis, Placed, ints
from .kernel import LoweredKernel
from .position import Extents

if TYPE_CHECKING:
    from .contraction import Group

SIZES = 16.0  # ratio of squared norms up to which rows of a matrix are mixed
MOST = 1e37  # squared norm up to which
LEAST = 1e-30  # squared norm from which on: the squares of smaller rows underflow
AHEAD = 2048  # elements: B streams from beyond L2, in large models from memory


def lower_strassen(group: Group, target: Target, schedule: StrassenSchedule | None = None) -> LoweredKernel:
    """The kernel of a product whose B has a form of ``strassen.FORMS``; ``schedule``: instead of the rule's.

    Raises:
        UnsupportedError: the operands do not fit.
    """
    return _Strassen(group, target, schedule).write()


def strassen_schedules(group: Group, target: Target) -> list[StrassenSchedule]:
    """The rule's choice for ``lower_strassen``, and what else is worth measuring."""
    return strassen.alternatives(_case(group, target).problem(target))


def check_strassen(group: Group, target: Target) -> None:
    """UnsupportedError if ``lower_strassen`` does not take ``group``."""
    _case(group, target)


@dataclass(frozen=True)
class _Case:
    """A product: ``rows`` (along the m axes of ``spec``, which holds the operands of the result) times ``depth`` terms
    times ``outputs`` columns in panels of ``nb`` vectors; ``step``: elements of A between vectors of a row."""

    spec: Contraction
    form: strassen.Form
    axes: tuple[OutAxis, ...]
    depth: int
    outputs: int
    nb: int
    step: Extent
    blocked: bool  # a convolution
    stride: int = 1  # pixels of x per row

    @property
    def rows(self) -> Extent:
        return self.spec.m[0].extent * self.spec.m[1].extent

    def problem(self, target: Target) -> strassen.Case:
        repeat = 1
        for axis in self.spec.outer:
            repeat *= upper(axis.extent)
        dtype, levels = self.spec.dtype, self.form.levels
        size = repeat, self.depth, self.outputs
        return strassen.Case(target, dtype, levels, self.rows, *size, self.nb, self.blocked, self.stride)


def _case(group: Group, target: Target) -> _Case:
    from .contraction import _describe

    core, (a, b), lanes = group.core, (v.type for v in group.operands), target.lanes(dtypes.float32)
    if b.layout.form not in FORMS or core.op not in ("matmul", "conv"):
        raise UnsupportedError(f"strassen: {core!r} is no product with {b} in its form")
    if any(v.dtype != dtypes.float32 for v in (*group.operands, core.output)):
        raise UnsupportedError(f"strassen: only float32 products, this is of {a} and {b}")
    form = FORMS[b.layout.form]
    turned, cuts = form.turned, form.cuts
    step: Extent = lanes
    if core.op == "matmul":
        if core.attrs["transpose_a"] or turned != core.attrs["transpose_b"] or b.rank != 2:
            raise UnsupportedError(f"strassen: {core!r} takes its operands another way round than form {b.layout.form}")
        if Placed(a).stride(a.rank - 1) != 1:
            raise UnsupportedError(f"strassen: A {a} must be row-major")
        (plan,) = plan_matmul(group, target)
        make = plan.make
        plan = replace(plan, make=lambda *given: replace(make(*given), joinable=False))
    else:
        x, attrs = Placed(a), core.attrs
        plain = b.shape[2:] == (1, 1) and attrs["padding"] == ((0, 0), (0, 0))
        if not (turned and plain and attrs["groups"] == 1 and len(ints(core.output.shape[1:])) == 3):
            raise UnsupportedError(f"strassen: {core!r} is no product of rows of pixels")
        if x.blocks.get(1) != lanes or b.shape[1] % (cuts * lanes):
            raise UnsupportedError(f"strassen: blocks of x {a} must be whole blocks of {lanes} channels")
        (plan,), step = plan_conv(group, target), x.outer[1]
    depth, outputs, nb = plan.k, upper(plan.n), plan.nb
    if nb is None or depth % cuts or outputs % (cuts * nb * lanes):
        raise UnsupportedError(f"strassen: blocks of B {b} must be whole panels of {nb} vectors of {lanes}")
    stride = prod(core.attrs["stride"]) if core.op == "conv" else 1
    return _Case(
        _describe(group, plan, lanes, nb), form, plan.axes, depth, outputs, nb, step, core.op == "conv", stride
    )


@dataclass(frozen=True)
class _Mix:
    """Pass ``number`` over a band: block ``i`` of the combinations is block ``number * span + i % span`` of A."""

    number: Any
    span: Any


class _Strassen:
    def __init__(self, group: Group, target: Target, schedule: StrassenSchedule | None) -> None:
        from .contraction import _distinct, _epilogue, _epilogue_lines

        self.group, self.target = group, target
        case = _case(group, target)
        self.spec, self.rows, self.axes, self.step = case.spec, case.rows, case.axes, case.step
        self.depth, self.outputs, self.nb = case.depth, case.outputs, case.nb
        self.schedule: StrassenSchedule = schedule or strassen.choose(case.problem(target))
        spec = case.spec
        self.guarded = not case.blocked
        self.dtype, self.lanes, self.block = spec.dtype, target.lanes(spec.dtype), self.schedule.rows
        self.form, self.cuts, self.inner = case.form, case.form.cuts, case.form.cuts // 2
        self.steps = PRODUCTS ** (case.form.levels - 1)  # products of the first level, if there are two
        self.sizes = strassen.blocks(self.depth // self.cuts, case.form.levels)
        self.quarter = self.depth // self.cuts  # columns of a block of A
        self.width = self.nb * self.lanes
        self.panels = self.outputs // self.cuts // self.width
        # Odd numbers of vectors: rows, combinations, and the products of one piece, go to different cache sets.
        self.pitch = (-(-self.quarter // self.lanes) | 1) * self.lanes
        self.left_size = (self.block * self.pitch // self.lanes | 1) * self.lanes
        self.product_size = (self.block * self.nb | 1) * self.lanes
        self.whole = isinstance(self.rows, int) and self.rows % (self.cuts * self.block) == 0

        self.b = b = LoopBuilder("kernel", target)
        self.values = _distinct([*group.operands, *group.extras, *group.node.outputs])
        self.pointers = {v: b.buffer(v.name, v.dtype) for v in self.values}
        self.extents = Extents(b)
        stepwise = self.schedule.stepwise
        self.left = b.scratch(self.dtype, PRODUCTS * (1 if stepwise else self.steps) * self.left_size)
        self.products = self.sums = b.scratch(self.dtype, PRODUCTS * self.product_size)
        if self.form.levels > 1:  # pieces of the first level's products, those of one piece of the result together
            held = -(-self.panels // self.schedule.parts) if stepwise else 1
            self.sums = b.scratch(self.dtype, held * self.inner**2 * PRODUCTS * self.product_size)
        lines = _epilogue_lines(group, self.axes, target, self.lanes)
        self.pieces = b.scratch(self.dtype, 4 * self.lanes) if 8 * lines > EPILOGUE_LINES else None
        # A generator that is only asked to finish vectors: addresses, epilogue and stores of the result.
        a, right = (self.pointers[v] for v in group.operands)
        outs = [self.pointers[v] for v in group.node.outputs]
        extras = [self.pointers[v] for v in group.extras]
        epilogue = _epilogue(b, self.extents, group, self.axes)
        self.result = Generator(b, self.extents, spec, self.schedule.product, a, right, outs, extras, epilogue)

    def write(self) -> LoweredKernel:
        from .contraction import _inplace, decode, grain

        b, spec = self.b, self.spec
        size = self.cuts * self.block
        parts, stepwise = self.schedule.parts, self.schedule.stepwise
        counters = [("part", parts), *((axis.name, axis.extent) for axis in spec.outer)]
        counters.append(("band", (self.rows + (size - 1)) // size))

        def body(it: Any) -> None:
            at = decode(b, self.extents, it, counters)
            first = b.imul(at["band"], size)
            low, high = (b.idiv(b.imul(b.iadd(at["part"], k), self.panels), parts) for k in (0, 1))
            passes = self.combine_left(at, first, None, range(0) if stepwise else range(self.steps))

            def combine_if(condition: Val, mix: _Mix, steps: range) -> None:
                b.when(condition, lambda: self.combine_left(at, first, mix, steps))

            def fetch(before: Any) -> Callable[[Any], None]:
                return lambda p: self.fetch_left(at, b.iadd(first, size), b.iadd(b.imul(before, PRODUCTS), p))

            def one_pass(number: Any) -> None:
                mix = _Mix(number, b.idiv(self.cuts, passes))
                if stepwise:
                    b.loop(0, self.steps, lambda step: one_step(mix, step))
                    b.loop(low, high, lambda panel: self.finish(at, first, panel, b.isub(panel, low), mix))
                    return
                if self.guarded:
                    combine_if(b.icmp("ne", passes, 1), mix, range(self.steps))
                b.loop(low, high, lambda panel: one_panel(mix, panel))

            def one_step(mix: _Mix, step: Any) -> None:
                for k in range(self.steps):
                    combine_if(b.icmp("eq", step, k), mix, range(k, k + 1))

                def panel_of_step(panel: Any) -> None:
                    local = b.isub(panel, low)
                    before = b.iadd(b.imul(step, self.panels // parts), local)
                    self.seven(step, 0, panel, local, fetch(before))

                b.loop(low, high, panel_of_step)

            def one_panel(mix: _Mix, panel: Any) -> None:
                def step_of_panel(step: Any) -> None:
                    before = b.iadd(b.imul(b.isub(panel, low), self.steps), step)
                    self.seven(step, b.imul(step, PRODUCTS), panel, 0, fetch(before))

                b.loop(0, self.steps, step_of_panel)
                self.finish(at, first, panel, 0, mix)

            b.loop(0, passes, one_pass)

        b.loop(b.begin, b.end, body)
        trip = product(count for _, count in counters)
        rows = upper(self.rows, 1 << 40)
        for axis in spec.outer:
            rows *= upper(axis.extent, 1 << 20)
        executed = 2.0 * rows * self.depth * self.outputs * (PRODUCTS / 8) ** self.form.levels
        moved = sum(float(upper(v.type.nbytes, 1 << 40)) for v in self.values)
        return LoweredKernel(
            self.group.node,
            b.finish(),
            self.values,
            self.extents.expressions,
            trip,
            grain(self.target, executed, moved, trip, self.dtype.itemsize),
            f"{self.group.core.op}: {self.schedule}" + (", epilogue in a loop" if self.pieces is not None else ""),
            executed,
            moved,
            _inplace(self.group),
        )

    def place(self, row: Any) -> tuple[Any, Any]:
        """The indices of a row along the two m axes."""
        inner = self.spec.m[1].extent
        if inner == 1:
            return row, 0
        outer = self.b.idiv(row, self.extents(inner))
        return outer, self.b.isub(row, self.b.imul(outer, self.extents(inner)))

    # -- A ------------------------------------------------------------------------------------------------
    def combine_left(self, at: dict[str, Any], first: Any, mix: _Mix | None, steps: range) -> Any:
        """``LEFT . A`` of a band for the first level's products ``steps``, to left[product][row][column].

        Without a ``mix`` that of one pass, and the number of passes it should have been is returned. Rows behind the
        last one are replaced by ones that exist, so that the loop has no branch.
        """
        b, g, step = self.b, self.result, self.extents(self.step)
        measured = self.guarded and mix is None
        if not measured and not steps:
            return 1
        number, span = (0, self.cuts) if mix is None else (mix.number, mix.span)
        source = g.start(self.pointers[self.group.operands[0]], self.spec.a, {**at, "panel": 0})
        count = self.extents(self.rows)
        vectors, rest = divmod(self.quarter, self.lanes)
        # From one block to the next: along a row of a matrix, or over whole blocks of channels.
        across = self.quarter if self.step == self.lanes else b.imul(vectors, step)
        mixed = b.imul(b.imul(number, span), self.block)  # the first of the rows that are mixed
        places = [b.iadd(mixed, b.imul(b.irem(i, span), self.block)) for i in range(self.cuts)]

        def rows(t: Any) -> list[Any]:
            found = [b.iadd(b.iadd(first, t), place) for place in places]
            if self.whole:
                return found
            one = b.ival(b.imin(b.iadd(b.iadd(first, t), mixed), b.isub(count, 1)))
            return [b.select(b.icmp("lt", row, count), b.ival(row), one) for row in found]

        def line(t: Any, *passes: Val) -> list[Val]:
            sources = [b.at(source, g.row_offset(self.spec.a, self.place(row))) for row in rows(t)]
            target = b.at(self.left, b.imul(t, self.pitch))

            def vector(made: range, k: Any, *sums: Val, mask: Val | None = None) -> list[Val]:
                place = b.imul(k, step)
                grid = [
                    [b.load(src, b.iadd(place, b.imul(j, across)), self.lanes, 1, mask) for j in range(self.cuts)]
                    for src in sources
                ]
                for p, value in enumerate(self._combinations(grid, made), PRODUCTS * (made.start - steps.start)):
                    b.store(target, value, b.iadd(b.imul(k, self.lanes), p * self.left_size))
                if not sums:
                    return []
                found, largest = [], sums[-1]
                for total, row in zip(sums[:-1], grid, strict=True):
                    for value in row:
                        total = b.op("fma", value, value, total)
                        largest = b.op("max", largest, b.op("abs", value))
                    found.append(total)
                return [*found, largest]

            # Seven at a time: more streams of stores take turns in the cache sets, and need registers.
            for k in range(steps.start, max(steps.start + 1, steps.stop)):
                made = range(k, min(k + 1, steps.stop))
                last = measured and k + 1 >= steps.stop
                sums = [b.const(self.dtype, 0, self.lanes)] * (self.cuts + 1) if last else []
                sums = b.loop(0, vectors, functools.partial(vector, made), carry=sums)
                if rest:
                    sums = vector(made, vectors, *sums, mask=b.lanes_below(rest, self.lanes))
            if not measured:
                return []
            (most,) = passes
            norms = [b.horizontal("add", s) for s in sums[:-1]]
            return [b.ival(b.imax(most, self.passes(norms, b.horizontal("max", sums[-1]))))]

        found = b.loop(0, self.block, line, carry=[b.ival(1)] if measured else [])
        return found[0] if found else 1

    def passes(self, norms: list[Val], largest: Val) -> Val:
        """In how many passes rows of these squared norms should be mixed. ``largest``: magnitude in all of them; rows
        that are all zero, as padding is, take one."""
        b = self.b
        zero = b.cmp("eq", largest, b.const(self.dtype, 0))

        def alike(rows: list[Val]) -> Val:
            low = high = total = rows[0]
            for row in rows[1:]:
                low, high, total = b.op("min", low, row), b.op("max", high, row), b.op("add", total, row)
            finite = b.cmp("le", total, b.const(self.dtype, MOST))  # false for NaN
            exact = b.op("or", zero, b.cmp("ge", low, b.const(self.dtype, LEAST)))
            near = b.cmp("le", high, b.op("mul", low, b.const(self.dtype, SIZES)))
            return b.op("and", finite, b.op("and", exact, near))

        found, count = b.ival(self.cuts), self.cuts // 2
        while count:
            span = self.cuts // count
            groups = [alike(norms[i * span : (i + 1) * span]) for i in range(count)]
            found = b.select(functools.reduce(lambda x, y: b.op("and", x, y), groups), b.ival(count), found)
            count //= 2
        return found

    def fetch_left(self, at: dict[str, Any], first: Any, number: Any) -> None:
        """Prefetches a share of the band from row ``first`` on, which comes next, during product ``number``."""
        b, g = self.b, self.result
        size = self.cuts * self.block
        share = -(-size // max(1, self.panels // self.schedule.parts * self.form.products))
        source = g.start(self.pointers[self.group.operands[0]], self.spec.a, {**at, "panel": 0})
        start = b.imul(number, share)
        line = 64 // self.dtype.itemsize
        count, step = (-(-self.depth // line), line)
        if self.step != self.lanes:
            count, step = self.depth // self.lanes, self.extents(self.step)

        def row(i: Any) -> None:
            place = self.place(b.iadd(b.iadd(first, start), i))
            start_of_row = b.at(source, g.row_offset(self.spec.a, place))
            b.loop(0, count, lambda k: b.prefetch(start_of_row, b.imul(k, step), level=2))

        b.loop(0, b.imin(share, b.imax(b.isub(size, start), 0)), row)

    def _combinations(self, grid: list[list[Val]], steps: range) -> list[Val]:
        """The combinations of one vector of each block, with two levels those for the first level's ``steps``."""
        if self.form.levels == 1:
            return self._left(grid) if steps else []
        found: list[list[list[Val]]] = [[[] for _ in range(2)] for _ in range(self.steps)]
        for i in (0, 1):
            for j in (0, 1):
                quarter = [[grid[2 * p + i][2 * q + j] for q in (0, 1)] for p in (0, 1)]
                for k, value in enumerate(self._left(quarter)):
                    found[k][i].append(value)
        return [value for k in steps for value in self._left(found[k])]

    def _left(self, a: Sequence[Sequence[Val]]) -> list[Val]:
        """``strassen.LEFT``, with shared sums."""
        cross = self.b.op("add", a[0][1], a[1][0])
        upper_left = self._times(a[0][0], 1 / 2)
        trace = self._fma(a[1][1], 3 / 4, self._times(a[0][0], 1 / 4))
        return [
            cross,
            self._fma(a[0][1], SINE, upper_left),
            self._fma(a[0][1], -SINE, upper_left),
            self._fma(a[1][0], SINE, upper_left),
            self._fma(a[1][0], -SINE, upper_left),
            self._fma(cross, SINE / 2, trace),
            self._fma(cross, -SINE / 2, trace),
        ]

    # -- the products -------------------------------------------------------------------------------------
    def seven(self, step: Any, held: Any, panel: Any, local: Any, before: Callable[[Any], None]) -> None:
        """Seven products of a panel, of combinations from left[held] on, and with two levels their pieces to
        sums[local panel][piece][step][row][column of the panel]."""
        b = self.b

        def one(p: Any) -> None:
            before(p)
            self.product(p, b.iadd(held, p), b.iadd(b.imul(step, PRODUCTS), p), panel)

        b.loop(0, PRODUCTS, one)
        if self.form.levels == 1:
            return
        to = b.imul(b.iadd(b.imul(local, self.inner**2 * PRODUCTS), step), self.product_size)

        def vector(v: Any) -> None:
            place = b.imul(v, self.lanes)
            source, target = b.at(self.products, place), b.at(b.at(self.sums, to), place)
            found = self._result([b.load(source, p * self.product_size, self.lanes) for p in range(PRODUCTS)])
            for i, value in enumerate([*found[0], *found[1]]):
                b.store(target, value, i * PRODUCTS * self.product_size)

        b.loop(0, self.block * self.nb, vector)

    def product(self, slot: Any, held: Any, number: Any, panel: Any) -> None:
        """Product ``number`` of a panel, of left[held], to products[slot][row][column of the panel]."""
        b, width = self.b, self.width
        sizes = self.sizes
        left = b.at(self.left, b.imul(held, self.left_size))
        right = b.at(self.pointers[self.group.operands[1]], b.imul(panel, self.form.products * self.quarter * width))
        right = b.at(right, b.imul(number, self.quarter * width))
        out = b.at(self.products, b.imul(slot, self.product_size))

        def block(first: Any, size: int, add: bool) -> None:
            sums = Operand(0, {"t": width}, 0, self.lanes, 1, padded=True)
            spec = Contraction(
                self.dtype,
                (),
                (Axis("t", self.block), ONE),
                width,
                (Segment((Axis("k", size),)),),
                Operand(0, {"t": self.pitch, "k": 1}),
                Operand(0, {"k": width}, 0, self.lanes, 1, padded=True),
                (sums,),
                (sums,) if add else (),
                ahead=AHEAD,
                terms=size,
            )
            a, w = b.at(left, first), b.at(right, b.imul(first, width))
            total = (lambda value, load: [b.op("add", load(0), value)]) if add else plain
            g = Generator(b, self.extents, spec, self.schedule.product, a, w, [out], [out] if add else [], total)
            g.panel({"chunk": 0, "panel": 0}, self.nb, None)

        block(0, sizes[0], False)
        equal = [s for s in sizes[1:] if s == sizes[0]]
        b.loop(1, 1 + len(equal), lambda q: block(b.imul(q, sizes[0]), sizes[0], True))
        if len(equal) < len(sizes) - 1:
            block(sum(sizes[:-1]), sizes[-1], True)

    # -- the result ---------------------------------------------------------------------------------------
    def finish(self, at: dict[str, Any], first: Any, panel: Any, local: Any, mix: _Mix) -> None:
        """The last combinations for one panel of each block of the result's columns, epilogue and stores, for the rows
        that ``mix`` is about."""
        b, g, count = self.b, self.result, len(self.spec.outs)
        apart = self.inner * self.block  # rows between pieces of one combination
        mixed = b.iadd(first, b.imul(b.imul(mix.number, mix.span), self.block))

        def columns(column: Any) -> None:
            sides = []
            for k in (0, 1):
                block = b.iadd(column, k * self.inner)
                place = {**at, "panel": b.iadd(panel, b.imul(block, self.panels)), "chunk": at["band"]}
                pointers = [g.start(p, o, place) for p, o in g.operands()[2:]]
                sides.append((pointers[:count], pointers[count:]))
                for v in self.group.node.outputs:
                    clear_halo(b, self.extents, v.type, self.pointers[v], g, place, self.axes)

            def block_row(i: Any) -> None:
                start = b.iadd(mixed, b.imul(i, self.block))
                piece = b.iadd(b.imul(b.iadd(b.imul(local, self.inner), i), self.inner), column)
                source = b.at(self.sums, b.imul(piece, PRODUCTS * self.product_size))
                exist: list[Any] = [self.block, self.block]
                if not self.whole:
                    left = b.isub(self.extents(self.rows), start)
                    exist = [b.imax(b.imin(b.isub(left, h * apart), self.block), 0) for h in (0, 1)]
                both = b.imul(b.idiv(mix.span, self.cuts), exist[1])
                b.loop(0, both, lambda t: self.line(sides, source, start, t, (0, 1)))
                b.loop(both, exist[0], lambda t: self.line(sides, source, start, t, (0,)))

            b.loop(0, b.imin(mix.span, self.inner), block_row)

        b.loop(0, self.inner, columns)

    def line(self, sides: list[tuple[list[Val], list[Val]]], source: Val, start: Any, t: Any, halves: Any) -> None:
        """Row ``t`` of the blocks from row ``start`` on, of the upper one of two or both."""
        b, g = self.b, self.result
        apart = self.inner * self.block
        rows = [self.place(b.iadd(b.iadd(start, t), i * apart)) for i in halves]
        source = b.at(source, b.imul(t, self.width))

        def vector(j: Any) -> None:
            src = b.at(source, b.imul(j, self.lanes))
            values = self._result([b.load(src, p * self.product_size, self.lanes) for p in range(PRODUCTS)])
            loaded: list[dict[tuple[Any, ...], Val]] = [{}, {}]
            pieces = self.pieces
            if pieces is None:
                for i in halves:
                    for k in (0, 1):
                        g.finish_vector(*sides[k], rows[i], j, None, values[i][k], loaded[k])
                return
            for i in halves:
                for k in (0, 1):
                    b.store(pieces, values[i][k], (2 * i + k) * self.lanes)

            def stored(i: Any) -> None:
                row = self.place(b.iadd(b.iadd(start, t), b.imul(i, apart)))
                for k in (0, 1):
                    value = b.load(pieces, b.imul(b.iadd(b.imul(i, 2), k), self.lanes), self.lanes)
                    g.finish_vector(*sides[k], row, j, None, value, {})

            b.loop(0, len(halves), stored)

        b.loop(0, self.nb, vector)

    def _result(self, m: Sequence[Val]) -> list[list[Val]]:
        """``strassen.RESULT``, with shared sums."""
        op = self.b.op
        total, difference = op("add", m[1], m[2]), op("sub", m[2], m[1])
        cross = self._fma(difference, SINE / 2, m[0])
        rest = op("add", op("add", m[3], m[4]), op("add", m[5], m[6]))
        return [
            [self._times(total, 3 / 4), self._fma(op("sub", m[3], m[4]), SINE, cross)],
            [self._fma(op("sub", m[6], m[5]), SINE, cross), self._fma(total, 1 / 4, self._times(rest, 1 / 2))],
        ]

    def _times(self, value: Val, factor: float) -> Val:
        return self.b.op("mul", value, self.b.const(value.dtype, factor, value.lanes))

    def _fma(self, value: Val, factor: float, addend: Val) -> Val:
        return self.b.op("fma", value, self.b.const(value.dtype, factor, value.lanes), addend)


__all__ = ["check_strassen", "lower_strassen", "strassen_schedules"]
