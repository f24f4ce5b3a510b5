"""What users write: tensors, modules, optimizers, tracing. The names are PyTorch's."""

from __future__ import annotations

from types import ModuleType

from ..ir.dtypes import (
    DType,
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    promote,
    uint8,
    uint16,
    uint32,
    uint64,
)
from ..ir.dtypes import bool_ as bool
from . import autograd, nn, optim
from .creation import (
    arange,
    as_tensor,
    asarray,
    empty,
    empty_like,
    eye,
    from_numpy,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    tensor,
    zeros,
    zeros_like,
)
from .device import device
from .elementwise import (
    abs,
    absolute,
    add,
    bitwise_and,
    bitwise_not,
    bitwise_or,
    bitwise_xor,
    ceil,
    clamp,
    clip,
    cos,
    div,
    divide,
    eq,
    erf,
    exp,
    expm1,
    floor,
    floor_divide,
    ge,
    gt,
    isclose,
    isfinite,
    isinf,
    isnan,
    le,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    masked_fill,
    maximum,
    minimum,
    mul,
    multiply,
    ne,
    neg,
    negative,
    pow,
    reciprocal,
    relu,
    remainder,
    round,
    rsqrt,
    sigmoid,
    sign,
    sin,
    sqrt,
    square,
    sub,
    subtract,
    tanh,
    true_divide,
    trunc,
    where,
)
from .grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .indexing import gather, index_select, scatter_add
from .linalg import addmm, bmm, dot, matmul, mm, mv
from .nn.functional import log_softmax, softmax
from .promotion import get_default_dtype, result_type, set_default_dtype
from .random import (
    Generator,
    default_generator,
    initial_seed,
    manual_seed,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
)
from .reduce import all, amax, amin, any, argmax, argmin, max, mean, min, norm, prod, std, sum, var
from .shaping import (
    broadcast_to,
    cat,
    chunk,
    concat,
    concatenate,
    expand_as,
    flatten,
    flip,
    movedim,
    narrow,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    t,
    transpose,
    unbind,
    unflatten,
    unsqueeze,
)
from .size import Size, SymInt
from .tensor import Tensor, is_tensor, numel, typename
from .tracing import InputSpec, Trace, is_tracing, trace

float = float32
double = float64
half = float16
long = int64
int = int32
short = int16
promote_types = promote


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:  # type: ignore[valid-type]
    """Whether all elements are close (``isclose``)."""
    return isclose(input, other, rtol, atol, equal_nan)._concrete("allclose()").all().item()


def equal(input: Tensor, other: Tensor) -> bool:  # type: ignore[valid-type]
    """Whether shapes and all elements are equal."""
    if input.shape != other.shape:
        return False
    return eq(input, other)._concrete("equal()").all().item()


_KEPT_MODULES = {"autograd", "nn", "optim"}
_HIDDEN = {"DType", "ModuleType", "annotations", "promote"}
__all__ = [
    name
    for name, value in list(globals().items())
    if not name.startswith("_") and name not in _HIDDEN and (name in _KEPT_MODULES or not isinstance(value, ModuleType))
]
