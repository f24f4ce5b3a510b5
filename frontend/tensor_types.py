"""``FloatTensor``, ``LongTensor`` ...: PyTorch's tensor types of one dtype each.

They construct (``LongTensor([1, 0])``, ``FloatTensor(2, 3)``), convert (``t.type(FloatTensor)``) and test
(``isinstance(t, FloatTensor)``); the tensors themselves are of class ``Tensor``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir import dtypes
from ..ir.dtypes import DType
from . import creation, dispatch, promotion
from .device import require_cpu
from .size import Size, SymInt

if TYPE_CHECKING:
    from .tensor import Tensor


class TensorType(type):
    """The class of the tensor types."""

    dtype: DType

    def __call__(cls, *data: Any, device: Any = None) -> Tensor:
        """A tensor of this type: of nested numbers or another tensor's values, or of the given extents (zeros)."""
        require_cpu(device)
        if len(data) == 1 and not isinstance(data[0], (int, SymInt, Size)):
            return creation.tensor(data[0], dtype=cls.dtype)
        shape = data[0] if len(data) == 1 and isinstance(data[0], Size) else (data or (0,))
        return creation.zeros(*shape, dtype=cls.dtype)

    def __instancecheck__(cls, instance: object) -> bool:
        return dispatch.is_tensor(instance) and instance.dtype is cls.dtype

    def __repr__(cls) -> str:
        return f"<class 'torch.{cls.__name__}'>"


def _type(dtype: DType) -> TensorType:
    name = f"{dispatch.type_word(dtype)}Tensor"
    text = f"Tensors of {dtype.name}; see the module."
    return TensorType(name, (), {"dtype": dtype, "__doc__": text, "__module__": "torch"})


FloatTensor = _type(dtypes.float32)
DoubleTensor = _type(dtypes.float64)
HalfTensor = _type(dtypes.float16)
BFloat16Tensor = _type(dtypes.bfloat16)
ByteTensor = _type(dtypes.uint8)
CharTensor = _type(dtypes.int8)
ShortTensor = _type(dtypes.int16)
IntTensor = _type(dtypes.int32)
LongTensor = _type(dtypes.int64)
BoolTensor = _type(dtypes.bool_)

ALL = (
    FloatTensor, DoubleTensor, HalfTensor, BFloat16Tensor, ByteTensor, CharTensor, ShortTensor, IntTensor, LongTensor,
    BoolTensor,
)  # fmt: skip


def set_default_tensor_type(which: Any) -> None:
    """Make a floating tensor type (or its name, ``"torch.DoubleTensor"``) the default; TypeError for others."""
    from .tensor import named_dtype

    promotion.set_default_dtype(named_dtype(which))
