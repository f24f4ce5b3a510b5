"""Minimal filtering of strided 7 x 7 kernels on few channels: phases of the input become channels."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import contraction_harness
import ingot
import numpy as np
import pytest
from contraction_harness import execute_layouts, runnable_targets, set_layouts
from ingot import nn
from ingot.codegen import layouts, packing, winograd
from ingot.codegen.host import target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.lower.contraction import lower_contraction, schedules
from ingot.driver import trace_inference
from ingot.guarding import run_guarded
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import DType
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Graph, Node
from ingot.ir.interpreter import interpret
from ingot.ir.kernels import LayoutChoice
from ingot.ir.layout import FORMS, Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from ingot.runtime.pool import SUPPORTED

TARGETS = runnable_targets()
FORMS_OF_PHASES = ["winograd1x3p2", "winograd4p2"]
LEAST = layouts._LONG_SUM["winograd1x3p2"]  # channels in float32
each_form = pytest.mark.parametrize("form", FORMS_OF_PHASES)
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)


def conv(
    n: object,
    c: int,
    o: int,
    size: tuple[int, int],
    padding: object = ((3, 3), (3, 3)),
    dtype: DType = dtypes.float32,
    kernel: tuple[int, int] = (7, 7),
    **attrs: object,
) -> Node:
    graph = Graph("conv")
    x = graph.add_input(TensorType(dtype, (n, c, *size)), "x")  # type: ignore[arg-type]
    w = graph.add_input(TensorType(dtype, (o, c // int(attrs.get("groups", 1)), *kernel)), "w")  # type: ignore[call-overload]
    usual = {"stride": (2, 2), "padding": padding, "dilation": (1, 1), "groups": 1}
    return GraphBuilder(graph).emit("conv", [x, w], **{**usual, **attrs})


def choices(node: Node, target: Target, form: str) -> list[LayoutChoice]:
    return [c for c in layout_choices(node, target, "float32-fast") if any(x.form == form for x in c.inputs)]


def forms(node: Node, target: Target, precision: str) -> set[str]:
    return {x.form for c in layout_choices(node, target, precision) for x in c.inputs if x.form}


@each_form
@pytest.mark.parametrize("axis", [0, 1])
def test_the_matrices_are_exact(form: str, axis: int) -> None:
    """In rational arithmetic, every unit input and weight gives what the direct sum gives."""
    f = winograd.FILTERINGS[form].lines[axis]

    def exact(matrix: winograd.Matrix) -> np.ndarray:
        return np.array([[Fraction(v).limit_denominator(10**5) for v in row] for row in matrix], dtype=object)

    at, g, bt = exact(f.output), exact(f.weight), exact(f.input)
    for i in range(f.points):
        for k in range(f.taps):
            d = np.array([Fraction(int(i == j)) for j in range(f.points)], dtype=object)
            w = np.array([Fraction(int(k == j)) for j in range(f.taps)], dtype=object)
            assert list(at @ ((g @ w) * (bt @ d))) == [int(r + k == i) for r in range(f.tile)]


@each_target
@each_form
@pytest.mark.parametrize(
    ("n", "c", "o", "size", "padding"),
    [
        (1, 3, 64, (32, 40), ((3, 3), (3, 3))),
        (2, 3, 37, (33, 45), ((3, 2), (2, 3))),
        (3, 1, 20, (15, 19), ((0, 2), (1, 3))),
        (1, 2, 16, (7, 7), ((0, 0), (0, 0))),
        (2, 3, 5, (8, 151), ((1, 1), (0, 1))),
        (1, 3, 33, (3, 2), ((3, 3), (3, 3))),
        (1, 3, 18, (30, 26), ((9, 8), (11, 10))),
    ],
)
def test_kernels(n: int, c: int, o: int, size: tuple[int, int], padding: object, form: str, target: Target) -> None:
    node = conv(n, c, o, size, padding)
    found = choices(node, target, form)
    assert len(found) == 1
    execute_layouts(node, target, np.random.default_rng(c), choices=found)


@each_form
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7, 8, 11, 15])
def test_any_number_of_channels(channels: int, form: str) -> None:
    """Those that share a point lie in one vector or in several."""
    for target in TARGETS:
        node = conv(1, channels, 24, (12, 13))
        assert bool(choices(node, target, form)) == (channels < target.lanes(dtypes.float32))
        execute_layouts(node, target, np.random.default_rng(channels), choices=choices(node, target, form))


@each_target
@each_form
@pytest.mark.parametrize("count", [1, 2, 5])
def test_dynamic_batch(count: int, form: str, target: Target) -> None:
    node = conv(Dim("N", 1, 8).expr, 3, 32, (21, 19))
    execute_layouts(node, target, np.random.default_rng(count), {"N": count}, choices=choices(node, target, form))


@each_target
@each_form
def test_float64(form: str, target: Target) -> None:
    node = conv(1, 3 if target.lanes(dtypes.float64) > 3 else 1, 24, (16, 19), dtype=dtypes.float64)
    found = choices(node, target, form)
    assert found
    execute_layouts(node, target, np.random.default_rng(64), choices=found)


@each_target
@each_form
def test_input_with_a_halo(form: str, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others want around x is not read (it is NaN here)."""
    plain = contraction_harness.pack

    def with_marked_halo(array: np.ndarray, layout: Layout) -> np.ndarray:
        floating = layout.halo and array.dtype.kind == "f"
        return np.pad(array, layout.halo, constant_values=np.nan) if floating else plain(array, layout)

    monkeypatch.setattr(contraction_harness, "pack", with_marked_halo)
    node = conv(2, 3, 32, (18, 21))
    (choice,) = choices(node, target, form)
    halo = Layout(halo=((0, 0), (0, 0), (1, 0), (2, 3)))
    framed = LayoutChoice((halo, choice.inputs[1]), choice.outputs, choice.cost)
    execute_layouts(node, target, np.random.default_rng(3), choices=[framed])


@each_target
@each_form
def test_every_schedule_worth_measuring(form: str, target: Target) -> None:
    node = conv(1, 3, 40, (20, 50))
    (choice,) = choices(node, target, form)
    set_layouts(node, choice)
    found = schedules(node, target)
    assert len({s.name for s in found}) == len(found) > 3
    rng = np.random.default_rng(2)
    for schedule in found:

        def lower(node: Node, target: Target, schedule: object = schedule) -> object:
            return lower_contraction(node, target, schedule)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("contraction_harness.lower_contraction", lower)
            execute_layouts(node, target, rng, choices=[None], note=schedule.name)


def fused(long: bool) -> Node:
    region, graph = Graph("region"), Graph("outer")
    types = [TensorType(dtypes.float32, s) for s in ((2, 3, 19, 25), (37, 3, 7, 7), (1, 37, 1, 1), (2, 37, 10, 13))]
    inner = [region.add_input(t, f"v{i}") for i, t in enumerate(types)]
    b = GraphBuilder(region)
    y = b.emit("conv", inner[:2], stride=(2, 2), padding=((3, 3), (3, 3)), dilation=(1, 1), groups=1).output
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
    """Bias, residual, two results, one of them framed by zeros or dense."""
    node = fused(long)
    (choice,) = choices(node, target, form)
    halo = ((0, 0), (0, 0), (1, 2), (1, 1))
    out = Layout(blocks=choice.outputs[0].blocks, halo=halo)
    framed = LayoutChoice(choice.inputs, (out, choice.outputs[1]), choice.cost)
    dense = LayoutChoice(choice.inputs, (Layout(), choice.outputs[1]), choice.cost)
    execute_layouts(node, target, np.random.default_rng(5), choices=[choice, framed, dense])


def test_precision_decides() -> None:
    """Few columns at a time err less; few channels are short sums, where one-by-one sums are better still."""
    for target in TARGETS:
        assert forms(conv(1, LEAST, 64, (224, 224)), target, "float32") == {"winograd1x3p2"}
        assert forms(conv(1, LEAST - 1, 64, (224, 224)), target, "float32") == set()
        for precision in ("float32-fast", "bfloat16"):
            assert forms(conv(1, 1, 64, (224, 224)), target, precision) == set(FORMS_OF_PHASES)


@pytest.mark.parametrize("name", ["x86-64-avx512", "x86-64-avx2", "aarch64"])
@pytest.mark.parametrize("images", [1, 16])
def test_taken_by_estimate(name: str, images: int) -> None:
    """A large image has tiles enough to share the weights of a block; four pixels do not pay for a tile."""

    def first(size: int, precision: str) -> str:
        node = conv(images, 3, 64, (size, size))
        return layout_choices(node, target_named(name), precision)[0].inputs[1].form

    assert (first(224, "float32"), first(224, "float32-fast")) == ("winograd1x3p2", "winograd4p2")
    assert first(3, "float32") == first(3, "float32-fast") == ""


@pytest.mark.parametrize(
    "attrs",
    [
        {"stride": (1, 1)},
        {"stride": (2, 1)},
        {"dilation": (2, 2)},
        {"groups": 3},
        {"kernel": (5, 5)},
        {"kernel": (7, 5)},
        {"kernel": (8, 8)},
        {"kernel": (3, 3)},
        {"dtype": dtypes.float16},
        {"dtype": dtypes.int32},
    ],
    ids=str,
)
def test_where_it_does_not_apply(attrs: dict[str, object]) -> None:
    node = conv(1, 3, 36, (40, 40), **attrs)  # type: ignore[arg-type]
    assert not any(forms(node, target, "float32-fast") for target in TARGETS)


def test_an_image_of_unknown_size() -> None:
    node = conv(1, 3, 32, (Dim("H", 20, 40).expr, 40))  # type: ignore[arg-type]
    assert not any(forms(node, target, "float32-fast") for target in TARGETS)


def test_wrong_operands_are_refused() -> None:
    node = conv(1, 3, 32, (20, 20))
    (choice,) = choices(node, TARGETS[-1], FORMS_OF_PHASES[-1])
    set_layouts(node, replace(choice, inputs=(Layout(blocks=((1, 16),)), choice.inputs[1])))
    with pytest.raises(UnsupportedError, match="must be dense"):
        lower_contraction(node, TARGETS[-1])
    other = conv(1, 3, 32, (20, 20), stride=(1, 1))
    set_layouts(other, choice)
    with pytest.raises(UnsupportedError, match="no form for its kernel and stride"):
        lower_contraction(other, TARGETS[-1])


@each_form
def test_weights(form: str) -> None:
    """Physical weights are those of the phases, transformed; where ``depth`` says so they are zero, nowhere else."""
    weight = np.random.default_rng(0).standard_normal((40, 3, 7, 7)).astype(np.float32)
    layout = Layout(order=(0, 2, 3, 1), blocks=((0, 32),), form=form)
    packed = packing.pack(weight, layout)
    f = winograd.FILTERINGS[form]
    rows, columns = (line.points for line in f.lines)
    assert packed.shape == layout.physical_shape(weight.shape) == (2, rows, columns, 12, 32)
    filled = 0
    for i in range(rows):
        for j in range(columns):
            low, high = f.depth((i, j), 3)
            used = [bool(packed[0, i, j, k].any()) for k in range(12)]
            assert used == [low <= k < high for k in range(12)]
            filled += high - low
    assert f.filled == filled / (rows * columns * 12)
    gy, gx = (np.array(line.weight) for line in f.lines)
    odd = np.pad(weight[:, 1, 1::2, 0::2], [(0, 0), (0, 1), (0, 0)]).astype(np.float64)
    at = winograd.PHASES.index((1, 0)) * 3 + 1
    want = (gy @ odd @ gx.T).transpose(1, 2, 0)[..., :32]
    np.testing.assert_allclose(packed[0, :, :, at], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [LEAST, 4, 8, 15])
def test_errors_of_kernels(channels: int) -> None:
    """What ``FORMS`` says; in float32 no more than a kernel that adds up the same products one by one, rounding once
    per product (root mean square of several draws)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "_winograd", _only(layouts._winograd))
        found = np.array([_errors(channels, seed) for seed in range(4)])
    exact, fast, plain = np.sqrt((found**2).mean(0))
    print(f"{channels} channels: float32 {exact:.2e}, float32-fast {fast:.2e}, one by one {plain:.2e}")
    assert exact <= 1.02 * plain, "seeds 0 to 3"  # with three channels 0.986: without FMA, rounding is another
    assert exact <= FORMS["winograd1x3p2"].error and fast <= 0.3 * FORMS["winograd4p2"].error, "seeds 0 to 3"


def _errors(channels: int, seed: int) -> tuple[float, float, float]:
    """Relative L2 errors in float32, in float32-fast and of one-by-one sums."""
    rng = np.random.default_rng(seed)
    model = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    model.weight._data[...] = rng.standard_normal(model.weight.shape) / np.sqrt(49 * channels)
    x = rng.standard_normal((1, channels, 48, 48)).astype(np.float32)
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)
    padded = np.pad(x[0].astype(np.float64), ((0, 0), (3, 3), (3, 3)))
    columns = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (1, 2))[:, ::2, ::2].transpose(0, 3, 4, 1, 2)
    weight = model.weight._data.reshape(64, -1).astype(np.float64)
    plain = np.zeros((64, 24 * 24), np.float32)
    for w, column in zip(weight.T, columns.reshape(49 * channels, -1), strict=True):
        plain = (plain + np.outer(w, column)).astype(np.float32)
    results = [plain.reshape(want.shape)]
    for precision, form in (("float32-fast", "winograd4p2"), ("float32", "winograd1x3p2")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(layouts.WINOGRAD_FORMS, precision, (form,))
            exe = ingot.compile(model, x, precision=precision, cache=False)
        assert str(winograd.FILTERINGS[form]) in "\n".join(exe.report.log)
        results.insert(0, exe(x))
    exact, fast, plain = (float(np.linalg.norm(y - want) / np.linalg.norm(want)) for y in results)
    return exact, fast, plain


def _only(rule):  # type: ignore[no-untyped-def]
    def cheap(*args):  # type: ignore[no-untyped-def]
        return [LayoutChoice(c.inputs, c.outputs, 0.0, c.reason) for c in rule(*args)]

    return cheap


def test_weights_that_are_computed() -> None:
    class Computed(nn.Module):
        def forward(self, x: ingot.Tensor, w: ingot.Tensor) -> ingot.Tensor:
            return nn.functional.conv2d(x, w, stride=2, padding=3)

    rng = np.random.default_rng(4)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, 3, 64, 96), (64, 3, 7, 7)))
    exe = ingot.compile(Computed(), x, w, precision="float32-fast", cache=False)
    assert "Winograd" not in "\n".join(exe.report.log)


@pytest.mark.parametrize(("precision", "form"), [("float32", "winograd1x3p2"), ("float32-fast", "winograd4p2")])
def test_same_bits_for_any_number_of_threads(precision: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    model = nn.Sequential(nn.Conv2d(3, 40, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    x = rng.standard_normal((2, 3, 90, 118)).astype(np.float32)
    monkeypatch.setattr(layouts, "_winograd", _only(layouts._winograd))
    monkeypatch.setitem(layouts.WINOGRAD_FORMS, precision, (form,))
    built = [ingot.compile(model, x, precision=precision, threads=t, cache=False) for t in (1, 2, 5)]
    assert str(winograd.FILTERINGS[form]) in "\n".join(built[0].report.log)
    results = [exe(x) for exe in built]
    assert all(np.array_equal(results[0], r) for r in results[1:])


@pytest.mark.skipif(not SUPPORTED, reason="the guarded run needs Linux")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@each_form
@pytest.mark.parametrize("name", [t.name for t in TARGETS])
@pytest.mark.parametrize("place", ["end", "start"])
@pytest.mark.parametrize(("size", "padding"), [((33, 45), 3), ((16, 38), 0), ((7, 9), 2)])
def test_nothing_is_read_outside(
    size: tuple[int, int], padding: int, place: str, name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "_winograd", _only(layouts._winograd))
    monkeypatch.setitem(layouts.WINOGRAD_FORMS, "float32-fast", (form,))
    model = nn.Conv2d(3, 37, 7, stride=2, padding=padding)
    x = np.random.default_rng(size[0]).standard_normal((2, 3, *size)).astype(np.float32)
    exe = ingot.compile(model, x, precision="float32-fast", cache=False, debug="bounds", target=name)
    assert str(winograd.FILTERINGS[form]) in "\n".join(exe.report.log)
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)
    got = run_guarded(exe.program, [x], place=place)[0]
    assert np.linalg.norm(got - want) <= FORMS[form].error * np.linalg.norm(want)
