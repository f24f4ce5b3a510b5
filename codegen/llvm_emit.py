"""Loop IR to LLVM IR text.

Vector code is explicit already, so no optimisation pipeline runs behind this; what matters is that nothing
emitted here makes LLVM call a library function (kernels import nothing); ``llvm_text`` sees to that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from ..ir import dtypes
from .llvm_text import SCALARS, Writer, mangle, permutation, suffix
from .loopir import If, Instr, Loop, LoopFunction, TileShape, Val, contiguous_loads, masked_loads

_TILES = 8  # tile registers
_ICMP = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}
_FCMP = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "uno": "uno"}


def config_words(shapes: Sequence[TileShape]) -> tuple[int, ...]:
    """The 64 bytes that configure the tile unit (palette 1), as little-endian words."""
    block = bytearray(64)
    block[0] = 1
    for i, shape in enumerate(shapes):
        if i >= _TILES or not 1 <= shape.rows <= 16 or not 4 <= shape.row_bytes <= 64 or shape.row_bytes % 4:
            raise ValueError(f"loop IR: no tile register {i} of {shape.rows} rows of {shape.row_bytes} bytes")
        struct.pack_into("<H", block, 16 + 2 * i, shape.row_bytes)
        block[48 + i] = shape.rows
    return struct.unpack("<8q", bytes(block))


def emit(fn: LoopFunction) -> str:
    """LLVM IR of one kernel: a module with the single function ``fn.name``."""
    return _Emitter(fn).module()


class _Emitter(Writer):
    def __init__(self, fn: LoopFunction) -> None:
        super().__init__(fn.target)
        self.fn = fn
        self.names: dict[int, str] = {}

    # -- text helpers -------------------------------------------------------------------------------
    def module(self) -> str:
        fn, body = self.fn, self.lines
        for v in [*fn.buffers, *fn.extents]:
            self.names[v.id] = f"%a{v.id}"
        assert fn.begin and fn.end and fn.scratch
        self.names.update({fn.begin.id: "%begin", fn.end.id: "%end", fn.scratch.id: "%scratch"})
        for i, v in enumerate([*fn.buffers, *fn.extents]):
            slot = self.ins(f"getelementptr inbounds i64, ptr %args, i64 {i}") if i else "%args"
            body.append(f"  %a{v.id} = load {'ptr' if v.pointer else 'i64'}, ptr {slot}, align 8")
        self.statements(fn.body)
        body.append("  ret void")
        width = self.target.vector_bytes * 8
        # CPU and features come from the target machine, which also switches off what the CPU's name implies.
        attrs = (
            f'attributes #0 = {{ nounwind "prefer-vector-width"="{width}" "min-legal-vector-width"="{width}" '
            '"no-builtins" }'
        )
        head = f"define void @{fn.name}(ptr %args, i64 %begin, i64 %end, ptr %scratch) #0 {{"
        return "\n".join(
            [f'target triple = "{self.target.triple}"', *self.declared.values(), head, "entry:", *body, "}", attrs, ""]
        )

    def vty(self, v: Val) -> str:
        return "ptr" if v.pointer else self.ty(v.dtype, v.lanes)

    def ref(self, v: Any) -> str:
        return str(v) if isinstance(v, int) else self.names[v.id]

    # -- statements ---------------------------------------------------------------------------------
    def statements(self, body: list[Any]) -> None:
        for s in body:
            if isinstance(s, Instr):
                self.instr(s)
            elif isinstance(s, Loop):
                self.loop(s)
            else:
                self.branch(s)

    def loop(self, s: Loop) -> None:
        header, exit_ = self.label("loop"), self.label("done")
        lo, hi = self.ref(s.lo), self.ref(s.hi)
        before = self.block
        if s.surely_runs:
            self.lines.append(f"  br label %{header}")
        else:
            enter = self.ins(f"icmp slt i64 {lo}, {hi}")
            self.lines.append(f"  br i1 {enter}, label %{header}, label %{exit_}")
        self.open_block(header)
        iv = self.names[s.var.id] = self.fresh()
        at = len(self.lines)
        self.lines.append("")
        for p in s.params:
            self.names[p.id] = self.fresh()
            self.lines.append("")
        self.statements(s.body)
        following = self.ins(f"add nsw i64 {iv}, {s.step}")
        more = self.ins(f"icmp slt i64 {following}, {hi}")
        last = self.block
        self.lines.append(f"  br i1 {more}, label %{header}, label %{exit_}")
        self.lines[at] = f"  {iv} = phi i64 [{lo}, %{before}], [{following}, %{last}]"
        for k, (p, init, y) in enumerate(zip(s.params, s.inits, s.yields, strict=True)):
            self.lines[at + 1 + k] = (
                f"  {self.names[p.id]} = phi {self.vty(p)} [{self.ref(init)}, %{before}], [{self.ref(y)}, %{last}]"
            )
        self.open_block(exit_)
        for r, init, y in zip(s.results, s.inits, s.yields, strict=True):
            if s.surely_runs:
                self.names[r.id] = self.ref(y)
            else:
                self.names[r.id] = self.ins(
                    f"phi {self.vty(r)} [{self.ref(init)}, %{before}], [{self.ref(y)}, %{last}]"
                )

    def branch(self, s: If) -> None:
        then, after = self.label("then"), self.label("after")
        self.lines.append(f"  br i1 {self.ref(s.cond)}, label %{then}, label %{after}")
        self.open_block(then)
        self.statements(s.body)
        self.lines.append(f"  br label %{after}")
        self.open_block(after)

    # -- instructions -------------------------------------------------------------------------------
    def instr(self, s: Instr) -> None:
        handler: Callable[[Instr], str | None] | None = getattr(self, f"op_{s.op}", None)
        result = handler(s) if handler is not None else self.arithmetic(s)
        if s.dst is not None:
            assert result is not None
            self.names[s.dst.id] = result

    def op_const(self, s: Instr) -> str:
        assert s.dst is not None
        return self.literal(s.dst.dtype, s.attrs["value"], s.dst.lanes)

    def op_address(self, s: Instr) -> str:
        ptr, offset = s.args
        size = s.attrs["element_bytes"]
        unit = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}[size]
        return self.ins(f"getelementptr inbounds {unit}, ptr {self.ref(ptr)}, i64 {self.ref(offset)}")

    def op_opaque(self, s: Instr) -> str:
        return self.ins(f'call ptr asm sideeffect "", "=r,0"(ptr {self.ref(s.args[0])})')

    def op_prefetch(self, s: Instr) -> None:
        self.declare("void @llvm.prefetch.p0(ptr, i32, i32, i32)", "llvm.prefetch.p0")
        rw, near = 1 if s.attrs["write"] else 0, 4 - s.attrs["level"]
        self.lines.append(f"  call void @llvm.prefetch.p0(ptr {self.ref(s.args[0])}, i32 {rw}, i32 {near}, i32 1)")

    def _pointer(self, ptr: Val, offset: int) -> str:
        if offset == 0:
            return self.ref(ptr)
        return self.ins(f"getelementptr inbounds i8, ptr {self.ref(ptr)}, i64 {offset * ptr.dtype.itemsize}")

    def _lane_pointers(self, base: str, ptr: Val, stride: Any, lanes: int) -> str:
        size = ptr.dtype.itemsize
        steps = self.literal(dtypes.int64, 0, lanes)
        if isinstance(stride, int):
            steps = "<" + ", ".join(f"i64 {k * stride * size}" for k in range(lanes)) + ">"
        else:
            wide = self.splat_text(self.ref(stride), "i64", lanes)
            numbers = "<" + ", ".join(f"i64 {k * size}" for k in range(lanes)) + ">"
            steps = self.ins(f"mul <{lanes} x i64> {wide}, {numbers}")
        return self.ins(f"getelementptr i8, ptr {base}, <{lanes} x i64> {steps}")

    def op_load(self, s: Instr) -> str:
        assert s.dst is not None
        ptr, offset, stride, *rest = s.args
        mask = self.ref(rest[0]) if rest else None
        lanes, align = s.dst.lanes, ptr.dtype.itemsize
        scalar = self.memory_type(ptr.dtype)
        mem = scalar if lanes == 1 else f"<{lanes} x {scalar}>"
        base = self._pointer(ptr, offset)
        if lanes == 1:
            if mask is not None:
                return self._guarded_scalar_load(base, ptr, scalar, align, mask)
            raw = self.ins(f"load {scalar}, ptr {base}, align {align}")
        elif isinstance(stride, int) and stride == 1:
            if mask is None:
                raw = self.ins(f"load {mem}, ptr {base}, align {align}")
            else:
                name = f"llvm.masked.load.v{lanes}{mangle(scalar)}.p0"
                raw = self.call(
                    name, mem, [("ptr", base), ("i32", str(align)), (f"<{lanes} x i1>", mask), (mem, "zeroinitializer")]
                )
        elif contiguous_loads(stride, lanes) and (mask is None or masked_loads(self.target, align)):
            raw = self._combined_load(base, scalar, lanes, stride, align, mask)
        elif mask is None:
            raw = "poison"
            for k in range(lanes):
                if isinstance(stride, int):
                    p = self.ins(f"getelementptr inbounds i8, ptr {base}, i64 {k * stride * align}")
                else:
                    step = self.ins(f"mul i64 {self.ref(stride)}, {k * align}")
                    p = self.ins(f"getelementptr inbounds i8, ptr {base}, i64 {step}")
                x = self.ins(f"load {scalar}, ptr {p}, align {align}")
                raw = self.ins(f"insertelement {mem} {raw}, {scalar} {x}, i64 {k}")
        else:
            ptrs = self._lane_pointers(base, ptr, stride, lanes)
            name = f"llvm.masked.gather.v{lanes}{mangle(scalar)}.v{lanes}p0"
            raw = self.call(
                name, mem,
                [(f"<{lanes} x ptr>", ptrs), ("i32", str(align)), (f"<{lanes} x i1>", mask), (mem, "zeroinitializer")],
            )  # fmt: skip
        return self.widen(raw, ptr.dtype, lanes, mem)

    def _combined_load(self, base: str, scalar: str, lanes: int, stride: int, size: int, mask: str | None) -> str:
        """Every ``stride``-th element of ``stride`` contiguous loads. Without a mask the last one ends with the last
        element; with one they read the wanted elements only."""
        mem, bits = f"<{lanes} x {scalar}>", f"<{lanes} x i1>"
        last = (lanes - 1) * stride + 1 - lanes
        starts = [i * lanes if mask is not None else min(i * lanes, last) for i in range(stride)]
        raw = ""
        for i, start in enumerate(starts):
            p = self.ins(f"getelementptr i8, ptr {base}, i64 {start * size}") if start else base
            if mask is None:
                part = self.ins(f"load {mem}, ptr {p}, align {size}")
            else:
                places = ((start + k) // stride if (start + k) % stride == 0 else lanes for k in range(lanes))
                chosen = ", ".join(f"i32 {k}" for k in places)
                wanted = self.ins(f"shufflevector {bits} {mask}, {bits} zeroinitializer, <{lanes} x i32> <{chosen}>")
                operands = [("ptr", p), ("i32", str(size)), (bits, wanted), (mem, "zeroinitializer")]
                part = self.call(f"llvm.masked.load.v{lanes}{mangle(scalar)}.p0", mem, operands)
            if not raw:
                raw = part
                continue
            order = []
            for k in range(lanes):
                source = min(k * stride // lanes, stride - 1)
                inside = k * stride - starts[source]
                order.append(lanes + inside if source == i else (inside if i == 1 else k) if source < i else -1)
            chosen = ", ".join(f"i32 {k}" if k >= 0 else "i32 poison" for k in order)
            raw = self.ins(f"shufflevector {mem} {raw}, {mem} {part}, <{lanes} x i32> <{chosen}>")
        return raw

    def _guarded_scalar_load(self, base: str, ptr: Val, scalar: str, align: int, mask: str) -> str:
        then, after, before = self.label("then"), self.label("after"), self.block
        self.lines.append(f"  br i1 {mask}, label %{then}, label %{after}")
        self.open_block(then)
        raw = self.ins(f"load {scalar}, ptr {base}, align {align}")
        self.lines.append(f"  br label %{after}")
        self.open_block(after)
        zero = "0.0" if scalar in ("float", "double", "half") else "0"
        joined = self.ins(f"phi {scalar} [{raw}, %{then}], [{zero}, %{before}]")
        return self.widen(joined, ptr.dtype, 1, scalar)

    def op_store(self, s: Instr) -> None:
        ptr, offset, stride, value, *rest = s.args
        mask = self.ref(rest[0]) if rest else None
        lanes, align = value.lanes, ptr.dtype.itemsize
        text, mem = self.narrow(self.ref(value), ptr.dtype, lanes)
        base = self._pointer(ptr, offset)
        scalar = self.memory_type(ptr.dtype)
        if lanes == 1:
            if mask is None:
                self.lines.append(f"  store {scalar} {text}, ptr {base}, align {align}")
                return
            then, after = self.label("then"), self.label("after")
            self.lines.append(f"  br i1 {mask}, label %{then}, label %{after}")
            self.open_block(then)
            self.lines.append(f"  store {scalar} {text}, ptr {base}, align {align}")
            self.lines.append(f"  br label %{after}")
            self.open_block(after)
        elif isinstance(stride, int) and stride == 1:
            if mask is None:
                self.lines.append(f"  store {mem} {text}, ptr {base}, align {align}")
            else:
                name = f"llvm.masked.store.v{lanes}{mangle(scalar)}.p0"
                self._call_void(name, [(mem, text), ("ptr", base), ("i32", str(align)), (f"<{lanes} x i1>", mask)])
        elif mask is None:
            for k in range(lanes):
                x = self.ins(f"extractelement {mem} {text}, i64 {k}")
                if isinstance(stride, int):
                    p = self.ins(f"getelementptr inbounds i8, ptr {base}, i64 {k * stride * align}")
                else:
                    step = self.ins(f"mul i64 {self.ref(stride)}, {k * align}")
                    p = self.ins(f"getelementptr inbounds i8, ptr {base}, i64 {step}")
                self.lines.append(f"  store {scalar} {x}, ptr {p}, align {align}")
        else:
            ptrs = self._lane_pointers(base, ptr, stride, lanes)
            name = f"llvm.masked.scatter.v{lanes}{mangle(scalar)}.v{lanes}p0"
            self._call_void(
                name, [(mem, text), (f"<{lanes} x ptr>", ptrs), ("i32", str(align)), (f"<{lanes} x i1>", mask)]
            )

    def op_gather(self, s: Instr) -> str:
        assert s.dst is not None
        ptr, offsets, *rest = s.args
        lanes, scalar = s.dst.lanes, self.memory_type(ptr.dtype)
        align, mem = ptr.dtype.itemsize, f"<{s.dst.lanes} x {scalar}>"
        unit = f"i{align * 8}"
        ptrs = self.ins(f"getelementptr {unit}, ptr {self.ref(ptr)}, <{lanes} x i64> {self.ref(offsets)}")
        if rest:
            name = f"llvm.masked.gather.v{lanes}{mangle(scalar)}.v{lanes}p0"
            mask = (f"<{lanes} x i1>", self.ref(rest[0]))
            operands = [(f"<{lanes} x ptr>", ptrs), ("i32", str(align)), mask, (mem, "zeroinitializer")]
            return self.widen(self.call(name, mem, operands), ptr.dtype, lanes, mem)
        raw = "poison"
        for k in range(lanes):
            p = self.ins(f"extractelement <{lanes} x ptr> {ptrs}, i64 {k}")
            x = self.ins(f"load {scalar}, ptr {p}, align {align}")
            raw = self.ins(f"insertelement {mem} {raw}, {scalar} {x}, i64 {k}")
        return self.widen(raw, ptr.dtype, lanes, mem)

    def op_scatter(self, s: Instr) -> None:
        ptr, offsets, value, *rest = s.args
        lanes, scalar, align = value.lanes, self.memory_type(ptr.dtype), ptr.dtype.itemsize
        text, mem = self.narrow(self.ref(value), ptr.dtype, lanes)
        ptrs = self.ins(f"getelementptr i{align * 8}, ptr {self.ref(ptr)}, <{lanes} x i64> {self.ref(offsets)}")
        mask = self.ref(rest[0]) if rest else self.literal(dtypes.bool_, True, lanes)
        name = f"llvm.masked.scatter.v{lanes}{mangle(scalar)}.v{lanes}p0"
        self._call_void(name, [(mem, text), (f"<{lanes} x ptr>", ptrs), ("i32", str(align)), (f"<{lanes} x i1>", mask)])

    def _call_void(self, name: str, args: list[tuple[str, str]]) -> None:
        self.declare(f"void @{name}({', '.join(t for t, _ in args)})", name)
        self.lines.append(f"  call void @{name}({', '.join(f'{t} {v}' for t, v in args)})")

    def op_splat(self, s: Instr) -> str:
        assert s.dst is not None
        return self.splat_text(self.ref(s.args[0]), SCALARS[s.dst.dtype.name], s.dst.lanes)

    def op_iota(self, s: Instr) -> str:
        assert s.dst is not None
        scalar = SCALARS[s.dst.dtype.name]
        items = (self.literal(s.dst.dtype, k, 1) for k in range(s.dst.lanes))
        return (
            "<" + ", ".join(f"{scalar} {x}" for x in items) + ">"
            if s.dst.lanes > 1
            else self.literal(s.dst.dtype, 0, 1)
        )

    def op_shuffle(self, s: Instr) -> str:
        a, b = s.args
        chosen = ", ".join(f"i32 {k}" for k in s.attrs["chosen"])
        kind = self.vty(a)
        mask = f"<{len(s.attrs['chosen'])} x i32> <{chosen}>"
        return self.ins(f"shufflevector {kind} {self.ref(a)}, {kind} {self.ref(b)}, {mask}")

    def op_extract(self, s: Instr) -> str:
        return self.ins(f"extractelement {self.vty(s.args[0])} {self.ref(s.args[0])}, i64 {s.attrs['lane']}")

    def op_permute(self, s: Instr) -> str:
        v, index = s.args
        name = permutation(self.target, v.dtype, v.lanes)
        assert name is not None, "no permutation instruction: ask llvm_text.permutation first"
        return self.call(name, self.vty(v), [(self.vty(v), self.ref(v)), (self.vty(index), self.ref(index))])

    def op_horizontal(self, s: Instr) -> str:
        v, fold = s.args[0], s.attrs["fold"]
        text, lanes, scalar = self.ref(v), v.lanes, SCALARS[v.dtype.name]
        while lanes > 2:
            half, kind = lanes // 2, f"<{lanes} x {scalar}>"
            low = "<" + ", ".join(f"i32 {k}" for k in range(half)) + ">"
            high = "<" + ", ".join(f"i32 {k + half}" for k in range(half)) + ">"
            a = self.ins(f"shufflevector {kind} {text}, {kind} poison, <{half} x i32> {low}")
            b = self.ins(f"shufflevector {kind} {text}, {kind} poison, <{half} x i32> {high}")
            text, lanes = self.binary(fold, v.dtype, half, a, b), half
        a = self.ins(f"extractelement <2 x {scalar}> {text}, i64 0")
        b = self.ins(f"extractelement <2 x {scalar}> {text}, i64 1")
        return self.binary(fold, v.dtype, 1, a, b)

    def op_select(self, s: Instr) -> str:
        m, a, b = s.args
        return self.ins(f"select {self.vty(m)} {self.ref(m)}, {self.vty(a)} {self.ref(a)}, {self.vty(b)} {self.ref(b)}")

    def op_bitcast(self, s: Instr) -> str:
        assert s.dst is not None
        a = s.args[0]
        if self.vty(a) == self.vty(s.dst):
            return self.ref(a)
        return self.ins(f"bitcast {self.vty(a)} {self.ref(a)} to {self.vty(s.dst)}")

    def op_round16(self, s: Instr) -> str:
        v, to = s.args[0], s.attrs["to"]
        text, mem = self.narrow(self.ref(v), to, v.lanes)
        return self.widen(text, to, v.lanes, mem)

    def op_cast(self, s: Instr) -> str:
        assert s.dst is not None
        v, to = s.args[0], s.dst.dtype
        a, b = self.vty(v), self.vty(s.dst)
        src = v.dtype
        if src.kind == "f" and to.kind == "f":
            verb = "fpext" if to.bits > src.bits else "fptrunc"
        elif src.kind == "f":
            verb = "fptoui" if to.kind == "u" and to.bits == 64 else "fptosi"
            if to.bits < 64:  # go through a wider signed type: in-range values only need its low bits
                wide = self.ty(dtypes.int64 if to.bits == 32 else dtypes.int32, v.lanes)
                x = self.ins(f"fptosi {a} {self.ref(v)} to {wide}")
                return self.ins(f"trunc {wide} {x} to {b}") if wide != b else x
        elif to.kind == "f":
            verb = "uitofp" if src.kind in "ub" else "sitofp"
        elif a == b:
            return self.ref(v)
        elif src is dtypes.bool_ or to.bits > src.bits:
            verb = "zext" if src.kind in "ub" else "sext"
        else:
            verb = "trunc"
        return self.ins(f"{verb} {a} {self.ref(v)} to {b}")

    # -- matrix tiles -------------------------------------------------------------------------------
    def _tile_call(self, name: str, *args: tuple[str, str]) -> None:
        if not self.target.has("amx-bf16"):
            raise ValueError(f"loop IR: target {self.target.name} has no tile unit for {name}")
        # Register numbers are immediates of the instruction.
        types = ", ".join(t + (" immarg" if t == "i8" else "") for t, _ in args)
        self.declare(f"void @llvm.x86.{name}({types})", name)
        self.lines.append(f"  call void @llvm.x86.{name}({', '.join(f'{t} {v}' for t, v in args)})")

    def op_tile_config(self, s: Instr) -> None:
        memory = self.ref(s.args[0])
        for i, word in enumerate(config_words(s.attrs["shapes"])):
            place = self.ins(f"getelementptr inbounds i64, ptr {memory}, i64 {i}")
            self.lines.append(f"  store i64 {word}, ptr {place}, align 8")
        self._tile_call("ldtilecfg", ("ptr", memory))

    def op_tile_release(self, s: Instr) -> None:
        self._tile_call("tilerelease")

    def op_tile_zero(self, s: Instr) -> None:
        self._tile_call("tilezero", ("i8", str(s.attrs["tile"])))

    def op_tile_load(self, s: Instr) -> None:
        row = str(s.attrs["row_bytes"])
        self._tile_call("tileloadd64", ("i8", str(s.attrs["tile"])), ("ptr", self.ref(s.args[0])), ("i64", row))

    def op_tile_store(self, s: Instr) -> None:
        row = str(s.attrs["row_bytes"])
        self._tile_call("tilestored64", ("i8", str(s.attrs["tile"])), ("ptr", self.ref(s.args[0])), ("i64", row))

    def op_tile_dot(self, s: Instr) -> None:
        self._tile_call("tdpbf16ps", *(("i8", str(s.attrs[k])) for k in "cab"))

    def op_tile_round(self, s: Instr) -> str:
        v = s.args[0]
        text, lanes = self.ref(v), v.lanes
        if self.target.has("avx512bf16"):
            short = self.ins(f"fptrunc {self.vty(v)} {text} to <{lanes} x bfloat>")
            return self.ins(f"bitcast <{lanes} x bfloat> {short} to <{lanes} x i16>")
        # The instruction reads subnormal numbers as zero.
        size = self.unary("abs", dtypes.float32, lanes, text)
        tiny = self.ins(f"fcmp olt {self.vty(v)} {size}, {self.literal(dtypes.float32, 2.0**-126, lanes)}")
        bits = self.narrow(text, dtypes.bfloat16, lanes)[0]
        zero = self.literal(dtypes.uint16, 0, lanes)
        return self.ins(f"select <{lanes} x i1> {tiny}, <{lanes} x i16> {zero}, <{lanes} x i16> {bits}")

    def op_pair_dot(self, s: Instr) -> str:
        c, a, b = (self.ref(v) for v in s.args)
        lanes, kind = s.args[0].lanes, self.vty(s.args[0])
        if self.target.has("avx512bf16") and lanes == 16:
            pairs = [self.ins(f"bitcast <16 x i32> {v} to <32 x bfloat>") for v in (a, b)]
            operands = [(kind, c), *(("<32 x bfloat>", v) for v in pairs)]
            return self.call("llvm.x86.avx512bf16.dpbf16ps.512", kind, operands)
        places, high = self.literal(dtypes.int32, 16, lanes), self.literal(dtypes.int32, -(1 << 16), lanes)
        for half in (f"and <{lanes} x i32> %s, {high}", f"shl <{lanes} x i32> %s, {places}"):
            x, y = (self.ins(f"bitcast <{lanes} x i32> {self.ins(half % v)} to {kind}") for v in (a, b))
            c = self.call(f"llvm.fmuladd.{suffix(dtypes.float32, lanes)}", kind, [(kind, x), (kind, y), (kind, c)])
        return c

    # -- arithmetic ---------------------------------------------------------------------------------
    def arithmetic(self, s: Instr) -> str:
        first = next(a for a in s.args if isinstance(a, Val))
        dtype, lanes, ty = first.dtype, first.lanes, self.vty(first)
        args = [self.ref(a) for a in s.args]
        if s.op in _FCMP and s.dst is not None and s.dst.dtype is dtypes.bool_ and len(args) == 2:
            if dtype.kind == "f":
                return self.ins(f"fcmp {_FCMP[s.op]} {ty} {args[0]}, {args[1]}")
            sign = "" if s.op in ("eq", "ne") else ("s" if dtype.kind == "i" else "u")
            return self.ins(f"icmp {sign}{_ICMP[s.op]} {ty} {args[0]}, {args[1]}")
        if len(args) == 2:
            return self.binary(s.op, dtype, lanes, args[0], args[1])
        if s.op == "fma":
            if dtype.kind != "f":
                return self.binary("add", dtype, lanes, self.binary("mul", dtype, lanes, args[0], args[1]), args[2])
            return self.call(f"llvm.fmuladd.{suffix(dtype, lanes)}", ty, [(ty, a) for a in args])
        if len(args) == 1:
            return self.unary(s.op, dtype, lanes, args[0])
        raise ValueError(f"loop IR: no emission for {s.op} with {len(args)} operands")
