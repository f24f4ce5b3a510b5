"""Networks for end-to-end tests: the benchmark's models, small ones of the same kinds, and their oracle.

``benchmarks/models.py`` runs with Ingot's imports and, through ``torch_twin``, with PyTorch's.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ingot
import numpy as np
from ingot import driver, nn
from ingot.cli_arguments import load_file
from ingot.ir.interpreter import interpret
from ingot.measure.twin import torch_in_place
from kernel_harness import X86_LEVELS, host_targets

ROOT = Path(__file__).resolve().parent.parent
for _folder in ("benchmarks", "examples"):
    if str(ROOT / _folder) not in sys.path:
        sys.path.append(str(ROOT / _folder))

import models  # noqa: E402  found through the line above


class ThinMobileNet(nn.Module):
    """MobileNetV2's blocks, few and narrow: strided and plain depthwise convolutions, residuals, ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            models._conv_bn_relu6(3, 8, 3, 2),
            models.InvertedResidual(8, 8, 1, 1),
            models.InvertedResidual(8, 12, 2, 6),
            models.InvertedResidual(12, 12, 1, 6),
            models.InvertedResidual(12, 20, 2, 6),
            models._conv_bn_relu6(20, 72, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(72, 10))

    def forward(self, x: Any) -> Any:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(ingot.flatten(x, 1))


# name -> (factory, input shape without the batch): small, yet every kind of layer the benchmark has.
SMALL: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "mlp": (models.MLP, (784,)),
    "lenet": (models.LeNet5, (1, 28, 28)),
    "resnet20": (models.resnet20, (3, 32, 32)),
    "mobilenet_thin": (ThinMobileNet, (3, 30, 30)),
    "unet_small": (lambda: models.UNet(in_channels=3, num_classes=2, base=6), (3, 32, 32)),
    "encoder_small": (lambda: models.Encoder(layers=2, width=48, heads=4), (21, 48)),
}
LARGE: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    name: (make, shape) for name, (make, shape, _) in models.MODELS.items() if name not in SMALL
}
ALL = SMALL | LARGE


def seeded(name: str) -> Any:
    """The model in eval mode with reproducible weights and batch statistics that make folding them matter."""
    ingot.manual_seed(0)
    return seed_statistics(ALL[name][0]()).eval()


def seed_statistics(model: Any) -> Any:
    rng = np.random.default_rng(1)
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.numpy()[...] = rng.standard_normal(tuple(buffer.shape)) * 0.1
        elif key.endswith("running_var"):
            buffer.numpy()[...] = rng.uniform(0.5, 1.5, tuple(buffer.shape))
    return model


def example(name: str, batch: int) -> np.ndarray:
    return np.random.default_rng([batch, len(name)]).standard_normal((batch, *ALL[name][1])).astype(np.float32)


def oracle(model: Any, x: np.ndarray) -> np.ndarray:
    """The traced graph run by the NumPy references in float64."""
    (result,) = interpret(driver.trace_inference(model, [x]).graph, [x], float64=True)
    return result


def relative_error(actual: np.ndarray, wanted: np.ndarray) -> float:
    """Of the whole result, in the L2 norm; infinite if anything is not finite."""
    assert actual.shape == wanted.shape, f"shape {actual.shape}, expected {wanted.shape}"
    if not np.isfinite(actual).all():
        return float("inf")
    return float(np.linalg.norm(actual.astype(np.float64) - wanted) / np.linalg.norm(wanted))


def runnable_targets() -> list[str]:
    """Names of the targets that this CPU can run."""
    return [t.name for t in host_targets()]


@functools.cache
def torch_models() -> Any:
    """``models.py`` run with PyTorch in place of Ingot."""
    with torch_in_place():
        return load_file(str(ROOT / "benchmarks" / "models.py"))


def torch_twin(model: Any, make: Callable[[Any], Any]) -> Any:
    """``make(torch's version of models.py)`` with the weights of ``model``."""
    import torch

    twin = make(torch_models())
    twin.load_state_dict({k: torch.from_numpy(np.array(v.numpy())) for k, v in model.state_dict().items()})
    return twin


__all__ = [
    "ALL", "LARGE", "SMALL", "X86_LEVELS", "example", "models", "oracle", "relative_error", "runnable_targets",
    "seed_statistics", "seeded", "torch_twin",
]  # fmt: skip
