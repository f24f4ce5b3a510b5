"""What users write: tensors, modules, optimizers, tracing. The names are PyTorch's."""

from __future__ import annotations

import math
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
from . import amp, autograd, cpu, families, nn, optim
from .amp import autocast
from .device import device, get_default_device, set_default_device
from .grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .nn import native
from .printing import set_printoptions
from .promotion import get_default_dtype, result_type, set_default_dtype
from .settings import (
    are_deterministic_algorithms_enabled,
    get_float32_matmul_precision,
    get_num_interop_threads,
    get_num_threads,
    set_float32_matmul_precision,
    set_num_interop_threads,
    set_num_threads,
    use_deterministic_algorithms,
)
from .size import Size, SymInt
from .tensor import Tensor, is_tensor, numel, typename
from .tensor_types import (
    BFloat16Tensor,
    BoolTensor,
    ByteTensor,
    CharTensor,
    DoubleTensor,
    FloatTensor,
    HalfTensor,
    IntTensor,
    LongTensor,
    ShortTensor,
    set_default_tensor_type,
)
from .tracing import InputSpec, Trace, is_tracing

float = float32
double = float64
half = float16
long = int64
int = int32
short = int16
promote_types = promote
e, inf, nan, pi = math.e, math.inf, math.nan, math.pi
newaxis = None
globals().update(families.functions())
globals().update(native.functions())
native.attach(Tensor)

_KEPT_MODULES = {"amp", "autograd", "cpu", "nn", "optim"}
_HIDDEN = {"math", "DType", "ModuleType", "annotations", "promote"}
__all__ = [
    name
    for name, value in list(globals().items())
    if not name.startswith("_") and name not in _HIDDEN and (name in _KEPT_MODULES or not isinstance(value, ModuleType))
]
