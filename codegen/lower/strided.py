"""Values as strided views of values in memory: reshape, permute, slice and expand without a copy.

An axis of a view is a list of factors (extent, stride), outermost first. With several factors per axis every reshape
that cuts extents evenly stays a view, also one that joins axes which do not lie behind each other (heads folded
into the batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.dims import Extent, mod, product
from ...ir.graph import Node, Value
from ...ir.types import TensorType

Factor = tuple[Extent, Extent]  # (extent, stride in elements)
Axis = tuple[Factor, ...]

VIEWS = frozenset({"reshape", "permute", "slice", "expand"})


@dataclass(frozen=True)
class Strided:
    """``root``'s memory from element ``base`` on, seen through ``axes``."""

    root: Value
    base: Extent
    axes: tuple[Axis, ...]

    def single(self, axis: int) -> Extent | None:
        """The stride of an axis that is one factor (0 for extent 1), None otherwise."""
        factors = self.axes[axis]
        return 0 if not factors else factors[0][1] if len(factors) == 1 else None


def dense(type: TensorType) -> tuple[Axis, ...]:
    """The axes of a value without a layout of its own."""
    return tuple(
        _joined([(extent, product(type.shape[a + 1 :]))]) for a, extent in enumerate(type.shape)
    )  # fmt: skip


def view_of(
    value: Value, stored: Callable[[Value], Value | None], through: Callable[[Node], Value | None] = lambda _: None
) -> Strided | None:
    """``value`` as a view of the first value in memory above it, None if it is not one.

    ``stored(v)``: the value whose type says how ``v`` lies in memory, None if ``v`` is computed. ``through(node)``: the
    operand of equal shape with which to go on at a node that is no view, None to stop.
    """
    path: list[Node] = []
    root = stored(value)
    while root is None:
        node = value.producer
        if node is None:
            return None
        if node.op in VIEWS:
            path.append(node)
            value = node.inputs[0]
        else:
            inner = through(node)
            if inner is None:
                return None
            value = inner
        root = stored(value)
    if not root.type.layout.is_dense:
        return None
    base: Extent = 0
    axes: tuple[Axis, ...] | None = dense(root.type)
    for node in reversed(path):
        assert axes is not None
        if node.op == "permute":
            axes = tuple(axes[d] for d in node.attrs["dims"])
        elif node.op == "expand":
            lead = node.output.type.rank - len(axes)
            pairs = zip(((),) * lead + axes, ((1,) * lead + node.inputs[0].shape), node.output.shape, strict=True)
            axes = tuple(((e, 0),) if have == 1 and e != 1 else a for a, have, e in pairs)
        elif node.op == "slice":
            cut = _sliced(axes, node)
            if cut is None:
                return None
            base, axes = base + cut[0], cut[1]
        else:
            axes = regrouped(axes, node.output.shape)
        if axes is None:
            return None
    return Strided(value, base, axes)


def result_view(value: Value, result: Value, type: TensorType) -> tuple[Axis, ...] | None:
    """Where the elements of ``value`` go in ``result``, which reshapes and permutes make of it, stored as ``type``.

    None if the way there contains anything else.
    """
    if not type.layout.is_dense:
        return None
    axes: tuple[Axis, ...] | None = dense(type)
    while result is not value:
        node = result.producer
        if node is None or axes is None:
            return None
        source = node.inputs[0]
        if node.op == "permute":
            moved: list[Axis] = [()] * source.type.rank
            for a, d in zip(axes, node.attrs["dims"], strict=True):
                moved[d] = a
            axes = tuple(moved)
        elif node.op == "reshape":
            axes = regrouped(axes, source.shape)
        else:
            return None
        result = source
    return axes


def regrouped(axes: Sequence[Axis], shape: Sequence[Extent]) -> tuple[Axis, ...] | None:
    """The same elements in the same order as axes of ``shape``; None where an extent would have to be cut unevenly."""
    rest = list(_joined([f for axis in axes for f in axis]))
    out: list[Axis] = []
    for extent in reversed(shape):
        taken: list[Factor] = []
        need: Extent = extent
        while need != 1:
            if not rest:
                return None
            have, stride = rest.pop()
            if _divides(have, need):
                taken.append((have, stride))
                need = need // have
            elif _divides(need, have):
                taken.append((need, stride))
                rest.append((have // need, stride * need))
                need = 1
            else:
                return None
        out.append(_joined(taken[::-1]))
    return tuple(reversed(out)) if not rest else None


def common_factors(extent: Extent, axes: Sequence[Axis]) -> list[tuple[Extent, list[Extent]]] | None:
    """One list of factors for views that all have an axis of ``extent`` (or none: stride 0): (extent, strides)."""
    if extent == 1:
        return []
    left = [list(axis) if axis else [(extent, 0)] for axis in axes]
    out: list[tuple[Extent, list[Extent]]] = []
    done: Extent = 1
    while done != extent:
        if any(not rest for rest in left):
            return None
        ends = [rest[-1][0] for rest in left]
        size = next((e for e in ends if all(_divides(e, other) for other in ends)), None)
        if size is None:
            return None
        strides = []
        for rest in left:
            have, stride = rest.pop()
            strides.append(stride)
            if have != size:
                rest.append((have // size, stride * size))
        out.append((size, strides))
        done = done * size
    return out[::-1]


def _divides(small: Extent, large: Extent) -> bool:
    return small == large or (small != 0 and mod(large, small) == 0)


def _joined(factors: Sequence[Factor]) -> Axis:
    """Without factors of extent 1, and neighbours that run on joined."""
    out: list[Factor] = []
    for extent, stride in factors:
        if extent == 1:
            continue
        if out and out[-1][1] == extent * stride:
            out[-1] = (out[-1][0] * extent, stride)
        else:
            out.append((extent, stride))
    return tuple(out)


def _sliced(axes: Sequence[Axis], node: Node) -> tuple[Extent, tuple[Axis, ...]] | None:
    """(offset, axes) of a slice; None if it cuts through an axis of several factors."""
    base: Extent = 0
    out: list[Axis] = []
    source, attrs = node.inputs[0].shape, node.attrs
    for axis, have, keep, start, step in zip(
        axes, source, node.output.shape, attrs["starts"], attrs["steps"], strict=True
    ):
        if keep == have and start == 0:
            out.append(axis)
        elif len(axis) <= 1:
            stride = axis[0][1] if axis else 0
            base = base + start * stride
            out.append(_joined([(keep, stride * step)]))
        elif keep == 1 and isinstance(start, int):
            index: Extent = start
            for extent, stride in reversed(axis):
                if not isinstance(extent, int):
                    return None
                base = base + index % extent * stride
                index = index // extent
            out.append(())
        else:
            return None
    return base, tuple(out)
