"""Minimal filtering of small convolutions (Winograd): the matrices, the transform of weights, the choice of blocks.

Along a line, m results come from n inputs: ``y = AT [ (G w) * (BT d) ]``. With stride 1 and k taps, n = m + k - 1. With
stride 2 and three taps the even inputs meet the outer two and the odd inputs the middle one: minimal filtering of two
taps beside plain products, n = 2 m + 1. Both axes of a tile together: ``Y = AT [ (G w GT) * (BT d B) ] A``, summed over
channels between the brackets (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015). That takes
n * n products per tile instead of k * k * m * m. The two axes may have tiles of different sizes.

A larger kernel with stride 2 is one with stride 1, half as long, on the phases of the input (its even and odd rows and
columns) as four times the channels: 7 x 7 becomes 4 x 4. Each axis is filled up by a last tap that is zero.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

import numpy as np

from ..ir.dims import Extent
from ..ir.dtypes import DType
from ..ir.target import Target
from . import schedule as scheduling
from .contraction_tile import BLOCK
from .schedule import ContractionSchedule, Problem

Matrix = tuple[tuple[float, ...], ...]
_Exact = list[list[Fraction]]


@dataclass(frozen=True)
class Line:
    """Matrices of one axis: ``input`` (BT, n x n), ``weight`` (G, n x taps), ``output`` (AT, m x n); ``tile`` is m."""

    tile: int
    stride: int
    input: Matrix
    weight: Matrix
    output: Matrix

    @property
    def points(self) -> int:
        """n: inputs, and products."""
        return len(self.input)

    @property
    def taps(self) -> int:
        return len(self.weight[0])


@dataclass(frozen=True)
class Filtering:
    """One algorithm: what is done along the ``rows`` axis (y) and along the columns (x).

    ``block``: about how many products are added before a sum goes to a total; fewer where the way back multiplies the
    errors of sums. ``careful``: so few that ``precision="float32"`` admits it for fewer channels. ``phases``: of the
    input along each axis, taken as channels (1 or 2). ``together``: neighbouring rows of points whose results are the
    same, so that their products go to one sum.
    """

    rows: Line
    columns: Line
    block: int = BLOCK
    careful: bool = False
    phases: int = 1
    together: int = 1

    @property
    def lines(self) -> tuple[Line, Line]:
        return self.rows, self.columns

    @property
    def stride(self) -> int:
        return self.rows.stride * self.phases

    @property
    def kernel(self) -> tuple[int, int]:
        """Taps of the convolution along y and x."""
        missing = 1 if self.phases > 1 else 0
        return self.rows.taps * self.phases - missing, self.columns.taps * self.phases - missing

    def runs(self, images: Extent, rows: int, columns: int) -> tuple[Extent, Extent]:
        """(tiles in a row of which a block may be a part, how many of those): of a line of tiles where phases are taken
        along it, else of everything."""
        return (columns, images * rows) if self.phases > 1 else (images * (rows * columns), 1)

    def channels(self, given: int) -> int:
        """Channels that are multiplied, of as many of the input."""
        return given * self.phases**2

    def depth(self, point: tuple[int, int], given: int) -> tuple[int, int]:
        """The range of channels whose weights at ``point`` are not zero.

        The point at infinity, the last one, sees the last tap only, which odd phases do not have.
        """
        if self.phases == 1:
            return 0, given
        last = [i == line.points - 1 for i, line in zip(point, self.lines, strict=True)]
        found = [k for k, phase in enumerate(PHASES) if not any(e and p for e, p in zip(last, phase, strict=True))]
        return found[0] * given, (found[-1] + 1) * given

    @property
    def filled(self) -> float:
        """The part of the transformed weights that is not zero."""
        y, x = self.lines
        ranges = (self.depth((i, j), 1) for i in range(y.points) for j in range(x.points))
        return sum(high - low for low, high in ranges) / (self.points * self.phases**2)

    @property
    def points(self) -> int:
        """Products per tile."""
        return self.rows.points * self.columns.points

    @property
    def back(self) -> Matrix:
        """``output`` of the rows, for sums."""
        return tuple(row[:: self.together] for row in self.rows.output)

    @property
    def sums(self) -> int:
        """Sums per tile."""
        return self.points // self.together

    @property
    def results(self) -> int:
        """Results per tile."""
        return self.rows.tile * self.columns.tile

    @property
    def coefficients(self) -> tuple[int, int]:
        """How many the transforms of one tile, into and back, multiply with: rows first, then columns."""
        y, x = self.lines
        into = _count(y.input) * x.points + y.points * _count(x.input)
        return into, _count(self.back) * x.points + y.tile * _count(x.output)

    @property
    def form(self) -> str:
        """The layout form of its weights."""
        y, x = self.lines
        size = f"winograd{y.tile}" + (f"x{x.tile}" if x != y else "")
        size += (f"s{y.stride}" if y.stride > 1 else "") + (f"p{self.phases}" if self.phases > 1 else "")
        return size + ("careful" if self.careful else "")

    def terms_of_sum(self, channels: int) -> int:
        """``block``, and at least two blocks where sums are short and their errors count."""
        return min(self.block, max(1, channels // 2 - 1)) if self.careful else self.block

    def __str__(self) -> str:
        y, x = self.lines
        name = f"F({y.tile}x{x.tile}, {y.taps}x{x.taps}{', stride 2' if y.stride > 1 else ''})"
        return name + (f" on {self.phases}x{self.phases} phases" if self.phases > 1 else "")


def _count(matrix: Matrix) -> int:
    return sum(1 for row in matrix for c in row if c)


def _toom_cook(m: int, taps: int, points: Sequence[float | Fraction]) -> tuple[_Exact, _Exact, _Exact]:
    """(BT, G, AT) of m results of a filter with ``taps`` taps, from m + taps - 2 interpolation points and infinity."""
    at = [Fraction(p) for p in points]
    n = m + taps - 1
    assert len(at) == n - 1

    def polynomial(roots: list[Fraction]) -> list[Fraction]:  # coefficients, ascending
        found = [Fraction(1)]
        for root in roots:
            found = [a - root * b for a, b in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
        return found

    others = [[q for q in at if q != p] for p in at]
    bt = [[*polynomial(rest), Fraction(0)] for rest in others] + [polynomial(at)]
    scale = [1 / prod((p - q for q in rest), start=Fraction(1)) for p, rest in zip(at, others, strict=True)]
    g = [[s * p**k for k in range(taps)] for p, s in zip(at, scale, strict=True)]
    g.append([Fraction(int(k == taps - 1)) for k in range(taps)])
    return bt, g, [[*(p**i for p in at), Fraction(int(i == m - 1))] for i in range(m)]


def _floats(matrix: _Exact) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in matrix)


def _dense(m: int, points: Sequence[float | Fraction], taps: int = 3) -> Line:
    """Stride 1."""
    bt, g, at = _toom_cook(m, taps, points)
    return Line(m, 1, _floats(bt), _floats(g), _floats(at))


def _plain(taps: int) -> Line:
    """Stride 1, one result per tile: plain products."""
    one = tuple(tuple(float(i == k) for k in range(taps)) for i in range(taps))
    return Line(1, 1, one, one, ((1.0,) * taps,))


def _strided(m: int, points: Sequence[float]) -> Line:
    """Stride 2: two taps on the even inputs, one on the odd."""
    bt, g, at = _toom_cook(m, 2, points)
    zero, one = Fraction(0), Fraction(1)
    even = [[row[k // 2] if k % 2 == 0 else zero for k in range(2 * m + 1)] for row in bt]
    odd = [[one if k == 2 * i + 1 else zero for k in range(2 * m + 1)] for i in range(m)]
    weight = [[row[0], zero, row[1]] for row in g] + [[zero, one, zero] for _ in range(m)]
    output = [row + [one if i == k else zero for k in range(m)] for i, row in enumerate(at)]
    return Line(m, 2, _floats(even + odd), _floats(weight), _floats(output))


# (y, x) of the phases in the order of their channels, such that those at any point are neighbours (``depth``).
PHASES = ((0, 1), (0, 0), (1, 0), (1, 1))

# Opposite points next to each other: their rows share sums. 2 and 1/2 keep the powers of large tiles small. F(4x4) has
# half the error with 2/3 and 3/2, whose powers are nearer 1; as their product is 1, rows of BT begin and end with 1.
_POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)
_NEAR_ONE = (0, Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))
_TWO, _FOUR, _SIX = _dense(2, _POINTS[:3]), _dense(4, _NEAR_ONE), _dense(6, _POINTS[:7])
# For four taps. Of seven points, pairs without zero share most sums; with 1/4 the error is 3/4 of that with 1/2.
_THREE_OF_FOUR = _dense(3, (0, 0.625, -0.625, 1.75, -1.75), taps=4)
_FOUR_OF_FOUR = _dense(4, (1, -1, 2, -2, 0.25, -0.25), taps=4)
_STRIDED = {m: _strided(m, _POINTS[:m]) for m in (3, 4)}
FILTERINGS = {
    f.form: f
    for f in (
        Filtering(_TWO, _TWO),
        Filtering(_TWO, _FOUR, 31, careful=True),
        Filtering(_FOUR, _FOUR, 24, careful=True),
        Filtering(_FOUR, _FOUR, 56),
        Filtering(_SIX, _SIX),
        *(Filtering(line, line) for line in _STRIDED.values()),
        Filtering(_plain(4), _THREE_OF_FOUR, phases=2, together=2),
        Filtering(_FOUR_OF_FOUR, _FOUR_OF_FOUR, phases=2),
    )
}


def transform_weight(weight: np.ndarray, filtering: Filtering) -> np.ndarray:
    """``G w GT`` of [O, C, taps, taps] weights: [O, C * phases**2, points of the rows, points of the columns] in their
    dtype, computed in float64."""
    rows, columns = (np.array(line.weight) for line in filtering.lines)
    dtype = weight.dtype
    if filtering.phases > 1:
        filled = np.pad(weight, [(0, 0), (0, 0), (0, 1), (0, 1)])
        weight = np.concatenate([filled[:, :, y::2, x::2] for y, x in PHASES], 1)
    taps = weight.shape[2] * weight.shape[3]
    flat = weight.reshape(-1, taps).astype(np.float64) @ np.kron(rows, columns).T
    return flat.astype(dtype).reshape(*weight.shape[:2], len(rows), len(columns))


# Cycles to transform one vector of channels of a tile (measured): for each coefficient that is not zero, and for each
# point kept in L1, in L2 or beyond. Rows share sums, so a coefficient is less than one instruction.
_TERM_CYCLES, _POINT_CYCLES = 0.65, (1.0, 4.0, 10.0)
# To bring together one vector of a pixel's channels from the phases of dense rows (measured); at the ends of rows,
# where loads are masked, about twice that.
_SPLIT_CYCLES = 4.5
_ALTERNATIVES = 12  # that are worth measuring
_L2_BYTES, _L3_BYTES, _FAR_BYTES = 20.0, 11.0, 5.0  # per cycle: from L2, from L3, from what others share with us


@dataclass(frozen=True)
class WinogradSchedule:
    """How one convolution runs.

    Attributes:
        filtering: the algorithm; block: tiles of one parallel iteration; groups: parallel parts of the output channels.
        product: schedule of one point's product, [block, C] x [C, panel].
        seconds: estimate for the whole convolution on one thread.
    """

    filtering: Filtering
    block: int
    groups: int
    product: ContractionSchedule
    seconds: float

    @property
    def name(self) -> str:
        """The decisions alone: equal for equal schedules, different for different ones (``tune``)."""
        p = self.product
        return (
            f"{self.filtering.form}, block {self.block}, parts {self.groups}, tile {p.tile[0]} x {p.nb}, "
            f"unroll {p.unroll}"
        )

    def __str__(self) -> str:
        p = self.product
        return (
            f"Winograd {self.filtering}, {self.block} tiles per iteration, output channels in "
            f"{self.groups} part(s), products by tile {p.tile[0]} x {p.nb} vectors of {p.lanes}, "
            f"unroll {p.unroll}; est. {self.seconds * 1e3:.3f} ms on one thread"
        )


@functools.lru_cache(1024)
def choose(
    target: Target,
    dtype: DType,
    filtering: Filtering,
    channels: int,
    outputs: int,
    tiles: int,
    nb: int | None = None,
    runs: int = 1,
) -> WinogradSchedule:
    """The cheapest schedule for ``runs`` times ``tiles`` tiles, by estimate. A block is part of one run; ``channels``:
    of the input; ``nb`` is fixed when packed weights dictate it."""
    return _cheapest(
        _cheapest(_estimates(target, dtype, filtering, channels, outputs, tiles, runs, *blocking))
        for blocking in _blockings(target, dtype, outputs, tiles, nb)
    )


def alternatives(
    target: Target,
    dtype: DType,
    filtering: Filtering,
    channels: int,
    outputs: int,
    tiles: int,
    nb: int | None = None,
    runs: int = 1,
) -> list[WinogradSchedule]:
    """What else is worth measuring than ``choose`` of the same arguments, cheapest by estimate first."""
    rule = choose(target, dtype, filtering, channels, outputs, tiles, nb, runs)
    found = [
        s
        for blocking in _blockings(target, dtype, outputs, tiles, nb)
        for s in _estimates(target, dtype, filtering, channels, outputs, tiles, runs, *blocking)
    ]
    others = {s.name: s for s in sorted(found, key=lambda s: s.seconds) if s.name != rule.name}
    return list(others.values())[:_ALTERNATIVES]


def _cheapest(found: Iterable[WinogradSchedule]) -> WinogradSchedule:
    """The first of those whose estimates differ by less than a thousandth."""
    best: WinogradSchedule | None = None
    for s in found:
        if best is None or s.seconds < best.seconds * 0.999:
            best = s
    assert best is not None
    return best


def _blockings(target: Target, dtype: DType, outputs: int, tiles: int, nb: int | None) -> Iterator[tuple[int, int]]:
    """(nb, block) to estimate."""
    for width in (nb,) if nb else range(1, min(4, -(-outputs // target.lanes(dtype))) + 1):
        rows = (scheduling.registers_for(target) - 1 - width) // width
        # A block is one register tile of rows or several; near-equal blocks leave no thread waiting at the end.
        for block in sorted({*range(1, min(rows, tiles) + 1), *(_near_equal(tiles, k * rows) for k in range(2, 9))}):
            yield width, block


def _near_equal(count: int, most: int) -> int:
    """The largest of near-equal parts of ``count`` of at most ``most`` each."""
    return -(-count // -(-count // most))


def _estimates(
    target: Target,
    dtype: DType,
    filtering: Filtering,
    channels: int,
    outputs: int,
    tiles: int,
    runs: int,
    nb: int,
    block: int,
) -> Iterator[WinogradSchedule]:
    """The schedules with these blocks, for several numbers of parts."""
    lanes, points = target.lanes(dtype), filtering.points
    size, hertz = dtype.itemsize, target.clock_ghz * 1e9
    channels = filtering.channels(channels)
    in_vectors, out_vectors = -(-channels // lanes), -(-outputs // lanes)
    p = Problem(dtype, (block, 1), outputs, channels * filtering.together, min(lanes, channels), 1, nb)
    rows = (scheduling.registers_for(target) - 1 - nb) // nb
    s = replace(scheduling.choose(target, p), tile=(_near_equal(block, rows), 1), chunk=block)
    register_tiles = -(-block // s.tile[0])
    blocks, panels = runs * -(-tiles // block), -(-out_vectors // nb)
    weights = points * channels * panels * nb * lanes * size
    inputs = points * in_vectors * block * lanes * size
    sums = filtering.sums * nb * block * lanes * size
    # The register tiles of a block read a point's weights again from L2; every panel reads the inputs again.
    again = register_tiles * weights / _L2_BYTES
    if inputs > 0.5 * target.l2_bytes:
        again = max(again, panels * inputs / _L3_BYTES)
    products = max(filtering.sums * filtering.filled * scheduling.estimate(target, p, s), again / hertz)
    # Weights arrive while the first register tile is computed; the others find them in L1 or L2. The larger of the two
    # times nearly hides the smaller unless they are about equal.
    first = products / register_tiles
    rate = _L3_BYTES if weights < target.l3_bytes // 4 else _FAR_BYTES
    stream = weights / rate / hertz
    streamed = products - first + (first**4 + stream**4) ** 0.25
    level = (inputs + sums > target.l1_bytes) + (inputs + sums > 0.75 * target.l2_bytes)
    moved = (points, filtering.sums)
    into, back = (
        _TERM_CYCLES * t + n * _POINT_CYCLES[level] for t, n in zip(filtering.coefficients, moved, strict=True)
    )
    before, after = block * in_vectors * into / hertz, block * out_vectors * back / hertz
    if filtering.phases > 1:
        pixels = filtering.columns.points + filtering.columns.tile * (block - 1)
        vectors = lanes * (-(-pixels // lanes) + 2 * block / tiles)
        before += filtering.rows.points * vectors * in_vectors * _SPLIT_CYCLES / hertz
    for groups in sorted({1, 2, 4, 8, panels}):
        if groups > panels:
            continue
        beyond = weights / groups + inputs + sums > 0.75 * target.l2_bytes
        parts = blocks * groups
        waste = (0.75 * -(-parts // 2) * 2 + 0.25 * -(-parts // 4) * 4) / parts  # what two or four threads wait
        seconds = blocks * (before * groups + (streamed if beyond else products) + after) * waste
        yield WinogradSchedule(filtering, block, groups, s, seconds)
