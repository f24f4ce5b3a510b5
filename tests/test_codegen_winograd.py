"""Winograd convolutions: the matrices are exact, kernels agree with float64 on every ISA, precision picks the tile."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import ingot
import numpy as np
import pytest
from contraction_harness import execute_layouts, random_arrays, run_kernel, runnable_targets, set_layouts
from ingot import nn
from ingot.codegen import layouts, packing, winograd
from ingot.codegen import schedule as scheduling
from ingot.codegen.host import target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.lower import winograd as lowering
from ingot.codegen.lower.contraction import lower_contraction
from ingot.codegen.schedule import Problem
from ingot.driver import trace_inference
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import DType
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Graph, Node
from ingot.ir.interpreter import interpret
from ingot.ir.kernels import PRECISIONS, LayoutChoice
from ingot.ir.layout import FORMS, Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from ingot.ir.verifier import VerifyError, verify

TARGETS = runnable_targets()
FORMS_OF_STRIDE = {
    1: ["winograd2", "winograd2x4careful", "winograd4careful", "winograd4", "winograd6"],
    2: ["winograd3s2", "winograd4s2"],
}
LONG_SUM = {form: least for form, least in layouts._LONG_SUM.items() if winograd.FILTERINGS[form].kernel == (3, 3)}
each_form = pytest.mark.parametrize("form", [*FORMS_OF_STRIDE[1], *FORMS_OF_STRIDE[2]])
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)


def conv(
    n: object,
    c: int,
    o: int,
    size: tuple[int, int],
    padding: object = ((1, 1), (1, 1)),
    dtype: object = dtypes.float32,
    stride: int = 1,
) -> Node:
    graph = Graph("conv")
    x = graph.add_input(TensorType(dtype, (n, c, *size)), "x")  # type: ignore[arg-type]
    w = graph.add_input(TensorType(dtype, (o, c, 3, 3)), "w")  # type: ignore[arg-type]
    return GraphBuilder(graph).emit("conv", [x, w], stride=(stride, stride), padding=padding, dilation=(1, 1), groups=1)


def choices(node: Node, target: Target, form: str) -> list[LayoutChoice]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(layouts.WINOGRAD_FORMS, "float32-fast", (form,))
        found = [c for c in layout_choices(node, target, "float32-fast") if any(x.form == form for x in c.inputs)]
    assert len(found) == 1
    return found


@each_form
@pytest.mark.parametrize("axis", [0, 1])
def test_the_matrices_are_exact(form: str, axis: int) -> None:
    """In rational arithmetic, every unit input and weight gives what the direct sum gives."""
    f = winograd.FILTERINGS[form].lines[axis]

    def exact(matrix: winograd.Matrix) -> np.ndarray:
        return np.array([[Fraction(v).limit_denominator(1024) for v in row] for row in matrix], dtype=object)

    at, g, bt = exact(f.output), exact(f.weight), exact(f.input)
    n = f.points
    for i in range(n):
        for k in range(3):
            d = np.array([Fraction(int(i == j)) for j in range(n)], dtype=object)
            w = np.array([Fraction(int(k == j)) for j in range(3)], dtype=object)
            assert list(at @ ((g @ w) * (bt @ d))) == [int(f.stride * r + k == i) for r in range(f.tile)]


@each_target
@each_form
@pytest.mark.parametrize(
    ("n", "c", "o", "size", "padding"),
    [
        (1, 16, 16, (8, 8), ((1, 1), (1, 1))),
        (2, 19, 37, (7, 11), ((1, 1), (1, 1))),
        (3, 33, 50, (5, 6), ((0, 0), (2, 1))),
        (1, 64, 100, (13, 14), ((1, 1), (0, 2))),
        (1, 400, 20, (4, 4), ((1, 1), (1, 1))),
        (2, 16, 24, (3, 3), ((0, 0), (0, 0))),
        (1, 16, 20, (12, 9), ((0, 0), (0, 1))),
    ],
)
def test_kernels(n: int, c: int, o: int, size: tuple[int, int], padding: object, form: str, target: Target) -> None:
    node = conv(n, c, o, size, padding, stride=winograd.FILTERINGS[form].stride)
    execute_layouts(node, target, np.random.default_rng(c), choices=choices(node, target, form))


@each_target
@each_form
@pytest.mark.parametrize("count", [1, 2, 5])
def test_dynamic_batch(count: int, form: str, target: Target) -> None:
    node = conv(Dim("N", 1, 8).expr, 16, 32, (9, 7), stride=winograd.FILTERINGS[form].stride)
    execute_layouts(node, target, np.random.default_rng(count), {"N": count}, choices=choices(node, target, form))


@each_target
@pytest.mark.parametrize(("block", "groups"), [(3, 1), (20, 2), (7, 3), (2, 3)])
def test_every_order_of_the_loops(block: int, groups: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rule would take for large layers only."""

    def choose(
        target: Target,
        dtype: DType,
        f: winograd.Filtering,
        channels: int,
        outputs: int,
        tiles: int,
        nb: int = 1,
        runs: int = 1,
    ) -> object:
        p = Problem(dtype, (block, 1), outputs, channels, min(target.lanes(dtype), channels), 1, nb)
        product = replace(scheduling.choose(target, p), chunk=block)
        return winograd.WinogradSchedule(f, block, groups, product, 1.0)

    monkeypatch.setattr(winograd, "choose", choose)
    monkeypatch.setattr(lowering, "choose", choose)
    node = conv(2, 20, 50, (7, 6))
    execute_layouts(node, target, np.random.default_rng(block), choices=choices(node, target, "winograd2"))


def test_weights_from_memory_feed_one_register_tile() -> None:
    """Many weights are read once per block; two vectors of them at a time would need a second register tile."""
    target = replace(target_named("x86-64-avx512"), fma_ports=1)
    f = winograd.FILTERINGS["winograd2"]
    few = winograd.choose(target, dtypes.float32, f, 64, 64, 784)
    many = winograd.choose(target, dtypes.float32, f, 512, 512, 16)
    assert few.product.nb > 1
    assert many.product.nb == 1 and many.block == many.product.tile[0] == 16


@each_target
def test_float64(target: Target) -> None:
    node = conv(1, 16, 24, (6, 9), dtype=dtypes.float64)
    execute_layouts(node, target, np.random.default_rng(64), choices=choices(node, target, "winograd4"))


def fused(o: int, size: int, long: bool, stride: int) -> Node:
    region, graph = Graph("region"), Graph("outer")
    given = stride * size
    types = [TensorType(dtypes.float32, s) for s in ((2, 16, given, given), (o, 16, 3, 3), (1, o, 1, 1))]
    types.append(TensorType(dtypes.float32, (2, o, size, size)))
    inner = [region.add_input(t, f"v{i}") for i, t in enumerate(types)]
    b = GraphBuilder(region)
    y = b.emit("conv", inner[:2], stride=(stride, stride), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1).output
    y = b.add(b.add(y, inner[2]), inner[3])
    for _ in range(4 if long else 0):
        y = b.gelu(b.tanh(y))
    region.add_output(b.relu(y))
    region.add_output(y)
    outer = [graph.add_input(t, f"v{i}") for i, t in enumerate(types)]
    return create_fused(graph, region, outer, "contraction")


@each_target
@each_form
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_epilogue_with_halos(long: bool, form: str, target: Target) -> None:
    """Bias, residual, two results; results with a halo are framed by zeros. A long epilogue becomes a loop."""
    node = fused(37, 7, long, winograd.FILTERINGS[form].stride)
    (choice,) = choices(node, target, form)
    halo = ((0, 0), (0, 0), (1, 2), (1, 1))
    out = Layout(blocks=choice.outputs[0].blocks, halo=halo)
    framed = LayoutChoice(choice.inputs, (out, choice.outputs[1]), choice.cost)
    execute_layouts(node, target, np.random.default_rng(5), choices=[choice, framed])


@each_target
@each_form
@pytest.mark.parametrize("outputs", [37, 64])
def test_what_lies_beyond_the_caches_is_asked_for(outputs: int, form: str, target: Target) -> None:
    """Inputs of the next tiles, results, residual: a cache of a kilobyte makes small tensors far. Addresses at the ends
    of buffers may be wrong (nothing is read there); results are those of the near kernel."""
    node = fused(outputs, 7, False, winograd.FILTERINGS[form].stride)
    (choice,) = choices(node, target, form)
    set_layouts(node, choice)
    arrays, far = random_arrays(node, np.random.default_rng(outputs)), replace(target, l2_bytes=1 << 10)
    for got, wanted in zip(run_kernel(node, arrays, far), run_kernel(node, arrays, target), strict=True):
        np.testing.assert_array_equal(got, wanted)
    for t, asks in ((far, True), (replace(target, l2_bytes=1 << 30), False)):
        code = str(lower_contraction(node, t).function)
        assert ("write=True level=2" in code) is ("write=False level=2" in code) is asks


@each_target
def test_dense_result(target: Target) -> None:
    node = conv(2, 16, 24, (6, 5))
    (choice,) = choices(node, target, "winograd2")
    execute_layouts(
        node, target, np.random.default_rng(6), choices=[LayoutChoice(choice.inputs, (Layout(),), choice.cost)]
    )


def test_precision_decides_the_tile() -> None:
    node = conv(1, 64, 64, (56, 56))
    target = TARGETS[-1]

    def forms(precision: str) -> set[str]:
        return {layout.form for c in layout_choices(node, target, precision) for layout in c.inputs if layout.form}

    assert forms("float32") == {"winograd2", "winograd2x4careful"}
    assert forms("float32-fast") == {"winograd2", "winograd4", "winograd6"}
    node = conv(1, 256, 64, (14, 14))
    assert forms("float32") == {"winograd2", *LONG_SUM}  # longer sums of an ordinary kernel err as much
    node = conv(1, 16, 64, (56, 56))
    assert forms("float32") == {"winograd2"}
    assert set(layouts.WINOGRAD_FORMS) == set(PRECISIONS)


@pytest.mark.parametrize(
    "attrs", [{"stride": (3, 3)}, {"stride": (1, 2)}, {"dilation": (2, 2)}, {"groups": 2}], ids=str
)
def test_where_it_does_not_apply(attrs: dict[str, object]) -> None:
    graph = Graph("conv")
    groups = attrs.get("groups", 1)
    x = graph.add_input(TensorType(dtypes.float32, (1, 32, 9, 9)), "x")
    w = graph.add_input(TensorType(dtypes.float32, (32, 32 // groups, 3, 3)), "w")  # type: ignore[operator]
    usual = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    node = GraphBuilder(graph).emit("conv", [x, w], **{**usual, **attrs})
    assert not any(layout.form for c in layout_choices(node, TARGETS[-1], "float32-fast") for layout in c.inputs)


@pytest.mark.parametrize("channels", [64, 400, 1024])
@each_form
def test_error_of_a_kernel(form: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative L2 error on normal inputs. It grows up to 400 channels; longer sums are made of blocks."""
    f = winograd.FILTERINGS[form]
    rng = np.random.default_rng(channels)
    model = nn.Conv2d(channels, 32, 3, stride=f.stride, padding=1, bias=False)
    model.weight._data[...] = rng.standard_normal(model.weight.shape) / np.sqrt(9 * channels)
    x = rng.standard_normal((1, channels, 12 * f.stride, 12 * f.stride)).astype(np.float32)
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)

    def error(forms: tuple[str, ...], name: str) -> float:
        with monkeypatch.context() as patch:
            patch.setattr(layouts, "_winograd", _only(layouts._winograd))
            patch.setitem(layouts.WINOGRAD_FORMS, "float32-fast", forms)
            exe = ingot.compile(model, x, precision="float32-fast", cache=False)
        assert name in "\n".join(exe.report.log)
        return float(np.linalg.norm(exe(x) - want) / np.linalg.norm(want))

    found, direct = error((form,), str(f)), error((), "conv: ")
    print(f"{f}, {channels} channels: {found:.1e}, direct {direct:.1e}")
    assert found <= FORMS[form].error, f"seed {channels}"
    if form in layouts.WINOGRAD_FORMS["float32"]:
        assert found <= 1e-6


@pytest.mark.parametrize(
    ("form", "channels"),
    [(form, c) for form, least in LONG_SUM.items() for c in (least, least + 32, 320)],
)
def test_in_float32_kernels_err_no_more_than_an_ordinary_one(
    form: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F(2x4) and F(4x4) are offered from some number of channels on: there a kernel that adds up the same products one
    by one, rounding once per product, errs as much (root mean square of several draws)."""
    monkeypatch.setattr(layouts, "_winograd", _only(layouts._winograd))
    monkeypatch.setitem(layouts.WINOGRAD_FORMS, "float32", (form,))
    found = np.array([_errors(form, channels, seed) for seed in range(4)])
    kernel, plain = np.sqrt((found**2).mean(0))
    print(f"{form}, {channels} channels: {kernel:.2e}, one by one {plain:.2e}")
    assert kernel <= plain, "seeds 0 to 3"


def _errors(form: str, channels: int, seed: int) -> tuple[float, float]:
    """Relative L2 errors of a kernel in ``form`` and of one-by-one sums."""
    rng = np.random.default_rng(seed)
    model = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
    model.weight._data[...] = rng.standard_normal(model.weight.shape) / np.sqrt(9 * channels)
    x = rng.standard_normal((1, channels, 16, 16)).astype(np.float32)
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)
    padded = np.pad(x[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    columns = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2)).transpose(0, 3, 4, 1, 2)
    weight = model.weight._data.reshape(32, -1).astype(np.float64)
    plain = np.zeros((32, 256), np.float32)
    for w, column in zip(weight.T, columns.reshape(9 * channels, 256), strict=True):
        plain = (plain + np.outer(w, column)).astype(np.float32)
    exe = ingot.compile(model, x, cache=False)
    assert str(winograd.FILTERINGS[form]) in "\n".join(exe.report.log)
    kernel, one_by_one = (np.linalg.norm(y.reshape(want.shape) - want) / np.linalg.norm(want) for y in (exe(x), plain))
    return float(kernel), float(one_by_one)


def _only(rule):  # type: ignore[no-untyped-def]
    def cheap(*args):  # type: ignore[no-untyped-def]
        return [LayoutChoice(c.inputs, c.outputs, 0.0, c.reason) for c in rule(*args)]

    return cheap


def test_forms_are_data() -> None:
    layout = Layout(order=(0, 2, 3, 1), blocks=((0, 32),), form="winograd4")
    assert Layout.parse(str(layout)) == layout
    assert layout.physical_shape((40, 5, 3, 3)) == (2, 6, 6, 5, 32)
    weight = np.random.default_rng(0).standard_normal((40, 5, 3, 3)).astype(np.float32)
    packed = packing.pack(weight, layout)
    g = np.array(winograd.FILTERINGS["winograd4"].rows.weight)
    want = np.einsum("ia,ocab,jb->ijco", g, weight.astype(np.float64), g)
    np.testing.assert_allclose(packed[1, ..., :8], want[..., 32:], rtol=1e-6, atol=1e-7)
    assert (packed[1, ..., 8:] == 0).all()
    with pytest.raises(ValueError, match="unknown form"):
        Layout.parse("form=magic")
    with pytest.raises(ValueError, match="cannot be undone"):
        packing.unpack(packed, layout, weight.shape)
    assert set(FORMS) >= {"winograd2", "winograd4"}


def test_verifier_refuses_a_form_on_a_computed_value() -> None:
    graph = Graph("g")
    x = graph.add_input(TensorType(dtypes.float32, (4, 4, 3, 3)), "x")
    y = GraphBuilder(graph).relu(x)
    graph.add_output(y)
    verify(graph)
    y.type = y.type.with_layout(Layout(form="winograd2"))
    with pytest.raises(VerifyError, match="only constants are transformed"):
        verify(graph)


def test_a_wrong_halo_is_refused() -> None:
    node = conv(1, 16, 16, (7, 7))
    target = TARGETS[-1]
    (choice,) = choices(node, target, "winograd2")
    for v, layout in zip([*node.inputs, *node.outputs], [*choice.inputs, *choice.outputs], strict=True):
        v.type = v.type.with_layout(layout)
    assert lowering.tile_halo(7, (1, 1), winograd.FILTERINGS["winograd2"].rows) == (1, 2)
    node.inputs[0].type = node.inputs[0].type.with_layout(
        Layout(blocks=choice.inputs[0].blocks, halo=((0, 0), (0, 0), (1, 1), (1, 1)))
    )
    with pytest.raises(UnsupportedError, match="needs a halo"):
        lower_contraction(node, target)


def test_same_bits_for_any_number_of_threads() -> None:
    rng = np.random.default_rng(11)
    model = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
    x = rng.standard_normal((2, 32, 28, 28)).astype(np.float32)
    results = [ingot.compile(model, x, precision="float32-fast", threads=t)(x) for t in (1, 2, 5)]
    assert all(np.array_equal(results[0], r) for r in results[1:])
