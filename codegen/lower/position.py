"""Logical positions and memory accesses: how a lane's logical index becomes an element offset under a layout.

A kernel never computes addresses by hand. It asks an ``Access`` for the element of a value at a
``Position``, and the layout (axis order, blocks, halo) decides whether that is a vector load, a broadcast,
a strided load or a gather.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...ir import dtypes
from ...ir.dims import DimExpr, Extent, bounds
from ...ir.dtypes import DType
from ...ir.errors import UnsupportedError
from ...ir.types import TensorType
from ..loopir import LoopBuilder, Val

__all__ = ["Access", "Coord", "Extents", "IndexMath", "Position", "compute_dtype", "zero_of"]


def compute_dtype(dtype: DType) -> DType:
    """The type in which loop IR values of ``dtype`` live: float32 for the 16-bit floats."""
    return dtypes.float32 if dtype.kind == "f" and dtype.bits == 16 else dtype


def zero_of(b: LoopBuilder, dtype: DType, lanes: int = 1) -> Val:
    """Zero (False) as a value of ``dtype``'s compute type."""
    return b.const(compute_dtype(dtype), 0, lanes)


class Extents:
    """Extents as indices: ints stay ints, each distinct DimExpr becomes one run-time kernel argument."""

    def __init__(self, builder: LoopBuilder) -> None:
        self.builder = builder
        self._known: dict[DimExpr, Val] = {}

    def __call__(self, extent: Extent) -> Any:
        """``extent`` as an index (int or scalar int64)."""
        if isinstance(extent, int):
            return extent
        found = self._known.get(extent)
        if found is None:
            found = self._known[extent] = self.builder.extent()
        return found

    @property
    def expressions(self) -> tuple[Extent, ...]:
        """The expressions behind the run-time arguments, in order: ``LoweredKernel.extents``."""
        return tuple(self._known)


@dataclass(frozen=True)
class Coord:
    """The index along one logical axis: lane ``k`` is at ``base + k * step``, or at ``vector[k]``.

    ``align`` is a known divisor of a run-time ``base``. A coord with step 0 and no vector is uniform: the same for all
    lanes.
    """

    base: Any = 0
    step: int = 0
    align: int = 1
    vector: Val | None = None

    @property
    def uniform(self) -> bool:
        return self.step == 0 and self.vector is None

    @property
    def divisor(self) -> int:
        """A number that divides ``base``; 0 when base is zero (everything divides it)."""
        return abs(self.base) if isinstance(self.base, int) else self.align


ZERO = Coord()


@dataclass(frozen=True)
class Position:
    """Where a group of lanes is in a logical index space: one Coord per axis.

    ``mask`` (``lanes`` wide) says which lanes exist; masked-off lanes may have any coordinates and read as zero.
    ``guard`` (scalar) says whether the uniform coordinates are in range; None means they are. ``mask`` is never set
    where ``guard`` is not.
    """

    coords: tuple[Coord, ...]
    lanes: int = 1
    mask: Val | None = None
    guard: Val | None = None

    @property
    def uniform(self) -> bool:
        return all(c.uniform for c in self.coords)

    def at(self, coords: Iterable[Coord]) -> Position:
        """The same lanes at other coordinates."""
        return replace(self, coords=tuple(coords))

    def scalar(self) -> Position:
        """A uniform position as a single lane."""
        return Position(self.coords, 1, self.guard, self.guard)


class IndexMath:
    """Arithmetic on Coords. Vectors of indices appear only where a run of lanes is not linear."""

    def __init__(self, builder: LoopBuilder, extents: Extents) -> None:
        self.builder = builder
        self.extents = extents

    def vector(self, c: Coord, lanes: int) -> Val:
        """All lanes of ``c`` as an int64 vector."""
        b = self.builder
        if c.vector is not None:
            return c.vector
        base = b.splat(b.ival(c.base), lanes)
        if c.step == 0:
            return base
        steps = b.iota(dtypes.int64, lanes)
        if c.step != 1:
            steps = b.op("mul", steps, b.const(dtypes.int64, c.step, lanes))
        return b.op("add", base, steps)

    def from_vector(self, v: Val) -> Coord:
        return Coord(v) if v.lanes == 1 else Coord(vector=v)

    def add(self, a: Coord, c: Coord, lanes: int) -> Coord:
        if a.vector is not None or c.vector is not None:
            return Coord(vector=self.builder.op("add", self.vector(a, lanes), self.vector(c, lanes)))
        return Coord(self.builder.iadd(a.base, c.base), a.step + c.step, math.gcd(a.divisor, c.divisor) or 1)

    def shift(self, a: Coord, by: Any, lanes: int) -> Coord:
        """``a + by`` for an index ``by``."""
        return a if isinstance(by, int) and by == 0 else self.add(a, Coord(by), lanes)

    def scale(self, a: Coord, by: Any, lanes: int) -> Coord:
        """``a * by`` for an index ``by``."""
        b = self.builder
        if isinstance(by, int) and by == 1:
            return a
        if a.vector is None and (isinstance(by, int) or a.step == 0):
            if not isinstance(by, int):
                return Coord(b.imul(a.base, by), 0, a.divisor or 1)
            return Coord(b.imul(a.base, by), a.step * by, max(a.divisor * abs(by), 1))
        return Coord(vector=b.op("mul", self.vector(a, lanes), b.splat(b.ival(by), lanes)))

    def reverse(self, a: Coord, last: Any, lanes: int) -> Coord:
        """``last - a``."""
        return self.shift(self.scale(a, -1, lanes), last, lanes)

    def divide(self, a: Coord, by: Any, lanes: int, limit: int = 2**62) -> tuple[Coord, Coord]:
        """(quotient, remainder) of a non-negative coord; ``limit`` bounds its values.

        Stays linear when the run provably lies in one row of ``by`` or steps by whole rows.
        """
        b = self.builder
        if isinstance(by, int) and by == 1:
            return a, ZERO
        if a.vector is None:
            if a.step == 0 or (isinstance(by, int) and a.step % by == 0):
                q, r = b.idiv(a.base, by), b.irem(a.base, by)
                if not isinstance(by, int):
                    return Coord(q), Coord(r)
                exact = a.divisor // by if a.divisor % by == 0 else 1
                return Coord(q, a.step // by, exact or 1), Coord(r, 0, math.gcd(a.divisor, by) or 1)
            if isinstance(by, int) and a.step > 0:
                inside = math.gcd(a.divisor, by)
                if a.step * (lanes - 1) < inside:
                    return Coord(b.idiv(a.base, by)), Coord(b.irem(a.base, by), a.step, inside)
        n = self.vector(a, lanes)
        q = self._vector_quotient(n, by, limit)
        d = b.splat(b.ival(by), lanes)
        return Coord(vector=q), Coord(vector=b.op("sub", n, b.op("mul", q, d)))

    def _vector_quotient(self, n: Val, by: Any, limit: int) -> Val:
        b = self.builder
        if not isinstance(by, int):
            return b.op("div", n, b.splat(by, n.lanes))
        if by & (by - 1) == 0:
            return b.op("ashr", n, b.const(dtypes.int64, by.bit_length() - 1, n.lanes))
        if limit > 2**31:
            return b.op("div", n, b.const(dtypes.int64, by, n.lanes))
        # n < 2**31: multiply by the rounded-up reciprocal; the product stays below 2**64.
        shift = 31 + by.bit_length()
        factor = b.const(dtypes.int64, (1 << shift) // by + 1, n.lanes)
        return b.op("lshr", b.op("mul", n, factor), b.const(dtypes.int64, shift, n.lanes))

    def linearise(self, coords: Sequence[Coord], shape: Sequence[Extent], lanes: int) -> Coord:
        """Row-major index of ``coords`` in ``shape``."""
        total, stride = ZERO, 1  # type: ignore[var-annotated]
        for c, extent in zip(reversed(coords), reversed(shape), strict=True):
            if not (c.uniform and isinstance(c.base, int) and c.base == 0):
                total = self.add(total, self.scale(c, self.extents(stride), lanes), lanes)
            stride = stride * extent
        return total

    def delinearise(self, index: Coord, shape: Sequence[Extent], lanes: int) -> tuple[Coord, ...]:
        """Coordinates in ``shape`` of a row-major index."""
        limit = 1
        for extent in shape:
            limit *= bounds(extent)[1]
        out: list[Coord] = []
        for extent in list(shape)[:0:-1]:
            index, inner = self.divide(index, self.extents(extent), lanes, limit)
            out.append(inner)
        return tuple([index, *reversed(out)]) if shape else ()

    def below(self, c: Coord, limit: Any, lanes: int) -> Val:
        """Mask (scalar for uniform coords) of ``c < limit``."""
        return self._compare("lt", c, limit, lanes)

    def at_least(self, c: Coord, limit: Any, lanes: int) -> Val:
        return self._compare("ge", c, limit, lanes)

    def _compare(self, op: str, c: Coord, limit: Any, lanes: int) -> Val:
        b = self.builder
        if c.uniform:
            return b.icmp(op, c.base, limit)
        return b.cmp(op, self.vector(c, lanes), b.splat(b.ival(limit), lanes))

    def restrict(self, pos: Position, cond: Val) -> Position:
        """``pos`` limited to the lanes where ``cond`` holds; a scalar condition also guards uniform coordinates."""
        b = self.builder
        wide = b.splat(cond, pos.lanes) if cond.lanes == 1 else cond
        mask = wide if pos.mask is None else b.op("and", pos.mask, wide)
        guard = pos.guard
        if cond.lanes == 1:
            guard = cond if guard is None else b.op("and", guard, cond)
        return replace(pos, mask=mask, guard=guard)


@dataclass(frozen=True)
class Offset:
    """Element offset of the lanes: ``base + k * stride``, plus ``vector[k]`` if present."""

    base: Any
    stride: Any
    vector: Val | None


class Access:
    """Reads and writes elements of one value at logical positions.

    Args:
        builder, extents: of the kernel being written.
        type: the value's type; its layout decides the addressing.
        pointer: first element of the buffer.
    """

    def __init__(self, builder: LoopBuilder, extents: Extents, type: TensorType, pointer: Val) -> None:
        self.builder = builder
        self.extents = extents
        self.math = IndexMath(builder, extents)
        self.type = type
        self.pointer = pointer
        layout = type.layout
        self.blocks = dict(layout.blocks)
        if len(self.blocks) != len(layout.blocks):
            raise UnsupportedError(f"layout {layout} blocks one axis twice; a kernel handles one block size per axis")
        strides = layout.strides(type.shape)
        order = layout.order or tuple(range(type.rank))
        self.outer = {axis: strides[i] for i, axis in enumerate(order)}
        self.inner = {axis: strides[type.rank + i] for i, (axis, _) in enumerate(layout.blocks)}
        self.halo = layout.halo or ((0, 0),) * type.rank

    def offset(self, pos: Position) -> Offset:
        """Where the lanes of ``pos`` are."""
        b, math_, lanes = self.builder, self.math, pos.lanes
        base: Any = 0
        lane_stride: Any = 0
        vector: Val | None = None
        for axis, coord in enumerate(pos.coords):
            c = math_.shift(coord, self.halo[axis][0], lanes)
            block = self.blocks.get(axis)
            if block is None:
                parts = [(c, self.outer[axis])]
            else:
                quotient, rest = math_.divide(c, block, lanes)
                parts = [(quotient, self.outer[axis]), (rest, self.inner[axis])]
            for part, extent in parts:
                stride = self.extents(extent)
                if part.vector is not None:
                    term = part.vector
                    if not (isinstance(stride, int) and stride == 1):
                        term = b.op("mul", term, b.splat(b.ival(stride), lanes))
                    vector = term if vector is None else b.op("add", vector, term)
                else:
                    base = b.iadd(base, b.imul(part.base, stride))
                    lane_stride = b.iadd(lane_stride, b.imul(part.step, stride))
        return Offset(base, lane_stride, vector)

    def lane_vector(self, where: Offset, lanes: int) -> Val:
        """Offsets of all lanes relative to ``where.base``."""
        assert where.vector is not None
        b = self.builder
        if isinstance(where.stride, int) and where.stride == 0:
            return where.vector
        steps = b.op("mul", b.iota(dtypes.int64, lanes), b.splat(b.ival(where.stride), lanes))
        return b.op("add", where.vector, steps)

    def load(self, pos: Position) -> Val:
        """The elements at ``pos``: masked-off lanes are not read and are zero."""
        b, where = self.builder, self.offset(pos)
        if where.vector is not None:
            return b.gather(b.at(self.pointer, where.base), self.lane_vector(where, pos.lanes), pos.mask)
        if pos.lanes > 1 and isinstance(where.stride, int) and where.stride == 0:
            return b.splat(b.load(self.pointer, where.base, mask=pos.guard), pos.lanes)
        return b.load(self.pointer, where.base, pos.lanes, where.stride, pos.mask)

    def store(self, pos: Position, value: Val) -> None:
        """Write ``value`` (compute type, ``pos.lanes`` wide) to the lanes of ``pos`` that exist."""
        b, where = self.builder, self.offset(pos)
        if where.vector is not None:
            b.scatter(b.at(self.pointer, where.base), value, self.lane_vector(where, pos.lanes), pos.mask)
        else:
            b.store(self.pointer, value, where.base, where.stride, pos.mask)
