"""Data sets of pictures read from their standard files."""

from __future__ import annotations

import gzip
import pickle
import struct
import urllib.error
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot.utils.data import DataLoader, Dataset
from ingot.vision import datasets, transforms
from ingot.vision.datasets.mnist import read_idx

Image = pytest.importorskip("PIL.Image")


def write_idx(path: Path, array: np.ndarray, zipped: bool) -> None:
    raw = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".gz" * zipped).write_bytes(gzip.compress(raw) if zipped else raw)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("folder", ["FashionMNIST/raw", "raw", ""])
def test_mnist_files(tmp_path: Path, folder: str, zipped: bool) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 28, 28)), rng.integers(0, 10, 7)
    for part, n in (("train", 7), ("t10k", 3)):
        write_idx(tmp_path / folder / f"{part}-images-idx3-ubyte", images[:n], zipped)
        write_idx(tmp_path / folder / f"{part}-labels-idx1-ubyte", labels[:n], zipped)
    train = datasets.FashionMNIST(str(tmp_path), download=True)  # everything is there: no network needed
    assert len(train) == 7 and train.data.dtype is ingot.uint8 and train.targets.tolist() == labels.tolist()
    picture, label = train[2]
    assert picture.mode == "L" and np.array_equal(np.asarray(picture), images[2]) and label == labels[2]
    assert type(label) is int
    test = datasets.FashionMNIST(
        tmp_path, train=False, transform=transforms.ToTensor(), target_transform=lambda y: y + 1
    )
    assert len(test) == 3 and test[0][0].shape == (1, 28, 28) and test[0][1] == labels[0] + 1
    assert str(test).startswith(f"Dataset FashionMNIST\n    Number of datapoints: 3\n    Root location: {tmp_path}\n"
                                "    Split: Test\n    StandardTransform\nTransform: ToTensor()")  # fmt: skip


def test_classes() -> None:
    assert datasets.FashionMNIST.classes == [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ]  # fmt: skip
    assert datasets.MNIST.classes[3] == "3 - three" and datasets.KMNIST.classes[0] == "o"


def test_missing_and_broken_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"Dataset not found\. You can use download=True to download it"):
        datasets.MNIST(tmp_path)

    def offline(*args: Any, **kwargs: Any) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(RuntimeError, match=r"cannot be reached .*no network.*put the file into .*MNIST/raw yourself"):
        datasets.MNIST(tmp_path, download=True)
    with pytest.raises(RuntimeError, match="cannot be reached"):
        datasets.CIFAR10(tmp_path, download=True)
    assert not list(tmp_path.rglob("*.part"))
    (tmp_path / "t").write_bytes(struct.pack(">HBBI", 0, 8, 1, 100) + b"123")
    with pytest.raises(ValueError, match=r"is cut short: its head promises \[100\] elements"):
        read_idx(tmp_path / "t")
    (tmp_path / "t").write_bytes(b"hello world")
    with pytest.raises(ValueError, match="is not an IDX file"):
        read_idx(tmp_path / "t")


def test_a_download_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: io.BytesIO(b"something else"))
    with pytest.raises(RuntimeError, match="File not found or corrupted"):
        datasets.MNIST(tmp_path, download=True)
    assert not any(p.is_file() for p in tmp_path.rglob("*"))


def cifar_batches(folder: Path, n: int = 4) -> np.ndarray:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (6, n, 3072), np.uint8)
    folder.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        entry = {b"data": pixels[k], b"labels": [(k + i) % 10 for i in range(n)], b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names, "num_vis": 3072}, protocol=2))
    return pixels


def test_cifar10(tmp_path: Path) -> None:
    pixels = cifar_batches(tmp_path / "cifar-10-batches-py")
    train, test = datasets.CIFAR10(tmp_path), datasets.CIFAR10(tmp_path, train=False, transform=transforms.ToTensor())
    assert (len(train), len(test)) == (20, 4) and train.data.shape == (20, 32, 32, 3)
    picture, label = train[5]
    assert np.array_equal(np.asarray(picture), pixels[1, 1].reshape(3, 32, 32).transpose(1, 2, 0)) and label == 2
    assert train.classes[3] == "cat" and train.class_to_idx["truck"] == 9 and test[0][0].shape == (3, 32, 32)


def test_cifar_batches_cannot_run_code(tmp_path: Path) -> None:
    cifar_batches(tmp_path / "cifar-10-batches-py")

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(RuntimeError, match="has no place in a CIFAR batch"):
        datasets.CIFAR10(tmp_path, train=False)
    assert not (tmp_path / "touched").exists()


def test_fake_data_repeats() -> None:
    fake = datasets.FakeData(5, (3, 8, 9), 4, transform=transforms.ToTensor())
    a, b = fake[3], fake[3]
    assert a[0].shape == (3, 8, 9) and (a[0] == b[0]).all() and a[1] == b[1] and not (a[0] == fake[2][0]).all()
    assert len(fake) == 5 and all(0 <= y < 4 for _, y in (fake[i] for i in range(5)))
    with pytest.raises(IndexError):
        fake[5]


def folder_of_pictures(root: Path) -> None:
    for k, name in enumerate(("dog", "ant", "cat")):
        (root / name / "deep").mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((6, 5, 3), 20 * k + i, np.uint8)).save(root / name / f"{i}.png")
        Image.fromarray(np.full((6, 5), 100, np.uint8)).save(root / name / "deep" / "9.PNG")
        (root / name / "notes.txt").write_text("no picture")


def test_image_folder(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path)
    found = datasets.ImageFolder(str(tmp_path), transform=transforms.ToTensor())
    assert found.classes == ["ant", "cat", "dog"] and found.class_to_idx == {"ant": 0, "cat": 1, "dog": 2}
    assert len(found) == 12 and found.targets == [0] * 4 + [1] * 4 + [2] * 4 and found.imgs is found.samples
    assert found.samples[0] == (str(tmp_path / "ant" / "0.png"), 0)
    assert [x.shape for x, _ in found] == [(3, 6, 5)] * 12 if hasattr(found, "__iter__") else True
    assert [round(found[i][0][0, 0, 0].item() * 255) for i in range(5)] == [20, 21, 22, 100, 40]
    images, labels = next(iter(DataLoader(found, batch_size=12)))
    assert images.shape == (12, 3, 6, 5) and labels.tolist() == found.targets
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"Found no valid file for the classes empty\. Supported extensions are: "
    ):
        datasets.ImageFolder(tmp_path)
    assert len(datasets.ImageFolder(tmp_path, allow_empty=True).classes) == 4
    texts = datasets.DatasetFolder(tmp_path, lambda p: Path(p).read_text(), (".txt",), allow_empty=True)
    assert texts[0] == ("no picture", 0)
    with pytest.raises(FileNotFoundError, match="Couldn't find any class folder in"):
        datasets.ImageFolder(tmp_path / "empty")


class MyDataset(Dataset):
    """A folder per class, as users write it."""

    def __init__(self, root_dir: Any, lable_dir: str, transform: Any = None, target_transform: Any = None) -> None:
        self.path = Path(root_dir) / lable_dir
        self.names = sorted(p.name for p in self.path.glob("*.png"))
        self.lable_dir, self.transform, self.target_transform = lable_dir, transform, target_transform

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        image, label = Image.open(self.path / self.names[index]), self.lable_dir
        if self.transform:
            image = self.transform(image)
        if self.target_transform:
            label = self.target_transform(label)
        return image, label


def test_own_dataset_of_folders_equals_image_folder(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path)
    parts = [MyDataset(tmp_path, c, transforms.ToTensor(), ["ant", "cat", "dog"].index) for c in ("ant", "cat", "dog")]
    own = parts[0] + parts[1] + parts[2]
    theirs = [s for s in datasets.ImageFolder(tmp_path, transforms.ToTensor()).samples if "deep" not in s[0]]
    assert len(own) == len(theirs) == 9
    for i, (path, label) in enumerate(theirs):
        assert own[i][1] == label and (own[i][0] == transforms.ToTensor()(Image.open(path))).all()
    names = next(iter(DataLoader(MyDataset(tmp_path, "ant", transforms.ToTensor()), batch_size=3)))[1]
    assert list(names) == ["ant"] * 3  # string labels stay strings


class MyData(Dataset):
    """Pictures and label files, both listings sorted so that they match."""

    def __init__(
        self, root_dir: Path, image_dir: str, label_dir: str, transform: Any = None, target_transform: Any = None
    ) -> None:
        self.images = sorted((root_dir / image_dir).iterdir())
        self.labels = sorted((root_dir / label_dir).iterdir())
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        assert len(self.images) == len(self.labels)
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image, label = Image.open(self.images[index]), self.labels[index].read_text().strip()
        return self.transform(image) if self.transform else image, label


def test_own_dataset_with_label_files(tmp_path: Path) -> None:
    for sub in ("image", "label"):
        (tmp_path / sub).mkdir()
    for i in range(4):
        Image.fromarray(np.full((3, 3, 3), i, np.uint8)).save(tmp_path / "image" / f"{i}.png")
        (tmp_path / "label" / f"{i}.txt").write_text(f"class{i}\n")
    batches = list(
        DataLoader(MyData(tmp_path, "image", "label", transforms.PILToTensor()), batch_size=3, num_workers=1)
    )
    assert [b[0].shape[0] for b in batches] == [3, 1] and [list(b[1]) for b in batches] == [
        ["class0", "class1", "class2"], ["class3"],
    ]  # fmt: skip


def test_own_dataset_of_arrays() -> None:
    class Arrays(Dataset):
        def __init__(self, data: list[np.ndarray], label: int, transform: Any = None) -> None:
            self.data, self.label, self.transform = data, label, transform

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, i: int) -> Any:
            return self.transform(self.data[i]), self.label

    data = [np.full((4, 5, 3), 51 * i, np.uint8) for i in range(3)]
    chain = transforms.Compose([transforms.ToTensor(), transforms.Resize((8, 8), antialias=True)])
    images, labels = next(iter(DataLoader(Arrays(data, 1, chain), batch_size=3)))
    assert images.shape == (3, 3, 8, 8) and np.allclose(images[2].numpy(), 0.4) and labels.tolist() == [1, 1, 1]


def test_fashion_mnist_itself(data_dir: Path) -> None:
    train = datasets.FashionMNIST(data_dir / "fashion-mnist", transform=transforms.ToTensor())
    assert len(train) == 60_000 and train.targets[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert abs(train.data.numpy().mean() / 255 - 0.28604) < 1e-5
    images, labels = next(iter(DataLoader(train, batch_size=64)))
    assert images.shape == ingot.Size([64, 1, 28, 28]) and labels.shape == ingot.Size([64])
    assert train.classes[labels[0].item()] == "Ankle boot" and train.class_to_idx["Bag"] == 8
    digits = datasets.MNIST(data_dir / "mnist-t10k", train=False)
    assert len(digits) == 10_000 and digits[0][1] == 7
    folder = datasets.ImageFolder(data_dir / "cifar10-test-1000" / "images", transforms.PILToTensor())
    with np.load(data_dir / "cifar10-test-1000" / "cifar10_test_1000.npz") as file:
        assert folder.classes == [str(n) for n in file["class_names"]] and len(folder) == 100
        number = {int(k): i for i, k in enumerate(file["index_in_class"][:100]) if file["labels"][i] == 3}
        path, label = folder.samples[35]
        assert label == 3
        want = file["images"][number[int(Path(path).stem)]]
    assert np.array_equal(folder[35][0].permute(1, 2, 0).numpy(), want)


def test_a_folder_is_converted_and_split_eight_to_two(tmp_path: Path) -> None:
    """JPEG files become PNG, and every class is shared out between train and val."""
    from ingot.utils.data import random_split

    for name, n in (("cat", 10), ("dog", 5)):
        (tmp_path / "all" / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(tmp_path / "all" / name / f"{i}.jpg")
    for name in ("cat", "dog"):
        files = sorted((tmp_path / "all" / name).glob("*.jpg"))
        parts = random_split(files, [0.8, 0.2], generator=ingot.Generator().manual_seed(42))
        for part, chosen in zip(("train", "val"), parts, strict=True):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(len(chosen)):
                Image.open(chosen[i]).save(tmp_path / part / name / f"{chosen[i].stem}.png")
    train, val = (datasets.ImageFolder(tmp_path / part, transforms.ToTensor()) for part in ("train", "val"))
    assert [train.targets.count(k) for k in (0, 1)] == [8, 4] and [val.targets.count(k) for k in (0, 1)] == [2, 1]
    assert train.class_to_idx == val.class_to_idx and val[0][0].shape == (3, 8, 8)
    stems = [Path(p).stem for p, t in (*train.samples, *val.samples) if t == 0]
    assert sorted(stems) == [str(i) for i in range(10)]
