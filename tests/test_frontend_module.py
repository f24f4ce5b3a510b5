"""Module: registration, iteration, state_dict, hooks, containers and printing."""

import copy
import pickle
from collections import OrderedDict

import ingot.frontend as ig
import numpy as np
import pytest
from ingot.frontend import nn


def build(lib):
    """One nested model in either library."""

    class Block(lib.Module):
        def __init__(self, channels, stride=1):
            super().__init__()
            self.conv = lib.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
            self.act = lib.ReLU(inplace=True)
            self.shortcut = lib.Sequential()
            if stride != 1:
                self.shortcut = lib.Sequential(OrderedDict([("pool", lib.AvgPool2d(2)), ("id", lib.Identity())]))

        def forward(self, x):
            return self.act(self.conv(x) + self.shortcut(x))

    class Net(lib.Module):
        def __init__(self):
            super().__init__()
            self.stem = lib.Conv2d(3, 4, 3, padding="same")
            self.blocks = lib.ModuleList([Block(4), Block(4), Block(4, 2)])
            self.heads = lib.ModuleDict(
                {"a": lib.Linear(4, 2), "b": lib.Sequential(lib.Linear(4, 3), lib.Dropout(0.1))}
            )
            self.same = lib.ModuleList([lib.ReLU() for _ in range(4)])
            self.nothing = None

    return Net()


@pytest.mark.parity
def test_names_and_repr_equal_pytorchs():
    torch = pytest.importorskip("torch")
    mine, ref = build(nn), build(torch.nn)
    assert repr(mine) == repr(ref)
    assert list(mine.state_dict()) == list(ref.state_dict())
    assert dict(mine.state_dict()._metadata) == dict(ref.state_dict()._metadata)
    assert [n for n, _ in mine.named_modules()] == [n for n, _ in ref.named_modules()]
    assert [n for n, _ in mine.named_parameters()] == [n for n, _ in ref.named_parameters()]
    assert [n for n, _ in mine.named_children()] == [n for n, _ in ref.named_children()]
    for make in (
        lambda lib, t: lib.ParameterList([lib.Parameter(t.zeros(2, 3)), lib.Parameter(t.zeros(1))]),
        lambda lib, t: lib.ParameterDict({"a": lib.Parameter(t.zeros(2))}),
        lambda lib, t: lib.Sequential(),
        lambda lib, t: lib.ModuleList(),
    ):
        assert repr(make(nn, ig)) == repr(make(torch.nn, torch))


ERRORS = [
    lambda lib, t: setattr(lib.Linear(2, 2), "weight", t.zeros(2)),
    lambda lib, t: setattr(lib.Sequential(lib.ReLU()), "0", 3),
    lambda lib, t: setattr(lib.BatchNorm1d(2), "running_mean", 3),
    lambda lib, t: lib.Linear(2, 2).register_buffer("weight", t.zeros(1)),
    lambda lib, t: lib.Module().register_buffer("a.b", t.zeros(1)),
    lambda lib, t: lib.Module().register_buffer("", t.zeros(1)),
    lambda lib, t: lib.Module().register_buffer("x", 3),
    lambda lib, t: lib.Module().register_parameter("x", t.zeros(1)),
    lambda lib, t: lib.Module().add_module("x", 3),
    lambda lib, t: lib.Module().add_module(3, lib.ReLU()),
    lambda lib, t: lib.Module().add_module("a.b", lib.ReLU()),
    lambda lib, t: lib.Sequential(("fc", lib.ReLU())),
    lambda lib, t: lib.Linear(2, 2).fc2,
    lambda lib, t: lib.Module()(t.zeros(1)),
    lambda lib, t: lib.Linear(2, 2).train("yes"),
    lambda lib, t: lib.Linear(2, 2).get_submodule("x.y"),
    lambda lib, t: lib.Sequential(lib.ReLU())[3],
    lambda lib, t: lib.ModuleList([lib.ReLU()])(t.zeros(1)),
    lambda lib, t: lib.Linear(2, 2).load_state_dict({"weight": t.zeros(2, 3)}),
    lambda lib, t: lib.Linear(2, 2).load_state_dict({"weight": t.zeros(2, 2), "bias": 3, "x.y": t.zeros(1)}),
    lambda lib, t: lib.Sequential(lib.Linear(2, 2)).load_state_dict({"0.weight": t.zeros(2, 2), "fc.bias": t.zeros(2)}),
    lambda lib, t: lib.Linear(2, 2).load_state_dict("file.pt"),
    lambda lib, t: lib.Linear(2, 2, bias=False).load_state_dict({"weight": t.zeros(3)}, strict=False),
]


@pytest.mark.parity
@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_error_messages_equal_pytorchs(case):
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as ref:
        ERRORS[case](torch.nn, torch)
    with pytest.raises(type(ref.value)) as mine:
        ERRORS[case](nn, ig)
    theirs = str(ref.value).replace("<class 'torch.Tensor'>", "<class 'ingot.frontend.tensor.Tensor'>")
    assert str(mine.value).strip() == theirs.strip()


def test_assignment_before_init_and_double_init():
    class Early(nn.Module):
        def __init__(self, what):
            self.width = 64
            self.x = what
            super().__init__()

    with pytest.raises(AttributeError, match=r"cannot assign module before Module.__init__\(\) call"):
        Early(nn.ReLU())
    with pytest.raises(AttributeError, match=r"cannot assign parameters before Module.__init__\(\) call"):
        Early(nn.Parameter(ig.zeros(1)))

    class Twice(nn.Module):
        def __init__(self):
            super(Twice, self).__init__()  # noqa: UP008
            super().__init__()
            self.fc = nn.Linear(1, 1)

    assert len(list(Twice().parameters())) == 2 and Early(3).width == 64


def test_registration_moves_names_between_tables():
    m = nn.Module()
    m.x = ig.zeros(1)
    assert "x" in m.__dict__ and not m._buffers
    m.x = nn.Parameter(ig.zeros(1))
    assert "x" not in m.__dict__ and list(m._parameters) == ["x"]
    m.x = None
    assert m.x is None and m._parameters == {"x": None} and not m.state_dict()
    m.y = nn.ReLU()
    m.y = nn.Parameter(ig.zeros(2))
    assert not m._modules and "y" in m._parameters
    del m.y, m.x
    m.register_buffer("b", ig.ones(1), persistent=False)
    m.register_buffer("c", ig.ones(1))
    m.b = ig.zeros(1)
    assert m._buffers["b"].item() == 0 and list(m.state_dict()) == ["c"] and len(list(m.buffers())) == 2
    del m.b
    assert m._non_persistent_buffers_set == set()
    with pytest.raises(AttributeError):
        del m.b
    names = dir(nn.Sequential(nn.Linear(1, 1)))
    assert "forward" in names and "0" not in names and names == sorted(names)


def test_shared_modules_and_parameters_appear_once():
    a = nn.Linear(2, 2)
    m = nn.Sequential(a, nn.Sequential(a), nn.Linear(2, 2))
    m[2].weight = a.weight
    assert [n for n, _ in m.named_parameters()] == ["0.weight", "0.bias", "2.bias"]
    assert [n for n, _ in m.named_modules()] == ["", "0", "1", "2"]
    assert [n for n, _ in m.named_modules(remove_duplicate=False)] == ["", "0", "1", "1.0", "2"]
    assert len(m.state_dict()) == 6


def test_state_dict_shares_storage_and_loads_in_place():
    m = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = m.state_dict()
    assert list(state)[-1] == "1.num_batches_tracked" and state._metadata["1"] == {"version": 2}
    assert not state["0.weight"].requires_grad and m.state_dict(keep_vars=True)["0.weight"] is m[0].weight
    state["0.weight"].fill_(3)
    assert m[0].weight[0, 0].item() == 3
    weight = m[0].weight
    other = {k: v.double() * 0 + 2 for k, v in state.items()}
    result = m.load_state_dict(other)
    assert repr(result) == "<All keys matched successfully>" and m[0].weight is weight
    assert weight.dtype is ig.float32 and weight.detach().numpy().max() == 2
    del other["1.num_batches_tracked"]  # plain dicts are version 1: the counter may be absent
    m.load_state_dict(other)
    result = m.load_state_dict({"extra": ig.zeros(1)}, strict=False)
    assert "0.weight" in result.missing_keys and result.unexpected_keys == ["extra"]
    prefixed = m.state_dict(prefix="net.")
    assert all(k.startswith("net.") for k in prefixed)
    scalar = nn.BatchNorm1d(3)
    scalar.load_state_dict({**scalar.state_dict(), "num_batches_tracked": ig.tensor([5])})
    assert scalar.num_batches_tracked.item() == 5
    fresh = nn.Linear(2, 2)
    given = {"weight": ig.ones(2, 2), "bias": ig.ones(2)}
    fresh.load_state_dict(given, assign=True)
    assert np.shares_memory(fresh.weight.detach().numpy(), given["weight"].numpy())


def test_extra_state_and_state_hooks():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.n = 4

        def get_extra_state(self):
            return {"n": self.n}

        def set_extra_state(self, state):
            self.n = state["n"]

    m = nn.Sequential(Counted(), nn.Linear(1, 1))
    state = m.state_dict()
    assert state["0._extra_state"] == {"n": 4}
    m[0].n = 9
    m.load_state_dict(state)
    assert m[0].n == 4
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"_extra_state"'):
        nn.Linear(1, 1).load_state_dict({**m[1].state_dict(), "_extra_state": 1})

    def strip(module, state, prefix, *rest):
        for key in list(state):
            state[key.removeprefix("module.")] = state.pop(key)

    loader = nn.Linear(1, 1)
    handle = loader.register_load_state_dict_pre_hook(strip)
    loader.load_state_dict({"module." + k: v for k, v in m[1].state_dict().items()})
    handle.remove()
    with pytest.raises(RuntimeError, match="Missing key"):
        loader.load_state_dict({"module." + k: v for k, v in m[1].state_dict().items()})


def test_forward_hooks():
    m, calls = nn.Linear(2, 2), []
    h1 = m.register_forward_hook(lambda mod, args, out: calls.append("a") or out * 0)
    m.register_forward_hook(lambda mod, args, out: calls.append("first"), prepend=True)
    m.register_forward_pre_hook(lambda mod, args: calls.append("pre") or args[0] + 1)
    m.register_forward_pre_hook(lambda mod, args, kwargs: (args, kwargs), with_kwargs=True)
    assert not m(ig.zeros(1, 2)).detach().numpy().any() and calls == ["pre", "first", "a"]
    h1.remove()
    h1.remove()
    assert m(ig.zeros(1, 2)).shape == (1, 2) and calls == ["pre", "first", "a", "pre", "first"]
    broken = nn.Module()
    broken.register_forward_hook(lambda mod, args, out: calls.append(out), always_call=True)
    with pytest.raises(NotImplementedError):
        broken(1)
    assert calls[-1] is None


def test_modes_conversion_and_copies():
    m = build(nn)
    assert m.eval() is m and not any(x.training for x in m.modules()) and m.train().blocks[0].training
    weight = m.stem.weight
    assert m.double() is m and m.stem.weight is weight and weight.dtype is ig.float64
    bn = nn.BatchNorm2d(2).half()
    assert bn.running_mean.dtype is ig.float16 and bn.num_batches_tracked.dtype is ig.int64
    assert m.to(ig.float32).to("cpu").stem.weight.dtype is ig.float32
    assert not any(p.requires_grad for p in m.requires_grad_(False).parameters())
    seen = []
    m.apply(lambda x: seen.append(type(x).__name__))
    assert seen[0] == "Conv2d" and seen[-1] == "Net"
    weight.grad = ig.ones(*weight.shape)
    m.zero_grad(set_to_none=False)
    assert weight.grad is not None and not weight.grad.numpy().any()
    m.zero_grad()
    assert weight.grad is None
    twin = copy.deepcopy(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert isinstance(twin[0].weight, nn.Parameter) and twin[0].weight.requires_grad is True
    again = pickle.loads(pickle.dumps(twin))
    assert ig.equal(again[0].weight, twin[0].weight) and repr(again) == repr(twin)


def test_containers():
    a, b, c = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)
    s = nn.Sequential(a, b)
    s.append(c).insert(1, nn.Tanh())
    assert (
        list(s._modules) == ["0", "1", "2", "3"]
        and s[-1] is c
        and len(s[1:]) == 3
        and s(ig.zeros(1, 2)).shape == (1, 4)
    )
    s[1] = nn.Identity()
    del s[1]
    assert list(s) == [a, b, c] and len(s + nn.Sequential(b)) == 4 and s.pop(-1) is c
    named = nn.Sequential(OrderedDict(fc=a, act=b))
    assert named.fc is a and named[1] is b and list(named[:1]._modules) == ["fc"]
    named.add_module("last", c)
    assert named(ig.zeros(1, 2)).shape == (1, 4)
    items = nn.ModuleList([a])
    items.insert(index=0, module=b)
    items += [c]
    items.extend([b]).append(b)
    assert [type(x).__name__ for x in items] == ["ReLU", "Linear", "Linear", "ReLU", "ReLU"] and items.pop(0) is b
    assert len(items[1:3]) == 2 and items[-1] is b
    table = nn.ModuleDict({"x": a, "y": b})
    assert table.pop("x") is a and list(table.keys()) == ["y"] and "y" in table and table["y"] is b
    table.update([("z", c)])
    assert dict(table.items()) == {"y": b, "z": c}
    table.clear()
    assert len(table) == 0
    parameters = nn.ParameterList([ig.zeros(2), nn.Parameter(ig.zeros(3))])
    assert len(list(parameters.parameters())) == 2 and parameters[-1].shape == (3,) and len(parameters[:1]) == 1
    kept = nn.ParameterDict({"a": ig.zeros(2)})
    assert list(kept.state_dict()) == ["a"] and isinstance(kept["a"], nn.Parameter) and "a" in kept
