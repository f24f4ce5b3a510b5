"""SGD against PyTorch's over several steps with given gradients; groups, checkpoints, the rule under tracing."""

import itertools

import ingot.frontend as ig
import numpy as np
import pytest
from ingot.frontend import InputSpec, nn, optim
from ingot.frontend.tracing import trace
from ingot.ir.dtypes import float64
from ingot.ir.interpreter import interpret

SHAPES = [(3, 4), (5,), ()]
OPTIONS = [
    dict(momentum=m, dampening=d, weight_decay=w, nesterov=n, maximize=x)
    for m, d, w, n, x in itertools.product((0, 0.9), (0, 0.3), (0, 0.01), (False, True), (False, True))
    if not n or (m and not d)
]


def start(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in SHAPES], [[rng.standard_normal(s) for s in SHAPES] for _ in range(4)]


@pytest.mark.parity
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sgd_equals_pytorchs(options):
    torch = pytest.importorskip("torch")
    values, gradients = start()
    mine = [nn.Parameter(ig.tensor(v)) for v in values]
    ref = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    a, b = optim.SGD(mine, lr=0.1, **options), torch.optim.SGD(ref, lr=0.1, **options)
    for step in gradients:
        for p, q, g in zip(mine, ref, step, strict=True):
            p.grad, q.grad = ig.tensor(g), torch.tensor(g)
        if step is gradients[1]:  # a parameter without a gradient is skipped
            mine[1].grad = ref[1].grad = None
        a.step()
        b.step()
    for p, q in zip(mine, ref, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-14)
    assert repr(a) == repr(b)
    saved, theirs = a.state_dict(), b.state_dict()
    assert saved["param_groups"] == theirs["param_groups"] and saved["state"].keys() == theirs["state"].keys()
    for key, entries in theirs["state"].items():
        for name, value in entries.items():
            if value is not None:
                np.testing.assert_allclose(saved["state"][key][name].numpy(), value.numpy(), rtol=1e-14)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_rule_traced_as_a_compiled_step_would(options):
    values, gradients = start()
    eager = [nn.Parameter(ig.tensor(v)) for v in values]
    compiled = [nn.Parameter(ig.tensor(v)) for v in values]
    a, b = optim.SGD(eager, lr=0.1, **options), optim.SGD(compiled, lr=0.1, **options)
    group = b.param_groups[0]
    numbers = b.graph_hyper(group)
    used = {k for k in ("momentum", "weight_decay") if options[k]} | ({"dampening"} if options["momentum"] else set())
    assert set(numbers) == {"lr", *(k for k in used if options[k])}
    scalars = {k: ig.tensor(v, dtype=float64) for k, v in numbers.items()}
    states = {f"p{i}": p for i, p in enumerate(compiled)}
    kept = [b.init_state(p, group) for p in compiled]
    for i, entries in enumerate(kept):
        states.update({f"p{i}.{k}": v for k, v in entries.items()})

    def step(*grads):
        for p, g, entries in zip(compiled, grads, kept, strict=True):
            new, state = b._update(p, g, entries, {**group, **scalars})
            p._assign(new)
            for k, v in state.items():
                entries[k]._assign(v)

    t = trace(
        step,
        [InputSpec(s, float64) for s in SHAPES],
        states={**states, **scalars},
        roles={**dict.fromkeys(states, "state"), **dict.fromkeys(scalars, "scalar")},
    )
    assert all(t.graph.roles[len(SHAPES) + list(t.states).index(k)] == "scalar" for k in scalars)
    for grads in gradients:
        outs = interpret(t.graph, [*grads, *(s._data for s in t.states.values())])
        for position, source in t.graph.updates.items():
            t.states[list(t.states)[source - len(SHAPES)]]._data[...] = outs[position]
        for p, g in zip(eager, grads, strict=True):
            p.grad = ig.tensor(g)
        a.step()
        for p, q in zip(eager, compiled, strict=True):
            np.testing.assert_allclose(q.detach().numpy(), p.detach().numpy(), rtol=1e-14)
    assert a.state_dict()["state"].keys() == b.state_dict()["state"].keys()
    assert all(not k.startswith("_") for s in b.state_dict()["state"].values() for k in s)


def test_groups_closure_zero_grad_and_checkpoint():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    opt = optim.SGD([{"params": a.parameters()}, {"params": b.parameters(), "lr": 1e-3}], lr=1e-2, momentum=0.9)
    assert [g["lr"] for g in opt.param_groups] == [1e-2, 1e-3]
    for p in (*a.parameters(), *b.parameters()):
        p.grad = ig.ones(*p.shape)
    before = a.weight.detach().clone()
    assert opt.step(lambda: ig.tensor(3.0) if ig.is_grad_enabled() else None).item() == 3
    np.testing.assert_allclose((before - a.weight.detach()).numpy(), 0.01, rtol=1e-5)
    opt.zero_grad(set_to_none=False)
    assert not a.weight.grad.numpy().any()
    opt.zero_grad()
    assert a.weight.grad is None
    other = optim.SGD([{"params": a.parameters()}, {"params": b.parameters()}], lr=1, momentum=0.1)
    state = opt.state_dict()
    state["param_groups"][0].pop("maximize")  # an old checkpoint
    other.load_state_dict(state)
    assert other.param_groups[1]["lr"] == 1e-3 and other.param_groups[0]["maximize"] is False
    assert other.param_groups[0]["params"][0] is a.weight
    buffer = other.state[a.weight]["momentum_buffer"]
    assert (
        ig.equal(buffer, opt.state[a.weight]["momentum_buffer"])
        and buffer is not opt.state[a.weight]["momentum_buffer"]
    )
    assert other.init_state(a.weight, other.param_groups[0])["momentum_buffer"] is buffer


@pytest.mark.parity
def test_errors_equal_pytorchs():
    torch = pytest.importorskip("torch")
    cases = [
        lambda o, t: o.SGD(t.zeros(2)),
        lambda o, t: o.SGD([]),
        lambda o, t: o.SGD([3]),
        lambda o, t: o.SGD([t.zeros(1)], lr=-1),
        lambda o, t: o.SGD([t.zeros(1)], momentum=-1.0),
        lambda o, t: o.SGD([t.zeros(1)], weight_decay=-1.0),
        lambda o, t: o.SGD([t.zeros(1)], nesterov=True),
        lambda o, t: o.SGD([t.zeros(1)]).add_param_group([]),
        lambda o, t: o.SGD([t.zeros(1)]).add_param_group({"params": {t.zeros(1)}}),
        lambda o, t: (lambda p: o.SGD([p]).add_param_group({"params": p}))(t.zeros(1)),
        lambda o, t: o.SGD([t.zeros(1)]).load_state_dict({"state": {}, "param_groups": []}),
        lambda o, t: o.SGD([t.zeros(1)]).load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]}),
        lambda o, t: o.Optimizer([t.zeros(1)], {}).step(),
    ]
    for case in cases:
        with pytest.raises(Exception) as ref:
            case(torch.optim, torch)
        with pytest.raises(type(ref.value)) as mine:
            case(optim, ig)
        assert str(mine.value) == str(ref.value)


def test_required_options_names_and_non_leaves():
    class Scaled(optim.Optimizer):
        def __init__(self, params, lr=optim.required):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            return "stepped"

    assert repr(optim.required) == "<required parameter>"
    with pytest.raises(ValueError, match="didn't specify a value of required optimization parameter lr"):
        Scaled([ig.zeros(1)])
    assert Scaled([{"params": ig.zeros(1), "lr": 3}]).param_groups[0]["lr"] == 3
    model = nn.Linear(2, 2)
    named = optim.SGD(model.named_parameters(), lr=0.1)
    assert named.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    with pytest.raises(ValueError, match="cannot add param group without names"):
        named.add_param_group({"params": ig.zeros(1)})
    with pytest.raises(ValueError, match="Some param names are missing"):
        optim.SGD([("a", ig.zeros(1)), ig.zeros(1)])
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        optim.SGD([model.weight * 2])


def test_hooks_of_steps_and_checkpoints():
    from ingot.frontend.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    p = nn.Parameter(ig.ones(2))
    opt = optim.Adam([p])
    calls = []
    handles = [
        register_optimizer_step_pre_hook(lambda o, args, kwargs: calls.append("global before")),
        register_optimizer_step_post_hook(lambda o, args, kwargs: calls.append("global after")),
        opt.register_step_pre_hook(lambda o, args, kwargs: calls.append("before")),
        opt.register_step_post_hook(lambda o, args, kwargs: calls.append("after")),
    ]
    opt.step()
    assert calls == ["global before", "before", "after", "global after"]
    for handle in handles:
        handle.remove()
    opt.step()
    assert len(calls) == 4
    with opt.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 7), {})):
        assert opt.step() == 7
    with opt.register_step_pre_hook(lambda o, args, kwargs: 3), pytest.raises(RuntimeError, match="must return None"):
        opt.step()
    opt.register_state_dict_pre_hook(lambda o: calls.append("saving"))
    opt.register_state_dict_post_hook(lambda o, state: {**state, "more": 1})
    assert opt.state_dict()["more"] == 1 and calls[-1] == "saving"
    opt.register_load_state_dict_pre_hook(lambda o, state: calls.append(sorted(state)), prepend=True)
    opt.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    opt.load_state_dict(opt.state_dict())
    assert calls[-2:] == [["more", "param_groups", "state"], "loaded"]


def test_old_pickles_get_the_options_they_lack():
    opt = optim.SGD([nn.Parameter(ig.ones(2))], lr=0.1)
    state = opt.__getstate__()
    del state["param_groups"][0]["nesterov"]
    again = optim.SGD.__new__(optim.SGD)
    again.__setstate__(state)
    assert again.param_groups[0]["nesterov"] is False
    adam = optim.Adam([nn.Parameter(ig.ones(2))])
    adam.load_state_dict({
        "state": {0: {"step": 5, "exp_avg": ig.ones(2), "exp_avg_sq": ig.ones(2)}},
        "param_groups": [{"params": [0], "lr": 0.5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0}],
    })  # fmt: skip
    (entries,) = adam.state.values()
    assert entries["step"].dtype is ig.float32 and entries["step"].item() == 5
    assert adam.param_groups[0]["amsgrad"] is False


def test_a_manual_schedule_writes_the_groups():
    opt = optim.SGD([nn.Parameter(ig.ones(1))], lr=0.1)

    def adjust(epoch):
        for group in opt.param_groups:
            group["lr"] = 0.1 if epoch < 80 else 0.01 if epoch < 120 else 0.001

    rates = []
    for epoch in (0, 79, 80, 119, 120):
        adjust(epoch)
        rates.append(opt.param_groups[0]["lr"])
    assert rates == [0.1, 0.1, 0.01, 0.01, 0.001]
    (p,) = opt.param_groups[0]["params"]
    p.grad = ig.tensor([10.0])
    opt.step()
    assert p.item() == pytest.approx(0.99)
