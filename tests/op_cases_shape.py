"""Sample operands of views by stride, of ``scatter_reduce`` and of functions of matrices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ingot.ir import dtypes
from ingot.ir.dtypes import DType, float32, float64
from op_cases import _GATHERS, _GRADS, _MAKERS, ANY, FLOATS, NUMERIC
from op_sampling import Case, distinct, sample

# (operand, result, starts, steps by row)
_VIEWS = [
    ((4, 5), (4,), (0, 1), ((1,), (1,))), ((7,), (3, 3), (0,), ((2, 1),)), ((2, 3, 4), (4, 2), (0, 1, 0),
    ((0, 1), (0, 1), (1, 0))), ((3, 4), (0, 4), (0, 0), ((1, 0), (0, 1))), ((5,), (), (2,), ((),)),
    ((6, 6), (2, 2, 2), (1, 0), ((2, 0, 1), (0, 3, 1))), ((), (2,), (), ()),
]  # fmt: skip


def _view_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for x, shape, starts, rows in _VIEWS:
        attrs = {"shape": shape, "starts": starts, "steps": tuple(s for row in rows for s in row)}
        yield Case("strided_view", f"{x} as {shape}", (sample(rng, x, d),), attrs)


def _bitcast_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape in ((), (8,), (3, 16), (0, 8)):
        for target in dtypes.ALL:
            if target.is_integer and (shape or target.itemsize == d.itemsize):
                yield Case("bitcast", f"{shape} as {target}", (sample(rng, shape, d),), {"dtype": target})


_MAKERS["strided_view"] = (_view_cases, ANY)
_GRADS["strided_view"] = lambda rng: _view_cases(rng, float64)
_MAKERS["bitcast"] = (_bitcast_cases, ANY)


def _reduce_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for x, index, axis in _GATHERS:
        for reduce in ("prod", "amax", "amin"):
            for more in (0, 1):
                src = sample(rng, tuple(n + more for n in index), d, 0, 3)
                inputs = (sample(rng, x, d, 0, 3), rng.integers(0, x[axis], index), src)
                attrs = {"axis": axis, "reduce": reduce}
                yield Case("scatter_reduce", f"{reduce} {x} {index} + {more}", inputs, attrs, depth=index[axis] + 1)


def _reduce_grads(rng: np.random.Generator) -> Iterator[Case]:
    for x, index, axis in _GATHERS:
        for reduce in ("prod", "amax", "amin"):
            n = int(np.prod(x))
            values = distinct(rng, (n + int(np.prod(index)),))
            if reduce == "prod":
                values = np.sign(values) * (0.5 + np.abs(values) / 10)
            inputs = (values[:n].reshape(x), rng.integers(0, x[axis], index), values[n:].reshape(index))
            yield Case("scatter_reduce", f"{reduce} {x} {index}", inputs, {"axis": axis, "reduce": reduce})


_MAKERS["scatter_reduce"] = (_reduce_cases, NUMERIC)
_GRADS["scatter_reduce"] = _reduce_grads

_SQUARES = ((1, 1), (3, 3), (2, 4, 4), (0, 2, 2), (2, 0, 0))


def _well_conditioned(rng: np.random.Generator, shape: tuple[int, ...], d: DType) -> np.ndarray:
    """Diagonally dominant, so that rounding the operand changes little."""
    return (sample(rng, shape, float32, -0.5, 0.5) + 2 * np.eye(shape[-1])).astype(d.numpy)


def _square_cases(op: str, rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape in _SQUARES:
        yield Case(op, f"{shape}", (_well_conditioned(rng, shape, d),), depth=8 * max(1, shape[-1]))


for _name in ("inverse", "det", "cofactor", "slogdet", "matrix_exp"):
    _MAKERS[_name] = (lambda rng, d, op=_name: _square_cases(op, rng, d), FLOATS)
    _GRADS[_name] = lambda rng, op=_name: _square_cases(op, rng, float64)


def _solve_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape in _SQUARES:
        for columns in (1, 3):
            right = sample(rng, (*shape[:-1], columns), d)
            yield Case("solve", f"{shape} {columns}", (_well_conditioned(rng, shape, d), right), depth=16)


def _pinv_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape in ((3, 3), (4, 2), (2, 2, 5), (0, 2, 3)):
        x = sample(rng, shape, float32, -0.5, 0.5) + 2 * np.eye(*shape[-2:])
        yield Case("pinv", f"{shape}", (x.astype(d.numpy),), depth=32)


def _svd_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape in ((3, 3), (4, 2), (2, 2, 5), (0, 2, 3)):
        # Off the diagonal away from 0, where the signs of singular and eigenvectors jump.
        x = sample(rng, shape, float32, 0.2, 0.4) + np.eye(*shape[-2:]) * np.arange(1, shape[-1] + 1)
        yield Case("svd", f"{shape}", (x.astype(d.numpy),), depth=32)


def _definite_cases(op: str, rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape in ((1, 1), (3, 3), (2, 4, 4), (0, 2, 2)):
        x = sample(rng, shape, float32, 0.2, 0.4) + np.diag(np.arange(1, shape[-1] + 1))
        yield Case(op, f"{shape}", (x.astype(d.numpy),), depth=64)


def _qr_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape in ((3, 3), (4, 2), (2, 3, 2), (0, 3, 2)):
        x = sample(rng, shape, float32, -0.5, 0.5) + 2 * np.eye(*shape[-2:])
        yield Case("qr", f"{shape}", (x.astype(d.numpy),), depth=64)


for _name in ("cholesky", "eigh"):
    _MAKERS[_name] = (lambda rng, d, op=_name: _definite_cases(op, rng, d), FLOATS)
    _GRADS[_name] = lambda rng, op=_name: _definite_cases(op, rng, float64)
_MAKERS["qr"] = (_qr_cases, FLOATS)
_GRADS["qr"] = lambda rng: _qr_cases(rng, float64)
_MAKERS["solve"] = (_solve_cases, FLOATS)
_MAKERS["pinv"] = (_pinv_cases, FLOATS)
_MAKERS["svd"] = (_svd_cases, FLOATS)
for _name in ("solve", "pinv"):
    _GRADS[_name] = lambda rng, op=_name: _MAKERS[op][0](rng, float64)
# Fixed matrices: the signs of singular and eigenvectors jump in places that depend on the library.
_GRADS["svd"] = lambda rng: _svd_cases(np.random.default_rng(1), float64)
_GRADS["eigh"] = lambda rng: _definite_cases("eigh", np.random.default_rng(1), float64)
