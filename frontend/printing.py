"""``repr`` of tensors, as PyTorch prints them: aligned columns, scientific notation for wide ranges, long tensors
abbreviated, what is not the default behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from . import promotion

if TYPE_CHECKING:
    from .tensor import Tensor


@dataclass(frozen=True)
class Options:
    """Digits; elements above which the middle is left out; how many are shown at either end; characters per line;
    scientific notation always, never, or (None) where it is needed."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


_PROFILES = {
    "default": Options(), "short": Options(precision=2, edgeitems=2), "full": Options(threshold=math.inf),
}  # fmt: skip
_options = Options()


def set_printoptions(
    precision: int | None = None, threshold: float | None = None, edgeitems: int | None = None,
    linewidth: int | None = None, profile: str | None = None, sci_mode: bool | None = None,
) -> None:  # fmt: skip
    """How tensors print. ``profile`` is "default", "short" or "full"; what is None stays, but for ``sci_mode``."""
    global _options
    start = _options
    if profile is not None:
        start = replace(_PROFILES.get(profile, start), sci_mode=start.sci_mode)
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    _options = replace(start, sci_mode=sci_mode, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


def get_printoptions() -> dict[str, Any]:
    """The options in force."""
    return asdict(_options)


@contextmanager
def printoptions(**kwargs: Any) -> Iterator[None]:
    """``set_printoptions`` for the time of a ``with``."""
    global _options
    before = _options
    set_printoptions(**kwargs)
    try:
        yield
    finally:
        _options = before


class _Formatter:
    """Chooses one number format for a whole tensor and pads every element to one width."""

    def __init__(self, values: np.ndarray, dtype: dtypes.DType) -> None:
        self.floating = dtype.is_floating_point
        self.whole, self.scientific, self.width = True, False, 1
        if not self.floating:
            self.width = max((len(str(v)) for v in values.reshape(-1).tolist()), default=1)
            return
        # Zeros, infinities and NaN have no say in the format or its width.
        values = values.astype(np.float64).reshape(-1)
        finite = values[np.isfinite(values) & (values != 0)]
        if not finite.size:
            return
        size = np.abs(finite)
        low, high = float(size.min()), float(size.max())
        self.whole = bool((finite == np.ceil(finite)).all())
        wide = high / low > 1000.0 or high > 1e8 or low < 1e-4
        self.scientific = wide if _options.sci_mode is None else _options.sci_mode
        self.width = max(len(self._text(v)) for v in finite.tolist())

    def _text(self, value: Any) -> str:
        if not self.floating:
            return str(value)
        if self.scientific:
            return f"{value:.{_options.precision}e}"
        if self.whole:
            return f"{value:.0f}" + ("." if math.isfinite(value) else "")
        return f"{value:.{_options.precision}f}"

    def __call__(self, value: Any) -> str:
        return self._text(value).rjust(self.width)


def _edges(a: np.ndarray) -> np.ndarray:
    """The elements that an abbreviated print shows."""
    edge = _options.edgeitems
    for axis in range(a.ndim):
        if a.shape[axis] > 2 * edge:
            size = a.shape[axis]
            a = a.take([*range(edge), *range(size - edge, size)], axis)
    return a


def _rows(a: np.ndarray, indent: int, short: bool, fmt: _Formatter) -> str:
    if a.ndim == 0:
        return fmt(a.tolist())
    edge = _options.edgeitems
    cut = short and a.shape[0] > 2 * edge
    shown = [*a[:edge], *a[len(a) - edge :]] if cut else list(a)
    if a.ndim == 1:
        items = [fmt(v.tolist()) for v in shown]
        if cut:
            items[edge:edge] = [" ..." if edge else "..."]
        per_line = max(1, (_options.linewidth - indent) // (fmt.width + 2))
        lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)] or [""]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = [_rows(r, indent + 1, short, fmt) for r in shown]
    if cut:
        parts[edge:edge] = ["..."]
    return "[" + ("," + "\n" * (a.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _with_suffixes(text: str, suffixes: list[str], indent: int) -> str:
    """What does not fit on the line goes to the next."""
    used = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if used + len(suffix) + 2 > _options.linewidth:
            text += ",\n" + " " * indent + suffix
            used = indent + len(suffix)
        else:
            text += ", " + suffix
            used += len(suffix) + 2
    return text + ")"


def tensor_repr(t: Tensor) -> str:
    """``tensor([...], dtype=..., requires_grad=True)``; a traced tensor shows its type."""
    if t._value is not None:
        return f"tensor(<traced {t.dtype.name}[{', '.join(map(str, t.shape))}]>)"
    array, suffixes = t._data, []
    # Parameters and buffers print as tensors; other subclasses name themselves.
    prefix = ("tensor" if type(t).__module__.startswith(_PACKAGE) else type(t).__name__) + "("
    implied = t.dtype is promotion.get_default_dtype()
    if array.size == 0:
        body = "[]"
        if t.dim() != 1:
            suffixes.append(f"size={tuple(array.shape)}")
    else:
        short = array.size > _options.threshold
        body = _rows(array, len(prefix), short, _Formatter(_edges(array) if short else array, t.dtype))
        implied = implied or t.dtype in (dtypes.int64, dtypes.bool_)
        if not _options.edgeitems:
            suffixes.append(f"size={tuple(array.shape)}")
    if not implied:
        suffixes.append(f"dtype={t.dtype!r}")
    node = t.grad_fn
    if node is not None:
        suffixes.append(f"grad_fn=<{node.name}>")
    elif t.requires_grad:
        suffixes.append("requires_grad=True")
    return _with_suffixes(prefix + body, suffixes, len(prefix))


_PACKAGE = __name__.rpartition(".")[0]
