"""Contraction operators: shapes, references against direct sums and PyTorch, gradients."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from gradient_check import build_graph, check_gradients
from ingot.ir import ops, registry
from ingot.ir.dims import Dim
from ingot.ir.dtypes import ALL, DType, bool_, dtype_from_numpy, float32, float64, int8, int64, tolerance
from ingot.ir.errors import DTypeError, ShapeError
from ingot.ir.types import TensorType

assert ops  # importing it registers the operators

N = Dim("N", 1, 64)
H = Dim("H", 8, 256)


def infer(op: str, *shapes: tuple, dtype: DType = float32, **attrs: object) -> tuple:
    record = registry.get(op)
    (out,) = record.infer([TensorType(dtype, s) for s in shapes], record.complete_attrs(attrs))
    assert out.dtype is dtype
    return out.shape


def random_array(rng: np.random.Generator, shape: tuple, dtype: DType) -> np.ndarray:
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype.numpy)
    low = 0 if dtype.kind == "u" else -100
    return rng.integers(low, 100, shape).astype(dtype.numpy)


def assert_close(actual: np.ndarray, expected: np.ndarray, dtype: DType, depth: int, message: str = "") -> None:
    """``expected`` in float64 (or exact for integers); the bound grows with the size of the summed terms."""
    assert actual.dtype == dtype.numpy, message
    rtol, atol = tolerance(dtype, depth)
    scale = float(np.abs(expected).max(initial=1.0))
    np.testing.assert_allclose(
        actual.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol * scale, err_msg=message
    )


def conv_case(rng: np.random.Generator) -> dict:
    """A random small convolution: 1 to 3 spatial axes, groups, asymmetric padding, dilation."""
    spatial = int(rng.integers(1, 4))
    groups = int(rng.choice([1, 1, 2, 3]))
    per_group = int(rng.integers(1, 3))
    out_channels = groups * int(rng.integers(1, 3))
    kernel = tuple(int(k) for k in rng.integers(1, 4, spatial))
    dilation = tuple(int(d) for d in rng.integers(1, 3, spatial))
    stride = tuple(int(s) for s in rng.integers(1, 4, spatial))
    padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (spatial, 2)))
    extents = tuple(d * (k - 1) + 1 + int(rng.integers(0, 6)) for k, d in zip(kernel, dilation, strict=True))
    return {
        "x": (int(rng.integers(1, 4)), groups * per_group, *extents),
        "w": (out_channels, per_group, *kernel),
        "attrs": {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
    }


def direct_conv(
    x: np.ndarray, w: np.ndarray, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> np.ndarray:
    """The definition, element by element."""
    padded = np.pad(x, [(0, 0), (0, 0), *padding])
    counts = [
        (e - d * (k - 1) - 1) // s + 1
        for e, k, s, d in zip(padded.shape[2:], w.shape[2:], stride, dilation, strict=True)
    ]
    y = np.zeros((x.shape[0], w.shape[0], *counts), x.dtype)
    per_group = w.shape[0] // groups
    for o, position in itertools.product(range(w.shape[0]), np.ndindex(*counts)):
        c = o // per_group * w.shape[1]
        where = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(position, stride, dilation, w.shape[2:], strict=True)
        )
        window = padded[(slice(None), slice(c, c + w.shape[1]), *where)]
        y[(slice(None), o, *position)] = (window * w[o]).reshape(x.shape[0], -1).sum(1)
    return y


# -- shapes -------------------------------------------------------------------------------------------
def test_matmul_shapes() -> None:
    assert infer("matmul", (2, 3), (3, 4)) == (2, 4)
    assert infer("matmul", (3, 2), (4, 3), transpose_a=True, transpose_b=True) == (2, 4)
    assert infer("matmul", (N.expr, 5, 2, 3), (5, 3, 4)) == (N.expr, 5, 2, 4)
    assert infer("matmul", (N.expr, 1, 2, 3), (5, 3, H.expr)) == (N.expr, 5, 2, H.expr)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [((2, 3), (4, 5), "inner extents differ: 3 and 4"), ((3,), (3, 2), "rank 2 or more"),
     ((2, 1, 3), (3, 3, 2), "do not broadcast")],
)  # fmt: skip
def test_matmul_refuses(a: tuple, b: tuple, message: str) -> None:
    if "broadcast" in message:
        a = (2, 2, 3)
    with pytest.raises(ShapeError, match=message):
        infer("matmul", a, b)


def test_contractions_refuse_bool() -> None:
    with pytest.raises(DTypeError, match="bool"):
        infer("matmul", (2, 3), (3, 4), dtype=bool_)


CONV = {"stride": (2, 1), "padding": ((1, 1), (0, 2)), "dilation": (1, 2), "groups": 2}


def test_conv_shapes() -> None:
    assert infer("conv", (4, 6, 9, 8), (8, 3, 3, 3), **CONV) == (4, 8, 5, 6)
    n, h = N.expr, H.expr
    shape = infer("conv", (n, 6, h, h), (8, 3, 3, 3), **CONV)
    assert shape == (n, 8, (h - 1) // 2 + 1, h - 2)
    back = infer("conv_transpose", shape, (8, 3, 3, 3), output_padding=(h - (shape[2] - 1) * 2 - 1, 0), **CONV)
    assert back == (n, 6, h, h)
    assert infer("conv_weight_grad", (n, 6, h, h), shape, kernel=(3, 3), **CONV) == (8, 3, 3, 3)


@pytest.mark.parametrize(
    ("x", "w", "attrs", "message"),
    [
        ((1, 5, 9, 9), (8, 3, 3, 3), {}, r"5 channels.*groups = 2 expects 3 \* 2 = 6"),
        ((1, 6, 9, 9), (7, 3, 3, 3), {}, "7 must be divisible by groups = 2"),
        ((1, 6, 9), (8, 3, 3, 3), {}, "rank 3"),
        ((1, 6, 9, 9), (8, 3, 3, 3), {"stride": (1,)}, r"stride must have one entry per spatial axis \(2\)"),
        ((1, 6, 9, 9), (8, 3, 3, 3), {"stride": (0, 1)}, "stride must be positive"),
        ((1, 6, 9, 9), (8, 3, 3, 3), {"padding": ((-1, 0), (0, 0))}, "padding must not be negative"),
        (
            (1, 6, 1, 2),
            (8, 3, 3, 3),
            {},
            r"spatial axis 1 of extent 2 .* smaller than the window \(kernel 3, dilation 2: 5",
        ),
        ((1, 6, 9, 9), (8, 3, H.expr, 3), {}, "fixed extents"),
    ],
)
def test_conv_refuses(x: tuple, w: tuple, attrs: dict, message: str) -> None:
    if len(x) == 4 and x[2:] == (1, 2):
        attrs = {**attrs, "padding": ((1, 1), (0, 1))}
    with pytest.raises(ShapeError, match=message):
        infer("conv", x, w, **{**CONV, **attrs})


def test_conv_transpose_refuses_large_output_padding() -> None:
    with pytest.raises(ShapeError, match=r"output_padding must be in \[0, max\(stride, dilation\)\), got 2"):
        infer("conv_transpose", (1, 8, 4, 4), (8, 3, 3, 3), output_padding=(2, 0), **CONV)


# -- references ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [d for d in ALL if d.kind != "b"], ids=lambda d: d.name)
@pytest.mark.parametrize("seed", range(3))
def test_conv_is_the_direct_sum(dtype: DType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = conv_case(rng)
    x, w = random_array(rng, case["x"], dtype), random_array(rng, case["w"], dtype)
    y = registry.get("conv").reference(x, w, **case["attrs"])
    wide = np.float64 if dtype.kind == "f" else dtype.numpy
    with np.errstate(over="ignore"):
        expected = direct_conv(x.astype(wide), w.astype(wide), **case["attrs"])
    assert y.shape == infer("conv", x.shape, w.shape, dtype=dtype, **case["attrs"])
    assert_close(y, expected, dtype, int(np.prod(w.shape[1:])), f"{case}")


@pytest.mark.parametrize("seed", range(12))
def test_conv_family_is_one_trilinear_form(seed: int) -> None:
    """<conv(x, w), y> = <x, conv_transpose(y, w)> = <w, conv_weight_grad(x, y)>."""
    rng = np.random.default_rng(seed)
    case = conv_case(rng)
    attrs = case["attrs"]
    x, w = rng.standard_normal(case["x"]), rng.standard_normal(case["w"])
    y = rng.standard_normal(infer("conv", x.shape, w.shape, **attrs))
    extra = tuple(
        e - ((n - 1) * s + d * (k - 1) + 1 - low - high)
        for e, n, k, s, d, (low, high) in zip(
            x.shape[2:], y.shape[2:], w.shape[2:], attrs["stride"], attrs["dilation"], attrs["padding"], strict=True
        )
    )
    forward = (registry.get("conv").reference(x, w, **attrs) * y).sum()
    back = (registry.get("conv_transpose").reference(y, w, output_padding=extra, **attrs) * x).sum()
    weight = (registry.get("conv_weight_grad").reference(x, y, kernel=w.shape[2:], **attrs) * w).sum()
    np.testing.assert_allclose([back, weight], forward, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}: {case}")


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(8))
def test_conv_transpose_like_torch(seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    case = conv_case(rng)
    attrs = case["attrs"]
    spatial = len(attrs["stride"])
    pads = tuple(int(p) for p in rng.integers(0, 2, spatial))
    attrs["padding"] = tuple((p, p) for p in pads)
    extra = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(attrs["stride"], attrs["dilation"], strict=True))
    w = rng.standard_normal(case["w"])
    x = rng.standard_normal((2, w.shape[0], *rng.integers(2, 5, spatial)))
    shape = infer("conv_transpose", x.shape, w.shape, dtype=float64, output_padding=extra, **attrs)
    if 0 in shape:
        pytest.skip("empty result, which torch refuses")
    expected = getattr(torch.nn.functional, f"conv_transpose{spatial}d")(
        torch.tensor(x), torch.tensor(w), stride=attrs["stride"], padding=pads, dilation=attrs["dilation"],
        groups=attrs["groups"], output_padding=extra,
    ).numpy()  # fmt: skip
    y = registry.get("conv_transpose").reference(x, w, output_padding=extra, **attrs)
    assert y.shape == shape
    assert_close(y, expected, float64, w.size, f"seed {seed}: {case} output_padding {extra}")


@pytest.mark.parametrize("dtype", [d for d in ALL if d.kind != "b"], ids=lambda d: d.name)
@pytest.mark.parametrize(("ta", "tb"), [*itertools.product([False, True], repeat=2)])
def test_matmul_reference(dtype: DType, ta: bool, tb: bool) -> None:
    rng = np.random.default_rng(5)
    a = random_array(rng, (3, 1, 7, 5) if ta else (3, 1, 5, 7), dtype)
    b = random_array(rng, (2, 6, 7) if tb else (2, 7, 6), dtype)
    y = registry.get("matmul").reference(a, b, transpose_a=ta, transpose_b=tb)
    wide = np.float64 if dtype.kind == "f" else dtype.numpy
    left = np.swapaxes(a, -1, -2) if ta else a
    right = np.swapaxes(b, -1, -2) if tb else b
    assert_close(y, np.einsum("...ik,...kj->...ij", left.astype(wide), right.astype(wide)), dtype, 7)


def test_integer_sums_wrap_like_their_type() -> None:
    """Sums beyond int8 and beyond 2**53 wrap modulo the type's range, without a rounding in between."""
    a = np.full((1, 1000), 127, np.int8)
    y = registry.get("matmul").reference(a, a, transpose_a=False, transpose_b=True)
    assert y.dtype == int8.numpy and y[0, 0] == np.array(127 * 127 * 1000).astype(np.int8)
    big = np.array([[2**62 + 1, 2**62 + 3]], np.int64)
    y = registry.get("matmul").reference(big, np.ones_like(big), transpose_a=False, transpose_b=True)
    assert y.dtype == int64.numpy and int(y[0, 0]) == 2**63 + 4 - 2**64


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_accumulates_in_float32(kind: type) -> None:
    ones = np.ones((1, 4096), kind)
    y = registry.get("matmul").reference(ones, ones, transpose_a=False, transpose_b=True)
    assert dtype_from_numpy(y.dtype).bits == 16 and float(y[0, 0]) == 4096.0  # a float16 sum would stop at 2048


def test_large_batches_are_unfolded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.ir.ops import contraction

    rng = np.random.default_rng(3)
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    x, w = rng.standard_normal((7, 3, 6, 6)), rng.standard_normal((4, 3, 3, 3))
    calls = {
        "conv": ((x, w), attrs),
        "conv_weight_grad": ((x, rng.standard_normal((7, 4, 6, 6))), {"kernel": (3, 3), **attrs}),
        "conv_transpose": ((rng.standard_normal((7, 4, 6, 6)), w), {"output_padding": (0, 0), **attrs}),
    }
    for op, (arrays, given) in calls.items():
        whole = registry.get(op).reference(*arrays, **given)
        monkeypatch.setattr(contraction, "_COLUMN_LIMIT", 2000)
        pieces = registry.get(op).reference(*arrays, **given)
        monkeypatch.undo()
        np.testing.assert_allclose(pieces, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op", ["conv", "conv_transpose", "conv_weight_grad"])
def test_empty_batch(op: str) -> None:
    attrs = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,), "groups": 1}
    if op == "conv":
        assert registry.get(op).reference(np.zeros((0, 3, 5)), np.zeros((4, 3, 2)), **attrs).shape == (0, 4, 4)
    elif op == "conv_transpose":
        y = registry.get(op).reference(np.zeros((0, 4, 4)), np.zeros((4, 3, 2)), output_padding=(0,), **attrs)
        assert y.shape == (0, 3, 5)
    else:
        y = registry.get(op).reference(np.zeros((0, 3, 5)), np.zeros((0, 4, 4)), kernel=(2,), **attrs)
        assert y.shape == (4, 3, 2) and not y.any()


# -- gradients ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(6))
def test_conv_gradients(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = conv_case(rng)
    arrays = [rng.standard_normal(case["x"]), rng.standard_normal(case["w"])]
    check_gradients(lambda g, x, w: g.conv(x, w, **case["attrs"]), arrays, rng, order=2)


@pytest.mark.parametrize("seed", range(6))
def test_conv_transpose_gradients(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    case = conv_case(rng)
    attrs = case["attrs"]
    spatial = len(attrs["stride"])
    attrs["padding"] = ((0, 0),) * spatial
    extra = tuple(max(s, d) - 1 for s, d in zip(attrs["stride"], attrs["dilation"], strict=True))
    w = rng.standard_normal(case["w"])
    x = rng.standard_normal((2, w.shape[0], *rng.integers(1, 4, spatial)))
    check_gradients(lambda g, x, w: g.conv_transpose(x, w, output_padding=extra, **attrs), [x, w], rng, order=2)


@pytest.mark.parametrize("seed", range(3))
def test_conv_weight_grad_gradients(seed: int) -> None:
    rng = np.random.default_rng(200 + seed)
    case = conv_case(rng)
    attrs, kernel = case["attrs"], case["w"][2:]
    x = rng.standard_normal(case["x"])
    dy = rng.standard_normal(infer("conv", case["x"], case["w"], **attrs))
    check_gradients(lambda g, x, dy: g.conv_weight_grad(x, dy, kernel=kernel, **attrs), [x, dy], rng, order=2)


def test_conv_gradients_with_symbolic_extents() -> None:
    rng = np.random.default_rng(11)
    x, w = rng.standard_normal((2, 6, 9, 10)), rng.standard_normal((8, 3, 3, 3))
    w_dim = Dim("W", 5, 100)
    shapes = [(N.expr, 6, H.expr, w_dim.expr), w.shape]
    check_gradients(lambda g, x, w: g.conv(x, w, **CONV), [x, w], rng, order=2, shapes=shapes)


@pytest.mark.parametrize(("ta", "tb"), [*itertools.product([False, True], repeat=2)])
@pytest.mark.parametrize("batches", [((), ()), ((3,), ()), ((), (3,)), ((3, 1), (2,))], ids=str)
def test_matmul_gradients(ta: bool, tb: bool, batches: tuple) -> None:
    rng = np.random.default_rng(7)
    a = rng.standard_normal((*batches[0], *((4, 2) if ta else (2, 4))))
    b = rng.standard_normal((*batches[1], *((3, 4) if tb else (4, 3))))
    check_gradients(lambda g, a, b: g.matmul(a, b, transpose_a=ta, transpose_b=tb), [a, b], rng, order=2)


def test_matmul_gradient_of_a_shared_matrix_is_one_product() -> None:
    from ingot.ir.differentiate import gradients

    graph, g, (y,) = build_graph(lambda g, a, b: g.matmul(a, b), [(N.expr, 5, 4), (4, 3)])
    loss = g.sum(y, axes=(0, 1, 2))
    (db,) = gradients(graph, loss, [graph.inputs[1]])
    graph.add_output(db)
    graph.prune()
    shapes = [n.output.shape for n in graph.find("matmul")]
    assert shapes[-1] == (4, 3), shapes
