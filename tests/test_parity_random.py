"""The same seed gives PyTorch's numbers: draws, fills, initial weights; states travel both ways."""

from __future__ import annotations

import ingot as ig
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch_bridge import DTYPES, array_of  # noqa: E402

pytestmark = pytest.mark.parity
SHAPES = [(), (1,), (3,), (15,), (16,), (17,), (31,), (32,), (4, 5), (7, 0), (3, 4, 5), (1000,), (129, 33)]
FLOATS = [torch.float32, torch.float64]


def both(fn, seed: int = 9):
    """``fn(library, dtype map)`` twice in a row in either library."""
    torch.manual_seed(seed)
    ig.manual_seed(seed)
    for _ in range(2):
        ours, theirs = fn(ig, lambda d: DTYPES[d]), fn(torch, lambda d: d)
        yield ours, theirs


def check(fn, exact: bool = False, tolerance: float = 1e-6) -> None:
    for ours, theirs in both(fn):
        assert ours.shape == theirs.shape and ours.dtype is DTYPES[theirs.dtype]
        a, b = ours.numpy().astype(np.float64), array_of(theirs).astype(np.float64)
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_uniform_and_normal(shape, dtype) -> None:
    check(lambda m, d: m.rand(shape, dtype=d(dtype)), exact=True)
    check(lambda m, d: m.randn(*shape, dtype=d(dtype)) if shape else m.randn((), dtype=d(dtype)))
    check(lambda m, d: m.empty(shape, dtype=d(dtype)).uniform_(-3, 2.5), tolerance=1e-6)
    check(lambda m, d: m.empty(shape, dtype=d(dtype)).normal_(2, 0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (40,)])
def test_small_floats(shape, dtype) -> None:
    check(lambda m, d: m.rand(shape, dtype=d(dtype)), exact=True)
    check(lambda m, d: m.rand(20000, dtype=d(dtype)), exact=True)
    check(lambda m, d: m.empty(shape, dtype=d(dtype)).uniform_(5, 6), exact=True)
    check(lambda m, d: m.randn(shape, dtype=d(dtype)), tolerance=5e-3)


@pytest.mark.parametrize("make", [
    lambda m: m.empty(4, 6).t(), lambda m: m.empty(6, 8)[:, ::2], lambda m: m.empty(2, 3, 4).permute(2, 0, 1),
    lambda m: m.empty(5, 4)[1:3],
])  # fmt: skip
def test_views_are_filled_in_the_order_of_memory(make) -> None:
    check(lambda m, d: make(m).uniform_(), exact=True)
    check(lambda m, d: make(m).normal_())
    check(lambda m, d: m.rand_like(make(m)), exact=True)
    check(lambda m, d: m.randn_like(make(m)))


@pytest.mark.parametrize("bounds", [(0, 2), (-5, 7), (0, 2**28 - 1), (0, 2**28), (0, 2**31), (-2**40, 2**50)])
def test_integers(bounds) -> None:
    check(lambda m, d: m.randint(*bounds, (3, 7)), exact=True)
    check(lambda m, d: m.randint(bounds[1], (4,)), exact=True)
    check(lambda m, d: m.randint_like(m.zeros(5, dtype=d(torch.int64)), *bounds), exact=True)
    check(lambda m, d: m.randperm(50), exact=True)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool])
def test_random_without_bounds(dtype) -> None:
    check(lambda m, d: m.empty(20, dtype=d(dtype)).random_(), exact=True)
    check(lambda m, d: m.empty(20, dtype=d(dtype)).random_(2), exact=True)


@pytest.mark.parametrize("dtype", FLOATS)
def test_other_distributions(dtype) -> None:
    def blank(m, d):
        return m.empty(6, 7, dtype=d(dtype))

    check(lambda m, d: blank(m, d).exponential_(1.5))
    check(lambda m, d: blank(m, d).geometric_(0.3), exact=True)
    check(lambda m, d: blank(m, d).cauchy_(1, 2), tolerance=1e-5)
    check(lambda m, d: blank(m, d).log_normal_(0.5, 0.25))
    check(lambda m, d: blank(m, d).bernoulli_(0.3), exact=True)
    check(lambda m, d: blank(m, d).bernoulli_(m.full((7,), 0.4)), exact=True)
    check(lambda m, d: m.bernoulli(m.rand(5, 5, dtype=d(dtype))), exact=True)
    check(lambda m, d: m.bernoulli(m.rand(5, 5, dtype=d(dtype)), 0.7), exact=True)
    check(lambda m, d: m.normal(1.0, 2.0, (3, 6), dtype=d(dtype)))
    check(lambda m, d: m.normal(m.ones(20, dtype=d(dtype)), 2.0))
    check(lambda m, d: m.normal(1.5, m.ones(20, dtype=d(dtype))))
    check(lambda m, d: m.normal(m.arange(4, dtype=d(dtype)), m.ones(4, dtype=d(dtype))))


def test_multinomial() -> None:
    weights = [[0.1, 0.2, 0.3, 0.4], [5.0, 0.0, 1.0, 2.0]]
    check(lambda m, d: m.multinomial(m.tensor(weights), 3), exact=True)
    check(lambda m, d: m.multinomial(m.tensor(weights[0]), 1), exact=True)
    check(lambda m, d: m.multinomial(m.tensor(weights), 50, replacement=True), exact=True)
    check(lambda m, d: m.tensor(weights[1]).multinomial(20, True), exact=True)


def test_initial_weights() -> None:
    for make in (
        lambda m: m.nn.Linear(5, 3), lambda m: m.nn.Conv2d(3, 4, 3), lambda m: m.nn.ConvTranspose2d(3, 4, 3),
        lambda m: m.nn.Sequential(m.nn.Linear(20, 30), m.nn.BatchNorm1d(30), m.nn.Linear(30, 2)),
    ):  # fmt: skip
        torch.manual_seed(0)
        ig.manual_seed(0)
        ours, theirs = make(ig), make(torch)
        for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-6, atol=1e-7, err_msg=name)


def test_states_travel() -> None:
    torch.manual_seed(123)
    torch.randn(3), torch.rand(700)
    ig.set_rng_state(ig.from_numpy(torch.get_rng_state().numpy()))
    np.testing.assert_allclose(ig.randn(5).numpy(), torch.randn(5).numpy(), rtol=1e-6)
    ig.randn(2)
    torch.set_rng_state(torch.from_numpy(ig.get_rng_state().numpy()))
    np.testing.assert_array_equal(ig.rand(900).numpy(), torch.rand(900).numpy())
    assert ig.initial_seed() == torch.initial_seed() == 123
    torch.manual_seed(5)
    g = ig.Generator().set_state(ig.from_numpy(torch.get_rng_state().numpy()))
    np.testing.assert_array_equal(ig.rand(3, generator=g).numpy(), torch.rand(3).numpy())
