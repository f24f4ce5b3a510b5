"""Shuffles, sliding windows, one-hot and sampling grids against definitions in NumPy, and PyTorch where it is there."""

from __future__ import annotations

import itertools
from typing import Any

import ingot as ig
import ingot.nn as nn
import ingot.nn.functional as F
import numpy as np
import pytest

SEED = 13


def random(*shape: int, seed: int = SEED) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_pixel_shuffle_and_back() -> None:
    x = random(2, 3, 8, 2, 5)
    out = nn.PixelShuffle(2)(ig.tensor(x))
    wanted = np.empty((2, 3, 2, 4, 10))
    for c, i, j in itertools.product(range(2), range(2), range(2)):
        wanted[:, :, c, i::2, j::2] = x[:, :, c * 4 + i * 2 + j]
    assert np.array_equal(out.numpy(), wanted)
    assert np.array_equal(nn.PixelUnshuffle(2)(out).numpy(), x)
    assert repr(nn.PixelShuffle(2)) == "PixelShuffle(upscale_factor=2)"
    assert repr(nn.PixelUnshuffle(3)) == "PixelUnshuffle(downscale_factor=3)"
    with pytest.raises(RuntimeError, match="divisible by the square of upscale_factor"):
        F.pixel_shuffle(ig.zeros(1, 6, 2, 2), 2)
    with pytest.raises(RuntimeError, match="height to be divisible"):
        F.pixel_unshuffle(ig.zeros(1, 6, 3, 2), 2)


def test_channel_shuffle() -> None:
    x = random(2, 6, 3)
    wanted = x[:, [0, 3, 1, 4, 2, 5]]
    assert np.array_equal(nn.ChannelShuffle(2)(ig.tensor(x)).numpy(), wanted)
    assert np.array_equal(ig.channel_shuffle(ig.tensor(x), 2).numpy(), wanted)
    assert repr(nn.ChannelShuffle(2)) == "ChannelShuffle(groups=2)"
    with pytest.raises(RuntimeError, match="divisible by groups"):
        F.channel_shuffle(ig.tensor(x), 4)


WINDOWS = [(2, 1, 0, 1), (3, 1, 1, 2), ((2, 3), (2, 1), (1, 0), (2, 1))]


@pytest.mark.parametrize("options", WINDOWS)
def test_unfold_and_fold(options: tuple[Any, ...]) -> None:
    kernel, dilation, padding, stride = (v if isinstance(v, tuple) else (v, v) for v in options)
    x = random(2, 3, 6, 7)
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    counts = [(e - d * (k - 1) - 1) // s + 1
              for e, k, d, s in zip(padded.shape[2:], kernel, dilation, stride, strict=True)]  # fmt: skip
    columns, total = [], np.zeros_like(padded)
    for i, j in np.ndindex(*counts):
        cut = (slice(None), slice(None), *(slice(a * s, a * s + d * (k - 1) + 1, d)
               for a, k, d, s in zip((i, j), kernel, dilation, stride, strict=True)))  # fmt: skip
        columns.append(padded[cut].reshape(2, -1))
        total[cut] += padded[cut]
    wanted = np.stack(columns, -1)
    unfold = nn.Unfold(*options)
    out = unfold(ig.tensor(x))
    assert np.array_equal(out.numpy(), wanted)
    assert np.array_equal(unfold(ig.tensor(x[0])).numpy(), wanted[0])
    fold = nn.Fold((6, 7), *options)
    inside = tuple(slice(p, p + e) for p, e in zip(padding, (6, 7), strict=True))
    np.testing.assert_allclose(fold(out).numpy(), total[(slice(None), slice(None), *inside)], rtol=1e-12)
    with ig.no_grad():
        assert np.array_equal(ig.compile(unfold, ig.tensor(x))(ig.tensor(x)).numpy(), wanted)
        np.testing.assert_allclose(ig.compile(fold, out)(out).numpy(), fold(out).numpy(), rtol=1e-12)
    assert ig.autograd.gradcheck(unfold, (ig.tensor(x[:1, :1]).requires_grad_(),))
    small = nn.Fold((6, 7), *options)
    assert ig.autograd.gradcheck(small, (ig.tensor(wanted[:1, : wanted.shape[1] // 3]).requires_grad_(),))
    assert repr(nn.Unfold(2)) == "Unfold(kernel_size=2, dilation=1, padding=0, stride=1)"
    assert repr(nn.Fold((4, 5), 2)) == "Fold(output_size=(4, 5), kernel_size=2, dilation=1, padding=0, stride=1)"


def test_fold_errors() -> None:
    with pytest.raises(RuntimeError, match="divisible by the product of kernel_size"):
        F.fold(ig.zeros(1, 5, 4), (3, 3), 2)
    with pytest.raises(RuntimeError, match=r"expected size of input's dimension 2 to match .* 2 \* 2 = 4"):
        F.fold(ig.zeros(1, 8, 5), (3, 3), 2)
    with pytest.raises(RuntimeError, match="must be at least one"):
        F.unfold(ig.zeros(1, 1, 2, 2), 3)


def test_one_hot() -> None:
    labels = ig.tensor([0, 2])
    assert F.one_hot(labels, 4).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert F.one_hot(labels).tolist() == [[1, 0, 0], [0, 0, 1]] and F.one_hot(labels).dtype is ig.int64
    assert F.one_hot(ig.tensor([[1], [0]]), 2).shape == (2, 1, 2)
    compiled = ig.compile(lambda t: F.one_hot(t, 4), labels)
    assert compiled(labels).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    for wrong, count in ((ig.tensor([3]), 3), (ig.tensor([-1]), 3), (ig.tensor([1.0]), 3), (ig.tensor([0]), 0)):
        with pytest.raises(RuntimeError):
            F.one_hot(wrong, count)


@pytest.mark.parametrize("align", [True, False])
def test_identity_grid_gives_the_image_back(align: bool) -> None:
    x = random(1, 2, 4, 5)
    theta = ig.tensor([[[1.0, 0, 0], [0, 1, 0]]], dtype=ig.float64)
    grid = F.affine_grid(theta, (1, 2, 4, 5), align)
    for mode in ("bilinear", "nearest", "bicubic"):
        np.testing.assert_allclose(F.grid_sample(ig.tensor(x), grid, mode, "border", align).numpy(), x, atol=1e-12)
    flipped = F.affine_grid(theta * ig.tensor([[-1.0], [1.0]], dtype=ig.float64), (1, 2, 4, 5), align)
    out = F.grid_sample(ig.tensor(x), flipped, "bilinear", "border", align)
    np.testing.assert_allclose(out.numpy(), x[..., ::-1], atol=1e-12)


def test_grid_sample_borders_and_errors() -> None:
    x = ig.arange(4, dtype=ig.float64).reshape(1, 1, 1, 4)
    grid = ig.tensor([[[[-3.0, 0.0], [0.0, 0.0], [3.0, 0.0]]]], dtype=ig.float64)

    def row(mode: str, border: str) -> list[float]:
        return F.grid_sample(x, grid, mode, border, True).reshape(-1).tolist()

    assert row("bilinear", "zeros") == [0.0, 1.5, 0.0]
    assert row("bilinear", "border") == [0.0, 1.5, 3.0]
    np.testing.assert_allclose(row("bilinear", "reflection"), [3.0, 1.5, 0.0])
    assert row("nearest", "border") == [0.0, 2.0, 3.0]
    for call, error in (
        (lambda: F.grid_sample(x, grid, "linear"), ValueError),
        (lambda: F.grid_sample(x, grid, padding_mode="wrap"), ValueError),
        (lambda: F.grid_sample(x, grid[..., :1], align_corners=True), RuntimeError),
        (lambda: F.affine_grid(ig.zeros(1, 3, 3), (1, 1, 2, 2), True), ValueError),
    ):
        with pytest.raises(error):
            call()
    with pytest.warns(UserWarning, match="align_corners"):
        F.grid_sample(x, grid)


@pytest.mark.parametrize("border", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample_gradients(mode: str, border: str) -> None:
    x = ig.tensor(random(1, 2, 4, 3)).requires_grad_()
    grid = ig.tensor(np.random.default_rng(SEED).uniform(-1.3, 1.3, (1, 3, 2, 2)))
    operands = (x, grid if mode == "nearest" else grid.requires_grad_())
    assert ig.autograd.gradcheck(lambda a, b: F.grid_sample(a, b, mode, border, False), operands)


@pytest.mark.parity
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("border", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(("mode", "rank"), [("bilinear", 2), ("nearest", 2), ("bicubic", 2), ("bilinear", 3)])
def test_grid_sample_is_pytorchs(mode: str, rank: int, border: str, align: bool) -> None:
    torch = pytest.importorskip("torch")
    x = random(2, 3, *(5, 4, 3)[:rank])
    grid = np.random.default_rng(SEED).uniform(-1.7, 1.7, (2, *(6, 3, 2)[:rank], rank))
    ours = F.grid_sample(ig.tensor(x), ig.tensor(grid), mode, border, align)
    theirs = torch.nn.functional.grid_sample(torch.tensor(x), torch.tensor(grid), mode, border, align)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-10, atol=1e-12)
    with ig.no_grad():
        given = (ig.tensor(x), ig.tensor(grid))
        native = ig.compile(lambda a, b: F.grid_sample(a, b, mode, border, align), *given)(*given)
    np.testing.assert_allclose(native.numpy(), theirs.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("size", [(2, 1, 4, 5), (2, 3, 1, 2), (2, 1, 4, 5, 3)])
def test_affine_grid_is_pytorchs(size: tuple[int, ...], align: bool) -> None:
    torch = pytest.importorskip("torch")
    rank = len(size) - 2
    theta = random(2, rank, rank + 1)
    ours = F.affine_grid(ig.tensor(theta), size, align)
    theirs = torch.nn.functional.affine_grid(torch.tensor(theta), size, align)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12, atol=1e-12)
