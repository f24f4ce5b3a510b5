"""VGG networks (Simonyan and Zisserman 2014), plain and with batch normalisation; AlexNet (Krizhevsky 2014)."""

from __future__ import annotations

from typing import Any

from ... import nn, shaping
from ...tensor import Tensor
from .weights import with_weights

__all__ = [
    "VGG", "AlexNet", "alexnet", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
]  # fmt: skip


def _head(inputs: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 4096), nn.ReLU(True), nn.Dropout(p=dropout),
        nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout(p=dropout),
        nn.Linear(4096, num_classes),
    )  # fmt: skip


class VGG(nn.Module):
    """``features``, mean over 7 x 7 cells, three linear layers. Input [N, 3, H, W], about 224."""

    def __init__(
        self, features: nn.Module, num_classes: int = 1000, init_weights: bool = True, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = _head(512 * 7 * 7, num_classes, dropout)
        for m in self.modules() if init_weights else ():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.constant_(m.weight, 1)
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.01)
            else:
                continue
            if m.bias is not None:
                nn.init.constant_(m.bias, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, num_classes]."""
        return self.classifier(shaping.flatten(self.avgpool(self.features(x)), 1))


# Convolutions per stage; every stage ends with a pooling that halves the map.
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _features(depth: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for convolutions, width in zip(_STAGES[depth], (64, 128, 256, 512, 512), strict=True):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            layers += [nn.BatchNorm2d(width)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return nn.Sequential(*layers)


def _constructor(depth: int, batch_norm: bool) -> Any:
    def make(pretrained: bool = False, *, weights: Any = None, progress: bool = True, **kwargs: Any) -> VGG:
        return with_weights(VGG(_features(depth, batch_norm), **kwargs), weights, pretrained)

    make.__name__ = make.__qualname__ = f"vgg{depth}" + ("_bn" if batch_norm else "")
    make.__doc__ = (f"VGG with {depth} layers{' and batch normalisation' if batch_norm else ''}. ``weights``: None, a "
                    "path of a state dict, or one; ``kwargs`` go to ``VGG``.")  # fmt: skip
    return make


vgg11, vgg11_bn = _constructor(11, False), _constructor(11, True)
vgg13, vgg13_bn = _constructor(13, False), _constructor(13, True)
vgg16, vgg16_bn = _constructor(16, False), _constructor(16, True)
vgg19, vgg19_bn = _constructor(19, False), _constructor(19, True)


class AlexNet(nn.Module):
    """Five convolutions, mean over 6 x 6 cells, three linear layers. Input [N, 3, H, W], about 224."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1), nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(p=dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True),
            nn.Dropout(p=dropout), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, num_classes]."""
        return self.classifier(shaping.flatten(self.avgpool(self.features(x)), 1))


def alexnet(pretrained: bool = False, *, weights: Any = None, progress: bool = True, **kwargs: Any) -> AlexNet:
    """AlexNet. ``weights``: None, a path of a state dict, or one; ``kwargs`` go to ``AlexNet``."""
    return with_weights(AlexNet(**kwargs), weights, pretrained)
