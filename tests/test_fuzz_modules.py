"""Random module trees through ``ingot.compile`` against eager mode in float64, at several batch sizes."""

from __future__ import annotations

from typing import Any

import ingot
import numpy as np
import pytest
from ingot import nn
from ingot.ir.dtypes import float32, tolerance

ACTIVATIONS = [nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.ReLU6, nn.Mish,
               nn.Softplus, nn.Hardtanh, nn.SELU, nn.LogSigmoid, nn.Hardsigmoid, nn.PReLU]  # fmt: skip


class Residual(nn.Module):
    """x + body(x), with a projection where the shapes differ."""

    def __init__(self, body: Any, project: Any) -> None:
        super().__init__()
        self.body = body
        self.project = project

    def forward(self, x: Any) -> Any:
        return self.project(x) + self.body(x)


class Branches(nn.Module):
    """Several bodies on one input, put side by side, channels taken apart again at an odd place."""

    def __init__(self, bodies: list[Any], cut: int) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)
        self.cut = cut

    def forward(self, x: Any) -> Any:
        y = ingot.cat([body(x) for body in self.bodies], 1)
        return ingot.cat([y[:, self.cut :], y[:, : self.cut] * 0.5], 1)


class Attention(nn.Module):
    """Self-attention over the pixels, heads split by view and transpose."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        n, c, h, w = x.shape
        t = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = (
            part.reshape(n, h * w, self.heads, c // self.heads).transpose(1, 2)
            for part in self.qkv(t).chunk(3, -1)
        )
        scores = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        y = self.out((scores @ v).transpose(1, 2).reshape(n, h * w, c))
        return x + y.transpose(1, 2).reshape(n, c, h, w)


def _conv(rng: np.random.Generator, c: int, out: int, stride: int = 1) -> Any:
    k = int(rng.choice([1, 3, 3, 5]))
    groups = 1
    if rng.random() < 0.25 and out == c:
        groups = c
    return nn.Conv2d(c, out, k, stride=stride, padding=k // 2, groups=groups, bias=bool(rng.random() < 0.6))


def _body(rng: np.random.Generator, c: int, out: int, stride: int) -> Any:
    layers: list[Any] = []
    for i in range(int(rng.integers(1, 3))):
        last = c if i == 0 else out
        if rng.random() < 0.3:
            layers.append(nn.BatchNorm2d(last))
        layers.append(_conv(rng, last, out, stride if i == 0 else 1))
        if rng.random() < 0.5:
            layers.append(nn.BatchNorm2d(out))
        if rng.random() < 0.8:
            layers.append(ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))]())
    return nn.Sequential(*layers)


def make_module(rng: np.random.Generator, channels: int) -> Any:
    """[N, channels, H, W] -> [N, 10]."""
    layers: list[Any] = []
    c = channels
    for _ in range(int(rng.integers(1, 4))):
        kind = int(rng.integers(5))
        out = int(rng.choice([3, 8, 13, 16, 17, 24, 32, 40]))
        if kind == 0:
            layers.append(_body(rng, c, out, int(rng.choice([1, 2]))))
        elif kind == 1:
            stride = int(rng.choice([1, 2]))
            project = nn.Identity() if out == c and stride == 1 else nn.Conv2d(c, out, 1, stride=stride)
            layers.append(Residual(_body(rng, c, out, stride), project))
        elif kind == 2:
            bodies = [_body(rng, c, int(rng.choice([1, 4, 7, 16])), 1) for _ in range(int(rng.integers(2, 4)))]
            out = _width(nn.Sequential(*bodies), bodies)
            layers.append(Branches(bodies, int(rng.integers(1, out))))
        elif kind == 3:
            pools = [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, 1)]
            layers.append(pools[int(rng.integers(len(pools)))])
            out = c
        else:
            heads = int(rng.choice([h for h in (1, 2, 3, 4) if c % h == 0]))
            layers.append(Attention(c, heads))
            out = c
        c = out
    size = int(rng.choice([1, 2]))
    head = [nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(c * size * size, 10)]
    return nn.Sequential(*layers, *head, *([nn.LogSoftmax(1)] if rng.random() < 0.4 else []))


def _width(_: Any, bodies: list[Any]) -> int:
    """Channels of the bodies together."""
    return sum([m.out_channels for m in body.modules() if isinstance(m, nn.Conv2d)][-1] for body in bodies)


def _shake(model: Any, rng: np.random.Generator) -> None:
    """Statistics and weights as after training; no shift is zero."""
    for name, value in model.state_dict().items():
        array = value.numpy()
        if name.endswith("running_var"):
            array[...] = rng.uniform(0.5, 2, array.shape)
        elif name.endswith(("running_mean", "bias")):
            array[...] = rng.normal(size=array.shape) * 0.3


@pytest.mark.parametrize("number", range(6))
def test_random_module(number: int) -> None:
    rng = np.random.default_rng([7, number])
    check_module(rng)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_random_modules(request: pytest.FixtureRequest, seed: int) -> None:
    for number in range(request.config.getoption("--fuzz-seeds")):
        print(f"module {number} of seed {seed}")
        check_module(np.random.default_rng([seed, number]))


def check_module(rng: np.random.Generator) -> None:
    channels, side = int(rng.choice([1, 3, 8, 20])), int(rng.integers(5, 15))
    ingot.manual_seed(int(rng.integers(1 << 30)))
    model = make_module(rng, channels).eval()
    _shake(model, rng)
    inputs = [rng.normal(size=(n, channels, side, side)).astype(np.float32) for n in (2, 1, 5)]
    exe = ingot.compile(model, inputs[0], dynamic=ingot.Dim("N", 1, 6) if rng.random() < 0.5 else None)
    fixed = not exe.program.symbols
    got = [exe(x) for x in (inputs[:1] if fixed else inputs)]
    live = ingot.compile(model)(ingot.from_numpy(inputs[0])).detach().numpy() if rng.random() < 0.3 else got[0]
    model.double()
    for y, x in zip([live, *got], [inputs[0], *inputs], strict=False):
        with ingot.no_grad():
            want = model(ingot.from_numpy(x.astype(np.float64))).numpy()
        rtol, _ = tolerance(float32, 512)
        error = float(np.abs(y - want).max()) / float(np.abs(want).max())
        assert error <= rtol, f"relative error {error:.3g} on {x.shape}: {model}"
