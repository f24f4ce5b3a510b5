"""``ingot.compile`` without examples: a live module follows everything that happens to the model."""

from __future__ import annotations

import threading
from typing import Any

import ingot
import numpy as np
import pytest
from driver_models import Net, close, eager, images, mlp, net, rows
from ingot import nn
from ingot.compiled import LiveModule


def test_parameters_are_followed() -> None:
    model, x = mlp(), rows(4)
    live = ingot.compile(model)
    assert isinstance(live, LiveModule) and not live.variants
    close(live(x), eager(model, x))
    for p in model.parameters():
        p.data.mul_(0.5)
    close(live(x), eager(model, x))
    ingot.manual_seed(5)
    other = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    live.load_state_dict(other.state_dict())
    close(live(x), eager(other, x))
    model[0].weight.data = ingot.zeros(16, 6)
    close(live(x), eager(model, x))
    assert len(live.variants) == 1


def test_replaced_parameters_and_modules_compile_again() -> None:
    model, x = mlp(), rows(2)
    live = ingot.compile(model)
    live(x)
    model[0].weight = nn.Parameter(ingot.ones(16, 6))
    close(live(x), eager(model, x))
    model[1] = nn.ReLU()
    close(live(x), eager(model, x))
    model[2].bias = None
    close(live(x), eager(model, x))
    assert len(live.variants) == 4


def test_new_input_signatures_compile_again() -> None:
    model = mlp()
    live = ingot.compile(model)
    for n in (1, 2, 2, 5, 1):
        close(live(rows(n)), eager(model, rows(n)))
    assert len(live.variants) == 3
    assert isinstance(live(ingot.from_numpy(rows(1))), ingot.Tensor)
    close(live(x := rows(2)[None]), eager(model, x))
    assert len(live.variants) == 4


def test_train_and_eval_and_batch_norm_statistics() -> None:
    model, twin = net(), net()
    live = ingot.compile(model)
    for step in range(3):
        x = images(4, step)
        close(live(x), eager(twin, x), 2e-5)
        for (name, got), (_, want) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
            close(got, want, 1e-5)
            assert name != "bn.num_batches_tracked" or int(got.item()) == step + 1
    live.eval()
    twin.eval()
    assert not model.bn.training
    before = model.bn.running_mean.clone()
    close(live(images(4)), eager(twin, images(4)), 2e-5)
    np.testing.assert_array_equal(model.bn.running_mean.numpy(), before.numpy())
    live.train()
    close(live(images(4)), eager(twin.train(), images(4)), 2e-5)
    assert len(live.variants) == 2


def test_dropout_draws_what_eager_mode_draws() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 6), nn.Dropout(0.25))
    live, x = ingot.compile(model), rows(5)
    ingot.manual_seed(7)
    wanted = [eager(model, x) for _ in range(3)]
    ingot.manual_seed(7)
    got = [live(x) for _ in range(3)]
    for a, b in zip(got, wanted, strict=True):
        close(a, b)
    assert not np.array_equal(got[0], got[1])
    ingot.manual_seed(7)
    live(x)
    close(eager(model, x), wanted[1])  # the stream goes on where the compiled call left it


def test_attributes_pass_through() -> None:
    model = net()
    live = ingot.compile(model)
    assert live.conv is model.conv and list(live.state_dict()) == list(model.state_dict())
    live.note = "kept"
    assert model.note == "kept"
    del live.note
    assert not hasattr(model, "note") and not hasattr(live, "nothing")
    assert live.eval() is live and not model.training
    assert live.to(ingot.float64) is live and model.conv.weight.dtype is ingot.float64
    assert "conv" in dir(live) and "Net" in repr(live)
    x = images(1).astype(np.float64)
    close(live(x), eager(model, x), 1e-12)
    with pytest.raises(AttributeError, match="nothing"):
        _ = live.nothing


def test_hooks_run_when_a_variant_is_traced() -> None:
    model, calls = mlp(), []
    model[0].register_forward_hook(lambda module, args, output: calls.append(1) or output * 2)
    live = ingot.compile(model)
    close(live(rows(2)), model(ingot.from_numpy(rows(2))).detach().numpy())
    calls.clear()
    live(rows(2))
    assert calls == []
    live(rows(3))
    assert calls == [1]


def test_a_live_module_inside_another_trace_is_its_module() -> None:
    model = mlp()
    live = ingot.compile(model)
    outer = ingot.compile(lambda x: live(x) + 1, rows(2))
    close(outer(rows(2)), eager(model, rows(2)) + 1)
    assert not live.variants
    close(ingot.compile(live, rows(2))(rows(2)), eager(model, rows(2)))


def test_structures_and_keywords() -> None:
    class Both(nn.Module):
        def forward(self, batch: Any, *, scale: Any, bias: Any = None) -> Any:
            y = batch["x"] * scale
            return {"y": y, "shifted": None if bias is None else y + bias}

    live, x = ingot.compile(Both()), rows(2)
    out = live({"x": x}, scale=x)
    np.testing.assert_array_equal(out["y"], x * x)
    assert out["shifted"] is None
    np.testing.assert_array_equal(live({"x": x}, scale=2.0, bias=x)["shifted"], x * 2 + x)
    np.testing.assert_array_equal(live({"x": x}, scale=3.0, bias=x)["shifted"], x * 3 + x)
    assert len(live.variants) == 3


def test_non_contiguous_parameters_and_buffers() -> None:
    model = nn.Linear(6, 6)
    model.weight.data = model.weight.data.t()
    close(ingot.compile(model)(rows(3)), eager(model, rows(3)))
    norm, twin = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    norm.running_mean = ingot.zeros(6, 2)[:, 0]
    close(ingot.compile(norm)(rows(8)), eager(twin, rows(8)))
    close(norm.running_mean.clone(), twin.running_mean)


def test_threads_share_a_live_module() -> None:
    model = mlp()
    live, wanted, wrong = ingot.compile(model), {n: eager(model, rows(n)) for n in (1, 2, 3, 4)}, []

    def work(n: int) -> None:
        for _ in range(20):
            if not np.allclose(live(rows(n)), wanted[n], atol=1e-5):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(1 + i % 4,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == [] and len(live.variants) == 4


@pytest.mark.parity
def test_statistics_equal_pytorch() -> None:
    torch = pytest.importorskip("torch")
    model = net()
    twin = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8))
    mine = nn.Sequential(model.conv, model.bn)
    twin.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in mine.state_dict().items()})
    live = ingot.compile(mine)
    for step in range(3):
        close(live(images(4, step)), twin(torch.from_numpy(images(4, step))).detach().numpy(), 2e-5)
    for (_, got), (_, want) in zip(mine.named_buffers(), twin.named_buffers(), strict=True):
        close(got.numpy(), want.numpy(), 1e-5)


def test_net_is_what_the_other_tests_think() -> None:
    assert [n for n, _ in Net().named_parameters()][:2] == ["conv.weight", "conv.bias"]
