"""Contraction, reduction and elementwise fusion."""

from __future__ import annotations

import time

import numpy as np
from fake_kernels import FakeKernels
from graph_utils import build, ops, run_pass
from ingot.passes.fuse_contraction import FuseContraction
from ingot.passes.fuse_elementwise import FuseElementwise, FuseReduction
from ingot.passes.manager import PassContext
from ingot.passes.split_reduction import SplitReduction


def inner(graph, index=0):
    """Operators inside the index-th fused node."""
    return ops(graph.find("fused")[index].regions[0])


def _linear(b, x, n=4, seed=0):
    rng = np.random.default_rng(seed)
    return b.matmul(x, b.constant(rng.standard_normal((x.shape[-1], n)).astype(np.float32)))


def test_matmul_bias_relu_before_and_after() -> None:
    graph = build(lambda b, x, c: b.relu(b.add(b.matmul(x, x), c)), (4, 4), (4,))
    run_pass(graph, FuseContraction(), rewrites=1)
    assert ops(graph) == ["fused"] and inner(graph) == ["matmul", "add", "relu"]


def test_residual_add_and_diamond_join_the_epilogue() -> None:
    def make(b, x):
        y = _linear(b, x)
        gated = b.mul(y, b.sigmoid(y))  # y has two readers, both inside
        return b.relu(b.add(gated, x))

    graph = build(make, (3, 4))
    run_pass(graph, FuseContraction(), rewrites=1)
    assert inner(graph) == ["matmul", "sigmoid", "mul", "add", "relu"]


def test_a_value_that_others_need_is_a_second_result() -> None:
    def make(b, x):
        y = b.add(_linear(b, x), x)
        return b.relu(y), b.matmul(y, y)

    graph = build(make, (4, 4))
    run_pass(graph, FuseContraction(), rewrites=1)
    assert len(graph.find("fused")[0].outputs) == 2


def test_an_operand_that_depends_on_the_group_from_outside_stays_out() -> None:
    def make(b, x):
        y = _linear(b, x)
        outside = b.softmax(y, axis=1)  # not elementwise
        return b.add(y, outside)

    graph = build(make, (3, 4))
    run_pass(graph, FuseContraction(), rewrites=0)
    assert ops(graph) == ["matmul", "softmax", "add"]


def test_two_groups_that_would_wait_for_each_other_are_not_both_formed() -> None:
    def make(b, x):
        p, q = _linear(b, x), _linear(b, x, seed=1)
        p_soft, q_soft = b.softmax(p, axis=0), b.softmax(q, axis=0)
        return b.add(p, q_soft), b.add(q, p_soft)

    graph = build(make, (3, 4))
    run_pass(graph, FuseContraction())  # the verifier would find a cycle


def test_softmax_becomes_one_reduction_group() -> None:
    def make(b, x):
        shifted = b.exp(b.sub(x, b.amax(x, axes=(1,), keepdims=True)))
        return b.div(shifted, b.sum(shifted, axes=(1,), keepdims=True))

    graph = build(make, (256, 7))
    run_pass(graph, FuseReduction(), rewrites=1)
    assert ops(graph) == ["fused"] and inner(graph) == ["amax", "sub", "exp", "sum", "div"]


def test_few_kept_elements_do_not_swallow_full_results() -> None:
    def make(b, x):
        y = b.relu(x)
        return y, b.sum(y, axes=(0,), keepdims=True)

    run_pass(build(make, (8192, 3)), FuseReduction(), rewrites=0)
    # Unless one core is done with everything sooner than a second kernel starts.
    run_pass(build(make, (50, 3)), FuseReduction(), rewrites=1)


def test_elementwise_chain_with_prologues() -> None:
    def make(b, x, y):
        part = b.slice(y, starts=(0, 1), stops=(4, 5), steps=(1, 1))
        return b.mul(b.add(b.exp(x), part), 3.0)

    graph = build(make, (4, 4), (4, 6))
    run_pass(graph, FuseElementwise(), rewrites=1)
    assert inner(graph) == ["exp", "slice", "add", "mul"] or set(inner(graph)) == {"exp", "slice", "add", "mul"}


def test_a_prologue_that_others_read_stays_outside() -> None:
    def make(b, x, y):
        part = b.slice(y, starts=(0, 1), stops=(4, 5), steps=(1, 1))
        return b.mul(b.add(x, part), 3.0), b.matmul(part, part)

    graph = build(make, (4, 4), (4, 6))
    run_pass(graph, FuseElementwise(), rewrites=1)
    assert "slice" in ops(graph)


def test_group_size_is_capped() -> None:
    def make(b, x):
        for _ in range(20):
            x = b.relu(b.neg(x))
        return x

    graph = build(make, (4,))
    run_pass(graph, FuseElementwise(), kernels=FakeKernels(limit=8))
    assert [len(n.regions[0]) for n in graph.find("fused")] == [8, 8, 8, 8, 8]


def test_ten_thousand_nodes_in_linear_time() -> None:
    def make(b, x):
        for _ in range(2500):
            x = b.add(b.relu(b.matmul(x, x)), b.neg(x))
        return x

    graph = build(make, (2, 2))
    start = time.perf_counter()
    FuseContraction().run(graph, PassContext())
    FuseElementwise().run(graph, PassContext())
    assert time.perf_counter() - start < 5.0
    assert len(graph.find("fused")) >= 2500


def test_split_reduction() -> None:
    graph = build(lambda b, x: b.sum(x, axes=(0, 2, 3), keepdims=False), (64, 4, 16, 16))
    run_pass(graph, SplitReduction(), rewrites=1, exact=False)
    assert ops(graph) == ["sum", "sum", "reshape"]
    graph = build(lambda b, x: b.sum(x, axes=(2, 3), keepdims=False), (64, 4, 16, 16))
    run_pass(graph, SplitReduction(), rewrites=0)
