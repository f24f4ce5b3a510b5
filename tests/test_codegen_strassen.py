"""Strassen's algorithm: the identity, kernels on every ISA, their errors, where it is offered and what is refused."""

from __future__ import annotations

from dataclasses import replace

import ingot
import numpy as np
import pytest
from contraction_harness import (
    Compiled,
    Product,
    execute,
    execute_layouts,
    fused_matmul,
    matmul,
    random_arrays,
    run_kernel,
    runnable_targets,
    set_layouts,
)
from ingot import nn
from ingot.codegen import layouts, packing, strassen
from ingot.codegen.host import target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.library import NativeKernels
from ingot.codegen.lower.contraction import lower_contraction, schedules, supports
from ingot.driver import trace_inference
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, Extent
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


def form_of(turned: bool, width: int, levels: int = 1) -> Layout:
    form = strassen.NAMES[strassen.Form(levels, turned)]
    return Layout(blocks=((0, width),), form=form) if turned else Layout((1, 0), ((1, width),), form=form)


def choice(node: Node, target: Target, nb: int, turned: bool = True, levels: int = 1) -> LayoutChoice:
    """Everything dense but B; whether it pays does not matter here."""
    packed = form_of(turned, nb * target.lanes(dtypes.float32), levels)
    return LayoutChoice((DENSE, packed, *(DENSE for _ in node.inputs[2:])), tuple(DENSE for _ in node.outputs), 0.0)


def offered(node: Node, target: Target, precision: str = "float32-fast") -> list[LayoutChoice]:
    return [c for c in layout_choices(node, target, precision) if c.inputs[1].form in strassen.FORMS]


def levels_of(found: LayoutChoice) -> int:
    return strassen.FORMS[found.inputs[1].form].levels if found.inputs[1].form else 0


@each_level
def test_products_make_the_result(levels: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1 << levels, 1 << levels))
    matrices = (strassen.LEFT, strassen.RIGHT, strassen.RESULT)
    left, right, result = (strassen.combinations(m, levels) for m in matrices)
    products = np.einsum("rij,ij->r", left, a) * np.einsum("rij,ij->r", right, b)
    np.testing.assert_allclose(np.einsum("r,rij->ij", products, result), a @ b, rtol=1e-12)
    # The squared errors of sums add up with these weights: 32 in Strassen's own basis, 8 for the eight products.
    weight = sum(np.prod([np.square(m[r]).sum() for m in (left, right, result)]) for r in range(len(left)))
    assert weight == pytest.approx((200 / 9) ** levels)


@each_target
@each_level
@both_ways
@pytest.mark.parametrize(
    ("rows", "k", "n", "nb"), [(64, 64, 128, 2), (33, 70, 96, 1), (1, 10, 192, 3), (100, 786, 64, 1), (17, 512, 128, 4)]
)
def test_kernels(rows: int, k: int, n: int, nb: int, turned: bool, levels: int, target: Target) -> None:
    node = matmul((rows,), levels * k, levels * n, turned)
    execute_layouts(node, target, np.random.default_rng(rows), choices=[choice(node, target, nb, turned, levels)])


@each_target
@each_level
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("inner", [64, 1])
def test_dynamic_rows(inner: int, count: int, levels: int, target: Target) -> None:
    """Whole bands, and (not offered, but right) rows that no band divides."""
    node = matmul((Dim("N", 1, 8).expr, inner), 96, 128)
    choices = [choice(node, target, 1, levels=levels)]
    execute_layouts(node, target, np.random.default_rng(count), {"N": count}, choices=choices)


def with_rows(node: Node, target: Target, rows: int, **fields: object) -> strassen.StrassenSchedule:
    """The rule's schedule, but for blocks of so many rows, and for ``fields``."""
    rule = schedules(node, target)[0]
    assert isinstance(rule, strassen.StrassenSchedule)
    product = replace(rule.product, tile=(min(rows, rule.product.tile[0]), 1), chunk=rows)
    return replace(rule, rows=rows, product=product, **fields)  # type: ignore[arg-type]


@each_target
@pytest.mark.parametrize("schedule", [(5, 3), (16, 1), (24, 2), (40, 4)], ids=str)
@pytest.mark.parametrize(("levels", "stepwise"), [(1, False), (2, False), (2, True)], ids=["one", "two", "stepwise"])
def test_every_order_of_the_loops(
    levels: int, stepwise: bool, schedule: tuple[int, int], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, parts = schedule
    node = matmul((61,), 100, 512)
    set_layouts(node, choice(node, target, 2, levels=levels))
    chosen = with_rows(node, target, rows, parts=parts, stepwise=stepwise)
    monkeypatch.setattr(strassen, "choose", lambda *_: chosen)
    execute_layouts(node, target, np.random.default_rng(rows), choices=[None])


@each_level
def test_what_the_tuner_measures_is_right(levels: int) -> None:
    node, target = matmul((80,), 128, 256), TARGETS[-1]
    set_layouts(node, choice(node, target, 1, levels=levels))
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


@each_target
@each_level
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
def test_epilogues(
    shape: tuple[int, ...], extras: list[tuple[Extent, ...]], long: bool, levels: int, target: Target
) -> None:
    node = fused_matmul(shape, 64, 128, extras, 6 if long else 1)
    execute_layouts(node, target, np.random.default_rng(7), choices=[choice(node, target, 1, levels=levels)])


@each_target
@each_level
@pytest.mark.parametrize("n", [1, 3])
def test_dynamic_images_with_an_operand_per_row(n: int, levels: int, target: Target) -> None:
    images = Dim("N", 1, 4).expr
    node = fused_matmul((images, 40), 64, 128, [(40, 128), (images, 40, 128)])
    execute_layouts(node, target, np.random.default_rng(n), {"N": n}, choices=[choice(node, target, 1, levels=levels)])


@each_target
@each_level
@pytest.mark.parametrize("sizes", ["mixed", "halves", "quarters"])
@pytest.mark.parametrize("rows", [64, 61])
def test_samples_keep_to_themselves(rows: int, sizes: str, levels: int, target: Target) -> None:
    """Rows of a matrix of very different sizes, zeros, infinities and NaN: no row spoils another one, and each has the
    error of an ordinary kernel. Halves and quarters: of a band of 64 rows, alike among themselves."""
    k, n, rng = 300, 128, np.random.default_rng(rows)
    node = fused_sum(rows, k, n)
    arrays = random_arrays(node, rng)
    x = arrays[node.inputs[0]]
    scales = rng.choice([0.0, 1e-30, 1e-25, 1e-20, 1e-3, 1.0, 1.0, 1.0, 1.0, 2.0, 30.0, 1e5, 1e19], rows)
    if sizes != "mixed":
        scales = np.repeat(
            [1e-9, 1.0] if sizes == "halves" else [1e-9, 1e9, 1.0, 1e-4], 32 if sizes == "halves" else 16
        )[:rows]
    x *= scales[:, None].astype(np.float32)
    arrays[node.inputs[2]] *= scales[:, None].astype(np.float32)
    bad = [7, 20, rows - 1] if sizes == "mixed" else []
    if bad:
        x[7, 0], x[20, :2], x[rows - 1, 1] = np.inf, (np.nan, -np.inf), np.nan
    set_layouts(node, choice(node, target, 1, levels=levels))
    for block, stepwise in [(32 // levels, False), (16 // levels, levels == 2), (5, False)]:
        kernel = lower_contraction(node, target, with_rows(node, target, block, parts=1, stepwise=stepwise))
        (y,) = execute(Compiled(kernel, target), node, arrays, {})
        with np.errstate(all="ignore"):
            want = x.astype(np.float64) @ arrays[node.inputs[1]].T.astype(np.float64) + arrays[node.inputs[2]]
        assert not np.isfinite(y[bad]).any()
        good = np.setdiff1d(np.arange(rows), bad)
        scale = np.linalg.norm(want[good], axis=1)
        assert (np.linalg.norm(y[good] - want[good], axis=1) <= 2e-6 * scale).all()
        assert (y[good][scales[good] == 0] == 0).all()


@each_target
@each_level
@pytest.mark.parametrize("sizes", [(1e-30, 1e-25), (0.0, 1e-25), (0.0, 1e-30), (1e-16, 4e-16), (0.0, 0.0)], ids=str)
def test_rows_whose_squares_underflow(sizes: tuple[float, float], levels: int, target: Target) -> None:
    node = matmul((64,), 256, 128)
    set_layouts(node, choice(node, target, 1, levels=levels))
    arrays = random_arrays(node, np.random.default_rng(4))
    x = arrays[node.inputs[0]]
    x *= np.repeat(sizes, 32)[:, None].astype(np.float32)
    want = x.astype(np.float64) @ arrays[node.inputs[1]].T.astype(np.float64)
    for block, stepwise in [(32 // levels, False), (16, levels == 2)]:
        kernel = lower_contraction(node, target, with_rows(node, target, block, parts=1, stepwise=stepwise))
        (y,) = execute(Compiled(kernel, target), node, arrays, {})
        assert (np.linalg.norm(y - want, axis=1) <= 2e-6 * np.linalg.norm(want, axis=1)).all()


def fused_sum(rows: int, k: int, n: int) -> Node:
    """A product plus a residual, in whose memory the result may be."""
    region, graph = Graph("region"), Graph("outer")
    types = [TensorType(dtypes.float32, s) for s in ((rows, k), (n, k), (rows, n))]
    inner = [region.add_input(t, f"v{i}") for i, t in enumerate(types)]
    b = GraphBuilder(region)
    region.add_output(b.add(b.emit("matmul", inner[:2], transpose_b=True).output, inner[2]))
    outer = [graph.add_input(t, f"v{i}") for i, t in enumerate(types)]
    return create_fused(graph, region, outer, "contraction")


@each_level
def test_sequences_and_tokens_keep_to_themselves(levels: int) -> None:
    """A sequence of NaN, and a token of NaN or of another size in the same sequence, leave the others as they are."""
    node, target = matmul((3, 40), 96, 128), TARGETS[-1]
    set_layouts(node, choice(node, target, 1, levels=levels))
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


def conv_choice(
    node: Node, target: Target, nb: int, halo_in: bool = False, halo_out: bool = False, levels: int = 1
) -> LayoutChoice:
    lanes = target.lanes(dtypes.float32)
    frame = ((0, 0), (0, 0), (1, 2), (2, 1))
    blocked = Layout(blocks=((1, lanes),))
    framed = Layout(blocks=((1, lanes),), halo=frame)
    packed = form_of(True, nb * lanes, levels)
    result = framed if halo_out else blocked
    extras = [blocked if v.shape == node.outputs[0].shape else DENSE for v in node.inputs[2:]]
    outs = (result, *(blocked for _ in node.outputs[1:]))
    return LayoutChoice((framed if halo_in else blocked, packed, *extras), outs, 0.0)


@each_target
@each_level
@pytest.mark.parametrize("halos", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize(
    ("n", "c", "o", "size", "nb"),
    [(1, 64, 64, (8, 8), 1), (2, 96, 128, (7, 5), 2), (3, 32, 192, (1, 33), 3), (1, 320, 32, (3, 3), 1)],
)
def test_convolutions(
    n: int, c: int, o: int, size: tuple[int, int], nb: int, halos: tuple[bool, bool], levels: int, target: Target
) -> None:
    """Halos keep the rows of an image apart."""
    node = conv(n, levels * c, levels * o, size)
    execute_layouts(node, target, np.random.default_rng(c), choices=[conv_choice(node, target, nb, *halos, levels)])


@each_target
@each_level
@pytest.mark.parametrize("halos", [(False, False), (True, True)], ids=str)
@pytest.mark.parametrize(
    ("size", "stride"), [((8, 8), (2, 2)), ((7, 9), (2, 2)), ((9, 5), (3, 1)), ((13, 6), (1, 2))], ids=str
)
def test_strided_convolutions(
    size: tuple[int, int], stride: tuple[int, int], halos: tuple[bool, bool], levels: int, target: Target
) -> None:
    node = conv(2, 128, 64, size, stride=stride)
    execute_layouts(node, target, np.random.default_rng(size), choices=[conv_choice(node, target, 1, *halos, levels)])


@each_target
@each_level
@pytest.mark.parametrize("count", [1, 4])
def test_convolutions_of_a_dynamic_batch(count: int, levels: int, target: Target) -> None:
    node = conv(Dim("N", 1, 8).expr, 64, 64, (7, 7))
    choices = [conv_choice(node, target, 1, levels=levels)]
    execute_layouts(node, target, np.random.default_rng(5), {"N": count}, choices=choices)


@each_target
@each_level
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("halo", [False, True])
def test_epilogues_of_convolutions(halo: bool, long: bool, levels: int, target: Target) -> None:
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
    execute_layouts(node, target, np.random.default_rng(9), choices=[conv_choice(node, target, 1, False, halo, levels)])


@pytest.mark.parametrize(
    "attrs",
    [{"padding": ((1, 1), (1, 1))}, {"kernel": (3, 3), "padding": ((1, 1), (1, 1))}, {"groups": 2}],
    ids=str,
)
def test_other_convolutions(attrs: dict[str, object]) -> None:
    target = replace(target_named("x86-64-avx512"), fma_ports=1)
    assert len(offered(conv(1, 512, 512, (14, 14)), target)) == 2
    assert len(offered(conv(1, 512, 512, (28, 28), stride=(2, 2)), target)) == 2
    assert len(offered(conv(1, 512 + 32, 512, (14, 14)), target)) == 1  # quarters are no whole blocks
    assert not offered(conv(1, 512, 512, (14, 14), **attrs), target)
    assert not offered(conv(1, 512, 512, (5, 5)), target)  # few pixels
    assert not offered(conv(1, 128, 512, (14, 14)), target)
    target = TARGETS[-1]
    node = conv(1, 64, 64, (8, 8), **attrs)
    set_layouts(node, conv_choice(node, target, 1, halo_in=True))
    assert "no product of rows of pixels" in (supports(node, target) or "")
    with pytest.raises(UnsupportedError, match="no product of rows of pixels"):
        lower_contraction(node, target)


@each_level
def test_convolutions_use_it(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_STRASSEN_CONV_MARGIN", 0.0)
    monkeypatch.setattr(layouts, "_STRASSEN_LEVELS", (levels,))
    rng = np.random.default_rng(13)
    model = nn.Sequential(nn.Conv2d(256, 256, 1), nn.ReLU(), nn.Conv2d(256, 64, 3, padding=1))
    x = rng.standard_normal((2, 256, 9, 8)).astype(np.float32)
    programs = [ingot.compile(model, x, precision="float32-fast", threads=t, cache=False) for t in (1, 2, 5)]
    assert "\n".join(programs[0].report.log).count("Strassen") == 1
    results = [exe(x) for exe in programs]
    assert all(np.array_equal(results[0], r) for r in results[1:])
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)
    assert np.linalg.norm(results[0] - want) <= 1.5e-6 * np.linalg.norm(want)


@each_level
def test_forms_are_data(levels: int) -> None:
    layout, turned = (form_of(t, 32, levels) for t in (False, True))
    cuts, k = 1 << levels, 5 << levels
    assert Layout.parse(str(layout)) == layout
    assert layout.physical_shape((k, cuts * 64)) == (2, 5 * 7**levels, 32)
    b = np.random.default_rng(0).standard_normal((k, cuts * 64)).astype(np.float32)
    packed = packing.pack(b, layout)
    blocks = b.astype(np.float64).reshape(cuts, 5, cuts, 64)
    want = np.einsum("rpq,pkqn->rkn", strassen.combinations(strassen.RIGHT, levels), blocks).reshape(-1, 64)
    np.testing.assert_allclose(packed[1], want[:, 32:], rtol=2e-7, atol=1e-12)
    np.testing.assert_array_equal(packing.pack(b.T, turned).reshape(-1, 32), packed.reshape(-1, 32))
    kernel = b.T.reshape(*b.T.shape, 1, 1)
    np.testing.assert_array_equal(packing.pack(kernel, turned).reshape(-1, 32), packed.reshape(-1, 32))
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
    assert len(offered(matmul((128,), 384, 1536), target)) == 2
    assert len(offered(matmul((128,), 386, 1536), target)) == len(offered(matmul((128,), 384, 416), target)) == 1
    assert not yes((128,), 384, 384, dtype=dtypes.float64)
    assert not yes((128,), 384, 384, transpose_a=True)


def test_it_is_taken_where_the_estimate_is_less() -> None:
    one, two = (replace(target_named("x86-64-avx512"), fma_ports=ports) for ports in (1, 2))

    def taken(target: Target, rows: int, k: int, n: int) -> int:
        return levels_of(layout_choices(matmul((rows,), k, n), target, "float32-fast")[0])

    for rows, k, n in [(2048, 384, 1536), (2048, 1536, 384), (128, 384, 1536)]:
        assert taken(one, rows, k, n) == 2, (rows, k, n)
    # The weights of two levels would arrive from memory too late for so few rows.
    for rows, k, n in [(128, 1536, 384), (64, 784, 512)]:
        assert taken(one, rows, k, n) == 1, (rows, k, n)
    # A core of twice the rate moves the combinations no faster.
    assert not taken(two, 128, 256, 256)


@pytest.mark.parametrize(("rows", "k", "n"), [(512, 16384, 4096), (2048, 4096, 512), (96, 16384, 256), (33, 96, 192)])
def test_scratch_memory_is_bounded(rows: int, k: int, n: int) -> None:
    node, target = matmul((rows,), k, n), TARGETS[-1]
    for levels in (1, 2):
        set_layouts(node, choice(node, target, 1, levels=levels))
        for schedule in schedules(node, target):
            assert isinstance(schedule, strassen.StrassenSchedule)
            taken = lower_contraction(node, target, schedule).function.scratch_bytes
            assert 0.45 * taken <= schedule.scratch <= taken, schedule  # padding
            assert schedule.scratch <= target.l3_bytes / 4, schedule
        small = replace(target, l3_bytes=1 << 16)  # less than any schedule takes
        (least,) = schedules(node, small)
        assert least.scratch <= min(s.scratch for s in schedules(node, target))  # type: ignore[union-attr]


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


@each_level
def test_operations_are_those_executed(levels: int) -> None:
    node, target = matmul((64,), 128, 128), TARGETS[-1]
    set_layouts(node, choice(node, target, 1, levels=levels))
    assert supports(node, target) is None
    assert lower_contraction(node, target).flops == 2 * 64 * 128 * 128 * (7 / 8) ** levels


@each_level
@pytest.mark.parametrize("k", [256, 260, 384, 512, 784, 1536])
def test_errors(k: int, levels: int) -> None:
    """A kernel that adds up the same products one by one, rounding once per product, errs more (relative L2 error, and
    the largest one) than one level, whose sums are made of short blocks. Two levels err less than twice as much."""
    rng, target = np.random.default_rng(k), TARGETS[-1]
    node = matmul((64,), k, 256)
    set_layouts(node, choice(node, target, 1, levels=levels))
    a, w = (rng.standard_normal(s).astype(np.float32) for s in ((64, k), (256, k)))
    want = a.astype(np.float64) @ w.T.astype(np.float64)
    plain = np.zeros((64, 256), np.float32)
    for left, right in zip(a.T.astype(np.float64), w.T.astype(np.float64), strict=True):
        plain = (plain + np.outer(left, right)).astype(np.float32)
    (found,) = run_kernel(node, dict(zip(node.inputs, (a, w), strict=True)), target)

    def error(y: np.ndarray) -> float:
        return float(np.linalg.norm(y - want) / np.linalg.norm(want))

    print(f"{k} terms, {levels} level(s): {error(found):.1e}, one by one {error(plain):.1e}")
    assert error(found) <= (0.95 if levels == 1 else 1.9) * error(plain), f"seed {k}"
    assert error(found) <= FORMS[node.inputs[1].type.layout.form].error
    assert np.abs(found - want).max() <= levels * np.abs(plain - want).max()


@each_level
def test_models_use_it(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants only, and the same bits for any number of threads."""
    monkeypatch.setattr(layouts, "_STRASSEN_MARGIN", 0.0)
    monkeypatch.setattr(layouts, "_STRASSEN_LEVELS", (levels,))
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
        for levels in (1, 2):
            sizes = strassen.blocks(depth, levels)
            assert sum(sizes) == depth and max(sizes) <= 128 and min(sizes) > 0
            assert len(set(sizes[:-1])) <= 1
    assert strassen.blocks(192, 1) == [96, 96] and strassen.blocks(392, 1) == [98] * 4
    assert strassen.blocks(96, 2) == [96] and strassen.blocks(384, 2) == [128] * 3


def test_other_weights_keep_their_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """B that is no constant cannot be transformed when the program is built."""
    monkeypatch.setattr(layouts, "_STRASSEN_MARGIN", 0.0)
    x, w = np.random.default_rng(12).standard_normal((2, 256, 256)).astype(np.float32)
    exe = ingot.compile(Product(), x, w, precision="float32-fast", cache=False)
    assert "Strassen" not in "\n".join(exe.report.log)
    np.testing.assert_allclose(exe(x, w), x @ w, atol=1e-3)


def scaled(rng: np.random.Generator, columns: dict[int, float]) -> np.ndarray:
    """Weights [256, 256] of B, with some columns of another size."""
    w = rng.standard_normal((256, 256)).astype(np.float32)
    for j, size in columns.items():
        w[:, j] *= np.float32(size)
    return w


@pytest.mark.parametrize(
    ("columns", "one", "two"),
    [
        ({}, True, True),
        ({3: 10.0, 70: 0.1}, True, True),
        ({3: 100.0}, False, False),
        ({3: 0.01}, False, False),
        ({3: 0.0}, False, False),  # would have results that are not zero
        ({3: 0.0, 131: 0.0}, True, False),  # both halves', but not all quarters'
        ({3: 0.0, 67: 0.0, 131: 0.0, 195: 0.0}, True, True),
        ({3: 1e-3, 131: 1e-3}, True, False),
        ({3: 1e-30, 67: 1e-30, 131: 1e-30, 195: 1e-30}, True, True),
        ({3: 1e-25, 67: 1e-25, 131: 1e-28, 195: 1e-28}, False, False),
        ({3: 1e-38, 67: 1e-38, 131: 1e-38, 195: 1e-38}, False, False),  # combinations would underflow
        ({3: 1e37, 67: 1e37, 131: 1e37, 195: 1e37}, False, False),  # or overflow
    ],
    ids=str,
)
def test_columns_that_are_mixed_must_be_alike(columns: dict[int, float], one: bool, two: bool) -> None:
    w, kernels = scaled(np.random.default_rng(14), columns), NativeKernels(TARGETS[-1], "float32-fast")
    for levels, want in [(1, one), (2, two)]:
        assert kernels.holds(w, form_of(False, 16, levels)) == want
        assert kernels.holds(np.ascontiguousarray(w.T), form_of(True, 16, levels)) == want
        assert kernels.holds(w.T.reshape(256, 256, 1, 1), form_of(True, 16, levels)) == want
    assert kernels.holds(w, DENSE)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_weights_must_be_finite(value: float) -> None:
    w, kernels = scaled(np.random.default_rng(15), {}), NativeKernels(TARGETS[-1], "float32-fast")
    w[3, 5] = value
    for levels in (1, 2):
        assert not kernels.holds(w, form_of(False, 16, levels)) and not kernels.holds(w, form_of(True, 16, levels))


def test_usual_weights_take_the_form() -> None:
    """Of any initialisation, with weights that are pruned one by one, or with outputs whose scales differ some."""
    rng, kernels = np.random.default_rng(16), NativeKernels(TARGETS[-1], "float32-fast")
    shape = (512, 768)
    normal = rng.standard_normal(shape)
    pruned = np.where(rng.random(shape) < 0.95, 0, normal)
    lognormal = normal * np.exp(0.5 * rng.standard_normal(shape[0]))[:, None]
    for w in (normal, rng.uniform(-1, 1, shape), rng.laplace(size=shape), pruned, lognormal, np.zeros(shape)):
        assert all(kernels.holds(w.astype(np.float32), form_of(True, 16, levels)) for levels in (1, 2))


@each_level
@pytest.mark.parametrize(("row", "value"), [(3, np.inf), (slice(None), 0.0), (slice(None), 1e-3)], ids=str)
def test_models_fall_back(row: object, value: float, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One output with weights that are not finite, pruned, or tiny: the others, and itself, are as without the form."""
    monkeypatch.setattr(layouts, "_STRASSEN_MARGIN", 0.0)
    monkeypatch.setattr(layouts, "_STRASSEN_LEVELS", (levels,))
    rng = np.random.default_rng(17)
    model = nn.Sequential(nn.Linear(256, 256, bias=False), nn.ReLU(), nn.Linear(256, 256, bias=False))
    w = rng.standard_normal((256, 256)).astype(np.float32)
    w[5, row] = value if value != 1e-3 else 1e-3 * w[5]  # type: ignore[call-overload]
    model[2].weight.data = ingot.from_numpy(w)
    x = rng.standard_normal((90, 256)).astype(np.float32)
    exe = ingot.compile(model, x, precision="float32-fast", cache=False)
    assert "\n".join(exe.report.log).count("Strassen") == 1  # the first layer
    with np.errstate(all="ignore"):
        hidden = np.maximum(x.astype(np.float64) @ model[0].weight.detach().numpy().T.astype(np.float64), 0)
        want = hidden @ w.T.astype(np.float64)
    y = exe(x)
    others = np.setdiff1d(np.arange(256), [5] if value == np.inf else [])
    error = np.linalg.norm(y[:, others] - want[:, others], axis=0)
    assert (error <= 2e-6 * np.linalg.norm(want[:, others], axis=0)).all()
