"""Automatic mixed precision: which function computes in which floating dtype while autocast is on.

The policies are PyTorch's for CPUs. They apply to functions as users call them (and as modules call them through
``nn.functional``), not to what those are composed of: inside a function with a policy autocast is off, as PyTorch's
dispatcher does it. So what is recorded are casts and ordinary operators, eager and traced, and gradients have the
dtypes of their forward operators wherever backward is called.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from ..ir import dtypes
from ..ir.dtypes import DType
from . import dispatch


class _Mode(threading.local):
    enabled = False
    dtype: DType = dtypes.bfloat16
    cache = True
    nesting = 0


mode = _Mode()

_LOWER = (
    "addbmm", "addmm", "baddbmm", "bmm", "chain_matmul", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "corrcoef", "cov", "linear", "matmul", "mm", "multi_dot",
    "multi_head_attention_forward", "prelu", "scaled_dot_product_attention", "tensordot", "vecdot",
)  # fmt: skip
_FLOAT32 = (
    "adaptive_avg_pool3d", "adaptive_max_pool3d", "avg_pool3d", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "cdist", "cholesky", "cholesky_ex", "cholesky_inverse", "cholesky_solve",
    "cond", "cosine_embedding_loss", "cross_entropy", "ctc_loss", "eig", "eigh", "eigvals", "eigvalsh",
    "fractional_max_pool2d", "fractional_max_pool3d", "grid_sample", "grid_sampler",
    "grid_sampler_2d", "grid_sampler_3d", "hinge_embedding_loss", "householder_product",
    "huber_loss", "inv", "inv_ex", "inverse", "kl_div", "l1_loss", "linear_cross_entropy", "lstsq",
    "margin_ranking_loss", "matrix_rank", "max_unpool1d", "max_unpool2d", "max_unpool3d", "mse_loss",
    "multi_margin_loss", "multilabel_margin_loss", "nanquantile", "nll_loss", "pinverse", "poisson_nll_loss", "prod",
    "qr", "quantile", "smooth_l1_loss", "soft_margin_loss", "solve", "svd", "svdvals", "tensorinv", "tensorsolve",
    "trace", "triplet_margin_loss",
)  # fmt: skip
_WIDEST = ("cat", "concat", "concatenate", "index_copy", "stack")



def _of_padding(given: list[DType], low: DType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DType | None:
    how = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
    return dtypes.float32 if how in ("reflect", "replicate") else None


# Function -> the dtype of its floating operands (None: as they are), from their dtypes, the region's and the call.
POLICY: dict[str, Callable[[list[DType], DType, tuple[Any, ...], dict[str, Any]], DType | None]] = {
    **dict.fromkeys(_LOWER, lambda given, low, args, kwargs: low),
    **dict.fromkeys(_FLOAT32, lambda given, low, args, kwargs: dtypes.float32),
    **dict.fromkeys(_WIDEST, lambda given, low, args, kwargs: max(given, key=lambda d: d is dtypes.float32)),
    "einsum": lambda given, low, args, kwargs: low if len(given) > 1 else None,  # no product, no cast
    "pad": _of_padding,
}


def with_policy(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` under the policy of the function ``name``, if it has one."""
    policy = POLICY.get(name)
    if policy is None:
        return fn

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not mode.enabled:
            return fn(*args, **kwargs)
        low = mode.dtype
        given: list[DType] = []
        _collect((args, kwargs), given)
        mode.enabled = False
        try:
            dtype = policy(given, low, args, kwargs) if given else None
            if dtype is not None:
                args, kwargs = cast((args, kwargs), dtype)
            return fn(*args, **kwargs)
        finally:
            mode.enabled = True

    return call


def policies(functions: Mapping[str, Callable[..., Any]], module: str) -> dict[str, Callable[..., Any]]:
    """``with_policy`` of every function, for the namespace of ``module``."""
    out = {name: with_policy(name, fn) for name, fn in functions.items()}
    for name, fn in out.items():
        if fn is not functions[name]:
            fn.__module__, fn.__qualname__ = module, name  # where pickle finds it
    return out


def eligible(x: Any) -> bool:
    """Whether autocast changes the dtype of ``x``: a floating tensor that is not float64."""
    return dispatch.is_tensor(x) and x.dtype.is_floating_point and x.dtype is not dtypes.float64


def _collect(x: Any, found: list[DType]) -> None:
    if eligible(x):
        found.append(x.dtype)
    elif isinstance(x, (tuple, list)):
        for part in x:
            _collect(part, found)
    elif isinstance(x, dict):
        for part in x.values():
            _collect(part, found)


def cast(x: Any, dtype: DType) -> Any:
    """``x`` with every eligible tensor in tuples, lists and dicts cast."""
    if eligible(x):
        return dispatch.cast(x, dtype)
    if isinstance(x, (tuple, list)) and not hasattr(x, "_fields"):
        # Size and other subclasses hold no tensors.
        return type(x)(cast(part, dtype) for part in x) if type(x) in (tuple, list) else x
    if isinstance(x, dict):
        return {key: cast(part, dtype) for key, part in x.items()}
    return x


@contextmanager
def set_to(enabled: bool, dtype: DType) -> Iterator[None]:
    """A region with this mode, for what is run again later."""
    before = mode.enabled, mode.dtype
    mode.enabled, mode.dtype = enabled, dtype
    try:
        yield
    finally:
        mode.enabled, mode.dtype = before


def signature() -> tuple[Any, ...]:
    """What compiled code depends on: nothing while autocast is off."""
    return ("autocast", mode.dtype.name) if mode.enabled else ()


# -- PyTorch's functions ------------------------------------------------------------------------------
def is_autocast_available(device_type: str) -> bool:
    """Whether there is such a device for autocast: "cpu", and "cuda" by name."""
    _check(device_type, str)
    return device_type in ("cpu", "cuda")


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether autocast is on for "cpu"; never for other devices."""
    return mode.enabled if device_type == "cpu" else False


def set_autocast_enabled(device_type: Any, enabled: bool | None = None) -> None:
    """Turns autocast for a device on or off: ``set_autocast_enabled("cpu", True)``."""
    if device_type == "cpu":
        mode.enabled = bool(enabled)


def get_autocast_dtype(device_type: str) -> DType:
    """The dtype that autocast lowers to: for "cpu" bfloat16 unless set; RuntimeError for unknown devices."""
    if device_type == "cuda":
        return dtypes.float16
    if device_type != "cpu":
        raise RuntimeError(f"unsupported device type for autocast in get_autocast_dtype(): {device_type}")
    return mode.dtype


def set_autocast_dtype(device_type: str, dtype: DType) -> None:
    """Sets the dtype that autocast lowers to."""
    if device_type == "cpu":
        mode.dtype = dtype


def is_autocast_cpu_enabled() -> bool:
    """Whether autocast is on for the CPU."""
    return mode.enabled


def get_autocast_cpu_dtype() -> DType:
    """The dtype that autocast lowers to on the CPU."""
    return mode.dtype


def is_autocast_cache_enabled() -> bool:
    """The setting; Ingot casts a parameter at each use and keeps no copies."""
    return mode.cache


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Changes the setting, and nothing else."""
    mode.cache = bool(enabled)


def clear_autocast_cache() -> None:
    """Nothing: there is no cache."""


def _check(value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"Expected `device_type` of type `str`, got: `{type(value)}`")


FUNCTIONS = (
    "clear_autocast_cache", "get_autocast_cpu_dtype", "get_autocast_dtype", "is_autocast_cache_enabled",
    "is_autocast_cpu_enabled", "is_autocast_enabled", "set_autocast_cache_enabled", "set_autocast_dtype",
    "set_autocast_enabled",
)  # fmt: skip
