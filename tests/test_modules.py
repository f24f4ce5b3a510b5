"""``nn.Module``: tables, assignment, iteration, conversion, state dicts, copies; rows K and L of the specification."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import ingot as ig
import numpy as np
import pytest
from ingot import nn


class Net(nn.Module):
    """Pickled by name, so it stands here."""

    def __init__(self) -> None:
        self.note = "before init"
        super().__init__()
        nn.Module.__init__(self)  # twice is harmless
        self.fc = nn.Linear(3, 4)
        self.bn = nn.BatchNorm1d(4)
        self.tail = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
        self.register_buffer("scale", ig.ones(1))
        self.register_buffer("hidden", ig.zeros(1), persistent=False)
        self.register_parameter("nothing", None)

    def forward(self, x):
        return self.tail(self.bn(self.fc(x))) * self.scale


def errors(m: Any) -> list[str]:
    """What goes wrong in assignment, registration and loading, in PyTorch's words."""
    make = m.nn.Linear

    class Early(m.nn.Module):
        def __init__(self, value: Any) -> None:
            self.x = value
            super().__init__()

    def assign(name: str, value: Any) -> Any:
        def call() -> None:
            net = m.nn.Sequential(make(2, 2), m.nn.BatchNorm1d(2))
            owner = net if name == "0" else net[0] if name in ("weight", "bias") else net[1]
            setattr(owner, name, value)

        return call

    def load(change: Any, **kwargs: Any) -> Any:
        def call() -> None:
            net = m.nn.Sequential(make(2, 3), m.nn.BatchNorm1d(3))
            state = net.state_dict()
            change(state)
            net.load_state_dict(state, **kwargs)

        return call

    class Wrong(m.nn.Module):
        pass

    out = []
    for call in (
        lambda: Early(m.nn.Parameter(m.ones(1))), lambda: Early(make(1, 1)), assign("weight", m.ones(2)),
        assign("weight", 3), assign("0", 3), assign("0", m.ones(1)), assign("running_mean", "text"),
        lambda: make(1, 1).no_such_name, lambda: make(1, 1).train("yes"), lambda: make(1, 1).to(m.int64),
        lambda: make(1, 1).register_buffer("a.b", None), lambda: make(1, 1).register_buffer("weight", None),
        lambda: make(1, 1).register_buffer("", None), lambda: make(1, 1).register_buffer(3, None),
        lambda: make(1, 1).register_buffer("x", 3), lambda: make(1, 1).register_parameter("x", m.ones(1)),
        lambda: make(1, 1).register_parameter("x", 3), lambda: make(1, 1).add_module("x", 3), lambda: Wrong()(1),
        lambda: make(1, 1).get_submodule("a.b"), lambda: make(1, 1).get_parameter("in_features"),
        lambda: make(1, 1).get_buffer("weight"), lambda: m.nn.Module(3), lambda: make(1, 1).load_state_dict([1]),
        load(lambda s: s.pop("0.bias")), load(lambda s: s.update({"0.extra": m.ones(1), "2.x": m.ones(1)})),
        load(lambda s: s.update({"0.weight": m.ones(4, 2), "1.bias": m.ones(1, 1)})),
        load(lambda s: s.update({"0.weight": m.ones(4, 2)}), strict=False),
        load(lambda s: s.update({"0.bias": 3})), load(lambda s: (s.clear(), s.update({"a": m.ones(1)}))),
        load(lambda s: s.update({"0._extra_state": 3})),
    ):  # fmt: skip
        try:
            call()
        except Exception as error:
            text = str(error).replace("ingot.frontend.nn.", "torch.nn.")
            out.append(f"{type(error).__name__}: {text}")
        else:
            out.append("no error")
    return out


@pytest.mark.parity
def test_errors_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    for ours, theirs in zip(errors(ig), errors(torch), strict=True):
        assert ours == theirs


def test_errors_of_assignment_and_loading() -> None:
    log = errors(ig)
    assert log[0] == "AttributeError: cannot assign parameters before Module.__init__() call"
    assert log[1] == "AttributeError: cannot assign module before Module.__init__() call"
    assert log[2] == ("TypeError: cannot assign 'torch.FloatTensor' as parameter 'weight' (torch.nn.Parameter or None "
                      "expected)")  # fmt: skip
    assert "as child module '0'" in log[4] and "as buffer 'running_mean'" in log[6]
    assert log[8] == "ValueError: training mode is expected to be boolean"
    assert 'Missing key(s) in state_dict: "0.bias". ' in log[24]
    assert 'Unexpected key(s) in state_dict: "2.x", "0.extra". ' in log[25]
    assert "size mismatch for 0.weight: copying a param with shape torch.Size([4, 2]) from checkpoint" in log[26]
    assert "expected torch.Tensor or Tensor-like object from checkpoint but received <class 'int'>" in log[28]


def test_tables_and_iteration() -> None:
    net = Net()
    assert list(net._modules) == ["fc", "bn", "tail"] and list(net._parameters) == ["nothing"] and net.nothing is None
    assert list(net._buffers) == ["scale", "hidden"] and net._non_persistent_buffers_set == {"hidden"}
    for table in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_load_state_dict_pre_hooks"):
        assert isinstance(getattr(net, table), OrderedDict) and not getattr(net, table)
    assert net.training and net.note == "before init"
    names = ["fc.weight", "fc.bias", "bn.weight", "bn.bias", "tail.1.weight", "tail.1.bias"]
    assert [n for n, _ in net.named_parameters()] == names and len(list(net.parameters(recurse=False))) == 0
    assert [n for n, _ in net.named_parameters(prefix="net")] == [f"net.{n}" for n in names]
    assert [n for n, _ in net.named_buffers()][:2] == ["scale", "hidden"] and len(list(net.buffers())) == 5
    assert [n for n, _ in net.named_children()] == ["fc", "bn", "tail"]
    assert [n for n, _ in net.named_modules()] == ["", "fc", "bn", "tail", "tail.0", "tail.1"]
    assert next(net.modules()) is net and next(net.children()) is net.fc
    members = net._named_members(lambda mod: mod._parameters.items(), prefix="p", recurse=False)
    assert list(members) == []
    names = dir(net)
    assert {"fc", "scale", "nothing", "forward"} <= set(names) and names == sorted(names) and "1" not in dir(net.tail)
    shared = nn.Sequential(net.fc, net.fc)
    assert len(list(shared.parameters())) == 2 and len(list(shared.modules())) == 2
    assert net.get_submodule("tail.1") is net.tail[1] and net.get_buffer("bn.running_mean") is net.bn.running_mean
    net.set_submodule("tail.0", nn.Tanh())
    assert isinstance(net.tail[0], nn.Tanh)


def test_assignment_and_deletion() -> None:
    net = Net()
    net.scale = nn.Parameter(ig.ones(1))  # over a buffer
    assert "scale" in net._parameters and "scale" not in net._buffers
    net.plain = ig.ones(1)
    assert "plain" not in net._buffers and "plain" in net.__dict__
    net.fc = None
    assert net._modules["fc"] is None
    for name in ("scale", "hidden", "bn", "plain"):
        delattr(net, name)
        assert not hasattr(net, name)
    assert net._non_persistent_buffers_set == set()


def test_modes_and_conversion() -> None:
    net = Net()
    assert net.eval() is net and not net.tail[1].training and net.train() is net and net.tail.training
    assert net.requires_grad_(False) is net and not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()
    weight, address = net.fc.weight, id(net.fc.weight)
    net(ig.ones(2, 3)).sum().backward()
    for convert, dtype in (
        (net.double, ig.float64), (net.half, ig.float16), (net.bfloat16, ig.bfloat16), (net.float, ig.float32),
        (lambda: net.to(ig.float64), ig.float64), (lambda: net.to("cpu", ig.float32), ig.float32),
        (lambda: net.to(ig.ones(1).double()), ig.float64),
    ):  # fmt: skip
        assert convert() is net and net.fc.weight.dtype is dtype and net.fc.weight.grad.dtype is dtype
        assert net.bn.num_batches_tracked.dtype is ig.int64 and net.bn.running_mean.dtype is dtype
        assert net.fc.weight is weight and id(net.fc.weight) == address
    net.type("torch.FloatTensor")
    assert net.bn.num_batches_tracked.dtype is ig.float32
    assert net._apply(lambda t: t * 0) is net and not net.fc.weight.any() and net.fc.weight is weight
    assert net.cpu() is net
    with pytest.raises(ig.IngotError, match="not available"):
        net.cuda()


def test_overwriting_parameters_on_conversion() -> None:
    from ingot import __future__

    layer = nn.Linear(2, 2)
    before = layer.weight
    __future__.set_overwrite_module_params_on_conversion(True)
    try:
        layer.bias.requires_grad_(False)
        layer.double()
    finally:
        __future__.set_overwrite_module_params_on_conversion(False)
    assert layer.weight is not before and before.dtype is ig.float32 and layer.weight.requires_grad
    assert layer.weight.dtype is ig.float64 and not layer.bias.requires_grad


def test_zero_grad() -> None:
    net = Net()
    net(ig.ones(2, 3)).sum().backward()
    grad = net.fc.weight.grad
    net.zero_grad(set_to_none=False)
    assert net.fc.weight.grad is grad and not grad.any()
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    net._is_replica = True
    with pytest.warns(UserWarning, match="has no effect"):
        net.zero_grad()


def test_apply() -> None:
    seen = []
    net = Net()

    @ig.no_grad()
    def init(module):
        seen.append(type(module).__name__)
        if isinstance(module, nn.Linear):
            module.weight.fill_(1.0)

    assert net.apply(init) is net
    assert seen == ["Linear", "BatchNorm1d", "ReLU", "Linear", "Sequential", "Net"] and net.tail[1].weight.all()


def test_state_dict() -> None:
    net = Net()
    state = net.state_dict()
    assert list(state) == [
        "scale", "fc.weight", "fc.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var",
        "bn.num_batches_tracked", "tail.1.weight", "tail.1.bias",
    ]  # fmt: skip
    assert state._metadata["bn"] == {"version": 2} and state._metadata[""] == {"version": 1}
    assert not state["fc.weight"].requires_grad and state["fc.weight"].data_ptr() == net.fc.weight.data_ptr()
    kept = net.state_dict(keep_vars=True, prefix="x.")
    assert kept["x.fc.weight"] is net.fc.weight and kept["x.fc.weight"].requires_grad
    into: dict[str, Any] = {}
    assert net.state_dict(destination=into, prefix="p.") is into and "p.scale" in into
    other = Net()
    result = other.load_state_dict(state)
    assert repr(result) == "<All keys matched successfully>"
    assert all(ig.equal(a, b) for a, b in zip(other.state_dict().values(), state.values(), strict=True))
    loose = other.load_state_dict({"fc.bias": ig.ones(4), "other": ig.ones(1)}, strict=False)
    assert loose.unexpected_keys == ["other"] and "fc.weight" in loose.missing_keys and other.fc.bias.all()
    other.load_state_dict({k: v.double() for k, v in state.items()})  # converted to the model's type
    assert other.fc.weight.dtype is ig.float32
    other.load_state_dict({k: v.double() for k, v in state.items()}, assign=True)
    assert other.fc.weight.dtype is ig.float64 and isinstance(other.fc.weight, nn.Parameter)
    known = {k: v for k, v in {**state, "alien": ig.ones(1)}.items() if k in net.state_dict()}
    wrapped = {f"module.{k}": v for k, v in known.items()}
    net.load_state_dict({k[7:] if k.startswith("module.") else k: v for k, v in wrapped.items()})
    zero_d = nn.BatchNorm1d(2)
    zero_d.load_state_dict({**zero_d.state_dict(), "num_batches_tracked": ig.tensor([7])})
    assert zero_d.num_batches_tracked.item() == 7 and zero_d.num_batches_tracked.dim() == 0


def test_extra_state_and_overrides() -> None:
    class Extra(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def get_extra_state(self) -> Any:
            return {"count": self.count}

        def set_extra_state(self, state: Any) -> None:
            self.count = state["count"]

    a, b = Extra(), Extra()
    a.count = 3
    assert a.state_dict() == {"_extra_state": {"count": 3}}
    b.load_state_dict(a.state_dict())
    assert b.count == 3
    calls = []

    class Own(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "more"] = ig.ones(1)

        def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
            calls.append((prefix, strict, metadata))
            state_dict.pop(prefix + "more")
            super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)

    net = nn.Sequential(Own(2, 2))
    net._register_load_state_dict_pre_hook(lambda *args: calls.append(len(args)))
    net.load_state_dict(net.state_dict())
    assert calls == [7, ("0.", True, {"version": 1})]
    layer = nn.Linear(1, 1)
    layer.register_state_dict_post_hook(lambda mod, state, prefix, meta: {})
    with pytest.raises(RuntimeError, match="must return None"):
        layer.state_dict()


def test_copies_and_pickles() -> None:
    net = Net()
    net(ig.ones(4, 3)).sum().backward()
    x = ig.randn(5, 3)
    wanted = net.eval()(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert ig.equal(twin(x), wanted) and twin.fc.weight is not net.fc.weight and not twin.training
        twin.fc.weight.data.zero_()
        assert net.fc.weight.any() and list(twin.state_dict()) == list(net.state_dict())
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    twin = copy.deepcopy(tied)
    assert twin[0].weight is twin[1].weight


def test_exponential_moving_average_of_a_model() -> None:
    class ModelEMA:
        def __init__(self, model: nn.Module, decay: float) -> None:
            self.ema = copy.deepcopy(model).eval().requires_grad_(False)
            self.decay = decay

        def update(self, model: nn.Module) -> None:
            with ig.no_grad():
                for kept, new in zip(self.ema.parameters(), model.parameters(), strict=True):
                    kept.mul_(self.decay).add_(new.detach() * (1 - self.decay))

    layer = nn.Linear(1, 1)
    ema = ModelEMA(layer, 0.9)
    before = layer.weight.item()
    layer.weight.data.fill_(10.0)
    ema.update(layer)
    assert ema.ema.weight.item() == pytest.approx(0.9 * before + 1.0) and not ema.ema.training


def test_a_module_within_itself_is_refused() -> None:
    a, b = nn.Sequential(), nn.Sequential()
    b.add_module("a", a)
    for wrong in (lambda: a.add_module("b", b), lambda: setattr(a, "me", a)):
        with pytest.raises(RuntimeError, match="part of itself"):
            wrong()


def test_printed_form_lists_children_in_order_of_definition() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.ReLU()
            self.first = nn.Linear(1, 2)

        def extra_repr(self) -> str:
            return "size=3"

    assert repr(Unused()) == (
        "Unused(\n  size=3\n  (second): ReLU()\n  (first): Linear(in_features=1, out_features=2, bias=True)\n)"
    )
    layer = nn.Linear(100, 100)
    before = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not np.array_equal(before.numpy(), layer.weight.detach().numpy())
