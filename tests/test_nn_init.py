"""Initial values: formulas, distributions, errors, and the loops of the specification."""

from __future__ import annotations

import math
from typing import Any

import ingot as torch
import ingot.nn as nn
import numpy as np
import pytest
from ingot.nn import init


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def weight(*shape: int) -> Any:
    return nn.Parameter(torch.empty(*shape))


GAIN = math.sqrt(2 / (1 + 0.1**2))


@pytest.mark.parametrize(("fill", "bound"), [
    (lambda w: init.xavier_uniform_(w, gain=2.0), 2 * math.sqrt(6 / (50 * 9 + 40 * 9))),
    (lambda w: init.kaiming_uniform_(w, a=0.1), GAIN * math.sqrt(3 / (50 * 9))),
    (lambda w: init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu"), math.sqrt(2) * math.sqrt(3 / (40 * 9))),
    (lambda w: init.uniform_(w, -0.5, 0.5), 0.5),
])  # fmt: skip
def test_uniform(fill: Any, bound: float) -> None:
    w = weight(40, 50, 3, 3)
    assert fill(w) is w and w.requires_grad and w.is_leaf
    assert w.abs().max().item() <= bound and w.abs().max().item() > 0.99 * bound
    assert abs(w.mean().item()) < 0.02 * bound
    assert abs(w.std().item() - bound / math.sqrt(3)) < 0.02 * bound


@pytest.mark.parametrize(("fill", "std"), [
    (lambda w: init.xavier_normal_(w), math.sqrt(2 / (50 * 9 + 40 * 9))),
    (lambda w: init.kaiming_normal_(w, a=0.1), GAIN / math.sqrt(50 * 9)),
    (lambda w: init.kaiming_normal_(w, 0, "fan_out", "relu"), math.sqrt(2 / (40 * 9))),
    (lambda w: init.normal_(w, 0, 0.02), 0.02),
])  # fmt: skip
def test_normal(fill: Any, std: float) -> None:
    w = weight(40, 50, 3, 3)
    assert fill(w) is w
    assert abs(w.std().item() / std - 1) < 0.02 and abs(w.mean().item()) < 0.02 * std


def test_constants_and_fans() -> None:
    w = weight(4, 3, 2, 5)
    assert init._calculate_fan_in_and_fan_out(w) == (30, 40)
    assert (init.constant_(w, 2.5) == 2.5).all() and (init.ones_(w) == 1).all() and (init.zeros_(w) == 0).all()
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        init.xavier_uniform_(weight(3))
    with pytest.raises(ValueError, match="Mode fan not supported"):
        init.kaiming_normal_(w, mode="fan")
    with pytest.raises(ValueError, match="Unsupported nonlinearity"):
        init.calculate_gain("mish")
    assert init.calculate_gain("tanh") == 5 / 3 and init.calculate_gain("leaky_relu", 1) == 1
    with pytest.warns(UserWarning, match="zero-element"):
        init.kaiming_uniform_(weight(0, 3))
    with pytest.warns(FutureWarning, match="deprecated"):
        init.normal(w)


def test_truncated() -> None:
    w = init.trunc_normal_(weight(200, 100), std=2.0)
    assert w.abs().max().item() <= 2 and abs(w.std().item() - 2 * 0.5396) < 0.02
    tail = init.trunc_normal_(weight(200, 100), mean=0.0, std=1.0, a=1.5, b=4.0)  # 7 %: accepted from uniform numbers
    assert tail.min().item() >= 1.5 and abs(tail.mean().item() - 1.938) < 0.02
    with pytest.warns(UserWarning, match="2 std"):
        init.trunc_normal_(weight(2, 2), mean=9.0)


def test_structured() -> None:
    assert init.eye_(weight(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]
    kernel = init.dirac_(weight(4, 2, 3, 3), groups=2)
    x = torch.randn(1, 4, 5, 5)
    np.testing.assert_array_equal(nn.functional.conv2d(x, kernel.detach(), padding=1, groups=2).numpy(), x.numpy())
    q = init.orthogonal_(weight(6, 4, 2), gain=2.0).detach().numpy().reshape(6, 8)
    np.testing.assert_allclose(q @ q.T, 4 * np.eye(6), atol=1e-5)
    s = init.sparse_(weight(10, 7), 0.25).detach().numpy()
    assert ((s == 0).sum(0) == 3).all()
    for bad in (init.eye_, lambda w: init.sparse_(w, 0.1)):
        with pytest.raises(ValueError, match="2 dimensions"):
            bad(weight(3))
    with pytest.raises(ValueError, match="3, 4, or 5"):
        init.dirac_(weight(3, 3))


def test_generator() -> None:
    a, b = (init.normal_(weight(5), generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)


class Net(nn.Module):
    """Initialises itself at the end of its constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 64, 3), nn.ConvTranspose2d(64, 8, 3)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 200)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                m.weight.data.normal_(0, math.sqrt(2.0 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels)))
            elif isinstance(m, nn.BatchNorm2d):
                m.weight.data.fill_(1)
                m.bias.data.zero_()

    def initialize_weights(self) -> None:
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                init.xavier_normal_(m.weight.data)
                if m.bias is not None:
                    m.bias.data.zero_()
            elif isinstance(m, nn.BatchNorm2d):
                m.weight.data.fill_(1)
                m.bias.data.zero_()
            elif isinstance(m, nn.Linear):
                init.normal_(m.weight.data, 0, 0.1)


def weights_init(m: nn.Module) -> None:
    name = m.__class__.__name__
    if name.find("Conv") != -1:
        init.normal_(m.weight.data, 0.0, 0.02)
    elif name.find("BatchNorm") != -1:
        init.normal_(m.weight.data, 1.0, 0.02)
        init.constant_(m.bias.data, 0)


def test_loops_over_modules() -> None:
    net = Net()
    assert abs(net.conv.weight.std().item() / math.sqrt(2 / (9 * 64)) - 1) < 0.1
    net.initialize_weights()
    assert abs(net.conv.weight.std().item() / math.sqrt(2 / (67 * 9)) - 1) < 0.1
    assert (net.conv.bias == 0).all() and (net.norm.weight == 1).all()
    assert abs(net.fc.weight.std().item() - 0.1) < 0.01
    net.apply(weights_init)
    for layer in (net.conv, net.up):  # ConvTranspose2d matches, too
        assert abs(layer.weight.std().item() - 0.02) < 0.002
    assert abs(net.norm.weight.mean().item() - 1) < 0.05 and (net.norm.bias == 0).all()


def test_variance_is_kept() -> None:
    """What initial values are for: the size of activations and gradients over 20 layers."""
    layers = [nn.Linear(128, 128, bias=False) for _ in range(20)]
    for layer in layers:
        init.kaiming_normal_(layer.weight, nonlinearity="relu")
    x = torch.randn(256, 128, requires_grad=True)
    y = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))(x)
    (y * torch.randn(256, 128)).sum().backward()
    assert 0.1 < (y**2).mean().item() < 10 and 0.01 < x.grad.std().item() < 10


@pytest.mark.parity
def test_same_numbers_as_pytorch() -> None:
    theirs = pytest.importorskip("torch")
    for name, kwargs in (("trunc_normal_", {"std": 0.5}), ("xavier_uniform_", {}), ("kaiming_normal_", {})):
        torch.manual_seed(5)
        theirs.manual_seed(5)
        ours = getattr(init, name)(torch.empty(20, 30), **kwargs)
        want = getattr(theirs.nn.init, name)(theirs.empty(20, 30), **kwargs)
        np.testing.assert_allclose(ours.numpy(), want.numpy(), rtol=1e-5, atol=1e-7)
