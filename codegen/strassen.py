"""One or two levels of Strassen's algorithm for products with constant B: matrices, transform of B, schedules.

With both operands and the result cut into quarters, seven products of half the size give what takes eight otherwise
(Strassen, "Gaussian elimination is not optimal", 1969): ``C[i][k] = sum_r RESULT[r][i][k] (LEFT[r] . A)(RIGHT[r] . B)``
where a dot combines quarters. Every such algorithm is Strassen's in other bases; in this one, whose combinations of
rank one point in directions 120 degrees apart, the errors of the sums grow least (Dumas, Pernet and Sedoglavic,
"Strassen's algorithm is not optimally accurate", 2024): 0.83 of those in Strassen's own basis.

With two levels the operands are cut into 4 x 4 blocks, and the 49 combinations are the Kronecker products of the above.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from ..ir.dims import Extent, mod
from ..ir.dtypes import DType
from ..ir.target import Target
from . import schedule as scheduling
from .schedule import ContractionSchedule, Problem, upper

PRODUCTS = 7
SINE = sqrt(3) / 2  # of 120 degrees
_T = 1 / sqrt(3)
Matrix = tuple[tuple[float, float], tuple[float, float]]

LEFT: tuple[Matrix, ...] = (
    ((0, 1), (1, 0)),
    ((1 / 2, SINE), (0, 0)),
    ((1 / 2, -SINE), (0, 0)),
    ((1 / 2, 0), (SINE, 0)),
    ((1 / 2, 0), (-SINE, 0)),
    ((1 / 4, SINE / 2), (SINE / 2, 3 / 4)),
    ((1 / 4, -SINE / 2), (-SINE / 2, 3 / 4)),
)
RIGHT: tuple[Matrix, ...] = (
    ((1, 0), (0, 1)),
    ((4 / 3, 0), (4 / 3 * _T, 0)),
    ((4 / 3, 0), (-4 / 3 * _T, 0)),
    ((-2 / 3, 2 * _T), (2 / 3 * _T, -2 / 3)),
    ((-2 / 3, -2 * _T), (-2 / 3 * _T, -2 / 3)),
    ((0, 0), (-4 / 3 * _T, 4 / 3)),
    ((0, 0), (4 / 3 * _T, 4 / 3)),
)
RESULT: tuple[Matrix, ...] = (
    ((0, 1), (1, 0)),
    ((3 / 4, -SINE / 2), (-SINE / 2, 1 / 4)),
    ((3 / 4, SINE / 2), (SINE / 2, 1 / 4)),
    ((0, SINE), (0, 1 / 2)),
    ((0, -SINE), (0, 1 / 2)),
    ((0, 0), (-SINE, 1 / 2)),
    ((0, 0), (SINE, 1 / 2)),
)


@dataclass(frozen=True)
class Form:
    """What is packed: ``levels`` of the algorithm, of B [K, N], or of B [N, K] or [N, K, 1, 1] (``turned``)."""

    levels: int
    turned: bool

    @property
    def cuts(self) -> int:
        """Blocks along either axis of an operand."""
        return 1 << self.levels

    @property
    def products(self) -> int:
        return PRODUCTS**self.levels


FORMS = {
    "strassen": Form(1, False),
    "strassen_t": Form(1, True),
    "strassen2": Form(2, False),
    "strassen2_t": Form(2, True),
}
NAMES = {form: name for name, form in FORMS.items()}


def combinations(matrices: tuple[Matrix, ...], levels: int) -> np.ndarray:
    """[products, cuts, cuts]: the combinations of all blocks, those of the first level outermost."""
    found = one = np.array(matrices)
    for _ in range(levels - 1):
        found = np.array([np.kron(outer, inner) for outer in found for inner in one])
    return found


def transform(b: np.ndarray, form: str) -> np.ndarray:
    """The combinations of the blocks of B, one behind the other along K, for ``cuts`` = 2 or 4 and 7 or 49 products:
    [K, N] -> [products K/cuts, N/cuts], or [N, K] -> [N/cuts, products K/cuts] with axes of extent one behind; in the
    dtype of B, computed in float64."""
    f, ones = FORMS[form], b.shape[2:]
    whole: np.ndarray = b.reshape(b.shape[0], -1)
    whole = whole.T if f.turned else whole
    found = np.concatenate([part.astype(b.dtype) for part in _right(whole.astype(np.float64), f.levels)])
    found = found.T if f.turned else found
    return found.reshape(*found.shape, *ones)


def _right(b: np.ndarray, levels: int) -> Iterator[np.ndarray]:
    """``RIGHT . b`` for so many levels, one combination after another."""
    if not levels:
        yield b
        return
    (upper_left, upper_right), (lower_left, lower_right) = (np.hsplit(half, 2) for half in np.vsplit(b, 2))
    for (p, q), (r, s) in RIGHT:
        yield from _right(p * upper_left + q * upper_right + r * lower_left + s * lower_right, levels - 1)


# Ratio of squared norms up to which columns of B are mixed: each has an error of the size of the largest one's. Norms
# in one layer of a network mostly differ by less than ten.
_SIZES = 64.0**2
_LEAST, _MOST = 1e-60, 1e74  # squared norms between which combinations neither underflow nor overflow


def holds(b: np.ndarray, form: str) -> bool:
    """Whether ``transform`` is meant for ``b``: all weights are finite, and columns of the product that it mixes have
    weights of about the same L2 norm, or are all zero."""
    f, whole = FORMS[form], b.reshape(b.shape[0], -1)
    # Squares of float32 neither overflow nor underflow in float64; what is not finite stays so.
    norms = np.einsum("nk,nk->n" if f.turned else "kn,kn->n", whole, whole, dtype=np.float64).reshape(f.cuts, -1)
    low, high = norms.min(axis=0), norms.max(axis=0)  # NaN where one is
    alike = (low >= _LEAST) & (high <= _MOST) & (high <= _SIZES * low)
    return bool((alike | (high == 0)).all())


# Terms that are added before a sum goes to a total, at most. At one level at least two such blocks keep the error below
# that of sums made one by one; at two, whose sums have half as many terms, one block keeps it below twice that
# (``tests/test_codegen_strassen.py``).
_TERMS = 128

# Measured on Zen 4 (L2 of 1 MiB, 32 MiB of L3): cycles per line of 64 bytes, bytes per cycle, and shares of L3.
_INTO_CYCLES = 24.0  # the seven combinations of four lines of A
_L3_CYCLES = 9.0  # added where A does not stay in L2
_MEMORY_CYCLES = 42.0  # added where A comes from memory
_MEMORY_SHARE = 3 / 16  # size of A from which on it does
_STRIDED = 2.3  # times as much is added where A is strided, too
_BLOCKED = 1.8  # times as long from blocks of columns that lie far apart
_STEPWISE = 5.0  # more for seven combinations made when they are needed, as they read A once more
_REREAD_RATE = 11.0  # of A's combinations, where they do not stay in L2
_BACK_CYCLES = 27.0  # four lines of the result
_GATHER_CYCLES = 14.0  # with two levels, the four pieces of one of the first level's products
_HIDDEN = 0.975  # of the estimate products take, as fixed costs hide behind the next tile
_NEAR_RATE = 24.0  # of B
_FAR_RATE = 9.0  # of a larger B
_NEAR_SHARE = 3 / 32  # size of B from which on it is that
_MEMORY_RATE = 2.2  # of B for the first band of all: in large models other weights have displaced it
_HELD_SHARE = 1 / 16  # size of B up to which they have not
_SCRATCH_SHARE = 1 / 4  # scratch memory of one thread up to which it counts as held there
_ALTERNATIVES = 8  # schedules that are worth measuring
_LINE = 64  # bytes


@dataclass(frozen=True)
class StrassenSchedule:
    """How one product runs.

    Attributes:
        levels: of the algorithm.
        rows: of one of A's blocks in one iteration, which takes 2 or 4 of them.
        parts: parallel parts of the columns.
        terms: products in a block of the sums.
        product: schedule of one block and panel.
        seconds: estimate for the whole product on one thread.
        stepwise: the first level's seven products come one after another, each for all columns of the part, so that
            only the combinations of A for one of them are in scratch memory (two levels).
        scratch: bytes of it per thread, but for padding.
    """

    levels: int
    rows: int
    parts: int
    terms: int
    product: ContractionSchedule
    seconds: float
    stepwise: bool = False
    scratch: int = 0

    @property
    def _loops(self) -> str:
        return f"{1 << self.levels} x {self.rows} rows" + (", stepwise" if self.stepwise else "")

    @property
    def name(self) -> str:
        """The decisions alone: equal for equal schedules, different for different ones (``tune``)."""
        p = self.product
        return f"strassen, {self._loops}, parts {self.parts}, tile {p.tile[0]} x {p.nb}, unroll {p.unroll}"

    def __str__(self) -> str:
        p = self.product
        return (
            f"Strassen, {self.levels} level(s), {self._loops} per iteration, columns in {self.parts} part(s), sums in "
            f"blocks of {self.terms}, products by tile {p.tile[0]} x {p.nb} vectors of {p.lanes}, unroll {p.unroll}; "
            f"est. {self.seconds * 1e3:.3f} ms on one thread"
        )


def blocks(depth: int, levels: int) -> list[int]:
    """The lengths of the blocks of a sum of ``depth`` terms: equal ones if a few more of them divide it."""
    count = max(3 - levels, -(-depth // _TERMS))
    even = [c for c in range(count, 2 * count) if depth % c == 0]
    count = even[0] if even else count
    size = -(-depth // count)
    return [min(size, depth - first) for first in range(0, depth, size)]


@dataclass(frozen=True)
class Case:
    """``repeat`` products of ``rows`` rows, ``depth`` terms and ``outputs`` columns by so many levels.

    ``nb`` is fixed when a packed B dictates it; ``blocked``: columns of A in blocks, each of them with all rows, of
    which the product takes one in ``stride``.
    """

    target: Target
    dtype: DType
    levels: int
    rows: Extent
    repeat: int
    depth: int
    outputs: int
    nb: int | None = None
    blocked: bool = False
    stride: int = 1


@functools.lru_cache(1024)
def choose(case: Case) -> StrassenSchedule:
    """The cheapest schedule by estimate."""
    return min(_schedules(case), key=lambda s: s.seconds)


def alternatives(case: Case) -> list[StrassenSchedule]:
    """What is worth measuring, cheapest by estimate first."""
    found = sorted(_schedules(case), key=lambda s: s.seconds)
    return list({s.name: s for s in found}.values())[:_ALTERNATIVES]


def _together(one: float, other: float, power: float) -> float:
    """What two tasks take at the same time, disturbing one another the less the higher ``power``."""
    return float((one**power + other**power) ** (1 / power))


def _block_rows(rows: Extent, cuts: int) -> list[int]:
    """Rows of a block of A that are worth considering."""
    if not isinstance(rows, int):
        return [r for r in range(8, 97) if mod(rows, cuts * r) == 0] or [32]
    return sorted({-(-rows // (cuts * bands)) for bands in range(-(-rows // (96 * cuts)), max(2, rows // (8 * cuts)))})


def _schedules(case: Case) -> list[StrassenSchedule]:
    """Those whose scratch memory leaves room for others in L3, or the one that takes the least."""
    found = list(_candidates(case))
    most = _SCRATCH_SHARE * case.target.l3_bytes
    return [s for s in found if s.scratch <= most] or [min(found, key=lambda s: s.scratch)]


def _candidates(case: Case) -> Iterator[StrassenSchedule]:
    target, dtype, levels, depth, outputs = case.target, case.dtype, case.levels, case.depth, case.outputs
    cuts, products, first = 1 << levels, PRODUCTS**levels, PRODUCTS ** (levels - 1)
    lanes, hertz, size = target.lanes(dtype), target.clock_ghz * 1e9, dtype.itemsize
    weights = products * (depth // cuts) * (outputs // cuts) * size
    rate = _NEAR_RATE if weights < _NEAR_SHARE * target.l3_bytes else _FAR_RATE
    touched = upper(case.rows) * case.repeat * depth * size * case.stride
    near = touched < _MEMORY_SHARE * target.l3_bytes
    far = 0.0 if touched <= target.l2_bytes else _L3_CYCLES if near else _MEMORY_CYCLES
    far *= _STRIDED if case.stride > 1 else 1.0
    most = _SCRATCH_SHARE * target.l3_bytes
    # For one line of each block of the result.
    back_cycles = _BACK_CYCLES * (cuts // 2) ** 2 + (_GATHER_CYCLES * PRODUCTS if levels > 1 else 0)
    vectors, quarter = outputs // cuts // lanes, depth // cuts
    terms = blocks(quarter, levels)[0]
    for width in (case.nb,) if case.nb else [w for w in (1, 2, 3, 4) if vectors % w == 0]:
        panels, panel_bytes = vectors // width, width * lanes * size
        for rows in _block_rows(case.rows, cuts):
            p = Problem(dtype, (rows, 1), width * lanes, quarter, quarter, 1, width)
            product = replace(scheduling.choose(target, p), chunk=rows)
            bands = -(-upper(case.rows) // (cuts * rows)) * case.repeat
            # Weights arrive while the first register tile is computed; the others find them in L1 or L2.
            plain = scheduling.estimate(target, p, product) * hertz * _HIDDEN
            start, stream = plain * product.tile[0] / rows, quarter * panel_bytes / rate
            plain += _together(start, stream, 2.6) - start
            for stepwise in (False, True) if levels > 1 else (False,):
                kept = PRODUCTS if stepwise else products
                # For one line of each block of A.
                into_cycles = (_INTO_CYCLES + _STEPWISE * stepwise) * first + far * (cuts // 2) ** 2
                into_cycles *= _BLOCKED if case.blocked else 1.0
                for parts in sorted({1, 2, 4, 8, panels}):
                    if parts > panels:
                        continue
                    one = plain
                    into, back = rows * quarter * size / _LINE * into_cycles, rows * panel_bytes / _LINE * back_cycles
                    if PRODUCTS * rows * panel_bytes > target.l1_bytes // 2:  # and the products are written to L2
                        back *= 1.4 if PRODUCTS * rows * panel_bytes <= target.l1_bytes else 2.1
                    results = products // PRODUCTS * (cuts // 2) ** 2 * (-(-panels // parts) if stepwise else 1)
                    used = rows * (kept * quarter * size + results * panel_bytes)
                    if used > 0.8 * target.l2_bytes:
                        into *= 2
                        one += rows * quarter * size / (_REREAD_RATE if used <= most else _MEMORY_RATE)
                    count = bands * parts
                    # What two or four threads wait.
                    waste = (0.75 * -(-count // 2) * 2 + 0.25 * -(-count // 4) * 4) / count
                    uneven = -(-panels // parts) * parts / panels
                    band = parts * into + panels * (products * one + back) * (0.5 + 0.5 * uneven)
                    arrive = max(0, weights - _HELD_SHARE * target.l3_bytes) / _MEMORY_RATE
                    cycles = (bands - 1) * band + _together(band, arrive, 4.0)
                    seconds, scratch = cycles * waste / hertz, used + PRODUCTS * rows * panel_bytes * (levels - 1)
                    yield StrassenSchedule(levels, rows, parts, terms, product, seconds, stepwise, scratch)


__all__ = [
    "FORMS", "LEFT", "NAMES", "PRODUCTS", "RESULT", "RIGHT", "Case", "Form", "StrassenSchedule", "alternatives",
    "blocks", "choose", "combinations", "holds", "transform",
]  # fmt: skip
