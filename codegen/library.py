"""The answers that passes ask for: which kernels exist, which layouts they want (``ir.kernels.KernelLibrary``)."""

from __future__ import annotations

import numpy as np

from ..ir import registry
from ..ir.graph import Node
from ..ir.kernels import LayoutChoice
from ..ir.layout import Layout
from ..ir.registry import Fusion
from ..ir.target import Target
from . import fixed_point, strassen
from .layouts import layout_choices
from .lower import chain_plan, table
from .tile_layouts import missing_unit


class NativeKernels:
    """The kernel library for one target and precision (``ir.kernels.PRECISIONS``)."""

    def __init__(self, target: Target, precision: str = "float32") -> None:
        self.target = target
        self.precision = precision

    def supports(self, node: Node) -> str | None:
        """None if ``node`` should be lowered as it stands, else the reason."""
        record = registry.get(node.op)
        if record.decompose is not None and record.fusion is not Fusion.ELEMENTWISE:
            return "its parts fuse with their neighbours"
        if node.op == "fused" and node.attrs["kind"] == "chain":
            reason = chain_plan.worth(node, self.target)
            if reason is not None:
                return reason
        return table.supports(node, self.target)

    def layout_choices(self, node: Node) -> list[LayoutChoice]:
        return layout_choices(node, self.target, self.precision)

    def holds(self, array: np.ndarray, layout: Layout) -> bool:
        """Whether the form of ``layout`` stands for the constant ``array`` with the error that forms may have."""
        if layout.form in strassen.FORMS:
            return strassen.holds(array, layout.form)
        return layout.form not in fixed_point.FORMS or fixed_point.holds(array, layout.form)

    def limits(self) -> str:
        """What keeps the precision from its fastest kernels on this target, "" if nothing does."""
        return missing_unit(self.target, self.precision)

    def accepts_epilogue(self, node: Node) -> bool:
        """Every contraction kernel runs an elementwise chain on its accumulators."""
        return True

    def max_group(self) -> int:
        """Larger groups make basic blocks on which LLVM's time grows faster than linearly."""
        return 48
