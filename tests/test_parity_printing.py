"""Tensors print as PyTorch prints them: every dtype, shape, magnitude and option, and what stands behind."""

from __future__ import annotations

import re

import ingot as ig
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch_bridge import ingot_of  # noqa: E402

pytestmark = pytest.mark.parity
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool]  # fmt: skip
SHAPES = [(), (1,), (5,), (30,), (0,), (2, 0), (3, 4), (1, 40), (2, 3, 4), (2, 1, 2, 2), (1001,), (30, 40), (2, 11, 60),
          (7, 2, 300)]  # fmt: skip


def same(t: torch.Tensor) -> None:
    ours = ingot_of(t)
    assert repr(ours) == repr(t)
    assert str(ours) == str(t)


def values(rng: np.random.Generator, kind: int, shape: tuple[int, ...]) -> np.ndarray:
    """Magnitudes that choose every format: fractions, whole numbers, wide ranges, infinities and NaN."""
    x = rng.standard_normal(shape)
    if kind == 1:
        x = np.round(x * 50)
    elif kind == 2:
        x = x * 10.0 ** rng.integers(-6, 7, shape)
    elif kind == 3:
        x = np.where(rng.random(shape) < 0.2, rng.choice([np.inf, -np.inf, np.nan, 0.0], shape), x)
    elif kind == 4:
        x = np.where(rng.random(shape) < 0.3, np.nan, np.round(x * 1000))
    elif kind == 5:
        x = np.round(x) * 1e9
    elif kind == 6:
        x = np.full(shape, np.inf)
    return x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values(dtype, shape) -> None:
    seed = 3
    rng = np.random.default_rng(seed)
    for kind in range(7):
        x = values(rng, kind, shape)
        if not dtype.is_floating_point:
            x = np.nan_to_num(np.clip(x * 10, -100, 100))
        with np.errstate(over="ignore"):
            same(torch.from_numpy(np.asarray(x)).to(dtype).abs() if dtype is torch.uint8 else torch.from_numpy(
                np.asarray(x)).to(dtype))  # fmt: skip


def test_fuzz_small() -> None:
    rng = np.random.default_rng(17)
    for _ in range(400):
        shape = tuple(rng.integers(1, 5, rng.integers(0, 4)))
        kind = int(rng.integers(0, 7))
        same(torch.from_numpy(np.asarray(values(rng, kind, shape), np.float32)))


@pytest.mark.parametrize("options", [
    {"precision": 2}, {"precision": 0}, {"sci_mode": True}, {"sci_mode": False}, {"threshold": 5},
    {"edgeitems": 1, "threshold": 1},
    {"edgeitems": 0, "threshold": 1}, {"linewidth": 30}, {"linewidth": 200}, {"profile": "short"}, {"profile": "full"},
    {"profile": "short", "precision": 6},
])  # fmt: skip
def test_options(options) -> None:
    rng = np.random.default_rng(5)
    torch.set_printoptions(**options)
    ig.set_printoptions(**options)
    try:
        for shape in [*SHAPES[:-3], (6, 9)]:
            for kind in range(7):
                same(torch.from_numpy(np.asarray(values(rng, kind, shape), np.float32)))
            same(torch.from_numpy(rng.integers(-500, 500, shape)))
    finally:
        torch.set_printoptions(profile="default")
        ig.set_printoptions(profile="default")


def test_what_stands_behind() -> None:
    for m in (torch, ig):
        m.manual_seed(0)
    for make in (
        lambda m: m.ones(3, requires_grad=True), lambda m: m.ones(3, requires_grad=True) * 2,
        lambda m: m.ones(3, dtype=m.float64, requires_grad=True), lambda m: m.nn.Parameter(m.ones(2, 2)),
        lambda m: m.nn.Parameter(m.ones(2), requires_grad=False), lambda m: m.nn.Linear(3, 2).weight,
        lambda m: m.ones(14, dtype=m.float64, requires_grad=True), lambda m: m.ones(4, 15, requires_grad=True).exp(),
        lambda m: m.zeros(0, requires_grad=True), lambda m: m.zeros(0, 2, dtype=m.int32),
        lambda m: [m.ones(2), m.ones(1)], lambda m: {"a": m.ones(2, 2)}, lambda m: m.ones(2, 3).shape,
        lambda m: m.ones(2, 3).size(), lambda m: m.float64, lambda m: m.device("cuda", 2), lambda m: m.device("cpu"),
        lambda m: str(m.device("cuda:1")), lambda m: m.ones(2).dtype, lambda m: m.ones(2).device,
        lambda m: m.Size([]),
    ):  # fmt: skip
        assert repr(make(ig)).replace("ingot.", "torch.") == repr(make(torch))


def test_default_dtype() -> None:
    try:
        for m in (torch, ig):
            m.set_default_dtype(m.float64)
        for dtype in DTYPES:
            same(torch.ones(2).to(dtype))
            same(torch.zeros(0).to(dtype))
    finally:
        for m in (torch, ig):
            m.set_default_dtype(m.float32)


def test_subclasses_name_themselves() -> None:
    for m in (torch, ig):
        kind = type("Mine", (m.Tensor,), {})
        assert repr(m.ones(2).as_subclass(kind)) == "Mine([1., 1.])"


def test_formatting() -> None:
    for spec in ("", ".3f", "10", "e"):
        for make in (lambda m: m.tensor(1.5), lambda m: m.tensor(2.25, requires_grad=True),
                     lambda m: m.tensor(3.5, dtype=m.float64)):  # fmt: skip
            assert format(make(ig), spec) == format(make(torch), spec)
    assert f"{ig.tensor(7)} {ig.tensor(True)} {ig.ones(2)}" == f"{torch.tensor(7)} {torch.tensor(True)} {torch.ones(2)}"
    assert f"{ig.nn.Parameter(ig.tensor(2.0))}" == f"{torch.nn.Parameter(torch.tensor(2.0))}"
    for m in (torch, ig):
        with pytest.raises(TypeError, match=re.escape("unsupported format string passed to Parameter.__format__")):
            f"{m.nn.Parameter(m.tensor(2.0)):.3f}"
    for m in (torch, ig):
        with pytest.raises(TypeError, match=re.escape("unsupported format string passed to Tensor.__format__")):
            f"{m.ones(2):.3f}"
