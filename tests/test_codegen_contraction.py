"""Contraction kernels against the references: generated shapes, every layout on offer, every target that runs here."""

from __future__ import annotations

import numpy as np
import pytest
from contraction_harness import execute_layouts, random_arrays, run_kernel, runnable_targets, set_layouts
from ingot.codegen.assemble import assemble
from ingot.codegen.host import target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.llvm_emit import emit
from ingot.codegen.lower.contraction import lower_contraction
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import DType
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Graph, Node
from ingot.ir.interpreter import eval_node
from ingot.ir.layout import DENSE, Layout
from ingot.ir.target import Target
from ingot.ir.types import TensorType

TARGETS = runnable_targets()
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
FLOATS = (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16)


def make(op: str, types: list[TensorType], **attrs: object) -> Node:
    g = Graph(op)
    values = [g.add_input(t, f"operand{i}") for i, t in enumerate(types)]
    return GraphBuilder(g).emit(op, values, **attrs)


def random_conv(rng: np.random.Generator, op: str, dtype: DType, lanes: int, batch: object = None) -> Node:
    """A convolution (or gradient) with random geometry; channels sit around the vector width."""
    rank = int(rng.choice([1, 2, 2, 2, 3]))

    def channels() -> int:
        return int(rng.choice([1, 3, lanes - 1, lanes, lanes + 3, 2 * lanes, 3 * lanes + 1]))

    style = rng.choice(["plain", "plain", "plain", "grouped", "depthwise"])
    if style == "depthwise":
        groups = max(2, channels())
        o, c = groups, 1
    elif style == "grouped":
        groups = 2
        o, c = 2 * channels(), channels()
    else:
        groups, o, c = 1, channels(), channels()
    o, c = max(o, 1), max(c, 1)
    kernel = [int(k) for k in rng.integers(1, 4, rank)]
    stride = [int(s) for s in rng.integers(1, 4 if op == "conv" else 3, rank)]
    if op == "conv_transpose" and rank == 3:
        stride[0] = 1
    dilation = [int(d) for d in rng.integers(1, 3, rank)]
    padding = [(int(a), int(b)) for a, b in rng.integers(0, 3, (rank, 2))]
    n = batch if batch is not None else int(rng.integers(1, 4))
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sizes = [int(e) + r for e, r in zip(rng.integers(1, 18 if rank < 3 else 6, rank), reach, strict=True)]
    weight = TensorType(dtype, (o, c, *kernel))
    if op == "conv":
        return make(op, [TensorType(dtype, (n, c * groups, *sizes)), weight], **geometry)
    if op == "conv_transpose":
        padding = [(min(a, r - 1), min(b, r - 1)) for (a, b), r in zip(padding, reach, strict=True)]
        extra = [int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)]
        geometry |= {"padding": padding, "output_padding": extra}
        return make(op, [TensorType(dtype, (n, o, *sizes)), weight], **geometry)
    counts = [(e + a + b - r) // s + 1 for e, (a, b), r, s in zip(sizes, padding, reach, stride, strict=True)]
    types = [TensorType(dtype, (n, c * groups, *sizes)), TensorType(dtype, (n, o, *counts))]
    return make(op, types, kernel=kernel, **geometry)


@each_target
@pytest.mark.parametrize("op", ["conv", "conv_transpose", "conv_weight_grad"])
@pytest.mark.parametrize("seed", range(7))
def test_random_convolutions(op: str, seed: int, target: Target) -> None:
    rng = np.random.default_rng([seed, len(op)])
    dtype = (dtypes.float32, dtypes.float32, *FLOATS, dtypes.int32, dtypes.int8)[seed]
    node = random_conv(rng, op, dtype, min(target.lanes(dtype), 16))
    execute_layouts(node, target, rng, note=f"seed {seed}")


@each_target
@pytest.mark.parametrize("seed", range(8))
def test_random_matmuls(seed: int, target: Target) -> None:
    rng = np.random.default_rng(seed)
    dtype = (dtypes.float32, dtypes.float32, *FLOATS, dtypes.int64, dtypes.uint8)[seed % 8]
    m, n, k = (int(x) for x in rng.integers(1, [20, 90, 40]))
    batch = [int(x) for x in rng.integers(1, 4, int(rng.integers(0, 3)))]
    ta, tb = bool(rng.integers(2)), bool(rng.integers(2))
    left = batch if rng.integers(2) else batch[1:]
    right = [e if rng.integers(2) else 1 for e in batch] if rng.integers(2) else []
    a = TensorType(dtype, (*left, *((k, m) if ta else (m, k))))
    b = TensorType(dtype, (*right, *((n, k) if tb else (k, n))))
    node = make("matmul", [a, b], transpose_a=ta, transpose_b=tb)
    execute_layouts(node, target, rng, note=f"seed {seed}")


@each_target
@pytest.mark.parametrize("op", ["conv", "conv_transpose", "conv_weight_grad"])
def test_symbolic_batch(op: str, target: Target) -> None:
    dim = Dim("N", 1, 8)
    rng = np.random.default_rng(5)
    lanes = target.lanes(dtypes.float32)
    types = {
        "conv": [(dim.expr, lanes + 1, 6, 7), (lanes * 2, lanes + 1, 3, 3)],
        "conv_transpose": [(dim.expr, lanes * 2, 6, 7), (lanes * 2, lanes + 1, 3, 3)],
        "conv_weight_grad": [(dim.expr, lanes + 1, 6, 7), (dim.expr, lanes * 2, 3, 4)],
    }[op]
    attrs = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    if op == "conv_transpose":
        attrs["output_padding"] = (1, 0)
    if op == "conv_weight_grad":
        attrs["kernel"] = (3, 3)
    node = make(op, [TensorType(dtypes.float32, s) for s in types], **attrs)
    for n in (1, 3, 8):
        execute_layouts(node, target, rng, {"N": n}, note=f"N = {n}")


@each_target
def test_symbolic_matmul_extents(target: Target) -> None:
    rng = np.random.default_rng(6)
    for shapes, ta in (
        ((("N", 33), (33, 50)), False),
        ((("N", 4, 9), ("N", 9, 10)), False),
        (((33, 20), (33, "N")), True),
        ((("N", 20), ("N", 33)), True),
    ):
        dim = Dim("N", 1, 64).expr
        a, b = (TensorType(dtypes.float32, tuple(dim if e == "N" else e for e in s)) for s in shapes)
        node = make("matmul", [a, b], transpose_a=ta)
        for n in (1, 3, 17, 64):
            execute_layouts(node, target, rng, {"N": n}, note=f"{shapes} N = {n}")


@each_target
def test_empty_extents(target: Target) -> None:
    rng = np.random.default_rng(7)
    execute_layouts(
        make("matmul", [TensorType(dtypes.float32, (0, 4)), TensorType(dtypes.float32, (4, 5))]), target, rng
    )
    execute_layouts(
        make("matmul", [TensorType(dtypes.float32, (3, 0)), TensorType(dtypes.float32, (0, 5))]), target, rng
    )


@each_target
def test_result_does_not_depend_on_the_split(target: Target) -> None:
    node = make(
        "conv",
        [TensorType(dtypes.float32, (2, 24, 9, 9)), TensorType(dtypes.float32, (40, 24, 3, 3))],
        stride=(1, 1),
        padding=((1, 1),) * 2,
        dilation=(1, 1),
        groups=1,
    )
    set_layouts(node, layout_choices(node, target)[0])
    arrays = random_arrays(node, np.random.default_rng(8))
    results = [run_kernel(node, arrays, target, pieces=p)[0] for p in (1, 2, 7, 100)]
    for r in results[1:]:
        assert (r == results[0]).all()


def halo(n: int) -> tuple[tuple[int, int], ...]:
    return ((0, 0), (0, 0), (n, n), (n, n))


@each_target
@pytest.mark.parametrize("extra", [0, 2])
def test_output_halo_and_wider_input_halo(extra: int, target: Target) -> None:
    """The result's halo is zeroed on every run; an input may carry more halo than this convolution pads."""
    lanes = target.lanes(dtypes.float32)
    node = make(
        "conv",
        [
            TensorType(dtypes.float32, (2, lanes + 2, 7, 9)),
            TensorType(dtypes.float32, (2 * lanes + 3, lanes + 2, 3, 3)),
        ],
        stride=(1, 1),
        padding=((1, 1),) * 2,
        dilation=(1, 1),
        groups=1,
    )
    set_layouts(node, layout_choices(node, target)[0])
    x, y = node.inputs[0], node.output
    x.type = x.type.with_layout(Layout(blocks=((1, lanes),), halo=halo(1 + extra)))
    y.type = y.type.with_layout(Layout(blocks=((1, lanes),), halo=halo(1 + extra)))
    execute_layouts(node, target, np.random.default_rng(9), choices=[None])


@each_target
def test_dense_result_with_halo(target: Target) -> None:
    types = [TensorType(dtypes.float32, (2, 4, 5, 6)), TensorType(dtypes.float32, (6, 2, 3, 3))]
    node = make("conv", types, stride=(1, 1), padding=((1, 1),) * 2, dilation=(1, 1), groups=2)
    node.output.type = node.output.type.with_layout(Layout(halo=((0, 0), (0, 0), (1, 2), (3, 1))))
    execute_layouts(node, target, np.random.default_rng(10), choices=[None])


@each_target
def test_volume_with_halo_on_every_axis(target: Target) -> None:
    lanes = target.lanes(dtypes.float32)
    types = [TensorType(dtypes.float32, (2, 4, 3, 5, 6)), TensorType(dtypes.float32, (2 * lanes + 1, 4, 3, 3, 3))]
    node = make("conv", types, stride=(1, 1, 1), padding=((1, 1),) * 3, dilation=(1, 1, 1), groups=1)
    set_layouts(node, layout_choices(node, target)[0])
    frame = ((0, 0), (0, 0), (1, 1), (0, 2), (1, 0))
    node.output.type = node.output.type.with_layout(Layout(blocks=((1, lanes),), halo=frame))
    execute_layouts(node, target, np.random.default_rng(11), choices=[None])


@pytest.mark.parametrize("op", ["conv", "conv_transpose", "conv_weight_grad"])
def test_aarch64_code_is_generated(op: str) -> None:
    target = target_named("aarch64")
    node = random_conv(np.random.default_rng(3), op, dtypes.float32, 4)
    for choice in layout_choices(node, target):
        set_layouts(node, choice)
        kernel = lower_contraction(node, target)
        code, _ = assemble(emit(kernel.function), target, kernel.function.name)
        assert len(code) > 100


def test_code_size_stays_bounded() -> None:
    """Compile time is proportional to the lines of IR: about 50 microseconds each."""
    target = target_named("x86-64-avx512")
    for size in (7, 14, 28, 56, 112, 33):
        types = [TensorType(dtypes.float32, (1, 64, size, size)), TensorType(dtypes.float32, (64, 64, 3, 3))]
        node = make("conv", types, stride=(1, 1), padding=((1, 1),) * 2, dilation=(1, 1), groups=1)
        set_layouts(node, layout_choices(node, target)[0])
        assert emit(lower_contraction(node, target).function).count("\n") < 2000, size


def test_refusals_name_the_layout() -> None:
    target = target_named("x86-64-avx2")
    node = make(
        "conv",
        [TensorType(dtypes.float32, (1, 16, 8, 8)), TensorType(dtypes.float32, (16, 16, 3, 3))],
        stride=(1, 1),
        padding=((1, 1),) * 2,
        dilation=(1, 1),
        groups=1,
    )
    set_layouts(node, next(c for c in layout_choices(node, target) if not c.inputs[1].form and c.inputs[1].blocks))
    node.inputs[0].type = node.inputs[0].type.with_layout(Layout(blocks=((1, 8),)))
    with pytest.raises(UnsupportedError, match=r"padding \(1, 1\).*halo"):
        lower_contraction(node, target)
    node.inputs[1].type = node.inputs[1].type.with_layout(DENSE)
    with pytest.raises(UnsupportedError, match="weight is not packed"):
        lower_contraction(node, target)


@each_target
def test_parts_of_a_weight_gradient_with_a_dense_result_share_their_panels(target: Target) -> None:
    lanes = target.lanes(dtypes.float32)
    halo = ((0, 0), (0, 0), (1, 1), (1, 1))
    types = [
        TensorType(dtypes.float32, (2, 2 * lanes + 1, 9, 9), Layout(blocks=((1, lanes),), halo=halo)),
        TensorType(dtypes.float32, (2, 6 * lanes - 1, 9, 9), Layout(blocks=((1, lanes),))),
    ]
    attrs = {"kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    node = make("conv_weight_grad", types, **attrs)
    rng = np.random.default_rng(0)
    arrays = {v: rng.standard_normal(v.shape).astype(np.float32) for v in node.inputs}
    (got,) = run_kernel(node, arrays, target)
    (want,) = eval_node(node, [a.astype(np.float64) for a in arrays.values()], float64=True)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
