"""Hand-written tiny programs in LLVM IR, for tests of the assembler, the executor and the runtime."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from ingot.codegen.assemble import assemble
from ingot.codegen.executor_ir import executor_ir
from ingot.codegen.host import host_target
from ingot.ir import abi
from ingot.ir.dims import Dim, Extent
from ingot.ir.dtypes import DType, float32, int64
from ingot.ir.plan import BufferRef, KernelImage, Port, Program, Step
from ingot.ir.types import TensorType


def loop_ir(name: str, body: str, *, pointers: int, extents: int = 0, declare: str = "") -> str:
    """A kernel that runs ``body`` for each i in [begin, end); ``%p0..`` are buffers, ``%x0..`` extents."""
    loads = []
    for n in range(pointers):
        loads += [f"  %s{n} = getelementptr i64, ptr %args, i64 {n}", f"  %p{n} = load ptr, ptr %s{n}"]
    for n in range(extents):
        loads += [f"  %e{n} = getelementptr i64, ptr %args, i64 {pointers + n}", f"  %x{n} = load i64, ptr %e{n}"]
    head = "\n".join(loads)
    return f"""{declare}
define void @{name}(ptr %args, i64 %begin, i64 %end, ptr %scratch) nounwind {{
entry:
{head}
  br label %loop
loop:
  %i = phi i64 [%begin, %entry], [%i1, %next]
  %more = icmp slt i64 %i, %end
  br i1 %more, label %body, label %exit
body:
{body}
  br label %next
next:
  %i1 = add i64 %i, 1
  br label %loop
exit:
  ret void
}}
"""


# y[i] = x[i] * 2 + c[i % 4], through scratch
SCALE = loop_ir(
    "scale",
    """  %px = getelementptr float, ptr %p0, i64 %i
  %x = load float, ptr %px
  %k = and i64 %i, 3
  %pc = getelementptr float, ptr %p1, i64 %k
  %c = load float, ptr %pc
  %d = fmul float %x, 2.0
  store float %d, ptr %scratch
  %d2 = load volatile float, ptr %scratch
  %y = fadd float %d2, %c
  %py = getelementptr float, ptr %p2, i64 %i
  store float %y, ptr %py""",
    pointers=3,
)

# y[r] = sum of the x0 columns of row r
ROWSUM = loop_ir(
    "rowsum",
    """  %base = mul i64 %i, %x0
  br label %inner
inner:
  %j = phi i64 [0, %body], [%j1, %add]
  %sum = phi float [0.0, %body], [%sum1, %add]
  %go = icmp slt i64 %j, %x0
  br i1 %go, label %add, label %store
add:
  %at = add i64 %base, %j
  %px = getelementptr float, ptr %p0, i64 %at
  %v = load float, ptr %px
  %sum1 = fadd float %sum, %v
  %j1 = add i64 %j, 1
  br label %inner
store:
  %py = getelementptr float, ptr %p1, i64 %i
  store float %sum, ptr %py""",
    pointers=2,
    extents=1,
)

# counter[i] += 1
COUNT = loop_ir(
    "count",
    """  %pc = getelementptr i64, ptr %p0, i64 %i
  %c = load i64, ptr %pc
  %c1 = add i64 %c, 1
  store i64 %c1, ptr %pc""",
    pointers=1,
)


@functools.cache
def image(name: str, ir: str) -> KernelImage:
    code, entry = assemble(ir, host_target(), name)
    return KernelImage(name, code, entry)


@functools.cache
def executor_image() -> KernelImage:
    code, entry = assemble(executor_ir(host_target()), host_target(), abi.EXECUTOR)
    return KernelImage(abi.EXECUTOR, code, entry)


def port(name: str, *shape: Extent, dtype: DType = float32, role: str = "input", updates: int = -1) -> Port:
    return Port(name, TensorType(dtype, tuple(shape)), role, updates)


def program(
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    steps: Sequence[Step],
    sources: dict[str, str],
    constants: Sequence[np.ndarray] = (),
    **fields: object,
) -> Program:
    target = host_target()
    kernels = {name: image(name, ir) for name, ir in sources.items()}
    return Program(
        "test", list(inputs), list(outputs), list(constants), [f"c{i}" for i in range(len(constants))], list(steps),
        kernels | {abi.EXECUTOR: executor_image()}, target_name=target.name, target_features=target.features, **fields,
    )  # fmt: skip


def scale_rowsum(columns: int = 8, dim: Dim | None = None, grain: int = 1) -> Program:
    """x [N, columns] -> row sums of 2 * x + c: two steps with an arena buffer between them."""
    n: Extent = (dim or Dim("N", 1, 64)).expr
    upper = dim.max if dim is not None and dim.max else 64
    arena = [BufferRef("arena", 64)] if dim is None or dim.max else [BufferRef("dynamic", 0)]
    steps = [
        Step("scale", (BufferRef("input", 0), BufferRef("constant", 0), *arena), (), n * columns, grain, 64, "scale"),
        Step("rowsum", (*arena, BufferRef("output", 0)), (columns,), n, grain, 0, "rowsum"),
    ]
    return program(
        [port("x", n, columns)],
        [port("y", n)],
        steps,
        {"scale": SCALE, "rowsum": ROWSUM},
        [np.arange(4, dtype=np.float32)],
        symbols={"N": dim or Dim("N", 1, 64)},
        arena_bytes=64 + 4 * upper * columns,
        dynamic=[n * columns * 4] if arena[0].kind == "dynamic" else [],
    )


def expected_rowsum(x: np.ndarray) -> np.ndarray:
    """Summed in the kernel's order, so equal to the bit."""
    y = x * np.float32(2) + np.resize(np.arange(4, dtype=np.float32), x.shape[1])
    total = np.zeros(len(x), np.float32)
    for j in range(x.shape[1]):
        total = total + y[:, j]
    return total


def counter_program(size: int, grain: int = 1) -> Program:
    """Adds 1 to every element of its int64 input, in place."""
    steps = [Step("count", (BufferRef("output", 0),), (), size, grain, 0, "count")]
    return program(
        [port("state", size, dtype=int64, role="state")], [port("state", size, dtype=int64, updates=0)], steps,
        {"count": COUNT},
    )  # fmt: skip
