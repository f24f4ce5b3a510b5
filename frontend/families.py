"""The operator families. Each module says what it offers: ``FUNCTIONS`` of the package, ``METHODS`` of Tensor, and
functions that have an ``IN_PLACE`` method (``add`` gives ``Tensor.add_``)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from . import (
    creation,
    dispatch,
    elementwise,
    joining,
    linalg,
    picking,
    placing,
    random,
    reduce,
    shaping,
    triangles,
    viewing,
)

FAMILIES: tuple[ModuleType, ...] = (
    creation, elementwise, joining, linalg, picking, placing, random, reduce, shaping, triangles, viewing,
)  # fmt: skip


def attach(cls: type) -> None:
    """Give the class of tensors its methods."""
    for family in FAMILIES:
        for name in family.METHODS:
            setattr(cls, name, getattr(family, name))
        for name in family.IN_PLACE:
            setattr(cls, f"{name}_", dispatch.inplace(getattr(family, name), f"{name}_"))


def functions() -> dict[str, Any]:
    """Every public function by name."""
    return {name: getattr(family, name) for family in FAMILIES for name in family.FUNCTIONS}
