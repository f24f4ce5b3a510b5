"""``ingot.load``: finds out which format a file has and reads it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import safetensors

from ...ir import dtypes
from ...ir.errors import ParseError, UnsupportedError
from .allowlist import Storage
from .checkpoint import LEGACY_START, Reader, load_legacy, load_zip
from .edge import Edge, Frontend
from .objects import TrustedUnpickler
from .unpickler import Unpickler

# The names of element types in safetensors files.
SAFETENSORS_DTYPES = {
    "F64": dtypes.float64, "F32": dtypes.float32, "F16": dtypes.float16, "BF16": dtypes.bfloat16,
    "I64": dtypes.int64, "I32": dtypes.int32, "I16": dtypes.int16, "I8": dtypes.int8,
    "U64": dtypes.uint64, "U32": dtypes.uint32, "U16": dtypes.uint16, "U8": dtypes.uint8, "BOOL": dtypes.bool_,
}  # fmt: skip


def load(
    f: str | os.PathLike[str] | BinaryIO, map_location: Any = None, pickle_module: Any = None, *,
    weights_only: bool | None = True, mmap: bool | None = None, **pickle_load_args: Any,
) -> Any:  # fmt: skip
    """Read what ``ingot.save``, ``torch.save`` or safetensors wrote; nothing that the file contains is executed unless
    ``weights_only=False``.

    Args:
        f: a path or an object with ``read()``. The format (zip or stream checkpoint, safetensors) is recognised by
            its first bytes.
        map_location: as in PyTorch: ``"cpu"``, a device, a dict from saved to wanted devices, or a function of
            (storage, location). Every storage is loaded on the CPU whatever it was saved on, so all that this can do
            is ask for another device, which is refused.
        weights_only: False for files that you trust: whole modules and other objects are read, which imports and runs
            whatever the file names. PyTorch's classes become Ingot's.
        pickle_module, mmap, pickle_load_args: accepted for PyTorch's sake.

    Returns:
        The saved object: numbers, text, containers, Size, dtypes, and Tensors; tensors that shared memory
        share it again. A safetensors file gives a dict of Tensors.

    Raises:
        UnpicklingError: the file needs a class or function that is not on the allow-list. It was not executed.
        ParseError: the file is truncated, damaged or of another format.
        UnsupportedError: big-endian files, TorchScript archives, complex or quantised tensors, other devices.
    """
    reader = TrustedUnpickler if weights_only is False else Unpickler
    return load_with(Frontend(), f, map_location, reader)


def load_with(
    edge: Edge, f: str | os.PathLike[str] | BinaryIO, map_location: Any = None, reader: Reader = Unpickler
) -> Any:  # fmt: skip
    """``load`` with another maker of tensors, or another reader of pickles."""
    place = _placer(map_location)
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb") as file:
            return _load(file, os.fspath(f), edge, place, reader)
    if not hasattr(f, "read"):
        raise TypeError(f"ingot.load takes a path or an object with read(), not {type(f).__name__}")
    content = f.read()
    if not isinstance(content, bytes):
        raise TypeError("ingot.load needs a file opened in binary mode ('rb')")
    return _load(io.BytesIO(content), str(getattr(f, "name", "stream")), edge, place, reader)


def _load(file: BinaryIO, where: str, edge: Edge, place: Callable[[Storage, str], None], reader: Reader) -> Any:
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return load_zip(file, where, edge, place, reader)
    if start.startswith(LEGACY_START):
        return load_legacy(file, where, edge, place, reader)
    if start[8:9] == b"{":
        return _load_safetensors(file.read(), where, edge)
    if not start:
        raise ParseError(f"{where}: the file is empty")
    if start[257:262] == b"ustar":
        raise UnsupportedError(f"{where}: the tar format of PyTorch before 0.1.10; save the file again with PyTorch")
    if start.startswith(b"\x80"):
        raise ParseError(f"{where}: a pickle, but not one that torch.save wrote; ingot.load reads nothing else")
    raise ParseError(f"{where}: neither a PyTorch checkpoint (zip or stream format) nor a safetensors file")


def _load_safetensors(content: bytes, where: str, edge: Edge) -> dict[str, Any]:
    try:
        records = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise ParseError(f"{where}: damaged safetensors file: {error}") from error
    tensors = {}
    for name, record in records:
        dtype = SAFETENSORS_DTYPES.get(record["dtype"])
        if dtype is None:
            raise UnsupportedError(f"{where}: tensor {name!r} is of type {record['dtype']}, which Ingot has not")
        raw = np.frombuffer(bytearray(record["data"]), np.uint8)  # writable, and ours
        if dtype is dtypes.bool_ and raw.size and raw.max() > 1:
            raise ParseError(f"{where}: tensor {name!r} is bool and holds bytes other than 0 and 1")
        tensors[name] = edge.tensor(raw.view(dtype.numpy).reshape(record["shape"]), False)
    return tensors


def _placer(map_location: Any) -> Callable[[Storage, str], None]:
    """Checks ``map_location`` and turns it into a function that is told of every storage."""

    def check(wanted: Any) -> None:
        name = str(wanted)
        if name != "cpu" and not name.startswith("cpu:"):
            raise UnsupportedError(f"map_location asks for device {name!r}; Ingot computes on the CPU: use 'cpu'")

    if map_location is None:
        return lambda storage, location: None
    if isinstance(map_location, Mapping):
        table = {str(k): v for k, v in map_location.items()}

        def look_up(storage: Storage, location: str) -> None:
            if location in table:
                check(table[location])

        return look_up
    if callable(map_location) and not hasattr(map_location, "type"):

        def ask(storage: Storage, location: str) -> None:
            answer = map_location(storage, location)
            if answer is not None and answer is not storage:
                raise UnsupportedError(
                    f"map_location returned {type(answer).__name__} for a storage saved on {location!r}; Ingot loads "
                    "on the CPU only: return the storage or None, or pass map_location='cpu'"
                )

        return ask
    check(map_location)
    return lambda storage, location: None
