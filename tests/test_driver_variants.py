"""When live modules and training steps compile again, and when not: keys, functions, threads, the limit."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import ingot
import numpy as np
import pytest
from driver_models import close, eager, mlp, rows
from ingot import compiled, nn, optim


def test_functions_and_methods_follow_the_modules_they_reach() -> None:
    model, x = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)).eval(), rows(4)
    for function in (lambda x: model(x) + 1, model.forward):
        live = ingot.compile(function)
        close(live(x), eager(function, x))
        with ingot.no_grad():
            model[0].weight.mul_(2.0)
        close(live(x), eager(function, x))
        assert len(live.variants) == 1
        model[1].train()
        close(live(x), eager(function, x), 1e-4)
        assert model[1].num_batches_tracked.item() > 0
        model.eval()
        model[0] = nn.Linear(6, 6)
        close(live(x), eager(function, x))
        live(rows(3))
        live(x)
        assert len(live.variants) == 4


def test_modules_below_the_called_ones_and_in_plain_lists_are_followed() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(6, 6), nn.Linear(6, 6)]

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = nn.ReLU()(layer(x))
            return x

    model, x = Hidden(), rows(2)
    live = ingot.compile(model)
    for _ in range(2):
        close(live(x), eager(model, x))
        with ingot.no_grad():
            model.layers[1].weight.mul_(2.0)
    assert len(live.variants) == 1


def test_a_module_that_the_loss_reaches_is_followed() -> None:
    model, judge, x, y = mlp(), nn.Linear(3, 1), rows(4), rows(4)[:, :1].copy()
    step = ingot.compile_step(
        model, lambda out, y: ((judge(out) - y) ** 2).mean(), optim.SGD(model.parameters(), lr=0.0)
    )
    for _ in range(2):
        close(step(x, y), ((judge(model(ingot.from_numpy(x))) - ingot.from_numpy(y)) ** 2).mean())
        with ingot.no_grad():
            judge.weight.mul_(3.0)
    assert len(step.variants) == 1


class Config:
    def __init__(self, k: float) -> None:
        self.k = k

    def __repr__(self) -> str:
        return "Config()"


def test_constants_count_by_value_and_objects_by_identity() -> None:
    class Scale(nn.Module):
        def forward(self, x: Any, k: Any) -> Any:
            return x * (k.k if isinstance(k, Config) else k)

    live, x = ingot.compile(Scale()), rows(2)
    for k in (Config(2), Config(3)):
        close(live(x, k), x * k.k)
    np.testing.assert_array_equal(live(x.astype(np.int64), 1), live(x.astype(np.int64), True))
    assert live(x.astype(np.int64), 1.0).dtype == np.float32
    assert np.signbit(live(np.ones(1, np.float32), -0.0)) and not np.signbit(live(np.ones(1, np.float32), 0.0))
    close(live(x, np.float32(2.0)), x * 2)
    count = len(live.variants)
    live(x, np.float32(3.0))
    live(x.astype(np.int64), 1)
    assert len(live.variants) == count


def test_modules_among_the_arguments() -> None:
    class Apply(nn.Module):
        def forward(self, x: Any, layer: Any) -> Any:
            return layer(x)

    live, x, layers = ingot.compile(Apply()), rows(2), [nn.Linear(6, 2), nn.Linear(6, 2), nn.Dropout(0.5)]
    for layer in layers[:2] * 2:
        close(live(x, layer), eager(layer, x))
        with ingot.no_grad():
            layer.bias.add_(1.0)
    assert len(live.variants) == 2
    assert (live(rows(50), layers[2]) == 0).any()
    layers[2].eval()
    close(live(x, layers[2]), x)


def test_rewired_shared_modules_and_new_hooks_compile_again() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.ReLU(), nn.Sigmoid()
            self.used = self.a

        def forward(self, x: Any) -> Any:
            return self.used(x)

    model, x = Shared(), rows(2)
    live = ingot.compile(model)
    close(live(x), eager(model, x))
    model.used = model.b
    close(live(x), eager(model, x))
    handle = model.b.register_forward_hook(lambda module, args, out: out * 2)
    close(live(x), eager(model, x))
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    close(live(x), eager(model, x))
    handle.remove()
    close(live(x), eager(model, x))


def test_a_mode_that_changes_while_it_is_traced() -> None:
    inside, go = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x: Any) -> Any:
            if threading.current_thread() is first:
                inside.set()
                go.wait(5)
            return x * (2 if self.training else 3)

    model, results = Waits(), []
    live = ingot.compile(model)
    first = threading.Thread(target=lambda: results.append(live(rows(1))))
    second = threading.Thread(target=lambda: results.append(live(rows(2))))
    first.start()
    inside.wait(5)
    second.start()
    model.eval()
    go.set()
    for t in (first, second):
        t.join()
    assert len(results) == 2
    for n in (1, 2):
        close(live(rows(n)), 3 * rows(n))
        close(live.train()(rows(n)), 2 * rows(n))
        live.eval()


def test_training_calls_of_several_threads_lose_no_update() -> None:
    model = nn.BatchNorm1d(6)
    lives = [ingot.compile(model), ingot.compile(model)]
    lives[0](rows(4))

    def work(live: Any) -> None:
        for _ in range(50):
            live(rows(4))

    threads = [threading.Thread(target=work, args=(lives[i % 2],)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert model.num_batches_tracked.item() == 201


def test_variants_are_bounded_and_the_warning_names_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MAX_VARIANTS", 3)

    class Moves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steady", ingot.ones(1))
            self.register_buffer("wanders", ingot.ones(1))

        def forward(self, x: Any) -> Any:
            return x * self.steady + self.wanders

    model = Moves()
    live, x = ingot.compile(model), rows(1)
    with pytest.warns(RuntimeWarning, match="more than 3 variants.* 'wanders'") as seen:
        for i in range(7):
            model.wanders = ingot.ones(1) * i
            close(live(x), x + i)
    assert len(live.variants) == 3 and len(seen) == 1
    live = ingot.compile(mlp())
    with pytest.warns(RuntimeWarning, match=r"the shapes.*\(4, 6\)"):
        for n in (1, 2, 3, 1, 4):
            live(rows(n))
    assert [v.program.inputs[0].type.shape[0] for v in live.variants] == [1, 3, 4]


def test_bookkeeping_of_groups_is_no_reason_to_compile_again() -> None:
    model, x, y = mlp(), rows(4), rows(4)[:, :3].copy()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = ingot.compile_step(model, nn.MSELoss(), optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(4):
            optimizer.param_groups[0].update(_step_count=i, initial_lr=0.1 * i, foreach=bool(i))
            step(x, y)
    assert len(step.variants) == 1
    optimizer.param_groups[0]["maximize"] = True
    before = step(x, y).item()
    assert step(x, y).item() > before and len(step.variants) == 2
