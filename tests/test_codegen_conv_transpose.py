"""Transposed convolutions of decoders: phases that are alike run as a loop, the others as parts of one kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from contraction_harness import execute_layouts, runnable_targets, set_layouts
from ingot.codegen.host import target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.llvm_emit import emit
from ingot.codegen.lower.contraction import lower_contraction
from ingot.codegen.lower.contraction_gradients import axis_phases, runs
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.graph import Graph, Node
from ingot.ir.layout import Layout
from ingot.ir.types import TensorType

each_target = pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.name)

# kernel, stride, padding, output_padding, input extents
CASES: list[tuple[Any, ...]] = [
    ((2, 2), (2, 2), 0, 0, (5, 9)),
    ((4, 4), (2, 2), 1, 0, (6, 8)),
    ((3, 3), (2, 2), 1, 1, (5, 7)),
    ((3, 3), (2, 2), 1, 0, (5, 7)),
    ((7, 7), (4, 4), 3, 3, (4, 5)),
    ((5, 2), (3, 2), 1, 1, (4, 6)),
    ((8, 8), (8, 8), 0, 0, (3, 3)),
    ((16,), (8,), 4, 0, (6,)),
    ((2, 2, 2), (2, 2, 2), 0, 0, (3, 2, 4)),
    ((4, 3, 3), (2, 1, 2), 1, (0, 0, 1), (3, 4, 3)),
    ((1, 1), (3, 3), 0, 2, (3, 4)),
]


def transposed(case: Any, o: int, c: int, groups: int = 1, n: int = 2) -> Node:
    kernel, stride, padding, extra, extents = case
    g = Graph("t")
    rank = len(kernel)
    x = g.add_input(TensorType(dtypes.float32, (n, o * groups, *extents)), "x")
    w = g.add_input(TensorType(dtypes.float32, (o * groups, c, *kernel)), "w")
    return GraphBuilder(g).emit(
        "conv_transpose", [x, w], stride=stride, padding=((padding, padding),) * rank, dilation=(1,) * rank,
        groups=groups, output_padding=extra if isinstance(extra, tuple) else (extra,) * rank,
    )  # fmt: skip


@each_target
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layouts_and_halos(case: Any, target: Any) -> None:
    lanes = target.lanes(dtypes.float32)
    kinds = [(lanes, 2 * lanes, 1), (lanes + 3, lanes + 1, 1), (1, 1, lanes + 2)]  # (O, C per group, groups)
    index = CASES.index(case)
    for seed, (o, c, groups) in enumerate(kinds if index in (2, 4) else [kinds[index % 2]]):
        node = transposed(case, o, c, groups)
        choices = layout_choices(node, target)
        framed = []
        for choice in choices:
            (out,) = choice.outputs
            if not out.is_dense:  # as when a padded convolution reads the result
                halo = ((0, 0), (0, 0), *(((1, 2),) * len(case[0])))
                framed.append(replace(choice, outputs=(Layout(out.order, out.blocks, halo),)))
        execute_layouts(node, target, np.random.default_rng(seed), choices=[*choices, *framed], note=f"seed {seed}")


def test_alike_phases_are_one_run() -> None:
    def lengths(kernel: int, stride: int, padding: int, extent: int) -> list[int]:
        attrs = {"stride": (stride,), "padding": ((padding, padding),), "dilation": (1,)}
        (found,) = axis_phases(attrs, (extent,), (kernel,))
        return [len(run) for run in runs(found)]

    assert lengths(2, 2, 0, 16) == [2]
    assert lengths(4, 2, 1, 16) == [2]
    assert lengths(3, 2, 1, 16) == [1, 1]  # one tap and two
    assert lengths(4, 2, 1, 15) == [1, 1]  # eight pixels and seven
    assert lengths(7, 4, 3, 64) == [1, 3]
    assert lengths(8, 8, 0, 64) == [8]


@pytest.mark.parametrize("name", ["x86-64-avx2", "x86-64-avx512", "aarch64"])
def test_code_does_not_grow_with_the_phases(name: str) -> None:
    target = target_named(name)
    lines = {}
    for case in (CASES[1], CASES[4], CASES[6]):
        node = transposed(case, 32, 32)
        choice = layout_choices(node, target)[0]
        assert not choice.outputs[0].is_dense
        set_layouts(node, choice)
        lines[case[1][0]] = emit(lower_contraction(node, target).function).count("\n")
    assert max(lines.values()) < 5000, lines
