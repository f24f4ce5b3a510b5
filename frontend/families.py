"""The operator families. Each module says what it offers: ``FUNCTIONS`` of the package, ``METHODS`` of Tensor, and
functions that have an ``IN_PLACE`` method (``add`` gives ``Tensor.add_``)."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from . import (
    attributes,
    autocasting,
    creation,
    dispatch,
    distance,
    einsum,
    elementary,
    elementwise,
    inplace_views,
    joining,
    linalg,
    matrices,
    ordering,
    out,
    picking,
    placing,
    random,
    reduce,
    scans,
    shaping,
    statistics,
    triangles,
    viewing,
)

FAMILIES: tuple[ModuleType, ...] = (
    attributes, creation, distance, einsum, elementary, elementwise, inplace_views, joining, linalg, matrices,
    ordering, picking, placing, random, reduce, scans, shaping, statistics, triangles, viewing,
)  # fmt: skip


def attach(cls: type) -> None:
    """Give the class of tensors its methods."""
    for family in FAMILIES:
        for name in family.METHODS:
            setattr(cls, name, autocasting.with_policy(name, getattr(family, name)))
        for name in family.IN_PLACE:
            fn = getattr(family, name)
            if hasattr(fn, "called"):  # its warnings name it
                fn = fn.called(f"{name}_")
            setattr(cls, f"{name}_", dispatch.inplace(fn, f"{name}_"))


def functions() -> dict[str, Any]:
    """Every public function by name; those that have an ``out`` argument in PyTorch take it."""
    found = {name: getattr(family, name) for family in FAMILIES for name in family.FUNCTIONS}
    found.update({name: getattr(autocasting, name) for name in autocasting.FUNCTIONS})
    return {
        name: out.accepting_out(name, fn) if name in out.FUNCTIONS and not _takes_out(fn) else fn
        for name, fn in autocasting.policies(found).items()
    }


def _takes_out(fn: Any) -> bool:
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return code is None or "out" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
