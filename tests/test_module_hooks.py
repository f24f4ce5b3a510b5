"""Hooks of modules: kinds, order, what they may change, errors. Each scenario is a function of the library, so that
PyTorch can be asked the same (``test_parity_modules_hooks``)."""

from __future__ import annotations

import gc
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import ingot as ig
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _no_global_hooks() -> Iterator[None]:
    from ingot.frontend.nn import module_hooks

    yield
    module_hooks._global_is_full_backward_hook = None
    for table in (module_hooks._global_backward_hooks, module_hooks._global_forward_hooks):
        table.clear()


def net(m: Any) -> Any:
    layers = m.nn.Sequential(m.nn.Linear(3, 4), m.nn.Tanh(), m.nn.Linear(4, 2))
    for i, p in enumerate(layers.parameters()):
        p.data = (m.arange(p.numel()).float().reshape(p.shape) - 3) * 0.1 + i * 0.05
    return layers


def run(m: Any, model: Any, grad: bool = True) -> Any:
    x = (m.arange(6).float().reshape(2, 3) * 0.2 - 0.5).requires_grad_(grad)
    model(x).square().sum().backward()
    return x.grad


def numbers(x: Any) -> Any:
    if x is None or isinstance(x, (str, int)):
        return x
    if isinstance(x, (tuple, list)):
        return [numbers(v) for v in x]
    return np.round(x.detach().numpy().astype(np.float64), 4).tolist()


def order(m: Any) -> list[Any]:
    """Global before own; a child's hooks before its parent's forward hook; backward from the outside in."""
    log: list[Any] = []
    model = net(m)
    module = m.nn.modules.module
    handles = [
        module.register_module_forward_pre_hook(lambda mod, a: log.append(("global pre", type(mod).__name__))),
        module.register_module_forward_hook(lambda mod, a, o: log.append(("global", type(mod).__name__))),
        module.register_module_full_backward_hook(lambda mod, gi, go: log.append(("global back", type(mod).__name__))),
        module.register_module_full_backward_pre_hook(lambda mod, go: log.append(("global ahead", type(mod).__name__))),
    ]
    for mod in (model, model[0], model[2]):
        name = type(mod).__name__
        handles += [
            mod.register_forward_pre_hook(lambda mod, a, name=name: log.append(("pre", name))),
            mod.register_forward_pre_hook(lambda mod, a, name=name: log.append(("pre first", name)), prepend=True),
            mod.register_forward_hook(lambda mod, a, o, name=name: log.append(("post", name))),
            mod.register_forward_hook(lambda mod, a, o, name=name: log.append(("post first", name)), prepend=True),
            mod.register_full_backward_hook(lambda mod, gi, go, name=name: log.append(("back", name))),
            mod.register_full_backward_pre_hook(lambda mod, go, name=name: log.append(("before", name))),
        ]
    log.append(numbers(run(m, model)))
    for handle in handles:
        handle.remove()
    count = len(log)
    run(m, model)
    assert len(log) == count
    return log


def gradients_seen(m: Any) -> list[Any]:
    log: list[Any] = []
    model = net(m)
    model[2].register_full_backward_hook(lambda mod, gi, go: log.append(numbers((gi, go))))
    model.register_full_backward_hook(lambda mod, gi, go: (gi[0] * 2,))
    model[0].register_full_backward_pre_hook(lambda mod, go: (go[0] * 3,))
    return [*log, numbers(run(m, model)), [numbers(p.grad) for p in model.parameters()]]


def without_input_gradient(m: Any) -> list[Any]:
    log: list[Any] = []
    model = net(m)
    model.register_full_backward_hook(lambda mod, gi, go: log.append(numbers((gi, go))))
    run(m, model, grad=False)
    return log


def several_results(m: Any) -> list[Any]:
    log: list[Any] = []

    class Two(m.nn.Module):
        def forward(self, a: Any, note: str, b: Any) -> Any:
            return a * 2, b * a, a.detach()

    two = Two()
    two.register_full_backward_hook(lambda mod, gi, go: log.append(numbers((gi, go))))
    a, b = m.ones(2, requires_grad=True), m.ones(2)
    p, q, r = two(a, "text", b)
    (p.sum() + 3 * q.sum()).backward()
    return [*log, numbers(a.grad), r.requires_grad]


def forward_hooks_change_things(m: Any) -> list[Any]:
    model = net(m)
    model[0].register_forward_pre_hook(lambda mod, args: args[0] * 2)
    model[1].register_forward_hook(lambda mod, args, out: out + 1)
    seen: list[Any] = []

    class Scaled(m.nn.Module):
        def forward(self, x: Any, scale: float = 1.0) -> Any:
            return x * scale

    scaled = Scaled()
    scaled.register_forward_pre_hook(lambda mod, a, k: (a, {"scale": k["scale"] + 1}), with_kwargs=True)
    scaled.register_forward_hook(lambda mod, a, k, out: seen.append(k["scale"]), with_kwargs=True)
    return [numbers(model(m.ones(1, 3))), numbers(scaled(m.ones(2), scale=2.0)), str(seen)]


def always_called(m: Any) -> list[Any]:
    log: list[Any] = []

    class Broken(m.nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("broken")

    broken = Broken()
    broken.register_forward_hook(lambda mod, a, out: log.append(("always", out)), always_call=True)
    broken.register_forward_hook(lambda mod, a, out: log.append("never"))
    with pytest.raises(ValueError, match="broken"):
        broken(1)
    return log


def mixing(m: Any) -> list[str]:
    texts = []
    for first, second in (("register_backward_hook", "register_full_backward_hook"),
                          ("register_full_backward_hook", "register_backward_hook")):  # fmt: skip
        layer = m.nn.Linear(2, 2)
        getattr(layer, first)(lambda mod, gi, go: None).remove()
        with pytest.raises(RuntimeError) as info:
            getattr(layer, second)(lambda mod, gi, go: None)
        texts.append(str(info.value))
    return texts


def wrong_numbers(m: Any) -> list[str]:
    texts = []
    for register in (
        lambda mod: mod.register_full_backward_hook(lambda mod, gi, go: (gi[0], gi[0])),
        lambda mod: mod.register_full_backward_pre_hook(lambda mod, go: (go[0], go[0])),
        lambda mod: mod.register_forward_pre_hook(lambda mod, a, k: (1, 2, 3), with_kwargs=True),
    ):
        layer = m.nn.Tanh()
        register(layer)
        with pytest.raises(RuntimeError) as info:
            layer(m.ones(2, requires_grad=True)).sum().backward()
        texts.append(str(info.value))
    return texts


def old_hooks(m: Any) -> list[Any]:
    """The node of the first tensor found in nested results."""
    log: list[Any] = []

    class Nested(m.nn.Module):
        def forward(self, x: Any) -> Any:
            return {"note": "x", "value": x.exp()}

    nested = Nested()

    def hook(mod: Any, gi: Any, go: Any) -> None:
        log.append((type(mod).__name__, numbers(gi), numbers(go)))

    nested.register_backward_hook(hook)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nested(m.zeros(2, requires_grad=True))["value"].sum().backward()
    return [*log, [str(w.message)[:60] for w in caught if "non-full" in str(w.message)]]


SCENARIOS = [order, gradients_seen, without_input_gradient, several_results, forward_hooks_change_things, always_called,
             mixing, wrong_numbers, old_hooks]  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_as_in_pytorch(scenario) -> None:
    torch = pytest.importorskip("torch")
    try:
        assert scenario(ig) == scenario(torch)
    finally:
        torch.nn.modules.module._global_is_full_backward_hook = None


def test_order() -> None:
    log = order(ig)
    forward = [
        ("global pre", "Sequential"), ("pre first", "Sequential"), ("pre", "Sequential"), ("global pre", "Linear"),
        ("pre first", "Linear"), ("pre", "Linear"), ("global", "Linear"), ("post first", "Linear"), ("post", "Linear"),
        ("global pre", "Tanh"), ("global", "Tanh"),
    ]  # fmt: skip
    assert log[: len(forward)] == forward and ("post", "Sequential") in log
    assert log.index(("post", "Sequential")) < log.index(("before", "Sequential")) < log.index(("before", "Linear"))
    assert log.index(("global back", "Linear")) < log.index(("back", "Linear"))


def test_full_hooks_see_and_change_gradients() -> None:
    model = net(ig)
    plain = run(ig, net(ig))
    model.register_full_backward_hook(lambda mod, gi, go: (gi[0] * 2,))
    np.testing.assert_allclose(run(ig, model).numpy(), 2 * plain.numpy(), rtol=1e-6)
    assert without_input_gradient(ig)[0][0] == [None]


def test_errors() -> None:
    assert all("Cannot use both regular backward hooks and full" in text for text in mixing(ig))
    assert "invalid number of grad_input, got 2, but expected 1" in wrong_numbers(ig)[0]
    module = ig.nn.modules.module
    module.register_module_full_backward_hook(lambda *a: None).remove()
    with pytest.raises(RuntimeError, match="as a global Module hook"):
        module.register_module_backward_hook(lambda *a: None)


def test_inputs_and_results_of_hooked_modules_are_not_changed_in_place() -> None:
    layer = ig.nn.Tanh()
    layer.register_full_backward_hook(lambda *a: None)
    out = layer(ig.ones(2, requires_grad=True))
    with pytest.raises(RuntimeError, match="BackwardHookFunctionBackward"):
        out.add_(1)


def test_printed_lines_of_a_forward_hook(capsys) -> None:
    conv = ig.nn.Conv2d(6, 16, 5)

    def show(module, input, output):
        print(module)
        print("Input shape is", input[0].shape)
        print("Output shape is", output.shape)

    conv.register_forward_hook(show)
    conv(ig.zeros(16, 6, 14, 14))
    assert capsys.readouterr().out.splitlines() == [
        "Conv2d(6, 16, kernel_size=(5, 5), stride=(1, 1))", "Input shape is torch.Size([16, 6, 14, 14])",
        "Output shape is torch.Size([16, 16, 10, 10])",
    ]  # fmt: skip


def test_features_and_their_gradients() -> None:
    kept = {}
    model = net(ig)
    model[1].register_forward_hook(lambda mod, args, out: kept.update(feature=out.detach()))
    model[1].register_full_backward_hook(lambda mod, gi, go: kept.update(gradient=go[0]))
    run(ig, model)
    assert kept["feature"].shape == (2, 4) == kept["gradient"].shape


def test_registration_hooks() -> None:
    seen = []
    module = ig.nn.modules.module
    with module.register_module_parameter_registration_hook(lambda m, n, p: seen.append(n)), \
         module.register_module_buffer_registration_hook(lambda m, n, b: seen.append(n)), \
         module.register_module_module_registration_hook(lambda m, n, c: seen.append(n)):  # fmt: skip
        ig.nn.Sequential(ig.nn.BatchNorm1d(2))
    assert seen == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked", "0"]


def test_backward_hook_as_a_class() -> None:
    from ingot.utils.hooks import BackwardHook, _WrappedHook

    seen = []
    hook = BackwardHook("me", [lambda mod, gi, go: seen.append((mod, numbers(gi), numbers(go)))], [])
    x = ig.ones(2, requires_grad=True)
    (given,) = hook.setup_input_hook((x,))
    hook.setup_output_hook(given * 3).sum().backward()
    assert seen == [("me", [[3.0, 3.0]], [[1.0, 1.0]])] and numbers(x.grad) == [3.0, 3.0]
    layer = ig.nn.Tanh()
    wrapped = _WrappedHook(isinstance, layer)
    assert wrapped(ig.nn.Tanh) and isinstance(pickle.loads(pickle.dumps(wrapped)), _WrappedHook)
    del layer
    gc.collect()
    with pytest.raises(RuntimeError, match="dead Module"):
        wrapped(ig.nn.Tanh)


def test_compiled_modules_run_backward_hooks_with_the_backward() -> None:
    seen = []
    model = net(ig)
    model[0].register_full_backward_hook(lambda mod, gi, go: seen.append(go[0].shape))
    eager = run(ig, model)
    np.testing.assert_allclose(run(ig, ig.compile(model)).numpy(), eager.numpy(), rtol=1e-5)
    assert seen == [(2, 4)] * 2


def test_a_global_hook_makes_a_compiled_module_trace_again() -> None:
    live = ig.compile(net(ig))
    x = ig.ones(1, 3)
    with ig.no_grad():
        before = live(x)
        with ig.nn.modules.module.register_module_forward_hook(lambda mod, args, out: out * 2):
            assert not np.allclose(live(x).numpy(), before.numpy())
        np.testing.assert_array_equal(live(x).numpy(), before.numpy())
