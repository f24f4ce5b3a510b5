"""Error bounds and special values of the vector code of inverse, hyperbolic and error functions."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.codegen import vmath_inverse
from ingot.codegen.loopir import LoopBuilder
from ingot.ir.dtypes import dtype_from_numpy
from ingot.ir.target import Target
from kernel_harness import Guarded, host_targets, raw_kernel

SEED = 12
COUNT = 1 << 12
targets = pytest.mark.parametrize("target", host_targets(), ids=lambda t: t.name)
kinds = pytest.mark.parametrize("kind", [np.float32, np.float64], ids=["float32", "float64"])
# The float64 bounds of the module's docstring, in units in the last place.
BOUNDS = {
    "tan": 3.5, "asin": 2.5, "acos": 2.5, "atan": 2, "atan2": 2.5, "hypot": 2, "sinh": 4, "cosh": 4, "asinh": 4,
    "acosh": 4, "atanh": 4, "log2": 1, "log10": 1, "erfc": 3, "erfinv": 4,
}  # fmt: skip
NUMPY = {
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2, "hypot": np.hypot,
    "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "log2": np.log2,
    "log10": np.log10,
}  # fmt: skip


def evaluate(name: str, target: Target, *xs: np.ndarray) -> np.ndarray:
    dtype = dtype_from_numpy(xs[0].dtype)
    lanes = target.lanes(dtype)
    b = LoopBuilder("kernel", target)
    sources = [b.buffer(f"x{k}", dtype) for k in range(len(xs))]
    result = b.buffer("y", dtype)

    def body(i):
        at = b.imul(i, lanes)
        b.store(result, getattr(vmath_inverse, name)(b, *(b.load(s, at, lanes) for s in sources)), at)

    b.loop(b.begin, b.end, body)
    count = len(xs[0])
    padded = [np.concatenate([x, np.ones(-count % lanes, x.dtype)]) for x in xs]
    buffers = [Guarded(x.nbytes, x) for x in padded] + [Guarded(padded[0].nbytes)]
    raw_kernel(b.finish(), buffers, [], [(0, len(padded[0]) // lanes)])
    return buffers[-1].bytes.view(xs[0].dtype)[:count].copy()


def samples(name: str, kind: type) -> list[np.ndarray]:
    rng = np.random.default_rng(SEED)

    def values() -> np.ndarray:
        if name in ("asin", "acos", "atanh", "erfinv"):
            x = np.concatenate([rng.uniform(-1, 1, 2 * COUNT), 1 - np.exp(rng.uniform(-15, 0, COUNT)), small()])
        elif name == "acosh":
            x = np.concatenate([1 + np.exp(rng.uniform(-15, 5, 2 * COUNT)), np.exp(rng.uniform(0, 80, COUNT))])
        elif name in ("log2", "log10"):
            x = np.concatenate([np.exp(rng.uniform(-80, 80, 2 * COUNT)), rng.uniform(0.5, 2, COUNT)])
        elif name == "erfc":
            x = rng.uniform(-6, 9 if kind is np.float32 else 26, 2 * COUNT)
        else:
            top = {"sinh": 88, "cosh": 88, "tan": 2.0**15}.get(name, 1e5)
            x = np.concatenate([rng.uniform(-s, s, COUNT) for s in (1, 10, top)] + [small()])
            if name in ("sinh", "cosh") and kind is np.float64:
                x = np.concatenate([x, rng.uniform(-710, 710, COUNT)])
        return x.astype(kind)

    def small() -> np.ndarray:
        return np.exp(rng.uniform(-60, 0, COUNT)) * rng.choice([-1, 1], COUNT)

    first = values()
    return [first, rng.permutation(values())] if name in ("atan2", "hypot") else [first]


def exact(name: str, xs: list[np.ndarray]) -> np.ndarray:
    wide = [x.astype(np.longdouble) for x in xs]
    if name in NUMPY:
        return NUMPY[name](*wide)
    mp = pytest.importorskip("mpmath")
    function = getattr(mp, name)
    with mp.workdps(30):
        return np.array([np.longdouble(mp.nstr(function(mp.mpf(float(v))), 25)) for v in xs[0]])


@targets
@kinds
@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_error_bounds(name: str, kind: type, target: Target) -> None:
    xs = samples(name, kind)
    if name not in NUMPY:
        keep = slice(None, None, 16)  # 30 digits are slow
        xs = [x[keep] for x in xs]
    wide = exact(name, xs)
    got = evaluate(name, target, *xs)
    with np.errstate(all="ignore"):
        rounded = wide.astype(kind)
        normal = (np.abs(rounded) > np.finfo(kind).tiny) & np.isfinite(rounded)
        error = np.abs(got[normal] - wide[normal]) / np.spacing(np.abs(rounded[normal])).astype(np.longdouble)
    worst = int(np.argmax(error))
    bound = 1.0 if kind is np.float32 else BOUNDS[name]
    where = [float(x[normal][worst]) for x in xs]
    assert normal.sum() > 100
    assert error[worst] <= bound, f"{name} {target.name}: {error[worst]:.2f} ULP at {where} (seed {SEED})"


@targets
@kinds
def test_special_values(kind: type, target: Target) -> None:
    tiny = np.finfo(kind).smallest_subnormal
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, tiny, -tiny, np.finfo(kind).max, 1, -1, 2, -2, 0.5], kind)
    for name in sorted(set(NUMPY) - {"tan", "atan2", "hypot"}):
        with np.errstate(all="ignore"):
            want = NUMPY[name](x)
        got = evaluate(name, target, x)
        np.testing.assert_allclose(got, want, rtol=8 * np.finfo(kind).eps, atol=tiny, err_msg=name)
        zero = want == 0
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]), err_msg=name)
    got = evaluate("erfinv", target, x)
    np.testing.assert_allclose(got[[2, 3, 8, 9, 10]], [np.nan, 0, np.inf, -np.inf, np.nan])
    np.testing.assert_allclose(evaluate("erfc", target, x)[:5], [0, 2, np.nan, 1, 1])


@targets
@kinds
def test_pairs_of_special_values(kind: type, target: Target) -> None:
    values = np.array([0.0, -0.0, 1, -1, 3, 1e30, np.inf, -np.inf, np.nan], kind)
    x, y = (a.reshape(-1) for a in np.meshgrid(values, values))
    for name in ("atan2", "hypot"):
        with np.errstate(all="ignore"):
            want = NUMPY[name](x, y)
        got = evaluate(name, target, x, y)
        np.testing.assert_allclose(got, want, rtol=4 * np.finfo(kind).eps, err_msg=name)
        np.testing.assert_array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]), err_msg=name)


def test_exact_powers() -> None:
    target = host_targets()[-1]
    powers = 2.0 ** np.arange(-1022, 1024)
    np.testing.assert_array_equal(evaluate("log2", target, powers), np.arange(-1022, 1024))
    np.testing.assert_array_equal(evaluate("log10", target, 10.0 ** np.arange(0, 23)), np.arange(0, 23))
