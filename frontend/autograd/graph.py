"""``autograd.graph``: looking at the recorded graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..tape.nodes import Recorded as Node
from ..tape.nodes import gradient_edge

if TYPE_CHECKING:
    from ..tensor import Tensor


class GradientEdge(NamedTuple):
    """A place in the graph: a node and which of its results."""

    node: Any
    output_nr: int


def get_gradient_edge(tensor: Tensor) -> GradientEdge:
    """Where the gradient of ``tensor`` is computed; RuntimeError if it needs none."""
    edge = gradient_edge(tensor)
    if edge is None:
        raise RuntimeError("It is not possible to get the gradient edge for a Tensor that does not require gradients")
    return GradientEdge(*edge)


__all__ = ["GradientEdge", "Node", "get_gradient_edge"]
