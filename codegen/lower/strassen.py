"""Matrix products (and 1x1 convolutions) with constant B by one level of Strassen's algorithm, for B in that form.

One parallel iteration takes a band of rows (the upper half of them are A's upper quarters) and some of the columns: it
combines the quarters of A into scratch memory, multiplies them panel by panel with the combinations of B (the register
tiles of ``contraction.py``) and combines the seven products into four pieces of the result, through the epilogue.

A combination mixes a row of the upper half with one of the lower half, and with them their errors. Bands stay within an
image or a sequence. Rows of a matrix are samples or tokens of their own: where two that would be mixed differ much in
size, or are not finite, each half of the band is mixed with itself instead, in two passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
AHEAD = 1024  # elements: B streams from beyond L2, in large models from memory


def lower_strassen(group: Group, target: Target, schedule: StrassenSchedule | None = None) -> LoweredKernel:
    """The kernel of a product whose B has a form of ``strassen.FORMS``; ``schedule``: instead of the rule's.

    Raises:
        UnsupportedError: the operands do not fit.
    """
    return _Strassen(group, target, schedule).write()


def strassen_schedules(group: Group, target: Target) -> list[StrassenSchedule]:
    """The rule's choice for ``lower_strassen``, and what else is worth measuring."""
    return strassen.alternatives(*_case(group, target).problem(target))


def check_strassen(group: Group, target: Target) -> None:
    """UnsupportedError if ``lower_strassen`` does not take ``group``."""
    _case(group, target)


@dataclass(frozen=True)
class _Case:
    """A product: ``rows`` (along the m axes of ``spec``, which holds the operands of the result) times ``depth`` terms
    times ``outputs`` columns in panels of ``nb`` vectors; ``step``: elements of A between vectors of a row."""

    spec: Contraction
    axes: tuple[OutAxis, ...]
    depth: int
    outputs: int
    nb: int
    step: Extent
    blocked: bool  # a convolution

    @property
    def rows(self) -> Extent:
        return self.spec.m[0].extent * self.spec.m[1].extent

    def problem(self, target: Target) -> tuple[Any, ...]:
        """Arguments of ``strassen.choose``."""
        repeat = 1
        for axis in self.spec.outer:
            repeat *= upper(axis.extent)
        return target, self.spec.dtype, self.rows, repeat, self.depth, self.outputs, self.nb, self.blocked


def _case(group: Group, target: Target) -> _Case:
    from .contraction import _describe

    core, (a, b), lanes = group.core, (v.type for v in group.operands), target.lanes(dtypes.float32)
    if b.layout.form not in FORMS or core.op not in ("matmul", "conv"):
        raise UnsupportedError(f"strassen: {core!r} is no product with {b} in its form")
    if any(v.dtype != dtypes.float32 for v in (*group.operands, core.output)):
        raise UnsupportedError(f"strassen: only float32 products, this is of {a} and {b}")
    turned = b.layout.form == strassen.FORM_TRANSPOSED
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
        plain = b.shape[2:] == (1, 1) == attrs["stride"] and attrs["padding"] == ((0, 0), (0, 0))
        if not (turned and plain and attrs["groups"] == 1 and len(ints(core.output.shape[1:])) == 3):
            raise UnsupportedError(f"strassen: {core!r} is no product of rows of pixels")
        if x.blocks.get(1) != lanes or b.shape[1] % (2 * lanes):
            raise UnsupportedError(f"strassen: halves of x {a} must be whole blocks of {lanes} channels")
        (plan,), step = plan_conv(group, target), x.outer[1]
    depth, outputs, nb = plan.k, upper(plan.n), plan.nb
    if nb is None or depth % 2 or outputs % (2 * nb * lanes):
        raise UnsupportedError(f"strassen: halves of B {b} must be whole panels of {nb} vectors of {lanes}")
    return _Case(_describe(group, plan, lanes, nb), plan.axes, depth, outputs, nb, step, core.op == "conv")


class _Strassen:
    def __init__(self, group: Group, target: Target, schedule: StrassenSchedule | None) -> None:
        from .contraction import _distinct, _epilogue, _epilogue_lines

        self.group, self.target = group, target
        case = _case(group, target)
        self.spec, self.rows, self.axes, self.step = case.spec, case.rows, case.axes, case.step
        self.depth, self.outputs, self.nb = case.depth, case.outputs, case.nb
        self.schedule: StrassenSchedule = schedule or strassen.choose(*case.problem(target))
        spec = case.spec
        self.guarded = not case.blocked
        self.dtype, self.lanes, self.half = spec.dtype, target.lanes(spec.dtype), self.schedule.half
        self.quarter = self.depth // 2  # columns of a quarter of A
        self.width = self.nb * self.lanes
        self.panels = self.outputs // 2 // self.width
        # Odd numbers of vectors: rows, and the products of one piece, go to different cache sets.
        self.pitch = (-(-self.quarter // self.lanes) | 1) * self.lanes
        self.product_size = (self.half * self.nb | 1) * self.lanes
        self.whole = isinstance(self.rows, int) and self.rows % (2 * self.half) == 0

        self.b = b = LoopBuilder("kernel", target)
        self.values = _distinct([*group.operands, *group.extras, *group.node.outputs])
        self.pointers = {v: b.buffer(v.name, v.dtype) for v in self.values}
        self.extents = Extents(b)
        self.left = b.scratch(self.dtype, PRODUCTS * self.half * self.pitch)
        self.products = b.scratch(self.dtype, PRODUCTS * self.product_size)
        lines = _epilogue_lines(group, self.axes, target, self.lanes)
        self.pieces = b.scratch(self.dtype, 4 * self.lanes) if 10 * lines > EPILOGUE_LINES else None
        # A generator that is only asked to finish vectors: addresses, epilogue and stores of the result.
        a, right = (self.pointers[v] for v in group.operands)
        outs = [self.pointers[v] for v in group.node.outputs]
        extras = [self.pointers[v] for v in group.extras]
        epilogue = _epilogue(b, self.extents, group, self.axes)
        self.result = Generator(b, self.extents, spec, self.schedule.product, a, right, outs, extras, epilogue)

    def write(self) -> LoweredKernel:
        from .contraction import _inplace, decode, grain

        b, spec = self.b, self.spec
        size = 2 * self.half
        parts = self.schedule.parts
        counters = [("part", parts), *((axis.name, axis.extent) for axis in spec.outer)]
        counters.append(("band", (self.rows + (size - 1)) // size))

        def body(it: Any) -> None:
            at = decode(b, self.extents, it, counters)
            first = b.imul(at["band"], size)
            low, high = (b.idiv(b.imul(b.iadd(at["part"], k), self.panels), parts) for k in (0, 1))

            def panels(apart: Any, only: Any) -> None:
                def one_panel(panel: Any) -> None:
                    self.fetch_left(at, b.iadd(first, size), b.isub(panel, low))
                    b.loop(0, PRODUCTS, lambda p: self.product(p, panel))
                    self.finish(at, first, panel, apart, only)

                b.loop(low, high, one_panel)

            if not self.guarded:
                self.combine_left(at, first)
                panels(0, 0)
                return
            apart = self.combine_left(at, first)

            def one_pass(only: Any) -> None:
                b.when(b.icmp("ne", apart, 0), lambda: self.combine_left(at, first, only))
                panels(apart, only)

            b.loop(0, b.iadd(apart, 1), one_pass)

        b.loop(b.begin, b.end, body)
        trip = product(count for _, count in counters)
        rows = upper(self.rows, 1 << 40)
        for axis in spec.outer:
            rows *= upper(axis.extent, 1 << 20)
        executed = 2.0 * rows * self.depth * self.outputs * PRODUCTS / 8
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
    def combine_left(self, at: dict[str, Any], first: Any, only: Any = None) -> Any:
        """``LEFT . A`` of a band, to left[product][row][column].

        ``only``: the half whose rows take the place of the other's, too. Returns whether (1 or 0) rows should not be
        mixed, if A is guarded and ``only`` is not given. Rows behind the last one are replaced by ones that exist, so
        that the loop has no branch.
        """
        b, g, step = self.b, self.result, self.extents(self.step)
        source = g.start(self.pointers[self.group.operands[0]], self.spec.a, {**at, "panel": 0})
        count = self.extents(self.rows)
        vectors, rest = divmod(self.quarter, self.lanes)
        # From one quarter to the next: along a row of a matrix, or over whole blocks of channels.
        across = self.quarter if self.step == self.lanes else b.imul(vectors, step)
        measured = self.guarded and only is None

        def rows(t: Any) -> list[Any]:
            upper_row = b.iadd(first, t)
            if only is not None:
                row = b.iadd(upper_row, b.imul(only, self.half))
                return [row if self.whole else b.imin(row, b.isub(count, 1))] * 2
            lower_row = b.iadd(upper_row, self.half)
            if self.whole:
                return [upper_row, lower_row]
            upper_row = b.imin(upper_row, b.isub(count, 1))
            return [upper_row, b.select(b.icmp("lt", lower_row, count), b.ival(lower_row), b.ival(upper_row))]

        def line(t: Any, *apart: Val) -> list[Val]:
            sources = [b.at(source, g.row_offset(self.spec.a, self.place(row))) for row in rows(t)]
            target = b.at(self.left, b.imul(t, self.pitch))

            def vector(k: Any, *squares: Val, mask: Val | None = None) -> list[Val]:
                place = b.imul(k, step)
                quarters = [
                    [b.load(src, b.iadd(place, b.imul(j, across)), self.lanes, 1, mask) for j in (0, 1)]
                    for src in sources
                ]
                for p, value in enumerate(self._left(quarters)):
                    b.store(target, value, b.iadd(b.imul(k, self.lanes), p * self.half * self.pitch))
                pairs = zip(squares, quarters, strict=True) if squares else ()
                return [b.op("fma", row[1], row[1], b.op("fma", row[0], row[0], s)) for s, row in pairs]

            squares = [b.const(self.dtype, 0, self.lanes)] * 2 if measured else []
            squares = b.loop(0, vectors, vector, carry=squares)
            if rest:
                squares = vector(vectors, *squares, mask=b.lanes_below(rest, self.lanes))
            if not measured:
                return []
            norms = [b.horizontal("add", s) for s in squares]
            both = b.cmp("le", b.op("add", *norms), b.const(self.dtype, MOST))
            for x, y in (norms, norms[::-1]):
                both = b.op("and", both, b.cmp("le", x, b.op("mul", y, b.const(self.dtype, SIZES))))
            return [b.select(both, apart[0], b.ival(1))]

        found = b.loop(0, self.half, line, carry=[b.ival(0)] if measured else [])
        return found[0] if found else None

    def fetch_left(self, at: dict[str, Any], first: Any, number: Any) -> None:
        """Prefetches a share of the band from row ``first`` on, which comes next."""
        b, g = self.b, self.result
        share = -(-2 * self.half // max(1, self.panels // self.schedule.parts))
        source = g.start(self.pointers[self.group.operands[0]], self.spec.a, {**at, "panel": 0})
        first = b.iadd(first, b.imul(number, share))
        line = 64 // self.dtype.itemsize
        count, step = (-(-self.depth // line), line)
        if self.step != self.lanes:
            count, step = self.depth // self.lanes, self.extents(self.step)

        def row(i: Any) -> None:
            start = b.at(source, g.row_offset(self.spec.a, self.place(b.iadd(first, i))))
            b.loop(0, count, lambda k: b.prefetch(start, b.imul(k, step), level=2))

        b.loop(0, share, row)

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
    def product(self, number: Any, panel: Any) -> None:
        """One of the seven products of a panel, to products[number][row][column of the panel]."""
        b, width = self.b, self.width
        sizes = strassen.blocks(self.quarter)
        left = b.at(self.left, b.imul(number, self.half * self.pitch))
        right = b.at(self.pointers[self.group.operands[1]], b.imul(panel, PRODUCTS * self.quarter * width))
        right = b.at(right, b.imul(number, self.quarter * width))
        out = b.at(self.products, b.imul(number, self.product_size))

        def block(first: Any, size: int, add: bool) -> None:
            sums = Operand(0, {"t": width}, 0, self.lanes, 1, padded=True)
            spec = Contraction(
                self.dtype,
                (),
                (Axis("t", self.half), ONE),
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
    def finish(self, at: dict[str, Any], first: Any, panel: Any, apart: Any, only: Any) -> None:
        """``RESULT`` of one panel's products, epilogue and stores of its four pieces; if rows were kept ``apart``, of
        the two of the half ``only``."""
        b, g, count = self.b, self.result, len(self.spec.outs)
        sides = []
        for k in (0, 1):
            place = {**at, "panel": b.iadd(panel, k * self.panels), "chunk": at["band"]}
            pointers = [g.start(p, o, place) for p, o in g.operands()[2:]]
            sides.append((pointers[:count], pointers[count:]))
            for v in self.group.node.outputs:
                clear_halo(b, self.extents, v.type, self.pointers[v], g, place, self.axes)

        def line(t: Any, halves: tuple[int, ...]) -> None:
            rows = [self.place(b.iadd(b.iadd(first, t), i * self.half)) for i in (0, 1)]
            source = b.at(self.products, b.imul(t, self.width))

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
                for i in (0, 1):
                    for k in (0, 1):
                        b.store(pieces, values[i][k], (2 * i + k) * self.lanes)

                def stored(i: Any) -> None:
                    row = self.place(b.iadd(b.iadd(first, t), b.imul(i, self.half)))
                    for k in (0, 1):
                        value = b.load(pieces, b.imul(b.iadd(b.imul(i, 2), k), self.lanes), self.lanes)
                        g.finish_vector(*sides[k], row, j, None, value, {})

                b.loop(halves[0], halves[-1] + 1, stored)

            b.loop(0, self.nb, vector)

        exist: list[Any] = [self.half, self.half]  # rows of either half
        if not self.whole:
            left = b.isub(self.extents(self.rows), first)
            exist = [b.imax(b.imin(b.isub(left, i * self.half), self.half), 0) for i in (0, 1)]
        both = b.imul(b.isub(1, apart), exist[1])
        b.loop(0, both, lambda t: line(t, (0, 1)))
        b.loop(both, b.imul(b.isub(1, only), exist[0]), lambda t: line(t, (0,)))
        b.loop(0, b.imul(only, exist[1]), lambda t: line(t, (1,)))

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
