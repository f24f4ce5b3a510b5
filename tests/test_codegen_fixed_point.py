"""Weights in fixed point: what the words stand for, kernels on every ISA, their errors, where they are offered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ingot
import numpy as np
import pytest
from contraction_harness import (
    Product,
    execute_layouts,
    fused_matmul,
    matmul,
    random_arrays,
    run_kernel,
    runnable_targets,
    set_layouts,
)
from ingot import nn
from ingot.codegen import fixed_point, packing
from ingot.codegen.host import target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.library import NativeKernels
from ingot.codegen.lower.contraction import lower_contraction, schedules, supports
from ingot.driver import trace_inference
from ingot.guarding import run_guarded
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.dims import Dim, Extent
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Node
from ingot.ir.interpreter import interpret
from ingot.ir.kernels import LayoutChoice
from ingot.ir.layout import DENSE, FORMS, Layout
from ingot.ir.target import Target
from ingot.runtime.pool import SUPPORTED

TARGETS = runnable_targets()
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
both_ways = pytest.mark.parametrize("turned", [False, True], ids=["b", "bT"])


def form_of(turned: bool, width: int) -> Layout:
    if turned:
        return Layout(blocks=((0, width),), form=fixed_point.FORM_TRANSPOSED)
    return Layout(order=(1, 0), blocks=((1, width),), form=fixed_point.FORM)


def choice(node: Node, target: Target, nb: int, turned: bool = True) -> LayoutChoice:
    """Everything dense but B; whether it pays does not matter here."""
    packed = form_of(turned, nb * target.lanes(dtypes.float32))
    return LayoutChoice((DENSE, packed, *(DENSE for _ in node.inputs[2:])), tuple(DENSE for _ in node.outputs), 0.0)


def offered(node: Node, target: Target, precision: str = "float32-fast") -> list[LayoutChoice]:
    return [c for c in layout_choices(node, target, precision) if c.inputs[1].form in fixed_point.FORMS]


def off(found: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(found - want) / np.linalg.norm(want))


# -- the words ------------------------------------------------------------------------------------------
def decode(words: np.ndarray, depth: int) -> np.ndarray:
    """The weights [N, ``depth``] that words [N, ``fixed_point.words(depth)``] stand for, read as the module describes
    them: per 192 terms a scale, then two words for every three terms."""
    out = np.empty((len(words), depth))
    for block, first in enumerate(range(0, depth, 192)):
        here = words[:, block * 129 : (block + 1) * 129]
        pairs = np.ascontiguousarray(here[:, 1:]).view(np.int32).astype(np.int64)
        one, two = pairs[:, ::2], pairs[:, 1::2]
        third = (one % 2048) * 2048 + two % 2048  # 22 bits, the highest of which is the sign
        third = np.where(third < 1 << 21, third, third - (1 << 22)) << 10
        terms = np.stack([one, two, third], 2).reshape(len(words), -1)[:, : depth - first]
        out[:, first : first + 192] = terms.astype(np.float32) * here[:, :1].astype(np.float64)
    return out


@pytest.mark.parametrize("k", [1, 2, 3, 4, 191, 192, 193, 1000, 4096])
def test_words_stand_for_the_weights(k: int) -> None:
    w = np.random.default_rng(k).standard_normal((50, k)).astype(np.float32)
    found = fixed_point.encode(w, "fixed21_t")
    assert found.shape == (50, fixed_point.words(k)) == FORMS["fixed21_t"].shape(w.shape)
    assert found.dtype == np.float32 and FORMS["fixed21"].shape(w.T.shape) == found.T.shape
    again = decode(found, k)
    assert off(again, w) <= 8e-7, f"seed {k}"
    # No weight is further off than a step of 21 bits of the largest one.
    assert np.abs(again - w).max() <= 2.0**-20 * np.abs(w).max()
    turned = fixed_point.encode(np.ascontiguousarray(w.T), "fixed21")
    np.testing.assert_array_equal(turned.T.view(np.int32), found.view(np.int32))
    np.testing.assert_array_equal(decode(turned.T, k), again)


def test_words_at_the_ends_of_the_range() -> None:
    """The low bits of a word, which are another weight's, carry no value over the ends of 32 bits."""
    values = np.array([1, -1, 0, 1 - 2.0**-20, -1 + 2.0**-20, 1e-9, -1e-9, 0.5, -0.5], np.float32)
    grid = np.stack(np.meshgrid(values, values, values, indexing="ij"), -1).reshape(-1, 3)
    again = decode(fixed_point.encode(grid, "fixed21_t"), 3)
    largest = np.abs(grid).max(1, keepdims=True)
    assert (np.abs(again - grid) <= 2.0**-20 * largest).all()
    assert (again[(grid == 0).all(1)] == 0).all()


def test_forms_are_data() -> None:
    for turned in (False, True):
        layout = form_of(turned, 32)
        assert Layout.parse(str(layout)) == layout
    layout = form_of(True, 32)
    w = np.random.default_rng(0).standard_normal((70, 400)).astype(np.float32)
    packed = packing.pack(w, layout)
    assert packed.shape == layout.physical_shape(w.shape) == (3, fixed_point.words(400), 32)
    words = fixed_point.encode(w, "fixed21_t")
    np.testing.assert_array_equal(packed[1].T.view(np.int32), words[32:64].view(np.int32))
    assert (packed[2, :, 6:] == 0).all()  # outputs behind the last one
    np.testing.assert_array_equal(packing.pack(w.T, form_of(False, 32)).view(np.int32), packed.view(np.int32))
    assert packed.nbytes < 0.72 * 96 * 400 * 4
    with pytest.raises(ValueError, match="cannot be undone"):
        packing.unpack(packed, layout, w.shape)


def test_what_the_form_holds() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((300, 1000)).astype(np.float32)

    def holds(array: np.ndarray) -> bool:
        both = [fixed_point.holds(array, "fixed21_t"), fixed_point.holds(np.ascontiguousarray(array.T), "fixed21")]
        assert both[0] == both[1]
        kernels = NativeKernels(TARGETS[-1], "float32-fast")
        assert kernels.holds(array, form_of(True, 32)) == both[0]
        return both[0]

    assert holds(w) and holds(rng.uniform(-1, 1, (300, 1000)).astype(np.float32)) and holds(np.zeros_like(w))
    assert holds(rng.laplace(size=w.shape).astype(np.float32))
    assert holds(w * np.logspace(-20, 20, 300, dtype=np.float32)[:, None])  # outputs have scales of their own
    assert holds(np.where(rng.random(w.shape) < 0.9, 0, w).astype(np.float32))
    largest = w / np.abs(w).max() * np.float32(2.0**80)
    assert holds(largest) and not holds(largest * np.float32(1.01)) and not holds(largest * np.float32(1e14))
    for value in (np.nan, np.inf, -np.inf):
        spoilt = w.copy()
        spoilt[123, 500] = value
        assert not holds(spoilt), value
    assert not holds(w * np.float32(1e-37))  # scales would be no normal numbers
    assert NativeKernels(TARGETS[-1], "float32-fast").holds(np.full((3, 3), np.nan, np.float32), DENSE)


@pytest.mark.parametrize("k", [5, 192, 1000])
def test_no_weights_are_off_by_more_than_the_form_says(k: int) -> None:
    """Outliers, sparse weights, all on the border between two steps."""
    rng = np.random.default_rng(k)
    normal = rng.standard_normal((200, k)).astype(np.float32)
    cases = {"one per block": np.full_like(normal, 0.5 * 2.0**-20), "border": np.full_like(normal, 0.25 * 2.0**-20)}
    for w in cases.values():
        w[:, ::192] = 1
        w[:, 2::3] += np.float32(0.25 * 2.0**-20)
    cases["normal"], cases["uniform"] = normal, rng.uniform(-1, 1, normal.shape).astype(np.float32)
    cases["cauchy"] = rng.standard_cauchy(normal.shape).astype(np.float32)
    cases["sparse"] = np.where(rng.random(normal.shape) < 0.97, 0, normal).astype(np.float32)
    cases["one outlier"] = np.where(np.arange(k) == k // 2, 1e4, normal).astype(np.float32)
    worst = {}
    for name, w in cases.items():
        again = decode(fixed_point.encode(w, "fixed21_t"), k)
        size = np.linalg.norm(w.astype(np.float64), axis=1)
        worst[name] = float((np.linalg.norm(again - w, axis=1) / np.where(size, size, 1)).max())
    print(k, {name: f"{error:.1e}" for name, error in worst.items()})
    assert max(worst.values()) <= FORMS["fixed21_t"].error, worst
    assert worst["normal"] <= 1.2e-6 and worst["uniform"] <= 6e-7


# -- kernels --------------------------------------------------------------------------------------------
@each_target
@both_ways
@pytest.mark.parametrize(
    ("rows", "k", "n", "nb"),
    [
        (1, 4096, 96, 2),
        (1, 1, 5, 1),
        (2, 2, 130, 4),
        (3, 193, 65, 3),
        (4, 400, 64, 1),
        (5, 575, 70, 2),
        (8, 1000, 33, 2),
        (8, 386, 40, 4),  # tiles of several rows, of four vectors
        (1, 200, 1000, 3),
    ],
)
def test_kernels(rows: int, k: int, n: int, nb: int, turned: bool, target: Target) -> None:
    node = matmul((rows,), k, n, turned)
    execute_layouts(node, target, np.random.default_rng(rows), choices=[choice(node, target, nb, turned)])


@each_target
@pytest.mark.parametrize("shape", [(1, 3), (2, 2, 2)], ids=str)
def test_batches_of_rows(shape: tuple[int, ...], target: Target) -> None:
    node = matmul(shape, 300, 70)
    execute_layouts(node, target, np.random.default_rng(4), choices=[choice(node, target, 2)])


@each_target
@pytest.mark.parametrize(("rows", "k"), [(1, 4096), (4, 1000), (6, 25088)])
def test_errors(rows: int, k: int, target: Target) -> None:
    """Of the kernel against the words' own weights that of a float32 kernel, and against the weights below 1e-6."""
    rng = np.random.default_rng(k)
    node = matmul((rows,), k, 64)
    set_layouts(node, choice(node, target, 1))
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((rows, k), (64, k)))
    (found,) = run_kernel(node, dict(zip(node.inputs, (x, w), strict=True)), target)
    stored = decode(fixed_point.encode(w, "fixed21_t"), k)
    own, whole = (off(found, x.astype(np.float64) @ b.T.astype(np.float64)) for b in (stored, w))
    print(f"{rows} x {k} on {target.name}: {own:.1e} against the words, {whole:.1e} against the weights")
    assert own <= 4e-7 and whole <= 1e-6, f"seed {k}"
    assert whole <= FORMS["fixed21_t"].error


@each_target
def test_inputs_of_every_size(target: Target) -> None:
    """Sums are made in units of the weights' scale; no row overflows or vanishes for that, and none spoils another."""
    sizes = np.array([0, 1e-44, 1e-38, 1e-30, 1e-10, 1, 1e10, 1e19, 1e30, 1e35])
    rng, k, n = np.random.default_rng(6), 500, 40
    x = (rng.standard_normal((len(sizes) + 2, k)) * [*[[s] for s in sizes], [1], [1]]).astype(np.float32)
    x[-2, 7], x[-1, 300] = np.nan, np.inf
    x[1, 20] = 1e-20  # blocks of different sizes
    node = matmul((len(x) // 2,), k, n)
    set_layouts(node, choice(node, target, 2))
    for scale in (1e-25, 1.0, 10.0):
        w = (scale * rng.standard_normal((n, k))).astype(np.float32)
        # Even rows and odd ones: small rows stand beside large ones.
        y = np.empty((len(x), n), np.float32)
        for i in (0, 1):
            (y[i::2],) = run_kernel(node, dict(zip(node.inputs, (x[i::2], w), strict=True)), target)
        with np.errstate(all="ignore"):
            want = x.astype(np.float64) @ w.T.astype(np.float64)
            limit = np.maximum(np.linalg.norm(want, axis=1) * 2e-6, 1e-43)
            # Below the normal numbers elements of A have fewer bits; that much any float32 kernel is off.
            for i in range(len(sizes)):
                assert np.linalg.norm(y[i] - want[i]) <= limit[i], (sizes[i], scale)
        assert np.isnan(y[-2]).all() and not np.isfinite(y[-1]).any()
        assert (y[0] == 0).all()


@each_target
@pytest.mark.parametrize("bound", [2.0**80, -(2.0**80), 2.0**-95], ids=["most", "negative", "least"])
def test_weights_at_the_bounds(bound: float, target: Target) -> None:
    """Every weight the largest or the smallest that the form holds: finite results wherever float32 has them."""
    w = np.full((16, 192), bound, np.float32)
    assert fixed_point.holds(w, "fixed21_t")
    assert not fixed_point.holds(w * np.float32(2 if abs(bound) > 1 else 0.5), "fixed21_t")
    sizes = [1e-44, 1e-30, 1e-10, 1, 1.99, 5e11]
    x = np.repeat(np.array(sizes, np.float32)[:, None], 192, 1)
    node = matmul((len(x),), 192, 16)
    set_layouts(node, choice(node, target, 1))
    (y,) = run_kernel(node, dict(zip(node.inputs, (x, w), strict=True)), target)
    # Sums of equal numbers are rounded to the same side up to 192 times, in float32 kernels, too.
    np.testing.assert_allclose(y, x.astype(np.float64) @ w.T.astype(np.float64), rtol=192 * 2.0**-24, atol=1e-43)


@each_target
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize(
    ("shape", "extras"),
    [
        ((1,), [(100,)]),
        ((5,), [(100,), (5, 100)]),  # bias and residual
        ((2, 3), [(3, 100), (2, 3, 100)]),  # one per row of a sequence: sequences cannot be joined
        ((2, 4), [(2, 1, 100), (1,), (2, 4, 1)]),
    ],
    ids=["bias", "rows", "position", "broadcast"],
)
def test_epilogues(shape: tuple[int, ...], extras: list[tuple[Extent, ...]], long: bool, target: Target) -> None:
    node = fused_matmul(shape, 210, 100, extras, 12 if long else 1)
    execute_layouts(node, target, np.random.default_rng(7), choices=[choice(node, target, 2)])
    assert ("epilogue in a loop" in lower_contraction(node, target).schedule) == (long and shape != (1,))


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (matmul((1,), 96, 128, dtype=dtypes.float64), "only float32"),
        (matmul((2,), 96, 128, transpose_a=True), "another way round"),
        (matmul((2,), 96, 128, turned=False), "another way round"),
        (matmul((9,), 96, 128), "up to 8 rows"),
        (matmul((Dim("N", 1, 8).expr,), 96, 128), "must be known"),
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


def test_the_rule_is_all_there_is_to_measure() -> None:
    node, target = matmul((1,), 400, 64), TARGETS[-1]
    set_layouts(node, choice(node, target, 1))
    assert supports(node, target) is None and schedules(node, target) == []
    assert lower_contraction(node, target).flops == 2 * 400 * 64
    arrays = random_arrays(node, np.random.default_rng(3))
    (whole,), (cut,) = (run_kernel(node, arrays, target, pieces=pieces) for pieces in (1, 3))
    np.testing.assert_array_equal(whole, cut)


@each_target
@pytest.mark.parametrize("rows", [1, 4, 5, 8])
def test_one_iteration_has_all_rows(rows: int, target: Target) -> None:
    for nb in (None, 1, 2, 3, 4):
        s = fixed_point.choose(target, rows, 4096, 1000, nb)
        assert s.nb == nb or (nb is None and 1 <= s.nb <= 4)
        assert (s.chunk - 1) * s.tile[0] < rows <= s.chunk * s.tile[0]
        assert f"{s.chunk} tile(s) per iteration" in str(s)


# -- where it is offered --------------------------------------------------------------------------------
def test_where_it_is_offered() -> None:
    target = replace(target_named("x86-64-avx512"), fma_ports=1)

    def yes(*args: object, precision: str = "float32-fast", **attrs: object) -> bool:
        return bool(offered(matmul(*args, **attrs), target, precision))  # type: ignore[arg-type]

    for rows, k, n in [((1,), 25088, 4096), ((1,), 4096, 4096), ((2,), 4096, 1000), ((1, 2), 4096, 4096)]:
        assert yes(rows, k, n) and yes(rows, k, n, False), (rows, k, n)
        best = layout_choices(matmul(rows, k, n), target, "float32-fast")[0]
        assert best.inputs[1].form == "fixed21_t" and "three in 64 bits" in best.reason
        assert not yes(rows, k, n, precision="float32") and not yes(rows, k, n, precision="bfloat16")
    assert yes((1,), 784, 512) and not yes((2,), 784, 512)  # from L3
    assert not yes((1,), 512, 256)  # the weights stay in L2
    assert not yes((8,), 4096, 4096) and not yes((64,), 4096, 4096)  # products take longer than memory
    assert not yes((Dim("N", 1, 8).expr,), 4096, 4096)
    assert not yes((1,), 4096, 4096, dtype=dtypes.float64) and not yes((1,), 4096, 4096, dtype=dtypes.float16)
    assert not yes((2,), 4096, 4096, transpose_a=True)
    assert not offered(matmul((1,), 4096, 4096), target_named("x86-64"))  # unpacking takes longer than memory


def layers() -> tuple[nn.Module, np.ndarray]:
    ingot.manual_seed(0)
    model = nn.Sequential(nn.Linear(700, 330), nn.ReLU(), nn.Linear(330, 70))
    return model, np.random.default_rng(11).standard_normal((2, 700)).astype(np.float32)


def test_models_use_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same bits for any number of threads, and from an artefact."""
    monkeypatch.setattr(fixed_point, "speedup", lambda *_: 2.0)
    model, x = layers()
    programs = [ingot.compile(model, x, precision="float32-fast", threads=t, cache=False) for t in (1, 2, 5)]
    assert "\n".join(programs[0].report.log).count("three in 64 bits") == 2
    results = [exe(x) for exe in programs]
    assert all(np.array_equal(results[0], r) for r in results[1:])
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)
    assert off(results[0], want) <= 1.5e-6
    programs[0].save(tmp_path / "model.ingot")
    np.testing.assert_array_equal(ingot.load_executable(tmp_path / "model.ingot", verify=True)(x), results[0])
    # Two thirds of the bytes, whole panels of outputs included.
    plain = ingot.compile(model, x, precision="float32", cache=False)
    sizes = [sum(c.nbytes for c in exe.program.constants) for exe in (programs[0], plain)]
    assert sizes[0] < 0.75 * sizes[1]


@pytest.mark.skipif(not SUPPORTED, reason="the guarded run needs Linux")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", [t.name for t in TARGETS])
@pytest.mark.parametrize("place", ["end", "start"])
@pytest.mark.parametrize("k", [2, 193, 511])
def test_nothing_is_read_outside(k: int, place: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_point, "speedup", lambda *_: 2.0)
    model = nn.Linear(k, 67)
    x = np.random.default_rng(k).standard_normal((4, k)).astype(np.float32)
    exe = ingot.compile(model, x, precision="float32-fast", cache=False, debug="bounds", target=name)
    assert "three in 64 bits" in "\n".join(exe.report.log)
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)
    assert off(run_guarded(exe.program, [x], place=place)[0], want) <= 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_it_does_not_hold_stay_float32(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_point, "speedup", lambda *_: 2.0)
    model, x = layers()
    weight = model[0].weight.detach().numpy().copy()
    weight[17, 150] = value
    model[0].weight.data = ingot.from_numpy(weight)
    exe = ingot.compile(model[0], x, precision="float32-fast", cache=False)
    assert "three in 64 bits" not in "\n".join(exe.report.log)
    y = exe(x)
    good = np.arange(330) != 17
    want = x.astype(np.float64) @ weight.T.astype(np.float64) + model[0].bias.detach().numpy()
    assert off(y[:, good], want[:, good]) <= 1e-6
    np.testing.assert_array_equal(y[:, 17], want[:, 17])


def test_other_operands_stay_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """B that is no constant cannot be transformed when the program is built."""
    monkeypatch.setattr(fixed_point, "speedup", lambda *_: 2.0)
    rng = np.random.default_rng(12)
    x, w = rng.standard_normal((1, 256)).astype(np.float32), rng.standard_normal((256, 64)).astype(np.float32)
    exe = ingot.compile(Product(), x, w, precision="float32-fast", cache=False)
    assert "three in 64 bits" not in "\n".join(exe.report.log)
    np.testing.assert_allclose(exe(x, w), x @ w, atol=1e-3)


def test_large_layers_are_taken_without_being_asked() -> None:
    """At the real threshold; other precisions keep float32 weights."""
    if not offered(matmul((1,), 2100, 2000), TARGETS[-1]):
        pytest.skip(f"does not pay on {TARGETS[-1].name} with {TARGETS[-1].l3_bytes >> 20} MiB of cache")
    ingot.manual_seed(1)
    model = nn.Sequential(nn.Linear(2100, 2000), nn.ReLU())
    x = np.random.default_rng(13).standard_normal((1, 2100)).astype(np.float32)
    (want,) = interpret(trace_inference(model, [x]).graph, [x], float64=True)
    for precision in ("float32-fast", "float32", "bfloat16"):
        exe = ingot.compile(model, x, precision=precision, cache=False)
        assert ("three in 64 bits" in "\n".join(exe.report.log)) == (precision == "float32-fast")
        if precision == "float32-fast":
            assert off(exe(x), want) <= 1e-6
