"""Matrix tiles: the unit's arithmetic in emulation, kernels against float64, and the code for the real unit."""

from __future__ import annotations

import collections
import re

import ml_dtypes
import numpy as np
import pytest
from contraction_harness import Compiled, execute, random_arrays
from ingot.codegen.assemble import assemble, assembly_text
from ingot.codegen.host import host_target, target_named
from ingot.codegen.llvm_emit import config_words, emit
from ingot.codegen.loopir import LoopBuilder, TileShape
from ingot.codegen.lower.contraction import lower_contraction, supports
from ingot.codegen.packing import pack
from ingot.codegen.tile_emulation import emulate
from ingot.codegen.tile_layouts import tile_choices
from ingot.codegen.tile_packing import parts_of
from ingot.codegen.tile_schedule import TileProblem, Window, choose_tiles, operand_loads, products
from ingot.ir import dtypes
from ingot.ir.dims import Dim
from ingot.ir.errors import UnsupportedError
from ingot.ir.layout import Layout
from kernel_harness import Guarded, raw_kernel
from tile_harness import (
    CONVOLUTIONS,
    MATRICES,
    conv,
    emulated_target,
    generated_conv,
    matmul,
    model_dot,
    on_tiles,
    relative,
    run_on_tiles,
)

pytestmark = pytest.mark.isa("x86_64")
AMX = target_named("x86-64-amx")
PORTABLE = target_named("x86-64-amx-emulated")
can_emulate = pytest.mark.skipif(not set(host_target().features) >= {"avx2", "fma"}, reason="needs AVX2")


# -- the unit -------------------------------------------------------------------------------------------
def bfloat(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16)


def pairs(b: np.ndarray) -> np.ndarray:
    """[K, N] as the unit reads it: rows of pairs along k."""
    return np.ascontiguousarray(b.reshape(b.shape[0] // 2, 2, -1).transpose(0, 2, 1))


def dot_once(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One tile operation in emulation; rows as in ``c``, 16 columns."""
    rows, depth = a.shape
    builder = LoopBuilder("dot", PORTABLE)
    left, right, sums = (
        builder.buffer(n, t) for n, t in (("a", dtypes.uint16), ("b", dtypes.uint16), ("c", dtypes.float32))
    )
    builder.tile_config([TileShape(rows), TileShape(rows, depth * 2), TileShape(depth // 2)])
    builder.tile_load(0, sums, 64)
    builder.tile_load(1, left, depth * 2)
    builder.tile_load(2, right, 64)
    builder.tile_dot(0, 1, 2)
    builder.tile_store(0, sums, 64)
    builder.tile_release()
    memory = [
        Guarded(x.nbytes, x.view(np.uint8)) for x in (np.ascontiguousarray(bfloat(a)), pairs(bfloat(b)), c.copy())
    ]
    raw_kernel(emulate(builder.finish()), memory, [], [(0, 1)])
    return memory[2].bytes.view(np.float32).reshape(c.shape).copy()


@can_emulate
@pytest.mark.parametrize(("rows", "depth"), [(16, 32), (13, 32), (1, 8)])
def test_emulated_product_has_the_units_bits(rows: int, depth: int) -> None:
    rng = np.random.default_rng(1)
    a, b = bfloat(rng.standard_normal((rows, depth))), bfloat(rng.standard_normal((depth, 16)))
    c = rng.standard_normal((rows, 16)).astype(np.float32)
    a, b = a.astype(np.float32), b.astype(np.float32)
    np.testing.assert_array_equal(dot_once(c, a, b), model_dot(c, a, b))


@can_emulate
def test_emulated_product_treats_subnormals_as_zero_and_keeps_infinities() -> None:
    a, b, c = np.zeros((4, 32), np.float32), np.zeros((32, 16), np.float32), np.zeros((4, 16), np.float32)
    a[0, 0], b[0, 0] = 2.0**-130, 2.0**100  # subnormal operand
    a[1, 0], b[0, 1] = 2.0**-70, 2.0**-70  # subnormal result
    c[2, :] = 2.0**-130  # subnormal sum from before
    a[3, 1], b[1, :] = np.inf, 1.0
    got = dot_once(c, a, b)
    assert got[0, 0] == 0 and got[1, 0] == 2.0**30 and got[1, 1] == 0 and (got[2] == 0).all()
    assert np.isinf(got[3]).all()
    np.testing.assert_array_equal(got[:3], model_dot(c, a, b)[:3])


def test_configuration_block() -> None:
    words = config_words([TileShape(13), TileShape(16, 32)])
    block = np.array(words, np.int64).view(np.uint8)
    assert block[0] == 1 and block[16:20].tolist() == [64, 0, 32, 0] and block[48:51].tolist() == [13, 16, 0]
    with pytest.raises(ValueError, match="no tile register 0 of 17 rows"):
        config_words([TileShape(17)])
    builder = LoopBuilder("twice", AMX)
    builder.tile_config([TileShape()])
    with pytest.raises(ValueError, match="once per kernel"):
        builder.tile_config([TileShape()])


def test_products_in_an_order_that_shares_loads() -> None:
    assert products(1) == ((0, 0),)
    assert set(products(2)) == {(0, 1), (0, 0), (1, 0)}
    assert set(products(3)) == {(i, j) for i in range(3) for j in range(3) if i + j < 3}
    for parts in (1, 2, 3):  # each loaded tile takes part in two products or more
        a, b = operand_loads(parts, 2, 2)
        assert 4 * len(products(parts)) * 2 >= 2 * (a + b)
    assert operand_loads(2, 2, 2) == (4, 4)


# -- constants ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_packed_constants(parts: int) -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((40, 50, 3)).astype(np.float32)
    node = on_tiles(conv((1, 50, 9), weight.shape), parts)
    layout = node.inputs[1].type.layout
    packed = pack(weight, layout)
    assert packed.shape == layout.physical_shape(weight.shape) == (2, 2, 3, 32, 16 * parts)
    assert packed.nbytes == node.inputs[1].type.nbytes
    stored = packed.reshape(2, 2, 3, -1).view(ml_dtypes.bfloat16).reshape(2, 2, 3, parts, 2, 16, 16, 2)
    for o, c, k in ((0, 0, 0), (39, 49, 2), (17, 33, 1)):
        cell = stored[o // 32, c // 32, k, :, o % 32 // 16, c % 32 // 2, o % 16, c % 2]
        expected = [p[o, c, k] for p in parts_of(weight, parts)]
        assert cell.tolist() == expected
    assert not stored[1, :, :, :, 1].any() and not stored[1, 1, :, :, :, 9:].any(), "padding is zero"
    assert relative(sum(p.astype(np.float64) for p in parts_of(weight, parts)), weight) <= 2.0 ** (-8 * parts)


# -- kernels --------------------------------------------------------------------------------------------
@can_emulate
def test_matrix_products() -> None:
    for i, (a, b) in enumerate(MATRICES):
        run_on_tiles(matmul(a, b), 1 + i % 3, 3)
        run_on_tiles(matmul(a, (b[1], b[0]), transpose_b=True), 1 + (i + 1) % 3, 3)


@can_emulate
def test_convolutions() -> None:
    for i, (x, w, attrs) in enumerate(CONVOLUTIONS):
        run_on_tiles(conv(x, w, **attrs), 1 + i % 3, 4)


@can_emulate
def test_generated_convolutions() -> None:
    seed = np.random.default_rng().integers(1 << 30)
    rng = np.random.default_rng(seed)
    for _ in range(8):
        node = generated_conv(rng)
        run_on_tiles(node, int(rng.integers(1, 3)), int(seed))


@can_emulate
def test_bands_of_lines_positions_and_images() -> None:
    """Shapes that the schedule cuts into several bands of each kind, with rests."""
    nodes = [conv((1, 32, 61, 8), (32, 32, 3, 3), padding=[(1, 1), (1, 1)]), matmul((700, 32), (32, 40)),
             conv((19, 32, 4, 4), (70, 32, 1, 1))]  # fmt: skip
    for node in nodes:
        on_tiles(node, 1)
        kernel = lower_contraction(node, emulated_target())
        assert isinstance(kernel.trip, int) and kernel.trip > 1, kernel.schedule
        run_on_tiles(node, 1, 5)


@can_emulate
def test_sizes_known_at_run_time() -> None:
    n = Dim("N", 1, 300).expr
    for size in (1, 15, 33, 300):
        run_on_tiles(matmul((n, 40), (40, 36)), 2, 6, {"N": size})
    batch = Dim("B", 1, 8).expr
    for size in (1, 5, 8):
        run_on_tiles(conv((batch, 33, 7, 7), (20, 33, 3, 3), padding=[(1, 1), (1, 1)]), 2, 6, {"B": size})


@can_emulate
def test_portable_emulation_gives_the_same_bits_and_so_does_every_split() -> None:
    node = conv((2, 40, 9, 7), (50, 40, 3, 3), padding=[(1, 1), (1, 1)])
    arrays = random_arrays(node, np.random.default_rng(7))
    on_tiles(node, 2)
    results = []
    for target in (PORTABLE, emulated_target()):
        compiled = Compiled(lower_contraction(node, target), target)
        results += [execute(compiled, node, arrays, {}, pieces)[0] for pieces in (1, 2, 5)]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_errors_of_parts_and_products() -> None:
    """Which products pay: the error of each set, without that of the sums (``pytest -s`` prints the table)."""
    rng = np.random.default_rng(9)
    a, b = rng.standard_normal((64, 2048)), rng.standard_normal((2048, 64))
    found = {}
    for name, split, pairs_used in (
        ("1 part, 1 product", 1, products(1)),
        ("2 parts of the left, 1 of the right, 2 products", 2, ((0, 0), (1, 0))),
        ("2 parts, 3 products", 2, products(2)),
        ("2 parts, 4 products", 2, (*products(2), (1, 1))),
        ("3 parts, 5 products", 3, tuple(p for p in products(3) if p != (1, 1))),
        ("3 parts, 6 products", 3, products(3)),
        ("3 parts, 9 products", 3, tuple((i, j) for i in range(3) for j in range(3))),
    ):
        x, y = ([p.astype(np.float64) for p in parts_of(v, split)] for v in (a, b))
        exact = a.astype(np.float32).astype(np.float64) @ b.astype(np.float32).astype(np.float64)
        found[name] = relative(sum(x[i] @ y[j] for i, j in pairs_used), exact)
        print(f"{name:50s} {found[name]:.1e}")
    assert found["2 parts, 3 products"] < 1e-5 < 1e-3 < found["2 parts of the left, 1 of the right, 2 products"]
    assert found["3 parts, 6 products"] < 1e-7 < 1e-6 < found["3 parts, 5 products"]
    assert found["2 parts, 4 products"] > found["2 parts, 3 products"] / 2, "a fourth product is not worth its time"


# -- what does not fit -----------------------------------------------------------------------------------
def test_refusals() -> None:
    node = on_tiles(conv((1, 32, 8, 8), (32, 32, 3, 3)), 2)
    assert supports(node, AMX) is None
    assert "no matrix tile unit for form bf16x2" in (supports(node, target_named("x86-64-avx512")) or "")
    node.inputs[0].type = node.inputs[0].type.with_layout(Layout())
    with pytest.raises(UnsupportedError, match="contiguous or in blocks of 16"):
        lower_contraction(node, AMX)
    other = on_tiles(matmul((8, 8), (8, 8)), 1)
    other.inputs[1].type = other.inputs[1].type.with_layout(Layout(blocks=((0, 32), (1, 32)), form="bf16"))
    assert "is not packed for tiles" in (supports(other, AMX) or "")


def test_choices_follow_precision_and_unit() -> None:
    node = conv((1, 64, 56, 56), (64, 64, 3, 3), padding=[(1, 1), (1, 1)])
    for precision, form in (("float32-fast", "bf16x2"), ("bfloat16", "bf16")):
        (choice,) = tile_choices(node, AMX, precision)
        assert choice.inputs[1].form == form and choice.cost > 0
        assert tile_choices(node, target_named("x86-64-avx512"), precision) == []
    assert tile_choices(node, AMX, "float32") == []
    assert tile_choices(conv((1, 32, 8, 8), (32, 16, 3, 3), groups=2), AMX, "bfloat16") == []


def test_schedules_fit_their_memory() -> None:
    rng = np.random.default_rng(8)
    for _ in range(60):
        windows = tuple(Window(*(int(e) for e in rng.integers(1, 4, 3))) for _ in range(2))
        lines, positions, channels, n, images = (int(e) for e in rng.integers(1, 90, 5))
        p = TileProblem(int(rng.integers(1, 4)), images, lines, positions, n, channels, windows)
        s = choose_tiles(AMX, p)
        assert s is not None and 1 <= s.rows <= 16 and s.left_bytes + s.sums_bytes <= 8 << 20
        last = (s.tiles - 1) * s.rows if s.flat else (s.lines - 1) * s.width + (s.tiles_per_line - 1) * s.rows
        reach = windows[0].reach() * s.width + windows[1].reach()
        assert last + s.rows + reach <= s.plane + 16, "tiles read at most 16 positions behind the last plane"
        assert s.flat or s.tiles_per_line * s.rows >= s.positions


# -- the code for the real unit --------------------------------------------------------------------------
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_code_for_the_unit(parts: int) -> None:
    nodes = [conv((1, 64, 28, 28), (64, 64, 3, 3), padding=[(1, 1), (1, 1)]), matmul((128, 384), (384, 1536)),
             conv((1, 70, 7, 7), (50, 70, 3, 3), padding=[(1, 1), (1, 1)], stride=[2, 2])]  # fmt: skip
    for node in nodes:
        kernel = lower_contraction(on_tiles(node, parts), AMX)
        text = emit(kernel.function)
        assemble(text, AMX, kernel.function.name)
        code = assembly_text(text, AMX)
        lines = [line.split("#")[0].split() for line in code.splitlines()]
        found = collections.Counter(line[0] for line in lines if line)
        assert found["ldtilecfg"] == found["tilerelease"] == 1 and not found["sttilecfg"]
        calls = collections.Counter(re.findall(r"call void @llvm\.x86\.(\w+?)(?:64)?\(", text))
        assert found["tdpbf16ps"] == calls["tdpbf16ps"] >= 4 * len(products(parts))
        assert found["tileloadd"] == calls["tileloadd"] and found["tilestored"] == calls["tilestored"]
        assert found["vcvtneps2bf16"] >= parts
        for line in lines:  # a spilled tile would go to the stack
            if line and line[0] in ("tileloadd", "tilestored"):
                assert "%rsp" not in "".join(line) and "%rbp" not in re.sub(r"\(%rbp,%r\w+\)", "", "".join(line))
        held = max(len(re.findall(r"\n\t(?:tdpbf16ps|tileloadd)", block)) for block in code.split("\n.LBB"))
        assert held >= sum(operand_loads(parts, 2, 2)), "the loop over the sum is one block"
