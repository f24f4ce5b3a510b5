"""CIFAR-10 and CIFAR-100: 32 x 32 colour pictures in pickled batches."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from ..pillow import pillow
from .vision import Transform, VisionDataset, download

__all__ = ["CIFAR10", "CIFAR100"]


class _Batches(pickle.Unpickler):
    """Dicts, lists, strings and arrays; a file from anywhere must not run anything else."""

    def find_class(self, module: str, name: str) -> Any:
        # The batches name NumPy's modules of 2009.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.ndarray.__reduce__(np.zeros(0))[0]  # type: ignore[index]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR batch")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = _Batches(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError) as error:
        raise RuntimeError(f"Dataset not found or corrupted. {path} is no CIFAR batch ({error}).") from error
    return {k.decode() if isinstance(k, bytes) else k: v for k, v in found.items()}


class CIFAR10(VisionDataset):
    """``data`` is uint8 [n, 32, 32, 3], ``targets`` a list of ints; a sample is (Pillow image, int).

    The batches of the Python version lie in ``root/cifar-10-batches-py``.
    """

    base_folder = "cifar-10-batches-py"
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    tgz_md5 = "c58f30108f718f92721af3b95e74349a"
    train_list = tuple(f"data_batch_{i}" for i in range(1, 6))
    test_list = ("test_batch",)
    meta = ("batches.meta", "label_names")

    def __init__(
        self, root: str | os.PathLike[str], train: bool = True, transform: Transform | None = None,
        target_transform: Transform | None = None, download: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.train = train
        folder = Path(self.root, self.base_folder)
        if download:
            self.download()
        names = self.train_list if train else self.test_list
        if not all((folder / name).is_file() for name in (*names, self.meta[0])):
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it. (Looked for "
                               f"{', '.join((*names, self.meta[0]))} in {folder}.)")  # fmt: skip
        pixels, self.targets = [], []
        for name in names:
            entry = _read(folder / name)
            pixels.append(np.asarray(entry["data"], np.uint8).reshape(-1, 3, 32, 32))
            self.targets += [int(t) for t in entry.get("labels", entry.get("fine_labels", ()))]
        self.data = np.ascontiguousarray(np.concatenate(pixels).transpose(0, 2, 3, 1))
        if len(self.data) != len(self.targets):
            raise RuntimeError(f"Dataset not found or corrupted. {folder} has {len(self.data)} pictures and "
                               f"{len(self.targets)} labels.")  # fmt: skip
        self.classes: list[str] = list(_read(folder / self.meta[0])[self.meta[1]])
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}

    def download(self) -> None:
        """Fetch and unpack the archive unless its folder is there."""
        root = Path(self.root)
        if not (root / self.base_folder).is_dir():
            with tarfile.open(download(self.url, root, self.tgz_md5), "r:gz") as archive:
                archive.extractall(root, filter="data")

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._transformed(pillow().fromarray(self.data[index]), self.targets[index])

    def __len__(self) -> int:
        return len(self.data)

    def extra_repr(self) -> str:
        return f"Split: {'Train' if self.train else 'Test'}"


class CIFAR100(CIFAR10):
    """The same with a hundred classes, in ``root/cifar-100-python``."""

    base_folder = "cifar-100-python"
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    tgz_md5 = "eb9058c3a382ffc7106e4002c42a8d85"
    train_list = ("train",)
    test_list = ("test",)
    meta = ("meta", "fine_label_names")
