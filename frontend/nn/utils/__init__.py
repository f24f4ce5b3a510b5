"""Helpers around parameters and sequences with PyTorch's names."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import rnn

# Public name -> module; looked up when first used, because these modules need the layers, and recurrent layers need
# ``rnn``.
_NAMES = {
    **dict.fromkeys(
        ("clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"),
        "clip_grad",
    ),
    **dict.fromkeys(("parameters_to_vector", "vector_to_parameters"), "convert_parameters"),
    **dict.fromkeys(
        ("fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"), "fusion"
    ),
    "skip_init": "init",
    **dict.fromkeys(("remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"), "weight_hooks"),
}
_MODULES = ("clip_grad", "convert_parameters", "fusion", "init", "parametrizations", "parametrize")

__all__ = ["rnn", *_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f".{_NAMES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'ingot.nn.utils' has no attribute {name!r}")
