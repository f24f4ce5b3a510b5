"""Reduction kernels: axes and layouts, fused groups, accuracy of long sums, independence of the split."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.codegen.lower import table
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import float32
from ingot.ir.graph import Graph, Node
from ingot.ir.interpreter import interpret
from ingot.ir.layout import DENSE, Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from kernel_harness import case_graph, check_case, compare, host_targets, run_kernel
from op_cases import Case

BLOCKED = Layout(blocks=((1, 16),))
HALO = Layout(blocks=((1, 16),), halo=((0, 0), (0, 0), (1, 1), (2, 1)))
targets = pytest.mark.parametrize("target", host_targets(), ids=lambda t: t.name)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SPACES = [
    ((3, 5), (1,)), ((3, 37), (0,)), ((4, 50, 30), (1,)), ((4, 50, 30), (0, 2)), ((7, 129), (1,)), ((33, 70), (0,)),
    ((5000,), (0,)), ((2, 3), ()), ((3, 5, 7), (0, 1, 2)), ((1, 1), (1,)), ((40, 2, 3), (2,)),
]  # fmt: skip


@targets
@pytest.mark.parametrize("op", ["sum", "mean", "amax"])
def test_axes(op: str, target: Target) -> None:
    for seed, (shape, axes) in enumerate(SPACES):
        attrs = {"axes": axes, "keepdims": seed % 2 == 0}
        depth = int(np.prod([shape[a] for a in axes], dtype=int))
        check_case(Case(op, f"{shape} {axes}", (normal(seed, *shape),), attrs, depth=depth), target, seed=seed)


@targets
@pytest.mark.parametrize("channels", [32, 24])
def test_blocked_channels(channels: int, target: Target) -> None:
    x = normal(1, 3, channels, 6, 7)
    for layout in (BLOCKED, HALO):
        for axes in ((0, 2, 3), (2, 3)):
            case = Case("sum", f"{layout}", (x,), {"axes": axes, "keepdims": len(axes) == 2}, depth=126)
            check_case(case, target, layouts=(layout,))


def test_long_sums_stay_accurate() -> None:
    x = np.random.default_rng(2).random(1 << 20).astype(np.float32)
    _, node = case_graph(Case("sum", "", (x,), {"axes": (0,)}))
    got = run_kernel(table.lower(node, host_targets()[-1]), {node.inputs[0]: x})[node.output]
    assert abs(float(got) / x.sum(dtype=np.float64) - 1) < 4 * np.finfo(np.float32).eps
    columns = x.reshape(-1, 16)
    _, node = case_graph(Case("sum", "", (columns,), {"axes": (0,)}))
    got = run_kernel(table.lower(node, host_targets()[-1]), {node.inputs[0]: columns})[node.output]
    assert np.abs(got / columns.sum(0, dtype=np.float64) - 1).max() < 8 * np.finfo(np.float32).eps


def test_the_split_over_threads_does_not_change_a_bit() -> None:
    x = normal(4, 37, 333)
    _, node = case_graph(Case("sum", "", (x,), {"axes": (1,)}))
    lowered = table.lower(node, host_targets()[-1])
    runs = [run_kernel(lowered, {node.inputs[0]: x}, seed=s)[node.output] for s in range(4)]
    assert all((r == runs[0]).all() for r in runs)


def fused(build, *types: TensorType, layouts: tuple[Layout, ...] = ()) -> tuple[Graph, Node]:
    region = Graph("region")
    inner = [region.add_input(t, f"r{k}") for k, t in enumerate(types)]
    for value in build(GraphBuilder(region), *inner):
        region.add_output(value)
    graph = Graph()
    node = create_fused(graph, region, [graph.add_input(t, f"x{k}") for k, t in enumerate(types)], "reduction")
    for o, layout in zip(node.outputs, layouts, strict=False):
        o.type = o.type.with_layout(layout)
    for o in node.outputs:
        graph.add_output(o)
    return graph, node


def check(graph: Graph, node: Node, target: Target, depth: int, seed: int, env: dict[str, int] | None = None) -> None:
    from ingot.ir.dims import evaluate

    arrays = [normal(seed + k, *(evaluate(e, env or {}) for e in v.shape)) for k, v in enumerate(node.inputs)]
    lowered = table.lower(node, target)
    for share in ([{}, lowered.inplace] if lowered.inplace else [{}]):
        out = run_kernel(lowered, dict(zip(node.inputs, arrays, strict=True)), env=env, seed=seed, share=share)
        for o, want in zip(node.outputs, interpret(graph, arrays, float64=True), strict=True):
            compare(out[o], want, float32, depth, f"{lowered.schedule} on {target.name}, seed {seed}")


def softmax(axis: int):
    def build(g, x):
        e = g.exp(g.sub(x, g.amax(x, axes=(axis,), keepdims=True)))
        return [g.div(e, g.sum(e, axes=(axis,), keepdims=True))]

    return build


@targets
@pytest.mark.parametrize("shape", [(6, 70), (9, 1000), (3, 10), (2, 3, 33)], ids=str)
def test_softmax(shape: tuple[int, ...], target: Target) -> None:
    for axis in range(len(shape)):
        graph, node = fused(softmax(axis), TensorType(float32, shape))
        check(graph, node, target, shape[axis], 7)


def statistics(g, x, w):
    """Batch normalisation: full result in the input's layout, statistics of kept shape."""
    axes = (0, 2, 3)
    mean = g.mean(x, axes=axes, keepdims=True)
    centred = g.sub(x, mean)
    var = g.mean(g.mul(centred, centred), axes=axes, keepdims=True)
    return [g.relu(g.mul(g.mul(centred, g.rsqrt(g.add(var, 1e-5))), w)), mean, var]


@targets
@pytest.mark.parametrize("channels", [32, 24, 3])
def test_batch_statistics(channels: int, target: Target) -> None:
    shape = (4, channels, 5, 6)
    for seed, (a, b) in enumerate([(DENSE, DENSE), (BLOCKED, HALO), (HALO, BLOCKED)]):
        types = [TensorType(float32, shape, a), TensorType(float32, (1, channels, 1, 1))]
        graph, node = fused(statistics, *types, layouts=(b,))
        check(graph, node, target, 120, seed)


@targets
def test_symbolic_batch(target: Target) -> None:
    n = Dim("N", 1).expr
    graph, node = fused(softmax(1), TensorType(float32, (n, 40)))
    for batch in (1, 3, 64):
        check(graph, node, target, 40, batch, {"N": batch})
    graph, node = fused(softmax(0), TensorType(float32, (n, 40)))
    check(graph, node, target, 17, 17, {"N": 17})


def test_two_sums_of_one_sweep() -> None:
    def build(g, x, y):
        return [g.sum(x, axes=(0,), keepdims=False), g.sum(g.mul(x, y), axes=(0,), keepdims=True)]

    graph, node = fused(build, *[TensorType(float32, (60, 45))] * 2)
    for target in host_targets():
        check(graph, node, target, 60, 1)


def test_mixed_axes_are_refused() -> None:
    def build(g, x):
        return [g.sum(x, axes=(0,), keepdims=False), g.sum(x, axes=(1,), keepdims=False)]

    _, node = fused(build, TensorType(float32, (6, 5)))
    assert "same axes" in (table.supports(node, host_targets()[-1]) or "")
