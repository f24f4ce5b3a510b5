"""What passes may ask about kernels; implemented in ``codegen/`` and handed in by the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .graph import Node
from .layout import Layout

# How exact kernels have to be: "float32": no worse against float64 than an ordinary float32 kernel; "float32-fast":
# relative L2 error of a kernel on normal inputs up to 1e-5; "bfloat16": products of operands rounded to bfloat16.
PRECISIONS = ("float32", "float32-fast", "bfloat16")

# About the rate of layout casts, reads and writes together; only the comparison with kernel estimates matters.
CAST_BYTES_PER_SECOND = 8e9


@dataclass(frozen=True)
class LayoutChoice:
    """Layouts one kernel variant wants: one per operand and result; ``cost`` in estimated seconds. An operand that
    should have a form must be a constant for the variant to apply, and one that the form holds."""

    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    cost: float
    reason: str = ""


class KernelLibrary(Protocol):
    """Answers for one target."""

    def supports(self, node: Node) -> str | None:
        """None if a kernel exists for the node as it stands (layouts included), else the reason."""

    def layout_choices(self, node: Node) -> list[LayoutChoice]:
        """Layouts in which the node can run, best first; dense is always among them if supported at all."""

    def holds(self, array: np.ndarray, layout: Layout) -> bool:
        """Whether the form of ``layout`` stands for the constant ``array`` with the error that forms may have."""

    def accepts_epilogue(self, node: Node) -> bool:
        """Whether an elementwise chain may be fused behind this contraction."""

    def max_group(self) -> int:
        """Cap on the number of nodes in one fused group."""
