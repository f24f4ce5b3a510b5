"""Loop IR to LLVM IR text.

Vector code is explicit already, so no optimisation pipeline runs behind this; what matters is that nothing
emitted here makes LLVM call a library function (kernels import nothing). Operations that LLVM would turn
into calls on a plain target (rounding without SSE4.1, half floats without F16C, fma without FMA) are
expanded to arithmetic.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir.dtypes import DType
from .loopir import If, Instr, Loop, LoopFunction, Val

_SCALARS = {
    "float64": "double", "float32": "float", "int64": "i64", "uint64": "i64", "int32": "i32", "uint32": "i32",
    "int16": "i16", "uint16": "i16", "int8": "i8", "uint8": "i8", "bool": "i1",
    "float16": "half", "bfloat16": "i16",
}  # fmt: skip
_ICMP = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}
_FCMP = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "uno": "uno"}


def emit(fn: LoopFunction) -> str:
    """LLVM IR of one kernel: a module with the single function ``fn.name``."""
    return _Emitter(fn).module()


def float_literal(value: float, dtype: DType) -> str:
    """LLVM's exact hexadecimal spelling of a float constant (double bits, also for ``float``)."""
    if dtype is dtypes.float32:
        value = float(np.float32(value))
    return "0x" + struct.pack(">d", value).hex().upper()


class _Emitter:
    def __init__(self, fn: LoopFunction) -> None:
        self.fn = fn
        self.target = fn.target
        self.lines: list[str] = []
        self.declared: dict[str, str] = {}
        self.names: dict[int, str] = {}
        self.block = "entry"
        self.counter = 0

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
        features = ",".join(f"+{f}" for f in self.target.features)
        attrs = (
            f'attributes #0 = {{ nounwind "prefer-vector-width"="{width}" "min-legal-vector-width"="{width}" '
            f'"no-builtins" "target-cpu"="{self.target.cpu}" "target-features"="{features}" }}'
        )
        head = f"define void @{fn.name}(ptr %args, i64 %begin, i64 %end, ptr %scratch) #0 {{"
        return "\n".join(
            [f'target triple = "{self.target.triple}"', *self.declared.values(), head, "entry:", *body, "}", attrs, ""]
        )

    def fresh(self) -> str:
        self.counter += 1
        return f"%t{self.counter}"

    def label(self, stem: str) -> str:
        self.counter += 1
        return f"{stem}{self.counter}"

    def ins(self, text: str) -> str:
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return name

    def open_block(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def declare(self, signature: str, name: str) -> None:
        self.declared.setdefault(name, f"declare {signature}")

    def ty(self, dtype: DType, lanes: int) -> str:
        scalar = _SCALARS[dtype.name]
        return scalar if lanes == 1 else f"<{lanes} x {scalar}>"

    def vty(self, v: Val) -> str:
        return "ptr" if v.pointer else self.ty(v.dtype, v.lanes)

    def ref(self, v: Any) -> str:
        return str(v) if isinstance(v, int) else self.names[v.id]

    def literal(self, dtype: DType, value: Any, lanes: int) -> str:
        if dtype.kind == "f":
            text = float_literal(float(value), dtype)
        elif dtype is dtypes.bool_:
            text = "true" if value else "false"
        else:
            text = str(int(value))
        if lanes == 1:
            return text
        scalar = _SCALARS[dtype.name]
        return "<" + ", ".join([f"{scalar} {text}"] * lanes) + ">"

    def splat_text(self, scalar: str, dtype_text: str, lanes: int) -> str:
        v = self.ins(f"insertelement <{lanes} x {dtype_text}> poison, {dtype_text} {scalar}, i64 0")
        return self.ins(f"shufflevector <{lanes} x {dtype_text}> {v}, <{lanes} x {dtype_text}> poison, <{lanes} x i32> zeroinitializer")

    def call(self, name: str, ret: str, args: list[tuple[str, str]]) -> str:
        self.declare(f"{ret} @{name}({', '.join(t for t, _ in args)})", name)
        return self.ins(f"call {ret} @{name}({', '.join(f'{t} {v}' for t, v in args)})")

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
                self.names[r.id] = self.ins(f"phi {self.vty(r)} [{self.ref(init)}, %{before}], [{self.ref(y)}, %{last}]")

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
        if handler is not None:
            result = handler(s)
        else:
            result = self.arithmetic(s)
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
        rw = 1 if s.attrs["write"] else 0
        self.lines.append(f"  call void @llvm.prefetch.p0(ptr {self.ref(s.args[0])}, i32 {rw}, i32 3, i32 1)")

    def _memory_type(self, dtype: DType) -> str:
        if dtype is dtypes.bool_:
            return "i8"
        if dtype is dtypes.float16:
            return "half" if self._hardware_half else "i16"
        return _SCALARS[dtype.name]

    @property
    def _hardware_half(self) -> bool:
        return self.target.has("f16c") or not self.target.is_x86

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
        scalar = self._memory_type(ptr.dtype)
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
                name = f"llvm.masked.load.v{lanes}{_mangle(scalar)}.p0"
                raw = self.call(
                    name, mem, [("ptr", base), ("i32", str(align)), (f"<{lanes} x i1>", mask), (mem, "zeroinitializer")]
                )
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
            name = f"llvm.masked.gather.v{lanes}{_mangle(scalar)}.v{lanes}p0"
            raw = self.call(
                name, mem,
                [(f"<{lanes} x ptr>", ptrs), ("i32", str(align)), (f"<{lanes} x i1>", mask), (mem, "zeroinitializer")],
            )  # fmt: skip
        return self._widen(raw, ptr.dtype, lanes, mem)

    def _guarded_scalar_load(self, base: str, ptr: Val, scalar: str, align: int, mask: str) -> str:
        then, after, before = self.label("then"), self.label("after"), self.block
        self.lines.append(f"  br i1 {mask}, label %{then}, label %{after}")
        self.open_block(then)
        raw = self.ins(f"load {scalar}, ptr {base}, align {align}")
        self.lines.append(f"  br label %{after}")
        self.open_block(after)
        zero = "0.0" if scalar in ("float", "double", "half") else "0"
        joined = self.ins(f"phi {scalar} [{raw}, %{then}], [{zero}, %{before}]")
        return self._widen(joined, ptr.dtype, 1, scalar)

    def _widen(self, raw: str, dtype: DType, lanes: int, mem: str) -> str:
        if dtype is dtypes.bool_:
            return self.ins(f"icmp ne {mem} {raw}, {self.literal(dtypes.int8, 0, lanes)}")
        if dtype is dtypes.bfloat16:
            wide = self.ty(dtypes.int32, lanes)
            bits = self.ins(f"shl {wide} {self.ins(f'zext {mem} {raw} to {wide}')}, {self.literal(dtypes.int32, 16, lanes)}")
            return self.ins(f"bitcast {wide} {bits} to {self.ty(dtypes.float32, lanes)}")
        if dtype is dtypes.float16:
            if self._hardware_half:
                return self.ins(f"fpext {mem} {raw} to {self.ty(dtypes.float32, lanes)}")
            return self._half_to_float(raw, lanes, mem)
        return raw

    def _half_to_float(self, raw: str, lanes: int, mem: str) -> str:
        i32, f32 = self.ty(dtypes.int32, lanes), self.ty(dtypes.float32, lanes)

        def c(x: int) -> str:
            return self.literal(dtypes.int32, x, lanes)

        h = self.ins(f"zext {mem} {raw} to {i32}")
        magnitude = self.ins(f"shl {i32} {self.ins(f'and {i32} {h}, {c(0x7FFF)}')}, {c(13)}")
        scaled = self.ins(
            f"fmul {f32} {self.ins(f'bitcast {i32} {magnitude} to {f32}')}, {self.literal(dtypes.float32, 2.0**112, lanes)}"
        )
        special = self.ins(f"icmp uge {i32} {magnitude}, {c(0x7C00 << 13)}")
        inf_nan = self.ins(f"or {i32} {magnitude}, {c(0x7F800000)}")
        bits = self.ins(
            f"select {self.ty(dtypes.bool_, lanes)} {special}, {i32} {inf_nan}, {i32} {self.ins(f'bitcast {f32} {scaled} to {i32}')}"
        )
        sign = self.ins(f"shl {i32} {self.ins(f'and {i32} {h}, {c(0x8000)}')}, {c(16)}")
        return self.ins(f"bitcast {i32} {self.ins(f'or {i32} {bits}, {sign}')} to {f32}")

    def _narrow(self, value: str, dtype: DType, lanes: int) -> tuple[str, str]:
        """The value as it is stored, and its LLVM type."""
        scalar = self._memory_type(dtype)
        mem = scalar if lanes == 1 else f"<{lanes} x {scalar}>"
        if dtype is dtypes.bool_:
            return self.ins(f"zext {self.ty(dtype, lanes)} {value} to {mem}"), mem
        if dtype is dtypes.bfloat16:
            return self._bfloat_bits(value, lanes), mem
        if dtype is dtypes.float16:
            if self._hardware_half:
                return self.ins(f"fptrunc {self.ty(dtypes.float32, lanes)} {value} to {mem}"), mem
            return self._half_bits(value, lanes), mem
        return value, mem

    def _bfloat_bits(self, value: str, lanes: int) -> str:
        i32, f32 = self.ty(dtypes.int32, lanes), self.ty(dtypes.float32, lanes)

        def c(x: int) -> str:
            return self.literal(dtypes.int32, x, lanes)

        bits = self.ins(f"bitcast {f32} {value} to {i32}")
        odd = self.ins(f"and {i32} {self.ins(f'lshr {i32} {bits}, {c(16)}')}, {c(1)}")
        rounded = self.ins(f"add {i32} {self.ins(f'add {i32} {bits}, {odd}')}, {c(0x7FFF)}")
        nan = self.ins(f"fcmp uno {f32} {value}, {value}")
        quiet = self.ins(f"or {i32} {bits}, {c(0x400000)}")
        kept = self.ins(f"select {self.ty(dtypes.bool_, lanes)} {nan}, {i32} {quiet}, {i32} {rounded}")
        return self.ins(f"trunc {i32} {self.ins(f'lshr {i32} {kept}, {c(16)}')} to {self.ty(dtypes.int16, lanes)}")

    def _half_bits(self, value: str, lanes: int) -> str:
        i32, f32, i1 = self.ty(dtypes.int32, lanes), self.ty(dtypes.float32, lanes), self.ty(dtypes.bool_, lanes)

        def c(x: int) -> str:
            return self.literal(dtypes.int32, x, lanes)

        def i(text: str) -> str:
            return self.ins(text)

        bits = i(f"bitcast {f32} {value} to {i32}")
        sign = i(f"and {i32} {bits}, {c(-(1 << 31))}")
        mag = i(f"xor {i32} {bits}, {sign}")
        # Normal results: rebias the exponent and round to even on the 13 dropped bits.
        odd = i(f"and {i32} {i(f'lshr {i32} {mag}, {c(13)}')}, {c(1)}")
        biased = i(f"add {i32} {i(f'add {i32} {mag}, {odd}')}, {c(0xFFF - (112 << 23))}")
        normal = i(f"lshr {i32} {biased}, {c(13)}")
        # Subnormal results: adding 0.5 lets the FPU shift and round.
        shifted = i(f"fadd {f32} {i(f'bitcast {i32} {mag} to {f32}')}, {self.literal(dtypes.float32, 0.5, lanes)}")
        tiny = i(f"sub {i32} {i(f'bitcast {f32} {shifted} to {i32}')}, {c(0x3F000000)}")
        is_tiny = i(f"icmp ult {i32} {mag}, {c(113 << 23)}")
        out = i(f"select {i1} {is_tiny}, {i32} {tiny}, {i32} {normal}")
        too_big = i(f"icmp uge {i32} {mag}, {c(143 << 23)}")
        nan = i(f"icmp ugt {i32} {mag}, {c(0x7F800000)}")
        special = i(f"select {i1} {nan}, {i32} {c(0x7E00)}, {i32} {c(0x7C00)}")
        out = i(f"select {i1} {too_big}, {i32} {special}, {i32} {out}")
        out = i(f"or {i32} {out}, {i(f'lshr {i32} {sign}, {c(16)}')}")
        return i(f"trunc {i32} {out} to {self.ty(dtypes.int16, lanes)}")

    def op_store(self, s: Instr) -> None:
        ptr, offset, stride, value, *rest = s.args
        mask = self.ref(rest[0]) if rest else None
        lanes, align = value.lanes, ptr.dtype.itemsize
        text, mem = self._narrow(self.ref(value), ptr.dtype, lanes)
        base = self._pointer(ptr, offset)
        scalar = self._memory_type(ptr.dtype)
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
                name = f"llvm.masked.store.v{lanes}{_mangle(scalar)}.p0"
                self._call_void(name, [(mem, text), ("ptr", base), ("i32", str(align)), (f"<{lanes} x i1>", mask)])
        elif mask is None:
            for k in range(lanes):
                x = self.ins(f"extractelement {mem} {text}, i64 {k}")
                if isinstance(stride, int):
                    p = self.ins(f"getelementptr inbounds i8, ptr {base}, i64 {k * stride * align}")
                else:
                    p = self.ins(f"getelementptr inbounds i8, ptr {base}, i64 {self.ins(f'mul i64 {self.ref(stride)}, {k * align}')}")
                self.lines.append(f"  store {scalar} {x}, ptr {p}, align {align}")
        else:
            ptrs = self._lane_pointers(base, ptr, stride, lanes)
            name = f"llvm.masked.scatter.v{lanes}{_mangle(scalar)}.v{lanes}p0"
            self._call_void(
                name, [(mem, text), (f"<{lanes} x ptr>", ptrs), ("i32", str(align)), (f"<{lanes} x i1>", mask)]
            )

    def op_gather(self, s: Instr) -> str:
        assert s.dst is not None
        ptr, offsets, *rest = s.args
        lanes, scalar = s.dst.lanes, self._memory_type(ptr.dtype)
        align, mem = ptr.dtype.itemsize, f"<{s.dst.lanes} x {scalar}>"
        unit = f"i{align * 8}"
        ptrs = self.ins(f"getelementptr {unit}, ptr {self.ref(ptr)}, <{lanes} x i64> {self.ref(offsets)}")
        if rest:
            name = f"llvm.masked.gather.v{lanes}{_mangle(scalar)}.v{lanes}p0"
            raw = self.call(
                name, mem,
                [(f"<{lanes} x ptr>", ptrs), ("i32", str(align)), (f"<{lanes} x i1>", self.ref(rest[0])), (mem, "zeroinitializer")],
            )  # fmt: skip
            return self._widen(raw, ptr.dtype, lanes, mem)
        raw = "poison"
        for k in range(lanes):
            p = self.ins(f"extractelement <{lanes} x ptr> {ptrs}, i64 {k}")
            x = self.ins(f"load {scalar}, ptr {p}, align {align}")
            raw = self.ins(f"insertelement {mem} {raw}, {scalar} {x}, i64 {k}")
        return self._widen(raw, ptr.dtype, lanes, mem)

    def op_scatter(self, s: Instr) -> None:
        ptr, offsets, value, *rest = s.args
        lanes, scalar, align = value.lanes, self._memory_type(ptr.dtype), ptr.dtype.itemsize
        text, mem = self._narrow(self.ref(value), ptr.dtype, lanes)
        ptrs = self.ins(f"getelementptr i{align * 8}, ptr {self.ref(ptr)}, <{lanes} x i64> {self.ref(offsets)}")
        mask = self.ref(rest[0]) if rest else self.literal(dtypes.bool_, True, lanes)
        name = f"llvm.masked.scatter.v{lanes}{_mangle(scalar)}.v{lanes}p0"
        self._call_void(name, [(mem, text), (f"<{lanes} x ptr>", ptrs), ("i32", str(align)), (f"<{lanes} x i1>", mask)])

    def _call_void(self, name: str, args: list[tuple[str, str]]) -> None:
        self.declare(f"void @{name}({', '.join(t for t, _ in args)})", name)
        self.lines.append(f"  call void @{name}({', '.join(f'{t} {v}' for t, v in args)})")

    def op_splat(self, s: Instr) -> str:
        assert s.dst is not None
        return self.splat_text(self.ref(s.args[0]), _SCALARS[s.dst.dtype.name], s.dst.lanes)

    def op_iota(self, s: Instr) -> str:
        assert s.dst is not None
        scalar = _SCALARS[s.dst.dtype.name]
        items = (self.literal(s.dst.dtype, k, 1) for k in range(s.dst.lanes))
        return "<" + ", ".join(f"{scalar} {x}" for x in items) + ">" if s.dst.lanes > 1 else self.literal(s.dst.dtype, 0, 1)

    def op_extract(self, s: Instr) -> str:
        return self.ins(f"extractelement {self.vty(s.args[0])} {self.ref(s.args[0])}, i64 {s.attrs['lane']}")

    def op_horizontal(self, s: Instr) -> str:
        v, fold = s.args[0], s.attrs["fold"]
        text, lanes, scalar = self.ref(v), v.lanes, _SCALARS[v.dtype.name]
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
        text, mem = self._narrow(self.ref(v), to, v.lanes)
        return self._widen(text, to, v.lanes, mem)

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
            return self.call(f"llvm.fmuladd.{_suffix(dtype, lanes)}", ty, [(ty, a) for a in args])
        if len(args) == 1:
            return self.unary(s.op, dtype, lanes, args[0])
        raise ValueError(f"loop IR: no emission for {s.op} with {len(args)} operands")

    def binary(self, op: str, dtype: DType, lanes: int, a: str, b: str) -> str:
        ty = self.ty(dtype, lanes)
        if op in ("and", "or", "xor", "shl", "lshr", "ashr"):
            if dtype.kind == "f":
                raise TypeError(f"loop IR: {op} on {dtype.name}")
            return self.ins(f"{op} {ty} {a}, {b}")
        if dtype.kind == "f":
            if op in ("min", "max"):
                c = self.ins(f"fcmp {'olt' if op == 'min' else 'ogt'} {ty} {a}, {b}")
                return self.ins(f"select {self.ty(dtypes.bool_, lanes)} {c}, {ty} {a}, {ty} {b}")
            if op == "copysign":
                return self._copysign(dtype, lanes, a, b)
            verb = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}[op]
            return self.ins(f"{verb} {ty} {a}, {b}")
        sign = "s" if dtype.kind == "i" else "u"
        if op in ("min", "max"):
            c = self.ins(f"icmp {sign}{'lt' if op == 'min' else 'gt'} {ty} {a}, {b}")
            return self.ins(f"select {self.ty(dtypes.bool_, lanes)} {c}, {ty} {a}, {ty} {b}")
        verb = {"add": "add", "sub": "sub", "mul": "mul", "div": f"{sign}div", "rem": f"{sign}rem"}[op]
        return self.ins(f"{verb} {ty} {a}, {b}")

    def _copysign(self, dtype: DType, lanes: int, a: str, b: str) -> str:
        ty = self.ty(dtype, lanes)
        ints = dtypes.int32 if dtype.bits == 32 else dtypes.int64
        ity, top = self.ty(ints, lanes), -(1 << (dtype.bits - 1))
        mag = self.ins(f"and {ity} {self.ins(f'bitcast {ty} {a} to {ity}')}, {self.literal(ints, ~top, lanes)}")
        sgn = self.ins(f"and {ity} {self.ins(f'bitcast {ty} {b} to {ity}')}, {self.literal(ints, top, lanes)}")
        return self.ins(f"bitcast {ity} {self.ins(f'or {ity} {mag}, {sgn}')} to {ty}")

    def unary(self, op: str, dtype: DType, lanes: int, a: str) -> str:
        ty = self.ty(dtype, lanes)
        if op == "neg":
            return self.ins(f"fneg {ty} {a}") if dtype.kind == "f" else self.ins(f"sub {ty} {self.literal(dtype, 0, lanes)}, {a}")
        if op == "not":
            ones = self.literal(dtype, True if dtype is dtypes.bool_ else -1, lanes)
            return self.ins(f"xor {ty} {a}, {ones}")
        if op == "abs":
            if dtype.kind == "f":
                return self.call(f"llvm.fabs.{_suffix(dtype, lanes)}", ty, [(ty, a)])
            return self.binary("max", dtype, lanes, a, self.unary("neg", dtype, lanes, a)) if dtype.kind == "i" else a
        if op == "sqrt":
            return self.call(f"llvm.sqrt.{_suffix(dtype, lanes)}", ty, [(ty, a)])
        if op in ("floor", "ceil", "trunc", "roundeven"):
            if not self.target.is_x86 or self.target.has("sse4.1"):
                return self.call(f"llvm.{op}.{_suffix(dtype, lanes)}", ty, [(ty, a)])
            return self._round(op, dtype, lanes, a)
        raise ValueError(f"loop IR: no emission for {op}")

    def _round(self, op: str, dtype: DType, lanes: int, a: str) -> str:
        """Rounding by adding and subtracting 2**mantissa; larger magnitudes are integers already."""
        ty, i1 = self.ty(dtype, lanes), self.ty(dtypes.bool_, lanes)
        big = self.literal(dtype, math.ldexp(1.0, 23 if dtype.bits == 32 else 52), lanes)
        one = self.literal(dtype, 1.0, lanes)
        magnitude = self.unary("abs", dtype, lanes, a)
        near = self.ins(f"fsub {ty} {self.ins(f'fadd {ty} {magnitude}, {big}')}, {big}")
        small = self.ins(f"fcmp olt {ty} {magnitude}, {big}")
        if op == "trunc":
            over = self.ins(f"fcmp ogt {ty} {near}, {magnitude}")
            near = self.ins(f"select {i1} {over}, {ty} {self.ins(f'fsub {ty} {near}, {one}')}, {ty} {near}")
        signed = self._copysign(dtype, lanes, near, a)
        if op == "floor":
            over = self.ins(f"fcmp ogt {ty} {signed}, {a}")
            signed = self.ins(f"select {i1} {over}, {ty} {self.ins(f'fsub {ty} {signed}, {one}')}, {ty} {signed}")
        if op == "ceil":
            under = self.ins(f"fcmp olt {ty} {signed}, {a}")
            signed = self.ins(f"select {i1} {under}, {ty} {self.ins(f'fadd {ty} {signed}, {one}')}, {ty} {signed}")
        if op in ("floor", "ceil"):
            signed = self._copysign(dtype, lanes, signed, a)
        return self.ins(f"select {i1} {small}, {ty} {signed}, {ty} {a}")


def _mangle(scalar: str) -> str:
    return {"float": "f32", "double": "f64", "half": "f16"}.get(scalar, scalar)


def _suffix(dtype: DType, lanes: int) -> str:
    base = f"f{dtype.bits}" if dtype.kind == "f" else f"i{dtype.bits}"
    return base if lanes == 1 else f"v{lanes}{base}"
