"""Small models for the driver's tests, and a kernel cache that those tests share."""

from __future__ import annotations

from typing import Any

import ingot
import numpy as np
from ingot import nn


class Net(nn.Module):
    """Convolution, batch norm, pooling, linear: [N, 3, 8, 8] -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 16, 5)

    def forward(self, x: Any) -> Any:
        x = nn.functional.max_pool2d(nn.functional.relu(self.bn(self.conv(x))), 2)
        return self.fc(ingot.flatten(x, 1))


def mlp(dtype: Any = None) -> Any:
    """[N, 6] -> [N, 3]."""
    ingot.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16, dtype=dtype), nn.Tanh(), nn.Linear(16, 3, dtype=dtype))


def net() -> Net:
    ingot.manual_seed(1)
    return Net()


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 3, 8, 8)).astype(np.float32)


def rows(n: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 6)).astype(dtype)


def eager(model: Any, *inputs: np.ndarray) -> np.ndarray:
    """What the references give."""
    return model(*map(ingot.from_numpy, inputs)).detach().numpy()


def close(a: Any, b: Any, rtol: float = 1e-5, floor: float = 1e-30) -> None:
    """Equal shapes and dtypes, largest difference within ``rtol`` of the largest element (of ``floor`` at least)."""
    a, b = (np.asarray(t.detach().numpy() if isinstance(t, ingot.Tensor) else t) for t in (a, b))
    assert a.shape == b.shape and a.dtype == b.dtype, (a.shape, a.dtype, b.shape, b.dtype)
    scale = max(float(np.abs(b).max(initial=0.0)), floor)
    error = float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) / scale
    assert error <= rtol, f"relative error {error}"
