"""Matrix products as contractions: rows of A are broadcast, columns of B run along the lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...ir.dims import Extent, product
from ...ir.graph import Value
from ...ir.target import Target
from ..contraction import Axis, Contraction, Operand, Prepare, Segment
from ..loopir import LoopBuilder, Val
from ..schedule import ContractionSchedule, upper
from .contraction_operands import ONE, OutAxis, Placed
from .position import Extents

if TYPE_CHECKING:
    from .contraction import Group, Plan

_MOST_SCRATCH = 4 << 20  # bytes of a copied panel (at 64 columns)


def plan_matmul(group: Group, target: Target) -> list[Plan]:
    """``matmul`` for dense A and dense or packed B."""
    from .contraction import Plan

    core, out = group.core, group.core.output
    a, b = (Placed(v.type) for v in group.operands)
    lanes = target.lanes(out.dtype)
    a_rank, b_rank, rank = a.type.rank, b.type.rank, out.type.rank
    ta, tb = core.attrs["transpose_a"], core.attrs["transpose_b"]
    a_m, a_k = (a_rank - 1, a_rank - 2) if ta else (a_rank - 2, a_rank - 1)
    b_k, b_n = (b_rank - 1, b_rank - 2) if tb else (b_rank - 2, b_rank - 1)
    block = b.blocks.get(b_n)
    nb = block // lanes if block else None
    depth = a.type.shape[a_k]
    a_strides: dict[str, Extent] = {"row": a.stride(a_m), "k": a.stride(a_k)}
    b_strides: dict[str, Extent] = {"k": b.stride(b_k)}
    outer, axes = [], []
    for i in range(rank - 2):
        name = f"batch{i}"
        outer.append(Axis(name, out.shape[i]))
        axes.append(OutAxis(((name, 1),)))
        for placed, strides, r in ((a, a_strides, a_rank), (b, b_strides, b_rank)):
            axis = i - (rank - r)
            if axis >= 0 and placed.type.shape[axis] != 1:
                strides[name] = placed.stride(axis)
    axes += [OutAxis((("row", 1),)), OutAxis(vector=True)]
    m = (Axis("row", out.shape[-2]), ONE)
    batched = any(name.startswith("batch") for name in b_strides)
    prepared = block is None and _pays_to_copy(b, b_k, b_n, out.shape, batched)

    def make(lanes: int, nb: int, outs: tuple[Operand, ...], extras: tuple[Operand, ...]) -> Contraction:
        right = Operand(b.origin, b_strides, **b.along_n(b_n, lanes, nb))
        if prepared:
            right = Operand(0, {"k": lanes * nb}, 0, lanes, 1, padded=True)
        return Contraction(
            out.dtype,
            tuple(outer),
            m,
            out.shape[-1],
            (Segment((Axis("k", depth),)),),
            Operand(a.origin, a_strides),
            right,
            outs,
            extras,
            joinable=not (prepared and batched),
        )

    def panel(
        builder: LoopBuilder, extents: Extents, pointers: dict[Value, Val], s: ContractionSchedule
    ) -> tuple[Val, Prepare]:
        width = s.lanes * s.nb
        source = pointers[group.operands[1]]
        scratch = builder.scratch(source.dtype, upper(depth) * width)
        sk, sn = extents(b.stride(b_k)), extents(b.stride(b_n))

        def fill(at: Mapping[str, Any], masks: list[Val | None]) -> None:
            offset = builder.iadd(extents(b.origin), builder.imul(at["panel"], extents(width * b.stride(b_n))))
            for axis in outer:
                if axis.name in b_strides:
                    offset = builder.iadd(offset, builder.imul(at[axis.name], extents(b_strides[axis.name])))
            start = builder.at(source, offset)
            if isinstance(sk, int) and sk == 1 and s.lanes > 1:
                width_left = builder.isub(extents(out.shape[-1]), builder.imul(at["panel"], width))
                _transpose(builder, start, scratch, extents(depth), sn, builder.imin(width_left, width), width, s.lanes)
                return

            def row(k: Any) -> None:
                src, dst = builder.at(start, builder.imul(k, sk)), builder.at(scratch, builder.imul(k, width))
                for j, mask in enumerate(masks):
                    value = builder.load(src, builder.imul(j * s.lanes, sn), s.lanes, sn, mask)
                    builder.store(dst, value, j * s.lanes)

            builder.loop(0, extents(depth), row)

        return scratch, fill

    return [Plan(make, tuple(axes), nb, out.shape[-1], upper(depth), panel if prepared else None)]


def _transpose(
    b: LoopBuilder, source: Val, scratch: Val, depth: Any, pitch: Any, columns: Any, width: int, lanes: int
) -> None:
    """scratch[k * width + n] = source[n * pitch + k]: every line of the source is read once, by whole vectors."""
    whole = b.imul(b.idiv(depth, lanes), lanes)

    def block(k: Any) -> None:
        src, dst = b.at(source, k), b.at(scratch, b.imul(k, width))
        b.loop(0, columns, lambda n: b.store(b.at(dst, n), b.load(src, b.imul(n, pitch), lanes), 0, width))

    def rest(k: Any) -> None:
        src, dst = b.at(source, k), b.at(scratch, b.imul(k, width))
        b.loop(0, columns, lambda n: b.store(dst, b.load(src, b.imul(n, pitch)), n))

    b.loop(0, whole, block, step=lanes)
    b.loop(whole, depth, rest)


def _pays_to_copy(b: Placed, k: int, n: int, shape: Sequence[Extent], batched: bool) -> bool:
    """Whether each panel of B is first copied to scratch: columns that are not contiguous, or so far apart that every
    row of the panel is on another page, read by enough rows of A."""
    depth, size = b.type.shape[k], b.type.dtype.itemsize
    if not isinstance(depth, int) or depth * 64 * size > _MOST_SCRATCH:
        return False
    if b.stride(n) != 1:
        return True
    rows = upper(shape[-2]) if batched else upper(product(shape[:-1]))
    pitch = b.stride(k)
    return isinstance(pitch, int) and pitch * size >= 1024 and rows >= 64
