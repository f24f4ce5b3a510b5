"""In-place updates run early, and never before the last reader of what they overwrite."""

from __future__ import annotations

import numpy as np
from graph_utils import ops, run_pass
from ingot.ir.builder import GraphBuilder
from ingot.ir.dtypes import float32
from ingot.ir.graph import Graph
from ingot.ir.types import TensorType
from ingot.passes.fuse_contraction import FuseContraction
from ingot.passes.materialise_outputs import MaterialiseOutputs
from ingot.passes.schedule_updates import ScheduleUpdates

MATRIX = TensorType(float32, (4, 4))


def _graph(readers_after: int) -> Graph:
    graph = Graph()
    x, p = graph.add_input(MATRIX, "x"), graph.add_input(MATRIX, "p", "parameter")
    b = GraphBuilder(graph)
    y = b.matmul(x, p)
    for _ in range(3):
        y = b.relu(y)
    for _ in range(readers_after):
        y = b.matmul(y, p)
    graph.add_output(y, "y")
    graph.add_output(b.mul(p, 0.5), "p", updates=p)
    return graph


def test_moves_up_to_the_last_reader() -> None:
    graph = _graph(0)
    run_pass(graph, ScheduleUpdates(), rewrites=1)
    assert ops(graph) == ["matmul", "mul", "relu", "relu", "relu"]


def test_never_before_a_reader() -> None:
    graph = _graph(2)
    run_pass(graph, ScheduleUpdates())
    assert ops(graph)[-3:] == ["matmul", "matmul", "mul"]


def test_materialise_copies_what_has_no_kernel_of_its_own() -> None:
    graph = Graph()
    x = graph.add_input(MATRIX, "x")
    b = GraphBuilder(graph)
    y = b.relu(x)
    for value in (x, y, y, b.reshape(y, shape=(16,)), b.constant(np.ones(3, np.float32))):
        graph.add_output(value)
    run_pass(graph, MaterialiseOutputs(), rewrites=4)
    assert ops(graph) == ["relu", "reshape", "identity", "identity", "identity", "identity"]


def test_an_update_before_a_late_reader_gets_a_copy_at_the_end() -> None:
    graph = Graph()
    x, p = graph.add_input(MATRIX, "x"), graph.add_input(MATRIX, "p", "parameter")
    b = GraphBuilder(graph)
    new = b.add(p, x)
    y = b.matmul(new, p)  # reads the old value after the new one exists
    graph.add_output(y, "y")
    graph.add_output(new, "p", updates=p)
    ctx = run_pass(graph, MaterialiseOutputs(), rewrites=1)
    assert ops(graph) == ["add", "matmul", "identity"]
    assert ctx.count("copy: matmul reads the old value later") == 1


def test_a_gathering_producer_may_not_overwrite_its_operand() -> None:
    graph = Graph()
    p = graph.add_input(MATRIX, "p", "parameter")
    b = GraphBuilder(graph)
    graph.add_output(b.permute(p, dims=(1, 0)), "p", updates=p)
    run_pass(graph, MaterialiseOutputs(), rewrites=1)
    assert ops(graph) == ["permute", "identity"]


def test_an_update_in_a_contraction_epilogue_is_in_place_unless_it_reads_elsewhere() -> None:
    for shifted in (False, True):
        graph = Graph()
        x, p = graph.add_input(MATRIX, "x"), graph.add_input(MATRIX, "p", "parameter")
        b = GraphBuilder(graph)
        product = b.matmul(x, p if shifted else x)
        graph.add_output(b.sub(p, product), "p", updates=p)
        run_pass(graph, [FuseContraction(), MaterialiseOutputs()])
        assert ops(graph) == (["fused", "identity"] if shifted else ["fused"])
