"""The old names of types: ``FloatTensor([1, 2])``, ``x.type("torch.LongTensor")``, ``isinstance(x, IntTensor)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir import dtypes
from ..ir.dtypes import DType
from . import attributes, dispatch, promotion

if TYPE_CHECKING:
    from .tensor import Tensor


class tensortype:
    """A tensor type: makes tensors of its dtype, and tells them apart."""

    def __init__(self, dtype: DType, prefix: str = "torch") -> None:
        self.dtype = dtype
        self.is_cuda = prefix == "torch.cuda"
        self.__module__ = prefix
        self.__name__ = f"{dispatch.type_word(dtype)}Tensor"

    def __call__(self, *data: Any, device: Any = None) -> Tensor:
        """Of the given sizes (zeros), or of one sequence, array or tensor of this dtype."""
        if self.is_cuda:
            raise TypeError(f"type {self.__module__}.{self.__name__} not available. Torch not compiled with CUDA "
                            "enabled.")  # fmt: skip
        attributes.require_cpu(device)
        return attributes.typed(self.dtype, data)

    def __instancecheck__(self, instance: object) -> bool:
        return not self.is_cuda and dispatch.is_tensor(instance) and instance.dtype is self.dtype

    def __repr__(self) -> str:
        return f"<class '{self.__module__}.{self.__name__}'>"

    def __str__(self) -> str:
        return f"{self.__module__}.{self.__name__}"

    def __reduce__(self) -> Any:
        return (_of, (self.dtype, self.is_cuda))


_TYPES = {(d, False): tensortype(d) for d in dtypes.ALL} | {(d, True): tensortype(d, "torch.cuda") for d in dtypes.ALL}
CPU_TYPES = {kind.__name__: kind for (_, cuda), kind in _TYPES.items() if not cuda}
CUDA_TYPES = {kind.__name__: kind for (_, cuda), kind in _TYPES.items() if cuda}
FloatTensor, DoubleTensor = _TYPES[dtypes.float32, False], _TYPES[dtypes.float64, False]
HalfTensor, BFloat16Tensor = _TYPES[dtypes.float16, False], _TYPES[dtypes.bfloat16, False]
ByteTensor, CharTensor = _TYPES[dtypes.uint8, False], _TYPES[dtypes.int8, False]
ShortTensor, IntTensor = _TYPES[dtypes.int16, False], _TYPES[dtypes.int32, False]
LongTensor, BoolTensor = _TYPES[dtypes.int64, False], _TYPES[dtypes.bool_, False]


def _of(dtype: DType, cuda: bool) -> tensortype:
    return _TYPES[dtype, cuda]


def named_dtype(which: Any) -> DType:
    """The dtype of a dtype, a tensor type, or its name (``torch.FloatTensor``)."""
    if isinstance(which, DType):
        return which
    if isinstance(which, str):
        head, _, name = which.rpartition(".")
        kind = {"torch": CPU_TYPES, "torch.cuda": CUDA_TYPES}.get(head, {}).get(name)
        if which == "torch.Tensor":
            return promotion.get_default_dtype()
        if kind is None:
            raise ValueError(f"invalid type: {which!r}")
        which = kind
    if isinstance(which, tensortype):
        if which.is_cuda:
            raise TypeError(f"type {which} not available. Torch not compiled with CUDA enabled.")
        return which.dtype
    if isinstance(which, type) and dispatch._tensor_class in which.__mro__:
        return promotion.get_default_dtype()
    raise TypeError(f"type(): argument 'dtype' must be a dtype, a tensor type or its name, not {type(which).__name__}")


def set_default_tensor_type(t: Any) -> None:
    """Set the default floating dtype by its tensor type."""
    promotion.set_default_dtype(named_dtype(t))
