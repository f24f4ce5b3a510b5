"""Tile kernels in tests: targets, nodes laid out for tiles, and an independent model of the unit's arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ingot.codegen.host import host_target, target_named
from ingot.codegen.lower.contraction_tiles import weight_layout
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.graph import Graph, Node
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
