"""Views, slices, pads, concatenation, gathers: parity with PyTorch, symbolic extents, messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, Extent, evaluate
from ingot.ir.dtypes import bool_, float32, float64, int32, int64, uint8
from ingot.ir.errors import DTypeError, IngotError, ShapeError
from ingot.ir.graph import Graph
from ingot.ir.interpreter import interpret
from ingot.ir.ops.common import is_nonnegative
from ingot.ir.registry import get
from ingot.ir.types import TensorType
from op_cases import cases
from op_gradients import extend_with_gradient
from op_torch import TORCH_DTYPES, torch_result

SEED = 51
OPS = ["reshape", "permute", "expand", "flip", "slice", "pad", "concat", "gather", "scatter_add", "index_select"]
N, M = Dim("N").expr, Dim("M", min=4, max=64).expr


def infer(op: str, *types: TensorType, **attrs: Any) -> TensorType:
    record = get(op)
    return record.infer(list(types), record.complete_attrs(attrs))[0]


def f32(*shape: Any) -> TensorType:
    return TensorType(float32, shape)


def i64(*shape: Any) -> TensorType:
    return TensorType(int64, shape)


@pytest.mark.parity
@pytest.mark.parametrize("op", OPS)
def test_values_equal_pytorch(op: str) -> None:
    torch = pytest.importorskip("torch")
    compared = 0
    for case in cases(op, SEED):
        if case.dtype not in TORCH_DTYPES and op not in ("gather", "index_select"):
            continue
        if case.inputs[0].dtype.kind == "u" and case.inputs[0].dtype.itemsize > 1:
            continue
        if op == "pad" and (any(case.attrs["interior"]) or case.inputs[0].size == 0):
            continue
        record = get(op)
        y = record.reference(*case.inputs, **record.complete_attrs(case.attrs))
        if y.dtype.kind not in "iub" and y.dtype.itemsize == 2:
            y = y.astype(np.float32)
        expected = torch_result(torch, case)
        tolerance = 0.02 if op == "scatter_add" and case.dtype.bits == 16 else 1e-6 if op == "scatter_add" else 0
        np.testing.assert_allclose(y, expected, tolerance, tolerance, err_msg=f"{case} (seed {SEED})")
        assert y.shape == expected.shape
        compared += 1
    assert compared >= 20


def test_interior_padding_spreads_the_elements() -> None:
    y = get("pad").reference(np.array([1, 2, 3]), low=(1,), high=(2,), interior=(2,), value=9)
    np.testing.assert_array_equal(y, [9, 1, 9, 9, 2, 9, 9, 3, 9, 9])


def test_views_share_memory() -> None:
    x = np.arange(6.0).reshape(2, 3)
    for op, attrs in (
        ("reshape", {"shape": (3, 2)}), ("permute", {"dims": (1, 0)}), ("expand", {"shape": (4, 2, 3)}),
        ("flip", {"axes": (0,)}), ("slice", {"starts": (0, 1), "stops": (2, 3), "steps": (1, 1)}),
    ):  # fmt: skip
        assert np.shares_memory(get(op).reference(x, **attrs), x), op


# -- symbolic extents ---------------------------------------------------------------------------------
def test_symbolic_shapes() -> None:
    assert infer("reshape", f32(N, 3, 4), shape=(N, 12)).shape == (N, 12)
    assert infer("reshape", f32(N, 4, 6), shape=(N * 4, 2, 3)).shape == (4 * N, 2, 3)
    assert infer("permute", f32(N, 3, M), dims=(2, 0, 1)).shape == (M, N, 3)
    assert infer("expand", f32(1, 3), shape=(N, 3)).shape == (N, 3)
    assert infer("concat", f32(N, 2), f32(M, 2), f32(3, 2), axis=0).shape == (N + M + 3, 2)
    assert infer("pad", f32(N), low=(1,), high=(M,), interior=(1,)).shape == (2 * N + M,)
    assert infer("gather", f32(N, 10), i64(N, 1), axis=1).shape == (N, 1)
    assert infer("index_select", f32(7, 3), i64(N), axis=0).shape == (N, 3)
    cut = infer("slice", f32(N, M), starts=(0, 1), stops=(N, M), steps=(1, 2))
    assert [evaluate(e, {"N": 5, "M": 8}) for e in cut.shape] == [5, 4]


def test_slices_must_fit_for_every_value_of_the_symbols() -> None:
    assert infer("slice", f32(M), starts=(0,), stops=(4,), steps=(1,)).shape == (4,)  # M >= 4
    assert infer("slice", f32(N), starts=(N - 1,), stops=(N,), steps=(1,)).shape == (1,)
    with pytest.raises(ShapeError, match=r"0:5:1 on axis 0 of \[M\]: stop <= extent must hold.*larger min"):
        infer("slice", f32(M), starts=(0,), stops=(5,), steps=(1,))
    with pytest.raises(ShapeError, match="start >= 0"):
        infer("slice", f32(N), starts=(N - 2,), stops=(N,), steps=(1,))


@pytest.mark.parametrize(
    "extent, provable",
    [(N - N // 2, True), (N // 2 * 2 - N + 1, True), (N // 2 * 2 - N, False), (M - 4, True), (64 - M, True),
     (63 - M, False), (N * 3 - N // 2 - N // 3, True), (N - N // 2 - N // 3 - N // 4, False),
     ((N + 7) // 8 * 8 - N, True), (0, True), (-1, False), (N - 1, True), (N * M - M, False)],
)  # fmt: skip
def test_what_can_be_proven_nonnegative(extent: Extent, provable: bool) -> None:
    assert is_nonnegative(extent) is provable
    if provable:
        for n in range(1, 40):
            for m in (4, 17, 64):
                assert evaluate(extent, {"N": n, "M": m}) >= 0


def run_gradient(op: str, types: list[TensorType], arrays: list[np.ndarray], attrs: dict[str, Any]) -> list[np.ndarray]:
    """Gradients for a cotangent of ones; their types must be those of the operands."""
    graph = Graph()
    xs = [graph.add_input(t, f"x{i}") for i, t in enumerate(types)]
    y = GraphBuilder(graph).emit(op, xs, **attrs).output
    wrt = [x for x in xs if x.dtype.is_floating_point]
    for x, d in zip(wrt, extend_with_gradient(graph, [y], wrt), strict=True):
        assert d is not None and d.type == x.type
        graph.add_output(d)
    graph.add_output(y)
    env = {"N": arrays[0].shape[0]}
    ones = np.ones([evaluate(e, env) for e in y.shape])
    return interpret(graph, [*arrays, ones])[:-1]


def test_gradients_with_symbolic_extents() -> None:
    n3, x = TensorType(float64, (N, 3)), np.arange(12.0).reshape(4, 3)
    attrs: dict[str, Any] = {"starts": (1, 0), "stops": (N, 3), "steps": (1, 2)}
    (d,) = run_gradient("slice", [n3], [x], attrs)
    np.testing.assert_array_equal(d, [[0, 0, 0]] + [[1, 0, 1]] * 3)
    (d,) = run_gradient("pad", [n3], [x], {"low": (N, 1), "high": (0, 2), "interior": (1, 0)})
    np.testing.assert_array_equal(d, np.ones((4, 3)))
    a, b = run_gradient("concat", [n3, TensorType(float64, (N * 2, 3))], [x, np.ones((8, 3))], {"axis": 0})
    assert a.shape == (4, 3) and b.shape == (8, 3)
    index = np.array([[0, 0], [1, 2], [2, 2], [1, 1]])
    (d,) = run_gradient("gather", [n3, TensorType(int64, (N, 2))], [x, index], {"axis": 1})
    np.testing.assert_array_equal(d, [[2, 0, 0], [0, 1, 1], [0, 0, 2], [0, 2, 0]])
    (d,) = run_gradient("index_select", [n3, TensorType(int64, (5,))], [x, np.array([0, 0, 3, 3, 3])], {"axis": 0})
    np.testing.assert_array_equal(d, np.array([[2], [0], [0], [3]]) * np.ones(3))
    (d,) = run_gradient("reshape", [n3], [x], {"shape": (N * 3,)})
    (d,) = run_gradient("permute", [n3], [x], {"dims": (1, 0)})
    (d,) = run_gradient("flip", [n3], [x], {"axes": (0,)})
    (d,) = run_gradient("expand", [n3], [x], {"shape": (5, N, 3)})
    np.testing.assert_array_equal(d, np.full((4, 3), 5))


def test_a_strided_slice_with_a_symbolic_end_has_a_gradient_of_the_operands_shape() -> None:
    n = Dim("N", min=3).expr
    for stop, step in ((n, 2), (n, 3), (n - 1, 2)):
        graph = Graph()
        x = graph.add_input(TensorType(float64, (n,)), "x")
        y = GraphBuilder(graph).slice(x, starts=(1,), stops=(stop,), steps=(step,))
        (d,) = extend_with_gradient(graph, [y], [x])
        assert d is not None and d.type == x.type
        graph.add_output(d)
        for size in (3, 4, 5, 8, 9):
            expected = np.zeros(size)
            expected[1 : evaluate(stop, {"N": size}) : step] = 1
            ones = np.ones(int(expected.sum()))
            np.testing.assert_array_equal(interpret(graph, [np.zeros(size), ones])[0], expected)


# -- messages -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "op, types, attrs, error, message",
    [
        ("reshape", [f32(2, 3)], {"shape": (4, 2)}, ShapeError, r"reshape: \[2, 3\] has 6 elements and \[4, 2\] has 8"),
        ("reshape", [f32(2, 3)], {"shape": (-1, 2)}, ShapeError, "may be negative; the front end resolves -1"),
        ("reshape", [f32(N, 4)], {"shape": (2, N)}, ShapeError, "must be equal for every value of the symbols"),
        ("permute", [f32(2, 3)], {"dims": (0, 0)}, ShapeError, "permute: dims must be a permutation of 0..1"),
        ("expand", [f32(2, 3)], {"shape": (4, 3)}, ShapeError, "axis 0 has extent 2, which is neither 1 nor 4"),
        ("expand", [f32(2, 3)], {"shape": (3,)}, ShapeError, "has more axes than the wanted shape"),
        ("flip", [f32(2)], {"axes": (1,)}, ShapeError, "flip: attribute axes"),
        ("slice", [f32(5)], {"starts": (3,), "stops": (2,), "steps": (1,)}, ShapeError, "start <= stop must hold"),
        ("slice", [f32(5)], {"starts": (0,), "stops": (6,), "steps": (1,)}, ShapeError, "stop <= extent must hold"),
        ("slice", [f32(5)], {"starts": (0,), "stops": (5,), "steps": (0,)}, ShapeError, "step >= 1 must hold"),
        ("slice", [f32(5)], {"starts": (), "stops": (5,), "steps": (1,)}, ShapeError, "starts must have one entry per"),
        ("pad", [f32(5)], {"low": (-1,), "high": (0,), "interior": (0,)}, ShapeError, "must be >= 0; crop with slice"),
        ("pad", [TensorType(uint8, (5,))], {"low": (1,), "high": (0,), "interior": (0,), "value": -1}, DTypeError,
         "pad: value=-1 is not a value of uint8"),
        ("pad", [TensorType(bool_, (5,))], {"low": (1,), "high": (0,), "interior": (0,), "value": 2}, DTypeError,
         "pad: value=2 is not a value of bool"),
        ("concat", [f32(2, 3), f32(2, 4)], {"axis": 0}, ShapeError, "operand 1 .* on axis 1; only axis 0 may differ"),
        ("concat", [f32(2), TensorType(float64, (2,))], {"axis": 0}, DTypeError, "concat: operands must have equal"),
        ("concat", [f32(2), f32(2, 1)], {"axis": 0}, ShapeError, "concat: operand 1 must have rank 1"),
        ("gather", [f32(2, 3), TensorType(int32, (2, 3))], {"axis": 0}, DTypeError, "the index must be int64"),
        ("gather", [f32(2, 3), i64(2, 4)], {"axis": 0}, ShapeError, "index .* exceeds x .* on axis 1"),
        ("scatter_add", [f32(2), i64(3), f32(2)], {"axis": 0}, ShapeError, r"exceeds src \[2\] on axis 0"),
        ("index_select", [f32(2, 3), i64(2, 1)], {"axis": 0}, ShapeError, "the index must have rank 1"),
    ],
)  # fmt: skip
def test_messages_state_the_rule(
    op: str, types: list[TensorType], attrs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        infer(op, *types, **attrs)


def test_indices_out_of_range_are_refused() -> None:
    x = np.zeros((3, 2), np.float32)
    for bad in (3, -1):
        with pytest.raises(IndexError, match=f"index_select: index {bad} is out of range for axis 0 of extent 3"):
            get("index_select").reference(x, np.array([0, bad]), axis=0)
        with pytest.raises(IndexError, match=f"gather: index {bad}"):
            get("gather").reference(x, np.array([[bad]]), axis=0)
        with pytest.raises(IndexError, match=f"scatter_add: index {bad}"):
            get("scatter_add").reference(x, np.array([[bad]]), np.ones((1, 1), np.float32), axis=0)


def test_concat_needs_an_operand() -> None:
    with pytest.raises(IngotError, match="concat: takes 1 to"):
        GraphBuilder(Graph()).emit("concat", [], axis=0)
