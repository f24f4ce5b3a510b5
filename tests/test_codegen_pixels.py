"""Convolutions read in place with pixels along the lanes, and the strided vectors they and pooling load."""

from __future__ import annotations

from collections.abc import Mapping

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
from ingot.codegen.host import host_target, target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.llvm_emit import emit
from ingot.codegen.loopir import LoopBuilder, contiguous_loads
from ingot.codegen.lower import table
from ingot.codegen.lower.contraction import lower_contraction, schedules, supports
from ingot.codegen.lower.kernel import LoweredKernel
from ingot.codegen.packing import pack, unpack
from ingot.codegen.schedule import Problem, choose
from ingot.ir import dtypes, ops  # noqa: F401  (registers the operators)
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, evaluate
from ingot.ir.dtypes import DType
from ingot.ir.graph import Graph, Node, Value
from ingot.ir.interpreter import eval_node
from ingot.ir.kernels import LayoutChoice
from ingot.ir.layout import DENSE, Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from kernel_harness import Code
from network_checker import GuardedArrays

TARGETS = runnable_targets()
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
DTYPES = (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16, dtypes.int32, dtypes.int8)


def in_place(node: Node, more: int = 0, frame: int = 0) -> LayoutChoice:
    """x with its padding (and ``more``) in memory, everything dense; a halo of ``frame`` around the result."""
    core = node if node.op == "conv" else next(n for n in node.regions[0] if n.op == "conv")
    padding = core.attrs["padding"]
    halo = ((0, 0), (0, 0), *((a + more, b + more) for a, b in padding))
    x = Layout(halo=halo) if any(h != (0, 0) for h in halo) else DENSE
    out = Layout(halo=((0, 0), (0, 0), *((frame, frame + 1) for _ in padding))) if frame else DENSE
    return LayoutChoice((x, *(DENSE for _ in node.inputs[1:])), tuple(out for _ in node.outputs), 0.0)


def random_conv(rng: np.random.Generator, dtype: DType, batch: object = None) -> Node:
    """Few output channels, widths around the vectors, strides up to the first that are loaded lane by lane."""
    rank = int(rng.choice([1, 2, 2, 3]))
    groups = int(rng.choice([1, 1, 2, 3]))
    channels, outputs = (int(c) for c in rng.integers(1, [6, 9]))
    kernel = [int(k) for k in rng.integers(1, 6 if rank < 3 else 3, rank)]
    stride = [int(s) for s in rng.choice([1, 1, 2, 3, 4, 5], rank)]
    dilation = [int(d) for d in rng.integers(1, 3, rank)]
    padding = [(int(a), int(b)) for a, b in rng.integers(0, 3, (rank, 2))]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    counts = [int(c) for c in rng.integers(1, 5, rank)]
    counts[-1] = int(rng.choice([1, 5, 8, 14, 16, 17, 28, 33, 50]))
    sizes = [
        max((n - 1) * s + r - a - b + int(rng.integers(0, s)), 1)
        for n, s, r, (a, b) in zip(counts, stride, reach, padding, strict=True)
    ]
    padding = [(max(a, r - e - b), b) for e, (a, b), r in zip(sizes, padding, reach, strict=True)]
    n = batch if batch is not None else int(rng.integers(1, 4))
    graph = Graph("conv")
    x = graph.add_input(TensorType(dtype, (n, channels * groups, *sizes)), "x")
    w = graph.add_input(TensorType(dtype, (outputs * groups, channels, *kernel)), "w")
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return GraphBuilder(graph).emit("conv", [x, w], **attrs)


def conv2d(x: tuple, w: tuple, pad: int = 1, stride: int = 1, dtype: DType = dtypes.float32, groups: int = 1) -> Node:
    graph = Graph("conv")
    values = [graph.add_input(TensorType(dtype, s), n) for s, n in ((x, "x"), (w, "w"))]
    attrs = {"stride": (stride,) * 2, "padding": ((pad, pad),) * 2, "dilation": (1, 1), "groups": groups}
    return GraphBuilder(graph).emit("conv", values, **attrs)


@each_target
@pytest.mark.parametrize("seed", range(24))
def test_random_geometry(seed: int, target: Target) -> None:
    rng = np.random.default_rng([seed, 7])
    node = random_conv(rng, DTYPES[seed % len(DTYPES)] if seed % 2 else dtypes.float32)
    choices = [in_place(node), in_place(node, more=1), in_place(node, frame=seed % 3)]
    execute_layouts(node, target, rng, choices=choices, note=f"seed {seed}")


@each_target
def test_extents_known_at_run_time(target: Target) -> None:
    n, h, w = Dim("N", 1, 9), Dim("H", 5, 64), Dim("W", 5, 80)
    rng = np.random.default_rng(3)
    for shape in ((n.expr, 2, 9, 29), (2, 2, h.expr, 21), (n.expr, 2, h.expr, w.expr)):
        for stride in (1, 2):
            node = conv2d(shape, (5, 2, 3, 3), stride=stride)
            for env in ({"N": 1, "H": 5, "W": 5}, {"N": 3, "H": 11, "W": 33}, {"N": 9, "H": 23, "W": 70}):
                execute_layouts(node, target, rng, env, [in_place(node)], f"{shape} {env}")


@each_target
def test_there_is_a_schedule_for_every_size(target: Target) -> None:
    """Also where the lines are counted at run time and few registers are left for them."""
    for outputs in range(1, 40):
        for lines in (1, 2, 7, Dim("H", 1, 64).expr):
            for width in (1, 9, 40, 300):
                for loads in (1, 2, 4):
                    p = Problem(dtypes.float32, (lines, outputs), width, 27, 3, 4, loads=loads, rows_of_b=True)
                    s = choose(target, p)
                    assert s.tile[1] <= outputs and s.nb >= 1, p


@each_target
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64, dtypes.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize("outputs", [1, 6, 20])
def test_bias_residual_relu(outputs: int, dtype: DType, target: Target) -> None:
    region, graph = Graph("region"), Graph("outer")
    shapes = [(2, 3, 9, 19), (outputs, 3, 3, 3), (1, outputs, 1, 1), (2, outputs, 9, 19), (19,)]
    inner = [region.add_input(TensorType(dtype, s), f"v{i}") for i, s in enumerate(shapes)]
    b = GraphBuilder(region)
    attrs = {"stride": (1, 1), "padding": ((1, 1),) * 2, "dilation": (1, 1), "groups": 1}
    y = b.emit("conv", inner[:2], **attrs).output
    region.add_output(b.mul(b.relu(b.add(b.add(y, inner[2]), inner[3])), inner[4]))
    outer = [graph.add_input(TensorType(dtype, s), f"v{i}") for i, s in enumerate(shapes)]
    node = create_fused(graph, region, outer, "contraction")
    execute_layouts(node, target, np.random.default_rng(outputs), choices=[in_place(node), in_place(node, frame=1)])


@each_target
def test_long_sums_and_every_schedule(target: Target) -> None:
    """Sums of more products than one block has, in every schedule that tuning measures."""
    node = conv2d((2, 40, 8, 21), (5, 40, 5, 5), pad=2)
    set_layouts(node, in_place(node))
    assert supports(node, target) is None
    rng = np.random.default_rng(2)
    arrays = random_arrays(node, rng)
    (want,) = eval_node(node, [a.astype(np.float64) for a in arrays.values()], float64=True)
    names = set()
    for schedule in schedules(node, target):
        compiled = Compiled(lower_contraction(node, target, schedule), target)
        (got,) = execute(compiled, node, arrays, {}, 3)
        assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max(), schedule
        names.add(str(schedule))
    assert len(names) > 5


@each_target
def test_result_does_not_depend_on_the_split(target: Target) -> None:
    node = conv2d((3, 2, 13, 27), (7, 2, 3, 3))
    set_layouts(node, in_place(node))
    arrays = random_arrays(node, np.random.default_rng(8))
    results = [run_kernel(node, arrays, target, pieces=p)[0] for p in (1, 2, 5, 100)]
    for r in results[1:]:
        assert (r == results[0]).all()


# -- memory -------------------------------------------------------------------------------------------
def run_guarded(
    kernel: LoweredKernel, arrays: Mapping[Value, np.ndarray], target: Target, at_end: bool
) -> list[np.ndarray]:
    """The kernel's results, with every buffer at the end or beginning of accessible memory."""
    guarded = GuardedArrays()
    memory: dict[Value, np.ndarray] = {}
    for v in kernel.values:
        count = int(evaluate(v.type.layout.elements(v.shape), {}))
        memory[v] = guarded.place((count,), np.dtype(v.dtype.numpy), at_end)
        if v in arrays:
            memory[v][...] = pack(arrays[v], v.type.layout).reshape(-1)
    args = np.array([*(memory[v].ctypes.data for v in kernel.values)], np.int64)
    scratch = guarded.place((max(kernel.function.scratch_bytes, 64),), np.dtype(np.uint8), at_end)
    code = Code(kernel.function)  # the name keeps it mapped
    code.call(args.ctypes.data, 0, int(evaluate(kernel.trip, {})), scratch.ctypes.data)
    out = [np.array(unpack(memory[v], v.type.layout, v.shape)) for v in kernel.node.outputs if v in memory]
    memory.clear()
    guarded.close()
    return out


@each_target
@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
def test_nothing_outside_the_buffers_is_read(at_end: bool, target: Target) -> None:
    for seed in range(12):
        rng = np.random.default_rng([seed, 9])
        node = random_conv(rng, DTYPES[seed % len(DTYPES)])
        set_layouts(node, in_place(node))
        arrays = random_arrays(node, rng)
        (got,) = run_guarded(lower_contraction(node, target), arrays, target, at_end)
        np.testing.assert_array_equal(got, run_kernel(node, arrays, target)[0], f"seed {seed}")


@each_target
@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
@pytest.mark.parametrize("dtype", [*DTYPES, dtypes.bool_], ids=lambda d: d.name)
def test_strided_vectors(dtype: DType, at_end: bool, target: Target) -> None:
    """``load`` with small strides, whole and masked, in memory that ends with the last element it may read."""
    most = target.vector_bytes // 4 if dtype.bits < 64 else target.lanes(dtype)
    for lanes in sorted({most, max(most // 2, 2)}):
        for stride in (1, 2, 3, 4, 5):
            for count in (lanes, lanes - 1, 1):
                b = LoopBuilder("kernel", target)
                x, y = b.buffer("x", dtype), b.buffer("y", dtype)
                mask = None if count == lanes else b.lanes_below(count, lanes)
                b.store(y, b.load(x, 0, lanes, stride, mask))
                guarded = GuardedArrays()
                elements = (count - 1) * stride + 1
                source = guarded.place((elements,), np.dtype(dtype.numpy), at_end)
                result = guarded.place((lanes,), np.dtype(dtype.numpy), at_end)
                source[...] = (np.arange(elements) % 100 + 1).astype(dtype.numpy)
                args = np.array([source.ctypes.data, result.ctypes.data], np.int64)
                code = Code(b.finish())
                code.call(args.ctypes.data, 0, 1, 0)
                want = np.zeros(lanes, dtype.numpy)
                want[:count] = source[::stride]
                np.testing.assert_array_equal(result, want, f"{lanes} lanes, stride {stride}, {count} exist")
                del source, result
                guarded.close()


def test_small_strides_are_no_loads_lane_by_lane() -> None:
    assert [contiguous_loads(s, 16) for s in (0, 1, 2, 3, 4, 5, -2)] == [0, 1, 2, 3, 4, 0, 0]
    assert contiguous_loads(4, 4) == 0
    target = target_named("x86-64-avx512")
    node = conv2d((1, 1, 33, 33), (4, 1, 3, 3), stride=2)
    set_layouts(node, in_place(node))
    text = emit(lower_contraction(node, target).function)
    assert "gather" not in text
    assert not any("insertelement" in line and not line.endswith("i64 0") for line in text.splitlines())


# -- pooling ------------------------------------------------------------------------------------------
def pool(op: str, x: tuple, kernel: int, stride: int, pad: int, dtype: DType, **attrs: object) -> Node:
    graph = Graph(op)
    value = graph.add_input(TensorType(dtype, x), "x")
    spatial = len(x) - 2
    attrs = {"kernel": (kernel,) * spatial, "stride": (stride,) * spatial, "padding": ((pad, pad),) * spatial, **attrs}
    node = GraphBuilder(graph).emit(op, [value], **attrs)
    for out in node.outputs:
        graph.add_output(out)
    return node


@each_target
@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
def test_pooling_along_the_width(op: str, at_end: bool, target: Target) -> None:
    for seed in range(20):
        rng = np.random.default_rng([seed, 11])
        dtype = (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.float32)[seed % 4]
        spatial, stride = int(rng.choice([1, 2, 2])), int(rng.integers(1, 6))
        kernel = int(rng.integers(1, 5))
        pad = int(rng.integers(0, kernel // 2 + 1)) if seed % 2 else 0
        dilation = int(rng.integers(1, 3)) if op == "max_pool" else 1
        width = int(rng.choice([14, 16, 28, 37, 50])) * stride + (kernel - 1) * dilation
        x = (2, 3, *((5 + kernel * dilation,) if spatial == 2 else ()), width)
        more = {"dilation": (dilation,) * spatial} if op == "max_pool" else {}
        node = pool(op, x, kernel, stride, pad, dtype, ceil_mode=bool(rng.integers(2)), **more)
        value = rng.standard_normal(x).astype(dtype.numpy)
        got = run_guarded(table.lower(node, target), {node.inputs[0]: value}, target, at_end)
        want = eval_node(node, [value.astype(np.float64)], float64=True)
        note = f"seed {seed}: {node.attrs} of {x}"
        np.testing.assert_allclose(got[0], want[0], *((2e-3, 2e-3) if dtype.bits == 16 else (1e-5, 1e-5)), err_msg=note)
        if len(got) > 1:
            np.testing.assert_array_equal(got[1], want[1], note)


# -- which layouts are chosen -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("x", "w", "pad", "stride", "pixels"),
    [((1, 1, 28, 28), (6, 1, 5, 5), 2, 1, True), ((1, 3, 32, 32), (8, 3, 3, 3), 1, 1, True),
     ((1, 3, 224, 224), (8, 3, 3, 3), 1, 2, True), ((1, 3, 32, 32), (16, 3, 3, 3), 1, 1, False),
     ((1, 3, 224, 224), (64, 3, 7, 7), 3, 2, False), ((1, 6, 14, 14), (16, 6, 5, 5), 0, 1, False)],
)  # fmt: skip
def test_pixels_run_along_the_lanes_where_channels_are_few(
    x: tuple, w: tuple, pad: int, stride: int, pixels: bool
) -> None:
    node = conv2d(x, w, pad, stride)
    best = layout_choices(node, target_named("x86-64-avx512"))[0]
    assert ("pixels along the lanes" in best.reason) == pixels, best.reason
    assert (not best.outputs[0].blocks) == pixels


class FewChannels(nn.Module):
    """Stays dense throughout; the second padded convolution reads what pooling wrote with a halo."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 4, 3, padding=1)
        self.third, self.pool = nn.Conv2d(4, 3, 3, padding=1, groups=1), nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: ingot.Tensor) -> ingot.Tensor:
        x = self.pool(ingot.relu(self.first(x)))
        return self.third(ingot.relu(self.second(x)) * 2 + 1)


def test_a_network_that_stays_dense() -> None:
    ingot.manual_seed(0)
    model = FewChannels().eval()
    x = np.random.default_rng(0).standard_normal((5, 1, 30, 37)).astype(np.float32)
    want = model.double()(ingot.from_numpy(x.astype(np.float64))).detach().numpy()
    model.float()
    results = []
    for threads in (1, 2, 5):
        module = ingot.compile(model, x, target="host", dynamic=ingot.Dim("N", 1, 8), threads=threads)
        results.append(np.asarray(module(x)))
        np.testing.assert_allclose(np.asarray(module(x[:2])), want[:2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(results[0], want, rtol=1e-4, atol=1e-5)
    assert all((r == results[0]).all() for r in results)
    casts = [step for step in module.program.steps if "layout_cast" in step.label]
    assert len(casts) == 1 or not host_target().has("avx512bw"), "only the network's input is copied"
