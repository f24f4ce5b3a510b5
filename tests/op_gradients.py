"""Gradient rules against finite differences, on graphs and to second order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ingot.ir import registry
from ingot.ir.builder import GraphBuilder
from ingot.ir.dtypes import dtype_from_numpy
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import interpret
from ingot.ir.types import TensorType
from op_sampling import Case

_STEP = 2e-3  # five-point differences: error ~ step**4, rounding ~ 1e-16 / step
_WEIGHTS = (1.0, -8.0, 8.0, -1.0)
_OFFSETS = (-2, -1, 1, 2)


# Operands that count as constants: nobody has that derivative.
CONSTANT_OPERANDS = {"igamma": (0,), "igammac": (0,)}


def pullback(g: GraphBuilder, seeds: Mapping[Value, Value], wrt: Sequence[Value]) -> list[Value | None]:
    """Gradients of ``sum(value * seed)`` with respect to ``wrt``, by the operators' own rules."""
    grads: dict[Value, Value] = dict(seeds)
    for node in reversed(g.graph.nodes):
        incoming = [grads.get(o) for o in node.outputs]
        vjp = registry.get(node.op).vjp
        if vjp is None or all(i is None for i in incoming):
            continue
        outgoing = vjp(g, node, incoming)
        assert len(outgoing) == len(node.inputs), f"{node.op}: {len(outgoing)} gradients for {len(node.inputs)} inputs"
        for v, d in zip(node.inputs, outgoing, strict=True):
            if d is not None:
                assert (d.dtype, d.shape) == (v.dtype, v.shape), f"{node.op}: the gradient of {v!r} is {d!r}"
                grads[v] = g.add(grads[v], d) if v in grads else d
    return [grads.get(v) for v in wrt]


def forward_graph(case: Case) -> tuple[Graph, list[Value], list[Value]]:
    """(graph, floating inputs, floating outputs) of one application."""
    graph = Graph(case.op)
    inputs = [
        graph.add_input(TensorType(dtype_from_numpy(a.dtype), a.shape), f"x{i}") for i, a in enumerate(case.inputs)
    ]
    node = GraphBuilder(graph).emit(case.op, inputs, **case.attrs)
    constant = CONSTANT_OPERANDS.get(case.op, ())
    return graph, [v for i, v in enumerate(inputs) if v.dtype.is_floating_point and i not in constant], [
        o for o in node.outputs if o.dtype.is_floating_point
    ]


def extend_with_gradient(graph: Graph, outs: Sequence[Value], wrt: Sequence[Value]) -> list[Value | None]:
    """Add one cotangent input per value of ``outs`` and the gradients of their weighted sum."""
    g = GraphBuilder(graph)
    seeds = {o: graph.add_input(o.type, "cotangent") for o in outs}
    return pullback(g, seeds, wrt)


def check(case: Case, rng: np.random.Generator, order: int = 1) -> None:
    """Assert that the case's gradient (``order`` 2: the gradient of its gradient) matches finite differences
    along random directions."""
    graph, wrt, outs = forward_graph(case)
    arrays = list(case.inputs)
    for _ in range(order - 1):
        arrays += [rng.normal(size=tuple(o.shape)) for o in outs]
        found = extend_with_gradient(graph, outs, wrt)
        wrt = [v for v in graph.inputs if v.dtype.is_floating_point]
        outs = [d for d in found if d is not None and d not in wrt]
        if not outs:
            return
    values, copies = graph.clone()
    for o in outs:
        values.add_output(copies[o])
    values.prune()
    cotangents = [rng.normal(size=tuple(o.shape)) for o in outs]
    grads = extend_with_gradient(graph, outs, wrt)
    known = [(v, d) for v, d in zip(wrt, grads, strict=True) if d is not None]
    for _, d in known:
        graph.add_output(d)
    graph.prune()
    results = dict(zip((v for v, _ in known), interpret(graph, [*arrays, *cotangents]), strict=True))

    for _ in range(2):
        directions = {v: rng.normal(size=tuple(v.shape)) for v in wrt}
        claimed = sum(float(np.sum(results[v] * directions[v])) for v in wrt if v in results)
        size = sum(float(np.sum(np.abs(results[v] * directions[v]))) for v in wrt if v in results)
        measured = 0.0
        for weight, offset in zip(_WEIGHTS, _OFFSETS, strict=True):
            moved = [
                np.asarray(a + offset * _STEP * directions[v]) if v in directions else a
                for v, a in zip(graph.inputs, arrays, strict=False)
            ]
            ys = interpret(values, moved)
            measured += weight * sum(float(np.sum(y * c)) for y, c in zip(ys, cotangents, strict=True))
        measured /= 12 * _STEP
        assert abs(claimed - measured) <= 2e-7 * (size + abs(measured) + 1), (
            f"{case}: order {order}: the rules give {claimed!r}, finite differences {measured!r}"
        )
