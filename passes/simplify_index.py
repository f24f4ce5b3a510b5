"""Simplification rules that move or rename elements without computing: exact for every dtype."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import registry
from ..ir.builder import GraphBuilder
from ..ir.dims import Extent
from ..ir.graph import Node, Value
from ..ir.ops.bands import Bands
from ..ir.ops.resampling import emit_resample
from ..ir.registry import Fusion
from .rewrite import RuleSet, producer, single_use

INDEX_RULES = RuleSet()
_EXACT = "exact"


def _is_one_element(value: Value) -> bool:
    return all(e == 1 for e in value.shape)


def _all_ints(*groups: Sequence[Extent]) -> bool:
    return all(isinstance(e, int) for group in groups for e in group)


# -- reshape ----------------------------------------------------------------------------------------
@INDEX_RULES.add("reshape(x, its own shape) = x", "reshape", _EXACT)
def _reshape_nothing(b: GraphBuilder, node: Node) -> Value | None:
    return node.inputs[0] if node.inputs[0].shape == node.output.shape else None


@INDEX_RULES.add("reshape(reshape(x)) = reshape(x)", "reshape", _EXACT)
def _reshape_twice(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "reshape")
    return b.reshape(inner.inputs[0], shape=node.output.shape) if inner else None


# -- permute ----------------------------------------------------------------------------------------
@INDEX_RULES.add("permute(x, identity) = x", "permute", _EXACT)
def _permute_nothing(b: GraphBuilder, node: Node) -> Value | None:
    dims = node.attrs["dims"]
    return node.inputs[0] if tuple(dims) == tuple(range(len(dims))) else None


@INDEX_RULES.add("permute(permute(x, p), q) = permute(x, p[q])", "permute", _EXACT)
def _permute_twice(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "permute")
    if inner is None:
        return None
    return b.permute(inner.inputs[0], dims=tuple(inner.attrs["dims"][d] for d in node.attrs["dims"]))


@INDEX_RULES.add("permute(x) = reshape(x) if only axes of extent 1 move", "permute", _EXACT)
def _permute_ones(b: GraphBuilder, node: Node) -> Value | None:
    (x,), dims = node.inputs, node.attrs["dims"]
    moved = [d for d in dims if x.shape[d] != 1]
    return b.reshape(x, shape=node.output.shape) if moved == sorted(moved) else None


@INDEX_RULES.add("slice(permute(x)) = permute(slice(x)) where everybody slices", "slice", _EXACT)
def _slice_permuted(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "permute")
    if inner is None or any(u.op != "slice" for u in inner.output.users) or b.graph.is_output(inner.output):
        return None
    dims = inner.attrs["dims"]
    parts = dict(zip(dims, _parts(node), strict=True))
    small = _slice(b, inner.inputs[0], [parts[a] for a in range(len(dims))])
    return b.permute(small, dims=dims)


@INDEX_RULES.add("matmul(permute(a), b) = matmul(a, b, transpose_a)", "matmul", "exact; the last two axes swapped")
def _matmul_transposed(b: GraphBuilder, node: Node) -> Value | None:
    operands, flags = list(node.inputs), [node.attrs["transpose_a"], node.attrs["transpose_b"]]
    for i, v in enumerate(operands):
        inner = producer(v, "permute")
        rank = v.type.rank
        if inner is not None and tuple(inner.attrs["dims"]) == (*range(rank - 2), rank - 1, rank - 2):
            operands[i], flags[i] = inner.inputs[0], not flags[i]
    if operands == node.inputs:
        return None
    return b.emit("matmul", operands, transpose_a=flags[0], transpose_b=flags[1]).output


@INDEX_RULES.add("move(f(undo(x), c)) = f(x, c)", "permute reshape", "exact; f elementwise, c of one element")
def _cancel_around_elementwise(b: GraphBuilder, node: Node) -> Value | None:
    """A permute or reshape behind an elementwise node that undoes the one in front of it."""
    middle = node.inputs[0].producer
    if middle is None or registry.get(middle.op).fusion is not Fusion.ELEMENTWISE:
        return None
    if not single_use(b.graph, middle.output):
        return None
    wide = [v for v in middle.inputs if not _is_one_element(v)]
    if not wide or any(v is not wide[0] for v in wide):
        return None
    inner = producer(wide[0], node.op)
    if inner is None or wide[0].shape != middle.output.shape:
        return None
    x = inner.inputs[0]
    if x.shape != node.output.shape:
        return None
    if node.op == "permute":
        back = [inner.attrs["dims"][d] for d in node.attrs["dims"]]
        if back != list(range(len(back))):
            return None
    operands = [x if v is wide[0] else b.reshape(v, shape=()) for v in middle.inputs]
    return b.emit(middle.op, operands, **middle.attrs).output


# -- expand -----------------------------------------------------------------------------------------
@INDEX_RULES.add("expand(x, its own shape) = x", "expand", _EXACT)
def _expand_nothing(b: GraphBuilder, node: Node) -> Value | None:
    return node.inputs[0] if node.inputs[0].shape == node.output.shape else None


@INDEX_RULES.add("expand(expand(x)) = expand(x)", "expand", _EXACT)
def _expand_twice(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "expand")
    return b.expand(inner.inputs[0], shape=node.output.shape) if inner else None


@INDEX_RULES.add("move(expand(x)) = expand(x), x of one element", "reshape permute slice flip", _EXACT)
def _move_splat(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "expand")
    if inner is None or not _is_one_element(inner.inputs[0]):
        return None
    x = inner.inputs[0]
    x = x if x.shape == () else b.reshape(x, shape=())
    return x if node.output.shape == () else b.expand(x, shape=node.output.shape)


@INDEX_RULES.add("reshape(expand(reshape(x))) = resample(x)", "reshape", "exact; elements repeated along spatial axes")
def _repeat(b: GraphBuilder, node: Node) -> Value | None:
    """Enlarging images by views and a copy is nearest-neighbour resampling, which keeps blocked layouts."""
    wide = producer(node.inputs[0], "expand")
    inner = producer(wide.inputs[0], "reshape") if wide is not None else None
    if wide is None or inner is None:
        return None
    x, narrow, full = inner.inputs[0], list(inner.output.shape), list(wide.output.shape)
    if x.type.rank != node.output.type.rank or len(narrow) != len(full):
        return None
    factors: list[int] = []
    for axis, (before, after) in enumerate(zip(x.shape, node.output.shape, strict=True)):
        if not narrow or narrow.pop(0) != before or full.pop(0) != before:
            return None
        factors.append(1)
        if before == after:
            continue
        times = full.pop(0) if narrow and narrow.pop(0) == 1 else None
        if axis < 2 or not isinstance(before, int) or not isinstance(times, int) or before * times != after:
            return None
        factors[-1] = times
    if narrow or all(times == 1 for times in factors):
        return None
    for axis, times in enumerate(factors):
        if times > 1:
            extent = x.shape[axis]
            assert isinstance(extent, int)
            x = emit_resample(b, x, axis, Bands(np.repeat(np.arange(extent), times), np.ones((1, extent * times))))
    return x


# -- flip -------------------------------------------------------------------------------------------
@INDEX_RULES.add("flip(x, no axes) = x", "flip", "exact; axes of extent 1 do not count")
def _flip_nothing(b: GraphBuilder, node: Node) -> Value | None:
    x = node.inputs[0]
    return x if all(x.shape[a] == 1 for a in node.attrs["axes"]) else None


@INDEX_RULES.add("flip(flip(x, a), b) = flip(x, a xor b)", "flip", _EXACT)
def _flip_twice(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "flip")
    if inner is None:
        return None
    axes = set(inner.attrs["axes"]) ^ set(node.attrs["axes"])
    return b.flip(inner.inputs[0], axes=tuple(sorted(axes))) if axes else inner.inputs[0]


# -- concat -----------------------------------------------------------------------------------------
@INDEX_RULES.add("concat(x) = x", "concat", "exact; operands of extent 0 do not count")
def _concat_few(b: GraphBuilder, node: Node) -> Value | None:
    axis = node.attrs["axis"]
    kept = [v for v in node.inputs if v.shape[axis] != 0] or node.inputs[:1]
    if len(kept) == 1:
        return kept[0]
    return b.concat(*kept, axis=axis) if len(kept) < len(node.inputs) else None


@INDEX_RULES.add("concat(concat(x, y), z) = concat(x, y, z)", "concat", "exact; the same axis, inner used once")
def _concat_nested(b: GraphBuilder, node: Node) -> Value | None:
    axis, operands = node.attrs["axis"], []
    for v in node.inputs:
        inner = producer(v, "concat")
        if inner is not None and inner.attrs["axis"] == axis and single_use(b.graph, v):
            operands += inner.inputs
        else:
            operands.append(v)
    return b.concat(*operands, axis=axis) if len(operands) > len(node.inputs) else None


# -- slice ------------------------------------------------------------------------------------------
def _parts(node: Node) -> list[tuple[Extent, Extent, Extent]]:
    return list(zip(node.attrs["starts"], node.attrs["stops"], node.attrs["steps"], strict=True))


def _slice(b: GraphBuilder, x: Value, parts: Sequence[tuple[Extent, Extent, Extent]]) -> Value:
    starts, stops, steps = zip(*parts, strict=True)
    return b.slice(x, starts=starts, stops=stops, steps=steps)


@INDEX_RULES.add("slice(x, everything) = x", "slice", _EXACT)
def _slice_everything(b: GraphBuilder, node: Node) -> Value | None:
    x = node.inputs[0]
    full = all(p == (0, e, 1) for p, e in zip(_parts(node), x.shape, strict=True))
    return x if full else None


@INDEX_RULES.add("slice(slice(x)) = slice(x)", "slice", _EXACT)
def _slice_twice(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "slice")
    if inner is None or not node.output.shape:
        return None
    parts: list[tuple[Extent, Extent, Extent]] = []
    for (s1, e1, t1), (s2, e2, t2), n in zip(_parts(inner), _parts(node), node.output.shape, strict=True):
        if (s2, t2) == (0, 1) and n == node.inputs[0].shape[len(parts)]:
            parts.append((s1, e1, t1))
        elif t1 == 1 and t2 == 1:
            parts.append((s1 + s2, s1 + e2, 1))
        elif _all_ints((s1, s2, e2, t1, t2)) and isinstance(n, int) and n > 0:
            start = s1 + s2 * t1
            parts.append((start, start + (n - 1) * t1 * t2 + 1, t1 * t2))
        else:
            return None
    return _slice(b, inner.inputs[0], parts)


@INDEX_RULES.add("slice(concat(..., x, ...)) = slice(x)", "slice", "exact; the slice lies within one operand")
def _slice_concat(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "concat")
    if inner is None:
        return None
    axis, parts = inner.attrs["axis"], _parts(node)
    start, stop, step = parts[axis]
    offset: Extent = 0
    for x in inner.inputs:
        end = offset + x.shape[axis]
        inside = _all_ints((start, stop, offset, end)) and offset <= start < stop <= end
        if inside or (start == offset and stop == end):
            parts[axis] = (start - offset, stop - offset, step)
            return _slice(b, x, parts)
        offset = end
    return None


# -- pad --------------------------------------------------------------------------------------------
@INDEX_RULES.add("pad(x, nothing) = x", "pad", _EXACT)
def _pad_nothing(b: GraphBuilder, node: Node) -> Value | None:
    a = node.attrs
    return None if any((*a["low"], *a["high"], *a["interior"])) else node.inputs[0]


@INDEX_RULES.add("pad(pad(x)) = pad(x)", "pad", "exact; the same value, none between elements")
def _pad_twice(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "pad")
    if inner is None or any((*inner.attrs["interior"], *node.attrs["interior"])):
        return None
    if repr(inner.attrs["value"]) != repr(node.attrs["value"]):  # repr tells 0.0 from -0.0
        return None
    low, high = (tuple(p + q for p, q in zip(inner.attrs[k], node.attrs[k], strict=True)) for k in ("low", "high"))
    return b.pad(inner.inputs[0], low=low, high=high, interior=inner.attrs["interior"], value=node.attrs["value"])


@INDEX_RULES.add("slice(pad(x)) = slice(x)", "slice", "exact; the slice lies within x")
def _slice_pad(b: GraphBuilder, node: Node) -> Value | None:
    inner = producer(node.inputs[0], "pad")
    if inner is None or any(inner.attrs["interior"]):
        return None
    x, parts = inner.inputs[0], []
    for (start, stop, step), low, extent in zip(_parts(node), inner.attrs["low"], x.shape, strict=True):
        whole = start == low and stop == low + extent
        if not whole and not (_all_ints((start, stop, extent)) and low <= start and stop <= low + extent):
            return None
        parts.append((start - low, stop - low, step))
    return _slice(b, x, parts) if parts else x


# -- reductions -------------------------------------------------------------------------------------
@INDEX_RULES.add("sum(x, axes of extent 1) = reshape(x)", "sum prod amax amin mean any all", "exact; no axes: x")
def _reduce_nothing(b: GraphBuilder, node: Node) -> Value | None:
    x = node.inputs[0]
    if any(x.shape[a] != 1 for a in node.attrs["axes"]):
        return None
    return x if x.shape == node.output.shape else b.reshape(x, shape=node.output.shape)
