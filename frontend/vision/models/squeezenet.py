"""SqueezeNet (Iandola et al. 2016): a convolution to few channels before the 3x3 ones."""

from __future__ import annotations

from typing import Any

from ... import nn, shaping
from ...tensor import Tensor
from .weights import with_weights

__all__ = ["Fire", "SqueezeNet", "squeezenet1_0", "squeezenet1_1"]


class Fire(nn.Module):
    """1x1 to ``squeeze_planes`` channels, then 1x1 and 3x3 side by side."""

    def __init__(self, inplanes: int, squeeze_planes: int, expand1x1_planes: int, expand3x3_planes: int) -> None:
        super().__init__()
        self.inplanes = inplanes
        self.squeeze = nn.Conv2d(inplanes, squeeze_planes, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze_planes, expand1x1_planes, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze_planes, expand3x3_planes, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inplanes, H, W] -> [N, expand1x1_planes + expand3x3_planes, H, W]."""
        x = self.squeeze_activation(self.squeeze(x))
        return shaping.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


# The stem's channels and kernel, then Fire modules by their squeezed channels (they give eight times as many) and "M"
# for a pooling.
_VERSIONS: dict[str, tuple[int, int, tuple[int | str, ...]]] = {
    "1_0": (96, 7, ("M", 16, 16, 32, "M", 32, 48, 48, 64, "M", 64)),
    "1_1": (64, 3, ("M", 16, 16, "M", 32, 32, "M", 48, 48, 64, 64)),
}


class SqueezeNet(nn.Module):
    """Input [N, 3, H, W], about 224; ``version`` "1_0" or "1_1" (which computes less)."""

    def __init__(self, version: str = "1_0", num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        if version not in _VERSIONS:
            raise ValueError(f"Unsupported SqueezeNet version {version}: 1_0 or 1_1 expected")
        self.num_classes = num_classes
        channels, kernel, rest = _VERSIONS[version]
        layers: list[nn.Module] = [nn.Conv2d(3, channels, kernel_size=kernel, stride=2), nn.ReLU(inplace=True)]
        for entry in rest:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True))
            else:
                layers.append(Fire(channels, entry, 4 * entry, 4 * entry))
                channels = 8 * entry
        self.features = nn.Sequential(*layers)
        last = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.classifier = nn.Sequential(
            nn.Dropout(p=dropout), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )  # fmt: skip
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                if m is last:
                    nn.init.normal_(m.weight, mean=0.0, std=0.01)
                else:
                    nn.init.kaiming_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.constant_(m.bias, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, num_classes]."""
        return shaping.flatten(self.classifier(self.features(x)), 1)


def squeezenet1_0(pretrained: bool = False, *, weights: Any = None, progress: bool = True, **kwargs: Any) -> SqueezeNet:
    """SqueezeNet 1.0. ``weights``: None, a path of a state dict, or one; ``kwargs`` go to ``SqueezeNet``."""
    return with_weights(SqueezeNet("1_0", **kwargs), weights, pretrained)


def squeezenet1_1(pretrained: bool = False, *, weights: Any = None, progress: bool = True, **kwargs: Any) -> SqueezeNet:
    """SqueezeNet 1.1. ``weights``: None, a path of a state dict, or one; ``kwargs`` go to ``SqueezeNet``."""
    return with_weights(SqueezeNet("1_1", **kwargs), weights, pretrained)
