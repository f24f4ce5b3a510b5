"""Compiled training steps against PyTorch from the same weights and batches, on real and on random data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import nn, optim
from networks import models, torch_twin


def relative(actual: np.ndarray, wanted: np.ndarray) -> float:
    """Of the whole array; what is zero but for rounding (a bias before a batch norm) counts as 1e-6 an element."""
    return float(np.linalg.norm(actual - wanted) / max(float(np.linalg.norm(wanted)), 1e-6 * wanted.size**0.5))


class Pair:
    """A network and its PyTorch twin, trained side by side."""

    def __init__(self, make: Callable[[Any], Any], dtype: type, **sgd: Any) -> None:
        import torch

        self.torch, self.dtype = torch, dtype
        torch.set_num_threads(1)  # two libraries' spinning threads on the same cores wait for each other
        ingot.manual_seed(0)
        self.model = make(models).to(ingot.float64 if dtype is np.float64 else ingot.float32)
        self.twin = torch_twin(self.model, make).to(torch.float64 if dtype is np.float64 else torch.float32)
        self.model.train()
        self.twin.train()
        optimizer = optim.SGD(self.model.parameters(), **sgd)
        self.step = ingot.compile_step(self.model, nn.CrossEntropyLoss(), optimizer, threads=1)
        self.loss = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.twin.parameters(), **sgd)

    def run(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], bound: float, whole: bool = False) -> float:
        """Train on ``batches``; every loss and, after the last step, every parameter and buffer agree within
        ``bound`` (relative; ``whole``: all parameters as one vector). Returns the largest difference."""
        worst = 0.0
        for k, (x, y) in enumerate(batches):
            x = x.astype(self.dtype)
            ours = self.step(x, y).item()
            self.optimizer.zero_grad()
            loss = self.loss(self.twin(self.torch.from_numpy(x)), self.torch.from_numpy(y))
            loss.backward()
            self.optimizer.step()
            theirs = loss.item()
            worst = max(worst, abs(ours - theirs) / abs(theirs))
            assert worst <= bound, f"step {k}: loss {ours!r}, PyTorch {theirs!r}"
        wanted = self.twin.state_dict()
        found = self.model.state_dict()
        assert list(found) == list(wanted)
        if whole:
            keys = [key for key in wanted if not key.endswith("num_batches_tracked")]
            ours, theirs = (np.concatenate([s[k].numpy().ravel() for k in keys]) for s in (found, wanted))
            difference = relative(ours, theirs)
            print(f"largest difference of a loss {worst:.1e}, of all parameters {difference:.1e}")
            assert difference <= bound, f"the parameters differ by {difference:.2e}"
            return max(worst, difference)
        for key, tensor in wanted.items():
            actual, expected = found[key].numpy(), tensor.numpy()
            assert actual.dtype == expected.dtype, key
            if key.endswith("num_batches_tracked"):
                assert actual == expected, key
                continue
            difference = relative(actual, expected)
            worst = max(worst, difference)
            assert difference <= bound, f"{key} differs by {difference:.2e}"
        if self.dtype is np.float64:  # in float32 the gradients of two runs part sooner than the parameters
            self._compare_momentum(bound)
        print(f"largest relative difference {worst:.1e}")
        return worst

    def _compare_momentum(self, bound: float) -> None:
        for parameter, twin in zip(self.model.parameters(), self.twin.parameters(), strict=True):
            momentum = self.optimizer.state[twin].get("momentum_buffer")
            if momentum is not None:
                ours = self.step.optimizer.state[parameter]["momentum_buffer"].numpy()
                difference = relative(ours, momentum.numpy())
                assert difference <= 10 * bound, f"momentum of a parameter {ours.shape} differs by {difference:.2e}"


@pytest.fixture(scope="module")
def fashion(data_dir: Any) -> tuple[np.ndarray, np.ndarray]:
    import fashion_mnist

    return fashion_mnist.load(data_dir, "train")


def batches(data: tuple[np.ndarray, np.ndarray], size: int, count: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    images, labels = data
    order = np.random.default_rng(0).permutation(len(images))
    for k in range(count):
        chosen = order[k * size : (k + 1) * size]
        yield images[chosen], labels[chosen]


@pytest.mark.parity
@pytest.mark.parametrize(("dtype", "steps", "bound"), [(np.float64, 100, 1e-6), (np.float32, 50, 1e-3)])
def test_lenet_on_fashion_mnist(fashion: Any, dtype: type, steps: int, bound: float) -> None:
    pytest.importorskip("torch")
    pair = Pair(lambda m: m.LeNet5(), dtype, lr=0.05, momentum=0.9)
    pair.run(batches(fashion, 64, steps), bound)


SGD = {
    "plain": {"lr": 0.05},
    "momentum": {"lr": 0.05, "momentum": 0.9},
    "decay": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-3, "dampening": 0.1},
    "nesterov": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-3, "nesterov": True},
}


def random_batches(shape: tuple[int, ...], count: int, seed: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.standard_normal(shape).astype(np.float32), rng.integers(0, 10, shape[0])


@pytest.mark.parity
@pytest.mark.parametrize("rule", SGD)
def test_optimizer_rules(rule: str) -> None:
    pytest.importorskip("torch")
    Pair(lambda m: m.LeNet5(), np.float64, **SGD[rule]).run(random_batches((5, 1, 28, 28), 6, seed=1), 1e-10)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_resnet20_with_batch_norm_in_training_mode(dtype: type) -> None:
    """Batch statistics, their gradients and the running statistics; option A shortcuts; Nesterov and decay.

    Float32 compares all parameters as one vector: an activation next to zero may take another side of its ReLU than
    PyTorch's (which differs from itself there between one thread and two), and small biases feel that.
    """
    pytest.importorskip("torch")
    pair = Pair(lambda m: m.resnet20(), dtype, lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
    if dtype is np.float64:
        pair.run(random_batches((8, 3, 32, 32), 5, seed=2), 1e-9)
    else:
        pair.run(random_batches((8, 3, 32, 32), 3, seed=2), 1e-3, whole=True)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["mobilenet", "unet", "encoder"])
def test_other_layers(name: str) -> None:
    """Depthwise convolutions, concatenation, upsampling, attention, layer norm, GELU: three steps in float64."""
    torch = pytest.importorskip("torch")

    def unet(m: Any) -> Any:
        return wrap(m, m.UNet(in_channels=2, num_classes=10, base=4))

    def wrap(m: Any, net: Any) -> Any:
        library = torch if m is not models else ingot

        class Pooled(library.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Any) -> Any:
                y = self.net(x)
                return y.mean((2, 3)) if y.ndim == 4 else y.mean(1)[:, :10]

        return Pooled()

    def mobilenet(m: Any) -> Any:
        return wrap(m, m.torch.nn.Sequential(
            m._conv_bn_relu6(2, 8, 3, 2), m.InvertedResidual(8, 8, 1, 2), m.InvertedResidual(8, 10, 2, 3)
        ))  # fmt: skip

    make, shape = {
        "mobilenet": (mobilenet, (4, 2, 16, 16)),
        "unet": (unet, (2, 2, 16, 16)),
        "encoder": (lambda m: wrap(m, m.Encoder(layers=1, width=24, heads=3)), (3, 5, 24)),
    }[name]
    # Batch norm over two values each, at the bottom of the U-Net, magnifies the last bits.
    bound = 1e-8 if name == "unet" else 1e-9
    Pair(make, np.float64, lr=0.05, momentum=0.9).run(random_batches(shape, 3, seed=3), bound)
