"""Convolutions as products of gathered rows, against the reference in float64 on every target that runs here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from contraction_harness import execute_layouts, random_arrays, run_kernel, runnable_targets, set_layouts
from ingot.codegen import gather
from ingot.codegen.layouts import layout_choices
from ingot.codegen.lower.contraction import group_of, lower_contraction
from ingot.codegen.lower.contraction_gathered import plan_gathered
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import DType
from ingot.ir.graph import Graph, Node
from ingot.ir.kernels import LayoutChoice
from ingot.ir.layout import Layout
from ingot.ir.target import Target
from ingot.ir.types import TensorType


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever the estimates say."""
    gather.choose.cache_clear()
    monkeypatch.setattr(gather, "ordinary_seconds", lambda *_: 1.0)
    yield
    gather.choose.cache_clear()


each_target = pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.name)


def conv(
    target: Target,
    x: tuple[object, ...],
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
    dilation: tuple[int, int] = (1, 1),
    dtype: DType = dtypes.float32,
    halo: tuple[tuple[int, int], ...] = (),
) -> Node:
    """A convolution in the layouts of the blocked direct kernel, whose result has ``halo``."""
    g = Graph("conv")
    values = [
        g.add_input(TensorType(dtype, x), "x"),  # type: ignore[arg-type]
        g.add_input(TensorType(dtype, (outputs, x[1], *kernel)), "w"),  # type: ignore[arg-type]
    ]
    node = GraphBuilder(g).emit("conv", values, stride=stride, padding=padding, dilation=dilation, groups=1)
    set_layouts(node, blocked(node, target))
    if halo:
        node.output.type = node.output.type.with_layout(Layout(blocks=node.output.type.layout.blocks, halo=halo))
    return node


def blocked(node: Node, target: Target) -> LayoutChoice:
    return next(c for c in layout_choices(node, target) if len(c.inputs[1].blocks) == 2)


def check(node: Node, target: Target, env: dict[str, int] | None = None, note: str = "") -> None:
    assert plan_gathered(group_of(node), target) is not None
    assert "gathered" in lower_contraction(node, target).schedule
    execute_layouts(node, target, np.random.default_rng(1), env, choices=[None], note=note)


@each_target
@pytest.mark.parametrize(
    ("images", "size", "kernel", "stride"),
    [
        (1, (7, 7), (3, 3), (1, 1)),
        (4, (7, 7), (1, 1), (1, 1)),
        (2, (14, 9), (1, 1), (2, 2)),
        (1, (13, 11), (3, 2), (2, 1)),
    ],
)
def test_geometry(
    images: int, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], target: Target
) -> None:
    lanes = target.lanes(dtypes.float32)
    padding = ((kernel[0] // 2,) * 2, (kernel[1] // 2,) * 2)
    channels = -(-160 // lanes) * lanes
    node = conv(target, (images, channels, *size), 9 * lanes + 3, kernel, stride, padding)
    check(node, target)


@each_target
def test_random_geometry(target: Target) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        dtype = dtypes.float32 if seed % 3 else dtypes.float64
        lanes = target.lanes(dtype)
        kernel = tuple(int(k) for k in rng.integers(1, 4, 2))
        stride, dilation = (tuple(int(s) for s in rng.integers(1, 3, 2)) for _ in range(2))
        padding = tuple(tuple(int(p) for p in rng.integers(0, 3, 2)) for _ in range(2))
        size = [int(e) + d * (k - 1) for e, k, d in zip(rng.integers(3, 17, 2), kernel, dilation, strict=True)]
        channels = int(rng.integers(-(-128 // lanes), -(-300 // lanes))) * lanes
        outputs = int(rng.integers(6 * lanes, 20 * lanes))
        halo = ((0, 0), (0, 0), (1, 2), (0, 1)) if seed % 2 else ()
        images = int(rng.integers(1, 7))
        node = conv(target, (images, channels, *size), outputs, kernel, stride, padding, dilation, dtype, halo)
        check(node, target, note=f"seed {seed}")


@each_target
def test_symbolic_batch(target: Target) -> None:
    dim = Dim("N", 1, 6)
    lanes = target.lanes(dtypes.float32)
    node = conv(target, (dim.expr, 12 * lanes if lanes > 8 else 160, 8, 6), 8 * lanes, (1, 1))
    for n in (1, 4, 6):
        check(node, target, {"N": n})


@each_target
def test_same_bits_for_every_split(target: Target) -> None:
    lanes = target.lanes(dtypes.float32)
    node = conv(target, (3, -(-192 // lanes) * lanes, 10, 10), 16 * lanes, (1, 1))
    arrays = random_arrays(node, np.random.default_rng(3))
    results = [run_kernel(node, arrays, target, pieces=p)[0] for p in (1, 2, 5, 100)]
    assert all((r == results[0]).all() for r in results[1:])


def test_one_image_of_few_pixels_is_work_for_several_threads() -> None:
    target = runnable_targets()[-1]
    lanes = target.lanes(dtypes.float32)
    node = conv(target, (1, 60 * lanes, 7, 7), 10 * lanes, (1, 1))
    schedule = plan_gathered(group_of(node), target)
    assert schedule is not None and schedule.parts >= 2


def test_error_is_that_of_short_sums() -> None:
    """Sums are made of blocks: 4608 terms are as exact as the ordinary kernel's."""
    target = runnable_targets()[-1]
    rng = np.random.default_rng(4)
    node = conv(target, (1, 512, 7, 7), 128, (3, 3), padding=((1, 1), (1, 1)))
    arrays = random_arrays(node, rng)
    (got,) = run_kernel(node, arrays, target)
    x, w = (a.astype(np.float64) for a in arrays.values())
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    want = sum(
        np.einsum("nchw,oc->nohw", padded[:, :, i : i + 7, j : j + 7], w[:, :, i, j])
        for i in range(3)
        for j in range(3)
    )
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error < 4e-7
