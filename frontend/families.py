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


# In-place methods that PyTorch also has as functions.
_IN_PLACE_FUNCTIONS = (
    "abs_", "acos_", "acosh_", "addmv_", "arccos_", "arccosh_", "arcsin_", "arcsinh_", "arctan_", "arctanh_",
    "as_strided_", "asin_", "asinh_", "atan_", "atanh_", "ceil_", "clamp_", "clamp_max_", "clamp_min_", "clip_",
    "cos_", "cosh_", "deg2rad_", "detach_", "erf_", "erfc_", "exp2_", "exp_", "expm1_", "fix_", "floor_", "frac_",
    "gcd_", "i0_", "index_put_", "lcm_", "ldexp_", "log10_", "log1p_", "log2_", "log_", "logit_", "nan_to_num_",
    "neg_", "negative_", "rad2deg_", "reciprocal_", "relu_", "resize_as_", "round_", "rsqrt_", "sigmoid_", "sin_",
    "sinc_", "sinh_", "sqrt_", "square_", "tan_", "tanh_", "trunc_", "xlogy_",
)  # fmt: skip


def _in_place_function(name: str) -> Any:
    def fn(input: Any, *args: Any, **kwargs: Any) -> Any:
        dispatch.require_tensor(input, name)
        return getattr(input, name)(*args, **kwargs)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"``input.{name}(...)``."
    return fn


def functions() -> dict[str, Any]:
    """Every public function by name; those that have an ``out`` argument in PyTorch take it."""
    found = {name: _in_place_function(name) for name in _IN_PLACE_FUNCTIONS}
    found |= {name: getattr(family, name) for family in FAMILIES for name in family.FUNCTIONS}
    found.update({name: getattr(autocasting, name) for name in autocasting.FUNCTIONS})
    return {
        name: out.accepting_out(name, fn) if name in out.FUNCTIONS and not _takes_out(fn) else fn
        for name, fn in autocasting.policies(found, __package__).items()
    }


def _takes_out(fn: Any) -> bool:
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return code is None or "out" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
