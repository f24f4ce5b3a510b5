"""Matrix products as contractions: rows of A are broadcast, columns of B run along the lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.dims import Extent
from ...ir.target import Target
from ..contraction import Axis, Contraction, Operand, Segment
from ..schedule import upper
from .contraction_operands import ONE, OutAxis, Placed

if TYPE_CHECKING:
    from .contraction import Group, Plan


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

    def make(lanes: int, nb: int, outs: tuple[Operand, ...], extras: tuple[Operand, ...]) -> Contraction:
        return Contraction(
            out.dtype, tuple(outer), m, out.shape[-1], (Segment((Axis("k", depth),)),), Operand(a.origin, a_strides),
            Operand(b.origin, b_strides, **b.along_n(b_n, lanes, nb)), outs, extras,  # type: ignore[arg-type]
        )  # fmt: skip

    return [Plan(make, tuple(axes), nb, out.shape[-1], upper(depth))]
