"""GPUs: there are none. Questions are answered, seeds and caches need nothing, everything else is refused."""

from __future__ import annotations

from typing import Any, NoReturn

from ..tensor_types import CUDA_TYPES
from . import amp

globals().update(CUDA_TYPES)


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    """Refused: Ingot computes on the CPU."""
    raise AssertionError("Torch not compiled with CUDA enabled")


def is_available() -> bool:
    """False."""
    return False


def device_count() -> int:
    """0."""
    return 0


def is_initialized() -> bool:
    """False."""
    return False


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """False."""
    return False


def manual_seed(seed: int) -> None:
    """Nothing: without a GPU there is no stream to seed."""


def manual_seed_all(seed: int) -> None:
    """Nothing: without a GPU there is no stream to seed."""


def empty_cache() -> None:
    """Nothing: there is no cache."""


def memory_allocated(device: Any = None) -> int:
    """0 bytes."""
    return 0


max_memory_allocated = memory_reserved = max_memory_reserved = memory_allocated


def get_rng_state_all() -> list[Any]:
    """One state per GPU: none."""
    return []


def set_rng_state_all(new_states: Any) -> None:
    """Nothing to set; RuntimeError for states of GPUs that are not there."""
    if len(new_states):
        raise RuntimeError(f"{len(new_states)} states of GPUs, and there is no GPU")


current_device = get_device_name = get_device_properties = get_device_capability = set_device = synchronize = \
    current_stream = Stream = Event = get_rng_state = mem_get_info = device = init = _refuse  # fmt: skip
