"""Fused contraction groups: the epilogue runs on the accumulators, with every operand in its own layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from contraction_harness import execute_layouts, random_arrays, run_kernel, runnable_targets, set_layouts
from ingot.codegen import contraction
from ingot.codegen.layouts import layout_choices
from ingot.codegen.llvm_emit import emit
from ingot.codegen.lower import contraction as lowering
from ingot.codegen.lower.contraction import lower_contraction
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import DType
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Graph, Node, Value
from ingot.ir.layout import DENSE, Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.target import Target
from ingot.ir.types import TensorType

TARGETS = runnable_targets()
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
Body = Callable[[GraphBuilder, Value, list[Value]], list[Value]]


def fused(op: str, operands: list[TensorType], extras: list[TensorType], body: Body, **attrs: object) -> Node:
    """A fused group: ``op`` on the operands, then ``body(builder, result, extras)``."""
    region, graph = Graph("region"), Graph("outer")
    inner = [region.add_input(t, f"v{i}") for i, t in enumerate([*operands, *extras])]
    b = GraphBuilder(region)
    result = b.emit(op, inner[: len(operands)], **attrs).output
    for out in body(b, result, inner[len(operands) :]):
        region.add_output(out)
    outer = [graph.add_input(t, f"v{i}") for i, t in enumerate([*operands, *extras])]
    return create_fused(graph, region, outer, "contraction")


def conv_types(n: object, c: int, o: int, size: int, k: int, dtype: DType = dtypes.float32) -> list[TensorType]:
    return [TensorType(dtype, (n, c, size, size)), TensorType(dtype, (o, c, k, k))]  # type: ignore[arg-type]


CONV3 = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
CONV1 = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}


@each_target
@pytest.mark.parametrize("channels", [16, 19, 40])
def test_bias_residual_relu(channels: int, target: object) -> None:
    types = conv_types(2, 10, channels, 7, 3)
    node = fused(
        "conv",
        types,
        [TensorType(dtypes.float32, (1, channels, 1, 1)), TensorType(dtypes.float32, (2, channels, 7, 7))],
        lambda b, y, e: [b.relu(b.add(b.add(y, e[0]), e[1]))],
        **CONV3,
    )
    execute_layouts(node, target, np.random.default_rng(channels))


@each_target
@pytest.mark.parametrize("channels", [20, 400])
def test_results_beyond_the_caches_are_asked_for(
    channels: int, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an L2 of 256 bytes; sums of 400 terms are made in blocks."""
    types = [TensorType(dtypes.float32, (2, channels, 6, 5)), TensorType(dtypes.float32, (37, channels, 1, 1))]
    residual = TensorType(dtypes.float32, (2, 37, 6, 5))
    node = fused("conv", types, [residual], lambda b, y, e: [b.relu(b.add(y, e[0]))], **CONV1)
    monkeypatch.setattr(lowering, "plan_gathered", lambda group, target: None)
    far, near = replace(target, l2_bytes=1 << 8), replace(target, l2_bytes=1 << 30)
    execute_layouts(node, far, np.random.default_rng(channels))
    for choice in (c for c in layout_choices(node, target) if c.outputs[0].blocks and not c.inputs[1].form):
        set_layouts(node, choice)
        asked = ["write=True level=2" in str(lower_contraction(node, t).function) for t in (far, near)]
        assert asked == [True, False]


@each_target
def test_residual_in_another_layout(target: object) -> None:
    """The residual may be dense, or blocked with a halo; the merged rows of a 1x1 convolution then split again."""
    lanes = target.lanes(dtypes.float32)
    residual = TensorType(dtypes.float32, (2, 2 * lanes, 6, 5))
    types = [TensorType(dtypes.float32, (2, lanes, 6, 5)), TensorType(dtypes.float32, (2 * lanes, lanes, 1, 1))]
    for layout in (DENSE, Layout(blocks=((1, lanes),), halo=((0, 0), (0, 0), (1, 2), (0, 1)))):
        node = fused("conv", types, [residual], lambda b, y, e: [b.mul(b.add(y, e[0]), e[0])], **CONV1)
        choice = layout_choices(node, target)[0]
        for v, place in zip([*node.inputs, *node.outputs], [*choice.inputs, *choice.outputs], strict=True):
            v.type = v.type.with_layout(place)
        node.inputs[2].type = residual.with_layout(layout)
        execute_layouts(node, target, np.random.default_rng(2), choices=[None])


@each_target
def test_padding_lanes_stay_finite(target: object) -> None:
    """A division by a padded scale would put NaN into the lanes behind the last channel."""
    types = conv_types(1, 5, 19, 6, 3)
    scale = TensorType(dtypes.float32, (1, 19, 1, 1))
    node = fused("conv", types, [scale], lambda b, y, e: [b.div(y, e[0])], **CONV3)
    execute_layouts(node, target, np.random.default_rng(3))


@each_target
def test_several_results_and_scalars(target: object) -> None:
    types = conv_types(2, 8, 24, 5, 3)
    extras = [
        TensorType(dtypes.float32, (1, 1, 1, 1)),
        TensorType(dtypes.float32, (1, 1, 1, 5)),
        TensorType(dtypes.bool_, (2, 24, 5, 5)),
    ]

    def body(b: GraphBuilder, y: Value, e: list[Value]) -> list[Value]:
        scaled = b.mul(y, b.add(e[0], 1.0))
        return [b.where(e[2], scaled, b.neg(e[1])), y]

    node = fused("conv", types, extras, body, **CONV3)
    execute_layouts(node, target, np.random.default_rng(4))


@each_target
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64, dtypes.bfloat16], ids=str)
def test_matmul_bias_activation(dtype: DType, target: object) -> None:
    n = Dim("N", 1, 32).expr
    types = [TensorType(dtype, (n, 3, 20)), TensorType(dtype, (45, 20))]
    extras = [TensorType(dtype, (45,)), TensorType(dtype, (n, 3, 45))]
    node = fused("matmul", types, extras, lambda b, y, e: [b.add(b.sigmoid(b.add(y, e[0])), e[1])], transpose_b=True)
    for batch in (1, 5, 32):
        execute_layouts(node, target, np.random.default_rng(batch), {"N": batch}, note=f"N = {batch}")


@each_target
def test_gradients_with_epilogue(target: object) -> None:
    f = dtypes.float32
    x, dy, w = TensorType(f, (2, 20, 8, 8)), TensorType(f, (2, 24, 4, 4)), TensorType(f, (24, 20, 3, 3))
    geometry = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    mask = TensorType(dtypes.bool_, (2, 20, 8, 8))
    back = fused(
        "conv_transpose",
        [dy, w],
        [mask],
        lambda b, y, e: [b.where(e[0], y, b.constant(0.0, f))],
        output_padding=(1, 1),
        **geometry,
    )
    execute_layouts(back, target, np.random.default_rng(6))
    weight = fused(
        "conv_weight_grad", [x, dy], [w], lambda b, y, e: [b.sub(e[0], b.mul(y, 0.1))], kernel=(3, 3), **geometry
    )
    execute_layouts(weight, target, np.random.default_rng(7))


def looped_cases() -> dict[str, Node]:
    """Epilogues with an extra per row, per channel and per element, over edges of every kind."""

    def body(b: GraphBuilder, y: Value, e: list[Value]) -> list[Value]:
        z = b.mul(b.sigmoid(b.add(y, e[0])), e[1])
        return [z, b.gt(e[1], e[2])]

    f = dtypes.float32
    n = Dim("N", 1, 32).expr
    strided = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "output_padding": (1, 1)}

    def around(shape: tuple, dtype: DType = f) -> list[TensorType]:
        channel = (shape[1], 1, 1) if len(shape) == 4 else (shape[-1],)
        return [TensorType(dtype, s) for s in (channel, shape, (shape[0], *[1] * len(shape[1:])))]

    depthwise = [TensorType(f, (2, 19, 9, 9)), TensorType(f, (19, 1, 3, 3))]
    transposed = [TensorType(f, (2, 20, 5, 5)), TensorType(f, (20, 7, 3, 3))]
    half = dtypes.float16
    return {
        "conv": fused("conv", conv_types(n, 19, 21, 9, 3), around((n, 21, 9, 9)), body, **CONV3),
        "conv16": fused("conv", conv_types(2, 9, 40, 7, 3, half), around((2, 40, 7, 7), half), body, **CONV3),
        "long": fused("conv", conv_types(1, 70, 35, 5, 3), around((1, 35, 5, 5)), body, **CONV3),
        "depthwise": fused("conv", depthwise, around((2, 19, 9, 9)), body, **CONV3 | {"groups": 19}),
        "transposed": fused("conv_transpose", transposed, around((2, 7, 10, 10)), body, **strided),
        "matmul": fused("matmul", [TensorType(f, (n, 7, 20)), TensorType(f, (20, 45))], around((n, 7, 45)), body),
    }  # fmt: skip


@each_target
@pytest.mark.parametrize("case", list(looped_cases()))
def test_epilogue_in_a_loop(case: str, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right in every layout, and the bits of the epilogue that is written out."""
    node = looped_cases()[case]
    env = {"N": 5}
    arrays = random_arrays(node, np.random.default_rng(3), env)
    for choice in layout_choices(node, target):
        set_layouts(node, choice)
        results = []
        for budget in (10**9, 0):
            monkeypatch.setattr(contraction, "EPILOGUE_LINES", budget)
            assert ("epilogue in a loop" in lower_contraction(node, target).schedule) == (budget == 0)
            results.append(run_kernel(node, arrays, target, env))
        for unrolled, looped in zip(*results, strict=True):
            assert unrolled.tobytes() == looped.tobytes(), f"{choice}"
    execute_layouts(node, target, np.random.default_rng(4), env, [None])


def test_expensive_epilogues_stay_short() -> None:
    """LLVM takes some 50 microseconds per line."""
    f = dtypes.float32
    for target in TARGETS:
        types = [TensorType(f, (64, 96)), TensorType(f, (96, 80))]
        power = fused("matmul", types, [TensorType(f, (80,))], lambda b, y, e: [b.pow(b.sin(y), e[0])])
        relu = fused("matmul", types, [TensorType(f, (80,))], lambda b, y, e: [b.relu(b.add(y, e[0]))])
        kernel = lower_contraction(power, target)
        assert "epilogue in a loop" in kernel.schedule
        assert emit(kernel.function).count("\n") < 4000
        assert "epilogue in a loop" not in lower_contraction(relu, target).schedule


@each_target
def test_cast_in_the_epilogue(target: object) -> None:
    types = conv_types(1, 6, 21, 5, 3)
    node = fused(
        "conv", types, [], lambda b, y, e: [b.cast(y, dtype=dtypes.float64), b.cast(y, dtype=dtypes.float16)], **CONV3
    )
    execute_layouts(node, target, np.random.default_rng(8))


def test_groups_that_do_not_fit_are_refused() -> None:
    target = TARGETS[0]
    types = conv_types(1, 6, 21, 5, 3)
    node = fused("conv", types, [], lambda b, y, e: [b.sum(y, axes=(1,), keepdims=True)], **CONV3)
    with pytest.raises(UnsupportedError, match="sum in an epilogue"):
        lower_contraction(node, target)
