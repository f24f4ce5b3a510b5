"""Structure: placing values in memory (``layout_cast``) and grouping nodes into one kernel (``fused``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import IngotError
from ..registry import Attr, Fusion, OpDef, register
from ..source import UNKNOWN, Source
from ..types import TensorType

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Graph, Node, Value

FUSED_KINDS = ("elementwise", "reduction", "contraction", "attention", "chain")


def _layout_cast_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    # The one operator whose result layout is its purpose.
    return [types[0].with_layout(attrs["layout"])]


def _layout_cast_reference(x: np.ndarray, *, layout: Any) -> np.ndarray:
    return x


def _layout_cast_vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    return [grads[0]]


def _fused_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    raise IngotError("fused: its result types are those of its region; make one with ops.structure.create_fused")


def _fused_reference(*arrays: np.ndarray, kind: str, regions: Sequence[Callable[..., list[np.ndarray]]]) -> Any:
    (run,) = regions
    return tuple(run(*arrays))


def create_fused(
    graph: Graph,
    region: Graph,
    inputs: Sequence[Value],
    kind: str,
    *,
    before: Node | None = None,
    source: Source = UNKNOWN,
    names: Sequence[str] = (),
) -> Node:
    """A ``fused`` node running ``region`` on ``inputs``; result types are the region's output types.

    IngotError if the kind is unknown or the inputs do not fit the region's.
    """
    if kind not in FUSED_KINDS:
        raise IngotError(f"fused: kind must be one of {', '.join(FUSED_KINDS)}, got {kind!r}")
    if len(inputs) != len(region.inputs):
        raise IngotError(f"fused: region {region.name} takes {len(region.inputs)} inputs, got {len(inputs)}")
    for outer, inner in zip(inputs, region.inputs, strict=True):
        if (outer.dtype, outer.shape) != (inner.dtype, inner.shape):
            raise IngotError(f"fused: region input {inner!r} does not fit operand {outer!r}")
    types = [o.type for o in region.outputs]
    return graph.create(
        "fused", inputs, {"kind": kind}, types, names=names, source=source, before=before, regions=[region]
    )


register(
    OpDef(
        "layout_cast",
        infer=_layout_cast_infer,
        reference=_layout_cast_reference,
        fusion=Fusion.OPAQUE,
        attrs={"layout": Attr("layout")},
        vjp=_layout_cast_vjp,
        doc="y = x, stored in another layout",
    )
)

# No gradient rule: differentiation happens before fusion.
register(
    OpDef(
        "fused",
        infer=_fused_infer,
        reference=_fused_reference,
        fusion=Fusion.OPAQUE,
        attrs={"kind": Attr("str")},
        arity=(0, None),
        num_outputs=-1,
        doc="region(inputs...): a group of nodes that becomes one kernel; as many results as the region has outputs",
    )
)
