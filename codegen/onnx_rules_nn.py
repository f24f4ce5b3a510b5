"""ONNX rules of contractions, pooling and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir.dims import product
from ..ir.errors import UnsupportedError
from ..ir.graph import Node
from .onnx_emit import Emitter, rule


def _pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [low for low, _ in pairs] + [high for _, high in pairs]


# -- contractions; a bias operand comes from onnx_export.biases ---------------------------------------
@rule("conv")
def _conv(e: Emitter, node: Node, xs: list[str]) -> str:
    a = node.attrs
    return e.op(
        "Conv", xs, kernel_shape=list(node.inputs[1].shape[2:]), strides=list(a["stride"]), pads=_pads(a["padding"]),
        dilations=list(a["dilation"]), group=a["groups"],
    )  # fmt: skip


@rule("conv_transpose")
def _conv_transpose(e: Emitter, node: Node, xs: list[str]) -> str:
    a = node.attrs
    if not all(isinstance(n, int) for n in a["output_padding"]):
        raise UnsupportedError("a transposed convolution whose output_padding depends on a symbolic size")
    return e.op(
        "ConvTranspose", xs, kernel_shape=list(node.inputs[1].shape[2:]), strides=list(a["stride"]),
        pads=_pads(a["padding"]), dilations=list(a["dilation"]), group=a["groups"],
        output_padding=list(a["output_padding"]),
    )  # fmt: skip


# Types of Gemm in the ONNX standard.
_GEMM = {dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16}


@rule("matmul")
def _matmul(e: Emitter, node: Node, xs: list[str]) -> str:
    """Gemm where it says more (a bias, a transposed matrix), MatMul for everything else."""
    a, b = node.inputs
    transposes = (node.attrs["transpose_a"], node.attrs["transpose_b"])
    if is_gemm(node) and (len(xs) == 3 or any(transposes)):
        return e.op("Gemm", xs, transA=int(transposes[0]) or None, transB=int(transposes[1]) or None)
    names = []
    for name, value, flip in zip(xs, (a, b), transposes, strict=False):
        if flip:
            rank = value.type.rank
            name = e.op("Transpose", [name], perm=[*range(rank - 2), rank - 1, rank - 2])
        names.append(name)
    dtype = a.dtype
    if dtype.is_floating_point or dtype in (dtypes.int32, dtypes.int64, dtypes.uint32, dtypes.uint64):
        return e.op("MatMul", names)
    return e.cast(e.op("MatMul", [e.cast(n, dtypes.int64) for n in names]), dtype)


def is_gemm(node: Node) -> bool:
    """Whether a matmul can be a Gemm: two matrices of a floating type."""
    return all(v.type.rank == 2 and v.dtype in _GEMM for v in node.inputs)


# -- pooling -----------------------------------------------------------------------------------------
def _overhang(node: Node) -> list[tuple[int, int]] | None:
    """The padding that makes every window of a ceil_mode pool fit; None if a spatial extent is symbolic."""
    spatial, counts = node.inputs[0].shape[2:], node.outputs[0].shape[2:]
    if not all(isinstance(n, int) for n in (*spatial, *counts)):
        return None
    a = node.attrs
    dilation = a.get("dilation", (1,) * len(spatial))
    out = []
    for n, count, k, s, d, (low, high) in zip(
        spatial, counts, a["kernel"], a["stride"], dilation, a["padding"], strict=True
    ):
        end = (count - 1) * s + d * (k - 1) + 1
        out.append((low, max(high, end - low - n)))
    return out


@rule("max_pool")
def _max_pool(e: Emitter, node: Node, xs: list[str]) -> list[str]:
    a, x, dtype = node.attrs, xs[0], node.inputs[0].dtype
    pairs, ceil_mode = a["padding"], a["ceil_mode"]
    if ceil_mode and (fitted := _overhang(node)) is not None:
        pairs, ceil_mode = fitted, False  # readers disagree about ceil_mode's last window, not about padding
    if not dtype.is_floating_point and dtype not in (dtypes.int8, dtypes.uint8):
        if dtype.bits > 32:
            raise UnsupportedError(f"{dtype.name}: ONNX pools floats and 8-bit integers; cast to int32 first")
        x = e.cast(x, dtypes.float64)
    wants_index = bool(node.outputs[1].users) or e.graph.is_output(node.outputs[1])
    names = e.ops(
        "MaxPool", [x], 2 if wants_index else 1, kernel_shape=list(a["kernel"]), strides=list(a["stride"]),
        pads=_pads(pairs), dilations=list(a["dilation"]), ceil_mode=int(ceil_mode) or None,
    )  # fmt: skip
    if x != xs[0]:
        names[0] = e.cast(names[0], dtype)
    if wants_index:  # ONNX counts through batch and channels as well
        plane = e.extent(product(node.inputs[0].shape[2:]))
        names[1] = e.op("Mod", [names[1], plane])
    return names


@rule("avg_pool")
def _avg_pool(e: Emitter, node: Node, xs: list[str]) -> str:
    a, dtype = node.attrs, node.inputs[0].dtype
    fitted = _overhang(node)
    if a["ceil_mode"] and fitted is None:
        raise UnsupportedError(
            "avg_pool with ceil_mode over a symbolic spatial size: ONNX counts the last window in another way"
        )
    overhangs = a["ceil_mode"] and fitted != [tuple(p) for p in a["padding"]]
    window = {"kernel_shape": list(a["kernel"]), "strides": list(a["stride"])}
    if not overhangs and a["divisor_override"] is None:
        padded = any(low or high for low, high in a["padding"])
        include = int(a["count_include_pad"]) if padded else None
        return e.op("AveragePool", xs, **window, pads=_pads(a["padding"]), count_include_pad=include)
    # Sums of explicitly padded windows over divisors of our own.
    pairs = fitted if overhangs and fitted is not None else a["padding"]
    x = e.op("Pad", [xs[0], e.ints([0, 0, *_pads(pairs)[: len(pairs)], 0, 0, *_pads(pairs)[len(pairs) :]])])
    total = e.op("Mul", [e.op("AveragePool", [x], **window), e.scalar(prod(a["kernel"]), dtype)])
    if a["divisor_override"] is not None:
        return e.op("Div", [total, e.scalar(a["divisor_override"], dtype)])
    return e.op("Div", [total, e.initializer(_divisors(node).astype(dtype.numpy), "divisors")])


def _divisors(node: Node) -> np.ndarray:
    """Elements each window is averaged over: within the declared padding, or within the data."""
    a = node.attrs
    out: Any = np.ones(())
    for n, count, k, s, (low, high) in zip(
        node.inputs[0].shape[2:], node.output.shape[2:], a["kernel"], a["stride"], a["padding"], strict=True
    ):
        start = np.arange(count) * s - low
        stop = np.minimum(start + k, n + high)
        if not a["count_include_pad"]:
            start, stop = np.maximum(start, 0), np.minimum(stop, n)
        out = out[..., None] * (stop - start)
    return out


# -- normalisation -----------------------------------------------------------------------------------
@rule("softmax")
def _softmax(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("Softmax", xs, axis=node.attrs["axis"])


@rule("log_softmax")
def _log_softmax(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("LogSoftmax", xs, axis=node.attrs["axis"])


@rule("layer_norm")
def _layer_norm(e: Emitter, node: Node, xs: list[str]) -> str:
    (value, *_), ndim = node.inputs, node.attrs["ndim"]
    if len(xs) == 1:  # ONNX demands a scale
        shape = e.extents(value.shape[value.type.rank - ndim :])
        xs = [xs[0], e.op("Expand", [e.scalar(1, value.dtype), shape])]
    return e.op("LayerNormalization", xs, axis=-ndim, epsilon=node.attrs["eps"])


@rule("batch_norm")
def _batch_norm(e: Emitter, node: Node, xs: list[str]) -> str:
    return e.op("BatchNormalization", xs, epsilon=node.attrs["eps"])
