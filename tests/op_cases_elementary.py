"""Cases of the operators in ``ir.ops.elementary``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ingot.ir.dtypes import DType
from op_cases import _GRADS, _MAKERS, FLOATS, INTS, PAIRS, _binary, _division_grads, _unary
from op_sampling import Case, sample, special_values

for _name in ("tan", "sinh", "cosh", "asinh", "atan"):
    _unary(_name, low=-3, high=3)
for _name in ("asin", "acos", "atanh", "erfinv"):
    _unary(_name, low=-1, high=1)


def _inner_grads(op: str):
    return lambda rng: (Case(op, f"shape {s}", (np.asarray(rng.uniform(-0.6, 0.6, s)),)) for s in ((), (4, 3), (0, 2)))


for _name in ("asin", "acos", "atanh", "erfinv"):
    _GRADS[_name] = _inner_grads(_name)
_GRADS["tan"] = lambda rng: (Case("tan", f"shape {s}", (np.asarray(rng.uniform(-1.2, 1.2, s)),)) for s in ((), (4, 3)))
_unary("acosh", low=1, high=50, grad_low=1.2)
for _name in ("log2", "log10"):
    _unary(_name, low=0.01, high=50, grad_low=0.3)
_unary("erfc", low=-4, high=9)
for _name in ("lgamma", "digamma"):
    _unary(_name, low=0.05, high=30, grad_low=0.3)
_unary("polygamma", low=0.05, high=30, attrs=({"n": 1}, {"n": 3}), grad_low=0.4)
for _name in ("i0", "i1"):
    _unary(_name, low=-8, high=8)
_unary("exponent", low=-100, high=100, kinks=None)

_binary("atan2", FLOATS, grad="divisor")
_binary("hypot", FLOATS, grad="divisor")
_binary("fmod", first=(-40, 40), second=(1, 7), grad=None)
_GRADS["fmod"] = _division_grads("fmod")
_binary("gcd", INTS, first=(-100, 100), second=(-100, 100), grad=None)


def _copysign_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for a, b in PAIRS:
        yield Case("copysign", f"shapes {a} {b}", (sample(rng, a, d), sample(rng, b, d)))
    values = special_values(d)
    values = values[~np.isnan(values.astype(np.float64))]  # the sign of NaN is nobody's business
    left, right = (m.reshape(-1) for m in np.meshgrid(values, values))
    yield Case("copysign", "special", (left, right), special=True)


def _signed_grads(rng: np.random.Generator) -> Iterator[Case]:
    for s in ((), (4, 3)):
        x, y = (np.asarray(rng.uniform(0.3, 2, s) * rng.choice([-1, 1], s)) for _ in range(2))
        yield Case("copysign", f"shape {s}", (x, y))


_MAKERS["copysign"] = (_copysign_cases, FLOATS)
_GRADS["copysign"] = _signed_grads


def _nextafter_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for a, b in PAIRS:
        yield Case("nextafter", f"shapes {a} {b}", (sample(rng, a, d), sample(rng, b, d)))
    left, right = (m.reshape(-1) for m in np.meshgrid(special_values(d), special_values(d)))
    yield Case("nextafter", "special", (left, right), special=True)


_MAKERS["nextafter"] = (_nextafter_cases, FLOATS)
_GRADS["nextafter"] = lambda rng: (
    Case("nextafter", f"shape {s}", (np.asarray(rng.normal(size=s)), np.asarray(rng.normal(size=s))))
    for s in ((), (3,))
)


def _shift_cases(op: str):
    def make(rng: np.random.Generator, d: DType) -> Iterator[Case]:
        for a, b in PAIRS:
            yield Case(op, f"shapes {a} {b}", (sample(rng, a, d, -100, 100), sample(rng, b, d, 0, d.bits)))
        low = -3 if d.kind == "i" else 0
        left, right = (m.reshape(-1) for m in np.meshgrid(special_values(d), np.arange(low, d.bits + 3)))
        yield Case(op, "special", (left, right.astype(d.numpy)), special=True, undefined=d.kind == "u")

    return make


for _name in ("shift_left", "shift_right"):
    _MAKERS[_name] = (_shift_cases(_name), INTS)


def _incomplete_cases(op: str):
    def make(rng: np.random.Generator, d: DType) -> Iterator[Case]:
        for a, b in PAIRS:
            yield Case(op, f"shapes {a} {b}", (sample(rng, a, d, 0.1, 8), sample(rng, b, d, 0.1, 12)))
        values = special_values(d)
        values = values[~(np.abs(values.astype(np.float64)) > 1e20) | ~np.isfinite(values.astype(np.float64))]
        left, right = (m.reshape(-1) for m in np.meshgrid(values, values))
        yield Case(op, "special", (left, right), special=True)

    return make


for _name in ("igamma", "igammac"):
    _MAKERS[_name] = (_incomplete_cases(_name), FLOATS)


def _incomplete_grads(op: str):
    return lambda rng: (
        Case(op, f"shape {s}", (np.asarray(rng.uniform(0.5, 4, s)), np.asarray(rng.uniform(0.5, 4, s))))
        for s in ((), (3,), (2, 2))
    )


for _name in ("igamma", "igammac"):
    _GRADS[_name] = _incomplete_grads(_name)
