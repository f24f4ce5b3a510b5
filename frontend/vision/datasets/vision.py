"""What all data sets of pictures share, and downloads."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...utils.data import Dataset

Transform = Callable[[Any], Any]


class StandardTransform:
    """``transform`` for the picture, ``target_transform`` for the label."""

    def __init__(self, transform: Transform | None = None, target_transform: Transform | None = None) -> None:
        self.transform, self.target_transform = transform, target_transform

    def __call__(self, input: Any, target: Any) -> tuple[Any, Any]:
        if self.transform is not None:
            input = self.transform(input)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return input, target

    def __repr__(self) -> str:
        lines = [type(self).__name__]
        for name, t in (("Transform: ", self.transform), ("Target transform: ", self.target_transform)):
            if t is not None:
                first, *rest = str(t).splitlines()
                lines += [f"{name}{first}", *(" " * len(name) + line for line in rest)]
        return "\n".join(lines)


class VisionDataset(Dataset[Any]):
    """A folder ``root`` with pictures. ``transforms`` gets picture and label together, in place of ``transform`` and
    ``target_transform``."""

    def __init__(
        self, root: str | os.PathLike[str] = "", transforms: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        transform: Transform | None = None, target_transform: Transform | None = None,
    ) -> None:  # fmt: skip
        self.root = os.path.expanduser(root) if isinstance(root, str) else root
        if transforms is not None and (transform is not None or target_transform is not None):
            raise ValueError("Only transforms or transform/target_transform can be passed as argument")
        self.transform, self.target_transform = transform, target_transform
        if transforms is None and (transform is not None or target_transform is not None):
            transforms = StandardTransform(transform, target_transform)
        self.transforms = transforms

    def _transformed(self, picture: Any, target: Any) -> tuple[Any, Any]:
        return (picture, target) if self.transforms is None else self.transforms(picture, target)

    def __len__(self) -> int:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """A line more of the printed form."""
        return ""

    def __repr__(self) -> str:
        lines = [f"Number of datapoints: {len(self)}"]
        if self.root:
            lines.append(f"Root location: {self.root}")
        lines += self.extra_repr().splitlines()
        if self.transforms is not None:
            lines += [repr(self.transforms)]
        return "\n    ".join([f"Dataset {type(self).__name__}", *lines])


def md5_of(path: str | os.PathLike[str]) -> str:
    """The MD5 digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def download(url: str, folder: Path, md5: str) -> Path:
    """The file at ``url`` in ``folder``, fetched unless it is there; RuntimeError if it cannot be had or is another."""
    target = folder / url.rsplit("/", 1)[1]
    if target.exists() and md5_of(target) == md5:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=30) as response, open(part, "wb") as file:
            while block := response.read(1 << 20):
                file.write(block)
    except (urllib.error.URLError, OSError) as error:
        part.unlink(missing_ok=True)
        raise RuntimeError(f"download=True: {url} cannot be reached ({error}). Without a network, put the file into "
                           f"{folder} yourself and leave download=False.") from error  # fmt: skip
    if md5_of(part) != md5:
        part.unlink()
        raise RuntimeError(f"{url}: File not found or corrupted. What came has another checksum than {md5}.")
    part.replace(target)
    return target
