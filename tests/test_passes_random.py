"""Random graphs, and their gradients, mean the same before and after all algebraic passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_utils import random_inputs
from ingot.ir.builder import GraphBuilder
from ingot.ir.differentiate import gradients
from ingot.ir.dtypes import float64
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import interpret
from ingot.ir.types import TensorType
from ingot.passes.cse import CommonSubexpressions
from ingot.passes.dce import DeadCodeElimination
from ingot.passes.decompose import Decompose
from ingot.passes.fold_batch_norm import FoldBatchNorm
from ingot.passes.fold_constants import FoldConstants
from ingot.passes.manager import Fixpoint, PassManager
from ingot.passes.simplify import Simplify

Rng = np.random.Generator
UNARY = ["neg", "abs", "exp", "relu", "sigmoid", "tanh", "identity", "silu", "sign", "floor"]
BINARY = ["add", "sub", "mul", "maximum", "minimum"]
NUMBERS = [0.0, 1.0, -1.0, 2.0, 0.5, 4.0, 3.0]


def small(shape: tuple[int, ...]) -> bool:
    return int(np.prod(shape)) <= 200


def unary(rng: Rng, b: Any, pool: list[Value]) -> Value:
    return getattr(b, str(rng.choice(UNARY)))(b.tanh(pick(rng, pool)))  # tanh keeps everything in range


def binary(rng: Rng, b: Any, pool: list[Value]) -> Value:
    return getattr(b, str(rng.choice(BINARY)))(pick(rng, pool), pick(rng, pool))


def with_number(rng: Rng, b: Any, pool: list[Value]) -> Value:
    number = b.constant(float(rng.choice(NUMBERS)), float64)
    x = pick(rng, pool)
    if rng.random() < 0.3:
        number = b.expand(number, shape=x.shape)
    op = str(rng.choice([*BINARY, "div"]))
    if op == "div":
        return b.div(x, b.constant(float(rng.choice([1, 2, 0.25, 3, -1])), float64))
    return getattr(b, op)(*((x, number) if rng.random() < 0.7 else (number, x)))


def power(rng: Rng, b: Any, pool: list[Value]) -> Value:
    return b.pow(b.add(b.abs(pick(rng, pool)), 1.0), float(rng.choice([0, 1])))  # other powers change the last bit


def choice(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x, y = pick(rng, pool), pick(rng, pool)
    cond = b.gt(x, y) if rng.random() < 0.7 else b.constant(bool(rng.random() < 0.5))
    return b.where(b.logical_not(cond) if rng.random() < 0.5 else cond, x, y)


def permute(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x = pick(rng, pool)
    return b.permute(x, dims=tuple(rng.permutation(x.type.rank).tolist()))


def reshape(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x = pick(rng, pool)
    flat = b.reshape(x, shape=(int(np.prod(x.shape)),))
    return flat if rng.random() < 0.3 else b.reshape(flat, shape=tuple(rng.permutation(x.shape).tolist()))


def expand(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x = pick(rng, pool)
    return b.expand(x, shape=(int(rng.integers(1, 3)), *x.shape) if x.type.rank < 3 else x.shape)


def flip(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x = pick(rng, pool)
    return b.flip(x, axes=tuple(a for a in range(x.type.rank) if rng.random() < 0.5))


def cut(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x = pick(rng, pool)
    starts = [int(rng.integers(0, e)) if rng.random() < 0.4 else 0 for e in x.shape]
    stops = [int(rng.integers(s + 1, e + 1)) if rng.random() < 0.4 else e for s, e in zip(starts, x.shape, strict=True)]
    return b.slice(x, starts=tuple(starts), stops=tuple(stops), steps=tuple(rng.integers(1, 3, len(starts)).tolist()))


def pad(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x = pick(rng, pool)
    low, high, interior = (tuple(rng.integers(0, 2, x.type.rank).tolist()) for _ in range(3))
    return b.pad(x, low=low, high=high, interior=interior if rng.random() < 0.2 else (0,) * len(low), value=0.0)


def concat(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x = pick(rng, pool)
    axis = int(rng.integers(0, x.type.rank)) if x.type.rank else None
    if axis is None:
        return b.neg(x)
    fits = [v for v in pool if v.type.rank == x.type.rank and all(
        a == c for i, (a, c) in enumerate(zip(v.shape, x.shape, strict=True)) if i != axis)]  # fmt: skip
    return b.concat(*(fits[int(i)] for i in rng.integers(0, len(fits), int(rng.integers(1, 4)))), axis=axis)


def reduce(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x = pick(rng, pool)
    axes = tuple(a for a in range(x.type.rank) if rng.random() < 0.4)
    return getattr(b, str(rng.choice(["sum", "mean", "amax"])))(x, axes=axes, keepdims=bool(rng.random() < 0.5))


def matmul(rng: Rng, b: Any, pool: list[Value]) -> Value:
    x = pick(rng, pool)
    if x.type.rank != 2:
        return b.neg(x)
    return b.matmul(b.permute(x, dims=(1, 0)), x)


STEPS = [unary, binary, binary, with_number, with_number, power, choice, permute, reshape, expand, flip, cut, pad,
         concat, reduce, matmul]  # fmt: skip


def pick(rng: Rng, pool: list[Value]) -> Value:
    return pool[-1 - min(int(rng.geometric(0.3)) - 1, len(pool) - 1)]  # recent values first, so that chains form


def random_graph(rng: Rng, nodes: int = 30) -> Graph:
    graph = Graph()
    b = GraphBuilder(graph)
    pool = [graph.add_input(TensorType(float64, s), f"x{i}") for i, s in enumerate([(2, 3), (3,), (2, 1, 3)])]
    pool.append(b.constant(rng.normal(size=(2, 3))))
    while len(graph) < nodes:
        step: Callable[..., Value] = STEPS[int(rng.integers(len(STEPS)))]
        last = next(reversed(graph), None)
        try:
            value = step(rng, b, pool)
        except RuntimeError:  # shapes that do not broadcast
            continue
        if value not in pool and small(value.shape) and value.producer is not last:
            pool.append(value)
    for value in pool[-3:]:
        graph.add_output(value)
    return graph


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("number", range(12))
def test_results_stay(number: int, differentiated: bool, seed: int) -> None:
    rng = np.random.default_rng([seed, number])
    graph = random_graph(rng)
    if differentiated:
        ones = [GraphBuilder(graph).full(o.shape, 1.0, o.dtype) for o in graph.outputs]
        for v in gradients(graph, graph.outputs, graph.inputs, grad_outputs=ones):
            graph.add_output(v)
    inputs = random_inputs(graph, seed)
    before = interpret(graph, inputs)
    passes = [FoldBatchNorm(), Decompose(), Fixpoint("clean", [
        FoldConstants(), Simplify(), CommonSubexpressions(), DeadCodeElimination()])]  # fmt: skip
    PassManager(passes, check_modified=True).run(graph)
    for i, (old, new) in enumerate(zip(before, interpret(graph, inputs), strict=True)):
        np.testing.assert_allclose(new, old, rtol=1e-9, atol=1e-9 * np.nanmax(np.abs(old[np.isfinite(old)]), initial=1),
                                   err_msg=f"result {i} (seed {seed}, number {number})")  # fmt: skip
