"""Whole programs as users write them: networks printed, trained, tested, with what goes wrong saved."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ingot as torch
import ingot.nn as nn
import ingot.nn.functional as F
import numpy as np
import pytest
from ingot import optim
from ingot.utils.data import DataLoader, TensorDataset
from ingot.vision import models, transforms, utils


class Model1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc5 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        self.relu_a = nn.ReLU()  # these two are not used
        self.conv_a = nn.Conv2d(3, 6, 5)

    def forward(self, x: Any) -> Any:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        return self.fc3(F.relu(self.fc5(F.relu(self.fc1(x)))))


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


def test_model1_printed() -> None:
    assert str(Model1()) == MODEL1


def test_model1_state_dict() -> None:
    assert {k: list(v.size()) for k, v in Model1().state_dict().items()} == {
        "conv1.weight": [6, 3, 5, 5], "conv1.bias": [6], "conv2.weight": [16, 6, 5, 5], "conv2.bias": [16],
        "fc1.weight": [120, 400], "fc1.bias": [120], "fc5.weight": [84, 120], "fc5.bias": [84],
        "fc3.weight": [10, 84], "fc3.bias": [10], "conv_a.weight": [6, 3, 5, 5], "conv_a.bias": [6],
    }  # fmt: skip


class Model2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2, 2)
        )
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc5 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)


def test_model2_printed() -> None:
    model = Model2()
    assert (
        str(model)
        == """Model2(
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
    )
    assert list(model.state_dict())[:4] == [
        "backbone.0.weight",
        "backbone.0.bias",
        "backbone.3.weight",
        "backbone.3.bias",
    ]


def test_mynet_printed_plain() -> None:
    class MyNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 32, 3, 1, 1)
            self.relu1 = nn.ReLU()
            self.max_pooling1 = nn.MaxPool2d(2, 2)
            self.dense1 = nn.Linear(32 * 3 * 3, 128)
            self.dense2 = nn.Linear(128, 10)
            self.add_module("add_module_block", nn.Linear(10, 5))

    assert (
        str(MyNet())
        == """MyNet(
  (conv1): Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
  (relu1): ReLU()
  (max_pooling1): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
  (dense1): Linear(in_features=288, out_features=128, bias=True)
  (dense2): Linear(in_features=128, out_features=10, bias=True)
  (add_module_block): Linear(in_features=10, out_features=5, bias=True)
)"""
    )


def test_mynet_printed_with_sequentials() -> None:
    class MyNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_block = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2))
            self.dense_block = nn.Sequential(OrderedDict([
                ("dense1", nn.Linear(32 * 3 * 3, 128)), ("relu2", nn.ReLU()), ("dense2", nn.Linear(128, 10)),
            ]))  # fmt: skip
            self.add_module("add_module_block", nn.Sequential(nn.Linear(10, 5), nn.ReLU()))

        def forward(self, x: Any) -> Any:
            return self.add_module_block(self.dense_block(torch.flatten(self.conv_block(x), 1)))

    net = MyNet()
    assert (
        str(net)
        == """MyNet(
  (conv_block): Sequential(
    (0): Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    (1): ReLU()
    (2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
  )
  (dense_block): Sequential(
    (dense1): Linear(in_features=288, out_features=128, bias=True)
    (relu2): ReLU()
    (dense2): Linear(in_features=128, out_features=10, bias=True)
  )
  (add_module_block): Sequential(
    (0): Linear(in_features=10, out_features=5, bias=True)
    (1): ReLU()
  )
)"""
    )
    assert net(torch.randn(2, 3, 6, 6)).shape == (2, 5)


def test_mynet_printed_with_module_lists() -> None:
    class MyNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_block = nn.ModuleList([nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)])
            self.dense_block = nn.ModuleList([nn.Linear(32 * 3 * 3, 128), nn.ReLU(), nn.Linear(128, 10)])

    net = MyNet()
    net.dense_block.append(nn.ReLU())
    net.add_module("add_module_block", nn.Linear(10, 5))
    net.dense_block.insert(1, nn.Sigmoid())
    assert (
        str(net)
        == """MyNet(
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
    )


class LeNet(nn.Module):
    """Layers with parameters as modules, the rest as functions."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Any) -> Any:
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        out = F.max_pool2d(F.relu(self.conv2(out)), 2)
        out = out.view(out.size(0), -1)
        out = F.relu(self.fc1(out))
        out = F.relu(self.fc2(out))
        return self.fc3(out)


def test_lenet_with_functional_forward() -> None:
    out = LeNet(7)(torch.randn(4, 3, 32, 32))
    assert out.shape == (4, 7) and out.grad_fn is not None


def test_dropout_and_norms_as_modules_follow_eval() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 2))
    x = torch.randn(8, 4)
    assert (net(x) != net(x)).any()
    net.eval()
    assert (net(x) == net(x)).all()
    # The function does not know of eval() unless told.
    assert (F.dropout(x, 0.5) == 0).any() and (F.dropout(x, 0.5, training=net.training) == x).all()


class Net(nn.Module):
    """The convolutional network for 28 x 28 pictures: its first linear layer has 9216 inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout2d(0.25)
        self.dropout2 = nn.Dropout2d(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        return F.log_softmax(self.fc2(x), dim=1)


def test_net_for_28_by_28() -> None:
    out = Net()(torch.rand((2, 1, 28, 28)))
    assert out.shape == (2, 10) and torch.allclose(out.exp().sum(1), torch.ones(2), atol=1e-5)


def pictures(n: int, seed: int = 0, size: int = 32) -> tuple[Any, Any]:
    """Three classes of noisy pictures: the bright channel tells the class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    x = 0.3 * torch.rand(n, 3, size, size, generator=g) + F.one_hot(y, 3).float().reshape(n, 3, 1, 1) * 0.4
    return x, y


def train(dataloader: Any, model: Any, loss_fn: Any, optimizer: Any, device: str = "cpu", every: int = 100) -> None:
    size = len(dataloader.dataset)
    model.train()
    for batch, (X, y) in enumerate(dataloader):
        X, y = X.to(device), y.to(device)
        loss = loss_fn(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if batch % every == 0:
            loss, current = loss.item(), batch * len(X)
            print(f"loss: {loss:>7f}  [{current:>5d}/{size:>5d}]")


def test(dataloader: Any, model: Any, loss_fn: Any, device: str = "cpu") -> float:
    size, num_batches = len(dataloader.dataset), len(dataloader)
    model.eval()
    test_loss, correct = 0.0, 0.0
    with torch.no_grad():
        for X, y in dataloader:
            X, y = X.to(device), y.to(device)
            pred = model(X)
            test_loss += loss_fn(pred, y).item()
            correct += (pred.argmax(1) == y).type(torch.float).sum().item()
    test_loss /= num_batches
    correct /= size
    print(f"Test Accuracy: {(100 * correct):>0.1f}%, Avg loss: {test_loss:>8f}")
    return correct


test.__test__ = False  # the users' function, not one of ours


@pytest.fixture(scope="module")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def test_train_and_test_functions(capsys: pytest.CaptureFixture[str], device: str) -> None:
    assert torch.cuda.is_available() is False and device == "cpu"
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(*pictures(96)), batch_size=16, shuffle=True)
    model, loss_fn = LeNet(3).to(device), nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    for _ in range(4):
        train(loader, model, loss_fn, optimizer, device)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    assert test(DataLoader(TensorDataset(*pictures(64, 1)), batch_size=16), model, loss_fn, device) > 0.9
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"loss: 1\.\d{6}  \[    0/   96\]", lines[0]) and len(lines) == 5
    assert re.fullmatch(r"Test Accuracy: \d+\.\d%, Avg loss: 0\.\d{6}", lines[-1])


def test_the_order_of_zero_grad_does_not_matter() -> None:
    found = []
    for first in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for i in range(3):
            x = torch.full((2, 3), i + 1.0)
            if first:
                optimizer.zero_grad()
            loss = model(x).square().mean()
            if not first:
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(model.weight.detach().numpy().copy())
    assert np.array_equal(*found)


def test_validation_inside_training_moves_the_statistics_and_saves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    loss_fn, optimizer = nn.CrossEntropyLoss(), optim.Adam(model.parameters())
    loader = DataLoader(TensorDataset(*pictures(40, size=8)), batch_size=10)
    validation = DataLoader(TensorDataset(*pictures(30, 1, size=8)), batch_size=10)
    model.train()
    for batch, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        if batch % 2 == 0:
            before = model[1].num_batches_tracked.item()
            for i, (vx, vy) in enumerate(validation):
                if i == 2:
                    break
                loss_fn(model(vx), vy).item()
            assert model[1].num_batches_tracked.item() == before + 2  # still in train mode
            torch.save(model.state_dict(), tmp_path / f"model_{batch}.pth")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model_0.pth", "model_2.pth"]
    model.load_state_dict(torch.load(tmp_path / "model_0.pth"))


def test_misclassified_pictures_are_saved(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    features, labels = pictures(20, size=8)
    loader = DataLoader(TensorDataset(features, labels.clamp(max=1)), batch_size=6)
    wrong_x, wrong_y, wrong_p = [], [], []
    with torch.no_grad():
        for x, y in loader:
            p = F.softmax(model(x), dim=1)
            mask = p.argmax(1) != y
            wrong_x.append(x[mask])
            wrong_y.append(y[mask])
            wrong_p.append(p[mask])
    x, y, p = torch.cat(wrong_x), torch.cat(wrong_y), torch.cat(wrong_p)
    with torch.no_grad():
        expected = (model(features).argmax(1) != labels.clamp(max=1)).sum().item()
    assert 0 < len(x) == len(y) == len(p) == expected < 20
    rows = torch.cat([p, y.reshape(-1, 1).float()], dim=1).numpy()
    for i, row in enumerate(rows):
        name = "_".join(f"{v:.4f}" for v in row)
        utils.save_image(x[i], tmp_path / f"{name}.png")
        transforms.ToPILImage()(x[i]).save(tmp_path / f"{name}.bmp")
    assert len(list(tmp_path.glob("*.png"))) == len(rows)


def linear(image: np.ndarray, a: float = 1.2, b: float = 10) -> np.ndarray:
    return np.clip(a * image + b, 0, 255).astype(np.uint8)


def logarithm(image: np.ndarray, c: float = 40) -> np.ndarray:
    return np.clip(c * np.log(1.0 + image), 0, 255).astype(np.uint8)


def exponential(image: np.ndarray, c: float = 0.41, b: float = 1.06, a: float = 20) -> np.ndarray:
    return np.clip(np.power(b, c * (image.astype(float) - a)) - 1, 0, 255).astype(np.uint8)


def gamma(image: np.ndarray, eps: float = 0, gama: float = 2.5) -> np.ndarray:
    return np.clip(255 * np.power((image + eps) / 255, gama), 0, 255).astype(np.uint8)


def equalised(image: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(image, 256, (0, 256))
    levels = np.cumsum(counts) / image.size * 255
    return linear(levels[image].clip(0, 255).astype(np.uint8))


def test_ensemble_of_grey_transforms() -> None:
    """Five variants of a picture are one batch of 5; every variant has an accuracy of its own."""
    changes = [lambda x: x, linear, logarithm, gamma, equalised]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)).eval()
    x, y = pictures(12, size=8)
    right = torch.zeros(5)
    for picture, label in zip(x, y, strict=True):
        array = (picture * 255).byte().permute(1, 2, 0).numpy()
        variants = torch.stack([transforms.ToTensor()(change(array)) for change in changes])
        assert variants.shape == (5, 3, 8, 8)
        with torch.no_grad():
            right += (net(variants).argmax(1) == label).float()
    assert right.shape == (5,) and ((right >= 0) & (right <= 12)).all()
    assert exponential(np.array([0, 255], np.uint8)).tolist() == [0, 255]
    assert linear(np.array([0, 100, 250], np.uint8)).tolist() == [10, 130, 255]


def test_print_net(capsys: pytest.CaptureFixture[str]) -> None:
    net = models.resnet18(num_classes=2)
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for name in net.state_dict():
        print(name, "\t", net.state_dict()[name].size())
    for name in optimizer.state_dict():
        print(name, "\t", optimizer.state_dict()[name])
    with torch.no_grad():
        assert net(torch.rand(64, 3, 28, 28)).shape == (64, 2)
    out = capsys.readouterr().out
    assert "conv1.weight \t torch.Size([64, 3, 7, 7])" in out and "param_groups" in out


def test_gan_steps_touch_only_their_model() -> None:
    torch.manual_seed(0)
    generator, discriminator = nn.Linear(2, 3), nn.Linear(3, 1)
    step_g, step_d = optim.SGD(generator.parameters(), 0.1), optim.SGD(discriminator.parameters(), 0.1)
    loss_fn = nn.BCEWithLogitsLoss()
    noise = torch.randn(4, 2)
    old_g, old_d = generator.weight.detach().clone(), discriminator.weight.detach().clone()
    fake = generator(noise)
    loss_fn(discriminator(fake.detach()), torch.zeros(4, 1)).backward()
    assert generator.weight.grad is None
    step_d.step()
    assert (generator.weight == old_g).all() and (discriminator.weight != old_d).any()
    old_d = discriminator.weight.detach().clone()
    loss_fn(discriminator(fake), torch.ones(4, 1)).backward()
    step_g.step()
    assert (generator.weight != old_g).any() and (discriminator.weight == old_d).all()


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_resnet18_trains(task: str) -> None:
    torch.manual_seed(0)
    x, y = pictures(8, size=16)
    net = models.resnet18(num_classes=1 if task == "regression" else 3)
    target = y.float().unsqueeze(1) if task == "regression" else y
    loss_fn = nn.MSELoss() if task == "regression" else nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_fn(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses


def test_reusing_a_name_lets_results_go() -> None:
    """Without gradients nothing keeps an intermediate result; with them, what the backward needs stays."""
    import gc
    import weakref

    seen: list[Any] = []

    def forward(x: Any) -> Any:
        for _ in range(3):
            x = x.exp()
            seen.append(weakref.ref(x._data))
        return x.sum()

    with torch.no_grad():
        forward(torch.ones(10))
    gc.collect()
    assert all(r() is None for r in seen)
    seen.clear()
    loss = forward(torch.zeros(10, requires_grad=True))
    assert all(r() is not None for r in seen)
    loss.backward()
    gc.collect()
    assert all(r() is None for r in seen)


def test_pictures_for_display() -> None:
    """What imshow takes: [H, W] or [H, W, 3], by permute or by NumPy's transpose."""
    x, _ = pictures(1, size=8)
    assert x[0].permute(1, 2, 0).numpy().shape == (8, 8, 3)
    assert np.array_equal(np.transpose(x[0].numpy(), (1, 2, 0)), x[0].permute(1, 2, 0).numpy())
    assert x[0, 0].numpy().shape == (8, 8) and x[0][:1].squeeze().shape == (8, 8)
