"""PyTorch's import paths of layers: ``nn.modules.loss._Loss``, ``nn.modules.module.Module``.

The files of ``nn`` are cut differently, so these modules are made here: each holds what PyTorch's has, by reference.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

# PyTorch's module -> files of ``nn`` whose names it has.
_FILES: dict[str, tuple[str, ...]] = {
    "adaptive": ("adaptive",),
    "activation": ("activation", "attention"),
    "batchnorm": ("normalization", "sync_batch_norm", "lazy"),
    "container": ("containers",),
    "conv": ("convolution", "conv_transpose", "lazy"),
    "distance": ("distance",),
    "dropout": ("dropout",),
    "flatten": ("layers",),
    "fold": ("rearrange",),
    "instancenorm": ("normalization", "lazy"),
    "lazy": ("lazy",),
    "linear": ("layers", "attention", "lazy"),
    "loss": ("loss", "loss_elementwise", "loss_margin"),
    "module": ("module",),
    "normalization": ("normalization",),
    "padding": ("padding",),
    "pixelshuffle": ("rearrange",),
    "channelshuffle": ("rearrange",),
    "pooling": ("pooling",),
    "rnn": ("recurrent",),
    "sparse": ("embedding",),
    "transformer": ("transformer",),
    "upsampling": ("upsampling",),
}


def _make(name: str, files: tuple[str, ...]) -> ModuleType:
    made = ModuleType(f"{__name__}.{name}", f"``nn``'s {', '.join(files)} under PyTorch's name.")
    made.__spec__ = ModuleSpec(made.__name__, None)
    for file in files:
        source = import_module(f"..{file}", __name__)
        made.__dict__.update({k: v for k, v in vars(source).items() if not k.startswith("__")})
    sys.modules[made.__name__] = made
    return made


globals().update({name: _make(name, files) for name, files in _FILES.items()})
globals().update({k: v for made in _FILES for k, v in vars(globals()[made]).items() if k[:1].isupper()})
