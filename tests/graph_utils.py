"""Helpers for tests on graphs: build, compare by structure, run before and after a pass."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, evaluate
from ingot.ir.dtypes import DType, dtype_from_name, float32, tolerance
from ingot.ir.graph import Graph, Node, Value
from ingot.ir.interpreter import interpret
from ingot.ir.parser import parse_graph
from ingot.ir.printer import print_graph
from ingot.ir.types import TensorType
from ingot.passes.manager import Pass, PassContext, PassManager


def extents(*shape: int | Dim) -> tuple[Any, ...]:
    """A shape with Dims made into extents."""
    return tuple(e.expr if isinstance(e, Dim) else e for e in shape)


def build(
    make: Callable[..., Value | Sequence[Value]], *inputs: Sequence[int | Dim], dtype: DType = float32
) -> Graph:
    """``make(b, x0, x1, ...)`` as a graph; its inputs are called x0, x1, ... and have the given shapes.

    An input may also be a ``TensorType``.
    """
    graph = Graph()
    values = []
    for i, shape in enumerate(inputs):
        type_ = shape if isinstance(shape, TensorType) else TensorType(dtype, extents(*shape))
        values.append(graph.add_input(type_, f"x{i}"))
    results = make(GraphBuilder(graph), *values)
    for value in [results] if isinstance(results, Value) else results:
        graph.add_output(value)
    return graph


def random_inputs(graph: Graph, seed: int = 0, dims: Mapping[str, int] | None = None) -> list[np.ndarray]:
    """Inputs for ``graph``: normal floats, small non-negative integers; Dims take ``dims`` or 3."""
    rng = np.random.default_rng(seed)
    env = {name: 3 for name in graph.symbols} | dict(dims or {})
    out = []
    for value in graph.inputs:
        shape = tuple(evaluate(e, env) for e in value.shape)
        if value.dtype.is_floating_point:
            out.append(rng.normal(size=shape).astype(value.dtype.numpy))
        else:
            out.append(rng.integers(0, 2 if value.dtype.kind == "b" else 4, shape).astype(value.dtype.numpy))
    return out


# -- comparing by structure ---------------------------------------------------------------------------
def canonical(graph: Graph) -> str:
    """Text of ``graph`` that does not depend on names, sources or the order of independent nodes.

    Nodes come in the order in which the results need them, then those nobody needs; results are %0, %1, ...
    """
    copy, _ = graph.clone("main")
    order = _needed_order(copy)
    order += [n for n in copy if n not in set(order)]
    for node in order:
        copy.move_before(node, None)
    for i, value in enumerate(o for n in order for o in n.outputs):
        value.name = str(i)
    copy.output_names = [str(i) for i in range(len(copy.outputs))]
    return re.sub(r"  # .*", "", print_graph(copy))


def _needed_order(graph: Graph) -> list[Node]:
    done: dict[Node, None] = {}
    stack: list[tuple[Node, bool]] = [(o.producer, False) for o in reversed(graph.outputs) if o.producer]
    while stack:
        node, operands_done = stack.pop()
        if node in done:
            continue
        if operands_done:
            done[node] = None
            continue
        stack.append((node, True))
        stack += [(v.producer, False) for v in reversed(node.inputs) if v.producer is not None]
    return list(done)


def assert_graph_equal(graph: Graph, expected: str) -> None:
    """Compare with ``expected``, the text of a graph (any names; arrays behind ``@name`` compare by type only)."""
    text = textwrap.dedent(expected).strip() + "\n"
    arrays = {
        name: np.zeros([int(e) for e in shape.split(",") if e.strip()], dtype_from_name(dtype).numpy)
        for name, dtype, shape in re.findall(r"@([\w.]+)\} : (\w+)\[([\d, ]*)\]", text)
    }
    actual, wanted = canonical(graph), canonical(parse_graph(text, arrays))
    difference = difflib.unified_diff(wanted.splitlines(), actual.splitlines(), "expected", "actual", lineterm="")
    assert actual == wanted, "\n".join(difference)


def ops(graph: Graph) -> list[str]:
    """Operators in order, constants left out."""
    return [n.op for n in graph if n.op != "constant"]


# -- running a pass -----------------------------------------------------------------------------------
def run_pass(
    graph: Graph,
    passes: Pass | Sequence[Pass],
    *,
    rewrites: int | None = None,
    expected: str | None = None,
    exact: bool = True,
    seed: int = 0,
    inputs: Sequence[np.ndarray] | None = None,
    **context: Any,
) -> PassContext:
    """Run one pass or several on ``graph`` in place, verified, and compare results before and after.

    Args:
        rewrites: how many rewrites all passes together must report.
        expected: text that the graph must equal afterwards.
        exact: results must be equal bit for bit (signs of zeros aside), else within the dtype's tolerance.
        inputs: operands; default ``random_inputs(graph, seed)``.
        context: fields of the PassContext.
    """
    arrays = list(inputs) if inputs is not None else random_inputs(graph, seed)
    before = interpret(graph, arrays)
    ctx = PassContext(**context)
    records = PassManager([passes] if isinstance(passes, Pass) else passes, check_modified=True).run(graph, ctx)
    after = interpret(graph, arrays)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        assert old.dtype == new.dtype and old.shape == new.shape, f"result {i}"
        if exact:
            np.testing.assert_array_equal(new, old, err_msg=f"result {i}, seed {seed}")
        else:
            rtol, atol = tolerance(graph.outputs[i].dtype, 64)
            np.testing.assert_allclose(new, old, rtol, atol, err_msg=f"result {i}, seed {seed}")
    if expected is not None:
        assert_graph_equal(graph, expected)
    if rewrites is not None:
        assert sum(r.rewrites for r in records) == rewrites, [str(e) for e in ctx.log]
    return ctx


__all__ = [
    "assert_graph_equal",
    "build",
    "canonical",
    "extents",
    "ops",
    "random_inputs",
    "run_pass",
]
