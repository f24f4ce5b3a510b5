"""Noise in place of pictures: for trying a program out."""

from __future__ import annotations

from typing import Any

from ... import random
from ..transforms.functional import to_pil_image
from .vision import Transform, VisionDataset

__all__ = ["FakeData"]


class FakeData(VisionDataset):
    """``size`` random Pillow images of ``image_size`` (C, H, W) with random labels; sample i is always the same."""

    def __init__(
        self, size: int = 1000, image_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 10,
        transform: Transform | None = None, target_transform: Transform | None = None, random_offset: int = 0,
    ) -> None:  # fmt: skip
        super().__init__("", transform=transform, target_transform=target_transform)
        self.size, self.image_size, self.num_classes, self.random_offset = size, image_size, num_classes, random_offset

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index >= len(self):
            raise IndexError(f"{type(self).__name__} index out of range")
        generator = random.Generator().manual_seed(index + self.random_offset)
        picture = to_pil_image(random.rand(*self.image_size, generator=generator))
        return self._transformed(picture, random.randint(0, self.num_classes, (1,), generator=generator).item())

    def __len__(self) -> int:
        return self.size
