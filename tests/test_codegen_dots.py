"""bfloat16 dot products of vectors: the instruction, kernels against float64, and the code for CPUs that have it."""

from __future__ import annotations

import re
from dataclasses import replace

import ingot
import numpy as np
import pytest
from contraction_harness import Compiled, execute, random_arrays
from ingot import nn
from ingot.codegen.assemble import assembly_text
from ingot.codegen.host import host_target, target_named
from ingot.codegen.llvm_emit import emit
from ingot.codegen.loopir import LoopBuilder
from ingot.codegen.lower.contraction import lower_contraction, supports
from ingot.codegen.tile_layouts import missing_unit, tile_choices
from ingot.ir import dtypes
from ingot.ir.dims import Dim
from ingot.ir.target import Target
from ingot.measure.limits import Probe
from ingot.runtime import encoding
from kernel_harness import Guarded, raw_kernel
from tile_harness import (
    CONVOLUTIONS,
    MATRICES,
    conv,
    dot_target,
    emulated_dots,
    generated_conv,
    matmul,
    on_tiles,
    run_on_tiles,
)

pytestmark = pytest.mark.isa("x86_64")
AVX512 = target_named("x86-64-avx512")
DOTS = replace(AVX512, features=tuple(sorted((*AVX512.features, "avx512bf16"))), bf16_dot=2.0)
runs = pytest.mark.skipif(not set(host_target().features) >= {"avx2", "fma"}, reason="needs AVX2")
SPELLED = pytest.param(emulated_dots(), id="spelled out")
TARGETS = [SPELLED, *([pytest.param(dot_target(), id="host")] if dot_target().has("avx512bf16") else [])]
each_target = pytest.mark.parametrize("target", TARGETS)


# -- the instruction ------------------------------------------------------------------------------------
def pair_dot(c: np.ndarray, a: np.ndarray, b: np.ndarray, target: Target) -> np.ndarray:
    """One operation on 16 lanes; a, b: [16, 2] numbers that bfloat16 holds."""
    builder = LoopBuilder("dot", target)
    sums = builder.buffer("c", dtypes.float32)
    left, right = (builder.buffer(n, dtypes.int32) for n in "ab")
    value = builder.pair_dot(*(builder.load(p, 0, 16) for p in (sums, left, right)))
    builder.store(sums, value)
    pairs = [np.ascontiguousarray(x.astype(dtypes.bfloat16.numpy)) for x in (a, b)]
    memory = [Guarded(x.nbytes, x.copy().view(np.uint8)) for x in (c, *pairs)]
    raw_kernel(builder.finish(), memory, [], [(0, 1)])
    return memory[0].bytes.view(np.float32).copy()


@runs
@each_target
def test_a_pair_of_products_per_lane(target: Target) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((16, 2)).astype(dtypes.bfloat16.numpy).astype(np.float32) for _ in range(2))
    c = rng.standard_normal(16).astype(np.float32)
    exact = c.astype(np.float64) + (a.astype(np.float64) * b).sum(1)
    size = np.abs(c) + np.abs(a * b).sum(1)
    assert np.all(np.abs(pair_dot(c, a, b, target) - exact) <= size * 2.0**-23)
    ones = np.ones_like(a)
    ones[3, 1] = np.inf
    assert np.isinf(pair_dot(c, ones, ones, target)[3])


@pytest.mark.skipif(not dot_target().has("avx512bf16"), reason="needs AVX512_BF16")
def test_the_instruction_reads_and_leaves_subnormals_as_zero() -> None:
    a, b, c = np.zeros((16, 2), np.float32), np.zeros((16, 2), np.float32), np.zeros(16, np.float32)
    a[0], b[0] = (2.0**-130, 0), (2.0**100, 0)
    a[1], b[1] = (2.0**-70, 0), (2.0**-70, 0)
    a[2], b[2] = (2.0**-60, 0), (2.0**-60, 0)
    assert pair_dot(c, a, b, dot_target())[:3].tolist() == [0, 0, 2.0**-120]


# -- kernels --------------------------------------------------------------------------------------------
@runs
@each_target
def test_matrix_products(target: Target) -> None:
    for a, b in MATRICES:
        run_on_tiles(matmul(a, b), 1, 3, target=target)
        run_on_tiles(matmul(a, (b[1], b[0]), transpose_b=True), 1, 3, target=target)


@runs
@each_target
def test_convolutions(target: Target) -> None:
    for x, w, attrs in CONVOLUTIONS:
        run_on_tiles(conv(x, w, **attrs), 1, 4, target=target)


@runs
def test_generated_convolutions() -> None:
    seed = np.random.default_rng().integers(1 << 30)
    rng = np.random.default_rng(seed)
    for _ in range(10):
        run_on_tiles(generated_conv(rng), 1, int(seed), target=dot_target())


@runs
def test_bands_and_weights_behind_the_caches() -> None:
    """Bands with rests; weights of which two panels fit L2, and of which they do not."""
    products = [((700, 32), (32, 40)), ((70, 300), (300, 130)), ((1, 700), (700, 70))]
    nodes = [matmul(a, b) for a, b in products]
    nodes += [conv((1, 32, 61, 8), (32, 32, 3, 3), padding=[(1, 1), (1, 1)]), conv((19, 32, 4, 4), (70, 32, 1, 1))]
    found = set()
    for l2 in (1 << 20, 64 << 10, 16 << 10):
        target = replace(dot_target(), l2_bytes=l2)
        for node in nodes:
            run_on_tiles(node, 1, 5, target=target)
            kernel = lower_contraction(node, target)
            assert isinstance(kernel.trip, int) and kernel.trip > 1, kernel.schedule
            found.add((l2, "prefetch" in str(kernel.function)))
    assert {(1 << 20, False), (64 << 10, True), (16 << 10, True)} <= found


@runs
def test_sizes_known_at_run_time() -> None:
    n = Dim("N", 1, 300).expr
    for size in (1, 15, 33, 300):
        run_on_tiles(matmul((n, 40), (40, 36)), 1, 6, {"N": size}, dot_target())
    batch = Dim("B", 1, 8).expr
    for size in (1, 5, 8):
        node = conv((batch, 33, 7, 7), (20, 33, 3, 3), padding=[(1, 1), (1, 1)])
        run_on_tiles(node, 1, 6, {"B": size}, dot_target())


@runs
@each_target
def test_every_split_gives_the_same_bits(target: Target) -> None:
    node = conv((2, 40, 9, 7), (50, 40, 3, 3), padding=[(1, 1), (1, 1)])
    arrays = random_arrays(node, np.random.default_rng(7))
    compiled = Compiled(lower_contraction(on_tiles(node, 1), target), target)
    first, *others = (execute(compiled, node, arrays, {}, pieces)[0] for pieces in (1, 2, 5))
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.skipif(not host_target().has_dots, reason="needs a CPU with fast dot products")
def test_programs_name_the_unit_and_need_no_permission() -> None:
    layers, x = nn.Sequential(nn.Linear(256, 256), nn.ReLU()), np.ones((64, 256), np.float32)
    program = ingot.compile(layers, x, precision="bfloat16", cache=False).executable.program
    assert not program.uses_tiles and any(step.bf16 for step in program.steps)
    assert any(step.bf16 for step in encoding.decode(encoding.encode(program)).steps)
    limits = Probe(1).limits()
    assert limits.bf16_flops > limits.flops


# -- what is chosen, and the code ------------------------------------------------------------------------
def test_only_where_it_is_fast_and_one_product_does() -> None:
    node = conv((1, 64, 56, 56), (64, 64, 1, 1))
    (choice,) = tile_choices(node, DOTS, "bfloat16")
    assert choice.inputs[1].form == "bf16" and "dot products" in choice.reason
    assert missing_unit(DOTS, "bfloat16") == ""
    for target, precision in ((DOTS, "float32"), (DOTS, "float32-fast"), (replace(DOTS, bf16_dot=0.0), "bfloat16")):
        assert tile_choices(node, target, precision) == []
    assert "no bfloat16 matrix tiles, nor fast" in missing_unit(AVX512, "bfloat16")
    assert missing_unit(DOTS, "float32-fast").startswith("x86-64-avx512 has no bfloat16 matrix tiles; ")
    assert supports(on_tiles(node, 1), DOTS) is None
    assert "no matrix tile unit for form bf16x2" in (supports(on_tiles(node, 2), DOTS) or "")
    amx = target_named("x86-64-amx")
    (choice,) = tile_choices(node, replace(amx, bf16_dot=2.0), "bfloat16")
    assert "bfloat16 tiles" in choice.reason, "matrix tiles come first"


def test_portable_targets_do_not_use_them() -> None:
    for name in ("x86-64", "x86-64-avx2", "x86-64-avx512", "x86-64-amx", "aarch64"):
        assert not target_named(name).has_dots
    assert not target_named("x86-64-avx512").has("avx512bf16")
    assert host_target("x86-64-avx512").bf16_dot == 0.0, "a cap takes them away"


@pytest.mark.parametrize("rows", [1, 3, 26, 196])
def test_code(rows: int) -> None:
    """Every product is one instruction, and sums stay in registers."""
    for node in (matmul((rows, 384), (384, 96)), conv((1, 64, rows, 14), (64, 64, 3, 3), padding=[(1, 1), (1, 1)])):
        kernel = lower_contraction(on_tiles(node, 1), DOTS)
        text = emit(kernel.function)
        code = assembly_text(text, DOTS)
        calls = len(re.findall(r"= call <16 x float> @llvm\.x86\.avx512bf16\.dpbf16ps", text))
        assert len(re.findall(r"^\tvdpbf16ps", code, re.M)) == calls > 0
        assert not re.search(r"zmm\d+, -?\d*\(%rsp\)|\(%rsp\), %zmm", code), kernel.schedule
