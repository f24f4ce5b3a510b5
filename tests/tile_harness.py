"""Tile kernels in tests: targets, nodes laid out for tiles, how they run, and a model of the unit's arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from contraction_harness import random_arrays, run_kernel
from ingot.codegen.host import host_target, target_named
from ingot.codegen.lower.contraction_tiles import weight_layout
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.graph import Graph, Node
from ingot.ir.interpreter import eval_node
from ingot.ir.layout import Layout
from ingot.ir.target import TILE_EMULATION, Target
from ingot.ir.types import TensorType

SMALLEST = np.float32(2.0**-126)
ERRORS = {1: 4e-3, 2: 1e-5, 3: 1e-6}  # relative L2 that each number of parts promises (ir.layout.FORMS)


def emulated_target() -> Target:
    """Tiles spelled out for this machine's own vectors, which is faster than for the portable target."""
    machine = host_target()
    if machine.vector_bytes < 64:
        return target_named("x86-64-amx-emulated")
    machine = replace(machine.without_tiles(), l1_bytes=48 << 10, l2_bytes=2 << 20)
    return replace(machine, features=tuple(sorted((*machine.features, TILE_EMULATION))))


def emulated_dots() -> Target:
    """A machine whose dot products of vectors are spelled out, for any CPU with AVX2."""
    portable = target_named("x86-64-amx-emulated")
    features = tuple(f for f in portable.features if f != TILE_EMULATION)
    return replace(portable, name="x86-64-dots-emulated", features=features, bf16_dot=2.0)


def dot_target() -> Target:
    """This machine if it has fast dot products, else one that spells them out."""
    machine = host_target().without_tiles()
    if machine.vector_bytes == 64 and machine.has("avx512bf16"):
        return replace(machine, bf16_dot=2.0)  # not all are fast, but all are right
    return emulated_dots()


def conv(x: tuple[object, ...], w: tuple[int, ...], **attrs: object) -> Node:
    rank = len(w) - 2
    given = {"stride": [1] * rank, "padding": [(0, 0)] * rank, "dilation": [1] * rank, "groups": 1, **attrs}
    g = Graph("conv")
    values = [g.add_input(TensorType(dtypes.float32, tuple(s)), n) for n, s in (("x", x), ("w", w))]
    return GraphBuilder(g).emit("conv", values, **given)


def matmul(a: tuple[object, ...], b: tuple[int, ...], transpose_b: bool = False) -> Node:
    g = Graph("matmul")
    values = [g.add_input(TensorType(dtypes.float32, tuple(s)), n) for n, s in (("a", a), ("b", b))]
    return GraphBuilder(g).emit("matmul", values, transpose_b=transpose_b)


def on_tiles(node: Node, parts: int) -> Node:
    """``node`` with the layouts that its tile kernel wants."""
    layout = weight_layout(node, parts)
    assert layout is not None
    weight = node.inputs[1]
    weight.type = weight.type.with_layout(layout)
    if node.op == "conv":
        padding = node.attrs["padding"]
        halo = ((0, 0), (0, 0), *padding) if any(p != (0, 0) for p in padding) else ()
        x = node.inputs[0]
        x.type = x.type.with_layout(Layout(blocks=((1, 16),), halo=halo))
        node.output.type = node.output.type.with_layout(Layout(blocks=((1, 16),)))
    return node


def run_on_tiles(
    node: Node, parts: int, seed: int, env: dict[str, int] | None = None, target: Target | None = None
) -> float:
    """The error of the kernel in guarded buffers, which is checked against what the parts promise."""
    rng = np.random.default_rng(seed)
    arrays = random_arrays(node, rng, env)
    wanted = eval_node(node, [a.astype(np.float64) for a in arrays.values()], env or {}, float64=True)[0]
    on_tiles(node, parts)
    got = run_kernel(node, arrays, target or emulated_target(), env)[0]
    error = relative(got, wanted)
    few = 2 if node.inputs[1].type.elements < 100 else 1  # few roundings, whose errors do not average
    assert error <= ERRORS[parts] * few, f"seed {seed}: {node!r}: relative error {error}"
    return error


def generated_conv(rng: np.random.Generator) -> Node:
    """A convolution of random sizes, strides, dilations and padding."""
    kernel, stride, dilation = ([int(e) for e in rng.integers(1, top, 2)] for top in (4, 4, 3))
    padding = [(int(a), int(b)) for a, b in rng.integers(0, 3, (2, 2))]
    c, o = (int(e) for e in rng.choice([1, 5, 16, 31, 32, 33, 50, 64, 70], 2))
    size = [int(e) + d * (k - 1) + 1 for e, d, k in zip(rng.integers(0, 20, 2), dilation, kernel, strict=True)]
    attrs = {"padding": padding, "stride": stride, "dilation": dilation}
    return conv((int(rng.integers(1, 4)), c, *size), (o, c, *kernel), **attrs)


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 error."""
    return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-30))


def flushed(x: np.ndarray) -> np.ndarray:
    """Subnormal numbers as zeros of their sign."""
    return np.where(np.abs(x) < SMALLEST, np.copysign(np.float32(0), x), x).astype(np.float32)


def model_dot(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``c + a @ b`` as the unit computes it. a [M, K], b [K, N]: float32 values of bfloat16; c [M, N] float32.

    Products of bfloat16 are exact in float64, and so is their sum with a float32 in all but far-apart cases, where the
    double rounding cannot be seen in the tests' numbers.
    """
    a, b = flushed(a), flushed(b)
    sums = [np.zeros(c.shape, np.float32) for _ in range(2)]
    for k in range(a.shape[1]):
        exact = a[:, k, None].astype(np.float64) * b[k].astype(np.float64) + sums[k % 2].astype(np.float64)
        sums[k % 2] = flushed(exact.astype(np.float32))
    return flushed(flushed(c) + flushed(sums[0] + sums[1]))


MATRICES = [
    ((64, 64), (64, 64)), ((1, 100), (100, 40)), ((49, 33), (33, 17)), ((130, 70), (70, 96)), ((3, 5, 48), (48, 33)),
    ((33, 1), (1, 3)),
]  # fmt: skip
CONVOLUTIONS = [
    ((3, 32, 8, 10), (32, 32, 3, 3), {"padding": [(1, 1), (1, 1)]}),
    ((2, 20, 9, 11), (40, 20, 3, 3), {"padding": [(1, 1), (0, 2)], "stride": [2, 2]}),
    ((2, 64, 7, 7), (48, 64, 1, 1), {}),
    ((2, 48, 14, 16), (33, 48, 1, 1), {"stride": [2, 2]}),
    ((1, 17, 13, 15), (16, 17, 3, 3), {"padding": [(2, 2), (2, 2)], "dilation": [2, 2]}),
    ((2, 16, 11, 13), (16, 16, 5, 5), {"padding": [(2, 2), (2, 2)], "stride": [3, 2], "dilation": [2, 1]}),
    ((1, 3, 10, 12), (8, 3, 7, 7), {"padding": [(3, 3), (3, 3)], "stride": [2, 2]}),
    ((2, 40, 25), (24, 40, 3), {"padding": [(1, 1)]}),
    ((3, 16, 2, 4), (50, 16, 1, 2), {"padding": [(2, 1), (0, 0)], "stride": [2, 2], "dilation": [2, 2]}),
    ((1, 18, 4, 6, 5), (20, 18, 2, 3, 3), {"padding": [(1, 0), (1, 1), (1, 1)], "stride": [2, 1, 1]}),
]
