"""The two file formats of ``torch.save``: the zip archive (since 1.6) and the old stream of pickles."""

from __future__ import annotations

import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from ...ir.dtypes import DType
from ...ir.errors import IngotError, ParseError, UnpicklingError, UnsupportedError
from .allowlist import AllowList, Storage, StorageKind
from .edge import Edge
from .unpickler import Stream, Unpickler

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PROTOCOL = 1001
_NEWEST_ZIP_VERSION = 10  # PyTorch's kMaxSupportedFileFormatVersion
_MEMORY_ERRORS = (MemoryError, RecursionError)

# ``place(storage, location)``: the caller's map_location, told of every storage as it is found.
Place = Callable[[Storage, str], None]
# What reads the pickles: ``Unpickler``, or one for files that the caller trusts.
Reader = Callable[..., Any]


def _budget(size: int) -> int:
    return max(1 << 16, 2 * size)


class _Storages:
    """Allocates storages on demand; the sum of all sizes is bounded by what the file has left."""

    def __init__(self, available: int, where: str, place: Place) -> None:
        self.available = available
        self.where = where
        self.place = place
        self.by_key: dict[str, np.ndarray] = {}

    def allocate(self, key: str, nbytes: int) -> np.ndarray:
        self.available -= nbytes
        if nbytes < 0 or self.available < 0:
            raise ParseError(
                f"{self.where}: storage {key!r} of {nbytes} bytes is larger than what is left of the file; "
                "the file is truncated or damaged"
            )
        self.by_key[key] = np.empty(nbytes, np.uint8)
        return self.by_key[key]

    def describe(self, pid: Any) -> tuple[StorageKind, str, str, int, Any]:
        """(kind, key, location, element count, view) of a persistent id."""
        if isinstance(pid, tuple) and pid and pid[0] == "module":
            raise UnpicklingError(
                f"{self.where}: a whole module was saved, with its source; its classes are not imported and nothing of "
                "it was executed. Save the module's state_dict() instead"
            )
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise ParseError(f"{self.where}: damaged pickle: a persistent id is no storage")
        _, kind, key, location, numel = pid[:5]
        if isinstance(kind, DType):  # an object that ``save`` pickled
            kind = StorageKind(kind.name, kind)
        if not isinstance(kind, StorageKind):
            raise ParseError(f"{self.where}: damaged pickle: a storage is of no known class")
        if not isinstance(key, str) or not isinstance(location, str) or type(numel) is not int or numel < 0:
            raise ParseError(f"{self.where}: damaged pickle: the description of a storage has wrong types")
        return kind, key, location, numel, pid[5] if len(pid) == 6 else None


def load_zip(file: BinaryIO, where: str, edge: Edge, place: Place, reader: Reader = Unpickler) -> Any:
    """The object in a zip checkpoint: ``<name>/data.pkl`` and one record ``<name>/data/<key>`` per storage."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _ZipReader(archive, file.seek(0, os.SEEK_END), where, edge, place, reader).load()
    except IngotError:
        raise
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError,
        IndexError, OverflowError, AttributeError, TypeError, OSError, *_MEMORY_ERRORS,
    ) as error:  # fmt: skip
        # zipfile lets all of these through for some damaged archive
        raise ParseError(f"{where}: damaged zip archive: {error}") from error


class _ZipReader:
    def __init__(
        self, archive: zipfile.ZipFile, size: int, where: str, edge: Edge, place: Place, reader: Reader
    ) -> None:  # fmt: skip
        self.archive = archive
        self.reader = reader
        self.where = where
        self.edge = edge
        self.size = size
        self.infos: dict[str, zipfile.ZipInfo] = {i.filename: i for i in archive.infolist()}
        roots = [n[: -len("data.pkl")] for n in self.infos if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ParseError(
                f"{where}: a zip archive, but no PyTorch checkpoint: it has {len(roots)} records called data.pkl"
            )
        self.root = roots[0]
        self.storages = _Storages(size, where, place)

    def load(self) -> Any:
        if self.root + "constants.pkl" in self.infos:
            raise UnsupportedError(
                f"{self.where}: a TorchScript archive (torch.jit.save); save the module's state_dict() with torch.save"
            )
        order = self.text("byteorder", "little")
        if order != "little":
            raise UnsupportedError(f"{self.where}: byte order {order!r}; only little-endian checkpoints are read")
        version = self.text("version", "3")
        if not version.isdigit() or int(version) > _NEWEST_ZIP_VERSION:
            raise UnsupportedError(f"{self.where}: file format version {version[:20]!r} is newer than 10")
        data = self.record("data.pkl", self.storages.allocate("data.pkl", self.info("data.pkl").file_size))
        allowed = AllowList(self.edge, self.where)
        stream = io.BytesIO(data.tobytes())
        result = self.reader(stream, allowed.find_global, self.storage, self.where, _budget(len(data))).load()
        allowed.check_contents()
        return result

    def info(self, name: str) -> zipfile.ZipInfo:
        info = self.infos.get(self.root + name)
        if info is None:
            raise ParseError(f"{self.where}: record {self.root + name!r} is missing; the file is truncated or damaged")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise UnsupportedError(
                f"{self.where}: record {info.filename!r} is compressed or encrypted; PyTorch stores records as they are"
            )
        if info.file_size != info.compress_size or info.file_size > self.size:
            raise ParseError(f"{self.where}: record {info.filename!r} has a false size; the file is damaged")
        return info

    def record(self, name: str, out: np.ndarray) -> np.ndarray:
        """Fill ``out`` from a record; the archive checks the record's CRC at its end."""
        left = out.data
        with self.archive.open(self.info(name)) as source:
            while left.nbytes:
                count = source.readinto(left)  # type: ignore[attr-defined]
                if not count:
                    raise ParseError(f"{self.where}: record {self.root + name!r} ends early; the file is truncated")
                left = left[count:]
            source.read(1)  # at the end: compares the CRC
        return out

    def text(self, name: str, default: str) -> str:
        if self.root + name not in self.infos:
            return default
        info = self.info(name)
        if info.file_size > 64:
            raise ParseError(f"{self.where}: record {info.filename!r} is too long")
        return self.record(name, np.empty(info.file_size, np.uint8)).tobytes().decode("ascii", "replace").strip()

    def storage(self, pid: Any) -> Storage:
        kind, key, location, numel, _ = self.storages.describe(pid)
        data = self.storages.by_key.get("/" + key)
        if data is None:
            nbytes = self.info("data/" + key).file_size
            data = self.record("data/" + key, self.storages.allocate("/" + key, nbytes))
        if data.nbytes < numel * kind.itemsize:
            raise ParseError(
                f"{self.where}: storage {key!r} should hold {numel} elements of {kind.itemsize} bytes, its record has "
                f"{data.nbytes} bytes"
            )
        storage = Storage(kind, data[: numel * kind.itemsize])
        self.storages.place(storage, location)
        return storage


def load_legacy(file: BinaryIO, where: str, edge: Edge, place: Place, reader: Reader = Unpickler) -> Any:
    """The object in the old stream format: five pickles, then the raw storages."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if isinstance(file, io.BytesIO):
        return _load_legacy(file, file, size, where, edge, place, reader)
    # A pickle's lengths are not to be trusted: a plain file's read(n) allocates n bytes first, a mapping's does not.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        return _load_legacy(mapping, file, size, where, edge, place, reader)


def _load_legacy(
    stream: Stream, file: BinaryIO, size: int, where: str, edge: Edge, place: Place, reader: Reader
) -> Any:  # fmt: skip
    allowed = AllowList(edge, where)

    def refuse(pid: Any) -> Any:
        raise ParseError(f"{where}: damaged checkpoint: a persistent id where none belongs")

    def read(persistent_load: Callable[[Any], Any] = refuse) -> Any:
        return reader(stream, allowed.find_global, persistent_load, where, _budget(size)).load()

    if read() != LEGACY_MAGIC:
        raise ParseError(f"{where}: not a PyTorch checkpoint: the magic number is wrong")
    protocol = read()
    if protocol != _LEGACY_PROTOCOL:
        raise UnsupportedError(f"{where}: protocol {str(protocol)[:20]} of the stream format; only 1001 exists")
    machine = read()
    if not isinstance(machine, dict):
        raise ParseError(f"{where}: damaged checkpoint: the facts about the machine are missing")
    if machine.get("little_endian") is not True:
        raise UnsupportedError(f"{where}: was saved on a big-endian machine; only little-endian checkpoints are read")

    storages = _Storages(size - stream.tell(), where, place)
    counts: dict[str, tuple[int, int]] = {}  # key -> (elements, bytes of one)

    def storage(pid: Any) -> Storage:
        kind, key, location, numel, view = storages.describe(pid)
        data = storages.by_key.get(key)
        if data is None:
            data = storages.allocate(key, numel * kind.itemsize)
            counts[key] = (numel, kind.itemsize)
        elif counts[key] != (numel, kind.itemsize):
            raise ParseError(f"{where}: storage {key!r} is described in two ways")
        if view is not None:
            _, first, length = view
            if not (type(first) is type(length) is int and first >= 0 and length >= 0 and first + length <= numel):
                raise ParseError(f"{where}: a view of storage {key!r} reaches beyond its end")
            data = data[first * kind.itemsize : (first + length) * kind.itemsize]
        found = Storage(kind, data)
        place(found, location)
        return found

    result = read(storage)
    keys = read()
    if not isinstance(keys, list) or set(counts) != set(keys) or len(keys) != len(counts):
        raise ParseError(f"{where}: damaged checkpoint: the list of storages does not match the object")
    file.seek(stream.tell())
    for key in keys:
        header = file.read(8)
        if len(header) != 8 or struct.unpack("<q", header)[0] != counts[key][0]:
            raise ParseError(f"{where}: storage {key!r} is missing or of another size; the file is damaged")
        _fill(file, storages.by_key[key], f"{where}: storage {key!r}")
    allowed.check_contents()
    return result


def _fill(file: BinaryIO, out: np.ndarray, what: str) -> None:
    left = out.data
    while left.nbytes:
        count = file.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise ParseError(f"{what} ends early; the file is truncated")
        left = left[count:]
