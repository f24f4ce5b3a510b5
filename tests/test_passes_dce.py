"""Dead code elimination."""

from __future__ import annotations

from graph_utils import build, run_pass
from ingot.passes.dce import DeadCodeElimination


def test_before_and_after() -> None:
    def make(b, x):
        b.mul(b.exp(x), b.exp(b.neg(x)))  # a whole dead expression
        b.max_pool(x, kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,))
        return b.relu(x)

    run_pass(
        build(make, (1, 2, 4)), DeadCodeElimination(), rewrites=5,
        expected="""
        graph main(%x0: float32[1, 2, 4] input) {
          %a = relu(%x0) : float32[1, 2, 4]
          return %a as "0"
        }""",
    )  # fmt: skip


def test_keeps_nodes_of_which_one_result_is_used() -> None:
    def make(b, x):
        return b.max_pool(x, kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,))[1]

    run_pass(build(make, (1, 2, 4)), DeadCodeElimination(), rewrites=0)


def test_keeps_graph_inputs_and_results_that_update_them() -> None:
    graph = build(lambda b, x, y: b.add(x, 1.0), (3,), (3,))
    graph.updates[0] = 1
    run_pass(graph, DeadCodeElimination(), rewrites=0)
    assert len(graph.inputs) == 2
