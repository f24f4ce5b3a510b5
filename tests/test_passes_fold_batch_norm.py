"""Batch norm folding: behind, in front, as scale and shift, and every reason not to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from graph_utils import build, ops, run_pass
from ingot.ir.dtypes import float16, float64
from ingot.ir.graph import Graph
from ingot.ir.source import Source
from ingot.passes.dce import DeadCodeElimination
from ingot.passes.fold_batch_norm import BEHIND, IN_FRONT, SCALE_SHIFT, FoldBatchNorm
from ingot.passes.manager import PassContext

FOLD = FoldBatchNorm()
RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def same_numbers_whatever_runs_before() -> None:
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def weight(b: Any, *shape: int, name: str = "weight") -> Any:
    return b.constant(RNG.normal(size=shape).astype(np.float32), name=name)


def bn(b: Any, x: Any, *, shift: bool = True, eps: float = 1e-3, var: Any = None) -> Any:
    channels, dtype = x.shape[1], x.dtype.numpy
    mean = RNG.normal(size=channels) if shift else np.zeros(channels)
    bias = RNG.normal(size=channels) if shift else np.zeros(channels)
    var = RNG.uniform(0.5, 2, channels) if var is None else var
    parameters = {"weight": RNG.normal(size=channels), "bias": bias, "mean": mean, "var": var}
    return b.batch_norm(
        x, *(b.constant(v.astype(dtype), name=f"bn.{k}") if isinstance(v, np.ndarray) else v
             for k, v in parameters.items()), eps=eps,
    )  # fmt: skip


def conv(b: Any, x: Any, w: Any, pad: int = 0, groups: int = 1, stride: int = 1, op: str = "conv") -> Any:
    n = x.type.rank - 2
    extra = {"output_padding": (0,) * n} if op == "conv_transpose" else {}
    return getattr(b, op)(
        x, w, stride=(stride,) * n, padding=((pad, pad),) * n, dilation=(1,) * n, groups=groups, **extra
    )


Make = Callable[[Any, Any], Any]
IMAGE, ROWS = (2, 4, 7, 7), (5, 6)

FOLDED: dict[str, tuple[str, Sequence[int], str, Make]] = {
    "conv bn": (BEHIND, IMAGE, "conv add", lambda b, x: bn(b, conv(b, x, weight(b, 8, 4, 3, 3), pad=1))),
    "conv bias bn": (
        BEHIND, IMAGE, "conv add", lambda b, x: bn(b, b.add(conv(b, x, weight(b, 8, 4, 3, 3)), weight(b, 1, 8, 1, 1)))),
    "bias conv bn, bias through reshape": (
        BEHIND, IMAGE, "conv add",
        lambda b, x: bn(b, b.add(b.reshape(weight(b, 8), shape=(8, 1, 1)), conv(b, x, weight(b, 8, 4, 3, 3))))),
    "depthwise": (
        BEHIND, IMAGE, "conv add", lambda b, x: bn(b, conv(b, x, weight(b, 8, 1, 3, 3), pad=1, groups=4, stride=2))),
    "conv1d": (BEHIND, (2, 3, 9), "conv add", lambda b, x: bn(b, conv(b, x, weight(b, 5, 3, 3)))),
    "conv_transpose bn": (
        BEHIND, IMAGE, "conv_transpose add",
        lambda b, x: bn(b, conv(b, x, weight(b, 4, 6, 2, 2), stride=2, op="conv_transpose"))),
    "grouped conv_transpose bn": (
        BEHIND, IMAGE, "conv_transpose add",
        lambda b, x: bn(b, conv(b, x, weight(b, 4, 3, 3, 3), stride=2, groups=2, op="conv_transpose"))),
    "linear bn": (BEHIND, ROWS, "matmul add", lambda b, x: bn(b, b.matmul(x, weight(b, 3, 6), transpose_b=True))),
    "linear bias bn": (BEHIND, ROWS, "matmul add",
                       lambda b, x: bn(b, b.add(b.matmul(x, weight(b, 6, 3)), weight(b, 3)))),
    "two bns": (BEHIND, IMAGE, "conv add", lambda b, x: bn(b, bn(b, conv(b, x, weight(b, 8, 4, 3, 3), pad=1)))),
    "bn conv": (IN_FRONT, IMAGE, "conv add", lambda b, x: conv(b, bn(b, x), weight(b, 8, 4, 3, 3), stride=2)),
    "bn conv bias": (
        IN_FRONT, IMAGE, "conv add", lambda b, x: b.add(conv(b, bn(b, x), weight(b, 8, 4, 3, 3)), weight(b, 8, 1, 1))),
    "bn grouped conv": (IN_FRONT, IMAGE, "conv add", lambda b, x: conv(b, bn(b, x), weight(b, 6, 2, 3, 3), groups=2)),
    "shiftless bn padded conv": (
        IN_FRONT, IMAGE, "conv", lambda b, x: conv(b, bn(b, x, shift=False), weight(b, 8, 4, 3, 3), pad=1)),
    "shiftless bn conv_transpose": (
        IN_FRONT, IMAGE, "conv_transpose",
        lambda b, x: conv(b, bn(b, x, shift=False), weight(b, 4, 6, 3, 3), stride=2, op="conv_transpose")),
    "bn linear": (IN_FRONT, ROWS, "matmul add", lambda b, x: b.matmul(bn(b, x), weight(b, 3, 6), transpose_b=True)),
    "bn linear bias": (
        IN_FRONT, ROWS, "matmul add", lambda b, x: b.add(weight(b, 1, 3), b.matmul(bn(b, x), weight(b, 6, 3)))),
    "bn alone": (SCALE_SHIFT, IMAGE, "mul add", lambda b, x: bn(b, x)),
    "bn of a vector": (SCALE_SHIFT, ROWS, "mul add", lambda b, x: bn(b, x)),
}  # fmt: skip


def check(graph: Graph, after: str, count: int | None = None) -> PassContext:
    ctx = run_pass(graph, FOLD, rewrites=count, exact=False)
    assert ops(graph) == after.split()
    assert not DeadCodeElimination().run(graph, ctx)  # nothing is left behind
    return ctx


@pytest.mark.parametrize("name", FOLDED)
def test_folds(name: str) -> None:
    rule, shape, after, make = FOLDED[name]
    folds = 2 if name == "two bns" else 1
    for graph in (build(make, shape), widened(build(make, shape))):
        ctx = check(graph, after, folds)
        assert ctx.count(rule) == folds


def widened(graph: Graph) -> Graph:
    """The same graph in float64, where equality before and after is sharp."""
    out = Graph()
    mapping = {v: out.add_input(v.type.with_dtype(float64), v.name) for v in graph.inputs}
    for node in graph:
        attrs = dict(node.attrs)
        if node.op == "constant":
            attrs["value"] = attrs["value"].astype(np.float64)
        types = [o.type.with_dtype(float64) for o in node.outputs]
        new = out.create(node.op, [mapping[v] for v in node.inputs], attrs, types, names=[o.name for o in node.outputs])
        mapping.update(zip(node.outputs, new.outputs, strict=True))
    for o in graph.outputs:
        out.add_output(mapping[o])
    return out


def shared_weight(b: Any, x: Any) -> Any:
    w = weight(b, 4, 4, 1, 1)
    return conv(b, bn(b, conv(b, x, w)), w)


def two_users(b: Any, x: Any) -> Any:
    y = conv(b, x, weight(b, 4, 4, 1, 1))
    return [bn(b, y), b.relu(y)]


def biased_two_users(b: Any, x: Any) -> Any:
    y = b.add(conv(b, x, weight(b, 4, 4, 1, 1)), weight(b, 4, 1, 1))
    return [bn(b, y), y]


def bn_two_users(b: Any, x: Any) -> Any:
    y = bn(b, x)
    return [conv(b, y, weight(b, 4, 4, 1, 1)), y]


KEPT: dict[str, tuple[Sequence[Sequence[int]], str, str, str, Callable[..., Any]]] = {
    "shared": ([IMAGE], BEHIND, "the weight %weight is shared", "conv mul add conv", shared_weight),
    "conv used twice": ([IMAGE], BEHIND, "%conv has other users", "conv mul add relu", two_users),
    "bias used twice": ([IMAGE], BEHIND, "%add has other users", "conv add mul add", biased_two_users),
    "weight not constant": (
        [IMAGE, (4, 4, 1, 1)], BEHIND, "the weight %x1 is not constant", "conv mul add",
        lambda b, x, w: bn(b, conv(b, x, w))),
    "bias not constant": (
        [IMAGE, (4, 1, 1)], BEHIND, "%x1, added in between, is not a constant per channel", "conv add mul add",
        lambda b, x, c: bn(b, b.add(conv(b, x, weight(b, 4, 4, 1, 1)), c))),
    "bias per row": (
        [IMAGE], BEHIND, "%weight_1, added in between, is not a constant per channel", "conv add mul add",
        lambda b, x: bn(b, b.add(conv(b, x, weight(b, 4, 4, 1, 1)), weight(b, 7, 1)))),
    "activation between": (
        [IMAGE], BEHIND, "its operand is made by relu", "conv relu mul add",
        lambda b, x: bn(b, b.relu(conv(b, x, weight(b, 4, 4, 1, 1))))),
    "padding": (
        [IMAGE], IN_FRONT, "the shift is not zero and the convolution pads with zeros", "mul add conv",
        lambda b, x: conv(b, bn(b, x), weight(b, 4, 4, 3, 3), pad=1)),
    "transposed": (
        [IMAGE], IN_FRONT, "the shift is not zero, and at the borders", "mul add conv_transpose",
        lambda b, x: conv(b, bn(b, x), weight(b, 4, 4, 3, 3), op="conv_transpose")),
    "bn used twice": ([IMAGE], IN_FRONT, "%batch_norm has other users or is a result", "mul add conv", bn_two_users),
    "bn as the weight": (
        [IMAGE, (4, 4, 1, 1)], IN_FRONT, "its user is conv", "mul add conv", lambda b, x, w: conv(b, x, bn(b, w))),
    "matmul over the other axis": (
        [ROWS], IN_FRONT, "the channels are not the summed axis", "mul add matmul",
        lambda b, x: b.matmul(bn(b, x), weight(b, 5, 3), transpose_a=True)),
    "matmul of rank 3": (
        [(2, 4, 5)], BEHIND, "the channels are not the columns of the matmul", "matmul mul add",
        lambda b, x: bn(b, b.matmul(x, weight(b, 5, 3)))),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_refuses_with_a_reason(name: str) -> None:
    shapes, rule, reason, after, make = KEPT[name]
    graph = build(make, *shapes)
    ctx = check(graph, after)
    assert ctx.count(rule) == 0
    assert ctx.count(SCALE_SHIFT) == 1
    assert any(e.rule == rule and reason in e.reason for e in ctx.log if not e.fired), [str(e) for e in ctx.log]


def test_statistics_that_are_inputs_stay() -> None:
    graph = build(lambda b, x, var: bn(b, conv(b, x, weight(b, 4, 4, 1, 1)), var=var), IMAGE, (4,))
    ctx = run_pass(graph, FOLD, rewrites=0, inputs=[np.ones(IMAGE, np.float32), np.ones(4, np.float32)])
    assert ops(graph) == ["conv", "batch_norm"]
    assert "var %x1 is not constant" in str(ctx.why_not("batch_norm")[0])


def test_tied_weights_stay_tied() -> None:
    graph = build(shared_weight, IMAGE)
    run_pass(graph, FOLD, exact=False)
    first, second = graph.find("conv")
    assert first.inputs[1] is second.inputs[1]


def test_results_that_would_overflow_stay() -> None:
    def make(b: Any, x: Any) -> Any:
        w = b.constant(np.full((2, 2, 1, 1), 300, np.float16), name="weight")
        return bn(b, conv(b, x, w), shift=False, eps=1e-12, var=np.zeros(2) + 1e-7)

    graph = build(make, (1, 2, 3, 3), dtype=float16)
    ctx = PassContext()
    FOLD.run(graph, ctx)
    assert "the folded weights do not fit float16" in [e.reason for e in ctx.log]
    broken = build(lambda b, x: bn(b, x, eps=0.0, var=np.zeros(2)), (1, 2, 3, 3))
    assert FOLD.run(broken, ctx) == 0
    assert ctx.log[-1].reason == "its scale or shift is not finite"


def test_before_and_after_names_and_sources() -> None:
    def make(b: Any, x: Any) -> Any:
        w = b.constant(np.array([[2.0]], np.float32).reshape(1, 1, 1, 1), name="layer1.conv.weight")
        w.producer.source = Source("net.py", 3, "layer1.conv")
        b.source = Source("net.py", 7, "layer1.conv")
        y = conv(b, x, w)
        b.source = Source("net.py", 8, "layer1.bn")
        values = {"weight": 3.0, "bias": 1.0, "mean": 4.0, "var": 3.0}
        return b.batch_norm(
            y, *(b.constant(np.array([v], np.float32), name=f"layer1.bn.{k}") for k, v in values.items()), eps=1.0
        )

    graph = build(make, (1, 1, 2, 2))
    run_pass(
        graph, FOLD, rewrites=1, exact=False,
        expected="""
        graph main(%x0: float32[1, 1, 2, 2] input) {
          %w = constant() {value = float32[1, 1, 1, 1](3.0)} : float32[1, 1, 1, 1]
          %y = conv(%x0, %w) {stride = (1, 1), padding = ((0, 0), (0, 0)), dilation = (1, 1), groups = 1} : float32[1, 1, 2, 2]
          %b = constant() {value = float32[1, 1, 1](-5.0)} : float32[1, 1, 1]
          %z = add(%y, %b) : float32[1, 1, 2, 2]
          return %z as "0"
        }""",  # noqa: E501
    )  # fmt: skip
    node, add = graph.find("conv")[0], graph.find("add")[0]
    assert node.inputs[1].name == "layer1.conv.weight_bn"
    assert node.inputs[1].producer.source == Source("net.py", 3, "layer1.conv")
    assert node.source == Source("net.py", 7, "layer1.conv")
    assert add.inputs[1].name == "layer1.bn.bias_bn"
    assert add.source == add.inputs[1].producer.source == Source("net.py", 8, "layer1.bn")
