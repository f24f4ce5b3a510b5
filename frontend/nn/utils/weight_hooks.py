"""``weight_norm`` and ``spectral_norm`` as hooks: the way before parametrizations."""

from __future__ import annotations

import warnings
from typing import Any

from ... import linalg, random, reduce
from ...tensor import Tensor
from .. import functional as F
from ..conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from ..module import Module
from ..parameter import Parameter
from .parametrizations import as_matrix, norm_except, power_iteration


class _Hook:
    """Computes ``module.<name>`` before every forward."""

    def __init__(self, name: str) -> None:
        self.name = name

    def compute(self, module: Any) -> Tensor:
        raise NotImplementedError

    def __call__(self, module: Any, inputs: Any) -> None:
        setattr(module, self.name, self.compute(module))


class WeightNorm(_Hook):
    """The hook of ``weight_norm``."""

    def __init__(self, name: str, dim: int | None) -> None:
        super().__init__(name)
        self.dim = -1 if dim is None else dim

    def compute(self, module: Any) -> Tensor:
        g, v = getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v")
        return v * (g / norm_except(v, self.dim))


class SpectralNorm(_Hook):
    """The hook of ``spectral_norm``."""

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__(name)
        if n_power_iterations <= 0:
            raise ValueError("Expected n_power_iterations to be positive, but got "
                             f"n_power_iterations={n_power_iterations}")  # fmt: skip
        self.n_power_iterations, self.dim, self.eps = n_power_iterations, dim, eps

    def compute(self, module: Any) -> Tensor:
        weight = getattr(module, f"{self.name}_orig")
        u, v = getattr(module, f"{self.name}_u"), getattr(module, f"{self.name}_v")
        matrix = as_matrix(weight, self.dim)
        if module.training:
            power_iteration(matrix.detach(), u, v, self.n_power_iterations, self.eps)
        return weight / reduce.sum(u.clone() * linalg.mv(matrix, v.clone()))


def _install(module: Any, hook: _Hook) -> Any:
    for other in module._forward_pre_hooks.values():
        if type(other) is type(hook) and other.name == hook.name:
            raise RuntimeError(f"Cannot register two {type(hook).__name__.replace('N', '_n').lower().lstrip('_')} "
                               f"hooks on the same parameter {hook.name}")  # fmt: skip
    module.register_forward_pre_hook(hook)
    return module


def _removed(module: Any, kind: type, name: str, what: str) -> Any:
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, kind) and hook.name == name:  # type: ignore[attr-defined]
            value = hook.compute(module).detach()  # type: ignore[attr-defined]
            del module._forward_pre_hooks[key]
            del module.__dict__[name]
            return value
    raise ValueError(f"{what} of '{name}' not found in {module}")


def weight_norm(module: Any, name: str = "weight", dim: int | None = 0) -> Any:
    """Replaces a weight by its length ``<name>_g`` and direction ``<name>_v``."""
    warnings.warn("`torch.nn.utils.weight_norm` is deprecated in favor of "
                  "`torch.nn.utils.parametrizations.weight_norm`.", FutureWarning, stacklevel=2)  # fmt: skip
    hook = WeightNorm(name, dim)
    weight = getattr(module, name)
    del module._parameters[name]
    module.register_parameter(f"{name}_g", Parameter(norm_except(weight.detach(), hook.dim)))
    module.register_parameter(f"{name}_v", Parameter(weight.detach()))
    setattr(module, name, hook.compute(module))
    return _install(module, hook)


def remove_weight_norm(module: Any, name: str = "weight") -> Any:
    """Makes the weight an ordinary parameter again."""
    value = _removed(module, WeightNorm, name, "weight_norm")
    del module._parameters[f"{name}_g"], module._parameters[f"{name}_v"]
    module.register_parameter(name, Parameter(value))
    return module


def spectral_norm(
    module: Any, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Any:
    """Divides a weight (kept as ``<name>_orig``) by its largest singular value."""
    if dim is None:
        dim = 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0
    hook = SpectralNorm(name, n_power_iterations, dim, eps)
    weight = module._parameters[name]
    if weight is None:
        raise ValueError(f"`SpectralNorm` cannot be applied as parameter `{name}` is None")
    matrix = as_matrix(weight.detach(), dim)
    vectors = [F.normalize(random.randn(size, dtype=weight.dtype), dim=0, eps=eps) for size in matrix.shape]
    del module._parameters[name]
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.detach())
    module.register_buffer(f"{name}_u", vectors[0])
    module.register_buffer(f"{name}_v", vectors[1])
    return _install(module, hook)


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Makes the weight, divided, an ordinary parameter again."""
    training, module.training = module.training, False
    value = _removed(module, SpectralNorm, name, "spectral_norm")
    module.training = training
    del module._parameters[f"{name}_orig"], module._buffers[f"{name}_u"], module._buffers[f"{name}_v"]
    module.register_parameter(name, Parameter(value))
    return module


__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]
