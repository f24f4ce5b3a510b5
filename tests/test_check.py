"""``ingot.checking``: agreement where there is some, and the name of whatever departs."""

from __future__ import annotations

from typing import Any

import ingot
import numpy as np
import pytest
from driver_models import images, mlp, net, rows
from ingot.checking import check_graph, largest_error, relative_l2
from ingot.codegen.lower import arithmetic
from ingot.driver import Options, trace_inference
from ingot.ir.dtypes import float32, int64
from ingot.ir.errors import CheckError
from ingot.passes.cse import CommonSubexpressions

FRESH = Options(cache=False)  # injected faults must not meet cached kernels, nor end up among them


def graph_of(model: Any, *inputs: np.ndarray) -> Any:
    return trace_inference(model, inputs).graph


def test_agreement() -> None:
    graph = graph_of(net(), images(3))
    text = str(graph)
    seen: list[Any] = []
    result = check_graph(graph, [images(3)], Options(), seen.append)
    assert result.rows == seen and all(r.ok for r in result.rows) and str(graph) == text
    assert [r.label for r in result.rows if "+" in r.label] == ["conv+add+relu", "matmul+add"]
    assert any("driver_models.py" in r.source for r in result.rows)
    assert 0 < result.worst_output < 1e-5 and result.pass_errors["fold-batch-norm"] < 1e-5


def test_dynamic_float64_integer_and_several_results() -> None:
    graph = trace_inference(net(), [images(2)], dynamic=ingot.Dim("N", 1, 8)).graph
    check_graph(graph, [images(5)], Options())
    x = rows(4, dtype=np.float64)
    result = check_graph(graph_of(mlp(ingot.float64), x), [x], Options())
    assert all(r.error < 1e-13 for r in result.rows)

    def model(x: Any) -> Any:
        return x.argmax(1), x > 0.5, (x * 10).long().sum(), ingot.softmax(x, 1)

    check_graph(graph_of(model, rows(4)), [rows(4)], Options())


def test_a_result_that_is_a_reshape_of_a_kernels_result() -> None:
    check_graph(graph_of(lambda x: x.exp().reshape(-1), rows(4)), [rows(4)], Options())
    check_graph(graph_of(lambda x: (y := x.exp(), y.reshape(-1), y.tanh()), rows(4)), [rows(4)], Options())


def test_cancellation_in_a_fused_kernel_is_no_fault() -> None:
    def model(x: Any) -> Any:
        return (x + 1000.0) - 1000.0 - x

    check_graph(graph_of(model, rows(64)), [rows(64)], Options())


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arithmetic.RULES, "tanh", arithmetic.RULES["sin"])
    with pytest.raises(CheckError, match=r"matmul\+add\+tanh.* exceeds .*own inputs") as error:
        check_graph(graph_of(mlp(), rows(4)), [rows(4)], FRESH)
    assert "test_check.py" in str(error.value)


def test_a_kernel_that_is_slightly_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    true = arithmetic.RULES["sigmoid"]

    def rule(b: Any, node: Any, args: Any) -> Any:
        y = true(b, node, args)
        return arithmetic.RULES["mul"](b, node, [y, arithmetic.constant(b, node.output.dtype, 1.0001, y.lanes)])

    monkeypatch.setitem(arithmetic.RULES, "sigmoid", rule)
    with pytest.raises(CheckError, match="sigmoid"):
        check_graph(graph_of(ingot.sigmoid, rows(4)), [rows(4)], FRESH)


def test_a_wrong_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Any, graph: Any, ctx: Any) -> int:
        for node in graph.find("tanh"):
            ctx.fired("tanh is sin, is it not", node)
            node.op = "sin"
            return 1
        return 0

    monkeypatch.setattr(CommonSubexpressions, "run", run)
    with pytest.raises(CheckError, match=r"pass cse changed the results by .*tanh is sin, is it not at %tanh"):
        check_graph(graph_of(mlp(), rows(4)), [rows(4)], FRESH)
    assert check_graph(graph_of(mlp(), rows(4)), [rows(4)], Options(disable=["cse"])).rows


def test_stale_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot import checking

    class Forgetful(checking.Executable):
        runs = 0

        def run(self, inputs: Any) -> Any:
            type(self).runs += 1
            return [r + np.float32(type(self).runs == 3) for r in super().run(inputs)]

    monkeypatch.setattr(checking, "Executable", Forgetful)
    with pytest.raises(CheckError, match=r"output output: a second run gives other bits"):
        check_graph(graph_of(mlp(), rows(4)), [rows(4)], Options())


def test_measures() -> None:
    nan, inf = float("nan"), float("inf")
    a = np.array([1.0, nan, inf, 4.0])
    assert largest_error(a, a, float32) == 0.0
    assert largest_error(np.array([1.0, nan, inf, 5.0]), a, float32) == 0.25
    assert largest_error(np.array([1.0, 0.0, inf, 4.0]), a, float32) == inf
    assert largest_error(np.array([nan, nan, inf, 4.0]), a, float32) == inf
    assert largest_error(np.array([1, 2]), np.array([1, 4]), int64) == 2.0
    assert largest_error(np.zeros((0,)), np.zeros((0,)), float32) == 0.0
    assert largest_error(np.zeros(2), np.zeros(3), float32) == inf
    assert relative_l2(np.array([3.0, 4.0]), np.array([0.0, 0.0])) == 5.0
    assert relative_l2(np.array([3.0, 3.0]), np.array([3.0, 4.0])) == pytest.approx(0.2)
