"""Content-addressed cache of compiled kernels on disk, shared by all processes of a user.

One file per kernel, named by its key. Files appear by rename, so readers see whole ones; each carries a
checksum, and a damaged one is deleted and compiled again. The cache is a convenience: whatever goes wrong
with the disk, compilation goes on without it, after one warning.

Environment: ``INGOT_CACHE_DIR`` (default: the user's cache directory), ``INGOT_CACHE=0`` turns it off,
``INGOT_CACHE_SIZE`` is the limit in bytes (default 1 GiB; the least recently used go first).
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import struct
import time
import warnings
from contextlib import suppress
from pathlib import Path

import filelock
import platformdirs

from ..ir import abi
from ..ir.plan import KernelImage

_MAGIC = b"INGOTK\x01\x00"
_HEAD = struct.Struct("<8s32sQQ")  # magic, SHA-256 of what follows the digest, entry, description length
DEFAULT_LIMIT = 1 << 30
_TRIM_EVERY = 64 << 20  # bytes written by this process between looks at the total size
_USED_AGAIN = 3600.0  # seconds after which a hit renews a file's time


def digest(*parts: object) -> str:
    """Key for whatever determines a kernel: hex SHA-256 of the parts (str, bytes, int, float, bool, None, tuples)."""
    h = hashlib.sha256(f"ingot-kernel-{abi.VERSION}".encode())
    stack = list(reversed(parts))
    while stack:
        part = stack.pop()
        if isinstance(part, (tuple, list)):
            h.update(f"({len(part)}".encode())
            stack.extend(reversed(part))
            continue
        if not isinstance(part, (str, bytes, int, float, bool, type(None))):
            raise TypeError(f"cannot digest {type(part).__name__}")
        raw = part if isinstance(part, bytes) else repr(part).encode()
        h.update(f"{type(part).__name__}{len(raw)}:".encode() + raw)
    return h.hexdigest()


class KernelCache:
    """The cache in one directory.

    Args:
        directory: where (default: from the environment, see the module); made when first written.
        limit: bytes kept at most.
        enabled: default: unless INGOT_CACHE is "0".
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None = None, limit: int | None = None, enabled: bool | None = None
    ) -> None:
        given = directory or os.environ.get("INGOT_CACHE_DIR") or platformdirs.user_cache_dir("ingot", appauthor=False)
        self.directory = Path(given) / f"kernels-{abi.VERSION}"
        self.limit = limit if limit is not None else _environment_limit()
        self.enabled = os.environ.get("INGOT_CACHE", "1") != "0" if enabled is None else enabled
        self.hits = self.misses = 0
        self._written = _TRIM_EVERY  # look at the size on the first write
        self._warned = False

    @staticmethod
    def default() -> KernelCache:
        """The cache that the environment asks for; one object per process and setting, so it warns once."""
        return _default(*(os.environ.get(f"INGOT_CACHE{suffix}") for suffix in ("", "_DIR", "_SIZE")))

    def get(self, key: str) -> KernelImage | None:
        """The kernel stored under ``key``, or None."""
        if not self.enabled:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self.misses += 1
            return None
        except OSError as error:
            self._warn(error)
            self.misses += 1
            return None
        image = _decode(key, data)
        if image is None:
            with suppress(OSError):
                path.unlink()
            self.misses += 1
            return None
        self.hits += 1
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _USED_AGAIN:
                os.utime(path)
        return image

    def put(self, image: KernelImage) -> None:
        """Stores ``image`` under its key."""
        if not self.enabled:
            return
        path = self._path(image.key)
        data = _encode(image)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        except OSError as error:
            self._warn(error)
            return
        self._written += len(data)
        if self._written >= min(_TRIM_EVERY, max(1, self.limit // 16)):
            self._written = 0
            self._trim()

    def clear(self) -> None:
        """Removes every entry."""
        for path in self._entries():
            with suppress(OSError):
                path.unlink()

    def size(self) -> int:
        """Bytes stored at the moment."""
        total = 0
        for path in self._entries():
            with suppress(OSError):
                total += path.stat().st_size
        return total

    def _path(self, key: str) -> Path:
        if not re.fullmatch(r"[0-9a-z_.-]{1,120}", key) or key.startswith("."):
            key = digest(key)
        return self.directory / key[:2] / key

    def _entries(self) -> list[Path]:
        try:
            return [path for path in self.directory.glob("*/*") if path.is_file()]
        except OSError:
            return []

    def _trim(self) -> None:
        """Deletes least recently used entries until 80 % of the limit is left, and writers' leftovers of old."""
        try:
            # Another process at it already: leave it to that one.
            with filelock.FileLock(self.directory / "lock", timeout=0):
                entries, total, now = [], 0, time.time()
                for path in self._entries():
                    with suppress(OSError):
                        stat = path.stat()
                        if path.name.startswith("."):
                            if now - stat.st_mtime > 3600:
                                path.unlink()
                            continue
                        entries.append((stat.st_mtime, stat.st_size, path))
                        total += stat.st_size
                if total <= self.limit:
                    return
                for _, size, path in sorted(entries, key=lambda e: e[0]):
                    with suppress(OSError):
                        path.unlink()
                    total -= size
                    if total <= self.limit * 4 // 5:
                        return
        except (filelock.Timeout, OSError, NotImplementedError):
            return

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"kernel cache in {self.directory} is not usable ({error}); compiling without it. Set "
                "INGOT_CACHE_DIR to a writable directory, or INGOT_CACHE=0 to turn it off.",
                RuntimeWarning,
                stacklevel=3,
            )


@functools.cache
def _default(*environment: str | None) -> KernelCache:
    return KernelCache()


def _environment_limit() -> int:
    text = os.environ.get("INGOT_CACHE_SIZE", "")
    return int(text) if text.isdigit() else DEFAULT_LIMIT


def _encode(image: KernelImage) -> bytes:
    description = image.description.encode()
    rest = struct.pack("<QQ", image.entry, len(description)) + image.key.encode() + b"\0" + description + image.code
    return _MAGIC + hashlib.sha256(rest).digest() + rest


def _decode(key: str, data: bytes) -> KernelImage | None:
    """The image in ``data``, None if it is damaged or another key's."""
    if len(data) < _HEAD.size or data[:8] != _MAGIC or hashlib.sha256(data[40:]).digest() != data[8:40]:
        return None
    _, _, entry, length = _HEAD.unpack_from(data)
    stored, separator, rest = data[_HEAD.size :].partition(b"\0")
    if not separator or stored != key.encode() or length > len(rest):
        return None
    code = rest[length:]
    return KernelImage(key, code, entry, rest[:length].decode(errors="replace")) if entry < len(code) else None
