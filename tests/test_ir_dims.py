"""Extents: bounds, division and maximum against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ingot.ir.dims import Dim, bounds, evaluate, floordiv, is_bounded, maximum, mod


def _expressions(rng: np.random.Generator, a: Dim, b: Dim):
    x = [a.expr, b.expr, a.expr * b.expr, a.expr * a.expr]
    e = int(rng.integers(-6, 7))
    for _ in range(4):
        y = x[rng.integers(len(x))]
        k = int(rng.integers(1, 6))
        kind = rng.integers(6)
        if kind == 0:
            e = e + y * int(rng.integers(-3, 4))
        elif kind == 1:
            e = floordiv(e, k)
        elif kind == 2:
            e = mod(e, k)
        elif kind == 3:
            e = maximum(e, y - int(rng.integers(0, 9)))
        elif kind == 4:
            e = e * y
        else:
            e = e - y
        yield e


@pytest.mark.parametrize("seed", range(300))
def test_bounds_hold_everywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = Dim("A", int(rng.integers(0, 3)), 5), Dim("B", 1, int(rng.integers(1, 5)))
    for e in _expressions(rng, a, b):
        low, high = bounds(e)
        for i, j in itertools.product(range(a.min, 6), range(1, b.max + 1)):
            value = evaluate(e, {"A": i, "B": j})
            assert low <= value <= high, (seed, str(e), i, j, value, low, high)


@pytest.mark.parametrize("seed", range(100))
def test_operations_agree_with_python(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = Dim("A", 1, 6), Dim("B", 1, 4)
    *_, e = _expressions(rng, a, b)
    k = int(rng.integers(1, 7))
    for i, j in itertools.product(range(1, 7), range(1, 5)):
        env = {"A": i, "B": j}
        v = evaluate(e, env)
        assert evaluate(floordiv(e, k), env) == v // k, (seed, str(e), env)
        assert evaluate(mod(e, k), env) == v % k
        assert evaluate(maximum(e, a.expr), env) == max(v, i)


def test_no_bound_stays_no_bound() -> None:
    n = Dim("N").expr
    for e in (n, n // 400000, maximum(n // 7, 3), n * n // 1000, n - 5):
        assert not is_bounded(e)
    assert bounds((Dim("L", 1, 64).expr - 5) // 2) == (-2, 29)
