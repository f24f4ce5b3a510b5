"""Printed tensors, as the users' documents show them."""

from __future__ import annotations

import ingot as ig
import pytest


@pytest.fixture(autouse=True)
def _defaults():
    yield
    ig.set_printoptions(profile="default")


def test_four_digits_and_aligned_columns() -> None:
    assert repr(ig.tensor([54.0, 15.0, 2.94])) == "tensor([54.0000, 15.0000,  2.9400])"
    assert repr(ig.tensor([2.0, 2.0, 2.0])) == "tensor([2., 2., 2.])"
    assert repr(ig.tensor([27.0, 75.0, 147.0])) == "tensor([ 27.,  75., 147.])"
    assert repr(ig.tensor([1e-6, 1.0])) == "tensor([1.0000e-06, 1.0000e+00])"
    assert repr(ig.tensor([float("nan"), 1.0, -float("inf")])) == "tensor([nan, 1., -inf])"
    assert repr(ig.tensor([True, False])) == "tensor([ True, False])"


def test_suffixes() -> None:
    x = ig.tensor([1.0, 2.0], requires_grad=True)
    assert repr(x) == "tensor([1., 2.], requires_grad=True)"
    assert repr(x * 2) == "tensor([2., 4.], grad_fn=<MulBackward0>)"
    assert repr(ig.zeros(2, dtype=ig.float64)) == "tensor([0., 0.], dtype=torch.float64)"
    assert repr(ig.zeros(0, 3)) == "tensor([], size=(0, 3))"
    long = repr(ig.ones(14, dtype=ig.float64, requires_grad=True))  # what does not fit goes to the next line
    assert long.endswith("1., 1.],\n       dtype=torch.float64, requires_grad=True)")


def test_rows() -> None:
    x = ig.tensor([[1, 2, 3], [4, 5, 6]], dtype=ig.float64)
    assert repr(x) == "tensor([[1., 2., 3.],\n        [4., 5., 6.]], dtype=torch.float64)"


def test_parameters() -> None:
    assert repr(ig.nn.Parameter(ig.ones(2))) == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"


def test_a_row_as_a_file_name() -> None:
    assert str(ig.tensor([0.3263, 0.6737, 0.0])) + ".png" == "tensor([0.3263, 0.6737, 0.0000]).png"


def test_a_number_formats_as_itself() -> None:
    assert f"Buffer is: {ig.tensor(1)}" == "Buffer is: 1"
    assert f"{ig.tensor(1.5):.2f}" == "1.50"
    with pytest.raises(TypeError, match="unsupported format string"):
        f"{ig.ones(2):.2f}"


def test_long_tensors_and_options() -> None:
    assert repr(ig.arange(1001)) == "tensor([   0,    1,    2,  ...,  998,  999, 1000])"
    ig.set_printoptions(precision=2)
    assert repr(ig.tensor([0.5])) == "tensor([0.50])"
    ig.set_printoptions(sci_mode=True)
    assert repr(ig.tensor([0.5])) == "tensor([5.00e-01])"
    ig.set_printoptions(profile="full")
    assert "..." not in repr(ig.arange(1001))
    ig.set_printoptions(profile="default", edgeitems=1, threshold=2)
    assert repr(ig.arange(4)) == "tensor([0,  ..., 3])"
