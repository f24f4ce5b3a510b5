"""PyTorch's own samples of every module: results, gradients of inputs and parameters, train and eval, eager and
compiled; printed forms and names of states. ``modules_behind.txt`` lists what does not pass yet."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="PyTorch's samples need the package expecttest")
import ingot as ig  # noqa: E402
from torch.testing._internal.common_modules import module_db  # noqa: E402
from torch_bridge import Untranslatable, array_of, assert_same, assert_same_gradients, ingot_of, tensors_in  # noqa: E402

pytestmark = pytest.mark.parity

BEHIND = {
    line.split(":", 1)[0]: line.split(":", 1)[1].strip()
    for line in (Path(__file__).parent / "modules_behind.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
MODULES = sorted({m.name for m in module_db})
RANDOM = ("Dropout", "FractionalMaxPool", "RReLU")


def pair_of(info: Any, sample: Any, training: bool) -> tuple[Any, Any]:
    """Both modules with the same parameters and buffers."""
    args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
    theirs = info.module_cls(*args, **kwargs).double().train(training)
    ours = getattr(ig.nn, info.name.removeprefix("nn."))(*ingot_of(args), **ingot_of(kwargs)).double().train(training)
    return ours, theirs


def copy_state(ours: Any, theirs: Any) -> None:
    state = {k: ig.from_numpy(array_of(v).copy()) for k, v in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)


def compare(info: Any, training: bool) -> int:
    count = 0
    samples = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)
    for sample in samples:
        try:
            given = ingot_of(sample.forward_input.args)
            named = ingot_of(sample.forward_input.kwargs)
            ours, theirs = pair_of(info, sample, training)
        except Untranslatable:
            continue
        where = f"sample {count} {sample.desc!r} of {theirs!r}, training={training}"
        try:
            wanted = theirs(*sample.forward_input.args, **sample.forward_input.kwargs)  # lazy modules get shapes here
            result = ours(*given, **named)
            assert repr(ours) == repr(theirs)
            copy_state(ours, theirs.train(training))
            ours, theirs = ours.train(training), theirs
            wanted = theirs(*sample.forward_input.args, **sample.forward_input.kwargs)
            result = ours(*given, **named)
            assert_same(result, wanted)
            compiled(ours, given, named, wanted)
            leaves = [*tensors_in((given, named)), *ours.parameters()]
            wants = [*tensors_in((sample.forward_input.args, sample.forward_input.kwargs)), *theirs.parameters()]
            assert_same_gradients(result, wanted, leaves, wants)
        except Exception as error:
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
        count += 1
    return count


def compiled(ours: Any, given: Any, named: Any, wanted: Any) -> None:
    """The same from native code, on copies: running statistics must not be counted twice."""
    import copy

    if any(w in type(ours).__name__ for w in RANDOM):
        return
    twin = copy.deepcopy(ours)
    with ig.no_grad():
        assert_same(ig.compile(twin)(*given, **named), wanted, "compiled result")


def check(name: str) -> None:
    compared = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info in (m for m in module_db if m.name == name):
            for training in (True, False) if info.train_and_eval_differ else (True,):
                torch.manual_seed(0)
                compared += compare(info, training)
    assert compared, f"no sample of {name} could be compared"


@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    if name not in BEHIND:
        check(name)
        return
    try:
        check(name)
    except Exception:
        pytest.xfail(BEHIND[name])
    pytest.fail(f"{name} passes now: take it out of modules_behind.txt")
