"""The graph's editing methods, extents, layouts and the builder."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from ingot.ir import ops
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, DimExpr, Extent, bounds, evaluate, floordiv, is_bounded, maximum, mod, product, symbols
from ingot.ir.dtypes import float16, float32, int64
from ingot.ir.errors import IngotError, ShapeError
from ingot.ir.graph import Graph, Node, Value
from ingot.ir.interpreter import interpret
from ingot.ir.layout import DENSE, Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.source import Source
from ingot.ir.types import TensorType
from ingot.ir.verifier import verify

assert ops  # importing it registers the operators

N = Dim("N", 1, 64)
H = Dim("H", 8, 256)
FREE = Dim("K", 0)


def chain(count: int, op: str = "neg") -> tuple[Graph, list[Node]]:
    graph = Graph()
    v: Value = graph.add_input(TensorType(float32, (3,)), "x")
    g = GraphBuilder(graph)
    for _ in range(count):
        v = g.emit(op, [v]).output
    graph.add_output(v)
    return graph, graph.nodes


# -- editing ------------------------------------------------------------------------------------------
def test_nodes_are_linked_where_asked() -> None:
    graph, (a, b, c) = chain(3)
    late = GraphBuilder(graph, before=b).emit("abs", [a.output])
    assert graph.nodes == [a, late, b, c] and list(reversed(graph)) == [c, b, late, a] and len(graph) == 4
    graph.move_before(late, None)
    assert graph.nodes == [a, b, c, late]
    graph.move_before(late, late)
    graph.move_before(late, b)
    assert graph.nodes == [a, late, b, c]
    verify(graph)


def test_replace_uses_covers_operands_and_outputs() -> None:
    graph, (a, b) = chain(2)
    g = GraphBuilder(graph)
    square = g.mul(a.output, a.output)
    graph.add_output(a.output, "a")
    assert a.output.users == {b: 1, square.producer: 2}
    graph.replace_uses(a.output, graph.inputs[0])
    assert not a.output.users and graph.inputs[0].users == {a: 1, b: 1, square.producer: 2}
    assert graph.outputs == [b.output, graph.inputs[0]]
    graph.remove(a)
    verify(graph)
    with pytest.raises(ValueError, match="removed from its graph"):
        _ = a.graph


def test_remove_names_the_users() -> None:
    graph, (a, b) = chain(2)
    with pytest.raises(ValueError, match=r"%neg is used by %neg_1 = neg\(%neg\)"):
        graph.remove(a)
    with pytest.raises(ValueError, match="%neg_1 is used by a graph output"):
        graph.remove(b)


def test_prune_removes_whole_dead_chains() -> None:
    graph, nodes = chain(5)
    g = GraphBuilder(graph)
    dead = nodes[2].output
    for _ in range(7):
        dead = g.abs(dead)
    g.max_pool(
        graph.add_input(TensorType(float32, (1, 1, 4)), "y"), kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,)
    )
    assert graph.prune() == 8 and graph.nodes == nodes
    verify(graph)
    assert graph.prune() == 0


def test_iteration_survives_edits() -> None:
    graph, nodes = chain(6)
    seen = []
    for node in graph:
        seen.append(node)
        GraphBuilder(graph, before=node).abs(node.inputs[0])  # inserted before: not visited
        if node is nodes[2]:
            graph.replace_uses(node.output, node.inputs[0])
            graph.remove(node)
    assert seen == nodes
    for node in reversed(graph):
        if node.op == "abs":
            graph.remove(node)
    assert graph.nodes == [n for n in nodes if n is not nodes[2]]
    verify(graph)


def test_names_are_unique_and_identifiers() -> None:
    graph = Graph()
    names = [graph.unique_name(hint) for hint in ("a", "a", "a_1", "a", "b c/d", "", "layer.0")]
    assert names == ["a", "a_1", "a_1_1", "a_2", "b_c_d", "v", "layer.0"]
    assert len(set(names)) == len(names)


def test_clone_is_deep_in_structure_and_shares_attributes() -> None:
    graph = Graph("net")
    x = graph.add_input(TensorType(float32, (N.expr, 3)), "x")
    w = graph.add_input(TensorType(float32, (3,)), "w", "parameter")
    g = GraphBuilder(graph, source=Source("net.py", 1, "m"))
    region = Graph("body")
    p = region.add_input(x.type, "p")
    region.add_output(GraphBuilder(region).neg(p))
    y = create_fused(graph, region, [g.add(x, w)], "elementwise").output
    graph.add_output(y, "y")
    graph.add_output(g.mul(w, 2.0), "w2", updates=w)
    copy, mapping = graph.clone()
    verify(copy)
    assert str(copy) == str(graph)
    assert mapping[y].producer.regions[0] is not region
    assert copy.updates == {1: 1} and copy.symbols == {"N": N}
    copy.remove(GraphBuilder(copy).neg(mapping[x]).producer)
    assert len(graph) == len(copy) and str(graph) == str(graph.clone("net")[0])


def test_two_dims_of_one_name_are_refused() -> None:
    graph = Graph()
    graph.add_input(TensorType(float32, (N.expr,)), "x")
    with pytest.raises(ValueError, match="two different Dims called 'N'"):
        graph.add_input(TensorType(float32, (Dim("N", 1, 65).expr,)), "y")


def test_constant_access() -> None:
    graph, _ = chain(1)
    value = graph.constant(np.arange(3))
    assert value.is_constant and value.constant.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="%x is not a constant"):
        _ = graph.inputs[0].constant


# -- builder ------------------------------------------------------------------------------------------
def test_builder_checks_and_converts() -> None:
    graph = Graph()
    x = graph.add_input(TensorType(float16, (2, 3)), "x")
    g = GraphBuilder(graph)
    y = g.add(1.5, x)
    assert y.dtype is float16 and y.producer.inputs[0].constant.dtype == np.float16
    values, indices = g.max_pool(g.reshape(x, shape=(1, 2, 3)), kernel=[2], stride=[1], padding=[[0, 0]], dilation=[1])
    assert values.shape == indices.shape == (1, 2, 2) and indices.dtype is int64
    assert values.producer.attrs["padding"] == ((0, 0),)
    with pytest.raises(AttributeError, match="no operator 'frobnicate'"):
        g.frobnicate(x)
    with pytest.raises(IngotError, match=r"unknown attribute \['foo'\]"):
        g.neg(x, foo=1)
    with pytest.raises(IngotError, match=r"attribute 'axes' .* is missing"):
        g.sum(x)
    with pytest.raises(IngotError, match="takes 1 to 1 inputs, got 2"):
        g.neg(x, x)
    with pytest.raises(ShapeError):
        g.add(x, g.full((5,), 0, float16))
    verify(graph)


# -- extents ------------------------------------------------------------------------------------------
def random_extent(rng: np.random.Generator, depth: int) -> tuple[Extent, Callable[[dict[str, int]], int]]:
    """An extent that is never negative, and the same computed on plain ints."""
    if depth == 0 or rng.random() < 0.2:
        if rng.random() < 0.4:
            value = int(rng.integers(0, 7))
            return value, lambda env: value
        dim = [N, H, FREE][rng.integers(3)]
        return dim.expr, lambda env: env[dim.name]
    (a, f), (b, g) = random_extent(rng, depth - 1), random_extent(rng, depth - 1)
    positive, h = b + 1, lambda env: g(env) + 1
    return [
        (lambda: (a + b, lambda env: f(env) + g(env))),
        (lambda: (a * b, lambda env: f(env) * g(env))),
        (lambda: (maximum(a, b), lambda env: max(f(env), g(env)))),
        (lambda: (floordiv(a, positive), lambda env: f(env) // h(env))),
        (lambda: (mod(a, positive), lambda env: f(env) % h(env))),
        (lambda: (a * b - b * a + a, f)),
    ][rng.integers(6)]()


@pytest.mark.parametrize("seed", range(100))
def test_arithmetic_agrees_with_numbers_and_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    extent, value = random_extent(rng, 3)
    low, high = bounds(extent)
    for _ in range(10):
        env = {"N": int(rng.integers(1, 65)), "H": int(rng.integers(8, 257)), "K": int(rng.integers(0, 50))}
        expected = value(env)
        assert evaluate(extent, env) == expected, f"seed {seed}: {extent} at {env}"
        assert low <= expected and (expected <= high or high >= 2**62), f"seed {seed}: {extent} in [{low}, {high}]"


def test_extents_are_canonical() -> None:
    n, h = N.expr, H.expr
    assert n + h == h + n and hash(n * h) == hash(h * n) and (n + 1) * (n - 1) == n * n - 1
    assert n - n == 0 and n * 0 == 0 and n * 1 == n and 3 - n + n == 3
    assert type(n - n) is int and type((n + 2) - n) is int
    assert (4 * n + 2) // 2 == 2 * n + 1 and (4 * n + 3) // 2 == 2 * n + 1 and (n * h) // n == h
    assert (4 * n) % 2 == 0 and (4 * n + 3) % 2 == 1 and (n * h) % n == 0
    assert (n // 2) != n and str((n + 1) // 2) == "((N + 1) // (2))"
    assert maximum(n, 100) == 100 and maximum(n, 0) == n and maximum(n, n) == n
    assert product([n, 2, h]) == 2 * n * h and product([]) == 1
    assert symbols((n * h, 3, FREE.expr // 2)) == {N, H, FREE}
    assert str(2 * n * n + 3 * h - 1) == "3*H + 2*N**2 + -1"
    assert isinstance(n, DimExpr) and Dim("N", 1, 64).expr == n and Dim("N").expr != n


def test_bounds() -> None:
    assert bounds(2 * N.expr + 1) == (3, 129) and bounds(7) == (7, 7)
    assert bounds(N.expr // 3) == (0, 21) and bounds(N.expr % 8) == (0, 7)
    assert bounds(maximum(N.expr, H.expr)) == (8, 256) and bounds(-N.expr) == (-64, -1)
    assert is_bounded(N.expr * H.expr) and not is_bounded(FREE.expr + 1)


@pytest.mark.parametrize(("name", "low", "high"), [("1a", 1, 2), ("a b", 1, 2), ("a", -1, 2), ("a", 3, 2)])
def test_bad_dims(name: str, low: int, high: int) -> None:
    with pytest.raises(ValueError):
        Dim(name, low, high)


# -- layouts ------------------------------------------------------------------------------------------
def test_physical_shapes() -> None:
    shape = (N.expr, 20, 8, 9)
    nchw16c = Layout(blocks=((1, 16),), halo=((0, 0), (0, 0), (1, 1), (1, 2)))
    assert nchw16c.physical_shape(shape) == (N.expr, 2, 10, 12, 16)
    assert nchw16c.strides((1, 20, 8, 9)) == (3840, 1920, 192, 16, 1)
    assert nchw16c.elements((1, 20, 8, 9)) == 3840
    channels_last = Layout(order=(0, 2, 3, 1))
    assert channels_last.physical_shape(shape) == (N.expr, 8, 9, 20)
    both = Layout(blocks=((0, 4), (1, 8)))
    assert both.physical_shape((10, 20, 3)) == (3, 3, 3, 4, 8)
    assert DENSE.physical_shape(shape) == shape and DENSE.strides((2, 3, 4)) == (12, 4, 1)
    assert TensorType(float16, (1, 20, 8, 9), nchw16c).nbytes == 7680


@pytest.mark.parametrize(
    "layout",
    [Layout(), Layout(order=(1, 0)), Layout(blocks=((1, 16), (0, 4))), Layout(halo=((0, 0), (1, 2))),
     Layout(order=(0, 1), blocks=((0, 8),), halo=((0, 0), (3, 3)))],
    ids=str,
)  # fmt: skip
def test_layout_text(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout


def test_layout_parse_refuses() -> None:
    with pytest.raises(ValueError):
        Layout.parse("strides=1,2")


def test_types() -> None:
    blocked = TensorType(float32, (N.expr, 32), Layout(blocks=((1, 16),)))
    assert str(blocked) == "float32[N, 32] @blocks=1:16" and not blocked.is_static and blocked.rank == 2
    assert blocked.elements == 32 * N.expr and blocked.symbols() == {N}
    assert blocked.with_dtype(float16).layout == blocked.layout
    assert blocked.with_shape((3,)) == TensorType(float32, (3,)), "a layout belongs to its shape"
    assert blocked.with_layout(DENSE) == TensorType(float32, (N.expr, 32))


# -- scale --------------------------------------------------------------------------------------------
def test_large_graphs_take_linear_time() -> None:
    """Building, editing, cloning, verifying, running and pruning a long and wide graph."""

    def seconds(count: int) -> float:
        start = time.perf_counter()
        graph, nodes = chain(count)
        hub = graph.inputs[0]
        g = GraphBuilder(graph)
        wide = [g.add(hub, n.output) for n in nodes[:: max(1, count // 2000)]]  # many users of one value
        total = g.concat(*wide, axis=0)
        graph.add_output(total)
        for node in nodes[1:-1:2]:
            graph.replace_uses(node.output, node.inputs[0])
            graph.remove(node)
        verify(graph)
        copy, _ = graph.clone()
        interpret(copy, [np.ones(3, np.float32)])
        del copy.outputs[:], copy.output_names[:]
        copy.prune()
        assert len(copy) == 0
        return time.perf_counter() - start

    small = min(seconds(3_000) for _ in range(2))
    assert seconds(12_000) < 16 * small, "four times the nodes should take about four times as long"
