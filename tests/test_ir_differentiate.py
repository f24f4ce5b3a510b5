"""Gradients of graphs: every operator against finite differences, structure, and refusals."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from graph_utils import assert_graph_equal, build, canonical, ops
from ingot.ir import registry
from ingot.ir.builder import GraphBuilder
from ingot.ir.differentiate import gradients
from ingot.ir.dims import Dim
from ingot.ir.dtypes import dtype_from_numpy, float32, float64, int64
from ingot.ir.errors import DTypeError, IngotError, ShapeError, UnsupportedError, VerifyError
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import interpret
from ingot.ir.source import Source
from ingot.ir.types import TensorType
from ingot.ir.verifier import verify
from ingot.passes.cse import CommonSubexpressions
from ingot.passes.dce import DeadCodeElimination
from ingot.passes.decompose import Decompose
from ingot.passes.fold_constants import FoldConstants
from ingot.passes.manager import PassContext, PassManager
from ingot.passes.simplify import Simplify
from op_cases import Case, gradient_cases

# Seven-point stencil for the first derivative: error ~ step**6, rounding ~ 1e-16 / step.
STEP = 2e-3
STENCIL = ((-3, -1 / 60), (-2, 3 / 20), (-1, -3 / 4), (1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
DIFFERENTIABLE = sorted(op for op in registry.OPS if gradient_cases(op, 0))


def weighted_sum(graph: Graph, values: Sequence[Value], rng: np.random.Generator, feeds: list[np.ndarray]) -> Value:
    """A scalar: the sum of all elements of ``values``, each times its own random weight (a further input)."""
    b = GraphBuilder(graph)
    total = b.constant(0.0, float64)
    for v in values:
        weights = graph.add_input(v.type, "weights")
        feeds.append(rng.normal(size=v.shape))
        total = b.add(total, b.sum(b.mul(v, weights), axes=tuple(range(v.type.rank))))
    return total


def check_finite_differences(case: Case, order: int, rng: np.random.Generator) -> None:
    """Gradients of the ``order``-th derivative graph along random directions against a seven-point difference."""
    graph = Graph()
    inputs = [
        graph.add_input(TensorType(dtype_from_numpy(a.dtype), a.shape), f"x{i}") for i, a in enumerate(case.inputs)
    ]
    node = GraphBuilder(graph).emit(case.op, inputs, **case.attrs)
    unruled = registry.get(case.op).unruled
    wrt = [v for i, v in enumerate(inputs) if v.dtype.is_floating_point and i not in unruled]
    feeds = list(case.inputs)
    values = [o for o in node.outputs if o.dtype.is_floating_point]
    for _ in range(order):
        loss = weighted_sum(graph, values, rng, feeds)
        values = gradients(graph, loss, wrt)
    for v in [loss, *values]:
        graph.add_output(v)
    verify(graph)
    value, *exact = interpret(graph, feeds)
    for v, grad in zip(wrt, exact, strict=True):
        i = inputs.index(v)
        assert grad.shape == feeds[i].shape and grad.dtype == np.float64
        if not grad.size:
            continue
        direction = rng.normal(size=grad.shape)
        direction /= max(1.0, float(np.abs(direction).max()))  # stay within the margin around kinks
        numeric, size = 0.0, abs(float(value))
        for offset, weight in STENCIL:
            moved = [*feeds[:i], feeds[i] + offset * STEP * direction, *feeds[i + 1 :]]
            result = float(interpret(graph, moved)[0])
            size = max(size, abs(result))
            numeric += weight * result / STEP
        expected = float((grad * direction).sum())
        scale = float(np.abs(grad * direction).sum()) + size + 1
        assert abs(numeric - expected) <= 1e-7 * scale, f"{case}, operand {i}: {expected}, difference {numeric}"


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_gradient_of_every_operator(op: str, seed: int) -> None:
    for case in gradient_cases(op, seed):
        check_finite_differences(case, 1, np.random.default_rng(seed))


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_second_gradient_of_every_operator(op: str, seed: int) -> None:
    for case in gradient_cases(op, seed)[:3]:
        check_finite_differences(case, 2, np.random.default_rng(seed))


def test_every_operator_with_a_rule_is_checked() -> None:
    with_rule = {name for name, record in registry.OPS.items() if record.vjp or record.decompose}
    # Piecewise constant operators have a rule that says "no gradient"; layout_cast is the identity.
    assert with_rule - set(DIFFERENTIABLE) <= {"layout_cast", "sign", "floor", "ceil", "round", "trunc"}


# -- structure --------------------------------------------------------------------------------------
def test_before_and_after() -> None:
    graph = build(lambda b, x, w: b.sum(b.relu(b.matmul(x, w)), axes=(0, 1)), (2, 3), (3, 4))
    (dw,) = gradients(graph, graph.outputs[0], [graph.inputs[1]])
    graph.add_output(dw)
    for p in (Simplify(), FoldConstants(), DeadCodeElimination()):
        p.run(graph, PassContext())
    assert dw.name == "grad.x1"
    assert_graph_equal(
        graph,
        """
        graph main(%x0: float32[2, 3] input, %x1: float32[3, 4] input) {
          %y = matmul(%x0, %x1) {transpose_a = false, transpose_b = false} : float32[2, 4]
          %r = relu(%y) : float32[2, 4]
          %s = sum(%r) {axes = (0, 1), keepdims = false} : float32[]
          %zero = constant() {value = float32[](0.0)} : float32[]
          %off = le(%r, %zero) : bool[2, 4]
          %zero_1 = constant() {value = float32[](0.0)} : float32[]
          %one = constant() {value = float32[1, 1](1.0)} : float32[1, 1]
          %d = where(%off, %zero_1, %one) : float32[2, 4]
          %dw = matmul(%x0, %d) {transpose_a = true, transpose_b = false} : float32[3, 4]
          return %s as "0", %dw as "1"
        }""",
    )


def test_only_what_lies_between_is_differentiated() -> None:
    def make(b: Any, x: Any, y: Any) -> Any:
        return b.sum(b.mul(b.exp(x), b.cast(b.gt(y, 0.0), dtype=float32)), axes=(0,))

    graph = build(make, (3,), (3,))
    for v in gradients(graph, graph.outputs[0], graph.inputs):
        graph.add_output(v)
    x, y = np.array([0, 1, 2], np.float32), np.array([1, -1, 1], np.float32)
    _, gx, gy = interpret(graph, [x, y])
    np.testing.assert_allclose(gx, np.exp(x) * (y > 0), rtol=1e-6)
    assert not gy.any() and gy.shape == (3,)  # the path through a comparison carries nothing


def test_gradients_that_nobody_asked_for_are_not_built() -> None:
    def make(b: Any, x: Any, w: Any) -> Any:
        return b.sum(b.conv(x, w, stride=(1,), padding=((0, 0),), dilation=(1,), groups=1), axes=(0, 1, 2))

    graph = build(make, (2, 3, 5), (4, 3, 2))
    gradients(graph, graph.outputs[0], [graph.inputs[1]])
    assert "conv_weight_grad" in ops(graph)
    assert "conv_transpose" not in ops(graph)


def test_gradients_of_a_value_used_often_are_summed() -> None:
    graph = build(lambda b, x: b.sum(b.mul(b.add(x, x), b.mul(x, x)), axes=(0,)), (4,), dtype=float64)
    graph.add_output(gradients(graph, graph.outputs[0], graph.inputs)[0])
    x = np.array([1.0, -2, 3, 0.5])
    np.testing.assert_allclose(interpret(graph, [x])[1], 6 * x**2)


def test_intermediate_values_and_the_loss_itself() -> None:
    graph = build(lambda b, x: b.sum(b.exp(b.mul(x, 2.0)), axes=(0,)), (3,), dtype=float64)
    (loss,), (x,) = graph.outputs, graph.inputs
    middle = graph.find("mul")[0].output
    for v in gradients(graph, loss, [middle, x, loss]):
        graph.add_output(v)
    a = np.array([0.1, 0.2, -1])
    _, dm, dx, dl = interpret(graph, [a])
    np.testing.assert_allclose(dm, np.exp(2 * a))
    np.testing.assert_allclose(dx, 2 * np.exp(2 * a))
    assert dl == 1


def test_unused_values_get_zeros_of_their_type() -> None:
    n = Dim("N").expr
    graph = build(lambda b, x, y: b.sum(x, axes=(0,)), (Dim("N"),), TensorType(float64, (n, 2)))
    (dy,) = gradients(graph, graph.outputs[0], [graph.inputs[1]])
    assert (dy.dtype, dy.shape) == (float64, (n, 2))
    graph.add_output(dy)
    assert not interpret(graph, [np.ones(4, np.float32), np.ones((4, 2))])[1].any()


def test_several_losses_with_given_gradients() -> None:
    graph = build(lambda b, x, g: [b.exp(x), b.mul(x, 3.0), g], (3,), (3,), dtype=float64)
    first, second, seed = graph.outputs
    (dx,) = gradients(graph, [first, second], [graph.inputs[0]], grad_outputs=[seed, seed])
    graph.add_output(dx)
    x, g = np.array([0.0, 1, 2]), np.array([1.0, 10, 100])
    np.testing.assert_allclose(interpret(graph, [x, g])[-1], g * (np.exp(x) + 3))


def test_third_derivative() -> None:
    graph = build(lambda b, x: b.sum(b.pow(x, 4.0), axes=(0,)), (3,), dtype=float64)
    b, value = GraphBuilder(graph), graph.outputs[0]
    for _ in range(3):
        (d,) = gradients(graph, value, graph.inputs)
        value = b.sum(d, axes=(0,))
    graph.add_output(d)
    x = np.array([0.5, -1, 2])
    np.testing.assert_allclose(interpret(graph, [x])[1], 24 * x)


def test_sources_are_those_of_the_forward_nodes() -> None:
    def make(b: Any, x: Any) -> Any:
        b.source = Source("net.py", 1, "act")
        y = b.silu(x)
        b.source = Source("net.py", 2, "loss")
        return b.mean(y, axes=(0,))

    graph = build(make, (3,))
    count = len(graph)
    gradients(graph, graph.outputs[0], graph.inputs)
    new = graph.nodes[count:]
    assert {n.source.line for n in new} == {1, 2}
    assert new[0].source.line == 2 and new[-1].source.line == 1


def test_decompositions_stand_in_for_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    for op in ("gelu", "layer_norm"):
        monkeypatch.setitem(registry.OPS, op, dataclasses.replace(registry.OPS[op], vjp=None))
        for case in gradient_cases(op, 3):
            check_finite_differences(case, 1, np.random.default_rng(3))
        check_finite_differences(gradient_cases(op, 3)[0], 2, np.random.default_rng(3))
    graph = build(lambda b, x: b.sum(b.gelu(x), axes=(0,)), (3,))
    forward = len(graph)
    before = graph.nodes[:forward]
    graph.add_output(gradients(graph, graph.outputs[0], graph.inputs)[0])
    assert graph.nodes[:forward] == before  # the forward part is untouched
    assert ops(graph).count("erf") == 1  # recomputed; shared with the forward part once that is decomposed
    PassManager([Decompose(), CommonSubexpressions()]).run(graph)
    assert ops(graph).count("erf") == 1


# -- refusals -----------------------------------------------------------------------------------------
def test_all_operators_without_a_rule_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    for op in ("exp", "tanh"):
        monkeypatch.setitem(registry.OPS, op, dataclasses.replace(registry.OPS[op], vjp=None))

    def make(b: Any, x: Any) -> Any:
        b.source = Source("net.py", 4, "layer1")
        y = b.add(b.exp(x), b.exp(b.constant(np.float32(1))))  # the second is not on the way
        b.source = Source("net.py", 9, "layer2")
        return b.sum(b.tanh(y), axes=(0,))

    graph = build(make, (3,))
    before = canonical(graph), len(graph)
    with pytest.raises(UnsupportedError, match="no gradient is defined for") as info:
        gradients(graph, graph.outputs[0], graph.inputs)
    assert info.value.items == ("tanh(float32[3]) at layer2 (net.py:9)",)
    monkeypatch.setitem(registry.OPS, "tanh", dataclasses.replace(registry.OPS["tanh"], vjp=registry.OPS["relu"].vjp))
    with pytest.raises(UnsupportedError) as info:
        gradients(graph, graph.outputs[0], graph.inputs)
    assert info.value.items == ("exp(float32[3]) at layer1 (net.py:4)",)
    assert (canonical(graph), len(graph)) == before  # nothing was left behind


def test_bad_arguments() -> None:
    graph = build(lambda b, x, i: [b.exp(x), b.sum(x, axes=(0,)), b.add(i, i)], (3,), TensorType(int64, (3,)))
    vector, scalar, integers = graph.outputs
    x, i = graph.inputs
    with pytest.raises(ShapeError, match=r"the loss %exp has shape \[3\]; without grad_outputs"):
        gradients(graph, vector, [x])
    with pytest.raises(ShapeError, match=r"grad_outputs of %exp is float32\[\], expected float32\[3\]"):
        gradients(graph, vector, [x], grad_outputs=scalar)
    with pytest.raises(DTypeError, match="%x1 is int64; only floating values have gradients"):
        gradients(graph, scalar, [i])
    with pytest.raises(DTypeError, match="%add is int64"):
        gradients(graph, integers, [x])
    with pytest.raises(IngotError, match="1 loss values but 2 grad_outputs"):
        gradients(graph, vector, [x], grad_outputs=[x, x])


def test_rules_that_lie_about_types_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = dataclasses.replace(registry.OPS["exp"], vjp=lambda g, node, grads: [g.sum(grads[0], axes=(0,))])
    monkeypatch.setitem(registry.OPS, "exp", bad)
    graph = build(lambda b, x: b.sum(b.exp(x), axes=(0,)), (3,))
    count = len(graph)
    with pytest.raises(VerifyError, match=r"gave float32\[\] for operand 0, %x0: float32\[3\]"):
        gradients(graph, graph.outputs[0], graph.inputs)
    assert len(graph) == count


def test_ten_thousand_nodes_take_linear_time() -> None:
    def seconds(n: int) -> float:
        def make(b: Any, x: Any) -> Any:
            for _ in range(n // 2):
                x = b.add(b.neg(x), x)
            return b.sum(x, axes=(0,))

        graph = build(make, (3,))
        start = time.process_time()
        gradients(graph, graph.outputs[0], graph.inputs)
        return time.process_time() - start

    seconds(100)
    assert seconds(10_000) < 2.0
