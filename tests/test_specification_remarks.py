"""What the users' documents got wrong, and that a program written that way fails as in PyTorch."""

from __future__ import annotations

import ingot as ig
import pytest
from ingot import nn


def test_a_layer_that_was_never_made():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc5 = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc2(x)

    with pytest.raises(AttributeError, match="'Model' object has no attribute 'fc2'"):
        Model()(ig.zeros(1, 4))


def test_functions_need_tensors():
    with pytest.raises(TypeError, match=r"sqrt\(\): argument 'input' \(position 1\) must be Tensor, not float"):
        ig.sqrt(2.0)


def test_pythons_max_is_not_elementwise():
    with pytest.raises(RuntimeError, match="ambiguous"):
        max(ig.zeros(3), ig.ones(3))
    assert ig.maximum(ig.zeros(3), ig.ones(3)).tolist() == [1, 1, 1]


def test_a_list_of_parameters_is_no_module():
    with pytest.raises(TypeError, match="not callable"):
        model = [nn.Parameter(ig.ones(1))]
        model(ig.ones(1))  # type: ignore[operator]


def test_padding_that_keeps_the_size():
    """It is (kernel_size - 1) / 2, whatever the stride."""
    for kernel in (3, 5, 7):
        assert nn.Conv2d(1, 1, kernel, padding=(kernel - 1) // 2)(ig.zeros(1, 1, 9, 9)).shape == (1, 1, 9, 9)
