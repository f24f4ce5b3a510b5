"""Reductions: parity with PyTorch, gradients at ties and zeros, symbolic extents, messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import bool_, dtype_from_numpy, float32, float64, int64, tolerance
from ingot.ir.errors import DTypeError, IngotError, ShapeError
from ingot.ir.graph import Graph
from ingot.ir.interpreter import interpret
from ingot.ir.ops.common import extent_scalar, normalise_axes
from ingot.ir.registry import get
from ingot.ir.types import TensorType
from op_cases import Case, cases
from op_gradients import check, extend_with_gradient, forward_graph
from op_torch import TORCH_DTYPES, to_torch, torch_result

SEED = 41
REDUCTIONS = ["sum", "prod", "amax", "amin", "mean", "any", "all"]


def infer(op: str, x: TensorType, **attrs: Any) -> TensorType:
    record = get(op)
    return record.infer([x], record.complete_attrs(attrs))[0]


def gradient_of(case: Case) -> np.ndarray:
    """The gradient for a cotangent of ones."""
    graph, wrt, outs = forward_graph(case)
    (d,) = extend_with_gradient(graph, outs, wrt)
    assert d is not None
    graph.add_output(d)
    return interpret(graph, [*case.inputs, np.ones(tuple(outs[0].shape), case.inputs[0].dtype)])[0]


@pytest.mark.parity
@pytest.mark.parametrize("op", [*REDUCTIONS, "argmax", "argmin"])
def test_values_equal_pytorch(op: str) -> None:
    torch = pytest.importorskip("torch")
    compared = 0
    for case in cases(op, SEED):
        if case.dtype not in TORCH_DTYPES:
            continue
        if case.special and (case.dtype.bits == 16 or op == "prod"):
            continue  # sums of extremes overflow in another order
        expected = torch_result(torch, case)
        record = get(op)
        y = record.reference(*case.inputs, **record.complete_attrs(case.attrs))
        rtol, atol = tolerance(dtype_from_numpy(y.dtype), case.depth)
        if op == "prod" and case.dtype.bits == 16:
            rtol = rtol * case.depth  # PyTorch rounds each partial product
        if y.dtype.itemsize == 2 and case.dtype.is_floating_point and op not in ("argmax", "argmin"):
            y = y.astype(np.float32)
        assert y.shape == expected.shape, str(case)
        np.testing.assert_allclose(y, expected, 2 * rtol, 4 * atol, err_msg=f"{case} (seed {SEED})")
        compared += 1
    assert compared >= 20


@pytest.mark.parity
@pytest.mark.parametrize("op", ["sum", "prod", "mean", "amax", "amin"])
def test_gradients_equal_pytorch_with_ties_and_zeros(op: str) -> None:
    torch = pytest.importorskip("torch")
    for case in cases(op, SEED, [float64]):
        if case.special:
            continue
        x = np.round(case.inputs[0])  # ties and zeros
        leaf = to_torch(torch, x).requires_grad_()
        tied = Case(op, case.label, (x,), case.attrs)
        torch_result(torch, tied, [leaf], raw=True).sum().backward()
        np.testing.assert_allclose(gradient_of(tied), leaf.grad.numpy(), 1e-12, 1e-12, err_msg=str(case))


def test_prod_gradient_with_zeros_and_its_second_gradient() -> None:
    x = np.array([[2.0, 0.0, 3.0, 5.0], [0.0, 4.0, 0.0, 1.0]])
    case = Case("prod", "zeros", (x,), {"axes": (1,)})
    np.testing.assert_array_equal(gradient_of(case), [[0, 30, 0, 0], [0, 0, 0, 0]])
    check(case, np.random.default_rng(SEED), order=2)


def test_prod_gradient_along_a_symbolic_axis() -> None:
    n = Dim("N").expr
    for axis, shape in ((0, (n, 2)), (1, (2, n))):
        graph = Graph()
        x = graph.add_input(TensorType(float64, shape), "x")
        y = GraphBuilder(graph).prod(x, axes=(axis,), keepdims=False)
        (dx,) = extend_with_gradient(graph, [y], [x])
        assert dx is not None and dx.shape == shape
        graph.add_output(dx)
        value = np.array([[2.0, 3.0], [0.0, 5.0], [4.0, 1.0]])
        expected = np.array([[0, 5], [8, 3], [0, 15.0]])
        arrays = [value, np.ones(2)] if axis == 0 else [value.T, np.ones(2)]
        np.testing.assert_array_equal(interpret(graph, arrays)[0], expected if axis == 0 else expected.T)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_mean_gradient_divides_by_a_symbolic_count(batch: int) -> None:
    n = Dim("N", min=0).expr
    graph = Graph()
    x = graph.add_input(TensorType(float32, (n, 5)), "x")
    y = GraphBuilder(graph).mean(x, axes=(0, 1), keepdims=False)
    (dx,) = extend_with_gradient(graph, [y], [x])
    assert dx is not None and dx.shape == (n, 5)
    graph.add_output(dx)
    out = interpret(graph, [np.zeros((batch, 5), np.float32), np.float32(1)])[0]
    np.testing.assert_allclose(out, np.full((batch, 5), 1 / (5 * batch), np.float32), 1e-6)


def test_an_extent_as_a_value() -> None:
    graph = Graph()
    graph.add_input(TensorType(float32, (Dim("N", min=0).expr,)), "x")
    g = GraphBuilder(graph)
    graph.add_output(extent_scalar(g, Dim("N", min=0).expr * 3 + 2, int64))
    graph.add_output(extent_scalar(g, 7, float32))
    for n in (0, 1, 10):
        assert interpret(graph, [np.zeros(n, np.float32)]) == [3 * n + 2, 7]


def test_16_bit_sums_accumulate_in_float32() -> None:
    for dtype in (dtypes.float16, dtypes.bfloat16):
        ones = np.ones(5000, dtype.numpy)
        assert float(get("sum").reference(ones, axes=(0,), keepdims=False)) == float(np.array(5000, dtype.numpy))
        assert float(get("mean").reference(ones, axes=(0,), keepdims=False)) == 1


def test_integer_sums_wrap_in_their_own_dtype() -> None:
    x = np.full(3, 100, np.int8)
    y = get("sum").reference(x, axes=(0,), keepdims=False)
    assert y.dtype == np.int8 and y == 300 - 256


def test_reductions_of_nothing() -> None:
    x = np.zeros((0, 2))
    for op, expected in (("sum", 0), ("prod", 1), ("mean", np.nan)):
        np.testing.assert_array_equal(get(op).reference(x, axes=(0,), keepdims=False), [expected] * 2)


def test_first_of_equals_and_nan_in_argmax() -> None:
    x = np.array([[1.0, 3.0, 3.0], [np.nan, 9.0, np.nan], [2.0, 2.0, 2.0]])
    np.testing.assert_array_equal(get("argmax").reference(x, axis=1, keepdims=False), [1, 0, 0])
    np.testing.assert_array_equal(get("argmin").reference(-x, axis=1, keepdims=False), [1, 0, 0])


def test_symbolic_shapes() -> None:
    n, m = Dim("N").expr, Dim("M").expr
    x = TensorType(float32, (n, 3, m))
    assert infer("sum", x, axes=(0, 2)).shape == (3,)
    assert infer("amax", x, axes=(1,), keepdims=True).shape == (n, 1, m)
    assert infer("argmax", x, axis=0) == TensorType(int64, (3, m))


@pytest.mark.parametrize(
    "op, x, attrs, error, message",
    [
        ("sum", TensorType(bool_, (2,)), {"axes": (0,)}, DTypeError, "sum: operand is bool.*int64 to count"),
        ("mean", TensorType(int64, (2,)), {"axes": (0,)}, DTypeError, "mean: operand is int64.*cast"),
        ("any", TensorType(float32, (2,)), {"axes": (0,)}, DTypeError, "any: operand is float32, expected bool"),
        ("sum", TensorType(float32, (2, 3)), {"axes": (1, 0)}, ShapeError, "axes must be sorted, unique and in"),
        ("sum", TensorType(float32, (2, 3)), {"axes": (-1,)}, ShapeError, r"in \[0, 2\) for an operand of rank 2"),
        ("sum", TensorType(float32, (2, 3)), {}, IngotError, "attribute 'axes' .* is missing"),
        ("amax", TensorType(float32, (2, 0)), {"axes": (1,)}, ShapeError, r"amax: axis 1 of shape \[2, 0\] is empty"),
        ("argmin", TensorType(float32, (0,)), {"axis": 0}, ShapeError, "argmin: axis 0 .* is empty"),
        ("argmax", TensorType(float32, (3,)), {"axis": 1}, ShapeError, r"axis must be in \[0, 1\)"),
    ],
)
def test_messages_state_the_rule(
    op: str, x: TensorType, attrs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        infer(op, x, **attrs)


def test_normalise_axes() -> None:
    assert normalise_axes("sum", None, 3) == (0, 1, 2)
    assert normalise_axes("sum", -1, 3) == (2,)
    assert normalise_axes("sum", (-1, 0), 3) == (0, 2)
    with pytest.raises(ShapeError, match=r"sum: axis 3 is out of range for rank 3 \(expected -3 <= axis < 3\)"):
        normalise_axes("sum", 3, 3)
    with pytest.raises(ShapeError, match="sum: axis 1 appears twice"):
        normalise_axes("sum", (1, -2), 3)
