"""Convolutions as products of gathered rows: for long sums, small maps and many output channels.

One parallel iteration takes a block of positions (rows of the result, joined across image rows and images) and some
of the output channels. Block by block of the sum, it copies what its positions read (input channels under each tap)
to scratch, so that the register tiles of ``contraction.py`` see a plain matrix: any number of positions fits any
tile, no stride conflicts in a cache, and a block of the weights is read once for all positions of the
iteration. The sums of all positions and channels stay in scratch until the end, when the epilogue stores them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from ...ir.dims import Extent
from ...ir.target import Target
from .. import gather
from ..contraction import Axis, Contraction, Generator, Operand, Segment
from ..loopir import LoopBuilder, Val
from ..schedule import EPILOGUE_LINES, upper
from .contraction_halo import clear_halo
from .contraction_operands import ONE, OutAxis, Placed, ints, result_operand
from .kernel import LoweredKernel
from .position import Extents

if TYPE_CHECKING:
    from .contraction import Group

_AXES = (OutAxis((("image", 1),)), OutAxis(vector=True), OutAxis((("y", 1),)), OutAxis((("x", 1),)))


def plan_gathered(group: Group, target: Target) -> gather.GatherSchedule | None:
    """The schedule if the convolution ``group`` should run this way, else None."""
    c = convolution_of(group, target)
    return gather.choose(target, c) if c is not None else None


def convolution_of(group: Group, target: Target) -> gather.Convolution | None:
    """What the rule looks at; None if ``group`` is nothing that can run on gathered rows."""
    core = group.core
    if core.op != "conv" or core.attrs["groups"] != 1 or core.output.type.rank != 4:
        return None
    x, w, out = Placed(group.operands[0].type), Placed(group.operands[1].type), core.output
    lanes = target.lanes(out.dtype)
    if x.blocks.get(1) != lanes or w.blocks.get(1) != lanes or not w.blocks.get(0):
        return None
    types = {v.dtype for v in (*group.operands, out)}
    if len(types) > 1 or out.dtype.kind != "f" or out.dtype.bits < 32:
        return None
    if not all(isinstance(e, int) and e > 0 for e in (*x.type.shape[1:], *out.shape[1:])):
        return None
    nb = w.blocks[0] // lanes
    shape = ints(w.type.shape)
    width = lanes * nb
    taps = prod(shape[2:])
    # The weights of a panel have to be one after the other: [channel block][taps][channel][output channel].
    packed = [w.inner[0] == 1, w.inner[1] == width, w.outer[1] == taps * lanes * width]
    packed += [w.outer[3] == lanes * width, w.outer[2] == shape[3] * lanes * width]
    for v in (*group.node.outputs, *group.extras):
        if v.type.layout.blocks and dict(v.type.layout.blocks).get(1) != lanes:
            return None
    if not all(packed) or shape[1] % lanes:
        return None
    images = out.shape[0] if isinstance(out.shape[0], int) else None
    extent, stride = ints(out.shape[2:]), core.attrs["stride"]
    linear = taps == 1 and stride[0] * x.outer[2] == extent[1] * stride[1] * x.outer[3]
    return gather.Convolution(
        out.dtype, images, (extent[0], extent[1]), shape[1], taps, shape[0], nb, (stride[0], stride[1]), linear
    )


def lower_gathered(group: Group, target: Target, schedule: gather.GatherSchedule) -> LoweredKernel:
    """The kernel of a convolution that ``plan_gathered`` accepted."""
    return _Gathered(group, target, schedule).write()


class _Gathered:
    def __init__(self, group: Group, target: Target, schedule: gather.GatherSchedule) -> None:
        from .contraction import _distinct, _epilogue, _epilogue_lines

        core = group.core
        self.group, self.target, self.schedule, self.out = group, target, schedule, core.output
        self.x, self.w = (Placed(v.type) for v in group.operands)
        self.dtype, self.lanes = self.out.dtype, target.lanes(self.out.dtype)
        self.outputs, channels, *self.kernel = ints(group.operands[1].shape)
        self.height, self.width = ints(self.out.shape[2:])
        self.stride, self.padding, self.dilation = (core.attrs[k] for k in ("stride", "padding", "dilation"))
        self.nb = schedule.product.nb
        self.panel_width = self.nb * self.lanes
        self.out_vectors = -(-self.outputs // self.lanes)
        self.panels = -(-self.out_vectors // self.nb)
        self.lines = channels // self.lanes * prod(self.kernel)
        self.rows = schedule.images * schedule.height * self.width
        held = self.lines if schedule.whole else schedule.lines
        self.pitch = (held + 1 - held % 2) * self.lanes  # an odd number of vectors

        self.b = b = LoopBuilder("kernel", target)
        self.values = _distinct([*group.operands, *group.extras, *group.node.outputs])
        self.pointers = {v: b.buffer(v.name, v.dtype) for v in self.values}
        self.extents = Extents(b)
        self.a = b.scratch(self.dtype, self.rows * self.pitch)
        kept = 1 if schedule.whole else -(-self.panels // schedule.parts)
        self.totals = b.scratch(self.dtype, kept * self.rows * self.panel_width)
        self.result = self._result_side(_epilogue(b, self.extents, group, _AXES))
        lines = _epilogue_lines(group, _AXES, target, self.lanes)
        most = min(4, max(1, EPILOGUE_LINES // (max(lines, 1) * self.nb)))
        self.step = _divisor(self.width, most)

    def _result_side(self, epilogue: Any) -> Generator:
        """A generator that is only asked to finish vectors: addresses, epilogue and stores of the result."""
        group = self.group
        operands = [
            result_operand(v.type, self.out.shape, _AXES, self.lanes, self.nb)
            for v in (*group.node.outputs, *group.extras)
        ]
        count = len(group.node.outputs)
        spec = Contraction(
            self.dtype,
            (Axis("image", self.out.shape[0]),),
            (Axis("y", self.height), Axis("x", self.width)),
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

        b, group, s = self.b, self.group, self.schedule
        bands = self.height // s.height
        blocks: Extent = self.out.shape[0] // s.images * bands
        count = self.extents(blocks)

        def body(it: Any) -> None:
            part = 0 if s.parts == 1 else b.idiv(it, count)
            block = b.isub(it, b.imul(part, count))
            group_ = b.idiv(block, bands)
            image, y = b.imul(group_, s.images), b.imul(b.isub(block, b.imul(group_, bands)), s.height)
            low, high = (b.idiv(b.imul(b.iadd(part, k), self.panels), s.parts) for k in (0, 1))
            if s.whole:
                self.each_block(lambda q, lines: self.gather(q, lines, b.imul(q, self.lanes), image, y))

                def panel(p: Any) -> None:
                    self.clear(self.rows * self.nb)
                    self.each_block(lambda q, lines: self.product(p, 0, q, lines, b.imul(q, self.lanes)))
                    self.finish(p, 0, image, y)

                b.loop(low, high, panel)
                return

            def block(q: Any, lines: int) -> None:
                self.gather(q, lines, 0, image, y)
                b.loop(low, high, lambda p: self.product(p, b.isub(p, low), q, lines, 0))

            self.clear(b.imul(b.isub(high, low), self.rows * self.nb))
            self.each_block(block)
            b.loop(low, high, lambda p: self.finish(p, b.isub(p, low), image, y))

        b.loop(b.begin, b.end, body)
        trip = blocks * s.parts
        flops = 2.0 * self.lines * self.lanes * self.outputs * upper(self.out.shape[0], 1 << 40)
        flops *= self.height * self.width
        moved = sum(float(upper(v.type.nbytes, 1 << 40)) for v in self.values)
        return LoweredKernel(
            group.node,
            b.finish(),
            self.values,
            self.extents.expressions,
            trip,
            grain(self.target, flops, moved, trip, self.dtype.itemsize),
            f"conv: {s}",
            flops,
            moved,
            _inplace(group),
        )

    def clear(self, vectors: Any) -> None:
        b, zero = self.b, self.b.const(self.dtype, 0, self.lanes)
        b.loop(0, vectors, lambda i: b.store(b.at(self.totals, b.imul(i, self.lanes)), zero))

    def each_block(self, body: Callable[[Any, int], None]) -> None:
        """``body(first line, lines)`` for every block of the sum."""
        lines = self.schedule.lines
        full = self.lines - self.lines % lines
        self.b.loop(0, full, lambda q: body(q, lines), step=lines)
        if self.lines > full:
            body(full, self.lines - full)

    def product(self, panel: Any, number: Any, first: Any, lines: int, column: Any) -> None:
        """Adds the products of ``lines`` vectors of channels from ``first`` on to the totals of one panel.

        ``number``: which of the panels in scratch; ``column``: where the rows in scratch hold those channels.
        """
        b, width = self.b, self.panel_width
        totals = Operand(0, {"t": width}, 0, self.lanes, 1, padded=True)
        spec = Contraction(
            self.dtype,
            (),
            (Axis("t", self.rows), ONE),
            width,
            (Segment((Axis("k", lines * self.lanes),)),),
            Operand(0, {"t": self.pitch, "k": 1}),
            Operand(0, {"k": width}, 0, self.lanes, 1, padded=True),
            (totals,),
            (totals,),
        )
        right = b.at(self.pointers[self.group.operands[1]], b.imul(panel, self.extents(self.w.outer[0])))
        right = b.at(right, b.imul(first, self.lanes * width))
        sums = b.at(self.totals, b.imul(number, self.rows * width))
        add = Generator(
            b,
            self.extents,
            spec,
            self.schedule.product,
            b.at(self.a, column),
            right,
            [sums],
            [sums],
            lambda value, load: [b.op("add", load(0), value)],
        )
        add.panel({"chunk": 0, "panel": 0}, self.nb, None)

    # -- the rows -----------------------------------------------------------------------------------------
    def gather(self, first: Any, lines: int, column: Any, image: Any, y: Any) -> None:
        """Copies ``lines`` vectors of channels from ``first`` on for every position to the rows in scratch.

        Whole rows of scratch are written one after the other; the planes of the channel blocks are read side by side.
        """
        b, x = self.b, self.x
        taps = prod(self.kernel)
        steps = [self.stride[i] * x.outer[2 + i] for i in (0, 1)]
        base: Extent = x.origin
        for i in (0, 1):
            base = base - self.padding[i][0] * x.outer[2 + i]
        offset = b.iadd(self.extents(base), b.imul(image, self.extents(x.outer[0])))
        offset = b.iadd(offset, b.imul(b.idiv(first, taps), self.extents(x.outer[1])))
        offset = b.iadd(offset, b.imul(y, self.extents(steps[0])))
        source = b.at(self.pointers[self.group.operands[0]], offset)
        height, width = self.schedule.height, self.width
        if steps[0] == width * steps[1]:  # rows of the image follow one another
            height, width = 1, height * width

        def place(line: int) -> Any:
            channel, tap = divmod(line, taps)
            ky, kx = divmod(tap, self.kernel[1])
            reach = channel * x.outer[1] + ky * self.dilation[0] * x.outer[2] + kx * self.dilation[1] * x.outer[3]
            return self.extents(reach)

        def one(i: Any) -> None:
            plane = b.at(source, b.imul(i, self.extents(x.outer[0])))

            def line(r: Any) -> None:
                src = b.at(plane, b.imul(r, self.extents(steps[0])))
                row = b.imul(b.iadd(b.imul(i, height), r), width * self.pitch)
                dst = b.at(self.a, b.iadd(row, column))

                def position(c: Any) -> None:
                    p, q = b.at(src, b.imul(c, self.extents(steps[1]))), b.at(dst, b.imul(c, self.pitch))
                    for k in range(lines):
                        b.store(q, b.load(p, place(k), self.lanes), k * self.lanes)

                b.loop(0, width, position)

            b.loop(0, height, line)

        b.loop(0, self.schedule.images, one)

    # -- the way back -------------------------------------------------------------------------------------
    def finish(self, panel: Any, number: Any, image: Any, y: Any) -> None:
        """Epilogue and stores of one panel; ``number``: which of the panels in scratch."""
        b, g, s, step = self.b, self.result, self.schedule, self.step
        left = b.isub(self.outputs, b.imul(panel, self.panel_width)) if self.outputs % self.lanes else None
        sums = b.at(self.totals, b.imul(number, self.rows * self.panel_width))

        def vectors(body: Callable[[Any], None]) -> None:
            if self.out_vectors % self.nb == 0:
                for j in range(self.nb):
                    body(j)
                return
            last = b.isub(self.out_vectors, b.imul(panel, self.nb))
            b.loop(0, b.imin(last, self.nb), body)

        def one(i: Any) -> None:
            at = {"image": b.iadd(image, i), "panel": panel, "chunk": 0}
            if any(v.type.layout.has_halo for v in self.group.node.outputs):
                b.when(b.icmp("eq", y, 0), lambda: self.frame(at))
            start = [(g.start(p, o, at), o) for p, o in g.operands()[2:]]
            start = [(g.move(p, o, "y", y), o) for p, o in start]
            mine = b.at(sums, b.imul(i, s.height * self.width * self.panel_width))

            def line(r: Any) -> None:
                moved = [(g.move(p, o, "y", r), o) for p, o in start]
                row = b.at(mine, b.imul(r, self.width * self.panel_width))

                def positions(c: Any) -> None:
                    ptrs = [g.move(p, o, "x", c) for p, o in moved]
                    outs, extras = ptrs[: len(g.spec.outs)], ptrs[len(g.spec.outs) :]
                    src = b.at(row, b.imul(c, self.panel_width))

                    def vector(j: Any) -> None:
                        mask = g.mask(left, j)
                        loaded: dict[tuple[Any, ...], Val] = {}
                        for k in range(step):
                            value = b.load(src, b.iadd(k * self.panel_width, b.imul(j, self.lanes)), self.lanes)
                            g.finish_vector(outs, extras, (0, k), j, mask, value, loaded)

                    vectors(vector)

                b.loop(0, self.width, positions, step=step)

            b.loop(0, s.height, line)

        b.loop(0, s.images, one)

    def frame(self, at: dict[str, Any]) -> None:
        for v in self.group.node.outputs:
            clear_halo(self.b, self.extents, v.type, self.pointers[v], self.result, at, _AXES)


def _divisor(extent: int, most: int) -> int:
    """The largest divisor of ``extent`` up to ``most``."""
    return next(d for d in range(min(extent, most), 0, -1) if extent % d == 0)


__all__ = ["convolution_of", "lower_gathered", "plan_gathered"]
