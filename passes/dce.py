"""Dead code elimination: removes every node whose results nobody uses."""

from __future__ import annotations

from ..ir.graph import Graph
from .manager import Pass, PassContext


class DeadCodeElimination(Pass):
    """All operators are pure, so one backward walk over the use lists finds everything."""

    name = "dce"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        return graph.prune()
