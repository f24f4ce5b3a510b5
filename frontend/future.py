"""How modules convert their parameters (PyTorch's ``torch.__future__``)."""

from __future__ import annotations

_overwrite = False
_swap = False


def set_overwrite_module_params_on_conversion(value: bool) -> None:
    """With True, ``module.to`` and its like make new Parameters; with False (the start) they write ``param.data``."""
    global _overwrite
    _overwrite = value


def get_overwrite_module_params_on_conversion() -> bool:
    """What ``set_overwrite_module_params_on_conversion`` was given last."""
    return _overwrite


def set_swap_module_params_on_conversion(value: bool) -> None:
    """Kept for programs that ask; parameters keep their identity in either case."""
    global _swap
    _swap = value


def get_swap_module_params_on_conversion() -> bool:
    """What ``set_swap_module_params_on_conversion`` was given last."""
    return _swap
