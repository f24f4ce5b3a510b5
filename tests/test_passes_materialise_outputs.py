"""Outputs that are inputs, in particular inputs that the same step overwrites."""

from __future__ import annotations

import numpy as np
import pytest
from graph_utils import ops, run_pass
from ingot.driver import Options, build
from ingot.ir.builder import GraphBuilder
from ingot.ir.dtypes import float32
from ingot.ir.graph import Graph
from ingot.ir.types import TensorType
from ingot.passes.materialise_outputs import MaterialiseOutputs
from ingot.runtime.executable import Executable

VECTOR = TensorType(float32, (6,))


def _run(graph: Graph, *arrays: np.ndarray) -> list[np.ndarray]:
    return Executable(build(graph, Options())).run(list(arrays))


def _states() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(6, dtype=np.float32), np.arange(6, dtype=np.float32) * 10 + 1


@pytest.mark.parametrize("with_nodes", [False, True])
def test_states_that_swap(with_nodes: bool) -> None:
    graph = Graph()
    a, b = graph.add_input(VECTOR, "a", "state"), graph.add_input(VECTOR, "b", "state")
    if with_nodes:
        graph.add_output(GraphBuilder(graph).add(a, b))
    graph.add_output(b, "a", updates=a)
    graph.add_output(a, "b", updates=b)
    x, y = _states()
    got = _run(graph, x, y)
    np.testing.assert_array_equal(got[-2], _states()[1])
    np.testing.assert_array_equal(got[-1], _states()[0])


def test_the_old_value_is_a_result_too() -> None:
    graph = Graph()
    a = graph.add_input(VECTOR, "a", "state")
    b = GraphBuilder(graph)
    graph.add_output(b.mul(a, 2.0), "a", updates=a)
    graph.add_output(a, "old")
    graph.add_output(b.reshape(a, shape=(2, 3)), "old_square")
    run_pass(graph.clone()[0], MaterialiseOutputs(), rewrites=2)
    new, old, square = _run(graph, _states()[0])
    np.testing.assert_array_equal(new, 2 * _states()[0])
    np.testing.assert_array_equal(old, _states()[0])
    np.testing.assert_array_equal(square, _states()[0].reshape(2, 3))


def test_an_output_that_is_an_input_is_one_copy() -> None:
    graph = Graph()
    a, x = graph.add_input(VECTOR, "a", "state"), graph.add_input(VECTOR, "x")
    graph.add_output(x, "a", updates=a)
    graph.add_output(x, "x")
    run_pass(graph, MaterialiseOutputs(), rewrites=2)
    assert ops(graph) == ["identity", "identity"]


def test_a_state_that_moves_within_itself() -> None:
    graph = Graph()
    a = graph.add_input(VECTOR, "a", "state")
    b = GraphBuilder(graph)
    graph.add_output(b.mul(b.flip(a, axes=(0,)), 0.5), "a", updates=a)
    (got,) = _run(graph, _states()[0])
    np.testing.assert_array_equal(got, _states()[0][::-1] * np.float32(0.5))
