"""Compiled gradients of every operator: native loss and gradient against finite differences and the references.

All cases of one operator are one program, each with its own loss ``sum(op(x) * w)``; the differences are taken of
the native losses, so nothing here leans on the interpreter but the last comparison.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
from ingot import driver
from ingot.codegen.lower.table import NOT_LOWERED
from ingot.ir import ops  # noqa: F401  (registers)
from ingot.ir.builder import GraphBuilder
from ingot.ir.differentiate import gradients
from ingot.ir.dtypes import dtype_from_numpy, float64, tolerance
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import interpret
from ingot.ir.registry import OPS
from ingot.ir.types import TensorType
from ingot.runtime.executable import Executable
from op_cases import gradient_cases
from op_sampling import Case

SEED = 31
# Five-point differences: error ~ step**4, rounding ~ 1e-16 / step.
STEP = 2e-3
WEIGHTS = {-2: 1.0, -1: -8.0, 1: 8.0, 2: -1.0}
WITH_CASES = [name for name in OPS if gradient_cases(name, SEED)]
# Operators without native code have eager gradients only (tests/test_autograd.py).
COMPILED = [op for op in WITH_CASES if op not in NOT_LOWERED]


@dataclass
class Part:
    """One case in the common graph: positions of its inputs among the graph's, and of its results."""

    case: Case
    inputs: list[int]  # every input, the weights included
    wrt: list[int]  # those of ``inputs`` with a gradient
    loss: int = -1
    grads: list[int] = field(default_factory=list)


def common_graph(op: str, dtype: type) -> tuple[Graph, list[Part], list[np.ndarray]]:
    """(graph, parts, arrays of all inputs)."""
    graph = Graph(op)
    arrays: list[np.ndarray] = []
    rng = np.random.default_rng(SEED)
    parts = []

    def add(array: np.ndarray) -> Value:
        array = np.array(array, order="C")
        arrays.append(array)
        return graph.add_input(TensorType(dtype_from_numpy(array.dtype), array.shape), f"x{len(arrays)}")

    for case in gradient_cases(op, SEED):
        g = GraphBuilder(graph)
        first = len(arrays)
        inputs = [add(a.astype(dtype) if a.dtype == np.float64 else a) for a in case.inputs]
        attrs = dict(case.attrs)
        if attrs.get("dtype") is float64:
            attrs["dtype"] = dtype_from_numpy(np.dtype(dtype))
        node = g.emit(op, inputs, **attrs)
        loss = None
        for out in node.outputs:
            if out.dtype.is_floating_point:
                weight = add(rng.normal(size=tuple(out.shape)).astype(dtype))
                term = g.sum(g.mul(out, weight), axes=tuple(range(out.type.rank)))
                loss = term if loss is None else g.add(loss, term)
        assert loss is not None
        wrt = [v for v in inputs if v.dtype.is_floating_point]
        part = Part(case, list(range(first, len(arrays))), [graph.inputs.index(v) for v in wrt])
        part.loss = len(graph.outputs)
        graph.add_output(loss)
        for gradient in gradients(graph, loss, wrt):
            part.grads.append(len(graph.outputs))
            graph.add_output(gradient)
        parts.append(part)
    return graph, parts, arrays


def compiled(graph: Graph) -> Executable:
    """``graph`` is optimised in place."""
    return Executable(driver.build(graph, driver.Options()), threads=1)


@pytest.mark.parametrize("op", COMPILED)
def test_compiled_gradients(op: str) -> None:
    graph, parts, arrays = common_graph(op, np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = interpret(graph, arrays)
    run = compiled(graph).run
    found = run(arrays)
    for part in parts:
        rtol, atol = tolerance(float64, depth=max(1, *(a.size for a in part.case.inputs)))
        for k in (part.loss, *part.grads):
            scale = max(1.0, float(np.abs(wanted[k]).max(initial=0)))
            np.testing.assert_allclose(found[k], wanted[k], rtol=rtol, atol=atol * scale, err_msg=str(part.case))

    rng = np.random.default_rng(SEED)
    for _ in range(2):
        directions = {i: rng.normal(size=arrays[i].shape) for part in parts for i in part.wrt}
        losses = {}
        for offset in WEIGHTS:
            moved = [
                np.asarray(a + offset * STEP * directions[i]) if i in directions else a for i, a in enumerate(arrays)
            ]
            results = run(moved)
            losses[offset] = [float(results[part.loss]) for part in parts]
        for p, part in enumerate(parts):
            measured = sum(w * losses[offset][p] for offset, w in WEIGHTS.items()) / (12 * STEP)
            terms = [found[k] * directions[i] for k, i in zip(part.grads, part.wrt, strict=True)]
            claimed = sum(float(t.sum()) for t in terms)
            size = sum(float(np.abs(t).sum()) for t in terms)
            assert abs(claimed - measured) <= 2e-7 * (size + abs(measured) + 1), (
                f"{part.case}: the compiled gradient gives {claimed!r}, finite differences {measured!r}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("op", COMPILED)
def test_compiled_gradients_in_float32(op: str) -> None:
    graph, parts, arrays = common_graph(op, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = interpret(graph, arrays, float64=True)
    found = compiled(graph).run(arrays)
    for part in parts:
        depth = max(1, *(a.size for a in part.case.inputs))
        rtol, atol = tolerance(dtype_from_numpy(np.dtype(np.float32)), depth=8 * depth)
        for k in (part.loss, *part.grads):
            assert found[k].dtype == np.float32
            scale = max(1.0, float(np.abs(wanted[k]).max(initial=0)))
            np.testing.assert_allclose(found[k], wanted[k], rtol=rtol, atol=atol * scale, err_msg=str(part.case))


def test_every_differentiable_operator_is_here() -> None:
    """What has a gradient rule has cases; an operator cannot be forgotten."""
    forgotten = [name for name, op in OPS.items() if op.vjp is not None and name not in WITH_CASES]
    assert not forgotten, forgotten
