"""Pooling operators: shapes at the edges, references against PyTorch, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gradient_check import check_gradients
from ingot.ir import ops, registry
from ingot.ir.dims import Dim, evaluate
from ingot.ir.dtypes import ALL, DType, float32, float64, int32, int64, tolerance
from ingot.ir.errors import DTypeError, ShapeError
from ingot.ir.types import TensorType

assert ops  # importing it registers the operators

N = Dim("N", 1, 64)
H = Dim("H", 8, 256)


def infer(op: str, *shapes: tuple, dtype: DType = float32, **attrs: object) -> list[TensorType]:
    record = registry.get(op)
    return record.infer([TensorType(dtype, s) for s in shapes], record.complete_attrs(attrs))


def reference(op: str, *arrays: np.ndarray, **attrs: object) -> object:
    record = registry.get(op)
    return record.reference(*arrays, **record.complete_attrs(attrs))


def pool_case(rng: np.random.Generator, dilated: bool) -> tuple[tuple, dict]:
    """A random input shape and attributes that PyTorch accepts too (equal padding on both sides)."""
    spatial = int(rng.integers(1, 4))
    kernel = tuple(int(k) for k in rng.integers(1, 5, spatial))
    dilation = tuple(int(d) for d in rng.integers(1, 3 if dilated else 2, spatial))
    pads = [int(rng.integers(0, k // 2 + 1)) for k in kernel]
    attrs = {
        "kernel": kernel,
        "stride": tuple(int(s) for s in rng.integers(1, 5, spatial)),
        "padding": tuple((p, p) for p in pads),
        "ceil_mode": bool(rng.integers(0, 2)),
    }
    if dilated:
        attrs["dilation"] = dilation
    extents = tuple(
        max(1, d * (k - 1) + 1 - (2 * p if dilated else 0)) + int(rng.integers(0, 8))
        for k, d, p in zip(kernel, dilation, pads, strict=True)
    )
    return (int(rng.integers(1, 3)), int(rng.integers(1, 4)), *extents), attrs


# -- shapes -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "pad", "ceil_mode", "expected"),
    [(5, 2, 2, 0, False, 2), (5, 2, 2, 0, True, 3), (4, 2, 2, 0, True, 2), (3, 2, 2, 1, True, 2),
     (4, 3, 2, 1, False, 2), (4, 3, 2, 1, True, 3), (1, 1, 3, 0, True, 1), (2, 1, 3, 0, True, 1)],
)  # fmt: skip
def test_window_count(extent: int, kernel: int, stride: int, pad: int, ceil_mode: bool, expected: int) -> None:
    """The last window of ceil_mode must start inside the data or the padding before it."""
    attrs = {"kernel": (kernel,), "stride": (stride,), "padding": ((pad, pad),), "ceil_mode": ceil_mode}
    assert infer("avg_pool", (1, 1, extent), **attrs)[0].shape == (1, 1, expected)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_symbolic_extents_agree_with_numbers(ceil_mode: bool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        kernel, stride = int(rng.integers(1, 6)), int(rng.integers(1, 6))
        pad = int(rng.integers(0, kernel // 2 + 1))
        attrs = {"kernel": (kernel,), "stride": (stride,), "padding": ((pad, pad),), "ceil_mode": ceil_mode}
        values, indices = infer("max_pool", (N.expr, 3, H.expr), dilation=(1,), **attrs)
        assert indices == TensorType(int64, values.shape) and values.shape[:2] == (N.expr, 3)
        for h in range(8, 40):
            fixed = infer("max_pool", (2, 3, h), dilation=(1,), **attrs)[0].shape
            assert evaluate(values.shape[2], {"H": h}) == fixed[2], f"{attrs} at {h}"


@pytest.mark.parametrize(
    ("shape", "attrs", "message"),
    [
        ((2, 3), {}, "rank 3 or more"),
        ((2, 3, 9), {"kernel": (2, 2)}, r"kernel must have one entry per spatial axis \(1\)"),
        ((2, 3, 9), {"padding": ((2, 0),)}, "at most half of the window"),
        ((2, 3, 1), {}, "smaller than the window"),
        ((2, 3, 9), {"stride": (0,)}, "stride must be positive"),
        ((2, 3, 9), {"divisor_override": 0}, "must not be 0"),
    ],
)
def test_avg_pool_refuses(shape: tuple, attrs: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        infer("avg_pool", shape, **{"kernel": (3,), "stride": (2,), "padding": ((0, 0),), **attrs})


def test_avg_pool_is_for_floats() -> None:
    with pytest.raises(DTypeError, match="int32"):
        infer("avg_pool", (1, 1, 4), dtype=int32, kernel=(2,), stride=(2,), padding=((0, 0),))


def test_avg_pool_grad_checks_its_input() -> None:
    with pytest.raises(ShapeError, match=r"must have shape \[1, 1, 3\]"):
        infer("avg_pool_grad", (1, 1, 4), input_shape=(7,), kernel=(2,), stride=(2,), padding=((0, 0),))


# -- max_pool -----------------------------------------------------------------------------------------
@pytest.mark.parity
@pytest.mark.parametrize("seed", range(16))
def test_max_pool_like_torch(seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    shape, attrs = pool_case(rng, dilated=True)
    # Small integers make ties: the first wins.
    x = rng.standard_normal(shape) if rng.integers(2) else rng.integers(0, 3, shape).astype(np.float64)
    pool = getattr(torch.nn.functional, f"max_pool{len(shape) - 2}d")
    plain = {**attrs, "kernel_size": attrs["kernel"], "padding": tuple(p for p, _ in attrs["padding"])}
    del plain["kernel"]
    expected, where = pool(torch.tensor(x), return_indices=True, **plain)
    values, indices = reference("max_pool", x, **attrs)
    assert infer("max_pool", shape, **attrs)[0].shape == values.shape == tuple(expected.shape)
    np.testing.assert_array_equal(values, expected.numpy(), err_msg=f"seed {seed}")
    assert indices.dtype == np.int64
    if not np.isinf(values).any():  # a dilated window may miss the data altogether
        np.testing.assert_array_equal(indices, where.numpy(), err_msg=f"seed {seed}")


@pytest.mark.parametrize("dtype", [d for d in ALL if d.kind != "b"], ids=lambda d: d.name)
def test_max_pool_dtypes(dtype: DType) -> None:
    rng = np.random.default_rng(2)
    x = rng.permutation(60).reshape(1, 2, 5, 6).astype(dtype.numpy)
    values, indices = reference("max_pool", x, kernel=(2, 3), stride=(2, 2), padding=((1, 0), (1, 1)), dilation=(1, 1))
    assert values.dtype == dtype.numpy
    np.testing.assert_array_equal(
        np.take_along_axis(x.reshape(1, 2, 30), indices.reshape(1, 2, -1), 2).ravel(), values.ravel()
    )
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 0), (1, 1)], constant_values=-1)
    expected = np.lib.stride_tricks.sliding_window_view(padded, (2, 3), (2, 3))[:, :, ::2, ::2].max((-1, -2))
    np.testing.assert_array_equal(values.astype(np.float64), expected)


def test_max_pool_nan_and_minus_infinity() -> None:
    x = np.array([[[-np.inf, -np.inf, 1.0, np.nan, 5.0, np.nan]]])
    values, indices = reference("max_pool", x, kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,))
    np.testing.assert_array_equal(values[0, 0], [-np.inf, np.nan, np.nan])
    np.testing.assert_array_equal(indices[0, 0], [0, 3, 5])
    # The padding in front is never chosen, even against -inf.
    values, indices = reference("max_pool", x, kernel=(2,), stride=(2,), padding=((1, 1),), dilation=(1,))
    np.testing.assert_array_equal(indices[0, 0], [0, 2, 3, 5])


@pytest.mark.parametrize("seed", range(6))
def test_max_pool_gradient(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, attrs = pool_case(rng, dilated=False)
    attrs["dilation"] = (1,) * (len(shape) - 2)
    x = rng.permutation(math.prod(shape)).reshape(shape) * 0.1  # no ties near which the derivative jumps
    check_gradients(lambda g, x: g.max_pool(x, **attrs)[0], [x], rng, order=2)


def test_max_pool_gradient_with_symbolic_extents() -> None:
    rng = np.random.default_rng(4)
    x = rng.permutation(2 * 3 * 9 * 10).reshape(2, 3, 9, 10) * 0.1
    attrs = {"kernel": (3, 2), "stride": (2, 2), "padding": ((1, 1), (0, 0)), "dilation": (1, 1), "ceil_mode": True}
    shapes = [(N.expr, 3, H.expr, Dim("W", 4, 99).expr)]
    check_gradients(lambda g, x: g.max_pool(x, **attrs)[0], [x], rng, shapes=shapes)


# -- avg_pool -----------------------------------------------------------------------------------------
@pytest.mark.parity
@pytest.mark.parametrize("seed", range(16))
def test_avg_pool_like_torch(seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    shape, attrs = pool_case(rng, dilated=False)
    spatial = len(shape) - 2
    attrs["count_include_pad"] = bool(rng.integers(0, 2))
    extra = {}
    if spatial > 1 and rng.integers(2):
        extra["divisor_override"] = attrs["divisor_override"] = int(rng.integers(1, 9))
    x = torch.tensor(rng.standard_normal(shape), requires_grad=True)
    expected = getattr(torch.nn.functional, f"avg_pool{spatial}d")(
        x, attrs["kernel"], attrs["stride"], tuple(p for p, _ in attrs["padding"]), attrs["ceil_mode"],
        attrs["count_include_pad"], **extra,
    )  # fmt: skip
    y = reference("avg_pool", x.detach().numpy(), **attrs)
    assert infer("avg_pool", shape, **attrs)[0].shape == y.shape
    rtol, atol = tolerance(float64, math.prod(attrs["kernel"]))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol, atol, err_msg=f"seed {seed}")
    grad = rng.standard_normal(y.shape)
    expected.backward(torch.tensor(grad))
    dx = reference("avg_pool_grad", grad, input_shape=shape[2:], **attrs)
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol, atol * 10, err_msg=f"seed {seed}")


@pytest.mark.parametrize("seed", range(6))
def test_avg_pool_gradients(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, attrs = pool_case(rng, dilated=False)
    attrs["count_include_pad"] = bool(seed % 2)
    x = rng.standard_normal(shape)
    check_gradients(lambda g, x: g.avg_pool(x, **attrs), [x], rng, order=2)
    dy = rng.standard_normal(infer("avg_pool", shape, **attrs)[0].shape)
    check_gradients(lambda g, dy: g.avg_pool_grad(dy, input_shape=shape[2:], **attrs), [dy], rng, order=2)


def test_avg_pool_gradient_with_symbolic_extents() -> None:
    rng = np.random.default_rng(4)
    attrs = {"kernel": (3, 2), "stride": (2, 2), "padding": ((1, 1), (0, 0)), "ceil_mode": True}
    shapes = [(N.expr, 3, H.expr, Dim("W", 4, 99).expr)]
    check_gradients(lambda g, x: g.avg_pool(x, **attrs), [rng.standard_normal((2, 3, 9, 10))], rng, shapes=shapes)


def test_half_precision_average_rounds_once() -> None:
    x = np.full((1, 1, 4096), 1.0, np.float16)
    y = reference("avg_pool", x, kernel=(4096,), stride=(1,), padding=((0, 0),))
    assert y.dtype == np.float16 and float(y[0, 0, 0]) == 1.0
