"""DenseNet (Huang et al. 2016): every layer reads the results of all layers of its block before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import nn, shaping
from ...nn import functional as F
from ...tensor import Tensor
from ...utils.checkpoint import checkpoint
from .weights import with_weights

__all__ = ["DenseNet", "densenet121", "densenet161", "densenet169", "densenet201"]


class _DenseLayer(nn.Module):
    def __init__(
        self, num_input_features: int, growth_rate: int, bn_size: int, drop_rate: float, memory_efficient: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(num_input_features)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(num_input_features, bn_size * growth_rate, kernel_size=1, stride=1, bias=False)
        self.norm2 = nn.BatchNorm2d(bn_size * growth_rate)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(bn_size * growth_rate, growth_rate, kernel_size=3, stride=1, padding=1, bias=False)
        self.drop_rate = float(drop_rate)
        self.memory_efficient = memory_efficient

    def _narrow(self, *before: Tensor) -> Tensor:
        return self.conv1(self.relu1(self.norm1(shaping.cat(before, 1))))

    def forward(self, input: Tensor | Sequence[Tensor]) -> Tensor:
        """Tensors [N, C_i, H, W] -> [N, growth_rate, H, W]."""
        before = [input] if isinstance(input, Tensor) else list(input)
        if self.memory_efficient and any(t.requires_grad for t in before):
            x = checkpoint(self._narrow, *before, use_reentrant=False)
        else:
            x = self._narrow(*before)
        x = self.conv2(self.relu2(self.norm2(x)))
        return F.dropout(x, p=self.drop_rate, training=self.training) if self.drop_rate > 0 else x


class _DenseBlock(nn.ModuleDict):
    def __init__(
        self, num_layers: int, num_input_features: int, bn_size: int, growth_rate: int, drop_rate: float,
        memory_efficient: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        for i in range(num_layers):
            width = num_input_features + i * growth_rate
            self.add_module(
                f"denselayer{i + 1}", _DenseLayer(width, growth_rate, bn_size, drop_rate, memory_efficient)
            )  # fmt: skip

    def forward(self, init_features: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C + layers * growth_rate, H, W]."""
        features = [init_features]
        for layer in self.values():
            features.append(layer(features))
        return shaping.cat(features, 1)


class _Transition(nn.Sequential):
    def __init__(self, num_input_features: int, num_output_features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_input_features)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(num_input_features, num_output_features, kernel_size=1, stride=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)


class DenseNet(nn.Module):
    """Input [N, 3, H, W], about 224.

    Args:
        growth_rate: channels that a layer adds.
        block_config: layers per block.
        bn_size: times ``growth_rate``, the channels between the two convolutions of a layer.
        memory_efficient: compute the inputs of those convolutions again in the backward (``utils.checkpoint``).
    """

    def __init__(
        self, growth_rate: int = 32, block_config: Sequence[int] = (6, 12, 24, 16), num_init_features: int = 64,
        bn_size: int = 4, drop_rate: float = 0, num_classes: int = 1000, memory_efficient: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, num_init_features, 7, stride=2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(num_init_features))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        channels = num_init_features
        for i, layers in enumerate(block_config, 1):
            self.features.add_module(
                f"denseblock{i}", _DenseBlock(layers, channels, bn_size, growth_rate, drop_rate, memory_efficient)
            )  # fmt: skip
            channels += layers * growth_rate
            if i < len(block_config):
                self.features.add_module(f"transition{i}", _Transition(channels, channels // 2))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)
            elif isinstance(m, nn.Linear):
                nn.init.constant_(m.bias, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, num_classes]."""
        x = F.relu(self.features(x), inplace=True)
        return self.classifier(shaping.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


def _constructor(depth: int, growth_rate: int, block_config: Sequence[int], num_init_features: int) -> Any:
    def make(pretrained: bool = False, *, weights: Any = None, progress: bool = True, **kwargs: Any) -> DenseNet:
        return with_weights(DenseNet(growth_rate, block_config, num_init_features, **kwargs), weights, pretrained)

    make.__name__ = make.__qualname__ = f"densenet{depth}"
    make.__doc__ = (f"DenseNet with {depth} layers. ``weights``: None, a path of a state dict, or one; ``kwargs`` go "
                    "to ``DenseNet``.")  # fmt: skip
    return make


densenet121 = _constructor(121, 32, (6, 12, 24, 16), 64)
densenet161 = _constructor(161, 48, (6, 12, 36, 24), 96)
densenet169 = _constructor(169, 32, (6, 12, 32, 32), 64)
densenet201 = _constructor(201, 32, (6, 12, 48, 32), 64)
