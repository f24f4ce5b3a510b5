"""``nn.utils``: limits on gradients, vectors of parameters, fusion, parametrizations; lazy layers; embeddings."""

from __future__ import annotations

import copy
import math
from typing import Any

import ingot as torch
import ingot.nn as nn
import ingot.nn.functional as F
import numpy as np
import pytest
from ingot.nn import utils
from ingot.nn.utils import parametrizations, parametrize


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


def close(a: Any, b: Any, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(a.detach().numpy(), np.asarray(b.detach() if isinstance(b, torch.Tensor) else b),
                               atol=atol, rtol=0)  # fmt: skip


def with_gradients() -> list[Any]:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([-4.0])
    return [a, b, nn.Parameter(torch.zeros(3))]


def test_clip_gradients() -> None:
    parameters = with_gradients()
    total = utils.clip_grad_norm_(iter(parameters), 1.0)
    close(total, 5.0)
    close(parameters[0].grad, [0.6, 0.0], 1e-5)
    close(utils.get_total_norm([p.grad for p in parameters[:2]]), 1.0, 1e-5)
    parameters = with_gradients()
    close(utils.clip_grad_norm_(parameters, 10.0, norm_type=math.inf), 4.0)
    close(parameters[1].grad, [-4.0])  # below the limit: as it was
    utils.clip_grad_value_(parameters, 0.5)
    close(parameters[1].grad, [-0.5])
    parameters[0].grad[0] = math.nan
    with pytest.raises(RuntimeError, match="non-finite"):
        utils.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    close(utils.clip_grad_norm_([], 1.0), 0.0)


def test_vectors() -> None:
    net = nn.Linear(2, 3)
    vector = utils.parameters_to_vector(net.parameters())
    assert vector.shape == (9,) and vector.requires_grad
    weight = net.weight
    utils.vector_to_parameters(torch.arange(9.0), net.parameters())
    assert net.weight is weight and net.weight.tolist() == [[0, 1], [2, 3], [4, 5]] and net.bias.tolist() == [6, 7, 8]
    with pytest.raises(TypeError, match=r"expected torch\.Tensor"):
        utils.vector_to_parameters([1.0], net.parameters())


def test_fusion() -> None:
    norm = nn.BatchNorm2d(4)
    norm(torch.randn(8, 4, 3, 3) * 2 + 1)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 4, 6, 6)
    for layer, transpose in ((nn.Conv2d(4, 4, 3, bias=False), False), (nn.ConvTranspose2d(4, 4, 3), True)):
        fused = utils.fuse_conv_bn_eval(layer.eval(), norm.eval(), transpose)
        close(fused(x), norm(layer(x)), 1e-5)
    flat, line = nn.BatchNorm1d(3), nn.Linear(4, 3)
    flat(torch.randn(9, 3))
    close(utils.fuse_linear_bn_eval(line.eval(), flat.eval())(x[:, :, 0, 0]), flat(line(x[:, :, 0, 0])), 1e-5)
    with pytest.raises(AssertionError, match="eval"):
        utils.fuse_conv_bn_eval(nn.Conv2d(4, 4, 3), norm)


def test_skip_init() -> None:
    torch.manual_seed(4)
    want = torch.rand(1).item()
    torch.manual_seed(4)
    assert utils.skip_init(nn.Linear, 3, 4).weight.shape == (4, 3)
    assert torch.rand(1).item() == want
    with pytest.raises(RuntimeError, match="Expected a Module"):
        utils.skip_init(int)


class Symmetric(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.triu() + x.triu(1).transpose(-1, -2)

    def right_inverse(self, x: Any) -> Any:
        return x.triu()


def test_parametrize() -> None:
    layer = nn.Linear(3, 3)
    original = layer.weight
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert parametrize.is_parametrized(layer, "weight") and not parametrize.is_parametrized(layer, "bias")
    assert isinstance(layer, nn.Linear) and type(layer).__name__ == "ParametrizedLinear"
    assert list(layer.state_dict()) == ["bias", "parametrizations.weight.original"]
    assert layer.parametrizations.weight.original is original
    close(layer.weight, layer.weight.transpose(0, 1))
    layer(torch.randn(2, 3)).sum().backward()
    assert original.grad is not None
    layer.weight = torch.eye(3)
    close(layer.weight, np.eye(3))
    with parametrize.cached():
        assert layer.weight is layer.weight
    twin = copy.deepcopy(layer)
    layer.weight = torch.zeros(3, 3)
    close(twin.weight, np.eye(3))
    x = torch.randn(2, 3)
    with torch.no_grad():
        close(torch.compile(twin)(x), twin(x))
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear and layer.weight is original and list(layer.state_dict()) == ["bias", "weight"]
    with pytest.raises(ValueError, match="does not have"):
        parametrize.register_parametrization(layer, "w", Symmetric())
    with pytest.raises(ValueError, match="shape"):
        parametrize.register_parametrization(layer, "bias", nn.Unflatten(0, (3, 1)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_norm() -> None:
    new, old = nn.Linear(3, 2), nn.Linear(3, 2)
    old.load_state_dict(new.state_dict())
    weight = new.weight.detach().clone()
    parametrizations.weight_norm(new)
    utils.weight_norm(old)
    assert list(new.state_dict()) == ["bias", "parametrizations.weight.original0", "parametrizations.weight.original1"]
    assert list(old.state_dict()) == ["bias", "weight_g", "weight_v"] and old.weight_g.shape == (2, 1)
    close(new.weight, weight)
    with torch.no_grad():
        old.weight_g.mul_(2.0)
        new.parametrizations.weight.original0.mul_(2.0)
    x = torch.randn(4, 3)
    close(new(x), F.linear(x, 2 * weight, new.bias))
    close(old(x), new(x))
    old(x).sum().backward()
    assert old.weight_g.grad.shape == (2, 1)
    utils.remove_weight_norm(old)
    assert sorted(old.state_dict()) == ["bias", "weight"]
    close(old.weight, 2 * weight)
    with pytest.raises(ValueError, match="not found"):
        utils.remove_weight_norm(old)


def test_spectral_norm() -> None:
    new, old = nn.Linear(5, 4), nn.Conv2d(2, 3, 3)
    sigma = np.linalg.svd(new.weight.detach().numpy())[1][0]
    weight = new.weight.detach().clone()
    parametrizations.spectral_norm(new, n_power_iterations=5)
    for _ in range(20):
        new(torch.randn(2, 5))
    close(new.eval().weight, weight / sigma, 1e-3)
    utils.spectral_norm(old)
    for _ in range(60):
        out = old(torch.randn(1, 2, 5, 5))
    out.sum().backward()
    assert old.weight_orig.grad is not None and sorted(old.state_dict()) == ["bias", "weight_orig", "weight_u",
                                                                             "weight_v"]  # fmt: skip
    utils.remove_spectral_norm(old)
    assert abs(np.linalg.svd(old.weight.detach().numpy().reshape(3, -1))[1][0] - 1) < 1e-2


def test_lazy_layers() -> None:
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    assert repr(net[4]) == "LazyLinear(in_features=0, out_features=2, bias=True)"
    assert nn.parameter.is_lazy(net[0].weight) and repr(net[0].weight) == "<UninitializedParameter>"
    with pytest.raises(RuntimeError, match="uninitialized parameter"):
        _ = net[0].weight.shape
    out = net(torch.randn(2, 3, 6, 6))
    assert out.shape == (2, 2)
    assert [type(m).__name__ for m in net] == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]
    assert net[4].in_features == 64 and net[0].in_channels == 3 and net[1].num_features == 4
    assert net[0].weight.abs().max().item() <= 1 / math.sqrt(27) and not nn.parameter.is_lazy(net[0].weight)
    out.sum().backward()
    assert net[4].weight.grad is not None
    assert nn.LazyBatchNorm1d(bias=False).bias is None
    fresh = nn.LazyLinear(2)
    fresh.load_state_dict(net[4].state_dict())
    x = torch.randn(1, 64)
    close(fresh(x), net[4](x))
    with pytest.raises(torch.IngotError, match="call it once"):
        torch.compile(nn.LazyLinear(2))(x)


def test_embedding() -> None:
    layer = nn.Embedding(5, 3, padding_idx=-1)
    assert repr(layer) == "Embedding(5, 3, padding_idx=4)" and (layer.weight[4] == 0).all()
    index = torch.tensor([[0, 4], [1, 0]])
    layer(index).sum().backward()
    assert layer.weight.grad[:, 0].tolist() == [2, 1, 0, 0, 0]
    often = nn.Embedding(5, 3, scale_grad_by_freq=True)
    often(index).sum().backward()
    assert often.weight.grad[:, 0].tolist() == [1, 1, 0, 0, 1]
    short = nn.Embedding.from_pretrained(torch.full((3, 4), 2.0), max_norm=1.0)
    assert not short.weight.requires_grad
    close(short(torch.tensor([1])), np.full((1, 4), 0.5))
    assert short.weight[:, 0].tolist() == [2.0, pytest.approx(0.5, abs=1e-6), 2.0]
    with pytest.raises(IndexError, match="out of range"):
        layer(torch.tensor([5]))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag(mode: str) -> None:
    bag = nn.EmbeddingBag(6, 3, mode=mode, padding_idx=0).double()
    index = torch.tensor([1, 2, 4, 5, 4, 3, 0])
    table = bag.weight.detach().numpy()
    bags = [[1, 2, 4], [5, 4, 3], []]
    want = [getattr(np, mode)(table[b], 0) if b else np.zeros(3) for b in bags]
    close(bag(index, torch.tensor([0, 3, 6])), np.array(want), 1e-12)
    close(bag(index[:6].reshape(2, 3)), np.array(want[:2]), 1e-12)
    if mode == "sum":
        out = bag(index[:6].reshape(2, 3), per_sample_weights=torch.full((2, 3), 2.0, dtype=torch.float64))
        close(out, 2 * np.array(want[:2]), 1e-12)
    with torch.no_grad():
        close(torch.compile(bag)(index[:6].reshape(2, 3)), np.array(want[:2]), 1e-12)
    with pytest.raises(ValueError, match="offsets has to be None"):
        bag(index[:6].reshape(2, 3), torch.tensor([0]))


def test_bilinear() -> None:
    layer = nn.Bilinear(2, 3, 4).double()
    x, y = (torch.from_numpy(np.random.default_rng(i).standard_normal((5, n))) for i, n in ((1, 2), (2, 3)))
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    close(layer(x, y), np.einsum("ni,oij,nj->no", x.numpy(), w, y.numpy()) + b, 1e-12)
    assert repr(layer) == "Bilinear(in1_features=2, in2_features=3, out_features=4, bias=True)"
    with pytest.raises(RuntimeError, match="input2 size"):
        layer(x, x)
