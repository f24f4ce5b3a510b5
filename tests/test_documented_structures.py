"""The networks that the users' documents print: forms, names and sizes of their states, listings."""

from __future__ import annotations

from collections import OrderedDict

import ingot as ig
import numpy as np
import pytest
from ingot import nn


class Model1(nn.Module):
    """Layers that ``forward`` does not use are printed and saved as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc5 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        self.relu_a = nn.ReLU()
        self.conv_a = nn.Conv2d(3, 6, 5)


MODEL1 = """Model1(
  (conv1): Conv2d(3, 6, kernel_size=(5, 5), stride=(1, 1))
  (pool): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
  (conv2): Conv2d(6, 16, kernel_size=(5, 5), stride=(1, 1))
  (fc1): Linear(in_features=400, out_features=120, bias=True)
  (fc5): Linear(in_features=120, out_features=84, bias=True)
  (fc3): Linear(in_features=84, out_features=10, bias=True)
  (relu_a): ReLU()
  (conv_a): Conv2d(3, 6, kernel_size=(5, 5), stride=(1, 1))
)"""


def test_model1() -> None:
    model = Model1()
    assert repr(model) == MODEL1
    sizes = {k: list(v.shape) for k, v in model.state_dict().items()}
    assert sizes == {
        "conv1.weight": [6, 3, 5, 5], "conv1.bias": [6], "conv2.weight": [16, 6, 5, 5], "conv2.bias": [16],
        "fc1.weight": [120, 400], "fc1.bias": [120], "fc5.weight": [84, 120], "fc5.bias": [84], "fc3.weight": [10, 84],
        "fc3.bias": [10], "conv_a.weight": [6, 3, 5, 5], "conv_a.bias": [6],
    }  # fmt: skip
    assert list(sizes)[:4] == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    with pytest.raises(AttributeError, match="'Model1' object has no attribute 'fc2'"):
        _ = model.fc2


def test_model2() -> None:
    class Model2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2, 2)
            )
            self.fc1 = nn.Linear(400, 120)
            self.fc5 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, 10)

    model = Model2()
    assert repr(model) == """Model2(
  (backbone): Sequential(
    (0): Conv2d(3, 6, kernel_size=(5, 5), stride=(1, 1))
    (1): ReLU()
    (2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
    (3): Conv2d(6, 16, kernel_size=(5, 5), stride=(1, 1))
    (4): ReLU()
    (5): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
  )
  (fc1): Linear(in_features=400, out_features=120, bias=True)
  (fc5): Linear(in_features=120, out_features=84, bias=True)
  (fc3): Linear(in_features=84, out_features=10, bias=True)
)"""
    names = ["backbone.0", "backbone.3", "fc1", "fc5", "fc3"]
    assert list(model.state_dict()) == [f"{n}.{w}" for n in names for w in ("weight", "bias")]


def test_mynet_plain() -> None:
    class MyNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 32, 3, 1, 1)
            self.relu1 = nn.ReLU()
            self.pool = nn.MaxPool2d(2, 2)
            self.dense1 = nn.Linear(288, 128)
            self.dense2 = nn.Linear(128, 10)

    net = MyNet()
    net.add_module("add_module_block", nn.Linear(10, 5))
    lines = repr(net).splitlines()
    assert len(lines) == 8 and lines[-2] == "  (add_module_block): Linear(in_features=10, out_features=5, bias=True)"
    assert lines[1] == "  (conv1): Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))"


def test_mynet_with_named_layers() -> None:
    dense = nn.Sequential(
        OrderedDict([("dense1", nn.Linear(288, 128)), ("relu2", nn.ReLU()), ("dense2", nn.Linear(128, 10))])
    )
    dense.add_module("add_module_block", nn.Sequential(nn.Linear(10, 5), nn.ReLU()))
    assert repr(dense) == """Sequential(
  (dense1): Linear(in_features=288, out_features=128, bias=True)
  (relu2): ReLU()
  (dense2): Linear(in_features=128, out_features=10, bias=True)
  (add_module_block): Sequential(
    (0): Linear(in_features=10, out_features=5, bias=True)
    (1): ReLU()
  )
)"""
    assert dense.relu2 is dense[1]


def test_mynet_with_lists() -> None:
    class MyNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_block = nn.ModuleList([nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2)])
            self.dense_block = nn.ModuleList([nn.Linear(288, 128), nn.ReLU(), nn.Linear(128, 10)])

        def forward(self, x):
            return self.conv_block(x)

    net = MyNet()
    net.dense_block.append(nn.ReLU())
    net.add_module("add_module_block", nn.Linear(10, 5))
    net.dense_block.insert(index=1, module=nn.Sigmoid())
    assert repr(net) == """MyNet(
  (conv_block): ModuleList(
    (0): Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    (1): ReLU()
    (2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
  )
  (dense_block): ModuleList(
    (0): Linear(in_features=288, out_features=128, bias=True)
    (1): Sigmoid()
    (2): ReLU()
    (3): Linear(in_features=128, out_features=10, bias=True)
    (4): ReLU()
  )
  (add_module_block): Linear(in_features=10, out_features=5, bias=True)
)"""
    with pytest.raises(NotImplementedError, match="ModuleList"):
        net(ig.zeros(1, 3, 6, 6))


def test_listings(capsys) -> None:
    class Model2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 6, 5)
            self.bn1 = nn.BatchNorm2d(6)

    model = Model2()
    for name, submodule in model.named_modules():
        print(f"Name is: {name}, Submodule is: {submodule}")
    model.bn1(ig.ones(1, 6, 2, 2))
    for name, buffer in model.named_buffers():
        print("Name is: {}, Buffer is: {}".format(name, buffer))  # noqa: UP032 - as the document has it
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Name is: , Submodule is: Model2(" and lines[3] == ")"
    assert lines[1:3] == ["  (conv1): Conv2d(3, 6, kernel_size=(5, 5), stride=(1, 1))", f"  (bn1): {model.bn1!r}"]
    assert lines[4] == "Name is: conv1, Submodule is: Conv2d(3, 6, kernel_size=(5, 5), stride=(1, 1))"
    assert lines[6].startswith("Name is: bn1.running_mean, Buffer is: tensor([")
    assert lines[-1] == "Name is: bn1.num_batches_tracked, Buffer is: 1"


def test_parameters_of_model1_of_000() -> None:
    model = nn.Sequential(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.Conv2d(20, 64, 5), nn.ReLU())
    assert [(n, list(p.shape)) for n, p in model.named_parameters()] == [
        ("0.weight", [20, 1, 5, 5]), ("0.bias", [20]), ("2.weight", [64, 20, 5, 5]), ("2.bias", [64]),
    ]  # fmt: skip


def test_inputs_of_the_first_linear_layer() -> None:
    """28 x 28 through two 3 x 3 convolutions and one pooling of 2: 64 x 12 x 12."""
    layers = (nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    features = nn.Sequential(*layers)
    assert features(ig.zeros(2, 1, 28, 28)).shape == (2, 9216)


def test_base_classes_and_import_paths() -> None:
    from ingot.nn import functional, init, modules
    from ingot.nn.modules.batchnorm import _NormBase
    from ingot.nn.modules.conv import _ConvNd
    from ingot.nn.modules.loss import _Loss
    from ingot.nn.modules.pooling import _MaxPoolNd

    for base, kinds in (
        (_NormBase, (nn.BatchNorm2d,)), (_ConvNd, (nn.Conv1d, nn.Conv2d)), (_MaxPoolNd, (nn.MaxPool2d,)),
        (_Loss, (nn.MSELoss, nn.SmoothL1Loss)),
    ):  # fmt: skip
        assert all(issubclass(kind, base) for kind in kinds)
    assert modules.module.Module is nn.Module and nn.parameter.Parameter is nn.Parameter
    assert functional.relu and init.zeros_


def test_a_failing_copy_is_reported_with_its_place() -> None:
    module = nn.Module()
    module.register_buffer("b", ig.zeros(1).expand(3))
    with pytest.raises(RuntimeError, match='While copying the parameter named "b", whose dimensions in the model are '
                       r"torch.Size\(\[3\]\) and whose dimensions in the checkpoint are torch.Size\(\[3\]\), an "
                       "exception occurred"):  # fmt: skip
        module.load_state_dict({"b": ig.ones(3)})


def test_uninitialised_parameters_skip_the_shape_checks() -> None:
    from ingot.nn.parameter import is_lazy

    layer = nn.LazyLinear(3)
    assert is_lazy(layer.weight) and not is_lazy(nn.Linear(1, 1).weight)
    layer.load_state_dict(nn.Linear(5, 3).state_dict())
    assert layer.weight.shape == (3, 5)


def test_detach_and_copy_in_place() -> None:
    x = ig.ones(2, requires_grad=True)
    y = x * 2
    assert y.detach_() is y and y.is_leaf and not y.requires_grad
    target = ig.zeros(2, 3, dtype=ig.int32)
    assert target.copy_(ig.tensor([1.5, 2.5, -3.5])) is target and target.tolist() == [[1, 2, -3]] * 2
    grown = ig.zeros(2, requires_grad=True) * 1
    grown.copy_(x)
    grown.sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_order_of_devices_by_free_memory(monkeypatch) -> None:
    import os

    free = np.array([10362, 10058, 9990, 9990])
    order = np.argsort(free)[::-1]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, order)))
    assert os.environ["CUDA_VISIBLE_DEVICES"] in ("0,1,3,2", "0,1,2,3") and ig.cuda.device_count() == 0
