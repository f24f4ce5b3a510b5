"""Writes the pickle of a checkpoint: names of PyTorch's classes without PyTorch, so the stdlib pickler cannot do it."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ...ir.dtypes import DType
from ...ir.errors import UnsupportedError

_INT32 = 2**31


class Global:
    """A class or function by name."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


class Call:
    """``function(*arguments)`` when read."""

    def __init__(self, function: Global, *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments


class Persistent:
    """A persistent id."""

    def __init__(self, pid: tuple[Any, ...]) -> None:
        self.pid = pid


class PickleWriter:
    """Protocol 2, the one ``torch.save`` uses.

    ``reduce(obj)`` describes objects that are no plain data as Call or Global, or returns None for those that cannot
    be saved. ``path`` in messages is the place in the object (``['state_dict']['conv1.weight']``).
    """

    def __init__(self, reduce: Callable[[Any], Call | Global | None]) -> None:
        self.reduce = reduce
        self.out = bytearray(b"\x80\x02")
        self.memo: dict[int, int] = {}
        self.keep: list[Any] = []  # ids stay valid while the objects live
        self.globals: dict[tuple[str, str], int] = {}
        self.strings: dict[str, int] = {}

    def dump(self, obj: Any) -> bytes:
        """The pickle of ``obj``; UnsupportedError names what cannot be saved and where it is."""
        try:
            self.write(obj, "")
        except RecursionError:
            raise UnsupportedError("ingot.save: the object is nested too deeply") from None
        self.out += b"."
        return bytes(self.out)

    def write(self, obj: Any, path: str) -> None:
        kind = type(obj)
        if obj is None:
            self.out += b"N"
        elif kind is bool:
            self.out += b"\x88" if obj else b"\x89"
        elif kind is int:
            self._int(obj)
        elif kind is float:
            self.out += b"G" + struct.pack(">d", obj)
        elif kind is str:
            self._str(obj)
        elif isinstance(obj, Global):
            self._global(obj)
        elif isinstance(obj, Persistent):
            self.write(obj.pid, path)
            self.out += b"Q"
        elif not self._recall(id(obj)):
            self._compound(obj, kind, path)

    def _compound(self, obj: Any, kind: type, path: str) -> None:
        if isinstance(obj, Call):
            self._call(obj, path)
        elif kind is bytes:
            self._call(Call(Global("_codecs", "encode"), obj.decode("latin-1"), "latin1"), path)
            self._remember(obj)
        elif kind is tuple:
            self.out += b"("
            for i, item in enumerate(obj):
                self.write(item, f"{path}[{i}]")
            self.out += b"t"
            self._remember(obj)
        elif kind is list:
            self.out += b"]"
            self._remember(obj)
            self._items(b"e", ((f"{path}[{i}]", (item,)) for i, item in enumerate(obj)))
        elif kind in (dict, OrderedDict):
            if kind is dict:
                self.out += b"}"
            else:
                self._call(Call(Global("collections", "OrderedDict")), path)
            self._remember(obj)
            self._items(b"u", ((f"{path}[{key!r}]", (key, value)) for key, value in obj.items()))
            self._metadata(obj, path)
        elif kind in (set, frozenset):
            self._call(Call(Global("__builtin__", kind.__name__), list(obj)), path)
            self._remember(obj)
        else:
            described = self.reduce(obj)
            if described is None:
                raise UnsupportedError(
                    f"ingot.save: cannot save a {kind.__module__}.{kind.__qualname__} at {path or 'the top'}; "
                    "checkpoints hold tensors, numbers, text, bytes, None and lists, tuples, sets and dicts of them. "
                    "For a module save module.state_dict(), for an array ingot.from_numpy(array)"
                )
            self.write(described, path)
            self._remember(obj)

    def _metadata(self, obj: Any, path: str) -> None:
        """``state_dict()._metadata`` (module versions) travels as the OrderedDict's state."""
        metadata = getattr(obj, "_metadata", None)
        if isinstance(metadata, dict):
            self.write({"_metadata": metadata}, path + "._metadata")
            self.out += b"b"

    def _items(self, end: bytes, items: Any) -> None:
        self.out += b"("
        for path, values in items:
            for value in values:
                self.write(value, path)
        self.out += end

    def _call(self, call: Call, path: str) -> None:
        self._global(call.function)
        self.out += b"("
        for argument in call.arguments:
            self.write(argument, path)
        self.out += b"tR"

    def _int(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes((value,))
        elif -_INT32 <= value < _INT32:
            self.out += b"J" + struct.pack("<i", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a" + bytes((len(raw),)) if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw))
            self.out += raw

    def _str(self, value: str) -> None:
        index = self.strings.get(value)
        if index is not None:
            self._get(index)
            return
        raw = value.encode("utf-8", "surrogatepass")
        self.out += b"X" + struct.pack("<I", len(raw)) + raw
        self.strings[value] = self._put()

    def _global(self, value: Global) -> None:
        key = (value.module, value.name)
        index = self.globals.get(key)
        if index is not None:
            self._get(index)
            return
        self.out += f"c{value.module}\n{value.name}\n".encode("ascii")
        self.globals[key] = self._put()

    def _recall(self, identity: int) -> bool:
        index = self.memo.get(identity)
        if index is not None:
            self._get(index)
        return index is not None

    def _remember(self, obj: Any) -> None:
        self.keep.append(obj)
        self.memo[id(obj)] = self._put()

    def _put(self) -> int:
        index = len(self.memo) + len(self.strings) + len(self.globals)
        self.out += b"q" + bytes((index,)) if index < 256 else b"r" + struct.pack("<I", index)
        return index

    def _get(self, index: int) -> None:
        self.out += b"h" + bytes((index,)) if index < 256 else b"j" + struct.pack("<I", index)


def dtype_global(dtype: DType) -> Global:
    """``torch.float32`` and its like."""
    return Global("torch", dtype.name)
