"""``ingot.save``: PyTorch's zip format, or safetensors by the file's name."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy

from ...ir.dtypes import DType, dtype_from_numpy
from ...ir.errors import UnsupportedError
from . import objects
from .allowlist import storage_class_name
from .pickle_writer import Call, Global, Persistent, PickleWriter, dtype_global

_ALIGNMENT = 64


def save(
    obj: Any, f: str | os.PathLike[str] | BinaryIO, pickle_module: Any = None, pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
) -> None:  # fmt: skip
    """Write ``obj`` so that ``ingot.load`` and ``torch.load(..., weights_only=True)`` read it.

    A whole module, or anything else that is no plain data, is pickled by Python; reading that needs
    ``ingot.load(..., weights_only=False)``.

    Args:
        obj: tensors, numbers, text, bytes, dtypes, Size, and containers of them, such as a ``state_dict()``. Tensors
            that share memory share it after loading. For safetensors a flat dict from names to tensors.
        pickle_module, pickle_protocol, _use_new_zipfile_serialization: accepted for PyTorch's sake.
        f: a path, written atomically (a temporary file beside it takes its place when complete), or an object with
            ``write()``. A path that ends in ``.safetensors`` gets that format, all others PyTorch's zip format.

    Raises:
        UnsupportedError: something in ``obj`` cannot be saved; the message names its place.
    """
    if isinstance(f, (str, os.PathLike)):
        path = Path(f)
        write = write_safetensors if path.suffix == ".safetensors" else write_zip
        _atomically(path, lambda file: write(obj, file, path.stem))
    elif hasattr(f, "write"):
        # zipfile seeks back into what it has written; the caller's object need not be able to.
        buffer = io.BytesIO()
        write_zip(obj, buffer, "archive")
        f.write(buffer.getvalue())
    else:
        raise TypeError(f"ingot.save takes a path or an object with write(), not {type(f).__name__}")


def _atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"ingot.save: folder {str(folder)!r} does not exist")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's files are private; give this one what open() would have.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


class _Storages:
    """Numbers the pieces of memory that the saved tensors view, each written once."""

    def __init__(self) -> None:
        self.records: list[np.ndarray] = []  # flat uint8
        self.keys: dict[tuple[int, str], int] = {}
        self.keep: list[np.ndarray] = []

    def add(self, array: np.ndarray, dtype: DType) -> tuple[int, int, tuple[int, ...], int]:
        """(key, offset, strides, elements of the storage), in elements, for an array."""
        root = _root(array)
        start = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        shareable = (
            root.flags.c_contiguous
            and all(s >= 0 and s % dtype.itemsize == 0 for s in array.strides)
            and start % dtype.itemsize == 0
            and root.nbytes % dtype.itemsize == 0
            and array.size > 0
        )
        if not shareable:
            array = root = np.ascontiguousarray(array).reshape(array.shape)
            start = 0
        identity = (id(root), dtype.name)
        if identity not in self.keys:
            self.keys[identity] = len(self.records)
            self.keep.append(root)
            self.records.append(root.reshape(-1).view(np.uint8))
        strides = tuple(s // dtype.itemsize for s in array.strides)
        return self.keys[identity], start // dtype.itemsize, strides, root.nbytes // dtype.itemsize


def _root(array: np.ndarray) -> np.ndarray:
    """The array at the end of the chain of views."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    return root


def write_zip(obj: Any, file: BinaryIO, name: str) -> None:
    """PyTorch's archive: data.pkl, byte order, one aligned record per storage, version."""
    storages = _Storages()
    try:
        data = PickleWriter(lambda o: _describe(o, storages)).dump(obj)
    except UnsupportedError as error:
        storages = _Storages()
        try:
            data = objects.dump(obj, storages.add, 2)
        except UnsupportedError as reason:
            raise UnsupportedError(f"{error}. {reason}") from None
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def record(record_name: str, content: Any) -> None:
            _write_record(archive, file, f"{name or 'archive'}/{record_name}", content)

        record("data.pkl", data)
        record(".format_version", b"1")
        record(".storage_alignment", str(_ALIGNMENT).encode())
        record("byteorder", b"little")
        for key, content in enumerate(storages.records):
            record(f"data/{key}", content)
        record("version", b"3\n")


def _write_record(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: Any) -> None:
    """One stored record whose content begins at a multiple of 64 bytes, padded by an extra field as PyTorch does."""
    view = memoryview(content).cast("B") if len(content) else memoryview(b"")
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o600 << 16
    large = view.nbytes >= 2**31 - 2**20
    header = 30 + len(name.encode("utf-8")) + (20 if large else 0) + 4
    padding = -(file.tell() + header) % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w", force_zip64=large) as out:
        out.write(view)


def _describe(obj: Any, storages: _Storages) -> Call | Global | None:
    """How PyTorch would pickle one of our objects; None for anything else."""
    from ..device import device
    from ..nn.parameter import Parameter
    from ..size import Size
    from ..tensor import Tensor

    if isinstance(obj, DType):
        return dtype_global(obj)
    if isinstance(obj, Size):
        return Call(Global("torch", "Size"), tuple(int(e) for e in obj))
    if isinstance(obj, device):
        return Call(Global("torch", "device"), obj.type, *(() if obj.index is None else (obj.index,)))
    if not isinstance(obj, Tensor):
        return None
    call = describe_array(array_of(obj), bool(obj.requires_grad), storages)
    if isinstance(obj, Parameter):
        call = describe_array(array_of(obj), False, storages)
        return Call(Global("torch._utils", "_rebuild_parameter"), call, bool(obj.requires_grad), _no_hooks())
    return call


def _no_hooks() -> Call:
    return Call(Global("collections", "OrderedDict"))


def describe_array(array: np.ndarray, requires_grad: bool, storages: _Storages) -> Call:
    """The call that rebuilds a tensor with the array's contents."""
    dtype = dtype_from_numpy(array.dtype)
    key, offset, strides, elements = storages.add(array, dtype)
    kind = storage_class_name(dtype)
    if kind is not None:
        pid = Persistent(("storage", Global("torch", kind), str(key), "cpu", elements))
        arguments = (pid, offset, array.shape, strides, requires_grad, _no_hooks())
        return Call(Global("torch._utils", "_rebuild_tensor_v2"), *arguments)
    untyped = ("storage", Global("torch.storage", "UntypedStorage"), str(key), "cpu", elements * dtype.itemsize)
    arguments = (Persistent(untyped), offset, array.shape, strides, requires_grad, _no_hooks())
    return Call(Global("torch._utils", "_rebuild_tensor_v3"), *arguments, dtype_global(dtype))


def array_of(tensor: Any) -> np.ndarray:
    """The tensor's values as an array that shares its memory."""
    return np.asarray(tensor.detach().numpy())


def write_safetensors(obj: Any, file: BinaryIO, name: str) -> None:
    """A flat dict of tensors; every tensor gets bytes of its own, as the format demands."""
    from ..tensor import Tensor

    if not isinstance(obj, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in obj.items()):
        raise UnsupportedError(
            "ingot.save: a .safetensors file holds a flat dict from names to tensors, such as a state_dict(); "
            f"got {_what(obj, Tensor)}. Use the suffix .pt for other objects"
        )
    arrays = {key: np.ascontiguousarray(array_of(t)).reshape(t.shape) for key, t in obj.items()}
    file.write(safetensors.numpy.save(arrays))


def _what(obj: Any, wanted: type) -> str:
    if not isinstance(obj, dict):
        return f"a {type(obj).__name__}"
    key, value = next((k, v) for k, v in obj.items() if not (isinstance(k, str) and isinstance(v, wanted)))
    return f"{type(value).__name__} under {key!r}"
