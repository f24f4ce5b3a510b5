"""Dtype promotion and refusals of two-operand functions, ``out=`` and in-place methods against PyTorch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="PyTorch's samples need the package expecttest")
import ingot as ig  # noqa: E402
from test_parity_operators import _ADAPTED, BEHIND, OPERATORS, callable_of, op_db  # noqa: E402
from torch_bridge import Untranslatable, assert_same, ingot_of, tensors_in  # noqa: E402

pytestmark = pytest.mark.parity
DTYPES = (
    torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip

SPECIAL: dict[str, Callable[[Any, Any, Any], Any]] = {
    "where": lambda lib, a, b: lib.where(lib.tensor([True, False, True]), a, b),
    "lerp": lambda lib, a, b: lib.lerp(a, b, 0.3),
    "addcmul": lambda lib, a, b: lib.addcmul(a, b, b),
    "addcdiv": lambda lib, a, b: lib.addcdiv(a, b, b),
    "add with alpha": lambda lib, a, b: lib.add(a, b, alpha=2),
    "div rounded to zero": lambda lib, a, b: lib.div(a, b, rounding_mode="trunc"),
    "div rounded down": lambda lib, a, b: lib.div(a, b, rounding_mode="floor"),
    "clamp": lambda lib, a, b: lib.clamp(a, min=b),
    "masked_fill": lambda lib, a, b: lib.Tensor.masked_fill(a, lib.tensor([True, False, True]), b),
    "add_": lambda lib, a, b: a.clone().add_(b),
    "number - tensor": lambda lib, a, b: 3 - b,
}
PLAIN = (
    "add", "sub", "mul", "div", "floor_divide", "remainder", "pow", "fmod", "eq", "lt", "ge", "maximum",
    "minimum", "fmax", "fmin", "atan2", "copysign", "hypot", "xlogy", "ldexp", "float_power", "logaddexp", "gcd",
    "lcm", "bitwise_and", "bitwise_or", "bitwise_left_shift", "heaviside", "logical_and", "isclose", "igamma",
    "rsub",
)  # fmt: skip


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


@pytest.mark.parametrize("name", [*PLAIN, *SPECIAL])
def test_results_and_refusals_for_all_pairs_of_dtypes(name: str) -> None:
    apply = SPECIAL.get(name) or (lambda lib, a, b: getattr(lib, name)(a, b))
    values = torch.tensor([1.0, 2.0, 3.0])
    seconds = [values.to(d) for d in DTYPES] + [torch.tensor(2.0).to(d) for d in DTYPES[3::2]] + [2, 2.5, True]
    for a in (values.to(d) for d in DTYPES):
        for b in seconds:
            what = f"{name} of {a.dtype} and {b.dtype if isinstance(b, torch.Tensor) else b!r}"
            theirs = outcome(lambda a=a, b=b: apply(torch, a, b))
            ours = outcome(lambda a=a, b=b: apply(ig, ingot_of(a), ingot_of(b)))
            if isinstance(theirs, Exception):
                assert isinstance(ours, Exception), f"{what}: PyTorch refuses: {theirs}"
                assert isinstance(ours, type(theirs)), f"{what}: {ours!r}, PyTorch has {theirs!r}"
            else:
                assert not isinstance(ours, Exception), f"{what}: {ours!r}"
                assert_same(ours, theirs, what)


MESSAGES = [
    "t.masked_fill(b, t)", "t.masked_fill(i, 0)", "b - 1", "1 - b", "t - b", "b - b", "lib.isclose(t, i)",
    "lib.isclose(t, 1.0)", "lib.isclose(t, t, rtol=-1)", "lib.allclose(t, lib.zeros(3))", "lib.pow(b, b)",
    "lib.where(i, t, t)", "lib.lerp(t, i, 0.5)", "lib.bitwise_not(t)", "~t", "i.mul_(1.5)", "b.add_(1)", "i.exp_()",
    "lib.zeros(3).add_(lib.zeros(2, 3))", "t + lib.zeros(3)", "lib.mul(t, 'a')", "lib.maximum(t, lib.zeros(3))",
    "t.float_power_(2)", "-b", "+b", "abs(b)", "lib.exp(2.0)", "lib.relu(b)", "i // 0", "lib.polygamma(-1, t)",
    "lib.mvlgamma(t, 0)", "lib.clamp(t)", "lib.frac(i)", "lib.frexp(i)", "lib.gcd(t, t)", "lib.heaviside(t, i)",
    "lib.add(i, i, alpha=1.5)", "lib.add(i, i, alpha=True)", "lib.add(t, t, alpha='a')", "t.round(decimals=1) << 1",
    "lib.add(t, t, out=i)", "lib.atan2(t, 1)", "lib.logical_and(t, 1.0)", "lib.trunc(b)",
]  # fmt: skip


@pytest.mark.parametrize("text", MESSAGES)
def test_messages(text: str) -> None:
    def run(lib: Any) -> Exception:
        names = {"lib": lib, "t": lib.tensor([1.0, 2.0]), "i": lib.tensor([1, 2]), "b": lib.tensor([True, False])}
        with pytest.raises(Exception) as caught:  # the types are compared below
            eval(text, names)
        return caught.value

    ours, theirs = run(ig), run(torch)
    first = str(theirs).split("\n")[0].split(" (Triggered")[0]
    if "invalid combination of arguments" not in first:
        assert first in str(ours)
    assert isinstance(ours, type(theirs)), f"{ours!r}, PyTorch has {theirs!r}"


NODES = [
    "lib.acos(x)", "lib.acosh(x+2)", "lib.asin(x)", "lib.asinh(x)", "lib.atan(x)", "lib.atan2(x,y)",
    "lib.atanh(x)", "lib.cosh(x)", "lib.sinh(x)", "lib.tan(x)", "lib.exp2(x)", "lib.log2(x)", "lib.log10(x)",
    "lib.erfc(x)", "lib.erfinv(x)", "lib.lgamma(x)", "lib.digamma(x)", "lib.polygamma(1,x)", "lib.polygamma(2,x)",
    "lib.i0(x)", "lib.sinc(x)", "lib.logit(x)", "lib.frac(x)", "lib.deg2rad(x)", "lib.rad2deg(x)",
    "lib.square(x)", "lib.nan_to_num(x)", "lib.xlogy(x,y)", "lib.xlogy(x,2)", "lib.xlogy(2,x)",
    "lib.logaddexp(x,y)", "lib.logaddexp2(x,y)", "lib.ldexp(x,i)", "lib.fmod(x,y)", "lib.fmod(x,2)",
    "lib.remainder(x,2)", "lib.remainder(x,y)", "lib.fmax(x,y)", "lib.fmin(x,y)", "lib.maximum(x,y)",
    "lib.hypot(x,y)", "lib.copysign(x,y)", "lib.copysign(x,1)", "lib.float_power(x,2)", "lib.pow(x,2)",
    "lib.pow(x,y)", "lib.pow(2,x)", "lib.addcmul(x,x,y)", "lib.addcdiv(x,x,y)", "lib.lerp(x,y,0.5)",
    "lib.lerp(x,y,y)", "lib.clamp(x,0,1)", "lib.clamp(x,min=y)", "lib.clamp(x,0)", "lib.clamp_min(x,0)",
    "lib.clamp_max(x,0)", "lib.round(x)", "lib.round(x,decimals=1)", "lib.sgn(x)", "lib.sign(x)", "lib.rsub(x,1)",
    "lib.rsub(x,y)", "x+1", "x-y", "1-x", "2*x", "x/y", "1/x", "-x", "abs(x)",
    "lib.div(x,y,rounding_mode='trunc')", "lib.div(x,y,rounding_mode='floor')", "lib.mvlgamma(x+2,2)",
    "lib.igamma(y.detach(),x)", "lib.where(x>0,x,y)", "x.masked_fill(x>0,1)", "lib.sigmoid(x)",
    "lib.reciprocal(x)", "lib.rsqrt(x)", "lib.trunc(x)", "lib.floor(x)", "x.double()", "x.clone()",
    "lib.frexp(x)[0]", "lib.add(x,y,alpha=2)", "x.clone().add_(1)", "x.clone().mul_(y)", "x.clone().exp_()",
    "x.clone().clamp_(0)", "x.clone().addcmul_(y,y)", "x.clone().copy_(y)", "x.clone().pow_(2)",
    "x.clone().sinc_()", "x.clone().lerp_(y,0.5)", "x.clone().square_()", "x**0.5", "x%2",
]  # fmt: skip


def test_nodes_have_pytorchs_names() -> None:
    for text in NODES:
        names = []
        for lib in (ig, torch):
            x, y = (lib.tensor(v, requires_grad=True) for v in ([0.25, 0.5], [0.5, 0.75]))
            node = eval(text, {"lib": lib, "x": x, "y": y, "i": lib.tensor([1, 2])}).grad_fn
            names.append(type(node).__name__ if lib is torch else node.name)
        assert names[0] == names[1], text


def _infos(names: Callable[[Any], bool]) -> list[Any]:
    return [
        o for o in op_db
        if o.name in OPERATORS and o.name not in BEHIND and not o.name.startswith(("nn.", "linalg.")) and names(o)
    ]  # fmt: skip


def _samples(info: Any) -> Any:
    kinds = [d for d in (torch.float32, torch.int64) if d in info.supported_dtypes("cpu")]
    for dtype in kinds[:1]:
        for sample in islice(info.sample_inputs("cpu", dtype), 1):
            try:
                given, named = ingot_of((sample.input, *sample.args)), ingot_of(sample.kwargs)
            except Untranslatable:
                continue
            yield sample, given, named


_NO_OUT = {"softmax", "log_softmax"}  # functions of nn, here


def test_every_operator_with_out_takes_it() -> None:
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info in _infos(lambda o: o.supports_out and o.name not in _ADAPTED and o.name not in _NO_OUT):
            for sample, given, named in _samples(info):
                theirs = info.op(sample.input, *sample.args, **sample.kwargs)
                if not isinstance(theirs, torch.Tensor) or theirs.is_complex():
                    continue
                out = ig.zeros(0, dtype=ingot_of(theirs.dtype))
                assert callable_of(info.name)(*given, out=out, **named) is out, info.name
                assert_same(out, theirs, f"{info.name} with out")
                count += 1
    assert count > 70


# The result has another shape or other strides.
_NEW_SHAPE = re.compile("^(squeeze|unsqueeze|transpose|t|addbmm)$")


def test_every_in_place_variant_changes_its_tensor() -> None:
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info in _infos(lambda o: o.inplace_variant is not None and not _NEW_SHAPE.match(o.name)):
            for sample, given, named in _samples(info):
                theirs = sample.input.clone()
                if isinstance(outcome(lambda: info.inplace_variant(theirs, *sample.args, **sample.kwargs)), Exception):  # noqa: B023
                    continue
                name = getattr(info.inplace_variant, "__name__", "")
                ours = given[0]
                result = getattr(ours, name if name.endswith("_") else f"{info.name}_")(*given[1:], **named)
                assert result is ours, info.name
                assert_same(ours, theirs, f"{info.name} in place")
                assert not tensors_in(theirs) or ours.shape == tuple(theirs.shape)
                count += 1
    assert count > 70
