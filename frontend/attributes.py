"""What tensors say about themselves and their memory, memory formats, resizing, DLPack."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from ..ir.dims import product
from ..ir.dtypes import DType
from ..ir.errors import UnsupportedError
from . import creation, dispatch, promotion, shaping
from .device import require_cpu
from .tape import views

if TYPE_CHECKING:
    from .tensor import Tensor


class _Named:
    """A constant that prints as PyTorch's."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"torch.{self._name}"

    def __reduce__(self) -> str:
        return self._name


class memory_format(_Named):
    """The order of a tensor's axes in memory."""


class layout(_Named):
    """How a tensor is stored; here always ``strided``."""


contiguous_format = memory_format("contiguous_format")
preserve_format = memory_format("preserve_format")
channels_last = memory_format("channels_last")
channels_last_3d = memory_format("channels_last_3d")
strided = layout("strided")

_LAST = {channels_last: 4, channels_last_3d: 5}


def _last_order(format: Any, rank: int) -> tuple[int, ...] | None:
    """The axes from the outermost to the innermost if ``format`` moves the channels; RuntimeError for other ranks."""
    if format not in _LAST:
        if format is not None and not isinstance(format, memory_format):
            raise TypeError(f"memory_format must be torch.memory_format, not {type(format).__name__}")
        return None
    if rank != _LAST[format]:
        raise RuntimeError(f"required rank {_LAST[format]} tensor to use {format._name} format")
    return (0, *range(2, rank), 1)


def in_format(t: Tensor, format: Any) -> Tensor:
    """``t`` with its elements in memory as ``format`` says; a copy where that is not so already."""
    order = _last_order(format, t.dim())
    if order is None:
        return t if format is not contiguous_format or t.is_contiguous() else t.clone()
    moved = shaping.permute(t, order)
    if not moved.is_contiguous():
        moved = dispatch.apply("identity", moved)
    return shaping.permute(moved, tuple(order.index(a) for a in range(len(order))))


def has_format(t: Tensor, format: Any) -> bool:
    """Whether the elements lie in memory as ``format`` says."""
    order = _last_order(format, t.dim())
    if order is None or t._value is not None:
        return t._value is not None or t._data.flags.c_contiguous
    return t._data.transpose(order).flags.c_contiguous


def conversion(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[DType | None, bool, Any]:
    """(dtype, copy, memory format) of the arguments of ``Tensor.to`` and ``Module.to``; the device must be the CPU."""
    rest = list(args)
    dtype = device = None
    if rest and isinstance(rest[0], DType):
        dtype = rest.pop(0)
    elif rest and dispatch.is_tensor(rest[0]):
        dtype = rest.pop(0).dtype
    elif rest and not isinstance(rest[0], bool):
        device = rest.pop(0)
        if rest and (rest[0] is None or isinstance(rest[0], DType)):
            dtype = rest.pop(0)
    given = {**dict(zip(("non_blocking", "copy"), rest, strict=False)), **kwargs}
    other = given.pop("other", None)
    dtype = other.dtype if other is not None else given.pop("dtype", dtype)
    device = given.pop("device", device)
    given.pop("non_blocking", None)
    copy, memory_format = bool(given.pop("copy", False)), given.pop("memory_format", None)
    fits = all(isinstance(r, bool) for r in rest) and isinstance(dtype, (DType, type(None)))
    if given or len(rest) > 2 or not fits:
        raise TypeError(f"{name}() received an invalid combination of arguments; expected (dtype), (device, dtype) or "
                        "(tensor), and non_blocking, copy, memory_format")  # fmt: skip
    require_cpu(device)
    return dtype, copy, memory_format


# -- memory -----------------------------------------------------------------------------------------
def _owner(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class UntypedStorage:
    """The memory of a tensor, shared by all its views; counted in bytes."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = _owner(array)

    def data_ptr(self) -> int:
        """Address of the first byte."""
        return self._array.ctypes.data

    def nbytes(self) -> int:
        """Size in bytes."""
        return self._array.nbytes

    def _bytes(self) -> np.ndarray:
        flat = self._array if self._array.flags.forc else np.ascontiguousarray(self._array)
        return flat.reshape(-1, order="A").view(np.uint8)

    size = __len__ = nbytes

    def tolist(self) -> list[int]:
        """The bytes."""
        return self._bytes().tolist()

    def __getitem__(self, index: Any) -> Any:
        return self._bytes()[index].tolist()

    @property
    def device(self) -> Any:
        from .device import CPU

        return CPU

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UntypedStorage) and other._array is self._array

    def __hash__(self) -> int:
        return id(self._array)


class TypedStorage(UntypedStorage):
    """The memory of a tensor, counted in elements."""

    def __init__(self, array: np.ndarray, dtype: DType) -> None:
        super().__init__(array)
        self.dtype = dtype

    def _bytes(self) -> np.ndarray:
        return super()._bytes().view(self.dtype.numpy)

    def size(self) -> int:
        """Number of elements."""
        return self.nbytes() // self.dtype.itemsize

    __len__ = size

    def element_size(self) -> int:
        """Bytes per element."""
        return self.dtype.itemsize

    def untyped(self) -> UntypedStorage:
        """The same memory, counted in bytes."""
        return UntypedStorage(self._array)


def is_storage(obj: object) -> bool:
    """Whether ``obj`` is a storage."""
    return isinstance(obj, UntypedStorage)


def untyped_storage(self: Tensor) -> UntypedStorage:
    """The memory that this tensor and its views share."""
    return UntypedStorage(self._concrete("untyped_storage()"))


def storage(self: Tensor) -> TypedStorage:
    """The same, counted in elements."""
    return TypedStorage(self._concrete("storage()"), self.dtype)


def data_ptr(self: Tensor) -> int:
    """Address of the first element."""
    return self._concrete("data_ptr()").ctypes.data


def storage_offset(self: Tensor) -> int:
    """Elements between the start of the storage and the first of this tensor."""
    array = self._concrete("storage_offset()")
    return (array.ctypes.data - _owner(array).ctypes.data) // array.itemsize


def is_set_to(self: Tensor, tensor: Tensor) -> bool:
    """Whether both are the same part of the same memory."""
    a, b = self._concrete("is_set_to()"), tensor._concrete("is_set_to()")
    return (a.ctypes.data, a.shape, a.strides) == (b.ctypes.data, b.shape, b.strides)


def resize_(self: Tensor, *sizes: Any, memory_format: Any = None) -> Tensor:
    """Other extents on the same memory, row-major; new elements are zeros. RuntimeError while ``requires_grad`` is
    on."""
    array = self._concrete("resize_()", "a new tensor of that size")
    shape = tuple(int(e) for e in shaping.sizes_of(sizes))
    if self.requires_grad:
        raise RuntimeError("cannot resize variables that require grad")
    owner, start = _owner(array), storage_offset(self)
    count = math.prod(shape)
    if owner.flags.c_contiguous and owner.dtype == array.dtype and start + count <= owner.size:
        self._data = owner.reshape(-1)[start : start + count].reshape(shape)
    else:
        grown = np.zeros(count, array.dtype)
        grown[: array.size] = array.reshape(-1)[:count]
        self._data = grown.reshape(shape)
    return views.unlink(self)


def resize_as_(self: Tensor, the_template: Tensor, *, memory_format: Any = None) -> Tensor:
    """``resize_`` to the extents of another tensor."""
    return resize_(self, tuple(the_template.shape))


def resize(self: Tensor, *sizes: Any) -> Tensor:
    """The same elements in other extents (``reshape``; deprecated in PyTorch)."""
    import warnings

    warnings.warn("non-inplace resize is deprecated", stacklevel=2)
    shape = shaping.sizes_of(sizes)
    count, have = product(shape), product(self._extents)
    if count != have:
        given, old = ("x".join(map(str, s)) for s in (shape, self._extents))
        raise RuntimeError(f"requested resize to {given} ({count} elements in total), but the given tensor has a size "
                           f"of {old} ({have} elements). autograd's resize can only change the shape of a given "
                           "tensor, while preserving the number of elements. ")  # fmt: skip
    return shaping.reshape(self, shape)


def new(self: Tensor, *data: Any, device: Any = None) -> Tensor:
    """Without arguments an empty tensor of this dtype; else of the given sizes, or of the given numbers."""
    require_cpu(device)
    return typed(self.dtype, data)


def typed(dtype: DType, data: tuple[Any, ...]) -> Tensor:
    """What ``torch.FloatTensor(...)`` makes: sizes, or one sequence, array or tensor of that dtype."""
    if len(data) == 1 and not isinstance(data[0], (int, np.integer)):
        (source,) = data
        if type(source).__name__ == "Size":
            return creation.zeros(source, dtype=dtype)
        if dispatch.is_tensor(source):
            if source.dtype is not dtype:
                raise TypeError(f"expected {dtype!r} (got {source.dtype!r})")
            return source.detach()
        return creation.tensor(source, dtype=dtype)
    return creation.zeros(data or (0,), dtype=dtype)


# -- questions --------------------------------------------------------------------------------------
def _always(value: Any, doc: str) -> property:
    return property(lambda self: value, doc=doc)


is_cpu = _always(True, "True: everything is on the CPU.")
is_meta = is_quantized = is_sparse = is_sparse_csr = is_mkldnn = is_nested = is_mps = is_xpu = is_xla = is_vulkan = \
    is_ipu = is_maia = is_mtia = _always(False, "False: Ingot has no such tensors.")  # fmt: skip
name = _always(None, "None.")
tensor_layout = property(lambda self: strided, doc="``strided``.")
real = property(lambda self: self, doc="The tensor itself.")


def _never(self: Tensor) -> bool:
    """False."""
    return False


is_complex = is_conj = is_neg = is_shared = is_coalesced = is_distributed = _never


def is_pinned(self: Tensor, device: Any = None) -> bool:
    """False: there is no device to pin memory for."""
    return False


def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """Refused: there is no device to pin memory for."""
    raise RuntimeError("Cannot access accelerator device when none is available.")


def share_memory_(self: Tensor) -> Tensor:
    """Refused: worker processes of a data loader share what they return by themselves."""
    raise UnsupportedError("share_memory_ is not supported: processes forked later see a copy of this tensor")


def _itself(input: Tensor) -> Tensor:
    """The tensor itself: it has no imaginary part."""
    return input


conj = conj_physical = resolve_conj = resolve_neg = _itself


def detach(input: Tensor) -> Tensor:
    """The same storage, outside of differentiation."""
    return input.detach()


def is_inference(input: Tensor) -> bool:
    """Whether this tensor was made in inference mode."""
    return input.is_inference()


def is_signed(self: Tensor) -> bool:
    """Whether the dtype has negative numbers."""
    return self.dtype.is_signed


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is floating."""
    return input.dtype.is_floating_point


def is_nonzero(self: Tensor) -> bool:
    """Whether the one element is not zero; RuntimeError for other sizes."""
    return bool(self)


def is_same_size(self: Tensor, other: Tensor) -> bool:
    """Whether both have the same extents."""
    return self.shape == other.shape


def get_device(self: Tensor) -> int:
    """-1: the CPU."""
    return -1


def ndimension(self: Tensor) -> int:
    """Number of axes."""
    return self.dim()


def dim_order(self: Tensor) -> tuple[int, ...]:
    """The axes from the outermost in memory to the innermost."""
    strides = self.stride()
    return tuple(sorted(range(self.dim()), key=lambda a: -strides[a]))


def __reversed__(self: Tensor) -> Tensor:
    """All axes flipped."""
    return dispatch.apply("flip", self, axes=tuple(range(self.dim()))) if self.dim() else self


def __complex__(self: Tensor) -> complex:
    return complex(float(self))


def __array_wrap__(self: Tensor, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Tensor:
    """NumPy functions of one tensor give a tensor."""
    return dispatch.from_array(np.asarray(array))


# -- DLPack -----------------------------------------------------------------------------------------
def __dlpack__(self: Tensor, **kwargs: Any) -> Any:
    """The memory as a DLPack capsule; BufferError for what cannot be shared."""
    if self.requires_grad:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    if self.dtype is dtypes.bfloat16:
        raise BufferError("NumPy, which makes the capsule, has no bfloat16")
    kwargs.pop("stream", None)
    return self._concrete("__dlpack__()").__dlpack__(**kwargs)


def __dlpack_device__(self: Tensor) -> tuple[int, int]:
    return (1, 0)


def to_dlpack(tensor: Tensor) -> Any:
    """A DLPack capsule of the tensor's memory."""
    return tensor.__dlpack__()


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor on the memory of an object with ``__dlpack__``."""
    require_cpu(device)
    if not hasattr(ext_tensor, "__dlpack__"):
        raise TypeError("from_dlpack takes an object with __dlpack__ and __dlpack_device__; a bare capsule does not "
                        "say where its memory is")  # fmt: skip
    array = np.from_dlpack(ext_tensor)
    if copy:
        return creation.from_numpy(array.copy())
    if not array.flags.writeable:  # older versions of NumPy import everything for reading only
        pointer = array.__array_interface__["data"][0]
        shared = _Foreign(pointer, array)
        array = np.asarray(shared)
    return creation.from_numpy(array)


class _Foreign:
    """Memory of another library for NumPy, kept alive by the array that was imported from it."""

    def __init__(self, pointer: int, array: np.ndarray) -> None:
        self.owner = array
        self.__array_interface__ = {**array.__array_interface__, "data": (pointer, False)}


def frombuffer(
    buffer: Any, *, dtype: DType, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:  # fmt: skip
    """A 1-d tensor on the memory of a bytes-like object."""
    size = memoryview(buffer).nbytes
    if offset >= size:
        raise ValueError(f"offset must be non-negative and no greater than buffer length ({size}) , but got {offset}")
    if count < 0 and (size - offset) % dtype.itemsize:
        raise ValueError(f"buffer length ({size - offset} bytes) after offset ({offset} bytes) must be a multiple of "
                         f"element size ({dtype.itemsize})")  # fmt: skip
    array = np.frombuffer(buffer, dtype.numpy, count, offset)
    if not array.flags.writeable:
        array = array.copy()  # a tensor must not write into constant memory
    return creation.from_numpy(array).requires_grad_(requires_grad)


# -- dtypes -----------------------------------------------------------------------------------------
class finfo:
    """Numbers about a floating dtype (the default one if none is given)."""

    def __init__(self, type: DType | None = None) -> None:
        kind = type or promotion.get_default_dtype()
        if not kind.is_floating_point:
            raise TypeError("torch.finfo() requires a floating point input type. Use torch.iinfo to handle "
                            f"'{kind.name}'")  # fmt: skip
        self.bits, self.dtype = kind.bits, kind.name
        self.eps, self.min, self.max = kind.eps, kind.min, kind.max
        self.tiny = self.smallest_normal = 2.0 ** {"float64": -1022, "float16": -14}.get(kind.name, -126)
        self.resolution = float(f"1e-{math.floor(-math.log10(self.eps))}")

    def __repr__(self) -> str:
        fields = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")
        return "finfo(" + ", ".join(f"{f}={getattr(self, f):g}" for f in fields) + f", dtype={self.dtype})"


class iinfo:
    """Numbers about an integer dtype."""

    def __init__(self, type: DType) -> None:
        if not type.is_integer:
            raise TypeError(f"torch.iinfo() requires an integer input type. Use torch.finfo to handle '{type.name}'")
        self.bits, self.dtype = type.bits, type.name
        self.min, self.max = int(type.min), int(type.max)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"


def can_cast(from_: DType, to: DType) -> bool:
    """Whether a result of the first dtype may be stored in the second: no float in an integer, no number in a bool."""
    return dispatch._category(from_) <= dispatch._category(to)


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "TypedStorage", "UntypedStorage", "can_cast", "channels_last", "channels_last_3d", "conj", "conj_physical",
    "contiguous_format", "detach", "finfo", "from_dlpack", "frombuffer", "get_device", "iinfo", "is_complex", "is_conj",
    "is_floating_point", "is_inference", "is_neg", "is_nonzero", "is_same_size", "is_signed", "is_storage", "layout",
    "memory_format", "preserve_format", "resolve_conj", "resolve_neg", "strided", "to_dlpack",
)  # fmt: skip
METHODS = (
    "__array_wrap__", "__complex__", "__dlpack__", "__dlpack_device__", "__reversed__", "conj", "conj_physical",
    "data_ptr", "dim_order", "get_device", "is_coalesced", "is_complex", "is_conj", "is_cpu", "is_distributed",
    "is_ipu", "is_maia", "is_meta", "is_mkldnn", "is_mps", "is_mtia", "is_neg", "is_nested", "is_nonzero",
    "is_pinned", "is_quantized", "is_same_size", "is_set_to", "is_shared", "is_signed", "is_sparse",
    "is_sparse_csr", "is_vulkan", "is_xla", "is_xpu", "name", "ndimension", "new", "pin_memory", "real", "resize",
    "resize_", "resize_as_", "resolve_conj", "resolve_neg", "share_memory_", "storage", "storage_offset",
    "untyped_storage",
)  # fmt: skip
IN_PLACE = ()
