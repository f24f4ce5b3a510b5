"""Products to run; compiles one kernel and runs it on packed arrays between guard patterns (for contraction tests)."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import ingot
import numpy as np
from ingot import nn
from ingot.codegen.assemble import assemble
from ingot.codegen.host import host_target
from ingot.codegen.layouts import layout_choices
from ingot.codegen.llvm_emit import emit
from ingot.codegen.lower.contraction import lower_contraction
from ingot.codegen.lower.kernel import LoweredKernel
from ingot.codegen.packing import pack, unpack
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Extent, evaluate
from ingot.ir.dtypes import DType, tolerance
from ingot.ir.graph import Graph, Node, Value
from ingot.ir.interpreter import eval_node
from ingot.ir.kernels import LayoutChoice
from ingot.ir.layout import FORMS
from ingot.ir.ops.structure import create_fused
from ingot.ir.target import Target
from ingot.ir.types import TensorType

GUARD = 4096
_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def runnable_targets() -> list[Target]:
    """The distinct targets that this CPU executes."""
    names = ("x86-64", "x86-64-avx2", "x86-64-avx512") if host_target().is_x86 else ("aarch64",)
    found: dict[tuple[str, int], Target] = {}
    for name in names:
        t = host_target(name)
        found[(t.name, t.vector_bytes)] = t
    return list(found.values())


class Compiled:
    """A kernel in executable memory."""

    def __init__(self, kernel: LoweredKernel, target: Target) -> None:
        self.kernel = kernel
        self.ir = emit(kernel.function)
        code, entry = assemble(self.ir, target, kernel.function.name)
        self._map = mmap.mmap(-1, max(len(code), 1), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._map.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.call = _SIGNATURE(address + entry)


def guarded(nbytes: int, fill: int = 0xA5, tail: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(whole, payload): ``payload`` is 64-byte aligned and lies between ``GUARD`` bytes of a pattern."""
    raw = np.full(nbytes + 2 * GUARD + 128, fill, np.uint8)
    start = GUARD + (-(raw.ctypes.data + GUARD)) % 64
    return raw, raw[start : start + nbytes]


def run_kernel(
    node: Node,
    arrays: Mapping[Value, np.ndarray],
    target: Target,
    env: Mapping[str, int] | None = None,
    pieces: int = 3,
) -> list[np.ndarray]:
    """Lowers and runs ``node``; returns its results in logical shape. Checks the guards and the output's halo.

    Padding lanes of inputs hold NaN (floats), outputs start as NaN: neither may reach a result.
    """
    env = env or {}
    kernel = lower_contraction(node, target)
    compiled = Compiled(kernel, target)
    return execute(compiled, node, arrays, env, pieces)


def execute(
    compiled: Compiled, node: Node, arrays: Mapping[Value, np.ndarray], env: Mapping[str, int], pieces: int = 3
) -> list[np.ndarray]:
    kernel = compiled.kernel
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    memory: dict[Value, np.ndarray] = {}
    for v in kernel.values:
        shape = tuple(evaluate(e, env) for e in v.shape)
        count = int(evaluate(v.type.layout.elements(shape), env))
        raw, payload = guarded(count * v.dtype.itemsize)
        typed = payload.view(v.dtype.numpy)
        if v in arrays:
            packed = pack(arrays[v], v.type.layout)
            if v.dtype.kind == "f" and not v.is_constant and not v.type.layout.form:
                packed = np.where(_padding(shape, v.type.layout), np.array(np.nan, packed.dtype), packed)
            typed[:] = packed.reshape(-1)
        elif v.dtype.kind == "f":
            typed[:] = np.nan
        else:
            payload[:] = 0x5A
        memory[v] = typed
        held.append((raw, payload, typed))
    for result, operand in kernel.inplace.items():  # as the memory plan may do
        memory[node.outputs[result]] = memory[node.inputs[operand]]
    extents = [evaluate(e, env) for e in kernel.extents]
    args = np.array([*(memory[v].ctypes.data for v in kernel.values), *extents], np.int64)
    scratch_raw, scratch = guarded(max(kernel.function.scratch_bytes, 64))
    trip = int(evaluate(kernel.trip, env))
    cuts = sorted({0, trip, *(trip * i // pieces for i in range(pieces))})
    for low, high in reversed(list(pairwise(cuts))):
        compiled.call(args.ctypes.data, low, high, scratch.ctypes.data)
    for raw, payload, _ in [*held, (scratch_raw, scratch, scratch)]:
        start = payload.ctypes.data - raw.ctypes.data
        assert (raw[:start] == 0xA5).all() and (raw[start + payload.nbytes :] == 0xA5).all(), "wrote outside a buffer"
    out = []
    for v in node.outputs:
        shape = tuple(evaluate(e, env) for e in v.shape)
        layout = v.type.layout
        logical = unpack(memory[v], layout, shape)
        frame = memory[v].reshape([evaluate(e, env) for e in layout.physical_shape(shape)])[_halo(shape, layout)]
        assert (frame == 0).all(), "halo of the result is not zero"
        if v.dtype.kind == "f":
            assert (
                np.isfinite(memory[v].astype(np.float64)).all() or not np.isfinite(logical.astype(np.float64)).all()
            ), "padding lanes of the result are not finite"
        out.append(np.array(logical))
    return out


def _padding(shape: Sequence[int], layout: Any) -> np.ndarray:
    """Physical mask of the channel padding (not of the halo, which is zero)."""
    halo_real = np.pad(np.ones(shape, np.int8), layout.halo or [(0, 0)] * len(shape), constant_values=1)
    return pack(halo_real, replace(layout, halo=())) == 0


def _halo(shape: Sequence[int], layout: Any) -> np.ndarray:
    """Physical mask of the halo elements of real channels."""
    inside = np.pad(np.full(shape, 1, np.int8), layout.halo or [(0, 0)] * len(shape), constant_values=2)
    return pack(inside, replace(layout, halo=())) == 2


def random_arrays(
    node: Node, rng: np.random.Generator, env: Mapping[str, int] | None = None
) -> dict[Value, np.ndarray]:
    """Random contents for a node's operands: small numbers for integers."""
    out = {}
    for v in node.inputs:
        shape = [evaluate(e, env or {}) for e in v.shape]
        if v.dtype.kind == "f":
            out[v] = rng.standard_normal(shape).astype(v.dtype.numpy)
        elif v.dtype.kind == "b":
            out[v] = rng.integers(0, 2, shape).astype(bool)
        else:
            out[v] = rng.integers(-3 if v.dtype.kind == "i" else 0, 4, shape).astype(v.dtype.numpy)
    return out


def set_layouts(node: Node, choice: LayoutChoice) -> None:
    for v, layout in zip([*node.inputs, *node.outputs], [*choice.inputs, *choice.outputs], strict=True):
        v.type = v.type.with_layout(layout)


def execute_layouts(
    node: Node,
    target: Target,
    rng: np.random.Generator,
    env: Mapping[str, int] | None = None,
    choices: Sequence[LayoutChoice | None] | None = None,
    note: str = "",
) -> None:
    """Runs ``node`` in each layout choice (None: as it stands) and compares with the reference in float64."""
    arrays = random_arrays(node, rng, env)
    floating = [a.astype(np.float64) if v.dtype.kind == "f" else a for v, a in arrays.items()]
    wanted = eval_node(node, floating, env or {}, float64=True)
    for choice in layout_choices(node, target) if choices is None else choices:
        if choice is not None:
            set_layouts(node, choice)
        got = run_kernel(node, arrays, target, env)
        where = (
            f"{note} {target.name} {node.op} {dict(node.attrs)} {[str(v.type) for v in (*node.inputs, *node.outputs)]}"
        )
        for v, actual, expected in zip(node.outputs, got, wanted, strict=True):
            if v.dtype.kind != "f":
                np.testing.assert_array_equal(actual, expected, err_msg=where)
                continue
            rtol = max(tolerance(d, 64)[0] for d in (v.dtype, *(i.dtype for i in node.inputs)))
            forms = {value.type.layout.form for value in node.inputs} - {""}
            if v.dtype == dtypes.float32:  # forms state an error in the mean; single elements may be twice off
                rtol = max([rtol, *(2 * FORMS[form].error for form in forms)])
            scale = float(np.abs(expected).max()) if expected.size else 1.0
            error = float(np.abs(actual.astype(np.float64) - expected).max()) if expected.size else 0.0
            assert error <= rtol * max(scale, 1.0), f"{where}: error {error} for values up to {scale}"


def matmul(
    rows: Sequence[Extent], k: int, n: int, turned: bool = True, dtype: DType = dtypes.float32, **attrs: bool
) -> Node:
    """A matrix product with a B that may be ``turned``, [N, K]."""
    graph = Graph("matmul")
    shape = (*rows[:-1], k, rows[-1]) if attrs.get("transpose_a") else (*rows, k)
    a = graph.add_input(TensorType(dtype, shape), "a")
    b = graph.add_input(TensorType(dtype, (n, k) if turned else (k, n)), "b", role="parameter")
    return GraphBuilder(graph).emit("matmul", [a, b], transpose_b=turned, **attrs)


def fused_matmul(shape: tuple[Extent, ...], k: int, n: int, extras: list[tuple[Extent, ...]], steps: int = 1) -> Node:
    """A matrix product, the extras added to it, ``steps`` times gelu; the results after and before a relu."""
    region, graph = Graph("region"), Graph("outer")
    types = [TensorType(dtypes.float32, s) for s in ((*shape, k), (n, k), *extras)]
    inner = [region.add_input(t, f"v{i}") for i, t in enumerate(types)]
    b = GraphBuilder(region)
    y = b.emit("matmul", inner[:2], transpose_b=True).output
    for extra in inner[2:]:
        y = b.add(y, extra)
    for _ in range(steps):
        y = b.gelu(y)
    region.add_output(b.relu(y))
    region.add_output(y)
    outer = [graph.add_input(t, f"v{i}") for i, t in enumerate(types)]
    return create_fused(graph, region, outer, "contraction")


class Product(nn.Module):
    """A matrix product of two inputs."""

    def forward(self, x: ingot.Tensor, w: ingot.Tensor) -> ingot.Tensor:
        return x @ w
