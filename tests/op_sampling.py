"""What the operator cases are made of: the ``Case`` record and the samplers of operand values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ingot.ir.dtypes import DType, bool_, dtype_from_numpy, float32, float64

MARGIN = 0.05


@dataclass(frozen=True)
class Case:
    """One application: operands in order and the attributes that are not at their default.

    ``special``: operands hold NaN, infinities or extremes, or the result may overflow.
    ``undefined``: defined by Ingot's reference but not by PyTorch (or it raises there).
    ``depth``: terms in the longest sum, for ``dtypes.tolerance``.
    """

    op: str
    label: str
    inputs: tuple[np.ndarray, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    special: bool = False
    undefined: bool = False
    depth: int = 1

    @property
    def dtype(self) -> DType:
        """Of the last operand (float32 if there is none)."""
        return dtype_from_numpy(self.inputs[-1].dtype) if self.inputs else float32

    def __str__(self) -> str:
        operands = ", ".join(f"{a.dtype}{list(a.shape)}" for a in self.inputs)
        attrs = ", ".join(f"{k}={v!r}" for k, v in self.attrs.items())
        return f"{self.op}({operands}; {attrs}) [{self.label}]"


def sample(
    rng: np.random.Generator, shape: Sequence[int], dtype: DType, low: float = -4, high: float = 4
) -> np.ndarray:
    """Uniform values in [low, high) cut to the dtype's range; fair coins for bool."""
    if dtype is bool_:
        return rng.random(shape) < 0.5
    if dtype.is_integer:
        return rng.integers(max(int(low), dtype.min), max(int(high), 1), shape).astype(dtype.numpy)
    return np.asarray(rng.uniform(low, high, shape)).astype(dtype.numpy)


def distinct(rng: np.random.Generator, shape: Sequence[int], dtype: DType = float64) -> np.ndarray:
    """Values at least 2 * MARGIN from each other and MARGIN from 0, in random order."""
    n = int(np.prod(shape, dtype=int))
    values = (rng.permutation(n) - n // 2 + 0.5) * 2.2 * MARGIN
    return values.reshape(shape).astype(dtype.numpy)


def away_from(rng: np.random.Generator, shape: Sequence[int], kinks: Sequence[float], span: float = 3.0) -> np.ndarray:
    """Float64 values in [-span, span] no nearer than MARGIN to any kink."""
    x = rng.uniform(-span, span, shape)
    for k in kinks:
        x = np.where(np.abs(x - k) < MARGIN, k + MARGIN * 1.5 * np.where(x < k, -1, 1), x)
    return x


_SPECIAL_FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, -3.0, 6.0, 20.0, 20.5, 1e-3, -1e-3, 1e-8, -1e-8,
    10.0, -10.0, 80.0, -80.0, 200.0, -200.0, 1000.25, -1000.25, 1e30, -1e30, 1e300, -1e300,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip


def special_values(dtype: DType) -> np.ndarray:
    """Zeros of both signs, halves, saturation points, subnormals, extremes, infinities, NaN."""
    if dtype is bool_:
        return np.array([False, True])
    if dtype.is_integer:
        picks = {dtype.min, dtype.min + 1, -2, -1, 0, 1, 2, 7, dtype.max - 1, dtype.max}
        return np.array(sorted(p for p in picks if dtype.min <= p), dtype.numpy)
    tiny = {16: 6e-8, 32: 1e-45, 64: 5e-324}[dtype.bits] if dtype.name != "bfloat16" else 1e-40
    edge = [tiny, -tiny, dtype.min, dtype.max, dtype.eps, 1 + dtype.eps]
    with np.errstate(all="ignore"):
        return np.array([*_SPECIAL_FLOATS, *edge]).astype(dtype.numpy)
