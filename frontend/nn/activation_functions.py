"""Activation functions; ``nn.functional`` exports them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ...ir import dtypes
from ...ir.dtypes import DType
from .. import dispatch, elementwise, promotion, random, reduce, shaping
from ..tape.names import named
from ..tensor import Tensor

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def _run(function: Callable[[Tensor], Tensor], input: Tensor, inplace: bool, name: str) -> Tensor:
    """``function(input)``, written into ``input`` if ``inplace``."""
    return dispatch.inplace(function, f"{name}_")(input) if inplace else function(input)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return _run(lambda x: elementwise.relu(x), input, inplace, "relu")


def relu_(input: Tensor) -> Tensor:
    """``relu`` in place."""
    return relu(input, inplace=True)


@named("HardtanhBackward0")
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to [min_val, max_val]."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    if input.dtype is dtypes.bool_:
        raise RuntimeError("Bool inputs not supported for hardtanh")
    if not input.dtype.is_floating_point:
        min_val, max_val = int(min_val), int(max_val)
    return _run(lambda x: elementwise.clamp(x, min_val, max_val), input, inplace, "hardtanh")


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """``hardtanh`` in place."""
    return hardtanh(input, min_val, max_val, inplace=True)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x, times ``negative_slope`` below 0."""
    return _run(
        lambda x: dispatch.apply("leaky_relu", x, negative_slope=negative_slope), input, inplace, "leaky_relu"
    )


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """``leaky_relu`` in place."""
    return leaky_relu(input, negative_slope, inplace=True)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x above 0, alpha (exp x - 1) below."""
    return _run(lambda x: dispatch.apply("elu", x, alpha=alpha), input, inplace, "elu")


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """``elu`` in place."""
    return elu(input, alpha, inplace=True)


@named("EluBackward0")
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """scale * elu(x, alpha) with the self-normalising constants."""
    return _run(
        lambda x: elementwise.mul(dispatch.apply("elu", x, alpha=_SELU_ALPHA), _SELU_SCALE), input, inplace, "selu"
    )


def selu_(input: Tensor) -> Tensor:
    """``selu`` in place."""
    return selu(input, inplace=True)


@named("CeluBackward0")
def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(x, 0) + min(0, alpha (exp(x / alpha) - 1)); RuntimeError for alpha 0."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")

    def compute(x: Tensor) -> Tensor:
        below = elementwise.expm1(elementwise.mul(elementwise.clamp(x, max=0.0), 1.0 / alpha))
        return elementwise.add(elementwise.relu(x), elementwise.mul(below, alpha))

    return _run(compute, input, inplace, "celu")


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """``celu`` in place."""
    return celu(input, alpha, inplace=True)


def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """x, times a slope below 0: drawn from [lower, upper] per element in training, else their mean."""
    if lower > upper:
        raise RuntimeError(f"Lower bound should be less than or equal to the upper bound, but got lower={lower} and "
                           f"upper={upper}")  # fmt: skip
    if not training:
        slope = (lower + upper) / 2
        return _run(lambda x: dispatch.apply("leaky_relu", x, negative_slope=slope), input, inplace, "rrelu")

    def compute(x: Tensor) -> Tensor:
        drawn = elementwise.add(elementwise.mul(random.uniform(x._extents), upper - lower), lower)
        return elementwise.where(elementwise.le(x, 0), elementwise.mul(x, dispatch.cast(drawn, x.dtype)), x)

    return _run(named("RreluWithNoiseBackward0")(compute), input, inplace, "rrelu")


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """``rrelu`` in place."""
    return rrelu(input, lower, upper, training, inplace=True)


@named("ThresholdBackward0")
def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where it is above ``threshold``, else ``value``."""

    def compute(x: Tensor) -> Tensor:
        return elementwise.where(elementwise.le(x, threshold), promotion.operand(value, x.dtype), x)

    return _run(compute, input, inplace, "threshold")


def threshold_(input: Tensor, threshold_: float, value: float) -> Tensor:
    """``threshold`` in place."""
    return threshold(input, threshold_, value, inplace=True)


@named("HardshrinkBackward0")
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x outside of [-lambd, lambd], else 0."""
    inside = elementwise.logical_and(elementwise.ge(input, -lambd), elementwise.le(input, lambd))
    return elementwise.where(inside, promotion.operand(0, input.dtype), input)


@named("SoftshrinkBackward0")
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x - lambd above lambd, x + lambd below -lambd, else 0; RuntimeError for a negative lambd."""
    if lambd < 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd:g}.")
    return elementwise.sub(input, elementwise.clamp(input, -lambd, lambd))


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return elementwise.div(input, elementwise.add(elementwise.abs(input), 1))


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return elementwise.sub(input, elementwise.tanh(input))


@named("GluBackward0")
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b) for the halves a and b along ``dim``; RuntimeError for an odd extent."""
    if input.dim() == 0:
        raise RuntimeError("glu does not support 0-dimensional tensors")
    axis = shaping.axis_of(dim, input.dim())
    size = input._extents[axis]
    if size % 2 != 0:
        raise RuntimeError(f"Halving dimension must be even, but dimension {axis} is size {size}")
    half = size // 2
    gate = elementwise.sigmoid(shaping.slice_axis(input, axis, half, size))
    return elementwise.mul(shaping.slice_axis(input, axis, 0, half), gate)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Phi(x); ``approximate="tanh"`` takes the tanh formula."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    return dispatch.apply("gelu", input, approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x)."""
    return _run(lambda x: dispatch.apply("silu", x), input, inplace, "silu")


@named("MishBackward0")
def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x))."""
    return _run(lambda x: elementwise.mul(x, elementwise.tanh(softplus(x))), input, inplace, "mish")


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x is above ``threshold``."""
    return dispatch.apply("softplus", input, beta=beta, threshold=threshold)


@named("LogSigmoidBackward0")
def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)), finite for large negative x; the gradient is exact everywhere, 0 included."""
    # Without a threshold: softplus would round there to its argument.
    return elementwise.neg(dispatch.apply("softplus", elementwise.neg(input), beta=1.0, threshold=1e30))


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """clamp(x + 3, 0, 6) / 6."""
    return _run(lambda x: dispatch.apply("hardsigmoid", x), input, inplace, "hardsigmoid")


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x hardsigmoid(x)."""
    return _run(lambda x: dispatch.apply("hardswish", x), input, inplace, "hardswish")


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return elementwise.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return elementwise.tanh(input)


@named("PreluKernelBackward0")
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
    reduce.require_kernel(f"{op}{'_lastdim' if axis == max(x.dim() - 1, 0) else ''}_kernel_impl", x, "iub")
    if x.dim() == 0:
        return shaping.reshape(dispatch.apply(op, shaping.reshape(x, 1), axis=0))
    return dispatch.apply(op, x, axis=axis)


def softmax(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along ``dim``; without it dim 0 for 0, 1 or 3 axes, else 1 (with a warning)."""
    return _normalised("softmax", input, dim, _stacklevel, dtype)


def log_softmax(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """Logarithm of softmax along ``dim``, computed stably."""
    return _normalised("log_softmax", input, dim, _stacklevel, dtype)


def softmin(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """``softmax(-x)``."""
    axis = _softmax_axis("softmin", input, dim, _stacklevel)
    return _normalised("softmax", elementwise.neg(input), axis, _stacklevel, dtype)


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """Samples of the Gumbel-Softmax distribution with temperature ``tau``; ``hard`` gives one-hot samples whose
    gradient is that of the soft ones."""
    uniform = elementwise.sub(1, random.uniform(logits._extents))  # on (0, 1]
    exponential = elementwise.neg(elementwise.log(uniform))
    # A draw of exactly 0 would be an infinite logit.
    gumbel = elementwise.neg(elementwise.log(elementwise.clamp(exponential, min=1e-30)))
    noisy = elementwise.div(elementwise.add(logits, dispatch.cast(gumbel, logits.dtype)), tau)
    soft = softmax(noisy, dim)
    if not hard:
        return soft
    axis = shaping.axis_of(dim, logits.dim())
    index = dispatch.apply("argmax", soft, axis=axis, keepdims=True)
    places = dispatch.apply("iota", shape=soft._extents, axis=axis, dtype=dtypes.int64)
    one_hot = dispatch.cast(elementwise.eq(index, places), soft.dtype)
    return elementwise.add(elementwise.sub(one_hot, soft.detach()), soft)


__all__ = [
    "celu", "celu_", "elu", "elu_", "gelu", "glu", "gumbel_softmax", "hardshrink", "hardsigmoid", "hardswish",
    "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "log_softmax", "logsigmoid", "mish", "prelu", "relu",
    "relu6", "relu_", "rrelu", "rrelu_", "selu", "selu_", "sigmoid", "silu", "softmax", "softmin", "softplus",
    "softshrink", "softsign", "tanh", "tanhshrink", "threshold", "threshold_",
]  # fmt: skip
