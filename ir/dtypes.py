"""Element types: one record per dtype, promotion and the tolerances that follow from precision.

There is one object per type, so ``is`` compares them. ``repr`` is PyTorch's spelling because users see
it (``torch.float32``); ``name`` is what the IR text, artefacts and error messages of the compiler use.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np


@dataclass(frozen=True, eq=False)
class DType:
    """One element type.

    Attributes:
        name: canonical name, e.g. ``"float32"``.
        kind: ``"f"`` floating, ``"i"`` signed, ``"u"`` unsigned, ``"b"`` boolean.
        bits: storage width (``bool`` is stored in 8 bits, 0 or 1).
        numpy: the NumPy dtype that holds it (bfloat16 comes from ml_dtypes).
    """

    name: str
    kind: str
    bits: int
    numpy: np.dtype = field(repr=False)

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __str__(self) -> str:
        return repr(self)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (dtype_from_name, (self.name,))

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.bits // 8

    @property
    def is_floating_point(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_signed(self) -> bool:
        return self.kind in "fi"

    @property
    def eps(self) -> float:
        """Spacing of the floating type at 1.0; 0 for other kinds."""
        if self.kind != "f":
            return 0.0
        return float(ml_dtypes.finfo(self.numpy).eps)

    @property
    def min(self) -> float | int:
        if self.kind == "f":
            return float(ml_dtypes.finfo(self.numpy).min)
        return 0 if self.kind == "b" else int(np.iinfo(self.numpy).min)

    @property
    def max(self) -> float | int:
        if self.kind == "f":
            return float(ml_dtypes.finfo(self.numpy).max)
        return 1 if self.kind == "b" else int(np.iinfo(self.numpy).max)

    @property
    def accumulator(self) -> DType:
        """The type in which kernels and references accumulate sums of this type."""
        if self.kind == "f":
            return float32 if self.bits < 32 else self
        return int64


def _make(name: str, kind: str, bits: int, np_type: object) -> DType:
    return DType(name, kind, bits, np.dtype(np_type))  # type: ignore[call-overload]


float64 = _make("float64", "f", 64, np.float64)
float32 = _make("float32", "f", 32, np.float32)
float16 = _make("float16", "f", 16, np.float16)
bfloat16 = _make("bfloat16", "f", 16, ml_dtypes.bfloat16)
int64 = _make("int64", "i", 64, np.int64)
int32 = _make("int32", "i", 32, np.int32)
int16 = _make("int16", "i", 16, np.int16)
int8 = _make("int8", "i", 8, np.int8)
uint64 = _make("uint64", "u", 64, np.uint64)
uint32 = _make("uint32", "u", 32, np.uint32)
uint16 = _make("uint16", "u", 16, np.uint16)
uint8 = _make("uint8", "u", 8, np.uint8)
bool_ = _make("bool", "b", 8, np.bool_)

ALL: tuple[DType, ...] = (
    float64, float32, float16, bfloat16, int64, int32, int16, int8, uint64, uint32, uint16, uint8, bool_,
)  # fmt: skip
_BY_NAME = {d.name: d for d in ALL}
_BY_NUMPY = {d.numpy: d for d in ALL}


def dtype_from_name(name: str) -> DType:
    """The dtype called ``name`` (``"float32"``); KeyError-like ValueError for an unknown name."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ValueError(f"unknown dtype {name!r}; known: {', '.join(_BY_NAME)}") from None


def dtype_from_numpy(np_type: object) -> DType:
    """The dtype that stores ``np_type``; TypeError if Ingot has none (complex, object, strings)."""
    key = np.dtype(np_type)  # type: ignore[call-overload]
    try:
        return _BY_NUMPY[key.newbyteorder("=")]
    except KeyError:
        raise TypeError(f"no Ingot dtype for NumPy dtype {key}; supported: {', '.join(_BY_NAME)}") from None


def promote(a: DType, b: DType) -> DType:
    """The type of ``a op b`` for two tensors of equal rank class (PyTorch's promotion lattice)."""
    if a is b:
        return a
    if a.kind == "f" or b.kind == "f":
        if a.kind != "f":
            return b
        if b.kind != "f":
            return a
        if a.bits == b.bits:  # float16 with bfloat16
            return float32
        return a if a.bits > b.bits else b
    if a.kind == "b":
        return b
    if b.kind == "b":
        return a
    if a.kind == b.kind:
        return a if a.bits > b.bits else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    if unsigned is uint8:
        return int16
    wider = {16: int32, 32: int64}.get(unsigned.bits)
    if wider is None:
        raise TypeError(f"no common type for {a.name} and {b.name}")
    return wider


def tolerance(dtype: DType, depth: int = 1) -> tuple[float, float]:
    """(rtol, atol) for comparing a result of ``dtype`` with its float64 reference.

    ``depth`` is the number of accumulated terms of the longest sum; the bound grows with its square
    root, the usual statistical growth of rounding error.
    """
    if dtype.kind != "f":
        return 0.0, 0.0
    scale = dtype.eps * 8.0 * max(1.0, float(depth) ** 0.5)
    return scale, scale
