"""A small kernel library for tests of passes: convolutions want channels in blocks of 4, everything else is dense."""

from __future__ import annotations

import numpy as np
from ingot.ir.graph import Node
from ingot.ir.kernels import LayoutChoice
from ingot.ir.layout import DENSE, Layout


class FakeKernels:
    """``ir.kernels.KernelLibrary`` with fixed answers; ``limit`` caps the size of groups."""

    def __init__(self, limit: int = 32) -> None:
        self.limit = limit

    def supports(self, node: Node) -> str | None:
        return None

    def layout_choices(self, node: Node) -> list[LayoutChoice]:
        dense = LayoutChoice(tuple(DENSE for _ in node.inputs), (DENSE,), 1.0)
        if node.op != "conv":
            return [dense]
        halo = ((0, 0), (0, 0), *node.attrs["padding"])
        x = Layout(blocks=((1, 4),), halo=halo if any(h != (0, 0) for h in halo) else ())
        return [LayoutChoice((x, Layout(blocks=((1, 4), (0, 4)))), (Layout(blocks=((1, 4),)),), 1e-6), dense]

    def holds(self, array: np.ndarray, layout: Layout) -> bool:
        return True

    def accepts_epilogue(self, node: Node) -> bool:
        return True

    def max_group(self) -> int:
        return self.limit
