"""LeNet-5 (LeCun et al. 1998) with ReLU and max pooling."""

from __future__ import annotations

from typing import Any

from ... import nn, shaping
from ...nn import functional as F
from ...tensor import Tensor
from .weights import with_weights

__all__ = ["LeNet", "lenet"]


class LeNet(nn.Module):
    """Two convolutions and three linear layers for [N, in_channels, H, W] images of 28 x 28 (padded) or 32 x 32."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        if image_size not in (28, 32):
            raise ValueError(f"LeNet is for images of 28 x 28 or 32 x 32, not {image_size} x {image_size}")
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=2 if image_size == 28 else 0)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, image_size, image_size] -> [N, num_classes]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = shaping.flatten(x, 1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def lenet(pretrained: bool = False, *, weights: Any = None, progress: bool = True, **kwargs: Any) -> LeNet:
    """LeNet-5. ``weights``: None, a path of a state dict, or one; ``kwargs`` go to ``LeNet``."""
    return with_weights(LeNet(**kwargs), weights, pretrained)
