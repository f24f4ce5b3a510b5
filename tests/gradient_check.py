"""Gradients of graphs against finite differences, for the operator tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ingot.ir.builder import GraphBuilder
from ingot.ir.differentiate import gradients
from ingot.ir.dims import Extent, evaluate
from ingot.ir.dtypes import float64
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import bind_symbols, interpret
from ingot.ir.types import TensorType
from ingot.ir.verifier import verify

Build = Callable[..., "Value | tuple[Value, ...]"]


def build_graph(build: Build, shapes: Sequence[Sequence[Extent]]) -> tuple[Graph, GraphBuilder, tuple[Value, ...]]:
    """A graph with one float64 input per shape; ``build(g, *inputs)`` gives its floating results."""
    graph = Graph()
    inputs = [graph.add_input(TensorType(float64, tuple(s)), f"x{i}") for i, s in enumerate(shapes)]
    g = GraphBuilder(graph)
    results = build(g, *inputs)
    return graph, g, results if isinstance(results, tuple) else (results,)


def check_gradients(
    build: Build,
    arrays: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    order: int = 1,
    shapes: Sequence[Sequence[Extent]] | None = None,
    step: float = 1e-5,
) -> None:
    """Compare the gradients (up to ``order``) with central differences along random directions of each input.

    The loss is a random combination of all elements of all results; that of order 2 one of all first gradients.
    ``shapes`` may give symbolic shapes for the inputs.
    """
    arrays = [np.asarray(a, np.float64) for a in arrays]
    graph, g, results = build_graph(build, shapes or [a.shape for a in arrays])
    wrt = list(graph.inputs)
    weights: list[np.ndarray] = []

    def combine(values: Sequence[Value]) -> Value:
        """sum(value * weight) over random weights that are further graph inputs."""
        total = None
        for v in values:
            weight = graph.add_input(v.type, f"weight{len(weights)}")
            weights.append(np.empty(0))
            term = g.sum(g.mul(v, weight), axes=tuple(range(v.type.rank)))
            total = term if total is None else g.add(total, term)
        assert total is not None
        return total

    targets: list[tuple[Value, list[Value]]] = []
    values: Sequence[Value] = results
    for _ in range(order):
        loss = combine(values)
        grads = gradients(graph, loss, wrt)
        targets.append((loss, grads))
        values = grads
    for loss, grads in targets:
        graph.add_output(loss)
        for v in grads:
            graph.add_output(v)
    verify(graph)

    symbols = bind_symbols(build_graph(build, [v.shape for v in wrt])[0], [a.shape for a in arrays])
    for i, v in enumerate(graph.inputs[len(wrt) :]):
        weights[i] = rng.standard_normal([evaluate(e, symbols) for e in v.shape])

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return interpret(graph, [*inputs, *weights])

    base = run(arrays)
    per_order = 1 + len(wrt)
    for k in range(order):
        for i, x in enumerate(arrays):
            for _ in range(2):
                direction = rng.standard_normal(x.shape)
                moved = [run([*arrays[:i], x + s * step * direction, *arrays[i + 1 :]]) for s in (1, -1)]
                numeric = float(moved[0][k * per_order] - moved[1][k * per_order]) / (2 * step)
                grad = base[k * per_order + 1 + i]
                assert grad.shape == x.shape, f"gradient of input {i} has shape {grad.shape}, not {x.shape}"
                exact = float((grad * direction).sum())
                scale = float(np.abs(grad * direction).sum()) + abs(float(base[k * per_order])) + 1.0
                # Central differences cancel about half of the digits at most.
                assert abs(numeric - exact) <= 10 * float64.eps**0.5 * scale, (
                    f"order {k + 1}, input {i}: derivative {exact}, central difference {numeric}"
                )
