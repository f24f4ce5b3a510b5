"""The ready-made networks: parameter counts and state dict names as published, initial values, weights from files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import nn
from ingot.vision import models

# Parameters with 1000 classes as published for torchvision; entries of the state dict.
COUNTS = {
    "resnet18": (11_689_512, 122), "resnet34": (21_797_672, 218), "resnet50": (25_557_032, 320),
    "mobilenet_v2": (3_504_872, 314), "squeezenet1_0": (1_248_424, 52), "squeezenet1_1": (1_235_496, 52),
    "densenet121": (7_978_856, 727), "resnext50_32x4d": (25_028_904, 320),
}  # fmt: skip
SLOW_COUNTS = {
    "resnet101": (44_549_160, 626), "resnet152": (60_192_808, 932), "wide_resnet50_2": (68_883_240, 320),
    "densenet169": (14_149_480, 1015), "densenet161": (28_681_000, 967), "densenet201": (20_013_928, 1207),
    "alexnet": (61_100_840, 16),
    "vgg11": (132_863_336, 22), "vgg13": (133_047_848, 26), "vgg19": (143_667_240, 38),
    "vgg11_bn": (132_868_840, 62), "vgg13_bn": (133_053_736, 76), "vgg16_bn": (138_365_992, 97),
    "vgg19_bn": (143_678_248, 118),
}  # fmt: skip


def check_counts(name: str, parameters: int, entries: int) -> None:
    model = getattr(models, name)()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == entries


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name: str) -> None:
    check_counts(name, *COUNTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_COUNTS)
def test_published_counts_of_the_large_ones(name: str) -> None:
    check_counts(name, *SLOW_COUNTS[name])


def test_resnet18_with_two_classes() -> None:
    model = models.resnet18(weights=None, num_classes=2)
    state = model.state_dict()
    assert len(state) == 122 and list(state)[:2] == ["conv1.weight", "bn1.weight"]
    assert state["conv1.weight"].shape == (64, 3, 7, 7) and state["fc.weight"].shape == (2, 512)
    assert state["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert [k for k in state if k.startswith("layer4.1")] == [
        f"layer4.1.{layer}" for layer in (
            "conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked",
            "conv2.weight", "bn2.weight", "bn2.bias", "bn2.running_mean", "bn2.running_var", "bn2.num_batches_tracked",
        )
    ]  # fmt: skip
    assert str(model).startswith("ResNet(\n  (conv1): Conv2d(3, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), "
                                 "bias=False)\n  (bn1): BatchNorm2d(64, eps=1e-05")  # fmt: skip
    assert "(relu): ReLU(inplace=True)\n  (maxpool): MaxPool2d(kernel_size=3, stride=2, padding=1" in str(model)
    assert str(model).endswith("(avgpool): AdaptiveAvgPool2d(output_size=(1, 1))\n"
                               "  (fc): Linear(in_features=512, out_features=2, bias=True)\n)")  # fmt: skip


def test_vgg16_and_its_classifier() -> None:
    vgg16 = models.vgg16(pretrained=False)
    assert sum(p.numel() for p in vgg16.parameters()) == 138_357_544
    assert (len(vgg16.features), len(vgg16.classifier)) == (31, 7)
    assert [k for k in vgg16.state_dict() if "features" in k][:4] == [
        "features.0.weight", "features.0.bias", "features.2.weight", "features.2.bias",
    ]  # fmt: skip
    vgg16.classifier.add_module("add_linear", nn.Linear(1000, 10))
    assert list(dict(vgg16.classifier.named_children())) == ["0", "1", "2", "3", "4", "5", "6", "add_linear"]
    with ingot.no_grad():
        assert vgg16.eval()(ingot.randn(1, 3, 32, 32)).shape == (1, 10)
    del vgg16.classifier.add_linear
    vgg16.classifier[6] = nn.Linear(4096, 10)
    assert vgg16.state_dict()["classifier.6.weight"].shape == (10, 4096) and len(vgg16.classifier) == 7


NAMES = {
    "mobilenet_v2": [
        ("features.0.0.weight", (32, 3, 3, 3)), ("features.0.1.running_var", (32,)),
        ("features.1.conv.0.0.weight", (32, 1, 3, 3)), ("features.1.conv.1.weight", (16, 32, 1, 1)),
        ("features.1.conv.2.bias", (16,)), ("features.2.conv.0.0.weight", (96, 16, 1, 1)),
        ("features.2.conv.1.0.weight", (96, 1, 3, 3)), ("features.2.conv.2.weight", (24, 96, 1, 1)),
        ("features.17.conv.3.weight", (320,)), ("features.18.0.weight", (1280, 320, 1, 1)),
        ("classifier.1.weight", (1000, 1280)),
    ],
    "squeezenet1_0": [
        ("features.0.weight", (96, 3, 7, 7)), ("features.3.squeeze.weight", (16, 96, 1, 1)),
        ("features.3.expand3x3.bias", (64,)), ("features.12.expand1x1.weight", (256, 64, 1, 1)),
        ("classifier.1.weight", (1000, 512, 1, 1)),
    ],
    "squeezenet1_1": [
        ("features.0.weight", (64, 3, 3, 3)), ("features.6.squeeze.weight", (32, 128, 1, 1)),
        ("features.9.squeeze.weight", (48, 256, 1, 1)), ("features.12.expand3x3.weight", (256, 64, 3, 3)),
    ],
    "densenet121": [
        ("features.conv0.weight", (64, 3, 7, 7)), ("features.norm0.weight", (64,)),
        ("features.denseblock1.denselayer1.norm1.weight", (64,)),
        ("features.denseblock1.denselayer2.conv1.weight", (128, 96, 1, 1)),
        ("features.denseblock4.denselayer16.conv2.weight", (32, 128, 3, 3)),
        ("features.transition1.conv.weight", (128, 256, 1, 1)), ("features.norm5.bias", (1024,)),
        ("classifier.weight", (1000, 1024)),
    ],
    "resnet50": [
        ("layer1.0.conv1.weight", (64, 64, 1, 1)), ("layer1.0.conv3.weight", (256, 64, 1, 1)),
        ("layer4.2.bn3.running_mean", (2048,)), ("layer2.0.downsample.1.num_batches_tracked", ()),
        ("fc.weight", (1000, 2048)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_names(name: str) -> None:
    state = getattr(models, name)().state_dict()
    for key, shape in NAMES[name]:
        assert state[key].shape == shape, key


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121", "resnext50_32x4d"])
def test_forward_gives_a_number_per_class_and_gradients_reach_every_parameter(name: str) -> None:
    ingot.manual_seed(0)
    model = getattr(models, name)(num_classes=5)
    out = model(ingot.randn(2, 3, 40, 40))
    assert out.shape == (2, 5)
    out.square().sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []


def test_initial_values() -> None:
    ingot.manual_seed(0)
    resnet = models.resnet18(zero_init_residual=True)
    w = resnet.layer3[0].conv1.weight.detach().numpy()
    assert abs(w.std() / math.sqrt(2 / (256 * 9)) - 1) < 0.02 and abs(w.mean()) < 1e-3
    assert (resnet.layer3[0].bn2.weight == 0).all() and (resnet.layer3[0].bn1.weight == 1).all()
    mobile = models.mobilenet_v2()
    assert abs(mobile.classifier[1].weight.std().item() / 0.01 - 1) < 0.01 and (mobile.classifier[1].bias == 0).all()
    dense = models.densenet121()
    w = dense.features.transition3.conv.weight.detach().numpy()
    assert abs(w.std() / math.sqrt(2 / 1024) - 1) < 0.02 and (dense.classifier.bias == 0).all()
    squeeze = models.squeezenet1_0()
    w = squeeze.features[12].squeeze.weight.detach().numpy()
    assert abs(np.abs(w).max() / math.sqrt(6 / 512) - 1) < 0.01 and (squeeze.features[0].bias == 0).all()


def test_weights_by_name_are_refused_and_files_are_loaded(tmp_path: Path) -> None:
    for options in ({"pretrained": True}, {"weights": "DEFAULT"}, {"weights": "IMAGENET1K_V1"}):
        with pytest.raises(ValueError, match=r"does not download.*weights=PATH"):
            models.resnet18(**options)
    ingot.manual_seed(1)
    first = models.squeezenet1_1(num_classes=3)
    ingot.save(first.state_dict(), tmp_path / "squeeze.pth")
    second = models.squeezenet1_1(weights=tmp_path / "squeeze.pth", num_classes=3)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert (a == b).all()
    with pytest.raises(RuntimeError, match="size mismatch"):
        models.squeezenet1_1(weights=str(tmp_path / "squeeze.pth"))


def test_old_densenet_checkpoints_load() -> None:
    model = models.DenseNet(8, (2, 2), 16, num_classes=3)
    state: dict[str, Any] = {}
    for name, t in model.state_dict().items():
        for layer in ("norm", "conv"):
            for i in "12":
                if "denselayer" in name:
                    name = name.replace(f".{layer}{i}.", f".{layer}.{i}.")
        state[name] = t + 1
    assert any("norm.1" in name for name in state)
    from ingot.frontend.vision.models.weights import with_weights

    with_weights(model, state)
    assert (model.features.norm5.running_mean == 1).all()


def test_densenet_with_less_memory_has_the_same_gradients() -> None:
    found = []
    for less in (False, True):
        ingot.manual_seed(0)
        model = models.DenseNet(4, (2, 3), 8, num_classes=3, memory_efficient=less)
        model(ingot.randn(2, 3, 32, 32)).sum().backward()
        found.append([p.grad.numpy() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def test_compiled_networks_agree_with_eager_ones() -> None:
    ingot.manual_seed(0)
    x = ingot.randn(1, 3, 32, 32)
    for model in (models.mobilenet_v2(num_classes=7).eval(), models.DenseNet(8, (2, 3), 16, num_classes=7).eval()):
        wanted = model(x).detach().numpy()
        got = ingot.compile(model, x)(x).numpy()
        assert np.abs(got - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())
