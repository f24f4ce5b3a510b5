"""The interpreter: symbols, modes, memory, regions, messages."""

from __future__ import annotations

import gc
import time
import weakref

import numpy as np
import pytest
from ingot.ir import registry
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import DType, bfloat16, float16, float32, float64, int64
from ingot.ir.errors import IngotError, InputError
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import bind_symbols, eval_node, interpret
from ingot.ir.ops.structure import create_fused
from ingot.ir.source import Source
from ingot.ir.types import TensorType

N = Dim("N", 1, 64)
M = Dim("M", 2)


def make(*inputs: tuple, dtype: DType = float32) -> tuple[Graph, GraphBuilder, list[Value]]:
    graph = Graph()
    values = [graph.add_input(TensorType(dtype, shape), f"x{i}") for i, shape in enumerate(inputs)]
    return graph, GraphBuilder(graph), values


def ones(*shape: int, dtype: DType = float32) -> np.ndarray:
    return np.ones(shape, dtype.numpy)


# -- symbols ------------------------------------------------------------------------------------------
def test_symbols_come_from_shapes() -> None:
    graph, g, (x, _, _) = make((N.expr, 3), (2 * N.expr + 1,), (M.expr * N.expr, 4))
    graph.add_output(g.expand(g.constant(1.0, float32), shape=(M.expr, N.expr + 1)))
    (y,) = interpret(graph, [ones(5, 3), ones(11), ones(10, 4)])
    assert y.shape == (2, 6)
    assert bind_symbols(graph, [(5, 3), (11,), (10, 4)]) == {"N": 5, "M": 2}
    assert x.type.symbols() == {N}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(5, 3), (7,)], r"%x1: axis 0 must be 2\*N \+ 1 = 11 \(with N = 5 from the inputs\), got 7"),
        ([(5, 4), (11,)], "%x0: axis 1 must be 3, got 4"),
        ([(65, 3), (131,)], r"makes N = 65, outside its declared range \[1..64\]"),
        ([(0, 3), (1,)], r"makes N = 0, outside its declared range"),
        ([(5,), (11,)], r"%x0: expected .* \(rank 2\), got shape"),
    ],
)
def test_shapes_are_checked(shapes: list, message: str) -> None:
    graph, g, (x, _) = make((N.expr, 3), (2 * N.expr + 1,))
    graph.add_output(g.neg(x))
    with pytest.raises(InputError, match=message):
        interpret(graph, [ones(*s) for s in shapes])


def test_an_extent_that_cannot_be_solved_is_refused() -> None:
    graph, g, (x,) = make((N.expr * N.expr,))
    graph.add_output(g.neg(x))
    with pytest.raises(InputError, match="cannot derive N from axis 0"):
        interpret(graph, [ones(9)])


def test_unbound_symbol_in_an_attribute() -> None:
    graph, g, _ = make((3,))
    graph.add_symbol(N)
    graph.add_output(g.expand(g.constant(1.0, float32), shape=(N.expr,)))
    with pytest.raises(IngotError, match="'N', which no input binds"):
        interpret(graph, [ones(3)])


def test_inputs_by_name_and_their_errors() -> None:
    graph, g, (x, y) = make((2,), (2,))
    graph.add_output(g.sub(x, y))
    assert interpret(graph, {"x1": ones(2), "x0": ones(2) * 3})[0].tolist() == [2, 2]
    with pytest.raises(InputError, match=r"missing inputs \['x1'\], unknown inputs \['z'\]"):
        interpret(graph, {"x0": ones(2), "z": ones(2)})
    with pytest.raises(InputError, match="takes 2 inputs"):
        interpret(graph, [ones(2)])
    with pytest.raises(InputError, match="%x1: expected float32, got float64"):
        interpret(graph, [ones(2), ones(2, dtype=float64)])
    with pytest.raises(InputError, match="no Ingot dtype"):
        interpret(graph, [ones(2), np.ones(2, complex)])


# -- float64 ------------------------------------------------------------------------------------------
def test_float64_lifts_everything_floating() -> None:
    graph, g, (x,) = make((3,), dtype=float16)
    third = g.constant(np.array([1 / 3, 2 / 3, 1.0], np.float16))
    counts = g.iota(shape=(3,), axis=0, dtype=bfloat16)
    rounded = g.cast(g.mul(x, 3.0), dtype=bfloat16)
    whole = g.cast(rounded, dtype=int64)
    for v in (g.add(x, third), counts, rounded, whole):
        graph.add_output(v)
    plain = interpret(graph, [np.array([1.1, 2.2, 3.3], np.float16)])
    assert [a.dtype for a in plain] == [np.float16, bfloat16.numpy, bfloat16.numpy, np.int64]
    exact = interpret(graph, [np.array([1.1, 2.2, 3.3])], float64=True)
    assert [a.dtype for a in exact] == [np.float64, np.float64, np.float64, np.int64]
    np.testing.assert_allclose(exact[2], [3.3, 6.6, 9.9], rtol=1e-15)  # no rounding to bfloat16 on the way
    np.testing.assert_array_equal(exact[0], np.array([1.1, 2.2, 3.3]) + third.constant.astype(np.float64))


def test_float64_draws_the_same_random_numbers() -> None:
    graph = Graph()
    state = graph.add_input(TensorType(int64, (2,)), "state", "rng")
    graph.add_output(GraphBuilder(graph).random_uniform(state, shape=(7,), dtype=float32))
    inputs = [np.array([42, 0])]
    (plain,), (exact,) = interpret(graph, inputs), interpret(graph, inputs, float64=True)
    assert exact.dtype == np.float64
    np.testing.assert_array_equal(plain.astype(np.float64), exact)


def test_float64_converts_a_shared_constant_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.ir import interpreter

    calls = []
    convert = interpreter._Run._lift_constant

    def counted(self: object, array: np.ndarray) -> np.ndarray:
        out = convert(self, array)
        calls.append(out)
        return out

    monkeypatch.setattr(interpreter._Run, "_lift_constant", counted)
    graph, g, (x,) = make((3,))
    shared = np.arange(3, dtype=np.float32)
    for _ in range(4):
        x = g.add(x, g.constant(shared))
    graph.add_output(x)
    interpret(graph, [ones(3)], float64=True)
    assert len(calls) == 4 and len({id(c) for c in calls}) == 1


# -- evaluation ---------------------------------------------------------------------------------------
def test_observer_sees_nodes_in_order_and_regions_as_one() -> None:
    graph, g, (x,) = make((4,))
    region = Graph("body")
    p = region.add_input(x.type, "p")
    b = GraphBuilder(region)
    region.add_output(b.exp(b.neg(p)))
    region.add_output(b.mul(p, 2.0))
    fused = create_fused(graph, region, [g.abs(x)], "elementwise")
    graph.add_output(g.add(*fused.outputs))
    seen: list[tuple[str, int]] = []
    (y,) = interpret(graph, [-ones(4)], observer=lambda node, outs: seen.append((node.op, len(outs))))
    assert seen == [("abs", 1), ("fused", 2), ("add", 1)]
    np.testing.assert_allclose(y, np.exp(-1) + 2, rtol=1e-6)
    lifted = interpret(graph, [-ones(4)], float64=True)[0]
    np.testing.assert_allclose(lifted, np.exp(-1.0) + 2, rtol=1e-15)


def test_region_with_symbols() -> None:
    graph, _, (x,) = make((N.expr, 2))
    region = Graph("body")
    p = region.add_input(x.type, "p")
    b = GraphBuilder(region)
    region.add_output(b.add(b.reshape(p, shape=(2 * N.expr,)), b.full((2 * N.expr,), 1.0, float32)))
    graph.add_output(create_fused(graph, region, [x], "elementwise").output)
    assert interpret(graph, [ones(3, 2)])[0].tolist() == [2.0] * 6


def test_create_fused_checks_the_region() -> None:
    graph, _, (x,) = make((4,))
    region = Graph("body")
    region.add_output(region.add_input(TensorType(float32, (5,)), "p"))
    with pytest.raises(IngotError, match="does not fit operand"):
        create_fused(graph, region, [x], "elementwise")
    with pytest.raises(IngotError, match="takes 1 inputs, got 2"):
        create_fused(graph, region, [x, x], "elementwise")
    with pytest.raises(IngotError, match="kind must be one of"):
        create_fused(graph, region, [x], "magic")


def test_an_input_may_be_an_output_twice() -> None:
    graph, _, (x,) = make((2,))
    graph.add_output(x)
    graph.add_output(x, "again")
    first, second = interpret(graph, [ones(2)])
    assert first.tolist() == second.tolist() == [1, 1]


def test_intermediates_are_dropped_after_their_last_use() -> None:
    graph, g, (x,) = make((1000,))
    for _ in range(20):
        x = g.add(x, 1.0)
    graph.add_output(x)
    alive: list[weakref.ref] = []
    peak = 0

    def observe(node: object, outputs: list[np.ndarray]) -> None:
        nonlocal peak
        if outputs[0].size == 1000:
            alive.append(weakref.ref(outputs[0]))
        peak = max(peak, sum(r() is not None for r in alive))

    interpret(graph, [ones(1000)], observer=observe)
    gc.collect()
    assert len(alive) == 20 and peak <= 3


def test_eval_node() -> None:
    graph, g, (x,) = make((N.expr, 3))
    node = g.reshape(x, shape=(3 * N.expr,)).producer
    assert eval_node(node, [ones(2, 3)], {"N": 2})[0].shape == (6,)
    pooled = GraphBuilder(graph).emit("argmax", [x], axis=1)
    assert eval_node(pooled, [ones(2, 3)], {"N": 2})[0].dtype == np.int64


def test_a_reference_that_breaks_its_promise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    graph, g, (x,) = make((3,))
    g.source = Source("net.py", 7, "layer1")
    graph.add_output(g.exp(x))
    record = registry.get("exp")

    def boom(x: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("nothing")

    for reference, message in (
        (lambda x: x.astype(np.float64), "declared float32 but the reference gave float64"),
        (lambda x: x[:2], r"declared float32\[3\] but the reference gave shape \[2\]"),
        (lambda x: (x, x), "gave 2 results for 1 outputs"),
        (boom, r"%exp = exp\(%x0\) at layer1 \(net.py:7\).*ZeroDivisionError: nothing"),
    ):
        monkeypatch.setitem(registry.OPS, "exp", replace(record, reference=reference))
        with pytest.raises(IngotError, match=message):
            interpret(graph, [ones(3)])


def test_ten_thousand_nodes() -> None:
    graph, g, (x,) = make((4,))
    for _ in range(5000):
        x = g.neg(g.add(x, 1.0))
    graph.add_output(x)
    start = time.perf_counter()
    (y,) = interpret(graph, [ones(4)])
    assert y.tolist() == [1.0] * 4
    assert time.perf_counter() - start < 10
