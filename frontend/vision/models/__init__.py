"""Image classifiers with torchvision's constructors and state dict names."""

from __future__ import annotations

from . import densenet, lenet, mobilenet, resnet, squeezenet, vgg

_FILES = (densenet, lenet, mobilenet, resnet, squeezenet, vgg)
for _file in _FILES:
    # After all submodules are imported: some functions have the name of their file.
    globals().update({name: getattr(_file, name) for name in _file.__all__})
__all__ = sorted(name for file in _FILES for name in file.__all__)


def __getattr__(name: str) -> object:
    from ...absent import absent

    raise absent("ingot.vision.models", name, __all__)
