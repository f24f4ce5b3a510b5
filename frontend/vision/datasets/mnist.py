"""MNIST and data sets in its format: 28 x 28 grey pictures in IDX files."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ... import creation
from ...tensor import Tensor
from ..pillow import pillow
from .vision import Transform, VisionDataset, download

__all__ = ["KMNIST", "MNIST", "FashionMNIST"]

# Element type byte of an IDX file.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an IDX file, gzipped or not; ValueError if it is none or is cut short."""
    raw = Path(path).read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise ValueError(f"{path} is not an IDX file")
    kind, rank = np.dtype(_TYPES[raw[2]]), raw[3]
    shape = struct.unpack_from(f">{rank}I", raw, 4) if len(raw) >= 4 + 4 * rank else ()
    count = int(np.prod(shape, dtype=np.int64))
    if len(shape) != rank or len(raw) < 4 + 4 * rank + count * kind.itemsize:
        raise ValueError(f"{path} is cut short: its head promises {list(shape)} elements")
    return np.frombuffer(raw, kind, count, 4 + 4 * rank).reshape(shape).astype(kind.newbyteorder("="))


class MNIST(VisionDataset):
    """Handwritten digits: ``data`` uint8 [n, 28, 28], ``targets`` int64 [n]; a sample is (Pillow image, int).

    The files (``train-images-idx3-ubyte`` and so on, also with ``.gz``) lie in ``root/MNIST/raw``, ``root/raw`` or
    ``root``. ``download=True`` fetches what is not in ``root/MNIST/raw``.
    """

    mirror = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    resources = (
        ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    )
    classes: ClassVar[list[str]] = [
        "0 - zero", "1 - one", "2 - two", "3 - three", "4 - four", "5 - five", "6 - six", "7 - seven", "8 - eight",
        "9 - nine",
    ]  # fmt: skip

    def __init__(
        self, root: str | os.PathLike[str], train: bool = True, transform: Transform | None = None,
        target_transform: Transform | None = None, download: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.train = train
        if download:
            self.download()
        paths = [self._file(part) for part in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        if None in paths:
            raise RuntimeError("Dataset not found. You can use download=True to download it. (Looked for "
                               f"{self._part}-images-idx3-ubyte[.gz] and its labels in "
                               f"{', '.join(map(str, self._folders()))}.)")  # fmt: skip
        images, labels = (read_idx(p) for p in paths if p is not None)
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise ValueError(f"{paths[0]} holds {list(images.shape)} and {paths[1]} {list(labels.shape)}; expected "
                             "[n, height, width] and [n]")  # fmt: skip
        self.data: Tensor = creation.from_numpy(images)
        self.targets: Tensor = creation.from_numpy(labels.astype(np.int64))

    @property
    def _part(self) -> str:
        return "train" if self.train else "t10k"

    @property
    def raw_folder(self) -> str:
        return os.path.join(self.root, type(self).__name__, "raw")

    @property
    def class_to_idx(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    def _folders(self) -> list[Path]:
        return [Path(self.raw_folder), Path(self.root, "raw"), Path(self.root)]

    def _file(self, part: str) -> Path | None:
        names = [f"{self._part}-{part}", f"{self._part}-{part}.gz"]
        return next((p for folder in self._folders() for name in names if (p := folder / name).is_file()), None)

    def download(self) -> None:
        """Fetch the four files unless they are there."""
        for name, md5 in self.resources:
            if not any((folder / n).is_file() for folder in self._folders() for n in (name, name[:-3])):
                download(self.mirror + name, Path(self.raw_folder), md5)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._transformed(pillow().fromarray(self.data[index].numpy()), int(self.targets[index]))

    def __len__(self) -> int:
        return len(self.data)

    def extra_repr(self) -> str:
        return f"Split: {'Train' if self.train else 'Test'}"


class FashionMNIST(MNIST):
    """Pieces of clothing in MNIST's format."""

    mirror = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    resources = (
        ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    )
    classes: ClassVar[list[str]] = [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ]


class KMNIST(MNIST):
    """Cursive Japanese characters in MNIST's format."""

    mirror = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
    resources = (
        ("train-images-idx3-ubyte.gz", "bdb82020997e1d708af4cf47b453dcf7"),
        ("train-labels-idx1-ubyte.gz", "e144d726b3acfaa3e44228e80efcd344"),
        ("t10k-images-idx3-ubyte.gz", "5c965bf0a639b31b8f53240b1b52f4d7"),
        ("t10k-labels-idx1-ubyte.gz", "7320c461ea6c1c855c0b718fb2a4b134"),
    )
    classes: ClassVar[list[str]] = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
