"""Generated values: constants, ramps and the counter-based random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ingot.ir import dtypes
from ingot.ir.dims import Dim
from ingot.ir.dtypes import float32, float64, int64
from ingot.ir.errors import DTypeError, ShapeError
from ingot.ir.ops.random import philox
from ingot.ir.registry import get
from ingot.ir.types import TensorType

STATE = TensorType(int64, (2,))


def uniform(seed: int, offset: int, *shape: int, dtype: Any = float32) -> np.ndarray:
    return get("random_uniform").reference(np.array([seed, offset]), shape=shape, dtype=dtype)


def philox_by_the_book(counter: list[int], key: list[int]) -> list[int]:
    """The definition of Philox4x32-10 on Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_philox_known_answer() -> None:
    # The published test vector for counter 0 and key 0.
    assert [hex(w) for w in philox(np.zeros(1, np.uint64), 0)[0]] == [
        "0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, -1, 0x0123456789ABCDEF, -(2**63)])
def test_philox_follows_its_definition(seed: int) -> None:
    counters = [0, 1, 2**32 - 1, 2**32, 2**64 - 1]
    key = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    for upper in (0, 1):
        words = philox(np.array(counters, np.uint64), seed, upper)
        for c, row in zip(counters, words, strict=True):
            assert row.tolist() == philox_by_the_book([c & 0xFFFFFFFF, c >> 32, upper, 0], key)


def test_elements_take_the_words_in_order() -> None:
    words = philox(np.arange(7, 10, dtype=np.uint64), 5).reshape(-1)
    np.testing.assert_array_equal(uniform(5, 7, 10), (words[:10] >> 8) * 2.0**-24)
    np.testing.assert_array_equal(uniform(5, 7, 2, 5).reshape(-1), uniform(5, 7, 10))
    np.testing.assert_array_equal(uniform(5, 8, 6), uniform(5, 7, 10)[4:])  # offset 1 = four elements


def test_float64_refines_the_float32_draw() -> None:
    coarse, fine = uniform(3, 100, 1000), uniform(3, 100, 1000, dtype=float64)
    assert np.all((fine >= coarse) & (fine < coarse + 2.0**-24))
    assert np.all(fine * 2.0**53 == np.floor(fine * 2.0**53))
    assert len(np.unique(fine)) == 1000


def test_counters_wrap_around_at_64_bits() -> None:
    y = uniform(1, -1, 8)
    np.testing.assert_array_equal(y[4:], uniform(1, 0, 4))


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
def test_draws_look_uniform_and_independent(dtype: Any) -> None:
    x = uniform(2024, 0, 200_000, dtype=dtype)
    assert x.min() >= 0 and x.max() < 1
    counts = np.histogram(x, 64, (0, 1))[0]
    chi2 = float(np.sum((counts - 3125) ** 2 / 3125))
    assert 25 < chi2 < 125  # 63 degrees of freedom: mean 63, sd 11
    for lag in (1, 2, 3, 4):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 0.01
    assert not np.array_equal(x[:100], uniform(2025, 0, 100, dtype=dtype))


def test_iota_counts_along_one_axis() -> None:
    y = get("iota").reference(shape=(2, 3), axis=1, dtype=dtypes.bfloat16)
    assert y.dtype == dtypes.bfloat16.numpy
    np.testing.assert_array_equal(y.astype(int), [[0, 1, 2]] * 2)


def test_symbolic_shapes() -> None:
    n = Dim("N").expr
    iota = get("iota").infer([], {"shape": (n, 2), "axis": 0, "dtype": int64})
    assert iota == [TensorType(int64, (n, 2))]
    assert get("random_uniform").infer([STATE], {"shape": (n,), "dtype": float32}) == [TensorType(float32, (n,))]


@pytest.mark.parametrize(
    "op, types, attrs, error, message",
    [
        ("random_uniform", [STATE], {"shape": (2,), "dtype": dtypes.float16}, DTypeError, "must be float32 or float64"),
        ("random_uniform", [TensorType(int64, (3,))], {"shape": (2,), "dtype": float32}, ShapeError, "int64.2."),
        ("random_uniform", [STATE], {"shape": (-2,), "dtype": float32}, ShapeError, "must be >= 0"),
        ("iota", [], {"shape": (2,), "axis": 1, "dtype": int64}, ShapeError, r"axis must be in \[0, 1\)"),
        ("iota", [], {"shape": (2,), "axis": 0, "dtype": dtypes.bool_}, DTypeError, "numeric Ingot dtype"),
        ("constant", [], {"value": np.array([1j])}, DTypeError, "constant: no Ingot dtype for NumPy dtype complex128"),
    ],
)
def test_messages_state_the_rule(
    op: str, types: list[TensorType], attrs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        get(op).infer(types, attrs)
