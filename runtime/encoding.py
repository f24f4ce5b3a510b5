"""A Program's tables as JSON data and back, for artefacts.

Decoding trusts nothing: every field is checked for type and range, and anything unexpected is a ValueError
that says where. Constants and code are not here; they are binary sections of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from ..ir import dims
from ..ir.dims import Dim, DimExpr, Extent
from ..ir.dtypes import dtype_from_name
from ..ir.layout import Layout
from ..ir.plan import BufferRef, MemoryReport, Port, Program, Step
from ..ir.types import TensorType

_MAX_INT = 1 << 62
_MAX_DEPTH = 24
_MAX_POWER = 8
_MAX_TERMS = 64
T = TypeVar("T")


def encode(program: Program) -> dict[str, Any]:
    """Everything but code and constants' bytes."""
    symbols = {d.name: d for d in program.symbols.values()}
    for extent in _all_extents(program):
        symbols |= {d.name: d for d in dims.symbols(extent)}
    return {
        "name": program.name,
        "symbols": {name: [d.min, d.max] for name, d in sorted(symbols.items())},
        "declared": sorted(program.symbols),
        "extents": [[encode_extent(e), owner] for e, owner in program.extents],
        "inputs": [_encode_port(port) for port in program.inputs],
        "outputs": [_encode_port(port) for port in program.outputs],
        "constant_names": list(program.constant_names),
        "steps": [
            {
                "kernel": step.kernel,
                "buffers": [[ref.kind, ref.index, ref.offset] for ref in step.buffers],
                "extents": [encode_extent(e) for e in step.extents],
                "trip": encode_extent(step.trip),
                "grain": step.grain,
                "scratch": step.scratch,
                "label": step.label,
                "flops": float(step.flops),
                "bytes": float(step.bytes),
                "direct": float(step.direct),
                "bf16": step.bf16,
            }
            for step in program.steps
        ],
        "arena_bytes": program.arena_bytes,
        "dynamic": [encode_extent(e) for e in program.dynamic],
        "memory": asdict(program.memory),
        "target_name": program.target_name,
        "target_features": list(program.target_features),
        "uses_tiles": program.uses_tiles,
        "metadata": dict(program.metadata),
    }


def decode(data: object) -> Program:
    """The Program of ``encode``'s data, without constants and kernels; ValueError for anything else."""
    fields = _mapping(data, "plan")
    symbols: dict[str, Dim] = {}
    for name, limits in _mapping(_get(fields, "symbols"), "symbols").items():
        low, high = _list(limits, f"symbol {name}", length=2)
        symbols[name] = Dim(name, _int(low, name, 0), None if high is None else _int(high, name, 0))
    program = Program(
        name=_text(_get(fields, "name"), "name"),
        inputs=_map(_get(fields, "inputs"), "inputs", lambda x, at: _decode_port(x, at, symbols)),
        outputs=_map(_get(fields, "outputs"), "outputs", lambda x, at: _decode_port(x, at, symbols)),
        constants=[],
        constant_names=_map(_get(fields, "constant_names"), "constant_names", _text),
        steps=_map(_get(fields, "steps"), "steps", lambda x, at: _decode_step(x, at, symbols)),
        kernels={},
        symbols={name: symbols[name] for name in _map(_get(fields, "declared"), "declared", _text)},
        extents=_map(_get(fields, "extents"), "extents", lambda x, at: _decode_condition(x, at, symbols)),
        arena_bytes=_int(_get(fields, "arena_bytes"), "arena_bytes", 0),
        dynamic=_map(_get(fields, "dynamic"), "dynamic", lambda x, at: decode_extent(x, symbols, at)),
        target_name=_text(_get(fields, "target_name"), "target_name"),
        target_features=tuple(_map(_get(fields, "target_features"), "target_features", _text)),
        uses_tiles=_flag(fields.get("uses_tiles", False), "uses_tiles"),  # older files have no tile kernels
        metadata={k: _text(v, f"metadata {k}") for k, v in _mapping(_get(fields, "metadata"), "metadata").items()},
    )
    report = _mapping(_get(fields, "memory"), "memory")
    program.memory = MemoryReport(**{k: _int(_get(report, k), k, 0) for k in ("arena", "lower_bound", "intermediates")})
    return program


def encode_extent(extent: Extent) -> Any:
    """An int as itself, an expression as [[coefficient, [[atom, power], ...]], ...]; symbols by name."""
    if not isinstance(extent, DimExpr):
        return int(extent)
    return [[coef, [[_encode_atom(atom), power] for atom, power in mono]] for mono, coef in extent.terms]


def _encode_atom(atom: dims.Atom) -> Any:
    if isinstance(atom, Dim):
        return atom.name
    if isinstance(atom, dims.Max):
        return ["max", encode_extent(atom.a), encode_extent(atom.b)]
    return ["div" if isinstance(atom, dims.FloorDiv) else "mod", encode_extent(atom.num), encode_extent(atom.den)]


def decode_extent(data: object, symbols: Mapping[str, Dim], where: str, depth: int = 0) -> Extent:
    """Inverse of ``encode_extent``; rebuilt by arithmetic, so the result is canonical whatever the data."""
    if isinstance(data, int) and not isinstance(data, bool):
        return _int(data, where)
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where}: expression nested too deeply")
    total: Extent = 0
    for item in _list(data, where, most=_MAX_TERMS):
        coefficient, factors = _list(item, where, length=2)
        term: Extent = _int(coefficient, where)
        for factor in _list(factors, where, most=_MAX_TERMS):
            atom, power = _list(factor, where, length=2)
            value = _decode_atom(atom, symbols, where, depth)
            for _ in range(_int(power, where, 1, _MAX_POWER)):
                term = term * value
        total = total + term
    return total


def _decode_atom(data: object, symbols: Mapping[str, Dim], where: str, depth: int) -> Extent:
    if isinstance(data, str):
        if data not in symbols:
            raise ValueError(f"{where}: unknown symbol {data!r}")
        return symbols[data].expr
    kind, a, b = _list(data, where, length=3)
    left, right = (decode_extent(x, symbols, where, depth + 1) for x in (a, b))
    if kind == "max":
        return dims.maximum(left, right)
    if kind not in ("div", "mod"):
        raise ValueError(f"{where}: unknown operation {kind!r}")
    if isinstance(right, int) and right < 1:
        raise ValueError(f"{where}: division by {right}")
    return dims.floordiv(left, right) if kind == "div" else dims.mod(left, right)


def _decode_condition(data: object, where: str, symbols: Mapping[str, Dim]) -> tuple[Extent, str]:
    extent, owner = _list(data, where, length=2)
    return decode_extent(extent, symbols, where), _text(owner, where)


def _encode_port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": port.type.dtype.name,
        "shape": [encode_extent(e) for e in port.type.shape],
        "layout": str(port.type.layout),
        "role": port.role,
        "updates": port.updates,
    }


def _decode_port(data: object, where: str, symbols: Mapping[str, Dim]) -> Port:
    fields = _mapping(data, where)
    shape = _map(_get(fields, "shape"), where, lambda x, at: decode_extent(x, symbols, at))
    layout = Layout.parse(_text(_get(fields, "layout"), where))
    dtype = dtype_from_name(_text(_get(fields, "dtype"), where))
    return Port(
        _text(_get(fields, "name"), where),
        TensorType(dtype, tuple(shape), layout),
        _text(_get(fields, "role"), where),
        _int(_get(fields, "updates"), where, -1),
    )


def _decode_step(data: object, where: str, symbols: Mapping[str, Dim]) -> Step:
    fields = _mapping(data, where)

    def buffer(item: object, at: str) -> BufferRef:
        kind, index, offset = _list(item, at, length=3)
        return BufferRef(_text(kind, at), _int(index, at, 0), _int(offset, at, 0))

    return Step(
        kernel=_text(_get(fields, "kernel"), where),
        buffers=tuple(_map(_get(fields, "buffers"), where, buffer)),
        extents=tuple(_map(_get(fields, "extents"), where, lambda x, at: decode_extent(x, symbols, at))),
        trip=decode_extent(_get(fields, "trip"), symbols, where),
        grain=_int(_get(fields, "grain"), where, 0),
        scratch=_int(_get(fields, "scratch"), where, 0),
        label=_text(_get(fields, "label"), where),
        flops=_number(_get(fields, "flops"), where),
        bytes=_number(_get(fields, "bytes"), where),
        direct=_number(fields.get("direct", 0.0), where),
        bf16=_flag(fields.get("bf16", False), where),
    )


def _all_extents(program: Program) -> list[Extent]:
    found: list[Extent] = [*program.dynamic, *(e for e, _ in program.extents)]
    for port in [*program.inputs, *program.outputs]:
        found += port.type.shape
    for step in program.steps:
        found += [step.trip, *step.extents]
    return found


def _get(fields: Mapping[str, object], key: str) -> object:
    if key not in fields:
        raise ValueError(f"field {key!r} is missing")
    return fields[key]


def _mapping(data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object, got {type(data).__name__}")
    return data


def _list(data: object, where: str, length: int | None = None, most: int = 1 << 24) -> list[Any]:
    if not isinstance(data, list) or len(data) > most or (length is not None and len(data) != length):
        wanted = "a list" if length is None else f"a list of {length}"
        raise ValueError(f"{where}: expected {wanted}, got {str(data)[:40]}")
    return data


def _map(data: object, where: str, item: Callable[[object, str], T]) -> list[T]:
    return [item(x, f"{where}[{i}]") for i, x in enumerate(_list(data, where))]


def _text(data: object, where: str) -> str:
    if not isinstance(data, str):
        raise ValueError(f"{where}: expected text, got {str(data)[:40]}")
    return data


def _int(data: object, where: str, low: int = -_MAX_INT, high: int = _MAX_INT) -> int:
    if not isinstance(data, int) or isinstance(data, bool) or not low <= data <= high:
        raise ValueError(f"{where}: expected an integer in [{low}, {high}], got {str(data)[:40]}")
    return data


def _flag(data: object, where: str) -> bool:
    if not isinstance(data, bool):
        raise ValueError(f"{where}: expected true or false, got {str(data)[:40]}")
    return data


def _number(data: object, where: str) -> float:
    if not isinstance(data, (int, float)) or isinstance(data, bool):
        raise ValueError(f"{where}: expected a number, got {str(data)[:40]}")
    return float(data)
