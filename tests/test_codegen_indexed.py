"""scatter_add: duplicates, partial indices, 16-bit accumulation, bounds."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.codegen.lower import table
from ingot.ir import dtypes
from ingot.ir.target import Target
from kernel_harness import case_graph, check_case, host_targets, run_kernel
from op_cases import Case

targets = pytest.mark.parametrize("target", host_targets(), ids=lambda t: t.name)


@targets
def test_embedding_gradient_sums_duplicates(target: Target) -> None:
    rng = np.random.default_rng(1)
    x, src = np.zeros((10, 70), np.float32), rng.standard_normal((50, 70)).astype(np.float32)
    index = np.broadcast_to(rng.integers(0, 10, (50, 1)), (50, 70)).copy()
    lowered = check_case(Case("scatter_add", "", (x, index, src), {"axis": 0}, depth=51), target)
    assert lowered.inplace == {0: 0}


@targets
def test_pooling_gradient_form(target: Target) -> None:
    rng = np.random.default_rng(2)
    x, src = np.zeros((2, 3, 49), np.float32), rng.standard_normal((2, 3, 16)).astype(np.float32)
    check_case(Case("scatter_add", "", (x, rng.integers(0, 49, (2, 3, 16)), src), {"axis": 2}, depth=17), target)


def test_sixteen_bit_rows_round_once() -> None:
    x = np.ones((1, 5), np.float16)
    src = np.full((1, 3000), 2.0**-12, np.float16)  # each one would be lost beside 1.0
    index = np.zeros((1, 3000), np.int64)
    _, node = case_graph(Case("scatter_add", "", (x, index, src), {"axis": 1}))
    lowered = table.lower(node, host_targets()[-1])
    out = run_kernel(lowered, dict(zip(node.inputs, (x, index, src), strict=True)))[node.output]
    assert node.output.dtype is dtypes.float16
    np.testing.assert_array_equal(out, np.array([[1 + 3000 / 4096, 1, 1, 1, 1]], np.float16))
    assert lowered.inplace == {}


def test_wild_indices_stay_inside() -> None:
    x, src = np.zeros((4, 3), np.float32), np.ones((5, 3), np.float32)
    index = np.tile(np.array([[0], [-7], [2**40], [3], [1]]), (1, 3))
    _, node = case_graph(Case("scatter_add", "", (x, index, src), {"axis": 0}))
    out = run_kernel(table.lower(node, host_targets()[-1]), dict(zip(node.inputs, (x, index, src), strict=True)))
    np.testing.assert_array_equal(out[node.output][:, 0], [2, 1, 0, 2])


@pytest.mark.parametrize("op", ["gather", "index_select", "scatter_add"])
def test_an_axis_that_is_empty_at_run_time_is_not_touched(op: str) -> None:
    """Indices into an empty axis are undefined, but nothing outside the tensor may be read or written."""
    import ingot
    from ingot.ir.dims import Dim

    x = np.ones((4, 70000), np.float32)
    index = np.zeros((2, 70000) if op != "index_select" else (2,), np.int64)
    source = np.ones((2, 70000), np.float32)

    def fn(x, index, source):
        rest = x[1:]
        if op == "gather":
            return rest.gather(0, index) + source
        if op == "index_select":
            return rest.index_select(0, index) + source
        return rest.scatter_add(0, index, source)

    exe = ingot.compile(fn, x, index, source, dynamic={"x": {0: Dim("N", 1, 64)}})
    got = exe(x[:1], index, source)
    if op == "scatter_add":
        assert got.shape == (0, 70000)
    else:
        np.testing.assert_array_equal(got, source)
