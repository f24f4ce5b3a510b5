"""Learning-rate schedules: parity with PyTorch over 50 steps, checkpoints, chains, warnings, numbers by hand."""

import functools
import math
import pickle
import types
import warnings

import ingot
import numpy as np
import pytest
from ingot import nn, optim


class Halving:
    """A factor that is an object: its attributes are saved."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, epoch):
        return self.rate**epoch


def sequential(s, o):
    return s.SequentialLR(o, [s.ConstantLR(o, 0.1, 3), s.ExponentialLR(o, 0.9), s.StepLR(o, 4)], [3, 20])


def chained(s, o):
    return s.ChainedScheduler([s.LinearLR(o, 0.2, 1.0, 7), s.ExponentialLR(o, 0.95)], optimizer=o)


SCHEDULES = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, [lambda e: 0.9**e, Halving(0.8)]),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda e: 0.95 if e % 3 else 1.1),
    "StepLR": lambda s, o: s.StepLR(o, 7, 0.5),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [3, 10, 10, 30], 0.3),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.25, 9),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.1, 0.7, 13),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.93),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 30, 2.0),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 9, 0.001),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4, 2, 0.01),
    "CyclicLR": lambda s, o: s.CyclicLR(o, [0.01, 0.02], [0.1, 0.3], 5, 8),
    "CyclicLR triangular2": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 5, mode="triangular2", base_momentum=0.5),
    "CyclicLR exp_range": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 5, mode="exp_range", gamma=0.9),
    "CyclicLR function": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 5, scale_fn=Halving(0.7), cycle_momentum=False),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, [0.1, 0.2], total_steps=60),
    "OneCycleLR linear": lambda s, o: s.OneCycleLR(o, 0.1, epochs=6, steps_per_epoch=10, anneal_strategy="linear",
                                                    three_phase=True, div_factor=5.0),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
}  # fmt: skip


def optimizer_of(lib, optim_lib, name="SGD", **options):
    groups = [{"params": [lib.zeros(1)]}, {"params": [lib.zeros(2)], "lr": 0.3}]
    return getattr(optim_lib, name)(groups, lr=0.1, **options)


def bare(state):
    """Numbers and lists of a scheduler's state: no functions."""
    return {k: ([bare(s) for s in v] if k == "_schedulers" else v) for k, v in state.items()}


@pytest.mark.parity
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_fifty_steps_equal_pytorchs(name, optimizer):
    torch = pytest.importorskip("torch")
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    a, b = optimizer_of(ingot, optim, optimizer, **options), optimizer_of(torch, torch.optim, optimizer, **options)
    mine, ref = SCHEDULES[name](optim.lr_scheduler, a), SCHEDULES[name](torch.optim.lr_scheduler, b)
    fresh = SCHEDULES[name](optim.lr_scheduler, c := optimizer_of(ingot, optim, optimizer, **options))
    for step in range(50):
        for o, s in ((a, mine), (b, ref)):
            o.step()
            s.step()
        np.testing.assert_allclose(mine.get_last_lr(), ref.get_last_lr(), rtol=1e-12)
        for g, h in zip(a.param_groups, b.param_groups, strict=True):
            for key in h.keys() - {"params", "foreach", "fused"}:
                np.testing.assert_allclose(g[key], h[key], rtol=1e-12, err_msg=key)
        assert set(mine.state_dict()) == set(ref.state_dict())
        if step == 20:
            fresh.load_state_dict(ref.state_dict())  # PyTorch's checkpoint
            c.load_state_dict(a.state_dict())
        if step > 20:
            c.step()
            fresh.step()
            np.testing.assert_allclose(fresh.get_last_lr(), ref.get_last_lr(), rtol=1e-12)
    if "function" not in name and name != "LambdaLR" and name != "MultiplicativeLR":
        assert bare(mine.state_dict()).keys() == bare(ref.state_dict()).keys()
        pickle.dumps(mine.state_dict())


@pytest.mark.parity
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("last_epoch", [6, 11])
def test_resuming_equals_pytorch(name, last_epoch):
    torch = pytest.importorskip("torch")
    if name in ("SequentialLR", "ChainedScheduler"):
        pytest.skip("takes schedulers that resume themselves")
    result = []
    for lib, o in ((ingot, optim), (torch, torch.optim)):
        opt = optimizer_of(lib, o, momentum=0.9)
        for group in opt.param_groups:
            group.update(initial_lr=0.1, max_lr=0.4, min_lr=0.01, max_momentum=0.95, base_momentum=0.85)
        schedules = {
            k: functools.partial(v, last_epoch=last_epoch)
            for k, v in vars(o.lr_scheduler).items()
            if k.endswith(("LR", "Restarts"))
        }
        schedule = SCHEDULES[name](types.SimpleNamespace(**schedules), opt)
        rates = [schedule.get_last_lr()]
        for _ in range(10):
            opt.step()
            schedule.step()
            rates.append(schedule.get_last_lr())
        result.append(rates)
    np.testing.assert_allclose(result[0], result[1], rtol=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR", "LinearLR", "PolynomialLR", "ConstantLR",
                                  "ExponentialLR", "MultiStepLR", "LambdaLR"])  # fmt: skip
def test_the_deprecated_epoch_argument(name):
    torch = pytest.importorskip("torch")
    rates = []
    for lib, o in ((ingot, optim), (torch, torch.optim)):
        opt = optimizer_of(lib, o)
        schedule = SCHEDULES[name](o.lr_scheduler, opt)
        opt.step()
        with pytest.warns(UserWarning, match="epoch parameter"):
            schedule.step(12)
        rates.append(schedule.get_last_lr())
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-12)


@pytest.mark.parity
def test_plateaus_equal_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    metrics = np.abs(rng.standard_normal(60)) + np.linspace(3, 1, 60)
    for options in (
        dict(patience=2),
        dict(mode="max", factor=0.5, patience=1, cooldown=2),
        dict(patience=0, min_lr=0.05),
        dict(patience=1, threshold=0.1, threshold_mode="abs", min_lr=[0.01, 0.02], eps=1e-3),
    ):
        a, b = optimizer_of(ingot, optim), optimizer_of(torch, torch.optim)
        mine = optim.lr_scheduler.ReduceLROnPlateau(a, **options)
        ref = torch.optim.lr_scheduler.ReduceLROnPlateau(b, **options)
        for m in metrics:
            mine.step(ingot.tensor(m))
            ref.step(torch.tensor(m))
            np.testing.assert_allclose(mine.get_last_lr(), ref.get_last_lr(), rtol=1e-12)
        mine.load_state_dict(ref.state_dict())
        assert mine.state_dict().keys() == ref.state_dict().keys()


@pytest.mark.parity
def test_errors_equal_pytorchs():
    torch = pytest.importorskip("torch")
    cases = [
        lambda s, o: s.LambdaLR(o, [abs]),
        lambda s, o: s.MultiplicativeLR(o, 3),
        lambda s, o: s.ConstantLR(o, 2.0),
        lambda s, o: s.LinearLR(o, 0.0),
        lambda s, o: s.LinearLR(o, 0.5, 2.0),
        lambda s, o: s.StepLR(3, 1),
        lambda s, o: s.StepLR(o, 1, last_epoch=3),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 0),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 0),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 1, "x"),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 3).step(-1),
        lambda s, o: s.CyclicLR(o, 0.1, 0.2, mode="square"),
        lambda s, o: s.CyclicLR(o, [0.1], 0.2),
        lambda s, o: s.OneCycleLR(o, 0.1),
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=-1),
        lambda s, o: s.OneCycleLR(o, 0.1, epochs=1, steps_per_epoch=0),
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=9, pct_start=2.0),
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=9, anneal_strategy="x"),
        lambda s, o: [x.step() for x in [s.OneCycleLR(o, 0.1, total_steps=9)] for _ in range(12)],
        lambda s, o: s.SequentialLR(o, [], []),
        lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1)], [3]),
        lambda s, o: s.SequentialLR(o, [3], []),
        lambda s, o: s.SequentialLR(o, [s.ReduceLROnPlateau(o)], []),
        lambda s, o: s.ChainedScheduler([]),
        lambda s, o: s.ChainedScheduler([s.ReduceLROnPlateau(o)]),
        lambda s, o: s.ReduceLROnPlateau(o, factor=1.0),
        lambda s, o: s.ReduceLROnPlateau(o, mode="x"),
        lambda s, o: s.ReduceLROnPlateau(o, threshold_mode="x"),
        lambda s, o: s.ReduceLROnPlateau(o, min_lr=[0.1]),
    ]
    for i, case in enumerate(cases):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(Exception) as ref:
                case(torch.optim.lr_scheduler, optimizer_of(torch, torch.optim, momentum=0.9))
            with pytest.raises(type(ref.value)) as mine:
                case(optim.lr_scheduler, optimizer_of(ingot, optim, momentum=0.9))
        assert str(mine.value) == str(ref.value), i
    with pytest.raises(ValueError, match="must support momentum or beta1"):
        optim.lr_scheduler.CyclicLR(optimizer_of(ingot, optim, "Adagrad"), 0.1, 0.2)


def test_exponential_multistep_and_chained_by_hand():
    opt = optim.SGD([nn.Parameter(ingot.ones(1))], lr=1.0)
    first = optim.lr_scheduler.ExponentialLR(opt, 0.9)
    second = optim.lr_scheduler.MultiStepLR(opt, milestones=[3, 8], gamma=0.1)
    rates = []
    for _ in range(10):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        first.step()
        second.step()
    wanted = [0.9**e * 0.1 ** ((e >= 3) + (e >= 8)) for e in range(10)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-12)


def test_cosine_lambda_and_resuming():
    epochs = 10

    def lf(x):
        return ((1 + math.cos(x * math.pi / epochs)) / 2) * 0.8 + 0.2

    np.testing.assert_allclose([lf(0), lf(5), lf(10)], [1.0, 0.6, 0.2], rtol=1e-12)
    opt = optim.SGD([nn.Parameter(ingot.ones(1))], lr=0.5)
    schedule = optim.lr_scheduler.LambdaLR(opt, lr_lambda=lf)
    for _ in range(5):
        opt.step()
        schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(0.3)] and opt.param_groups[0]["initial_lr"] == 0.5
    other = optim.SGD([nn.Parameter(ingot.ones(1))], lr=0.5)
    with pytest.raises(KeyError, match="initial_lr"):
        optim.lr_scheduler.LambdaLR(other, lf, last_epoch=4)
    other.load_state_dict(opt.state_dict())
    resumed = optim.lr_scheduler.LambdaLR(other, lf, last_epoch=4)
    assert resumed.last_epoch == 5 and resumed.get_last_lr() == [pytest.approx(0.3)]


def test_the_order_of_steps_is_checked():
    opt = optim.SGD([nn.Parameter(ingot.ones(1))], lr=0.5)
    schedule = optim.lr_scheduler.StepLR(opt, 2)
    with pytest.warns(UserWarning, match="Detected call of `lr_scheduler.step"):
        schedule.step()
    opt = optim.SGD([nn.Parameter(ingot.ones(1))], lr=0.5)
    schedule = optim.lr_scheduler.StepLR(opt, 2)
    opt.step = lambda: None
    with pytest.warns(UserWarning, match="has been overridden"):
        schedule.step()
    with pytest.warns(UserWarning, match="use `get_last_lr"):
        schedule.get_lr()


def test_compiled_steps_follow_a_schedule():
    model = nn.Linear(3, 2)
    opt = optim.Adam(model.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=8)
    step = ingot.compile_step(model, nn.MSELoss(), opt, threads=1)
    x, y = ingot.ones(4, 3), ingot.zeros(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = []
        for _ in range(8):
            losses.append(step(x, y).item())
            schedule.step()
    assert len(step.variants) == 1  # learning rate and beta1 moved every time
    assert losses[-1] < losses[0]


def test_a_tensor_learning_rate_changes_in_place():
    lr = ingot.tensor(0.5)
    opt = optim.SGD([nn.Parameter(ingot.ones(1))], lr=lr)
    schedule = optim.lr_scheduler.ExponentialLR(opt, 0.5)
    opt.step()
    schedule.step()
    assert opt.param_groups[0]["lr"] is lr and lr.item() == 0.25 and schedule.get_last_lr()[0].item() == 0.25
