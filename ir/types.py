"""The type of an IR value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .dims import DimExpr, Extent, product, symbols
from .dtypes import DType
from .layout import DENSE, Layout

Shape = tuple[Extent, ...]


@dataclass(frozen=True)
class TensorType:
    """dtype, logical shape (ints and DimExprs) and physical layout."""

    dtype: DType
    shape: Shape
    layout: Layout = DENSE

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return not any(isinstance(e, DimExpr) for e in self.shape)

    @property
    def elements(self) -> Extent:
        """Number of logical elements."""
        return product(self.shape)

    @property
    def nbytes(self) -> Extent:
        """Bytes as stored: layout padding and halo included."""
        return self.layout.elements(self.shape) * self.dtype.itemsize

    def with_layout(self, layout: Layout) -> TensorType:
        return replace(self, layout=layout)

    def with_dtype(self, dtype: DType) -> TensorType:
        return replace(self, dtype=dtype)

    def with_shape(self, shape: Iterable[Extent]) -> TensorType:
        """This dtype with another shape; dense, since a layout belongs to the shape it was made for."""
        return replace(self, shape=tuple(shape), layout=DENSE)

    def symbols(self) -> frozenset:
        return symbols(self.shape)

    def __str__(self) -> str:
        dims = ", ".join(str(e) for e in self.shape)
        suffix = "" if self.layout.is_dense else f" @{self.layout}"
        return f"{self.dtype.name}[{dims}]{suffix}"
