"""Every ONNX rule: the exported operator, run by onnxruntime at two batch sizes, against the IR's reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ingot.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import onnx
import pytest
from ingot.codegen.onnx_emit import ONNX_TYPES, RULES
from ingot.codegen.onnx_export import DECOMPOSED, NOT_EXPORTED, OLDEST_OPSET, graph_to_onnx
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, evaluate
from ingot.ir.dtypes import DType, tolerance
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import interpret
from ingot.ir.registry import OPS
from ingot.ir.types import TensorType

ort = pytest.importorskip("onnxruntime")

N = Dim("N", 1, 8)
n = N.expr
F32, F64, I32, I64, BOOL = dtypes.float32, dtypes.float64, dtypes.int32, dtypes.int64, dtypes.bool_


@dataclass
class Case:
    """``build(g, *inputs)`` applies the operator; ``inputs`` are (dtype, shape) or (dtype, shape, sampler)."""

    op: str
    inputs: list[tuple]
    attrs: dict[str, Any] = field(default_factory=dict)
    build: Callable[..., Any] | None = None
    label: str = ""

    def __str__(self) -> str:
        return self.label or f"{self.op}-{self.inputs[0][0].name if self.inputs else ''}"


def sample(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    if dtype.kind == "f":
        return (rng.standard_normal(shape) * 2).astype(dtype.numpy)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    return rng.integers(0 if dtype.kind == "u" else -9, 10, shape).astype(dtype.numpy)


def positive(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    return (np.abs(sample(rng, dtype, shape)) + dtype.numpy.type(1)).astype(dtype.numpy)


def special(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    out = sample(rng, dtype, shape)
    out.reshape(-1)[::3] = np.resize([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-5, -0.5], out.reshape(-1)[::3].shape)
    return out


def small(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-0.9, 2, shape).astype(dtype.numpy) * rng.choice([1, 1e-3, 1e-6], shape).astype(dtype.numpy)


def index_below(limit: int) -> Callable[..., np.ndarray]:
    return lambda rng, dtype, shape: rng.integers(0, limit, shape).astype(dtype.numpy)


def build_graph(case: Case) -> Graph:
    graph = Graph("case")
    values = [graph.add_input(TensorType(t[0], t[1]), f"x{i}") for i, t in enumerate(case.inputs)]
    g = GraphBuilder(graph)
    if case.build is not None:
        outs = case.build(g, *values)
        results = list(outs) if isinstance(outs, (tuple, list)) else [outs]
    else:
        results = g.emit(case.op, values, **case.attrs).outputs
    for value in results:
        graph.add_output(value, f"y_{value.name}")
    return graph


def run_case(case: Case, opset: int, seed: int) -> onnx.ModelProto:
    graph = build_graph(case)
    model = graph_to_onnx(graph, opset_version=opset)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    for batch in (2, 3):
        arrays = []
        for spec in case.inputs:
            shape = tuple(evaluate(e, {"N": batch}) for e in spec[1])
            arrays.append((spec[2] if len(spec) > 2 else sample)(rng, spec[0], shape))
        expected = interpret(graph, arrays)
        actual = session.run(None, {f"x{i}": a for i, a in enumerate(arrays)})
        for value, a, b in zip(graph.outputs, actual, expected, strict=True):
            rtol, atol = tolerance(value.dtype, depth=64)
            assert a.dtype == b.dtype and a.shape == b.shape, f"seed {seed}, batch {batch}: {a.shape} {b.shape}"
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=f"seed {seed}, batch {batch}")
    return model


CASES: list[Case] = []


def add(op: str, *inputs: tuple, label: str = "", build: Callable[..., Any] | None = None, **attrs: Any) -> None:
    CASES.append(Case(op, list(inputs), attrs, build, f"{op}-{label}" if label else ""))


SHAPE = (n, 3, 4)
for _op in "abs sign neg relu".split():  # noqa: SIM905
    add(_op, (F32, SHAPE))
    add(_op, (I32, SHAPE))
add("neg", (dtypes.uint32, SHAPE), label="unsigned")
add("relu", (dtypes.uint8, SHAPE), label="unsigned")
for _op in "exp sin cos tanh erf sigmoid floor ceil round trunc reciprocal silu hardsigmoid hardswish".split():  # noqa: SIM905
    add(_op, (F32, SHAPE))
for _op in "log sqrt rsqrt".split():  # noqa: SIM905
    add(_op, (F32, SHAPE, positive))
    add(_op, (F64, SHAPE, positive))
add("expm1", (F32, SHAPE, small))
add("expm1", (F32, SHAPE, special), label="special")
add("log1p", (F32, SHAPE, small))
add("log1p", (F32, SHAPE, special), label="special")
add("trunc", (F32, SHAPE, special), label="special")
for _op in ("isnan", "isinf", "isfinite"):
    add(_op, (F32, SHAPE, special))
    add(_op, (F64, SHAPE, special))
for _dtype in (F32, I64, BOOL):
    add("logical_not", (_dtype, SHAPE))
    for _op in ("logical_and", "logical_or", "logical_xor"):
        add(_op, (_dtype, SHAPE), (_dtype, (4,)))
for _dtype in (I32, dtypes.uint8, BOOL):
    add("bitwise_not", (_dtype, SHAPE))
    for _op in ("bitwise_and", "bitwise_or", "bitwise_xor"):
        add(_op, (_dtype, SHAPE), (_dtype, (3, 1)))
add("identity", (F32, SHAPE))
for _to in (F64, I32, BOOL, dtypes.float16, dtypes.uint8):
    add("cast", (F32, SHAPE, positive), dtype=_to, label=_to.name)
add("cast", (BOOL, SHAPE), dtype=F32, label="from bool")
for _how in ("none", "tanh"):
    add("gelu", (F32, SHAPE), approximate=_how, label=_how)
add("leaky_relu", (F32, SHAPE), negative_slope=0.2)
add("elu", (F32, SHAPE), alpha=1.5)
add("softplus", (F32, SHAPE))
add("softplus", (F32, SHAPE), beta=2.0, threshold=1.0, label="beta")
for _low, _high in ((-0.5, 1), (None, 0.5), (-0.5, None), (None, None)):
    add("clamp", (F32, SHAPE), min=_low, max=_high, label=f"{_low} {_high}")
add("clamp", (I32, SHAPE), min=-2, max=3)
for _op in ("add", "sub", "mul", "maximum", "minimum"):
    for _dtype in (F32, F64, I32, I64):
        add(_op, (_dtype, SHAPE), (_dtype, (3, 1)))
add("div", (F32, SHAPE), (F32, (4,), positive))
add("pow", (F32, SHAPE, positive), (F32, (4,)))
add("pow", (I64, SHAPE), (I64, (4,), index_below(4)))
add("pow", (dtypes.int8, SHAPE), (dtypes.int8, (4,), lambda rng, d, s: rng.integers(0, 3, s).astype(np.int8)))
for _op in ("floor_divide", "remainder"):
    for _dtype in (F32, F64):
        add(_op, (_dtype, SHAPE), (_dtype, SHAPE))
    for _dtype in (I32, I64):
        add(_op, (_dtype, SHAPE), (_dtype, SHAPE, lambda rng, d, s: rng.choice([-3, -1, 2, 5], s).astype(d.numpy)))
for _op in ("eq", "ne", "lt", "le", "gt", "ge"):
    for _dtype in (F32, I64, BOOL):
        add(_op, (_dtype, SHAPE), (_dtype, (3, 4)))
add("where", (BOOL, SHAPE), (F32, SHAPE), (F32, (4,)))


def unit(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-0.95, 0.95, shape).astype(dtype.numpy)


def above_one(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(1, 9, shape).astype(dtype.numpy)


for _op in ("tan", "asin", "acos", "atanh"):
    add(_op, (F32, SHAPE, unit))
for _op in ("atan", "sinh", "cosh", "asinh", "erfc"):
    add(_op, (F32, SHAPE))
add("acosh", (F32, SHAPE, above_one))
for _op in ("log2", "log10"):
    add(_op, (F32, SHAPE, positive))
    add(_op, (F64, SHAPE, positive))
for _op in ("copysign", "hypot", "atan2"):
    add(_op, (F32, SHAPE), (F32, (4,)))
    add(_op, (F32, SHAPE, special), (F32, (3, 4), special), label="special")
for _dtype in (F32, I32, I64):
    add("fmod", (_dtype, SHAPE), (_dtype, SHAPE, lambda rng, d, s: rng.choice([-3, -1, 2, 5], s).astype(d.numpy)))
for _op in ("shift_left", "shift_right"):
    add(_op, (dtypes.uint8, SHAPE), (dtypes.uint8, (4,), index_below(12)))
    add(_op, (dtypes.uint32, SHAPE), (dtypes.uint32, (4,)))

for _op in ("sum", "prod", "amax", "amin", "mean"):
    add(_op, (F32, SHAPE), axes=(1, 2), keepdims=True, label="keep")
    add(_op, (F32, SHAPE), axes=(0,), label="batch")
    add(_op, (F32, SHAPE), axes=(), label="nothing")
for _op in ("sum", "prod", "amax", "amin"):
    add(_op, (I32, SHAPE), axes=(2,))
    add(_op, (dtypes.int8, SHAPE), axes=(2,))
for _op in ("any", "all"):
    add(_op, (BOOL, SHAPE), axes=(1,))
    add(_op, (BOOL, SHAPE), axes=(0, 2), keepdims=True, label="keep")
for _op in ("argmax", "argmin"):
    add(_op, (F32, SHAPE), axis=1)
    add(_op, (I32, SHAPE), axis=0, keepdims=True, label="keep")

for _dtype in (F32, I32, I64, dtypes.int8):
    add("sort", (_dtype, SHAPE), axis=2)
    add("sort", (_dtype, SHAPE), axis=0, descending=True, label="descending")
    add("cumsum", (_dtype, SHAPE), axis=1)
add("sort", (BOOL, SHAPE), axis=0)

add("constant", (F32, SHAPE), build=lambda g, x: g.add(x, g.constant(np.arange(4, dtype=np.float32))))
add("iota", (F32, SHAPE), build=lambda g, x: g.add(x, g.iota(shape=SHAPE, axis=0, dtype=F32)), label="symbolic")
add("iota", (I64, (n,)), build=lambda g, x: g.add(x, g.iota(shape=(n,), axis=0, dtype=I64)), label="line")

add("reshape", (F32, SHAPE), shape=(n, 12))
add("reshape", (F32, SHAPE), shape=(n * 3, 2, 2), label="merge")
add("reshape", (F32, (n, n, 4)), shape=(n * n, 4), label="square")
add("reshape", (F32, (n, n, 4)), shape=(n, 4, n), label="two")
add("permute", (F32, SHAPE), dims=(2, 0, 1))
add("expand", (F32, (3, 1)), (F32, SHAPE), build=lambda g, a, x: g.add(g.expand(a, shape=(n, 3, 4)), x))
add("expand", (F32, SHAPE), shape=(2 * n - n, 3, 4), label="same")
add("slice", (F32, SHAPE), starts=(0, 1, 0), stops=(n, 3, 4), steps=(1, 1, 2))
add("slice", (F32, SHAPE), starts=(n - 1, 0, 0), stops=(n, 3, 4), steps=(1, 1, 1), label="symbolic")
add("slice", (F32, SHAPE), starts=(0, 0, 0), stops=((n + 1) // 2, 3, 4), steps=(1, 1, 1), label="half")
add("flip", (F32, SHAPE), axes=(0, 2))
add("concat", (F32, SHAPE), (F32, (2, 3, 4)), axis=0)
add("pad", (F32, SHAPE), low=(1, 0, 2), high=(0, 1, 0), interior=(0, 0, 0), value=1.5)
add("pad", (F32, SHAPE), low=(0, 0, 1), high=(0, 2, 0), interior=(1, 0, 2), value=-1.0, label="interior")
add("pad", (I64, SHAPE), low=(n, 0, 0), high=(0, 0, 0), interior=(0, 0, 0), value=7, label="symbolic")
add("gather", (F32, SHAPE), (I64, (n, 5, 4), index_below(3)), axis=1)
add("gather", (F32, SHAPE), (I64, (n, 2, 3), index_below(3)), axis=1, label="smaller")
add("scatter_add", (F32, SHAPE), (I64, (n, 5, 4), index_below(3)), (F32, (n, 5, 4)), axis=1)
add("scatter_add", (F32, SHAPE), (I64, (n, 2, 3), index_below(3)), (F32, (n, 5, 4)), axis=1, label="smaller")
add("scatter", (F32, SHAPE), (I64, (n, 1, 4), index_below(3)), (F32, (n, 5, 4)), axis=1)
add("scatter_reduce", (F32, SHAPE), (I64, (n, 2, 3), index_below(3)), (F32, (n, 5, 4)), axis=1, reduce="prod")
add("index_select", (F32, SHAPE), (I64, (5,), index_below(3)), axis=1)
add("strided_view", (F32, (3, 4)), shape=(3,), starts=(0, 1), steps=(1, 1))
add("det", (F32, (2, 3, 3)))

for _a, _b in ((False, False), (True, False), (False, True), (True, True)):
    add("matmul", (F32, (4, n) if _a else (n, 4)), (F32, (5, 4) if _b else (4, 5)), transpose_a=_a, transpose_b=_b,
        label=f"matrix {_a} {_b}")  # fmt: skip
    add("matmul", (F32, (n, 4, 3) if _a else (n, 3, 4)), (F32, (5, 4) if _b else (4, 5)), transpose_a=_a,
        transpose_b=_b, label=f"batch {_a} {_b}")  # fmt: skip
add("matmul", (I32, (n, 4)), (I32, (4, 5)))
add("matmul", (dtypes.int16, (n, 4)), (dtypes.int16, (4, 5)))
CONV = {"stride": (2, 1), "padding": ((1, 0), (1, 1)), "dilation": (1, 2), "groups": 2}
add("conv", (F32, (n, 4, 9, 8)), (F32, (6, 2, 3, 3)), **CONV)
add("conv", (F32, (n, 4, 9)), (F32, (6, 4, 3)), stride=(1,), padding=((0, 0),), dilation=(1,), groups=1, label="1d")
add("conv", (F32, (1, 4, n + 4)), (F32, (6, 4, 3)), stride=(2,), padding=((1, 1),), dilation=(1,), groups=1,
    label="symbolic length")  # fmt: skip
add("conv_transpose", (F32, (n, 6, 5, 8)), (F32, (6, 2, 3, 3)), **CONV, output_padding=(1, 0))
POOL = {"kernel": (3, 2), "stride": (2, 2), "padding": ((1, 1), (0, 1))}
add("max_pool", (F32, (n, 3, 8, 7)), **POOL, dilation=(1, 1))
add("max_pool", (F32, (n, 3, 8, 7)), **POOL, dilation=(1, 1), ceil_mode=True, label="ceil")
add("max_pool", (F32, (n, 3, 9, 9)), **{**POOL, "stride": (3, 3)}, dilation=(2, 2), ceil_mode=True, label="dilated")
add("max_pool", (I32, (n, 3, 8, 7)), **POOL, dilation=(1, 1))
add("max_pool", (F32, (n, 3, 8, 7)), label="values only",
    build=lambda g, x: g.max_pool(x, **POOL, dilation=(1, 1))[0])  # fmt: skip
add("avg_pool", (F32, (n, 3, 8, 7)), **POOL)
add("avg_pool", (F32, (n, 3, 8, 7)), **POOL, count_include_pad=False, label="data only")
add("avg_pool", (F32, (n, 3, 8, 7)), **POOL, divisor_override=5, label="divisor")
for _include in (True, False):
    add("avg_pool", (F32, (n, 3, 8, 8)), **POOL, ceil_mode=True, count_include_pad=_include, label=f"ceil {_include}")
add("avg_pool", (F32, (n, 2, 10)), kernel=(4,), stride=(4,), padding=((0, 0),), ceil_mode=True, label="overhang")

for _mode in ("nearest", "nearest-exact", "linear", "cubic", "area"):
    add("resize", (F32, (n, 3, 8, 7)), mode=_mode, sizes=(16, 9), label=_mode)
    add("resize", (F32, (n, 3, 8, 7)), mode=_mode, sizes=(5, 7), label=f"{_mode} smaller")
for _mode in ("nearest", "nearest-exact", "linear"):
    add("resize", (F32, (n, 3, 8)), mode=_mode, sizes=(20,), label=f"{_mode} 1d")
    add("resize", (F32, (n, 2, 4, 3, 5)), mode=_mode, sizes=(8, 4, 10), label=f"{_mode} 3d")
    add("resize", (F32, (n, 3, 8, 7)), mode=_mode, sizes=(12, 9), scales=(1.6, 1.4), label=f"{_mode} scales")
for _mode in ("linear", "cubic"):
    add("resize", (F32, (n, 3, 8, 7)), mode=_mode, sizes=(16, 9), align_corners=True, label=f"{_mode} corners")
    add("resize", (F32, (n, 3, 8, 7)), mode=_mode, sizes=(3, 9), antialias=True, label=f"{_mode} antialias")
add("resize", (F32, (n, 3, 4, 4)), mode="linear", sizes=(4, 4), label="same")
_places = (dtypes.int32, (5,), lambda rng, d, s: rng.integers(0, 4, s).astype(np.int32))
add("resample", (F32, SHAPE), _places, axis=2, label="choice")
add("resample", (F32, SHAPE), _places, (F32, (3, 5)), axis=2, label="weights")
add("resample", (F32, SHAPE), _places, (F32, (2, 5)), axis=0, label="batch")
add("resample", (F32, SHAPE), label="constant", build=lambda g, x: g.resample(
    x, g.constant(np.array([0, 1, 2, 2], np.int32)), g.constant(np.array([[0.5, 1, 2, 3], [1, 1, 2, 2]], np.float32)),
    axis=1))  # fmt: skip

for _op in ("softmax", "log_softmax"):
    add(_op, (F32, SHAPE), axis=1)
add("layer_norm", (F32, SHAPE), ndim=2, eps=1e-5, label="plain")
add("layer_norm", (F32, SHAPE), (F32, (4,)), ndim=1, eps=1e-5, label="weight")
add("layer_norm", (F32, SHAPE), (F32, (3, 4)), (F32, (3, 4)), ndim=2, eps=1e-3, label="both")
add("batch_norm", (F32, (n, 3, 4)), (F32, (3,)), (F32, (3,)), (F32, (3,)), (F32, (3,), positive), eps=1e-5)
add("batch_norm_train", (F32, (n, 3, 4)), (F32, (3,)), (F32, (3,)), eps=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule_against_reference(case: Case) -> None:
    run_case(case, 18, seed=7)


@pytest.mark.parametrize("opset", [OLDEST_OPSET, 21])
def test_other_opsets(opset: int) -> None:
    for case in CASES:
        bits = case.op.startswith("bitwise") and case.inputs[0][0] is not BOOL
        if not (opset < 18 and bits):
            run_case(case, opset, seed=11)


@pytest.mark.parametrize("reduce", ["amax", "amin"])
def test_scatter_of_extremes(reduce: str) -> None:
    operands = [(F32, (4, 3)), (I64, (4, 3), index_below(4)), (F32, (4, 3))]
    case = Case("scatter_reduce", operands, {"axis": 0, "reduce": reduce})
    run_case(case, 18, seed=3)
    with pytest.raises(UnsupportedError, match="opset 18"):
        run_case(case, OLDEST_OPSET, seed=3)


def test_every_operator_is_accounted_for() -> None:
    exported, explained = set(RULES), {**DECOMPOSED, **NOT_EXPORTED}
    assert exported | set(explained) == set(OPS)
    assert not exported & set(explained)
    assert all(len(reason) > 20 for reason in explained.values())
    assert {c.op for c in CASES} == exported | set(DECOMPOSED)
    assert set(ONNX_TYPES) == set(dtypes.ALL)


@pytest.mark.parametrize("opset", [OLDEST_OPSET, 18, 22])
@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16, F64], ids=lambda d: d.name)
def test_other_float_types_pass_the_checker(dtype: DType, opset: int) -> None:
    """Typed as asked; whether a runtime has kernels for the type is its own business."""
    for case in CASES:
        if case.build is None and any(t[0] is F32 for t in case.inputs):
            swapped = [(dtype if t[0] is F32 else t[0], *t[1:]) for t in case.inputs]
            graph = build_graph(Case(case.op, swapped, case.attrs))
            model = graph_to_onnx(graph, opset_version=opset)
            onnx.checker.check_model(model, full_check=True)
            for value, info in zip(graph.outputs, model.graph.output, strict=True):
                assert info.type.tensor_type.elem_type == ONNX_TYPES[value.dtype]


@pytest.mark.parametrize("dtype", [dtypes.int8, dtypes.uint8, dtypes.int16, dtypes.uint16, I64], ids=lambda d: d.name)
def test_other_integer_types_pass_the_checker(dtype: DType) -> None:
    for case in CASES:
        if case.build is None and case.inputs[0][0] is I32 and case.op != "clamp":
            if case.op == "max_pool" and dtype is I64:
                continue
            swapped = [(dtype if t[0] is I32 else t[0], *t[1:]) for t in case.inputs]
            onnx.checker.check_model(graph_to_onnx(build_graph(Case(case.op, swapped, case.attrs))), full_check=True)


MOVES = ("reshape", "permute", "expand", "slice", "flip", "concat", "gather", "index_select", "where", "identity")


@pytest.mark.parametrize("dtype", [BOOL, I64, F64, dtypes.uint8], ids=lambda d: d.name)
def test_moves_of_other_types(dtype: DType) -> None:
    for case in CASES:
        if case.op in MOVES and case.build is None:
            swapped = [(dtype if t[0] is F32 else t[0], *t[1:]) for t in case.inputs]
            run_case(Case(case.op, swapped, case.attrs), 18, seed=5)


def half(g: GraphBuilder, x: Value) -> Value:
    return g.mul(g.add(x, 1.5), 0.5)


def test_float16_runs() -> None:
    run_case(Case("add", [(dtypes.float16, SHAPE)], build=half), 18, seed=3)
