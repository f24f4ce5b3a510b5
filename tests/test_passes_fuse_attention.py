"""Which graphs become one attention kernel, and which do not."""

from __future__ import annotations

import numpy as np
import pytest
from graph_utils import build, ops, random_inputs
from ingot.codegen.host import target_named
from ingot.codegen.library import NativeKernels
from ingot.ir.dtypes import bool_, float32, int64
from ingot.ir.interpreter import interpret
from ingot.ir.types import TensorType
from ingot.ir.verifier import verify
from ingot.passes.fuse_attention import FuseAttention
from ingot.passes.manager import PassContext

TARGET = target_named("x86-64-avx512")


def run(graph, count):
    """Run the pass: it must find ``count`` groups and leave the results as they are. The context."""
    inputs = random_inputs(graph)
    before = interpret(graph, inputs, float64=True)
    ctx = PassContext(TARGET, NativeKernels(TARGET))
    assert FuseAttention().run(graph, ctx) == count
    verify(graph)
    for a, b in zip(interpret(graph, inputs, float64=True), before, strict=True):
        np.testing.assert_allclose(a, b, 1e-12)
    return ctx


def rest(graph):
    """Operators outside the attention."""
    return [op for op in ops(graph) if op not in ("fused", "constant")]


def attention(b, q, k, v, between=lambda x: x):
    scores = between(b.matmul(q, k, transpose_b=True))
    return b.matmul(b.softmax(scores, axis=scores.type.rank - 1), v)


def test_products_and_softmax_before_and_after() -> None:
    graph = build(attention, (2, 8, 4), (2, 9, 4), (2, 9, 5))
    run(graph, 1)
    assert ops(graph) == ["fused"] and ops(graph.find("fused")[0].regions[0]) == ["matmul", "softmax", "matmul"]


def test_scales_biases_and_masks_between_join() -> None:
    mask = TensorType(bool_, (1, 1, 8, 9))

    def make(b, q, k, v, m, bias):
        def between(x):
            return b.where(m, b.add(b.mul(x, 0.5), b.mul(bias, 2.0)), b.constant(-np.inf, float32))

        return attention(b, q, k, v, between)

    graph = build(make, (2, 3, 8, 4), (2, 3, 9, 4), (2, 3, 9, 5), mask, (8, 9))
    run(graph, 1)
    inner = ops(graph.find("fused")[0].regions[0])
    assert inner.count("matmul") == 2 and "where" in inner and "add" in inner


def test_masks_that_run_along_the_keys_are_turned_once_outside() -> None:
    graph = build(
        lambda b, q, k, v, m: attention(b, q, k, v, lambda x: b.add(x, m)), (3, 8, 4), (3, 9, 4), (3, 9, 5), (8, 9)
    )
    run(graph, 1)
    assert rest(graph) == ["permute"]


def test_masks_by_position_are_computed_in_the_kernel() -> None:
    def make(b, q, k, v):
        rows = b.emit("iota", [], shape=(8, 1), axis=0, dtype=int64).output
        columns = b.emit("iota", [], shape=(1, 9), axis=1, dtype=int64).output
        return attention(b, q, k, v, lambda x: b.where(b.ge(rows, columns), x, b.constant(-np.inf, float32)))

    graph = build(make, (3, 8, 4), (3, 9, 4), (3, 9, 5))
    run(graph, 1)
    assert rest(graph) == []


def test_views_around_it_join_unless_others_need_them() -> None:
    def split(b, x):
        return b.permute(b.reshape(x, shape=(2, 8, 3, 4)), dims=(0, 2, 1, 3))

    def make(b, q, k, v):
        out = attention(b, split(b, q), split(b, k), split(b, v))
        return b.reshape(b.permute(out, dims=(0, 2, 1, 3)), shape=(2, 8, 12))

    graph = build(make, (2, 8, 12), (2, 8, 12), (2, 8, 12))
    run(graph, 1)
    assert rest(graph) == []

    def keeping(b, q, k, v):
        keys = split(b, k)
        return attention(b, split(b, q), keys, split(b, v)), keys  # a cache of keys

    graph = build(keeping, (2, 8, 12), (2, 8, 12), (2, 8, 12))
    run(graph, 1)
    assert rest(graph) == ["reshape", "permute"]


def test_a_result_that_is_no_view_is_written_by_the_kernel_and_copied_afterwards() -> None:
    def make(b, q, k, v):
        out = attention(b, q, k, v)  # [2, 3, 8, 5]; rows of 40 that heads do not divide
        return b.reshape(b.permute(out, dims=(0, 2, 1, 3)), shape=(2, 6, 20))

    graph = build(make, (2, 3, 8, 4), (2, 3, 9, 4), (2, 3, 9, 5))
    run(graph, 1)


@pytest.mark.parametrize(
    "case", ["weights are a result", "weights are read again", "another axis", "weights on the right"]
)
def test_what_is_left_alone(case) -> None:
    def make(b, q, k, v):
        scores = b.matmul(q, k, transpose_b=True)
        weights = b.softmax(scores, axis=0 if case == "another axis" else 2)
        if case == "weights on the right":
            return b.matmul(v, weights, transpose_a=True)
        out = b.matmul(weights, v)
        if case == "weights are a result":
            return out, weights
        return b.mul(out, b.matmul(weights, b.mul(v, v))) if case == "weights are read again" else out

    graph = build(make, (2, 9, 4), (2, 9, 4), (2, 9, 5))
    run(graph, 0)
    assert "softmax" in ops(graph)


def test_refusals_name_the_reason() -> None:
    graph = build(attention, (2, 8, 4), (2, 9, 4), (5, 1, 9, 5))
    ctx = run(graph, 0)
    assert any("more batches" in entry.reason for entry in ctx.log)


def test_two_attentions_in_a_row() -> None:
    def make(b, q, k, v):
        first = attention(b, q, k, v)
        return attention(b, first, first, first)

    graph = build(make, (2, 8, 4), (2, 9, 4), (2, 9, 4))
    run(graph, 2)
    assert ops(graph) == ["fused", "fused"]
