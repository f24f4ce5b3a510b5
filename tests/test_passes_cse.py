"""Common subexpression elimination."""

from __future__ import annotations

import time

import numpy as np
from graph_utils import build, ops, run_pass
from ingot.ir.dtypes import int64
from ingot.ir.types import TensorType
from ingot.passes.cse import SMALL_CONSTANT, CommonSubexpressions, freeze
from ingot.passes.manager import PassContext

CSE = CommonSubexpressions()


def test_before_and_after() -> None:
    def make(b, x, y):
        first = b.relu(b.add(x, y))
        second = b.relu(b.add(y, x))  # add commutes
        return b.sub(b.mul(first, 2.0), b.mul(second, 2.0))

    ctx = run_pass(
        build(make, (2, 3), (2, 3)), CSE, rewrites=4,
        expected="""
        graph main(%x0: float32[2, 3] input, %x1: float32[2, 3] input) {
          %a = add(%x0, %x1) : float32[2, 3]
          %r = relu(%a) : float32[2, 3]
          %two = constant() {value = float32[](2.0)} : float32[]
          %m = mul(%r, %two) : float32[2, 3]
          %d = sub(%m, %m) : float32[2, 3]
          return %d as "0"
        }""",
    )  # fmt: skip
    assert ctx.count("f(x), f(x) = one f(x)") == 4


def test_operands_of_other_operators_keep_their_order() -> None:
    run_pass(build(lambda b, x, y: [b.sub(x, y), b.sub(y, x)], (3,), (3,)), CSE, rewrites=0)


def test_attributes_tell_apart() -> None:
    def make(b, x):
        return [b.sum(x, axes=(0,)), b.sum(x, axes=(1,)), b.sum(x, axes=(0,), keepdims=True), b.amax(x, axes=(0,))]

    run_pass(build(make, (3, 3)), CSE, rewrites=0)


def test_constants_compare_by_bits_and_dtype() -> None:
    def make(b, x):
        zeros = [b.constant(np.float32(v)) for v in (0.0, -0.0, 0.0, np.nan, np.nan)]
        b.constant(np.int32(0))
        return [b.add(x, z) for z in zeros]

    run_pass(build(make, (3,)), CSE, rewrites=4)  # 0.0 and NaN once more, and what uses them


def test_large_constants_compare_by_identity() -> None:
    big = np.zeros(SMALL_CONSTANT, np.float32)

    def make(b, x):
        return [b.add(x, b.constant(big)), b.add(x, b.constant(big)), b.add(x, b.constant(big.copy()))]

    run_pass(build(make, (1,)), CSE, rewrites=2)


def test_several_results_and_random_numbers() -> None:
    def make(b, x, state):
        a = b.max_pool(x, kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,))
        c = b.max_pool(x, kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,))
        moved = b.add(state, b.constant(np.array([0, 1], np.int64)))
        draws = [b.random_uniform(s, shape=(4,), dtype=x.dtype) for s in (state, state, moved)]
        return [a[0], c[1], *draws]

    graph = build(make, (1, 2, 4), TensorType(int64, (2,)))
    run_pass(graph, CSE, rewrites=2)
    assert ops(graph).count("random_uniform") == 2  # equal states give equal numbers, other states do not


def test_freeze_tells_types_apart() -> None:
    keys = [freeze(v) for v in (1, 1.0, True, 0.0, -0.0, (1,), (1.0,), None, "1")]
    assert len(set(keys)) == len(keys)
    assert freeze(float("nan")) == freeze(float("nan"))


def test_ten_thousand_nodes_take_linear_time() -> None:
    def make(b, x, n):
        for _ in range(n // 2):
            x = b.add(b.neg(x), b.neg(x))
        return x

    def seconds(n: int) -> float:
        graph = build(lambda b, x: make(b, x, n), (3,))
        start = time.process_time()
        assert CSE.run(graph, PassContext()) == n // 2
        return time.process_time() - start

    seconds(100)
    assert seconds(10_000) < 1.0
