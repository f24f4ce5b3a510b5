"""Operator records by family; importing this package registers all of them."""

from . import elementwise, indexing, random, reduction

__all__ = ["elementwise", "indexing", "random", "reduction"]
