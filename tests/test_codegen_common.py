"""Positions and accesses: which loads a layout gives, and index arithmetic that stays linear where it can."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.codegen.loopir import Instr, LoopBuilder
from ingot.codegen.lower.common import Access, Coord, Extents, IndexMath, Position, RegionEvaluator, constant_number
from ingot.codegen.lower.reindex import reshape_groups
from ingot.ir.dims import Dim
from ingot.ir.dtypes import float32, int64
from ingot.ir.graph import Graph
from ingot.ir.layout import Layout
from ingot.ir.types import TensorType
from kernel_harness import Guarded, host_targets, raw_kernel

TARGET = host_targets()[-1]


def make(shape, layout=None):
    b = LoopBuilder("kernel", TARGET)
    extents = Extents(b)
    return b, Access(b, extents, TensorType(float32, shape, layout or Layout()), b.buffer("x", float32))


def kinds(b: LoopBuilder) -> list[str]:
    return [s.op for s in b.fn.body if isinstance(s, Instr)]


def test_unit_stride_is_a_vector_load_and_stride_zero_a_splat() -> None:
    b, access = make((4, 32))
    v = access.load(Position((Coord(1), Coord(0, 1)), 16))
    assert v.lanes == 16
    assert kinds(b) == ["load"]
    access.load(Position((Coord(1), Coord(2)), 16))
    assert kinds(b)[-1] == "splat"


def test_an_aligned_run_inside_a_block_is_contiguous() -> None:
    b, access = make((2, 64, 5), Layout(blocks=((1, 16),)))
    t = b.begin
    where = access.offset(Position((Coord(0), Coord(t, 1, 16), Coord(3)), 16))
    assert where.vector is None
    assert where.stride == 1
    unaligned = access.offset(Position((Coord(0), Coord(t, 1, 1), Coord(3)), 16))
    assert unaligned.vector is not None


def test_symbolic_strides_become_arguments_in_order_of_use() -> None:
    b = LoopBuilder("kernel", TARGET)
    extents = Extents(b)
    n, m = Dim("N").expr, Dim("M").expr
    access = Access(b, extents, TensorType(float32, (4, n, m)), b.buffer("x", float32))
    access.load(Position((Coord(1), Coord(b.begin), Coord(0, 1)), 8))
    assert extents.expressions == (n * m, m)
    assert len(b.fn.extents) == 2


@pytest.mark.parametrize("by", [3, 7, 16, 1000])
def test_vector_division_is_exact(by: int) -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.integers(0, 2**31, 4096), np.arange(64), 2**31 - 1 - np.arange(64)])
    b = LoopBuilder("kernel", TARGET)
    math = IndexMath(b, Extents(b))
    source, quotient, rest = (b.buffer(n, int64) for n in ("x", "q", "r"))

    def body(i):
        at = b.imul(i, 8)
        q, r = math.divide(Coord(vector=b.load(source, at, 8)), by, 8, 2**31)
        b.store(quotient, math.vector(q, 8), at)
        b.store(rest, math.vector(r, 8), at)

    b.loop(b.begin, b.end, body)
    buffers = [Guarded(x.nbytes, x), Guarded(x.nbytes), Guarded(x.nbytes)]
    raw_kernel(b.finish(), buffers, [], [(0, len(x) // 8)])
    np.testing.assert_array_equal(buffers[1].bytes.view(np.int64), x // by)
    np.testing.assert_array_equal(buffers[2].bytes.view(np.int64), x % by)


def test_reshape_groups() -> None:
    assert reshape_groups((2, 3, 4), (6, 4)) == [([0, 1], [0]), ([2], [1])]
    assert reshape_groups((1, 5), (5, 1, 1)) == [([1], [0])]
    n = Dim("N").expr
    assert reshape_groups((n, 12), (n, 3, 4)) == [([0], [0]), ([1], [1, 2])]
    assert reshape_groups((n * 12,), (n, 3, 4)) == [([0], [0, 1, 2])]


def test_a_run_through_a_split_axis_stays_linear_when_aligned() -> None:
    b = LoopBuilder("kernel", TARGET)
    math = IndexMath(b, Extents(b))
    q, r = math.divide(Coord(b.begin, 1, 16), 32, 16)
    assert q.uniform
    assert r.step == 1
    q, r = math.divide(Coord(b.begin, 4), 4, 16)
    assert (q.step, r.uniform) == (1, True)


def test_evaluator_computes_a_shared_value_once() -> None:
    graph = Graph()
    x = graph.add_input(TensorType(float32, (64,)), "x")
    y = graph.create("neg", [x], {}, [x.type]).output
    z = graph.create("add", [y, y], {}, [x.type]).output
    b = LoopBuilder("kernel", TARGET)
    extents = Extents(b)
    evaluator = RegionEvaluator(b, extents, {x: Access(b, extents, x.type, b.buffer("x", float32))})
    evaluator.value(z, Position((Coord(0, 1, 16),), 16))
    assert kinds(b).count("load") == kinds(b).count("neg") == 1


def test_long_chains_need_no_recursion() -> None:
    graph = Graph()
    v = x = graph.add_input(TensorType(float32, (8,)), "x")
    for _ in range(5000):
        v = graph.create("neg", [v], {}, [x.type]).output
    b = LoopBuilder("kernel", TARGET)
    extents = Extents(b)
    evaluator = RegionEvaluator(b, extents, {x: Access(b, extents, x.type, b.buffer("x", float32))})
    evaluator.value(v, Position((Coord(0, 1, 8),), 8))
    assert kinds(b).count("neg") == 5000


def test_constant_number() -> None:
    graph = Graph()
    assert constant_number(graph.constant(np.full((3, 2), 2.5, np.float32))) == 2.5
    assert constant_number(graph.constant(np.arange(3))) is None
    assert constant_number(graph.constant(np.zeros((0,), np.float32))) is None
