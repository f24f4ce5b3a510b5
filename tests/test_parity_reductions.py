"""Reductions, scans and sorting beside PyTorch: dtypes, empty and 0-d tensors, words of errors; gradients and second
gradients at ties and zeros."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import ingot as ig  # noqa: E402
from torch_bridge import assert_same, ingot_of  # noqa: E402

pytestmark = pytest.mark.parity

DTYPES = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32)
SHAPES = ((), (5,), (3, 4), (0,), (0, 3))
WITHOUT_DIM = (
    "aminmax", "all", "any", "amax", "amin", "max", "min", "argmax", "argmin", "sum", "mean", "prod", "std", "var",
    "std_mean", "var_mean", "nansum", "nanmean", "count_nonzero", "cov", "unique", "unique_consecutive", "msort",
    "sort", "argsort", "norm", "trapezoid", "diff",
)  # fmt: skip
WITH_DIM = (
    "all", "any", "amax", "amin", "max", "min", "argmax", "argmin", "sum", "mean", "prod", "std", "var", "std_mean",
    "var_mean", "nansum", "nanmean", "median", "count_nonzero", "cumsum", "cumprod", "logcumsumexp", "logsumexp",
    "sort", "argsort", "mode",
)  # fmt: skip


def outcome(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except Exception as error:
        return error


def sample(shape: tuple[int, ...], dtype: Any) -> Any:
    """Distinct numbers, so that indices are defined."""
    n = int(np.prod(shape))
    x = torch.tensor(np.random.default_rng(3).permutation(n).reshape(shape) - (0 if dtype is torch.uint8 else n // 2))
    return x > 0 if dtype is torch.bool else x.to(dtype)


def compare(name: str, args: tuple[Any, ...]) -> int:
    count = 0
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        x = sample(shape, dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = outcome(lambda x=x: getattr(torch, name)(x, *args))
            got = outcome(lambda x=x: getattr(ig, name)(ingot_of(x), *args))
        what = f"{name}{args} of {dtype}{list(shape)}"
        if isinstance(want, Exception):
            if "does not support bool" not in str(want):  # raised before or after the check of the axis
                assert isinstance(got, type(want)), f"{what}: {got!r}, want {want!r}"
                assert str(got)[:60] == str(want)[:60], what
        else:
            assert not isinstance(got, Exception), f"{what}: {got!r}"
            assert_same(got, want, what)
        count += 1
    return count


@pytest.mark.parametrize("name", WITHOUT_DIM)
def test_over_everything(name: str) -> None:
    assert compare(name, ()) == len(SHAPES) * len(DTYPES)


@pytest.mark.parametrize("dim", [0, -1, 1])
@pytest.mark.parametrize("name", WITH_DIM)
def test_along_an_axis(name: str, dim: int) -> None:
    assert compare(name, (dim,)) == len(SHAPES) * len(DTYPES)


INPUTS = {
    "distinct": [[0.5, -1.5, 2.0], [3.0, 1.0, -2.0]], "zeros": [[0.0, 0.0, 2.0], [0.0, 1.0, 3.0]],
    "ties": [[1.0, 1.0, 2.0], [2.0, 2.0, 2.0]], "all zero": [[0.0] * 3] * 2,
}  # fmt: skip
GRADIENTS: dict[str, Callable[[Any, Any], Any]] = {
    "prod": lambda T, x: T.prod(x),
    "prod along 1": lambda T, x: T.prod(x, 1),
    "cumprod": lambda T, x: T.cumprod(x, 1),
    "cumsum": lambda T, x: T.cumsum(x * x, 0),
    "cummax": lambda T, x: T.cummax(x, 1)[0],
    "cummin": lambda T, x: T.cummin(x, 0)[0],
    "logcumsumexp": lambda T, x: T.logcumsumexp(x, 1),
    "logsumexp": lambda T, x: T.logsumexp(x, 1),
    "max": lambda T, x: T.max(x),
    "max along 1": lambda T, x: T.max(x, 1)[0],
    "amax": lambda T, x: T.amax(x, (0, 1)),
    "aminmax": lambda T, x: T.aminmax(x, dim=1)[0],
    "std": lambda T, x: T.std(x, 1),
    "var": lambda T, x: T.var(x, 0),
    "median": lambda T, x: T.median(x),
    "nanmean": lambda T, x: T.nanmean(x * x, 1),
    "quantile": lambda T, x: T.quantile(x * x, 0.3, 1),
    "norm 1": lambda T, x: T.norm(x, 1, 1),
    "norm 3": lambda T, x: T.norm(x, 3, 1),
    "norm inf": lambda T, x: T.norm(x, float("inf"), 1),
    "norm -inf": lambda T, x: T.norm(x, -float("inf"), 1),
    "cov": lambda T, x: T.cov(x),
    "diff": lambda T, x: T.diff(x * x),
    "trapezoid": lambda T, x: T.trapezoid(x * x),
    "gradient": lambda T, x: T.gradient(x * x)[0],
}


def derivatives(T: Any, fn: Callable[[Any, Any], Any], values: Any) -> list[np.ndarray]:
    """The value and two gradients; zeros where there is no second one."""
    x = T.tensor(values, dtype=T.float64, requires_grad=True)
    y = fn(T, x)
    seed = np.linspace(0.5, 1.5, int(np.prod(tuple(y.shape)))).reshape(tuple(y.shape))
    (g,) = T.autograd.grad((y * T.tensor(seed.tolist(), dtype=T.float64)).sum(), x, create_graph=True)
    second = None
    if g.requires_grad:
        other = T.tensor(np.linspace(-1, 1.3, 6).reshape(2, 3).tolist(), dtype=T.float64)
        (second,) = T.autograd.grad((g * other).sum(), x, allow_unused=True)
    results = [y, g, T.zeros(2, 3, dtype=T.float64) if second is None else second]
    return [np.asarray(r.detach().numpy(force=True)) for r in results]


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_at_ties_and_zeros(name: str, kind: str) -> None:
    ours, want = (derivatives(T, GRADIENTS[name], INPUTS[kind]) for T in (ig, torch))
    for i, (a, b) in enumerate(zip(ours, want, strict=True)):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9, err_msg=f"derivative {i}")
