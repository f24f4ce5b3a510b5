"""Limits on gradients, in place."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from ... import creation, dispatch, shaping
from ...distance import vector_norm
from ...grad_mode import no_grad
from ...tensor import Tensor


def _tensors(given: Any) -> list[Tensor]:
    return [given] if dispatch.is_tensor(given) else list(given)


def _gradients(parameters: Any) -> list[Tensor]:
    return [p.grad for p in _tensors(parameters) if p.grad is not None]


@no_grad()
def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """The norm of all tensors taken as one vector."""
    parts = _tensors(tensors)
    if not parts:
        return creation.tensor(0.0)
    norm_type = float(norm_type)
    dtype = parts[0].dtype
    norms = [dispatch.cast(vector_norm(t, norm_type), dtype) for t in parts]
    total = vector_norm(shaping.stack(norms), norm_type)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


@no_grad()
def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scales the gradients by max_norm / (total_norm + 1e-6) where that is below 1."""
    factor = (max_norm / (total_norm + 1e-6)).clamp(max=1.0)
    for grad in _gradients(parameters):
        grad.mul_(dispatch.cast(factor, grad.dtype))


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """Scales the gradients so that their joint norm is at most ``max_norm``; returns the norm before."""
    parameters = _tensors(parameters)
    total = get_total_norm(_gradients(parameters), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(parameters, float(max_norm), total)
    return total


def clip_grad_norm(*args: Any, **kwargs: Any) -> Tensor:
    """Old name of ``clip_grad_norm_``."""
    warnings.warn("`torch.nn.utils.clip_grad_norm` is now deprecated in favor of `torch.nn.utils.clip_grad_norm_`.",
                  FutureWarning, stacklevel=2)  # fmt: skip
    return clip_grad_norm_(*args, **kwargs)


@no_grad()
def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Limits every element of the gradients to [-clip_value, clip_value]."""
    clip_value = float(clip_value)
    for grad in _gradients(parameters):
        grad.clamp_(-clip_value, clip_value)


__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]
