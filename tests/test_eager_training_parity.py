"""LeNet trained eagerly on Fashion-MNIST: the losses of every step are PyTorch's from the same weights and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot.utils.data import BatchSampler, RandomSampler
from ingot.vision import datasets, models

pytestmark = pytest.mark.parity


def torch_lenet(torch: Any) -> Any:
    nn = torch.nn
    net = nn.Module()
    net.conv1, net.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
    net.fc1, net.fc2, net.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)
    return net


def torch_forward(torch: Any, net: Any, x: Any) -> Any:
    F = torch.nn.functional
    x = F.max_pool2d(F.relu(net.conv1(x)), 2)
    x = F.max_pool2d(F.relu(net.conv2(x)), 2)
    return net.fc3(F.relu(net.fc2(F.relu(net.fc1(torch.flatten(x, 1))))))


def curves(data_dir: Path, dtype: str, steps: int | None, batch_size: int = 64) -> tuple[np.ndarray, np.ndarray, int]:
    """(our losses, PyTorch's, predictions of 1,000 test images that differ afterwards)."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small layers: more threads only wait for each other
    try:
        return _curves(torch, data_dir, dtype, steps, batch_size)
    finally:
        torch.set_num_threads(threads)


def _curves(
    torch: Any, data_dir: Path, dtype: str, steps: int | None, batch_size: int
) -> tuple[np.ndarray, np.ndarray, int]:
    train = datasets.FashionMNIST(data_dir / "fashion-mnist")
    images, labels = train.data.numpy()[:, None].astype(dtype) / 255, train.targets.numpy()
    ingot.manual_seed(0)
    ours = models.lenet().to(getattr(ingot, dtype))
    theirs = torch_lenet(torch).to(getattr(torch, dtype))
    theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in ours.state_dict().items()})
    options = {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    our_optimizer = ingot.optim.SGD(ours.parameters(), **options)
    their_optimizer = torch.optim.SGD(theirs.parameters(), **options)
    our_loss, their_loss = ingot.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()
    order = RandomSampler(range(len(labels)), generator=ingot.Generator().manual_seed(1))
    batches = BatchSampler(order, batch_size, drop_last=True)
    found: list[tuple[float, float]] = []
    for batch in list(batches)[:steps]:
        x, y = images[batch], labels[batch]
        our_optimizer.zero_grad()
        a = our_loss(ours(ingot.from_numpy(x)), ingot.from_numpy(y))
        a.backward()
        our_optimizer.step()
        their_optimizer.zero_grad()
        b = their_loss(torch_forward(torch, theirs, torch.from_numpy(x)), torch.from_numpy(y))
        b.backward()
        their_optimizer.step()
        found.append((a.item(), b.item()))
    test = datasets.FashionMNIST(data_dir / "fashion-mnist", train=False)
    x = test.data[:1000].numpy()[:, None].astype(dtype) / 255
    with ingot.no_grad():
        mine = ours(ingot.from_numpy(x)).argmax(1).numpy()
    with torch.no_grad():
        reference = torch_forward(torch, theirs, torch.from_numpy(x)).argmax(1).numpy()
    a, b = np.array(found).T
    print(f"{dtype}: {len(a)} steps, largest relative difference {np.max(np.abs(a - b) / b):.1e}, "
          f"loss {a[:10].mean():.4f} -> {a[-10:].mean():.4f}")  # fmt: skip
    return a, b, int((mine != reference).sum())


def test_losses_in_float64(data_dir: Path) -> None:
    ours, theirs, different = curves(data_dir, "float64", 300, 16)
    assert np.max(np.abs(ours - theirs) / theirs) <= 1e-6
    assert theirs[-20:].mean() < 0.6 * theirs[0] and different == 0


def test_losses_in_float32(data_dir: Path) -> None:
    ours, theirs, _ = curves(data_dir, "float32", 50)
    assert np.max(np.abs(ours - theirs) / theirs) <= 1e-3


@pytest.mark.slow
def test_losses_of_a_whole_epoch(data_dir: Path) -> None:
    ours, theirs, different = curves(data_dir, "float64", None)
    assert len(ours) == 937
    assert np.max(np.abs(ours - theirs) / theirs) <= 1e-6 and different == 0
