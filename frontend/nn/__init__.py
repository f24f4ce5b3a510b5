"""Modules, layers and losses with PyTorch's names."""

from __future__ import annotations

from . import (
    activation,
    adaptive,
    attention,
    containers,
    conv_transpose,
    convolution,
    distance,
    dropout,
    embedding,
    functional,
    init,
    layers,
    lazy,
    loss,
    loss_elementwise,
    loss_margin,
    module,
    normalization,
    padding,
    parameter,
    pooling,
    rearrange,
    recurrent,
    sync_batch_norm,
    transformer,
    upsampling,
)
from .activation import *  # noqa: F403
from .adaptive import *  # noqa: F403
from .attention import *  # noqa: F403
from .containers import *  # noqa: F403
from .conv_transpose import *  # noqa: F403
from .convolution import *  # noqa: F403
from .distance import *  # noqa: F403
from .dropout import *  # noqa: F403
from .embedding import *  # noqa: F403
from .layers import *  # noqa: F403
from .lazy import *  # noqa: F403
from .loss import *  # noqa: F403
from .loss_elementwise import *  # noqa: F403
from .loss_margin import *  # noqa: F403
from .module import *  # noqa: F403
from .normalization import *  # noqa: F403
from .padding import *  # noqa: F403
from .parameter import *  # noqa: F403
from .pooling import *  # noqa: F403
from .rearrange import *  # noqa: F403
from .recurrent import *  # noqa: F403
from .sync_batch_norm import *  # noqa: F403
from .transformer import *  # noqa: F403
from .upsampling import *  # noqa: F403

# Every file says itself what of it is public.
_FILES = (
    activation, adaptive, attention, containers, conv_transpose, convolution, distance, dropout, embedding, layers,
    lazy, loss, loss_elementwise, loss_margin, module, normalization, padding, parameter, pooling, rearrange,
    recurrent, sync_batch_norm, transformer, upsampling,
)  # fmt: skip
__all__ = sorted({"functional", "init", *(name for file in _FILES for name in file.__all__)})


def __getattr__(name: str) -> object:
    if name in ("modules", "parallel"):
        from importlib import import_module

        return import_module(f".{name}", __name__)
    if name == "DataParallel":
        from .parallel import DataParallel

        return DataParallel
    from ..absent import absent

    raise absent("ingot.nn", name, __all__)
