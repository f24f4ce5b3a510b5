"""Elementwise and index kernels in all combinations of layouts, fused, with symbolic extents and in place."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.codegen.lower import elementwise, table
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import DType, bfloat16, float16, float32, int64
from ingot.ir.graph import Graph, Node
from ingot.ir.interpreter import interpret
from ingot.ir.layout import DENSE, Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from kernel_harness import check_case, compare, host_targets, run_kernel
from op_cases import Case

BLOCKED = Layout(blocks=((1, 16),))
HALO = Layout(blocks=((1, 16),), halo=((0, 0), (0, 0), (1, 1), (2, 1)))
LAST = Layout(order=(0, 2, 3, 1))
DENSE_HALO = Layout(halo=((0, 0), (0, 0), (1, 2), (0, 3)))
LAYOUTS = (DENSE, BLOCKED, HALO, LAST, DENSE_HALO)
targets = pytest.mark.parametrize("target", host_targets(), ids=lambda t: t.name)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@targets
@pytest.mark.parametrize("result", LAYOUTS, ids=str)
def test_layouts(result: Layout, target: Target) -> None:
    for seed, (a, b) in enumerate(zip(LAYOUTS, (HALO, DENSE, LAST, BLOCKED, DENSE), strict=True)):
        channels = (32, 24, 3)[seed % 3]
        case = Case("sub", f"{a} {b}", (normal(seed, 2, channels, 5, 7), normal(seed + 1, 2, channels, 5, 7)))
        check_case(case, target, seed=seed, layouts=(a, b, result))


@targets
def test_weight_packing_zeroes_the_padding(target: Target) -> None:
    weights = normal(3, 40, 19, 3, 3)
    for layout in (Layout(blocks=((1, 16), (0, 16))), Layout(order=(1, 2, 3, 0), blocks=((0, 32),))):
        graph = Graph()
        x = graph.add_input(TensorType(float32, weights.shape), "w")
        node = GraphBuilder(graph).emit("layout_cast", [x], layout=layout)
        graph.add_output(node.output)
        out = run_kernel(table.lower(node, target), {x: weights})
        np.testing.assert_array_equal(out[node.output], weights)


@targets
def test_concat_into_blocks_and_halos(target: Target) -> None:
    sizes = ((16, 8), (16, 32, 5), (10, 8), (4, 3), (5, 9))
    for seed, (channels, layout) in enumerate(zip(sizes, LAYOUTS, strict=True)):
        parts = tuple(normal(seed + c, 2, c, 4, 6) for c in channels)
        case = Case("concat", f"{channels} {layout}", parts, {"axis": 1})
        check_case(case, target, seed=seed, layouts=(*(DENSE for _ in parts), layout))


def fused(build, *types: TensorType) -> tuple[Graph, Node]:
    """A graph of one fused elementwise node whose region ``build(builder, *inputs)`` makes."""
    region = Graph("region")
    inner = [region.add_input(t, f"r{k}") for k, t in enumerate(types)]
    for value in build(GraphBuilder(region), *inner):
        region.add_output(value)
    graph = Graph()
    node = create_fused(graph, region, [graph.add_input(t, f"x{k}") for k, t in enumerate(types)], "elementwise")
    for o in node.outputs:
        graph.add_output(o)
    return graph, node


def chain(g, x, w, i):
    y = g.tanh(g.mul(x, g.reshape(w, shape=(1, 6, 1))))
    padded = g.pad(y, low=(0, 0, 2), high=(0, 0, 1), interior=(0, 0, 1), value=0.5)
    shifted = g.slice(padded, starts=(0, 0, 3), stops=(4, 6, 40), steps=(1, 1, 2))
    picked = g.index_select(x, i, axis=2)
    swapped = g.permute(g.reshape(g.flip(x, axes=(1,)), shape=(4, 6, 20)), dims=(0, 1, 2))
    first = g.slice(swapped, starts=(0, 0, 0), stops=(4, 6, 19), steps=(1, 1, 1))
    total = g.add(g.add(shifted, picked), first)
    return [total, g.relu(total)]


@targets
def test_fused_chain_of_index_operators(target: Target) -> None:
    rng = np.random.default_rng(5)
    types = [TensorType(float32, (4, 6, 20)), TensorType(float32, (6,)), TensorType(int64, (19,))]
    graph, node = fused(chain, *types)
    arrays = [normal(5, 4, 6, 20), normal(6, 6), rng.integers(0, 20, 19)]
    out = run_kernel(table.lower(node, target), dict(zip(node.inputs, arrays, strict=True)))
    for o, want in zip(node.outputs, interpret(graph, arrays, float64=True), strict=True):
        compare(out[o], want, float32, 4, f"{target.name}")


@targets
@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=lambda d: d.name)
def test_nextafter_of_every_16_bit_float(dtype: DType, target: Target) -> None:
    numbers = np.arange(2**16, dtype=np.uint16).view(dtype.numpy)
    for towards in (np.inf, -np.inf, 0.0, -0.0, 1.0, -3.0, np.nan):
        graph = Graph()
        x, y = (graph.add_input(TensorType(dtype, numbers.shape), n) for n in "xy")
        node = GraphBuilder(graph).emit("nextafter", [x, y])
        graph.add_output(node.output)
        goals = np.full_like(numbers, towards)
        found = run_kernel(elementwise.lower(node, target), {x: numbers, y: goals})[node.output]
        with np.errstate(all="ignore"):
            want = np.where(numbers == goals, goals, np.nextafter(numbers, goals))
        same = found.view(np.uint16) == want.view(np.uint16)
        assert np.all(same | (np.isnan(found) & np.isnan(want))), (towards, numbers[~same][:5], found[~same][:5])


@targets
@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=lambda d: d.name)
def test_nextafter_of_what_the_same_kernel_computes(dtype: DType, target: Target) -> None:
    """The sum lives in float32 there; its neighbour is that of the rounded sum."""
    a, b = (np.random.default_rng(seed).standard_normal(500).astype(dtype.numpy) for seed in (1, 2))
    graph, node = fused(lambda g, x, y: [g.nextafter(g.add(x, y), y)], *[TensorType(dtype, (500,))] * 2)
    found = run_kernel(elementwise.lower(node, target), dict(zip(graph.inputs, (a, b), strict=True)))[node.output]
    np.testing.assert_array_equal(found.view(np.uint16), np.nextafter(a + b, b).view(np.uint16))


@targets
def test_symbolic_extents(target: Target) -> None:
    n = Dim("N", 1, 64).expr
    _, node = fused(lambda g, x, b: [g.relu(g.add(x, b))], TensorType(float32, (n, 5, 9)), TensorType(float32, (5, 1)))
    lowered = elementwise.lower(node, target)
    for batch in (1, 3, 64):
        arrays = [normal(batch, batch, 5, 9), normal(1, 5, 1)]
        out = run_kernel(lowered, dict(zip(node.inputs, arrays, strict=True)), env={"N": batch})
        np.testing.assert_array_equal(out[node.output], np.maximum(arrays[0] + arrays[1], 0))


@targets
def test_blocked_dynamic_batch(target: Target) -> None:
    n = Dim("N", 1).expr
    _, node = fused(lambda g, x: [g.neg(x)], TensorType(float32, (n, 24, 3, 5), BLOCKED))
    node.output.type = node.output.type.with_layout(HALO)
    for batch in (1, 3):
        x = normal(batch, batch, 24, 3, 5)
        out = run_kernel(table.lower(node, target), {node.inputs[0]: x}, env={"N": batch})
        np.testing.assert_array_equal(out[node.output], -x)


@targets
def test_in_place(target: Target) -> None:
    _, node = fused(lambda g, x, y: [g.sub(x, y)], *[TensorType(float32, (7, 130))] * 2)
    lowered = table.lower(node, target)
    arrays = dict(zip(node.inputs, (normal(1, 7, 130), normal(2, 7, 130)), strict=True))
    out = run_kernel(lowered, arrays, share=lowered.inplace)
    np.testing.assert_array_equal(out[node.output], arrays[node.inputs[0]] - arrays[node.inputs[1]])


def test_no_place_for_moved_reads() -> None:
    target = host_targets()[-1]
    _, flipped = fused(lambda g, x: [g.flip(x, axes=(0,))], TensorType(float32, (8,)))
    assert table.lower(flipped, target).inplace == {}
    _, both = fused(lambda g, x: [g.add(x, g.flip(x, axes=(0,)))], TensorType(float32, (8,)))
    assert table.lower(both, target).inplace == {}


def test_unused_results_are_not_written() -> None:
    graph, node = fused(lambda g, x: [g.neg(x), g.exp(x)], TensorType(float32, (8,)))
    graph.outputs.pop()
    graph.output_names.pop()
    lowered = table.lower(node, host_targets()[-1])
    assert lowered.values == [node.inputs[0], node.outputs[0]]


def test_integer_division_never_traps() -> None:
    low = np.iinfo(np.int32).min
    x = np.array([low, low, 7, -7, 0, 5] * 4, np.int32)
    y = np.array([-1, 0, 0, 2, -1, -3] * 4, np.int32)
    for op in ("floor_divide", "remainder"):
        check_case(Case(op, "edges", (x, y)), host_targets()[-1])


def test_out_of_range_indices_read_inside() -> None:
    graph = Graph()
    x, i = graph.add_input(TensorType(float32, (4, 3)), "x"), graph.add_input(TensorType(int64, (5,)), "i")
    node = GraphBuilder(graph).emit("index_select", [x, i], axis=0)
    graph.add_output(node.output)
    values = normal(9, 4, 3)
    wild = np.array([0, -(2**40), 2**40, 3, -1])
    out = run_kernel(table.lower(node, host_targets()[-1]), {x: values, i: wild})
    np.testing.assert_array_equal(out[node.output], values[np.clip(wild, 0, 3)])
