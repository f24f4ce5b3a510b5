"""Normalisation and dropout layers against their formulas; masks are the same eager and compiled."""

from __future__ import annotations

import warnings
from typing import Any

import ingot as ig
import ingot.nn as nn
import ingot.nn.functional as F
import numpy as np
import pytest

SEED = 12


def random(*shape: int, seed: int = SEED) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def standard(x: np.ndarray, axes: Any, eps: float) -> np.ndarray:
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + eps)


def column(v: Any, rank: int) -> np.ndarray:
    return v.detach().numpy().reshape(1, -1, *(1,) * (rank - 2))


def filled(layer: Any) -> Any:
    """The layer in float64 with random parameters."""
    rng = np.random.default_rng(3)
    layer = layer.double()
    with ig.no_grad():
        for p in layer.parameters():
            p.copy_(ig.tensor(rng.uniform(0.5, 1.5, tuple(p.shape))))
    return layer


def same_compiled(layer: Any, x: np.ndarray, wanted: np.ndarray) -> None:
    with ig.no_grad():
        np.testing.assert_allclose(ig.compile(layer, ig.tensor(x))(ig.tensor(x)).numpy(), wanted, rtol=1e-9, atol=1e-9)


BATCHES = [("1d", (6, 3)), ("1d", (4, 3, 5)), ("2d", (4, 3, 5, 2)), ("3d", (2, 3, 4, 2, 3))]


@pytest.mark.parametrize(("kind", "shape"), BATCHES)
def test_batch_norm_statistics(kind: str, shape: tuple[int, ...]) -> None:
    layer = filled(getattr(nn, f"BatchNorm{kind}")(3, eps=1e-3, momentum=0.3))
    axes, rank = (0, *range(2, len(shape))), len(shape)
    x = random(*shape) * 2 + 1
    count = x.size // 3
    mean, var = np.zeros(3), np.ones(3)
    for batch in (x, x * 3 - 2):
        wanted = standard(batch, axes, 1e-3) * column(layer.weight, rank) + column(layer.bias, rank)
        np.testing.assert_allclose(layer(ig.tensor(batch)).detach().numpy(), wanted, rtol=1e-9, atol=1e-9)
        mean = 0.7 * mean + 0.3 * batch.mean(axes)
        var = 0.7 * var + 0.3 * batch.var(axes) * count / (count - 1)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-12)
    assert layer.num_batches_tracked.item() == 2 and layer.num_batches_tracked.dtype is ig.int64
    with ig.no_grad():
        layer(ig.tensor(x))
    assert layer.num_batches_tracked.item() == 3  # train mode under no_grad counts, too
    layer.eval()
    kept = layer.running_mean.clone()
    scaled = (x - column(kept, rank)) / np.sqrt(column(layer.running_var, rank) + 1e-3)
    wanted = scaled * column(layer.weight, rank) + column(layer.bias, rank)
    np.testing.assert_allclose(layer(ig.tensor(x)).detach().numpy(), wanted, rtol=1e-9, atol=1e-9)
    same_compiled(layer, x, wanted)
    assert ig.equal(kept, layer.running_mean)
    layer.reset_parameters()
    assert layer.running_mean.abs().sum().item() == 0 and layer.running_var.sum().item() == 3
    assert layer.weight.sum().item() == 3 and layer.bias.abs().sum().item() == 0
    layer(ig.tensor(x))
    layer.reset_running_stats()
    assert layer.num_batches_tracked.item() == 0


def test_batch_norm_options() -> None:
    x = ig.tensor(random(5, 3, 2, 2))
    plain = nn.BatchNorm2d(3, affine=False)
    assert plain.weight is None and plain.bias is None and not list(plain.parameters())
    untracked = nn.BatchNorm2d(3, track_running_stats=False).double()
    assert untracked.running_mean is None and not list(untracked.buffers())
    training = untracked(x)
    np.testing.assert_allclose(untracked.eval()(x).detach().numpy(), training.detach().numpy())
    average = nn.BatchNorm2d(3, momentum=None).double()
    average(x), average(x * 3)
    np.testing.assert_allclose(average.running_mean.numpy(), x.numpy().mean((0, 2, 3)) * 2, rtol=1e-10)
    assert nn.BatchNorm2d(3, bias=False).bias is None
    assert repr(nn.BatchNorm2d(100)) == (
        "BatchNorm2d(100, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)"
    )
    empty = nn.BatchNorm2d(3)
    assert empty(ig.zeros(0, 3, 2, 2)).shape == (0, 3, 2, 2) and empty.running_mean.abs().sum().item() == 0
    for layer, shape in ((nn.BatchNorm2d(3), (2, 3)), (nn.BatchNorm1d(3), (2, 3, 4, 5)), (nn.BatchNorm3d(3), (3, 4))):
        with pytest.raises((ValueError, RuntimeError), match="expected"):
            layer(ig.zeros(*shape))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        nn.BatchNorm1d(3)(ig.zeros(1, 3))


def test_functional_batch_norm_updates_its_arguments() -> None:
    x = ig.tensor(random(6, 3))
    mean, var = ig.zeros(3, dtype=ig.float64), ig.ones(3, dtype=ig.float64)
    out = F.batch_norm(x, mean, var, training=True, momentum=1.0)
    np.testing.assert_allclose(mean.numpy(), x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), x.numpy().var(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(out.numpy(), standard(x.numpy(), 0, 1e-5), rtol=1e-9)
    again = F.batch_norm(x, mean, var, ig.full((3,), 2.0, dtype=ig.float64), ig.ones(3, dtype=ig.float64))
    want = (x.numpy() - mean.numpy()) / np.sqrt(var.numpy() + 1e-5) * 2 + 1
    np.testing.assert_allclose(again.numpy(), want, rtol=1e-10)
    result, saved, inverse = ig.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)
    np.testing.assert_allclose(saved.numpy(), x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(inverse.numpy(), 1 / np.sqrt(x.numpy().var(0) + 1e-5), rtol=1e-12)
    np.testing.assert_allclose(result.numpy(), out.numpy())


@pytest.mark.parametrize(("kind", "shape"), [("1d", (4, 3, 5)), ("2d", (4, 3, 5, 2)), ("3d", (2, 3, 4, 2, 3))])
def test_instance_norm(kind: str, shape: tuple[int, ...]) -> None:
    x, rank = random(*shape) * 2 + 1, len(shape)
    axes = tuple(range(2, rank))
    layer = getattr(nn, f"InstanceNorm{kind}")(3)
    assert not list(layer.parameters()) and not list(layer.buffers())
    wanted = standard(x, axes, 1e-5)
    np.testing.assert_allclose(layer(ig.tensor(x)).numpy(), wanted, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(layer(ig.tensor(x[0])).numpy(), wanted[0], rtol=1e-8, atol=1e-9)
    same_compiled(layer, x, wanted)
    layer = filled(getattr(nn, f"InstanceNorm{kind}")(3, affine=True, track_running_stats=True))
    out = layer(ig.tensor(x))
    wanted = wanted * column(layer.weight, rank) + column(layer.bias, rank)
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * x.mean(axes).mean(0), rtol=1e-10)
    planes = x.reshape(shape[0], 3, -1)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * planes.var(-1, ddof=1).mean(0), rtol=1e-10)
    layer.eval()
    scaled = (x - column(layer.running_mean, rank)) / np.sqrt(column(layer.running_var, rank) + 1e-5)
    np.testing.assert_allclose(layer(ig.tensor(x)).detach().numpy(),
                               scaled * column(layer.weight, rank) + column(layer.bias, rank), rtol=1e-9)  # fmt: skip
    with pytest.raises(ValueError, match=r"to match num_features \(3\), but got: 5"):
        layer(ig.zeros(2, 5, *shape[2:], dtype=ig.float64))
    with pytest.raises(ValueError, match="Expected more than 1 spatial element when training"):
        F.instance_norm(ig.zeros(2, 3, *(1,) * len(axes)))
    given = ig.tensor(x).requires_grad_()
    assert ig.autograd.gradcheck(F.instance_norm, (given,))


def test_group_norm() -> None:
    x = random(2, 6, 4, 3)
    layer = filled(nn.GroupNorm(3, 6))
    groups = standard(x.reshape(2, 3, -1), -1, 1e-5).reshape(x.shape)
    wanted = groups * column(layer.weight, 4) + column(layer.bias, 4)
    np.testing.assert_allclose(layer(ig.tensor(x)).detach().numpy(), wanted, rtol=1e-9, atol=1e-9)
    same_compiled(layer, x, wanted)
    out, mean, inverse = ig.native_group_norm(ig.tensor(x), None, None, 2, 6, 12, 3, 1e-5)
    np.testing.assert_allclose(out.numpy(), groups, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mean.numpy(), x.reshape(2, 3, -1).mean(-1), rtol=1e-9)
    np.testing.assert_allclose(inverse.numpy(), 1 / np.sqrt(x.reshape(2, 3, -1).var(-1) + 1e-5), rtol=1e-9)
    assert repr(nn.GroupNorm(3, 6, affine=False)) == "GroupNorm(3, 6, eps=1e-05, affine=False, bias=False)"
    with pytest.raises(ValueError, match="must be divisible by num_groups"):
        nn.GroupNorm(4, 6)
    with pytest.raises(RuntimeError, match="divisible by num_groups"):
        F.group_norm(ig.tensor(x), 4)
    w, b = (ig.tensor(random(6, seed=s)).requires_grad_() for s in (1, 2))
    assert ig.autograd.gradcheck(lambda t, w, b: F.group_norm(t, 2, w, b), (ig.tensor(x[:1]).requires_grad_(), w, b))


def test_the_three_norms_agree_as_the_documents_say() -> None:
    x = ig.tensor([[[1, 2, -1, 1], [3, 4, -2, 2]], [[1, 2, -1, 1], [3, 4, -2, 2]]], dtype=ig.float32)
    layer, one_group = nn.LayerNorm([2, 4])(x), nn.GroupNorm(1, 2)(x)
    np.testing.assert_allclose(layer.detach().numpy(), one_group.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.detach().numpy(), standard(x.numpy(), (1, 2), 1e-5), rtol=1e-5, atol=1e-6)
    instance, own_groups = nn.InstanceNorm1d(2)(x), nn.GroupNorm(2, 2)(x)
    np.testing.assert_allclose(instance.numpy(), own_groups.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(instance.numpy(), standard(x.numpy(), 2, 1e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tail", [(4,), (3, 4), (2, 3, 4)])
def test_layer_norm_and_rms_norm(tail: tuple[int, ...]) -> None:
    x = random(2, 3, 4)
    axes = tuple(range(3 - len(tail), 3))
    layer = filled(nn.LayerNorm(tail if len(tail) > 1 else 4, eps=1e-3))
    assert layer.normalized_shape == tail
    wanted = standard(x, axes, 1e-3) * layer.weight.detach().numpy() + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(ig.tensor(x)).detach().numpy(), wanted, rtol=1e-9)
    same_compiled(layer, x, wanted)
    assert nn.LayerNorm(tail, bias=False).bias is None
    out, mean, _ = ig.native_layer_norm(ig.tensor(x), tail, layer.weight, layer.bias, 1e-3)
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=1e-9)
    np.testing.assert_allclose(mean.numpy(), x.mean(axes, keepdims=True), rtol=1e-9, atol=1e-12)
    rms = filled(nn.RMSNorm(tail))
    power = (x * x).mean(axes, keepdims=True) + np.finfo(np.float64).eps
    np.testing.assert_allclose(
        rms(ig.tensor(x)).detach().numpy(), x / np.sqrt(power) * rms.weight.detach().numpy(), rtol=1e-9
    )
    assert ig.autograd.gradcheck(lambda t: F.rms_norm(t, tail, eps=1e-3), (ig.tensor(x).requires_grad_(),))
    with pytest.raises(RuntimeError, match="expected input with shape"):
        F.layer_norm(ig.tensor(x), (5,))


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 5, 3, 2), (1, 5, 2, 2, 2)])
@pytest.mark.parametrize("size", [2, 3])
def test_local_response_norm(shape: tuple[int, ...], size: int) -> None:
    x = random(*shape)
    layer = nn.LocalResponseNorm(size, alpha=0.3, beta=0.6, k=2.0)
    wanted = np.empty(shape)
    for c in range(shape[1]):
        low = max(0, c - size // 2)
        near = x[:, low : c + (size - 1) // 2 + 1]
        wanted[:, c] = x[:, c] / (2.0 + 0.3 / size * (near**2).sum(1)) ** 0.6
    np.testing.assert_allclose(layer(ig.tensor(x)).numpy(), wanted, rtol=1e-10)
    same_compiled(layer, x, wanted)
    assert repr(layer) == f"LocalResponseNorm({size}, alpha=0.3, beta=0.6, k=2.0)"


def test_normalize() -> None:
    x = random(3, 4, 2)
    np.testing.assert_allclose(F.normalize(ig.tensor(x)).numpy(), x / np.linalg.norm(x, axis=1, keepdims=True))
    np.testing.assert_allclose(F.normalize(ig.tensor(x), p=1.0, dim=-1).numpy(), x / np.abs(x).sum(-1, keepdims=True))
    zero = ig.zeros(2, 3, dtype=ig.float64).requires_grad_()
    out = F.normalize(zero)
    assert out.abs().sum().item() == 0
    out.sum().backward()
    assert np.isfinite(zero.grad.numpy()).all()
    target = ig.empty(3, 4, 2, dtype=ig.float64)
    assert F.normalize(ig.tensor(x), out=target) is target


# -- dropout ------------------------------------------------------------------------------------------
def kept(out: np.ndarray) -> np.ndarray:
    return out != 0


def test_dropout_scales_what_it_keeps() -> None:
    x = ig.ones(2000)
    layer = nn.Dropout(0.3)
    out = layer(x).numpy()
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs(kept(out).mean() - 0.7) < 0.05
    assert layer.eval()(x) is x and F.dropout(x, 0.3, training=False) is x
    assert F.dropout(x, 1.0).sum().item() == 0 and F.dropout(x, 0.0) is x
    assert repr(nn.Dropout(0.2, inplace=True)) == "Dropout(p=0.2, inplace=True)"
    y = ig.ones(50)
    assert F.dropout(y, 0.5, inplace=True) is y and 0 < kept(y.numpy()).sum() < 50
    for make in (lambda: nn.Dropout(1.2), lambda: F.dropout(x, -0.1)):
        with pytest.raises(ValueError, match="has to be between 0 and 1"):
            make()


@pytest.mark.parametrize(
    ("name", "shape", "lead"),
    [("1d", (6, 5, 4), 2), ("1d", (30, 4), 1), ("2d", (6, 5, 3, 2), 2), ("2d", (6, 5, 4), 2),
     ("3d", (6, 5, 2, 3, 2), 2), ("3d", (30, 2, 3, 2), 1)],
)  # fmt: skip
def test_channel_dropout(name: str, shape: tuple[int, ...], lead: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 3-d input to dropout2d warns
        out = getattr(nn, f"Dropout{name}")(0.4)(ig.ones(*shape)).numpy()
    channels = out.reshape(*shape[:lead], -1)
    assert (channels == channels[..., :1]).all()
    share = kept(channels[..., 0]).mean()
    assert 0.2 < share < 1.0


def test_dropout2d_on_a_matrix_warns_but_runs() -> None:
    with pytest.warns(UserWarning, match="Received a 2-D input to dropout2d"):
        assert nn.Dropout2d(0.5)(ig.ones(4, 128)).shape == (4, 128)
    with pytest.raises(RuntimeError, match="Expected 2D or 3D input"):
        nn.Dropout1d()(ig.ones(2, 3, 4, 5))


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
def test_alpha_dropout_keeps_mean_and_variance(name: str) -> None:
    x = ig.tensor(random(200, 100))
    out = getattr(nn, name)(0.2)(x).numpy()
    assert abs(out.mean()) < 0.1 and abs(out.std() - 1) < 0.1
    assert getattr(nn, name)(0.2).eval()(x) is x
    _, counts = np.unique(out, return_counts=True)
    assert abs(counts.max() / out.size - 0.2) < 0.02  # what is dropped has one value


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Dropout(0.5), (4, 7)), (lambda: nn.Dropout2d(0.5), (4, 3, 2, 2)),
        (lambda: nn.Dropout3d(0.5), (4, 3, 2, 2, 1)), (lambda: nn.AlphaDropout(0.5), (4, 7)),
        (lambda: nn.RReLU(), (4, 7)),
    ],
)  # fmt: skip
def test_masks_are_the_same_eager_and_compiled(make: Any, shape: tuple[int, ...]) -> None:
    layer = make()
    x = ig.tensor(random(*shape).astype(np.float32))
    compiled = ig.compile(layer)
    with ig.no_grad():
        ig.manual_seed(5)
        eager = [layer(x).numpy() for _ in range(2)]
        ig.manual_seed(5)
        native = [compiled(x).numpy() for _ in range(2)]
    assert not np.array_equal(eager[0], eager[1])
    for a, b in zip(eager, native, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
