"""Activations against their formulas, in place and out of place, with gradients; what is printed of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ingot as ig
import ingot.nn as nn
import ingot.nn.functional as F
import numpy as np
import pytest

ALPHA, SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
# Away from the kinks at 0, +-0.5, +-1, +-3 and 6, where finite differences mean nothing.
POINTS = np.array([-30.0, -6.3, -3.2, -2.1, -0.9, -0.7, -0.3, -0.01, 0.01, 0.2, 0.7, 1.4, 2.9, 5.1, 6.6, 25.0])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def below(x: np.ndarray, alpha: float, inner: float = 1.0) -> np.ndarray:
    return np.maximum(0, x) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / inner))


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


def softplus(x: np.ndarray, beta: float = 1.0, threshold: float = 20.0) -> np.ndarray:
    return np.where(beta * x > threshold, x, np.log1p(np.exp(np.minimum(beta * x, threshold))) / beta)


CASES: dict[str, tuple[Any, str, Callable[[np.ndarray], np.ndarray]]] = {
    "ReLU": (nn.ReLU(), "ReLU()", lambda x: np.maximum(0, x)),
    "ReLU6": (nn.ReLU6(), "ReLU6()", lambda x: np.minimum(np.maximum(0, x), 6)),
    "LeakyReLU": (nn.LeakyReLU(0.2), "LeakyReLU(negative_slope=0.2)", lambda x: np.where(x > 0, x, 0.2 * x)),
    "PReLU": (nn.PReLU().double(), "PReLU(num_parameters=1)", lambda x: np.where(x > 0, x, 0.25 * x)),
    "ELU": (nn.ELU(0.7), "ELU(alpha=0.7)", lambda x: below(x, 0.7)),
    "SELU": (nn.SELU(), "SELU()", lambda x: SCALE * below(x, ALPHA)),
    "CELU": (nn.CELU(1.5), "CELU(alpha=1.5)", lambda x: below(x, 1.5, 1.5)),
    "RReLU": (nn.RReLU().eval(), "RReLU(lower=0.125, upper=0.3333333333333333)",
              lambda x: np.where(x > 0, x, x * (1 / 8 + 1 / 3) / 2)),
    "GELU": (nn.GELU(), "GELU(approximate='none')", lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2)))),
    "GELU tanh": (nn.GELU("tanh"), "GELU(approximate='tanh')",
                  lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    "SiLU": (nn.SiLU(), "SiLU()", lambda x: x * sigmoid(x)),
    "Mish": (nn.Mish(), "Mish()", lambda x: x * np.tanh(softplus(x))),
    "Sigmoid": (nn.Sigmoid(), "Sigmoid()", sigmoid),
    "LogSigmoid": (nn.LogSigmoid(), "LogSigmoid()", lambda x: np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))),
    "Tanh": (nn.Tanh(), "Tanh()", np.tanh),
    "Tanhshrink": (nn.Tanhshrink(), "Tanhshrink()", lambda x: x - np.tanh(x)),
    "Softplus": (nn.Softplus(2.0, 3.0), "Softplus(beta=2.0, threshold=3.0)", lambda x: softplus(x, 2.0, 3.0)),
    "Softsign": (nn.Softsign(), "Softsign()", lambda x: x / (1 + np.abs(x))),
    "Softshrink": (nn.Softshrink(), "Softshrink(0.5)",
                   lambda x: np.where(x > 0.5, x - 0.5, np.where(x < -0.5, x + 0.5, 0))),
    "Hardshrink": (nn.Hardshrink(), "Hardshrink(0.5)", lambda x: np.where(np.abs(x) > 0.5, x, 0)),
    "Hardtanh": (nn.Hardtanh(-1.0, 2.0), "Hardtanh(min_val=-1.0, max_val=2.0)", lambda x: np.clip(x, -1, 2)),
    "Hardsigmoid": (nn.Hardsigmoid(), "Hardsigmoid()", lambda x: np.clip(x + 3, 0, 6) / 6),
    "Hardswish": (nn.Hardswish(), "Hardswish()", lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "Threshold": (nn.Threshold(0.1, 20.0), "Threshold(threshold=0.1, value=20.0)", lambda x: np.where(x > 0.1, x, 20)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_formula_gradient_and_printed_form(name: str) -> None:
    layer, printed, formula = CASES[name]
    assert repr(layer) == printed
    x = ig.tensor(POINTS).requires_grad_()
    np.testing.assert_allclose(layer(x).detach().numpy(), formula(POINTS), rtol=1e-10, atol=1e-12)
    assert np.array_equal(x.detach().numpy(), POINTS)
    assert ig.autograd.gradcheck(layer, (x,))
    with ig.no_grad():
        native = ig.compile(layer, x)(x)
    np.testing.assert_allclose(native.numpy(), formula(POINTS), rtol=1e-9, atol=1e-11)


IN_PLACE = {
    "relu": {}, "relu6": {}, "leaky_relu": {"negative_slope": 0.1}, "elu": {"alpha": 0.7}, "selu": {}, "celu": {},
    "silu": {}, "mish": {}, "hardtanh": {}, "hardswish": {}, "hardsigmoid": {}, "rrelu": {},
    "threshold": {"threshold": 0.1, "value": 3.0},
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_forms(name: str) -> None:
    function, options = getattr(F, name), IN_PLACE[name]
    wanted = function(ig.tensor(POINTS), **options)
    x = ig.tensor(POINTS)
    assert function(x, **options, inplace=True) is x and ig.equal(x, wanted)
    if hasattr(F, f"{name}_"):
        x = ig.tensor(POINTS)
        assert getattr(F, f"{name}_")(x, *options.values()) is x and ig.equal(x, wanted)
    # The gradient of the in-place form is that of the other one, although its operand is gone.
    a, b = (ig.tensor(POINTS).requires_grad_() for _ in range(2))
    function(a * 1.0, **options).sum().backward()
    function(b * 1.0, **options, inplace=True).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy())
    with pytest.raises(RuntimeError, match="leaf"):
        function(a, **options, inplace=True)


def test_in_place_names_are_pytorchs() -> None:
    for name in ("celu_", "elu_", "hardtanh_", "leaky_relu_", "relu_", "rrelu_", "selu_", "threshold_"):
        assert callable(getattr(F, name))
    for name in ("celu_", "relu_", "rrelu_", "selu_", "threshold_", "celu", "selu", "prelu", "threshold", "softmax"):
        assert callable(getattr(ig, name))
    layer = nn.ReLU(inplace=True)
    x = ig.tensor([-1.0, 2.0])
    assert layer(x) is x and x.tolist() == [0.0, 2.0]


def test_prelu_per_channel_and_rrelu_draws() -> None:
    x = ig.tensor(np.random.default_rng(0).standard_normal((2, 3, 4)))
    layer = nn.PReLU(3, init=0.1).double()
    with ig.no_grad():
        layer.weight.copy_(ig.tensor([0.1, 0.2, 0.3]))
    slopes = np.array([0.1, 0.2, 0.3]).reshape(1, 3, 1)
    np.testing.assert_allclose(layer(x).detach().numpy(), np.where(x.numpy() > 0, x.numpy(), slopes * x.numpy()))
    np.testing.assert_allclose(F.prelu(x, layer.weight).detach().numpy(), layer(x).detach().numpy())
    layer(x).sum().backward()
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.minimum(x.numpy(), 0).sum((0, 2)))
    drawn = nn.RReLU(0.1, 0.4)(x).numpy() / x.numpy()
    negative = x.numpy() < 0
    assert (drawn[~negative] == 1).all() and len(np.unique(drawn[negative])) > 5
    assert drawn[negative].min() >= 0.1 - 1e-6 and drawn[negative].max() <= 0.4 + 1e-6


def test_log_sigmoid_stays_finite() -> None:
    x = ig.tensor([-1000.0, -90.0, 90.0]).requires_grad_()
    out = nn.LogSigmoid()(x)
    np.testing.assert_allclose(out.detach().numpy(), [-1000.0, -90.0, 0.0], atol=1e-6)
    out.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [1.0, 1.0, 0.0], atol=1e-6)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def test_softmax_family() -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5)) * 5
    t = ig.tensor(x)
    for axis in (0, 1, -1):
        np.testing.assert_allclose(nn.Softmax(axis)(t).numpy(), softmax(x, axis), rtol=1e-10)
        np.testing.assert_allclose(nn.LogSoftmax(axis)(t).numpy(), np.log(softmax(x, axis)), 1e-10, 1e-14)
        np.testing.assert_allclose(nn.Softmin(axis)(t).numpy(), softmax(-x, axis), rtol=1e-10)
    np.testing.assert_allclose(nn.Softmax2d()(t).numpy(), softmax(x, 1), rtol=1e-10)
    np.testing.assert_allclose(nn.Softmax2d()(t[0]).numpy(), softmax(x[0], 0), rtol=1e-10)
    with pytest.raises(ValueError, match="expected input to be 3D or 4D"):
        nn.Softmax2d()(t[0, 0])
    for rank, axis in ((1, 0), (2, 1), (3, 0), (4, 1)):
        part = x[(0,) * (4 - rank)]
        with pytest.warns(UserWarning, match="Implicit dimension choice"):
            np.testing.assert_allclose(F.softmax(ig.tensor(part)).numpy(), softmax(part, axis), rtol=1e-10)
    assert F.softmax(ig.tensor([1, 2]), 0, dtype=ig.float64).dtype is ig.float64
    big = F.log_softmax(ig.tensor([[1000.0, 0.0]]), 1)
    assert big.tolist() == [[0.0, -1000.0]]
    assert repr(nn.Softmin(1)) == "Softmin(dim=1)" and repr(nn.Softmax2d()) == "Softmax2d()"


def test_glu_halves() -> None:
    x = np.random.default_rng(2).standard_normal((3, 4, 6))
    np.testing.assert_allclose(nn.GLU()(ig.tensor(x)).numpy(), x[..., :3] * sigmoid(x[..., 3:]))
    np.testing.assert_allclose(F.glu(ig.tensor(x), 1).numpy(), x[:, :2] * sigmoid(x[:, 2:]))
    assert ig.autograd.gradcheck(F.glu, (ig.tensor(x[0]).requires_grad_(),))
    with pytest.raises(RuntimeError, match="Halving dimension must be even, but dimension 0 is size 3"):
        F.glu(ig.tensor(x), 0)


def test_gumbel_softmax() -> None:
    ig.manual_seed(3)
    logits = ig.tensor([[2.0, 0.0, -1.0]]).repeat(4000, 1).requires_grad_()
    soft, hard = F.gumbel_softmax(logits, tau=0.7), F.gumbel_softmax(logits, hard=True)
    np.testing.assert_allclose(soft.sum(-1).detach().numpy(), 1.0, rtol=1e-5)
    assert set(np.unique(np.round(hard.detach().numpy(), 5))) == {0.0, 1.0}
    shares = hard.mean(0).detach().numpy()
    np.testing.assert_allclose(shares, softmax(np.array([2.0, 0.0, -1.0]), 0), atol=0.04)
    (hard * ig.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert np.abs(logits.grad.numpy()).max() > 0


def test_integers_and_errors() -> None:
    x = ig.tensor([-3, 2, 9])
    assert F.relu6(x).tolist() == [0, 2, 6] and F.relu6(x).dtype is ig.int64
    assert F.hardtanh(x, -2, 5).tolist() == [-2, 2, 5]
    assert F.threshold(x, 3, 7).tolist() == [7, 7, 9]
    for call, error in (
        (lambda: F.hardtanh(x, 2.0, 1.0), ValueError), (lambda: F.softshrink(ig.zeros(1), -1.0), RuntimeError),
        (lambda: F.celu(ig.zeros(1), 0.0), RuntimeError), (lambda: F.rrelu(ig.zeros(1), 0.5, 0.1), RuntimeError),
        (lambda: F.gelu(ig.zeros(1), "erf"), RuntimeError), (lambda: F.relu([1.0]), TypeError),
        (lambda: F.prelu(ig.zeros(2, 3), ig.zeros(2)), RuntimeError),
    ):  # fmt: skip
        with pytest.raises(error):
            call()


def test_older_names() -> None:
    with pytest.warns(FutureWarning, match="`max_value` is deprecated"):
        assert nn.Hardtanh(max_value=2.0).max_val == 2.0
    x = ig.tensor(POINTS)
    np.testing.assert_allclose(F.sigmoid(x).numpy(), sigmoid(POINTS))
    np.testing.assert_allclose(F.tanh(x).numpy(), np.tanh(POINTS))


PAIRS = {
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "ELU": "elu", "SELU": "selu", "CELU": "celu",
    "GELU": "gelu", "SiLU": "silu", "Mish": "mish", "Sigmoid": "sigmoid", "LogSigmoid": "logsigmoid", "Tanh": "tanh",
    "Tanhshrink": "tanhshrink", "Softplus": "softplus", "Softsign": "softsign", "Softshrink": "softshrink",
    "Hardshrink": "hardshrink", "Hardtanh": "hardtanh", "Hardsigmoid": "hardsigmoid", "Hardswish": "hardswish",
    "GLU": "glu",
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_every_class_has_its_function(name: str) -> None:
    """With the defaults of both, the same numbers."""
    x = ig.tensor(POINTS.astype(np.float32))
    assert ig.equal(getattr(nn, name)()(x), getattr(F, PAIRS[name])(x))
