"""Native code for heavy operators in eager mode."""

from __future__ import annotations

import ingot as ig
import numpy as np
import pytest
from ingot import eager
from ingot.frontend import dispatch
from ingot.ir.dtypes import float32, tolerance

F = ig.nn.functional


@pytest.fixture
def kernels(monkeypatch):
    fresh = eager.EagerKernels()
    monkeypatch.setattr(dispatch, "native", fresh)
    return fresh


def gradients(x, w):
    y = F.max_pool2d(F.relu(F.conv2d(x, w, padding=1)), 2)
    x.grad = w.grad = None
    (y * y).sum().backward()
    return y.detach().numpy(), x.grad.numpy(), w.grad.numpy()


def test_the_second_time_runs_native_code(kernels, monkeypatch):
    rng = np.random.default_rng(2)
    shapes = ((8, 3, 20, 20), (6, 3, 3, 3))
    x, w = (ig.from_numpy(rng.standard_normal(s).astype(np.float32)).requires_grad_() for s in shapes)
    first = gradients(x, w)
    assert not any(kernels._known.values())
    second = gradients(x, w)
    assert {key[0] for key, found in kernels._known.items() if found is not None} >= {"conv", "max_pool"}
    third = gradients(x, w)
    for a, b, c in zip(first, second, third, strict=True):
        rtol, atol = tolerance(float32, 8 * 400)
        np.testing.assert_allclose(b, a, rtol, atol * np.abs(a).max())
        np.testing.assert_array_equal(b, c)


def test_small_and_exact_work_stays_in_numpy(kernels):
    for dtype, size in ((np.float64, 40), (np.float32, 4)):
        for _ in range(3):
            F.conv2d(ig.from_numpy(np.ones((1, 1, size, size), dtype)), ig.from_numpy(np.ones((1, 1, 3, 3), dtype)))
    assert not kernels._known


def test_a_machine_without_a_compiler(kernels, monkeypatch):
    def refuse(*args, **kwargs):
        raise ig.IngotError("no compiler")

    monkeypatch.setattr("ingot.driver.build", refuse)
    x = ig.ones(4, 4, 40, 40)
    found = [F.conv2d(x, ig.ones(2, 4, 3, 3)) for _ in range(4)]
    assert all(ig.equal(y, found[0]) for y in found)


def test_it_is_installed_unless_switched_off(monkeypatch):
    monkeypatch.setattr(dispatch, "native", None)
    monkeypatch.setenv("INGOT_EAGER_KERNELS", "0")
    eager.install()
    assert dispatch.native is None
    monkeypatch.delenv("INGOT_EAGER_KERNELS")
    eager.install()
    assert isinstance(dispatch.native, eager.EagerKernels)
