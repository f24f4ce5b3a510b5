"""Saving and going on: state dicts, checkpoint dictionaries, whole modules and other objects."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import ingot as ig
import numpy as np
import pytest
from ingot import nn, optim
from ingot.ir.errors import ParseError, UnpicklingError, UnsupportedError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.head = nn.Linear(2, 3)
        self.note = {"classes": ["a", "b", "c"]}

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Remark:
    def __init__(self, text: str, tensor: ig.Tensor) -> None:
        self.text, self.tensor = text, tensor


def test_state_dicts_restore_predictions(tmp_path: Path) -> None:
    net, x = Net(), ig.randn(4, 1, 6, 6)
    net(x)
    wanted = net.eval()(x)
    for name in ("a.pt", "a.pth", "a.pkl", "a.safetensors"):
        path = tmp_path / name
        ig.save(net.state_dict(), path)
        other = Net()
        other.load_state_dict(ig.load(path, map_location="cpu"))
        assert ig.equal(other.eval()(x), wanted), name


def test_whole_modules(tmp_path: Path) -> None:
    net, x = Net(), ig.randn(4, 1, 6, 6)
    net(x).sum().backward()
    net.head.weight.requires_grad_(False)
    net.tied = nn.Linear(2, 3)
    net.tied.weight = net.head.weight
    path = tmp_path / "net.pt"
    ig.save(net.eval(), path)
    with pytest.raises(UnpicklingError, match="weights_only=False"):
        ig.load(path)
    twin = ig.load(path, weights_only=False)
    assert ig.equal(twin(x), net(x)) and not twin.training and twin.note == net.note
    assert twin.tied.weight is twin.head.weight and not twin.head.weight.requires_grad and twin.head.bias.requires_grad
    assert isinstance(twin.head.weight, nn.Parameter) and repr(twin) == repr(net)
    twin.train()(x).sum().backward()


def test_a_checkpoint_goes_on_where_training_stopped(tmp_path: Path) -> None:
    x, y = ig.randn(16, 4), ig.randn(16, 2)

    def steps(model: Any, optimizer: Any, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

    ig.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps(model, optimizer, 3)
    epoch = 3
    path = tmp_path / f"state_dict_model{epoch * 10}.pt"
    ig.save({"epoch": epoch, "best_fitness": 0.5, "training_results": "text", "model": model,
             "optimizer": optimizer.state_dict()}, path)  # fmt: skip
    steps(model, optimizer, 2)

    found = ig.load(path, weights_only=False)
    assert found["epoch"] + 1 == 4 and found["best_fitness"] == 0.5 and found["training_results"] == "text"
    again = found["model"]
    resumed = optim.SGD(again.parameters(), lr=0.1, momentum=0.9)
    resumed.load_state_dict(found["optimizer"])
    steps(again, resumed, 2)
    np.testing.assert_array_equal(again.weight.detach().numpy(), model.weight.detach().numpy())


def test_pretrained_start_keeps_the_rest(tmp_path: Path) -> None:
    """Two ways to load what fits: known keys by ``update``, or ``strict=False``."""
    ig.save({**Net().state_dict(), "alien": ig.ones(1)}, tmp_path / "old.pkl")
    pretrained = ig.load(tmp_path / "old.pkl", map_location=lambda storage, location: storage)
    net = Net()
    state = net.state_dict()
    state.update({k: v for k, v in pretrained.items() if k in net.state_dict()})
    net.load_state_dict(state)
    assert ig.equal(net.head.weight, pretrained["head.weight"])
    other = Net()
    assert other.load_state_dict(pretrained, strict=False).unexpected_keys == ["alien"]


def test_arbitrary_objects() -> None:
    base = ig.arange(12).reshape(3, 4)
    given = {"remark": Remark("x", base[1]), "base": base, "array": np.ones(2), "none": None, "set": {1, 2},
             "type": ig.float16, "size": base.shape, "complex": 1j, "bf16": ig.ones(2, dtype=ig.bfloat16),
             "u16": ig.ones(2, dtype=ig.uint16)}  # fmt: skip
    buffer = io.BytesIO()
    ig.save(given, buffer)
    buffer.seek(0)
    found = ig.load(buffer, weights_only=False)
    assert found["remark"].text == "x" and found["remark"].tensor.tolist() == [4, 5, 6, 7]
    found["base"][1, 0] = -1  # memory is still shared
    assert found["remark"].tensor[0].item() == -1 and found["complex"] == 1j and found["bf16"].dtype is ig.bfloat16
    assert found["type"] is ig.float16 and found["size"] == ig.Size([3, 4]) and found["u16"].dtype is ig.uint16


def test_refusals(tmp_path: Path) -> None:
    local = type("Local", (), {})
    with pytest.raises(UnsupportedError, match=r"at \['a'\].*Python cannot pickle"):
        ig.save({"a": local()}, tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match="flat dict"):
        ig.save(Net(), tmp_path / "a.safetensors")
    ig.save(Net(), tmp_path / "b.pt")
    content = (tmp_path / "b.pt").read_bytes()
    with pytest.raises(ParseError):
        ig.load(io.BytesIO(content[: len(content) // 2]), weights_only=False)


# -- with PyTorch -----------------------------------------------------------------------------------
@pytest.mark.parity
@pytest.mark.parametrize("new", [True, False])
def test_modules_that_pytorch_saved(tmp_path: Path, new: bool) -> None:
    torch = pytest.importorskip("torch")
    tnn = torch.nn
    theirs = tnn.Sequential(tnn.Conv2d(1, 2, 3, padding=1), tnn.BatchNorm2d(2), tnn.ReLU(), tnn.MaxPool2d(2),
                            tnn.Flatten(), tnn.Dropout(0.5), tnn.Linear(18, 3), tnn.Identity())  # fmt: skip
    x = np.random.default_rng(0).standard_normal((4, 1, 6, 6)).astype(np.float32)
    theirs(torch.from_numpy(x))
    path = tmp_path / "torch.pt"
    torch.save({"epoch": 3, "model": theirs.eval(), "state": theirs.state_dict()}, path,
               _use_new_zipfile_serialization=new)  # fmt: skip
    with pytest.raises(UnpicklingError, match="weights_only=False"):
        ig.load(path)
    found = ig.load(path, weights_only=False)
    ours = found["model"]
    assert isinstance(ours, ig.nn.Sequential) and repr(ours) == repr(theirs) and found["epoch"] == 3
    np.testing.assert_allclose(ours(ig.from_numpy(x)).detach().numpy(), theirs(torch.from_numpy(x)).detach().numpy(),
                               rtol=1e-5, atol=1e-6)  # fmt: skip
    assert ours[0].weight.requires_grad and list(found["state"]) == list(ours.state_dict())


@pytest.mark.parity
def test_state_dicts_travel_both_ways(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = ig.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ig.save({"model": ours.state_dict(), "epoch": 4, "lr": 0.1, "names": ["a"]}, tmp_path / "a.pt")
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    theirs.load_state_dict(found["model"])
    np.testing.assert_array_equal(theirs.weight.detach().numpy(), ours.weight.detach().numpy())
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    theirs(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": theirs.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "b.pt")
    back = ig.load(tmp_path / "b.pt")
    ours.load_state_dict(back["model"])
    np.testing.assert_array_equal(theirs.weight.detach().numpy(), ours.weight.detach().numpy())
    resumed = optim.SGD(ours.parameters(), lr=0.5, momentum=0.1)
    resumed.load_state_dict(back["optimizer"])
    assert resumed.param_groups[0]["lr"] == 0.1 and resumed.param_groups[0]["momentum"] == 0.9
