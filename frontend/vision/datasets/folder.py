"""One folder per class."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..pillow import pillow
from .vision import Transform, VisionDataset

__all__ = [
    "DatasetFolder", "ImageFolder", "default_loader", "find_classes", "has_file_allowed_extension", "make_dataset",
]  # fmt: skip

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def has_file_allowed_extension(filename: str, extensions: str | tuple[str, ...]) -> bool:
    """Whether the name ends like that; capitals do not matter."""
    return filename.lower().endswith(extensions)


def default_loader(path: str) -> Any:
    """The picture in a file as an RGB Pillow image."""
    with open(path, "rb") as file:
        return pillow().open(file).convert("RGB")


def find_classes(directory: str | os.PathLike[str]) -> tuple[list[str], dict[str, int]]:
    """(sorted names of the folders, their numbers); FileNotFoundError if there are none."""
    classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
    if not classes:
        raise FileNotFoundError(f"Couldn't find any class folder in {directory}.")
    return classes, {name: i for i, name in enumerate(classes)}


def make_dataset(
    directory: str | os.PathLike[str], class_to_idx: dict[str, int] | None = None,
    extensions: str | Sequence[str] | None = None, is_valid_file: Callable[[str], bool] | None = None,
    allow_empty: bool = False,
) -> list[tuple[str, int]]:  # fmt: skip
    """(path, class number) of all files, class by class in alphabetic order, subfolders included.

    Files are chosen by ``extensions`` or by ``is_valid_file`` (ValueError unless just one is given). FileNotFoundError
    names classes without any, unless ``allow_empty``.
    """
    directory = os.path.expanduser(directory)
    if class_to_idx is None:
        class_to_idx = find_classes(directory)[1]
    elif not class_to_idx:
        raise ValueError("'class_to_index' must have at least one entry to collect any samples.")
    if (extensions is None) == (is_valid_file is None):
        raise ValueError("Both extensions and is_valid_file cannot be None or not None at the same time")
    endings = (extensions,) if isinstance(extensions, str) else tuple(extensions or ())
    samples: list[tuple[str, int]] = []
    empty = []
    for name in sorted(class_to_idx):
        count = len(samples)
        for folder, _, files in sorted(os.walk(os.path.join(directory, name), followlinks=True)):
            for file in sorted(files):
                path = os.path.join(folder, file)
                if is_valid_file(path) if is_valid_file is not None else has_file_allowed_extension(path, endings):
                    samples.append((path, class_to_idx[name]))
        if len(samples) == count:
            empty.append(name)
    if empty and not allow_empty:
        text = f"Found no valid file for the classes {', '.join(empty)}. "
        if endings:
            text += f"Supported extensions are: {', '.join(endings)}"
        raise FileNotFoundError(text)
    return samples


class DatasetFolder(VisionDataset):
    """Files below ``root/<class>/``, read by ``loader``: ``classes``, ``class_to_idx``, ``samples`` and ``targets``."""

    def __init__(
        self, root: str | os.PathLike[str], loader: Callable[[str], Any], extensions: tuple[str, ...] | None = None,
        transform: Transform | None = None, target_transform: Transform | None = None,
        is_valid_file: Callable[[str], bool] | None = None, allow_empty: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.classes, self.class_to_idx = self.find_classes(self.root)
        self.samples = make_dataset(self.root, self.class_to_idx, extensions, is_valid_file, allow_empty)
        self.loader, self.extensions = loader, extensions
        self.targets = [target for _, target in self.samples]

    def find_classes(self, directory: str | os.PathLike[str]) -> tuple[list[str], dict[str, int]]:
        """Classes and their numbers; subclasses may choose others."""
        return find_classes(directory)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        return self._transformed(self.loader(path), target)

    def __len__(self) -> int:
        return len(self.samples)


class ImageFolder(DatasetFolder):
    """Pictures below ``root/<class>/``; a sample is (RGB Pillow image, class number)."""

    def __init__(
        self, root: str | os.PathLike[str], transform: Transform | None = None,
        target_transform: Transform | None = None, loader: Callable[[str], Any] = default_loader,
        is_valid_file: Callable[[str], bool] | None = None, allow_empty: bool = False,
    ) -> None:  # fmt: skip
        extensions = IMG_EXTENSIONS if is_valid_file is None else None
        super().__init__(root, loader, extensions, transform, target_transform, is_valid_file, allow_empty)
        self.imgs = self.samples
