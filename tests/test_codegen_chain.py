"""Chains of convolutions in one kernel: against the float64 reference, over bands, strips, strides, tails, targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contraction_harness import Compiled, execute, random_arrays, runnable_targets
from ingot.codegen.host import target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.lower import chain, chain_plan
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Graph
from ingot.ir.interpreter import eval_node
from ingot.ir.layout import Layout
from ingot.ir.types import TensorType
from ingot.passes.fuse import Fuser

TARGETS = runnable_targets()
DEPTH = ("depth", 3, 1, (1, 1), 1)

POINT = (1, 1, (0, 0), 1)


def conv_chain(target, shape, stages, *, residual=False, halo=0, dtype=dtypes.float32, second=False):
    """A fused chain in the layouts that its convolutions want. A stage is (channels or "depth", kernel, stride,
    padding, dilation); the last result carries a halo and, with ``second``, a second result of the last stage."""
    g = Graph("chain")
    b = GraphBuilder(g)
    value = g.add_input(TensorType(dtype, shape), "x")
    lanes = target.lanes(dtype)
    blocked = Layout(blocks=((1, lanes),))
    for i, (kind, k, stride, padding, dilation) in enumerate(stages):
        channels = value.shape[1]
        depthwise = kind == "depth"
        out = channels if depthwise else kind
        groups = channels if depthwise else 1
        w = g.add_input(TensorType(dtype, (out, channels // groups, k, k)), f"w{i}", role="parameter")
        bias = g.add_input(TensorType(dtype, (1, out, 1, 1)), f"b{i}", role="parameter")
        pair = ((padding,) * 2, (dilation,) * 2)
        node = b.emit("conv", [value, w], stride=(stride,) * 2, padding=pair[0], dilation=pair[1], groups=groups)
        choice = next(c for c in layout_choices(node, target) if c.inputs[1].blocks and not c.inputs[1].form)
        w.type = w.type.with_layout(choice.inputs[1])
        if i == 0:
            value.type = value.type.with_layout(choice.inputs[0])
        node.output.type = node.output.type.with_layout(blocked)
        value = b.relu(b.add(node.output, bias))
        if residual and i + 1 == len(stages):
            value = b.add(value, g.add_input(TensorType(dtype, value.shape, blocked), "r"))
        for n in g:
            if n.output.shape == node.output.shape:
                n.output.type = n.output.type.with_layout(blocked)
    wide = Layout(blocks=((1, lanes),), halo=((0, 0), (0, 0), (halo, halo), (0, halo))) if halo else blocked
    value.type = value.type.with_layout(wide)
    g.add_output(value)
    if second:
        other = b.neg(value)
        other.type = value.type.with_layout(blocked)
        g.add_output(other)
    fuser = Fuser(g)
    fuser.commit(list(g), "chain")
    (fused,) = fuser.apply()
    return fused


def check(target, node, env=None, seed=0):
    rng = np.random.default_rng(seed)
    arrays = random_arrays(node, rng, env)
    wanted = eval_node(node, [a.astype(np.float64) for a in arrays.values()], env or {}, float64=True)
    kernel = chain.lower(node, target)
    compiled = Compiled(kernel, target)
    for pieces in (1, 3):
        got = execute(compiled, node, arrays, env or {}, pieces)
        for v, actual, expected in zip(node.outputs, got, wanted, strict=True):
            rtol = dtypes.tolerance(v.dtype, 256)[0]
            error = np.abs(actual.astype(np.float64) - expected).max()
            assert error <= rtol * max(1.0, np.abs(expected).max()), f"{target.name}: {kernel.schedule}: error {error}"
    return kernel


CASES = {
    "inverted residual": ((2, 8, 14, 14), [(40, *POINT), DEPTH, (8, *POINT)]),
    "stride 2, odd sizes": ((1, 5, 15, 11), [(24, *POINT), ("depth", 3, 2, (1, 1), 1), (7, *POINT)]),
    "5x5": ((1, 16, 13, 9), [(32, *POINT), ("depth", 5, 1, (2, 2), 1), (16, *POINT)]),
    "5x5 stride 2, one-sided padding": ((2, 4, 16, 16), [(20, *POINT), ("depth", 5, 2, (1, 2), 1)]),
    "stem": ((2, 3, 22, 18), [(16, 3, 2, (1, 1), 1), DEPTH, (8, *POINT)]),
    "dilated": ((1, 16, 12, 12), [("depth", 3, 1, (2, 2), 2), (24, *POINT)]),
    "no padding": ((1, 8, 11, 10), [(16, *POINT), ("depth", 3, 1, (0, 0), 1), (8, *POINT)]),
    "dense behind dense": ((1, 16, 12, 10), [(16, 3, 1, (1, 1), 1), (16, 3, 1, (1, 1), 1)]),
    "rows left out": ((1, 8, 9, 9), [(16, *POINT), ("depth", 1, 2, (0, 0), 1), (8, *POINT)]),
    "one row": ((1, 8, 1, 6), [(16, *POINT), DEPTH, (8, *POINT)]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_chain_against_reference(target, name) -> None:
    """With all rows in one band, and with L2 so small that there are many bands, alone and in strips."""
    shape, stages = CASES[name]
    check(target, conv_chain(target, shape, stages))
    small = replace(target, l2_bytes=40_000 * target.vector_bytes // 64)
    check(small, conv_chain(small, shape, stages, halo=1))


def test_bands_and_strips_of_one_image(monkeypatch) -> None:
    target = replace(TARGETS[-1], l2_bytes=60_000)
    monkeypatch.setattr(chain_plan, "MOST_REPEATED", 1.0)
    monkeypatch.setattr(chain_plan, "_waiting", lambda height, strip, images: 1 + abs(-(-height // strip) - 3))
    shape, stages = (1, 8, 31, 13), [(40, *POINT), DEPTH, (16, *POINT)]
    _, plan = chain_plan.plan_chain(conv_chain(target, shape, stages), target)
    assert plan.strips == 3 and plan.bands > 1
    check(target, conv_chain(target, shape, stages, halo=1, residual=True))


def test_strips_leave_no_thread_waiting() -> None:
    assert chain_plan._waiting(56, 14, 1) < chain_plan._waiting(56, 8, 1) < chain_plan._waiting(56, 20, 1)
    assert chain_plan._waiting(56, 56, 32) == pytest.approx(1.0)  # images are strips enough
    target = target_named("x86-64-avx512")
    _, plan = chain_plan.plan_chain(conv_chain(target, (1, 24, 56, 56), [(144, *POINT), DEPTH, (24, *POINT)]), target)
    strip = plan.rows * plan.bands
    rows = [min(strip, 56 - start) for start in range(0, 56, strip)]
    assert len(rows) > 1 and max(sum(rows[::2]), sum(rows[1::2])) <= 31


@pytest.mark.parametrize("dtype", [dtypes.float64, dtypes.float16, dtypes.bfloat16], ids=lambda d: d.name)
def test_other_types(dtype) -> None:
    target = TARGETS[-1]
    check(target, conv_chain(target, (1, 8, 9, 9), [(16, *POINT), DEPTH, (8, *POINT)], dtype=dtype))


def test_residual_second_result_and_run_time_batch() -> None:
    target = TARGETS[-1]
    n = Dim("N", 1, 8).expr
    stages = [(32, *POINT), DEPTH, (16, *POINT)]
    node = conv_chain(target, (n, 16, 10, 10), stages, residual=True, second=True, halo=2)
    check(target, node, env={"N": 3})


def test_the_rule_knows_when_a_chain_does_not_pay() -> None:
    target = TARGETS[-1]
    stages = [(960, *POINT), DEPTH, (160, *POINT)]
    assert "pay" in str(chain_plan.worth(conv_chain(target, (4, 160, 2, 2), stages), target)) or "one strip" in str(
        chain_plan.worth(conv_chain(target, (1, 160, 2, 2), stages), target)
    )
    big = conv_chain(target, (16, 16, 112, 112), [(96, *POINT), ("depth", 3, 2, (1, 1), 1), (24, *POINT)])
    assert chain_plan.worth(big, target) is None


def test_what_is_no_chain_is_refused_with_the_reason() -> None:
    target = TARGETS[-1]
    node = conv_chain(target, (1, 8, 9, 9), [(16, *POINT), DEPTH])
    dense = node.inputs[1]
    node.regions[0].inputs[1].type = dense.type = dense.type.with_layout(Layout())
    with pytest.raises(UnsupportedError, match="packed in panels"):
        chain.lower(node, target)
