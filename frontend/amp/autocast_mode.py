"""``autocast`` regions. What they do to which function is said in ``frontend.autocasting``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from ...ir import dtypes
from ...ir.dtypes import DType
from ..autocasting import cast, get_autocast_dtype, is_autocast_available, is_autocast_enabled, mode

_DTYPES = (dtypes.bfloat16, dtypes.float16)


class autocast:
    """Context and decorator in which linear, convolution and matrix products compute in ``dtype``, losses and some
    others in float32, and everything else in the dtype of its operands.

    Args:
        device_type: "cpu"; a "cuda" region warns and changes nothing, because there is no GPU.
        dtype: bfloat16 (default) or float16; others warn and turn the region off.
        enabled: False makes a region without autocast inside one with it.
        cache_enabled: accepted; casts of parameters are not kept.
    """

    def __init__(
        self, device_type: str, dtype: DType | None = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if not isinstance(device_type, str):
            raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`")
        if not is_autocast_available(device_type):
            raise RuntimeError(f"User specified an unsupported autocast device_type '{device_type}'")
        self.device = device_type
        self.fast_dtype = get_autocast_dtype(device_type) if dtype is None else dtype
        self._cache_enabled = mode.cache if cache_enabled is None else cache_enabled
        if enabled and device_type == "cuda":
            warnings.warn("CUDA is not available or torch_xla is imported. Disabling autocast.", stacklevel=2)
            enabled = False
        elif enabled and self.fast_dtype not in _DTYPES:
            warnings.warn("In CPU autocast, but the target dtype is not supported. Disabling autocast.\nCPU Autocast "
                          f"only supports dtypes of {', '.join(map(str, _DTYPES))} currently.",
                          stacklevel=2)  # fmt: skip
            enabled = False
        self._enabled = enabled
        self._before: list[tuple[bool, DType, bool]] = []

    def __enter__(self) -> autocast:
        self._before.append((mode.enabled, mode.dtype, mode.cache))
        mode.nesting += 1
        mode.cache = self._cache_enabled
        if self.device == "cpu":
            mode.enabled, mode.dtype = self._enabled, self.fast_dtype
        return self

    def __exit__(self, *exc: object) -> None:
        mode.nesting -= 1
        mode.enabled, mode.dtype, mode.cache = self._before.pop()

    def __call__(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """``func`` in such a region."""
        if not callable(func):
            raise TypeError(f"autocast()(func) requires a callable, but got {type(func).__name__}. Did you mean to use "
                            "autocast as a context manager? For example:\n    with torch.autocast(device_type=...):\n"
                            "        output = model(input)")  # fmt: skip

        @wraps(func)
        def decorate_autocast(*args: Any, **kwargs: Any) -> Any:
            with self:
                return func(*args, **kwargs)

        return decorate_autocast


def custom_fwd(
    fwd: Callable[..., Any] | None = None, *, device_type: str, cast_inputs: DType | None = None
) -> Callable[..., Any]:
    """Decorator of the forward of a ``Function``: with ``cast_inputs`` its tensors are cast and autocast is off inside
    a region; else it runs under the mode of the caller, and ``custom_bwd`` gives backward the same."""
    _require_str(device_type)
    if fwd is None:
        return partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @wraps(fwd)
    def decorate_fwd(*args: Any, **kwargs: Any) -> Any:
        ctx, active = args[0], is_autocast_enabled(device_type)
        ctx._dtype = get_autocast_dtype(device_type)
        ctx._fwd_used_autocast = active and cast_inputs is None
        if cast_inputs is None or not active:
            return fwd(*args, **kwargs)
        with autocast(device_type=device_type, enabled=False):
            return fwd(*cast(args, cast_inputs), **cast(kwargs, cast_inputs))

    return decorate_fwd


def custom_bwd(bwd: Callable[..., Any] | None = None, *, device_type: str) -> Callable[..., Any]:
    """Decorator of the backward of a ``Function``: runs it under the mode that its forward had."""
    _require_str(device_type)
    if bwd is None:
        return partial(custom_bwd, device_type=device_type)

    @wraps(bwd)
    def decorate_bwd(*args: Any, **kwargs: Any) -> Any:
        with autocast(device_type=device_type, enabled=args[0]._fwd_used_autocast, dtype=args[0]._dtype):
            return bwd(*args, **kwargs)

    return decorate_bwd


def _require_str(device_type: Any) -> None:
    if not isinstance(device_type, str):
        raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`")
