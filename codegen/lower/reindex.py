"""Index operators as moves of a Position: where the operand is read for a position of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir.dims import Extent, product
from ...ir.graph import Node
from .position import ZERO, Coord, IndexMath, Position

Move = Callable[[IndexMath, Node, Position], Position]


def reshape_groups(source: Sequence[Extent], result: Sequence[Extent]) -> list[tuple[list[int], list[int]]]:
    """Pairs (axes of ``source``, axes of ``result``) of equal element counts, as small as possible.

    Axes of extent 1 belong to no group: their coordinate is 0.
    """
    left = [a for a, e in enumerate(source) if e != 1]
    right = [a for a, e in enumerate(result) if e != 1]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) or j < len(right):
        # Grow the shorter side until the products agree; symbolic products that never agree end in one group.
        ins, outs = left[i : i + 1], right[j : j + 1]
        i, j = i + len(ins), j + len(outs)
        while (have := product(source[a] for a in ins)) != (want := product(result[a] for a in outs)):
            grow_left = isinstance(have, int) and isinstance(want, int) and have < want
            if (grow_left and i < len(left)) or j == len(right):
                if i == len(left):
                    break
                ins.append(left[i])
                i += 1
            else:
                outs.append(right[j])
                j += 1
        groups.append((ins, outs))
    return groups


def _reshape(math: IndexMath, node: Node, pos: Position) -> Position:
    source, result = node.inputs[0].shape, node.output.shape
    coords = [ZERO] * len(source)
    for ins, outs in reshape_groups(source, result):
        if len(ins) == len(outs) == 1:
            coords[ins[0]] = pos.coords[outs[0]]
            continue
        index = math.linearise([pos.coords[a] for a in outs], [result[a] for a in outs], pos.lanes)
        parts = math.delinearise(index, [source[a] for a in ins], pos.lanes)
        for axis, part in zip(ins, parts, strict=True):
            coords[axis] = part
    return pos.at(coords)


def _permute(math: IndexMath, node: Node, pos: Position) -> Position:
    coords = [ZERO] * len(pos.coords)
    for c, d in zip(pos.coords, node.attrs["dims"], strict=True):
        coords[d] = c
    return pos.at(coords)


def _expand(math: IndexMath, node: Node, pos: Position) -> Position:
    shape, result = node.inputs[0].shape, node.output.shape
    lead = len(result) - len(shape)
    moved: list[Coord] = []
    for c, e, r in zip(pos.coords[lead:], shape, result[lead:], strict=True):
        moved.append(ZERO if e == 1 and r != 1 else c)
    return pos.at(moved)


def _slice(math: IndexMath, node: Node, pos: Position) -> Position:
    coords = []
    for c, start, step in zip(pos.coords, node.attrs["starts"], node.attrs["steps"], strict=True):
        scaled = math.scale(c, math.extents(step), pos.lanes)
        coords.append(math.shift(scaled, math.extents(start), pos.lanes))
    return pos.at(coords)


def _flip(math: IndexMath, node: Node, pos: Position) -> Position:
    axes, shape = node.attrs["axes"], node.output.shape
    return pos.at(
        math.reverse(c, math.builder.isub(math.extents(shape[a]), 1), pos.lanes) if a in axes else c
        for a, c in enumerate(pos.coords)
    )


MOVES: dict[str, Move] = {
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "flip": _flip,
}
