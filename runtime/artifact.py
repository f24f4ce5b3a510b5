"""``.ingot`` files: a compiled program as one file that needs nothing but this package's runtime to run.

Layout (little-endian)::

    header   128 bytes: magic, format version, file size, offset and size of plan and code, their SHA-256 (first
             16 bytes each), and the header's own
    plan     JSON: the tables (``encoding``), the kernels' places in the code section, the weight blocks
    code     the kernels' images, 64-byte aligned
    weights  blocks that start on a page; a block holds one big constant or several small ones

Header, plan and code are checked by ``load``; a weight block by its SHA-256 when the program first runs, or
at once with ``verify=True``. Weights are mapped, not read: processes share them in the page cache.

Checksums find damage, not malice: an artefact holds machine code, so load only files that you would run as a
program. Damaged or nonsensical tables are refused all the same.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import secrets
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..ir import abi
from ..ir.dims import product
from ..ir.dtypes import dtype_from_name, dtype_from_numpy
from ..ir.errors import ArtifactError
from ..ir.plan import KernelImage, Program
from . import cpu, encoding, validate

MAGIC = b"INGOT\r\n\x1a"  # the line ends show a transfer in text mode
VERSION = 2
_HEADER = struct.Struct("<8sIIQQQQQ16s16s")
_HEADER_BYTES = 128
_DIGEST_AT = _HEADER_BYTES - 16
_PAGE = 4096
_SMALL = 64 << 10  # constants below this share blocks
_CODE_ALIGNMENT = 64


@dataclass
class LoadedProgram(Program):
    """A Program whose constants are read-only views of the mapped file."""

    path: str = ""
    _blocks: list[tuple[np.ndarray, str]] = field(default_factory=list, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def check_constants(self) -> None:
        """Compares every weight block that was not checked yet with its checksum; ArtifactError if one differs."""
        with self._lock:
            while self._blocks:
                content, digest = self._blocks[-1]
                if hashlib.sha256(content.data).hexdigest() != digest:
                    number = len(self._blocks) - 1
                    raise ArtifactError(f"{self.path}: weight block {number} is damaged (checksum differs)")
                self._blocks.pop()


def save(program: Program, path: str | os.PathLike[str]) -> None:
    """Writes ``program`` to ``path``, atomically: an existing file is replaced only by a complete one.

    OSError if the disk is full or not writable; nothing is left behind then.
    """
    path = Path(path)
    plan = encoding.encode(program)
    code, kernels = _pack_code(program)
    blocks = _group(program.constants)
    plan |= {
        "abi": abi.VERSION,
        "kernels": kernels,
        "constants": [[dtype_from_numpy(c.dtype).name, list(c.shape)] for c in program.constants],
        "blocks": [_describe(block, program.constants) for block in blocks],
    }
    text = json.dumps(plan, separators=(",", ":"), allow_nan=False).encode()
    code_at = _round(_HEADER_BYTES + len(text), _CODE_ALIGNMENT)
    end = code_at + len(code)
    starts = []
    for block in blocks:
        starts.append(_round(end, _PAGE))
        end = starts[-1] + _block_bytes(block, program.constants)
    header = _HEADER.pack(
        MAGIC, VERSION, _HEADER_BYTES, end, _HEADER_BYTES, len(text), code_at, len(code), _digest(text), _digest(code)
    ).ljust(_DIGEST_AT, b"\0")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(header + _digest(header) + text)
            _pad(file, code_at)
            file.write(code)
            for start, block in zip(starts, blocks, strict=True):
                _pad(file, start)
                for piece in _pieces(block, program.constants):
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str], verify: bool = False) -> LoadedProgram:
    """The program in ``path``; ``verify=True`` also reads and checks all weights now.

    Raises ArtifactError for a file that is truncated, altered, of another version, or made for a CPU that
    this machine is not; OSError if it cannot be read.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _HEADER_BYTES:
            raise ArtifactError(f"{name}: not an .ingot file: only {size} bytes")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        program = _parse(np.frombuffer(content, np.uint8), name)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, ZeroDivisionError) as error:
        raise ArtifactError(f"{name}: malformed plan: {error}") from None
    if verify:
        program.check_constants()
    return program


def _parse(data: np.ndarray, name: str) -> LoadedProgram:
    header = data[:_HEADER_BYTES].tobytes()
    magic, version, header_bytes, size, plan_at, plan_bytes, code_at, code_bytes, plan_sum, code_sum = (
        _HEADER.unpack_from(header)
    )
    if magic != MAGIC:
        raise ArtifactError(f"{name}: not an .ingot file")
    if version != VERSION:
        raise ArtifactError(f"{name}: format version {version}, this Ingot reads {VERSION}; compile the model again")
    if header_bytes != _HEADER_BYTES or _digest(header[:_DIGEST_AT]) != header[_DIGEST_AT:]:
        raise ArtifactError(f"{name}: damaged header (checksum differs)")
    if size != len(data):
        what = "truncated" if len(data) < size else "has extra bytes"
        raise ArtifactError(f"{name}: {what}: {len(data)} bytes instead of {size}")
    text = _section(data, plan_at, plan_bytes, "plan", name).tobytes()
    code = _section(data, code_at, code_bytes, "code", name).tobytes()
    if _digest(text) != plan_sum:
        raise ArtifactError(f"{name}: damaged plan (checksum differs)")
    if _digest(code) != code_sum:
        raise ArtifactError(f"{name}: damaged code (checksum differs)")
    plan = json.loads(text)
    decoded = encoding.decode(plan)
    if plan.get("abi") != abi.VERSION:
        raise ArtifactError(f"{name}: executor version {plan.get('abi')}, this Ingot runs {abi.VERSION}; compile again")
    reason = cpu.refusal(decoded.target_name, decoded.target_features)
    if reason:
        raise ArtifactError(f"{name} cannot run here: {reason}")
    program = LoadedProgram(**{f: getattr(decoded, f) for f in Program.__dataclass_fields__}, path=name)
    program.kernels = _unpack_code(plan, code)
    _attach_constants(program, plan, data, code_at + code_bytes)
    wrong = validate.problems(program)
    if wrong:
        raise ArtifactError(f"{name}: malformed plan: " + "; ".join(wrong[:5]))
    return program


def _section(data: np.ndarray, start: int, size: int, what: str, name: str) -> np.ndarray:
    if start < _HEADER_BYTES or start > len(data) or size > len(data) - start:
        raise ArtifactError(f"{name}: {what} section lies outside the file")
    return data[start : start + size]


def _pack_code(program: Program) -> tuple[bytes, list[list[Any]]]:
    code, kernels = bytearray(), []
    for key, image in program.kernels.items():
        code += bytes(-len(code) % _CODE_ALIGNMENT)
        kernels.append([key, len(code), len(image.code), image.entry, image.description])
        code += image.code
    return bytes(code), kernels


def _unpack_code(plan: dict[str, Any], code: bytes) -> dict[str, KernelImage]:
    kernels = {}
    for key, start, size, entry, description in plan["kernels"]:
        if not all(type(x) is int and x >= 0 for x in (start, size, entry)) or start + size > len(code):
            raise ValueError(f"kernel {key!r} lies outside the code section")
        if not isinstance(key, str) or not isinstance(description, str) or key in kernels:
            raise ValueError(f"bad kernel record {key!r}")
        kernels[key] = KernelImage(key, code[start : start + size], entry, description)
    return kernels


def _group(constants: list[np.ndarray]) -> list[list[int]]:
    """Constants by block: big ones alone, runs of small ones together."""
    blocks: list[list[int]] = []
    room = 0
    for i, constant in enumerate(constants):
        if constant.nbytes < _SMALL and room >= constant.nbytes + 64:
            blocks[-1].append(i)
            room -= _round(constant.nbytes, 64)
        else:
            blocks.append([i])
            room = _SMALL - constant.nbytes if constant.nbytes < _SMALL else 0
    return blocks


def _block_bytes(block: list[int], constants: list[np.ndarray]) -> int:
    return sum(_round(constants[i].nbytes, 64) for i in block)


def _pieces(block: list[int], constants: list[np.ndarray]) -> Iterator[memoryview | bytes]:
    for i in block:
        content = np.ascontiguousarray(constants[i]).reshape(-1).view(np.uint8)
        yield content.data
        yield bytes(-len(content) % 64)


def _describe(block: list[int], constants: list[np.ndarray]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for piece in _pieces(block, constants):
        digest.update(piece)
    return {"constants": block, "bytes": _block_bytes(block, constants), "sha256": digest.hexdigest()}


def _attach_constants(program: LoadedProgram, plan: dict[str, Any], data: np.ndarray, end: int) -> None:
    """Views of the mapped weights in place of the constants; places follow from the sizes, as in ``save``."""
    shapes = [(dtype_from_name(name), [encoding.decode_extent(e, {}, "constant") for e in shape])
              for name, shape in plan["constants"]]  # fmt: skip
    if any(not isinstance(e, int) or e < 0 for _, shape in shapes for e in shape):
        raise ValueError("negative or symbolic extent of a constant")
    sizes = [product(shape) * dtype.itemsize for dtype, shape in shapes]
    found: dict[int, np.ndarray] = {}
    for block in plan["blocks"]:
        start = _round(end, _PAGE)
        if not isinstance(block["sha256"], str):
            raise ValueError("block without checksum")
        at = start
        for i in block["constants"]:
            if type(i) is not int or not 0 <= i < len(sizes) or i in found:
                raise ValueError(f"constant {i!r} of a weight block")
            if at + sizes[i] > len(data):  # type: ignore[operator]
                raise ValueError(f"constant {i} lies outside the file")
            dtype, shape = shapes[i]
            found[i] = data[at : at + sizes[i]].view(dtype.numpy).reshape(shape)  # type: ignore[arg-type, operator]
            at += _round(sizes[i], 64)  # type: ignore[arg-type]
        end = start + block["bytes"]
        if block["bytes"] != at - start or end > len(data):
            raise ValueError("weight block of another size than its constants")
        program._blocks.append((data[start:end], block["sha256"]))
    if len(found) != len(sizes):
        raise ValueError(f"{len(sizes)} constants, {len(found)} of them stored")
    program.constants = [found[i] for i in range(len(sizes))]


def _round(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _pad(file: IO[bytes], position: int) -> None:
    file.write(bytes(position - file.tell()))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]
