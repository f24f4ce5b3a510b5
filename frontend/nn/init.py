"""Filling parameters in place, with PyTorch's formulas. Every function returns its tensor."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from .. import creation, elementwise, random
from ..grad_mode import no_grad
from ..tensor import Tensor


def calculate_gain(nonlinearity: str, param: Any = None) -> float:
    """The recommended gain of a nonlinearity; ``param`` is leaky_relu's slope. ValueError for unknown names."""
    if nonlinearity in ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
                        "conv_transpose3d", "sigmoid"):  # fmt: skip
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        if param is not None and (isinstance(param, bool) or not isinstance(param, (int, float))):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out), the kernel area included; ValueError below two dimensions."""
    if tensor.dim() < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    area = math.prod(tensor.shape[2:])
    return tensor.shape[1] * area, tensor.shape[0] * area


def _fan(tensor: Tensor, mode: str) -> int:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    return _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]


@no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """U(a, b)."""
    return tensor.uniform_(a, b, generator=generator)


@no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """N(mean, std^2)."""
    return tensor.normal_(mean, std, generator=generator)


@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every element ``val``."""
    return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Every element 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Every element 0."""
    return constant_(tensor, 0.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """U(-a, a) with a = gain sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6.0 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """N(0, std^2) with std = gain sqrt(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_calculate_fan_in_and_fan_out(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """U(-b, b) with b = gain sqrt(3 / fan); ``a`` is the slope that the gain of leaky_relu takes."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    bound = math.sqrt(3.0) * calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """N(0, std^2) with std = gain / sqrt(fan)."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)), generator)


def _to_two_dimensions(tensor: Tensor) -> None:
    if tensor.dim() != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")


@no_grad()
def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """N(mean, std^2) limited to [a, b], by drawing again what lies outside."""

    def below(x: float) -> float:
        return (1.0 + math.erf((x - mean) / std / math.sqrt(2.0))) / 2.0

    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn("mean is more than 2 std from [a, b] in nn.init.trunc_normal_. The distribution of values may be "
                      "incorrect.", stacklevel=2)  # fmt: skip
    if below(b) - below(a) <= _RARE:
        return _accepted(tensor, mean, std, a, b, generator)
    tensor.normal_(mean, std, generator=generator)
    limits = np.asarray([a, b], tensor.dtype.numpy)
    while True:
        values = tensor.detach()
        outside = elementwise.logical_or(values < limits[0].item(), values > limits[1].item())
        if not bool(outside.any()):
            return tensor
        again = creation.empty_like(values).normal_(mean, std, generator=generator)
        tensor.copy_(elementwise.where(outside, again, values))


# Below this probability of [a, b] normal numbers would be thrown away too often.
_RARE = 0.3


def _accepted(tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Any) -> Tensor:
    """Uniform numbers on [a, b], kept in proportion to the normal density."""
    top = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2

    def refused(numbers: Tensor) -> Tensor:
        chance = creation.empty_like(numbers).uniform_(generator=generator)
        return chance.log() > -0.5 * ((numbers - mean) / std) ** 2 - top

    values = tensor.uniform_(a, b, generator=generator).detach()
    pending = refused(values)
    while bool(pending.any()):
        again = creation.empty_like(values).uniform_(a, b, generator=generator)
        values = elementwise.where(pending, again, values)
        pending = elementwise.logical_and(pending, refused(again))
    return tensor.copy_(values)


@no_grad()
def eye_(tensor: Tensor) -> Tensor:
    """Ones on the diagonal of a matrix."""
    _to_two_dimensions(tensor)
    return tensor.copy_(creation.eye(*tensor.shape, dtype=tensor.dtype))


@no_grad()
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A kernel [O, C, ...] of one to three axes that hands the first channels of every group through."""
    if tensor.dim() not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups != 0:
        raise ValueError("dim 0 must be divisible by groups")
    array = np.zeros(tensor.shape, tensor.dtype.numpy)
    middle = tuple(k // 2 for k in tensor.shape[2:])
    size = tensor.shape[0] // groups
    for group in range(groups):
        for d in range(min(size, tensor.shape[1])):
            array[(group * size + d, d, *middle)] = 1
    return tensor.copy_(creation.from_numpy(array))


@no_grad()
def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """A (semi-)orthogonal matrix, further axes joined to the second, times ``gain``."""
    if tensor.dim() < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if tensor.numel() == 0:
        return tensor
    rows = tensor.shape[0]
    cols = tensor.numel() // rows
    normal = creation.empty(rows, cols, dtype=tensor.dtype).normal_(0, 1, generator=generator).numpy()
    wide = rows < cols
    q, r = np.linalg.qr(normal.T if wide else normal)
    q = q * np.sign(np.diag(r))  # makes the distribution uniform
    q = np.ascontiguousarray(q.T if wide else q).reshape(tensor.shape)
    return tensor.copy_(creation.from_numpy((q * gain).astype(tensor.dtype.numpy)))


@no_grad()
def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """N(0, std^2) with the fraction ``sparsity`` of every column zero, at random places."""
    _to_two_dimensions(tensor)
    rows, cols = tensor.shape
    zeros = math.ceil(sparsity * rows)
    tensor.normal_(0, std, generator=generator)
    kept = np.ones((rows, cols), bool)
    for col in range(cols):
        kept[random.randperm(rows).numpy()[:zeros], col] = False
    return tensor.copy_(elementwise.where(creation.from_numpy(kept), tensor.detach(), 0.0))


def _deprecated(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The name without an underscore behind it, from before names told what changes in place."""
    old = fn.__name__[:-1]

    @wraps(fn)
    def inner(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(f"`nn.init.{old}` is now deprecated in favor of `nn.init.{fn.__name__}`.", FutureWarning,
                      stacklevel=2)  # fmt: skip
        return fn(*args, **kwargs)

    inner.__name__ = inner.__qualname__ = old
    return inner


uniform, normal, constant, eye, dirac = map(_deprecated, (uniform_, normal_, constant_, eye_, dirac_))
xavier_uniform, xavier_normal = map(_deprecated, (xavier_uniform_, xavier_normal_))
kaiming_uniform, kaiming_normal = map(_deprecated, (kaiming_uniform_, kaiming_normal_))
orthogonal, sparse = map(_deprecated, (orthogonal_, sparse_))
_calculate_correct_fan = _fan
