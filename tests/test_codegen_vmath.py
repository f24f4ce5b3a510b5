"""Error bounds and special values of the vector math, on every target this CPU runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ingot.codegen import vmath
from ingot.codegen.loopir import LoopBuilder
from ingot.ir.dtypes import dtype_from_numpy
from ingot.ir.target import Target
from kernel_harness import Guarded, host_targets, raw_kernel

SEED = 11
COUNT = 1 << 14
targets = pytest.mark.parametrize("target", host_targets(), ids=lambda t: t.name)
kinds = pytest.mark.parametrize("kind", [np.float32, np.float64], ids=["float32", "float64"])


def evaluate(name: str, target: Target, *xs: np.ndarray) -> np.ndarray:
    dtype = dtype_from_numpy(xs[0].dtype)
    lanes = target.lanes(dtype)
    b = LoopBuilder("kernel", target)
    sources = [b.buffer(f"x{k}", dtype) for k in range(len(xs))]
    result = b.buffer("y", dtype)

    def body(i):
        at = b.imul(i, lanes)
        b.store(result, getattr(vmath, name)(b, *(b.load(s, at, lanes) for s in sources)), at)

    b.loop(b.begin, b.end, body)
    count = len(xs[0])
    padded = [np.concatenate([x, np.ones(-count % lanes, x.dtype)]) for x in xs]
    buffers = [Guarded(x.nbytes, x) for x in padded] + [Guarded(padded[0].nbytes)]
    raw_kernel(b.finish(), buffers, [], [(0, len(padded[0]) // lanes)])
    return buffers[-1].bytes.view(xs[0].dtype)[:count].copy()


def all_exponents(kind: type, rng: np.random.Generator) -> np.ndarray:
    bits = np.uint32 if kind is np.float32 else np.uint64
    return rng.integers(0, np.iinfo(bits).max, COUNT, dtype=bits, endpoint=True).view(kind)


def samples(kind: type, name: str) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    edge = 110 if kind is np.float32 else 760
    parts = [all_exponents(kind, rng)] + [rng.uniform(-s, s, COUNT).astype(kind) for s in (0.01, 1, 10, edge)]
    parts.append(np.exp(rng.uniform(-3, 3, COUNT)).astype(kind))
    x = np.concatenate(parts)
    x = x[np.isfinite(x)]
    if name in ("sin", "cos"):
        x = x[np.abs(x) < (2.0**28 if kind is np.float32 else 2.0**20)]
    return x


def wide_sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


REFERENCES = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "sin": np.sin, "cos": np.cos,
    "sigmoid": wide_sigmoid,
}  # fmt: skip
BOUNDS = {
    "exp": (1.5, 1.5), "expm1": (1.5, 1.5), "log": (1.5, 1.5), "log1p": (2, 2), "tanh": (1.5, 2.5), "sin": (1.5, 1.5),
    "cos": (1.5, 1.5), "sigmoid": (2.5, 2.5),
}  # fmt: skip


def check_ulp(y: np.ndarray, wide: np.ndarray, bound: float, what: str) -> None:
    with np.errstate(all="ignore"):
        rounded = wide.astype(y.dtype)
        finite = np.isfinite(rounded) & np.isfinite(y)
        same = (rounded == y) | (np.isnan(rounded) & np.isnan(y))
        unit = np.spacing(np.abs(rounded[finite])).astype(wide.dtype)
        error = np.abs(y[finite].astype(wide.dtype) - wide[finite]) / unit
    assert (finite | same).all(), f"{what}: {y[~(finite | same)][:4]}, expected {rounded[~(finite | same)][:4]}"
    assert error.max() <= bound, f"{what}: {error.max():.2f} ULP (seed {SEED})"


@targets
@kinds
@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_error_bounds(name: str, kind: type, target: Target) -> None:
    x = samples(kind, name)
    with np.errstate(all="ignore"):
        wide = REFERENCES[name](x.astype(np.float64 if kind is np.float32 else np.longdouble))
    bound = BOUNDS[name][kind is np.float64]
    check_ulp(evaluate(name, target, x), wide, bound, f"{name} {target.name}")


@targets
def test_erf_float32(target: Target) -> None:
    x = samples(np.float32, "erf")[:40000]
    wide = np.array([math.erf(v) for v in x.tolist()])
    check_ulp(evaluate("erf", target, x), wide, 1.5, f"erf {target.name}")


@targets
def test_erf_float64(target: Target) -> None:
    mp = pytest.importorskip("mpmath")
    rng = np.random.default_rng(SEED)
    x = np.concatenate([rng.uniform(-6.5, 6.5, 1500), rng.uniform(-1, 1, 500), 10.0 ** rng.uniform(-300, 0, 200)])
    with mp.workdps(30):
        wide = np.array([np.longdouble(mp.nstr(mp.erf(mp.mpf(v)), 25)) for v in x.tolist()])
    check_ulp(evaluate("erf", target, x), wide, 1.5, f"erf {target.name}")


@targets
@kinds
def test_pow(kind: type, target: Target) -> None:
    rng = np.random.default_rng(SEED)
    x = np.concatenate([np.exp(rng.uniform(-80, 80, COUNT)), rng.uniform(0.5, 2, COUNT)]).astype(kind)
    y = np.concatenate([rng.uniform(-9, 9, COUNT), rng.uniform(-900, 900, COUNT)]).astype(kind)
    with np.errstate(all="ignore"):
        wide = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
        keep = (wide < np.finfo(kind).max * np.longdouble(0.99)) & (wide > np.finfo(kind).tiny)
    check_ulp(evaluate("pow", target, x[keep], y[keep]), wide[keep], 1 if kind is np.float32 else 1.5, target.name)


@targets
@kinds
def test_pow_special_cases_are_those_of_c(kind: type, target: Target) -> None:
    values = np.array([0.0, -0.0, 1, -1, 0.5, -0.5, 2, 3, -3, 2.5, 1e30, -1e30, np.inf, -np.inf, np.nan], kind)
    x, y = (a.reshape(-1) for a in np.meshgrid(values, values))
    got = evaluate("pow", target, x, y)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64)).astype(kind)
    np.testing.assert_allclose(got, want, rtol=np.finfo(kind).eps)
    zero = got == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@targets
@kinds
def test_special_values(kind: type, target: Target) -> None:
    tiny = np.finfo(kind).smallest_subnormal
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, tiny, -tiny, np.finfo(kind).max, np.finfo(kind).tiny], kind)
    for name in [*REFERENCES, "erf"]:
        y = evaluate(name, target, x)
        assert np.isnan(y[2]), name
        if name in ("sin", "cos"):
            assert np.isnan(y[:2]).all()
            assert (np.abs(y[3:]) <= 1).all()
            continue
        with np.errstate(all="ignore"):
            wide = np.array([math.erf(v) for v in x]) if name == "erf" else REFERENCES[name](x.astype(np.float64))
            want = wide.astype(kind)
        # Subnormal results may be one unit off.
        np.testing.assert_allclose(y, want, rtol=4 * np.finfo(kind).eps, atol=tiny, err_msg=name)
    for name in ("expm1", "log1p", "tanh", "sin", "erf"):
        assert np.signbit(evaluate(name, target, x)[4]), f"{name}(-0.0)"


def test_far_arguments_of_sine_stay_bounded() -> None:
    x = 10.0 ** np.linspace(6, 307, 500)
    for name in ("sin", "cos"):
        assert (np.abs(evaluate(name, host_targets()[-1], x)) <= 1).all()


def test_coefficients_are_what_the_generator_prints() -> None:
    """The constants can be derived again: spot check of the exponential's Taylor-like start."""
    from ingot.codegen import vmath_coefficients as c

    assert c.F64_EXP[:3] == pytest.approx([1 / 2, 1 / 6, 1 / 24], rel=1e-12)
    assert c.F32_SIN[0] == pytest.approx(-1 / 6, rel=1e-6)


@targets
def test_gelu(target: Target) -> None:
    rng = np.random.default_rng(SEED)
    for kind in (np.float32, np.float64):
        x = np.concatenate([rng.uniform(-s, s, 8000) for s in (1e-3, 1, 3, 6, 8, 40)]).astype(kind)
        x = np.concatenate([x, np.array([0.0, -0.0, np.inf, 1e30, -1e30], kind)])
        wide = np.array([0.5 * v * math.erfc(-v * math.sqrt(0.5)) for v in x.tolist()])
        got = evaluate("gelu", target, x)
        eps = float(np.finfo(kind).eps)
        finite = np.isfinite(wide)
        assert (got[~finite] == wide[~finite]).all() and got[-2] == x[-2] and got[-1] == 0
        error = np.abs(got[finite].astype(np.float64) - wide[finite])
        assert (error <= 1.0 * eps * np.maximum(np.abs(x[finite]), 1)).all()
        if kind is np.float32:
            near = np.abs(x[finite]) < 6
            assert (error[near] <= 5e-6 * np.abs(wide[finite][near])).all()
            near = (x[finite] > -3) & (x[finite] < 6)
            assert (error[near] <= 1.5e-6 * np.abs(wide[finite][near])).all()
    assert np.isnan(evaluate("gelu", target, np.array([np.nan, -np.inf], np.float32))).all()
