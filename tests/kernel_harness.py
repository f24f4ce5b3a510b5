"""Runs one kernel in this process: packs arrays by layout, guards every buffer, splits the iterations at random.

``run_kernel(lowered, arrays)`` is what kernel tests use; ``raw_kernel(function, ...)`` calls a bare loop function.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ingot.codegen import packing
from ingot.codegen.assemble import assemble
from ingot.codegen.host import host_target
from ingot.codegen.llvm_emit import emit
from ingot.codegen.loopir import LoopFunction
from ingot.codegen.lower import table
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import evaluate
from ingot.ir.dtypes import DType, dtype_from_numpy, tolerance
from ingot.ir.graph import Graph, Node
from ingot.ir.interpreter import interpret
from ingot.ir.layout import DENSE, Layout
from ingot.ir.target import Target
from ingot.ir.types import TensorType

GUARD = 192  # bytes before and behind every buffer
CANARY = 0xA5
X86_LEVELS = ("x86-64", "x86-64-avx2", "x86-64-avx512")


@functools.cache
def host_targets() -> tuple[Target, ...]:
    """The targets that this CPU can run, weakest first."""
    full = host_target()
    if not full.is_x86:
        return (full,)
    return tuple(host_target(name) for name in X86_LEVELS[: X86_LEVELS.index(full.name) + 1])


def pack(array: np.ndarray, layout: Layout, fill: float = 0) -> np.ndarray:
    """The physical array of a logical one; halo zero, block padding ``fill``."""
    if layout.form:
        return packing.pack(array, layout)
    if layout.halo:
        array = np.pad(array, layout.halo)
    for axis, size in layout.blocks:
        extra = -array.shape[axis] % size
        widths = [(0, extra if a == axis else 0) for a in range(array.ndim)]
        array = np.pad(array, widths, constant_values=fill)
    rank = array.ndim
    order = layout.order or tuple(range(rank))
    # Split every blocked axis in place, remember where its inner part went, then transpose all at once.
    shape: list[int] = []
    outer: dict[int, int] = {}
    inner: dict[int, int] = {}
    blocks = dict(layout.blocks)
    for axis, extent in enumerate(array.shape):
        outer[axis] = len(shape)
        if axis in blocks:
            shape += [extent // blocks[axis], blocks[axis]]
            inner[axis] = len(shape) - 1
        else:
            shape.append(extent)
    axes = [outer[a] for a in order] + [inner[a] for a, _ in layout.blocks]
    return np.ascontiguousarray(array.reshape(shape).transpose(axes))


def unpack(physical: np.ndarray, shape: Sequence[int], layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """(logical array, flat copy of the halo elements) of a physical one; block padding must be finite."""
    rank = len(shape)
    order = layout.order or tuple(range(rank))
    blocks = dict(layout.blocks)
    physical = physical.reshape(layout.physical_shape(shape))
    # Inverse transpose: for each logical axis its outer part, directly followed by its inner one.
    axes: list[int] = []
    merged: list[int] = []
    for axis in range(rank):
        axes.append(order.index(axis))
        extent = physical.shape[order.index(axis)]
        if axis in blocks:
            axes.append(rank + [a for a, _ in layout.blocks].index(axis))
            extent *= blocks[axis]
        merged.append(extent)
    full = physical.transpose(axes).reshape(merged)
    if full.dtype.kind == "f":
        assert np.isfinite(full[tuple(slice(0, None) for _ in shape)]).all() or not layout.blocks
    halo = layout.halo or ((0, 0),) * rank
    inside = tuple(slice(b, b + e) for (b, _), e in zip(halo, shape, strict=True))
    with_halo = full[tuple(slice(0, b + e + a) for (b, a), e in zip(halo, shape, strict=True))]
    ring = np.ones(with_halo.shape, bool)
    ring[inside] = False
    return full[inside].copy(), with_halo[ring]


class Code:
    """Machine code mapped into this process."""

    def __init__(self, function: LoopFunction) -> None:
        image, entry = assemble(emit(function), function.target, function.name)
        self._map = mmap.mmap(-1, len(image), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._map.write(image)
        self.size = len(image)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        proto = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        self.call = proto(address + entry)


class Guarded:
    """An aligned buffer with canaries on both sides."""

    def __init__(self, nbytes: int, content: np.ndarray | None = None, misalign: int = 0) -> None:
        self.raw = np.full(nbytes + 2 * GUARD + 128, CANARY, np.uint8)
        start = self.raw.ctypes.data + GUARD
        self.offset = GUARD + (-start % 64) + misalign
        self.nbytes = nbytes
        self.address = self.raw.ctypes.data + self.offset
        if content is not None:
            self.bytes[:] = np.ascontiguousarray(content).reshape(-1).view(np.uint8)

    @property
    def bytes(self) -> np.ndarray:
        return self.raw[self.offset : self.offset + self.nbytes]

    def check(self, what: str) -> None:
        before, behind = self.raw[: self.offset], self.raw[self.offset + self.nbytes :]
        assert (before == CANARY).all(), f"{what}: written before the buffer"
        assert (behind == CANARY).all(), f"{what}: written behind the buffer at +{int(np.argmax(behind != CANARY))}"


def raw_kernel(
    function: LoopFunction, buffers: Sequence[Guarded], extents: Sequence[int], ranges: Sequence[tuple[int, int]]
) -> None:
    """Call the kernel once per range on the given buffers, with guarded scratch."""
    code = Code(function)
    args = np.array([b.address for b in buffers] + list(extents) + [0], np.int64)  # extents may be negative
    scratch = Guarded(max(function.scratch_bytes, 64))
    for begin, end in ranges:
        code.call(args.ctypes.data, begin, end, scratch.address)
    scratch.check(f"{function.name}: scratch")
    for b, name in zip(buffers, function.buffer_names, strict=True):
        b.check(f"{function.name}: {name}")


def random_ranges(trip: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """[0, trip) in up to four pieces, in random order."""
    cuts = sorted({0, trip, *(int(c) for c in rng.integers(0, trip + 1, 3))})
    pieces = [*itertools.pairwise(cuts)]
    rng.shuffle(pieces)
    return [(int(a), int(b)) for a, b in pieces]


def run_kernel(
    lowered: Any,
    arrays: Mapping[Any, np.ndarray],
    *,
    env: Mapping[str, int] | None = None,
    seed: int = 0,
    share: Mapping[int, int] | None = None,
) -> dict[Any, np.ndarray]:
    """Results (logical arrays by Value) of a LoweredKernel for operand arrays by Value (logical shapes).

    Checks that nothing outside the buffers is written, operands stay as they are and halos are zero. ``share`` maps
    result position to operand position: they get one buffer (the kernel's in-place permission).
    """
    env = env or {}
    rng = np.random.default_rng(seed)
    node = lowered.node
    results = set(node.outputs)
    shapes = {v: tuple(evaluate(e, env) for e in v.shape) for v in lowered.values}
    buffers: dict[Any, Guarded] = {}
    originals: dict[Any, np.ndarray] = {}
    for v in lowered.values:
        if v in results:
            continue
        array = arrays[v] if v in arrays else np.asarray(v.constant)
        content = pack(np.asarray(array, v.dtype.numpy), v.type.layout, fill=0)
        assert array.shape == shapes[v], f"{v!r}: array of shape {array.shape}, expected {shapes[v]}"
        buffers[v] = Guarded(content.nbytes, content)
        originals[v] = content
    for position, operand in (share or {}).items():
        buffers[node.outputs[position]] = buffers[node.inputs[operand]]
        del originals[node.inputs[operand]]
    for v in lowered.values:
        if v in results and v not in buffers:
            count = int(v.type.layout.elements(shapes[v]))
            garbage = rng.integers(0, 256, count * v.dtype.itemsize, dtype=np.uint8)
            buffers[v] = Guarded(count * v.dtype.itemsize, garbage)
    extents = [evaluate(e, env) for e in lowered.extents]
    ranges = random_ranges(evaluate(lowered.trip, env), rng)
    raw_kernel(lowered.function, [buffers[v] for v in lowered.values], extents, ranges)
    for v, content in originals.items():
        assert (buffers[v].bytes == content.reshape(-1).view(np.uint8)).all(), f"operand {v!r} was written"
    out = {}
    for v in lowered.values:
        if v in results:
            physical = buffers[v].bytes.view(v.dtype.numpy)
            logical, ring = unpack(physical, shapes[v], v.type.layout)
            assert (ring == 0).all(), f"{v!r}: halo is not zero"
            out[v] = logical
    return out


# -- operator cases ------------------------------------------------------------------------------------
def case_graph(case: Any, layouts: Sequence[Layout] = ()) -> tuple[Graph, Node]:
    """A graph of one node applying ``case`` to graph inputs; ``layouts``: for operands then results."""
    graph = Graph("case")
    places = [*layouts, *[DENSE] * 16]
    inputs = [
        graph.add_input(TensorType(dtype_from_numpy(a.dtype), a.shape, places[k]), f"in{k}")
        for k, a in enumerate(case.inputs)
    ]
    node = GraphBuilder(graph).emit(case.op, inputs, **case.attrs)
    for k, o in enumerate(node.outputs):
        if case.op != "layout_cast":
            o.type = o.type.with_layout(places[len(inputs) + k])
        graph.add_output(o)
    return graph, node


def check_case(case: Any, target: Target, *, seed: int = 0, layouts: Sequence[Layout] = ()) -> Any:
    """Compile the case's node for ``target``, run it, and hold it against the reference in float64."""
    graph, node = case_graph(case, layouts)
    lowered = table.lower(node, target)
    out = run_kernel(lowered, dict(zip(node.inputs, case.inputs, strict=True)), seed=seed)
    expected = interpret(graph, list(case.inputs), float64=True)
    for value, want in zip(node.outputs, expected, strict=True):
        compare(out[value], want, value.dtype, case.depth, f"{case} on {target.name}, seed {seed}")
    return lowered


def compare(got: np.ndarray, want: np.ndarray, dtype: DType, depth: int, what: str) -> None:
    """``got`` equals ``want`` (of higher precision) within the tolerance of ``dtype``; NaN and infinities in place."""
    if dtype.kind != "f":
        np.testing.assert_array_equal(got, want, what)
        return
    rtol, atol = tolerance(dtype, depth)
    with np.errstate(all="ignore"):
        rounded = want.astype(dtype.numpy).astype(np.float64)
        np.testing.assert_allclose(got.astype(np.float64), rounded, rtol, atol, err_msg=what)
