"""Activation functions; ``nn.functional`` exports them."""

from __future__ import annotations

import warnings
from typing import Any

from ...ir.dtypes import DType
from .. import dispatch, elementwise, shaping
from ..tensor import Tensor

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def _done(input: Tensor, out: Tensor, inplace: bool, name: str) -> Tensor:
    return dispatch.write(input, out, name) if inplace else out


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return _done(input, elementwise.relu(input), inplace, "relu_")


def relu_(input: Tensor) -> Tensor:
    """``relu`` in place."""
    return relu(input, inplace=True)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to [min_val, max_val]."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    return _done(input, elementwise.clamp(input, min_val, max_val), inplace, "hardtanh_")


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x, times ``negative_slope`` below 0."""
    out = dispatch.apply("leaky_relu", input, negative_slope=negative_slope)
    return _done(input, out, inplace, "leaky_relu_")


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x above 0, alpha (exp x - 1) below."""
    return _done(input, dispatch.apply("elu", input, alpha=alpha), inplace, "elu_")


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """``elu`` in place."""
    return elu(input, alpha, inplace=True)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """scale * elu(x, alpha) with the self-normalising constants."""
    out = elementwise.mul(dispatch.apply("elu", input, alpha=_SELU_ALPHA), _SELU_SCALE)
    return _done(input, out, inplace, "selu_")


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Phi(x); ``approximate="tanh"`` takes the tanh formula."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    return dispatch.apply("gelu", input, approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x)."""
    return _done(input, dispatch.apply("silu", input), inplace, "silu_")


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x))."""
    return _done(input, elementwise.mul(input, elementwise.tanh(softplus(input))), inplace, "mish_")


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x is above ``threshold``."""
    return dispatch.apply("softplus", input, beta=beta, threshold=threshold)


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)), finite for large negative x."""
    tail = elementwise.log1p(elementwise.exp(elementwise.neg(elementwise.abs(input))))
    return elementwise.sub(elementwise.clamp(input, max=0.0), tail)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """clamp(x + 3, 0, 6) / 6."""
    return _done(input, dispatch.apply("hardsigmoid", input), inplace, "hardsigmoid_")


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x hardsigmoid(x)."""
    return _done(input, dispatch.apply("hardswish", input), inplace, "hardswish_")


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return elementwise.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return elementwise.tanh(input)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x, times ``weight`` below 0; one slope, or one per channel (axis 1)."""
    if weight.dim() > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.dim()}")
    slopes = weight.numel()
    if slopes != 1:
        if input.dim() == 0:
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = input.shape[1] if input.dim() > 1 else 1
        if channels != slopes:
            raise RuntimeError("Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                               f"{slopes} and channel size = {channels}.")  # fmt: skip
        weight = shaping.reshape(weight, slopes, *([1] * (input.dim() - 2)))
    elif weight.dim():
        weight = shaping.reshape(weight)
    return elementwise.where(elementwise.gt(input, 0), input, elementwise.mul(input, weight))


def _softmax_axis(name: str, input: Tensor, dim: Any, stacklevel: int) -> int:
    if dim is None:
        warnings.warn(f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as "
                      "an argument.", stacklevel=stacklevel + 1)  # fmt: skip
        dim = 0 if input.dim() in (0, 1, 3) else 1
    return shaping.axis_of(dim, input.dim())


def _normalised(op: str, input: Tensor, dim: Any, stacklevel: int, dtype: DType | None) -> Tensor:
    axis = _softmax_axis(op, input, dim, stacklevel)
    x = input if dtype is None else dispatch.cast(input, dtype)
    if x.dim() == 0:
        return shaping.reshape(dispatch.apply(op, shaping.reshape(x, 1), axis=0))
    return dispatch.apply(op, x, axis=axis)


def softmax(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along ``dim``; without it dim 0 for 0, 1 or 3 axes, else 1 (with a warning)."""
    return _normalised("softmax", input, dim, _stacklevel, dtype)


def log_softmax(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """Logarithm of softmax along ``dim``, computed stably."""
    return _normalised("log_softmax", input, dim, _stacklevel, dtype)


__all__ = [
    "elu", "elu_", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax", "logsigmoid",
    "mish", "prelu", "relu", "relu6", "relu_", "selu", "sigmoid", "silu", "softmax", "softplus", "tanh",
]  # fmt: skip
