"""Decomposition into simpler operators, as far as kernels do not exist."""

from __future__ import annotations

from typing import Any

import pytest
from graph_utils import build, ops, run_pass
from ingot.ir import registry
from ingot.ir.graph import Node
from ingot.ir.source import Source
from ingot.passes.decompose import Decompose


class Kernels:
    """A kernel library that supports some operators by name."""

    def __init__(self, *known: str) -> None:
        self.known = known

    def supports(self, node: Node) -> str | None:
        return None if node.op in self.known else f"no kernel for {node.op}"


def test_before_and_after() -> None:
    run_pass(
        build(lambda b, x: b.softmax(x, axis=1), (2, 3)), Decompose(), rewrites=1, exact=False,
        expected="""
        graph main(%x0: float32[2, 3] input) {
          %m = amax(%x0) {axes = (1), keepdims = true} : float32[2, 1]
          %s = sub(%x0, %m) : float32[2, 3]
          %e = exp(%s) : float32[2, 3]
          %t = sum(%e) {axes = (1), keepdims = true} : float32[2, 1]
          %y = div(%e, %t) : float32[2, 3]
          return %y as "0"
        }""",
    )  # fmt: skip


def test_operators_with_kernels_stay() -> None:
    def make(b: Any, x: Any) -> Any:
        return b.softmax(b.silu(x), axis=1)

    graph = build(make, (2, 3))
    ctx = run_pass(graph, Decompose(), rewrites=1, exact=False, kernels=Kernels("softmax", "mul", "sigmoid"))
    assert ops(graph) == ["sigmoid", "mul", "softmax"]
    assert "it has a kernel" in str(ctx.why_not("softmax")[0])
    run_pass(build(make, (2, 3)), Decompose(), rewrites=0, kernels=Kernels("softmax", "silu"))


def test_operators_without_a_rule_stay() -> None:
    run_pass(build(lambda b, x: b.exp(b.cast(b.sum(x, axes=(0,)), dtype=x.dtype)), (2, 3)), Decompose(), rewrites=0)


def test_parts_are_decomposed_in_turn_and_keep_the_source() -> None:
    graph = build(lambda b, x: b.elu(x, alpha=2.0), (5,))  # elu uses clamp, which has parts itself
    node = graph.find("elu")[0]
    node.source = Source("net.py", 5, "act")
    run_pass(graph, Decompose(), rewrites=2, exact=False)
    assert not [n.op for n in graph if registry.get(n.op).decompose]
    assert all(n.source == Source("net.py", 5, "act") for n in graph if n.op != "constant" or n.output.users)


def test_several_results() -> None:
    def make(b: Any, x: Any, w: Any, c: Any) -> Any:
        return list(b.batch_norm_train(x, w, c, eps=1e-3))

    graph = build(make, (4, 3, 2), (3,), (3,))
    run_pass(graph, Decompose(), rewrites=1, exact=False)
    assert "batch_norm_train" not in ops(graph)


@pytest.mark.parametrize("op", sorted(n for n, r in registry.OPS.items() if r.decompose))
def test_every_decomposition_equals_its_reference(op: str) -> None:
    op_cases = pytest.importorskip("op_cases")
    from ingot.ir.dtypes import dtype_from_numpy, float32
    from ingot.ir.types import TensorType

    for case in op_cases.cases(op, 11, only=[float32])[:6]:
        types = [TensorType(dtype_from_numpy(a.dtype), a.shape) for a in case.inputs]
        graph = build(lambda b, *v, case=case: b.emit(op, v, **case.attrs).outputs, *types)
        run_pass(graph, Decompose(), exact=False, inputs=case.inputs)
        assert op not in ops(graph)
