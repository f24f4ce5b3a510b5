"""Parametrizations that come with PyTorch."""

from __future__ import annotations

from typing import Any

from ... import linalg, random, reduce, shaping
from ...distance import vector_norm
from ...grad_mode import no_grad
from ...tensor import Tensor
from .. import functional as F
from ..conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from ..module import Module
from . import parametrize


def norm_except(v: Tensor, dim: int) -> Tensor:
    """Euclidean norm over all axes but ``dim`` (-1: over all), with the axes kept."""
    if dim == -1:
        return vector_norm(v, 2)
    return vector_norm(v, 2, [a for a in range(v.dim()) if a != dim % v.dim()] or (), True) if v.dim() > 1 else v.abs()


class _WeightNorm(Module):
    """g v / |v| from the length g and the direction v."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / norm_except(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Separates a weight's length per slice of ``dim`` from its direction (``original0`` and ``original1``)."""
    return parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


def power_iteration(matrix: Tensor, u: Tensor, v: Tensor, steps: int, eps: float) -> None:
    """Moves u and v, in place, towards the first singular vectors of the matrix."""
    with no_grad():
        for _ in range(steps):
            u.copy_(F.normalize(linalg.mv(matrix, v), dim=0, eps=eps))
            v.copy_(F.normalize(linalg.mv(shaping.t(matrix), u), dim=0, eps=eps))


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """``dim`` as rows, everything else as columns."""
    return shaping.reshape(shaping.movedim(weight, dim, 0) if dim else weight, weight.shape[dim], -1)


class _SpectralNorm(Module):
    """weight / sigma, its largest singular value by the power method; the vectors are buffers."""

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        if not -weight.dim() <= dim < weight.dim():
            raise IndexError("Dimension out of range (expected to be in range of "
                             f"[-{weight.dim()}, {weight.dim() - 1}] but got {dim})")  # fmt: skip
        if n_power_iterations <= 0:
            raise ValueError("Expected n_power_iterations to be positive, but got "
                             f"n_power_iterations={n_power_iterations}")  # fmt: skip
        self.dim = dim % weight.dim()
        self.eps = eps
        if weight.dim() > 1:
            self.n_power_iterations = n_power_iterations
            matrix = as_matrix(weight.detach(), self.dim)
            for name, size in zip(("_u", "_v"), matrix.shape, strict=True):
                self.register_buffer(name, F.normalize(random.randn(size, dtype=weight.dtype), dim=0, eps=eps))
            power_iteration(matrix, self._u, self._v, 15, eps)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            power_iteration(matrix.detach(), self._u, self._v, self.n_power_iterations, self.eps)
        # Copies, so that the next power iteration leaves what backward needs alone.
        u, v = self._u.clone(), self._v.clone()
        return weight / reduce.sum(u * linalg.mv(matrix, v))

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divides a weight by its largest singular value, estimated by the power method in every training call."""
    weight: Any = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if dim is None:
        dim = 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0
    return parametrize.register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))


__all__ = ["spectral_norm", "weight_norm"]
