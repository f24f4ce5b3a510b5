"""Parameters as one vector and back."""

from __future__ import annotations

from collections.abc import Iterable

from ... import dispatch, shaping
from ...tensor import Tensor, typename


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, flat, one behind the other."""
    return shaping.cat([shaping.reshape(p, -1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Gives the parameters slices of ``vec`` as their values."""
    if not dispatch.is_tensor(vec):
        raise TypeError(f"expected torch.Tensor, but got: {typename(vec)}")
    start = 0
    for p in parameters:
        stop = start + p.numel()
        p.data = shaping.reshape(vec[start:stop], *p.shape).data
        start = stop


__all__ = ["parameters_to_vector", "vector_to_parameters"]
