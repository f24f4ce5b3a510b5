"""Real checkpoints, and round trips with PyTorch in both of its formats and in safetensors."""

from __future__ import annotations

import io
import os
import stat
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot.ir import dtypes
from ingot.ir.errors import UnsupportedError


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def array(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy()


@pytest.mark.parametrize("name, file, best, count", [
    ("resnet20", "resnet20-12fca82f.th", 91.78, 97),
    ("resnet56", "resnet56-4bfd9763.th", 93.62, 277),
])  # fmt: skip
def test_real_checkpoints(data_dir: Path, name: str, file: str, best: float, count: int) -> None:
    """Saved on a GPU in the stream format; compared bit for bit with copies made by other means."""
    for location in (None, "cpu", ingot.device("cpu"), {"cuda:0": "cpu"}, lambda storage, where: storage):
        checkpoint = ingot.load(data_dir / "weights" / file, map_location=location)
    assert checkpoint["best_prec1"] == pytest.approx(best)
    state = checkpoint["state_dict"]
    assert type(state) is OrderedDict and len(state) == count
    with np.load(data_dir / "weights" / f"{name}.npz") as expected:
        assert {k.removeprefix("module.") for k in state} == set(expected.files)
        for key, tensor in state.items():
            wanted = expected[key.removeprefix("module.")]
            assert isinstance(tensor, ingot.Tensor) and tensor.dtype is ingot.float32
            assert tuple(tensor.shape) == wanted.shape and bits(array(tensor)) == bits(wanted), key


def sample(dtype: dtypes.DType, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype.numpy)
    return rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype.numpy)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.name)
def test_own_round_trip(dtype: dtypes.DType, suffix: str, tmp_path: Path) -> None:
    arrays = {
        "matrix": sample(dtype, (3, 4)),
        "scalar": sample(dtype, ()),
        "empty": sample(dtype, (0, 3)),
        "transposed": sample(dtype, (3, 4)).T,
        "reversed": sample(dtype, (5,))[::-1],
        "broadcast": np.broadcast_to(sample(dtype, (1, 4)), (3, 4)),
        "every other": sample(dtype, (10, 6))[1::2, ::3],
    }
    path = tmp_path / f"file{suffix}"
    ingot.save({k: ingot.Tensor._wrap(a) for k, a in arrays.items()}, path)
    loaded = ingot.load(path)
    assert list(loaded) == list(arrays) or suffix == ".safetensors"
    for key, wanted in arrays.items():
        assert loaded[key].dtype is dtype and tuple(loaded[key].shape) == wanted.shape
        assert bits(array(loaded[key])) == bits(wanted), key


def nested() -> dict[str, Any]:
    shared = np.arange(12, dtype=np.float32).reshape(3, 4)
    inner = OrderedDict(weight=ingot.Tensor._wrap(shared), row=ingot.Tensor._wrap(shared[1]))
    inner._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    both = [1, 2]
    return {
        "state": inner,
        "numbers": [0, 1, 255, 256, -1, 2**31, -(2**31) - 1, 2**100, -(2**100), 1.5, float("inf"), True, False, None],
        "text": "grüße \U0001f600",
        "bytes": bytes(range(256)),
        "tuple": (1, (2, ())),
        "set": {1, "a"},
        "dtype": ingot.bfloat16,
        "size": ingot.Size((2, 3)),
        "device": ingot.device("cpu"),
        3: "int key",
        "twice": [both, both],
        "lists": [[i] for i in range(300)],
    }


def check_nested(loaded: dict[Any, Any]) -> None:
    expected = nested()
    for key in ("numbers", "text", "bytes", "tuple", "set", "size", "device", 3, "twice", "lists"):
        assert loaded[key] == expected[key] and type(loaded[key]) is type(expected[key]), key
    assert loaded["dtype"] is ingot.bfloat16
    assert loaded["twice"][0] is loaded["twice"][1]
    assert type(loaded["state"]) is OrderedDict and loaded["state"]._metadata == {"": {"version": 1}}
    weight, row = array(loaded["state"]["weight"]), array(loaded["state"]["row"])
    assert np.shares_memory(weight, row)
    weight[1, 2] = 77
    assert row[2] == 77


def test_nested_objects_and_shared_memory(tmp_path: Path) -> None:
    ingot.save(nested(), tmp_path / "a.pt")
    check_nested(ingot.load(tmp_path / "a.pt"))
    stream = io.BytesIO()
    ingot.save(nested(), stream)
    check_nested(ingot.load(io.BytesIO(stream.getvalue())))


def test_cycles_survive(tmp_path: Path) -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    ingot.save(cycle, tmp_path / "c.pt")
    loaded = ingot.load(tmp_path / "c.pt")
    assert loaded[1] is loaded


def test_parameters_keep_their_class(tmp_path: Path) -> None:
    from ingot import nn

    parameter = nn.Parameter(ingot.Tensor._wrap(np.ones((2, 2), np.float32)))
    frozen = nn.Parameter(ingot.Tensor._wrap(np.ones(3, np.float32)), requires_grad=False)
    ingot.save([parameter, frozen], tmp_path / "p.pt")
    first, second = ingot.load(tmp_path / "p.pt")
    assert isinstance(first, nn.Parameter) and first.requires_grad
    assert isinstance(second, nn.Parameter) and not second.requires_grad


def test_records_are_aligned(tmp_path: Path) -> None:
    import zipfile

    ingot.save([ingot.Tensor._wrap(np.ones(n, np.float32)) for n in range(20)], tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as z:
        for info in z.infolist():
            at = info.header_offset
            start = at + 30 + int.from_bytes(content[at + 26 : at + 28], "little")
            start += int.from_bytes(content[at + 28 : at + 30], "little")
            assert start % 64 == 0
            assert content[start : start + info.file_size] == z.read(info)


def test_saving_is_atomic(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    ingot.save({"a": 1}, path)
    before = path.read_bytes()
    with pytest.raises(UnsupportedError, match=r"builtins\.function at \['b'\]\[1\]"):
        ingot.save({"b": [1, lambda: 0]}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_refusals(tmp_path: Path) -> None:
    tensor = ingot.Tensor._wrap(np.ones(2, np.float32))
    for obj in ([tensor], {"a": [tensor]}, {1: tensor}):
        with pytest.raises(UnsupportedError, match="flat dict"):
            ingot.save(obj, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedError, match="Python cannot pickle it"):
        ingot.save(lambda: 0, tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match="no_folder"):
        ingot.save(1, tmp_path / "no_folder" / "a.pt")
    with pytest.raises(FileNotFoundError):
        ingot.load(tmp_path / "missing.pt")
    with pytest.raises(TypeError):
        ingot.load(3)
    with pytest.raises(TypeError, match="binary"):
        ingot.load(io.StringIO("x"))
    ingot.save({"a": tensor}, tmp_path / "a.pt")
    for location in ("cuda", "cuda:1", ingot.device("cuda", 0), {"cpu": "cuda:0"}, lambda s, w: object()):
        with pytest.raises(UnsupportedError, match="CPU"):
            ingot.load(tmp_path / "a.pt", map_location=location)


# -- with PyTorch ------------------------------------------------------------------------------------


def torch_dtypes() -> list[str]:
    return [d.name for d in dtypes.ALL]


def to_array(torch: Any, tensor: Any) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parity
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("name", torch_dtypes())
def test_reads_what_torch_saves(name: str, new_format: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, name)
    base = torch.arange(60).reshape(3, 4, 5).to(dtype) if name != "bool" else torch.arange(60).reshape(3, 4, 5) % 3 == 0
    tensors = {
        "base": base,
        "view": base[1:, ::2],
        "transposed": base.permute(2, 0, 1),
        "expanded": base[0, 0, 0].expand(3, 2),
        "scalar": base[1, 1, 1],
        "empty": base[:0],
        "alone": base[2].clone(),
    }
    path = tmp_path / "file.pt"
    try:
        torch.save(tensors, path, _use_new_zipfile_serialization=new_format)
    except (AttributeError, RuntimeError, KeyError) as error:
        pytest.skip(f"torch itself cannot save {name} in this format: {error}")
    loaded = ingot.load(path)
    for key, tensor in tensors.items():
        assert loaded[key].dtype.name == name and tuple(loaded[key].shape) == tuple(tensor.shape)
        assert tuple(loaded[key].stride()) == tuple(tensor.stride()) or tensor.numel() == 0
        assert bits(array(loaded[key])) == to_array(torch, tensor), key
    assert np.shares_memory(array(loaded["base"]), array(loaded["view"]))
    assert not np.shares_memory(array(loaded["base"]), array(loaded["alone"]))


@pytest.mark.parity
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "stream"])
def test_reads_containers_and_training_states_of_torch(new_format: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    tagged = torch.nn.Parameter(torch.ones(2))
    tagged.note = "x"
    plain = torch.ones(2)
    plain.note = "y"
    obj = {
        "net": net.state_dict(),
        "parameters": list(net.parameters()),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "set": {1, 2},
        "counter": Counter("aab"),
        "default": defaultdict(list, {"a": [1]}),
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"ab"),
        "leaf": torch.ones(3, requires_grad=True),
        "tagged": tagged,
        "plain": plain,
    }
    path = tmp_path / "file.pt"
    torch.save(obj, path, _use_new_zipfile_serialization=new_format)
    loaded = ingot.load(path, map_location=ingot.device("cpu"), weights_only=False)
    assert list(loaded) == list(obj)
    for key in ("epoch", "set", "counter", "default", "bytes", "bytearray"):
        assert loaded[key] == obj[key] and type(loaded[key]) is type(obj[key]), key
    assert loaded["size"] == ingot.Size((1, 2)) and loaded["dtype"] is ingot.float16
    assert loaded["device"] == ingot.device("cpu")
    assert loaded["leaf"].requires_grad and loaded["tagged"].requires_grad and not loaded["plain"].requires_grad
    assert loaded["net"]._metadata.keys() == obj["net"]._metadata.keys()
    for key, tensor in obj["net"].items():
        assert bits(array(loaded["net"][key])) == to_array(torch, tensor), key
    for mine, theirs in zip(loaded["parameters"], net.parameters(), strict=True):
        assert isinstance(mine, ingot.nn.Parameter) and bits(array(mine)) == to_array(torch, theirs)
    momentum = loaded["optimizer"]["state"][0]["momentum_buffer"]
    assert bits(array(momentum)) == to_array(torch, optimizer.state_dict()["state"][0]["momentum_buffer"])
    assert loaded["optimizer"]["param_groups"][0]["momentum"] == 0.9


@pytest.mark.parity
def test_torch_reads_what_we_save(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    shared = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays = {d.name: sample(d, (3, 4)) for d in dtypes.ALL}
    obj = {
        **{k: ingot.Tensor._wrap(a) for k, a in arrays.items()},
        "shared": ingot.Tensor._wrap(shared),
        "row": ingot.Tensor._wrap(shared.T[1]),
        "scalar": ingot.Tensor._wrap(np.float64(2.5).reshape(())),
        "empty": ingot.Tensor._wrap(np.zeros((0, 3), np.float32)),
        "numbers": nested()["numbers"],
        "text": nested()["text"],
        "bytes": nested()["bytes"],
        "set": {1, 2},
        "size": ingot.Size((2, 3)),
        "dtype": ingot.float16,
        "device": ingot.device("cpu"),
        "parameter": ingot.nn.Parameter(ingot.Tensor._wrap(np.ones(2, np.float32))),
        "state": nested()["state"],
    }
    for target in (tmp_path / "file.pt", io.BytesIO()):
        ingot.save(obj, target)
        if isinstance(target, io.BytesIO):
            target.seek(0)
        loaded = torch.load(target, weights_only=True)
        for key, wanted in arrays.items():
            assert str(loaded[key].dtype) == f"torch.{key}" and to_array(torch, loaded[key]) == bits(wanted), key
        assert loaded["row"].tolist() == shared.T[1].tolist() and loaded["row"].stride() == (4,)
        loaded["shared"][2, 1] = 50.0
        assert loaded["row"][2] == 50.0
        assert loaded["scalar"].shape == () and loaded["empty"].shape == (0, 3)
        for key in ("numbers", "text", "bytes", "set"):
            assert loaded[key] == obj[key]
        assert loaded["size"] == torch.Size([2, 3]) and loaded["dtype"] is torch.float16
        assert loaded["device"] == torch.device("cpu")
        assert isinstance(loaded["parameter"], torch.nn.Parameter) and loaded["parameter"].requires_grad
        assert loaded["state"]._metadata == {"": {"version": 1}}
    torch.load(tmp_path / "file.pt", weights_only=True, mmap=True)


@pytest.mark.parity
@pytest.mark.parametrize("name", torch_dtypes())
def test_safetensors_with_torch(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    tensor = torch.arange(24).reshape(4, 6).to(getattr(torch, name))
    save_file({"a": tensor, "b": tensor[0, 0].clone()}, tmp_path / "theirs.safetensors")
    loaded = ingot.load(tmp_path / "theirs.safetensors")
    assert loaded["a"].dtype.name == name and bits(array(loaded["a"])) == to_array(torch, tensor)
    array(loaded["a"])[0, 0] = 0  # writable
    ingot.save(loaded, tmp_path / "ours.safetensors")
    again = load_file(tmp_path / "ours.safetensors")
    assert again["a"].dtype is tensor.dtype and again["b"].shape == ()
    assert to_array(torch, again["a"]) == bits(array(loaded["a"]))
