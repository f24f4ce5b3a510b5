"""Operator records by family; importing this package registers all of them."""

from . import contraction, elementwise, indexing, normalisation, pooling, random, reduction, resampling, structure

__all__ = [
    "contraction", "elementwise", "indexing", "normalisation", "pooling", "random", "reduction", "resampling",
    "structure",
]  # fmt: skip
