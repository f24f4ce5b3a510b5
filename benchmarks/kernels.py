"""Contraction kernels on one thread: GFLOP/s and share of the FMA rate measured in the same process.

python -m ingot.benchmarks.kernels [filter]      (or: python benchmarks/kernels.py [filter])
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

import numpy as np
from ingot.codegen.assemble import assemble, assembly_text
from ingot.codegen.host import host_target
from ingot.codegen.layouts import layout_choices
from ingot.codegen.llvm_emit import emit
from ingot.codegen.loopir import LoopBuilder, LoopFunction
from ingot.codegen.lower.contraction import lower_contraction
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.graph import Graph, Node
from ingot.ir.plan import KernelImage
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from ingot.runtime.code import CodeMap

_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def load(fn: LoopFunction, target: Target) -> tuple[Callable[..., None], CodeMap]:
    code, entry = assemble(emit(fn), target, fn.name)
    image = CodeMap({"k": KernelImage("k", code, entry)})
    return _SIGNATURE(image.address("k")), image


def aligned(nbytes: int) -> np.ndarray:
    raw = np.zeros(nbytes + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    return raw[start : start + nbytes]


class FmaLoop:
    """The rate of independent FMAs: what no kernel can exceed."""

    def __init__(self, target: Target) -> None:
        b = LoopBuilder("peak", target)
        out = b.buffer("out", dtypes.float32)
        lanes, sums = target.lanes(dtypes.float32), 12
        x = b.load(out, 0, lanes)
        done = b.loop(
            b.begin,
            b.end,
            lambda i, *v: [b.op("fma", x, x, a) for a in v],
            carry=[b.load(out, lanes * k, lanes) for k in range(sums)],
        )
        for k, v in enumerate(done):
            b.store(out, v, lanes * k)
        self.call, self.image = load(b.finish(), target)
        self.memory = aligned(lanes * sums * 4)
        self.args = np.array([self.memory.ctypes.data], np.int64)
        self.flops = 2.0 * lanes * sums

    def rate(self, iterations: int = 40000) -> float:
        start = time.thread_time_ns()
        self.call(self.args.ctypes.data, 0, iterations, 0)
        return self.flops * iterations / (time.thread_time_ns() - start)


def conv(n: int, c: int, o: int, size: int, k: int, stride: int = 1, groups: int = 1) -> Node:
    g = Graph("conv")
    x = g.add_input(TensorType(dtypes.float32, (n, c, size, size)), "x")
    w = g.add_input(TensorType(dtypes.float32, (o, c // groups, k, k)), "w")
    pad = ((k // 2, k // 2),) * 2
    node = GraphBuilder(g).emit("conv", [x, w], stride=(stride,) * 2, padding=pad, dilation=(1, 1), groups=groups)
    return node


def matmul(m: int, n: int, k: int, transpose_b: bool = False) -> Node:
    g = Graph("matmul")
    a = g.add_input(TensorType(dtypes.float32, (m, k)), "a")
    b = g.add_input(TensorType(dtypes.float32, (n, k) if transpose_b else (k, n)), "b", role="parameter")
    return GraphBuilder(g).emit("matmul", [a, b], transpose_b=transpose_b)


def gradient(op: str, n: int, c: int, o: int, size: int, k: int, stride: int = 1, groups: int = 1) -> Node:
    g = Graph(op)
    out = (size - 1) // stride + 1
    x = TensorType(dtypes.float32, (n, c, size, size))
    dy = g.add_input(TensorType(dtypes.float32, (n, o, out, out)), "dy")
    attrs = {"stride": (stride,) * 2, "padding": ((k // 2, k // 2),) * 2, "dilation": (1, 1), "groups": groups}
    if op == "conv_transpose":
        w = g.add_input(TensorType(dtypes.float32, (o, c // groups, k, k)), "w")
        extra = size - ((out - 1) * stride + k - 2 * (k // 2))
        return GraphBuilder(g).emit(op, [dy, w], output_padding=(extra, extra), **attrs)
    return GraphBuilder(g).emit(op, [g.add_input(x, "x"), dy], kernel=(k, k), **attrs)


CASES: dict[str, Callable[[], Node]] = {
    "conv 3x3 64 @56": lambda: conv(1, 64, 64, 56, 3),
    "conv 3x3 128 @28": lambda: conv(1, 128, 128, 28, 3),
    "conv 3x3 256 @14": lambda: conv(1, 256, 256, 14, 3),
    "conv 3x3 512 @7": lambda: conv(1, 512, 512, 7, 3),
    "conv 1x1 256>64 @56": lambda: conv(1, 256, 64, 56, 1),
    "conv 1x1 64>256 @56": lambda: conv(1, 64, 256, 56, 1),
    "conv 1x1 1024>256 @14": lambda: conv(1, 1024, 256, 14, 1),
    "conv 3x3/2 128 @56": lambda: conv(1, 128, 128, 56, 3, 2),
    "conv 3x3 16 @32": lambda: conv(1, 16, 16, 32, 3),
    "stem 7x7/2 3>64 @224": lambda: conv(1, 3, 64, 224, 7, 2),
    "depthwise 3x3 96 @112": lambda: conv(1, 96, 96, 112, 3, 1, 96),
    "depthwise 3x3 960 @7": lambda: conv(1, 960, 960, 7, 3, 1, 960),
    "matmul 128x1536x384": lambda: matmul(128, 1536, 384),
    "matmul 128x384x1536": lambda: matmul(128, 384, 1536, True),
    "matmul 1024^3": lambda: matmul(1024, 1024, 1024),
    "linear 1x512x512": lambda: matmul(1, 512, 512, True),
    "linear 1x1000x2048": lambda: matmul(1, 1000, 2048, True),
    "linear 16x4096x4096": lambda: matmul(16, 4096, 4096, True),
    "input grad 3x3 64 @56": lambda: gradient("conv_transpose", 1, 64, 64, 56, 3),
    "input grad 3x3/2 128 @28": lambda: gradient("conv_transpose", 1, 128, 128, 28, 3, 2),
    "weight grad 3x3 64 @56 x4": lambda: gradient("conv_weight_grad", 4, 64, 64, 56, 3),
    "weight grad 3x3 16 @32 x32": lambda: gradient("conv_weight_grad", 32, 16, 16, 32, 3),
    "weight grad 1x1 256>64 @14 x4": lambda: gradient("conv_weight_grad", 4, 256, 64, 14, 1),
    "weight grad stem 7x7/2 @112 x2": lambda: gradient("conv_weight_grad", 2, 3, 64, 112, 7, 2),
    "weight grad depthwise 3x3 96 @28 x4": lambda: gradient("conv_weight_grad", 4, 96, 96, 28, 3, 1, 96),
}


def measure(name: str, node: Node, target: Target, peak: FmaLoop, choice: int = 0) -> str:
    pick = layout_choices(node, target)[choice]
    for v, layout in zip([*node.inputs, *node.outputs], [*pick.inputs, *pick.outputs], strict=True):
        v.type = v.type.with_layout(layout)
    kernel = lower_contraction(node, target)
    began = time.perf_counter()
    call, _image = load(kernel.function, target)
    compiled = time.perf_counter() - began
    memory = [aligned(int(v.type.nbytes)) for v in kernel.values]  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for m in memory:
        m.view(np.float32)[:] = rng.standard_normal(m.nbytes // 4)
    args = np.array([m.ctypes.data for m in memory], np.int64)
    scratch = aligned(kernel.function.scratch_bytes + 64)
    trip = int(kernel.trip)  # type: ignore[arg-type]
    repeat = max(1, int(2e-3 / max(kernel.flops / 1e11, kernel.bytes / 2e10)))
    rates, peaks = [], []
    for _ in range(20):
        peaks.append(peak.rate())
        start = time.thread_time_ns()
        for _ in range(repeat):
            call(args.ctypes.data, 0, trip, scratch.ctypes.data)
        rates.append(repeat * kernel.flops / (time.thread_time_ns() - start))
    rate, top = float(np.percentile(rates, 90)), float(np.percentile(peaks, 90))
    text = emit(kernel.function)
    asm = assembly_text(text, target)
    spills = sum("(%rsp)" in line and ("zmm" in line or "ymm" in line or "xmm" in line) for line in asm.splitlines())
    seconds = kernel.flops / rate / 1e9
    return (
        f"{name:24} {rate:7.1f} GFLOP/s {100 * rate / top:4.0f}% of {top:.0f}  {seconds * 1e6:8.1f} us "
        f"{kernel.bytes / seconds / 1e9:6.1f} GB/s  {text.count(chr(10)):5} lines "
        f"{compiled * 1e3:4.0f} ms  {spills:3} spills\n"
        f"    {kernel.schedule}; trip {kernel.trip}, grain {kernel.grain}"
    )


def main() -> None:
    target = host_target()
    peak = FmaLoop(target)
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    choice = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(f"{target.name}: FMA loop {max(peak.rate() for _ in range(20)):.0f} GFLOP/s")
    for name, make in CASES.items():
        if wanted in name:
            print(measure(name, make(), target, peak, choice), flush=True)


if __name__ == "__main__":
    main()
