"""Compiled training steps without PyTorch: against finite differences of the eager loss, and on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import nn, optim
from networks import models

NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 4)), (5, 7), 4),
    "lenet": (models.LeNet5, (3, 1, 28, 28), 10),
    "resnet": (lambda: models.CifarResNet(1), (4, 3, 12, 12), 10),
    "encoder": (
        lambda: nn.Sequential(models.Encoder(layers=1, width=12, heads=2), nn.Flatten(), nn.Linear(60, 4)),
        (3, 5, 12),
        4,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_update_is_the_gradient(name: str) -> None:
    """Plain SGD moves every parameter by -lr * gradient; the gradient fits differences of the eager loss."""
    make, shape, classes = NETWORKS[name]
    ingot.manual_seed(0)
    model = make().to(ingot.float64).train()
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape), rng.integers(0, classes, shape[0])
    criterion = nn.CrossEntropyLoss()
    parameters = dict(model.named_parameters())
    before = {key: p.detach().numpy().copy() for key, p in parameters.items()}
    lr = 0.5
    step = ingot.compile_step(model, criterion, optim.SGD(model.parameters(), lr=lr))
    loss = step(x, y).item()
    gradient = {key: (before[key] - p.detach().numpy()) / lr for key, p in parameters.items()}

    def loss_at(distance: float, direction: dict[str, np.ndarray]) -> float:
        for key, p in parameters.items():
            p.detach().numpy()[...] = before[key] + distance * direction.get(key, 0.0)
        return float(criterion(model(ingot.from_numpy(x)), ingot.from_numpy(y)).detach().item())

    assert loss_at(0, {}) == pytest.approx(loss, rel=1e-12)
    for key, value in before.items():  # each parameter alone, along its own gradient and along a random direction
        for direction in (gradient[key] / max(np.linalg.norm(gradient[key]), 1e-12), rng.standard_normal(value.shape)):
            h = 1e-6 / max(float(np.linalg.norm(direction)), 1e-12)
            near = (loss_at(h, {key: direction}) - loss_at(-h, {key: direction})) / (2 * h)
            claimed = float((gradient[key] * direction).sum())
            scale = abs(claimed) + float(np.linalg.norm(direction)) * (1e-3 + float(np.linalg.norm(gradient[key])))
            assert abs(near - claimed) <= 1e-5 * scale, f"{name}.{key}: gradient {claimed}, difference {near}"


def test_learning_rate_and_mode_are_followed() -> None:
    """One compile per mode; the learning rate is read at every call."""
    ingot.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).to(ingot.float64)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = ingot.compile_step(model, nn.CrossEntropyLoss(), optimizer)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 4)), rng.integers(0, 3, 6)
    step(x, y)
    optimizer.param_groups[0]["lr"] = 0.0
    frozen = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    step(x, y)
    assert len(step.variants) == 1
    for key, value in model.state_dict().items():
        running = "running" in key or "tracked" in key
        assert np.array_equal(value.numpy(), frozen[key]) != running, key
    model.eval()
    held = model[1].running_mean.numpy().copy()
    step(x, y)
    assert len(step.variants) == 2
    assert np.array_equal(model[1].running_mean.numpy(), held), "eval mode must leave running statistics alone"
    step(x[:3], y[:3])
    assert len(step.variants) == 3


def test_steps_repeat_to_the_bit_and_threads_do_not_matter() -> None:
    def train(threads: int) -> dict[str, np.ndarray]:
        ingot.manual_seed(5)
        model = models.CifarResNet(1).train()
        step = ingot.compile_step(
            model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1, momentum=0.9), threads=threads
        )
        rng = np.random.default_rng(0)
        for _ in range(3):
            step(rng.standard_normal((8, 3, 16, 16)).astype(np.float32), rng.integers(0, 10, 8))
        return {k: v.numpy().copy() for k, v in model.state_dict().items()}

    first, again, two = train(1), train(1), train(2)
    for key, value in first.items():
        assert np.array_equal(value, again[key]), f"{key} differs between two runs"
        assert np.array_equal(value, two[key]), f"{key} differs between one thread and two"


def test_dropout_in_a_step() -> None:
    """Dropout draws anew in every step, the same numbers after the same seed, and nothing in eval mode."""

    def losses() -> list[float]:
        ingot.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.Linear(32, 3))
        step = ingot.compile_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.0))
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((4, 6)).astype(np.float32), rng.integers(0, 3, 4)
        found = [step(x, y).item() for _ in range(4)]
        model.eval()
        return found + [step(x, y).item() for _ in range(2)]

    first = losses()
    assert len(set(first[:4])) == 4, first
    assert first[4] == first[5]
    assert first == losses()


@pytest.mark.timeout(300)
def test_one_epoch_of_fashion_mnist(data_dir: Path) -> None:
    import fashion_mnist

    ingot.manual_seed(0)
    model: Any = models.LeNet5()
    losses, step = fashion_mnist.train_epoch(model, *fashion_mnist.load(data_dir, "train"))
    assert len(step.variants) == 1
    assert losses[-100:].mean() < 0.6 < 2.0 < losses[:5].mean()
    share = fashion_mnist.accuracy(model.eval(), *fashion_mnist.load(data_dir, "t10k"))
    print(f"accuracy after one epoch: {share:.2%}")
    assert share >= 0.8
