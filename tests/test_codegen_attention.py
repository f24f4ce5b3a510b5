"""Attention kernels against the float64 interpreter: patterns, sizes, masks, dtypes, extents, all x86 levels."""

from __future__ import annotations

import numpy as np
import pytest
from graph_utils import build, random_inputs
from ingot.codegen.library import NativeKernels
from ingot.codegen.loopir import LoopBuilder
from ingot.codegen.lower import table
from ingot.codegen.vmath import exp_nonpositive
from ingot.ir.dims import Dim
from ingot.ir.dtypes import bfloat16, bool_, float16, float32, float64, tolerance
from ingot.ir.interpreter import interpret
from ingot.ir.types import TensorType
from ingot.passes.fuse_attention import FuseAttention
from ingot.passes.manager import PassContext
from kernel_harness import Guarded, host_targets, raw_kernel, run_kernel

TARGETS = pytest.mark.parametrize("target", host_targets(), ids=lambda t: t.name)


def softmax_of(b, scores):
    return b.softmax(scores, axis=scores.type.rank - 1)


def plain(b, q, k, v):
    return b.matmul(softmax_of(b, b.mul(b.matmul(q, k, transpose_b=True), 0.3)), v)


def heads(b, x, many):
    """[B, L, C] -> [B, H, L, D]"""
    n, length, width = x.shape
    return b.permute(b.reshape(x, shape=(n, length, many, width // many)), dims=(0, 2, 1, 3))


def joined(b, x):
    n, many, length, size = x.shape
    return b.reshape(b.permute(x, dims=(0, 2, 1, 3)), shape=(n, length, many * size))


def fused(graph, target):
    """The graph with its one attention fused; the node."""
    before = len(graph.outputs)
    FuseAttention().run(graph, PassContext(target, NativeKernels(target)))
    (node,) = graph.find("fused")
    assert node.attrs["kind"] == "attention" and len(graph.outputs) == before
    return node


def check(graph, target, *, dims=None, inputs=None, seed=0, room=1.0):
    """Fuse, run the kernel on the operands that the interpreter finds, compare with float64."""
    node = fused(graph, target)
    inputs = random_inputs(graph, seed, dims) if inputs is None else inputs
    seen = dict(zip(graph.inputs, inputs, strict=True))
    interpret(graph, inputs, observer=lambda n, outs: seen.update(zip(n.outputs, outs, strict=True)))
    found = {}
    want = interpret(
        graph, inputs, float64=True, observer=lambda n, outs: found.update(zip(n.outputs, outs, strict=True))
    )
    lowered = table.lower(node, target)
    got = run_kernel(lowered, seen, env=dims, seed=seed)[node.output]
    expected = found[node.output]
    del want
    rtol, atol = tolerance(node.output.dtype, 4)
    np.testing.assert_array_equal(np.isnan(got.astype(np.float64)), np.isnan(expected))
    np.testing.assert_allclose(
        got.astype(np.float64), expected, rtol * room, atol * room, err_msg=f"{lowered.schedule}, seed {seed}"
    )
    return lowered


@TARGETS
@pytest.mark.parametrize(
    "length,count,depth,width",
    [
        (64, 64, 32, 32),
        (1, 7, 4, 4),
        (5, 3, 20, 12),
        (33, 17, 16, 31),
        (16, 300, 8, 48),
        (50, 700, 64, 64),
        (130, 1, 3, 1),
    ],
)
def test_sizes_and_tails(target, length, count, depth, width) -> None:
    graph = build(plain, (2, 3, length, depth), (2, 3, count, depth), (2, 3, count, width))
    lowered = check(graph, target, seed=length)
    assert ("online" in lowered.schedule) == (count > 256)


@TARGETS
def test_heads_are_split_and_joined_by_addresses(target) -> None:
    def make(b, x):
        n, length, width = x.shape
        split = b.permute(b.reshape(x, shape=(n, length, 3, 4, width // 12)), dims=(2, 0, 3, 1, 4))
        parts = []
        for i in range(3):
            starts, stops = (i, 0, 0, 0, 0), (i + 1, *split.shape[1:])
            part = b.slice(split, starts=starts, stops=stops, steps=(1,) * 5)
            parts.append(b.reshape(part, shape=split.shape[1:]))
        return joined(b, plain(b, *parts))

    graph = build(make, (2, 37, 12 * 20))
    check(graph, target)
    assert [n.op for n in graph if n.op != "constant"] == ["fused"]


def test_scales_on_queries_and_keys() -> None:
    target = host_targets()[-1]

    def make(b, q, k, v):
        scores = b.matmul(b.mul(q, 0.7), b.permute(b.mul(k, 0.5), dims=(0, 2, 1)))
        return b.matmul(softmax_of(b, b.div(scores, 1.7)), v)

    graph = build(make, (3, 20, 24), (3, 40, 24), (3, 40, 16))
    check(graph, target)
    assert [n.op for n in graph if n.op != "constant"] == ["fused"]


@TARGETS
@pytest.mark.parametrize("count", [40, 600])
@pytest.mark.parametrize("mask", ["row", "full", "heads", "where", "causal", "bias"])
def test_masks(target, mask, count) -> None:
    length = 45
    shapes = {
        "row": (2, 1, 1, count),
        "full": (length, count),
        "heads": (2, 3, length, count),
        "where": (2, 1, length, count),
    }
    operand = TensorType(bool_ if mask == "where" else float32, shapes.get(mask, (1, 1)))

    def make(b, q, k, v, m):
        scores = b.mul(b.matmul(q, k, transpose_b=True), 0.25)
        if mask == "where":
            scores = b.where(m, scores, b.constant(-np.inf, float32))
        elif mask in ("causal", "bias"):
            from ingot.ir.dtypes import int64

            rows = b.emit("iota", [], shape=(length, count), axis=0, dtype=int64).output
            columns = b.emit("iota", [], shape=(length, count), axis=1, dtype=int64).output
            if mask == "causal":
                scores = b.where(b.ge(rows, columns), scores, b.constant(-np.inf, float32))
            else:
                scores = b.add(scores, b.mul(b.cast(b.sub(columns, rows), dtype=float32), 0.01))
        else:
            scores = b.add(scores, m)
        return b.matmul(softmax_of(b, scores), v)

    graph = build(make, (2, 3, length, 16), (2, 3, count, 16), (2, 3, count, 16), operand)
    inputs = random_inputs(graph, 3)
    if mask == "where":
        inputs[3][0, 0, 7] = False  # a row without any key: NaN
        inputs[3][1, 0, 9, : count // 2] = False
    check(graph, target, inputs=inputs)


@pytest.mark.parametrize("count", [33, 900])
def test_infinities_and_nan_are_where_the_separate_operators_put_them(count) -> None:
    target = host_targets()[-1]

    def make(b, q, k, v, m):
        return b.matmul(softmax_of(b, b.add(b.matmul(q, k, transpose_b=True), m)), v)

    graph = build(make, (20, 8), (count, 8), (count, 8), (20, count))
    inputs = random_inputs(graph, 1)
    mask = inputs[3]
    mask[0] = -np.inf
    mask[1, 3:] = -np.inf
    mask[2, : count - 1] = -np.inf
    mask[3, count // 2] = np.nan
    mask[4, 5] = np.inf
    mask[5] = -1e30
    mask[6, 0] = 1e30
    check(graph, target, inputs=inputs)


def test_grouped_query_heads_and_folded_batches() -> None:
    target = host_targets()[-1]

    def make(b, q, k, v):
        wide = [
            b.reshape(b.expand(b.reshape(x, shape=(2, 2, 1, 30, 16)), shape=(2, 2, 3, 30, 16)), shape=(12, 30, 16))
            for x in (k, v)
        ]
        queries = b.reshape(heads(b, q, 6), shape=(12, 21, 16))
        return joined(b, b.reshape(plain(b, queries, *wide), shape=(2, 6, 21, 16)))

    graph = build(make, (2, 21, 96), (2, 2, 30, 16), (2, 2, 30, 16))
    check(graph, target)
    assert [n.op for n in graph if n.op != "constant"] == ["fused"]


@pytest.mark.parametrize("dtype", [float64, float16, bfloat16])
@pytest.mark.parametrize("count", [40, 500])
def test_other_types(dtype, count) -> None:
    for target in host_targets():
        graph = build(plain, (2, 19, 24), (2, count, 24), (2, count, 24), dtype=dtype)
        check(graph, target)


@TARGETS
def test_dynamic_extents(target) -> None:
    n, length, count = Dim("N", 1, 4), Dim("L", 1, 200), Dim("S", 1, 2000)

    def make(b, q, k, v):
        return joined(b, plain(b, heads(b, q, 4), heads(b, k, 4), heads(b, v, 4)))

    for dims in ({"N": 1, "L": 1, "S": 1}, {"N": 2, "L": 33, "S": 100}, {"N": 3, "L": 64, "S": 256}):
        check(build(make, (n, length, 64), (n, count, 64), (n, count, 64)), target, dims=dims)
    short = Dim("T", 1, 100)
    check(build(make, (n, short, 64), (n, short, 64), (n, short, 64)), target, dims={"N": 2, "T": 77})


def test_attention_is_no_less_accurate_than_its_parts() -> None:
    """Root mean square error against float64 beside that of the operators one by one."""
    target = host_targets()[-1]
    for count in (100, 1000):
        graph = build(plain, (4, 64, 64), (4, count, 64), (4, count, 64))
        inputs = random_inputs(graph, 5)
        exact = interpret(graph, inputs, float64=True)[0]
        parts = interpret(graph, inputs)[0]
        node = fused(graph, target)
        got = run_kernel(table.lower(node, target), dict(zip(graph.inputs, inputs, strict=True)))[node.output]
        assert np.linalg.norm(got - exact) <= 1.1 * np.linalg.norm(parts - exact)


def test_random_shapes() -> None:
    rng = np.random.default_rng(seed := 20)
    for target in host_targets():
        for _ in range(6):
            length, count, depth, width = (int(x) for x in rng.integers(1, (80, 400, 70, 70)))
            graph = build(plain, (2, length, depth), (2, count, depth), (2, count, width))
            check(graph, target, seed=seed)


@TARGETS
def test_exp_of_nonpositive_numbers(target) -> None:
    for dtype in (float32, float64):
        lanes = target.lanes(dtype)
        b = LoopBuilder("k", target)
        x, y = b.buffer("x", dtype), b.buffer("y", dtype)

        def body(i, b=b, x=x, y=y, lanes=lanes) -> None:
            at = b.imul(i, lanes)
            b.store(b.at(y, at), exp_nonpositive(b, b.load(b.at(x, at), 0, lanes)))

        b.loop(b.begin, b.end, body)
        low = 87.0 if dtype is float32 else 708.0
        values = -np.concatenate(
            [np.linspace(0, low, 40000), np.geomspace(1e-30, low, 20000), [np.inf, 1e30, low + 1, 0]]
        )
        values = np.resize(values, -(-values.size // lanes) * lanes).astype(dtype.numpy)
        values[5] = np.nan
        given, out = Guarded(values.nbytes, values), Guarded(values.nbytes)
        raw_kernel(b.finish(), [given, out], [], [(0, values.size // lanes)])
        got = out.bytes.view(dtype.numpy)
        exact = np.exp(values.astype(np.longdouble))
        exact[values < -low] = 0
        assert np.isnan(got[5]) and (got[values < -low] == 0).all()
        kept = ~np.isnan(values)
        error = np.abs(got[kept] - exact[kept]) / np.spacing(np.maximum(got[kept], np.finfo(dtype.numpy).tiny))
        assert error.max() < 1.5, f"{dtype.name}: {error.max()} ULP"


def test_the_transpose_of_vectors() -> None:
    for target in host_targets():
        for dtype in (float32, float64):
            lanes = target.lanes(dtype)
            b = LoopBuilder("k", target)
            x, y = b.buffer("x", dtype), b.buffer("y", dtype)

            def body(i, b=b, x=x, y=y, lanes=lanes) -> None:
                for c, v in enumerate(b.transpose([b.load(x, r * lanes, lanes) for r in range(lanes)])):
                    b.store(y, v, c * lanes)

            b.loop(b.begin, b.end, body)
            square = np.arange(lanes * lanes, dtype=dtype.numpy).reshape(lanes, lanes)
            given, out = Guarded(square.nbytes, square), Guarded(square.nbytes)
            raw_kernel(b.finish(), [given, out], [], [(0, 1)])
            np.testing.assert_array_equal(out.bytes.view(dtype.numpy).reshape(lanes, lanes), square.T)
