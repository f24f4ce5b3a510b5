"""utils.checkpoint: the same gradients with less kept; what is saved is really dropped."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import nn
from ingot.utils.checkpoint import CheckpointError, checkpoint, checkpoint_sequential


def network() -> nn.Module:
    ingot.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
    )  # fmt: skip


def gradients(net: nn.Module, x: Any, run: Any) -> list[np.ndarray]:
    net.zero_grad()
    x.grad = None
    ingot.manual_seed(5)
    y = run(x)
    ingot.rand(7)  # the random state has moved on when the backward runs
    (y * y).sum().backward()
    return [p.grad.numpy().copy() for p in (x, *net.parameters())]


@pytest.mark.parametrize(
    "run",
    [
        lambda net: lambda x: checkpoint(net, x, use_reentrant=False),
        lambda net: lambda x: checkpoint(net, x, use_reentrant=True),
        lambda net: lambda x: checkpoint_sequential(net, 3, x, use_reentrant=False),
        lambda net: lambda x: checkpoint(lambda a, *, b: net(a + b), x, b=ingot.zeros(1), use_reentrant=False),
    ],
)
def test_gradients_are_the_same(run: Any) -> None:
    net, x = network(), ingot.randn(5, 6, requires_grad=True)
    for a, b in zip(gradients(net, x, net), gradients(net, x, run(net)), strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_intermediate_results_are_not_kept() -> None:
    made: list[Any] = []

    def function(x: Any) -> Any:
        for _ in range(4):
            x = x.exp()
            made.append(weakref.ref(x._data))
            x = x.sin()
        return x.sum()

    x = ingot.ones(100, requires_grad=True)
    y = checkpoint(function, x, use_reentrant=False)
    gc.collect()
    assert [r() is None for r in made] == [True] * 4
    y.backward()
    assert len(made) == 8 and x.grad is not None
    made.clear()
    kept = function(x)
    gc.collect()
    assert any(r() is not None for r in made) and kept is not None


def test_tensors_of_the_surroundings_get_their_gradients() -> None:
    """What the function reads besides its arguments: a leaf, and a result computed before."""
    w = ingot.tensor([2.0, 3.0], requires_grad=True)
    found = []
    for use in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=False)):
        w.grad = None
        h = (w * w).exp()
        x = ingot.tensor([0.1, 0.2], requires_grad=True)
        y = use(lambda x, h=h: (x * h).sin() * w, x)
        (y.sum() + h.sum()).backward()
        found.append((w.grad.numpy().copy(), x.grad.numpy().copy()))
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_second_derivatives_and_retained_graphs() -> None:
    x = ingot.tensor([0.3, 0.7], dtype=ingot.float64, requires_grad=True)
    results = []
    for use in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=False)):
        y = use(lambda x: (x.exp() * x).sin().sum(), x)
        (g,) = ingot.autograd.grad(y, x, create_graph=True)
        (h,) = ingot.autograd.grad((g * g).sum(), x, retain_graph=True)
        (again,) = ingot.autograd.grad((g * g).sum(), x)
        results.append((g.detach().numpy(), h.numpy(), again.numpy()))
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_a_changed_argument_is_noticed() -> None:
    x = ingot.ones(3, requires_grad=True) * 2
    y = checkpoint(lambda x: x.exp().sin(), x, use_reentrant=False)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_another_function_the_second_time() -> None:
    runs: list[int] = []

    def function(x: Any) -> Any:
        runs.append(0)
        return x.exp().sin() if len(runs) == 1 else x.exp()

    y = checkpoint(function, ingot.ones(2, requires_grad=True), use_reentrant=False)
    with pytest.raises(CheckpointError, match="A different number of tensors was saved during the original forward"):
        y.sum().backward()


def test_the_repetition_runs_in_the_same_autocast_region() -> None:
    net, x = nn.Linear(8, 8), ingot.randn(4, 8, requires_grad=True)
    found = []
    for use in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=False)):
        net.zero_grad()
        with ingot.autocast("cpu", ingot.bfloat16):
            y = use(lambda x: net(net(x)).tanh(), x)
        assert y.dtype is ingot.bfloat16
        y.float().sum().backward()
        found.append(net.weight.grad.numpy().copy())
    assert np.array_equal(*found)


def test_words_of_pytorch() -> None:
    x = ingot.ones(2, requires_grad=True)
    with pytest.warns(UserWarning, match="the use_reentrant parameter should be passed explicitly"):
        checkpoint(lambda x: x * 2, x)
    with pytest.raises(ValueError, match="Unexpected keyword arguments: b"):
        checkpoint(lambda x, b: x, x, use_reentrant=True, b=1)
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad=True"):
        assert not checkpoint(lambda y: y * x, ingot.ones(2), use_reentrant=True).requires_grad
    assert checkpoint(lambda y: y * x, ingot.ones(2), use_reentrant=False).requires_grad


def test_compiled_training_runs_through_it() -> None:
    net = network().eval()

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            return checkpoint(self.net, x, use_reentrant=False)

    x = ingot.randn(4, 6)
    assert np.allclose(ingot.compile(Checkpointed(), x)(x).numpy(), net(x).detach().numpy(), atol=1e-5)
