"""``repr`` of tensors: four digits, aligned columns, long tensors abbreviated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes

if TYPE_CHECKING:
    from .tensor import Tensor

PRECISION, THRESHOLD, EDGE, WIDTH = 4, 1000, 3, 80


class _Formatter:
    """Chooses one number format for a whole tensor and pads every element to one width."""

    def __init__(self, values: np.ndarray, dtype: dtypes.DType) -> None:
        self.floating = dtype.is_floating_point
        self.whole = self.scientific = False
        measured = values.reshape(-1)
        if self.floating:
            # As in PyTorch, zeros, infinities and NaN have no say in the format or its width.
            finite = measured = values[np.isfinite(values) & (values != 0)].astype(np.float64)
            if finite.size:
                size = np.abs(finite)
                low, high = float(size.min()), float(size.max())
                self.whole = bool((finite == np.ceil(finite)).all())
                # Wide ranges and extreme magnitudes print in scientific notation.
                self.scientific = high / low > 1000.0 or high > 1e8 or (not self.whole and low < 1e-4)
            else:
                self.whole = True
        self.width = max((len(self._text(v)) for v in measured), default=1)

    def _text(self, value: Any) -> str:
        if not self.floating:
            return str(value)
        number = float(value)
        if self.scientific:
            return f"{number:.{PRECISION}e}"
        if self.whole:
            return f"{number:.0f}" + ("." if math.isfinite(number) else "")
        return f"{number:.{PRECISION}f}"

    def __call__(self, value: Any) -> str:
        return self._text(value).rjust(self.width)


def _edges(a: np.ndarray) -> np.ndarray:
    """The elements that an abbreviated print shows."""
    for axis in range(a.ndim):
        if a.shape[axis] > 2 * EDGE:
            a = np.concatenate([a.take(range(EDGE), axis), a.take(range(-EDGE, 0), axis)], axis)
    return a


def _rows(a: np.ndarray, indent: int, short: bool, fmt: _Formatter) -> str:
    if a.ndim == 0:
        return fmt(a[()])
    cut = short and a.shape[0] > 2 * EDGE
    if a.ndim == 1:
        items = [fmt(v) for v in (a[:EDGE] if cut else a)]
        if cut:
            items += [" ...", *(fmt(v) for v in a[-EDGE:])]
        per_line = max(1, (WIDTH - indent) // (fmt.width + 2))
        lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)] or [""]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = [_rows(r, indent + 1, short, fmt) for r in (a[:EDGE] if cut else a)]
    if cut:
        parts += ["...", *(_rows(r, indent + 1, short, fmt) for r in a[-EDGE:])]
    return "[" + ("," + "\n" * (a.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def tensor_repr(t: Tensor) -> str:
    """``tensor([...], dtype=..., requires_grad=True)``; a traced tensor shows its type."""
    if t._value is not None:
        return f"tensor(<traced {t.dtype.name}[{', '.join(map(str, t.shape))}]>)"
    array, suffixes = t._data, []
    if array.size == 0:
        body = "[]"
        if t.dim() != 1:
            suffixes.append(f"size={tuple(array.shape)}")
    else:
        short = array.size > THRESHOLD
        body = _rows(array, len("tensor("), short, _Formatter(_edges(array) if short else array, t.dtype))
    implied = t.dtype in (dtypes.int64, dtypes.bool_) and array.size
    if t.dtype is not dtypes.float32 and not implied:
        suffixes.append(f"dtype={t.dtype!r}")
    node = t.grad_fn
    if node is not None:
        suffixes.append(f"grad_fn=<{node.name}>")
    elif t.requires_grad:
        suffixes.append("requires_grad=True")
    return "tensor(" + ", ".join([body, *suffixes]) + ")"
