"""LLVM text by the line: names, types, literals, and operations expanded so that LLVM calls no library.

On a plain target LLVM would turn rounding (without SSE4.1), half floats (without F16C) and fma (without FMA) into
calls of functions that kernels do not have; here they become arithmetic.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir.dtypes import DType
from ..ir.target import Target

SCALARS = {
    "float64": "double", "float32": "float", "int64": "i64", "uint64": "i64", "int32": "i32", "uint32": "i32",
    "int16": "i16", "uint16": "i16", "int8": "i8", "uint8": "i8", "bool": "i1",
    "float16": "half", "bfloat16": "i16",
}  # fmt: skip


def float_literal(value: float, dtype: DType) -> str:
    """LLVM's exact hexadecimal spelling of a float constant (double bits, also for ``float``)."""
    if dtype is dtypes.float32:
        value = float(np.float32(value))
    return "0x" + struct.pack(">d", value).hex().upper()


def mangle(scalar: str) -> str:
    return {"float": "f32", "double": "f64", "half": "f16"}.get(scalar, scalar)


def permutation(target: Target, dtype: DType, lanes: int) -> str | None:
    """The intrinsic that permutes the lanes of a register by run-time indices; None: no such instruction."""
    if dtype is dtypes.float32 and target.is_x86:
        if lanes == 16 and target.has("avx512f"):
            return "llvm.x86.avx512.permvar.sf.512"
        if lanes == 8 and target.has("avx2"):
            return "llvm.x86.avx2.permps"
    return None


def suffix(dtype: DType, lanes: int) -> str:
    base = f"f{dtype.bits}" if dtype.kind == "f" else f"i{dtype.bits}"
    return base if lanes == 1 else f"v{lanes}{base}"


class Writer:
    """Lines of one function's body, and what they need: declarations, fresh names, the present block."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.lines: list[str] = []
        self.declared: dict[str, str] = {}
        self.block = "entry"
        self.counter = 0

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
        scalar = SCALARS[dtype.name]
        return scalar if lanes == 1 else f"<{lanes} x {scalar}>"

    def literal(self, dtype: DType, value: Any, lanes: int) -> str:
        if dtype.kind == "f":
            text = float_literal(float(value), dtype)
        elif dtype is dtypes.bool_:
            text = "true" if value else "false"
        else:
            text = str(int(value))
        if lanes == 1:
            return text
        scalar = SCALARS[dtype.name]
        return "<" + ", ".join([f"{scalar} {text}"] * lanes) + ">"

    def splat_text(self, scalar: str, dtype_text: str, lanes: int) -> str:
        v = self.ins(f"insertelement <{lanes} x {dtype_text}> poison, {dtype_text} {scalar}, i64 0")
        kind = f"<{lanes} x {dtype_text}>"
        return self.ins(f"shufflevector {kind} {v}, {kind} poison, <{lanes} x i32> zeroinitializer")

    def call(self, name: str, ret: str, args: list[tuple[str, str]]) -> str:
        self.declare(f"{ret} @{name}({', '.join(t for t, _ in args)})", name)
        return self.ins(f"call {ret} @{name}({', '.join(f'{t} {v}' for t, v in args)})")

    # -- elements in memory -------------------------------------------------------------------------
    def memory_type(self, dtype: DType) -> str:
        if dtype is dtypes.bool_:
            return "i8"
        if dtype is dtypes.float16:
            return "half" if self._hardware_half else "i16"
        return SCALARS[dtype.name]

    @property
    def _hardware_half(self) -> bool:
        return self.target.has("f16c") or not self.target.is_x86

    def widen(self, raw: str, dtype: DType, lanes: int, mem: str) -> str:
        if dtype is dtypes.bool_:
            return self.ins(f"icmp ne {mem} {raw}, {self.literal(dtypes.int8, 0, lanes)}")
        if dtype is dtypes.bfloat16:
            wide = self.ty(dtypes.int32, lanes)
            bits = self.ins(
                f"shl {wide} {self.ins(f'zext {mem} {raw} to {wide}')}, {self.literal(dtypes.int32, 16, lanes)}"
            )
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
        rebias = self.literal(dtypes.float32, 2.0**112, lanes)
        scaled = self.ins(f"fmul {f32} {self.ins(f'bitcast {i32} {magnitude} to {f32}')}, {rebias}")
        special = self.ins(f"icmp uge {i32} {magnitude}, {c(0x7C00 << 13)}")
        inf_nan = self.ins(f"or {i32} {magnitude}, {c(0x7F800000)}")
        usual = self.ins(f"bitcast {f32} {scaled} to {i32}")
        bits = self.ins(f"select {self.ty(dtypes.bool_, lanes)} {special}, {i32} {inf_nan}, {i32} {usual}")
        sign = self.ins(f"shl {i32} {self.ins(f'and {i32} {h}, {c(0x8000)}')}, {c(16)}")
        return self.ins(f"bitcast {i32} {self.ins(f'or {i32} {bits}, {sign}')} to {f32}")

    def narrow(self, value: str, dtype: DType, lanes: int) -> tuple[str, str]:
        """The value as it is stored, and its LLVM type."""
        scalar = self.memory_type(dtype)
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

    # -- arithmetic ---------------------------------------------------------------------------------
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
            return (
                self.ins(f"fneg {ty} {a}")
                if dtype.kind == "f"
                else self.ins(f"sub {ty} {self.literal(dtype, 0, lanes)}, {a}")
            )
        if op == "not":
            ones = self.literal(dtype, True if dtype is dtypes.bool_ else -1, lanes)
            return self.ins(f"xor {ty} {a}, {ones}")
        if op == "abs":
            if dtype.kind == "f":
                return self.call(f"llvm.fabs.{suffix(dtype, lanes)}", ty, [(ty, a)])
            return self.binary("max", dtype, lanes, a, self.unary("neg", dtype, lanes, a)) if dtype.kind == "i" else a
        if op == "sqrt":
            return self.call(f"llvm.sqrt.{suffix(dtype, lanes)}", ty, [(ty, a)])
        if op in ("floor", "ceil", "trunc", "roundeven"):
            if not self.target.is_x86 or self.target.has("sse4.1"):
                return self.call(f"llvm.{op}.{suffix(dtype, lanes)}", ty, [(ty, a)])
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
