"""What a lowering returns: one kernel, how its buffers and extents map to the graph, and its cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.dims import Extent
from ...ir.graph import Node, Value
from ..loopir import LoopFunction


@dataclass
class LoweredKernel:
    """A node (or fused group) turned into one kernel.

    Attributes:
        function: the loop IR; its buffers are ``values`` in order.
        values: the node's operands and results that the kernel touches, one per buffer.
        extents: expressions the kernel receives behind its buffers.
        trip: extent of the outermost (parallel) loop; ``grain``: iterations below which splitting over
            threads does not pay (cost rule: about 10 microseconds of estimated work).
        schedule: one readable line: what was chosen and why.
        flops, bytes: what the kernel really does, at the upper bounds of symbolic extents (Winograd: the products
            that are left; tiles: every one of the products per term).
        inplace: result position -> operand position that may share its memory (same index read before
            written, nothing else reads it).
    """

    node: Node
    function: LoopFunction
    values: list[Value]
    extents: tuple[Extent, ...]
    trip: Extent
    grain: int = 1
    schedule: str = ""
    flops: float = 0.0
    bytes: float = 0.0
    inplace: dict[int, int] = field(default_factory=dict)
