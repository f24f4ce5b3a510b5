"""Constant folding and what it must leave alone."""

from __future__ import annotations

import numpy as np
from graph_utils import build, ops, run_pass
from ingot.ir.dims import Dim
from ingot.ir.dtypes import float32, int64
from ingot.passes.dce import DeadCodeElimination
from ingot.passes.fold_constants import FoldConstants

FOLD = FoldConstants()


def test_before_and_after() -> None:
    def make(b, x):
        c = b.mul(b.constant(np.array([1, 2], np.float32)), 3.0)
        return b.add(x, b.reshape(b.neg(c), shape=(2, 1)))

    run_pass(
        build(make, (2, 2)), [FOLD, DeadCodeElimination()], rewrites=3 + 4,
        expected="""
        graph main(%x0: float32[2, 2] input) {
          %c = constant() {value = float32[2, 1](-3.0, -6.0)} : float32[2, 1]
          %a = add(%x0, %c) : float32[2, 2]
          return %a as "0"
        }""",
    )  # fmt: skip


def test_names_and_sources_stay() -> None:
    graph = build(lambda b, x: b.add(x, b.neg(b.constant(np.float32(1)))), (2,))
    node = graph.find("neg")[0]
    node.output.name = "weight"
    run_pass(graph, FOLD, rewrites=1)
    folded = graph.find("add")[0].inputs[1]
    assert folded.constant == -1
    assert folded.name.startswith("weight")
    assert folded.producer.source == node.source


def test_size_limit() -> None:
    def make(b, x):
        row, column = b.constant(np.ones((1, 300), np.float32)), b.constant(np.ones((300, 1), np.float32))
        return b.add(x, b.mul(row, column))

    ctx = run_pass(build(make, (1,)), FOLD, rewrites=0)
    assert "360000 bytes, its operands 2400, the limit is 65536" in str(ctx.why_not("mul")[0])
    run_pass(build(make, (1,)), FOLD, rewrites=1, options={"fold_limit": 1 << 20})


def test_large_results_no_larger_than_their_operands_are_folded() -> None:
    weight = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
    graph = build(lambda b, x: b.matmul(x, b.permute(b.constant(weight), dims=(1, 0))), (2, 300))
    run_pass(graph, FOLD, rewrites=1, exact=False)  # a product may round otherwise when its operand lies otherwise
    assert ops(graph) == ["matmul"]


def test_broadcasts_are_never_materialised() -> None:
    run_pass(build(lambda b, x: b.add(x, b.full((2, 2), 1.0, x.dtype)), (2, 2)), FOLD, rewrites=0)


def test_sequences_only_while_small() -> None:
    small = build(lambda b: b.neg(b.iota(shape=(5,), axis=0, dtype=int64)))
    run_pass(small, FOLD, rewrites=2)
    large = build(lambda b: b.neg(b.iota(shape=(5000,), axis=0, dtype=int64)))
    ctx = run_pass(large, FOLD, rewrites=0)
    assert "40000 bytes generated" in str(ctx.why_not("iota")[0])


def test_symbolic_shapes_and_random_numbers_stay() -> None:
    n = Dim("N").expr

    def make(b, x):
        state = b.constant(np.array([1, 2], np.int64))
        return [x, b.iota(shape=(n,), axis=0, dtype=int64), b.random_uniform(state, shape=(2,), dtype=float32)]

    ctx = run_pass(build(make, (Dim("N"),)), FOLD, rewrites=0)
    assert {e.reason for e in ctx.log} == {"the result's shape is symbolic", "results differ from run to run"}


def test_several_results_and_special_values() -> None:
    def make(b):
        x = b.constant(np.array([[[1, np.nan, -0.0, 2]]], np.float32))
        values, where = b.max_pool(x, kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,))
        return [values, where, b.div(x, 0.0)]

    run_pass(build(make), FOLD, rewrites=2)


def test_folded_arrays_are_row_major_and_keep_rank_zero() -> None:
    def make(b, x):
        turned = b.permute(b.constant(np.arange(6, dtype=np.float32).reshape(2, 3)), dims=(1, 0))
        return [b.add(x, turned), b.add(x, b.neg(b.constant(np.float32(1))))]

    graph = build(make, (3, 2))
    run_pass(graph, FOLD, rewrites=2)
    turned, number = (n.inputs[1].constant for n in graph.find("add"))
    assert turned.flags.c_contiguous and turned.shape == (3, 2)
    assert number.shape == ()
