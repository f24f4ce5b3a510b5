"""Containers: every list and dict operation, printed forms, errors; each scenario runs in PyTorch, too."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import ingot as ig
import pytest


def texts_of(m: Any, *failing: Any) -> list[str]:
    out = []
    for call in failing:
        try:
            result = call()
        except Exception as error:
            out.append(f"{type(error).__name__}: {error}".replace("torch.nn.modules.container", "X").replace(
                "ingot.frontend.nn.containers", "X"))  # fmt: skip
        else:
            out.append(f"no error: {result!r}")
    return out


def sequential(m: Any) -> list[Any]:
    nn = m.nn
    s = nn.Sequential(OrderedDict([("a", nn.ReLU()), ("b", nn.Tanh())]))
    s.add_module("c", nn.Sigmoid())
    log = [repr(s), repr(s[0]), repr(s[-1]), repr(s[1:]), len(s), repr(s.a), [type(x).__name__ for x in s]]
    s[1] = nn.Identity()
    log.append(repr(s))
    del s[0]
    log += [repr(s), repr(s.append(nn.ReLU())), repr(s.insert(1, nn.GELU())), repr(s.extend([nn.SiLU(), nn.ELU()]))]
    log += [repr(s.pop(0)), repr(s), repr(s + nn.Sequential(nn.ReLU())), "0" in dir(s)]
    log.append(repr(nn.Sequential(nn.ReLU()) * 3))
    s *= 2
    log += [len(s), [k for k, _ in s.named_children()]]
    s += nn.Sequential(nn.ReLU())
    log += [len(s), s(m.ones(2)).shape == (2,)]
    one = nn.Sequential(nn.ReLU())
    return log + texts_of(
        m, lambda: nn.Sequential(("fc1", nn.ReLU())), lambda: one["a"], lambda: one[1], lambda: one[-2],
        lambda: one + 3, lambda: one.insert(5, nn.ReLU()), lambda: one * 0, lambda: one * "a", lambda: one.append(3),
    )  # fmt: skip


def module_list(m: Any) -> list[Any]:
    nn = m.nn
    s = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])
    log = [repr(s), repr(s.append(nn.Linear(2, 2))), repr(s.extend(nn.ReLU() for _ in range(3)))]
    s.insert(index=1, module=nn.Sigmoid())
    log += [repr(s), repr(s[2:4]), repr(s[-1]), len(s), repr(s.pop(0)), repr(s), sorted(dict(s.named_parameters()))]
    s[0] = nn.Tanh()
    del s[1:3]
    log += [repr(s), repr(s + nn.ModuleList([nn.ReLU()])), repr(nn.ModuleList()), [type(x).__name__ for x in s]]
    s += [nn.GELU()]
    log.append(repr(s))
    return log + texts_of(m, lambda: s[9], lambda: s(1), lambda: nn.ModuleList(3), lambda: s.append(3))


def module_dict(m: Any) -> list[Any]:
    nn = m.nn
    d = nn.ModuleDict({"conv": nn.Conv1d(1, 1, 1), "act": nn.ReLU()})
    log = [repr(d), list(d), list(d.keys()), len(d), "act" in d, repr(d["act"]), [k for k, _ in d.items()]]
    d.update([["x", nn.Tanh()], ["act", nn.GELU()]])
    d["y"] = nn.ELU()
    log += [repr(d), repr(d.pop("act")), [type(v).__name__ for v in d.values()], sorted(d.state_dict())]
    del d["x"]
    log.append(repr(d))
    d.clear()
    log += [len(d), repr(d)]
    return log + texts_of(
        m, lambda: d["b"], lambda: nn.ModuleDict(3), lambda: nn.ModuleDict([(1,)]), lambda: nn.ModuleDict([3]),
        lambda: nn.ModuleDict({"keys": nn.ReLU()}), lambda: nn.ModuleDict({1: nn.ReLU()}),
        lambda: nn.ModuleDict({"a": 1}), lambda: nn.ModuleDict({"a.b": nn.ReLU()}),
        lambda: nn.ModuleDict({"": nn.ReLU()}),
    )  # fmt: skip


def parameter_list(m: Any) -> list[Any]:
    nn = m.nn
    p = nn.ParameterList([nn.Parameter(m.ones(2, 3)), m.zeros(1), 5])
    log = [repr(p), len(p), [type(x).__name__ for x in p], sorted(p.state_dict()), len(list(p.parameters()))]
    p.append(m.ones(4))
    p += [m.ones(5)]
    p[0] = m.ones(7)
    log += [repr(p), repr(p[1:3]), repr(p[-1].shape), "0" in dir(p)]
    return log + texts_of(m, lambda: p[9], lambda: nn.ParameterList(3), lambda: p.extend(3))


def parameter_dict(m: Any) -> list[Any]:
    nn = m.nn
    p = nn.ParameterDict({"a": m.ones(2), "b": nn.Parameter(m.ones(1)), "c": "x"})
    log = [repr(p), list(p), len(p), "a" in p, list(reversed(p)), sorted(p.state_dict()), p.get("q", 3)]
    q = p.copy()
    q.setdefault("d", m.ones(3))
    q |= nn.ParameterDict({"e": m.ones(1)})
    log += [repr(q), repr(p | nn.ParameterDict({"z": m.ones(1)})), q.popitem()[0], list(q.keys()), p.pop("c"), len(p)]
    del p["a"]
    log += [repr(p), [k for k, _ in p.items()], len(list(p.values())), list(p.fromkeys(["u", "v"]))]
    p.clear()
    log.append(repr(p))
    return log + texts_of(
        m, lambda: p["q"], lambda: nn.ParameterDict(3), lambda: nn.ParameterDict({1: 2}),
        lambda: nn.ParameterDict([(1,)]),
    )  # fmt: skip


SCENARIOS = [sequential, module_list, module_dict, parameter_list, parameter_dict]


@pytest.mark.parity
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_as_in_pytorch(scenario) -> None:
    torch = pytest.importorskip("torch")
    for ours, theirs in zip(scenario(ig), scenario(torch), strict=True):
        assert ours == theirs


def test_lists() -> None:
    log = module_list(ig)
    assert "(1): Sigmoid()" in log[3] and "(3-5): 3 x ReLU()" in log[2]
    assert log[-1] == "TypeError: int is not a Module subclass"
    with pytest.raises(NotImplementedError, match="ModuleList"):
        ig.nn.ModuleList([ig.nn.ReLU()])(1)


def test_sequential() -> None:
    log = sequential(ig)
    assert log[0].startswith("Sequential(\n  (a): ReLU()") and "TypeError: tuple is not a Module subclass" in log


def test_dicts() -> None:
    assert module_dict(ig)[1] == ["conv", "act"] and parameter_dict(ig)[1] == ["a", "b", "c"]
    d = ig.nn.ModuleDict({"a": ig.nn.ReLU()})
    assert isinstance(d.pop("a"), ig.nn.ReLU) and not d


def test_parameter_lists() -> None:
    p = ig.nn.ParameterList([ig.ones(2), ig.ones(3)])
    assert [name for name, _ in p.named_parameters()] == ["0", "1"]
    assert p.pop(0).shape == (2,) and len(p) == 1 and p[0].shape == (3,)
