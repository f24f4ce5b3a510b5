"""Elementwise operators: parity with PyTorch (values and gradients), special functions, NaN safety, messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import DType, bool_, dtype_from_numpy, float32, float64, int32, int64, tolerance
from ingot.ir.errors import DTypeError, IngotError, ShapeError
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import interpret
from ingot.ir.ops.special import erf, sigmoid
from ingot.ir.registry import get
from ingot.ir.types import TensorType
from op_cases import Case, cases
from op_gradients import extend_with_gradient, forward_graph
from op_torch import TORCH_DTYPES, to_torch, torch_result

SEED = 31
UNARY = [
    "neg", "abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tanh", "erf",
    "sigmoid", "relu", "floor", "ceil", "round", "trunc", "logical_not", "bitwise_not", "isnan", "isinf", "isfinite",
    "gelu", "silu", "leaky_relu", "elu", "softplus", "hardsigmoid", "hardswish", "clamp", "cast",
]  # fmt: skip
BINARY = [
    "add", "sub", "mul", "div", "pow", "maximum", "minimum", "floor_divide", "remainder", "eq", "ne", "lt", "le", "gt",
    "ge", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor",
]  # fmt: skip
# PyTorch computes these in 16 bits, at least for some operands, where Ingot computes in float32.
_ROUNDED_TWICE_BY_PYTORCH = ("floor_divide", "remainder", "pow")
# PyTorch's formulas overflow for huge operands (x * relu6(x) / 6, a - floor(a / b) * b); its gelu of inf is NaN.
_OVERFLOWS_IN_PYTORCH = ("gelu", "hardswish", "remainder")


def ordinary(arrays: Any) -> np.ndarray:
    """Where every operand is zero or neither subnormal, nor huge, nor infinite or NaN."""
    sizes = [np.abs(a.astype(np.float64)) for a in arrays]
    return np.all([(s == 0) | ((s > 1e-30) & (s < 1e15)) for s in np.broadcast_arrays(*sizes)], axis=0)


def apply(op: str, *arrays: Any, **attrs: Any) -> np.ndarray:
    record = get(op)
    return record.reference(*(np.asarray(a) for a in arrays), **record.complete_attrs(attrs))


def infer(op: str, *types: TensorType, **attrs: Any) -> TensorType:
    record = get(op)
    return record.infer(list(types), record.complete_attrs(attrs))[0]


def f32(*shape: Any) -> TensorType:
    return TensorType(float32, shape)


# -- parity -------------------------------------------------------------------------------------------
@pytest.mark.parity
@pytest.mark.parametrize("op", [*UNARY, *BINARY, "where"])
def test_values_equal_pytorch(op: str) -> None:
    torch = pytest.importorskip("torch")
    compared = 0
    for case in cases(op, SEED):
        if case.undefined or case.dtype not in TORCH_DTYPES:
            continue
        narrow = case.dtype.is_floating_point and case.dtype.bits == 16
        if narrow and op in _ROUNDED_TWICE_BY_PYTORCH:
            continue
        try:
            expected = torch_result(torch, case)
        except (RuntimeError, NotImplementedError) as error:
            assert "not implemented" in str(error), str(case)  # e.g. unsigned 16-bit arithmetic
            continue
        compared += 1
        y = apply(op, *case.inputs, **case.attrs)
        rtol, atol = tolerance(dtype_from_numpy(y.dtype))
        if narrow:
            y = y.astype(np.float32)
        assert y.shape == expected.shape, str(case)
        if case.special and op in _OVERFLOWS_IN_PYTORCH:
            y, expected = y[ordinary(case.inputs)], expected[ordinary(case.inputs)]
        np.testing.assert_allclose(y, expected, rtol, min(atol, 1e-6), err_msg=f"{case} (seed {SEED})")
    assert compared >= 10


@pytest.mark.parity
@pytest.mark.parametrize(
    "op", [o for o in [*UNARY, *BINARY, "where"] if get(o).vjp and o not in ("cast", "floor_divide")]
)
def test_gradients_equal_pytorch_at_kinks_ties_and_extremes(op: str) -> None:
    torch = pytest.importorskip("torch")
    for case in cases(op, SEED, [float64]):
        graph, wrt, outs = forward_graph(case)
        grads = extend_with_gradient(graph, outs, wrt)
        leaves = [to_torch(torch, a) for a in case.inputs]
        for leaf, v in zip(leaves, graph.inputs, strict=False):
            leaf.requires_grad_(v.dtype.is_floating_point)
        y = torch_result(torch, case, leaves, raw=True)
        dy = np.random.default_rng(SEED).normal(size=tuple(y.shape))
        y.backward(to_torch(torch, dy))
        known = [(v, d) for v, d in zip(wrt, grads, strict=True) if d is not None]
        for _, d in known:
            graph.add_output(d)
        found = dict(zip([v for v, _ in known], interpret(graph, [*case.inputs, dy]), strict=True))
        for v in wrt:
            expected = leaves[graph.inputs.index(v)].grad.numpy()
            actual = found.get(v, np.zeros(v.shape))
            if case.special:  # PyTorch divides by 6 in float32 (hardsigmoid), differs at NaN, and overflows more
                keep = ordinary(case.inputs) & np.isfinite(expected)
                expected, actual = expected[keep], actual[keep]
            rtol = 1e-7 if op == "hardsigmoid" else 1e-10
            np.testing.assert_allclose(actual, expected, rtol, 1e-12, err_msg=f"{case}, operand {v.name}")


# -- special functions --------------------------------------------------------------------------------
def test_erf_is_accurate_to_two_units_in_the_last_place() -> None:
    x = np.concatenate([np.linspace(-7, 7, 40001), np.geomspace(1e-300, 8, 5001), [0.0, -0.0, np.inf, -np.inf]])
    exact = np.array([math.erf(v) for v in x])
    assert np.all(np.abs(erf(x) - exact) <= 2 * np.spacing(np.abs(exact)))
    assert np.isnan(erf(np.array(np.nan)))
    assert np.signbit(erf(np.array(-0.0)))
    assert erf(np.float32([0.3])).dtype == np.float32


def test_sigmoid_keeps_relative_accuracy_far_below_zero() -> None:
    x = np.array([-700.0, -30.0, 0.0, 30.0, 800.0, -np.inf, np.inf])
    np.testing.assert_allclose(sigmoid(x), [math.exp(-700), 9.357622968839299e-14, 0.5, 1 - 9.4e-14, 1, 0, 1], 1e-14)


# -- conventions --------------------------------------------------------------------------------------
def test_integer_division_follows_python_and_zero_divisors_give_zero() -> None:
    a, b = np.meshgrid(np.arange(-7, 8), [-3, -2, -1, 1, 2, 3])
    expected = [[x // y for x, y in zip(r, s, strict=True)] for r, s in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_array_equal(apply("floor_divide", a, b), expected)
    np.testing.assert_array_equal(apply("remainder", a, b), a - np.array(expected) * b)
    for op in ("floor_divide", "remainder"):
        np.testing.assert_array_equal(apply(op, np.array([5, -5, 0]), np.zeros(3, int)), [0, 0, 0])
    low = np.iinfo(np.int32).min
    assert apply("floor_divide", np.int32(low), np.int32(-1)) == low  # wraps around
    assert apply("remainder", np.int32(low), np.int32(-1)) == 0


def test_integer_powers_with_negative_exponents_round_towards_zero() -> None:
    base, exponent = np.array([0, 1, -1, -1, 2, -3, 2]), np.array([-1, -5, -3, -2, -1, -2, 10])
    np.testing.assert_array_equal(apply("pow", base, exponent), [0, 1, -1, 1, 0, 0, 1024])


def test_round_takes_halves_to_even() -> None:
    np.testing.assert_array_equal(apply("round", [0.5, 1.5, 2.5, -0.5, -1.5]), [0, 2, 2, -0.0, -2])


def test_cast_truncates_and_tests_against_zero() -> None:
    x = np.float32([-1.9, -0.2, 0.0, 0.7, 2.5, np.nan])
    np.testing.assert_array_equal(apply("cast", x[:5], dtype=int32), [-1, 0, 0, 0, 2])
    np.testing.assert_array_equal(apply("cast", x, dtype=bool_), [True, True, False, True, True, True])
    assert apply("cast", np.float32(1 + 2**-8), dtype=dtypes.bfloat16) == 1.0  # ties to even


def test_clamp_with_crossed_bounds_gives_the_upper() -> None:
    np.testing.assert_array_equal(apply("clamp", np.float32([0, 5, np.nan]), min=3, max=1), [1, 1, np.nan])


# -- gradients that stay finite -----------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "op, attrs",
    [("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {}), ("elu", {}), ("softplus", {}), ("sigmoid", {}),
     ("tanh", {}), ("erf", {}), ("leaky_relu", {}), ("hardsigmoid", {}), ("hardswish", {}), ("relu", {}),
     ("clamp", {"min": -1.0, "max": 1.0})],
)  # fmt: skip
def test_activation_gradients_are_finite_for_every_finite_operand(
    op: str, attrs: dict[str, Any], order: int, dtype: DType
) -> None:
    big = math.sqrt(dtype.max) / 4 if order == 2 else dtype.max
    x = np.array([0, 1e-30, 5, 20, 21, 90, 750, 1e4, big]).astype(dtype.numpy)
    x = np.concatenate([x, -x])
    graph, wrt, outs = forward_graph(Case(op, "extremes", (x,), attrs))
    arrays = [x, np.ones_like(x)]
    grads: list[Value | None] = extend_with_gradient(graph, outs, wrt)
    if order == 2:
        arrays.append(np.ones_like(x))
        (first,) = grads
        assert first is not None
        grads = extend_with_gradient(graph, [first], wrt)
    for d in grads:
        if d is not None:
            graph.add_output(d)
    for y in interpret(graph, arrays):
        assert np.all(np.isfinite(y)), f"{op} {attrs}: gradient {y} at {x}"


def test_pow_gradients_at_zero() -> None:
    base, exponent = np.array([0.0, 0.0, 0.0, -2.0, 3.0]), np.array([0.0, 1.0, 2.0, 3.0, 0.0])
    graph, wrt, outs = forward_graph(Case("pow", "", (base, exponent)))
    da, db = extend_with_gradient(graph, outs, wrt)
    assert da is not None and db is not None
    graph.add_output(da)
    graph.add_output(db)
    first, second = interpret(graph, [base, exponent, np.ones(5)])
    np.testing.assert_array_equal(first, [0, 1, 0, 12, 0])
    np.testing.assert_allclose(second[[0, 1, 2, 4]], [0, 0, 0, math.log(3)])


def test_second_gradients_of_powers_at_zero() -> None:
    base, exponent = np.zeros(4), np.array([1.0, 2.0, 3.0, 0.0])
    graph, wrt, outs = forward_graph(Case("pow", "", (base, exponent)))
    da = extend_with_gradient(graph, outs, wrt)[0]
    assert da is not None
    d2a = extend_with_gradient(graph, [da], wrt[:1])[0]
    assert d2a is not None
    graph.add_output(d2a)
    np.testing.assert_array_equal(interpret(graph, [base, exponent, np.ones(4), np.ones(4)])[0], [0, 2, 0, 0])


# -- shapes and messages ------------------------------------------------------------------------------
def test_symbolic_shapes_broadcast() -> None:
    n, m = Dim("N").expr, Dim("M").expr
    assert infer("add", f32(n, 3), f32(3)).shape == (n, 3)
    assert infer("mul", f32(n, 1), f32(1, m)).shape == (n, m)
    assert infer("where", TensorType(bool_, (n, 1)), f32(n, 4), f32()).shape == (n, 4)
    assert infer("sub", f32(n * 2 + 1), f32(n + 1 + n)).shape == (2 * n + 1,)
    assert infer("lt", f32(n), f32(1)) == TensorType(bool_, (n,))


@pytest.mark.parametrize("other", [3, Dim("M").expr, Dim("N").expr + 1])
def test_a_symbol_goes_only_with_itself_and_one(other: Any) -> None:
    n = Dim("N").expr
    with pytest.raises(ShapeError, match=r"add: shapes \[2, N\] and .* extents N and .* at axis -1 differ"):
        infer("add", f32(2, n), f32(other))


def test_gradients_of_symbolic_broadcasts_have_the_operands_shapes() -> None:
    n = Dim("N").expr
    graph = Graph()
    a, b = graph.add_input(f32(n, 3), "a"), graph.add_input(f32(1, 3), "b")
    y = GraphBuilder(graph).mul(a, b)
    da, db = extend_with_gradient(graph, [y], [a, b])
    assert da is not None and db is not None
    assert (da.shape, db.shape) == ((n, 3), (1, 3))
    graph.add_output(db)
    x = np.float32([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(interpret(graph, [x, np.ones((1, 3), np.float32), np.ones_like(x)])[0], [[5, 7, 9]])


@pytest.mark.parametrize(
    "op, types, attrs, error, message",
    [
        ("add", [f32(2), TensorType(float64, (2,))], {}, DTypeError, "add: operands must have equal dtypes.*cast"),
        ("add", [TensorType(bool_, (2,))] * 2, {}, DTypeError, "add: operand is bool.*logical_or"),
        ("div", [TensorType(int64, (2,))] * 2, {}, DTypeError, "div: operand is int64, .*use floor_divide"),
        ("exp", [TensorType(int64, ())], {}, DTypeError, "exp: operand is int64, expected floating; cast it"),
        ("bitwise_and", [f32(1), f32(1)], {}, DTypeError, "bitwise_and: operand is float32.*integers or bools"),
        ("isnan", [TensorType(int32, ())], {}, DTypeError, "isnan: .*integers and bools are always finite"),
        ("where", [f32(1), f32(1), f32(1)], {}, DTypeError, "where: the condition is float32, expected bool"),
        ("where", [TensorType(bool_, (1,)), f32(1), TensorType(float64, ())], {}, DTypeError, "where.*equal dtypes"),
        ("clamp", [TensorType(int32, ())], {"min": 0.5}, DTypeError, "clamp: min=0.5 is not a value of int32"),
        ("clamp", [f32()], {"max": "1"}, DTypeError, "clamp: attribute max must be a number"),
        ("cast", [f32()], {"dtype": "float32"}, DTypeError, "cast: attribute dtype must be an Ingot dtype"),
        ("gelu", [f32()], {"approximate": "fast"}, IngotError, "gelu: attribute approximate must be 'none' or 'tanh'"),
        ("mul", [f32(2, 3), f32(4)], {}, ShapeError, r"mul: shapes \[2, 3\] and \[4\].*extents 3 and 4 at axis -1"),
    ],
)
def test_messages_state_the_rule(
    op: str, types: list[TensorType], attrs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        infer(op, *types, **attrs)
