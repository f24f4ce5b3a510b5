"""Averaged models, ModelEMA, SWALR and update_bn."""

import copy
import math

import ingot
import numpy as np
import pytest
from ingot import nn, optim
from ingot.optim import swa_utils


def build(lib):
    lib.manual_seed(0)
    return lib.nn.Sequential(lib.nn.Linear(3, 4), lib.nn.BatchNorm1d(4), lib.nn.Linear(4, 2))


def twins(torch):
    theirs = build(torch)
    mine = build(ingot)
    mine.load_state_dict({k: ingot.tensor(v.numpy().copy()) for k, v in theirs.state_dict().items()})
    return mine, theirs


def averages(utils):
    return {
        "default": {},
        "swa": dict(avg_fn=utils.get_swa_avg_fn()),
        "ema": dict(avg_fn=utils.get_ema_avg_fn(0.9)),
        "multi ema": dict(multi_avg_fn=utils.get_ema_multi_avg_fn(0.9), use_buffers=True),
        "multi swa": dict(multi_avg_fn=utils.get_swa_multi_avg_fn()),
        "own": dict(avg_fn=lambda a, p, n: a * 0.5 + p * 0.5 + n * 0.0),
    }


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["default", "swa", "ema", "multi ema", "multi swa", "own"])
def test_averaged_models_equal_pytorchs(kind):
    torch = pytest.importorskip("torch")
    mine, theirs = twins(torch)
    a = swa_utils.AveragedModel(mine, **averages(swa_utils)[kind])
    b = torch.optim.swa_utils.AveragedModel(theirs, **averages(torch.optim.swa_utils)[kind])
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((5, 3)).astype(np.float32) for _ in range(6)]
    for lib, model, averaged in ((ingot, mine, a), (torch, theirs, b)):
        opt = lib.optim.SGD(model.parameters(), lr=0.1)
        for x in batches:
            opt.zero_grad()
            (model(lib.tensor(x)) ** 2).mean().backward()
            opt.step()
            averaged.update_parameters(model)
    assert list(a.state_dict()) == list(b.state_dict())
    for name, value in b.state_dict().items():
        np.testing.assert_allclose(a.state_dict()[name].numpy(), value.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
    for lib, averaged in ((ingot, a), (torch, b)):
        lib.optim.swa_utils.update_bn([(lib.tensor(x), 0) for x in batches], averaged)
    for name, value in b.state_dict().items():
        np.testing.assert_allclose(a.state_dict()[name].numpy(), value.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
    x = batches[0]
    np.testing.assert_allclose(a(ingot.tensor(x)).detach().numpy(), b(torch.tensor(x)).detach().numpy(), atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, dict(anneal_epochs=5, anneal_strategy="linear"), dict(anneal_epochs=0)])
def test_swalr_equals_pytorchs(options):
    torch = pytest.importorskip("torch")
    result = []
    for lib in (ingot, torch):
        opt = lib.optim.SGD([{"params": [lib.zeros(1)]}, {"params": [lib.zeros(1)], "lr": 0.5}], lr=0.1)
        decay = lib.optim.lr_scheduler.ExponentialLR(opt, 0.9)
        schedule = lib.optim.swa_utils.SWALR(opt, [0.05, 0.02], **options)
        rates = []
        for i in range(20):
            opt.step()
            schedule.step()
            if i % 5 == 4:
                decay.step()
            rates.append([g["lr"] for g in opt.param_groups])
        result.append((rates, schedule.state_dict()))
    np.testing.assert_allclose(result[0][0], result[1][0], rtol=1e-12)
    assert result[0][1].keys() == result[1][1].keys()


def test_a_mean_over_updates_by_hand():
    model = nn.Linear(1, 1, bias=False)
    averaged = swa_utils.AveragedModel(model)
    for value in (1.0, 2.0, 6.0):
        with ingot.no_grad():
            model.weight.fill_(value)
        averaged.update_parameters(model)
    assert averaged.module.weight.item() == pytest.approx(3.0) and averaged.n_averaged.item() == 3
    assert model.weight.item() == 6.0
    with pytest.raises(AssertionError, match="Only one of"):
        swa_utils.AveragedModel(model, avg_fn=max, multi_avg_fn=max)
    with pytest.raises(ValueError, match="Invalid decay value 2"):
        swa_utils.get_ema_avg_fn(2)
    with pytest.raises(ValueError, match="anneal_strategy"):
        swa_utils.SWALR(optim.SGD(model.parameters()), 0.1, anneal_strategy="exp")


def test_model_ema_follows_with_a_growing_decay():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = swa_utils.ModelEMA(model, decay=0.9, tau=3.0)
    assert ema.ema is not model and not ema.ema.training and model.training
    assert not any(p.requires_grad for p in ema.ema.parameters()) and all(p.requires_grad for p in model.parameters())
    opt = optim.SGD(model.parameters(), lr=0.5)
    wanted = model[0].weight.detach().numpy().copy()
    for n in range(1, 5):
        opt.zero_grad()
        model(ingot.randn(6, 2)).square().sum().backward()
        opt.step()
        ema.update(model)
        decay = 0.9 * (1 - math.exp(-n / 3))
        wanted = decay * wanted + (1 - decay) * model[0].weight.detach().numpy()
    np.testing.assert_allclose(ema.ema[0].weight.numpy(), wanted, rtol=1e-5, atol=1e-7)
    assert ema.ema[1].num_batches_tracked.item() == 4 and not ingot.equal(ema.ema[1].running_var, model[1].running_var)
    # As the workflow asks for the model behind a wrapper, and goes on from a checkpoint.
    wrapped = nn.Module()
    wrapped.module = model
    again = swa_utils.ModelEMA(wrapped, decay=0.9, tau=3.0, updates=ema.updates)
    again.ema.load_state_dict(ema.ema.state_dict())
    for e in (ema, again):
        e.update(wrapped)
    assert ingot.equal(again.ema[0].weight, ema.ema[0].weight) and again.updates == 5
    assert ingot.equal(copy.deepcopy(again).ema[0].weight, again.ema[0].weight)
