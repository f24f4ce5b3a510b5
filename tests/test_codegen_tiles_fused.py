"""Epilogues of kernels on bfloat16 units: bias, activation, residual on the sums, in every layout, halos included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from contraction_harness import random_arrays, run_kernel
from ingot.codegen.host import host_target
from ingot.codegen.lower.contraction import lower_contraction
from ingot.codegen.lower.contraction_tiles import weight_layout
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.graph import Graph, Node, Value
from ingot.ir.interpreter import eval_node
from ingot.ir.layout import DENSE, Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from tile_harness import ERRORS, dot_target, emulated_target, relative

Unit = tuple[Target, int]  # and the parts of its weights
pytestmark = [
    pytest.mark.isa("x86_64"),
    pytest.mark.parametrize("unit", [(emulated_target(), 2), (dot_target(), 1)], ids=["tiles", "dot products"]),
    pytest.mark.skipif(not set(host_target().features) >= {"avx2", "fma"}, reason="needs AVX2"),
]
BLOCKED = Layout(blocks=((1, 16),))
Body = Callable[[GraphBuilder, Value, list[Value]], list[Value]]


def fused(unit: Unit, op: str, shapes: list[tuple[int, ...]], body: Body, **attrs: object) -> Node:
    """``op`` on the first two operands, then ``body(builder, result, the others)``, for ``unit``."""
    region, graph = Graph("region"), Graph("outer")
    types = [TensorType(dtypes.float32, s) for s in shapes]
    inner = [region.add_input(t, f"v{i}") for i, t in enumerate(types)]
    b = GraphBuilder(region)
    core = b.emit(op, inner[:2], **attrs)
    for out in body(b, core.output, inner[2:]):
        region.add_output(out)
    node = create_fused(graph, region, [graph.add_input(t, f"v{i}") for i, t in enumerate(types)], "contraction")
    place(node.inputs[1], weight_layout(core, unit[1]) or DENSE)
    return node


def place(value: Value, layout: Layout) -> None:
    value.type = value.type.with_layout(layout)


def check(unit: Unit, node: Node, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = random_arrays(node, rng)
    wanted = eval_node(node, [a.astype(np.float64) for a in arrays.values()], {}, float64=True)
    for pieces in (1, 4):
        for got, right in zip(run_kernel(node, arrays, unit[0], pieces=pieces), wanted, strict=True):
            assert relative(got, right) <= ERRORS[unit[1]], f"seed {seed}: {node!r}"


CONV3 = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}


@pytest.mark.parametrize("channels", [32, 19, 40])
def test_bias_residual_relu_into_a_halo(unit: Unit, channels: int) -> None:
    shapes = [(3, 20, 7, 9), (channels, 20, 3, 3), (1, channels, 1, 1), (3, channels, 7, 9)]
    node = fused(unit, "conv", shapes, lambda b, y, e: [b.relu(b.add(b.add(y, e[0]), e[1]))], **CONV3)
    x, _, bias, residual = node.inputs
    frame = ((0, 0), (0, 0), (1, 1), (2, 1))
    place(x, Layout(blocks=BLOCKED.blocks, halo=frame))  # wider than this convolution needs
    place(bias, BLOCKED)
    place(residual, Layout(blocks=BLOCKED.blocks, halo=((0, 0), (0, 0), (0, 1), (1, 0))))
    place(node.output, Layout(blocks=BLOCKED.blocks, halo=frame))
    check(unit, node, 11)


def test_residual_is_overwritten_in_place(unit: Unit) -> None:
    shapes = [(2, 32, 6, 6), (48, 32, 1, 1), (2, 48, 6, 6)]
    node = fused(unit, "conv", shapes, lambda b, y, e: [b.add(y, e[0])], **{**CONV3, "padding": ((0, 0), (0, 0))})
    for v in (node.inputs[0], node.inputs[2], node.output):
        place(v, BLOCKED)
    assert lower_contraction(node, unit[0]).inplace == {0: 2}
    check(unit, node, 12)


def test_dense_result_and_operands_of_any_rank(unit: Unit) -> None:
    shapes = [(1, 16, 5, 6), (37, 16, 3, 3), (37, 1, 1), (5, 6)]
    node = fused(unit, "conv", shapes, lambda b, y, e: [b.mul(b.add(y, e[0]), e[1])], **CONV3)
    place(node.inputs[0], Layout(blocks=BLOCKED.blocks, halo=((0, 0), (0, 0), (1, 1), (1, 1))))
    check(unit, node, 13)


def test_matrix_product_with_activation_and_two_results(unit: Unit) -> None:
    shapes = [(2, 21, 40), (40, 50), (50,), (2, 21, 50)]

    def body(b: GraphBuilder, y: Value, e: list[Value]) -> list[Value]:
        z = b.add(y, e[0])
        return [b.sigmoid(z), b.add(z, e[1])]

    check(unit, fused(unit, "matmul", shapes, body), 14)
