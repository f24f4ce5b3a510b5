"""Projections of one operand become one product."""

from __future__ import annotations

import ingot
import numpy as np
import pytest
from graph_utils import build, ops, random_inputs
from ingot import nn
from ingot.ir.interpreter import interpret
from ingot.ir.verifier import verify
from ingot.nn import functional as F
from ingot.passes.manager import PassContext
from ingot.passes.merge_projections import MergeProjections


def weights(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(graph, rewrites):
    inputs = random_inputs(graph)
    before = interpret(graph, inputs, float64=True)
    assert MergeProjections().run(graph, PassContext()) == rewrites
    verify(graph)
    for a, b in zip(interpret(graph, inputs, float64=True), before, strict=True):
        np.testing.assert_allclose(a, b, 1e-12)


def attend(b, q, k, v):
    return b.matmul(b.softmax(b.matmul(b.mul(q, 0.5), k, transpose_b=True), axis=q.type.rank - 1), v)


@pytest.mark.parametrize("transposed", [False, True])
def test_three_projections_with_and_without_bias(transposed) -> None:
    def make(b, x):
        def linear(seed, n, bias):
            w = weights(*((n, 8) if transposed else (8, n)), seed=seed)
            y = b.matmul(x, b.constant(w), transpose_b=transposed)
            return b.add(y, b.constant(weights(n, seed=9))) if bias else y

        def heads(y):
            return b.permute(b.reshape(y, shape=(2, 5, 2, y.shape[-1] // 2)), dims=(0, 2, 1, 3))

        return attend(b, heads(linear(0, 6, True)), heads(linear(1, 6, False)), heads(linear(2, 4, True)))

    graph = build(make, (2, 5, 8))
    run(graph, 3)
    assert ops(graph).count("matmul") == 3 and ops(graph).count("slice") == 3 and ops(graph).count("add") == 1


def test_keys_and_values_of_a_memory() -> None:
    def make(b, x, memory):
        return attend(b, b.matmul(x, b.constant(weights(8, 6))), *(
            b.matmul(memory, b.constant(weights(8, 6, seed=s))) for s in (1, 2)
        ))  # fmt: skip

    graph = build(make, (5, 8), (7, 8))
    run(graph, 2)
    assert ops(graph).count("matmul") == 4


@pytest.mark.parametrize("case", ["read elsewhere", "a result", "weights of the graph", "different directions"])
def test_what_is_left_alone(case) -> None:
    def make(b, x, w):
        given = case == "weights of the graph"
        q = b.matmul(x, w if given else b.constant(weights(8, 6)))
        k = b.matmul(x, b.constant(weights(6, 8, seed=1)), transpose_b=True) if case == "different directions" else (
            b.matmul(x, w if given else b.constant(weights(8, 6, seed=1)))
        )  # fmt: skip
        out = attend(b, q, k, x)
        if case == "a result":
            return out, q
        return b.mul(out, b.matmul(b.relu(q), b.constant(weights(6, 8)))) if case == "read elsewhere" else out

    graph = build(make, (5, 8), (8, 6))
    run(graph, 0)


class Attention(nn.Module):
    def __init__(self, width, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, kv_heads * self.size, bias=False)
        self.v = nn.Linear(width, kv_heads * self.size)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        n, length, width = x.shape

        def split(y, heads):
            return y.reshape(n, length, heads, self.size).transpose(1, 2)

        q, k, v = split(self.q(x), self.heads), split(self.k(x), self.kv_heads), split(self.v(x), self.kv_heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).reshape(n, length, width))


def test_a_layer_becomes_three_kernels() -> None:
    ingot.manual_seed(0)
    layer = Attention(48, 6, 2).eval()
    x = np.random.default_rng(0).standard_normal((2, 21, 48)).astype(np.float32)
    run_ = ingot.compile(layer, ingot.from_numpy(x))
    np.testing.assert_allclose(run_(x), layer(ingot.from_numpy(x)).detach().numpy(), 1e-4, 1e-5)
    assert [s.label.split(": ")[-1] for s in run_.program.steps] == ["matmul+add", "attention", "matmul+add"]
