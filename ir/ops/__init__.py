"""Operator records by family; importing this package registers all of them."""

from . import (
    contraction,
    elementary,
    elementwise,
    indexing,
    matrices,
    normalisation,
    ordering,
    pooling,
    random,
    reduction,
    resampling,
    scans,
    scattering,
    strided,
    structure,
)

__all__ = [
    "contraction", "elementary", "elementwise", "indexing", "matrices", "normalisation", "ordering", "pooling",
    "random", "reduction", "resampling", "scans", "scattering", "strided", "structure",
]  # fmt: skip
