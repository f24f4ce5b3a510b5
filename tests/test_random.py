"""Random streams: PyTorch's numbers for a seed, states, distributions, errors."""

from __future__ import annotations

import pickle

import ingot as ig
import numpy as np
import pytest
from ingot import nn
from ingot.ir.errors import UnsupportedError


def test_seed_1_gives_pytorchs_normal_numbers() -> None:
    ig.manual_seed(1)
    np.testing.assert_allclose(ig.randn(3).numpy(), [0.6614, 0.2669, 0.0617], atol=5e-5)
    ig.manual_seed(1)
    inputs = ig.randn(2, 3)
    np.testing.assert_allclose(inputs.numpy(), [[0.6614, 0.2669, 0.0617], [0.6213, -0.4519, -0.1661]], atol=5e-5)


def test_cross_entropy_of_the_seeded_inputs() -> None:
    ig.manual_seed(1)
    inputs = ig.randn(2, 3)
    logs = nn.functional.log_softmax(inputs, dim=1)
    np.testing.assert_allclose(
        logs.numpy(), [[-0.7989, -1.1933, -1.3986], [-0.5861, -1.6593, -1.3735]], atol=5e-5
    )
    loss = nn.functional.cross_entropy(inputs, ig.tensor([0, 2]))
    assert loss.item() == pytest.approx(1.0862, abs=5e-5)
    ig.manual_seed(1)
    x, y = ig.randn(3), ig.tensor([1.0, 0.0, 0.0])
    np.testing.assert_allclose(ig.sigmoid(x).numpy(), [0.6596, 0.5663, 0.5154], atol=5e-5)
    loss = -(y * x.sigmoid().log() + (1 - y) * (1 - x.sigmoid()).log()).mean()
    assert loss.item() == pytest.approx(0.6587, abs=5e-5)


def test_states_and_generators() -> None:
    ig.manual_seed(3)
    ig.randn(3)  # leaves the second number of a pair
    state = ig.get_rng_state()
    assert state.dtype is ig.uint8 and state.shape == (5056,)
    a = [ig.randn(3), ig.rand(700), ig.randperm(20)]
    ig.set_rng_state(state)
    for x, y in zip(a, [ig.randn(3), ig.rand(700), ig.randperm(20)], strict=True):
        assert ig.equal(x, y)
    assert ig.initial_seed() == 3
    g = ig.Generator().manual_seed(11)
    first = ig.rand(5, generator=g)
    twin = pickle.loads(pickle.dumps(g))
    assert ig.equal(ig.rand(5, generator=g), ig.rand(5, generator=twin))
    assert ig.equal(first, ig.rand(5, generator=g.manual_seed(11))) and g.initial_seed() == 11
    assert g.seed() == g.initial_seed()
    other = g.clone_state()
    assert ig.equal(ig.randn(40, generator=g), ig.randn(40, generator=other))
    assert ig.Generator().manual_seed(-1).initial_seed() == 2**64 - 1
    with pytest.raises(TypeError, match="ByteTensor"):
        ig.set_rng_state(ig.zeros(5056))
    with pytest.raises(RuntimeError, match="size 5056"):
        ig.set_rng_state(ig.zeros(3, dtype=ig.uint8))
    with pytest.raises(RuntimeError, match="64 bits"):
        ig.manual_seed(2**64)


def test_fork_leaves_the_stream_alone() -> None:
    from ingot.frontend import random

    ig.manual_seed(2)
    with random.fork_rng():
        inner = ig.rand(3)
    assert ig.equal(inner, ig.rand(3))


def test_dropout_and_draws_have_streams_of_their_own() -> None:
    """A mask advances the counter only, so initial weights do not depend on the dropout before them."""
    ig.manual_seed(4)
    a = ig.rand(4)
    ig.manual_seed(4)
    nn.functional.dropout(ig.ones(100))
    assert ig.equal(a, ig.rand(4))


@pytest.mark.parametrize(
    ("fill", "mean", "spread"),
    [
        (lambda t: t.uniform_(2, 4), 3, 2 / 12**0.5),
        (lambda t: t.normal_(1, 2), 1, 2),
        (lambda t: t.exponential_(2.0), 0.5, 0.5),
        (lambda t: t.geometric_(0.25), 4, 12**0.5),
        (lambda t: t.log_normal_(0, 0.5), np.exp(0.125), np.exp(0.125) * (np.exp(0.25) - 1) ** 0.5),
        (lambda t: t.bernoulli_(0.3), 0.3, 0.21**0.5),
        (lambda t: t.bernoulli_(ig.full((200, 200), 0.3)), 0.3, 0.21**0.5),
        (lambda t: t.random_(10), 4.5, 8.25**0.5),
        (lambda t: t.random_(10, 12), 10.5, 0.5),
    ],
)
@pytest.mark.parametrize("dtype", [ig.float32, ig.float64])
def test_moments(fill, mean, spread, dtype) -> None:
    ig.manual_seed(0)
    t = ig.empty(200, 200, dtype=dtype)
    assert fill(t) is t
    values = t.numpy()
    error = 5 * spread / 200  # five standard errors of 40000 samples
    assert abs(values.mean() - mean) < error and abs(values.std() - spread) < 5 * error
    ig.manual_seed(0)
    assert ig.equal(fill(ig.empty(200, 200, dtype=dtype)), t)


def test_choosing() -> None:
    ig.manual_seed(0)
    weights = ig.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 1.0]])
    picked = ig.multinomial(weights, 10000, replacement=True)
    assert picked.shape == (2, 10000) and picked.dtype is ig.int64
    shares = np.stack([np.bincount(row, minlength=3) for row in picked.numpy()]) / 10000
    np.testing.assert_allclose(shares, [[0, 0.25, 0.75], [0.5, 0, 0.5]], atol=0.03)
    assert sorted(ig.multinomial(ig.ones(6), 6).tolist()) == list(range(6))
    assert sorted(ig.randperm(100).tolist()) == list(range(100))
    with pytest.raises(RuntimeError, match="without replacement"):
        ig.multinomial(weights, 4)
    with pytest.raises(RuntimeError, match="element < 0"):
        ig.multinomial(ig.tensor([-1.0, 2.0]), 1)
    with pytest.raises(RuntimeError, match="sum of probabilities"):
        ig.multinomial(ig.zeros(3), 1)


def test_wrong_arguments() -> None:
    t = ig.zeros(3)
    for fill, words in [
        (lambda: t.uniform_(2, 1), r"\[from, to\) range"),
        (lambda: t.normal_(0, -1), "std >= 0.0"),
        (lambda: t.exponential_(0), "lambda > 0.0"),
        (lambda: t.geometric_(1), r"p to be in \(0, 1\)"),
        (lambda: t.bernoulli_(1.5), r"p to be in \[0, 1\]"),
        (lambda: ig.bernoulli(ig.tensor([2.0])), "p_in"),
        (lambda: t.random_(3, 3), "from=3 >= to=3"),
        (lambda: ig.randint(0, 300, (2,), dtype=ig.uint8), "to - 1 is out of bounds"),
        (lambda: t.requires_grad_().uniform_(), "leaf Variable"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            fill()
    with pytest.raises(NotImplementedError, match="not implemented for 'Long'"):
        ig.zeros(3, dtype=ig.int64).normal_()
    with pytest.raises(UnsupportedError, match="exponential_ cannot be traced"):
        ig.compile(lambda x: x + ig.empty(3).exponential_(), ig.zeros(3))
    with pytest.raises(UnsupportedError, match="device"):
        ig.Generator("cuda")


def test_a_compiled_forward_that_draws_repeats_its_noise_for_gradients() -> None:
    class Noisy(nn.Module):
        def forward(self, x):
            return (x * ig.rand(5)).sum()

    x = ig.ones(5, requires_grad=True)
    out = ig.compile(Noisy())(x)
    out.backward()
    assert out.item() == pytest.approx(x.grad.sum().item(), rel=1e-6)
