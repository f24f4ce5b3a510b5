"""What holds for every operator: types as declared, rounding, gradients, decompositions, and nothing forgotten."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ingot.ir import ops  # noqa: F401  (registers)
from ingot.ir.builder import GraphBuilder
from ingot.ir.dtypes import dtype_from_numpy, float32, float64, tolerance
from ingot.ir.graph import Graph
from ingot.ir.interpreter import interpret
from ingot.ir.layout import Layout
from ingot.ir.registry import OPS, Fusion, get
from ingot.ir.types import TensorType
from op_cases import WITHOUT_CASES, Case, cases, gradient_cases, ops_with_cases
from op_gradients import check, forward_graph

SEED = 20
NO_GRADIENT = {
    **dict.fromkeys(
        ["logical_not", "logical_and", "logical_or", "logical_xor", "isnan", "isinf", "isfinite", "any", "all"],
        "the result is bool",
    ),
    **dict.fromkeys(["eq", "ne", "lt", "le", "gt", "ge"], "the result is bool"),
    **dict.fromkeys(["bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor"], "takes integers and bools only"),
    **dict.fromkeys(["gcd", "shift_left", "shift_right"], "takes integers only"),
    "exponent": "the result is an integer",
    **dict.fromkeys(["argmax", "argmin"], "the result is an index"),
    **dict.fromkeys(["constant", "iota"], "has no operands"),
    "random_uniform": "its operand is an integer state",
    "bitcast": "the result is another dtype's reading of the bits",
    "fused": "differentiation comes before fusion",
}
# Second gradients compared with finite differences; the others have none but zero, or are piecewise linear.
SMOOTH = sorted(
    {"exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tanh", "erf", "sigmoid", "gelu",
     "silu", "elu", "softplus", "hardswish", "mul", "div", "pow", "prod", "where", "add", "abs", "maximum", "sum",
     "mean", "amax", "gather", "scatter_add", "index_select", "concat", "slice", "pad", "cast", "remainder",
     "matmul", "conv", "conv_transpose", "conv_weight_grad", "avg_pool", "max_pool", "softmax", "log_softmax",
     "layer_norm", "batch_norm", "batch_norm_train", "resample", "resize", "tan", "asin", "acos", "atan", "sinh",
     "cosh", "asinh", "acosh", "atanh", "log2", "log10", "erfc", "erfinv", "lgamma", "digamma", "polygamma", "i0", "i1",
     "atan2", "hypot", "fmod", "cumsum", "cumprod", "logcumsumexp", "cummax", "linear_recurrence", "sort"}
)  # fmt: skip


def run(case: Case) -> tuple[np.ndarray, ...]:
    record = get(case.op)
    with np.errstate(all="ignore"):  # as the interpreter does
        out = record.reference(*case.inputs, **record.complete_attrs(case.attrs))
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize("op", [o.name for o in OPS.values() if o.fusion in (Fusion.ELEMENTWISE, Fusion.REDUCE)])
def test_elementwise_and_reductions_are_silent(op: str) -> None:
    """Eager code calls references directly: NaN and overflow are results, not warnings."""
    record = get(op)
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        for case in cases(op, SEED):
            record.reference(*case.inputs, **record.complete_attrs(case.attrs))


def test_every_operator_has_cases_or_a_reason() -> None:
    assert set(OPS) == {*ops_with_cases(), *WITHOUT_CASES}


def test_operators_without_gradient_have_a_reason() -> None:
    assert {o.name for o in OPS.values() if o.vjp is None and o.decompose is None} == set(NO_GRADIENT)


def test_operators_without_gradient_give_no_floats_from_floats() -> None:
    for op in set(NO_GRADIENT) - {"constant", "iota", "fused", "random_uniform"}:
        for case in cases(op, SEED):
            assert all(y.dtype.kind in "iub" for y in run(case)), case


@pytest.mark.parametrize("op", ops_with_cases())
def test_results_have_the_inferred_types(op: str) -> None:
    record = get(op)
    for case in cases(op, SEED) + gradient_cases(op, SEED):
        types = [TensorType(dtype_from_numpy(a.dtype), a.shape) for a in case.inputs]
        low, high = record.arity
        assert low <= len(types) and (high is None or len(types) <= high)
        before = [a.copy() for a in case.inputs]
        inferred = record.infer(types, record.complete_attrs(case.attrs))
        results = run(case)
        assert len(inferred) == len(results) == record.num_outputs, str(case)
        for t, y in zip(inferred, results, strict=True):
            assert isinstance(y, np.ndarray), str(case)
            assert (t.dtype.numpy, t.shape) == (y.dtype, y.shape), str(case)
            assert op == "layout_cast" or t.layout.is_dense
        for a, b in zip(case.inputs, before, strict=True):
            assert a.tobytes() == b.tobytes(), f"{case}: the reference changed an operand"


@pytest.mark.parametrize("op", [o for o in ops_with_cases() if o != "layout_cast"])
def test_inferred_types_are_dense_whatever_the_operands_layouts(op: str) -> None:
    record = get(op)
    for case in cases(op, SEED)[:20]:
        halos = [Layout(halo=((1, 1),) * a.ndim) for a in case.inputs]
        types = [TensorType(dtype_from_numpy(a.dtype), a.shape, h) for a, h in zip(case.inputs, halos, strict=True)]
        if op == "random_uniform":
            types = [TensorType(dtype_from_numpy(a.dtype), a.shape) for a in case.inputs]
        assert all(t.layout.is_dense for t in record.infer(types, record.complete_attrs(case.attrs))), str(case)


_IN_OWN_FORMAT = {"cast", "nextafter"}
_ROUNDED = [
    o.name for o in OPS.values() if o.fusion in (Fusion.ELEMENTWISE, Fusion.REDUCE) and o.name not in _IN_OWN_FORMAT
]


@pytest.mark.parametrize("op", _ROUNDED)
def test_16_bit_floats_are_computed_in_float32_and_rounded_once(op: str) -> None:
    for case in cases(op, SEED):
        if not (case.dtype.is_floating_point and case.dtype.bits == 16):
            continue
        wide = tuple(a.astype(np.float32) if dtype_from_numpy(a.dtype).kind == "f" else a for a in case.inputs)
        (narrow,), (exact,) = run(case), run(Case(op, case.label, wide, case.attrs))
        with np.errstate(all="ignore"):
            rounded = exact.astype(narrow.dtype)
        if rounded.dtype.kind == "V":  # ml_dtypes' NaN defeats NumPy's comparison
            narrow, rounded = narrow.astype(np.float32), rounded.astype(np.float32)
        np.testing.assert_array_equal(narrow, rounded, err_msg=str(case))


@pytest.mark.parametrize("op", ops_with_cases())
def test_float32_agrees_with_the_float64_oracle(op: str) -> None:
    """Where the float32 operands are ordinary numbers; sums are compared on the scale of their terms."""
    for case in cases(op, SEED, [float32]):
        if case.special or op in ("cast", "iota", "random_uniform", "constant", "floor_divide", "remainder",
                                  "bitcast"):  # fmt: skip
            continue
        wide = tuple(a.astype(np.float64) if a.dtype == np.float32 else a for a in case.inputs)
        rtol, atol = tolerance(float32, case.depth)
        scale = float(case.depth) ** 0.5 * 16 if case.depth > 1 else 1.0
        for y, exact in zip(run(case), run(Case(op, case.label, wide, case.attrs)), strict=True):
            np.testing.assert_allclose(y, exact, rtol * 4, atol * 4 * scale, err_msg=str(case))


@pytest.mark.parametrize("op", sorted(o.name for o in OPS.values() if o.decompose is not None))
def test_decompositions_equal_the_reference(op: str) -> None:
    for case in cases(op, SEED, [float64, float32]) + gradient_cases(op, SEED):
        graph = Graph(op)
        inputs = [
            graph.add_input(TensorType(dtype_from_numpy(a.dtype), a.shape), f"x{i}") for i, a in enumerate(case.inputs)
        ]
        g = GraphBuilder(graph)
        node = g.emit(op, inputs, **case.attrs)
        parts = get(op).decompose(g, node)
        assert [p.type for p in parts] == [o.type for o in node.outputs], str(case)
        for p in parts:
            graph.add_output(p)
        rtol, atol = tolerance(case.dtype, case.depth)
        for y, expected in zip(interpret(graph, list(case.inputs)), run(case), strict=True):
            np.testing.assert_allclose(y, expected, 4 * rtol, 4 * atol, err_msg=str(case))


@pytest.mark.parametrize("op", [o for o in ops_with_cases() if gradient_cases(o, SEED)])
def test_gradients_match_finite_differences(op: str) -> None:
    for i, case in enumerate(gradient_cases(op, SEED)):
        check(case, np.random.default_rng([SEED, i]))


@pytest.mark.parametrize("op", SMOOTH)
def test_second_gradients_match_finite_differences(op: str) -> None:
    for i, case in enumerate(gradient_cases(op, SEED)):
        check(case, np.random.default_rng([SEED, i]), order=2)


def test_every_differentiable_operator_has_gradient_cases() -> None:
    assert {o.name for o in OPS.values() if o.vjp} == {o for o in ops_with_cases() if gradient_cases(o, SEED)}


@pytest.mark.parametrize("op", ops_with_cases())
def test_graphs_of_one_operator_build_from_every_case(op: str) -> None:
    for case in cases(op, SEED):
        graph, _, _ = forward_graph(case)
        assert [n.op for n in graph] == [op]
