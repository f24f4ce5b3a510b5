"""What a checkpoint may refer to: storages, the functions that rebuild tensors, dtypes and a few containers."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...ir import dtypes
from ...ir.dtypes import DType
from ...ir.errors import ParseError, UnpicklingError, UnsupportedError
from .edge import Edge
from .unpickler import AllowedCall, checked_key

_MAX_RANK = 32  # NumPy 1's limit; no real tensor comes near


@dataclass(frozen=True)
class StorageKind:
    """A storage class of PyTorch; ``dtype`` None is UntypedStorage, counted in bytes."""

    name: str
    dtype: DType | None

    @property
    def itemsize(self) -> int:
        return 1 if self.dtype is None else self.dtype.itemsize


@dataclass(frozen=True)
class Storage:
    """Memory that tensors view: ``data`` is a flat uint8 array, shared by all storages of one key."""

    kind: StorageKind
    data: np.ndarray

    def __call__(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        """The part of this memory that a tensor of a trusted file is (counts in elements)."""
        dtype = self.kind.dtype
        assert dtype is not None
        steps = tuple(s * dtype.itemsize for s in strides)
        return np.ndarray(shape, dtype.numpy, self.data, offset * dtype.itemsize, steps)


@dataclass(frozen=True)
class ClassName:
    """A class that may be named in a checkpoint (as a type argument or default factory) but not called."""

    name: str
    factory: type | None = None


_STORAGES: dict[str, DType] = {
    "DoubleStorage": dtypes.float64,
    "FloatStorage": dtypes.float32,
    "HalfStorage": dtypes.float16,
    "BFloat16Storage": dtypes.bfloat16,
    "LongStorage": dtypes.int64,
    "IntStorage": dtypes.int32,
    "ShortStorage": dtypes.int16,
    "CharStorage": dtypes.int8,
    "ByteStorage": dtypes.uint8,
    "BoolStorage": dtypes.bool_,
}
_UNSUPPORTED_STORAGES = frozenset(
    f"{kind}Storage"
    for kind in ("ComplexFloat", "ComplexDouble", "QUInt8", "QInt8", "QInt32", "QUInt4x2", "QUInt2x4")
)


def storage_class_name(dtype: DType) -> str | None:
    """The storage class PyTorch uses for ``dtype``; None for those it stores untyped (uint16, uint32, uint64)."""
    return next((name for name, d in _STORAGES.items() if d is dtype), None)


class AllowList:
    """Answers ``find_global`` of the unpickler; ``edge`` makes tensors, ``where`` names the file in messages."""

    def __init__(self, edge: Edge, where: str) -> None:
        self.edge = edge
        self.where = where
        self._bools: dict[int, np.ndarray] = {}
        self.table: dict[tuple[str, str], Any] = {}
        self._fill()

    def find_global(self, module: str, name: str) -> Any:
        try:
            return self.table[module, name]
        except KeyError:
            pass
        hint = "; save numbers as Python numbers and arrays as tensors" if module.split(".")[0] == "numpy" else ""
        if name in _UNSUPPORTED_STORAGES or (module == "torch" and name.startswith(("complex", "float8", "q"))):
            raise UnsupportedError(f"{self.where}: holds a {module}.{name}; Ingot has no such element type")
        if module.startswith("torch.nn.modules") or module.partition(".")[0] not in ("torch", "numpy", "builtins"):
            hint = ("; if a whole module was saved, save its state_dict() instead, or, if you trust the file, read it "
                    "with weights_only=False, which runs what it contains")  # fmt: skip
        raise UnpicklingError(
            f"{self.where}: needs the global '{module}.{name}', which is not on the allow-list of ingot.load; "
            f"it was not imported and nothing of it was executed{hint}"
        )

    def check_contents(self) -> None:
        """Call when all storages are filled; ParseError if a bool tensor holds anything but 0 and 1."""
        if any(data.size and data.max() > 1 for data in self._bools.values()):
            raise ParseError(f"{self.where}: a bool storage holds bytes other than 0 and 1")

    def _fill(self) -> None:
        t = self.table

        def call(module: str, name: str, function: Any) -> None:
            t[module, name] = AllowedCall(f"{module}.{name}", function)

        for name, dtype in _STORAGES.items():
            t["torch", name] = t["torch.cuda", name] = StorageKind(name, dtype)
        for module in ("torch", "torch.storage"):
            t[module, "UntypedStorage"] = StorageKind("UntypedStorage", None)
        for dtype in dtypes.ALL:
            t["torch", dtype.name] = dtype
        call("torch._utils", "_rebuild_tensor", self.rebuild_tensor)
        call("torch._utils", "_rebuild_tensor_v2", self.rebuild_tensor_v2)
        call("torch._utils", "_rebuild_tensor_v3", self.rebuild_tensor_v3)
        call("torch._utils", "_rebuild_parameter", self.rebuild_parameter)
        call("torch._utils", "_rebuild_parameter_with_state", self.rebuild_parameter)
        call("torch._tensor", "_rebuild_from_type_v2", self.rebuild_from_type)
        call("torch", "Size", self.size)
        call("torch", "device", self.edge.device)
        t["torch", "Tensor"] = ClassName("torch.Tensor")
        for name in ("Parameter", "Buffer"):
            t["torch.nn.parameter", name] = ClassName(f"torch.nn.parameter.{name}")
        call("collections", "OrderedDict", _ordered_dict)
        call("collections", "defaultdict", _default_dict)
        call("collections", "Counter", _counter)
        call("_codecs", "encode", _encode)
        for builtins in ("builtins", "__builtin__"):
            call(builtins, "set", _set)
            call(builtins, "frozenset", _frozenset)
            call(builtins, "bytearray", _bytearray)
            for factory in (list, dict, int, float):
                t[builtins, factory.__name__] = ClassName(factory.__name__, factory)

    # -- tensors -------------------------------------------------------------------------------------
    def _view(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: DType | None = None) -> np.ndarray:
        """The strided view, after checking that it lies inside its storage."""
        if not isinstance(storage, Storage):
            raise TypeError("a tensor needs a storage")
        dtype = dtype or storage.kind.dtype
        if dtype is None:
            raise ValueError("an untyped storage without a dtype")
        shape, strides = _naturals(size, "size"), _naturals(stride, "stride")
        (start,) = _naturals((offset,), "storage offset")
        if len(shape) != len(strides) or len(shape) > _MAX_RANK:
            raise ValueError(f"size {shape} and stride {strides} do not go together")
        items = storage.data.nbytes // dtype.itemsize
        last = start + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if prod(shape) == 0:
            return np.empty(shape, dtype.numpy)
        if last >= items:
            raise ParseError(
                f"{self.where}: a tensor of size {shape}, stride {strides} and offset {start} reaches element {last} "
                f"of a storage of {items}"
            )
        if dtype is dtypes.bool_:
            self._bools[id(storage.data)] = storage.data
        steps = tuple(s * dtype.itemsize for s in strides)
        return np.ndarray(shape, dtype.numpy, buffer=storage.data, offset=start * dtype.itemsize, strides=steps)

    def rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Any:
        return self.edge.tensor(self._view(storage, offset, size, stride), False)

    def rebuild_tensor_v2(
        self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> Any:
        return self._tensor(self._view(storage, offset, size, stride), requires_grad, metadata)

    def rebuild_tensor_v3(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        dtype: Any,
        metadata: Any = None,
    ) -> Any:
        if not isinstance(dtype, DType):
            raise TypeError("a dtype is expected")
        return self._tensor(self._view(storage, offset, size, stride, dtype), requires_grad, metadata)

    def _tensor(self, array: np.ndarray, requires_grad: Any, metadata: Any) -> Any:
        if metadata:
            raise UnsupportedError(f"{self.where}: a conjugate or negative view; resolve it before saving")
        return self.edge.tensor(array, requires_grad is True and array.dtype.kind not in "iub")

    def rebuild_parameter(self, data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Any:
        """Python attributes that a program hung on a parameter (``state``) are not kept."""
        return self.edge.parameter(data, requires_grad is True)

    def rebuild_from_type(self, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        """A Tensor or Parameter that carried Python attributes, which are not kept."""
        if not isinstance(function, AllowedCall) or not function.name.startswith("torch._utils._rebuild"):
            raise TypeError("not a function that rebuilds tensors")
        if not isinstance(kind, ClassName) or kind.factory is not None or not isinstance(arguments, tuple):
            raise TypeError("not a tensor class")
        return function.function(*arguments)

    def size(self, extents: Any = ()) -> Any:
        return self.edge.size(_naturals(extents, "torch.Size"))


def _naturals(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not all(type(v) is int and 0 <= v < 2**62 for v in values):
        raise ValueError(f"{what} is not a tuple of natural numbers")
    return tuple(values)


def _keyed(items: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    for item in items:
        key, value = item
        yield checked_key(key), value


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    if not isinstance(items, (list, tuple)):
        raise TypeError("OrderedDict takes a list of pairs")
    return OrderedDict(_keyed(items))


def _default_dict(factory: Any = None) -> defaultdict[Any, Any]:
    if factory is not None and not isinstance(factory, ClassName):
        raise TypeError("defaultdict takes a class")
    return defaultdict(None if factory is None else factory.factory)


def _counter(items: Any = None) -> Counter[Any]:
    if items is not None and not isinstance(items, dict):
        raise TypeError("Counter takes a dictionary")
    return Counter(items)


def _members(items: Any) -> Iterable[Any]:
    if not isinstance(items, (list, tuple)):
        raise TypeError("a set takes a list")
    return map(checked_key, items)


def _set(items: Any = ()) -> set[Any]:
    return set(_members(items))


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_members(items))


def _bytearray(data: Any = b"", encoding: Any = None) -> bytearray:
    return bytearray(data if isinstance(data, bytes) else _encode(data, encoding))


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes: as text in latin-1."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("only text in latin-1 is turned into bytes")
    return text.encode("latin-1")
