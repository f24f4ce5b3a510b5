"""Generated values: constants, index ramps and random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..dims import Extent
from ..dtypes import DType, dtype_from_numpy, float32, float64, int64
from ..errors import DTypeError, ShapeError
from ..registry import Attr, Fusion, OpDef, register
from ..types import TensorType
from .common import check_axis, is_nonnegative, show


def _check_shape(op: str, shape: Sequence[Extent]) -> tuple[Extent, ...]:
    if not all(is_nonnegative(e) for e in shape):
        raise ShapeError(f"{op}: extents of attribute shape must be >= 0, got {show(shape)}")
    return tuple(shape)


# -- constant -----------------------------------------------------------------------------------------
def _constant_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    value = np.asarray(attrs["value"])
    try:
        return [TensorType(dtype_from_numpy(value.dtype), value.shape)]
    except TypeError as error:
        raise DTypeError(f"constant: {error}") from None


register(
    OpDef(
        "constant",
        infer=_constant_infer,
        reference=lambda value: np.asarray(value),
        fusion=Fusion.CONSTANT,
        attrs={"value": Attr("array")},
        arity=(0, 0),
        doc="the array value",
    )
)


# -- iota ---------------------------------------------------------------------------------------------
def _iota_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    shape = _check_shape("iota", attrs["shape"])
    check_axis("iota", attrs["axis"], len(shape))
    if not isinstance(attrs["dtype"], DType) or attrs["dtype"].kind == "b":
        raise DTypeError(f"iota: attribute dtype must be a numeric Ingot dtype, got {attrs['dtype']!r}")
    return [TensorType(attrs["dtype"], shape)]


def _iota(shape: tuple[int, ...], axis: int, dtype: DType) -> np.ndarray:
    ramp = np.arange(shape[axis], dtype=np.int64).astype(dtype.numpy)
    return np.broadcast_to(ramp.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape).copy()


register(
    OpDef(
        "iota",
        infer=_iota_infer,
        reference=_iota,
        fusion=Fusion.CONSTANT,
        attrs={"shape": Attr("extents"), "axis": Attr("int"), "dtype": Attr("dtype")},
        arity=(0, 0),
        doc="each element's index along axis",
    )
)


# -- random_uniform -----------------------------------------------------------------------------------
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox(counters: np.ndarray, seed: int, upper: int = 0) -> np.ndarray:
    """Philox4x32-10: four random uint32 words per counter.

    Args:
        counters: uint64 [n], the low two counter words; ``upper`` is the third, the fourth is 0.
        seed: int64 whose low and high words are the key.

    Returns:
        uint32 [n, 4].
    """
    seed %= 1 << 64
    key = [seed & 0xFFFFFFFF, seed >> 32]
    c0, c1 = counters & _LOW, counters >> _32
    c2, c3 = np.full_like(c0, upper), np.zeros_like(c0)
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _32) ^ c1 ^ np.uint64(key[0]),
            product1 & _LOW,
            (product0 >> _32) ^ c3 ^ np.uint64(key[1]),
            product0 & _LOW,
        )
        key = [(k + step) & 0xFFFFFFFF for k, step in zip(key, _KEY_STEPS, strict=True)]
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def _uniform_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (state,) = types
    if state.dtype is not int64 or state.shape != (2,):
        raise ShapeError(f"random_uniform: the state must be int64[2] (seed, offset), got {state}")
    if attrs["dtype"] not in (float32, float64):
        raise DTypeError(f"random_uniform: dtype must be float32 or float64, got {attrs['dtype']!r}; cast the result")
    return [TensorType(attrs["dtype"], _check_shape("random_uniform", attrs["shape"]))]


def _uniform(state: np.ndarray, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    seed, offset = (int(s) for s in state)
    blocks = np.arange((count + 3) // 4, dtype=np.uint64) + np.uint64(offset % (1 << 64))
    words = philox(blocks, seed).reshape(-1)[:count]
    if dtype is float32:
        values = (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    else:
        fine = philox(blocks, seed, upper=1).reshape(-1)[:count].astype(np.uint64)
        bits = (words.astype(np.uint64) << np.uint64(21)) | (fine >> np.uint64(11))
        values = bits.astype(np.float64) * 2.0**-53
    return values.reshape(shape)


register(
    OpDef(
        "random_uniform",
        infer=_uniform_infer,
        reference=_uniform,
        fusion=Fusion.OPAQUE,
        attrs={"shape": Attr("extents"), "dtype": Attr("dtype")},
        doc="uniform on [0, 1): Philox4x32-10 with key = the words of state[0] (seed) and counter state[1] + i // 4; "
        "element i takes word i % 4, its top 24 bits for float32; float64 takes all 32 bits and below them the top "
        "21 bits of the same word with the third counter word 1, so both dtypes draw alike and advance alike",
    )
)
