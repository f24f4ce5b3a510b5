"""Normalisation operators: references against PyTorch, decompositions against references, gradients, extremes."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_check import check_gradients
from ingot.ir import ops, registry
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import DType, bfloat16, float16, float32, float64, int32, tolerance
from ingot.ir.errors import DTypeError, ShapeError
from ingot.ir.graph import Graph
from ingot.ir.interpreter import interpret
from ingot.ir.types import TensorType
from ingot.ir.verifier import verify

assert ops  # importing it registers the operators

N = Dim("N", 1, 64)
FLOATS = [float64, float32, float16, bfloat16]
C = 4

# name: (operator, operand shapes, attributes, PyTorch equivalent of the first result)
CASES = {
    "softmax": ("softmax", [(3, C, 5)], {"axis": 1}, lambda t, x: t.softmax(x, 1)),
    "log_softmax": ("log_softmax", [(3, C, 5)], {"axis": 2}, lambda t, x: t.log_softmax(x, 2)),
    "layer_norm": (
        "layer_norm", [(3, C, 5)], {"ndim": 2, "eps": 1e-5},
        lambda t, x: t.nn.functional.layer_norm(x, (C, 5)),
    ),
    "layer_norm_weight": (
        "layer_norm", [(3, C, 5), (5,)], {"ndim": 1, "eps": 1e-3},
        lambda t, x, w: t.nn.functional.layer_norm(x, (5,), w, None, 1e-3),
    ),
    "layer_norm_affine": (
        "layer_norm", [(3, C, 5), (C, 5), (C, 5)], {"ndim": 2, "eps": 1e-5},
        lambda t, x, w, b: t.nn.functional.layer_norm(x, (C, 5), w, b),
    ),
    "batch_norm": (
        "batch_norm", [(3, C, 5, 2), (C,), (C,), (C,), (C,)], {"eps": 1e-5},
        lambda t, x, w, b, m, v: t.nn.functional.batch_norm(x, m, v, w, b),
    ),
    "batch_norm_2d": (
        "batch_norm", [(6, C), (C,), (C,), (C,), (C,)], {"eps": 1e-2},
        lambda t, x, w, b, m, v: t.nn.functional.batch_norm(x, m, v, w, b, eps=1e-2),
    ),
    "batch_norm_train": (
        "batch_norm_train", [(3, C, 5, 2), (C,), (C,)], {"eps": 1e-5},
        lambda t, x, w, b: t.nn.functional.batch_norm(x, None, None, w, b, training=True),
    ),
}  # fmt: skip


def operands(case: str, rng: np.random.Generator, dtype: DType = float64) -> list[np.ndarray]:
    op, shapes, _, _ = CASES[case]
    arrays = [rng.standard_normal(s) for s in shapes]
    if op == "batch_norm":
        arrays[4] = rng.uniform(0.5, 2.0, shapes[4])
    return [a.astype(dtype.numpy) for a in arrays]


def run(case: str, arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    op, _, attrs, _ = CASES[case]
    out = registry.get(op).reference(*arrays, **attrs)
    return out if isinstance(out, tuple) else (out,)


# -- shapes -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("softmax", [(3, 4)], {"axis": 2}, r"\[0, 2\)"),
        ("layer_norm", [(3, 4)], {"ndim": 3, "eps": 1e-5}, r"ndim must be in \[1, 2\].* got 3"),
        ("layer_norm", [(3, 4), (3,)], {"ndim": 1, "eps": 1e-5}, r"the weight must have shape \[4\], got \[3\]"),
        ("layer_norm", [(3, 4), (4,), (3,)], {"ndim": 1, "eps": 1e-5}, r"the bias must have shape \[4\], got \[3\]"),
        ("batch_norm", [(4,)] * 5, {"eps": 1e-5}, "rank 2 or more"),
        ("batch_norm_train", [(3, 4), (4,), (5,)], {"eps": 1e-5}, r"the bias must have shape \[4\], got \[5\]"),
        ("batch_norm_train", [(0, 4), (4,), (4,)], {"eps": 1e-5}, "no elements per channel"),
    ],
)
def test_infer_refuses(op: str, shapes: list, attrs: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        registry.get(op).infer([TensorType(float32, s) for s in shapes], attrs)


def test_dtypes_are_checked() -> None:
    with pytest.raises(DTypeError, match="int32"):
        registry.get("softmax").infer([TensorType(int32, (2,))], {"axis": 0})
    types = [TensorType(float16, (2, 3)), TensorType(float32, (3,))]
    with pytest.raises(DTypeError, match="float16, float32"):
        registry.get("layer_norm").infer(types, {"ndim": 1, "eps": 1e-5})


# -- references ---------------------------------------------------------------------------------------
@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [float64, float32], ids=lambda d: d.name)
def test_like_torch(case: str, dtype: DType) -> None:
    torch = pytest.importorskip("torch")
    arrays = operands(case, np.random.default_rng(1), dtype)
    results = run(case, arrays)
    expected = CASES[case][3](torch, *[torch.tensor(a) for a in arrays]).numpy()
    rtol, atol = tolerance(dtype, 32)
    np.testing.assert_allclose(results[0], expected, rtol, atol)
    if case == "batch_norm_train":
        np.testing.assert_allclose(results[1], arrays[0].mean((0, 2, 3)), rtol, atol)
        np.testing.assert_allclose(results[2], arrays[0].var((0, 2, 3)), rtol, atol)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_low_precision_is_near_float64(case: str, dtype: DType) -> None:
    arrays = operands(case, np.random.default_rng(2), dtype)
    results = run(case, arrays)
    exact = run(case, [a.astype(np.float64) for a in arrays])
    for y, e in zip(results, exact, strict=True):
        assert y.dtype == dtype.numpy
        rtol, atol = tolerance(dtype, 32)
        np.testing.assert_allclose(y.astype(np.float64), e, rtol, atol * max(1.0, np.abs(e).max()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_decomposition_equals_reference(case: str, dtype: DType) -> None:
    op, shapes, attrs, _ = CASES[case]
    graph = Graph()
    inputs = [
        graph.add_input(TensorType(dtype, (N.expr, *s[1:]) if i == 0 else s), f"x{i}") for i, s in enumerate(shapes)
    ]
    g = GraphBuilder(graph)
    node = g.emit(op, inputs, **attrs)
    replacement = registry.get(op).decompose(g, node)
    for value in (*node.outputs, *replacement):
        graph.add_output(value)
    assert [v.type for v in replacement] == [o.type for o in node.outputs]
    verify(graph)
    arrays = operands(case, np.random.default_rng(3), dtype)
    out = interpret(graph, arrays)
    rtol, atol = tolerance(dtype, 32)
    for own, simple in zip(out[: len(replacement)], out[len(replacement) :], strict=True):
        np.testing.assert_allclose(own.astype(np.float64), simple.astype(np.float64), rtol, atol * 4)


def test_softmax_of_large_and_infinite_numbers() -> None:
    x = np.array([[1000.0, 999.0, -1000.0], [-np.inf, 0.0, 0.0], [-np.inf] * 3], np.float32)
    with np.errstate(all="ignore"):
        y = registry.get("softmax").reference(x, axis=1)
        z = registry.get("log_softmax").reference(x, axis=1)
    np.testing.assert_allclose(y[0], [1 / (1 + np.exp(-1)), 1 / (1 + np.e), 0.0], rtol=1e-6)
    np.testing.assert_array_equal(y[1], [0.0, 0.5, 0.5])
    assert np.isnan(y[2]).all() and np.isnan(z[2]).all()  # as in PyTorch
    np.testing.assert_allclose(z[0], [-np.log1p(np.exp(-1)), -1 - np.log1p(np.exp(-1)), -2000.3133], rtol=1e-6)


def test_softmax_of_an_empty_axis() -> None:
    assert registry.get("softmax").reference(np.zeros((3, 0), np.float32), axis=1).shape == (3, 0)


@pytest.mark.parametrize("op", ["layer_norm", "batch_norm_train"])
def test_variance_is_two_pass(op: str) -> None:
    """A mean far larger than the deviation must not swamp the variance."""
    rng = np.random.default_rng(4)
    x = (1e4 + rng.standard_normal((64, 2, 64))).astype(np.float32)
    affine = [] if op == "layer_norm" else [np.ones(2, np.float32), np.zeros(2, np.float32)]
    attrs = {"ndim": 1, "eps": 1e-5} if op == "layer_norm" else {"eps": 1e-5}
    record = registry.get(op)
    y, e = (
        np.asarray(out[0] if isinstance(out, tuple) else out)
        for out in (record.reference(x, *affine, **attrs), record.reference(x.astype(np.float64), *affine, **attrs))
    )
    assert np.abs(y - e).max() < 5e-3  # inputs of 1e4 have a spacing of 1e-3


# -- gradients ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_gradients(case: str, symbolic: bool) -> None:
    op, shapes, attrs, _ = CASES[case]
    rng = np.random.default_rng(5)

    def build(g: GraphBuilder, *inputs: object) -> tuple:
        return tuple(g.emit(op, inputs, **attrs).outputs)

    declared = [(N.expr, *shapes[0][1:]), *shapes[1:]] if symbolic else None
    check_gradients(build, operands(case, rng), rng, order=2, shapes=declared)


def test_batch_statistics_alone_have_gradients() -> None:
    """Only the mean and variance results are used: the first result's gradient is absent."""
    rng = np.random.default_rng(6)

    def build(g: GraphBuilder, x: object) -> tuple:
        ones = g.constant(np.ones(C))
        return g.batch_norm_train(x, ones, ones, eps=1e-5)[1:]

    check_gradients(build, [rng.standard_normal((3, C, 5))], rng, order=2)
    check_gradients(lambda g, x: build(g, x)[0], [rng.standard_normal((3, C, 5))], rng)


@pytest.mark.parametrize("case", CASES)
def test_half_precision_gradients_keep_their_dtype(case: str) -> None:
    from ingot.ir.differentiate import gradients

    op, shapes, attrs, _ = CASES[case]
    graph = Graph()
    inputs = [graph.add_input(TensorType(float16, s), f"x{i}") for i, s in enumerate(shapes)]
    g = GraphBuilder(graph)
    y = g.emit(op, inputs, **attrs).outputs[0]
    loss = g.sum(g.mul(y, y), axes=tuple(range(y.type.rank)))
    for grad in gradients(graph, loss, inputs):
        graph.add_output(grad)
    verify(graph)
    arrays = operands(case, np.random.default_rng(7), float16)
    rtol, atol = tolerance(float16, 64)
    for grad, exact in zip(interpret(graph, arrays), interpret(graph, arrays, float64=True), strict=True):
        assert grad.dtype == np.float16
        np.testing.assert_allclose(grad.astype(np.float64), exact, rtol, atol * max(1.0, np.abs(exact).max()))
