"""Sample operands of scans and of ``sort``; registers into the tables of ``op_cases``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ingot.ir.dtypes import DType, bool_, float64
from op_cases import _GRADS, _MAKERS, ANY, FLOATS, NUMERIC
from op_sampling import Case, distinct, sample, special_values

_SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((1,), 0), ((7,), 0), ((67,), 0), ((3, 5), 0), ((3, 5), 1), ((2, 3, 4), 1), ((5, 37), 0), ((0, 3), 0), ((0, 3), 1),
    ((3, 0), 1), ((4, 1), 1),
)  # fmt: skip
_SMALL = tuple((s, a) for s, a in _SHAPES if int(np.prod(s)) <= 24)


def _scan(op: str, takes: tuple[DType, ...], low: float, high: float, operands: int = 1, special: bool = False) -> None:
    def make(rng: np.random.Generator, d: DType) -> Iterator[Case]:
        for shape, axis in _SHAPES:
            xs = tuple(sample(rng, shape, d, low, high) for _ in range(operands))
            yield Case(op, f"{shape} along {axis}", xs, {"axis": axis}, depth=max(1, shape[axis]))
        if special:
            s = special_values(d)
            rows = np.stack([np.roll(s, k) for k in range(4)])
            yield Case(op, "special", (rows,), {"axis": 1}, special=True, depth=rows.shape[1])

    _MAKERS[op] = (make, takes)
    _GRADS[op] = lambda rng: (
        Case(op, f"{s} along {a}", tuple(distinct(rng, s) for _ in range(operands)), {"axis": a}) for s, a in _SMALL
    )


_scan("cumsum", NUMERIC, -4, 4)
_scan("cumprod", NUMERIC, 0.6, 1.7)
_scan("logcumsumexp", FLOATS, -4, 4)
_scan("cummax", NUMERIC, -4, 4, special=True)
_scan("cummin", NUMERIC, -4, 4, special=True)
_scan("linear_recurrence", FLOATS, -1, 1, operands=2)


def _with_zeros(rng: np.random.Generator) -> Iterator[Case]:
    """cumprod: one zero in a line, two in a line, a zero in front."""
    x = distinct(rng, (4, 4))
    x[0, 1] = x[1, 0] = x[1, 2] = x[2, 3] = 0
    yield Case("cumprod", "zeros", (x,), {"axis": 1})


_without_zeros = _GRADS["cumprod"]
_GRADS["cumprod"] = lambda rng: (*_without_zeros(rng), *_with_zeros(rng))


def _sort_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape, axis in (*_SHAPES, ((2, 130), 1)):
        for descending in (False, True):
            x = sample(rng, shape, d)  # integers repeat: equal elements keep their order
            yield Case("sort", f"{shape} along {axis}", (x,), {"axis": axis, "descending": descending})
    if d is not bool_:
        s = special_values(d)
        rows = np.stack([np.roll(s, k) for k in range(4)])
        for descending in (False, True):
            yield Case("sort", "special", (rows,), {"axis": 1, "descending": descending}, special=True)


_MAKERS["sort"] = (_sort_cases, ANY)
_GRADS["sort"] = lambda rng: (
    Case("sort", f"{s} along {a}", (distinct(rng, s, float64),), {"axis": a, "descending": bool(a)}) for s, a in _SMALL
)
