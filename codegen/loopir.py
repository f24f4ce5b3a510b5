"""The loop IR: structured SSA over scalars, vectors and pointers, and the builder that writes it.

One function is one kernel with the signature of ``ir.plan``. Values are typed by a DType and a lane count;
``bool`` values are masks (one bit per lane). 16-bit floats and stored bools exist in memory only: ``load``
widens them to float32 / mask and ``store`` narrows them again. Everything is explicit: vectors have the
width the schedule chose, loops carry their values, addresses are pointer + element offset. Index operands
may be Python ints; arithmetic on ints is folded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..ir import dtypes
from ..ir.dtypes import DType
from ..ir.target import Target

Index = "Val | int"

SMALL_STRIDE = 4  # up to which a strided vector is made of contiguous loads and shuffles


def contiguous_loads(stride: Any, lanes: int) -> int:
    """How many contiguous loads bring in ``lanes`` elements that are ``stride`` apart; 0: it is loaded lane by lane."""
    small = isinstance(stride, int) and 1 <= stride <= SMALL_STRIDE
    return stride if stride == 1 or (small and lanes >= 2 * stride) else 0


def masked_loads(target: Target, itemsize: int) -> bool:
    """Whether masked loads of elements of ``itemsize`` bytes are instructions; else they are a branch per element."""
    return (target.has("avx512bw") and target.has("avx512vl")) or (target.has("avx2") and itemsize >= 4)


@dataclass(eq=False)
class Val:
    """An SSA value: scalar (lanes 1), vector, or pointer to elements of ``dtype``."""

    id: int
    dtype: DType
    lanes: int = 1
    pointer: bool = False

    def __str__(self) -> str:
        return f"%{self.id}"

    @property
    def type_text(self) -> str:
        base = self.dtype.name + (f"x{self.lanes}" if self.lanes > 1 else "")
        return f"*{base}" if self.pointer else base


@dataclass(eq=False)
class Instr:
    """``dst = op(args) {attrs}``; stores and prefetches have no ``dst``."""

    op: str
    args: tuple[Any, ...]  # Val or int
    dst: Val | None = None
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Loop:
    """``for var in range(lo, hi, step)`` with carried values; ``results`` are the values after the loop."""

    var: Val
    lo: Any
    hi: Any
    step: int
    params: list[Val]
    inits: list[Val]
    body: list[Any] = field(default_factory=list)
    yields: list[Val] = field(default_factory=list)
    results: list[Val] = field(default_factory=list)

    @property
    def surely_runs(self) -> bool:
        return isinstance(self.lo, int) and isinstance(self.hi, int) and self.lo < self.hi


@dataclass(eq=False)
class If:
    """Runs ``body`` when the scalar mask ``cond`` is set."""

    cond: Val
    body: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class TileShape:
    """What one tile register holds: at most 16 rows of at most 64 bytes."""

    rows: int = 16
    row_bytes: int = 64


@dataclass
class LoopFunction:
    """A kernel in loop IR. ``params`` are the buffers then the extents, in ``args`` order."""

    name: str
    target: Target
    buffers: list[Val] = field(default_factory=list)
    buffer_names: list[str] = field(default_factory=list)
    extents: list[Val] = field(default_factory=list)
    begin: Val | None = None
    end: Val | None = None
    scratch: Val | None = None
    scratch_bytes: int = 0
    body: list[Any] = field(default_factory=list)
    tiles: tuple[TileShape, ...] = ()  # shapes of the matrix tiles, for kernels that use them
    dots: bool = False  # whether it has bfloat16 dot products
    ids: int = 0  # values so far

    def __str__(self) -> str:
        return print_function(self)


class LoopBuilder:
    """Writes one LoopFunction. Declare buffers and extents first, then emit statements in order."""

    def __init__(self, name: str, target: Target) -> None:
        self.fn = LoopFunction(name, target)
        self.target = target
        self._body: list[Any] = self.fn.body
        self.fn.begin = self.begin = self._val(dtypes.int64)
        self.fn.end = self.end = self._val(dtypes.int64)
        self.fn.scratch = self._val(dtypes.uint8, pointer=True)

    # -- declarations -------------------------------------------------------------------------------
    def buffer(self, name: str, dtype: DType) -> Val:
        """The next kernel buffer; returns its base pointer."""
        v = self._val(dtype, pointer=True)
        self.fn.buffers.append(v)
        self.fn.buffer_names.append(name)
        return v

    def extent(self) -> Val:
        """The next run-time extent (int64), passed behind the buffers."""
        v = self._val(dtypes.int64)
        self.fn.extents.append(v)
        return v

    def scratch(self, dtype: DType, count: int) -> Val:
        """Thread-private memory for ``count`` elements, 64-byte aligned; the pointer is defined here."""
        return self.scratch_at(dtype, self.reserve(dtype, count))

    def reserve(self, dtype: DType, count: int) -> int:
        """Byte offset of scratch for ``count`` elements, to be pointed at with ``scratch_at`` wherever it is used."""
        offset = self.fn.scratch_bytes
        self.fn.scratch_bytes = offset + -(-count * dtype.itemsize // 64) * 64
        return offset

    def scratch_at(self, dtype: DType, offset: int) -> Val:
        """Pointer to reserved scratch."""
        assert self.fn.scratch is not None
        return self._emit("address", (self.fn.scratch, offset), dtype, pointer=True, element_bytes=1)

    def reinterpret(self, ptr: Val, dtype: DType) -> Val:
        """The same address as a pointer to elements of ``dtype``."""
        return self._emit("address", (ptr, 0), dtype, pointer=True, element_bytes=1)

    # -- plumbing -----------------------------------------------------------------------------------
    def _val(self, dtype: DType, lanes: int = 1, pointer: bool = False) -> Val:
        self.fn.ids += 1
        return Val(self.fn.ids, dtype, lanes, pointer)

    def _emit(
        self, op: str, args: Sequence[Any], dtype: DType, lanes: int = 1, pointer: bool = False, **attrs: Any
    ) -> Val:
        dst = self._val(dtype, lanes, pointer)
        self._body.append(Instr(op, tuple(args), dst, attrs))
        return dst

    # -- index arithmetic (int64 scalars or Python ints) --------------------------------------------
    def index(self, op: str, a: Any, b: Any) -> Any:
        """``a op b`` on indices: add sub mul div rem min max (div and rem for non-negative operands)."""
        if isinstance(a, int) and isinstance(b, int):
            return {
                "add": a + b, "sub": a - b, "mul": a * b, "min": min(a, b), "max": max(a, b),
                "div": a // b if b else 0, "rem": a % b if b else 0,
            }[op]  # fmt: skip
        if op in ("add", "sub") and isinstance(b, int) and b == 0:
            return a
        if op == "add" and isinstance(a, int) and a == 0:
            return b
        if op == "mul" and (a == 0 or b == 0) and (isinstance(a, int) or isinstance(b, int)):
            return 0
        if op in ("mul", "div") and isinstance(b, int) and b == 1:
            return a
        if op == "mul" and isinstance(a, int) and a == 1:
            return b
        if op == "rem" and isinstance(b, int) and b == 1:
            return 0
        return self._emit(op, (a, b), dtypes.int64)

    def iadd(self, a: Any, b: Any) -> Any:
        return self.index("add", a, b)

    def isub(self, a: Any, b: Any) -> Any:
        return self.index("sub", a, b)

    def imul(self, a: Any, b: Any) -> Any:
        return self.index("mul", a, b)

    def idiv(self, a: Any, b: Any) -> Any:
        return self.index("div", a, b)

    def irem(self, a: Any, b: Any) -> Any:
        return self.index("rem", a, b)

    def imin(self, a: Any, b: Any) -> Any:
        return self.index("min", a, b)

    def imax(self, a: Any, b: Any) -> Any:
        return self.index("max", a, b)

    def icmp(self, op: str, a: Any, b: Any) -> Val:
        """Scalar mask of an index comparison (eq ne lt le gt ge)."""
        return self._emit(op, (self.ival(a), self.ival(b)), dtypes.bool_)

    def ival(self, a: Any) -> Val:
        """An index as a Val."""
        return self._emit("const", (), dtypes.int64, value=a) if isinstance(a, int) else a

    # -- memory -------------------------------------------------------------------------------------
    def at(self, ptr: Val, offset: Any) -> Val:
        """Pointer ``offset`` elements further."""
        if isinstance(offset, int) and offset == 0:
            return ptr
        return self._emit("address", (ptr, offset), ptr.dtype, pointer=True, element_bytes=ptr.dtype.itemsize)

    def opaque(self, ptr: Val) -> Val:
        """The same pointer, hidden from LLVM: keeps it from merging loads across unrolled taps."""
        return self._emit("opaque", (ptr,), ptr.dtype, pointer=True)

    def load(self, ptr: Val, offset: Any = 0, lanes: int = 1, stride: Any = 1, mask: Val | None = None) -> Val:
        """``lanes`` elements from ``ptr + offset``, ``stride`` elements apart (0: one element, splat).

        Masked-off lanes read nothing and are zero. 16-bit floats arrive as float32, bools as masks.
        """
        mem = ptr.dtype
        dtype = dtypes.float32 if mem.kind == "f" and mem.bits == 16 else mem
        if not isinstance(offset, int):
            ptr, offset = self.at(ptr, offset), 0
        if lanes > 1 and isinstance(stride, int) and stride == 0:
            return self.splat(self.load(ptr, offset), lanes)
        args: tuple[Any, ...] = (ptr, offset, stride) if mask is None else (ptr, offset, stride, mask)
        if lanes == 1:
            args = (ptr, offset, 1) if mask is None else (ptr, offset, 1, mask)
        return self._emit("load", args, dtype, lanes)

    def store(self, ptr: Val, value: Val, offset: Any = 0, stride: Any = 1, mask: Val | None = None) -> None:
        """Write ``value``'s lanes to ``ptr + offset``, ``stride`` elements apart; masked-off lanes are left."""
        if not isinstance(offset, int):
            ptr, offset = self.at(ptr, offset), 0
        want = dtypes.float32 if ptr.dtype.kind == "f" and ptr.dtype.bits == 16 else ptr.dtype
        if value.dtype is not want:
            raise TypeError(f"store of {value.dtype.name} into memory of {ptr.dtype.name}")
        self._body.append(Instr("store", (ptr, offset, stride, value, *(() if mask is None else (mask,)))))

    def gather(self, ptr: Val, offsets: Val, mask: Val | None = None) -> Val:
        """One element per lane from ``ptr + offsets[lane]`` (int64 vector, in elements); as ``load`` otherwise."""
        mem = ptr.dtype
        dtype = dtypes.float32 if mem.kind == "f" and mem.bits == 16 else mem
        args = (ptr, offsets) if mask is None else (ptr, offsets, mask)
        return self._emit("gather", args, dtype, offsets.lanes)

    def scatter(self, ptr: Val, value: Val, offsets: Val, mask: Val | None = None) -> None:
        """Write lane by lane, in lane order, to ``ptr + offsets[lane]``."""
        self._body.append(Instr("scatter", (ptr, offsets, value, *(() if mask is None else (mask,)))))

    def prefetch(self, ptr: Val, offset: Any = 0, write: bool = False, level: int = 1) -> None:
        """Ask for the line of an element, to be in the cache of ``level`` soon; any address will do."""
        self._body.append(Instr("prefetch", (self.at(ptr, offset),), None, {"write": write, "level": level}))

    # -- values -------------------------------------------------------------------------------------
    def const(self, dtype: DType, value: float | int | bool, lanes: int = 1) -> Val:
        return self._emit("const", (), dtype, lanes, value=value)

    def op(self, name: str, *args: Val) -> Val:
        """Arithmetic on equal types: add sub mul div rem min max neg abs fma sqrt floor ceil roundeven trunc
        copysign and or xor not shl lshr ashr, andnot. ``fma`` may round twice on targets without FMA.
        ``min``/``max`` are ``a < b ? a : b``: they return b when either is NaN. Integer ``div`` truncates."""
        first = args[0]
        for a in args[1:]:
            if a.dtype is not first.dtype or a.lanes != first.lanes:
                raise TypeError(f"loop IR {name}: operands {[x.type_text for x in args]}")
        return self._emit(name, args, first.dtype, first.lanes)

    def cmp(self, op: str, a: Val, b: Val) -> Val:
        """Mask of ``a op b``: eq ne lt le gt ge; with NaN only ``ne`` holds. ``uno`` = either is NaN."""
        if a.dtype is not b.dtype or a.lanes != b.lanes:
            raise TypeError(f"loop IR compare {op}: {a.type_text} with {b.type_text}")
        return self._emit(op, (a, b), dtypes.bool_, a.lanes)

    def select(self, mask: Val, a: Val, b: Val) -> Val:
        """``mask ? a : b``."""
        if a.dtype is not b.dtype or a.lanes != b.lanes or mask.dtype is not dtypes.bool_ or mask.lanes != a.lanes:
            raise TypeError(f"loop IR select: {mask.type_text} ? {a.type_text} : {b.type_text}")
        return self._emit("select", (mask, a, b), a.dtype, a.lanes)

    def cast(self, v: Val, dtype: DType) -> Val:
        """Value conversion (float to int truncates toward zero; to bool: ``v != 0``). 16-bit floats round
        to that precision and stay float32."""
        if v.dtype is dtype:
            return v
        result = dtypes.float32 if dtype.kind == "f" and dtype.bits == 16 else dtype
        if dtype is dtypes.bool_:
            return self.cmp("ne", v, self.const(v.dtype, 0, v.lanes))
        if result is not dtype:  # round to the 16-bit format
            if v.dtype is not dtypes.float32:
                v = self.cast(v, dtypes.float32)
            return self._emit("round16", (v,), dtypes.float32, v.lanes, to=dtype)
        if v.dtype is result:
            return v
        return self._emit("cast", (v,), result, v.lanes)

    def bitcast(self, v: Val, dtype: DType) -> Val:
        return self._emit("bitcast", (v,), dtype, v.lanes)

    def splat(self, v: Val, lanes: int) -> Val:
        return v if lanes == v.lanes else self._emit("splat", (v,), v.dtype, lanes)

    def iota(self, dtype: DType, lanes: int) -> Val:
        """0, 1, ..., lanes - 1."""
        return self._emit("iota", (), dtype, lanes)

    def shuffle(self, a: Val, b: Val, lanes: Sequence[int]) -> Val:
        """The elements ``lanes`` of ``a`` followed by ``b``."""
        if a.dtype is not b.dtype or a.lanes != b.lanes:
            raise TypeError(f"loop IR shuffle: {a.type_text} with {b.type_text}")
        return self._emit("shuffle", (a, b), a.dtype, len(lanes), chosen=tuple(lanes))

    def transpose(self, rows: Sequence[Val]) -> list[Val]:
        """A square of elements, one vector per row, as one vector per column."""
        rows, lanes = list(rows), rows[0].lanes
        if len(rows) != lanes or lanes & (lanes - 1):
            raise ValueError(f"loop IR transpose: {len(rows)} vectors of {lanes}")
        half = 1
        while half < lanes:  # swap the off-diagonal squares of size ``half`` in all squares of twice the size
            low = [c if not c & half else c - half + lanes for c in range(lanes)]
            high = [c + half if not c & half else c + lanes for c in range(lanes)]
            for r in range(lanes):
                if not r & half:
                    a, b = rows[r], rows[r + half]
                    rows[r], rows[r + half] = self.shuffle(a, b, low), self.shuffle(a, b, high)
            half *= 2
        return rows

    def extract(self, v: Val, lane: int) -> Val:
        return self._emit("extract", (v,), v.dtype, 1, lane=lane)

    def permute(self, v: Val, index: Val) -> Val:
        """Lane ``k`` is ``v[index[k]]`` (int32 lanes; an index outside gives some lane). Only where
        ``llvm_text.permutation`` knows an instruction."""
        if index.dtype is not dtypes.int32 or index.lanes != v.lanes:
            raise TypeError(f"loop IR permute: {v.type_text} by {index.type_text}")
        return self._emit("permute", (v, index), v.dtype, v.lanes)

    def horizontal(self, op: str, v: Val) -> Val:
        """Fold the lanes pairwise with ``add mul min max and or`` (halving: the same order on every target
        of equal width)."""
        return v if v.lanes == 1 else self._emit("horizontal", (v,), v.dtype, 1, fold=op)

    def lanes_below(self, n: Any, lanes: int) -> Val:
        """Mask of the lanes whose number is below the index ``n``."""
        if isinstance(n, int) and n == 1 and lanes > 1:
            # LLVM 22 turns a masked store of narrowed values with a constant one-lane mask into a scalar store that
            # is not narrowed. The top bit of ``begin`` is zero, but LLVM does not know.
            n = self.iadd(self.op("lshr", self.begin, self.const(dtypes.int64, 63)), 1)
        limit = self.splat(self.cast(self.imin_val(n, lanes), dtypes.int32), lanes)
        return self.cmp("lt", self.iota(dtypes.int32, lanes), limit)

    def imin_val(self, n: Any, limit: int) -> Val:
        return self.ival(self.imin(n, limit))

    # -- matrix tiles -------------------------------------------------------------------------------
    # Tiles are registers with numbers, not values: a kernel configures them once, and nothing can spill them.
    def tile_config(self, shapes: Sequence[TileShape]) -> None:
        """Start of the kernel: tile register ``i`` has shape ``shapes[i]`` until ``tile_release``."""
        if self.fn.tiles:
            raise ValueError("loop IR: tiles are configured once per kernel")
        self.fn.tiles = tuple(shapes)
        memory = self.scratch(dtypes.int64, 8)
        self._body.append(Instr("tile_config", (memory,), None, {"shapes": self.fn.tiles}))

    def tile_release(self) -> None:
        """End of the kernel: the tile unit goes back to its initial state."""
        self._body.append(Instr("tile_release", ()))

    def tile_zero(self, tile: int) -> None:
        self._body.append(Instr("tile_zero", (), None, {"tile": tile}))

    def tile_load(self, tile: int, ptr: Val, row_bytes: int) -> None:
        """Rows of ``tile`` from ``ptr``, ``row_bytes`` apart."""
        self._body.append(Instr("tile_load", (ptr,), None, {"tile": tile, "row_bytes": row_bytes}))

    def tile_store(self, tile: int, ptr: Val, row_bytes: int) -> None:
        self._body.append(Instr("tile_store", (ptr,), None, {"tile": tile, "row_bytes": row_bytes}))

    def tile_dot(self, c: int, a: int, b: int) -> None:
        """``c += a @ b``: float32 sums of bfloat16 products. ``a`` holds rows of pairs along k, ``b`` in row ``i`` the
        pairs ``2 i, 2 i + 1`` along k of every column. Its rounding is described in ``tile_emulation``."""
        self._body.append(Instr("tile_dot", (), None, {"c": c, "a": a, "b": b}))

    def tile_round(self, v: Val) -> Val:
        """float32 to the bits (uint16) of the nearest bfloat16, ties to even, subnormal operands as zero."""
        return self._emit("tile_round", (v,), dtypes.uint16, v.lanes)

    def pair_dot(self, c: Val, a: Val, b: Val) -> Val:
        """``c`` (float32) plus two bfloat16 products per lane; ``a`` and ``b`` (int32) hold a pair in each lane.

        Subnormal operands and results count as zero where the instruction exists; whether the sum is rounded after
        the first product is up to the CPU.
        """
        if {a.dtype, b.dtype} != {dtypes.int32} or c.dtype is not dtypes.float32 or not a.lanes == b.lanes == c.lanes:
            raise TypeError(f"loop IR pair_dot: {c.type_text} with {a.type_text} and {b.type_text}")
        self.fn.dots = True
        return self._emit("pair_dot", (c, a, b), dtypes.float32, c.lanes)

    # -- control ------------------------------------------------------------------------------------
    def loop(
        self, lo: Any, hi: Any, body: Callable[..., Any], *, step: int = 1, carry: Sequence[Val] = ()
    ) -> list[Val]:
        """Emit ``for i in range(lo, hi, step)``; ``body(i, *carried)`` returns the next carried values.

        A loop of statically one iteration is inlined, one of zero yields ``carry``.
        """
        if isinstance(lo, int) and isinstance(hi, int):
            if lo >= hi:
                return list(carry)
            if lo + step >= hi:
                return _as_list(body(lo, *carry))
        loop = Loop(
            self._val(dtypes.int64), lo, hi, step, [self._val(c.dtype, c.lanes, c.pointer) for c in carry], list(carry)
        )
        outer, self._body = self._body, loop.body
        loop.yields = _as_list(body(loop.var, *loop.params))
        self._body = outer
        if len(loop.yields) != len(loop.inits):
            raise ValueError(f"loop body returned {len(loop.yields)} values for {len(loop.inits)} carried ones")
        loop.results = [self._val(c.dtype, c.lanes, c.pointer) for c in carry]
        self._body.append(loop)
        return loop.results

    def when(self, cond: Val, body: Callable[[], None]) -> None:
        """Emit ``body`` under the scalar mask ``cond``."""
        stmt = If(cond)
        outer, self._body = self._body, stmt.body
        body()
        self._body = outer
        self._body.append(stmt)

    def finish(self) -> LoopFunction:
        return self.fn


def _as_list(x: Any) -> list[Val]:
    if x is None:
        return []
    return list(x) if isinstance(x, (list, tuple)) else [x]


# -- printing -----------------------------------------------------------------------------------------
def print_function(fn: LoopFunction) -> str:
    """Readable text of a kernel, one statement per line."""
    params = [f"{v} {n}: {v.type_text}" for v, n in zip(fn.buffers, fn.buffer_names, strict=True)]
    params += [f"{v}: extent" for v in fn.extents]
    lines = [
        f"kernel {fn.name}({', '.join(params)}) for {fn.begin} .. {fn.end} "
        f"scratch {fn.scratch} ({fn.scratch_bytes} bytes) {{"
    ]
    lines += (f"{'  ' * (depth + 1)}{text}" for depth, text in _lines(fn.body))
    return "\n".join([*lines, "}"])


def _lines(body: list[Any]) -> Iterator[tuple[int, str]]:
    # Loop nests are shallow (a dozen levels), so recursion is bounded here.
    for s in body:
        if isinstance(s, Instr):
            args = ", ".join(str(a) for a in s.args)
            attrs = " ".join(f"{k}={v!s}" for k, v in s.attrs.items())
            head = f"{s.dst}: {s.dst.type_text} = " if s.dst is not None else ""
            yield 0, f"{head}{s.op}({args}) {attrs}".rstrip()
        elif isinstance(s, Loop):
            carried = ", ".join(f"{p} = {i}" for p, i in zip(s.params, s.inits, strict=True))
            yield 0, f"for {s.var} in {s.lo} .. {s.hi} step {s.step}" + (f" carry({carried})" if carried else "") + " {"
            yield from ((d + 1, t) for d, t in _lines(s.body))
            if s.yields:
                yield 1, "yield " + ", ".join(map(str, s.yields))
            yield 0, "}" + (" -> " + ", ".join(map(str, s.results)) if s.results else "")
        else:
            yield 0, f"if {s.cond} {{"
            yield from ((d + 1, t) for d, t in _lines(s.body))
            yield 0, "}"
