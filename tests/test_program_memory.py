"""Memory reuse and kernel reuse that must not happen: aliases read elsewhere, other ranges of the same Dim."""

from __future__ import annotations

import ingot
import numpy as np
import pytest
from ingot import nn
from ingot.ir.dims import Dim


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("rows", "columns"), [(6, 10), (32, 64), (64, 200)])
@pytest.mark.parametrize("epilogue", [False, True])
def test_an_operand_that_is_also_read_through_a_reshape_is_not_overwritten(
    rows: int, columns: int, epilogue: bool
) -> None:
    w = _random(columns, columns, seed=1)

    def plain(x, w):
        y = x @ w
        return (y + y.reshape(columns, rows).permute(1, 0)) @ w

    def behind_a_contraction(x, w):
        y = x @ w
        v = _first_rows(w)
        return (y.reshape(columns, rows).permute(1, 0) @ w + y) @ v

    def _first_rows(w):
        return w * 0.5

    fn = behind_a_contraction if epilogue else plain
    x = _random(rows, columns)
    got = ingot.compile(lambda x, w: fn(x, w), x, w)(x, w)
    want = fn(ingot.from_numpy(x.astype(np.float64)), ingot.from_numpy(w.astype(np.float64))).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


class _Updating(nn.Module):
    """Overwrites its buffer with something that reads the buffer at other positions."""

    def __init__(self, form: str, shape: tuple[int, int]) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("b", ingot.from_numpy(_random(*shape, seed=2)))

    def forward(self, x):
        rows, columns = self.b.shape
        if self.form == "permuted result":
            new = self.b * 0.5 + (self.b * 0.25).permute(1, 0) + x
        else:
            new = self.b * 0.5 + self.b.reshape(columns, rows).permute(1, 0) * 0.25 + x
        self.b.copy_(new)
        return new


@pytest.mark.parametrize(("form", "shape"), [("permuted result", (5, 5)), ("reshape", (6, 10)), ("reshape", (64, 200))])
def test_a_state_is_not_overwritten_before_its_last_read(form: str, shape: tuple[int, int]) -> None:
    eager, live = _Updating(form, shape), ingot.compile(_Updating(form, shape))
    for seed in range(3):
        x = ingot.from_numpy(_random(*shape, seed=10 + seed))
        np.testing.assert_allclose(live(x).numpy(), eager(x).numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(live.b.numpy(), eager.b.numpy(), rtol=1e-5, atol=1e-5)


def test_a_wider_range_of_a_dim_is_another_kernel(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("INGOT_CACHE_DIR", str(tmp_path))

    def softmax(x):
        return nn.functional.softmax(x, dim=1)

    for limit in (8, 4096):
        x = _random(3, limit)
        exe = ingot.compile(softmax, x, dynamic={1: Dim("L", 1, limit)})
        np.testing.assert_allclose(exe(x), softmax(ingot.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-7)


def test_a_part_of_an_unbounded_extent_is_outside_the_arena() -> None:
    def thinned(x):
        y = x[::400000].exp()
        return y.sum() + nn.functional.softmax(y, dim=0)

    x = _random(1_000_000)
    exe = ingot.compile(thinned, x, dynamic={0: Dim("N")})
    assert exe.program.arena_bytes < 1 << 20
    np.testing.assert_allclose(exe(x), thinned(ingot.from_numpy(x)).numpy(), rtol=1e-5)
