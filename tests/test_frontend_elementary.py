"""Element-wise functions as users call them: values, dtypes, messages, in place, ``out=``, old forms, compiled."""

from __future__ import annotations

import math
import warnings

import ingot
import numpy as np
import pytest
from ingot.frontend import deprecated, families
from ingot.ir.dtypes import tolerance

t = ingot.tensor


def close(x, expected, dtype=ingot.float32):
    assert x.dtype is dtype, x.dtype
    rtol, atol = tolerance(dtype) if dtype.is_floating_point else (0, 0)
    np.testing.assert_allclose(x.detach().numpy(), expected, rtol, atol)


# -- values and dtypes ---------------------------------------------------------------------------------
def test_rounding_functions_and_signs():
    x = t([-2.5, -1.5, 0.5, 1.5, 2.4])
    close(ingot.round(x), [-2, -2, 0, 2, 2])
    close(ingot.floor(x), [-3, -2, 0, 1, 2])
    close(ingot.ceil(x), [-2, -1, 1, 2, 3])
    close(ingot.trunc(x), [-2, -1, 0, 1, 2])
    close(ingot.frac(x), [-0.5, -0.5, 0.5, 0.5, 0.4])
    close(ingot.abs(x), [2.5, 1.5, 0.5, 1.5, 2.4])
    close(ingot.sign(x), [-1, -1, 1, 1, 1])
    close(ingot.round(t([1.2345, 6.789]), decimals=2), [1.23, 6.79])
    close(ingot.round(t([1234.0, 5678.0]), decimals=-2), [1200, 5700])
    close(ingot.signbit(t([-0.0, 0.0, -1.0])), [True, False, True], ingot.bool)


def test_exponentials_and_trigonometry():
    x = t([0.25, 0.5, 0.75])
    for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt"):
        close(getattr(ingot, name)(x), [getattr(math, name)(v) for v in (0.25, 0.5, 0.75)])
        close(getattr(x, name)(), [getattr(math, name)(v) for v in (0.25, 0.5, 0.75)])
    for name in ("erf", "erfc", "lgamma"):
        close(getattr(ingot, name)(x), [getattr(math, name)(v) for v in (0.25, 0.5, 0.75)])
    for name in ("asin", "acos", "atan", "asinh", "atanh"):
        close(getattr(ingot, name)(x), [getattr(math, name)(v) for v in (0.25, 0.5, 0.75)])
        assert getattr(ingot, name.replace("a", "arc", 1)) is not None
    close(ingot.sigmoid(t([0.0])), [0.5])
    close(ingot.exp2(t([1.0, 10.0])), [2, 1024])
    close(ingot.pow(x, 2), [0.0625, 0.25, 0.5625])
    close(x**2, [0.0625, 0.25, 0.5625])
    close(ingot.softmax(t([0.0, math.log(3)]), 0), [0.25, 0.75])
    with pytest.raises(TypeError, match=r"sqrt\(\): argument 'input' \(position 1\) must be Tensor, not float"):
        ingot.sqrt(2.0)


def test_integers_become_the_default_float():
    for name in ("exp", "tan", "acos", "erfc", "lgamma", "log2", "deg2rad", "sinc", "exp2", "i0"):
        assert getattr(ingot, name)(t([1])).dtype is ingot.float32
    assert ingot.float_power(t([2]), 2).dtype is ingot.float64
    assert ingot.atan2(t([1]), t([1])).dtype is ingot.float32


def test_logarithms_of_sums_and_products_with_logarithms():
    a, b = t([0.0, -math.inf, 1000.0]), t([0.0, -math.inf, 1000.0])
    close(ingot.logaddexp(a, b), [math.log(2), -math.inf, 1000 + math.log(2)])
    close(ingot.logaddexp2(t([3.0]), t([3.0])), [4])
    close(ingot.xlogy(t([0.0, 2.0, 0.0]), t([0.0, math.e, math.inf])), [0, 2, 0])
    close(ingot.logit(t([0.5, 0.75, 2.0]), eps=0.125), [0, math.log(3), math.log(7)])
    close(ingot.mvlgamma(t([3.0]), 2), [math.lgamma(3) + math.lgamma(2.5) + 0.5 * math.log(math.pi)])


def test_numbers_in_parts():
    mantissa, exponent = ingot.frexp(t([8.0, -0.75, 0.0, 1e-42]))
    close(mantissa * 2.0 ** exponent.float(), [8, -0.75, 0, 1e-42])
    close(exponent, [4, 0, 0, np.frexp(np.float32(1e-42))[1]], ingot.int32)
    close(ingot.ldexp(t([3.0]), t([4])), [48])
    close(ingot.copysign(t([1.0, -2.0]), t([-0.0, 0.0])), [-1, 2])
    close(ingot.nan_to_num(t([math.nan, math.inf, -math.inf]), posinf=9.0), [0, 9, np.finfo(np.float32).min])
    close(ingot.heaviside(t([-1.0, 0.0, 2.0]), t([0.5])), [0, 0.5, 1])


def test_integer_functions():
    close(ingot.gcd(t([12, -18]), t([18, 12])), [6, 6], ingot.int64)
    close(ingot.lcm(t([4, -6, 0]), t([6, 4, 3])), [12, 12, 0], ingot.int64)
    close(t([1, -8]) << 2, [4, -32], ingot.int64)
    close(16 >> t([1, 2]), [8, 4], ingot.int64)
    close(ingot.isin(t([1, 2, 3]), t([2, 5])), [False, True, False], ingot.bool)
    with pytest.raises(NotImplementedError, match="\"lshift_cpu\" not implemented for 'Float'"):
        t([1.0]) << 1
    for name in ("floor_divide", "remainder", "fmod"):
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            getattr(ingot, name)(t([1]), 0)


# -- arithmetic ----------------------------------------------------------------------------------------
def test_division_modes():
    a, b = t([7, -7, 7, -7]), t([2, 2, -2, -2])
    close(a / b, [3.5, -3.5, -3.5, 3.5])
    close(ingot.div(a, b, rounding_mode="trunc"), [3, -3, -3, 3], ingot.int64)
    close(ingot.div(a, b, rounding_mode="floor"), [3, -4, -4, 3], ingot.int64)
    close(a // b, [3, -4, -4, 3], ingot.int64)
    close(a % b, [1, 1, -1, -1], ingot.int64)
    close(ingot.fmod(a, b), [1, -1, 1, -1], ingot.int64)
    huge = t([2**62 + 1])  # beyond what float64 holds
    close(ingot.div(huge, 1, rounding_mode="trunc"), [2**62 + 1], ingot.int64)
    with pytest.raises(RuntimeError, match="div expected rounding_mode to be one of None, 'trunc', or 'floor' but"):
        ingot.div(a, b, rounding_mode="up")


def test_alpha():
    a, b = t([1.0, 2.0]), t([10.0, 20.0])
    close(ingot.add(a, b, alpha=2), [21, 42])
    close(a.sub(b, alpha=0.5), [-4, -8])
    close(ingot.rsub(a, b, alpha=2), [8, 16])
    with pytest.raises(RuntimeError, match="For integral input tensors, argument alpha must not be a floating"):
        ingot.add(t([1]), t([1]), alpha=1.5)
    with pytest.raises(RuntimeError, match="Boolean alpha only supported for Boolean results"):
        ingot.add(t([1]), t([1]), alpha=True)


def test_numbers_on_either_side():
    x = t([1, 2])
    close(2 * x + 1, [3, 5], ingot.int64)
    close(1 / x, [1, 0.5])
    close(5 - x, [4, 3], ingot.int64)
    close(2.5**x, [2.5, 6.25])
    close(7 // x, [7, 3], ingot.int64)
    close(7 % x, [0, 1], ingot.int64)
    for number in (np.float64(2), np.float32(2), np.int64(2)):
        for left, right in ((number * x, x * 2), (number - x, 2 - x), (number / x, 2 / x)):
            np.testing.assert_allclose(left.numpy(), right.numpy())


def test_comparisons_with_the_number_on_the_left():
    x = t([0, 1, 2])
    close(0 == x, [True, False, False], ingot.bool)  # noqa: SIM300
    close(1 < x, [False, False, True], ingot.bool)  # noqa: SIM300
    close(1 != x, [True, False, True], ingot.bool)  # noqa: SIM300
    close(np.float64(1) >= x, [True, True, False], ingot.bool)
    close(x.eq(t([0, 5, 2])), [True, False, True], ingot.bool)
    close(ingot.eq(x.unsqueeze(1), t([0, 2])), [[True, False], [False, False], [False, True]], ingot.bool)
    counted = (0 == t(0)).type(ingot.FloatTensor)  # noqa: SIM300
    close(counted, 1)


def test_limits():
    x = t([-1.0, 0.0, 5.0])
    close(x.clamp(min=1e-12, max=2), [1e-12, 1e-12, 2])
    close(x.clamp(max=t([0.0, 1.0, 2.0])), [-1, 0, 2])
    close(x.clamp_min(0.5), [0.5, 0.5, 5])
    close(ingot.maximum(x, t([0.0, math.nan, 1.0])), [0, math.nan, 5])
    close(ingot.fmax(x, t([0.0, math.nan, 1.0])), [0, 0, 5])
    close(ingot.maximum(t([True, False]), t([False, False])), [True, False], ingot.bool)
    with pytest.raises(RuntimeError, match="At least one of 'min' or 'max' must not be None"):
        x.clamp()
    with pytest.raises(TypeError, match="argument 'other' \\(position 2\\) must be Tensor, not float"):
        ingot.maximum(x, 1.0)


def test_three_operands():
    a, b, c = t([1.0, 2.0]), t([3.0, 4.0]), t([2.0, 8.0])
    close(ingot.addcmul(a, b, c, value=0.5), [4, 18])
    close(ingot.addcdiv(a, b, c, value=2), [4, 3])
    close(ingot.lerp(a, b, 0.25), [1.5, 2.5])
    close(ingot.lerp(a, b, t([0.0, 1.0])), [1, 4])
    with pytest.raises(RuntimeError, match="Integer division with addcdiv is no longer supported"):
        ingot.addcdiv(t([1]), t([1]), t([1]))


def test_gradients_where_formulas_are_delicate():
    def slope(f, value):
        x = t([value], requires_grad=True)
        f(x).sum().backward()
        return x.grad.item()

    assert slope(ingot.sinc, 0.0) == 0
    assert slope(lambda x: ingot.xlogy(x, t([0.0])), 0.0) == 0
    assert slope(lambda x: ingot.logaddexp(x, x.detach()), 3.0) == 0.5
    assert slope(lambda x: x.clamp(min=t([2.0])), 2.0) == 1
    assert slope(ingot.i0, 0.0) == 0
    assert slope(lambda x: ingot.nan_to_num(x), math.inf) == 0
    assert abs(slope(ingot.lgamma, 1.0) + 0.5772157) < 1e-6
    assert slope(lambda x: ingot.frexp(x)[0], 8.0) == 1 / 16


# -- types of one dtype, casts -------------------------------------------------------------------------
TYPES = {
    "FloatTensor": ("float32", "float"), "DoubleTensor": ("float64", "double"), "HalfTensor": ("float16", "half"),
    "BFloat16Tensor": ("bfloat16", "bfloat16"), "ByteTensor": ("uint8", "byte"), "CharTensor": ("int8", "char"),
    "ShortTensor": ("int16", "short"), "IntTensor": ("int32", "int"), "LongTensor": ("int64", "long"),
    "BoolTensor": ("bool", "bool"),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_tensor_types(name):
    kind, (dtype, method) = getattr(ingot, name), TYPES[name]
    x = kind([1, 0, 1])
    assert x.dtype is getattr(ingot, dtype) and x.tolist() == [1, 0, 1]
    assert x.type() == f"torch.{name}" and ingot.typename(x) == f"torch.{name}"
    assert kind(2, 3).shape == (2, 3) and kind(ingot.Size([4])).shape == (4,) and kind().shape == (0,)
    assert isinstance(x, kind) and not isinstance(1, kind)
    source = t([1.0, 0.0, 3.7])
    for cast in (getattr(source, method)(), source.type(kind), source.type(f"torch.{name}"), source.type(x.dtype)):
        assert isinstance(cast, kind)
    assert source.type(kind).type_as(x).dtype is x.dtype


def test_short_names_are_the_same_objects():
    assert ingot.float is ingot.float32 and ingot.double is ingot.float64 and ingot.half is ingot.float16
    assert ingot.long is ingot.int64 and ingot.int is ingot.int32 and ingot.short is ingot.int16
    assert t([1.5]).type(ingot.float).dtype is ingot.float32


def test_casts_round_as_ieee_says():
    assert t([1e-8]).half().item() == 0 and t([2.0**-24]).half().item() == 2.0**-24
    assert t([1.00390625]).bfloat16().item() == 1  # halfway: to even
    assert t([1.01171875]).bfloat16().item() == 1.015625
    assert t([3.7, -3.7]).long().tolist() == [3, -3]
    assert ingot.from_numpy(np.array([1.5, 2.5])).float().dtype is ingot.float32
    assert t([0.0, 0.1, math.nan]).bool().tolist() == [False, True, True]
    x = t([1.0], requires_grad=True)
    (x.double() * 3).sum().backward()
    assert x.grad.dtype is ingot.float32 and x.grad.item() == 3


def test_default_tensor_type():
    try:
        ingot.set_default_tensor_type(ingot.DoubleTensor)
        assert t([1.0]).dtype is ingot.float64
    finally:
        ingot.set_default_tensor_type("torch.FloatTensor")
    with pytest.raises(TypeError, match="only floating-point types"):
        ingot.set_default_tensor_type(ingot.LongTensor)


# -- in place ------------------------------------------------------------------------------------------
def test_every_in_place_method_gives_what_the_function_gives():
    checked = 0
    for family in families.FAMILIES:
        for name in family.IN_PLACE if family.__name__.endswith(("elementary", "elementwise")) else ():
            x = _operand(name)
            args = _further(name)
            fn = getattr(ingot.Tensor, name, None) or getattr(ingot, name)
            want = fn(x, *args)
            y = x.clone()
            got = getattr(y, f"{name}_")(*args)
            assert got is y, name
            np.testing.assert_allclose(y.numpy(), want.to(y.dtype).numpy(), err_msg=name)
            checked += 1
    assert checked > 90


_INTEGER = {"gcd", "lcm", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "bitwise_left_shift",
            "bitwise_right_shift"}  # fmt: skip
_TWO = {"add", "sub", "mul", "div", "divide", "multiply", "subtract", "true_divide", "floor_divide", "remainder", "pow",
        "eq", "ne", "lt", "le", "gt", "ge", "greater", "greater_equal", "less", "less_equal", "not_equal", "atan2",
        "arctan2", "copysign", "float_power", "fmod", "heaviside", "hypot", "igamma", "igammac", "ldexp", "nextafter",
        "xlogy", "logical_and", "logical_or", "logical_xor"}  # fmt: skip


def _operand(name):
    if name in _INTEGER:
        return t([12, 7, 1])
    if name == "float_power":  # has its own method in place
        return t([1.5, 2.0, 0.5], dtype=ingot.float64)
    return t([1.25, 1.5, 3.0] if name in ("acosh", "arccosh", "mvlgamma") else [0.25, 0.5, 0.75])


def _further(name):
    other = t([0.5, 2.0, 1.5])
    if name in _INTEGER - {"bitwise_not"}:
        return (t([3, 2, 1]),)
    if name in _TWO:
        return (other,)
    return {
        "clamp": (0.3, 0.6), "clip": (0.3, 0.6), "clamp_min": (0.4,), "clamp_max": (0.4,), "lerp": (other, 0.3),
        "addcmul": (other, other), "addcdiv": (other, other), "mvlgamma": (2,),
        "masked_fill": (t([True, False, True]), 7.0),
    }.get(name, ())  # fmt: skip


def test_in_place_operators():
    x = t([1.0, 2.0])
    same = x
    x += 1
    x *= t([2.0, 3.0])
    x -= 1
    x /= 2
    assert x is same
    close(x, [1.5, 4])
    y = t([5, 6])
    y //= 2
    y %= 2
    y <<= 3
    close(y, [0, 8], ingot.int64)
    with pytest.raises(RuntimeError, match="result type Float can't be cast to the desired output type Long"):
        y += 0.5
    out = ingot.zeros(2)
    assert out.add_(t([1.0, 2.0]), alpha=3).mul_(2) is out
    close(out, [6, 12])


# -- old argument orders -------------------------------------------------------------------------------
def old(call, name):
    with pytest.warns(UserWarning, match=f"This overload of {name} is deprecated") as caught:
        result = call()
    text = str(caught[0].message)
    assert "Consider using one of the following signatures instead" in text and f"{name}(Tensor" in text
    return result


def test_add_with_the_number_first():
    p, d = t([1.0, 2.0]), t([10.0, 20.0])
    close(old(lambda: p.add(2, d), "add"), [21, 42])
    close(old(lambda: ingot.add(p, 0.5, d), "add"), [6, 12])
    close(old(lambda: p.clone().sub_(2, d), "sub_"), [-19, -38])
    x = p.clone()
    assert old(lambda: x.mul_(0.9).add_(1 - 0.9, d), "add_") is x
    close(x, [1.9, 3.8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(p.add(d, alpha=2), [21, 42])


def test_other_functions_with_the_number_first():
    p, a, b = t([1.0, 2.0]), t([2.0, 3.0]), t([4.0, 6.0])
    close(old(lambda: p.addcmul(0.5, a, b), "addcmul"), [5, 11])
    close(old(lambda: p.clone().addcdiv_(-1, b, a), "addcdiv_"), [-1, 0])


def test_addmm_with_beta_and_alpha_first():
    """The distance matrix of center loss: a non-leaf that needs gradients, changed in place."""
    x = t([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    centers = t([[0.0, 1.0], [2.0, 2.0], [5.0, 5.0]], requires_grad=True)
    distances = (x**2).sum(1, keepdim=True).expand(2, 3) + (centers**2).sum(1, keepdim=True).expand(3, 2).t()
    old(lambda: distances.addmm_(1, -2, x, centers.t()), "addmm_")
    close(distances, [[2, 1, 25], [18, 5, 5]])
    distances.sum().backward()
    close(x.grad, [[-8, -4], [4, 8]])
    ones = ingot.ones(2, 2)
    close(old(lambda: ingot.addmm(ones, 2, 3, ones, ones), "addmm"), [[8, 8], [8, 8]])
    assert set(deprecated._FORMS) >= {"addmm", "addmv", "addr", "addbmm", "baddbmm"}


# -- out= ----------------------------------------------------------------------------------------------
def test_out_is_written_and_returned():
    x, y = t([1.0, 2.0]), ingot.zeros(2)
    assert ingot.add(x, x, out=y) is y
    close(y, [2, 4])
    view = ingot.zeros(2, 2)
    ingot.exp(ingot.zeros(2), out=view[1])
    close(view, [[0, 0], [1, 1]])
    wide = ingot.zeros(2, dtype=ingot.float64)
    close(ingot.mul(x, 3, out=wide), [3, 6], ingot.float64)


def test_out_is_resized():
    x = t([1.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = ingot.zeros(0)
        ingot.add(x, x, out=empty)
    close(empty, [2, 4])
    with pytest.warns(UserWarning, match=r"resized since it had shape \[3\], which does not match the required output"):
        other = ingot.zeros(3)
        ingot.add(x, x, out=other)
    close(other, [2, 4])


def test_out_is_refused():
    x = t([1.0, 2.0])
    with pytest.raises(RuntimeError, match="result type Float can't be cast to the desired output type Long"):
        ingot.add(x, x, out=t([1, 2]))
    with pytest.raises(TypeError, match="argument 'out' must be Tensor, not int"):
        ingot.add(x, x, out=5)
    with pytest.raises(RuntimeError, match=r"add\(\): functions with out=\.\.\. arguments don't support automatic"):
        ingot.add(x.clone().requires_grad_(), x, out=ingot.zeros(2))
    with ingot.no_grad():
        close(ingot.add(x.clone().requires_grad_(), x, out=ingot.zeros(2)), [2, 4])
    with pytest.raises(TypeError):
        x.add(x, out=ingot.zeros(2))


def test_out_in_a_compiled_function():
    def f(x):
        y = x * 0
        ingot.exp(x, out=y)
        return y + 1

    x = t([0.0, 1.0])
    close(ingot.compile(f, x)(x), [2, 1 + math.e])


def test_out_of_several_results():
    x = t([8.0, 3.0])
    mantissa, exponent = ingot.zeros(2), ingot.zeros(2, dtype=ingot.int32)
    assert ingot.frexp(x, out=(mantissa, exponent))[0] is mantissa
    close(mantissa, [0.5, 0.75])
    close(exponent, [4, 2], ingot.int32)


# -- compiled ------------------------------------------------------------------------------------------
COMPILED = {
    "inverse": lambda x: ingot.asin(x * 0.2) + ingot.acos(x * 0.2) * ingot.atan(x) - ingot.atan2(x, x + 2),
    "hyperbolic": lambda x: ingot.sinh(x) + ingot.cosh(x) * ingot.asinh(x) + ingot.acosh(x + 6) * ingot.atanh(x * 0.2),
    "logarithms": lambda x: ingot.log2(x + 5) + ingot.log10(x + 5) + ingot.logaddexp(x, -x) + ingot.exp2(x),
    "errors": lambda x: ingot.erfc(x) + ingot.erfinv(x * 0.2) + ingot.xlogy(x + 5, x + 5) + (x * 0.1 + 0.5).logit(),
    "parts": lambda x: ingot.frexp(x)[0] + x.frac() + ingot.copysign(x, -x) + ingot.fmod(x, 1.3) + ingot.hypot(x, x),
    "degrees": lambda x: ingot.rad2deg(x) + ingot.deg2rad(x) + ingot.sinc(x) + ingot.tan(x * 0.3),
    "choices": lambda x: ingot.nan_to_num(x / (x - x[0, 0])) + ingot.fmax(x, -x) + ingot.clamp(x, min=-x * 0.5),
    "thirds": lambda x: ingot.addcmul(x, x, x, value=0.5) + ingot.addcdiv(x, x, x + 9) + ingot.lerp(x, -x, x * 0.1),
    "integers": lambda x: ingot.gcd((x * 9).long(), (x * 5).long()) + ((x.long() + 9) << 2) + ((x * 50).long() >> 3),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_functions_agree_with_eager_ones(name):
    x = ingot.from_numpy(np.random.default_rng(3).uniform(-4, 4, (5, 13)).astype(np.float32))
    f = COMPILED[name]
    eager = f(x)
    compiled = ingot.compile(f, x)(x)
    assert compiled.dtype is eager.dtype
    np.testing.assert_allclose(compiled.numpy(), eager.numpy(), rtol=2e-5, atol=2e-5)


def test_functions_without_a_kernel_are_refused_by_name():
    with pytest.raises(ingot.IngotError, match="lgamma"):
        ingot.compile(ingot.lgamma, t([1.0]))
