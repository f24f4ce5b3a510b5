"""Strassen's algorithm: the identity, kernels on every ISA, their errors, where it is offered and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import ingot
import numpy as np
import pytest
from contraction_harness import (
    Compiled,
    execute,
    execute_layouts,
    random_arrays,
    run_kernel,
    runnable_targets,
    set_layouts,
)
from ingot import nn
from ingot.codegen import layouts, packing, strassen
from ingot.codegen.host import target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.lower.contraction import lower_contraction, schedules, supports
from ingot.driver import trace_inference
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, Extent
from ingot.ir.dtypes import DType
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Graph, Node
from ingot.ir.interpreter import interpret
from ingot.ir.kernels import LayoutChoice
from ingot.ir.layout import DENSE, FORMS, Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.target import Target
from ingot.ir.types import TensorType

TARGETS = runnable_targets()
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
both_ways = pytest.mark.parametrize("turned", [False, True], ids=["b", "bT"])
each_level = pytest.mark.parametrize("levels", [1, 2], ids=["one", "two"])


def matmul(
    rows: Sequence[Extent], k: int, n: int, turned: bool = True, dtype: DType = dtypes.float32, **attrs: bool
) -> Node:
    graph = Graph("matmul")
    shape = (*rows[:-1], k, rows[-1]) if attrs.get("transpose_a") else (*rows, k)
    a = graph.add_input(TensorType(dtype, shape), "a")
    b = graph.add_input(TensorType(dtype, (n, k) if turned else (k, n)), "b", role="parameter")
    return GraphBuilder(graph).emit("matmul", [a, b], transpose_b=turned, **attrs)


def form_of(turned: bool, width: int, levels: int = 1) -> Layout:
    form = strassen.NAMES[strassen.Form(levels, turned)]
    return Layout(blocks=((0, width),), form=form) if turned else Layout((1, 0), ((1, width),), form=form)


def choice(node: Node, target: Target, nb: int, turned: bool = True, levels: int = 1) -> LayoutChoice:
    """Everything dense but B; whether it pays does not matter here."""
    packed = form_of(turned, nb * target.lanes(dtypes.float32), levels)
    return LayoutChoice((DENSE, packed, *(DENSE for _ in node.inputs[2:])), tuple(DENSE for _ in node.outputs), 0.0)


def offered(node: Node, target: Target, precision: str = "float32-fast") -> list[LayoutChoice]:
    return [c for c in layout_choices(node, target, precision) if c.inputs[1].form in strassen.FORMS]


def test_seven_products_make_the_result() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2, 2))
    left, right, result = (np.array(m) for m in (strassen.LEFT, strassen.RIGHT, strassen.RESULT))
    products = np.einsum("rij,ij->r", left, a) * np.einsum("rij,ij->r", right, b)
    np.testing.assert_allclose(np.einsum("r,rij->ij", products, result), a @ b, rtol=1e-14)
    # The squared errors of sums add up with these weights: 32 in Strassen's own basis, 8 for the eight products.
    weight = sum(np.prod([np.square(m[r]).sum() for m in (left, right, result)]) for r in range(strassen.PRODUCTS))
    assert weight == pytest.approx(200 / 9)


@each_target
@both_ways
@pytest.mark.parametrize(
    ("rows", "k", "n", "nb"), [(64, 64, 128, 2), (33, 70, 96, 1), (1, 10, 192, 3), (100, 786, 64, 1), (17, 512, 128, 4)]
)
def test_kernels(rows: int, k: int, n: int, nb: int, turned: bool, target: Target) -> None:
    node = matmul((rows,), k, n, turned)
    execute_layouts(node, target, np.random.default_rng(rows), choices=[choice(node, target, nb, turned)])


@each_target
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("inner", [64, 1])
def test_dynamic_rows(inner: int, count: int, target: Target) -> None:
    """Whole bands, and (not offered, but right) rows that no band divides."""
    rows = (Dim("N", 1, 8).expr, inner)
    node = matmul(rows, 96, 128)
    execute_layouts(node, target, np.random.default_rng(count), {"N": count}, choices=[choice(node, target, 1)])


@each_target
@pytest.mark.parametrize("schedule", [(5, 3), (16, 1), (24, 2), (40, 4)], ids=str)
def test_every_order_of_the_loops(schedule: tuple[int, int], target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    half, parts = schedule
    node = matmul((61,), 100, 256)
    set_layouts(node, choice(node, target, 2))
    rule = schedules(node, target)[0]
    assert isinstance(rule, strassen.StrassenSchedule)
    product = replace(rule.product, tile=(min(half, rule.product.tile[0]), 1), chunk=half)
    monkeypatch.setattr(strassen, "choose", lambda *_: replace(rule, half=half, parts=parts, product=product))
    execute_layouts(node, target, np.random.default_rng(half), choices=[None])


def test_what_the_tuner_measures_is_right() -> None:
    node, target = matmul((80,), 128, 256), TARGETS[-1]
    set_layouts(node, choice(node, target, 1))
    arrays = random_arrays(node, np.random.default_rng(3))
    a, b = (arrays[v].astype(np.float64) for v in node.inputs)
    found = schedules(node, target)
    assert len({s.name for s in found}) == len(found) > 2
    assert str(lower_contraction(node, target).schedule).startswith(f"matmul: {found[0]}")
    for schedule in found:
        kernel = lower_contraction(node, target, schedule)
        assert str(schedule) in kernel.schedule
        (y,) = execute(Compiled(kernel, target), node, arrays, {})
        np.testing.assert_allclose(y, a @ b.T, atol=1e-4)


def fused(shape: tuple[Extent, ...], n: int, extras: list[tuple[Extent, ...]], long: bool) -> Node:
    region, graph = Graph("region"), Graph("outer")
    types = [TensorType(dtypes.float32, s) for s in ((*shape, 64), (n, 64), *extras)]
    inner = [region.add_input(t, f"v{i}") for i, t in enumerate(types)]
    b = GraphBuilder(region)
    y = b.emit("matmul", inner[:2], transpose_b=True).output
    for extra in inner[2:]:
        y = b.add(y, extra)
    for _ in range(6 if long else 1):
        y = b.gelu(y)
    region.add_output(b.relu(y))
    region.add_output(y)
    outer = [graph.add_input(t, f"v{i}") for i, t in enumerate(types)]
    return create_fused(graph, region, outer, "contraction")


@each_target
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize(
    ("shape", "extras"),
    [
        ((37,), [(128,), (37, 128)]),  # bias and residual
        ((3, 40), [(40, 128), (3, 40, 128)]),  # one per row of an image: images cannot be joined
        ((3, 20), [(3, 1, 128), (1,), (3, 20, 1)]),
    ],
    ids=["rows", "position", "broadcast"],
)
def test_epilogues(shape: tuple[int, ...], extras: list[tuple[Extent, ...]], long: bool, target: Target) -> None:
    node = fused(shape, 128, extras, long)
    execute_layouts(node, target, np.random.default_rng(7), choices=[choice(node, target, 1)])


@each_target
@pytest.mark.parametrize("n", [1, 3])
def test_dynamic_images_with_an_operand_per_row(n: int, target: Target) -> None:
    images = Dim("N", 1, 4).expr
    node = fused((images, 40), 128, [(40, 128), (images, 40, 128)], False)
    execute_layouts(node, target, np.random.default_rng(n), {"N": n}, choices=[choice(node, target, 1)])


@each_target
@pytest.mark.parametrize("rows", [64, 61])
def test_samples_keep_to_themselves(rows: int, target: Target) -> None:
    """Rows of a matrix of very different sizes, zeros, infinities and NaN: no row spoils another one, and each has the
    error of an ordinary kernel."""
    k, n, rng = 300, 128, np.random.default_rng(rows)
    node = fused_sum(rows, k, n)
    arrays = random_arrays(node, rng)
    x = arrays[node.inputs[0]]
    sizes = rng.choice([0.0, 1e-20, 1e-3, 1.0, 1.0, 1.0, 1.0, 2.0, 30.0, 1e5, 1e19], rows)
    x *= sizes[:, None].astype(np.float32)
    arrays[node.inputs[2]] *= sizes[:, None].astype(np.float32)
    x[7, 3], x[rows - 1, 0] = np.nan, np.inf
    set_layouts(node, choice(node, target, 1))
    for half in (16, 5):
        rule = schedules(node, target)[0]
        assert isinstance(rule, strassen.StrassenSchedule)
        product = replace(rule.product, tile=(min(half, rule.product.tile[0]), 1), chunk=half)
        kernel = lower_contraction(node, target, replace(rule, half=half, parts=1, product=product))
        (y,) = execute(Compiled(kernel, target), node, arrays, {})
        with np.errstate(all="ignore"):
            want = x.astype(np.float64) @ arrays[node.inputs[1]].T.astype(np.float64) + arrays[node.inputs[2]]
        assert not np.isfinite(y[[7, rows - 1]]).any()
        good = np.setdiff1d(np.arange(rows), [7, rows - 1])
        scale = np.linalg.norm(want[good], axis=1)
        assert (np.linalg.norm(y[good] - want[good], axis=1) <= 2e-6 * scale).all()
        assert (y[good][sizes[good] == 0] == 0).all()


def fused_sum(rows: int, k: int, n: int) -> Node:
    """A product plus a residual, in whose memory the result may be."""
    region, graph = Graph("region"), Graph("outer")
    types = [TensorType(dtypes.float32, s) for s in ((rows, k), (n, k), (rows, n))]
    inner = [region.add_input(t, f"v{i}") for i, t in enumerate(types)]
    b = GraphBuilder(region)
    region.add_output(b.add(b.emit("matmul", inner[:2], transpose_b=True).output, inner[2]))
    outer = [graph.add_input(t, f"v{i}") for i, t in enumerate(types)]
    return create_fused(graph, region, outer, "contraction")


def test_sequences_and_tokens_keep_to_themselves() -> None:
    """A sequence of NaN, and a token of NaN or of another size in the same sequence, leave the others as they are."""
    node, target = matmul((3, 40), 96, 128), TARGETS[-1]
    set_layouts(node, choice(node, target, 1))
    arrays = random_arrays(node, np.random.default_rng(2))
    x = arrays[node.inputs[0]]
    (want,) = run_kernel(node, arrays, target)
    x[1], x[2, 5], x[2, 9] = np.nan, np.nan, 1e6 * x[2, 9]
    (y,) = run_kernel(node, arrays, target)
    assert np.isnan(y[1]).all() and np.isnan(y[2, 5]).all()
    np.testing.assert_array_equal(y[0], want[0])
    others = np.setdiff1d(np.arange(40), [5, 9])
    exact = x[2].astype(np.float64) @ arrays[node.inputs[1]].T.astype(np.float64)
    error = np.linalg.norm(y[2] - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert (error[[*others, 9]] <= 1e-6).all(), error


def conv(n: Extent, c: int, o: int, size: tuple[int, int], **attrs: object) -> Node:
    graph = Graph("conv")
    kernel = attrs.pop("kernel", (1, 1))
    groups = attrs.get("groups", 1)
    x = graph.add_input(TensorType(dtypes.float32, (n, c, *size)), "x")
    w = graph.add_input(TensorType(dtypes.float32, (o, c // groups, *kernel)), "w")  # type: ignore[operator,misc]
    usual = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    return GraphBuilder(graph).emit("conv", [x, w], **{**usual, **attrs})


def conv_choice(node: Node, target: Target, nb: int, halo_in: bool = False, halo_out: bool = False) -> LayoutChoice:
    lanes = target.lanes(dtypes.float32)
    frame = ((0, 0), (0, 0), (1, 2), (2, 1))
    blocked = Layout(blocks=((1, lanes),))
    framed = Layout(blocks=((1, lanes),), halo=frame)
    packed = Layout(blocks=((0, nb * lanes),), form=strassen.FORM_TRANSPOSED)
    result = framed if halo_out else blocked
    extras = [blocked if v.shape == node.outputs[0].shape else DENSE for v in node.inputs[2:]]
    outs = (result, *(blocked for _ in node.outputs[1:]))
    return LayoutChoice((framed if halo_in else blocked, packed, *extras), outs, 0.0)


@each_target
@pytest.mark.parametrize("halos", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize(
    ("n", "c", "o", "size", "nb"),
    [(1, 64, 64, (8, 8), 1), (2, 96, 128, (7, 5), 2), (3, 32, 192, (1, 33), 3), (1, 320, 32, (3, 3), 1)],
)
def test_convolutions(
    n: int, c: int, o: int, size: tuple[int, int], nb: int, halos: tuple[bool, bool], target: Target
) -> None:
    """Halos keep the rows of an image apart."""
    node = conv(n, c, o, size)
    execute_layouts(node, target, np.random.default_rng(c), choices=[conv_choice(node, target, nb, *halos)])


@each_target
@pytest.mark.parametrize("count", [1, 4])
def test_convolutions_of_a_dynamic_batch(count: int, target: Target) -> None:
    node = conv(Dim("N", 1, 8).expr, 64, 64, (7, 7))
    execute_layouts(node, target, np.random.default_rng(5), {"N": count}, choices=[conv_choice(node, target, 1)])


@each_target
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("halo", [False, True])
def test_epilogues_of_convolutions(halo: bool, long: bool, target: Target) -> None:
    """Bias, residual, two results, one of them framed by zeros."""
    region, graph = Graph("region"), Graph("outer")
    shapes = ((2, 64, 7, 6), (64, 64, 1, 1), (1, 64, 1, 1), (2, 64, 7, 6))
    types = [TensorType(dtypes.float32, s) for s in shapes]
    inner = [region.add_input(t, f"v{i}") for i, t in enumerate(types)]
    b = GraphBuilder(region)
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    y = b.add(b.add(b.emit("conv", inner[:2], **attrs).output, inner[2]), inner[3])
    for _ in range(5 if long else 0):
        y = b.gelu(b.tanh(y))
    region.add_output(b.relu(y))
    region.add_output(y)
    outer = [graph.add_input(t, f"v{i}") for i, t in enumerate(types)]
    node = create_fused(graph, region, outer, "contraction")
    execute_layouts(node, target, np.random.default_rng(9), choices=[conv_choice(node, target, 1, False, halo)])


@pytest.mark.parametrize(
    "attrs",
    [{"stride": (2, 2)}, {"padding": ((1, 1), (1, 1))}, {"kernel": (3, 3), "padding": ((1, 1), (1, 1))}, {"groups": 2}],
    ids=str,
)
def test_other_convolutions(attrs: dict[str, object]) -> None:
    target = replace(target_named("x86-64-avx512"), fma_ports=1)
    assert offered(conv(1, 512, 512, (14, 14)), target)
    assert not offered(conv(1, 512, 512, (14, 14), **attrs), target)
    assert not offered(conv(1, 512, 512, (5, 5)), target)  # few pixels
    assert not offered(conv(1, 128, 512, (14, 14)), target)
    target = TARGETS[-1]
    node = conv(1, 64, 64, (8, 8), **attrs)
    set_layouts(node, conv_choice(node, target, 1, halo_in=True))
    assert "no product of rows of pixels" in (supports(node, target) or "")
    with pytest.raises(UnsupportedError, match="no product of rows of pixels"):
        lower_contraction(node, target)


def test_convolutions_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_STRASSEN_CONV_MARGIN", 0.0)
    rng = np.random.default_rng(13)
    model = nn.Sequential(nn.Conv2d(256, 256, 1), nn.ReLU(), nn.Conv2d(256, 64, 3, padding=1))
    x = rng.standard_normal((2, 256, 9, 8)).astype(np.float32)
    programs = [ingot.compile(model, x, precision="float32-fast", threads=t, cache=False) for t in (1, 2, 5)]
    assert "\n".join(programs[0].report.log).count("Strassen") == 1
    results = [exe(x) for exe in programs]
    assert all(np.array_equal(results[0], r) for r in results[1:])
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)
    assert np.linalg.norm(results[0] - want) <= 1.5e-6 * np.linalg.norm(want)


def test_forms_are_data() -> None:
    layout = form_of(False, 32)
    assert Layout.parse(str(layout)) == layout
    assert layout.physical_shape((10, 128)) == (2, 35, 32)
    b = np.random.default_rng(0).standard_normal((10, 128)).astype(np.float32)
    packed = packing.pack(b, layout)
    quarters = b.astype(np.float64).reshape(2, 5, 2, 64)
    want = np.einsum("rpq,pkqn->rkn", np.array(strassen.RIGHT), quarters).reshape(35, 64)
    np.testing.assert_array_equal(packed[1], want.astype(np.float32)[:, 32:])
    np.testing.assert_array_equal(packing.pack(b.T, form_of(True, 32)).reshape(-1, 32), packed.reshape(-1, 32))
    kernel = b.T.reshape(128, 10, 1, 1)
    np.testing.assert_array_equal(packing.pack(kernel, form_of(True, 32)).reshape(-1, 32), packed.reshape(-1, 32))
    with pytest.raises(ValueError, match="cannot be undone"):
        packing.unpack(packed, layout, b.shape)
    assert set(FORMS) >= set(strassen.FORMS)


def test_where_it_is_offered() -> None:
    target = replace(target_named("x86-64-avx512"), fma_ports=1)

    def yes(*args: object, precision: str = "float32-fast", **attrs: object) -> bool:
        return bool(offered(matmul(*args, **attrs), target, precision))  # type: ignore[arg-type]

    assert yes((128,), 384, 1536) and not yes((128,), 384, 1536, precision="float32")
    assert yes((4, 128), 784, 512, False)
    assert yes((Dim("N", 1, 64).expr, 128), 384, 384)
    assert not yes((128,), 384, 1536, precision="bfloat16")  # dot products take less
    assert not yes((Dim("N", 1, 64).expr,), 384, 384)  # bands of known size would be mostly empty
    assert not yes((16,), 384, 384)
    assert not yes((128,), 128, 384)  # short sums err more
    assert not yes((128,), 385, 384)
    assert not yes((128,), 384, 400)  # halves are no whole vectors
    assert not yes((128,), 384, 384, dtype=dtypes.float64)
    assert not yes((128,), 384, 384, transpose_a=True)


def test_it_is_taken_where_the_estimate_is_less() -> None:
    one, two = (replace(target_named("x86-64-avx512"), fma_ports=ports) for ports in (1, 2))

    def taken(target: Target, rows: int, k: int, n: int) -> bool:
        return layout_choices(matmul((rows,), k, n), target, "float32-fast")[0].inputs[1].form in strassen.FORMS

    for rows, k, n in [(2048, 384, 1536), (2048, 1536, 384), (128, 384, 1536), (128, 1536, 384), (64, 784, 512)]:
        assert taken(one, rows, k, n), (rows, k, n)
    # A core of twice the rate moves the combinations no faster.
    assert not taken(two, 128, 256, 256)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (matmul((64,), 97, 128), "whole panels"),
        (matmul((64,), 96, 144), "whole panels"),
        (matmul((64,), 96, 128, dtype=dtypes.float64), "only float32"),
        (matmul((64,), 96, 128, transpose_a=True), "another way round"),
        (matmul((64,), 96, 128, turned=False), "another way round"),
    ],
)
def test_what_is_refused(node: Node, reason: str) -> None:
    target = TARGETS[-1]
    set_layouts(node, choice(node, target, 1))
    if node.attrs["transpose_b"] is False:
        node.inputs[1].type = node.inputs[1].type.with_layout(form_of(True, target.lanes(dtypes.float32)))
    with pytest.raises(UnsupportedError, match=reason):
        lower_contraction(node, target)
    assert reason in (supports(node, target) or "")


def test_operations_are_those_executed() -> None:
    node, target = matmul((64,), 128, 128), TARGETS[-1]
    set_layouts(node, choice(node, target, 1))
    assert supports(node, target) is None
    assert lower_contraction(node, target).flops == 2 * 64 * 128 * 128 * 7 / 8


@pytest.mark.parametrize("k", [256, 258, 384, 512, 784, 1536])
def test_kernels_err_no_more_than_an_ordinary_one(k: int) -> None:
    """A kernel that adds up the same products one by one, rounding once per product, errs more (relative L2 error, and
    the largest one). Sums are made of blocks, as elsewhere, but of shorter ones."""
    rng, target = np.random.default_rng(k), TARGETS[-1]
    node = matmul((64,), k, 256)
    set_layouts(node, choice(node, target, 1))
    a, w = (rng.standard_normal(s).astype(np.float32) for s in ((64, k), (256, k)))
    want = a.astype(np.float64) @ w.T.astype(np.float64)
    plain = np.zeros((64, 256), np.float32)
    for left, right in zip(a.T.astype(np.float64), w.T.astype(np.float64), strict=True):
        plain = (plain + np.outer(left, right)).astype(np.float32)
    (found,) = run_kernel(node, dict(zip(node.inputs, (a, w), strict=True)), target)

    def error(y: np.ndarray) -> float:
        return float(np.linalg.norm(y - want) / np.linalg.norm(want))

    print(f"{k} terms: {error(found):.1e}, one by one {error(plain):.1e}")
    assert error(found) <= 0.95 * error(plain), f"seed {k}"
    assert error(found) <= FORMS["strassen"].error
    assert np.abs(found - want).max() <= np.abs(plain - want).max()


def test_models_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants only, and the same bits for any number of threads."""
    monkeypatch.setattr(layouts, "_STRASSEN_MARGIN", 0.0)
    rng = np.random.default_rng(11)
    model = nn.Sequential(nn.Linear(256, 320), nn.GELU(), nn.Linear(320, 256))
    x = rng.standard_normal((90, 256)).astype(np.float32)
    programs = [ingot.compile(model, x, precision="float32-fast", threads=t, cache=False) for t in (1, 2, 5)]
    assert "\n".join(programs[0].report.log).count("Strassen") == 2
    results = [exe(x) for exe in programs]
    assert all(np.array_equal(results[0], r) for r in results[1:])
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)
    assert np.linalg.norm(results[0] - want) <= 1e-6 * np.linalg.norm(want)


def test_blocks_of_sums() -> None:
    for depth in (1, 2, 129, 131, 192, 193, 386, 392, 768, 1024):
        sizes = strassen.blocks(depth)
        assert sum(sizes) == depth and max(sizes) <= 128 and min(sizes) > 0
        assert len(set(sizes[:-1])) <= 1
    assert strassen.blocks(192) == [96, 96] and strassen.blocks(392) == [98] * 4


class _Product(nn.Module):
    def forward(self, x: ingot.Tensor, w: ingot.Tensor) -> ingot.Tensor:
        return x @ w


def test_other_weights_keep_their_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """B that is no constant cannot be transformed when the program is built."""
    monkeypatch.setattr(layouts, "_STRASSEN_MARGIN", 0.0)
    x, w = np.random.default_rng(12).standard_normal((2, 256, 256)).astype(np.float32)
    exe = ingot.compile(_Product(), x, w, precision="float32-fast", cache=False)
    assert "Strassen" not in "\n".join(exe.report.log)
    np.testing.assert_allclose(exe(x, w), x @ w, atol=1e-3)
