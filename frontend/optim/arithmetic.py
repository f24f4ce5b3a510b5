"""Functions that update rules use on tensors (traced, or eager with a history), on arrays (eager) and on numbers.

A rule written with these and Python's operators runs eagerly on NumPy arrays without any dispatch, and is recorded when
it is called with traced tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import elementwise
from ..tensor import Tensor


def _function(name: str) -> Callable[[Any], Any]:
    tensors, arrays, numbers = getattr(elementwise, name), getattr(np, name), getattr(math, name)

    def fn(x: Any) -> Any:
        if isinstance(x, Tensor):
            return tensors(x)
        return numbers(x) if isinstance(x, (int, float)) else arrays(x)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"{name} of a tensor, array or number."
    return fn


sqrt = _function("sqrt")
exp = _function("exp")
expm1 = _function("expm1")


def sign(x: Any) -> Any:
    """-1, 0 or 1 per element."""
    return elementwise.sign(x) if isinstance(x, Tensor) else np.sign(x)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two; of arrays and tensors NaN wins. A number may stand for a tensor."""
    if isinstance(a, Tensor):
        return elementwise.maximum(a, b) if isinstance(b, Tensor) else elementwise.clamp(a, min=b)
    return max(a, b) if isinstance(a, (int, float)) else np.maximum(a, b)


def clamp(x: Any, low: float, high: float) -> Any:
    """Limits elements to [low, high]."""
    return elementwise.clamp(x, low, high) if isinstance(x, Tensor) else np.clip(x, low, high)


def where(condition: Any, a: Any, b: Any) -> Any:
    """Per element ``a`` where the condition holds, else ``b``; one of them may be a number."""
    return elementwise.where(condition, a, b) if isinstance(condition, Tensor) else np.where(condition, a, b)


def choose(condition: Any, then: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """A branch on a 0-d condition: traced, both sides are computed."""
    if isinstance(condition, Tensor):
        return elementwise.where(condition, then(), other())
    return then() if condition else other()


def number(x: Any) -> Any:
    """A 0-d state as an exact number to compute with (traced: itself), so that a float32 step count does not round
    what is computed from it."""
    return x if isinstance(x, Tensor) else float(x)


def given(option: Any) -> bool:
    """Whether an option takes part: a Tensor always does, a number if it is not 0."""
    return isinstance(option, Tensor) or option != 0
