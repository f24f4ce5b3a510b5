"""Residual networks (He et al. 2015), with the stride of a bottleneck in its 3x3 convolution; ResNeXt and wide ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ... import nn, shaping
from ...tensor import Tensor
from .weights import with_weights

__all__ = [
    "BasicBlock", "Bottleneck", "ResNet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2",
]  # fmt: skip


def conv3x3(in_planes: int, out_planes: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size but for its stride."""
    return nn.Conv2d(in_planes, out_planes, 3, stride, padding=dilation, groups=groups, bias=False, dilation=dilation)


def conv1x1(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(in_planes, out_planes, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the way around them."""

    expansion = 1

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, groups: int = 1,
        base_width: int = 64, dilation: int = 1, norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = norm_layer or nn.BatchNorm2d
        if groups != 1 or base_width != 64:
            raise ValueError("BasicBlock only supports groups=1 and base_width=64")
        if dilation > 1:
            raise NotImplementedError("Dilation > 1 not supported in BasicBlock")
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, inplanes, H, W] -> [N, planes, H / stride, W / stride]."""
        around = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + around)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, four times as many channels behind the last one, and the way around them."""

    expansion = 4

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, groups: int = 1,
        base_width: int = 64, dilation: int = 1, norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = norm_layer or nn.BatchNorm2d
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = conv1x1(inplanes, width)
        self.bn1 = norm(width)
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, inplanes, H, W] -> [N, 4 planes, H / stride, W / stride]."""
        around = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + around)


class ResNet(nn.Module):
    """Stem, four stages of ``layers[i]`` blocks, mean over the map, a linear layer. Input [N, 3, H, W], about 224.

    Args:
        zero_init_residual: begin with blocks that are the identity.
        groups, width_per_group: of the 3x3 convolutions of bottlenecks.
        replace_stride_with_dilation: for the last three stages, whether they dilate instead of shrinking the map.
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], layers: Sequence[int], num_classes: int = 1000,
        zero_init_residual: bool = False, groups: int = 1, width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._norm_layer = norm_layer or nn.BatchNorm2d
        dilate = replace_stride_with_dilation or (False, False, False)
        if len(dilate) != 3:
            raise ValueError("replace_stride_with_dilation should be None or a 3-element tuple, got "
                             f"{replace_stride_with_dilation}")  # fmt: skip
        self.inplanes, self.dilation = 64, 1
        self.groups, self.base_width = groups, width_per_group
        self.conv1 = nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
        self.bn1 = self._norm_layer(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._stage(block, 64, layers[0])
        self.layer2 = self._stage(block, 128, layers[1], 2, dilate[0])
        self.layer3 = self._stage(block, 256, layers[2], 2, dilate[1])
        self.layer4 = self._stage(block, 512, layers[3], 2, dilate[2])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)
        if zero_init_residual:
            for m in self.modules():
                last = getattr(m, "bn3" if isinstance(m, Bottleneck) else "bn2", None)
                if isinstance(m, (BasicBlock, Bottleneck)) and getattr(last, "weight", None) is not None:
                    nn.init.constant_(last.weight, 0)  # type: ignore[union-attr]

    def _stage(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        first_dilation = self.dilation
        if dilate:
            self.dilation *= stride
            stride = 1
        downsample = None
        if stride != 1 or self.inplanes != planes * block.expansion:
            downsample = nn.Sequential(
                conv1x1(self.inplanes, planes * block.expansion, stride), self._norm_layer(planes * block.expansion)
            )
        made = []
        for i in range(blocks):
            made.append(
                block(
                    self.inplanes, planes, stride if i == 0 else 1, downsample if i == 0 else None, self.groups,
                    self.base_width, first_dilation if i == 0 else self.dilation, self._norm_layer,
                )
            )  # fmt: skip
            self.inplanes = planes * block.expansion
        return nn.Sequential(*made)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, num_classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(shaping.flatten(self.avgpool(x), 1))


def _constructor(
    name: str, block: type[BasicBlock | Bottleneck], layers: Sequence[int], parameters: int, **shape: int
) -> Any:
    def make(pretrained: bool = False, *, weights: Any = None, progress: bool = True, **kwargs: Any) -> ResNet:
        return with_weights(ResNet(block, layers, **{**shape, **kwargs}), weights, pretrained)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = (f"{name}: blocks {list(layers)}, {parameters:,} parameters with 1000 classes. ``weights``: None, a "
                    "path of a state dict, or one; ``kwargs`` go to ``ResNet``.")  # fmt: skip
    return make


resnet18 = _constructor("resnet18", BasicBlock, (2, 2, 2, 2), 11_689_512)
resnet34 = _constructor("resnet34", BasicBlock, (3, 4, 6, 3), 21_797_672)
resnet50 = _constructor("resnet50", Bottleneck, (3, 4, 6, 3), 25_557_032)
resnet101 = _constructor("resnet101", Bottleneck, (3, 4, 23, 3), 44_549_160)
resnet152 = _constructor("resnet152", Bottleneck, (3, 8, 36, 3), 60_192_808)
resnext50_32x4d = _constructor(
    "resnext50_32x4d", Bottleneck, (3, 4, 6, 3), 25_028_904, groups=32, width_per_group=4
)  # fmt: skip
resnext101_32x8d = _constructor(
    "resnext101_32x8d", Bottleneck, (3, 4, 23, 3), 88_791_336, groups=32, width_per_group=8
)  # fmt: skip
wide_resnet50_2 = _constructor("wide_resnet50_2", Bottleneck, (3, 4, 6, 3), 68_883_240, width_per_group=128)
wide_resnet101_2 = _constructor("wide_resnet101_2", Bottleneck, (3, 4, 23, 3), 126_886_696, width_per_group=128)
