"""One level of Strassen's algorithm for products with constant B: the matrices, the transform of B, the blocks.

With both operands and the result cut into quarters, seven products of half the size give what takes eight otherwise
(Strassen, "Gaussian elimination is not optimal", 1969): ``C[i][k] = sum_r RESULT[r][i][k] (LEFT[r] . A)(RIGHT[r] . B)``
where a dot combines quarters. Every such algorithm is Strassen's in other bases; in this one, whose combinations of
rank one point in directions 120 degrees apart, the errors of the sums grow least (Dumas, Pernet and Sedoglavic,
"Strassen's algorithm is not optimally accurate", 2024): 0.83 of those in Strassen's own basis.
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
FORM, FORM_TRANSPOSED = "strassen", "strassen_t"  # of B [K, N], and of B [N, K] or [N, K, 1, 1]
FORMS = (FORM, FORM_TRANSPOSED)


def transform(b: np.ndarray, form: str) -> np.ndarray:
    """The seven combinations of the quarters of B, one behind the other along K: [K, N] -> [7 K/2, N/2], or
    [N, K] -> [N/2, 7 K/2] with axes of extent one behind; in the dtype of B, computed in float64."""
    turned, ones = form == FORM_TRANSPOSED, b.shape[2:]
    whole: np.ndarray = b.reshape(b.shape[0], -1)
    whole = whole.T if turned else whole
    k, n = whole.shape[0] // 2, whole.shape[1] // 2
    quarters = whole.reshape(2, k, 2, n).astype(np.float64)
    found = np.einsum("rpq,pkqn->rkn", np.array(RIGHT), quarters).reshape(PRODUCTS * k, n).astype(b.dtype)
    found = found.T if turned else found
    return found.reshape(*found.shape, *ones)


# Terms that are added before a sum goes to a total, at most; at least two such blocks keep the error below that of sums
# made one by one (``tests/test_codegen_strassen.py``).
_TERMS = 128

# Measured on Zen 4: cycles to make the seven combinations of four lines of A (near, or beyond L2), and four lines of
# the result; and the share of the estimate that products take, as fixed costs of a tile hide behind the next one.
_INTO_CYCLES, _BACK_CYCLES, _HIDDEN = (22.0, 55.0), 32.0, 0.975
_BLOCKED = 1.8  # times as long from blocks of columns that lie far apart
# Bytes per cycle of B, and the size from which on other weights leave less: B then comes from memory the first time.
_NEAR_RATE, _FAR_RATE, _NEAR_BYTES = 11.0, 5.5, 3 << 20
_ALTERNATIVES = 8  # that are worth measuring
_LINE = 64


@dataclass(frozen=True)
class StrassenSchedule:
    """How one product runs.

    Attributes:
        half: rows of A's upper (and lower) quarters in one iteration.
        parts: parallel parts of the columns.
        terms: products in a block of the sums.
        product: schedule of one block and panel.
        seconds: estimate for the whole product on one thread.
    """

    half: int
    parts: int
    terms: int
    product: ContractionSchedule
    seconds: float

    @property
    def name(self) -> str:
        """The decisions alone: equal for equal schedules, different for different ones (``tune``)."""
        p = self.product
        return f"strassen, 2x{self.half} rows, parts {self.parts}, tile {p.tile[0]} x {p.nb}, unroll {p.unroll}"

    def __str__(self) -> str:
        p = self.product
        return (
            f"Strassen, 2 x {self.half} rows per iteration, columns in {self.parts} part(s), sums in blocks of "
            f"{self.terms}, products by tile {p.tile[0]} x {p.nb} vectors of {p.lanes}, unroll {p.unroll}; "
            f"est. {self.seconds * 1e3:.3f} ms on one thread"
        )


def blocks(depth: int) -> list[int]:
    """The lengths of the blocks of a sum of ``depth`` terms: equal ones if a few more of them divide it."""
    count = max(2, -(-depth // _TERMS))
    even = [c for c in range(count, 2 * count) if depth % c == 0]
    count = even[0] if even else count
    size = -(-depth // count)
    return [min(size, depth - first) for first in range(0, depth, size)]


@functools.lru_cache(1024)
def choose(
    target: Target,
    dtype: DType,
    rows: Extent,
    repeat: int,
    depth: int,
    outputs: int,
    nb: int | None = None,
    blocked: bool = False,
) -> StrassenSchedule:
    """The cheapest schedule, by estimate, of ``repeat`` products of ``rows`` rows; ``nb`` is fixed when a packed B
    dictates it; ``blocked``: columns of A in blocks, each of them with all rows."""
    return min(_schedules(target, dtype, rows, repeat, depth, outputs, nb, blocked), key=lambda s: s.seconds)


def alternatives(
    target: Target, dtype: DType, rows: Extent, repeat: int, depth: int, outputs: int, nb: int, blocked: bool
) -> list[StrassenSchedule]:
    """What is worth measuring, cheapest by estimate first."""
    found = sorted(_schedules(target, dtype, rows, repeat, depth, outputs, nb, blocked), key=lambda s: s.seconds)
    return list({s.name: s for s in found}.values())[:_ALTERNATIVES]


def _halves(rows: Extent) -> list[int]:
    """Rows of a quarter that are worth considering."""
    if not isinstance(rows, int):
        return [r for r in range(8, 97) if mod(rows, 2 * r) == 0] or [32]
    return sorted({-(-rows // (2 * bands)) for bands in range(-(-rows // 192), max(2, rows // 16))})


def _schedules(
    target: Target, dtype: DType, rows: Extent, repeat: int, depth: int, outputs: int, nb: int | None, blocked: bool
) -> Iterator[StrassenSchedule]:
    lanes, hertz, size = target.lanes(dtype), target.clock_ghz * 1e9, dtype.itemsize
    rate = _NEAR_RATE if PRODUCTS / 4 * depth * outputs * size < _NEAR_BYTES else _FAR_RATE
    into_cycles = (_BLOCKED if blocked else 1.0) * _INTO_CYCLES[upper(rows) * repeat * depth * size > target.l2_bytes]
    vectors, terms = outputs // 2 // lanes, blocks(depth // 2)[0]
    for width in (nb,) if nb else [w for w in (1, 2, 3, 4) if vectors % w == 0]:
        panels, panel_bytes = vectors // width, width * lanes * size
        for half in _halves(rows):
            p = Problem(dtype, (half, 1), width * lanes, depth // 2, depth // 2, 1, width)
            product = replace(scheduling.choose(target, p), chunk=half)
            bands = -(-upper(rows) // (2 * half)) * repeat
            # Weights arrive while the first register tile is computed; the others find them in L1 or L2.
            one = scheduling.estimate(target, p, product) * hertz * _HIDDEN
            first, stream = one * product.tile[0] / half, depth / 2 * panel_bytes / rate
            one += (first**4 + stream**4) ** 0.25 - first
            into, back = half * depth / 2 * size / _LINE * into_cycles, half * panel_bytes / _LINE * _BACK_CYCLES
            if PRODUCTS * half * panel_bytes > target.l1_bytes // 2:  # and the products are written to L2
                back *= 1.25 if PRODUCTS * half * panel_bytes <= target.l1_bytes else 2
            if PRODUCTS * half * (depth / 2 * size + panel_bytes) > 0.75 * target.l2_bytes:
                into *= 2
                one += half * depth / 2 * size / _NEAR_RATE
            for parts in sorted({1, 2, 4, 8, panels}):
                if parts > panels:
                    continue
                count = bands * parts
                waste = (0.75 * -(-count // 2) * 2 + 0.25 * -(-count // 4) * 4) / count  # what two or four threads wait
                uneven = -(-panels // parts) * parts / panels
                cycles = bands * (parts * into + panels * (PRODUCTS * one + back) * (0.5 + 0.5 * uneven))
                yield StrassenSchedule(half, parts, terms, product, cycles * waste / hertz)


__all__ = ["FORMS", "LEFT", "PRODUCTS", "RESULT", "StrassenSchedule", "alternatives", "blocks", "choose", "transform"]
