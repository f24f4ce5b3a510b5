"""How the elements that a fused region reads depend on the index of its result.

Walking from a result to the values in memory, every coordinate of an operand is either an affine combination of
the result's coordinates (a row) or opaque (it depends on some of them in another way). The loop nest merges axes and
picks the vector axis from the strides that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.dims import Extent, product
from ...ir.errors import UnsupportedError
from ...ir.graph import Node, Value
from ...ir.types import TensorType
from . import arithmetic
from .reindex import reshape_groups

# Coefficient per axis of the result, or the set of axes that an opaque coordinate depends on.
Row = "dict[int, Extent] | frozenset[int]"


@dataclass(frozen=True)
class Opaque:
    """Stride of an axis along which an operand's addresses are not linear."""


@dataclass(frozen=True)
class Blocked:
    """Stride of an axis that the layout splits: ``inner`` within a block of ``size`` elements."""

    size: int
    inner: Extent


@dataclass
class Leaf:
    """One way in which a value in memory is read. ``exact``: at the very index that is being computed."""

    value: Value
    rows: list
    exact: bool


@dataclass
class Footprint:
    """All reads of a region, the axes that must stay apart, and what is computed on the way."""

    leaves: list[Leaf] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    nodes: list[Node] = field(default_factory=list)

    @property
    def expensive(self) -> int:
        """Number of operators with long code."""
        return sum(n.op in arithmetic.EXPENSIVE for n in self.nodes)


def footprint(
    results: Sequence[Value], rank: int, stops: Callable[[Value], bool], known: Container[Value] = ()
) -> Footprint:
    """The reads behind ``results``, which share one index space of ``rank`` axes.

    ``stops(value)`` says whether a value is in memory; ``known`` values are numbers in the code.
    """
    out = Footprint()
    seen: set[tuple] = set()
    nodes: dict[Node, None] = {}
    work = [(v, [{a: 1} for a in range(rank)], True) for v in results]
    while work:
        value, rows, exact = work.pop()
        key = (value, exact, tuple(r if isinstance(r, frozenset) else tuple(sorted(r.items())) for r in rows))
        if key in seen:
            continue
        seen.add(key)
        if value in known:
            continue
        if stops(value):
            out.leaves.append(Leaf(value, rows, exact))
            continue
        node = value.producer
        if node is None:
            raise UnsupportedError(f"kernel: %{value.name} is neither in memory nor computed in the group")
        nodes.setdefault(node)
        work += _operands(node, rows, exact, out)
    out.nodes = list(nodes)
    return out


def _axes_of(row: dict | frozenset) -> frozenset[int]:
    return row if isinstance(row, frozenset) else frozenset(row)


def _broadcast(shape: Sequence[Extent], result: Sequence[Extent], rows: list) -> list:
    lead = len(result) - len(shape)
    return [{} if e == 1 and r != 1 else row for row, e, r in zip(rows[lead:], shape, result[lead:], strict=True)]


def _scaled(row: dict | frozenset, factor: Extent) -> dict | frozenset:
    return row if isinstance(row, frozenset) else {a: c * factor for a, c in row.items()}


def _operands(node: Node, rows: list, exact: bool, out: Footprint) -> list[tuple[Value, list, bool]]:
    op, attrs = node.op, node.attrs
    if op in arithmetic.RULES:
        shape = node.output.shape
        return [(v, _broadcast(v.shape, shape, rows), exact and v.shape == shape) for v in node.inputs]
    if op == "permute":
        moved: list = [{}] * len(rows)
        for row, d in zip(rows, attrs["dims"], strict=True):
            moved[d] = row
        return [(node.inputs[0], moved, exact)]
    if op == "expand":
        return [(node.inputs[0], _broadcast(node.inputs[0].shape, node.output.shape, rows), False)]
    if op == "slice":
        return [(node.inputs[0], [_scaled(r, s) for r, s in zip(rows, attrs["steps"], strict=True)], False)]
    if op == "flip":
        return [(node.inputs[0], [_scaled(r, -1) if a in attrs["axes"] else r for a, r in enumerate(rows)], False)]
    if op == "reshape":
        return [(node.inputs[0], _reshape(node, rows, out), exact)]
    if op == "concat":
        out.pinned |= _axes_of(rows[attrs["axis"]])
        return [(v, rows, False) for v in node.inputs]
    if op == "pad":
        moved = []
        for row, low, high, interior in zip(rows, attrs["low"], attrs["high"], attrs["interior"], strict=True):
            if (low, high, interior) != (0, 0, 0):
                out.pinned |= _axes_of(row)
            moved.append(row if interior == 0 else _axes_of(row))
        return [(node.inputs[0], moved, False)]
    if op == "iota":
        out.pinned |= _axes_of(rows[attrs["axis"]])
        return []
    if op == "constant":
        return []
    if op == "random_uniform":
        # The element number is the row-major index: like reading a dense array.
        out.leaves.append(Leaf(node.output, rows, False))
        return [(node.inputs[0], [{}], False)]
    if op == "gather":
        (x, index), axis = node.inputs, attrs["axis"]
        chosen = [frozenset[int]().union(*map(_axes_of, rows)) if a == axis else r for a, r in enumerate(rows)]
        return [(index, rows, False), (x, chosen, False)]
    if op == "resample":
        (x, *tables), axis = node.inputs, attrs["axis"]
        chosen = [_axes_of(r) if a == axis else r for a, r in enumerate(rows)]
        out.pinned |= _axes_of(rows[axis])
        reads = [(v, [rows[axis]] if v.type.rank == 1 else [{}, rows[axis]], False) for v in tables]
        return [*reads, (x, chosen, False)]
    if op == "index_select":
        (x, index), axis = node.inputs, attrs["axis"]
        chosen = [_axes_of(r) if a == axis else r for a, r in enumerate(rows)]
        return [(index, [rows[axis]], False), (x, chosen, False)]
    raise UnsupportedError(f"kernel: operator {op} cannot be computed inside a fused kernel")


def _reshape(node: Node, rows: list, out: Footprint) -> list:
    source, result = node.inputs[0].shape, node.output.shape
    moved: list = [{}] * len(source)
    for ins, outs in reshape_groups(source, result):
        if len(ins) == 1 and not any(isinstance(rows[a], frozenset) for a in outs):
            total: dict[int, Extent] = {}
            for k, a in enumerate(outs):
                stride = product(result[o] for o in outs[k + 1 :])
                for s, c in rows[a].items():
                    total[s] = total.get(s, 0) + c * stride
            moved[ins[0]] = total
            continue
        axes = frozenset[int]().union(*(_axes_of(rows[a]) for a in outs))
        out.pinned |= axes
        for a in ins:
            moved[a] = axes
    return moved


def strides(type: TensorType, rows: Sequence, pinned: set[int]) -> Mapping[int, Extent | Blocked | Opaque]:
    """Element stride of each result axis in a value's memory; axes that are missing have stride 0.

    Axes that run along a split axis of the layout are added to ``pinned``.
    """
    layout = type.layout
    physical = layout.strides(type.shape)
    order = layout.order or tuple(range(type.rank))
    outer = {a: physical[i] for i, a in enumerate(order)}
    inner = {a: (size, physical[type.rank + i]) for i, (a, size) in enumerate(layout.blocks)}
    found: dict[int, Extent | Blocked | Opaque] = {}
    for axis, row in enumerate(rows):
        if isinstance(row, frozenset):
            found.update((s, Opaque()) for s in row)
            continue
        for s, coefficient in row.items():
            before = found.get(s, 0)
            if isinstance(before, (Opaque, Blocked)):
                found[s] = Opaque()
            elif axis in inner:
                pinned.add(s)
                single = len(row) == 1 and coefficient == 1 and before == 0
                found[s] = Blocked(*inner[axis]) if single else Opaque()
            else:
                found[s] = before + coefficient * outer[axis]
    return {s: x for s, x in found.items() if isinstance(x, (Opaque, Blocked)) or x != 0}
