"""``ingot.compile_step``: losses and updates as eager mode and PyTorch have them."""

from __future__ import annotations

from typing import Any

import ingot
import numpy as np
import pytest
from driver_models import close, images, mlp, net, rows
from ingot import nn, optim
from ingot.ir.errors import InputError, UnsupportedError


def targets(n: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, n)


def test_loss_and_updates() -> None:
    model, x, y = mlp(), rows(8), targets(8)
    step = ingot.compile_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.5))
    losses = []
    for _ in range(30):
        wanted = nn.CrossEntropyLoss()(model(ingot.from_numpy(x)), ingot.from_numpy(y))
        loss = step(x, y)
        assert isinstance(loss, ingot.Tensor) and loss.shape == ()
        close(loss, wanted, 1e-5)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and len(step.variants) == 1
    step(ingot.from_numpy(x), ingot.from_numpy(y))
    step(rows(3), targets(3))
    assert len(step.variants) == 2


def torch_twin(torch: Any, kind: str) -> Any:
    if kind == "mlp":
        return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(8 * 16, 3),
    )  # fmt: skip


def ingot_model(kind: str) -> Any:
    if kind == "mlp":
        return mlp(ingot.float64)
    ingot.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 3)
    ).double()


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 1e-3, "nesterov": True},
                                     {"momentum": 0.8, "dampening": 0.3}])  # fmt: skip
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_parameters_equal_pytorch(kind: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    model, twin = ingot_model(kind), torch_twin(torch, kind).double()
    twin.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in model.state_dict().items()})
    step = ingot.compile_step(model, nn.CrossEntropyLoss(), mine := optim.SGD(model.parameters(), lr=0.05, **options))
    theirs = torch.optim.SGD(twin.parameters(), lr=0.05, **options)
    for k in range(8):
        x = (rows(8, k) if kind == "mlp" else images(6, k)).astype(np.float64)
        y = targets(len(x), k)
        if k == 5:  # a changed learning rate takes effect without a new compile
            mine.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = 0.2
        theirs.zero_grad()
        want = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x)), torch.from_numpy(y))
        want.backward()
        theirs.step()
        close(step(x, y), want.detach().numpy(), 1e-9)
    assert len(step.variants) == 1
    for key, value in twin.state_dict().items():
        close(model.state_dict()[key], value.numpy(), 1e-8)
    if options:
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            # A bias before batch norm has the gradient zero: only rounding is left of it.
            close(mine.state[p]["momentum_buffer"], theirs.state[q]["momentum_buffer"].numpy(), 1e-8, floor=1e-3)


def test_frozen_parameters_stay_and_can_be_thawed() -> None:
    model, x, y = mlp(), rows(4), targets(4)
    model[0].weight.requires_grad = False
    before = model[0].weight.numpy().copy()
    step = ingot.compile_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    step(x, y)
    np.testing.assert_array_equal(model[0].weight.numpy(), before)
    assert not np.array_equal(model[2].weight.detach().numpy(), mlp()[2].weight.detach().numpy())
    model[0].weight.requires_grad = True
    step(x, y)
    assert not np.array_equal(model[0].weight.detach().numpy(), before) and len(step.variants) == 2


def test_parameters_that_the_loss_does_not_reach_stay() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Any) -> Any:
            return self.used(x), self.spare(x).detach()

    model = Spare()
    before = model.spare.weight.detach().numpy().copy()
    step = ingot.compile_step(
        model, lambda out, y: nn.functional.cross_entropy(out[0] + out[1], y),
        optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5),
    )  # fmt: skip
    step(rows(4), targets(4))
    np.testing.assert_array_equal(model.spare.weight.detach().numpy(), before)


def test_parameter_groups() -> None:
    model = mlp()
    start = [p.detach().numpy().copy() for p in model.parameters()]
    optimizer = optim.SGD([{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}], lr=0.1)
    step = ingot.compile_step(model, nn.CrossEntropyLoss(), optimizer)
    step(rows(4), targets(4))
    changed = [not np.array_equal(p.detach().numpy(), s) for p, s in zip(model.parameters(), start, strict=True)]
    assert changed == [False, False, True, True]
    optimizer.param_groups[0]["lr"] = 0.1
    step(rows(4), targets(4))
    assert not np.array_equal(model[0].weight.detach().numpy(), start[0]) and len(step.variants) == 1
    optimizer.param_groups[1]["momentum"] = 0.9  # another rule: another graph
    step(rows(4), targets(4))
    assert len(step.variants) == 2 and "momentum_buffer" in optimizer.state[model[2].weight]


@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_optimizer_state_round_trip(dampening: float) -> None:
    def fresh() -> tuple[Any, Any, Any]:
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=dampening)
        return model, optimizer, ingot.compile_step(model, nn.CrossEntropyLoss(), optimizer)

    a, optimizer_a, step_a = fresh()
    for k in range(3):
        step_a(rows(4, k), targets(4, k))
    saved = optimizer_a.state_dict(), {k: v.clone() for k, v in a.state_dict().items()}
    assert set(saved[0]["state"]) == {0, 1, 2, 3} and set(saved[0]["state"][0]) == {"momentum_buffer"}
    b, optimizer_b, step_b = fresh()
    step_b(rows(2), targets(2))  # compiled and begun before the checkpoint arrives
    step_b(rows(4), targets(4))
    b.load_state_dict(saved[1])
    optimizer_b.load_state_dict(saved[0])
    for k in range(3, 6):
        assert step_a(rows(4, k), targets(4, k)).item() == step_b(rows(4, k), targets(4, k)).item()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
    assert len(step_b.variants) == 2


def test_train_and_eval_modes_and_statistics() -> None:
    model = net()
    step = ingot.compile_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.01))
    y = np.random.default_rng(0).integers(0, 5, 4)
    step(images(4), y)
    assert int(model.bn.num_batches_tracked.item()) == 1
    mean = model.bn.running_mean.numpy().copy()
    assert np.abs(mean).max() > 0
    model.eval()
    step(images(4), y)
    np.testing.assert_array_equal(model.bn.running_mean.numpy(), mean)
    assert len(step.variants) == 2


def test_dropout_advances_the_generator() -> None:
    model = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    step = ingot.compile_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.0))
    ingot.manual_seed(3)
    wanted = [
        nn.functional.cross_entropy(model(ingot.from_numpy(rows(4))), ingot.from_numpy(targets(4))).item()
        for _ in range(3)
    ]
    ingot.manual_seed(3)
    np.testing.assert_allclose([step(rows(4), targets(4)).item() for _ in range(3)], wanted, rtol=1e-5)
    assert len(set(wanted)) == 3


def test_losses_with_parameters_are_trained_too() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(ingot.ones(3))

        def forward(self, out: Any, y: Any) -> Any:
            return ((out * self.scale - y) ** 2).mean()

    model, loss = mlp(), Scaled()
    optimizer = optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    step = ingot.compile_step(model, loss, optimizer)
    step(rows(4), np.ones((4, 3), np.float32))
    assert not np.array_equal(loss.scale.detach().numpy(), np.ones(3, np.float32))


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, a: Any, b: Any) -> Any:
            return self.fc(a + b["more"])

    model = Two()
    step = ingot.compile_step(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    a, b, y = rows(4, 0), rows(4, 1), np.zeros((4, 3), np.float32)
    want = nn.MSELoss()(model.fc(ingot.from_numpy(a + b)), ingot.from_numpy(y))
    close(step(a, {"more": b}, y), want)


def test_refusals() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    x, y = rows(4), targets(4)
    with pytest.raises(UnsupportedError, match=r"the loss has shape \[4\]; .*reduction"):
        ingot.compile_step(model, nn.CrossEntropyLoss(reduction="none"), optimizer)(x, y)
    with pytest.raises(UnsupportedError, match="the loss is a float"):
        ingot.compile_step(model, lambda out, y: 1.0, optimizer)(x, y)
    with pytest.raises(UnsupportedError, match="no parameter of the optimizer"):
        ingot.compile_step(model, lambda out, y: y.float().mean(), optimizer)(x, y)
    with pytest.raises(InputError, match=r"step\(x, y\)"):
        ingot.compile_step(model, nn.CrossEntropyLoss(), optimizer)(x)
    with pytest.raises(UnsupportedError, match=r"group 0.*neither to the model(.|\n)*float32\[16, 6\]"):
        ingot.compile_step(nn.Linear(6, 3), nn.CrossEntropyLoss(), optimizer)(x, y)


def test_results_do_not_depend_on_threads() -> None:
    weights = []
    for threads in (1, 2):
        model = net()
        step = ingot.compile_step(
            model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1, momentum=0.9), threads=threads
        )
        for k in range(3):
            step(images(8, k), targets(8, k))
        weights.append([p.detach().numpy().copy() for p in model.parameters()])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_live_module_is_trained_as_its_module() -> None:
    model = mlp()
    live = ingot.compile(model)
    before = live(rows(4))
    step = ingot.compile_step(live, nn.CrossEntropyLoss(), optim.SGD(live.parameters(), lr=0.5))
    step(rows(4), targets(4))
    after = live(rows(4))
    assert step.model is model and not np.array_equal(before, after) and len(live.variants) == 1
    close(after, model(ingot.from_numpy(rows(4))))


def test_learning_rate_schedules_cost_no_compile() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = ingot.compile_step(model, nn.CrossEntropyLoss(), optimizer)
    weight = model[2].weight.detach()
    moved = []
    for lr in (0.1, 0.05, 0.0, 0.1):
        optimizer.param_groups[0]["lr"] = lr
        before = weight.numpy().copy()
        step(rows(4), targets(4))
        moved.append(float(np.abs(weight.numpy() - before).max()))
    assert moved[2] == 0.0 and moved[0] > moved[1] > 0 and moved[3] > 0 and len(step.variants) == 1
