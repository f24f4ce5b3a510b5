"""Pooling kernels in every layout: blocked channels, channels last, halos, edges, indices."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.codegen.lower import table
from ingot.ir.layout import DENSE, Layout
from ingot.ir.target import Target
from kernel_harness import case_graph, check_case, host_targets, run_kernel
from op_cases import Case

BLOCKED = Layout(blocks=((1, 16),))
HALO = Layout(blocks=((1, 16),), halo=((0, 0), (0, 0), (1, 1), (2, 1)))
LAST = Layout(order=(0, 2, 3, 1))
LAYOUTS = [(DENSE, DENSE), (BLOCKED, HALO), (HALO, BLOCKED), (LAST, DENSE), (DENSE, LAST)]
targets = pytest.mark.parametrize("target", host_targets(), ids=lambda t: t.name)
SHAPES = [
    ((2, 24, 13, 50), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), False),
    ((1, 16, 9, 11), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), True),
    ((1, 3, 20, 37), (3, 2), (1, 1), ((1, 0), (0, 1)), (2, 1), False),
]


def values(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@targets
@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
def test_layouts(op: str, target: Target) -> None:
    for seed, (shape, kernel, stride, padding, dilation, ceil_mode) in enumerate(SHAPES):
        attrs = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        if op == "max_pool":
            attrs["dilation"] = dilation
        for k, (a, b) in enumerate(LAYOUTS):
            if op == "avg_pool":
                attrs["count_include_pad"] = k % 2 == 0
            check_case(Case(op, f"{shape} {a} {b}", (values(seed, shape),), attrs, depth=9), target, layouts=(a, b, b))


@targets
def test_gradient_layouts(target: Target) -> None:
    for seed, (shape, kernel, stride, padding, _dilation, ceil_mode) in enumerate(SHAPES):
        attrs = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        _, node = case_graph(Case("avg_pool", "", (values(seed, shape),), attrs))
        grad = values(seed, tuple(node.output.shape))
        for a, b in LAYOUTS:
            case = Case("avg_pool_grad", f"{a} {b}", (grad,), {**attrs, "input_shape": shape[2:]}, depth=9)
            check_case(case, target, layouts=(a, b))


def test_index_is_written_only_if_wanted() -> None:
    attrs = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    x = values(1, (1, 16, 8, 8))
    graph, node = case_graph(Case("max_pool", "", (x,), attrs), (BLOCKED, BLOCKED))
    graph.outputs.pop()
    graph.output_names.pop()
    lowered = table.lower(node, host_targets()[-1])
    assert lowered.values == [node.inputs[0], node.outputs[0]]
    out = run_kernel(lowered, {node.inputs[0]: x})
    np.testing.assert_array_equal(out[node.outputs[0]], x.reshape(1, 16, 4, 2, 4, 2).max((3, 5)))
