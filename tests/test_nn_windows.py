"""Convolution, pooling, padding and resampling layers against definitions written out with loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ingot as ig
import ingot.nn as nn
import ingot.nn.functional as F
import numpy as np
import pytest

SEED = 11


def random(*shape: int, seed: int = SEED) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def spread(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,) * rank


def border(x: np.ndarray, widths: Any, mode: str, value: float = 0.0) -> np.ndarray:
    """NumPy's padding of the spatial axes."""
    pads = [(0, 0), (0, 0), *((w, w) if isinstance(w, int) else w for w in widths)]
    kind = {"zeros": "constant", "constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    extra = {"constant_values": value} if kind[mode] == "constant" else {}
    return np.pad(x, pads, kind[mode], **extra)


def correlate(x: np.ndarray, w: np.ndarray, b: Any, stride: Any, dilation: Any, groups: int) -> np.ndarray:
    """Cross-correlation of a padded input, one output position after the other."""
    rank = x.ndim - 2
    stride, dilation = spread(stride, rank), spread(dilation, rank)
    counts = [(e - d * (k - 1) - 1) // s + 1
              for e, k, s, d in zip(x.shape[2:], w.shape[2:], stride, dilation, strict=True)]  # fmt: skip
    out = np.zeros((x.shape[0], w.shape[0], *counts))
    per = w.shape[0] // groups
    for o in range(w.shape[0]):
        c = o // per * w.shape[1]
        for at in np.ndindex(*counts):
            cut = tuple(slice(i * s, i * s + d * (k - 1) + 1, d)
                        for i, s, d, k in zip(at, stride, dilation, w.shape[2:], strict=True))  # fmt: skip
            seen = x[(slice(None), slice(c, c + w.shape[1]), *cut)]
            out[(slice(None), o, *at)] = (seen * w[o]).reshape(x.shape[0], -1).sum(1)
    return out if b is None else out + b.reshape(-1, *(1,) * rank)


CONVOLUTIONS = [
    (1, {"kernel_size": 3}),
    (1, {"kernel_size": 4, "stride": 2, "padding": 1, "dilation": 2, "groups": 2}),
    (1, {"kernel_size": 4, "padding": "same"}),
    (2, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "bias": False}),
    (2, {"kernel_size": 3, "padding": "same", "dilation": 2, "groups": 4}),
    (2, {"kernel_size": 3, "padding": "valid", "stride": 2}),
    (2, {"kernel_size": 3, "padding": (2, 1), "padding_mode": "reflect"}),
    (2, {"kernel_size": 3, "padding": 2, "padding_mode": "replicate", "stride": 2}),
    (2, {"kernel_size": 3, "padding": "same", "padding_mode": "circular"}),
    (3, {"kernel_size": 2}),
    (3, {"kernel_size": (1, 2, 3), "stride": (1, 2, 1), "padding": (0, 1, 1), "groups": 2, "dilation": (1, 1, 2)}),
    (3, {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}),
]


def widths_of(layer: Any, rank: int) -> list[tuple[int, int]]:
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(0, 0)] * rank if layer.padding == "valid" else [(p, p) for p in layer.padding]


@pytest.mark.parametrize(("rank", "options"), CONVOLUTIONS)
def test_convolution(rank: int, options: dict[str, Any]) -> None:
    ig.manual_seed(SEED)
    layer = getattr(nn, f"Conv{rank}d")(4, 8, **options).double()
    x = random(2, 4, *(7, 6, 5)[:rank])
    padded = border(x, widths_of(layer, rank), layer.padding_mode)
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    wanted = correlate(padded, layer.weight.detach().numpy(), bias, layer.stride, layer.dilation, layer.groups)
    np.testing.assert_allclose(layer(ig.tensor(x)).detach().numpy(), wanted, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(layer(ig.tensor(x[0])).detach().numpy(), wanted[0], rtol=1e-11, atol=1e-11)
    with ig.no_grad():
        compiled = ig.compile(layer, ig.tensor(x))(ig.tensor(x))
    np.testing.assert_allclose(compiled.numpy(), wanted, rtol=1e-11, atol=1e-11)


def test_convolution_gradients() -> None:
    for rank, options in ((1, {"stride": 2}), (2, {"padding": 1, "groups": 2}), (3, {"dilation": 2, "padding": 1})):
        x = ig.tensor(random(2, 2, *(5, 5, 4)[:rank])).requires_grad_()
        w = ig.tensor(random(4, 2 // options.get("groups", 1), *(2, 3, 2)[:rank])).requires_grad_()
        function = getattr(F, f"conv{rank}d")
        assert ig.autograd.gradcheck(lambda x, w, f=function, o=options: f(x, w, None, **o), (x, w))


def test_convolution_attributes_and_initialisation() -> None:
    layer = nn.Conv2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2), dilation=(3, 1))
    for name, value in {
        "in_channels": 16, "out_channels": 33, "kernel_size": (3, 5), "stride": (2, 1), "padding": (4, 2),
        "dilation": (3, 1), "transposed": False, "output_padding": (0, 0), "groups": 1, "padding_mode": "zeros",
        "training": True,
    }.items():  # fmt: skip
        assert getattr(layer, name) == value
    assert layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels == 495
    bound = 1 / math.sqrt(layer.weight.size(1) * 15)
    for p in (layer.weight, layer.bias):
        assert p.abs().max().item() <= bound and p.abs().max().item() > 0.8 * bound
    before = layer.weight.clone()
    layer.reset_parameters()
    assert not ig.equal(before, layer.weight)
    assert tuple(nn.Conv2d(4, 8, 3, groups=2).weight.shape) == (8, 2, 3, 3)


def test_convolution_errors() -> None:
    for wrong in ({"groups": 3}, {"groups": 0}, {"padding": "full"}, {"padding_mode": "mirror"},
                  {"padding": "same", "stride": 2}):  # fmt: skip
        with pytest.raises(ValueError):
            nn.Conv2d(4, 8, 3, **wrong)
    layer = nn.Conv2d(4, 8, 3)
    with pytest.raises(TypeError, match="must be Tensor, not list"):
        layer([1.0])
    with pytest.raises(RuntimeError, match=r"expected input\[1, 3, 5, 5\] to have 4 channels, but got 3 channels"):
        layer(ig.zeros(1, 3, 5, 5))
    with pytest.raises(RuntimeError, match=r"Kernel size can't be greater than actual input size"):
        layer(ig.zeros(1, 4, 2, 5))
    with pytest.raises(RuntimeError, match=r"Expected 3D \(unbatched\) or 4D \(batched\) input to conv2d"):
        layer(ig.zeros(4, 5))
    with pytest.raises(RuntimeError, match="should be the same"):
        layer(ig.zeros(1, 4, 5, 5, dtype=ig.float64))


def test_sizes_that_the_documents_state() -> None:
    x = ig.randn(20, 16, 50, 100)
    assert nn.Conv2d(16, 33, 3, stride=2)(x).shape == (20, 33, 24, 49)
    assert nn.Conv2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2))(x).shape == (20, 33, 28, 100)
    assert nn.Conv2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2), dilation=(3, 1))(x).shape == (20, 33, 26, 100)
    assert nn.ConvTranspose2d(16, 33, 3, stride=2)(x).shape == (20, 33, 101, 201)
    assert nn.ConvTranspose2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2))(x).shape == (20, 33, 93, 100)
    assert nn.MaxPool2d((3, 2), stride=(2, 1))(ig.randn(20, 16, 50, 32)).shape == (20, 16, 24, 31)
    assert nn.MaxPool2d(3, 1, 0, 1)(ig.randn(16, 15, 15, 14)).shape == (16, 15, 13, 12)
    assert nn.Conv2d(5, 32, 5, 1, 2)(ig.randn(16, 5, 3, 10)).shape == (16, 32, 3, 10)
    flat = nn.Sequential(nn.Conv2d(1, 32, 5, 1, 1), nn.Flatten())
    assert flat(ig.randn(32, 1, 5, 5)).shape == (32, 288)
    assert nn.Linear(20, 30)(ig.randn(128, 20)).size() == ig.Size([128, 30])


def test_hook_of_a_convolution_sees_its_sizes() -> None:
    seen: list[Any] = []
    net = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
                        nn.Conv2d(6, 16, 5))  # fmt: skip
    net[4].register_forward_hook(lambda module, given, result: seen.extend([given[0].size(), result.size()]))
    net(ig.randn(16, 1, 28, 28))
    assert [str(s) for s in seen] == ["torch.Size([16, 6, 14, 14])", "torch.Size([16, 16, 10, 10])"]


def test_printed_forms() -> None:
    assert repr(nn.Conv2d(3, 32, 3, padding=1)) == "Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))"
    assert repr(nn.Conv1d(4, 8, 3, 2, "valid", 2, 2, False, "circular")) == (
        "Conv1d(4, 8, kernel_size=(3,), stride=(2,), padding=valid, dilation=(2,), groups=2, bias=False, "
        "padding_mode=circular)"
    )
    assert repr(nn.Linear(400, 120)) == "Linear(in_features=400, out_features=120, bias=True)"
    assert repr(nn.MaxPool2d(2, 2)) == (
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"
    )
    assert repr(nn.ReLU()) == "ReLU()" and repr(nn.Sigmoid()) == "Sigmoid()"
    assert repr(nn.ReLU(inplace=True)) == "ReLU(inplace=True)"
    assert repr(nn.ZeroPad2d((1, 2, 3, 4))) == "ZeroPad2d((1, 2, 3, 4))"
    assert repr(nn.ConstantPad1d(2, 3.5)) == "ConstantPad1d(padding=(2, 2), value=3.5)"
    assert repr(nn.AdaptiveMaxPool2d((5, None))) == "AdaptiveMaxPool2d(output_size=(5, None))"
    assert repr(nn.MaxUnpool2d(2)) == "MaxUnpool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))"
    assert repr(nn.LPPool2d(2, 3)) == "LPPool2d(norm_type=2, kernel_size=3, stride=None, ceil_mode=False)"


# -- pooling ------------------------------------------------------------------------------------------
def windows(x: np.ndarray, kernel: Any, stride: Any, padding: Any, dilation: Any = 1, ceil: bool = False) -> Any:
    """(place in the output, slices of the padded input) for each window; the padded sizes."""
    rank = x.ndim - 2
    kernel, stride, padding, dilation = (spread(v, rank) for v in (kernel, stride, padding, dilation))
    counts = []
    for e, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True):
        room = e + 2 * p - d * (k - 1) - 1
        n = (-(-room // s) if ceil else room // s) + 1
        counts.append(n - 1 if ceil and (n - 1) * s >= e + p else n)
    cuts = {
        at: tuple(slice(i * s, i * s + d * (k - 1) + 1, d)
                  for i, s, k, d in zip(at, stride, kernel, dilation, strict=True))
        for at in np.ndindex(*counts)
    }  # fmt: skip
    return counts, cuts, padding


POOLS = [
    (1, {"kernel_size": 3}), (1, {"kernel_size": 3, "stride": 2, "padding": 1}),
    (2, {"kernel_size": 2}), (2, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    (2, {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    (3, {"kernel_size": 2}), (3, {"kernel_size": (2, 3, 2), "stride": 1, "padding": 1, "ceil_mode": True}),
]  # fmt: skip


@pytest.mark.parametrize(("rank", "options"), [*POOLS, (2, {"kernel_size": 2, "dilation": 2, "stride": 1})])
def test_max_pool(rank: int, options: dict[str, Any]) -> None:
    x = random(2, 3, *(9, 8, 7)[:rank])
    counts, cuts, padding = windows(x, options["kernel_size"], options.get("stride", options["kernel_size"]),
                                    options.get("padding", 0), options.get("dilation", 1),
                                    options.get("ceil_mode", False))  # fmt: skip
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p + 9) for p in padding)], constant_values=-np.inf)
    wanted = np.empty((2, 3, *counts))
    for at, cut in cuts.items():
        wanted[(slice(None), slice(None), *at)] = padded[(slice(None), slice(None), *cut)].reshape(2, 3, -1).max(-1)
    layer = getattr(nn, f"MaxPool{rank}d")(**options, return_indices=True)
    values, indices = layer(ig.tensor(x))
    assert np.array_equal(values.numpy(), wanted) and indices.dtype is ig.int64
    plane = x.reshape(2, 3, -1)
    assert np.array_equal(np.take_along_axis(plane, indices.numpy().reshape(2, 3, -1), 2).reshape(wanted.shape), wanted)
    alone = getattr(F, f"max_pool{rank}d")(ig.tensor(x[0]), **options)
    assert np.array_equal(alone.numpy(), wanted[0])
    with ig.no_grad():
        native = ig.compile(getattr(nn, f"MaxPool{rank}d")(**options), ig.tensor(x))(ig.tensor(x))
    assert np.array_equal(native.numpy(), wanted)
    given = ig.tensor(x[:1, :1]).requires_grad_()
    assert ig.autograd.gradcheck(lambda t: getattr(F, f"max_pool{rank}d")(t, **options), (given,))


@pytest.mark.parametrize(("rank", "options"), POOLS)
@pytest.mark.parametrize("counted", [True, False])
def test_avg_pool(rank: int, options: dict[str, Any], counted: bool) -> None:
    x = random(2, 3, *(9, 8, 7)[:rank])
    counts, cuts, padding = windows(x, options["kernel_size"], options.get("stride", options["kernel_size"]),
                                    options.get("padding", 0), 1, options.get("ceil_mode", False))  # fmt: skip
    grow = [(0, 0), (0, 0), *((p, p + 9) for p in padding)]
    padded, data = np.pad(x, grow), np.pad(np.ones(x.shape), grow)
    inside = np.pad(np.ones([e + 2 * p for e, p in zip(x.shape[2:], padding, strict=True)]), [(0, 9)] * rank)
    wanted = np.empty((2, 3, *counts))
    for at, cut in cuts.items():
        total = padded[(slice(None), slice(None), *cut)].reshape(2, 3, -1).sum(-1)
        size = inside[cut].sum() if counted else data[(0, 0, *cut)].sum()
        wanted[(slice(None), slice(None), *at)] = total / size
    layer = getattr(nn, f"AvgPool{rank}d")(**options, count_include_pad=counted)
    np.testing.assert_allclose(layer(ig.tensor(x)).numpy(), wanted, rtol=1e-12)
    with ig.no_grad():
        np.testing.assert_allclose(ig.compile(layer, ig.tensor(x))(ig.tensor(x)).numpy(), wanted, rtol=1e-12)
    assert ig.autograd.gradcheck(layer, (ig.tensor(x[:1, :1]).requires_grad_(),))


def test_pooling_details() -> None:
    x = ig.tensor(random(1, 2, 6, 6))
    np.testing.assert_allclose(F.avg_pool2d(x, 2, divisor_override=3).numpy(), F.avg_pool2d(x, 2).numpy() * 4 / 3)
    whole = F.avg_pool2d(ig.tensor([[[[1, 2], [3, 5]]]]), 2)
    assert whole.dtype is ig.int64 and whole.item() == 2
    cubes = np.abs(x.numpy()) ** 3
    wanted = cubes.reshape(1, 2, 3, 2, 3, 2).sum((3, 5)) ** (1 / 3)
    np.testing.assert_allclose(nn.LPPool2d(3, 2)(x.abs()).numpy(), wanted, rtol=1e-12)
    with pytest.raises(RuntimeError, match="pad should be at most half"):
        F.max_pool2d(x, 2, padding=2)
    with pytest.raises(RuntimeError, match="divisor must be not zero"):
        F.avg_pool2d(x, 2, divisor_override=0)
    with pytest.raises(RuntimeError, match="Expected 3D"):
        nn.MaxPool2d(2)(ig.zeros(4, 4))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_unpool_puts_values_back(rank: int) -> None:
    x = random(2, 3, *(6, 4, 4)[:rank])
    values, indices = getattr(nn, f"MaxPool{rank}d")(2, return_indices=True)(ig.tensor(x))
    layer = getattr(nn, f"MaxUnpool{rank}d")(2)
    out = layer(values, indices).numpy()
    assert out.shape == x.shape
    plane = out.reshape(2, 3, -1)
    assert np.array_equal(np.take_along_axis(plane, indices.numpy().reshape(2, 3, -1), 2).ravel(),
                          values.numpy().ravel())  # fmt: skip
    assert np.count_nonzero(plane) == values.numel()
    larger = layer(values, indices, output_size=[e + 1 for e in x.shape[2:]])
    assert tuple(larger.shape[2:]) == tuple(e + 1 for e in x.shape[2:])
    with pytest.raises(ValueError, match="invalid output_size"):
        layer(values, indices, output_size=[e + 4 for e in x.shape[2:]])
    assert ig.autograd.gradcheck(lambda v: layer(v, indices), (values.requires_grad_(),))


@pytest.mark.parametrize(
    ("rank", "size"), [(1, 3), (1, 9), (2, (4, None)), (2, 1), (2, (3, 7)), (3, (2, 3, 1)), (3, 4)]
)
def test_adaptive_pools(rank: int, size: Any) -> None:
    x = random(2, 3, *(9, 8, 7)[:rank])
    wanted = [e if s is None else s for s, e in zip(spread(size, rank), x.shape[2:], strict=True)]
    mean, largest = np.empty((2, 3, *wanted)), np.empty((2, 3, *wanted))
    for at in np.ndindex(*wanted):
        cut = tuple(slice(i * e // n, -(-(i + 1) * e // n)) for i, e, n in zip(at, x.shape[2:], wanted, strict=True))
        seen = x[(slice(None), slice(None), *cut)].reshape(2, 3, -1)
        mean[(slice(None), slice(None), *at)], largest[(slice(None), slice(None), *at)] = seen.mean(-1), seen.max(-1)
    average = getattr(nn, f"AdaptiveAvgPool{rank}d")(size)
    np.testing.assert_allclose(average(ig.tensor(x)).numpy(), mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(average(ig.tensor(x[0])).numpy(), mean[0], rtol=1e-12, atol=1e-14)
    values, indices = getattr(nn, f"AdaptiveMaxPool{rank}d")(size, return_indices=True)(ig.tensor(x))
    assert np.array_equal(values.numpy(), largest)
    assert np.array_equal(np.take_along_axis(x.reshape(2, 3, -1), indices.numpy().reshape(2, 3, -1), 2).ravel(),
                          largest.ravel())  # fmt: skip
    with ig.no_grad():
        native = ig.compile(lambda t: getattr(F, f"adaptive_max_pool{rank}d")(t, size), ig.tensor(x))(ig.tensor(x))
    assert np.array_equal(native.numpy(), largest)
    given = ig.tensor(x[:1, :1]).requires_grad_()
    assert ig.autograd.gradcheck(lambda t: getattr(F, f"adaptive_max_pool{rank}d")(t, size), (given,))
    assert ig.autograd.gradcheck(average, (given,))


def test_combined_pooling() -> None:
    x = ig.tensor(random(2, 3, 5, 7))
    mean, largest = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
    added, joined = 0.5 * (mean + largest), ig.cat([mean, largest], 1)
    np.testing.assert_allclose(added.numpy()[:, :, 0, 0], (x.numpy().mean((2, 3)) + x.numpy().max((2, 3))) / 2)
    assert joined.shape == (2, 6, 1, 1) and np.array_equal(joined.numpy()[:, 3:, 0, 0], x.numpy().max((2, 3)))


@pytest.mark.parametrize("rank", [2, 3])
def test_fractional_max_pool(rank: int) -> None:
    x = random(2, 3, *(8, 9, 10)[:rank])
    pool = getattr(nn, f"FractionalMaxPool{rank}d")
    samples = ig.tensor(np.random.default_rng(SEED).random((2, 3, rank)))
    fixed = pool(2, output_size=(4,) * rank, return_indices=True, _random_samples=samples)
    values, indices = fixed(ig.tensor(x))
    assert values.shape == (2, 3, *(4,) * rank)
    assert np.array_equal(np.take_along_axis(x.reshape(2, 3, -1), indices.numpy().reshape(2, 3, -1), 2).ravel(),
                          values.numpy().ravel())  # fmt: skip
    assert ig.equal(values, fixed(ig.tensor(x))[0])
    assert pool(2, output_ratio=0.5)(ig.tensor(x)).shape == (2, 3, *(e // 2 for e in x.shape[2:]))
    with pytest.raises(ValueError, match="only one of output_size and output_ratio"):
        pool(2, output_size=4, output_ratio=0.5)
    with pytest.raises(ValueError, match="requires specifying either an output size, or a pooling ratio"):
        pool(2)


# -- padding ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "constant", "reflect", "replicate", "circular"])
def test_padding_layers(rank: int, mode: str) -> None:
    x = random(2, 3, *(5, 6, 4)[:rank])
    name = {"zeros": "ZeroPad", "constant": "ConstantPad", "reflect": "ReflectionPad", "replicate": "ReplicationPad",
            "circular": "CircularPad"}[mode]  # fmt: skip
    extra = (2.5,) if mode == "constant" else ()
    cls = getattr(nn, f"{name}{rank}d")
    widths = [(1, 2), (0, 3), (2, 1)][:rank]  # of the first spatial axis on
    flat = [w for pair in reversed(widths) for w in pair]
    for padding, per_axis in ((2, [(2, 2)] * rank), (tuple(flat), widths)):
        layer = cls(padding, *extra)
        wanted = border(x, per_axis, mode, 2.5 if extra else 0.0)
        assert np.array_equal(layer(ig.tensor(x)).numpy(), wanted)
        assert np.array_equal(layer(ig.tensor(x[0])).numpy(), wanted[0])
        with ig.no_grad():
            assert np.array_equal(ig.compile(layer, ig.tensor(x))(ig.tensor(x)).numpy(), wanted)
    assert ig.autograd.gradcheck(layer, (ig.tensor(x[:1, :1]).requires_grad_(),))


def test_pad_counts_from_the_last_axis_and_crops() -> None:
    x = ig.arange(6).reshape(2, 3)
    assert F.pad(x, (1, 0)).tolist() == [[0, 0, 1, 2], [0, 3, 4, 5]]
    assert F.pad(x, (0, 1, 1, 0), value=7).tolist() == [[7, 7, 7, 7], [0, 1, 2, 7], [3, 4, 5, 7]]
    assert F.pad(x, (-1, 1)).tolist() == [[1, 2, 0], [4, 5, 0]]
    assert F.pad(x, (-1, 1), "replicate").tolist() == [[1, 2, 2], [4, 5, 5]]
    assert F.pad(ig.tensor([[True]]), (1, 0), value=2.0).tolist() == [[True, True]]
    assert ig.constant_pad_nd(x, (0, 0, 0, 1), 9)[2].tolist() == [9, 9, 9]
    with pytest.raises(RuntimeError, match="Padding size should be less than the corresponding input dimension"):
        F.pad(x, (3, 0), "reflect")
    with pytest.raises(RuntimeError, match="wrapping around more than once"):
        F.pad(x, (4, 0), "circular")


# -- resampling ---------------------------------------------------------------------------------------
def test_upsampling_layers() -> None:
    x = ig.arange(4, dtype=ig.float32).reshape(1, 1, 2, 2)
    doubled = np.repeat(np.repeat(x.numpy(), 2, 2), 2, 3)
    for layer in (nn.Upsample(scale_factor=2), nn.Upsample(size=(4, 4)), nn.UpsamplingNearest2d(scale_factor=2)):
        assert np.array_equal(layer(x).numpy(), doubled) and not list(layer.parameters())
    line = np.linspace(0, 1, 4)
    wanted = line[:, None] * 2 + line[None]
    for layer in (nn.UpsamplingBilinear2d(size=4), nn.Upsample(size=4, mode="bilinear", align_corners=True)):
        np.testing.assert_allclose(layer(x).numpy()[0, 0], wanted, rtol=1e-6, atol=1e-6)
    for function, want in (
        (F.upsample, doubled[0, 0]), (F.upsample_nearest, doubled[0, 0]), (F.upsample_bilinear, wanted)
    ):  # fmt: skip
        with pytest.warns(UserWarning, match="deprecated"):
            np.testing.assert_allclose(function(x, scale_factor=2).numpy()[0, 0], want, rtol=1e-6, atol=1e-6)


def test_flatten_and_own_linear_layer() -> None:
    assert nn.Flatten()(ig.zeros(2, 3, 4)).shape == (2, 12)
    assert nn.Flatten(0, 1)(ig.zeros(2, 3, 4)).shape == (6, 4)
    assert nn.Unflatten(1, (3, -1))(ig.zeros(2, 12)).shape == (2, 3, 4)

    class MyLinear(nn.Module):
        def __init__(self, given: int, wanted: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(ig.randn(given, wanted))
            self.bias = nn.Parameter(ig.randn(wanted))

        def forward(self, x: ig.Tensor) -> ig.Tensor:
            return x @ self.weight + self.bias

    layer = MyLinear(4, 2)
    x = ig.randn(5, 4)
    np.testing.assert_allclose(
        layer(x).detach().numpy(), x.numpy() @ layer.weight.detach().numpy() + layer.bias.detach().numpy(), rtol=1e-5
    )
    assert repr(layer) == "MyLinear()" and [n for n, _ in layer.named_parameters()] == ["weight", "bias"]
    optimizer = ig.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    layer(x).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(
        layer.weight.detach().numpy(), before.numpy() - 0.1 * x.numpy().sum(0)[:, None], rtol=1e-4, atol=1e-5
    )


def test_linear_layer() -> None:
    layer = nn.Linear(6, 3)
    assert (layer.in_features, layer.out_features, layer.training) == (6, 3, True)
    bound = 1 / math.sqrt(6)
    assert layer.weight.abs().max().item() <= bound and layer.bias.abs().max().item() <= bound
    for shape in ((6,), (4, 6), (2, 3, 6)):
        x = random(*shape).astype(np.float32)
        wanted = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        np.testing.assert_allclose(layer(ig.tensor(x)).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(F.linear(ig.tensor(x), layer.weight).detach().numpy(),
                                   x @ layer.weight.detach().numpy().T, rtol=1e-5, atol=1e-6)  # fmt: skip


def test_transposed_convolution_is_the_input_gradient() -> None:
    for options in ({"stride": 2, "output_padding": 1}, {"padding": 1, "groups": 2}, {"dilation": 2}):
        layer = nn.ConvTranspose2d(4, 6, 3, **options).double()
        groups = options.get("groups", 1)
        assert tuple(layer.weight.shape) == (4, 6 // groups, 3, 3)
        x = ig.tensor(random(2, 4, 5, 4))
        out = layer(x)
        s, p, d = options.get("stride", 1), options.get("padding", 0), options.get("dilation", 1)
        extra = options.get("output_padding", 0)
        assert tuple(out.shape[2:]) == tuple((e - 1) * s - 2 * p + d * 2 + extra + 1 for e in (5, 4))
        image = ig.zeros_like(out).detach().requires_grad_()
        forward = F.conv2d(image, layer.weight.detach(), None, s, p, d, groups)
        forward.backward(x)
        np.testing.assert_allclose(
            (out - layer.bias.reshape(1, -1, 1, 1)).detach().numpy(), image.grad.numpy(), rtol=1e-11, atol=1e-11
        )
        np.testing.assert_allclose(
            F.conv_transpose2d(x, layer.weight, layer.bias, s, p, extra, groups, d).detach().numpy(),
            out.detach().numpy(),
        )


def test_every_product_of_modes_agrees_with_its_layer() -> None:
    """Layers pass their arguments to the functions: the same numbers either way."""
    x = ig.tensor(random(2, 4, 6, 6).astype(np.float32))
    for ceil, padding in itertools.product((False, True), (0, 1)):
        assert ig.equal(nn.MaxPool2d(3, 2, padding, 1, False, ceil)(x), F.max_pool2d(x, 3, 2, padding, 1, ceil))
        assert ig.equal(nn.AvgPool2d(3, 2, padding, ceil, False)(x), F.avg_pool2d(x, 3, 2, padding, ceil, False))
    layer = nn.Conv2d(4, 2, 3)
    assert ig.equal(layer(x), F.conv2d(x, layer.weight, layer.bias))
