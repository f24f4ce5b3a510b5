"""Contraction kernels on one thread: GFLOP/s and share of the FMA rate measured in the same process.

    python benchmarks/kernels.py [filter]                      single operators
    python benchmarks/kernels.py filter --forms                in every layout and form that float32 or -fast admits
    python benchmarks/kernels.py --models all --batch 1 16     every distinct contraction kernel of the benchmark models

The kernels of a model are those that ``ingot.compile`` makes, epilogues included, listed by lost time: time in the
model times what is missing to the FMA rate. Kernel and FMA loop take turns, a fifth of a millisecond for the kernel.
A slice counts if the FMA loop ran at its full rate before and after it (a neighbour on the same core halves both);
while it does not, only the loop runs. A kernel's time is the sum of the 10th percentiles of its slices; it is
compared with the loop's 90th percentile. ``~``: too few slices counted, so all do.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ingot.codegen.assemble import assemble, assembly_text
from ingot.codegen.host import host_target
from ingot.codegen.layouts import layout_choices
from ingot.codegen.llvm_emit import emit
from ingot.codegen.loopir import LoopBuilder, LoopFunction
from ingot.codegen.lower import table
from ingot.codegen.lower.contraction import CONTRACTIONS
from ingot.codegen.lower.kernel import LoweredKernel
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.graph import Graph, Node
from ingot.ir.kernels import PRECISIONS
from ingot.ir.plan import KernelImage
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from ingot.runtime.code import CodeMap
from ingot.runtime.memory import allocate

sys.path.insert(0, str(Path(__file__).parent))

SLICE = 2e-4  # seconds of a kernel between two looks at the FMA rate
QUIET = 0.94  # share of the full FMA rate at which nobody disturbs
_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def load(fn: LoopFunction, target: Target) -> tuple[Callable[..., None], CodeMap]:
    code, entry = assemble(emit(fn), target, fn.name)
    image = CodeMap({"k": KernelImage("k", code, entry)})
    return _SIGNATURE(image.address("k")), image


class FmaLoop:
    """The rate of independent FMAs: what no kernel can exceed; ``dots``: of bfloat16 dot products instead."""

    def __init__(self, target: Target, dots: bool = False) -> None:
        b = LoopBuilder("peak", target)
        out = b.buffer("out", dtypes.float32)
        lanes, sums = target.lanes(dtypes.float32), 12
        x = b.load(out, 0, lanes)
        pairs = b.bitcast(x, dtypes.int32)
        done = b.loop(
            b.begin,
            b.end,
            lambda i, *v: [b.pair_dot(a, pairs, pairs) if dots else b.op("fma", x, x, a) for a in v],
            carry=[b.load(out, lanes * k, lanes) for k in range(sums)],
        )
        for k, v in enumerate(done):
            b.store(out, v, lanes * k)
        self.call, self.image = load(b.finish(), target)
        self.memory = allocate(lanes * sums * 4, 4096)
        self.memory[:] = 0
        self.args = np.array([self.memory.ctypes.data], np.int64)
        self.flops = 2.0 * lanes * sums * (2 if dots else 1)
        self.overhead = min(self.run(1) for _ in range(1000))
        self.recent: list[float] = []
        self.top = 0.0  # the full rate at present: it moves with the clock
        for _ in range(5000):
            self.rate()

    def run(self, iterations: int) -> int:
        start = time.perf_counter_ns()
        self.call(self.args.ctypes.data, 0, iterations, 0)
        return time.perf_counter_ns() - start

    def rate(self, iterations: int = 12000) -> float:
        """GFLOP/s of one short run."""
        found = self.flops * iterations / (self.run(iterations) - self.overhead)
        self.recent.append(found)
        if len(self.recent) % 5000 == 0:
            self.recent = self.recent[-40000:]
            self.top = float(np.percentile(self.recent, 99.5))
        return found

    def quiet(self, deadline: float) -> float:
        """Wait until the loop runs at its full rate, which it then returns; 0 if that is not before ``deadline``."""
        while time.monotonic() < deadline:
            found = self.rate()
            if found > QUIET * self.top:
                return found
        return 0.0


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


def upconv(n: int, c: int, o: int, size: int, k: int, stride: int = 2, pad: int = 0, extra: int = 0) -> Node:
    """A transposed convolution as decoders use it: c channels at size x size to o channels at about twice that."""
    g = Graph("conv_transpose")
    x = g.add_input(TensorType(dtypes.float32, (n, c, size, size)), "x")
    w = g.add_input(TensorType(dtypes.float32, (c, o, k, k)), "w")
    return GraphBuilder(g).emit(
        "conv_transpose", [x, w], stride=(stride,) * 2, padding=((pad, pad),) * 2, dilation=(1, 1), groups=1,
        output_padding=(extra, extra),
    )  # fmt: skip


CASES: dict[str, Callable[[], Node]] = {
    "conv 3x3 64 @56": lambda: conv(1, 64, 64, 56, 3),
    "conv 3x3 128 @28": lambda: conv(1, 128, 128, 28, 3),
    "conv 3x3 256 @14": lambda: conv(1, 256, 256, 14, 3),
    "conv 3x3 512 @7": lambda: conv(1, 512, 512, 7, 3),
    "conv 1x1 256>64 @56": lambda: conv(1, 256, 64, 56, 1),
    "conv 1x1 64>256 @56": lambda: conv(1, 64, 256, 56, 1),
    "conv 1x1 1024>256 @14": lambda: conv(1, 1024, 256, 14, 1),
    "conv 3x3/2 128 @56": lambda: conv(1, 128, 128, 56, 3, 2),
    "filter 64>64 @56 b8": lambda: conv(8, 64, 64, 56, 3),
    "filter 64>32 @256": lambda: conv(1, 64, 32, 256, 3),
    "filter 128>128 @112": lambda: conv(1, 128, 128, 112, 3),
    "filter 256>256 @14 b16": lambda: conv(16, 256, 256, 14, 3),
    "filter 512>512 @7": lambda: conv(1, 512, 512, 7, 3),
    "filter 512>512 @7 b16": lambda: conv(16, 512, 512, 7, 3),
    "filter/2 64>128 @56 b8": lambda: conv(8, 64, 128, 56, 3, 2),
    "filter/2 128>256 @28": lambda: conv(1, 128, 256, 28, 3, 2),
    "filter/2 128>256 @28 b8": lambda: conv(8, 128, 256, 28, 3, 2),
    "filter/2 256>512 @14 b16": lambda: conv(16, 256, 512, 14, 3, 2),
    "conv 3x3 16 @32": lambda: conv(1, 16, 16, 32, 3),
    "few 5x5 1>6 @28 b64": lambda: conv(64, 1, 6, 28, 5),
    "few 3x3 3>8 @32 b16": lambda: conv(16, 3, 8, 32, 3),
    "few 3x3/2 3>8 @224": lambda: conv(1, 3, 8, 224, 3, 2),
    "few 3x3 3>16 @32": lambda: conv(1, 3, 16, 32, 3),
    "stem 7x7/2 3>64 @224": lambda: conv(1, 3, 64, 224, 7, 2),
    "depthwise 3x3 96 @112": lambda: conv(1, 96, 96, 112, 3, 1, 96),
    "depthwise 3x3 960 @7": lambda: conv(1, 960, 960, 7, 3, 1, 960),
    "matmul 128x1536x384": lambda: matmul(128, 1536, 384),
    "matmul 64x768x192": lambda: matmul(64, 768, 192),
    "matmul 128x384x1536": lambda: matmul(128, 384, 1536, True),
    "matmul 2048x1536x384": lambda: matmul(2048, 1536, 384, True),
    "matmul 2048x384x1536": lambda: matmul(2048, 384, 1536, True),
    "matmul 64x512x784": lambda: matmul(64, 512, 784, True),
    "matmul 1024^3": lambda: matmul(1024, 1024, 1024),
    "linear 1x512x512": lambda: matmul(1, 512, 512, True),
    "linear 1x1000x2048": lambda: matmul(1, 1000, 2048, True),
    "linear 1x4096x4096": lambda: matmul(1, 4096, 4096, True),
    "linear 4x4096x4096": lambda: matmul(4, 4096, 4096, True),
    "linear 16x4096x4096": lambda: matmul(16, 4096, 4096, True),
    "input grad 3x3 64 @56": lambda: gradient("conv_transpose", 1, 64, 64, 56, 3),
    "input grad 3x3/2 128 @28": lambda: gradient("conv_transpose", 1, 128, 128, 28, 3, 2),
    "upconv 2x2/2 64>32 @128": lambda: upconv(1, 64, 32, 128, 2),
    "upconv 2x2/2 256>128 @32": lambda: upconv(1, 256, 128, 32, 2),
    "upconv 4x4/2 512>256 @8": lambda: upconv(1, 512, 256, 8, 4, 2, 1),
    "upconv 4x4/2 128>64 @32": lambda: upconv(1, 128, 64, 32, 4, 2, 1),
    "upconv 4x4/2 64>3 @32": lambda: upconv(1, 64, 3, 32, 4, 2, 1),
    "upconv 3x3/2 128>64 @32": lambda: upconv(1, 128, 64, 32, 3, 2, 1, 1),
    "upconv 7x7/4 32>16 @16": lambda: upconv(1, 32, 16, 16, 7, 4, 3, 3),
    "weight grad 3x3 64 @56 x4": lambda: gradient("conv_weight_grad", 4, 64, 64, 56, 3),
    "weight grad 3x3 16 @32 x32": lambda: gradient("conv_weight_grad", 32, 16, 16, 32, 3),
    "weight grad 1x1 256>64 @14 x4": lambda: gradient("conv_weight_grad", 4, 256, 64, 14, 1),
    "weight grad stem 7x7/2 @112 x2": lambda: gradient("conv_weight_grad", 2, 3, 64, 112, 7, 2),
    "weight grad depthwise 3x3 96 @28 x4": lambda: gradient("conv_weight_grad", 4, 96, 96, 28, 3, 1, 96),
}


@dataclass
class Result:
    """One kernel: estimates in operations and bytes, measurements in seconds and GFLOP/s."""

    name: str
    flops: float
    bytes: float
    seconds: float
    peak: float
    sure: bool
    spills: int
    lines: int
    compile_seconds: float
    schedule: str
    trip: int
    count: int = 1  # how often the model runs it

    @property
    def rate(self) -> float:
        return self.flops / self.seconds / 1e9

    @property
    def share(self) -> float:
        return self.rate / self.peak

    @property
    def lost(self) -> float:
        """Seconds per call of the model that the FMA rate would save."""
        return self.count * self.seconds * (1 - self.share)

    def row(self) -> str:
        return (
            f"{self.name:44} {self.count:3} x {self.seconds * 1e6:9.1f} us {self.rate:7.1f} GFLOP/s "
            f"{'~' if not self.sure else ' '}{100 * self.share:3.0f}% {self.bytes / self.seconds / 1e9:6.1f} GB/s "
            f"lost {self.lost * 1e6:9.1f} us {self.spills:3} spills {self.lines:5} lines "
            f"{self.compile_seconds * 1e3:4.0f} ms"
        )


def sample(call: Callable[[int, int], None], trip: int, peak: FmaLoop, seconds: float) -> tuple[float, float, bool]:
    """(seconds of ``call(0, trip)``, GFLOP/s of the FMA loop meanwhile, whether enough slices were undisturbed)."""
    start = time.perf_counter()
    call(0, trip)
    guess = max(time.perf_counter() - start, 1e-7)
    repeat = max(1, int(SLICE / guess))
    slices = max(1, min(trip, int(guess / SLICE)))
    cuts = [trip * i // slices for i in range(slices + 1)]
    # Slices differ (the last block of rows is often smaller), so each has its own samples.
    times: list[list[float]] = [[] for _ in range(slices)]
    peaks: list[float] = []
    at, deadline, wanted = 0, time.monotonic() + seconds, max(6 * slices, 60)

    def once() -> tuple[int, float]:
        nonlocal at
        this, at = at, (at + 1) % slices
        start = time.perf_counter()
        for _ in range(repeat):
            call(cuts[this], cuts[this + 1])
        return this, (time.perf_counter() - start) / repeat

    while len(peaks) < wanted and (before := peak.quiet(deadline)):
        once()  # while waiting the caches went cold
        while True:
            (this, spent), after = once(), peak.rate()
            if after <= QUIET * peak.top:
                break
            times[this].append(spent)
            peaks.append(min(before, after))
            if len(peaks) >= wanted:
                break
            before = after
    sure = min(len(t) for t in times) >= 2 and len(peaks) >= 8
    if not sure:
        for _ in range(3 * slices + 50):
            this, spent = once()
            times[this].append(spent)
            peaks.append(peak.rate())
    return sum(float(np.percentile(t, 10)) for t in times), float(np.percentile(peaks, 90)), sure


def measure(name: str, kernel: LoweredKernel, target: Target, peak: FmaLoop, seconds: float) -> Result:
    """Compile and time one kernel on random operands in huge pages, as the arena has them."""
    began = time.perf_counter()
    call, _image = load(kernel.function, target)
    compiled = time.perf_counter() - began
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1 << 16).astype(np.float32)
    memory = [allocate(int(v.type.nbytes), 4096) for v in kernel.values]  # type: ignore[arg-type]
    for m in memory:
        values = m.view(np.float32)
        for i in range(0, values.size, noise.size):
            values[i : i + noise.size] = noise[: values.size - i]
    args = np.array([m.ctypes.data for m in memory], np.int64)
    scratch = allocate(kernel.function.scratch_bytes + 64, 64)
    trip = int(kernel.trip)  # type: ignore[arg-type]
    where, room = args.ctypes.data, scratch.ctypes.data
    spent, top, sure = sample(lambda low, high: call(where, low, high, room), trip, peak, seconds)
    text = emit(kernel.function)
    asm = assembly_text(text, target)
    spills = sum("(%rsp)" in line and ("zmm" in line or "ymm" in line or "xmm" in line) for line in asm.splitlines())
    return Result(
        name, kernel.flops, kernel.bytes, spent, top, sure, spills, text.count("\n"), compiled, kernel.schedule, trip
    )


def with_choice(node: Node, target: Target, choice: int, precision: str = "float32") -> Node:
    """``node`` in the layouts of its ``choice``-th layout choice."""
    pick = layout_choices(node, target, precision)[choice]
    for v, layout in zip([*node.inputs, *node.outputs], [*pick.inputs, *pick.outputs], strict=True):
        v.type = v.type.with_layout(layout)
    return node


def compare_forms(name: str, make: Callable[[], Node], target: Target, peak: FmaLoop, seconds: float) -> None:
    """An operator in every choice of float32 and float32-fast but all-dense, best estimate first."""
    found = [
        (choice, precision, i)
        for precision in ("float32", "float32-fast")
        for i, choice in enumerate(layout_choices(make(), target, precision))
        if not all(layout.is_dense for layout in choice.inputs)
    ]
    different = {(c.inputs, c.outputs): (c, precision, i) for c, precision, i in reversed(found)}
    for choice, precision, i in sorted(different.values(), key=lambda f: f[0].cost):
        kernel = table.lower(with_choice(make(), target, i, precision), target)
        measured = measure(name, kernel, target, peak, seconds)
        core, form = make(), next((x.form for x in choice.inputs if x.form), "direct")
        terms = core.inputs[0].shape[-1:] if core.op == "matmul" else core.inputs[1].shape[1:]
        products = int(np.prod(core.output.shape)) * int(np.prod(terms))
        print(
            f"{name:26} {form:18} {measured.seconds * 1e6:9.1f} us (estimate {choice.cost * 1e6:9.1f}), effective "
            f"{2e-9 * products / measured.seconds:6.1f} GFLOP/s, {'~' if not measured.sure else ' '}"
            f"{2e-7 * products / measured.seconds / measured.peak:3.0f}% of the FMA rate",
            flush=True,
        )


# -- the kernels of a model -----------------------------------------------------------------------------
def core_of(node: Node) -> Node | None:
    """The contraction of a node or fused group, None if it has none."""
    inside = node.regions[0] if node.regions else [node]
    return next((n for n in inside if n.op in CONTRACTIONS), None)


def describe(node: Node, core: Node) -> str:
    """Shapes and epilogue in one short text."""
    out = core.output.shape
    if core.op == "matmul":
        a, b = (v.shape for v in core.inputs)
        k = a[-2] if core.attrs["transpose_a"] else a[-1]
        text = f"matmul {'x'.join(map(str, out[:-1]))} x {out[-1]} x {k}" + (" (batched B)" if len(b) > 2 else "")
    else:
        w = core.inputs[1].shape
        kernel = "x".join(map(str, w[2:]))
        groups = core.attrs["groups"]
        kind = "depthwise" if groups > 1 and w[1] == 1 else core.op
        stride = "" if all(s == 1 for s in core.attrs["stride"]) else f"/{core.attrs['stride'][0]}"
        text = f"{kind} {kernel}{stride} {core.inputs[0].shape[1]}>{out[1]} @{'x'.join(map(str, out[2:]))} b{out[0]}"
    rest = (
        [n.op for n in node.regions[0] if n is not core and n.op not in ("constant", "reshape")] if node.regions else []
    )
    return text + (" +" + "+".join(rest) if len(rest) < 4 else f" +{len(rest)} ops")


def model_nodes(name: str, batch: int) -> dict[str, tuple[Node, Node, int]]:
    """Distinct contraction kernels of a compiled benchmark model: signature -> (node, contraction, how often)."""
    from ingot import driver
    from ingot.program import signature
    from models import MODELS

    factory, shape, _ = MODELS[name]
    graph = driver.trace_inference(factory().eval(), [driver.InputSpec((batch, *shape), dtypes.float32)]).graph
    driver.optimise(graph, driver.Options(verify=False))
    outputs, found = graph.output_set(), {}
    for node in graph:
        core = core_of(node)
        if core is not None:
            key = signature(node, outputs)
            found[key] = (node, core, found[key][2] + 1 if key in found else 1)
    return found


def report(results: list[Result], schedules: bool) -> None:
    """Rows by lost time, then the sum."""
    for r in sorted(results, key=lambda r: -r.lost):
        print(r.row())
        if schedules:
            print(f"    {r.schedule}; trip {r.trip}")
    total = sum(r.count * r.seconds for r in results)
    ideal = sum(r.count * r.seconds * r.share for r in results)
    print(f"all: {total * 1e3:.3f} ms, {100 * ideal / max(total, 1e-12):.0f}% of the FMA rate", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="?", default="", help="part of the name of an operator or kernel")
    parser.add_argument("--models", nargs="+", help="names from benchmarks/models.py, or all")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="batch sizes (with --models)")
    parser.add_argument("--choice", type=int, default=0, help="layout choice of single operators, best first")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="of single operators")
    parser.add_argument("--forms", action="store_true", help="single operators in every admitted form")
    parser.add_argument("--seconds", type=float, default=3.0, help="longest time per kernel")
    parser.add_argument("--depthwise", action="store_true", help="list depthwise convolutions of models too")
    parser.add_argument("--brief", action="store_true", help="no schedules")
    parser.add_argument("--json", type=Path, help="add the results to this file, one object per line")
    args = parser.parse_args()
    target = host_target()
    peak = FmaLoop(target)
    print(f"{target.name}: FMA loop {max(peak.rate() for _ in range(5000)):.0f} GFLOP/s")
    if target.has("avx512bf16"):
        dots = FmaLoop(target, dots=True)
        ratio = np.median([dots.rate() / peak.rate() for _ in range(5000)])
        print(f"bfloat16 dot products: {dots.top:.0f} GFLOP/s, {ratio:.2f} times the rate of FMAs in turns")
    if not args.models:
        for name, make in CASES.items():
            if args.filter in name and args.forms:
                compare_forms(name, make, target, peak, args.seconds)
            elif args.filter in name:
                kernel = table.lower(with_choice(make(), target, args.choice, args.precision), target)
                found = measure(name, kernel, target, peak, args.seconds)
                print(found.row())
                if not args.brief:
                    print(f"    {found.schedule}; trip {found.trip}", flush=True)
        return
    from models import MODELS

    for model in MODELS if args.models == ["all"] else args.models:
        for batch in args.batch:
            print(f"\n{model}, batch {batch}", flush=True)
            results = []
            for node, core, count in model_nodes(model, batch).values():
                name = describe(node, core)
                if args.filter in name and (args.depthwise or "depthwise" not in name):
                    found = measure(name, table.lower(node, target), target, peak, args.seconds)
                    found.count = count
                    results.append(found)
                    if args.json:
                        with args.json.open("a") as f:
                            facts = {"model": model, "batch": batch, "rate": found.rate, "share": found.share}
                            f.write(json.dumps({**facts, **asdict(found)}) + "\n")
            report(results, not args.brief)


if __name__ == "__main__":
    main()
