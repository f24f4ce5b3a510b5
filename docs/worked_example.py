"""Writes docs/worked-example.md: one small network, printed after every stage of the compiler.

    python docs/worked_example.py

The target is fixed (``x86-64-avx2``), so the page is the same on every machine; ``tests/test_docs.py`` checks that
it is current and ``pytest tests/test_docs.py --update-golden`` rewrites it.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import ingot as torch
from ingot import nn
from ingot.codegen.library import NativeKernels
from ingot.codegen.llvm_emit import emit
from ingot.codegen.lower.kernel import LoweredKernel
from ingot.codegen.lower.table import lower
from ingot.driver import Options, build, trace_inference
from ingot.ir.graph import Graph
from ingot.ir.plan import BufferRef, Program, Step
from ingot.passes.manager import PassContext, PassManager, PassRecord
from ingot.passes.pipeline import standard
from ingot.passes.schedule_updates import is_alias

PAGE = Path(__file__).with_name("worked-example.md")
TARGET = "x86-64-avx2"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = nn.functional.max_pool2d(x, 2)
        return self.fc(torch.flatten(x, 1))


COMPILE = """

exe = torch.compile(Net(), torch.zeros(1, 3, 8, 8), dynamic=torch.Dim("N", 1, 64), target="x86-64-avx2")
"""


def traced() -> Graph:
    """The graph as recorded, with the statistics of a network that has seen data."""
    torch.manual_seed(0)
    net = Net()
    net.bn.running_mean.copy_(torch.randn(16))
    net.bn.running_var.copy_(torch.rand(16) + 0.5)
    return trace_inference(net, [torch.zeros(1, 3, 8, 8)], dynamic=torch.Dim("N", 1, 64)).graph


def stages(graph: Graph, options: Options) -> tuple[dict[str, str], list[PassRecord], list[str]]:
    """(graph after each pass by name, what each pass did, log); ``graph`` is optimised in place."""
    target = options.resolve_target()
    context = PassContext(target, NativeKernels(target))
    after: dict[str, str] = {}
    records: list[PassRecord] = []
    for step in standard():
        records += PassManager([step]).run(graph, context)
        if records[-1].rewrites:
            after[step.name] = str(graph)
    return after, records, [str(entry) for entry in context.log]


def excerpt(text: str, start: int, count: int) -> str:
    """``count`` lines from ``start`` on, with a mark where something was left out."""
    lines = text.splitlines()
    shown = lines[start : start + count]
    return "\n".join((["..."] if start else []) + shown + (["..."] if start + count < len(lines) else []))


def first_line(text: str, needle: str) -> int:
    return next(i for i, line in enumerate(text.splitlines()) if needle in line and not line.startswith("declare"))


def reference(ref: BufferRef) -> str:
    return f"arena+{ref.index}" if ref.kind == "arena" else f"{ref.kind} {ref.index}"


def step_table(program: Program) -> str:
    def row(i: int, s: Step) -> str:
        return f"{i}  {s.label:24}  {', '.join(map(reference, s.buffers)):48}  trip {s.trip}"

    return "\n".join(row(i, s).rstrip() for i, s in enumerate(program.steps))


def buffers(program: Program) -> str:
    """One line per arena buffer: where it lies and between which steps it lives."""
    seen: dict[int, list[int]] = {}
    for i, s in enumerate(program.steps):
        for ref in s.buffers:
            if ref.kind == "arena":
                seen.setdefault(ref.index, []).append(i)
    lines = [f"arena+{at:<8} used by steps {', '.join(map(str, steps))}" for at, steps in sorted(seen.items())]
    memory = program.memory
    lines.append(
        f"\narena {memory.arena} bytes, live peak {memory.lower_bound} (efficiency {memory.efficiency:.4f}); "
        f"without sharing {memory.intermediates}"
    )
    return "\n".join(lines)


def clean(text: str) -> str:
    """No paths of the machine that the page was made on."""
    return text.replace(str(Path(__file__).parent.parent) + "/", "")


def page() -> str:
    options = Options(target=TARGET, cache=False)
    graph = traced()
    recorded, original = str(graph), graph.clone()[0]
    after, records, log = stages(graph, options)
    program = build(original, options)
    kernels: list[LoweredKernel] = [
        lower(n, options.resolve_target()) for n in graph if n.op != "constant" and not is_alias(n)
    ]
    conv = next(k for k in kernels if k.schedule.startswith("conv"))
    loops, llvm = str(conv.function), emit(conv.function)
    passes = "\n".join(
        f"{r.name:22} {r.rewrites:3} rewrites  {r.nodes_before:3} -> {r.nodes_after:3} nodes" for r in records
    )
    parts = [
        "# Worked example\n\n"
        "<!-- Written by docs/worked_example.py; do not edit. -->\n\n"
        "One small network after every stage of the compiler. The text below is printed by "
        "[worked_example.py](worked_example.py). [architecture.md](architecture.md) explains the stages.\n\n"
        f"```python\n{inspect.getsource(Net)}{COMPILE}```\n\n"
        "You can print the same for a network of yours: `ingot inspect` (see [debugging.md](debugging.md)).",
        section(
            "1. Traced graph",
            "`forward` ran once on symbolic tensors. Every operator became a node; the comment behind a node is its "
            "module path and source line. Weights are constants because `compile` froze them; large arrays are shown "
            "by name. `N` is the declared batch size: shapes are arithmetic on it. There is no bias operand: bias is "
            "a `reshape` and an `add`.",
            recorded,
        ),
        section(
            "2. Passes",
            "Each pass reports its rewrites. A pass that changed nothing costs no verification. The log says which "
            "rule fired where (refusals are in it too, with the reason).",
            passes + "\n\n" + "\n".join(log),
        ),
        section(
            "3. After fold-batch-norm",
            "The batch norm went into the weights and the bias of the convolution: `bn(conv(x, w) + b) = "
            "conv(x, w * s) + (b * s + t)`. The arithmetic ran at compile time, in float64, rounded once.",
            after["fold-batch-norm"],
        ),
        section(
            "4. After assign-layout",
            "Types now carry a layout behind the `@`. `blocks=1:8`: axis 1 (channels) is cut into blocks of 8 that "
            "lie innermost. `halo=...1:1,1:1`: a border of one zero pixel around the image, so that the convolution "
            "needs no test at the edges. `layout_cast` is the identity on values; it moves data between layouts. "
            "The weights were only relabelled: they are packed at compile time. The logical shapes did not change.",
            after["assign-layout"],
        ),
        section(
            "5. After fusion",
            "`fused` nodes hold a region: an ordinary graph that the interpreter can run. Each remaining node that is "
            "no constant and no `reshape` becomes one kernel.",
            after["fuse-contraction"],
        ),
        section(
            "6. Schedules",
            "One line per kernel: what was chosen, and for contractions why.",
            "\n".join(f"{i}: {k.schedule}" for i, k in enumerate(kernels)),
        ),
        section(
            "7. Loop IR of the fused convolution (beginning)",
            "Structured loops over scalars and vectors, with explicit addresses. `carry` values live in registers: "
            "they are the accumulators of the register tile.",
            excerpt(loops, 0, 40),
        ),
        section(
            "Its epilogue",
            "Bias and ReLU run on the accumulators before the only store of the result.",
            excerpt(loops, max(0, first_line(loops, "store(") - 12), 16),
        ),
        section(
            "8. LLVM IR of the same kernel (entry and inner loop)",
            "The kernel has one signature, calls nothing and has no globals. `args` is the table of addresses "
            "and extents.",
            excerpt(llvm, first_line(llvm, "define"), 12)
            + "\n"
            + excerpt(llvm, max(0, first_line(llvm, "llvm.fmuladd") - 10), 24),
        ),
        section(
            "9. Memory plan",
            "All intermediates share one arena. Offsets are fixed at compile time for the largest batch, 64. An "
            "offset that several steps use one after another holds several buffers in turn. `reshape` is no step: its "
            "result is the same memory. The index result of `max_pool` is not used and gets no memory.",
            buffers(program),
        ),
        section(
            "10. Step table",
            "What the native executor walks: one kernel launch per line, with its buffers and the number of "
            "independent iterations (`trip`) that the threads share.",
            step_table(program),
        ),
    ]
    return clean("\n\n".join(parts) + "\n")


def section(title: str, text: str, printed: str) -> str:
    return f"## {title}\n\n{text}\n\n```text\n{printed.rstrip()}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
