"""What ``weights=`` may be. Nothing is downloaded: trained weights come from a file of the user."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ... import nn
from ...serialization import load

M = TypeVar("M", bound=nn.Module)

# Checkpoints of early DenseNets write `norm.1` where the layers are called `norm1`.
_OLD_DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def with_weights(model: M, weights: Any, pretrained: bool = False) -> M:
    """``model`` with ``weights``: None leaves the initial ones, a path names a file with a state dict, or it is one.

    ValueError for anything else, ``pretrained=True`` among them: weights by name would have to be downloaded.
    """
    if isinstance(weights, (str, os.PathLike)) and os.path.exists(weights):
        state = load(weights, map_location="cpu")
        weights = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if isinstance(weights, Mapping):
        model.load_state_dict({_OLD_DENSE.sub(r"\1\2", name): t for name, t in weights.items()})
        return model
    if pretrained or weights not in (None, False):
        asked = "pretrained=True" if pretrained else f"weights={weights!r}"
        raise ValueError(f"{type(model).__name__}: {asked} asks for trained weights, which Ingot does not download. "
                         "Pass weights=PATH, a file with a state_dict (.pth, .pt or .safetensors), or weights=None for "
                         "the initial ones.")  # fmt: skip
    return model
